//! Parameters of header fields (RFC 2045 section 5.1, RFC 2231, RFC 2047): every value that some client
//! might read, not the one that the grammar allows.
//!
//! Entry: [`readings`]. Works on unfolded values; does no IO.

use super::words::{decode_words, percent, unescape_percent};

/// Most readings of one parameter that are kept. More make the structure ambiguous.
pub(crate) const READINGS_MAX: usize = 32;
/// Most parameters of one field that are looked at.
const PARAMETERS_MAX: usize = 256;

/// All readings of the parameter `wanted` (lower case) in the field value `value`.
pub(crate) fn readings(value: &[u8], wanted: &str) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let bare = strip_comments(value);
    for text in [&bare[..], value] {
        for split in [split_quoted, split_plain] {
            let parameters: Vec<Parameter<'_>> =
                split(text).into_iter().take(PARAMETERS_MAX).filter_map(parameter).collect();
            collect(&parameters, wanted, &mut out);
        }
    }
    search(value, wanted, &mut out);
    // Encoded words are not allowed in parameters, and decoded by most.
    for at in 0..out.len() {
        for plain in out.get(at).map(|reading| decode_words(reading)).unwrap_or_default() {
            add(&mut out, plain);
        }
    }
    out
}

/// `value` without comments (RFC 5322 section 3.2.2), quoted strings left as they are.
pub(crate) fn strip_comments(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for &byte in value {
        let was_escaped = escaped;
        escaped = byte == b'\\' && !was_escaped;
        match byte {
            b'"' if depth == 0 && !was_escaped => quoted = !quoted,
            b'(' if !quoted && !was_escaped => {
                depth += 1;
                continue;
            }
            b')' if !quoted && !was_escaped && depth > 0 => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            out.push(byte);
        }
    }
    out
}

struct Parameter<'a> {
    /// Lower case, blanks and quotes removed.
    key: Vec<u8>,
    value: &'a [u8],
}

fn parameter(text: &[u8]) -> Option<Parameter<'_>> {
    let at = text.iter().position(|&c| c == b'=')?;
    let (key, value) = text.split_at(at);
    let key = key
        .iter()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, b'*' | b'-' | b'_'))
        .map(u8::to_ascii_lowercase)
        .collect();
    Some(Parameter { key, value: value.get(1..)? })
}

/// Splits at `;` outside quoted strings.
fn split_quoted(text: &[u8]) -> Vec<&[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|&byte| {
        let was_escaped = escaped;
        escaped = byte == b'\\' && !was_escaped;
        if byte == b'"' && !was_escaped {
            quoted = !quoted;
        }
        byte == b';' && !quoted
    })
    .collect()
}

/// Splits at every `;` and `,`.
fn split_plain(text: &[u8]) -> Vec<&[u8]> {
    text.split(|&byte| byte == b';' || byte == b',').collect()
}

