//! One message on its way from the server: cut from the stream, and what of it has left early.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use crate::dot::{DotFramer, Piece};
use crate::notice::HeaderCapture;

/// Pieces smaller than this are joined, so that a mail of dot lines does not cost an output for each.
const JOINED_PIECE_BYTES_MAX: usize = 4 * 1024;

/// A message that is being received or waits for its verdict. Its bytes are with the driver.
pub(super) struct Message {
    pub(super) stream: DotStream,
    pub(super) fate: Fate,
    /// It is the answer to RETR or TOP, and so a mail.
    pub(super) is_retrieved: bool,
    /// The driver keeps a beginning of the answer: all of it so far, if its fate is [`Fate::Held`].
    pub(super) is_kept: bool,
    /// The beginning of the content, for a notice and for the keep-alive.
    pub(super) headers: HeaderCapture,
    /// Bytes of the answer as the server sent it, for the limit. (Repaired line ends may make what
    /// is kept larger, at worst twice as large.)
    pub(super) received_bytes: u64,
    /// Nothing but line ends came since a lone dot with odd ones: the server may be done.
    pub(super) at_odd_end: bool,
    pub(super) early: Early,
}

/// What is known of a message's end before its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of it is held, and the verdict decides.
    Held,
    /// Its line ends can be read in several ways: whatever the verdict, a notice takes its place.
    Malformed,
    /// It could not be held: it is not scanned any more, and a notice takes its place.
    NoRoom,
}

/// What of a held answer has left ahead of its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Early {
    /// When more is due; `None`: never, or as soon as there is something.
    pub(super) due: Option<Instant>,
    /// More was due when there was nothing to say.
    pub(super) is_overdue: bool,
    /// Length of the status line as it is kept, in bytes.
    status_bytes: usize,
    /// The status line has left.
    pub(super) status_is_out: bool,
    /// Bytes of the message that have left.
    pub(super) out_bytes: usize,
}

/// The next thing to let out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piecemeal {
    /// The status line, of that many bytes.
    Status(usize),
    /// That many bytes of the message.
    Header(usize),
}

impl Early {
    /// Nothing has left.
    pub(super) fn held(status_bytes: usize, due: Option<Instant>) -> Self {
        Self { due, is_overdue: false, status_bytes, status_is_out: false, out_bytes: 0 }
    }

    /// The status line went out as it came.
    pub(super) fn behind_status(due: Option<Instant>) -> Self {
        Self { due, is_overdue: false, status_bytes: 0, status_is_out: true, out_bytes: 0 }
    }
}

impl Message {
    pub(super) fn new(
        is_retrieved: bool,
        status_bytes: usize,
        stream: DotStream,
        early: Early,
    ) -> Self {
        Self {
            is_retrieved,
            stream,
            fate: Fate::Held,
            is_kept: true,
            headers: HeaderCapture::default(),
            received_bytes: status_bytes as u64,
            at_odd_end: false,
            early,
        }
    }

    /// How many more bytes may be held.
    pub(super) fn room(&self, limit: u64) -> usize {
        match self.fate {
            Fate::Held => {
                usize::try_from(limit.saturating_sub(self.received_bytes)).unwrap_or(usize::MAX)
            }
            // They are counted and thrown away.
            Fate::Malformed | Fate::NoRoom => usize::MAX,
        }
    }

    /// What may leave next, if anything may.
    pub(super) fn next_early(&self) -> Option<Piecemeal> {
        if !self.early.status_is_out {
            return Some(Piecemeal::Status(self.early.status_bytes));
        }
        self.headers.next_release(self.early.out_bytes).map(Piecemeal::Header)
    }
}

/// Joins small pieces that follow each other.
#[derive(Default)]
pub(super) struct Joined {
    small: BytesMut,
}

impl Joined {
    /// Gives `bytes` to `out`, now or later; large pieces without a copy.
    pub(super) fn push(&mut self, bytes: Bytes, out: &mut impl FnMut(Bytes)) {
        if bytes.len() < JOINED_PIECE_BYTES_MAX {
            self.small.extend_from_slice(&bytes);
        } else {
            self.flush(out);
            out(bytes);
        }
    }

    /// Gives what is left to `out`.
    pub(super) fn flush(&mut self, out: &mut impl FnMut(Bytes)) {
        if !self.small.is_empty() {
            out(self.small.split().freeze());
        }
    }
}

/// The framing of one multi-line answer, with the line ends of a server that sends bare LFs
/// repaired before anything is made of them.
pub(super) struct DotStream {
    framer: DotFramer,
    line_ends: LineEnds,
    /// Repaired, and not yet taken by the framer.
    pending: Bytes,
}

/// What the status line of the answer ended with; the answer is taken to be of the same kind.
enum LineEnds {
    CrLf,
    /// Every LF is a line end, as every client of such a server must read it.
    Lf {
        after_cr: bool,
    },
}

impl DotStream {
    pub(super) fn new(lf_only: bool) -> Self {
        let line_ends = if lf_only { LineEnds::Lf { after_cr: false } } else { LineEnds::CrLf };
        Self { framer: DotFramer::new(), line_ends, pending: Bytes::new() }
    }

    /// As [`DotFramer::advance`].
    pub(super) fn advance(&mut self, input: &mut Bytes) -> Option<Piece> {
        let LineEnds::Lf { after_cr } = &mut self.line_ends else {
            return self.framer.advance(input);
        };
        loop {
            if let Some(piece) = self.framer.advance(&mut self.pending) {
                return Some(piece);
            }
            if input.is_empty() || self.framer.is_done() {
                return None;
            }
            // Line by line: behind the last one stands the next answer, which is not ours.
            self.pending = match memchr(b'\n', input) {
                Some(0) if !*after_cr => {
                    input.advance(1);
                    Bytes::from_static(b"\r\n")
                }
                Some(at) if at > 0 && input[at - 1] != b'\r' => input.split_to(at),
                Some(at) => input.split_to(at + 1),
                None => input.split_to(input.len()),
            };
            *after_cr = self.pending.last() == Some(&b'\r');
        }
    }
}
