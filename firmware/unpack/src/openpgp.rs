//! OpenPGP messages (RFC 9580) that need no key to be read: packed or signed ones, binary or in
//! armour. What is encrypted is named.

use crate::base64::{self, split_line};
use crate::bytes::{add_name, text};
use crate::inflate::{Bzip2, Deflate, State, Stream, trial};
use crate::work::{End, Work};
use memchr::memmem;
use std::borrow::Cow;

/// The line before an armoured message (section 6.2).
const ARMOUR: &[u8] = b"-----BEGIN PGP MESSAGE";
const ARMOUR_END: &[u8] = b"-----END PGP MESSAGE";
/// Armoured messages in one text that are looked at.
const ARMOURS_MAX: usize = 256;
/// Packets in packets; GnuPG reads up to 32.
const DEPTH_MAX: usize = 32;

/// Types of packets (section 5).
const SESSION_KEY: u8 = 1;
const SIGNATURE: u8 = 2;
const SYMMETRIC_KEY: u8 = 3;
const ONE_PASS: u8 = 4;
const COMPRESSED: u8 = 8;
const ENCRYPTED: [u8; 5] = [SESSION_KEY, SYMMETRIC_KEY, 9, 18, 20];
const MARKER: u8 = 10;
const LITERAL: u8 = 11;
/// Those with which a message begins that needs no key.
const READABLE: [u8; 5] = [SIGNATURE, ONE_PASS, COMPRESSED, MARKER, LITERAL];

struct Packet<'a> {
    tag: u8,
    /// Its body; copied where it comes in parts.
    body: Cow<'a, [u8]>,
    is_whole: bool,
    rest: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet at the start of these bytes (section 4.2).
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first().filter(|(first, _)| **first & 0x80 != 0)?;
        if first & 0x40 != 0 {
            return Self::new_format(first & 0x3f, rest);
        }
        let (size, rest) = match first & 3 {
            0 => rest.split_first_chunk::<1>().map(|(size, rest)| (usize::from(size[0]), rest))?,
            1 => {
                let (size, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*size)), rest)
            }
            2 => {
                let (size, rest) = rest.split_first_chunk::<4>()?;
                (usize::try_from(u32::from_be_bytes(*size)).ok()?, rest)
            }
            // To the end.
            _ => (rest.len(), rest),
        };
        let mut packet = Self { tag: first >> 2 & 0xf, body: Cow::default(), is_whole: true, rest };
        packet.take(size);
        Some(packet)
    }

    fn new_format(tag: u8, rest: &'a [u8]) -> Option<Self> {
        let mut packet = Self { tag, body: Cow::default(), is_whole: true, rest };
        loop {
            let (first, rest) = packet.rest.split_first()?;
            packet.rest = rest;
            let first = usize::from(*first);
            match first {
                0..192 => packet.take(first),
                192..224 => {
                    let (second, rest) = rest.split_first()?;
                    packet.rest = rest;
                    packet.take((first - 192) * 256 + usize::from(*second) + 192);
                }
                255 => {
                    let (size, rest) = rest.split_first_chunk::<4>()?;
                    packet.rest = rest;
                    packet.take(usize::try_from(u32::from_be_bytes(*size)).ok()?);
                }
                partial => {
                    packet.take(1 << (partial & 0x1f));
                    if packet.rest.is_empty() {
                        packet.is_whole = false;
                        return Some(packet);
                    }
                    continue;
                }
            }
            return Some(packet);
        }
    }

    fn take(&mut self, size: usize) {
        self.is_whole &= size <= self.rest.len();
        let (piece, rest) = self.rest.split_at(size.min(self.rest.len()));
        if self.body.is_empty() {
            self.body = piece.into();
        } else {
            self.body.to_mut().extend_from_slice(piece);
        }
        self.rest = rest;
    }
}

/// Whether these bytes are a message, or a text that holds one.
pub(crate) fn is_openpgp(bytes: &[u8]) -> bool {
    is_message(bytes) || memmem::find(bytes, ARMOUR).is_some_and(|at| begins_line(bytes, at))
}

fn begins_line(bytes: &[u8], at: usize) -> bool {
    at.checked_sub(1).and_then(|before| bytes.get(before)).is_none_or(|before| *before == b'\n')
}

/// Two packets that belong together, or one whose content is as it must be: the packets themselves
/// have no mark.
fn is_message(bytes: &[u8]) -> bool {
    begins_message(bytes, false)
}

/// The same of bytes of which only the start is known.
pub(crate) fn may_be_message(start: &[u8]) -> bool {
    begins_message(start, true)
}

