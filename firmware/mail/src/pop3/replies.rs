//! The server's half: replies matched to commands, lists, messages; and our own words.

use std::mem;
use std::time::Instant;

use bytes::Bytes;

use super::command::Command;
use super::inbox::Step;
use super::message::{DotStream, Early, Fate, Joined, Message};
use super::{InFlight, Pop3Session, REPLY_LINE_BYTES_MAX, Reading, Turn, Unframed, content};
use crate::dot::Piece;
use crate::{End, Envelope, Event, OpaqueReason, Output, Protocol, Side, Violation};

/// To a command over the limit.
pub(super) const TOO_LONG: &[u8] = b"-ERR command line too long\r\n";
/// To a line without a command.
pub(super) const EMPTY: &[u8] = b"-ERR no command\r\n";
/// To a command that servers might read in different ways.
pub(super) const CONTROL_BYTE: &[u8] = b"-ERR control character in command\r\n";
/// To a command that is not let through.
pub(super) const FORBIDDEN: &[u8] = b"-ERR command not allowed here\r\n";
/// Before a close because of the client's errors.
pub(super) const TOO_MANY_REFUSED: &[u8] = b"-ERR too many errors, closing the connection\r\n";
/// Before a close because the server did not answer.
pub(super) const SERVER_TIMED_OUT: &[u8] = b"-ERR the mail server did not answer in time\r\n";

const CLIENT_VIOLATION: &[u8] = b"-ERR protocol error, closing the connection\r\n";
const SERVER_VIOLATION: &[u8] = b"-ERR the mail server broke the protocol, closing\r\n";

/// The last words to a client after that side's violation.
pub(super) fn violation(side: Side) -> &'static [u8] {
    match side {
        Side::Client => CLIENT_VIOLATION,
        Side::Server => SERVER_VIOLATION,
    }
}

/// What a reply line says.
enum Status {
    Ok,
    Err,
    /// A SASL challenge (RFC 5034 section 4), to AUTH; or what looks like one, to an unknown command.
    Challenge,
}

impl Pop3Session {
    /// One step of what the server sent; false when there is none, or it has to wait.
    pub(super) fn advance_server(&mut self, now: Instant) -> bool {
        self.settle();
        if matches!(self.reading, Reading::Verdict { .. }) {
            return false;
        }
        if self.server.is_empty() {
            return self.relay_server_end();
        }
        if self.turn == Turn::TlsHello {
            // In TLS it is the client that speaks first.
            self.violation(Side::Server, Violation::InjectionBehindStartTls);
            return true;
        }
        match &mut self.reading {
            Reading::Reply => match self.server.line(REPLY_LINE_BYTES_MAX, now) {
                Step::Line(line) => self.on_reply(line, now),
                Step::TooLong | Step::Dropped => {
                    self.violation(Side::Server, Violation::LineTooLong);
                }
                Step::More => return false,
            },
            Reading::List { .. } => self.advance_list(now),
            // The server goes on: its answer to an unknown command is scanned, whatever it is.
            Reading::Unframed { lf_only, .. } => {
                let lf_only = *lf_only;
                self.begin_message(None, lf_only, None, now);
            }
            Reading::Message { .. } => self.advance_message(now),
            Reading::Verdict { .. } => return false,
        }
        true
    }

    /// The server has nothing more to say.
    fn relay_server_end(&mut self) -> bool {
        let Some(end) = self.server.end else { return false };
        if self.server.end_relayed {
            return false;
        }
        match (&self.reading, end) {
            // Nothing of a held message goes out, and no end of it is made up.
            (Reading::Message { .. }, _) | (_, End::Reset) => self.close(Side::Server, end, end),
            _ => {
                let rest = self.server.partial();
                self.send(Side::Client, rest);
                self.server.end_relayed = true;
                self.outputs.push_back(Output::Shutdown { to: Side::Client, how: End::Fin });
                self.note_ends();
            }
        }
        true
    }

