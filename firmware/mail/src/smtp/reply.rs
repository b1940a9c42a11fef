//! Replies of SMTP servers (RFC 5321 section 4.2): read whole, forwarded as they came.

use std::fmt;
use std::mem;

use bytes::{Bytes, BytesMut};

use super::inbox::{Inbox, Line};
use crate::Violation;

/// Longest reply line with its line end: a SASL challenge of RFC 4954 section 4, and headroom. (RFC
/// 5321 section 4.5.3.1.5 has 512 octets for all others.)
pub const REPLY_LINE_BYTES_MAX: usize = 12_288 + 2_048;
/// Most lines of one reply. The longest EHLO replies in use have about thirty.
pub const REPLY_LINES_MAX: usize = 256;
/// Most bytes of one reply, all lines.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;

/// A complete reply.
///
/// Its `Debug` shows the code only.
pub(super) struct Reply {
    pub(super) code: u16,
    /// Each with its line end; at least one.
    lines: Vec<Bytes>,
}

/// Puts lines together to replies.
#[derive(Default)]
pub(super) struct ReplyReader {
    code: u16,
    lines: Vec<Bytes>,
    bytes: usize,
}

impl ReplyReader {
    /// The next reply, `None` if it is not complete yet.
    ///
    /// # Errors
    ///
    /// What the server did wrong: the session cannot be read on.
    pub(super) fn read(&mut self, inbox: &mut Inbox) -> Result<Option<Reply>, Violation> {
        loop {
            let line = match inbox.take_line(REPLY_LINE_BYTES_MAX) {
                Line::Complete(line) => line,
                Line::TooLong => return Err(Violation::LineTooLong),
                Line::Incomplete => return Ok(None),
            };
            let (code, is_last) = parse(&line)?;
            // RFC 5321 section 4.2.1: the code is the same on every line.
            if !self.lines.is_empty() && code != self.code {
                return Err(Violation::UnexpectedReply);
            }
            self.code = code;
            self.bytes += line.len();
            self.lines.push(line);
            if is_last {
                self.bytes = 0;
                return Ok(Some(Reply { code, lines: mem::take(&mut self.lines) }));
            }
            if self.lines.len() >= REPLY_LINES_MAX || self.bytes > REPLY_BYTES_MAX {
                return Err(Violation::LineTooLong);
            }
        }
    }

    /// Of the reply that is being read.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Reply {
    /// 2 for 250, and so on.
    pub(super) fn class(&self) -> u16 {
        self.code / 100
    }

    /// As it came.
    pub(super) fn into_bytes(self) -> Bytes {
        join(self.lines)
    }

