//! The server's half: replies matched to commands, lists, messages; and our own words.

use std::mem;
use std::time::Instant;

use bytes::Bytes;

use super::command::Command;
use super::inbox::Step;
use super::message::{DotStream, Message};
use super::{InFlight, Pop3Session, REPLY_LINE_BYTES_MAX, Reading, Turn, content};
use crate::dot::Piece;
use crate::notice::{Cause, Notice};
use crate::{Decision, End, Envelope, Event, Finding, Output, Protocol, Side, Violation};

/// To a command over the limit.
pub(super) const TOO_LONG: &[u8] = b"-ERR command line too long\r\n";
/// To a line without a command.
pub(super) const EMPTY: &[u8] = b"-ERR no command\r\n";
/// To a command that servers might read in different ways.
pub(super) const CONTROL_BYTE: &[u8] = b"-ERR control character in command\r\n";
/// Before a close because the server did not answer.
pub(super) const SERVER_TIMED_OUT: &[u8] = b"-ERR the mail server did not answer in time\r\n";

const CLIENT_VIOLATION: &[u8] = b"-ERR protocol error, closing the connection\r\n";
const SERVER_VIOLATION: &[u8] = b"-ERR the mail server broke the protocol, closing\r\n";

/// Name of the finding for a message whose end clients could see in different places.
pub(super) const MALFORMED_LINE_END: &str = "Malformed.LineEnd";

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
    /// A SASL challenge (RFC 5034 section 4); only to AUTH.
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
            Reading::List { .. } => self.advance_list(),
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
            (Reading::Message { .. }, _) | (_, End::Reset) => self.close(end, end),
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
            (Some(Status::Challenge), _) => {
                self.turn = Turn::AuthResponse;
                self.forward_line(Side::Client, line);
            }
            (Some(Status::Ok), Some(Command::Retrieve { number })) => {
                self.begin_message(line, number, now);
            }
            (Some(Status::Ok), Some(Command::Listing)) => {
                let stream = DotStream::new(!line.ends_with(b"\r\n"));
                self.reading = Reading::List { stream, since: now };
                self.forward_line(Side::Client, line);
            }
            (Some(status @ (Status::Ok | Status::Err)), Some(command)) => {
                self.in_flight.pop_front();
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

    /// A list, or a message over the hold limit.
    fn advance_list(&mut self) {
        let Reading::List { stream, .. } = &mut self.reading else { return };
        let Some(mut input) = self.server.take(usize::MAX) else { return };
        while let Some(piece) = stream.advance(&mut input) {
            match piece {
                Piece::Data { wire: bytes, .. } => {
                    self.outputs.push_back(Output::Send { to: Side::Client, bytes });
                }
                // Part of it is out: neither a notice nor a reply has a place any more.
                Piece::Trick => return self.violation(Side::Server, Violation::BareLineEnd),
                Piece::End { marker: bytes, .. } => {
                    self.outputs.push_back(Output::Send { to: Side::Client, bytes });
                    self.server.untake(input);
                    self.reading = Reading::Reply;
                    self.in_flight.pop_front();
                    return;
                }
            }
        }
    }

    fn begin_message(&mut self, status: Bytes, number: Option<u32>, now: Instant) {
        self.outputs.push_back(Output::MessageBegin(Envelope {
            protocol: Protocol::Pop3,
            authenticated: true,
            mail_from: Bytes::new(),
            rcpt_to: Vec::new(),
            message_number: number,
        }));
        let lf_only = !status.ends_with(b"\r\n");
        let mut message = Message::new(status.len(), DotStream::new(lf_only));
        if lf_only {
            message.hold(status.slice(..content(&status).len()));
            message.hold(Bytes::from_static(b"\r\n"));
        } else {
            message.hold(status);
        }
        self.reading = Reading::Message { message: Box::new(message), since: now };
    }

    fn advance_message(&mut self, now: Instant) {
        let Reading::Message { message, .. } = &mut self.reading else { return };
        let room = message.room(self.message_hold_bytes_max);
        if room == 0 {
            return self.stream_on();
        }
        let Some(mut input) = self.server.take(room) else { return };
        message.received_bytes += input.len();
        let outputs = &mut self.outputs;
        let mut ended = false;
        while let Some(piece) = message.stream.advance(&mut input) {
            let data = match piece {
                Piece::Data { wire, content } => {
                    message.at_odd_end &= wire.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0));
                    message.hold(wire);
                    content
                }
                Piece::Trick => {
                    message.at_odd_end = true;
                    if !message.is_malformed() {
                        message.drop_hold();
                        let what = Violation::BareLineEnd;
                        outputs.push_back(Output::Event(Event::Violation {
                            side: Side::Server,
                            what,
                        }));
                    }
                    continue;
                }
                Piece::End { marker, content } => {
                    message.hold(marker);
                    ended = true;
                    content
                }
            };
            if !data.is_empty() {
                message.headers.push(&data);
                outputs.push_back(Output::MessageData(data));
            }
        }
        self.server.untake(input);
        if ended {
            self.end_message(now);
        }
    }

    /// The message is complete, by its mark or by the server's silence.
    pub(super) fn end_message(&mut self, now: Instant) {
        match mem::replace(&mut self.reading, Reading::Reply) {
            Reading::Message { message, .. } => {
                self.reading = Reading::Verdict { message, since: now };
                self.outputs.push_back(Output::MessageEnd);
            }
            other => self.reading = other,
        }
    }

    /// The message is over the limit: it passes, unscanned and counted.
    fn stream_on(&mut self) {
        match mem::replace(&mut self.reading, Reading::Reply) {
            Reading::Message { message, since } => {
                self.event(Event::HoldLimit);
                self.outputs.push_back(Output::MessageAbort);
                let (stream, held) = message.into_parts();
                for bytes in held {
                    self.send(Side::Client, bytes);
                }
                self.reading = Reading::List { stream, since };
            }
            other => self.reading = other,
        }
    }

    /// Carries out the decision on the message that waits for it.
    pub(super) fn decide(&mut self, decision: Decision, now: Instant) {
        let message = match mem::replace(&mut self.reading, Reading::Reply) {
            Reading::Verdict { message, .. } => message,
            other => return self.reading = other,
        };
        self.in_flight.pop_front();
        self.server.heard = now;
        let decision = match decision {
            Decision::Release | Decision::Tempfail { .. } if message.is_malformed() => {
                Decision::Refuse(Finding {
                    name: MALFORMED_LINE_END.to_owned(),
                    engine: "avr".to_owned(),
                    ..Finding::default()
                })
            }
            decision => decision,
        };
        let cause = match &decision {
            Decision::Release => {
                let (_, held) = message.into_parts();
                for bytes in held {
                    self.send(Side::Client, bytes);
                }
                return;
            }
            Decision::Refuse(finding) | Decision::Replace(finding) | Decision::Edit(finding) => {
                Cause::Refused(finding)
            }
            Decision::Tempfail { reason } => Cause::Unscanned { reason },
        };
        let notice = Notice {
            templates: &self.templates,
            language: self.language,
            protocol: Protocol::Pop3,
            cause,
            original: &message.headers,
        };
        let reply = notice.pop3_reply();
        self.send(Side::Client, reply);
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
    } else if starts("+") && awaited == Some(Command::Auth) {
        Some(Status::Challenge)
    } else {
        None
    }
}
