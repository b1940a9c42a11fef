//! Tar: old (V7), POSIX (ustar, pax) and GNU, read leniently.
//!
//! Programs differ in which of two sizes they believe (the header's or the pax record's), and in
//! whether they go on behind a header that is damaged or behind the end mark. Headers are looked
//! for in every block that belongs to no member, and a member with two sizes is handed out in both.

use crate::bytes::{add_name, before_nul, length, piece, piece_or_less, text};
use crate::work::Work;

const BLOCK_BYTES: usize = 512;
const CHECKSUM_AT: usize = 148;
const SIZE_AT: usize = 124;
const SIZE_BYTES: usize = 12;

/// Whether a tar begins here: a block whose checksum is right.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    Header::read(bytes, 0).is_some()
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let mut at = 0;
    let mut end = 0;
    let mut next = Next::default();
    let mut is_behind = false;
    while at < bytes.len() && !work.is_over() {
        if let Some(header) = Header::read(bytes, at) {
            at = member(bytes, at + BLOCK_BYTES, &header, &mut next, is_behind, work);
            end = at;
            continue;
        }
        let block = piece_or_less(bytes, at, BLOCK_BYTES);
        if Header::begins(block) {
            work.damaged("a header");
        }
        is_behind = true;
        at += BLOCK_BYTES;
    }
    rest(bytes, end, work);
}

/// Hands out what stands behind the last member, if it is a container itself.
pub(crate) fn rest(bytes: &[u8], end: usize, work: &mut Work<'_>) {
    let rest = bytes.get(end..).unwrap_or_default();
    let zeros = rest.iter().take_while(|byte| **byte == 0).count();
    let rest = rest.get(zeros..).unwrap_or_default();
    if !work.is_over() && !crate::formats(rest).is_empty() {
        work.slice(Vec::new(), rest, true);
    }
}

/// Hands out what a header describes, and returns where the next header stands.
fn member(
    bytes: &[u8],
    at: usize,
    header: &Header<'_>,
    next: &mut Next,
    is_odd: bool,
    work: &mut Work<'_>,
) -> usize {
    let data = |size| piece_or_less(bytes, at, size);
    if matches!(header.kind, b'L' | b'K' | b'x' | b'X' | b'g' | b'V')
        && data(header.size).len() < header.size
    {
        work.damaged("a header is cut off");
        return at;
    }
    match header.kind {
        b'L' => {
            add_name(&mut next.names, text(before_nul(data(header.size))));
            return behind(at, header.size);
        }
        b'x' | b'X' => {
            next.read_pax(data(header.size));
            return behind(at, header.size);
        }
        b'g' | b'K' | b'V' => return behind(at, header.size),
        b'1' | b'2' | b'3' | b'4' | b'5' | b'6' if header.size == 0 => {
            *next = Next::default();
            return at;
        }
        // Old programs give a link the size of what it links to, and no data.
        b'1' if Header::read(bytes, at).is_some() => {
            *next = Next::default();
            return at;
        }
        b'M' => work.partial(),
        _ => {}
    }
    let at = header.behind_map(bytes, at);
    let data = |size| piece_or_less(bytes, at, size);
    let Next { mut names, size } = std::mem::take(next);
    add_name(&mut names, header.name());
    let mut sizes = vec![size.unwrap_or(header.size), header.size];
    sizes.dedup();
    for (index, size) in sizes.iter().enumerate() {
        let content = data(*size);
        if content.len() < *size {
            work.damaged("a member is cut off");
        }
        work.slice(names.clone(), content, is_odd || index > 0);
    }
    // A size beyond the end leaves nothing to go on with, unless the next block is a header: then
    // the size is a lie.
    let size = sizes[0];
    let end = behind(at, size);
    if end > bytes.len() { at } else { end }
}

/// Where the block behind these data begins.
fn behind(at: usize, size: usize) -> usize {
    let blocks = size.div_ceil(BLOCK_BYTES);
    at.saturating_add(blocks.saturating_mul(BLOCK_BYTES))
}

/// What headers before the one of a member say of it.
#[derive(Default)]
struct Next {
    names: Vec<String>,
    size: Option<usize>,
}

