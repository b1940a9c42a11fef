//! A mail server for tests: it reads as RFC 5321 and RFC 3030 say, or more than they allow.

use super::*;

/// A server that reads as RFC 5321 and RFC 3030 say.
#[derive(Default)]
pub(super) struct Server {
    input: Vec<u8>,
    state: Reading,
    has_mail: bool,
    has_recipient: bool,
    /// The chunks so far.
    chunks: Vec<u8>,
    is_dead: bool,
    /// Unstuffed.
    pub(super) messages: Vec<Vec<u8>>,
    /// Which contents and ends it refuses, over and over.
    refusals: Vec<bool>,
    /// It takes what it should not: chunks without a recipient, behind a refused one, and mixed with
    /// DATA.
    is_sloppy: bool,
    asked: usize,
}

#[derive(Default, Clone, Copy)]
enum Reading {
    #[default]
    Command,
    Data,
    /// So many bytes, perhaps the last.
    Chunk(usize, bool),
}

impl Server {
    pub(super) fn new(refusals: Vec<bool>, is_sloppy: bool) -> Self {
        Self { refusals, is_sloppy, ..Self::default() }
    }

    fn refuses(&mut self) -> bool {
        self.asked += 1;
        self.refusals.get(self.asked % self.refusals.len().max(1)).copied().unwrap_or(false)
    }

    /// Takes what has come; its replies.
    pub(super) fn answers(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.input.extend_from_slice(bytes);
        let mut replies = Vec::new();
        while let Some(reply) = self.answer() {
            replies.extend_from_slice(reply);
        }
        replies
    }

    /// `None` if it needs more.
    fn answer(&mut self) -> Option<&'static [u8]> {
        match self.state {
            Reading::Command => {
                let at = memchr::memmem::find(&self.input, b"\r\n")?;
                let line = self.take(at + 2);
                self.command(String::from_utf8_lossy(&line).trim_end())
            }
            Reading::Data => {
                let end = if self.input.starts_with(b".\r\n") {
                    0
                } else {
                    memchr::memmem::find(&self.input, b"\r\n.\r\n")? + 2
                };
                let stuffed = self.take(end);
                self.take(3);
                self.state = Reading::Command;
                let message = stuffed.split_inclusive(|byte| *byte == b'\n');
                let unstuffed = message.map(|line| line.strip_prefix(b".").unwrap_or(line));
                let mut message = mem::take(&mut self.chunks);
                message.extend(unstuffed.collect::<Vec<_>>().concat());
                self.complete(message, false)
            }
            Reading::Chunk(size, is_last) => {
                if self.input.len() < size {
                    return None;
                }
                let chunk = self.take(size);
                self.state = Reading::Command;
                if self.is_dead {
                    return Some(b"503 dead\r\n");
                }
                if !is_last && self.refuses() {
                    self.is_dead = !self.is_sloppy;
                    return Some(b"452 full\r\n");
                }
                self.chunks.extend(chunk);
                if is_last {
                    let message = mem::take(&mut self.chunks);
                    return self.complete(message, true);
                }
                Some(b"250 octets\r\n")
            }
        }
    }

    fn take(&mut self, size: usize) -> Vec<u8> {
        self.input.drain(..size).collect()
    }

    fn complete(&mut self, message: Vec<u8>, is_chunked: bool) -> Option<&'static [u8]> {
        if self.refuses() {
            if self.is_sloppy && is_chunked {
                self.chunks = message;
            } else {
                self.forget();
            }
            return Some(b"554 no\r\n");
        }
        self.forget();
        self.messages.push(message);
        Some(b"250 queued\r\n")
    }

    fn forget(&mut self) {
        self.chunks.clear();
        (self.has_mail, self.has_recipient, self.is_dead) = (false, false, false);
    }

    fn command(&mut self, line: &str) -> Option<&'static [u8]> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["EHLO", _] => {
                self.forget();
                Some(b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
            }
            ["RSET"] | ["HELO", _] => {
                self.forget();
                Some(b"250 ok\r\n")
            }
            ["MAIL", _] if self.has_mail => Some(b"503 nested\r\n"),
            ["MAIL", _] => {
                self.forget();
                self.has_mail = true;
                Some(b"250 ok\r\n")
            }
            ["RCPT", _] => {
                let is_accepted = !self.refuses();
                self.has_recipient |= is_accepted;
                Some(if is_accepted { b"250 ok\r\n" } else { b"550 no\r\n" })
            }
            ["DATA"] if self.has_recipient && self.chunks.is_empty() || self.is_sloppy => {
                self.state = Reading::Data;
                Some(b"354 go\r\n")
            }
            ["DATA"] => Some(b"503 no recipient\r\n"),
            ["BDAT", size] | ["BDAT", size, "LAST"] => {
                let size = size.parse().expect("a size");
                self.is_dead |= !self.has_recipient && !self.is_sloppy;
                self.state = Reading::Chunk(size, words.len() == 3);
                self.answer()
            }
            ["BURL", _, "LAST"] => {
                if self.refuses() {
                    return Some(b"554 no\r\n");
                }
                let chunks = mem::take(&mut self.chunks);
                self.forget();
                // What it has fetched itself, nobody here could know.
                if !chunks.is_empty() {
                    self.messages.push(chunks);
                }
                Some(b"250 queued\r\n")
            }
            ["BURL", _] | ["NOOP"] => Some(b"250 ok\r\n"),
            ["STARTTLS"] => Some(b"454 no\r\n"),
            _ => Some(b"500 what\r\n"),
        }
    }
}