fn collect(parameters: &[Parameter<'_>], wanted: &str, out: &mut Vec<Vec<u8>>) {
    let mut pieces: Vec<(u32, bool, Vec<u8>)> = Vec::new();
    for parameter in parameters {
        let Some(suffix) = parameter.key.strip_prefix(wanted.as_bytes()) else { continue };
        match suffix {
            b"" => values(parameter.value, out),
            b"*" => {
                for plain in plain_values(parameter.value) {
                    for decoded in percent(&plain) {
                        add(out, decoded);
                    }
                    add(out, plain);
                }
            }
            [b'*', number @ ..] => {
                let encoded = number.ends_with(b"*");
                let digits = number.strip_suffix(b"*").unwrap_or(number);
                let Some(number) = std::str::from_utf8(digits).ok().and_then(|n| n.parse().ok())
                else {
                    continue;
                };
                if let Some(value) = plain_values(parameter.value).into_iter().next() {
                    pieces.push((number, encoded, value));
                }
            }
            _ => {}
        }
    }
    if !pieces.is_empty() {
        // In the order they stand, then by number (RFC 2231 section 3), each raw and decoded.
        join(&pieces, out);
        pieces.sort_by_key(|piece| piece.0);
        join(&pieces, out);
        // A piece given twice: the first counts, or the last.
        let mut first = pieces.clone();
        first.dedup_by_key(|piece| piece.0);
        join(&first, out);
        pieces.reverse();
        pieces.dedup_by_key(|piece| piece.0);
        pieces.reverse();
        join(&pieces, out);
        // Numbers with a gap: what follows the gap is dropped, or a later start is taken.
        let whole = pieces.iter().zip(0_u32..).take_while(|(piece, at)| piece.0 == *at).count();
        join(pieces.get(..whole).unwrap_or_default(), out);
        // A value that is no piece, taken for the first one.
        let whole = parameters.iter().find(|parameter| parameter.key == wanted.as_bytes());
        if let Some(first) = whole.and_then(|whole| plain_values(whole.value).into_iter().next()) {
            pieces.insert(0, (0, false, first));
            join(&pieces, out);
            pieces.dedup_by_key(|piece| piece.0);
            join(&pieces, out);
        }
    }
}

fn join(pieces: &[(u32, bool, Vec<u8>)], out: &mut Vec<Vec<u8>>) {
    let raw: Vec<u8> = pieces.iter().flat_map(|piece| piece.2.iter().copied()).collect();
    // A charset before the first piece, as it should be, or before any.
    for charset_anywhere in [false, true] {
        let mut some = Vec::new();
        for (at, (_, encoded, value)) in pieces.iter().enumerate() {
            match encoded {
                true if at == 0 || charset_anywhere => {
                    some.extend(percent(value).into_iter().next().unwrap_or_default());
                }
                true => some.extend(unescape_percent(value)),
                false => some.extend_from_slice(value),
            }
        }
        add(out, some);
    }
    for decoded in percent(&raw) {
        add(out, decoded);
    }
    add(out, raw);
}

/// Every way to read what stands behind `=`.
fn values(text: &[u8], out: &mut Vec<Vec<u8>>) {
    for value in plain_values(text) {
        add(out, value);
    }
}

fn plain_values(text: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let trimmed = trim(text);
    if let Some(quoted) = trimmed.strip_prefix(b"\"") {
        let (unescaped, raw, rest) = quoted_string(quoted);
        add(&mut out, unescaped.clone());
        add(&mut out, trim(&unescaped).to_vec());
        add(&mut out, raw.to_vec());
        // Text glued to the quoted string.
        let tail = rest.split(|c| c.is_ascii_whitespace()).next().unwrap_or_default();
        if !tail.is_empty() {
            add(&mut out, [raw, tail].concat());
        }
    } else {
        let end = trimmed.iter().position(|c| c.is_ascii_whitespace()).unwrap_or(trimmed.len());
        let word = trimmed.get(..end).unwrap_or_default();
        add(&mut out, word.to_vec());
        // A token ends where a quoted string, an escape or a comment starts.
        let end = word.iter().position(|c| b"\"\\(".contains(c)).unwrap_or(word.len());
        add(&mut out, word.get(..end).unwrap_or_default().to_vec());
    }
    if let Some(inside) = trimmed.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")) {
        add(&mut out, inside.to_vec());
    }
    let no_quotes: Vec<u8> = trimmed.iter().copied().filter(|&c| c != b'"').collect();
    add(&mut out, unescape(&no_quotes));
    add(&mut out, no_quotes);
    add(&mut out, trimmed.to_vec());
    if let Some(single) = trimmed.strip_prefix(b"'").and_then(|t| t.strip_suffix(b"'")) {
        add(&mut out, single.to_vec());
    }
    out
}

/// The unescaped inside of a quoted string, the inside as it stands, and what follows it.
fn quoted_string(text: &[u8]) -> (Vec<u8>, &[u8], &[u8]) {
    let mut out = Vec::new();
    let mut escaped = false;
    for (at, &byte) in text.iter().enumerate() {
        if std::mem::take(&mut escaped) {
            out.push(byte);
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            let (raw, rest) = text.split_at(at);
            return (out, raw, rest.get(1..).unwrap_or_default());
        } else {
            out.push(byte);
        }
    }
    (out, text, b"")
}

/// Looks for the name anywhere, whatever separates it from its value.
fn search(value: &[u8], wanted: &str, out: &mut Vec<Vec<u8>>) {
    let name = wanted.as_bytes();
    let mut rest = value;
    let mut tries = 0;
    while let Some(at) = rest.windows(name.len()).position(|w| w.eq_ignore_ascii_case(name)) {
        rest = rest.get(at + name.len()..).unwrap_or_default();
        let Some(equals) = rest.iter().take(64).position(|&c| c == b'=') else { break };
        let text = rest.get(equals + 1..).unwrap_or_default();
        let end = text.iter().position(|&c| c == b';').unwrap_or(text.len());
        values(text.get(..end).unwrap_or(text), out);
        values(&strip_comments(text), out);
        tries += 1;
        if tries >= 8 {
            break;
        }
    }
}

