//! PDF (ISO 32000): embedded files, and the text of all streams but pictures.
//!
//! Objects are found by their words, not by the tables that point to them: readers mend broken
//! tables, each in its own way. A stream that a file specification refers to (`/EF`), that says it
//! is an embedded file, or that holds a container, is a member of its own; the others, in which
//! scripts and actions stand, are handed out as one member, one behind the other. Encrypted
//! documents are not opened, also where the password is empty.

use crate::bytes::{add_name, piece_or_less, text};
use crate::inflate::{Deflate, Stream};
use crate::work::{End, Sized, Work};
use memchr::memmem;
use std::collections::HashMap;
use std::io::Read;

/// Where the header stands at most: readers look for it here.
const HEADER_AT_MAX: usize = 1024;
/// Bytes of a stream's dictionary that are looked at.
const DICTIONARY_BYTES_MAX: usize = 8192;
/// Bytes round `/EF` in which its numbers and names are looked for.
const SPECIFICATION_BYTES: usize = 1024;
/// Bytes of a picture by which it is told whether it is one.
const BEGINNING_BYTES: u64 = 4096;
/// File specifications that are looked at.
const SPECIFICATIONS_MAX: u32 = 4096;
/// Filters of one stream that are undone.
const FILTERS_MAX: usize = 8;

pub(crate) fn is_pdf(bytes: &[u8]) -> bool {
    memmem::find(piece_or_less(bytes, 0, HEADER_AT_MAX), b"%PDF-").is_some()
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    if is_encrypted(bytes) {
        work.encrypted();
        return;
    }
    let streams = streams(bytes);
    let mut files = Files::default();
    files.find(bytes, work);
    // Objects that stand in streams, first: they may be the ones that name the embedded files.
    for stream in streams.iter().filter(|stream| stream.has(b"/ObjStm")) {
        let Some((content, _)) = decode(stream, work) else { return };
        files.find(&content, work);
    }
    let mut rest = Vec::new();
    for stream in &streams {
        let names = files.names.get(&stream.number);
        let is_file = names.is_some() || stream.has(b"/EmbeddedFile");
        if stream.is_picture() && !is_file && !is_text(&beginning(stream, work)) {
            continue;
        }
        let Some((content, end)) = decode(stream, work) else { return };
        if is_file || !crate::formats(&content).is_empty() || content.starts_with(b"MZ") {
            if end == End::Broken {
                work.damaged("an embedded file");
            }
            if !work.begin() {
                return;
            }
            work.hand_out(names.cloned().unwrap_or_default(), content, false);
        } else if rest.len() + content.len() < work.member_bytes_max() {
            rest.extend_from_slice(&content);
            rest.push(b'\n');
        } else {
            work.limit(crate::LimitKind::Bytes);
        }
    }
    if !rest.is_empty() && work.begin() {
        work.hand_out(Vec::new(), rest, false);
    }
}

/// Whether a trailer names an encryption dictionary.
fn is_encrypted(bytes: &[u8]) -> bool {
    memmem::find_iter(bytes, b"/Encrypt").any(|at| {
        let rest = bytes.get(at + b"/Encrypt".len()..).unwrap_or_default().trim_ascii_start();
        rest.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'<')
    })
}

/// A stream with its dictionary.
struct PdfStream<'a> {
    number: u32,
    dictionary: Vec<u8>,
    /// From where it begins to the end of the file, and how much of that stands before the next.
    data: &'a [u8],
    own_bytes: usize,
}

impl PdfStream<'_> {
    fn has(&self, word: &[u8]) -> bool {
        memmem::find(&self.dictionary, word).is_some()
    }

    fn is_picture(&self) -> bool {
        self.has(b"/Image") || self.has(b"/Length1 ") || self.has(b"/XRef")
    }

    /// Its bytes as they stand, up to the word that ends it.
    fn raw(&self) -> &[u8] {
        let own = piece_or_less(self.data, 0, self.own_bytes);
        let end = memmem::find(own, b"endstream").unwrap_or(own.len());
        own.get(..end).unwrap_or_default()
    }
}

