//! MIME: how the payload is encoded, how the message round it is built, and both together.

use base64::Engine as _;

use super::Soundness::{self, Broken, Closed, Sound};
use super::twins;
use crate::case::{Case, Setup};

/// One part: its header lines, each with its end, and its body.
#[derive(Debug, Clone, Default)]
struct Part {
    header: String,
    body: Vec<u8>,
}

/// A way to encode the payload.
struct Encoding {
    name: &'static str,
    soundness: Soundness,
    part: fn(&[u8]) -> Part,
}

/// A message round a part.
struct Structure {
    name: &'static str,
    soundness: Soundness,
    message: fn(&Part) -> Vec<u8>,
}

/// Each encoding in the plain structure; each structure with three encodings.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for encoding in ENCODINGS {
        let name = format!("plain+{}", encoding.name);
        cases.extend(twins("own/mime", &name, Setup::Mail, encoding.soundness, |payload| {
            (PLAIN.message)(&(encoding.part)(payload))
        }));
    }
    let combined = ["b64", "b64-nopad", "qp-soft-5"];
    for structure in STRUCTURES {
        for encoding in ENCODINGS.iter().filter(|encoding| combined.contains(&encoding.name)) {
            let name = format!("{}+{}", structure.name, encoding.name);
            let soundness = structure.soundness.max(encoding.soundness);
            cases.extend(twins("own/mime", &name, Setup::Mail, soundness, |payload| {
                (structure.message)(&(encoding.part)(payload))
            }));
        }
    }
    cases
}

const ENCODINGS: &[Encoding] = &[
    Encoding { name: "b64", soundness: Sound, part: |p| b64(CTE, &lines(p, 76, "\r\n")) },
    Encoding { name: "b64-lines-of-2", soundness: Sound, part: |p| b64(CTE, &lines(p, 2, "\r\n")) },
    Encoding { name: "b64-lines-of-7", soundness: Sound, part: |p| b64(CTE, &lines(p, 7, "\r\n")) },
    Encoding { name: "b64-one-line", soundness: Sound, part: |p| b64(CTE, &lines(p, 999, "\r\n")) },
    Encoding {
        name: "b64-empty-lines",
        soundness: Sound,
        part: |p| b64(CTE, &lines(p, 16, "\r\n\r\n")),
    },
    Encoding {
        name: "b64-blanks-at-line-ends",
        soundness: Sound,
        part: |p| b64(CTE, &lines(p, 16, " \t \r\n")),
    },
    Encoding {
        name: "b64-tabs-at-line-starts",
        soundness: Sound,
        part: |p| b64(CTE, &lines(p, 16, "\r\n\t")),
    },
    Encoding {
        name: "b64-nopad",
        soundness: Sound,
        part: |p| b64(CTE, lines(p, 40, "\r\n").trim_end_matches(['=', '\r', '\n'])),
    },
    Encoding { name: "b64-junk", soundness: Broken, part: |p| b64(CTE, &lines(p, 5, "!\r\n*")) },
    Encoding { name: "b64-dashes", soundness: Broken, part: |p| b64(CTE, &lines(p, 11, "-\r\n")) },
    Encoding {
        name: "b64-8bit-junk",
        soundness: Broken,
        part: |p| b64(CTE, &lines(p, 9, "\u{e9}\r\n")),
    },
    Encoding { name: "b64-pad-inside", soundness: Broken, part: padded_inside },
    Encoding {
        name: "b64-text-before",
        soundness: Broken,
        part: |p| b64(CTE, &format!("--------\r\n{}", lines(p, 76, "\r\n"))),
    },
    Encoding {
        name: "b64-text-behind",
        soundness: Sound,
        part: |p| b64(CTE, &format!("{}=\r\nfooter of a list\r\n", lines(p, 76, "\r\n"))),
    },
    Encoding { name: "qp-upper", soundness: Sound, part: |p| qp(p, true, 24, "=\r\n") },
    Encoding { name: "qp-lower", soundness: Sound, part: |p| qp(p, false, 24, "=\r\n") },
    Encoding { name: "qp-soft-5", soundness: Sound, part: |p| qp(p, true, 5, "=\r\n") },
    Encoding { name: "qp-soft-1", soundness: Sound, part: |p| qp(p, false, 1, "=\r\n") },
    Encoding { name: "qp-soft-tab", soundness: Sound, part: |p| qp(p, true, 11, "=\t \r\n") },
    Encoding { name: "7bit", soundness: Sound, part: |p| plain("7bit", p) },
    Encoding { name: "8bit", soundness: Sound, part: |p| plain("8bit", p) },
    Encoding { name: "binary", soundness: Sound, part: |p| plain("BINARY", p) },
    Encoding { name: "cte-case", soundness: Sound, part: |p| named("bAsE64", p) },
    Encoding {
        name: "cte-folded-twice",
        soundness: Sound,
        part: |p| named("\r\n \r\n\tbase64", p),
    },
    Encoding { name: "cte-blanks-behind", soundness: Sound, part: |p| named("base64 \t ", p) },
    Encoding { name: "cte-comment-behind", soundness: Broken, part: |p| named("base64(x)", p) },
    Encoding {
        name: "cte-comment-nested",
        soundness: Broken,
        part: |p| named("(a (b \\) c)) base64", p),
    },
    Encoding { name: "cte-quoted", soundness: Broken, part: |p| named("\"base64\"", p) },
    Encoding { name: "cte-semicolon", soundness: Broken, part: |p| named("base64; x=y", p) },
    Encoding { name: "cte-two-words", soundness: Broken, part: |p| named("base64 7bit", p) },
    Encoding { name: "cte-two-words-other", soundness: Broken, part: |p| named("8bit base64", p) },
    Encoding { name: "cte-with-dash", soundness: Broken, part: |p| named("base-64", p) },
    Encoding { name: "cte-encoded-word", soundness: Broken, part: |p| named("=?x?q?base64?=", p) },
    Encoding {
        name: "cte-twice-7bit-first",
        soundness: Broken,
        part: |p| named("7bit\r\nContent-Transfer-Encoding: base64", p),
    },
    Encoding {
        name: "cte-twice-base64-first",
        soundness: Broken,
        part: |p| named("base64\r\nContent-Transfer-Encoding: quoted-printable", p),
    },
    Encoding {
        name: "cte-header-case",
        soundness: Sound,
        part: |p| cte_header("content-TRANSFER-encoding:", p),
    },
    Encoding {
        name: "cte-no-blank",
        soundness: Sound,
        part: |p| cte_header("Content-Transfer-Encoding:", p),
    },
    Encoding {
        name: "cte-tab-before-colon",
        soundness: Broken,
        part: |p| cte_header("Content-Transfer-Encoding\t: ", p),
    },
    Encoding { name: "uu-in-text", soundness: Sound, part: |p| uu("text/plain", "7bit", p) },
    Encoding {
        name: "uu-as-encoding",
        soundness: Broken,
        part: |p| uu("application/octet-stream", "uuencode", p),
    },
];

