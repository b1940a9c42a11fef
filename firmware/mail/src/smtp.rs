//! One SMTP session as it crosses the gateway (RFC 5321, 2920, 3207, 4954).
//!
//! [`SmtpSession`] reads both directions in step: every command line that goes to the server is
//! noted in a queue, every reply is matched with the oldest entry, and replies of the gateway's own
//! stand in the same queue, so that they come in the order in which the client asked. A message
//! streams to the server as it arrives; its end marker is held until the verdict.
//!
//! What is not passed on as it came: the EHLO reply loses CHUNKING, BINARYMIME and BURL; BDAT,
//! BODY=BINARYMIME, BURL, XCLIENT, XFORWARD and PROXY are answered here; command lines with a bare
//! LF, a bare CR or a NUL end the session, lines without a verb get a 500; a message with a lone dot
//! between odd line ends is refused ([`crate::dot`]). Any other byte crosses unchanged.
//!
//! Wherever the two peers might read something in two ways, the session ends: a reply that belongs
//! to no command, 3yz replies to commands that have none, bytes behind STARTTLS on either side.
//!
//! Limits: [`COMMAND_LINE_BYTES_MAX`], [`PIPELINED_COMMANDS_MAX`], [`UNPROCESSED_BYTES_MAX`],
//! [`OUTPUTS_MAX`], [`RECIPIENTS_KEPT_MAX`], [`REFUSED_COMMANDS_MAX`], those of [`reply`] and the
//! [`Timeouts`].

mod command;
mod from_client;
mod from_server;
mod inbox;
pub mod reply;
mod text;
mod timing;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::time::Instant;

use bytes::Bytes;
use heapless::Deque;

use crate::dot::DotFramer;
use crate::{Decision, End, Envelope, Event, Output, Protocol, Side, Violation};
use inbox::Inbox;
use reply::{Reply, ReplyReader};
pub use timing::*;

/// Longest command line or SASL response with its line end (RFC 4954 section 4: 12,288 octets of
/// base64). A longer one is answered with 500, and the session ends.
pub const COMMAND_LINE_BYTES_MAX: usize = 12_288 + 2;
/// Most commands without a reply. RFC 2920 sets no limit, so more of them just wait: the client is
/// not read from until replies have come.
pub const PIPELINED_COMMANDS_MAX: usize = 128;
/// The client is not read from while more than this of it waits.
pub const UNPROCESSED_BYTES_MAX: usize = 16 * 1024;
/// A message is cut into outputs only while fewer than this wait, because one chunk of nothing but
/// dots can make thousands.
pub const OUTPUTS_MAX: usize = 256;
/// Most accepted recipients in an [`Envelope`]; further ones are served, but not listed.
pub const RECIPIENTS_KEPT_MAX: usize = 32;
/// Most commands that are answered here and never reach the server, whose own limit on errors
/// cannot see them. The next one gets a 421, and the session ends.
pub const REFUSED_COMMANDS_MAX: u32 = 50;

/// SMTP policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// How long to wait for whom.
    pub timeouts: Timeouts,
    /// Hold every message until its verdict instead of streaming it to the server: what
    /// [`Decision::Replace`] and [`Decision::Edit`] need. Default no.
    pub hold: bool,
}

/// One SMTP session. Driven as [`crate::Session`] says.
///
/// Its `Debug` shows states and sizes, never what the peers said.
pub struct SmtpSession {
    timeouts: Timeouts,
    phase: Phase,
    client: Inbox,
    server: Inbox,
    reply: ReplyReader,
    /// What has to be answered, oldest first.
    pending: Deque<Pending, PIPELINED_COMMANDS_MAX>,
    transaction: Envelope,
    /// The client has ended its direction; what it sent before still counts.
    client_ended: bool,
    /// The directions towards the sides.
    to_client: Outlet,
    to_server: Outlet,
    outputs: VecDeque<Output>,
    /// Of the last call that said it.
    now: Instant,
    refused: u32,
    lines: u64,
    replies: u64,
    client_watch: Watch,
    server_watch: Watch,
}

