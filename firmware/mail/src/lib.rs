//! SMTP and POP3 sessions as they cross a gateway, without IO and without a clock.
//!
//! A [`Session`] stands between a mail client and a mail server. The driver hands it what each side
//! sent ([`Session::receive`]) and does what it says ([`Session::poll_output`]): send these bytes to
//! that side, here a message begins, this is its content, here it ends. At the end of a message the
//! session holds back what would make the message real (SMTP: the final dot; POP3: the whole
//! message) until the driver calls [`Session::verdict`].
//!
//! What is held is with the driver, not in the session: [`Output::Hold`] brings bytes to keep behind
//! those kept before, [`Output::SendHeld`] sends the first of them or all, [`Output::DropHeld`] forgets
//! the rest. One message is held at a time, so the driver needs one such store a session (memory for a
//! small one, a file for the rest), besides those that are on their way out: a `SendHeld` of all takes
//! the store along, and the next `Hold` begins a new one. What is sent behind it waits for it. When the
//! driver has no room it says so ([`Session::hold_failed`]).
//!
//! Calling order: `receive`/`receive_end`/`verdict`/`hold_failed`/`handle_timeout`, then `poll_output`
//! until it returns `None`, then read more from a side only if [`Session::wants`] says so; sleep at most
//! until [`Session::poll_timeout`], which may be in the past already.
//!
//! The mail that takes the place of another one comes from [`notice`].
//!
//! Invariants: bytes that are forwarded are the bytes that came (no rendering of our own); any
//! chunking of the input gives the same outputs when adjacent `Send`s, `Hold`s and `MessageData`s are
//! joined; every message that begins gets its end or its abort, what is held is sent or dropped, and
//! what became of it is told once ([`Event::Settled`]);
//! nothing that a peer sends can panic the session or make it keep more than the named limits.
//! Must not depend on tokio, sockets, or any other crate of this workspace.
#![forbid(unsafe_code)]

pub mod dot;
pub mod notice;
pub mod pop3;
pub mod smtp;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

/// First byte of a TLS connection: a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Which mail protocol a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 5321, and submission (RFC 6409).
    Smtp,
    /// RFC 1939.
    Pop3,
}

/// One of the two peers of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that opened the connection.
    Client,
    /// The mail server.
    Server,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// How one direction of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Orderly: FIN. The other direction may go on.
    Fin,
    /// RST, or the connection was lost.
    Reset,
}

/// What the driver has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes to that side.
    Send {
        /// Whom.
        to: Side,
        /// What.
        bytes: Bytes,
    },
    /// End the sending direction towards that side (`Fin`, after all bytes before it), or abort the
    /// connection to it (`Reset`).
    Shutdown {
        /// Towards whom.
        to: Side,
        /// Orderly or not.
        how: End,
    },
    /// A message starts; start a scan.
    MessageBegin(Envelope),
    /// Content of the message as a scanner should see it: dots unstuffed, line ends as they came.
    MessageData(Bytes),
    /// The message is complete. Nothing of what makes it real has been forwarded; the session waits
    /// for [`Session::verdict`].
    MessageEnd,
    /// The message will not be completed (reset, refused, cut off): drop the scan.
    MessageAbort,
    /// Keep these bytes behind those kept before. They are the message as it crosses the wire, on
    /// their way to the side that waits for it; the driver keeps them where there is room, and says
    /// so where there is none ([`Session::hold_failed`]).
    Hold(Bytes),
    /// Send the next `bytes` of what is kept, or all that is left.
    SendHeld {
        /// Whom.
        to: Side,
        /// How many; `None`: all of them.
        bytes: Option<u64>,
    },
    /// Forget what is kept; nothing more of it will be sent.
    DropHeld,
    /// Send the message as the driver has edited it ([`Decision::Edit`]), framed as said.
    SendEdited {
        /// Whom.
        to: Side,
        /// How its end is told.
        framing: Framing,
    },
    /// Something to count or log.
    Event(Event),
}

/// How a message is framed on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Dot-stuffed lines, ended by CRLF.CRLF.
    Dots,
    /// One chunk, the last: `BDAT <size> LAST` before it (RFC 3030 section 2).
    Chunk,
}

/// What is known of a message before its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Of the session.
    pub protocol: Protocol,
    /// The client has authenticated (always true for POP3 messages).
    pub authenticated: bool,
    /// The reverse path as the client wrote it, without the brackets; empty for POP3.
    pub mail_from: Bytes,
    /// Accepted forward paths as written, at most [`smtp::RECIPIENTS_KEPT_MAX`]; empty for POP3.
    pub rcpt_to: Vec<Bytes>,
    /// POP3: the message number of RETR or TOP.
    pub message_number: Option<u32>,
}