const CTE: &str = "Content-Transfer-Encoding: base64\r\n";
const FILE: &str = "Content-Type: application/octet-stream\r\n\
                    Content-Disposition: attachment; filename=\"note.bin\"\r\n";

/// The plain one, for the encodings.
const PLAIN: Structure = Structure {
    name: "plain",
    soundness: Sound,
    message: |part| multi("multipart/mixed; boundary=\"in-between\"", "in-between", part),
};

const STRUCTURES: &[Structure] = &[
    Structure {
        name: "boundary-unquoted",
        soundness: Sound,
        message: |part| multi("multipart/mixed; boundary=in-between", "in-between", part),
    },
    Structure {
        name: "boundary-no-blanks",
        soundness: Sound,
        message: |part| multi("multipart/mixed;boundary=b", "b", part),
    },
    Structure {
        name: "boundary-all-characters",
        soundness: Sound,
        message: |part| {
            multi("multipart/mixed; boundary=\"=_'(0)+_,-./:=?z\"", "=_'(0)+_,-./:=?z", part)
        },
    },
    Structure {
        name: "boundary-behind-others",
        soundness: Sound,
        message: |part| {
            multi("multipart/mixed; charset=\"utf-8; boundary=no\"; boundary=\"yes\"", "yes", part)
        },
    },
    Structure {
        name: "boundary-semicolon-behind",
        soundness: Sound,
        message: |part| multi("multipart/mixed; boundary=\"b1\";", "b1", part),
    },
    Structure {
        name: "upper-case",
        soundness: Sound,
        message: |part| multi("MULTIPART/MIXED; BOUNDARY=\"UP\"", "UP", part),
    },
    Structure {
        name: "folded-with-tabs",
        soundness: Sound,
        message: |part| {
            multi("multipart/mixed;\r\n\tcharset=x;\r\n\tboundary=\"fo ld\"", "fo ld", part)
        },
    },
    Structure {
        name: "boundary-blanks-round-equals",
        soundness: Broken,
        message: |part| multi("multipart/mixed; boundary = \"b2\"", "b2", part),
    },
    Structure {
        name: "boundary-quoted-pair",
        soundness: Broken,
        message: |part| multi("multipart/mixed; boundary=\"b\\3\"", "b3", part),
    },
    Structure {
        name: "comment-behind-type",
        soundness: Broken,
        message: |part| multi("multipart/mixed (a \"b); c\"); boundary=b4", "b4", part),
    },
    Structure {
        name: "comment-before-type",
        soundness: Broken,
        message: |part| multi("(x) multipart/mixed; boundary=b5", "b5", part),
    },
    Structure {
        name: "comment-before-parameter",
        soundness: Broken,
        message: |part| multi("multipart/mixed; (;boundary=no) boundary=b6", "b6", part),
    },
    Structure {
        name: "boundary-in-pieces",
        soundness: Broken,
        message: |part| {
            multi("multipart/mixed; boundary*1=\"ef\"; boundary*0=\"abcd\"", "abcdef", part)
        },
    },
    Structure {
        name: "boundary-percent",
        soundness: Broken,
        message: |part| multi("multipart/mixed; boundary*=us-ascii''%62%37", "b7", part),
    },
    Structure {
        name: "boundary-twice-second",
        soundness: Broken,
        message: |part| multi("multipart/mixed; boundary=b8; boundary=b9", "b9", part),
    },
    Structure {
        name: "boundary-single-quotes",
        soundness: Broken,
        message: |part| multi("multipart/mixed; boundary='b10'", "b10", part),
    },
    Structure {
        name: "boundary-of-150",
        soundness: Broken,
        message: |part| {
            let boundary = "x".repeat(150);
            multi(&format!("multipart/mixed; boundary=\"{boundary}\""), &boundary, part)
        },
    },
    Structure {
        name: "type-twice-multipart-first",
        soundness: Broken,
        message: |part| {
            multi("multipart/mixed; boundary=b11\r\nContent-Type: text/html", "b11", part)
        },
    },
    Structure {
        name: "type-twice-second-boundary",
        soundness: Broken,
        message: |part| {
            let types =
                "multipart/mixed; boundary=b12\r\nContent-Type: multipart/mixed; boundary=b13";
            multi(types, "b13", part)
        },
    },
    Structure {
        name: "type-tab-before-colon",
        soundness: Broken,
        message: |part| {
            let mail = multi("multipart/mixed; boundary=b14", "b14", part);
            replaced(&mail, "Content-Type: multipart", "Content-Type\t: multipart")
        },
    },
    Structure {
        name: "delimiter-blanks-behind",
        soundness: Sound,
        message: |part| {
            let mail = multi("multipart/mixed; boundary=b15", "b15", part);
            replaced(&mail, "--b15\r\n", "--b15 \t\r\n")
        },
    },
    Structure {
        name: "no-closing-delimiter",
        soundness: Sound,
        message: |part| {
            let mail = multi("multipart/mixed; boundary=b16", "b16", part);
            replaced(&mail, "\r\n--b16--", "\r\n")
        },
    },
    Structure { name: "behind-the-closing", soundness: Broken, message: behind_the_closing },
    Structure { name: "in-the-preamble", soundness: Broken, message: in_the_preamble },
    Structure {
        name: "long-preamble",
        soundness: Sound,
        message: |part| {
            let mail = multi("multipart/mixed; boundary=b19", "b19", part);
            let text = "Your mail program cannot show this.\r\n".repeat(200);
            replaced(&mail, "\r\n\r\n--b19", &format!("\r\n\r\n{text}\r\n--b19"))
        },
    },
    Structure { name: "nested-2", soundness: Sound, message: |part| nested(2, part) },
    Structure { name: "nested-15", soundness: Sound, message: |part| nested(15, part) },
    Structure { name: "nested-60", soundness: Broken, message: |part| nested(60, part) },
    Structure { name: "inner-boundary-begins-as-outer", soundness: Sound, message: inner_longer },
    Structure { name: "inner-boundary-is-outer", soundness: Broken, message: inner_same },
    Structure { name: "rfc822", soundness: Sound, message: |part| mails_in_mails(1, part) },
    Structure { name: "rfc822-12", soundness: Sound, message: |part| mails_in_mails(12, part) },
    Structure { name: "rfc822-base64", soundness: Broken, message: encoded_mail },
    Structure {
        name: "global",
        soundness: Sound,
        message: |part| {
            let mail = mails_in_mails(1, part);
            replaced(&mail, "message/rfc822", "message/global")
        },
    },
    Structure { name: "digest", soundness: Sound, message: digest },
    Structure {
        name: "alternative-last",
        soundness: Sound,
        message: |part| multi("multipart/alternative; boundary=b20", "b20", part),
    },
    Structure {
        name: "related",
        soundness: Sound,
        message: |part| multi("multipart/related; boundary=b21; type=\"text/html\"", "b21", part),
    },
    Structure {
        name: "report",
        soundness: Sound,
        message: |part| multi("multipart/report; report-type=x; boundary=b22", "b22", part),
    },
    Structure {
        name: "signed",
        soundness: Sound,
        message: |part| multi("multipart/signed; protocol=x; boundary=b23", "b23", part),
    },
    Structure {
        name: "unknown-multipart",
        soundness: Sound,
        message: |part| multi("multipart/x-new-thing; boundary=b24", "b24", part),
    },
    Structure {
        name: "no-mime-version",
        soundness: Sound,
        message: |part| {
            let mail = multi("multipart/mixed; boundary=b25", "b25", part);
            replaced(&mail, "MIME-Version: 1.0\r\n", "")
        },
    },
    Structure {
        name: "mime-version-odd",
        soundness: Sound,
        message: |part| {
            let mail = multi("multipart/mixed; boundary=b26", "b26", part);
            replaced(&mail, "MIME-Version: 1.0", "MIME-Version: (made by x) 1 . 0")
        },
    },
    Structure {
        name: "whole-mail",
        soundness: Sound,
        message: |part| mail(&part.header, &part.body),
    },
    Structure { name: "lf-only", soundness: Broken, message: lf_only },
    Structure { name: "multipart-base64", soundness: Broken, message: encoded_multipart },
    Structure {
        name: "fragment",
        soundness: Closed,
        message: |part| {
            let whole = mail(&part.header, &part.body);
            mail("Content-Type: message/partial; id=\"i\"; number=1; total=3\r\n", &whole)
        },
    },
];

