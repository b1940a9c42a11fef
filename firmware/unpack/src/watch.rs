//! Tells of bytes that are never together in memory whether [`formats`] could find something in them.
//!
//! To be asked about the start ([`is_suspect`]), about everything in windows that overlap by
//! [`OVERLAP_BYTES`] ([`has_mark`]), and about the end ([`is_suspect_end`]). Where all three say no,
//! [`formats`] finds nothing in the whole; a yes may be wrong, and costs its caller memory only.

use memchr::memmem;

use crate::bytes::u32_le;
use crate::detect::formats;
use crate::{base64, cab, markup, openpgp, rar, sevenz, zip};

/// How much of the start [`is_suspect`] needs, bytes: up to the last place where an image of a disk has
/// a descriptor.
pub const START_BYTES: usize = 128 * 1024;
/// How much of the end [`is_suspect_end`] needs, bytes: some formats have their mark in a last sector.
pub const END_BYTES: usize = 512;
/// By how much windows overlap at least, bytes: more than the longest mark has.
pub const OVERLAP_BYTES: usize = 128;

/// What stands wherever an archive begins, also behind a program or a picture.
const MARKS: [&[u8]; 4] = [zip::LOCAL, rar::MARK, sevenz::MAGIC, cab::MAGIC];

/// Whether bytes that begin so may be a container, whatever follows. All of them, where there are
/// fewer than [`START_BYTES`].
#[must_use]
pub fn is_suspect(start: &[u8]) -> bool {
    // What is behind a frame to be skipped may be far away.
    let skips = matches!(u32_le(start, 0), Some(0x184d_2a50..=0x184d_2a5f));
    skips || depends_on_length(start) || !formats(start).is_empty()
}

/// Whether it takes all of the bytes to tell what they are: what installs itself has its marks
/// anywhere, and what has none has lengths that must fit.
fn depends_on_length(start: &[u8]) -> bool {
    let is_program = start.starts_with(b"MZ");
    let is_arc = matches!(start, [0x1a, 1..=11, ..]);
    let is_boot_sector = start.get(510..512) == Some(b"\x55\xaa");
    is_program || is_arc || is_boot_sector || openpgp::may_be_message(start)
}

/// Whether an archive, or a file in a text, may begin somewhere in this window.
#[must_use]
pub fn has_mark(window: &[u8]) -> bool {
    MARKS.iter().any(|mark| memmem::find(window, mark).is_some())
        || base64::has_begin(window)
        || markup::has_address(window)
}

/// Whether bytes that end so may be a container.
#[must_use]
pub fn is_suspect_end(end: &[u8]) -> bool {
    let footer = end.len().checked_sub(END_BYTES).and_then(|at| end.get(at..)).unwrap_or_default();
    footer.starts_with(b"conectix") || footer.starts_with(b"koly") || end.ends_with(b"cdsaencr")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_seen_wherever_they_stand() {
        for mark in MARKS {
            assert!(mark.len() <= OVERLAP_BYTES);
            assert!(has_mark(&[b"some bytes before ", mark, b" and behind"].concat()));
            assert!(!has_mark(&mark[1..]));
        }
        assert!(!has_mark(b"PK and Rar! and 7z and MSC"));
    }

    #[test]
    fn the_last_sector_counts() {
        for mark in [&b"conectix"[..], b"koly\0\0\0\x04"] {
            let mut end = vec![b'x'; 2 * END_BYTES];
            end[END_BYTES..][..mark.len()].copy_from_slice(mark);
            assert!(is_suspect_end(&end));
            assert!(!is_suspect_end(&end[..end.len() - 1]));
        }
        assert!(!is_suspect_end(b""));
    }

    #[test]
    fn frames_to_be_skipped_are_suspect_however_long() {
        assert!(is_suspect(b"\x50\x2a\x4d\x18\xff\xff\xff\0"));
        assert!(!is_suspect(b"hello"));
        assert!(!is_suspect(b""));
    }

    /// The last place at which anything but an archive behind something else has a mark.
    #[test]
    fn a_descriptor_of_a_disk_stands_in_the_start() {
        let mut start = vec![0; START_BYTES];
        let last = (16 + 31) * 2048 + 1;
        start[last..last + 5].copy_from_slice(b"CD001");
        assert!(is_suspect(&start));
        assert!(is_suspect(&start[..last + 5]));
        assert!(!is_suspect(&start[..last + 4]));
    }
}
