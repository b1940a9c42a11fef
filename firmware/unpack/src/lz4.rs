//! LZ4 (the frame format 1.6.4, and the older one that Linux kernels are packed with).

use crate::bytes::{length, u32_le, without_zeros};
use crate::stream::{finish, read};
use crate::work::{Source, Work};
use std::io::{self, Read};

const FRAME: u32 = 0x184d_2204;
const LEGACY: u32 = 0x184c_2102;
/// A frame that is to be skipped.
const SKIPPED: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;

/// How far back a match may refer, also into the block before.
const WINDOW_BYTES: usize = 64 * 1024;
/// Unpacked bytes of a block at most: in a frame, in the older format.
const BLOCK_BYTES_MAX: usize = 4 << 20;
const LEGACY_BLOCK_BYTES_MAX: usize = 8 << 20;
/// Of a block's size: it is not packed.
const NOT_PACKED: u32 = 1 << 31;

pub(crate) fn is_lz4(bytes: &[u8]) -> bool {
    match u32_le(bytes, 0) {
        Some(FRAME | LEGACY) => true,
        Some(mark) if SKIPPED.contains(&mark) => {
            let next = u32_le(bytes, 4).map_or(usize::MAX, length).saturating_add(8);
            matches!(u32_le(bytes, next), Some(FRAME | LEGACY))
        }
        _ => false,
    }
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let mut frames =
        Frames { rest: bytes, total: bytes.len(), frame: Frame::None, window: Vec::new(), read: 0 };
    let Some((content, end)) = read(&mut frames, work) else { return };
    finish(Vec::new(), content, end, work);
}

struct Frames<'a> {
    rest: &'a [u8],
    total: usize,
    frame: Frame,
    /// What matches may refer to, the last block at its end.
    window: Vec<u8>,
    /// How much of it was read.
    read: usize,
}

#[derive(Clone, Copy)]
enum Frame {
    None,
    Legacy,
    Blocks { has_block_checksums: bool, has_checksum: bool },
}

impl<'a> Frames<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> io::Result<u32> {
        let four = self.take(4)?;
        u32_le(four, 0).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Begins the next frame. False: there is none.
    fn begin(&mut self) -> io::Result<bool> {
        let is_first = self.rest.len() == self.total;
        if !is_first {
            self.rest = without_zeros(self.rest);
        }
        while u32_le(self.rest, 0).is_some_and(|mark| SKIPPED.contains(&mark)) {
            let size = u32_le(self.rest, 4).map_or(usize::MAX, length).saturating_add(8);
            self.rest = self.rest.get(size..).unwrap_or_default();
        }
        self.window.clear();
        self.read = 0;
        match u32_le(self.rest, 0) {
            Some(LEGACY) => {
                self.take(4)?;
                self.frame = Frame::Legacy;
            }
            Some(FRAME) => {
                self.take(4)?;
                self.frame = self.header()?;
            }
            // What follows the last frame is read by no program.
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Flags, the size of blocks, and what they say follows: the content's size, a dictionary's
    /// number, a checksum.
    fn header(&mut self) -> io::Result<Frame> {
        let flags = self.take(2)?.first().copied().unwrap_or_default();
        let has = |bit: u8| flags >> bit & 1 == 1;
        if flags >> 6 != 1 || has(0) {
            // Of another version, or with a dictionary that is elsewhere.
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.take(if has(3) { 9 } else { 1 })?;
        Ok(Frame::Blocks { has_block_checksums: has(4), has_checksum: has(2) })
    }

    /// Unpacks the next block. False: the frame is at its end.
    fn block(&mut self) -> io::Result<bool> {
        let (is_legacy, has_block_checksums) = match self.frame {
            Frame::None => return Ok(false),
            Frame::Legacy => (true, false),
            Frame::Blocks { has_block_checksums, .. } => (false, has_block_checksums),
        };
        let is_end = is_legacy
            && (self.rest.is_empty() || matches!(u32_le(self.rest, 0), Some(0 | FRAME | LEGACY)));
        if is_end {
            self.frame = Frame::None;
            return Ok(false);
        }
        let size = self.number()?;
        if size == 0 {
            if let Frame::Blocks { has_checksum: true, .. } = self.frame {
                // Where the file is cut off here, nothing of the content is.
                self.rest = self.rest.get(4..).unwrap_or_default();
            }
            self.frame = Frame::None;
            return Ok(false);
        }
        let is_packed = is_legacy || size & NOT_PACKED == 0;
        let size = length(if is_legacy { size } else { size & !NOT_PACKED });
        if self.window.len() > WINDOW_BYTES + BLOCK_BYTES_MAX {
            // Seldom, because what is kept has to be moved.
            let keep_from = self.window.len() - WINDOW_BYTES;
            self.window.drain(..keep_from);
        }
        self.read = self.window.len();
        let data = self.take(size.min(self.rest.len()))?;
        let bytes_max = if is_legacy { LEGACY_BLOCK_BYTES_MAX } else { BLOCK_BYTES_MAX };
        let is_whole = if is_packed {
            unpack_block(data, &mut self.window, self.read.saturating_add(bytes_max))
        } else {
            self.window.extend_from_slice(data);
            true
        };
        if !is_whole || data.len() < size {
            // What there is of it is read first.
            self.rest = &[];
            self.frame = Frame::Blocks { has_block_checksums: false, has_checksum: false };
        } else if has_block_checksums {
            self.take(4)?;
        }
        Ok(true)
    }
}

/// Unpacks one block behind what is there. False: it breaks off, or makes more than it may.
fn unpack_block(mut data: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> bool {
    while let Some((token, rest)) = data.split_first() {
        data = rest;
        let Some(literals) = run(usize::from(token >> 4), &mut data) else { return false };
        let Some((text, rest)) = data.split_at_checked(literals) else {
            out.extend_from_slice(data);
            return false;
        };
        if out.len().saturating_add(literals) > bytes_max {
            return false;
        }
        out.extend_from_slice(text);
        data = rest;
        let Some((offset, rest)) = data.split_first_chunk::<2>() else {
            // The last sequence has literals alone.
            return data.is_empty();
        };
        data = rest;
        let Some(count) = run(usize::from(token & 15), &mut data) else { return false };
        let count = count.saturating_add(4);
        let from = out.len().checked_sub(usize::from(u16::from_le_bytes(*offset)));
        let Some(from) = from.filter(|from| *from < out.len()) else { return false };
        if out.len().saturating_add(count) > bytes_max {
            return false;
        }
        for at in from..from + count {
            let Some(byte) = out.get(at).copied() else { return false };
            out.push(byte);
        }
    }
    true
}

/// A length that goes on in further bytes where its four bits are all set.
fn run(bits: usize, data: &mut &[u8]) -> Option<usize> {
    let mut total = bits;
    if bits == 15 {
        loop {
            let (more, rest) = data.split_first()?;
            *data = rest;
            total = total.saturating_add(usize::from(*more));
            if *more != 255 {
                break;
            }
        }
    }
    Some(total)
}

impl Read for Frames<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            let ready = self.window.get(self.read..).unwrap_or_default();
            if !ready.is_empty() {
                let count = ready.len().min(output.len());
                for (to, from) in output.iter_mut().zip(ready) {
                    *to = *from;
                }
                self.read += count;
                return Ok(count);
            }
            if !self.block()? && !self.begin()? {
                return Ok(0);
            }
        }
    }
}

impl Source for Frames<'_> {
    fn packed(&self) -> usize {
        self.total - self.rest.len()
    }
}
