//! One SMTP session as it crosses the gateway (RFC 5321, 2920, 3030, 3207, 4954).
//!
//! [`SmtpSession`] reads both directions in step: every command line that goes to the server is
//! noted in a queue, every reply is matched with the oldest entry, and replies of the gateway's own
//! stand in the same queue, so that they come in the order in which the client asked. A message
//! streams to the server as it arrives; what would make it real (the end marker, the last chunk) is
//! held until the verdict. With [`Settings::hold`] nothing of it goes to the server before that.
//!
//! What is not passed on as it came:
//!
//! - the EHLO reply loses the keywords of [`Settings::masked`], and their commands are refused here;
//! - XCLIENT, XFORWARD and PROXY are refused here;
//! - command lines with a bare LF, a bare CR or a NUL end the session, lines without a verb get a
//!   500; a message with a lone dot between odd line ends is refused ([`crate::dot`]);
//! - a BDAT whose size could be read in two ways gets a 501 and ends the session; zeros in front of
//!   a size are left out. Of a last chunk above [`BDAT_HELD_BYTES_MAX`] all but the end goes on as a
//!   chunk of its own, whose reply the client does not see: the content is the same;
//! - BDAT is refused here, and its data thrown away, where a server might run the data as commands
//!   or complete what was not scanned: CHUNKING not offered in the last EHLO reply, no recipient
//!   accepted, or an earlier chunk of the message refused or given up.
//!
//! Any other byte crosses unchanged.
//!
//! A message by BDAT ends with its last chunk; RSET, EHLO, HELO, MAIL, DATA, STARTTLS or QUIT before
//! that abort it, and so does a chunk that the server refuses. It is dead then: nothing completes
//! it, until the server has accepted one of the first four.
//!
//! Wherever the two peers might read something in two ways, the session ends: a reply that belongs
//! to no command, 3yz replies to known commands that have none, bytes behind STARTTLS on either
//! side. It ends with a 421 from either side. What follows a 3yz reply to an unknown command, or
//! comes in a SASL security layer, is a matter of policy ([`Unframed`]); nothing is sent behind an
//! unknown command before its reply.
//!
//! Limits: [`COMMAND_LINE_BYTES_MAX`], [`PIPELINED_COMMANDS_MAX`], [`UNPROCESSED_BYTES_MAX`],
//! [`OUTPUTS_MAX`], [`RECIPIENTS_KEPT_MAX`], [`REFUSED_COMMANDS_MAX`], [`BDAT_BYTES_MAX`],
//! [`BDAT_HELD_BYTES_MAX`], [`Settings::hold_bytes_max`], those of [`reply`] and the [`Timeouts`].

mod chunk;
mod command;
mod from_client;
mod from_server;
mod inbox;
mod message;
pub mod reply;
mod settings;
mod state;
mod text;
mod timing;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use heapless::Deque;

use crate::notice::{Language, Templates};
use crate::{Decision, End, Envelope, Event, Output, Protocol, Side, Violation, WallClock};
use inbox::Inbox;
use reply::{Reply, ReplyReader};
pub use settings::*;
use state::{AfterDrain, Body, Course, Outlet, Pending, Phase, Rest};
pub use timing::*;

/// One SMTP session. Driven as [`crate::Session`] says.
///
/// Its `Debug` shows states and sizes, never what the peers said.
pub struct SmtpSession {
    settings: Settings,
    language: Language,
    templates: Arc<Templates>,
    phase: Phase,
    client: Inbox,
    server: Inbox,
    reply: ReplyReader,
    /// What has to be answered, oldest first.
    pending: Deque<Pending, PIPELINED_COMMANDS_MAX>,
    transaction: Envelope,
    body: Body,
    /// The server's last EHLO reply offers CHUNKING.
    chunking: bool,
    /// The SASL mechanism accepted, or under way, can wrap what comes behind it.
    may_wrap: bool,
    /// The client has ended its direction; what it sent before still counts.
    client_ended: bool,
    /// The directions towards the sides.
    to_client: Outlet,
    to_server: Outlet,
    outputs: VecDeque<Output>,
    /// Of the last call that said it.
    now: Instant,
    wall: WallClock,
    refused: u32,
    lines: u64,
    replies: u64,
    /// Bytes of messages that the client has sent, of all.
    moved: u64,
    client_watch: Watch,
    server_watch: Watch,
}

