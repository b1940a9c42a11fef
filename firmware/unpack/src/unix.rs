//! Ar and cpio, as far as they are found in packages that are mailed.

use crate::bytes::{add_name, before_nul, length, piece, piece_or_less, text, u16_le};
use crate::tar;
use crate::work::Work;

const AR_MAGIC: &[u8] = b"!<arch>\n";
const AR_HEADER_BYTES: usize = 60;

/// Ar: static libraries, and Debian's packages.
pub(crate) fn ar(bytes: &[u8], work: &mut Work<'_>) {
    let mut at = AR_MAGIC.len();
    let mut long_names = [].as_slice();
    while at < bytes.len() && !work.is_over() {
        let header = piece(bytes, at, AR_HEADER_BYTES).filter(|header| header.ends_with(b"`\n"));
        let Some(header) = header else {
            work.damaged("a header");
            return;
        };
        let name = header.get(..16).unwrap_or_default().trim_ascii_end();
        let Some(size) = decimal(header.get(48..58).unwrap_or_default()) else {
            work.damaged("a size");
            return;
        };
        at += AR_HEADER_BYTES;
        let content = piece_or_less(bytes, at, size);
        if content.len() < size {
            work.damaged("a member is cut off");
        }
        match name {
            b"//" => long_names = content,
            b"/" | b"/SYM64/" => {}
            _ => work.slice(ar_names(name, long_names, content), content, false),
        }
        at = at.saturating_add(size).saturating_add(size & 1);
    }
}

/// The names of a member: its own, GNU's from the table, or BSD's from before the content.
fn ar_names(name: &[u8], long_names: &[u8], content: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(at) = name.strip_prefix(b"/").and_then(decimal) {
        let rest = long_names.get(at..).unwrap_or_default();
        let name = rest.split(|byte| matches!(byte, b'/' | b'\n')).next();
        add_name(&mut names, text(name.unwrap_or_default()));
    } else if let Some(size) = name.strip_prefix(b"#1/").and_then(decimal) {
        add_name(&mut names, text(before_nul(piece_or_less(content, 0, size))));
    }
    add_name(&mut names, text(name.strip_suffix(b"/").unwrap_or(name)));
    names
}

fn decimal(digits: &[u8]) -> Option<usize> {
    str::from_utf8(digits.trim_ascii()).ok()?.parse().ok()
}

/// Where the fields of a cpio header stand: those of its name's and its content's length, and to
/// what the two are padded.
struct CpioHeader {
    header_bytes: usize,
    name_bytes: usize,
    size: usize,
    align: usize,
}

/// Whether a cpio begins here. The binary forms have two bytes of mark only, so the name counts
/// too.
pub(crate) fn is_cpio(bytes: &[u8]) -> bool {
    const NAME_BYTES_MAX: usize = 1024;
    cpio_header(bytes).is_some_and(|header| {
        let name = piece(bytes, header.header_bytes, header.name_bytes).unwrap_or_default();
        header.name_bytes <= NAME_BYTES_MAX
            && name.split_last().is_some_and(|(last, name)| {
                *last == 0 && !name.is_empty() && name.iter().all(|byte| *byte >= b' ')
            })
    })
}

/// Cpio, in its four forms.
pub(crate) fn cpio(bytes: &[u8], work: &mut Work<'_>) {
    let mut at: usize = 0;
    while at < bytes.len() && !work.is_over() {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(header) = cpio_header(rest) else {
            return tar::rest(bytes, at, work);
        };
        let pad = |size: usize| size.next_multiple_of(header.align);
        let name = text(before_nul(piece_or_less(rest, header.header_bytes, header.name_bytes)));
        let content_at = pad(header.header_bytes.saturating_add(header.name_bytes));
        if name == "TRAILER!!!" {
            return tar::rest(bytes, at.saturating_add(content_at), work);
        }
        let content = piece_or_less(rest, content_at, header.size);
        if content.len() < header.size {
            work.damaged("a member is cut off");
        }
        if header.size > 0 {
            work.slice(vec![name], content, false);
        }
        at = at.saturating_add(content_at).saturating_add(pad(header.size.min(rest.len())));
    }
}

fn cpio_header(bytes: &[u8]) -> Option<CpioHeader> {
    let number = |at, size, radix| {
        let digits = str::from_utf8(piece(bytes, at, size)?).ok()?;
        u64::from_str_radix(digits, radix).ok().map(length)
    };
    let wide = |at, is_little: bool| {
        let [high, low] = [u16_le(bytes, at)?, u16_le(bytes, at + 2)?]
            .map(|half| if is_little { half } else { half.swap_bytes() });
        Some(usize::from(high) << 16 | usize::from(low))
    };
    match bytes.get(..6)? {
        b"070701" | b"070702" => Some(CpioHeader {
            header_bytes: 110,
            name_bytes: number(94, 8, 16)?,
            size: number(54, 8, 16)?,
            align: 4,
        }),
        b"070707" => Some(CpioHeader {
            header_bytes: 76,
            name_bytes: number(59, 6, 8)?,
            size: number(65, 11, 8)?,
            align: 1,
        }),
        [0xc7, 0x71, ..] => Some(CpioHeader {
            header_bytes: 26,
            name_bytes: u16_le(bytes, 20)?.into(),
            size: wide(22, true)?,
            align: 2,
        }),
        [0x71, 0xc7, ..] => Some(CpioHeader {
            header_bytes: 26,
            name_bytes: u16_le(bytes, 20)?.swap_bytes().into(),
            size: wide(22, false)?,
            align: 2,
        }),
        _ => None,
    }
}
