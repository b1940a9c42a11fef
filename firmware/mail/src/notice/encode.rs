//! The encodings that a notice needs: base64, quoted-printable (RFC 2045), encoded words (RFC 2047)
//! and folded header fields (RFC 5322 section 2.2.3). All output is ASCII with CRLF line ends.

/// Bytes of UTF-8 in one encoded word: with its frame it stays under 75 characters.
const ENCODED_WORD_BYTES_MAX: usize = 45;

/// Where a header line is folded if it has a blank (RFC 5322 section 2.1.1).
const HEADER_LINE_CHARS: usize = 78;

/// Longest word of a header field; with the name it stays under the 998 of RFC 5322.
const HEADER_WORD_CHARS_MAX: usize = 900;

/// Longest value of a header field, in characters; words beyond it are left out.
const HEADER_VALUE_CHARS_MAX: usize = 4_000;

/// Longest encoded body line, in characters.
const BODY_LINE_CHARS: usize = 76;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 in one piece.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut bits = 0_u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let index = bits >> (18 - 6 * at) & 63;
            out.push(if at <= group.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    out
}

/// A body in base64.
pub(super) fn base64_lines(text: &str) -> String {
    let mut out = String::new();
    for line in text.as_bytes().chunks(BODY_LINE_CHARS / 4 * 3) {
        out.push_str(&base64(line));
        out.push_str("\r\n");
    }
    out
}

/// A body in quoted-printable, from text with LF line ends.
pub(super) fn quoted_printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let mut width = 0;
        let mut rest = line.as_bytes();
        while let Some((byte, behind)) = rest.split_first() {
            let plain = match byte {
                // Not at the end of a line.
                b' ' => !behind.is_empty(),
                _ => byte.is_ascii_graphic() && *byte != b'=',
            };
            let encoded =
                if plain { char::from(*byte).to_string() } else { format!("={byte:02X}") };
            if width + encoded.len() >= BODY_LINE_CHARS {
                out.push_str("=\r\n");
                width = 0;
            }
            width += encoded.len();
            out.push_str(&encoded);
            rest = behind;
        }
        out.push_str("\r\n");
    }
    out
}

/// Text as it may stand in a Subject or a display name: as it is if it is ASCII, else encoded words.
pub(super) fn encoded_words(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if word.len() + c.len_utf8() > ENCODED_WORD_BYTES_MAX {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let encoded = words.iter().map(|word| format!("=?UTF-8?B?{}?=", base64(word.as_bytes())));
    encoded.collect::<Vec<_>>().join(" ")
}

/// A header field, folded at blanks. `value` is printable ASCII and blanks.
pub(super) fn folded(name: &str, value: &str) -> String {
    let mut out = format!("{name}:");
    let mut width = out.len();
    let mut total = 0;
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        total += word.len() + 1;
        if total > HEADER_VALUE_CHARS_MAX {
            break;
        }
        let word = word.get(..HEADER_WORD_CHARS_MAX).unwrap_or(word);
        if width + 1 + word.len() > HEADER_LINE_CHARS && width > name.len() + 1 {
            out.push_str("\r\n");
            width = 0;
        }
        out.push(' ');
        out.push_str(word);
        width += 1 + word.len();
    }
    out.push_str("\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_remainder() {
        // RFC 4648 section 10.
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn quoted_printable_lines_are_short_and_safe() {
        let long = format!("{}\n a=b \né.", "x".repeat(200));
        let encoded = quoted_printable(&long);
        assert!(encoded.split("\r\n").all(|line| line.len() <= 76 && !line.ends_with(' ')));
        assert!(encoded.ends_with(" a=3Db=20\r\n=C3=A9.\r\n"), "{encoded}");
        assert_eq!(encoded.replace("=\r\n", "").split("\r\n").next(), Some(&*"x".repeat(200)));
    }

    #[test]
    fn encoded_words_never_split_a_character() {
        let text = "検査".repeat(40);
        let encoded = encoded_words(&text);
        assert!(encoded.split(' ').count() > 3);
        assert!(encoded.split(' ').all(|word| word.len() <= 75 && word.starts_with("=?UTF-8?B?")));
        assert_eq!(encoded_words("[Blocked]"), "[Blocked]");
    }

    #[test]
    fn header_lines_have_a_limit_even_without_blanks() {
        let field = folded("Subject", &format!("{} {}", "a ".repeat(3000), "b".repeat(5000)));
        assert!(field.len() < HEADER_VALUE_CHARS_MAX * 2);
        assert!(field.split("\r\n").all(|line| line.len() <= HEADER_LINE_CHARS));
        let field = folded("Subject", &"b".repeat(3000));
        assert!(field.split("\r\n").all(|line| line.len() <= 998));
        assert!(field.starts_with("Subject: bbb"));
    }
}