/// All streams, in the order of the file. A dictionary begins behind the stream before, and a
/// stream that does not say itself where it ends does so before the next: that bounds what all of
/// them cost.
fn streams(bytes: &[u8]) -> Vec<PdfStream<'_>> {
    let mut streams: Vec<PdfStream<'_>> = Vec::new();
    let mut previous = 0;
    for at in memmem::find_iter(bytes, b"stream") {
        let from = at.saturating_sub(DICTIONARY_BYTES_MAX).max(previous);
        let before = bytes.get(from..at).unwrap_or_default();
        if !before.trim_ascii_end().ends_with(b">>") {
            continue;
        }
        if let Some(stream) = streams.last_mut() {
            stream.own_bytes = at.saturating_sub(bytes.len() - stream.data.len());
        }
        previous = at + b"stream".len();
        let object = memmem::rfind(before, b"obj").unwrap_or(0);
        let dictionary = before.get(object..).unwrap_or_default();
        let data = bytes.get(previous..).unwrap_or_default();
        let data = data.strip_prefix(b"\r").unwrap_or(data);
        let data = data.strip_prefix(b"\n").unwrap_or(data);
        streams.push(PdfStream {
            number: object_number(before.get(..object).unwrap_or_default()).unwrap_or(u32::MAX),
            dictionary: plain_names(dictionary),
            data,
            own_bytes: data.len(),
        });
    }
    streams
}

/// The number of an object, from what stands before its "obj": number, generation.
fn object_number(before: &[u8]) -> Option<u32> {
    let tail = before.get(before.len().saturating_sub(32)..)?.trim_ascii_end();
    let words = tail.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let number = words.rev().nth(1)?;
    // Some writers leave nothing between "endobj" and the next number.
    let digits = number.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(number.get(number.len() - digits..)?).ok()?.parse().ok()
}

/// With characters of names that are written as `#` and two digits written out (section 7.3.5).
fn plain_names(dictionary: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(dictionary.len());
    let mut rest = dictionary;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let escaped = tail.get(..2).filter(|_| *byte == b'#');
        match escaped.and_then(hex_byte) {
            Some(escaped) => {
                plain.push(escaped);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => plain.push(*byte),
        }
    }
    plain
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// Embedded files, by the number of the object that holds each, with their names.
#[derive(Default)]
struct Files {
    specifications: u32,
    names: HashMap<u32, Vec<String>>,
}

impl Files {
    /// Looks for file specifications (section 7.11.3).
    fn find(&mut self, bytes: &[u8], work: &mut Work<'_>) {
        for at in memmem::find_iter(bytes, b"/EF") {
            self.specifications = self.specifications.saturating_add(1);
            if self.specifications > SPECIFICATIONS_MAX {
                work.limit(crate::LimitKind::Members);
                return;
            }
            let references = piece_or_less(bytes, at + b"/EF".len(), SPECIFICATION_BYTES);
            let end = memmem::find(references, b">>").unwrap_or(references.len());
            let references = references.get(..end).unwrap_or_default();
            if !references.trim_ascii_start().starts_with(b"<<") {
                continue;
            }
            let from = at.saturating_sub(SPECIFICATION_BYTES);
            let names = names(piece_or_less(bytes, from, 2 * SPECIFICATION_BYTES));
            for number in references_in(references) {
                let known = self.names.entry(number).or_default();
                names.iter().for_each(|name| add_name(known, name));
            }
        }
    }
}

/// The numbers in "12 0 R".
fn references_in(bytes: &[u8]) -> Vec<u32> {
    let words: Vec<&[u8]> =
        bytes.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words
        .windows(3)
        .filter(|words| words[2] == b"R")
        .filter_map(|words| str::from_utf8(words[0]).ok()?.parse().ok())
        .collect()
}

/// The texts behind `/F` and `/UF`.
fn names(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for at in memmem::find_iter(bytes, b"F") {
        let value = bytes.get(at + 1..).unwrap_or_default().trim_ascii_start();
        match value.split_first() {
            Some((b'(', rest)) => add_name(&mut names, string(&literal(rest))),
            Some((b'<', rest)) if !rest.starts_with(b"<") => {
                add_name(&mut names, string(&hex(rest)));
            }
            _ => {}
        }
    }
    names
}

/// Text of a file name: UTF-16 with a mark, or bytes.
fn string(bytes: &[u8]) -> String {
    match bytes.strip_prefix(b"\xfe\xff") {
        Some(utf16) => {
            let units = utf16.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            String::from_utf16_lossy(&units.collect::<Vec<_>>())
        }
        None => text(bytes),
    }
}

/// A string in parentheses (section 7.3.4.2), without its first one.
fn literal(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut depth = 0_usize;
    let mut rest = bytes.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b')' if depth == 0 => break,
            b')' => depth -= 1,
            b'(' => depth += 1,
            b'\\' => {
                out.extend(rest.next());
                continue;
            }
            _ => {}
        }
        out.push(byte);
    }
    out
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == b'>').unwrap_or(bytes.len());
    let mut digits: Vec<u8> =
        bytes.iter().take(end).copied().filter(u8::is_ascii_hexdigit).collect();
    if digits.len() % 2 == 1 {
        digits.push(b'0');
    }
    digits.chunks_exact(2).filter_map(hex_byte).collect()
}

