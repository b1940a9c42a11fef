//! What a peer has sent and nobody has looked at yet.

use std::collections::VecDeque;
use std::fmt;
use std::mem;

use bytes::{Bytes, BytesMut};
use memchr::memchr;

/// Chunks as they came, and the beginning of a line that is not complete.
///
/// Its `Debug` shows sizes only: there may be passwords in it.
#[derive(Default)]
pub(super) struct Inbox {
    chunks: VecDeque<Bytes>,
    chunk_bytes: usize,
    partial: BytesMut,
}

/// What [`Inbox::take_line`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// With its LF.
    Complete(Bytes),
    /// More than the limit, with or without its LF.
    TooLong,
    /// No LF yet.
    Incomplete,
}

impl Inbox {
    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.chunk_bytes += bytes.len();
            self.chunks.push_back(bytes);
        }
    }

    /// All that is kept.
    pub(super) fn bytes(&self) -> usize {
        self.chunk_bytes + self.partial.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// The oldest byte.
    pub(super) fn first(&self) -> Option<u8> {
        let first = self.partial.first().or_else(|| self.chunks.front()?.first());
        first.copied()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next line. Only one that came in several chunks is copied.
    pub(super) fn take_line(&mut self, bytes_max: usize) -> Line {
        while let Some(mut chunk) = self.chunks.pop_front() {
            self.chunk_bytes -= chunk.len();
            let room = bytes_max.saturating_sub(self.partial.len());
            match memchr(b'\n', &chunk) {
                Some(at) if at < room => {
                    let tail = chunk.split_to(at + 1);
                    self.push_front(chunk);
                    if self.partial.is_empty() {
                        return Line::Complete(tail);
                    }
                    self.partial.extend_from_slice(&tail);
                    return Line::Complete(mem::take(&mut self.partial).freeze());
                }
                None if chunk.len() <= room => self.partial.extend_from_slice(&chunk),
                _ => {
                    self.push_front(chunk);
                    return Line::TooLong;
                }
            }
        }
        Line::Incomplete
    }

    /// The next bytes for a reader that does not care for lines, without copying. What it leaves
    /// goes back with [`Self::push_front`].
    pub(super) fn take_chunk(&mut self) -> Option<Bytes> {
        if !self.partial.is_empty() {
            return Some(mem::take(&mut self.partial).freeze());
        }
        let chunk = self.chunks.pop_front()?;
        self.chunk_bytes -= chunk.len();
        Some(chunk)
    }

    /// The next bytes, no more than that.
    pub(super) fn take_up_to(&mut self, bytes_max: u64) -> Option<Bytes> {
        let mut chunk = self.take_chunk()?;
        let rest =
            chunk.split_off(usize::try_from(bytes_max).unwrap_or(usize::MAX).min(chunk.len()));
        self.push_front(rest);
        Some(chunk)
    }

    pub(super) fn push_front(&mut self, rest: Bytes) {
        if !rest.is_empty() {
            self.chunk_bytes += rest.len();
            self.chunks.push_front(rest);
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &'static str) -> Line {
        Line::Complete(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn lines_come_whole_in_any_chunking() {
        let text = "EHLO x\r\n\r\nMAIL\nrest";
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            let mut inbox = Inbox::default();
            inbox.push(Bytes::from_static(head.as_bytes()));
            let mut lines = Vec::new();
            loop {
                match inbox.take_line(100) {
                    Line::Complete(line) => lines.push(line),
                    Line::Incomplete if inbox.bytes() + lines.concat().len() < text.len() => {
                        inbox.push(Bytes::from_static(tail.as_bytes()));
                    }
                    Line::Incomplete => break,
                    Line::TooLong => panic!("too long"),
                }
            }
            assert_eq!(lines, ["EHLO x\r\n", "\r\n", "MAIL\n"]);
            assert_eq!(inbox.take_chunk(), Some(Bytes::from_static(b"rest")));
            assert!(inbox.is_empty());
        }
    }

    #[test]
    fn the_limit_counts_the_line_end() {
        let mut inbox = Inbox::default();
        inbox.push(Bytes::from_static(b"12345\n123456\n"));
        assert_eq!(inbox.take_line(6), line("12345\n"));
        assert_eq!(inbox.take_line(6), Line::TooLong);

        let mut inbox = Inbox::default();
        inbox.push(Bytes::from_static(b"123"));
        assert_eq!(inbox.take_line(6), Line::Incomplete);
        inbox.push(Bytes::from_static(b"45\n"));
        assert_eq!(inbox.take_line(6), line("12345\n"));
        inbox.push(Bytes::from_static(b"123"));
        assert_eq!(inbox.take_line(6), Line::Incomplete);
        inbox.push(Bytes::from_static(b"4567"));
        assert_eq!(inbox.take_line(6), Line::TooLong);
    }

    #[test]
    fn no_more_is_taken_than_asked_for() {
        let mut inbox = Inbox::default();
        inbox.push(Bytes::from_static(b"12345"));
        inbox.push(Bytes::from_static(b"678"));
        assert_eq!(inbox.take_up_to(3), Some(Bytes::from_static(b"123")));
        assert_eq!(inbox.take_up_to(3), Some(Bytes::from_static(b"45")));
        assert_eq!(inbox.bytes(), 3);
        assert_eq!(inbox.take_up_to(u64::MAX), Some(Bytes::from_static(b"678")));
        assert_eq!(inbox.take_up_to(1), None);
    }

    #[test]
    fn debug_shows_no_bytes() {
        let mut inbox = Inbox::default();
        inbox.push(Bytes::from_static(b"c2VjcmV0"));
        assert_eq!(format!("{inbox:?}"), "Inbox { bytes: 8, .. }");
    }
}