impl SmtpSession {
    /// See [`crate::Session::new`].
    pub(crate) fn new(settings: &crate::Settings, wall: WallClock) -> Self {
        let mut pending = Deque::new();
        let has_room = pending.push_back(Pending::Greeting).is_ok();
        assert!(has_room, "an empty queue has room for one");
        let mut session = Self {
            settings: settings.smtp.clone(),
            language: settings.language,
            templates: Arc::clone(&settings.templates),
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
            body: Body::None,
            chunking: false,
            may_wrap: false,
            client_ended: false,
            to_client: Outlet::Open,
            to_server: Outlet::Open,
            outputs: VecDeque::new(),
            now: wall.started,
            wall,
            refused: 0,
            lines: 0,
            replies: 0,
            moved: 0,
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
                self.abort_message(from);
                self.shutdown(Side::Client, End::Reset);
                self.close(End::Reset);
            }
        }
        self.run();
    }

    /// See [`crate::Session::verdict`].
    pub fn verdict(&mut self, decision: Decision, now: Instant) {
        self.now = now;
        self.decide(decision);
        self.run();
    }

    /// See [`crate::Session::hold_failed`].
    pub fn hold_failed(&mut self, now: Instant) {
        self.now = now;
        self.stream_on();
        self.run();
    }

    /// See [`crate::Session::poll_output`].
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && matches!(self.phase, Phase::Message(_) | Phase::Chunk(_)) {
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
            (Phase::Closed | Phase::Held(_) | Phase::Judged(..), Side::Client) => false,
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
    /// was read on top of it, the limits of one reply, [`BDAT_HELD_BYTES_MAX`] and two command
    /// lines. (The beginning of a message that the driver keeps stands here, too, for a notice: 32
    /// KiB, not counted.)
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        let held = match &self.phase {
            Phase::Held(last) | Phase::Judged(last, ..) => last.before.len() + last.after.len(),
            Phase::Chunk(chunk) => match &chunk.course {
                Course::Hold { line, data, .. } => line.len() + data.len(),
                Course::Keep { line } => line.len(),
                Course::Pass | Course::Part { .. } | Course::Skip { .. } => 0,
            },
            Phase::Barrier(content) => content.line().len(),
            _ => 0,
        };
        self.client.bytes() + self.server.bytes() + self.reply.bytes() + held
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

    /// Ends the session with a reply to what the client did, after those that are still to come.
    fn last_word(&mut self, reply: &'static str) {
        self.abort_message(Side::Client);
        self.phase = Phase::Farewell;
        self.expect(Pending::Last(reply));
        self.flush_own();
    }

    /// Ends the session because a peer broke the protocol.
    fn violation(&mut self, side: Side, what: Violation, reply: &'static str) {
        self.event(Event::Violation { side, what });
        self.give_up(side, reply);
    }

    /// Ends the session at once, with a reply, for what that side did or did not do.
    fn give_up(&mut self, side: Side, reply: &'static str) {
        self.abort_message(side);
        self.send(Side::Client, reply.into());
        self.close(End::Reset);
    }

    /// Drops the server without the end of the message, and answers the client. What it still sends
    /// of the message is thrown away. A message that is not settled by now is cut off: the server
    /// did not want it.
    fn drop_server(&mut self, reply: Bytes, then: AfterDrain) {
        self.abort_message(Side::Server);
        self.shutdown(Side::Server, End::Reset);
        self.send(Side::Client, reply);
        self.reset_transaction();
        self.pending.clear();
        let (rest, pace) = match mem::replace(&mut self.phase, Phase::Orphan) {
            Phase::Message(transfer) => (Rest::Dots(transfer.framer), transfer.pace),
            Phase::Chunk(chunk) => (Rest::Bytes(chunk.rest()), chunk.pace),
            _ => {
                if then == AfterDrain::Close {
                    self.close(End::Reset);
                }
                return;
            }
        };
        self.phase = Phase::Drain { rest, pace, then };
    }

    /// Nothing more in either direction. `how` is for the server; the client gets a FIN, so that
    /// what was said last arrives.
    fn close(&mut self, how: End) {
        self.abort_message(Side::Server);
        self.settle_sent(None);
        self.shutdown(Side::Client, End::Fin);
        self.shutdown(Side::Server, how);
        self.phase = Phase::Closed;
        self.pending.clear();
        self.client.clear();
        self.server.clear();
    }

    /// The server has forgotten what it had of a message.
    fn reset_transaction(&mut self) {
        self.transaction.mail_from = Bytes::new();
        self.transaction.rcpt_to = Vec::new();
        self.body = Body::None;
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
