//! A POP3 session as it crosses the gateway (RFC 1939, 2449, 2595, 5034, 6856).
//!
//! Commands are forwarded as they come and remembered in order; each reply is matched to the oldest
//! of them, which tells whether it is one line, a list or a message. Lists are passed on as they
//! arrive, CAPA untouched. The answer to RETR and TOP is handed to the driver to keep, status line
//! included ([`Output::Hold`]), until [`Pop3Session::verdict`]: then it goes out byte for byte, or a
//! complete notice mail in its place, or the driver's edited version. Only the beginning of its header
//! is in memory, so a session's memory does not depend on the size of a mail.
//!
//! **Keep-alive.** While the client waits for a message, because its server or its scan is slow, it
//! gets something now and then ([`Settings::keep_alive_first`], [`Settings::keep_alive_interval`]):
//! first the status line, then header fields from the top, one at a time, and the last free text among
//! them byte by byte. Never a field that decides how the body is read, nor one that makes a mail
//! program act, nor anything behind it. So the rest of the message fits behind what has left, byte for
//! byte, and the rest of a notice does as well.
//!
//! **Unknown commands.** Nothing that the client says behind one is forwarded before its answer is
//! over. `-ERR` is one line. Behind `+OK` either the server goes on, and what comes is held and scanned
//! as a message, whatever it is; or it says nothing for [`UNFRAMED_TIMEOUT`] and the client goes on, and
//! that was it. What cannot be followed at all is refused, or passes unread and counted ([`Settings::unframed`]).
//!
//! What is not forwarded as it came:
//! - A line that ends with a bare LF, of a command or of a reply, is sent on with CRLF, so that both
//!   peers see the same line. If a status line of the server ends so, its list or message is taken
//!   to be of LF lines throughout (LF.LF ends it) and gets CRLFs too: that server's terminator
//!   becomes the one that every client takes.
//! - A command with a control byte in it, without any word, or over [`COMMAND_LINE_BYTES_MAX`], and
//!   XCLIENT, is answered by `-ERR` in its turn and not forwarded.
//! - A message with a lone dot between odd line ends (`\n.\n`, `\r\n.\n`, ...; see [`crate::dot`])
//!   could end earlier for the client than for us: a notice takes its place, whatever the scan says.
//!   Its end is CRLF.CRLF; if the server falls silent right behind an odd end instead, that was it.
//! - Where neither helps (a reply to nothing, a line that is no reply, an odd end inside a list, bytes
//!   behind STLS) the session is closed.
//!
//! The same message refused once is refused on every RETR and TOP, because each is scanned: nothing is
//! remembered. No DELE is ever made up, and a refused message is never answered `-ERR`: mail programs
//! stop at it. STAT, LIST and UIDL tell of the original.
//!
//! Must not depend on the SMTP side. Entry: [`Pop3Session`].

mod command;
mod from_client;
mod inbox;
mod limits;
mod message;
mod notices;
mod replies;
#[cfg(test)]
mod tests;
mod timing;

pub use self::limits::*;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use self::command::Command;
use self::inbox::Inbox;
use self::message::{DotStream, Fate, Message};
use crate::notice::{Language, Templates};
use crate::{
    Decision, Done, End, Event, OpaqueReason, Output, Settled, SettledBy, Side, TLS_HANDSHAKE,
    Violation, WallClock,
};

/// A POP3 session; see [`crate::Session`] for the order of calls.
pub struct Pop3Session {
    language: Language,
    templates: Arc<Templates>,
    settings: Settings,
    phase: Phase,
    turn: Turn,
    reading: Reading,
    in_flight: heapless::Deque<InFlight, COMMANDS_IN_FLIGHT_MAX>,
    client: Inbox,
    server: Inbox,
    /// The server said `-ERR` on its own, as before an automatic logout.
    server_gave_up: bool,
    /// Commands answered here, in total.
    refused: u32,
    /// Since when it has been the turn of the oldest command: it was forwarded, or the answer before
    /// its own ended.
    turn_since: Instant,
    wall: WallClock,
    outputs: VecDeque<Output>,
}

/// Whether the session is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// TLS, or nothing that can be followed: bytes are passed through.
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
    /// The answer to an unknown command is not over: what comes waits.
    Unknown,
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
    /// A list, or a message that cannot be held: passed on as it comes.
    List { stream: DotStream, since: Instant },
    /// Behind the `+OK` to an unknown command: more of its answer, or nothing.
    Unframed { lf_only: bool, since: Instant },
    /// A message that is held. Boxed: most sessions are idle.
    Message { message: Box<Message>, since: Instant },
    /// Nothing is read until the verdict on this message.
    Verdict { message: Box<Message>, since: Instant },
}

