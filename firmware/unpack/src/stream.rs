//! Formats that pack one stream of bytes: gzip, bzip2, xz, lzma, lzip, zstd, compress.
//!
//! Each may hold several streams one after the other, with zeros between them (tapes pad, and some
//! programs pass over that). Programs either join them or stop after the first; what is handed out
//! is the join, which begins with the first. What follows the last is read by no program, unless it
//! is a container of its own. Checksums are not looked at: programs hand out what they decoded all
//! the same.

use crate::LimitKind;
use crate::bytes::{
    add_name, before_nul, length, piece, text, u16_le, u32_le, u64_le, without_zeros,
};
use crate::inflate::{Bzip2, Decoder, Deflate, Stream};
use crate::work::{End, Sized, Source, Work};
use lzma_rust2::{LzipReader, LzmaReader, XzReader};
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::io::{self, Read};

/// Bytes of a gzip trailer: checksum and length.
const GZIP_TRAILER_BYTES: usize = 8;

/// Gzip (RFC 1952).
pub(crate) fn gzip(bytes: &[u8], work: &mut Work<'_>) {
    let mut names = Vec::new();
    let mut source = Joined::new(bytes, |rest| {
        let (header_bytes, name) = gzip_header(rest)?;
        add_name(&mut names, text(name));
        Some((header_bytes, Deflate::new(), GZIP_TRAILER_BYTES))
    });
    let Some((content, end)) = read(&mut source, work) else { return };
    drop(source);
    finish(names, content, end, work);
}

/// Length of a gzip header, and the name in it (section 2.3).
fn gzip_header(bytes: &[u8]) -> Option<(usize, &[u8])> {
    const FHCRC: u8 = 1 << 1;
    const FEXTRA: u8 = 1 << 2;
    const FNAME: u8 = 1 << 3;
    const FCOMMENT: u8 = 1 << 4;
    let flags =
        *piece(bytes, 0, 10).filter(|header| header.starts_with(b"\x1f\x8b\x08"))?.get(3)?;
    let mut at = 10;
    if flags & FEXTRA != 0 {
        at += 2 + usize::from(u16_le(bytes, at)?);
    }
    let mut name = [].as_slice();
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            let text = before_nul(bytes.get(at..)?);
            at += text.len() + 1;
            name = if flag == FNAME { text } else { name };
        }
    }
    at += if flags & FHCRC != 0 { 2 } else { 0 };
    (at <= bytes.len()).then_some((at, name))
}

/// Bzip2.
pub(crate) fn bzip2(bytes: &[u8], work: &mut Work<'_>) {
    let mut source =
        Joined::new(bytes, |rest| rest.starts_with(b"BZh").then(|| (0, Bzip2::new(), 0)));
    let Some((content, end)) = read(&mut source, work) else { return };
    finish(Vec::new(), content, end, work);
}

/// Streams that know their own end, one after the other.
struct Joined<'a, D, F> {
    bytes: &'a [u8],
    /// Where the current stream begins.
    at: usize,
    current: Option<Stream<'a, D>>,
    trailer_bytes: usize,
    /// For the bytes where a stream may begin: how long its header and its trailer are.
    begin: F,
}

impl<'a, D: Decoder, F: FnMut(&'a [u8]) -> Option<(usize, D, usize)>> Joined<'a, D, F> {
    fn new(bytes: &'a [u8], begin: F) -> Self {
        Self { bytes, at: 0, current: None, trailer_bytes: 0, begin }
    }

    /// Begins the next stream, if there is one.
    fn next(&mut self) -> io::Result<bool> {
        let is_first = self.current.is_none();
        if let Some(stream) = self.current.take() {
            self.at = self.at.saturating_add(stream.consumed()).saturating_add(self.trailer_bytes);
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            self.at = self.bytes.len() - without_zeros(rest).len();
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match (self.begin)(rest) {
            Some((header_bytes, decoder, trailer_bytes)) => {
                self.at = self.at.saturating_add(header_bytes);
                self.trailer_bytes = trailer_bytes;
                let data = self.bytes.get(self.at..).unwrap_or_default();
                self.current = Some(Stream::new(data, decoder));
                Ok(true)
            }
            None if is_first => Err(io::ErrorKind::InvalidData.into()),
            None => {
                self.at = self.bytes.len();
                Ok(false)
            }
        }
    }
}

