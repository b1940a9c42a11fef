//! A POP3 session as it crosses the gateway (RFC 1939, 2449, 2595, 5034, 6856).
//!
//! Commands are forwarded as they come and remembered in order; each reply is matched to the oldest
//! of them, which tells whether it is one line, a list or a message. Lists are passed on as they
//! arrive. The answer to RETR and TOP is held whole, status line included, until
//! [`Pop3Session::verdict`]: then it goes out byte for byte, or a complete notice mail in its place.
//!
//! What is not forwarded as it came:
//! - A line that ends with a bare LF, of a command or of a reply, is sent on with CRLF, so that both
//!   peers see the same line. If a status line of the server ends so, its list or message is taken
//!   to be of LF lines throughout (LF.LF ends it) and gets CRLFs too: that server's terminator
//!   becomes the one that every client takes.
//! - A command with a control byte in it, without any word, or over [`COMMAND_LINE_BYTES_MAX`] is
//!   answered by `-ERR` in its turn and not forwarded.
//! - A message with a lone dot between odd line ends (`\n.\n`, `\r\n.\n`, ...; see [`crate::dot`])
//!   could end earlier for the client than for us: a notice takes its place, whatever the scan says.
//!   Its end is CRLF.CRLF; if the server falls silent right behind an odd end instead, that was it.
//! - Where neither helps (a reply to nothing, a line that is no reply, an odd end inside a list, bytes
//!   behind STLS) the session is closed.
//!
//! Must not depend on the SMTP side. Entry: [`Pop3Session`].

mod command;
mod inbox;
mod message;
mod replies;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::command::{Command, Refusal};
use self::inbox::{Inbox, Step};
use self::message::{DotStream, Message};
use crate::notice::{Language, Templates};
use crate::{Decision, End, Event, OpaqueReason, Output, Side, Violation};

/// Longest command line, in bytes without its line end: a SASL response (RFC 5034 section 4).
pub const COMMAND_LINE_BYTES_MAX: usize = 12_288;

/// Longest reply line, in bytes without its line end: a SASL challenge behind `"+ "`.
pub const REPLY_LINE_BYTES_MAX: usize = 2 + 12_288;

/// Commands whose replies are awaited. At this number no further one is read: not an error.
pub const COMMANDS_IN_FLIGHT_MAX: usize = 64;

/// Bytes of a client that may wait while its commands cannot be handled. Larger than any command
/// line, so that a complete line is always seen.
pub const CLIENT_PENDING_BYTES_MAX: usize = 16 * 1024;

/// Largest message held by default, in bytes.
pub const MESSAGE_HOLD_BYTES_DEFAULT: usize = 64 * 1024 * 1024;

/// The client may say nothing for this long (RFC 1939 section 3: at least 10 minutes).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The server may say nothing for this long while it owes a reply.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A command or reply line may take this long from its first byte to its last.
pub const LINE_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// A message or list may take this long from its status line to its end.
pub const MULTI_LINE_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);

/// The driver's scan may take this long; its own limits should strike long before.
pub const VERDICT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A server that falls silent for this long right behind an odd end of message has ended it.
pub const ODD_END_TIMEOUT: Duration = Duration::from_secs(20);

/// A client may take this long to end its direction after the server has ended the other.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// First byte of a TLS connection: a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What a POP3 session is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Largest answer to RETR or TOP that is held for its verdict, in bytes. Beyond it the message
    /// passes unscanned as it comes, and is counted ([`Event::HoldLimit`]). This much memory per
    /// session in the worst case.
    pub message_hold_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { message_hold_bytes_max: MESSAGE_HOLD_BYTES_DEFAULT }
    }
}

/// A POP3 session; see [`crate::Session`] for the order of calls.
pub struct Pop3Session {
    language: Language,
    templates: Arc<Templates>,
    message_hold_bytes_max: usize,
    phase: Phase,
    turn: Turn,
    reading: Reading,
    in_flight: heapless::Deque<InFlight, COMMANDS_IN_FLIGHT_MAX>,
    client: Inbox,
    server: Inbox,
    /// The server said `-ERR` on its own, as before an automatic logout.
    server_gave_up: bool,
    outputs: VecDeque<Output>,
}

/// Whether the session is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// TLS: bytes are passed through.
    Opaque,
    /// Both connections have been shut down by us.
    Closed,
}

/// What the client's next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Command,
    /// AUTH is under way and the server's turn: what comes may be a response or a command.
    AuthReply,
    /// A response to a SASL challenge, whatever it looks like.
    AuthResponse,
    /// STLS is on its way: nothing may come (CVE-2011-0411).
    TlsReply,
    /// The server has agreed to STLS: a TLS handshake, the client's first.
    TlsHello,
}

