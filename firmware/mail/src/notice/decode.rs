//! Encoded words (RFC 2047) as text to show.

use encoding_rs::Encoding;

/// Longest charset name looked up, in bytes.
const CHARSET_BYTES_MAX: usize = 40;

/// `text` with its encoded words decoded; those in a charset or form that is not known stay as they
/// are. The result may hold characters that must not be shown.
pub(super) fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Neighbours in one charset are joined before they are decoded: many programs cut in the middle
    // of a character.
    let mut open: Option<Words> = None;
    let mut rest = text;
    while let Some(at) = rest.find("=?") {
        let (before, behind) = rest.split_at(at);
        let Some((word, behind)) = word(behind) else {
            Words::close(&mut open, &mut out);
            out.push_str(before);
            out.push_str("=?");
            rest = &behind[2..];
            continue;
        };
        let joins = open.is_some() && before.trim().is_empty();
        match &mut open {
            Some(words) if joins && words.charset == word.charset => words.bytes.extend(word.bytes),
            _ => {
                Words::close(&mut open, &mut out);
                out.push_str(if joins { "" } else { before });
                open = Some(word);
            }
        }
        rest = behind;
    }
    Words::close(&mut open, &mut out);
    out.push_str(rest);
    out
}

/// Encoded words without their frame.
struct Words {
    charset: &'static Encoding,
    bytes: Vec<u8>,
}

impl Words {
    fn close(open: &mut Option<Self>, out: &mut String) {
        if let Some(Self { charset, bytes }) = open.take() {
            out.push_str(&charset.decode_without_bom_handling(&bytes).0);
        }
    }
}

/// The word that `text` begins with, and what follows it.
fn word(text: &str) -> Option<(Words, &str)> {
    let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
    let (encoding, rest) = rest.split_once('?')?;
    let (encoded, rest) = rest.split_once("?=")?;
    // A language may follow the charset (RFC 2231 section 5).
    let name = charset.split('*').next()?;
    if name.len() > CHARSET_BYTES_MAX || encoded.contains([' ', '\t']) {
        return None;
    }
    let charset = Encoding::for_label(name.as_bytes())?;
    let bytes = match encoding {
        "B" | "b" => from_base64(encoded)?,
        "Q" | "q" => from_q(encoded)?,
        _ => return None,
    };
    Some((Words { charset, bytes }, rest))
}

/// Base64 with or without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for c in text.trim_end_matches('=').bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// RFC 2047 section 4.2.
fn from_q(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(c) = rest.next() {
        bytes.push(match c {
            b'_' => b' ',
            b'=' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            _ => c,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_charsets_of_mail_are_read() {
        for (encoded, text) in [
            ("plain", "plain"),
            ("=?ISO-2022-JP?B?GyRCQEE1YRsoQg==?= x", "請求 x"),
            ("=?Shift_JIS?B?kL+LgY+R?=", "請求書"),
            ("=?EUC-JP?Q?=C0=C1=B5=E1?=", "請求"),
            ("=?utf-8?q?caf=C3=A9_au_lait?=", "café au lait"),
            ("=?ISO-8859-1*fr?Q?caf=e9?=", "café"),
            ("=?us-ascii?Q?a?= =?us-ascii?Q?b?=  c", "ab  c"),
            ("=?UTF-8?B?6KuL5g==?= \t=?UTF-8?B?sYI=?=", "請求"),
            ("=?UTF-8?B?6KuL?= =?ISO-2022-JP?B?GyRCNWEbKEI=?=", "請求"),
            ("(=?UTF-8?B?6KuL?=)", "(請)"),
        ] {
            assert_eq!(decoded(encoded), text, "{encoded}");
        }
    }

    #[test]
    fn what_is_no_encoded_word_stays_as_it_is() {
        for text in [
            "=?x-unknown?B?aGk=?=",
            "=?utf-8?X?aGk=?=",
            "=?utf-8?B?a*k=?=",
            "=?utf-8?Q?=4?=",
            "=?utf-8?Q?a b?=",
            "=?utf-8?Q?open",
            "=?=?=?",
            "",
        ] {
            assert_eq!(decoded(text), text);
        }
        let long = format!("=?{}?Q?a?=", "u".repeat(CHARSET_BYTES_MAX + 1));
        assert_eq!(decoded(&long), long);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "(=\\?|\\?=|utf-8|\\?B\\?|\\?Q\\?|=[0-9A-F]{2}|[a-zA-Z0-9+/= ]|\\PC){0,60}") {
            // Every charset makes at most three bytes of UTF-8 out of one.
            prop_assert!(decoded(&text).len() <= text.len() * 3);
        }
    }
}