impl<'a, D: Decoder, F: FnMut(&'a [u8]) -> Option<(usize, D, usize)>> Read for Joined<'a, D, F> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(stream) = &mut self.current {
                let count = stream.read(output)?;
                if count > 0 {
                    return Ok(count);
                }
            } else if self.at == self.bytes.len() && self.at > 0 {
                return Ok(0);
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

impl<'a, D: Decoder, F: FnMut(&'a [u8]) -> Option<(usize, D, usize)>> Source for Joined<'a, D, F> {
    fn packed(&self) -> usize {
        self.at.saturating_add(self.current.as_ref().map_or(0, Stream::consumed))
    }
}

/// Xz, with padding between streams (xz file format 1.2, section 2.2), of any length.
pub(crate) fn xz(bytes: &[u8], work: &mut Work<'_>) {
    let mut source = XzStreams { rest: bytes, reader: None, total: bytes.len(), kib: kib(work) };
    let Some((content, end)) = read(&mut source, work) else { return };
    finish(Vec::new(), content, end, work);
}

struct XzStreams<'a> {
    /// What follows the current stream.
    rest: &'a [u8],
    reader: Option<XzReader<&'a [u8]>>,
    total: usize,
    kib: u32,
}

impl Read for XzStreams<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(reader) = &mut self.reader {
                let count = reader.read(output)?;
                if count > 0 {
                    return Ok(count);
                }
            }
            if let Some(reader) = self.reader.take() {
                self.rest = without_zeros(reader.into_inner());
                if !self.rest.starts_with(b"\xfd7zXZ\0") {
                    self.rest = &[];
                }
            }
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.reader = Some(XzReader::new_mem_limit(self.rest, false, self.kib));
        }
    }
}

impl Source for XzStreams<'_> {
    fn packed(&self) -> usize {
        let rest = self.reader.as_ref().map_or(self.rest.len(), |reader| reader.inner().len());
        self.total.saturating_sub(rest)
    }
}

/// Decodes the xz stream at the start of these bytes; says how it ended and how long it was.
pub(crate) fn xz_stream(bytes: &[u8], work: &mut Work<'_>) -> (Vec<u8>, End, usize) {
    let mut source = XzStreams { rest: bytes, reader: None, total: bytes.len(), kib: kib(work) };
    let (content, end) = work.read(&mut source);
    (content, end, source.packed())
}

/// The older format of LZMA, with a header of 13 bytes.
pub(crate) fn lzma(bytes: &[u8], work: &mut Work<'_>) {
    let header = bytes.first().zip(u32_le(bytes, 1)).zip(u64_le(bytes, 5)).zip(bytes.get(13..));
    let Some((((properties, dictionary), size), data)) = header else {
        work.damaged("the header");
        return;
    };
    if work.begin() {
        let (content, end) = lzma_raw(data, *properties, dictionary, size, work);
        // Nothing marks this format for certain; what yields nothing is not of it.
        if end != End::Broken || !content.is_empty() {
            finish(Vec::new(), content, end, work);
        }
    }
}

/// Decodes LZMA without a header; `size` is what it unpacks to, or all ones if it says itself where
/// it ends.
pub(crate) fn lzma_raw(
    bytes: &[u8],
    properties: u8,
    dictionary: u32,
    size: u64,
    work: &mut Work<'_>,
) -> (Vec<u8>, End) {
    match lzma_rust2::lzma_get_memory_usage_by_props(dictionary, properties) {
        Ok(needed) if needed <= kib(work) => {}
        Ok(_) => {
            work.limit(LimitKind::Memory);
            return (Vec::new(), End::Broken);
        }
        Err(_) => return (Vec::new(), End::Broken),
    }
    match LzmaReader::new_with_props(bytes, size, properties, dictionary, None) {
        Ok(mut decoder) => work.read(&mut Sized::new(&mut decoder, bytes.len())),
        Err(_) => (Vec::new(), End::Broken),
    }
}

