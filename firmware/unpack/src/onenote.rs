//! OneNote sections ([MS-ONESTORE]): the files that are embedded in them.

use crate::bytes::{length, piece_or_less, u64_le};
use crate::work::Work;

/// How a section begins (section 2.3.1), by its kind.
pub(crate) const MAGIC: &[u8] = b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3";
/// What stands before an embedded file (FileDataStoreObject, section 2.6.13).
const FILE: &[u8] = b"\xe7\x16\xe3\xbd\x65\x26\x11\x45\xa4\xc4\x8d\x4d\x0b\x7a\x9e\xac";
/// That mark, a size, and 12 bytes that mean nothing.
const HEADER_BYTES: usize = 36;

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    for at in memchr::memmem::find_iter(bytes, FILE) {
        let Some(size) = u64_le(bytes, at + FILE.len()).map(length) else { continue };
        let content = piece_or_less(bytes, at.saturating_add(HEADER_BYTES), size);
        if content.len() < size {
            work.damaged("a file is cut off");
        }
        work.slice(Vec::new(), content, false);
        if work.is_over() {
            return;
        }
    }
}
