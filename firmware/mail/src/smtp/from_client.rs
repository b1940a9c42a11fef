//! What the client says: commands, SASL responses, messages, and the end of its direction.

use bytes::Bytes;

use super::command::{self, Command};
use super::inbox::Line;
use super::{
    AfterDrain, COMMAND_LINE_BYTES_MAX, OUTPUTS_MAX, Outlet, Pending, Phase, REFUSED_COMMANDS_MAX,
    SmtpSession, text,
};
use crate::dot::Piece;
use crate::{End, Event, Output, Side, Violation};

impl SmtpSession {
    /// True if something changed.
    pub(super) fn serve_client(&mut self) -> bool {
        match &self.phase {
            Phase::Greeting | Phase::Undecided | Phase::Held(_) => false,
            Phase::Commands | Phase::Sasl if self.pending.is_full() => false,
            Phase::Commands | Phase::Sasl | Phase::Orphan => {
                match self.client.take_line(COMMAND_LINE_BYTES_MAX) {
                    Line::Complete(line) => {
                        self.lines += 1;
                        self.line(line);
                        true
                    }
                    Line::TooLong => {
                        self.bad_line(Violation::LineTooLong, text::LINE_TOO_LONG);
                        true
                    }
                    Line::Incomplete => false,
                }
            }
            Phase::Message(_) => self.message(),
            Phase::Drain { .. } => self.drain(),
            Phase::StartTls => {
                if self.client.is_empty() {
                    return false;
                }
                let what = Violation::InjectionBehindStartTls;
                self.violation(Side::Client, what, text::TLS_INJECTION);
                true
            }
            Phase::TlsHello => {
                let has_spoken = !self.client.is_empty();
                if has_spoken {
                    self.phase = Phase::Opaque;
                }
                has_spoken
            }
            Phase::Opaque => match self.client.take_chunk() {
                Some(bytes) => {
                    self.send(Side::Server, bytes);
                    true
                }
                None => false,
            },
            Phase::Farewell | Phase::Closed => {
                self.client.clear();
                false
            }
        }
    }

    /// A whole line: a command or a SASL response.
    fn line(&mut self, line: Bytes) {
        let text = match line.strip_suffix(b"\r\n") {
            Some(text) if !text.iter().any(|byte| matches!(byte, 0 | b'\r')) => text,
            _ => {
                self.bad_line(Violation::BareLineEnd, text::BARE_LINE_END);
                return;
            }
        };
        match self.phase {
            Phase::Sasl => {
                self.phase = Phase::Undecided;
                self.forward(line, Pending::Auth);
            }
            Phase::Orphan => {
                let is_quit = command::parse(text) == Command::Quit;
                let reply = if is_quit { text::ORPHAN_QUIT } else { text::ORPHAN };
                self.send(Side::Client, reply.into());
                self.close(End::Fin);
            }
            _ => {
                let command = command::parse(text);
                self.command(line, command);
            }
        }
    }

    fn command(&mut self, line: Bytes, command: Command) {
        match command {
            Command::Ehlo => self.forward(line, Pending::Ehlo),
            Command::Restart => self.forward(line, Pending::Restart),
            Command::Mail(path) => self.forward(line, Pending::Mail(path)),
            Command::Rcpt(path) => self.forward(line, Pending::Rcpt(path)),
            Command::Quit | Command::Other => self.forward(line, Pending::Other),
            Command::Data => {
                self.phase = Phase::Undecided;
                self.forward(line, Pending::Data);
            }
            Command::Auth => {
                self.phase = Phase::Undecided;
                self.forward(line, Pending::Auth);
            }
            Command::StartTls => {
                self.phase = Phase::StartTls;
                self.forward(line, Pending::StartTls);
            }
            Command::Nothing => self.refuse_command(text::NO_COMMAND),
            Command::MailBinary => self.refuse_command(text::NO_BINARYMIME),
            Command::Forbidden => {
                self.forbidden();
                self.refuse_command(text::FORBIDDEN);
            }
            // What follows is a chunk, of a length that could be read in two ways.
            Command::Bdat => {
                self.forbidden();
                self.last_word(text::NO_BDAT);
            }
        }
    }