/// Lzip: the dictionary's size stands in one byte, as a power of two less some sixteenths of it.
pub(crate) fn lzip(bytes: &[u8], work: &mut Work<'_>) {
    let power = bytes.get(5).map_or(0, |coded| coded & 0x1f);
    if 1_usize.checked_shl(power.into()).is_none_or(|size| size > work.decoder_bytes_max()) {
        work.limit(LimitKind::Memory);
        return;
    }
    let mut decoder = LzipReader::new(bytes);
    let Some((content, end)) = read(&mut Sized::new(&mut decoder, bytes.len()), work) else {
        return;
    };
    finish(Vec::new(), content, end, work);
}

/// Zstandard (RFC 8878).
pub(crate) fn zstd(bytes: &[u8], work: &mut Work<'_>) {
    if work.begin() {
        let (content, end, _) = zstd_frames(bytes, work);
        finish(Vec::new(), content, end, work);
    }
}

/// Decodes the frames at the start of these bytes; says how the last ended, and how long they were.
pub(crate) fn zstd_frames(bytes: &[u8], work: &mut Work<'_>) -> (Vec<u8>, End, usize) {
    let window_max = work.decoder_bytes_max();
    let mut source = ZstdFrames { rest: bytes, frame: None, total: bytes.len(), window_max };
    let (content, end) = work.read(&mut source);
    (content, end, source.packed())
}

struct ZstdFrames<'a> {
    rest: &'a [u8],
    frame: Option<StreamingDecoder<&'a [u8], FrameDecoder>>,
    total: usize,
    window_max: usize,
}

impl ZstdFrames<'_> {
    /// Begins the next frame, if there is one; passes over frames that are to be skipped
    /// (section 3.1.2).
    fn next(&mut self) -> io::Result<bool> {
        let is_first = self.rest.len() == self.total;
        while let Some(0x184d_2a50..=0x184d_2a5f) = u32_le(self.rest, 0) {
            let size = u32_le(self.rest, 4).map_or(usize::MAX, length);
            self.rest = self.rest.get(size.saturating_add(8)..).unwrap_or_default();
        }
        if !self.rest.starts_with(b"\x28\xb5\x2f\xfd") {
            return if is_first { Err(io::ErrorKind::InvalidData.into()) } else { Ok(false) };
        }
        let window_max = self.window_max.try_into().unwrap_or(u64::MAX);
        match StreamingDecoder::new_with_max_window_size(self.rest, window_max) {
            Ok(frame) => self.frame = Some(frame),
            Err(FrameDecoderError::WindowSizeTooBig { .. }) => {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(true)
    }
}

impl Read for ZstdFrames<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(output)?;
                if count > 0 {
                    return Ok(count);
                }
            }
            if let Some(frame) = self.frame.take() {
                self.rest = without_zeros(frame.into_inner());
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

impl Source for ZstdFrames<'_> {
    fn packed(&self) -> usize {
        let rest = self.frame.as_ref().map_or(self.rest.len(), |frame| frame.get_ref().len());
        self.total.saturating_sub(rest)
    }
}

/// What compress(1) makes: LZW with codes that grow from 9 bits to at most 16.
pub(crate) fn compress(bytes: &[u8], work: &mut Work<'_>) {
    let Some(mut decoder) = Lzw::new(bytes) else {
        work.damaged("the header");
        return;
    };
    let Some((content, end)) = read(&mut Sized::new(&mut decoder, bytes.len()), work) else {
        return;
    };
    finish(Vec::new(), content, end, work);
}

/// Code that empties the table, in block mode.
const LZW_CLEAR: u16 = 256;
const LZW_BITS_MIN: u32 = 9;
const LZW_BITS_MAX: u32 = 16;

struct Lzw<'a> {
    codes: &'a [u8],
    /// Position in `codes`, in bits, and where the present group of eight codes began: a change of
    /// width starts a new group.
    at: usize,
    group_at: usize,
    bits: u32,
    bits_max: u32,
    is_block_mode: bool,
    /// Of each code from 256 on: the code before its last byte, and that byte.
    table: Vec<(u16, u8)>,
    previous: Option<(u16, u8)>,
    /// Decoded and not yet read, the last byte first.
    ready: Vec<u8>,
}