impl Next {
    /// Takes path and size from pax records, "LENGTH KEY=VALUE\n" each.
    fn read_pax(&mut self, mut records: &[u8]) {
        while let Some(blank) = memchr::memchr(b' ', records) {
            let size = str::from_utf8(piece_or_less(records, 0, blank)).ok();
            let size = size.and_then(|size| size.parse().ok());
            let Some(record) = size.and_then(|size: usize| records.get(blank + 1..size)) else {
                break;
            };
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            if let Some(path) = record.strip_prefix(b"path=") {
                add_name(&mut self.names, text(path));
            } else if let Some(path) = record.strip_prefix(b"GNU.sparse.name=") {
                add_name(&mut self.names, text(path));
            } else if let Some(size) = record.strip_prefix(b"size=") {
                self.size = str::from_utf8(size).ok().and_then(|size| size.parse().ok());
            }
            records = records.get(blank + 1 + record.len()..).unwrap_or_default();
            records = records.strip_prefix(b"\n").unwrap_or(records);
        }
    }
}

struct Header<'a> {
    block: &'a [u8],
    kind: u8,
    size: usize,
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8], at: usize) -> Option<Self> {
        let block = piece(bytes, at, BLOCK_BYTES)?;
        let claimed = octal(block.get(CHECKSUM_AT..CHECKSUM_AT + 8)?)?;
        let sums = checksums(block);
        // All zeros is the end mark, and its sum cannot be its field.
        if block[0] == 0 && !Self::begins(block) || !sums.contains(&claimed) {
            return None;
        }
        let kind = block[156];
        let size = number(block.get(SIZE_AT..SIZE_AT + SIZE_BYTES)?)?;
        Some(Self { block, kind, size })
    }

    /// Where the data begin: behind what a sparse file's header continues in, each block of which
    /// says whether another follows. Holes are left out.
    fn behind_map(&self, bytes: &[u8], mut at: usize) -> usize {
        const MORE_IN_HEADER_AT: usize = 482;
        const MORE_AT: usize = 504;
        let mut has_more = self.kind == b'S' && self.block.get(MORE_IN_HEADER_AT) == Some(&1);
        while has_more {
            has_more = bytes.get(at + MORE_AT) == Some(&1);
            at += BLOCK_BYTES;
        }
        at
    }

    /// Whether a block has the mark of a header, whatever its checksum.
    fn begins(block: &[u8]) -> bool {
        block.get(257..262) == Some(b"ustar")
    }

    fn name(&self) -> String {
        let name = text(before_nul(self.block.get(..100).unwrap_or_default()));
        let prefix = self.block.get(345..500).filter(|_| Self::begins(self.block));
        match text(before_nul(prefix.unwrap_or_default())) {
            // GNU's older headers have times there.
            prefix if !prefix.is_empty() && self.block.get(257..263) == Some(b"ustar\0") => {
                format!("{prefix}/{name}")
            }
            _ => name,
        }
    }
}

/// The sum of a header's bytes, with its checksum taken as blanks; some old programs took the
/// bytes as signed.
fn checksums(block: &[u8]) -> [u64; 2] {
    let bytes = || {
        block.iter().enumerate().map(|(at, byte)| {
            if (CHECKSUM_AT..CHECKSUM_AT + 8).contains(&at) { b' ' } else { *byte }
        })
    };
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    [unsigned, u64::try_from(signed).unwrap_or(unsigned)]
}

/// A number in octal digits, with blanks or NULs around it.
fn octal(field: &[u8]) -> Option<u64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|byte| is_blank(byte))
        .take_while(|byte| !is_blank(byte))
        .collect();
    u64::from_str_radix(str::from_utf8(&digits).ok()?, 8).ok()
}

/// A size: octal, or binary where its first bit is set.
fn number(field: &[u8]) -> Option<usize> {
    match field.split_first()? {
        (0x80, rest) => Some(rest.iter().fold(0_usize, |value, byte| {
            value.checked_mul(256).map_or(usize::MAX, |value| value.saturating_add((*byte).into()))
        })),
        (0x81.., _) => Some(usize::MAX),
        _ => Some(octal(field).map_or(0, length)),
    }
}
