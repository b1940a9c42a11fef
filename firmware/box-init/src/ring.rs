//! The last lines of each service, in memory.

use std::collections::VecDeque;
use std::time::Duration;

use crate::control::LogLine;

/// Bytes that are kept of one service, its lines' texts alone.
pub const RING_BYTES_MAX: usize = 128 * 1024;

/// Lines that are kept of one service, so that empty ones end too.
pub const RING_LINES_MAX: usize = 2000;

/// Longest line, in bytes; a longer one goes on in the next.
pub const LINE_BYTES_MAX: usize = 1024;

/// A service's lines, oldest first.
#[derive(Debug, Default)]
pub struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
}

impl Ring {
    /// Takes in what a service wrote; the lines that are whole now.
    pub fn write(&mut self, bytes: &[u8], uptime: Duration) -> Vec<String> {
        let mut whole = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.partial.push(byte);
            }
            if byte == b'\n' || self.partial.len() >= LINE_BYTES_MAX {
                whole.extend(self.end_line(uptime));
            }
        }
        whole
    }

    /// The service has ended: what has no end yet is a line; the line, if so.
    pub fn flush(&mut self, uptime: Duration) -> Option<String> {
        if self.partial.is_empty() { None } else { self.end_line(uptime) }
    }

    /// The last lines, oldest first.
    pub fn last(&self, lines: usize) -> impl Iterator<Item = &LogLine> {
        self.lines.iter().skip(self.lines.len().saturating_sub(lines))
    }

    fn end_line(&mut self, uptime: Duration) -> Option<String> {
        let text = escaped(String::from_utf8_lossy(&self.partial).trim_end_matches('\r'));
        self.partial.clear();
        let at_ms = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        self.bytes += text.len();
        self.lines.push_back(LogLine { at_ms, text: text.clone() });
        while self.bytes > RING_BYTES_MAX || self.lines.len() > RING_LINES_MAX {
            let gone = self.lines.pop_front()?;
            self.bytes -= gone.text.len();
        }
        Some(text)
    }
}

/// The text without characters that a terminal would obey.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// The same for a text of several lines.
#[must_use]
pub fn escaped_lines(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_whole_and_harmless() {
        let mut ring = Ring::default();
        assert!(ring.write(b"one", Duration::ZERO).is_empty());
        assert_eq!(
            ring.write(b" line\r\n\x1b[2Jtwo\n", Duration::from_millis(7)),
            ["one line", "\\u{1b}[2Jtwo"]
        );
        ring.write(b"rest", Duration::ZERO);
        assert_eq!(ring.flush(Duration::ZERO).as_deref(), Some("rest"));
        assert_eq!(ring.flush(Duration::ZERO), None);
        let last: Vec<&str> = ring.last(2).map(|line| line.text.as_str()).collect();
        assert_eq!(last, ["\\u{1b}[2Jtwo", "rest"]);
        assert_eq!(ring.last(9).count(), 3);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines_within_the_limits(
            bytes in proptest::collection::vec(proptest::sample::select(&b"ab\n\xff\x1b"[..]), 0..5000),
            size in 1_usize..100,
        ) {
            let (mut whole, mut chunked) = (Ring::default(), Ring::default());
            whole.write(&bytes, Duration::ZERO);
            for chunk in bytes.chunks(size) {
                chunked.write(chunk, Duration::ZERO);
            }
            prop_assert_eq!(&whole.lines, &chunked.lines);
        }

        #[test]
        fn old_lines_go(lines in 0_usize..300, width in 0_usize..1500) {
            let mut ring = Ring::default();
            let line = [vec![b'x'; width], vec![b'\n']].concat();
            for _ in 0..lines {
                ring.write(&line, Duration::ZERO);
            }
            prop_assert!(ring.bytes <= RING_BYTES_MAX);
            let bytes: usize = ring.lines.iter().map(|line| line.text.len()).sum();
            prop_assert_eq!(bytes, ring.bytes);
        }
    }

    #[test]
    fn empty_lines_go_too() {
        let mut ring = Ring::default();
        ring.write(&vec![b'\n'; RING_LINES_MAX + 5], Duration::ZERO);
        assert_eq!(ring.last(usize::MAX).count(), RING_LINES_MAX);
    }
}
