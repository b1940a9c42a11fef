//! What one side sent and is not handled yet, and the lines cut from it.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use crate::End;

/// One side's bytes on their way in.
pub(super) struct Inbox {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    lines: LineReader,
    /// How the side ended, once it has.
    pub(super) end: Option<End>,
    /// The end has been passed on.
    pub(super) end_relayed: bool,
    /// When it last spoke.
    pub(super) heard: Instant,
    /// Since when a line has been incomplete.
    pub(super) line_since: Option<Instant>,
    /// A repaired line end has been reported already.
    pub(super) repaired: bool,
}

/// A line was cut, or why not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A line with its line end.
    Line(Bytes),
    /// The line has just become longer than the limit; what comes of it is dropped.
    TooLong,
    /// The line that was too long has ended.
    Dropped,
    /// There is no complete line.
    More,
}

impl Inbox {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            lines: LineReader { partial: BytesMut::new(), dropping: false },
            end: None,
            end_relayed: false,
            heard: now,
            line_since: None,
            repaired: false,
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes, now: Instant) {
        self.heard = now;
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.chunks.push_back(bytes);
        }
    }

    /// Bytes that wait here, lines being collected included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.lines.partial.len()
    }

    /// Nothing waits that was not at least looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn first(&self) -> Option<u8> {
        self.chunks.front().and_then(|chunk| chunk.first().copied())
    }

    /// Takes the oldest bytes, at most `limit` of them.
    pub(super) fn take(&mut self, limit: usize) -> Option<Bytes> {
        let front = self.chunks.front_mut()?;
        let taken = if front.len() > limit {
            front.split_to(limit)
        } else {
            self.chunks.pop_front().unwrap_or_default()
        };
        self.bytes -= taken.len();
        Some(taken)
    }

    /// Gives back what of the last take was not for the taker.
    pub(super) fn untake(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.chunks.push_front(bytes);
        }
    }

    /// Cuts the next line of at most `limit` bytes, its end not counted.
    pub(super) fn line(&mut self, limit: usize, now: Instant) -> Step {
        let mut step = Step::More;
        while step == Step::More {
            let Some(front) = self.chunks.front_mut() else { break };
            let before = front.len();
            step = self.lines.push(front, limit);
            self.bytes -= before - front.len();
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        self.line_since = if self.lines.is_within() { self.line_since.or(Some(now)) } else { None };
        step
    }

    /// The beginning of a line whose end will not come.
    pub(super) fn partial(&mut self) -> Bytes {
        self.line_since = None;
        self.lines.partial.split().freeze()
    }

    /// Takes everything that waits, a line's beginning included.
    pub(super) fn take_all(&mut self) -> Vec<Bytes> {
        let partial = self.partial();
        self.bytes = 0;
        let rest = self.chunks.drain(..);
        std::iter::once(partial).chain(rest).filter(|bytes| !bytes.is_empty()).collect()
    }

    /// Forgets everything that waits.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
        self.lines.partial = BytesMut::new();
        self.lines.dropping = false;
        self.line_since = None;
    }
}

/// Collects a line that comes in pieces; one that comes in one piece is not copied.
struct LineReader {
    partial: BytesMut,
    dropping: bool,
}

impl LineReader {
    fn push(&mut self, input: &mut Bytes, limit: usize) -> Step {
        let end = memchr(b'\n', input).map(|at| at + 1);
        let length = end.unwrap_or(input.len());
        if self.dropping {
            input.advance(length);
            self.dropping = end.is_none();
            return if end.is_some() { Step::Dropped } else { Step::More };
        }
        if self.is_over(&input[..length], limit) {
            // The line end stays for the next call, so that any chunking gives the same steps.
            input.advance(end.map_or(length, |end| end - 1));
            self.partial.clear();
            self.dropping = true;
            return Step::TooLong;
        }
        let piece = input.split_to(length);
        if end.is_some() && self.partial.is_empty() {
            return Step::Line(piece);
        }
        self.partial.extend_from_slice(&piece);
        if end.is_some() { Step::Line(self.partial.split().freeze()) } else { Step::More }
    }

    /// The line with `piece` is too long: with LF it may have one more, with CR LF two.
    fn is_over(&self, piece: &[u8], limit: usize) -> bool {
        let length = self.partial.len() + piece.len();
        let ends = match piece {
            [.., b'\r', b'\n'] => 2,
            [b'\n'] if self.partial.last() == Some(&b'\r') => 2,
            [.., b'\n' | b'\r'] => 1,
            _ => 0,
        };
        length - ends > limit
    }

    fn is_within(&self) -> bool {
        self.dropping || !self.partial.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of at most four bytes in `chunks`, as text.
    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let now = testkit::epoch();
        let mut inbox = Inbox::new(now);
        let mut found = Vec::new();
        for chunk in chunks {
            inbox.push(Bytes::copy_from_slice(chunk), now);
            loop {
                match inbox.line(4, now) {
                    Step::Line(line) => found.push(String::from_utf8_lossy(&line).into_owned()),
                    Step::TooLong => found.push("too long".to_owned()),
                    Step::Dropped => found.push("dropped".to_owned()),
                    Step::More => break,
                }
            }
            assert!(inbox.is_empty());
            assert!(inbox.bytes() <= 6, "at most one line and its end is kept");
        }
        found
    }

    #[test]
    fn lines_and_their_limit_do_not_depend_on_chunks() {
        let input = b"ab\r\n\nabcd\r\nabcd\nabcde\nx\r\nabcd\rx\nabcdefgh\r\nend\r\nopen";
        let whole = lines(&[input]);
        assert_eq!(
            whole,
            [
                "ab\r\n", "\n", "abcd\r\n", "abcd\n", "too long", "dropped", "x\r\n", "too long",
                "dropped", "too long", "dropped", "end\r\n"
            ]
        );
        let single: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(lines(&single), whole);
        for at in 0..input.len() {
            assert_eq!(lines(&[&input[..at], &input[at..]]), whole, "split at {at}");
        }
    }

    #[test]
    fn a_partial_line_is_timed_from_its_first_byte() {
        let start = testkit::epoch();
        let later = start + std::time::Duration::from_secs(9);
        let mut inbox = Inbox::new(start);
        inbox.push(Bytes::from_static(b"US"), start);
        assert_eq!(inbox.line(9, start), Step::More);
        inbox.push(Bytes::from_static(b"ER"), later);
        assert_eq!(inbox.line(9, later), Step::More);
        assert_eq!(inbox.line_since, Some(start));
        inbox.push(Bytes::from_static(b"\r\n"), later);
        assert_eq!(inbox.line(9, later), Step::Line(Bytes::from_static(b"USER\r\n")));
        assert_eq!(inbox.line_since, None);
    }
}