fn b64(header: &str, body: &str) -> Part {
    Part { header: format!("{FILE}{header}"), body: body.as_bytes().to_vec() }
}

/// Base64 in lines of so many characters.
fn lines(payload: &[u8], width: usize, end: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(payload);
    let mut text = String::new();
    for line in encoded.as_bytes().chunks(width) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push_str(end);
    }
    text
}

/// Two base64 texts behind each other, the first with its padding.
fn padded_inside(payload: &[u8]) -> Part {
    let (first, second) = payload.split_at(payload.len().min(31));
    b64(CTE, &format!("{}{}", lines(first, 76, "\r\n"), lines(second, 76, "\r\n")))
}

/// Every byte as `=58`, with a soft line break after so many.
fn qp(payload: &[u8], is_upper: bool, width: usize, soft: &str) -> Part {
    let mut body = String::new();
    for group in payload.chunks(width) {
        for byte in group {
            body.push_str(&if is_upper { format!("={byte:02X}") } else { format!("={byte:02x}") });
        }
        body.push_str(soft);
    }
    let header = format!("{FILE}Content-Transfer-Encoding: quoted-printable\r\n");
    Part { header, body: body.into_bytes() }
}

fn plain(encoding: &str, payload: &[u8]) -> Part {
    let header = format!("{FILE}Content-Transfer-Encoding: {encoding}\r\n");
    Part { header, body: payload.to_vec() }
}