/// A reply that the client waits for.
enum InFlight {
    /// The server's reply to a command.
    Server(Command),
    /// Our own reply, when its turn comes.
    Own(&'static [u8]),
}

/// What the server's next bytes are.
enum Reading {
    /// A reply line.
    Reply,
    /// A list, or a message too large to hold: passed on as it comes.
    List { stream: DotStream, since: Instant },
    /// A message that is held. Boxed: most sessions are idle.
    Message { message: Box<Message>, since: Instant },
    /// Nothing is read until the verdict on this message.
    Verdict { message: Box<Message>, since: Instant },
}

impl Pop3Session {
    /// A session whose connection to the server has just been made: the server speaks first.
    #[must_use]
    pub fn new(settings: &crate::Settings, now: Instant) -> Self {
        let mut in_flight = heapless::Deque::new();
        let greeting = in_flight.push_back(InFlight::Server(Command::Line));
        debug_assert!(greeting.is_ok(), "the queue is empty");
        Self {
            language: settings.language,
            templates: Arc::clone(&settings.templates),
            message_hold_bytes_max: settings.pop3.message_hold_bytes_max,
            phase: Phase::Open,
            turn: Turn::Command,
            reading: Reading::Reply,
            in_flight,
            client: Inbox::new(now),
            server: Inbox::new(now),
            server_gave_up: false,
            outputs: VecDeque::new(),
        }
    }

    /// See [`crate::Session::receive`].
    pub fn receive(&mut self, from: Side, bytes: Bytes, now: Instant) {
        match self.phase {
            Phase::Open => {
                match from {
                    Side::Client => self.client.push(bytes, now),
                    Side::Server => self.server.push(bytes, now),
                }
                self.advance(now);
            }
            Phase::Opaque => self.send(from.other(), bytes),
            Phase::Closed => {}
        }
    }

    /// See [`crate::Session::receive_end`].
    pub fn receive_end(&mut self, from: Side, end: End, now: Instant) {
        match (self.phase, from, end) {
            (Phase::Closed, ..) => {}
            (Phase::Opaque, ..) => {
                self.outputs.push_back(Output::Shutdown { to: from.other(), how: end })
            }
            (Phase::Open, Side::Client, End::Reset) => self.close(End::Reset, End::Reset),
            (Phase::Open, Side::Client, End::Fin) => {
                self.client.end = Some(end);
                self.advance(now);
            }
            (Phase::Open, Side::Server, _) => {
                self.server.end = Some(end);
                self.server.heard = now;
                self.advance(now);
            }
        }
    }

    /// See [`crate::Session::verdict`].
    pub fn verdict(&mut self, decision: Decision, now: Instant) {
        if matches!(self.reading, Reading::Verdict { .. }) {
            self.decide(decision, now);
            self.advance(now);
        }
    }

    /// See [`crate::Session::poll_output`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// See [`crate::Session::poll_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline().map(|(at, _)| at)
    }

