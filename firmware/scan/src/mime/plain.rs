//! Which parts any engine that reads mail certainly decodes as the walk does: the simplest standard form,
//! within what the strictest of them (libclamav's mail reader) looks at. In doubt a part is not plain.

use super::entity::Composite;
use super::params::trim;

/// Deepest nesting.
pub(crate) const PLAIN_DEPTH_MAX: usize = 8;
/// Most parts before it. libclamav reads 1024 of a message.
pub(crate) const PLAIN_PARTS_MAX: u32 = 256;
/// Most lines of a header. libclamav reads 1024.
pub(crate) const PLAIN_HEADER_LINES_MAX: usize = 256;
/// Most bytes of a header. libclamav reads 256 KiB.
pub(crate) const PLAIN_HEADER_BYTES_MAX: usize = 64 * 1024;

/// How a file starts that libclamav takes for mail; case counts.
const MAIL_STARTS: [&[u8]; 8] = [
    b"Received: ",
    b"Return-Path: ",
    b"Message-ID: ",
    b"Message-Id: ",
    b"Date: ",
    b"From: ",
    b"To: ",
    b"Subject: ",
];

/// Those whose parts are all looked at. Of multipart/signed, for one, libclamav reads one part.
const MULTIPARTS: [&str; 3] = ["multipart/mixed", "multipart/alternative", "multipart/related"];

/// Types of which the bytes may be changed before they are looked at, or that are read in a way of
/// their own.
const SPECIAL_TYPES: [&str; 3] = ["text/", "message/", "multipart/"];

/// Whether a message with this first line is seen to be one.
pub(crate) fn begins_as_mail(line: &[u8]) -> bool {
    MAIL_STARTS.iter().any(|start| line.starts_with(start))
}

/// Whether a field's line has nothing odd about its name.
pub(crate) fn is_regular_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// What the fields of a header that matter say, each value as often as it is given.
pub(crate) struct Fields<'a> {
    pub(crate) types: Vec<&'a [u8]>,
    pub(crate) encodings: Vec<&'a [u8]>,
    pub(crate) dispositions: Vec<&'a [u8]>,
}

impl Fields<'_> {
    /// Whether this is the header of a plain multipart or of a plain base64 body.
    pub(crate) fn are_plain(&self, content_type: &str, composite: Option<&Composite>) -> bool {
        let ([value], true) = (self.types.as_slice(), self.dispositions.len() <= 1) else {
            return false;
        };
        let plain = |value: &&[u8]| parameter_names(value).is_some();
        if !plain(value) || !self.dispositions.iter().all(plain) {
            return false;
        }
        let encoding = match self.encodings.as_slice() {
            [] => b"7bit".to_vec(),
            [value] => trim(value).to_ascii_lowercase(),
            _ => return false,
        };
        match composite {
            Some(Composite::Multipart { boundaries, .. }) => {
                MULTIPARTS.contains(&content_type)
                    && matches!(encoding.as_slice(), b"7bit" | b"8bit" | b"binary")
                    && boundaries.first().is_some_and(|boundary| is_plain_boundary(boundary))
                    && has_definite_boundary(value)
            }
            Some(Composite::Message) => false,
            None => {
                encoding == b"base64"
                    && !SPECIAL_TYPES.iter().any(|special| content_type.starts_with(special))
            }
        }
    }
}

/// RFC 2046 section 5.1.1, without blanks.
fn is_plain_boundary(boundary: &[u8]) -> bool {
    (1..=70).contains(&boundary.len())
        && boundary.iter().all(|c| c.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(c))
}

/// Whether this value of a Content-Type has one boundary and one way to read it.
pub(crate) fn has_definite_boundary(value: &[u8]) -> bool {
    let Some(names) = parameter_names(value) else { return false };
    let boundaries: Vec<&[u8]> = names
        .into_iter()
        .filter(|name| name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"boundary")))
        .collect();
    matches!(boundaries.as_slice(), [name] if name.len() == 8)
}

/// The names of `word *(; name = value)`, where each value is a token or a quoted string without escapes
/// and there are no comments; `None` for any other value.
fn parameter_names(value: &[u8]) -> Option<Vec<&[u8]>> {
    let mut fields = Vec::new();
    let mut quoted = false;
    for part in value.split(|&byte| {
        quoted ^= byte == b'"';
        byte == b';' && !quoted
    }) {
        fields.push(trim(part));
    }
    let (word, parameters) = fields.split_first()?;
    let parameters = match parameters {
        [rest @ .., b""] => rest,
        all => all,
    };
    if quoted || !is_token(word, b"/") {
        return None;
    }
    parameters.iter().map(|parameter| parameter_name(parameter)).collect()
}

fn parameter_name(parameter: &[u8]) -> Option<&[u8]> {
    let (name, text) = parameter.split_at(parameter.iter().position(|&c| c == b'=')?);
    let text = text.get(1..)?;
    let plain = match text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")) {
        Some(inside) => {
            inside.iter().all(|&c| matches!(c, b' '..=b'~') && !matches!(c, b'"' | b'\\' | b';'))
        }
        None => is_token(text, b"*'%"),
    };
    (plain && is_token(name, b"*")).then_some(name)
}

/// RFC 2045 section 5.1, and `extra`.
fn is_token(text: &[u8], extra: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(c) || extra.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_reading_are_plain() {
        for value in [
            "application/pdf",
            " application/pdf; name=\"=?ISO-2022-JP?B?GyRC?=\"",
            "attachment;\tfilename=a.pdf; filename*=utf-8''%E3%81%82.pdf;",
            "multipart/mixed; boundary=\"----=_Part (1)\"",
        ] {
            assert!(parameter_names(value.as_bytes()).is_some(), "{value}");
        }
        for value in [
            "",
            "application/pdf (c)",
            "application/pdf; name=\"a",
            "application/pdf; name=a\"b\"",
            "application/pdf; name=\"a\\\"b\"",
            "application/pdf; name = a",
            "application/pdf; name",
            "application/pdf; name=",
            "application/pdf, name=a",
            "application/pdf; ; name=a",
            "application/pdf; name=\"a;b\"",
            "application/pdf; name=\u{3042}",
        ] {
            assert!(parameter_names(value.as_bytes()).is_none(), "{value}");
        }
    }

    #[test]
    fn a_definite_boundary_is_given_once() {
        let definite = |value: &str| has_definite_boundary(value.as_bytes());
        assert!(definite("multipart/x; boundary=\"_boundary_1\"; type=a"));
        assert!(definite("multipart/x; Boundary=b"));
        assert!(!definite("multipart/x") && !definite("multipart/x; boundary = b"));
        assert!(!definite("multipart/x; boundary=b; boundary=b"));
        assert!(!definite("multipart/x; boundary=b; boundary*=b"));
        assert!(!definite("multipart/x; boundary*0=b"));
    }

    #[test]
    fn a_message_is_seen_by_its_first_line() {
        assert!(begins_as_mail(b"Received: from x"));
        assert!(!begins_as_mail(b"received: from x") && !begins_as_mail(b"X-Mailer: x"));
    }
}
