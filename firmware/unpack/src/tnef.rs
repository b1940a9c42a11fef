//! TNEF ([MS-OXTNEF]): the `winmail.dat` in which Outlook wraps attachments and the formatted text.

use crate::bytes::{
    add_name, before_nul, length, piece, piece_or_less, text, text_utf16, u16_le, u32_le,
};
use crate::work::{Sized, Work};
use std::io::{self, Read};

pub(crate) const MAGIC: &[u8] = b"\x78\x9f\x3e\x22";
/// Magic and key.
const HEADER_BYTES: usize = 6;
/// Level, name and type, length; behind the data stands a checksum.
const ATTRIBUTE_BYTES: usize = 9;
const CHECKSUM_BYTES: usize = 2;
/// Properties of one list that are looked at, and values of one property.
const PROPERTIES_MAX: u32 = 4096;

const ATTACH_REND_DATA: u16 = 0x9002;
const ATTACH_TITLE: u16 = 0x8010;
const ATTACH_DATA: u16 = 0x800f;
const ATTACH_PROPERTIES: u16 = 0x9005;
const MESSAGE_PROPERTIES: u16 = 0x9003;
const BODY: u16 = 0x800c;

const PROPERTY_NAME: u16 = 0x3001;
const PROPERTY_DATA: u16 = 0x3701;
const PROPERTY_SHORT_NAME: u16 = 0x3704;
const PROPERTY_LONG_NAME: u16 = 0x3707;
const PROPERTY_BODY: u16 = 0x1000;
const PROPERTY_BODY_RTF: u16 = 0x1009;
const PROPERTY_BODY_HTML: u16 = 0x1013;

const TYPE_OBJECT: u16 = 0x0d;
const TYPE_TEXT: u16 = 0x1e;
const TYPE_UTF16: u16 = 0x1f;
const TYPE_BINARY: u16 = 0x102;
const TYPE_MULTIPLE: u16 = 0x1000;

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let mut at = HEADER_BYTES;
    let mut attachment = Attachment::default();
    while at < bytes.len() && !work.is_over() {
        let header = piece(bytes, at, ATTRIBUTE_BYTES);
        let fields = header.and_then(|header| Some((u16_le(header, 1)?, u32_le(header, 5)?)));
        let Some((name, size)) = fields else {
            // Some programs pad the file.
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.iter().any(|byte| *byte != 0) {
                work.damaged("an attribute");
            }
            break;
        };
        let size = length(size);
        let data = piece_or_less(bytes, at + ATTRIBUTE_BYTES, size);
        if data.len() < size {
            work.damaged("an attribute is cut off");
        }
        match name {
            ATTACH_REND_DATA => std::mem::take(&mut attachment).hand_out(work),
            ATTACH_TITLE => add_name(&mut attachment.names, text(before_nul(data))),
            ATTACH_DATA => attachment.contents.push(data),
            ATTACH_PROPERTIES => attachment.read_properties(data, work),
            MESSAGE_PROPERTIES => bodies(data, work),
            BODY => work.slice(Vec::new(), before_nul(data), false),
            _ => {}
        }
        at = at.saturating_add(ATTRIBUTE_BYTES + CHECKSUM_BYTES).saturating_add(size);
    }
    attachment.hand_out(work);
}

/// What the attributes say of one attachment.
#[derive(Default)]
struct Attachment<'a> {
    names: Vec<String>,
    contents: Vec<&'a [u8]>,
}

impl<'a> Attachment<'a> {
    fn read_properties(&mut self, data: &'a [u8], work: &mut Work<'_>) {
        let is_whole = properties(data, &mut |id, kind, value| match id {
            PROPERTY_NAME | PROPERTY_SHORT_NAME | PROPERTY_LONG_NAME => {
                add_name(&mut self.names, property_text(kind, value));
            }
            // An object begins with what it is: a message (in TNEF) or a storage (in OLE).
            PROPERTY_DATA if kind == TYPE_OBJECT => self.contents.extend(value.get(16..)),
            PROPERTY_DATA => self.contents.push(value),
            _ => {}
        });
        if !is_whole {
            work.damaged("the properties of an attachment");
        }
    }

    fn hand_out(self, work: &mut Work<'_>) {
        for (index, content) in self.contents.iter().enumerate() {
            work.slice(self.names.clone(), content, index > 0);
        }
    }
}

/// Hands out the text of the message, in all its forms.
fn bodies(data: &[u8], work: &mut Work<'_>) {
    let mut found = Vec::new();
    let is_whole = properties(data, &mut |id, kind, value| {
        if let PROPERTY_BODY | PROPERTY_BODY_HTML | PROPERTY_BODY_RTF = id {
            found.push((id, kind, value));
        }
    });
    if !is_whole {
        work.damaged("the properties of the message");
    }
    for (id, kind, value) in found {
        match id {
            PROPERTY_BODY_RTF => rtf(value, work),
            _ if kind == TYPE_BINARY => work.slice(Vec::new(), value, false),
            _ => work.slice(Vec::new(), property_text(kind, value).as_bytes(), false),
        }
    }
}

fn property_text(kind: u16, value: &[u8]) -> String {
    if kind == TYPE_UTF16 { text_utf16(value) } else { text(before_nul(value)) }
}

/// Goes through a list of properties (section 2.1.3.4). False: it ends within one.
fn properties<'a>(data: &'a [u8], found: &mut dyn FnMut(u16, u16, &'a [u8])) -> bool {
    let mut reader = Reader { bytes: data };
    let count = reader.number().unwrap_or(0).min(PROPERTIES_MAX);
    (0..count).all(|_| property(&mut reader, found).is_some())
}