/// What to do with the message that is held. The driver's policy makes it from the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Let it go on, unchanged.
    Release,
    /// It must not arrive. SMTP: drop the upstream without the dot, 554 5.7.1 with the name. POP3: a
    /// notice in its place.
    Refuse(Finding),
    /// A notice goes on in its place. An SMTP message that has been streamed to the server already
    /// ([`smtp::Settings::hold`]) is refused instead.
    Replace(Finding),
    /// The driver has a version of it without what was found, and sends that
    /// ([`Output::SendEdited`]). Where nothing of ours can take its place any more, as [`Self::Replace`].
    Edit(Finding),
    /// Not now. SMTP: 451 4.7.1 and the upstream dropped without the dot. POP3: a notice that says
    /// so, in its place.
    Tempfail {
        /// Shown to the client; ours, no peer bytes.
        reason: String,
    },
}

/// What was found, for the reply or the notice. All of it comes from the driver; notices show at most
/// [`notice::SHOWN_CHARS_MAX`] characters of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finding {
    /// The name that the engine gave it, or why it is refused.
    pub name: String,
    /// Which engine.
    pub engine: String,
    /// The attachment's file name, where known.
    pub file_name: Option<String>,
    /// When, as its reader shall see it: there is no clock here.
    pub time: Option<String>,
    /// What its reader shall quote when he asks for the message: the quarantine's number of the copy,
    /// or the session's.
    pub reference: Option<String>,
    /// A copy is in the quarantine, from which it can be released.
    pub quarantined: bool,
}

/// What happened, for counters and the log. None of it is a secret or mail content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// From here on the session is not read any more.
    Opaque(OpaqueReason),
    /// The client authenticated.
    Authenticated,
    /// A peer broke the protocol in a way that ends or repairs the session.
    Violation {
        /// Whose fault it was.
        side: Side,
        /// What.
        what: Violation,
    },
    /// A wait ran out.
    TimedOut {
        /// Who did not answer or speak.
        side: Side,
    },
    /// A message could not be held in full: it was too large, or the driver had no room. It passes
    /// unscanned, or a notice takes its place ([`pop3::OnHoldFailure`]).
    HoldLimit,
    /// The server has accepted content that never crossed here, for the message under way or as one
    /// of its own: that message must not count as scanned.
    Unscanned(UnscannedReason),
    /// What became of the message that began last: nothing more comes of it. Once for each message,
    /// before the next begins and before the session is over; except for what a server said to an
    /// unknown POP3 command and did not end: nobody knows whether that was one.
    Settled(Settled),
}

/// What became of a message. The driver's decision says what it was to be; by then it may have been
/// too late for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settled {
    /// What was done with it.
    pub done: Done,
    /// What settled it.
    pub by: SettledBy,
    /// SMTP: code of the mail server's reply to the message, if it got one and answered.
    pub answer: Option<u16>,
}

/// What was done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Done {
    /// It went on, unchanged.
    Passed,
    /// SMTP: it did not go on, and its client was told so for good (5yz).
    Refused,
    /// A notice that it must not arrive went on in its place.
    Replaced,
    /// The driver's edited version went on.
    Edited,
    /// SMTP: its client was asked to come again (4yz). POP3: a notice that it could not be scanned
    /// went on in its place.
    Deferred,
    /// It did not come to its end, or its end did not go on.
    CutOff,
}

/// Why a message was settled as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettledBy {
    /// The driver's decision, as far as it could still be carried out.
    Decision,
    /// Line ends that could be read in several ways ([`dot`]), whatever the decision.
    LineEnds,
    /// It could not be held ([`Event::HoldLimit`]).
    NoRoom,
    /// No decision came in time.
    NoVerdict,
    /// That side went away, was silent, broke the protocol, or gave the message up or refused it
    /// before its end.
    Peer(Side),
}

/// Why a session went opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpaqueReason {
    /// STARTTLS or STLS was accepted by the server (RFC 3207, RFC 2595).
    Tls,
    /// The peers use something that no RFC describes and that cannot be followed
    /// ([`smtp::Unframed`], [`pop3::Unframed`]).
    Unframed,
}

