//! Base64 in texts: files that are nothing else (`.b64`), what `uuencode -m` makes, and what stands
//! between the lines of PEM (`certutil -encode`).

use crate::bytes::{self, add_name, narrow};
use crate::work::Work;
use memchr::memmem;

/// Letters of the shortest text that is taken for base64 because it is nothing else.
const LETTERS_MIN: usize = 40;
/// Bytes of a text by which it is told.
const BEGINNING_BYTES: usize = 4096;
/// Texts behind such lines that are decoded.
const BLOCKS_MAX: usize = 10_000;

const UU_BEGIN: &[u8] = b"begin-base64";
const PEM_BEGIN: &[u8] = b"-----BEGIN ";
const PEM_END: &[u8] = b"-----END ";

/// What a letter stands for, in the usual alphabet and in that of URLs.
pub(crate) fn value(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// Bytes out of letters, four for three. Padding ends a group and not the text; what is neither
/// letter nor padding is passed over.
pub(crate) fn decode(letters: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let (mut bytes, mut word, mut count) = (Vec::new(), 0_u32, 0_u8);
    for letter in letters {
        if let Some(value) = value(letter) {
            word = word << 6 | u32::from(value);
            count += 1;
        } else if letter != b'=' {
            continue;
        }
        if count == 4 || letter == b'=' {
            put(word, count, &mut bytes);
            (word, count) = (0, 0);
        }
    }
    put(word, count, &mut bytes);
    bytes
}

/// The whole bytes of a group of up to four letters.
fn put(word: u32, count: u8, bytes: &mut Vec<u8>) {
    let word = word << (6 * u32::from(4_u8.saturating_sub(count)));
    let [_, three @ ..] = word.to_be_bytes();
    bytes.extend(three.into_iter().take(usize::from(count.saturating_sub(1))));
}

/// Whether a text is base64, or holds some between lines that say so.
pub(crate) fn is_base64(bytes: &[u8]) -> bool {
    let narrow = narrow(bytes.get(..BEGINNING_BYTES).unwrap_or(bytes));
    let is_cut = bytes.len() > BEGINNING_BYTES;
    let text = narrow.trim_ascii();
    if is_bare(text, is_cut) {
        return true;
    }
    has_begin(bytes)
}

/// Whether something is said to begin here; either may stand behind other text.
pub(crate) fn has_begin(bytes: &[u8]) -> bool {
    [PEM_BEGIN, UU_BEGIN].iter().any(|begin| memmem::find(bytes, begin).is_some())
}

/// Nothing but letters and blanks, and padding at the end. Bytes that are worth packing give letters
/// of both cases, as prose without any mark does not.
fn is_bare(text: &[u8], is_cut: bool) -> bool {
    let mut letters = 0_usize;
    let mut padding = 0_usize;
    for byte in text {
        match byte {
            b'=' => padding += 1,
            _ if byte.is_ascii_whitespace() => {}
            _ if value(*byte).is_some() && padding == 0 => letters += 1,
            _ => return false,
        }
    }
    letters >= LETTERS_MIN
        && padding <= if is_cut { 0 } else { 2 }
        && text.iter().any(u8::is_ascii_uppercase)
        && text.iter().any(u8::is_ascii_lowercase)
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let narrow = narrow(bytes);
    let beginning = narrow.get(..BEGINNING_BYTES).unwrap_or(&narrow).trim_ascii();
    if is_bare(beginning, narrow.len() > BEGINNING_BYTES) {
        work.slice(Vec::new(), &decode(narrow.iter().copied()), false);
        return;
    }
    let mut begins: Vec<usize> = memmem::find_iter(&narrow, PEM_BEGIN)
        .chain(memmem::find_iter(&narrow, UU_BEGIN))
        .take(BLOCKS_MAX + 1)
        .collect();
    begins.sort_unstable();
    if begins.len() > BLOCKS_MAX {
        work.limit(crate::LimitKind::Members);
    }
    let ends = begins.iter().skip(1).copied().chain([narrow.len()]);
    for (begin, end) in begins.iter().zip(ends) {
        block(narrow.get(*begin..end).unwrap_or_default(), work);
        if work.is_over() {
            return;
        }
    }
}

/// Hands out what the letters of a text stand for that begins with a line of its kind.
fn block(text: &[u8], work: &mut Work<'_>) {
    let (line, rest) = split_line(text);
    let mut names = Vec::new();
    let letters = if line.starts_with(UU_BEGIN) {
        // The name follows a mode.
        let name = line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
        add_name(&mut names, bytes::text(name.trim_ascii()));
        rest.get(..memmem::find(rest, b"\n====").unwrap_or(rest.len()))
    } else {
        let body = rest.get(..memmem::find(rest, PEM_END).unwrap_or(rest.len()));
        body.map(without_fields)
    };
    let content = decode(letters.unwrap_or_default().iter().copied());
    if !content.is_empty() {
        work.slice(names, &content, false);
    }
}

/// What follows the fields that may stand before the letters (RFC 1421 section 4.4), and an empty
/// line behind these.
fn without_fields(body: &[u8]) -> &[u8] {
    let mut rest = body;
    loop {
        let (line, behind) = split_line(rest);
        if !line.contains(&b':') {
            return rest;
        }
        rest = behind;
    }
}

/// A line without its end, and what follows it.
pub(crate) fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\n', text) {
        Some(at) => {
            let (line, rest) = text.split_at(at);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            (line, rest.get(1..).unwrap_or_default())
        }
        None => (text, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_become_bytes_whatever_stands_between_them() {
        let decoded = |text: &str| decode(text.bytes());
        assert_eq!(decoded("aGVsbG8="), b"hello");
        assert_eq!(decoded("aGVs\r\n bG8"), b"hello");
        assert_eq!(decoded("aGVsbA==aGVsbG8="), b"hellhello");
        assert_eq!(decoded("-_-_"), decode("+/+/".bytes()));
        assert_eq!(decoded("a"), b"");
        assert_eq!(decoded("===="), b"");
    }

    #[test]
    fn a_text_is_base64_where_it_is_nothing_else() {
        let full = "TVqQAAMAAAAEAAAA//8AALgAAAAAAAAAQAAAAAAAAAAA";
        let bare = |text: &str| is_bare(text.as_bytes(), false);
        assert!(bare(full) && bare(&format!("{full}\r\n{full}\r\nTVqQ==")));
        assert!(bare("TVqQ AAMA AAAE AAAA\n//8A ALgA AAAA AAAA QAAA AAAA AAAA"));
        for text in [
            String::new(),
            "TVqQAAMAAAAEAAAA".to_owned(),
            "hello ".repeat(20),
            format!("{full}\r\nTVqQ==\r\n{full}"),
            format!("Some words.\r\n{full}"),
        ] {
            assert!(!bare(&text), "{text}");
        }
        assert!(!is_bare(format!("{full}=").as_bytes(), true));
    }
}
