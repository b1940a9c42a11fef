//! Encoded words (RFC 2047), the encoding of RFC 2231, and the charsets in which ASCII does not stand as it is.

use std::borrow::Cow;

use super::base64::base64;
use super::decode::digit;

/// What a reader does where the standard leaves it to him.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Manner {
    /// Neighbouring words are put together before they are decoded.
    together: bool,
    /// Wide units are read in the other order than their zeros suggest, where nothing else says which.
    swapped: bool,
}

const MANNERS: [Manner; 4] = [
    Manner { together: false, swapped: false },
    Manner { together: true, swapped: false },
    Manner { together: false, swapped: true },
    Manner { together: true, swapped: true },
];

/// Decodes encoded words, in every manner that gives something else. Empty where there are none.
pub(crate) fn decode_words(text: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    if !text.windows(2).any(|pair| pair == b"=?") {
        return out;
    }
    for manner in MANNERS {
        if let Some(decoded) = decode(text, manner)
            && !out.contains(&decoded)
        {
            out.push(decoded);
        }
    }
    out
}

fn decode(text: &[u8], manner: Manner) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut before: Option<Word<'_>> = None;
    let mut found = false;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"=?") {
        let (gap, tail) = rest.split_at(at);
        let Some((word, tail)) = word(tail) else { break };
        let neighbours = found && gap.trim_ascii().is_empty();
        match &mut before {
            Some(before) if manner.together && neighbours && before.kind == word.kind => {
                before.body.extend(&word.body);
            }
            before => {
                out.extend(before.take().map(|word| word.decode(manner)).unwrap_or_default());
                // Blanks between two words do not count.
                out.extend_from_slice(if neighbours { b"" } else { gap });
                *before = Some(word);
            }
        }
        found = true;
        rest = tail;
    }
    out.extend(before.map(|word| word.decode(manner)).unwrap_or_default());
    out.extend_from_slice(rest);
    found.then_some(out)
}

/// The text for people: words in UTF-8, ISO 8859-1 and US-ASCII decoded, those in other charsets as they
/// stand, and what is no UTF-8 taken for ISO 8859-1.
pub(crate) fn decode_words_as_text(text: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = text;
    // Neighbours of one charset: a character may be cut between two of them.
    let mut run: (Vec<u8>, Vec<u8>) = Default::default();
    while let Some(at) = rest.windows(2).position(|pair| pair == b"=?") {
        let (gap, start) = rest.split_at(at);
        let Some((word, tail)) = word(start) else { break };
        rest = tail;
        let charset = word.charset.to_ascii_lowercase();
        let neighbours = !run.0.is_empty() && gap.trim_ascii().is_empty();
        if !(neighbours && run.0 == charset) {
            out += &utf8_or_latin(&std::mem::take(&mut run.1));
            out += &utf8_or_latin(if neighbours { b"" } else { gap });
        }
        if [&b"utf-8"[..], b"iso-8859-1", b"us-ascii"].contains(&charset.as_slice()) {
            run.1.extend(word.decode(Manner::default()));
            run.0 = charset;
        } else {
            let length = start.len() - tail.len();
            out += &utf8_or_latin(start.get(..length).unwrap_or_default());
            run.0.clear();
        }
    }
    out += &utf8_or_latin(&run.1);
    out + &utf8_or_latin(rest)
}

/// UTF-8, else each byte a character, as in ISO 8859-1.
pub(crate) fn utf8_or_latin(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

struct Word<'a> {
    charset: &'a [u8],
    /// `b` or `q`.
    kind: u8,
    body: Vec<u8>,
}

/// The word that starts here, and what follows it. Its end may be missing.
fn word(text: &[u8]) -> Option<(Word<'_>, &[u8])> {
    let mut fields = text.get(2..)?.splitn(3, |&c| c == b'?');
    let (charset, kind, rest) = (fields.next()?, fields.next()?, fields.next()?);
    let kind = if kind.eq_ignore_ascii_case(b"b") { b'b' } else { b'q' };
    let end = rest.iter().position(|&c| c == b'?').unwrap_or(rest.len());
    let (body, tail) = rest.split_at(end);
    let tail = tail.strip_prefix(b"?").unwrap_or(tail);
    Some((Word { charset, kind, body: body.to_vec() }, tail.strip_prefix(b"=").unwrap_or(tail)))
}

impl Word<'_> {
    fn decode(self, manner: Manner) -> Vec<u8> {
        let bytes = if self.kind == b'b' { base64(&self.body) } else { decode_q(&self.body) };
        narrow(self.charset, bytes, manner)
    }
}

fn decode_q(text: &[u8]) -> Vec<u8> {
    let swapped: Vec<u8> = text
        .iter()
        .map(|&c| match c {
            b'_' => b' ',
            b'=' => b'%',
            c => c,
        })
        .collect();
    unescape_percent(&swapped)
}

/// `charset'language'%xx` (RFC 2231 section 4), the first two perhaps missing: every way to read it.
pub(crate) fn percent(value: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = value.splitn(3, |&c| c == b'\'');
    let (Some(charset), Some(_), Some(text)) = (fields.next(), fields.next(), fields.next()) else {
        return vec![unescape_percent(value)];
    };
    let mut out = Vec::new();
    for swapped in [false, true] {
        let manner = Manner { swapped, ..Manner::default() };
        let text = narrow(charset, unescape_percent(text), manner);
        if !out.contains(&text) {
            out.push(text);
        }
    }
    out
}

