//! RTF: the objects that are embedded in it as hexadecimal digits.
//!
//! What stands between the digits (blanks, control words, groups) is passed over by Word, by rules
//! that nothing else follows in full; so the digits are read with and without those in inner
//! groups.

use crate::bytes::{length, u32_le};
use crate::ole;
use crate::work::Work;
use memchr::memmem;

/// Word looks no further to call something RTF.
pub(crate) const MAGIC: &[u8] = b"{\\rt";
/// Control words behind which an object stands.
const DESTINATIONS: [&[u8]; 2] = [b"\\objdata", b"\\datastore"];
/// Texts in the header of an object ([MS-OLEDS] section 2.2.4): class, topic, item.
const HEADER_TEXTS: usize = 3;

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    for destination in DESTINATIONS {
        for at in memmem::find_iter(bytes, destination) {
            let data = bytes.get(at + destination.len()..).unwrap_or_default();
            let (outer, all) = digits(data);
            object(&outer, false, work);
            if all != outer {
                object(&all, true, work);
            }
            if work.is_over() {
                return;
            }
        }
    }
}

/// Hands out an object, and what its header wraps.
fn object(bytes: &[u8], is_odd: bool, work: &mut Work<'_>) {
    if bytes.is_empty() {
        return;
    }
    work.slice(Vec::new(), bytes, is_odd);
    if let Some(at) = memmem::find(bytes, ole::MAGIC).filter(|at| *at > 0) {
        work.slice(Vec::new(), bytes.get(at..).unwrap_or_default(), is_odd);
    }
    if let Some((names, file)) = native(bytes).and_then(ole::native) {
        work.slice(names, file, is_odd);
    }
}

/// The native data of an embedded object, with its size before it.
fn native(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    for _ in 0..HEADER_TEXTS {
        let size = length(u32_le(rest, 0)?);
        rest = rest.get(size.checked_add(4)?..)?;
    }
    Some(rest)
}

/// The bytes that hexadecimal digits make up to the end of a group: those of the group itself, and
/// those of all groups in it as well.
fn digits(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut outer, mut all) = (Digits::default(), Digits::default());
    let mut depth = 0_usize;
    while let Some((byte, rest)) = bytes.split_first() {
        bytes = rest;
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => break,
            b'}' => depth -= 1,
            // The next object is looked at on its own.
            b'\\' if DESTINATIONS.iter().any(|word| rest.starts_with(&word[1..])) => break,
            b'\\' => {
                let (binary, rest) = control_word(rest);
                bytes = rest;
                all.extend(binary);
                if depth == 0 {
                    outer.extend(binary);
                }
            }
            _ => {
                all.push(*byte);
                if depth == 0 {
                    outer.push(*byte);
                }
            }
        }
    }
    (outer.bytes, all.bytes)
}

/// Passes over a control word with its number; `\bin` has as many bytes behind it as they are.
fn control_word(bytes: &[u8]) -> (&[u8], &[u8]) {
    let letters = bytes.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (word, rest) = bytes.split_at(letters);
    if word.is_empty() {
        // A sign, such as `\*`; `\'` has two digits behind it.
        let size = if rest.first() == Some(&b'\'') { 3 } else { 1 };
        return (&[], rest.get(size..).unwrap_or_default());
    }
    let is_number = |byte: &&u8| byte.is_ascii_digit() || **byte == b'-';
    let number = rest.iter().take_while(is_number).count();
    let (number, rest) = rest.split_at(number);
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    if word != b"bin" {
        return (&[], rest);
    }
    let size = str::from_utf8(number).ok().and_then(|number| number.parse().ok()).unwrap_or(0);
    rest.split_at_checked(size).unwrap_or((rest, &[]))
}

/// Bytes out of digits, two each.
#[derive(Default)]
struct Digits {
    bytes: Vec<u8>,
    half: Option<u8>,
}

impl Digits {
    fn push(&mut self, digit: u8) {
        let Some(value) = char::from(digit).to_digit(16).and_then(|value| value.try_into().ok())
        else {
            return;
        };
        match self.half.take() {
            Some(high) => self.bytes.push(high << 4 | value),
            None => self.half = Some(value),
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}