/// What the next bytes of the client are.
#[derive(Debug)]
enum Phase {
    /// Nothing yet: the server has not greeted.
    Greeting,
    Commands,
    /// DATA or AUTH was the last one; the reply decides what comes behind it.
    Undecided,
    /// STARTTLS was the last one; anything before the reply is an attack.
    StartTls,
    /// A SASL response (RFC 4954 section 4).
    Sasl,
    /// A message on its way to the server.
    Message(Transfer),
    /// The message is complete but for this marker.
    Held(Bytes),
    /// The rest of a message that is refused and answered already; the server is gone.
    Drain {
        transfer: Transfer,
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

/// A message under way.
#[derive(Debug)]
struct Transfer {
    framer: DotFramer,
    since: Instant,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterDrain {
    Orphan,
    Close,
}

/// The direction towards a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlet {
    Open,
    /// A FIN has been sent.
    Ended,
    /// The connection has been reset.
    Gone,
}

/// What an answer is awaited for.
#[derive(Debug)]
enum Pending {
    Greeting,
    Ehlo,
    /// HELO, RSET.
    Restart,
    Mail(Box<[u8]>),
    Rcpt(Box<[u8]>),
    Data,
    Auth,
    StartTls,
    EndOfData,
    Other,
    /// Answered by us, in turn.
    Own(&'static str),
    /// Our last word.
    Last(&'static str),
}

impl SmtpSession {
    /// A session whose connection to the server has just been made.
    #[must_use]
    pub fn new(settings: &crate::Settings, now: Instant) -> Self {
        let mut pending = Deque::new();
        let has_room = pending.push_back(Pending::Greeting).is_ok();
        assert!(has_room, "an empty queue has room for one");
        let mut session = Self {
            timeouts: settings.smtp.timeouts.clone(),
            phase: Phase::Greeting,
            client: Inbox::default(),
            server: Inbox::default(),
            reply: ReplyReader::default(),
            pending,
            transaction: Envelope {
                protocol: Protocol::Smtp,
                authenticated: false,
                mail_from: Bytes::new(),
                rcpt_to: Vec::new(),
                message_number: None,
            },
            client_ended: false,
            to_client: Outlet::Open,
            to_server: Outlet::Open,
            outputs: VecDeque::new(),
            now,
            refused: 0,
            lines: 0,
            replies: 0,
            client_watch: Watch::default(),
            server_watch: Watch::default(),
        };
        session.watch();
        session
    }

    /// See [`crate::Session::receive`].
    pub fn receive(&mut self, from: Side, bytes: Bytes, now: Instant) {
        self.now = now;
        match from {
            Side::Client => self.client.push(bytes),
            Side::Server => self.server.push(bytes),
        }
        self.run();
    }

    /// See [`crate::Session::receive_end`].
    pub fn receive_end(&mut self, from: Side, end: End, now: Instant) {
        self.now = now;
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        match (from, end) {
            (Side::Client, End::Fin) => self.client_ended = true,
            (Side::Server, _) if self.to_server == Outlet::Gone => {}
            (Side::Server, End::Fin) => self.server_ended(),
            (_, End::Reset) => {
                self.abort_message();
                self.shutdown(Side::Client, End::Reset);
                self.close(End::Reset);
            }
        }
        self.run();
    }

    /// See [`crate::Session::verdict`].
    pub fn verdict(&mut self, decision: Decision, now: Instant) {
        self.now = now;
        let Phase::Held(marker) = &self.phase else { return };
        match decision {
            Decision::Release => {
                let marker = marker.clone();
                self.phase = Phase::Commands;
                self.send(Side::Server, marker);
                self.expect(Pending::EndOfData);
            }
            Decision::Refuse(finding) | Decision::Replace(finding) | Decision::Edit(finding) => {
                self.refuse_message(text::refused(&finding))
            }
            Decision::Tempfail { reason } => self.refuse_message(text::tempfailed(&reason)),
        }
        self.run();
    }

    /// See [`crate::Session::hold_failed`].
    pub fn hold_failed(&mut self, now: Instant) {
        self.now = now;
        if matches!(self.phase, Phase::Message(_) | Phase::Held(_)) {
            self.abort_message();
            self.refuse_message(text::tempfailed("No room to hold the message"));
        }
        self.run();
    }

    /// See [`crate::Session::poll_output`].
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && matches!(self.phase, Phase::Message(_)) {
            self.run();
        }
        self.outputs.pop_front()
    }

    /// See [`crate::Session::poll_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline()
    }

    /// See [`crate::Session::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.expire();
        self.run();
    }

    /// See [`crate::Session::wants`].
    #[must_use]
    pub fn wants(&self, from: Side) -> bool {
        match (&self.phase, from) {
            (Phase::Closed | Phase::Held(_), Side::Client) => false,
            (_, Side::Client) => !self.client_ended && self.client.bytes() < UNPROCESSED_BYTES_MAX,
            (Phase::Closed | Phase::Orphan | Phase::Drain { .. }, Side::Server) => false,
            (_, Side::Server) => true,
        }
    }

    /// See [`crate::Session::is_opaque`].
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        matches!(self.phase, Phase::Opaque)
    }

