//! Where a session stands.

use std::fmt;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::command::ChunkSize;
use crate::dot::DotFramer;
use crate::notice::HeaderCapture;
use crate::{Done, Finding, Framing, SettledBy};

/// What the next bytes of the client are.
pub(super) enum Phase {
    /// Nothing yet: the server has not greeted.
    Greeting,
    Commands,
    /// DATA, AUTH or an unknown command was the last one; the reply decides what comes behind it.
    Undecided,
    /// STARTTLS was the last one; anything before the reply is an attack.
    StartTls,
    /// A SASL response (RFC 4954 section 4).
    Sasl,
    /// BDAT or BURL that would begin a message; what the commands before it have led to decides.
    Barrier(Content),
    /// A message on its way to the server, dot-stuffed.
    Message(Transfer),
    /// The data of a BDAT.
    Chunk(Chunk),
    /// The message is complete but for this.
    Held(Last),
    /// It has its verdict; replies to earlier chunks are still to come.
    Judged(Last, Judged, Option<Kept>),
    /// The rest of a message that is refused and answered already; the server is gone.
    Drain {
        rest: Rest,
        pace: Pace,
        then: AfterDrain,
    },
    /// The server is gone, the client may say QUIT.
    Orphan,
    /// The last reply of the gateway's own waits in the queue.
    Farewell,
    /// The server is ready for TLS; it is the client's turn (RFC 3207 section 4).
    TlsHello,
    Opaque,
    Closed,
}

/// A command that carries content of a message, with its line.
pub(super) enum Content {
    /// BDAT (RFC 3030 section 2).
    Chunk { line: Bytes, size: ChunkSize },
    /// BURL (RFC 4468 section 3).
    Url { line: Bytes, is_last: bool },
}

/// A message under way, framed by dots.
pub(super) struct Transfer {
    pub(super) framer: DotFramer,
    pub(super) pace: Pace,
}

/// The data of one BDAT command under way.
pub(super) struct Chunk {
    /// Bytes that are still to come.
    pub(super) left: u64,
    pub(super) course: Course,
    pub(super) pace: Pace,
}

/// What is done with the data of a chunk.
pub(super) enum Course {
    /// Not the last chunk: it goes on as it comes.
    Pass,
    /// The beginning of a large last chunk, which goes on as a chunk of its own. So many bytes of
    /// the client's chunk follow it.
    Part { tail: u64 },
    /// The last chunk, or (`is_tail`) what is left of it behind a part: held in here.
    Hold { line: Bytes, data: BytesMut, is_tail: bool },
    /// The last and only chunk, held by the driver.
    Keep { line: Bytes },
    /// Thrown away, and answered here unless there is an answer already.
    Skip { reply: Option<&'static str> },
}

/// What makes a message real once the server has it.
pub(super) struct Last {
    /// The command line of the chunk; empty for a message framed by dots.
    pub(super) before: Bytes,
    /// The data of the last chunk, or the end marker.
    pub(super) after: Bytes,
    pub(super) kind: LastKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastKind {
    Dots,
    Chunk,
    /// A chunk whose beginning went to the server in the client's one command.
    Tail,
    /// BURL behind chunks (RFC 4468 section 3.2).
    Url,
}

/// What was decided about a message.
pub(super) enum Judged {
    Release,
    Replace(Finding),
    Edit(Finding),
    Refuse { reply: Bytes, done: Done, by: SettledBy },
}

/// What is left of a message that nobody wants any more.
pub(super) enum Rest {
    Dots(DotFramer),
    /// So many bytes.
    Bytes(u64),
}

/// When a transfer began; with [`super::SmtpSession::moved`], how fast it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) since: Instant,
    /// What `moved` was then.
    pub(super) from: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterDrain {
    Orphan,
    Close,
}

/// The message of the transaction, as far as the driver knows it.
#[derive(Default)]
pub(super) enum Body {
    /// None has begun, or all is said of it.
    #[default]
    None,
    /// Between `MessageBegin` and the verdict.
    Open(Option<Kept>),
    /// It has its verdict, which is carried out once its chunks are answered.
    Judged,
    /// This has gone to the server whole, and is not answered yet.
    Sent(Done),
    /// Some of it is at the server and it was given up; it must not be completed. Ends with the
    /// transaction.
    Dead,
}

/// A message that the driver keeps, so that the server has none of it ([`super::Settings::hold`]).
#[derive(Default)]
pub(super) struct Kept {
    /// For a notice in its place.
    pub(super) header: HeaderCapture,
    pub(super) bytes: u64,
}

/// The direction towards a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlet {
    Open,
    /// A FIN has been sent.
    Ended,
    /// The connection has been reset.
    Gone,
}

/// What an answer is awaited for.
pub(super) enum Pending {
    Greeting,
    Ehlo,
    Helo,
    Rset,
    Mail(Box<[u8]>),
    Rcpt(Box<[u8]>),
    Data,
    Auth,
    StartTls,
    EndOfData,
    LastChunk,
    /// A chunk that is not the last.
    Chunk,
    /// A chunk that the client does not know of: the beginning of its last one.
    Part,
    /// BURL, whether it was the last, and whether there are chunks before it.
    Url {
        is_last: bool,
        is_behind: bool,
    },
    /// QUIT, NOOP and others whose replies change nothing.
    Plain,
    /// LHLO, TURN, ATRN: another protocol if the server accepts it.
    Foreign,
    Unknown,
    /// Answered by us, in turn.
    Own(&'static str),
    /// Our last word.
    Last(&'static str),
}

impl Last {
    /// What is to come for it.
    pub(super) fn pending(&self) -> Pending {
        match self.kind {
            LastKind::Dots => Pending::EndOfData,
            LastKind::Chunk | LastKind::Tail => Pending::LastChunk,
            LastKind::Url => Pending::Url { is_last: true, is_behind: true },
        }
    }

    pub(super) fn framing(&self) -> Framing {
        match self.kind {
            LastKind::Dots => Framing::Dots,
            LastKind::Chunk | LastKind::Tail | LastKind::Url => Framing::Chunk,
        }
    }
}

/// Names only: phases hold what the peers said.
impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "Greeting",
            Self::Commands => "Commands",
            Self::Undecided => "Undecided",
            Self::StartTls => "StartTls",
            Self::Sasl => "Sasl",
            Self::Barrier(_) => "Barrier",
            Self::Message(_) => "Message",
            Self::Chunk(_) => "Chunk",
            Self::Held(_) => "Held",
            Self::Judged(..) => "Judged",
            Self::Drain { .. } => "Drain",
            Self::Orphan => "Orphan",
            Self::Farewell => "Farewell",
            Self::TlsHello => "TlsHello",
            Self::Opaque => "Opaque",
            Self::Closed => "Closed",
        })
    }
}