/// Base64, with this said of the encoding.
fn named(encoding: &str, payload: &[u8]) -> Part {
    let header = format!("Content-Transfer-Encoding: {encoding}\r\n");
    b64(&header, &lines(payload, 76, "\r\n"))
}

/// Base64, with this header before the word.
fn cte_header(header: &str, payload: &[u8]) -> Part {
    b64(&format!("{header}base64\r\n"), &lines(payload, 76, "\r\n"))
}

fn uu(kind: &str, encoding: &str, payload: &[u8]) -> Part {
    let mut body = String::from("begin 644 note.com\r\n");
    for line in payload.chunks(45) {
        let digit = |six: u8| char::from(if six == 0 { b'`' } else { six + b' ' });
        body.push(digit(u8::try_from(line.len()).unwrap_or_default()));
        for group in line.chunks(3) {
            let byte = |at: usize| group.get(at).copied().unwrap_or_default();
            let (a, b, c) = (byte(0), byte(1), byte(2));
            body.extend([a >> 2, (a & 3) << 4 | b >> 4, (b & 15) << 2 | c >> 6, c & 63].map(digit));
        }
        body.push_str("\r\n");
    }
    body.push_str("`\r\nend\r\n");
    let header = format!("Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n");
    Part { header, body: body.into_bytes() }
}