impl<'a> Lzw<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let flags = *bytes.strip_prefix(b"\x1f\x9d")?.first()?;
        let bits_max = u32::from(flags & 0x1f);
        if !(LZW_BITS_MIN..=LZW_BITS_MAX).contains(&bits_max) {
            return None;
        }
        let is_block_mode = flags & 0x80 != 0;
        Some(
            Self {
                codes: bytes.get(3..)?,
                at: 0,
                group_at: 0,
                bits: LZW_BITS_MIN,
                bits_max,
                is_block_mode,
                table: Vec::new(),
                previous: None,
                ready: Vec::new(),
            }
            .cleared(),
        )
    }

    /// With a table of single bytes, and of the code that clears it.
    fn cleared(mut self) -> Self {
        self.clear();
        self
    }

    fn clear(&mut self) {
        self.table.clear();
        if self.is_block_mode {
            self.table.push((0, 0));
        }
        self.previous = None;
    }

    fn next_code(&self) -> usize {
        256 + self.table.len()
    }

    fn set_bits(&mut self, bits: u32) {
        let group_bits = length(self.bits) * 8;
        let used = self.at - self.group_at;
        self.at = self.group_at + used.div_ceil(group_bits) * group_bits;
        self.group_at = self.at;
        self.bits = bits;
    }

    fn code(&mut self) -> Option<u16> {
        if self.next_code() > (1 << self.bits) - 1 && self.bits < self.bits_max {
            self.set_bits(self.bits + 1);
        }
        let first_bit = self.at;
        let three = [0, 1, 2].map(|index| self.codes.get(first_bit / 8 + index).copied());
        if self.at + length(self.bits) > self.codes.len() * 8 {
            return None;
        }
        let word =
            three.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(byte.unwrap_or(0)));
        self.at += length(self.bits);
        u16::try_from(word >> (first_bit % 8) & ((1 << self.bits) - 1)).ok()
    }

    /// Decodes one code into `ready`. False: the codes are at their end.
    fn step(&mut self) -> io::Result<bool> {
        let Some(code) = self.code() else { return Ok(false) };
        if code == LZW_CLEAR && self.is_block_mode {
            self.clear();
            self.set_bits(LZW_BITS_MIN);
            return Ok(true);
        }
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut walk = code;
        if usize::from(code) >= self.next_code() {
            // A code that is only now being made: what came before, and its first byte again.
            let (previous, first) = self.previous.ok_or_else(invalid)?;
            if usize::from(code) > self.next_code() {
                return Err(invalid());
            }
            self.ready.push(first);
            walk = previous;
        }
        while let Some(index) = usize::from(walk).checked_sub(256) {
            let (before, last) = *self.table.get(index).ok_or_else(invalid)?;
            self.ready.push(last);
            walk = before;
        }
        let first = u8::try_from(walk).map_err(|_| invalid())?;
        self.ready.push(first);
        if let Some((previous, _)) = self.previous
            && self.next_code() < 1 << self.bits_max
        {
            self.table.push((previous, first));
        }
        self.previous = Some((code, first));
        Ok(true)
    }
}

impl Read for Lzw<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        for slot in output {
            while self.ready.is_empty() {
                match self.step() {
                    Ok(true) => {}
                    Ok(false) => return Ok(count),
                    Err(_) if count > 0 => return Ok(count),
                    Err(error) => return Err(error),
                }
            }
            *slot = self.ready.pop().unwrap_or_default();
            count += 1;
        }
        Ok(count)
    }
}

fn kib(work: &Work<'_>) -> u32 {
    work.decoder_kib_max()
}

/// Reads the one member of such a format.
pub(crate) fn read(source: &mut dyn Source, work: &mut Work<'_>) -> Option<(Vec<u8>, End)> {
    work.begin().then(|| work.read(source))
}

pub(crate) fn finish(names: Vec<String>, content: Vec<u8>, end: End, work: &mut Work<'_>) {
    if end == End::Broken {
        work.damaged("its stream");
    }
    work.hand_out(names, content, false);
}
