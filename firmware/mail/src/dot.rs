//! Strict framing of dot-stuffed messages: SMTP DATA (RFC 5321 section 4.5.2) and the multi-line
//! answers of POP3 (RFC 1939 section 3).
//!
//! Only CRLF.CRLF ends a message (`.CRLF` when the message is empty). [`DotFramer`] cuts what came
//! off the wire into [`Piece`]s: bytes to forward as they are, the same bytes unstuffed for a
//! scanner, the end marker, and a report of every lone dot whose line ends are not exact CRLFs,
//! which some peers take for the end (SMTP smuggling).
//!
//! What a lenient peer would need to see the end is never handed out before it is reported: the
//! framer holds back at most [`HELD_BYTES_MAX`] bytes, including the CR that begins the marker.
//! It copies nothing. Must not depend on anything else of this crate.

use bytes::{Buf, Bytes};
use memchr::memchr;

/// Most bytes that are taken in but not handed out: the marker without its last byte.
pub const HELD_BYTES_MAX: usize = MARKER.len() - 1;

/// What ends a message. Its first CRLF also ends the last line.
const MARKER: &[u8] = b"\r\n.\r\n";
/// A line that begins with a stuffed dot, with the line end before it.
const STUFFED: &[u8] = b"\r\n..";
/// Where the dot stands in [`MARKER`]; the marker of an empty message starts here.
const DOT_AT: usize = 2;

/// What [`DotFramer::advance`] found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the message.
    Data {
        /// To forward, as they came.
        wire: Bytes,
        /// The same without stuffing; empty when the wire bytes are nothing but a stuffed dot.
        content: Bytes,
    },
    /// A lone dot between line ends that are not both exact CRLFs, or with NULs or blanks beside
    /// it. Reported before the byte that would complete it for a lenient peer is handed out. The
    /// framer can be used on: it goes on by the strict reading.
    Trick,
    /// The message is over. What follows in the input is not part of it.
    End {
        /// The end marker, not handed out so far.
        marker: Bytes,
        /// The part of the marker that is the last line's end; content, too.
        content: Bytes,
    },
}

/// Cuts one dot-stuffed message out of a stream, in any chunking.
#[derive(Debug, Clone)]
pub struct DotFramer {
    state: State,
}

/// What is known of the bytes before the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No line end directly before.
    Inside,
    /// CR or LF but not CRLF, or any of them and NULs: a line start for some peers.
    LooseStart,
    /// A line start of either kind, a dot, perhaps NULs and blanks: all handed out.
    LooseDot,
    /// As `LooseDot`, and a bare CR that is held: about to be reported.
    LooseDotCr,
    /// `MARKER[from..to]` is held. `from` is not 0 only at the start of the message.
    Held { from: usize, to: usize },
    /// The marker has been seen.
    Done,
}

/// Where a stretch without line-start dots leaves the stream.
enum Context {
    Inside,
    Loose,
    Cr,
    CrLf,
}

impl Default for DotFramer {
    fn default() -> Self {
        Self::new()
    }
}