    fn on_reply(&mut self, line: Bytes, now: Instant) {
        let text = content(&line);
        if text.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return self.violation(Side::Server, Violation::BareLineEnd);
        }
        let command = match self.in_flight.front() {
            Some(InFlight::Server(command)) => Some(*command),
            Some(InFlight::Own(_)) | None => None,
        };
        match (status(text, command), command) {
            (Some(Status::Challenge), Some(Command::Auth)) => {
                self.turn = Turn::AuthResponse;
                self.forward_line(Side::Client, line);
            }
            // Whose turn it is, and in what, is not known any more.
            (Some(Status::Challenge), Some(Command::Unknown))
            | (Some(Status::Ok), Some(Command::Submit))
                if self.settings.unframed == Unframed::Opaque =>
            {
                self.forward_line(Side::Client, line);
                self.go_opaque(OpaqueReason::Unframed);
            }
            (Some(Status::Ok), Some(Command::Retrieve { number })) => {
                let lf_only = !line.ends_with(b"\r\n");
                self.begin_message(Some(line), lf_only, number, now);
            }
            (Some(Status::Ok), Some(Command::Listing)) => {
                let stream = DotStream::new(!line.ends_with(b"\r\n"));
                self.reading = Reading::List { stream, since: now };
                self.forward_line(Side::Client, line);
            }
            (Some(Status::Ok), Some(Command::Unknown)) => {
                let lf_only = !line.ends_with(b"\r\n");
                self.reading = Reading::Unframed { lf_only, since: now };
                self.forward_line(Side::Client, line);
            }
            (Some(status @ (Status::Ok | Status::Err)), Some(command)) => {
                self.answered(now);
                self.forward_line(Side::Client, line);
                self.on_single_line(command, &status);
            }
            // Servers announce an automatic logout so; once.
            (Some(Status::Err), None) if !self.server_gave_up => {
                self.server_gave_up = true;
                self.forward_line(Side::Client, line);
            }
            _ => self.violation(Side::Server, Violation::UnexpectedReply),
        }
    }

    /// The answer to the oldest command is over.
    pub(super) fn answered(&mut self, now: Instant) {
        self.in_flight.pop_front();
        self.turn_since = now;
        if self.turn == Turn::Unknown && !self.awaits_unknown() {
            self.turn = Turn::Command;
        }
    }

    fn awaits_unknown(&self) -> bool {
        let is_unknown = |reply: &InFlight| {
            matches!(reply, InFlight::Server(Command::Unknown | Command::Submit))
        };
        self.in_flight.iter().any(is_unknown)
    }

    fn on_single_line(&mut self, command: Command, status: &Status) {
        let accepted = matches!(status, Status::Ok);
        match command {
            Command::Stls => self.turn = if accepted { Turn::TlsHello } else { Turn::Command },
            Command::Auth => self.turn = Turn::Command,
            _ => {}
        }
        if accepted && matches!(command, Command::Login | Command::Auth) {
            self.event(Event::Authenticated);
        }
    }

    /// A list, or a message that cannot be held.
    fn advance_list(&mut self, now: Instant) {
        let Reading::List { stream, .. } = &mut self.reading else { return };
        let Some(mut input) = self.server.take(usize::MAX) else { return };
        let outputs = &mut self.outputs;
        let mut send = |bytes| outputs.push_back(Output::Send { to: Side::Client, bytes });
        let mut sent = Joined::default();
        let mut end = None;
        while let Some(piece) = stream.advance(&mut input) {
            match piece {
                Piece::Data { wire, .. } => sent.push(wire, &mut send),
                Piece::Trick => {
                    end = Some(piece);
                    break;
                }
                Piece::End { ref marker, .. } => {
                    sent.push(marker.clone(), &mut send);
                    end = Some(piece);
                    break;
                }
            }
        }
        sent.flush(&mut send);
        match end {
            // Part of it is out: neither a notice nor a reply has a place any more.
            Some(Piece::Trick) => self.violation(Side::Server, Violation::BareLineEnd),
            Some(_) => {
                self.server.untake(input);
                self.reading = Reading::Reply;
                self.answered(now);
            }
            None => {}
        }
    }

    /// `status` is still to be held, if there is one.
    fn begin_message(
        &mut self,
        status: Option<Bytes>,
        lf_only: bool,
        number: Option<u32>,
        now: Instant,
    ) {
        self.outputs.push_back(Output::MessageBegin(Envelope {
            protocol: Protocol::Pop3,
            authenticated: true,
            mail_from: Bytes::new(),
            rcpt_to: Vec::new(),
            message_number: number,
        }));
        let due = self.turn_since.checked_add(self.settings.keep_alive_first);
        let is_retrieved = status.is_some();
        let mut received_bytes = 0;
        let early = match status {
            None => Early::behind_status(due),
            Some(status) => {
                received_bytes = status.len();
                let text = status.slice(..content(&status).len());
                let bytes = if lf_only { [&*text, b"\r\n"].concat().into() } else { status };
                let early = Early::held(bytes.len(), due);
                self.outputs.push_back(Output::Hold(bytes));
                early
            }
        };
        let message = Message::new(is_retrieved, received_bytes, DotStream::new(lf_only), early);
        self.reading = Reading::Message { message: Box::new(message), since: now };
    }

    fn advance_message(&mut self, now: Instant) {
        let Reading::Message { message, .. } = &mut self.reading else { return };
        let room = message.room(self.settings.message_hold_bytes_max);
        if room == 0 {
            return self.no_room(now);
        }
        let Some(mut input) = self.server.take(room) else { return };
        message.received_bytes += input.len() as u64;
        let (mut held, mut scanned) = (Joined::default(), Joined::default());
        let mut outputs = Vec::new();
        let header_bytes = message.headers.as_on_wire().len();
        let (mut ended, mut tricked) = (false, false);
        while let Some(piece) = message.stream.advance(&mut input) {
            let (wire, content) = match piece {
                Piece::Data { wire, content } => {
                    message.at_odd_end &= wire.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0));
                    (wire, content)
                }
                Piece::Trick => {
                    message.at_odd_end = true;
                    message.headers.seal();
                    if message.fate == Fate::Held {
                        message.fate = Fate::Malformed;
                        tricked = true;
                    }
                    continue;
                }
                Piece::End { marker, content } => {
                    ended = true;
                    (marker, content)
                }
            };
            if !ended && wire.len() != content.len() {
                message.headers.seal();
            }
            message.headers.push(&content);
            if message.fate == Fate::Held {
                held.push(wire, &mut |bytes| outputs.push(Output::Hold(bytes)));
            }
            if message.fate != Fate::NoRoom {
                scanned.push(content, &mut |bytes| outputs.push(Output::MessageData(bytes)));
            }
        }
        held.flush(&mut |bytes| outputs.push(Output::Hold(bytes)));
        scanned.flush(&mut |bytes| outputs.push(Output::MessageData(bytes)));
        self.outputs.extend(outputs);
        self.server.untake(input);
        if message.early.is_overdue
            && message.headers.as_on_wire().len() > header_bytes
            && message.next_early().is_some()
        {
            (message.early.due, message.early.is_overdue) = (Some(now), false);
        }
        if tricked {
            self.event(Event::Violation { side: Side::Server, what: Violation::BareLineEnd });
        }
        if ended {
            self.end_message(now);
        }
    }

    /// The message is complete, by its mark or by the server's silence.
    pub(super) fn end_message(&mut self, now: Instant) {
        match mem::replace(&mut self.reading, Reading::Reply) {
            Reading::Message { message, since } if message.fate == Fate::NoRoom => {
                self.reading = Reading::Message { message, since };
                self.end_unheld(now);
            }
            Reading::Message { message, .. } => {
                self.reading = Reading::Verdict { message, since: now };
                self.outputs.push_back(Output::MessageEnd);
            }
            other => self.reading = other,
        }
    }
}

/// Reads replies as generously as the most generous client does: what one takes for `+OK` is one.
/// (RFC 1939 section 3 wants a blank behind the keyword; not every server has one.)
fn status(line: &[u8], awaited: Option<Command>) -> Option<Status> {
    let starts = |keyword: &str| {
        let start = line.get(..keyword.len()).unwrap_or_default();
        start.eq_ignore_ascii_case(keyword.as_bytes())
    };
    if starts("+OK") {
        Some(Status::Ok)
    } else if starts("-ERR") {
        Some(Status::Err)
    } else if starts("+") && matches!(awaited, Some(Command::Auth | Command::Unknown)) {
        Some(Status::Challenge)
    } else {
        None
    }
}