/// `%xx` decoded, anything else as it stands.
pub(crate) fn unescape_percent(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if let (b'%', [high, low, after @ ..]) = (byte, tail)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(byte);
        }
    }
    out
}

/// UTF-16, UTF-32 and UTF-7 to UTF-8; all other charsets have ASCII in them and stay as they are.
fn narrow(charset: &[u8], bytes: Vec<u8>, manner: Manner) -> Vec<u8> {
    let charset: Vec<u8> =
        charset.iter().filter(|c| c.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
    if charset.starts_with(b"utf16") || charset.ends_with(b"ucs2") {
        utf16(&bytes, is_little(&charset, &bytes, 2, manner)).into_bytes()
    } else if charset.starts_with(b"utf32") || charset.ends_with(b"ucs4") {
        utf32(&bytes, is_little(&charset, &bytes, 4, manner)).into_bytes()
    } else if charset.ends_with(b"utf7") {
        utf7(&bytes)
    } else {
        bytes
    }
}

/// Which byte of a unit comes first, by the charset's name, by a mark, by where the zeros of ASCII are.
fn is_little(charset: &[u8], bytes: &[u8], unit: usize, manner: Manner) -> bool {
    let zeros = |at: usize| bytes.iter().skip(at).step_by(unit).filter(|&&byte| byte == 0).count();
    if charset.ends_with(b"be") || bytes.starts_with(&[0xfe, 0xff]) {
        false
    } else if charset.ends_with(b"le") || bytes.starts_with(&[0xff, 0xfe]) {
        true
    } else {
        (zeros(unit - 1) > zeros(0)) != manner.swapped
    }
}

fn utf16(bytes: &[u8], little: bool) -> String {
    let units = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&pair| if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) });
    char::decode_utf16(units.filter(|&unit| unit != 0xfeff))
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

fn utf32(bytes: &[u8], little: bool) -> String {
    let units = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&unit| if little { u32::from_le_bytes(unit) } else { u32::from_be_bytes(unit) });
    units
        .filter(|&unit| unit != 0xfeff)
        .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// RFC 2152: `+`, base64 of UTF-16, `-`.
fn utf7(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'+' {
            out.push(byte);
            continue;
        }
        let end = tail
            .iter()
            .position(|&c| !c.is_ascii_alphanumeric() && c != b'/' && c != b'+')
            .unwrap_or(tail.len());
        let (encoded, after) = tail.split_at(end);
        if encoded.is_empty() {
            out.push(b'+');
        } else {
            out.extend_from_slice(utf16(&base64(encoded), false).as_bytes());
        }
        rest = after.strip_prefix(b"-").unwrap_or(after);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::encode_base64;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        decode_words(text.as_bytes())
            .iter()
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect()
    }

    #[test]
    fn words_are_decoded_where_they_stand() {
        assert_eq!(words("no =word="), Vec::<String>::new());
        assert_eq!(words("a =?utf-8?q?b=2Ec_d?= e"), ["a b.c d e"]);
        assert_eq!(words("=?utf-8*en?B?aGVs?= \t =?utf-8?b?bG8=?= x"), ["hello x"]);
        assert_eq!(words("=?utf-8?Q?unended"), ["unended"]);
        assert_eq!(words("=?utf-8?x"), Vec::<String>::new());
    }

    #[test]
    fn neighbours_may_be_one_word() {
        assert_eq!(words("=?utf-8?B?aGVsb?= =?utf-8?B?G8=?="), ["hel\u{1b}", "hello"]);
    }

    #[test]
    fn wide_charsets_are_narrowed() {
        let big: Vec<u8> = "a.zip".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let little: Vec<u8> = "a.zip".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let wide: Vec<u8> = "a.zip".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        for (charset, bytes) in [
            ("utf-16", big.clone()),
            ("utf-16", little.clone()),
            ("UTF-16BE", big.clone()),
            ("utf_16le", little.clone()),
            ("UTF-16", [&[0xff, 0xfe][..], &little].concat()),
            ("UTF-16", [&[0xfe, 0xff][..], &big].concat()),
            ("ISO-10646-UCS-2", big),
            ("ISO-10646-UCS-4", wide.clone()),
            ("utf-32", wide),
            ("utf-7", b"+AGE-.zip".to_vec()),
            ("unicode-1-1-utf-7", b"a+AC4AegBpAHA".to_vec()),
            ("iso-2022-jp", b"a.zip".to_vec()),
        ] {
            let word = format!("=?{charset}?B?{}?=", encode_base64(&bytes));
            assert_eq!(words(&word)[0], "a.zip", "{charset}");
        }
    }

    #[test]
    fn units_without_an_order_are_read_in_both() {
        let word = |charset: &str| words(&format!("=?{charset}?B?ACAAIAAgLgBlAHgAZQA=?="));
        assert!(word("utf-16").iter().any(|name| name.ends_with(".exe")));
        assert!(word("utf-16").iter().any(|name| name.starts_with("   ")));
        assert_eq!(word("utf-16le").len(), 1);
    }

    proptest! {
        #[test]
        fn arbitrary_text(text: Vec<u8>, charset in "(utf-(7|8|16|32)(le|be)?)?") {
            decode_words(&text);
            percent(&text);
            narrow(charset.as_bytes(), text, Manner::default());
        }

        #[test]
        fn arbitrary_words(text in "([=?BQbq +-]|utf-16|utf-7|aGVs){0,30}") {
            decode_words(text.as_bytes());
        }
    }
}