/// A mail with these header lines beside the usual ones.
fn mail(header: &str, body: &[u8]) -> Vec<u8> {
    let mut mail = format!(
        "From: Alice <alice@client.example>\r\nTo: Bob <bob@office.example>\r\n\
         Subject: a case\r\nDate: Tue, 02 Jan 2024 03:04:05 +0000\r\n\
         Message-ID: <case@client.example>\r\nMIME-Version: 1.0\r\n{header}\r\n"
    )
    .into_bytes();
    mail.extend_from_slice(body);
    if !mail.ends_with(b"\r\n") {
        mail.extend_from_slice(b"\r\n");
    }
    mail
}

/// A text and the part between delimiters.
fn body(boundary: &str, part: &Part) -> Vec<u8> {
    let mut body = format!(
        "--{boundary}\r\nContent-Type: text/plain\r\n\r\nHello.\r\n--{boundary}\r\n{}\r\n",
        part.header
    )
    .into_bytes();
    body.extend_from_slice(&part.body);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    body
}

fn multi(content_type: &str, boundary: &str, part: &Part) -> Vec<u8> {
    mail(&format!("Content-Type: {content_type}\r\n"), &body(boundary, part))
}

fn behind_the_closing(part: &Part) -> Vec<u8> {
    let mut mail = multi("multipart/mixed; boundary=b17", "b17", &Part::default());
    mail.extend_from_slice(&body("b17", part));
    mail
}

fn in_the_preamble(part: &Part) -> Vec<u8> {
    let mut before = body("b18-other", part);
    before.extend_from_slice(&body("b18", &Part::default()));
    mail("Content-Type: multipart/mixed; boundary=b18\r\n", &before)
}

/// Multiparts in multiparts.
fn nested(depth: usize, part: &Part) -> Vec<u8> {
    let mut part = part.clone();
    for level in 0..depth {
        let boundary = format!("level-{level}-");
        part = Part {
            header: format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n"),
            body: body(&boundary, &part),
        };
    }
    mail(&part.header, &part.body)
}

fn inner_longer(part: &Part) -> Vec<u8> {
    let inner = Part {
        header: "Content-Type: multipart/mixed; boundary=outer2\r\n".to_owned(),
        body: body("outer2", part),
    };
    multi("multipart/mixed; boundary=outer", "outer", &inner)
}

fn inner_same(part: &Part) -> Vec<u8> {
    let inner = Part {
        header: "Content-Type: multipart/mixed; boundary=same\r\n".to_owned(),
        body: body("same", part),
    };
    multi("multipart/mixed; boundary=same", "same", &inner)
}

fn mails_in_mails(depth: usize, part: &Part) -> Vec<u8> {
    let mut whole = multi("multipart/mixed; boundary=mm", "mm", part);
    for _ in 0..depth {
        whole = mail("Content-Type: message/rfc822\r\n", &whole);
    }
    whole
}

fn encoded_mail(part: &Part) -> Vec<u8> {
    let inner = mail(&part.header, &part.body);
    let header = "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n";
    mail(header, lines(&inner, 76, "\r\n").as_bytes())
}

fn digest(part: &Part) -> Vec<u8> {
    let inner = mail(&part.header, &part.body);
    let member = Part { header: String::new(), body: inner };
    multi("multipart/digest; boundary=dig", "dig", &member)
}

fn encoded_multipart(part: &Part) -> Vec<u8> {
    let header =
        "Content-Type: multipart/mixed; boundary=enc\r\nContent-Transfer-Encoding: base64\r\n";
    mail(header, lines(&body("enc", part), 76, "\r\n").as_bytes())
}

fn lf_only(part: &Part) -> Vec<u8> {
    let mut mail = multi("multipart/mixed; boundary=lf", "lf", part);
    mail.retain(|&byte| byte != b'\r');
    mail
}

fn replaced(mail: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text: String = mail.iter().map(|&byte| char::from(byte)).collect();
    let text = text.replace(from, to);
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own::eicar;

    #[test]
    fn every_structure_changes_the_mail_and_keeps_the_part() {
        let part = plain("7bit", &eicar());
        let mut seen = vec![(PLAIN.message)(&part)];
        for structure in STRUCTURES {
            let mail = (structure.message)(&part);
            assert!(!seen.contains(&mail), "{}", structure.name);
            let is_hidden = ["rfc822-base64", "multipart-base64"].contains(&structure.name);
            let carries = mail.windows(68).any(|window| window == eicar());
            assert_eq!(carries, !is_hidden, "{}", structure.name);
            seen.push(mail);
        }
    }
}
