//! Cuts a stream of bytes into lines, the same way however the stream was chunked.

use memchr::memchr2;

/// Longest piece of a line that is handed on at once, bytes. Longer lines come in several pieces, cut at
/// multiples of this from their start.
pub(crate) const PIECE_BYTES_MAX: usize = 8192;

/// A line or a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// The bytes, without the end of the line.
    pub(crate) text: &'a [u8],
    /// Whether the line starts here.
    pub(crate) first: bool,
    /// `\r\n`, `\n` or `\r`; empty where the line goes on, or the stream ends.
    pub(crate) end: &'a [u8],
    /// Whether the line is complete with this piece.
    pub(crate) last: bool,
    /// Where `text` starts in the stream, bytes.
    pub(crate) at: u64,
}

impl Piece<'_> {
    /// Where what follows it starts in the stream, bytes.
    pub(crate) fn next_at(&self) -> u64 {
        self.at.saturating_add(length(self.text)).saturating_add(length(self.end))
    }
}

/// The cutter. It holds at most one piece.
#[derive(Debug)]
pub(crate) struct Lines {
    held: Vec<u8>,
    first: bool,
    /// The held text ended in CR, which may be half of CRLF.
    carriage_return: bool,
    /// Where the next piece starts in the stream, bytes.
    at: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { held: Vec::new(), first: true, carriage_return: false, at: 0 }
    }
}

impl Lines {
    /// Hands every piece that is complete with `bytes` to `take`.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(Piece<'_>)) {
        while let Some(&next) = bytes.first() {
            if self.carriage_return {
                let end: &[u8] = if next == b'\n' { b"\r\n" } else { b"\r" };
                self.end_line(end, &mut take);
                if next == b'\n' {
                    bytes = bytes.get(1..).unwrap_or_default();
                }
                continue;
            }
            let room = PIECE_BYTES_MAX - self.held.len();
            let window = bytes.get(..room).unwrap_or(bytes);
            let Some(at) = memchr2(b'\n', b'\r', window) else {
                bytes = bytes.get(window.len()..).unwrap_or_default();
                if window.len() == room {
                    self.whole_piece(window, &mut take);
                } else {
                    self.held.extend_from_slice(window);
                }
                continue;
            };
            let (text, rest) = window.split_at(at);
            // The usual case, a whole line in one chunk, is not copied.
            let end: &[u8] = match rest {
                [b'\n', ..] => b"\n",
                [b'\r', b'\n', ..] => b"\r\n",
                _ => b"",
            };
            if end.is_empty() {
                self.held.extend_from_slice(text);
                self.carriage_return = true;
                bytes = bytes.get(at + 1..).unwrap_or_default();
            } else {
                if self.held.is_empty() {
                    let piece = Piece { text, first: self.first, end, last: true, at: self.at };
                    self.at = piece.next_at();
                    take(piece);
                    self.first = true;
                } else {
                    self.held.extend_from_slice(text);
                    self.end_line(end, &mut take);
                }
                bytes = bytes.get(at + end.len()..).unwrap_or_default();
            }
        }
    }

    /// The stream has ended.
    pub(crate) fn finish(&mut self, mut take: impl FnMut(Piece<'_>)) {
        if self.carriage_return {
            self.end_line(b"\r", &mut take);
        } else if !self.held.is_empty() || !self.first {
            self.end_line(b"", &mut take);
        }
    }

    fn whole_piece(&mut self, window: &[u8], take: &mut impl FnMut(Piece<'_>)) {
        self.held.extend_from_slice(window);
        let (text, first) = (self.held.as_slice(), self.first);
        let piece = Piece { text, first, end: b"", last: false, at: self.at };
        self.at = piece.next_at();
        take(piece);
        self.first = false;
        self.held.clear();
    }

    fn end_line(&mut self, end: &[u8], take: &mut impl FnMut(Piece<'_>)) {
        let piece = Piece { text: &self.held, first: self.first, end, last: true, at: self.at };
        self.at = piece.next_at();
        take(piece);
        self.held.clear();
        self.first = true;
        self.carriage_return = false;
    }
}

fn length(bytes: &[u8]) -> u64 {
    bytes.len().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (Vec<u8>, bool, Vec<u8>, bool);

    fn cut(chunks: &[&[u8]]) -> Vec<Owned> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        let mut at = 0;
        let mut take = |p: Piece<'_>| {
            assert_eq!(std::mem::replace(&mut at, p.next_at()), p.at);
            out.push((p.text.to_vec(), p.first, p.end.to_vec(), p.last));
        };
        for chunk in chunks {
            lines.feed(chunk, &mut take);
            assert!(lines.held.len() <= PIECE_BYTES_MAX);
        }
        lines.finish(&mut take);
        out
    }

    #[test]
    fn every_kind_of_end() {
        let ends: Vec<Vec<u8>> =
            cut(&[b"a\r", b"\nb\nc\rd\n\r\r\n"]).into_iter().map(|l| l.2).collect();
        assert_eq!(ends, [&b"\r\n"[..], b"\n", b"\r", b"\n", b"\r", b"\r\n"]);
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let line = vec![b'x'; 2 * PIECE_BYTES_MAX + 1];
        let pieces = cut(&[&line]);
        assert_eq!(pieces.iter().map(|p| p.1).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(pieces.iter().map(|p| p.3).collect::<Vec<_>>(), [false, false, true]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_pieces(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..300),
            stretch in 0_usize..3,
            sizes in proptest::collection::vec(1_usize..40, 1..20),
        ) {
            let mut stream = bytes.clone();
            stream.splice(0..0, vec![b'y'; stretch * (PIECE_BYTES_MAX - 20)]);
            let whole = cut(&[&stream]);
            let mut chunks = Vec::new();
            let (mut rest, mut at) = (stream.as_slice(), 0);
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(sizes[at % sizes.len()].min(rest.len()));
                chunks.push(head);
                rest = tail;
                at += 1;
            }
            let parts = cut(&chunks);
            let joined: Vec<u8> =
                parts.iter().flat_map(|p| p.0.iter().chain(&p.2).copied()).collect();
            prop_assert_eq!(joined, stream);
            prop_assert_eq!(parts, whole);
        }
    }
}