/// The first bytes of what a picture unpacks to.
fn beginning(stream: &PdfStream<'_>, work: &mut Work<'_>) -> Vec<u8> {
    if filters(&stream.dictionary).first() != Some(&Filter::Flate) {
        return Vec::new();
    }
    let mut decoder = Stream::new(stream.data, Deflate::zlib()).take(BEGINNING_BYTES);
    work.read(&mut Sized::new(&mut decoder, stream.data.len())).0
}

/// Whether a picture is none: what a stream is used for does not depend on what its dictionary says
/// that it is, and a script is text.
fn is_text(bytes: &[u8]) -> bool {
    let texts = bytes.iter().filter(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    !bytes.is_empty() && texts.count() * 10 >= bytes.len() * 9
}

/// Undoes a stream's filters as far as they are known; what is left then may be a picture. None: a
/// limit was reached.
fn decode(stream: &PdfStream<'_>, work: &mut Work<'_>) -> Option<(Vec<u8>, End)> {
    let mut content: Option<Vec<u8>> = None;
    let mut end = End::Whole;
    for filter in filters(&stream.dictionary) {
        let input = content.as_deref().unwrap_or(if filter.is_self_ending() {
            stream.data
        } else {
            stream.raw()
        });
        let (output, ended) = match filter {
            Filter::Flate => {
                let (output, ended) = work.read(&mut Stream::new(input, Deflate::zlib()));
                if output.is_empty() && ended == End::Broken {
                    work.read(&mut Stream::new(input.get(2..).unwrap_or_default(), Deflate::new()))
                } else {
                    (output, ended)
                }
            }
            Filter::Hex => (hex(input), End::Whole),
            Filter::Ascii85 => (ascii85(input), End::Whole),
            Filter::RunLength => {
                let mut decoder = RunLength { input, run: Run::None };
                work.read(&mut Sized::new(&mut decoder, input.len()))
            }
            Filter::Lzw => {
                let mut decoder = Lzw::new(input);
                work.read(&mut Sized::new(&mut decoder, input.len()))
            }
            Filter::Picture => break,
        };
        if ended == End::Limit {
            return None;
        }
        end = if ended == End::Broken { End::Broken } else { end };
        content = Some(output);
    }
    match content {
        Some(content) => Some((content, end)),
        None => {
            let raw = stream.raw();
            let (content, ended) = work.read(&mut Sized::new(&mut &*raw, raw.len()));
            (ended != End::Limit).then_some((content, ended))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    Flate,
    Hex,
    Ascii85,
    RunLength,
    Lzw,
    Picture,
}

impl Filter {
    /// Whether it finds its own end.
    fn is_self_ending(self) -> bool {
        self == Self::Flate
    }
}

/// The filters that a dictionary names, in order (section 7.4).
fn filters(dictionary: &[u8]) -> Vec<Filter> {
    let Some(at) = memmem::find(dictionary, b"/Filter") else { return Vec::new() };
    let value = dictionary.get(at + b"/Filter".len()..).unwrap_or_default().trim_ascii_start();
    let end = match value.first() {
        Some(b'[') => value.iter().position(|byte| *byte == b']'),
        // A name ends where the next begins.
        _ => value.iter().skip(1).position(|byte| b"/>".contains(byte)).map(|at| at + 1),
    };
    let value = value.get(..end.unwrap_or(value.len())).unwrap_or_default();
    let names = value.split(|byte| b"/[] \r\n\t\0".contains(byte)).filter(|name| !name.is_empty());
    names
        .filter_map(|name| match name {
            b"FlateDecode" | b"Fl" => Some(Filter::Flate),
            b"ASCIIHexDecode" | b"AHx" => Some(Filter::Hex),
            b"ASCII85Decode" | b"A85" => Some(Filter::Ascii85),
            b"RunLengthDecode" | b"RL" => Some(Filter::RunLength),
            b"LZWDecode" | b"LZW" => Some(Filter::Lzw),
            b"DCTDecode" | b"DCT" | b"CCITTFaxDecode" | b"CCF" | b"JBIG2Decode" | b"JPXDecode" => {
                Some(Filter::Picture)
            }
            _ => None,
        })
        .take(FILTERS_MAX)
        .collect()
}

fn ascii85(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 5 * 4);
    let mut group: Vec<u8> = Vec::with_capacity(5);
    for byte in bytes {
        match byte {
            b'z' if group.is_empty() => out.extend_from_slice(&[0; 4]),
            b'!'..=b'u' => group.push(byte - b'!'),
            b'~' => break,
            _ => {}
        }
        if group.len() == 5 {
            out.extend_from_slice(&group85(&group));
            group.clear();
        }
    }
    if let Some(count) = group.len().checked_sub(1) {
        group.resize(5, 84);
        out.extend(group85(&group).into_iter().take(count));
    }
    out
}

fn group85(group: &[u8]) -> [u8; 4] {
    let value = group
        .iter()
        .fold(0_u32, |value, digit| value.wrapping_mul(85).wrapping_add(u32::from(*digit)));
    value.to_be_bytes()
}

/// Run lengths (section 7.4.5): a count and as many bytes, or a count and a byte to repeat.
struct RunLength<'a> {
    input: &'a [u8],
    run: Run,
}

enum Run {
    None,
    Copy(usize),
    Repeat(usize, u8),
}

impl RunLength<'_> {
    fn take(&mut self) -> Option<u8> {
        let (byte, rest) = self.input.split_first()?;
        self.input = rest;
        Some(*byte)
    }

    fn next(&mut self) -> Option<u8> {
        match self.run {
            Run::Copy(left) if left > 0 => {
                self.run = Run::Copy(left - 1);
                self.take()
            }
            Run::Repeat(left, byte) if left > 0 => {
                self.run = Run::Repeat(left - 1, byte);
                Some(byte)
            }
            _ => {
                self.run = match self.take()? {
                    128 => return None,
                    count @ 0..128 => Run::Copy(usize::from(count) + 1),
                    count => Run::Repeat(257 - usize::from(count), self.take()?),
                };
                self.next()
            }
        }
    }
}