fn add(out: &mut Vec<Vec<u8>>, value: Vec<u8>) {
    if !value.is_empty() && out.len() <= READINGS_MAX && !out.contains(&value) {
        out.push(value);
    }
}

/// Blanks and control characters off both ends.
pub(crate) fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && (*first <= b' ' || *first == 0x7f)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && (*last <= b' ' || *last == 0x7f)
    {
        text = rest;
    }
    text
}

fn unescape(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|&c| c != b'\\').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(value: &str, wanted: &str) -> Vec<String> {
        readings(value.as_bytes(), wanted)
            .into_iter()
            .map(|reading| String::from_utf8_lossy(&reading).into_owned())
            .collect()
    }

    #[test]
    fn the_right_boundary_is_among_the_readings() {
        for value in [
            "multipart/mixed; boundary=BND",
            "multipart/mixed; boundary=\"BND\"",
            "multipart/mixed; BOUNDARY = \"BND\" ; x=y",
            "multipart/mixed; boundary=(c)BND(d)",
            "multipart/mixed; boundary=\"\\B\\N\\D\"",
            "multipart/mixed; boundary*0=\"B\"; boundary*1=\"ND\"",
            "multipart/mixed; boundary*1=\"ND\"; boundary*0=\"B\"",
            "multipart/mixed; boundary*=us-ascii''B%4eD",
            "multipart/mixed; boundary*0*=''B%4e; boundary*1=D",
            "multipart/mixed; boundary=\"a\"; boundary=\"BND\"",
            "multipart/mixed; boundary=\"BND\"; boundary=\"a\"",
            "multipart/mixed; boundary=\"=?us-ascii?Q?B=4ED?=\"",
            "multipart/mixed, boundary=BND",
            "multipart/mixed; x=\"; boundary=BND",
            "multipart/mixed boundary=BND",
            "multipart/mixed; boundary=\"BND",
        ] {
            assert!(read(value, "boundary").contains(&"BND".to_owned()), "{value}");
        }
    }

    #[test]
    fn every_file_name_is_among_the_readings() {
        for value in [
            "attachment; filename*0=\"eic\"; filename*1=\"ar.c\"; filename*2=\"om\"",
            "attachment; filename=\"a.txt\"; filename*=utf-8''eicar%2Ecom",
            "attachment; filename=\"=?utf-8?B?ZWljYXIuY29t?=\"",
            "attachment; filename==?utf-8?Q?eicar=2Ecom?=",
            "attachment; filename*=utf-16be''%00e%00i%00c%00a%00r%00.%00c%00o%00m",
            "attachment; filename*=utf-16''e%00i%00c%00a%00r%00.%00c%00o%00m%00",
            "attachment; filename*0=\"=?utf-8?B?ZWljYX\"; filename*1=\"IuY29t?=\"",
            "attachment; filename=\"=?utf-8?B?ZWljYX?= =?utf-8?B?IuY29t?=\"",
            "attachment; \"filename\"=eicar.com",
            "attachment filename=eicar.com",
            "attachment; filename=\"eicar.com",
            "attachment; filename=eicar(.gif).com(.gif)",
            "attachment; FILENAME*00=eicar.; FileName*01=com",
        ] {
            assert!(read(value, "filename").contains(&"eicar.com".to_owned()), "{value}");
        }
    }

    #[test]
    fn readings_are_bounded() {
        let value = (0..9999).map(|n| format!("; boundary={n}")).collect::<String>();
        assert!(read(&value, "boundary").len() <= READINGS_MAX + 1);
    }

    proptest! {
        #[test]
        fn arbitrary_values(value: Vec<u8>) {
            readings(&value, "boundary");
            strip_comments(&value);
        }

        #[test]
        fn arbitrary_parameters(value in "[a-z*0-9=;\"'?\\\\() %]{0,80}") {
            readings(format!("multipart/mixed; boundary{value}").as_bytes(), "boundary");
        }
    }
}