impl Pop3Session {
    /// See [`crate::Session::new`]: the server speaks first.
    pub(crate) fn new(settings: &crate::Settings, wall: WallClock) -> Self {
        let now = wall.started;
        let mut in_flight = heapless::Deque::new();
        let greeting = in_flight.push_back(InFlight::Server(Command::Line));
        debug_assert!(greeting.is_ok(), "the queue is empty");
        Self {
            language: settings.language,
            templates: Arc::clone(&settings.templates),
            settings: settings.pop3.clone(),
            phase: Phase::Open,
            turn: Turn::Command,
            reading: Reading::Reply,
            in_flight,
            client: Inbox::new(now),
            server: Inbox::new(now),
            server_gave_up: false,
            refused: 0,
            turn_since: now,
            wall,
            outputs: VecDeque::new(),
        }
    }

    /// See [`crate::Session::receive`].
    pub fn receive(&mut self, from: Side, bytes: Bytes, now: Instant) {
        let inbox = match from {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        match self.phase {
            // Behind its end a side says nothing.
            _ if inbox.end.is_some() => {}
            Phase::Open => {
                inbox.push(bytes, now);
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
                match from {
                    Side::Client => self.client.end = Some(end),
                    Side::Server => self.server.end = Some(end),
                }
                self.outputs.push_back(Output::Shutdown { to: from.other(), how: end })
            }
            (Phase::Open, Side::Client, End::Reset) => {
                self.close(Side::Client, End::Reset, End::Reset);
            }
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
            self.decide(decision, SettledBy::Decision, now);
            self.advance(now);
        }
    }

    /// See [`crate::Session::hold_failed`].
    pub fn hold_failed(&mut self, now: Instant) {
        self.no_room(now);
        self.advance(now);
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
        self.fail(side, replies::violation(side));
    }

    /// Ends the session for what that side did or did not do: with a last reply where one has its
    /// place, else by a reset.
    fn fail(&mut self, side: Side, reply: &'static [u8]) {
        let between_replies = match &self.reading {
            Reading::Reply => true,
            Reading::Message { message, .. } | Reading::Verdict { message, .. } => {
                !message.early.status_is_out
            }
            Reading::List { .. } | Reading::Unframed { .. } => false,
        };
        if between_replies && self.turn != Turn::TlsHello {
            self.abort_message(side);
            self.send(Side::Client, Bytes::from_static(reply));
            self.close(side, End::Fin, End::Reset);
        } else {
            self.close(side, End::Reset, End::Reset);
        }
    }

    /// From here on bytes pass both ways as they come.
    fn go_opaque(&mut self, reason: OpaqueReason) {
        self.phase = Phase::Opaque;
        self.event(Event::Opaque(reason));
        self.in_flight.clear();
        for from in [Side::Client, Side::Server] {
            let inbox = if from == Side::Client { &mut self.client } else { &mut self.server };
            let (rest, ended) = (inbox.take_all(), inbox.end.filter(|_| !inbox.end_relayed));
            for bytes in rest {
                self.send(from.other(), bytes);
            }
            if let Some(how) = ended {
                self.outputs.push_back(Output::Shutdown { to: from.other(), how });
            }
        }
    }

    /// Shuts down both connections, for what that side did. Without QUIT the server deletes nothing
    /// (RFC 1939 section 6).
    fn close(&mut self, side: Side, client: End, server: End) {
        self.abort_message(side);
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

    /// Drops the message that is under way, for what that side did.
    fn abort_message(&mut self, side: Side) {
        let message = match std::mem::replace(&mut self.reading, Reading::Reply) {
            Reading::Message { message, .. } | Reading::Verdict { message, .. } => message,
            other => return self.reading = other,
        };
        if message.fate != Fate::NoRoom {
            self.outputs.push_back(Output::MessageAbort);
        }
        if message.is_kept {
            self.outputs.push_back(Output::DropHeld);
        }
        // What was said to an unknown command may have been anything.
        if message.is_retrieved {
            self.settled(Done::CutOff, SettledBy::Peer(side));
        }
    }

    fn settled(&mut self, done: Done, by: SettledBy) {
        self.event(Event::Settled(Settled { done, by, answer: None }));
    }
}

/// Shows no byte of either peer: there are passwords among them.
impl fmt::Debug for Pop3Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reading = match self.reading {
            Reading::Reply => "reply",
            Reading::List { .. } => "list",
            Reading::Unframed { .. } => "unframed",
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
