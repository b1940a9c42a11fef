//! Numbers and pieces out of bytes that may end anywhere.

use std::borrow::Cow;
use std::sync::LazyLock;

/// The piece of this length at this offset, if all of it is there.
pub(crate) fn piece(bytes: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(length)?)
}

/// The piece of this length at this offset, or as much of it as is there.
pub(crate) fn piece_or_less(bytes: &[u8], at: usize, length: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.get(..length).unwrap_or(rest)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    piece(bytes, at, N)?.try_into().ok()
}

pub(crate) fn u16_le(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_le(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_le(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// A length that a container claims. Beyond what can be addressed it is as good as endless.
pub(crate) fn length(claimed: impl TryInto<usize>) -> usize {
    claimed.try_into().unwrap_or(usize::MAX)
}

/// Text that is UTF-8, or else of the DOS code page 437, in which any bytes are text.
pub(crate) fn text(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| dos_char(*byte)).collect(),
    }
}

/// Text in UTF-16, little-endian, up to its first NUL.
pub(crate) fn text_utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// What stands before the first NUL.
pub(crate) fn before_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Names of one member that are kept. A file with more is made to cost time; clients show the first
/// or the last, so these are among them.
const NAMES_MAX: usize = 64;

/// Without the zeros that they begin with.
pub(crate) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// Whether a text begins with this word, in letters of either case.
pub(crate) fn starts_with_word(bytes: &[u8], word: &[u8]) -> bool {
    bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Where the first of a word stands, in letters of either case.
pub(crate) fn find_word(bytes: &[u8], word: &[u8]) -> Option<usize> {
    let first = *word.first()?;
    memchr::memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), bytes)
        .find(|at| starts_with_word(bytes.get(*at..).unwrap_or_default(), word))
}

/// A text of 8 bits a character: one in UTF-16 with each character that is not ASCII as `?`, any
/// other as it is, without its byte order mark.
pub(crate) fn narrow(bytes: &[u8]) -> Cow<'_, [u8]> {
    let (units, read): (_, fn([u8; 2]) -> u16) = match bytes {
        [0xff, 0xfe, rest @ ..] => (rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => (rest, u16::from_be_bytes),
        [b'<', 0, ..] => (bytes, u16::from_le_bytes),
        [0, b'<', ..] => (bytes, u16::from_be_bytes),
        _ => return bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).into(),
    };
    let (units, _) = units.as_chunks::<2>();
    let char = |unit: &[u8; 2]| u8::try_from(read(*unit)).unwrap_or(b'?');
    units.iter().map(char).collect::<Vec<u8>>().into()
}

/// Adds a name, unless it is empty or there. Beyond [`NAMES_MAX`] it takes the place of the last.
pub(crate) fn add_name<'a>(names: &mut Vec<String>, name: impl Into<Cow<'a, str>>) {
    let name = name.into();
    if name.is_empty() || names.iter().any(|other| *other == name) {
        return;
    }
    names.truncate(NAMES_MAX - 1);
    names.push(name.into_owned());
}

fn dos_char(byte: u8) -> char {
    static UPPER_HALF: LazyLock<Vec<char>> = LazyLock::new(|| DOS_UPPER_HALF.chars().collect());
    match byte {
        0..0x80 => char::from(byte),
        _ => UPPER_HALF.get(usize::from(byte - 0x80)).copied().unwrap_or(' '),
    }
}

/// Code page 437 from 0x80 on.
const DOS_UPPER_HALF: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_the_bytes_do() {
        assert_eq!(piece(b"abc", 1, 2), Some(b"bc".as_slice()));
        assert_eq!(piece(b"abc", 1, 3), None);
        assert_eq!(piece(b"abc", usize::MAX, 2), None);
        assert_eq!(piece_or_less(b"abc", 1, usize::MAX), b"bc");
        assert_eq!(u32_le(b"\x01\0\0\0", 0), Some(1));
        assert_eq!(u32_le(b"\x01\0\0\0", 1), None);
        assert_eq!(length(u64::MAX), usize::MAX);
    }

    #[test]
    fn words_are_found_in_either_case() {
        assert_eq!(find_word(b"a DaTa:", b"data:"), Some(2));
        assert_eq!(find_word(b"dat", b"data:"), None);
        assert!(starts_with_word(b"BEGIN x", b"begin"));
        assert_eq!(without_zeros(b"\0\0a\0"), b"a\0");
    }

    #[test]
    fn texts_in_utf_16_are_made_narrow() {
        for wide in [&b"\xff\xfe<\0\x42\x30>\0"[..], b"\xfe\xff\0<\x30\x42\0>", b"<\0\x42\x30>\0x"]
        {
            assert_eq!(*narrow(wide), *b"<?>");
        }
        assert_eq!(*narrow(b"\xef\xbb\xbf<a>"), *b"<a>");
    }

    #[test]
    fn names_are_utf8_or_dos() {
        assert_eq!(DOS_UPPER_HALF.chars().count(), 128);
        assert_eq!(text("ü.exe".as_bytes()), "ü.exe");
        assert_eq!(text(b"\x81.exe"), "ü.exe");
        let mut names = Vec::new();
        (0..1000).for_each(|index| add_name(&mut names, index.to_string()));
        assert_eq!(names.len(), NAMES_MAX);
        assert_eq!((names[0].as_str(), names[NAMES_MAX - 1].as_str()), ("0", "999"));
        assert_eq!(text_utf16(b"a\0.\0b\0\0\0c\0"), "a.b");
    }
}
