//! The forks of a Macintosh file in one body: AppleSingle and AppleDouble (RFC 1740), MacBinary.
//!
//! Programs that know them save the data fork alone, so it is a file of its own.

/// How AppleSingle and AppleDouble files start.
const MAGICS: [[u8; 4]; 2] = [[0, 5, 0x16, 0], [0, 5, 0x16, 7]];
/// Where their number of entries stands; the entries follow it.
const COUNT_AT: usize = 24;
/// Which entries are forks: data and resources.
const FORKS: [u32; 2] = [1, 2];
/// Most entries that are looked at. The standard knows 15 kinds.
const ENTRIES_MAX: usize = 64;

/// Length of the header of a MacBinary file, and what its forks' lengths are rounded up to, bytes.
const BLOCK_BYTES: usize = 128;

/// The forks that are not empty; none where the body is no such file.
pub(crate) fn forks(body: &[u8]) -> Vec<&[u8]> {
    let forks = match body.first_chunk::<4>() {
        Some(magic) if MAGICS.contains(magic) => entries(body),
        _ => mac_binary(body).unwrap_or_default(),
    };
    forks.into_iter().filter(|fork| !fork.is_empty()).collect()
}

fn entries(body: &[u8]) -> Vec<&[u8]> {
    let Some((count, entries)) =
        body.get(COUNT_AT..).and_then(|rest| rest.split_first_chunk::<2>())
    else {
        return Vec::new();
    };
    let count = usize::from(u16::from_be_bytes(*count)).min(ENTRIES_MAX);
    let words = |entry: &[u8; 12]| {
        let (words, _) = entry.as_chunks::<4>();
        words.iter().map(|&word| u32::from_be_bytes(word)).collect::<Vec<u32>>()
    };
    let (entries, _) = entries.as_chunks::<12>();
    entries
        .iter()
        .take(count)
        .filter_map(|entry| match *words(entry).as_slice() {
            [kind, at, length] if FORKS.contains(&kind) => Some(cut(body, at, length)),
            _ => None,
        })
        .collect()
}

fn mac_binary(body: &[u8]) -> Option<Vec<&[u8]>> {
    let header = body.first_chunk::<BLOCK_BYTES>()?;
    let [0, name @ 1..=63, ..] = *header else { return None };
    if header.get(74) != Some(&0) || header.get(82) != Some(&0) || name == 0 {
        return None;
    }
    let word =
        |at: usize| header.get(at..)?.first_chunk::<4>().map(|word| u32::from_be_bytes(*word));
    let (data, resource) = (word(83)?, word(87)?);
    let start = u32::try_from(BLOCK_BYTES).ok()?;
    let behind = data.checked_next_multiple_of(start)?.checked_add(start)?;
    Some(vec![cut(body, start, data), cut(body, behind, resource)])
}

/// This much from there on, or as much as there is.
fn cut(body: &[u8], at: u32, length: u32) -> &[u8] {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let rest = body.get(at..).unwrap_or_default();
    rest.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(rest)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An AppleSingle file with these entries.
    pub(crate) fn single(entries: &[(u32, &[u8])]) -> Vec<u8> {
        let mut file = [&MAGICS[0][..], &[0, 2, 0, 0], &[0; 16]].concat();
        file.extend(u16::try_from(entries.len()).unwrap().to_be_bytes());
        let mut at = file.len() + 12 * entries.len();
        for (kind, bytes) in entries {
            for word in [*kind, u32::try_from(at).unwrap(), u32::try_from(bytes.len()).unwrap()] {
                file.extend(word.to_be_bytes());
            }
            at += bytes.len();
        }
        file.extend(entries.iter().flat_map(|entry| entry.1));
        file
    }

    fn binary(data: &[u8], resource: &[u8]) -> Vec<u8> {
        let mut file = vec![0; BLOCK_BYTES];
        file[1..4].copy_from_slice(b"\x02ab");
        for (at, fork) in [(83, data), (87, resource)] {
            file[at..at + 4].copy_from_slice(&u32::try_from(fork.len()).unwrap().to_be_bytes());
        }
        file.extend(data);
        file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
        file.extend(resource);
        file
    }

    #[test]
    fn other_bodies_have_no_forks() {
        for body in [&b""[..], b"hello", &[0; 200], b"\0\x05\x16\0", &single(&[(3, b"name")])] {
            assert_eq!(forks(body), Vec::<&[u8]>::new());
        }
    }

    #[test]
    fn lengths_that_lie_end_with_the_file() {
        let file = single(&[(1, b"hello")]);
        assert_eq!(forks(&file[..file.len() - 2]), [b"hel"]);
    }

    proptest! {
        #[test]
        fn round_trip(
            data in proptest::collection::vec(any::<u8>(), 1..300),
            resource in proptest::collection::vec(any::<u8>(), 1..300),
        ) {
            let file = single(&[(3, b"name"), (1, &data), (2, &resource)]);
            prop_assert_eq!(forks(&file), [&data[..], &resource]);
            let file = binary(&data, &resource);
            prop_assert_eq!(forks(&file), [&data[..], &resource]);
        }

        #[test]
        fn arbitrary_bytes(junk: Vec<u8>, mark: bool) {
            let body = if mark { [&MAGICS[0][..], &junk].concat() } else { junk };
            forks(&body);
        }
    }
}