impl DotFramer {
    /// At the start of a message, right behind the line end of the command or reply before it.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Held { from: DOT_AT, to: DOT_AT } }
    }

    /// Takes bytes from the front of `input` and says what they are. `None` when it needs more
    /// input, and always after [`Piece::End`].
    pub fn advance(&mut self, input: &mut Bytes) -> Option<Piece> {
        loop {
            // These two need no further byte.
            match self.state {
                State::Done => return None,
                State::LooseDotCr => {
                    self.state = State::Held { from: 0, to: 1 };
                    return Some(Piece::Trick);
                }
                _ => {}
            }
            let byte = *input.first()?;
            let piece = match self.state {
                State::Inside => self.bulk(input, false),
                State::LooseStart => self.bulk(input, true),
                State::LooseDot => self.after_loose_dot(input, byte),
                State::Held { from, to } => self.after_held(input, byte, from, to),
                State::LooseDotCr | State::Done => None,
            };
            if piece.is_some() {
                return piece;
            }
        }
    }

    /// What has been taken in and not handed out: a beginning of the end marker.
    #[must_use]
    pub fn held(&self) -> &'static [u8] {
        match self.state {
            State::Held { from, to } => &MARKER[from..to],
            State::LooseDotCr => &MARKER[..1],
            State::Inside | State::LooseStart | State::LooseDot | State::Done => &[],
        }
    }

    /// The end marker has been seen.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The marker matches up to `to`; `byte` is the next one.
    fn after_held(&mut self, input: &mut Bytes, byte: u8, from: usize, to: usize) -> Option<Piece> {
        if MARKER[to] == byte {
            input.advance(1);
            if to + 1 < MARKER.len() {
                self.state = State::Held { from, to: to + 1 };
                return None;
            }
            self.state = State::Done;
            return Some(Piece::End {
                marker: Bytes::from_static(&MARKER[from..]),
                content: Bytes::from_static(&MARKER[from..DOT_AT]),
            });
        }
        let wire = Bytes::from_static(&MARKER[from..to]);
        let (state, wire, content) = match to {
            1 => (State::LooseStart, wire.clone(), wire),
            DOT_AT if byte == 0 => (State::LooseStart, wire.clone(), wire),
            DOT_AT => (State::Inside, wire.clone(), wire),
            // RFC 5321 section 4.5.2: the first dot of a line is not content.
            3 if byte == b'.' => {
                input.advance(1);
                let content = wire;
                (State::Inside, Bytes::from_static(&STUFFED[from..]), content)
            }
            3 => (State::LooseDot, wire.clone(), wire.slice(..DOT_AT - from)),
            _ => {
                let wire = wire.slice(..DOT_AT + 1 - from);
                (State::LooseDotCr, wire.clone(), wire.slice(..DOT_AT - from))
            }
        };
        self.state = state;
        // Empty only at the start of a message that does not start with a dot.
        (!wire.is_empty()).then_some(Piece::Data { wire, content })
    }

    /// A dot at what some take for a line start; `byte` decides whether it stands alone.
    fn after_loose_dot(&mut self, input: &mut Bytes, byte: u8) -> Option<Piece> {
        if byte == b'\r' || byte == b'\n' {
            self.state = State::Inside;
            return Some(Piece::Trick);
        }
        let fill = input.iter().take_while(|byte| ignored_behind_dot(**byte)).count();
        if fill == 0 {
            self.state = State::Inside;
            return None;
        }
        let wire = input.split_to(fill);
        Some(Piece::Data { content: wire.clone(), wire })
    }

    /// The common case: everything up to the next dot that may begin a line, at once. Searching the
    /// dot rather than the line ends makes base64 one single pass of `memchr`.
    fn bulk(&mut self, input: &mut Bytes, mut loose: bool) -> Option<Piece> {
        let mut base = 0;
        let (handed_out, taken) = loop {
            let dot = memchr(b'.', &input[base..]).map(|at| base + at);
            let stop = dot.unwrap_or(input.len());
            match (context(&input[base..stop], loose), dot) {
                (Context::Inside, Some(at)) => {
                    base = at + 1;
                    loose = false;
                }
                (Context::Inside, None) => {
                    self.state = State::Inside;
                    break (stop, stop);
                }
                (Context::Loose | Context::Cr, Some(at)) => {
                    self.state = State::LooseDot;
                    break (at + 1, at + 1);
                }
                (Context::Loose, None) => {
                    self.state = State::LooseStart;
                    break (stop, stop);
                }
                (Context::Cr, None) => {
                    self.state = State::Held { from: 0, to: 1 };
                    break (stop - 1, stop);
                }
                (Context::CrLf, _) => {
                    self.state = State::Held { from: 0, to: DOT_AT };
                    break (stop - DOT_AT, stop);
                }
            }
        };
        let wire = input.split_to(handed_out);
        input.advance(taken - handed_out);
        (!wire.is_empty()).then(|| Piece::Data { content: wire.clone(), wire })
    }
}

/// How `bytes` end; `loose` says what stands before them.
fn context(bytes: &[u8], loose: bool) -> Context {
    match bytes {
        [.., b'\r', b'\n'] => return Context::CrLf,
        [.., b'\r'] => return Context::Cr,
        _ => {}
    }
    match bytes.iter().rev().find(|byte| **byte != 0) {
        Some(b'\r' | b'\n') => Context::Loose,
        None if loose => Context::Loose,
        Some(_) | None => Context::Inside,
    }
}