/// Why content did not cross here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnscannedReason {
    /// SMTP: BURL makes the server fetch it from a mail store (RFC 4468).
    Burl,
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A command or reply line longer than its limit.
    LineTooLong,
    /// A bare CR, bare LF or NUL where a line end could be read two ways.
    BareLineEnd,
    /// Bytes pipelined behind STARTTLS or STLS (CVE-2011-0411).
    InjectionBehindStartTls,
    /// A reply that is none, or to no command.
    UnexpectedReply,
    /// A command that this gateway does not let through (XCLIENT, XFORWARD, PROXY, or one of a
    /// masked extension).
    ForbiddenCommand,
    /// BDAT with a size that could be read in two ways, or none (RFC 3030 section 2).
    ChunkSize,
    /// The peer spoke before its turn.
    OutOfTurn,
}

/// One moment on both of the driver's clocks, from which the others follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WallClock {
    /// When the session began.
    pub(crate) started: Instant,
    /// The same in seconds since 1970.
    pub(crate) started_unix_s: u64,
}

impl WallClock {
    /// In seconds since 1970.
    pub(crate) fn unix_s(self, now: Instant) -> u64 {
        self.started_unix_s.saturating_add(now.saturating_duration_since(self.started).as_secs())
    }
}

/// A session of either protocol, for drivers.
#[derive(Debug)]
pub enum Session {
    /// SMTP.
    Smtp(Box<smtp::SmtpSession>),
    /// POP3.
    Pop3(Box<pop3::Pop3Session>),
}

/// Settings of a session; each has a default that suits an office.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Language of notices.
    pub language: notice::Language,
    /// Texts of notices, shared by all sessions.
    pub templates: Arc<notice::Templates>,
    /// POP3: what is held, and what its client hears meanwhile.
    pub pop3: pop3::Settings,
    /// SMTP policy.
    pub smtp: smtp::Settings,
}

impl Session {
    /// A session whose connection to the server has just been made. `unix_s` is the same time as
    /// `now`, in seconds since 1970: notices have a date, and there is no clock here.
    #[must_use]
    pub fn new(protocol: Protocol, settings: &Settings, now: Instant, unix_s: u64) -> Self {
        let wall = WallClock { started: now, started_unix_s: unix_s };
        match protocol {
            Protocol::Smtp => Self::Smtp(Box::new(smtp::SmtpSession::new(settings, wall))),
            Protocol::Pop3 => Self::Pop3(Box::new(pop3::Pop3Session::new(settings, wall))),
        }
    }

    /// Takes bytes that `from` sent. All of them: what cannot be handled yet waits inside, bounded
    /// because the driver asks [`Self::wants`] first.
    pub fn receive(&mut self, from: Side, bytes: Bytes, now: Instant) {
        match self {
            Self::Smtp(session) => session.receive(from, bytes, now),
            Self::Pop3(session) => session.receive(from, bytes, now),
        }
    }

    /// `from` will send nothing more.
    pub fn receive_end(&mut self, from: Side, end: End, now: Instant) {
        match self {
            Self::Smtp(session) => session.receive_end(from, end, now),
            Self::Pop3(session) => session.receive_end(from, end, now),
        }
    }

    /// Answers [`Output::MessageEnd`]. Ignored when no message is held.
    pub fn verdict(&mut self, decision: Decision, now: Instant) {
        match self {
            Self::Smtp(session) => session.verdict(decision, now),
            Self::Pop3(session) => session.verdict(decision, now),
        }
    }

    /// The driver has no room for what [`Output::Hold`] brought. What it keeps already, these bytes and
    /// those of the outputs that wait here, it must still be able to send: the session answers with
    /// `SendHeld` of all of it or with `DropHeld`, behind at most what one [`Self::receive`] brought.
    /// Ignored when no message is held.
    pub fn hold_failed(&mut self, now: Instant) {
        match self {
            Self::Smtp(session) => session.hold_failed(now),
            Self::Pop3(session) => session.hold_failed(now),
        }
    }

    /// The next thing to do, or `None` when all is done for now.
    pub fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Smtp(session) => session.poll_output(),
            Self::Pop3(session) => session.poll_output(),
        }
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Smtp(session) => session.poll_timeout(),
            Self::Pop3(session) => session.poll_timeout(),
        }
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Smtp(session) => session.handle_timeout(now),
            Self::Pop3(session) => session.handle_timeout(now),
        }
    }

    /// Whether more bytes from that side can be taken now.
    #[must_use]
    pub fn wants(&self, from: Side) -> bool {
        match self {
            Self::Smtp(session) => session.wants(from),
            Self::Pop3(session) => session.wants(from),
        }
    }

    /// The session is not read any more; the driver may couple the two sides directly once all
    /// outputs are done.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        match self {
            Self::Smtp(session) => session.is_opaque(),
            Self::Pop3(session) => session.is_opaque(),
        }
    }
}
