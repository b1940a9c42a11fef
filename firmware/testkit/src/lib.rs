//! Builders for tests: mails, POP3 answers, ways to cut bytes into chunks, a virtual clock's start.
//!
//! A dev-dependency only. Must not depend on any crate of this workspace. Entry: [`Mail`].
#![forbid(unsafe_code)]

mod mail;

pub use mail::Mail;

use std::time::Instant;

use base64::Engine as _;

/// A point in time for code that takes the time as an argument: add to it what the test needs.
#[must_use]
pub fn epoch() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "an opaque start; tests only add durations to it")]
    Instant::now()
}

/// The EICAR test file (68 bytes), put together here so that no scanner takes this source for it.
#[must_use]
pub fn eicar() -> Vec<u8> {
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}", "$EICAR-STANDARD-ANTIVIRUS", "-TEST-FILE!$H+H*"]
        .concat()
        .into_bytes()
}

/// Base64 in one line, with padding (RFC 4648 section 4).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// `bytes` as a POP3 server sends them behind its status line: dots stuffed, final dot (RFC 1939
/// section 3). Lines are taken to end with CRLF; one is added where the last has none.
#[must_use]
pub fn dot_stuffed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut line_start = true;
    for byte in bytes {
        if line_start && *byte == b'.' {
            out.push(b'.');
        }
        out.push(*byte);
        line_start = out.ends_with(b"\r\n");
    }
    if !line_start {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// `bytes` in chunks of the sizes given, over and over; a size of 0 counts as 1. No sizes: one chunk.
pub fn chunks<'a>(bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    let mut sizes = sizes.iter().copied().cycle();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let size = sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        let (chunk, behind) = rest.split_at(size);
        rest = behind;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffing() {
        assert_eq!(dot_stuffed(b""), b".\r\n");
        assert_eq!(dot_stuffed(b".a\r\nb\r\n..\r\n"), b"..a\r\nb\r\n...\r\n.\r\n");
        assert_eq!(dot_stuffed(b"open"), b"open\r\n.\r\n");
    }

    #[test]
    fn chunks_join_to_the_whole() {
        let cut: Vec<&[u8]> = chunks(b"abcdefgh", &[1, 0, 3]).collect();
        assert_eq!(cut, [&b"a"[..], b"b", b"cde", b"f", b"g", b"h"]);
        assert_eq!(chunks(b"abc", &[]).count(), 1);
        assert_eq!(chunks(b"abc", &[1]).count(), 3);
        assert_eq!(cut.concat(), b"abcdefgh");
    }

    #[test]
    fn eicar_is_complete() {
        assert_eq!(eicar().len(), 68);
    }
}