/// Bytes that some peers drop or strip between a dot and its line end. A dot-stuffing sender never
/// lets them follow a single dot at a line start, so that refusing them costs no honest mail.
fn ignored_behind_dot(byte: u8) -> bool {
    matches!(byte, 0 | b' ' | b'\t' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Framed {
        wire: Vec<u8>,
        content: Vec<u8>,
        /// Length of `wire` when each was reported.
        tricks: Vec<usize>,
        /// The marker, and how many bytes were left behind it.
        end: Option<(Vec<u8>, usize)>,
    }

    fn frame(chunks: &[&[u8]]) -> Framed {
        let mut framer = DotFramer::new();
        let mut framed = Framed::default();
        for chunk in chunks {
            let mut input = Bytes::copy_from_slice(chunk);
            while let Some(piece) = framer.advance(&mut input) {
                match piece {
                    Piece::Data { wire, content } => {
                        assert!(!wire.is_empty(), "no empty pieces");
                        framed.wire.extend_from_slice(&wire);
                        framed.content.extend_from_slice(&content);
                    }
                    Piece::Trick => framed.tricks.push(framed.wire.len()),
                    Piece::End { marker, content } => {
                        framed.content.extend_from_slice(&content);
                        framed.end = Some((marker.to_vec(), 0));
                    }
                }
            }
            assert!(framer.held().len() <= HELD_BYTES_MAX);
            match &mut framed.end {
                Some((_, left)) => *left += input.len(),
                None => assert!(input.is_empty(), "all input is taken"),
            }
        }
        assert_eq!(framer.is_done(), framed.end.is_some());
        framed
    }

    /// The same by searching in the whole message, without states.
    fn reference(message: &[u8]) -> Framed {
        let is_end = |byte: u8| byte == b'\r' || byte == b'\n';
        let strict = if message.starts_with(b".\r\n") {
            Some((0, 3))
        } else {
            message.windows(5).position(|window| window == MARKER).map(|at| (at, at + 5))
        };
        let stop = strict.map_or(message.len(), |(at, _)| at);
        let mut framed = Framed::default();
        for at in (0..stop).filter(|at| message[*at] == b'.') {
            let before = message[..at].iter().rposition(|byte| *byte != 0);
            let after = message[at + 1..].iter().find(|byte| !ignored_behind_dot(**byte));
            let starts = before.is_none_or(|before| is_end(message[before]));
            // An unfinished marker at the end of the input is not judged yet.
            let undecided =
                &message[at..] == b".\r" && (at == 0 || message[..at].ends_with(b"\r\n"));
            if starts && after.is_some_and(|byte| is_end(*byte)) && !undecided {
                framed.tricks.push(at);
            }
        }
        let mut content = &message[..strict.map_or(stop, |(at, end)| (at + 2).min(end))];
        if strict == Some((0, 3)) {
            content = b"";
        }
        let mut line_start = true;
        for (at, byte) in content.iter().enumerate() {
            if !(line_start && *byte == b'.') {
                framed.content.push(*byte);
            }
            line_start = content[..=at].ends_with(b"\r\n");
        }
        framed.wire = message[..stop].to_vec();
        framed.end = strict.map(|(at, end)| (message[at..end].to_vec(), message.len() - end));
        framed
    }

    fn check_all_splits(message: &[u8]) -> Framed {
        let whole = frame(&[message]);
        let single: Vec<&[u8]> = message.chunks(1).collect();
        assert_eq!(frame(&single), whole, "byte by byte: {}", message.escape_ascii());
        for at in 0..=message.len() {
            let (head, tail) = message.split_at(at);
            assert_eq!(frame(&[head, tail]), whole, "cut at {at}: {}", message.escape_ascii());
        }
        whole
    }

    #[test]
    fn only_crlf_dot_crlf_ends() {
        let framed = check_all_splits(b"Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n");
        assert_eq!(framed.wire, b"Subject: x\r\n\r\nhello");
        assert_eq!(framed.content, b"Subject: x\r\n\r\nhello\r\n");
        assert_eq!(framed.end, Some((b"\r\n.\r\n".to_vec(), 6)));
        assert!(framed.tricks.is_empty());
    }

    #[test]
    fn an_empty_message_ends_at_its_start() {
        let framed = check_all_splits(b".\r\nQUIT\r\n");
        assert_eq!(framed.end, Some((b".\r\n".to_vec(), 6)));
        assert!(framed.wire.is_empty() && framed.content.is_empty());
    }

    #[test]
    fn dots_are_unstuffed_for_the_scanner_only() {
        let framed = check_all_splits(b"..\r\n...\r\n..a\r\n.b\r\nc..\r\n.\r\n");
        assert_eq!(framed.wire, b"..\r\n...\r\n..a\r\n.b\r\nc..");
        assert_eq!(framed.content, b".\r\n..\r\n.a\r\nb\r\nc..\r\n");
        assert!(framed.tricks.is_empty());
    }

    #[test]
    fn every_odd_end_of_data_is_reported_before_it_is_complete() {
        let forms: &[&[u8]] = &[
            b"\n.\n",
            b"\n.\r\n",
            b"\r.\r",
            b"\r.\r\n",
            b"\r.\n",
            b"\n.\r",
            b"\r\n.\n",
            b"\r\n.\rX",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
            b"\r\0\n.\r\n",
            b"\r\n.\r\0\n",
            b"\r\r\n.\r\r\n",
            b"\r\n.\r\r\n",
            b"\r\n. \r\n",
            b"\n\r.\n\r",
            b"\r\n.\x0b\r\n",
            b"\r\n.\t \0\n",
            b"\n\0\0.\0\n",
        ];
        for form in forms {
            let mut message = b"Subject: first\r\n\r\nfirst body".to_vec();
            message.extend_from_slice(form);
            message.extend_from_slice(b"MAIL FROM:<smuggled@a.example>\r\n.\r\n");
            let framed = check_all_splits(&message);
            assert_eq!(framed.tricks.len(), 1, "{}", form.escape_ascii());
            // What was handed out until then shows no line end behind the dot.
            let out = &framed.wire[..framed.tricks[0]];
            let dot = out.iter().rposition(|byte| *byte == b'.').unwrap_or(out.len());
            assert!(!out[dot..].iter().any(|byte| b"\r\n".contains(byte)));
            assert!(framed.end.is_some(), "the strict reading goes on");
        }
    }

    #[test]
    fn tricks_at_the_very_start() {
        for message in [&b".\n"[..], b".\rx", b"\0.\r\n", b". \r\n", b".\r\r\n"] {
            assert_eq!(check_all_splits(message).tricks.len(), 1, "{}", message.escape_ascii());
        }
    }

    #[test]
    fn dots_that_are_no_trick_pass() {
        for message in [
            &b"a\0\r\n.\r\n"[..],
            b"a\r\n..\r\nb\r\n.\r\n",
            b"a\n..\nb\r\n.\r\n",
            b"a\r\n .\r\nb\r\n.\r\n",
            b"bare\nlf bare\rcr nul\0 v1.\nend.\r\n.\r\n",
        ] {
            let framed = check_all_splits(message);
            assert!(framed.tricks.is_empty(), "{}", message.escape_ascii());
            assert!(framed.end.is_some());
        }
    }

    #[test]
    fn bulk_is_handed_out_without_copying() {
        let message = Bytes::from(vec![b'A'; 64 * 1024]);
        let mut framer = DotFramer::new();
        let mut input = message.clone();
        let Some(Piece::Data { wire, content }) = framer.advance(&mut input) else {
            panic!("data expected");
        };
        assert_eq!((wire.as_ptr(), wire.len()), (message.as_ptr(), message.len()));
        assert_eq!(content.as_ptr(), message.as_ptr());
    }

    proptest! {
        #[test]
        fn agrees_with_the_search_in_any_chunking(
            message in prop::collection::vec(
                prop::sample::select(b"\r\n\r\n\r\n..\0 a\t\x0b".to_vec()), 0..40),
            cuts in prop::collection::vec(0usize..40, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (message.len() + 1)).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([message.len()]) {
                chunks.push(&message[from..cut]);
                from = cut;
            }
            let framed = frame(&chunks);
            prop_assert_eq!(&framed, &frame(&[&message]));
            let expected = reference(&message);
            prop_assert_eq!(framed.tricks.len(), expected.tricks.len());
            prop_assert_eq!(&framed.end, &expected.end);
            if framed.end.is_some() {
                prop_assert_eq!(&framed.wire, &expected.wire);
                prop_assert_eq!(&framed.content, &expected.content);
            } else {
                prop_assert!(expected.wire.starts_with(&framed.wire));
            }
        }
    }
}