    /// See [`crate::Session::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, wait)) = self.deadline()
            && at <= now
        {
            self.expire(wait, now);
            self.advance(now);
        }
    }

    /// See [`crate::Session::wants`].
    #[must_use]
    pub fn wants(&self, from: Side) -> bool {
        match (self.phase, from) {
            (Phase::Opaque, _) => true,
            (Phase::Closed, _) => false,
            (Phase::Open, Side::Client) => self.client.bytes() < CLIENT_PENDING_BYTES_MAX,
            // All else that the server sends is handled at once.
            (Phase::Open, Side::Server) => !matches!(self.reading, Reading::Verdict { .. }),
        }
    }

    /// See [`crate::Session::is_opaque`].
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.phase == Phase::Opaque
    }

    /// Handles what can be handled. The two sides wait for each other: commands for a place in the
    /// queue, SASL responses for their challenge.
    fn advance(&mut self, now: Instant) {
        while self.phase == Phase::Open && (self.advance_client(now) || self.advance_server(now)) {}
    }

    /// One step of what the client sent; false when there is none.
    fn advance_client(&mut self, now: Instant) -> bool {
        if self.client.is_empty() {
            if self.client.end == Some(End::Fin) && !self.client.end_relayed {
                // A line without its end is no command and would be one for some servers: dropped.
                self.client.partial();
                self.client.end_relayed = true;
                self.outputs.push_back(Output::Shutdown { to: Side::Server, how: End::Fin });
                self.note_ends();
            }
            return false;
        }
        match self.turn {
            Turn::AuthReply => false,
            Turn::Command if self.in_flight.is_full() => false,
            Turn::TlsReply => {
                self.violation(Side::Client, Violation::InjectionBehindStartTls);
                true
            }
            Turn::TlsHello if self.client.first() == Some(TLS_HANDSHAKE) => {
                self.phase = Phase::Opaque;
                self.event(Event::Opaque(OpaqueReason::Tls));
                while let Some(bytes) = self.client.take(usize::MAX) {
                    self.send(Side::Server, bytes);
                }
                true
            }
            Turn::TlsHello => {
                self.violation(Side::Client, Violation::InjectionBehindStartTls);
                true
            }
            Turn::Command | Turn::AuthResponse => {
                match self.client.line(COMMAND_LINE_BYTES_MAX, now) {
                    Step::Line(line) => self.on_client_line(line, now),
                    Step::TooLong if self.turn == Turn::AuthResponse => {
                        self.violation(Side::Client, Violation::LineTooLong);
                    }
                    Step::TooLong => self.event(Event::Violation {
                        side: Side::Client,
                        what: Violation::LineTooLong,
                    }),
                    Step::Dropped => self.refuse(replies::TOO_LONG),
                    Step::More => return false,
                }
                true
            }
        }
    }

    fn on_client_line(&mut self, line: Bytes, now: Instant) {
        let content = content(&line);
        if self.turn == Turn::AuthResponse {
            // Never a command, and never looked into: it may be a password.
            if content.iter().any(|byte| byte.is_ascii_control()) {
                return self.violation(Side::Client, Violation::BareLineEnd);
            }
            self.server.heard = now;
            self.turn = Turn::AuthReply;
            return self.forward_line(Side::Server, line);
        }
        match command::parse(content) {
            Err(Refusal::Empty) => self.refuse(replies::EMPTY),
            Err(Refusal::ControlByte) => {
                self.event(Event::Violation { side: Side::Client, what: Violation::BareLineEnd });
                self.refuse(replies::CONTROL_BYTE);
            }
            Ok(command) => {
                if self.in_flight.is_empty() {
                    self.server.heard = now;
                }
                self.turn = match command {
                    Command::Auth => Turn::AuthReply,
                    Command::Stls => Turn::TlsReply,
                    _ => Turn::Command,
                };
                self.enqueue(InFlight::Server(command));
                self.forward_line(Side::Server, line);
            }
        }
    }

    /// Answers a command ourselves, in its turn.
    fn refuse(&mut self, reply: &'static [u8]) {
        self.enqueue(InFlight::Own(reply));
        self.settle();
    }

    fn enqueue(&mut self, reply: InFlight) {
        let queued = self.in_flight.push_back(reply);
        debug_assert!(queued.is_ok(), "no command is read while the queue is full");
    }

    /// Sends our own replies whose turn it is: while an answer is being read, its command is in front.
    fn settle(&mut self) {
        while let Some(InFlight::Own(reply)) = self.in_flight.front() {
            let reply = Bytes::from_static(reply);
            self.in_flight.pop_front();
            self.send(Side::Client, reply);
        }
    }

    /// Sends a line on, with the line end that both peers take for one.
    fn forward_line(&mut self, to: Side, line: Bytes) {
        if line.ends_with(b"\r\n") {
            return self.send(to, line);
        }
        let from = to.other();
        let inbox = if from == Side::Client { &mut self.client } else { &mut self.server };
        if !std::mem::replace(&mut inbox.repaired, true) {
            self.event(Event::Violation { side: from, what: Violation::BareLineEnd });
        }
        let length = content(&line).len();
        self.send(to, line.slice(..length));
        self.send(to, Bytes::from_static(b"\r\n"));
    }

    fn send(&mut self, to: Side, bytes: Bytes) {
        let ended = match to {
            Side::Client => self.server.end_relayed,
            Side::Server => self.client.end_relayed,
        };
        if !ended && !bytes.is_empty() {
            self.outputs.push_back(Output::Send { to, bytes });
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Ends the session because a peer broke the protocol beyond repair.
    fn violation(&mut self, side: Side, what: Violation) {
        self.event(Event::Violation { side, what });
        self.fail(replies::violation(side));
    }

    /// Ends the session: with a last reply where one has its place, else by a reset.
    fn fail(&mut self, reply: &'static [u8]) {
        let between_replies = !matches!(self.reading, Reading::List { .. });
        if between_replies && self.turn != Turn::TlsHello {
            self.abort_message();
            self.send(Side::Client, Bytes::from_static(reply));
            self.close(End::Fin, End::Reset);
        } else {
            self.close(End::Reset, End::Reset);
        }
    }

    /// Shuts down both connections. Without QUIT the server deletes nothing (RFC 1939 section 6).
    fn close(&mut self, client: End, server: End) {
        self.abort_message();
        self.outputs.push_back(Output::Shutdown { to: Side::Client, how: client });
        self.outputs.push_back(Output::Shutdown { to: Side::Server, how: server });
        self.phase = Phase::Closed;
        self.client.clear();
        self.server.clear();
        self.in_flight.clear();
    }

    /// When both directions have ended, nothing is left to wait for.
    fn note_ends(&mut self) {
        if self.client.end_relayed && self.server.end_relayed {
            self.phase = Phase::Closed;
        }
    }

    fn abort_message(&mut self) {
        if matches!(self.reading, Reading::Message { .. } | Reading::Verdict { .. }) {
            self.reading = Reading::Reply;
            self.outputs.push_back(Output::MessageAbort);
        }
    }
}

/// Shows no byte of either peer: there are passwords among them.
impl fmt::Debug for Pop3Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reading = match self.reading {
            Reading::Reply => "reply",
            Reading::List { .. } => "list",
            Reading::Message { .. } => "message",
            Reading::Verdict { .. } => "verdict",
        };
        f.debug_struct("Pop3Session")
            .field("phase", &self.phase)
            .field("turn", &self.turn)
            .field("reading", &reading)
            .field("in_flight", &self.in_flight.iter().count())
            .field("client_pending_bytes", &self.client.bytes())
            .field("server_pending_bytes", &self.server.bytes())
            .finish_non_exhaustive()
    }
}

/// A line without its line end.
fn content(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
