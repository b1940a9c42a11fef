//! Tells pieces of archives by their names: all pieces but the first are bytes without any mark.

/// How much of a piece is looked at to tell it from a text, bytes.
const BEGINNING_BYTES: usize = 4096;
/// Longest end of a name before the number of a piece, bytes.
const END_BYTES_MAX: usize = 8;

/// Whether a file is one of several pieces: `a.z01` of a zip, `a.7z.002` of anything that was split.
/// A text with such a name is something else, such as a log.
pub(crate) fn is_volume(names: &[String], bytes: &[u8]) -> bool {
    is_named_volume(names) && is_binary(bytes)
}

/// The same by its names alone.
pub(crate) fn is_named_volume(names: &[String]) -> bool {
    names.iter().any(|name| has_number(name))
}

fn has_number(name: &str) -> bool {
    let Some((before, end)) = name.trim_end().rsplit_once('.') else { return false };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match end.strip_prefix(['z', 'Z']) {
        Some(number) => number.len() == 2 && is_digits(number),
        None => {
            let kind = before.rsplit_once('.').map(|(_, kind)| kind);
            let is_kind = |kind: &str| {
                kind.len() <= END_BYTES_MAX
                    && kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
                    && !is_digits(kind)
                    && !kind.is_empty()
            };
            end.len() == 3 && is_digits(end) && kind.is_some_and(is_kind)
        }
    }
}

/// Whether bytes that begin so are no text.
pub(crate) fn is_binary(start: &[u8]) -> bool {
    let beginning = start.get(..BEGINNING_BYTES).unwrap_or(start);
    !beginning.iter().all(|byte| *byte >= b' ' || byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_told_by_their_names_and_texts_are_none() {
        let of = |name: &str, bytes: &[u8]| is_volume(&[name.to_owned()], bytes);
        for name in ["a.z01", "A.Z99", "a.7z.002", "a.zip.003", "dir/a.tar.001", "a.exe.010 "] {
            assert!(of(name, b"\0\x01"), "{name}");
            assert!(!of(name, b"a text\r\n"), "{name}");
        }
        for name in ["a.z1", "a.z", "a.zip", "a.001", "1.2.345", "a.7z.01", "a..002", "", "z01"] {
            assert!(!of(name, b"\0\x01"), "{name}");
        }
    }
}
