//! The client's half: commands, SASL responses, and what is not let through.

use std::time::Instant;

use bytes::Bytes;

use super::command::{self, Command, Refusal};
use super::inbox::Step;
use super::{
    COMMAND_LINE_BYTES_MAX, InFlight, Pop3Session, REFUSED_COMMANDS_MAX, Reading, TLS_HANDSHAKE,
    Turn, UNFRAMED_TIMEOUT, Unframed, content, replies,
};
use crate::{End, Event, OpaqueReason, Output, Side, Violation};

impl Pop3Session {
    /// One step of what the client sent; false when there is none.
    pub(super) fn advance_client(&mut self, now: Instant) -> bool {
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
            Turn::Unknown => self.end_unframed(now),
            Turn::Command if self.in_flight.is_full() => false,
            Turn::TlsReply => {
                self.violation(Side::Client, Violation::InjectionBehindStartTls);
                true
            }
            Turn::TlsHello if self.client.first() == Some(TLS_HANDSHAKE) => {
                self.go_opaque(OpaqueReason::Tls);
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
                    Step::Dropped => self.refuse(replies::TOO_LONG, now),
                    Step::More => return false,
                }
                true
            }
        }
    }

    /// The client goes on behind the `+OK` to an unknown command: if its server has been silent for long
    /// enough, that was the answer. (It may be that the client knew no better and sent both at once.)
    pub(super) fn end_unframed(&mut self, now: Instant) -> bool {
        let Reading::Unframed { since, .. } = self.reading else { return false };
        let is_over = since + UNFRAMED_TIMEOUT <= now;
        if is_over {
            self.reading = Reading::Reply;
            self.answered(now);
        }
        is_over
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
            Err(Refusal::Empty) => self.refuse(replies::EMPTY, now),
            Err(Refusal::ControlByte) => {
                self.event(Event::Violation { side: Side::Client, what: Violation::BareLineEnd });
                self.refuse(replies::CONTROL_BYTE, now);
            }
            Err(Refusal::Forbidden) => self.forbid(now),
            Ok(Command::Submit) if self.settings.unframed == Unframed::Close => self.forbid(now),
            Ok(command) => {
                if self.in_flight.is_empty() {
                    self.server.heard = now;
                }
                self.turn = match command {
                    Command::Auth => Turn::AuthReply,
                    Command::Stls => Turn::TlsReply,
                    Command::Unknown | Command::Submit => Turn::Unknown,
                    _ => Turn::Command,
                };
                self.enqueue(InFlight::Server(command), now);
                self.forward_line(Side::Server, line);
            }
        }
    }

    /// Refuses a command that is not let through.
    fn forbid(&mut self, now: Instant) {
        self.event(Event::Violation { side: Side::Client, what: Violation::ForbiddenCommand });
        self.refuse(replies::FORBIDDEN, now);
    }

    /// Answers a command ourselves, in its turn.
    fn refuse(&mut self, reply: &'static [u8], now: Instant) {
        self.refused += 1;
        if self.refused > REFUSED_COMMANDS_MAX {
            self.event(Event::Violation { side: Side::Client, what: Violation::ForbiddenCommand });
            return self.fail(Side::Client, replies::TOO_MANY_REFUSED);
        }
        self.enqueue(InFlight::Own(reply), now);
        self.settle();
    }

    fn enqueue(&mut self, reply: InFlight, now: Instant) {
        if self.in_flight.is_empty() {
            self.turn_since = now;
        }
        let queued = self.in_flight.push_back(reply);
        debug_assert!(queued.is_ok(), "no command is read while the queue is full");
    }
}