    /// The reply to EHLO names this extension.
    pub(super) fn offers(&self, keyword: &str) -> bool {
        // The first line is the greeting, whatever it says (RFC 5321 section 4.1.1.1).
        let mut lines = self.lines.iter().skip(1);
        lines.any(|line| keyword_of(line).eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// The reply to EHLO without the masked keywords; every other line as it came, but for the mark
    /// behind the code of the line that has become the last one.
    pub(super) fn into_masked_bytes(self, masked: &[String]) -> Bytes {
        let mut lines = self.lines;
        let mut is_first = true;
        lines.retain(|line| mem::take(&mut is_first) || !is_masked(line, masked));
        if let Some(last) = lines.last_mut()
            && last.get(3) == Some(&b'-')
        {
            let mut changed = BytesMut::from(&last[..]);
            changed[3] = b' ';
            *last = changed.freeze();
        }
        join(lines)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("code", &self.code).finish_non_exhaustive()
    }
}

/// Copies only what has several lines.
fn join(mut lines: Vec<Bytes>) -> Bytes {
    if lines.len() > 1 { lines.concat().into() } else { lines.pop().unwrap_or_default() }
}

/// The code, and whether this is the last line of its reply.
///
/// A bare LF is taken as the end of a reply line: there are servers that send nothing else, and it
/// cannot hide anything, because a client that wants CRLF just goes on waiting.
fn parse(line: &[u8]) -> Result<(u16, bool), Violation> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    // Some servers send CR CR LF.
    let carriage_returns = text.iter().rev().take_while(|byte| **byte == b'\r').count();
    let text = &text[..text.len() - carriage_returns];
    if text.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        return Err(Violation::BareLineEnd);
    }
    let [first @ b'2'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9', rest @ ..] = text else {
        return Err(Violation::UnexpectedReply);
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    let is_last = match rest.first() {
        Some(b'-') => false,
        Some(b' ') | None => true,
        Some(_) => return Err(Violation::UnexpectedReply),
    };
    Ok((digit(first) * 100 + digit(second) * 10 + digit(third), is_last))
}

fn is_masked(line: &[u8], masked: &[String]) -> bool {
    let keyword = keyword_of(line);
    masked.iter().any(|masked| keyword.eq_ignore_ascii_case(masked.as_bytes()))
}

/// The first word behind the code; `AUTH=LOGIN` is an old form of `AUTH LOGIN`.
fn keyword_of(line: &[u8]) -> &[u8] {
    let text = line.get(4..).unwrap_or_default().trim_ascii();
    text.split(|byte| matches!(byte, b' ' | b'\t' | b'=')).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Option<Reply>, Violation> {
        let mut inbox = Inbox::default();
        inbox.push(Bytes::copy_from_slice(text));
        ReplyReader::default().read(&mut inbox)
    }

    fn masked(text: &str) -> String {
        let keywords = ["CHUNKING", "BinaryMime", "burl", "AUTH"].map(str::to_owned);
        let reply = read(text.as_bytes()).unwrap().unwrap();
        String::from_utf8(reply.into_masked_bytes(&keywords).to_vec()).unwrap()
    }

    #[test]
    fn replies_of_every_form() {
        for (text, code) in [
            ("220 mx.example ESMTP\r\n", 220),
            ("250\r\n", 250),
            ("250-a\r\n250-\r\n250 c\r\n", 250),
            ("354 go\n", 354),
            ("250-a\r\r\n250\r\r\n", 250),
        ] {
            let reply = read(text.as_bytes()).unwrap().unwrap();
            assert_eq!(reply.code, code);
            assert_eq!(reply.into_bytes(), text.as_bytes());
        }
        assert!(read(b"250-a\r\n250").unwrap().is_none());
    }

    #[test]
    fn malformed_replies() {
        for (text, what) in [
            (&b"hello\r\n"[..], Violation::UnexpectedReply),
            (b"150 x\r\n", Violation::UnexpectedReply),
            (b"25\r\n", Violation::UnexpectedReply),
            (b"2500\r\n", Violation::UnexpectedReply),
            (b"\r\n", Violation::UnexpectedReply),
            (b"250-a\r\n220 b\r\n", Violation::UnexpectedReply),
            (b"250 a\rb\r\n", Violation::BareLineEnd),
            (b"250 a\0\r\n", Violation::BareLineEnd),
        ] {
            assert_eq!(read(text).unwrap_err(), what, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn limits_of_replies() {
        let text = format!("250 {}\r\n", "x".repeat(REPLY_LINE_BYTES_MAX - 6));
        assert!(read(text.as_bytes()).unwrap().is_some());
        let text = format!("250 {}\r\n", "x".repeat(REPLY_LINE_BYTES_MAX - 5));
        assert_eq!(read(text.as_bytes()).unwrap_err(), Violation::LineTooLong);

        let text = "220-x\r\n".repeat(REPLY_LINES_MAX - 1) + "220 x\r\n";
        assert!(read(text.as_bytes()).unwrap().is_some());
        let text = "220-x\r\n".repeat(REPLY_LINES_MAX);
        assert_eq!(read(text.as_bytes()).unwrap_err(), Violation::LineTooLong);

        let text = format!("220-{}\r\n", "x".repeat(8 * 1024)).repeat(9);
        assert_eq!(read(text.as_bytes()).unwrap_err(), Violation::LineTooLong);
    }

    #[test]
    fn masking_keeps_the_reply_well_formed() {
        assert_eq!(
            masked("250-mx\r\n250-CHUNKING\r\n250-SIZE 1\r\n250 DSN\r\n"),
            "250-mx\r\n250-SIZE 1\r\n250 DSN\r\n"
        );
        assert_eq!(
            masked("250-mx\r\n250-SIZE 1\r\n250-BinaryMIME\r\n250 chunking \r\n"),
            "250-mx\r\n250 SIZE 1\r\n"
        );
        assert_eq!(masked("250-mx\r\n250 CHUNKING\r\n"), "250 mx\r\n");
        assert_eq!(masked("250-mx\n250 BURL imap\n"), "250 mx\n");
        assert_eq!(masked("250-mx\r\n250-AUTH=LOGIN\r\n250 AUTH PLAIN\r\n"), "250 mx\r\n");
        // The first line is a greeting.
        assert_eq!(masked("250 CHUNKING\r\n"), "250 CHUNKING\r\n");
        assert_eq!(masked("250-mx\r\n250 CHUNKINGX\r\n"), "250-mx\r\n250 CHUNKINGX\r\n");
        assert_eq!(masked("250-mx\r\n250-\r\n250\r\n"), "250-mx\r\n250-\r\n250\r\n");
    }

    #[test]
    fn what_a_server_offers() {
        let offers = |text: &str| read(text.as_bytes()).unwrap().unwrap().offers("CHUNKING");
        assert!(offers("250-mx\r\n250-SIZE 1\r\n250 chunking\r\n"));
        assert!(offers("250-mx\r\n250-CHUNKING\r\n250 DSN\r\n"));
        assert!(!offers("250 CHUNKING\r\n"));
        assert!(!offers("250-CHUNKING\r\n250 CHUNKINGX\r\n"));
    }
}
