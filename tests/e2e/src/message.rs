//! The mails of the scenarios. Lines end in CRLF.

use crate::plan::{RECIPIENT, SENDER};

/// The EICAR test file in pieces, so that no scanner takes offence at this source.
pub const EICAR_PARTS: [&str; 4] =
    ["X5O!P%@AP[4\\PZX54(P^)7CC)7}", "$EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!", "$H+H*"];
/// A "virus" that only the sites' `clamd` knows: who refuses it has used the site's scanner.
pub const LAB_MARKER: &str = "this line is a signature of the laboratory's own scanner";

/// Bytes in one line of base64 (RFC 2045, section 6.8), before encoding.
const BASE64_LINE_BYTES: usize = 57;
/// Size of the clean mail's attachment, in bytes: several windows of TCP.
const ATTACHMENT_BYTES: usize = 200_000;

/// A clean mail with what offices send: an encoded subject, Japanese text, an attachment; and what
/// careless gateways break: lines that begin with dots, trailing blanks, a long line, 8-bit bytes.
#[must_use]
pub fn clean(subject: &str) -> Vec<u8> {
    let text = "..two dots and one:\r\n.\tafter it a tab\r\n...\r\ntrailing blanks   \t \r\n\
                From the line start, unquoted\r\n\u{65e5}\u{672c}\u{8a9e}\u{306e}\u{672c}\u{6587}\r\n";
    let long = "x".repeat(900);
    let attachment = base64_lines(&noise(ATTACHMENT_BYTES));
    let mut message = headers(subject);
    message += "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"=_edge\"\r\n\r\n\
                A preamble.\r\n--=_edge\r\nContent-Type: text/plain; charset=UTF-8\r\n\
                Content-Transfer-Encoding: 8bit\r\n\r\n";
    message += &format!("{text}{long}\r\n--=_edge\r\n");
    message += "Content-Type: application/octet-stream; name=\"noise.bin\"\r\n\
                Content-Transfer-Encoding: base64\r\n\r\n";
    message += &format!("{attachment}--=_edge--\r\nAn epilogue.\r\n\r\n");
    message.into_bytes()
}

/// A short clean mail.
#[must_use]
pub fn short(subject: &str) -> Vec<u8> {
    format!("{}\r\nOne line.\r\n", headers(subject)).into_bytes()
}

/// A mail with the EICAR test file attached in base64, as mail programs do.
#[must_use]
pub fn eicar(subject: &str) -> Vec<u8> {
    let attachment = base64_lines(EICAR_PARTS.concat().as_bytes());
    format!(
        "{}MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_edge\"\r\n\r\n\
         --=_edge\r\nContent-Type: text/plain\r\n\r\nSee the attachment.\r\n--=_edge\r\n\
         Content-Type: application/octet-stream; name=\"invoice.com\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{attachment}--=_edge--\r\n",
        headers(subject)
    )
    .into_bytes()
}

/// A mail that only the sites' own scanner calls infected.
#[must_use]
pub fn marked(subject: &str) -> Vec<u8> {
    format!("{}\r\n{LAB_MARKER}\r\n", headers(subject)).into_bytes()
}

/// `length` bytes that look random and are always the same.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // Xorshift (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// CRLF to LF: how a message looks in a maildir.
#[must_use]
pub fn to_lf(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len());
    for (index, &byte) in message.iter().enumerate() {
        if byte != b'\r' || message.get(index + 1) != Some(&b'\n') {
            bytes.push(byte);
        }
    }
    bytes
}

fn headers(subject: &str) -> String {
    format!(
        "From: Office <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: {subject}\r\n\
         Date: Mon, 23 Nov 2026 09:00:00 +0900\r\nMessage-ID: <{}@office.test>\r\n",
        subject.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")
    )
}

fn base64_lines(bytes: &[u8]) -> String {
    bytes.chunks(BASE64_LINE_BYTES).map(|line| base64(line) + "\r\n").collect()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, &byte| group << 8 | usize::from(byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = group >> (18 - 6 * digit) & 63;
            text.push(if digit <= chunk.len() { char::from(ALPHABET[value]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, encoded) in pairs {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn only_crlf_becomes_lf() {
        assert_eq!(to_lf(b"a\r\nb\rc\n\r\r\n"), b"a\nb\rc\n\r\n");
    }
}