    fn forward(&mut self, line: Bytes, pending: Pending) {
        self.send(Side::Server, line);
        self.expect(pending);
    }

    fn forbidden(&mut self) {
        let what = Violation::ForbiddenCommand;
        self.event(Event::Violation { side: Side::Client, what });
    }

    /// Answers a command in the server's place.
    fn refuse_command(&mut self, reply: &'static str) {
        self.refused += 1;
        if self.refused > REFUSED_COMMANDS_MAX {
            self.last_word(text::TOO_MANY_REFUSED);
        } else {
            self.expect(Pending::Own(reply));
            self.flush_own();
        }
    }

    /// A line that could be read in two ways, or never ends.
    fn bad_line(&mut self, what: Violation, reply: &'static str) {
        self.event(Event::Violation { side: Side::Client, what });
        if matches!(self.phase, Phase::Orphan) {
            self.send(Side::Client, reply.into());
            self.close(End::Fin);
        } else {
            self.last_word(reply);
        }
    }

    /// Passes on what has come of the message. True if something changed.
    fn message(&mut self) -> bool {
        if self.outputs.len() >= OUTPUTS_MAX {
            return false;
        }
        let Some(mut chunk) = self.client.take_chunk() else { return false };
        let Phase::Message(transfer) = &mut self.phase else { return false };
        while self.outputs.len() < OUTPUTS_MAX
            && let Some(piece) = transfer.framer.advance(&mut chunk)
        {
            match piece {
                Piece::Data { wire, content } => {
                    transfer.bytes = transfer.bytes.saturating_add(wire.len() as u64);
                    self.outputs.push_back(Output::Send { to: Side::Server, bytes: wire });
                    if !content.is_empty() {
                        self.outputs.push_back(Output::MessageData(content));
                    }
                }
                Piece::Trick => {
                    self.client.push_front(chunk);
                    let what = Violation::BareLineEnd;
                    self.event(Event::Violation { side: Side::Client, what });
                    self.outputs.push_back(Output::MessageAbort);
                    self.refuse_message(text::SMUGGLING.into());
                    return true;
                }
                Piece::End { marker, content } => {
                    self.client.push_front(chunk);
                    if !content.is_empty() {
                        self.outputs.push_back(Output::MessageData(content));
                    }
                    self.outputs.push_back(Output::MessageEnd);
                    self.phase = Phase::Held(marker);
                    return true;
                }
            }
        }
        // What is left over goes on when the outputs have been taken.
        self.client.push_front(chunk);
        true
    }

    /// Throws away the rest of a message. True if something changed.
    fn drain(&mut self) -> bool {
        let Some(mut chunk) = self.client.take_chunk() else { return false };
        let Phase::Drain { transfer, then } = &mut self.phase else { return false };
        while let Some(piece) = transfer.framer.advance(&mut chunk) {
            match piece {
                Piece::Data { wire, .. } => {
                    transfer.bytes = transfer.bytes.saturating_add(wire.len() as u64);
                }
                Piece::Trick => {}
                Piece::End { .. } => {
                    let then = *then;
                    self.client.push_front(chunk);
                    match then {
                        AfterDrain::Orphan => self.phase = Phase::Orphan,
                        AfterDrain::Close => self.close(End::Fin),
                    }
                    return true;
                }
            }
        }
        true
    }

    /// The client has ended its direction, and all of it that could be handled is.
    pub(super) fn end_client(&mut self) {
        match self.phase {
            // The replies still go to the client; a line without its end is no command.
            Phase::Commands | Phase::Sasl if !self.pending.is_full() => {
                self.shutdown(Side::Server, End::Fin);
            }
            Phase::TlsHello | Phase::Opaque => {
                self.shutdown(Side::Server, End::Fin);
                if self.to_client != Outlet::Open {
                    self.phase = Phase::Closed;
                }
            }
            Phase::Message(_) if self.client.is_empty() => {
                self.outputs.push_back(Output::MessageAbort);
                self.shutdown(Side::Server, End::Reset);
                self.close(End::Fin);
            }
            Phase::Drain { .. } | Phase::Orphan => self.close(End::Fin),
            _ => {}
        }
    }
}
