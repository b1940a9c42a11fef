//! One message on its way from the server: cut from the stream, held until the verdict.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use crate::dot::{DotFramer, Piece};
use crate::notice::HeaderCapture;

/// Pieces smaller than this are copied together, so that a server which sends single bytes does
/// not cost a buffer for each.
const COALESCE_BYTES: usize = 4 * 1024;

/// Size of the buffers that small pieces are copied into, in bytes.
const COALESCED_BYTES: usize = 64 * 1024;

/// A message that is being received or waits for its verdict.
///
/// A keep-alive for clients during a long hold (some header lines ahead of the rest) has its place
/// here and in the session's timer: it would send a prefix of `hold` early and remember how much,
/// and a notice would then begin behind that prefix.
pub(super) struct Message {
    pub(super) stream: DotStream,
    /// The answer as it came, from the status line on. `None` once it is sure to be replaced.
    hold: Option<Hold>,
    /// The beginning of the content, for a notice.
    pub(super) headers: HeaderCapture,
    /// Bytes of the answer as the server sent it, for the limit. (Repaired line ends may make the
    /// hold larger, at worst twice as large.)
    pub(super) received_bytes: usize,
    /// Nothing but line ends came since a lone dot with odd ones: the server may be done.
    pub(super) at_odd_end: bool,
}

impl Message {
    /// Behind a status line of that many bytes, which is still to be held.
    pub(super) fn new(status_bytes: usize, stream: DotStream) -> Self {
        Self {
            stream,
            hold: Some(Hold::default()),
            headers: HeaderCapture::default(),
            received_bytes: status_bytes,
            at_odd_end: false,
        }
    }

    /// Keeps bytes for the release.
    pub(super) fn hold(&mut self, wire: Bytes) {
        if let Some(hold) = &mut self.hold {
            hold.push(wire);
        }
    }

    /// The message will be replaced whatever the verdict.
    pub(super) fn drop_hold(&mut self) {
        self.hold = None;
    }

    #[cfg(test)]
    pub(super) fn held_chunks(&self) -> usize {
        self.hold.as_ref().map_or(0, |hold| hold.chunks.len())
    }

    /// The framing, and what is held.
    pub(super) fn into_parts(self) -> (DotStream, Vec<Bytes>) {
        (self.stream, self.hold.map(Hold::into_chunks).unwrap_or_default())
    }

    /// Its line ends can be read in several ways, so that it must not be passed on.
    pub(super) fn is_malformed(&self) -> bool {
        self.hold.is_none()
    }

    /// How many more bytes may be held.
    pub(super) fn room(&self, limit: usize) -> usize {
        if self.is_malformed() { usize::MAX } else { limit.saturating_sub(self.received_bytes) }
    }
}

/// Bytes in the order in which they came.
#[derive(Default)]
struct Hold {
    chunks: Vec<Bytes>,
    tail: BytesMut,
}

impl Hold {
    fn push(&mut self, bytes: Bytes) {
        if bytes.len() >= COALESCE_BYTES {
            self.flush();
            self.chunks.push(bytes);
        } else {
            self.tail.extend_from_slice(&bytes);
            if self.tail.len() >= COALESCED_BYTES {
                self.flush();
            }
        }
    }

    fn into_chunks(mut self) -> Vec<Bytes> {
        self.flush();
        self.chunks
    }

    fn flush(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(self.tail.split().freeze());
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
