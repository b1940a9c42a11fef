//! BDAT and BURL (RFC 3030, RFC 4468): commands that carry content of a message.

use std::mem;

use bytes::{Bytes, BytesMut};

use super::command::ChunkSize;
use super::state::{Body, Chunk, Content, Course, Last, LastKind, Pace, Pending, Phase};
use super::{BDAT_HELD_BYTES_MAX, BDAT_TAIL_BYTES, OUTPUTS_MAX, SmtpSession, text};
use crate::Side;

impl Content {
    pub(super) fn line(&self) -> &Bytes {
        match self {
            Self::Chunk { line, .. } | Self::Url { line, .. } => line,
        }
    }
}

impl Chunk {
    /// What the client has still to send of its chunk.
    pub(super) fn rest(&self) -> u64 {
        match self.course {
            Course::Part { tail } => self.left + tail,
            _ => self.left,
        }
    }

    /// The same when its message has failed. The server goes on to get what was announced to it.
    pub(super) fn given_up(mut self) -> Self {
        self.course = match self.course {
            Course::Hold { is_tail: true, .. } => Course::Skip { reply: None },
            Course::Hold { is_tail: false, .. } | Course::Keep { .. } => {
                Course::Skip { reply: Some(text::CHUNK_OF_DEAD) }
            }
            course @ (Course::Pass | Course::Part { .. } | Course::Skip { .. }) => course,
        };
        self
    }
}

impl SmtpSession {
    /// A command that carries content. What it begins a message with depends on the replies to the
    /// commands before it; within a message it needs no reply. True if something changed.
    pub(super) fn content(&mut self, content: Content) -> bool {
        if !matches!(self.body, Body::Open(_)) && !self.pending.is_empty() {
            self.phase = Phase::Barrier(content);
            return false;
        }
        self.phase = Phase::Commands;
        match content {
            Content::Chunk { line, size } => self.begin_chunk(line, size),
            Content::Url { line, is_last } => self.url(line, is_last),
        }
        true
    }

    /// Looks again at a command that had to wait. True if something changed.
    pub(super) fn behind_barrier(&mut self) -> bool {
        if !self.pending.is_empty() {
            return false;
        }
        match mem::replace(&mut self.phase, Phase::Commands) {
            Phase::Barrier(content) => self.content(content),
            other => {
                self.phase = other;
                false
            }
        }
    }

    fn url(&mut self, line: Bytes, is_last: bool) {
        match self.body {
            Body::Dead => self.refuse_command(text::CHUNK_OF_DEAD),
            Body::Open(_) if is_last => {
                let kind = LastKind::Url;
                self.hold(Last { before: line, after: Bytes::new(), kind });
            }
            Body::Open(_) => self.forward(line, Pending::Url { is_last, is_behind: true }),
            // The one before is answered by now: see `content`.
            Body::None | Body::Judged | Body::Sent(_) => {
                self.forward(line, Pending::Url { is_last, is_behind: false });
            }
        }
    }

    fn begin_chunk(&mut self, line: Bytes, size: ChunkSize) {
        let refusal = match self.body {
            Body::Open(_) => None,
            Body::Dead => Some(text::CHUNK_OF_DEAD),
            _ if !self.chunking => Some(text::CHUNKING_NOT_OFFERED),
            _ if self.transaction.rcpt_to.is_empty() => Some(text::CHUNK_OUT_OF_TURN),
            // The one before is answered by now: see `content`.
            Body::None | Body::Judged | Body::Sent(_) => None,
        };
        let (left, course) = if refusal.is_some() {
            (size.bytes, Course::Skip { reply: refusal })
        } else {
            self.course(line, size)
        };
        self.phase = Phase::Chunk(Chunk { left, course, pace: self.pace() });
    }

    /// How a chunk that is wanted goes on, and how many bytes of it go that way. Sends the command
    /// line if the data follows at once.
    fn course(&mut self, line: Bytes, size: ChunkSize) -> (u64, Course) {
        let ChunkSize { bytes, is_last, .. } = size;
        let line = if size.has_leading_zero { size.to_line() } else { line };
        let is_first = !matches!(self.body, Body::Open(_));
        let is_kept = is_first
            && is_last
            && self.settings.hold
            && (1..=self.settings.hold_bytes_max).contains(&bytes);
        if is_first {
            self.begin_message(is_kept);
        }
        if is_kept {
            (bytes, Course::Keep { line })
        } else if !is_last {
            self.send(Side::Server, line);
            (bytes, Course::Pass)
        } else if bytes <= BDAT_HELD_BYTES_MAX {
            (bytes, Course::Hold { line, data: BytesMut::new(), is_tail: false })
        } else {
            let tail = BDAT_TAIL_BYTES;
            let part = ChunkSize { bytes: bytes - tail, is_last: false, has_leading_zero: false };
            self.send(Side::Server, part.to_line());
            (part.bytes, Course::Part { tail })
        }
    }

    /// Takes what has come of a chunk. True if something changed.
    pub(super) fn chunk(&mut self) -> bool {
        if self.outputs.len() >= OUTPUTS_MAX {
            return false;
        }
        let Phase::Chunk(chunk) = &mut self.phase else { return false };
        if chunk.left == 0 {
            self.end_chunk();
            return true;
        }
        let Some(bytes) = self.client.take_up_to(chunk.left) else { return false };
        chunk.left -= bytes.len() as u64;
        self.moved = self.moved.saturating_add(bytes.len() as u64);
        match &mut chunk.course {
            Course::Skip { .. } => {}
            Course::Hold { data, .. } => {
                data.extend_from_slice(&bytes);
                self.scan(bytes);
            }
            Course::Pass | Course::Part { .. } | Course::Keep { .. } => {
                self.carry(bytes.clone());
                self.scan(bytes);
            }
        }
        true
    }

    fn end_chunk(&mut self) {
        let Phase::Chunk(chunk) = mem::replace(&mut self.phase, Phase::Commands) else { return };
        match chunk.course {
            Course::Pass => self.expect(Pending::Chunk),
            Course::Part { tail } => {
                self.expect(Pending::Part);
                let size = ChunkSize { bytes: tail, is_last: true, has_leading_zero: false };
                let data = BytesMut::new();
                let course = match self.body {
                    Body::Open(_) => Course::Hold { line: size.to_line(), data, is_tail: true },
                    _ => Course::Skip { reply: None },
                };
                self.phase = Phase::Chunk(Chunk { left: tail, course, pace: chunk.pace });
            }
            Course::Hold { line, data, is_tail } => {
                let kind = if is_tail { LastKind::Tail } else { LastKind::Chunk };
                self.hold(Last { before: line, after: data.freeze(), kind });
            }
            Course::Keep { line } => {
                self.hold(Last { before: line, after: Bytes::new(), kind: LastKind::Chunk });
            }
            Course::Skip { reply: Some(reply) } => self.refuse_command(reply),
            Course::Skip { reply: None } => {}
        }
    }

    pub(super) fn pace(&self) -> Pace {
        Pace { since: self.now, from: self.moved }
    }
}

impl ChunkSize {
    /// The command line that says it.
    pub(super) fn to_line(self) -> Bytes {
        let last = if self.is_last { " LAST" } else { "" };
        format!("BDAT {}{last}\r\n", self.bytes).into()
    }
}