    /// All peer bytes that are kept inside, outputs apart. At most [`UNPROCESSED_BYTES_MAX`], what
    /// was read on top of it, and the limits of one reply.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.client.bytes() + self.server.bytes() + self.reply.bytes()
    }

    /// Handles all that can be handled.
    fn run(&mut self) {
        // One reply at a time, and the client in between, as if each reply had come alone.
        while self.serve_client() || self.serve_server() {}
        if self.client_ended {
            self.end_client();
        }
        self.watch();
    }
}

/// What both directions use.
impl SmtpSession {
    /// Notes that an answer is to come.
    fn expect(&mut self, pending: Pending) {
        let has_room = self.pending.push_back(pending).is_ok();
        assert!(has_room, "no command is taken while the queue is full");
    }

    /// Sends those of our own replies whose turn has come.
    fn flush_own(&mut self) {
        while let Some(Pending::Own(text) | Pending::Last(text)) = self.pending.front() {
            let text = *text;
            self.send(Side::Client, text.into());
            if matches!(self.pending.pop_front(), Some(Pending::Last(_))) {
                self.close(End::Reset);
            }
        }
    }

    /// Ends the session with a reply, after those that are still to come.
    fn last_word(&mut self, reply: &'static str) {
        self.phase = Phase::Farewell;
        self.expect(Pending::Last(reply));
        self.flush_own();
    }

    /// Ends the session because a peer broke the protocol.
    fn violation(&mut self, side: Side, what: Violation, reply: &'static str) {
        self.event(Event::Violation { side, what });
        self.give_up(reply);
    }

    /// Ends the session at once, with a reply.
    fn give_up(&mut self, reply: &'static str) {
        self.abort_message();
        self.send(Side::Client, reply.into());
        self.close(End::Reset);
    }

    /// Drops the server without the dot and answers the message. What the client still sends of it
    /// is thrown away.
    fn refuse_message(&mut self, reply: Bytes) {
        self.shutdown(Side::Server, End::Reset);
        self.send(Side::Client, reply);
        self.reset_transaction();
        self.phase = match mem::replace(&mut self.phase, Phase::Orphan) {
            Phase::Message(transfer) => Phase::Drain { transfer, then: AfterDrain::Orphan },
            _ => Phase::Orphan,
        };
    }

    fn abort_message(&mut self) {
        if matches!(self.phase, Phase::Message(_) | Phase::Held(_)) {
            self.outputs.push_back(Output::MessageAbort);
        }
    }

    /// Nothing more in either direction. `how` is for the server; the client gets a FIN, so that
    /// what was said last arrives.
    fn close(&mut self, how: End) {
        self.shutdown(Side::Client, End::Fin);
        self.shutdown(Side::Server, how);
        self.phase = Phase::Closed;
        self.pending.clear();
        self.client.clear();
        self.server.clear();
    }

    fn reset_transaction(&mut self) {
        self.transaction.mail_from = Bytes::new();
        self.transaction.rcpt_to = Vec::new();
    }

    fn relay(&mut self, reply: Reply) {
        self.send(Side::Client, reply.into_bytes());
    }

    fn outlet(&mut self, to: Side) -> &mut Outlet {
        match to {
            Side::Client => &mut self.to_client,
            Side::Server => &mut self.to_server,
        }
    }

    fn send(&mut self, to: Side, bytes: Bytes) {
        if *self.outlet(to) == Outlet::Open && !bytes.is_empty() {
            self.outputs.push_back(Output::Send { to, bytes });
        }
    }

    fn shutdown(&mut self, to: Side, how: End) {
        let outlet = self.outlet(to);
        let next = match (*outlet, how) {
            (Outlet::Open, End::Fin) => Outlet::Ended,
            (Outlet::Open | Outlet::Ended, End::Reset) => Outlet::Gone,
            (Outlet::Ended | Outlet::Gone, _) => return,
        };
        *outlet = next;
        self.outputs.push_back(Output::Shutdown { to, how });
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

impl fmt::Debug for SmtpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpSession")
            .field("phase", &self.phase)
            .field("client", &self.client)
            .field("server", &self.server)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}