impl Read for RunLength<'_> {
    fn read(&mut self, output: &mut [u8]) -> std::io::Result<usize> {
        let mut count = 0;
        for slot in output {
            let Some(byte) = self.next() else { break };
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }
}

/// LZW (section 7.4.4): codes of 9 to 12 bits, the high bit first, that grow one code early.
struct Lzw<'a> {
    input: &'a [u8],
    /// Position in bits.
    at: usize,
    /// Of each code from 258 on: the code before its last byte, and that byte.
    table: Vec<(usize, u8)>,
    previous: Option<(usize, u8)>,
    /// Decoded and not yet read, the last byte first.
    ready: Vec<u8>,
}

impl<'a> Lzw<'a> {
    const CLEAR: usize = 256;
    const END: usize = 257;
    const CODES_MAX: usize = 4096;

    fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0, table: Vec::new(), previous: None, ready: Vec::new() }
    }

    fn next_code(&self) -> usize {
        Self::END + 1 + self.table.len()
    }

    fn code(&mut self) -> Option<usize> {
        let bits = match self.next_code() {
            ..511 => 9,
            511..1023 => 10,
            1023..2047 => 11,
            _ => 12,
        };
        let mut code = 0;
        for at in self.at..self.at + bits {
            code = code << 1 | usize::from(self.input.get(at / 8)? >> (7 - at % 8) & 1);
        }
        self.at += bits;
        Some(code)
    }

    /// Decodes one code into `ready`.
    fn step(&mut self) -> Option<()> {
        let code = self.code()?;
        if code == Self::CLEAR {
            self.table.clear();
            self.previous = None;
            return Some(());
        }
        if code == Self::END || code > self.next_code() {
            return None;
        }
        let mut walk = code;
        if code == self.next_code() {
            // A code that is only now being made: what came before, and its first byte again.
            let (previous, first) = self.previous?;
            self.ready.push(first);
            walk = previous;
        }
        while let Some(index) = walk.checked_sub(Self::END + 1) {
            let (before, last) = *self.table.get(index)?;
            self.ready.push(last);
            walk = before;
        }
        let first = u8::try_from(walk).ok()?;
        self.ready.push(first);
        if let Some((previous, _)) = self.previous.filter(|_| self.next_code() < Self::CODES_MAX) {
            self.table.push((previous, first));
        }
        self.previous = Some((code, first));
        Some(())
    }
}

impl Read for Lzw<'_> {
    fn read(&mut self, output: &mut [u8]) -> std::io::Result<usize> {
        for (count, slot) in output.iter_mut().enumerate() {
            while self.ready.is_empty() {
                if self.step().is_none() {
                    return Ok(count);
                }
            }
            *slot = self.ready.pop().unwrap_or_default();
        }
        Ok(output.len())
    }
}