fn begins_message(bytes: &[u8], is_cut: bool) -> bool {
    let Some(packet) = Packet::read(bytes) else { return false };
    let Some(first) = packet.body.first().copied() else { return false };
    let is_next = |tags: &[u8]| {
        if !packet.is_whole || packet.rest.is_empty() {
            return is_cut;
        }
        Packet::read(packet.rest).is_some_and(|next| tags.contains(&next.tag))
    };
    match packet.tag {
        SESSION_KEY => matches!(first, 2 | 3 | 6) && is_next(&ENCRYPTED),
        SYMMETRIC_KEY => (4..=6).contains(&first) && is_next(&ENCRYPTED),
        ONE_PASS => matches!(first, 3 | 6) && is_next(&[ONE_PASS, COMPRESSED, LITERAL]),
        MARKER => *packet.body == *b"PGP",
        COMPRESSED => is_packed(&packet.body),
        LITERAL => {
            matches!(first, b'b' | b't' | b'u')
                && packet.rest.is_empty()
                && (packet.is_whole || is_cut)
        }
        _ => false,
    }
}

/// Whether the body of a packed packet unpacks to packets.
fn is_packed(body: &[u8]) -> bool {
    let Some((method, data)) = body.split_first() else { return false };
    let (state, content) = match method {
        0 => (State::Ended, data.to_vec()),
        1 => trial(data, Deflate::new()),
        2 => trial(data, Deflate::zlib()),
        3 => return data.starts_with(b"BZh"),
        _ => return false,
    };
    let tag = Packet::read(&content).map(|packet| packet.tag);
    state != State::Broken
        && tag.is_some_and(|tag| READABLE.contains(&tag) || ENCRYPTED.contains(&tag))
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    if is_message(bytes) {
        return packets(bytes, DEPTH_MAX, work);
    }
    let armours = memmem::find_iter(bytes, ARMOUR).filter(|at| begins_line(bytes, *at));
    for (count, at) in armours.enumerate() {
        if count >= ARMOURS_MAX {
            return work.limit(crate::LimitKind::Members);
        }
        let text = bytes.get(at..).unwrap_or_default();
        let own =
            memmem::find(text.get(1..).unwrap_or_default(), ARMOUR).map_or(text.len(), |at| at + 1);
        let content = dearmoured(text.get(..own).unwrap_or_default());
        match Packet::read(&content) {
            Some(packet) if READABLE.contains(&packet.tag) => packets(&content, DEPTH_MAX, work),
            // Whatever it is, nobody has read it.
            _ => work.encrypted(),
        }
        if work.is_over() {
            return;
        }
    }
}

/// What the letters of an armour stand for: behind its fields, to its checksum.
fn dearmoured(text: &[u8]) -> Vec<u8> {
    let (_, mut rest) = split_line(text);
    loop {
        let (line, behind) = split_line(rest);
        if line.trim_ascii().is_empty() {
            rest = behind;
            break;
        }
        if !line.contains(&b':') {
            break;
        }
        rest = behind;
    }
    let end = memmem::find(rest, ARMOUR_END).unwrap_or(rest.len());
    let letters = rest.get(..end).unwrap_or_default();
    let checksum = memmem::find(letters, b"\n=").unwrap_or(letters.len());
    base64::decode(letters.iter().take(checksum).copied())
}

/// Goes through packets, one after the other.
fn packets(bytes: &[u8], depth: usize, work: &mut Work<'_>) {
    let mut rest = bytes;
    while let Some(packet) = Packet::read(rest) {
        rest = packet.rest;
        if !packet.is_whole {
            work.damaged("a packet is cut off");
        }
        match packet.tag {
            tag if ENCRYPTED.contains(&tag) => return work.encrypted(),
            LITERAL => literal(&packet.body, work),
            COMPRESSED => match depth.checked_sub(1) {
                Some(depth) => packed(&packet.body, depth, work),
                None => work.damaged("packets nested too deep"),
            },
            _ => {}
        }
        if work.is_over() {
            return;
        }
    }
}

fn packed(body: &[u8], depth: usize, work: &mut Work<'_>) {
    let Some((method, data)) = body.split_first() else { return };
    if !work.begin() {
        return;
    }
    let (content, end) = match method {
        0 => work.read(&mut crate::work::Sized::new(&mut &*data, data.len())),
        1 => work.read(&mut Stream::new(data, Deflate::new())),
        2 => work.read(&mut Stream::new(data, Deflate::zlib())),
        3 => work.read(&mut Stream::new(data, Bzip2::new())),
        _ => return work.unsupported("a compression method"),
    };
    if end == End::Broken {
        work.damaged("its packed data");
    }
    packets(&content, depth, work);
}

/// A file: its kind, its name, a date, its content (section 5.9).
fn literal(body: &[u8], work: &mut Work<'_>) {
    const DATE_BYTES: usize = 4;
    let Some((name_bytes, rest)) = body.get(1..).and_then(<[u8]>::split_first) else { return };
    let name_bytes = usize::from(*name_bytes).min(rest.len());
    let (name, rest) = rest.split_at(name_bytes);
    let mut names = Vec::new();
    add_name(&mut names, text(name));
    work.slice(names, rest.get(DATE_BYTES..).unwrap_or_default(), false);
}
