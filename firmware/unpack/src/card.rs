//! Calendars and address cards (RFC 5545, RFC 6350, vCard 2.1): the files in their lines, such as
//! `ATTACH;ENCODING=BASE64;VALUE=BINARY:`.

use crate::base64::{self, split_line};
use crate::bytes::{add_name, narrow, starts_with_word, text};
use crate::work::Work;

/// How they begin.
const BEGINS: [&[u8]; 3] = [b"BEGIN:VCALENDAR", b"BEGIN:VCARD", b"BEGIN:VNOTE"];
/// Parameters that hold a file's name, as several programs write it.
const NAMES: [&[u8]; 4] = [b"FILENAME", b"X-FILENAME", b"X-ORACLE-FILENAME", b"X-LABEL"];
/// Values of the parameter `ENCODING`, which vCard 2.1 writes without its name.
const ENCODINGS: [&[u8]; 2] = [b"BASE64", b"B"];

pub(crate) fn is_card(bytes: &[u8]) -> bool {
    let beginning = bytes.get(..64).unwrap_or(bytes);
    let text = narrow(beginning);
    BEGINS.iter().any(|begin| starts_with_word(text.trim_ascii_start(), begin))
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let text = narrow(bytes);
    let mut rest: &[u8] = &text;
    while !rest.is_empty() && !work.is_over() {
        let line;
        (line, rest) = split_line(rest);
        let Some(names) = encoded(&unfolded_head(line, rest)) else { continue };
        let (value, behind) = value(line, rest);
        rest = behind;
        let content = base64::decode(value);
        if !content.is_empty() {
            work.slice(names, &content, false);
        }
    }
}

/// The name and parameters of a property, which may go on in the next lines.
fn unfolded_head(line: &[u8], mut rest: &[u8]) -> Vec<u8> {
    /// Lines in which a colon must stand.
    const LINES_MAX: usize = 16;
    let mut head = line.to_vec();
    for _ in 0..LINES_MAX {
        if head.contains(&b':') || !rest.starts_with(b" ") && !rest.starts_with(b"\t") {
            break;
        }
        let next;
        (next, rest) = split_line(rest);
        head.extend_from_slice(next.get(1..).unwrap_or_default());
    }
    head
}

/// The names of the file that a property holds in base64; none where it holds no such.
fn encoded(line: &[u8]) -> Option<Vec<String>> {
    let mut is_quoted = false;
    let end = line.iter().position(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b':' && !is_quoted
    })?;
    let mut parameters = line.get(..end)?.split(|byte| *byte == b';').skip(1).peekable();
    parameters.peek()?;
    let (mut names, mut is_encoded) = (Vec::new(), false);
    for parameter in parameters {
        let at = parameter.iter().position(|byte| *byte == b'=');
        let (name, value) = match at {
            Some(at) => (parameter.get(..at)?, parameter.get(at + 1..)?),
            None => (b"ENCODING".as_slice(), parameter),
        };
        let value = value.trim_ascii();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let value = value.strip_suffix(b"\"").unwrap_or(value);
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"ENCODING") {
            is_encoded |= ENCODINGS.iter().any(|word| value.eq_ignore_ascii_case(word));
        }
        if NAMES.iter().any(|word| name.eq_ignore_ascii_case(word)) {
            add_name(&mut names, text(value));
        }
    }
    is_encoded.then_some(names)
}

/// The letters of a value: to the end of the line, of those that begin with a blank, and of those
/// that can be nothing else (vCard 2.1 ends the value with an empty line). And what follows.
fn value<'a>(line: &'a [u8], mut rest: &'a [u8]) -> (Vec<u8>, &'a [u8]) {
    let mut letters = Vec::new();
    let mut add = |line: &[u8]| letters.extend_from_slice(line);
    let mut is_head = true;
    if let Some(at) = line.iter().rposition(|byte| *byte == b':') {
        is_head = false;
        add(line.get(at + 1..).unwrap_or_default());
    }
    loop {
        let (next, behind) = split_line(rest);
        let is_folded = next.starts_with(b" ") || next.starts_with(b"\t");
        let is_letters = !next.is_empty()
            && next.iter().all(|byte| base64::value(*byte).is_some() || *byte == b'=');
        if !is_folded && !is_letters {
            return (letters, rest);
        }
        match next.iter().rposition(|byte| *byte == b':').filter(|_| is_head) {
            Some(at) => {
                is_head = false;
                add(next.get(at + 1..).unwrap_or_default());
            }
            None if is_head => {}
            None => add(next),
        }
        rest = behind;
        if rest.is_empty() {
            return (letters, rest);
        }
    }
}