fn property<'a>(reader: &mut Reader<'a>, found: &mut dyn FnMut(u16, u16, &'a [u8])) -> Option<()> {
    let tag = reader.number()?;
    let kind = u16::try_from(tag & 0xffff).ok()?;
    let id = u16::try_from(tag >> 16).ok()?;
    if id >= 0x8000 {
        // A named property: its set, and a number or a text.
        reader.take(16)?;
        match reader.number()? {
            0 => reader.take(4)?,
            _ => reader.sized()?,
        };
    }
    let is_multiple = kind & TYPE_MULTIPLE != 0;
    let kind = kind & !TYPE_MULTIPLE;
    let is_sized = matches!(kind, TYPE_OBJECT | TYPE_TEXT | TYPE_UTF16 | TYPE_BINARY);
    let values = if is_multiple || is_sized { reader.number()?.min(PROPERTIES_MAX) } else { 1 };
    for _ in 0..values {
        let value = match kind {
            _ if is_sized => reader.sized()?,
            2 | 3 | 4 | 10 | 11 => reader.take(4)?,
            5 | 6 | 7 | 0x14 | 0x40 => reader.take(8)?,
            0x48 => reader.take(16)?,
            1 => &[],
            _ => return None,
        };
        found(id, kind, value);
    }
    Some(())
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        u32_le(self.take(4)?, 0)
    }

    /// A length and as many bytes, padded to a multiple of four.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let size = length(self.number()?);
        let value = self.take(size)?;
        let padding = (4 - size % 4) % 4;
        self.take(padding.min(self.bytes.len()))?;
        Some(value)
    }
}

/// Hands out text that is packed as [MS-OXRTFCP] says.
fn rtf(bytes: &[u8], work: &mut Work<'_>) {
    const HEADER_BYTES: usize = 16;
    let Some(content) = bytes.get(HEADER_BYTES..) else { return };
    match bytes.get(8..12) {
        Some(b"LZFu") => {
            let mut decoder = RtfDecoder::new(content);
            work.member(Vec::new(), &mut Sized::new(&mut decoder, content.len()), false);
        }
        _ => work.slice(Vec::new(), content, false),
    }
}

/// What the dictionary holds at the start (section 2.1.2.1).
const RTF_DICTIONARY: &[u8] = b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \
\\froman \\fswiss \\fmodern \\fscript \\fdecor MS Sans SerifSymbolArialTimes New RomanCourier\
{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx";
const RTF_DICTIONARY_BYTES: usize = 4096;

struct RtfDecoder<'a> {
    input: &'a [u8],
    dictionary: Vec<u8>,
    /// Where the next byte goes.
    at: usize,
    /// Bits that say of each next token whether it is a reference.
    control: u8,
    control_left: u8,
    /// A reference that is being copied: from where, and how much is left.
    copy: (usize, usize),
    is_done: bool,
}

impl<'a> RtfDecoder<'a> {
    fn new(input: &'a [u8]) -> Self {
        let mut dictionary = RTF_DICTIONARY.to_vec();
        dictionary.resize(RTF_DICTIONARY_BYTES, 0);
        let at = RTF_DICTIONARY.len();
        Self { input, dictionary, at, control: 0, control_left: 0, copy: (0, 0), is_done: false }
    }

    fn next(&mut self) -> Option<u8> {
        if self.copy.1 == 0 {
            if self.control_left == 0 {
                self.control = self.take()?;
                self.control_left = 8;
            }
            let is_reference = self.control & 1 != 0;
            self.control >>= 1;
            self.control_left -= 1;
            if !is_reference {
                let byte = self.take()?;
                return Some(self.put(byte));
            }
            let (high, low) = (usize::from(self.take()?), usize::from(self.take()?));
            let from = high << 4 | low >> 4;
            if from == self.at {
                return None;
            }
            self.copy = (from, (low & 0xf) + 2);
        }
        let byte = self.dictionary.get(self.copy.0).copied()?;
        self.copy = ((self.copy.0 + 1) % RTF_DICTIONARY_BYTES, self.copy.1 - 1);
        Some(self.put(byte))
    }

    fn take(&mut self) -> Option<u8> {
        let (byte, rest) = self.input.split_first()?;
        self.input = rest;
        Some(*byte)
    }

    fn put(&mut self, byte: u8) -> u8 {
        if let Some(slot) = self.dictionary.get_mut(self.at) {
            *slot = byte;
        }
        self.at = (self.at + 1) % RTF_DICTIONARY_BYTES;
        byte
    }
}

impl Read for RtfDecoder<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        for slot in output {
            let Some(byte) = self.next().filter(|_| !self.is_done) else {
                self.is_done = true;
                break;
            };
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_text_is_unpacked() {
        assert_eq!(RTF_DICTIONARY.len(), 207);
        // The example of [MS-OXRTFCP] section 4.1.1.
        let packed = [
            0x03, 0x00, 0x0a, 0x00, 0x72, 0x63, 0x70, 0x67, 0x31, 0x32, 0x35, 0x42, 0x32, 0x0a,
            0xf3, 0x20, 0x68, 0x65, 0x6c, 0x09, 0x00, 0x20, 0x62, 0x77, 0x05, 0xb0, 0x6c, 0x64,
            0x7d, 0x0a, 0x80, 0x0f, 0xa0,
        ];
        let mut unpacked = String::new();
        RtfDecoder::new(&packed).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, "{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n");
    }
}
