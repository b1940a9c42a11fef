//! Formats that are one zlib stream (RFC 1950) behind a header: bare streams, ActiveMime (in which
//! Office keeps the macros of a document saved as a web page), and Flash.

use crate::bytes::u32_le;
use crate::inflate::{Deflate, State, Stream, trial};
use crate::stream::{self, finish, read};
use crate::work::{End, Work};

pub(crate) const ACTIVE_MIME: &[u8] = b"ActiveMime";
/// Bytes of an ActiveMime file in which the stream begins. Where exactly stands in the header, but
/// not all programs believe that.
const ACTIVE_MIME_HEADER_BYTES_MAX: usize = 4096;

/// Bytes of zlib's header.
pub(crate) const HEADER_BYTES: usize = 2;
/// Bytes before the packed part of a Flash file, by its method.
const FLASH_HEADER_BYTES: usize = 8;
const FLASH_LZMA_BYTES: usize = 17;

/// Whether a zlib header stands here (section 2.2): deflate, a checksum of 5 bits, no dictionary.
/// Only the window of 32 KiB is looked for, as all programs write it.
pub(crate) fn is_header(bytes: &[u8]) -> bool {
    matches!(bytes, [0x78, flags, ..]
        if (0x7800 | u16::from(*flags)).is_multiple_of(31) && flags & 0x20 == 0)
}

/// Whether these bytes are a zlib stream: of what merely begins like one, the data are no deflate.
pub(crate) fn is_zlib(bytes: &[u8]) -> bool {
    is_header(bytes)
        && trial(bytes.get(HEADER_BYTES..).unwrap_or_default(), Deflate::new()).0 != State::Broken
}

/// A bare stream. It names neither its length nor its end, and what breaks off in the middle is no
/// file that a program opens: what could be read is handed out, and nothing is called damaged.
pub(crate) fn zlib(bytes: &[u8], work: &mut Work<'_>) {
    let data = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let Some((content, _)) = read(&mut Stream::new(data, Deflate::new()), work) else { return };
    work.hand_out(Vec::new(), content, false);
}

/// ActiveMime: every stream that begins near its start, for the first may be there to deceive.
pub(crate) fn active_mime(bytes: &[u8], work: &mut Work<'_>) {
    let mut is_found = false;
    for at in ACTIVE_MIME.len()..bytes.len().min(ACTIVE_MIME_HEADER_BYTES_MAX) {
        let rest = bytes.get(at..).unwrap_or_default();
        if !is_zlib(rest) {
            continue;
        }
        let data = rest.get(HEADER_BYTES..).unwrap_or_default();
        let Some((content, end)) = read(&mut Stream::new(data, Deflate::new()), work) else {
            return;
        };
        is_found |= end == End::Whole;
        work.hand_out(Vec::new(), content, false);
        if work.is_over() {
            return;
        }
    }
    if !is_found {
        work.damaged("its stream");
    }
}

pub(crate) fn is_flash(bytes: &[u8]) -> bool {
    match bytes {
        [b'C', b'W', b'S', version, ..] => {
            *version < 64 && is_header(bytes.get(FLASH_HEADER_BYTES..).unwrap_or_default())
        }
        [b'Z', b'W', b'S', version, ..] => *version < 64 && bytes.len() > FLASH_LZMA_BYTES,
        _ => false,
    }
}

/// Flash: its content, packed by zlib or LZMA behind a header of 8 bytes that says how long it is.
pub(crate) fn flash(bytes: &[u8], work: &mut Work<'_>) {
    if bytes.starts_with(b"C") {
        let data = bytes.get(FLASH_HEADER_BYTES + HEADER_BYTES..).unwrap_or_default();
        let Some((content, end)) = read(&mut Stream::new(data, Deflate::new()), work) else {
            return;
        };
        finish(Vec::new(), content, end, work);
        return;
    }
    let (Some(size), Some(properties), Some(dictionary), Some(data)) =
        (u32_le(bytes, 4), bytes.get(12), u32_le(bytes, 13), bytes.get(FLASH_LZMA_BYTES..))
    else {
        work.damaged("the header");
        return;
    };
    let size = u64::from(size).saturating_sub(FLASH_HEADER_BYTES as u64);
    if work.begin() {
        let (content, end) = stream::lzma_raw(data, *properties, dictionary, size, work);
        finish(Vec::new(), content, end, work);
    }
}
