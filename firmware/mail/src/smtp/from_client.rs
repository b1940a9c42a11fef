//! What the client says: commands, SASL responses, messages, and the end of its direction.

use bytes::Bytes;

use super::command::{self, Command};
use super::inbox::Line;
use super::state::{AfterDrain, Content, Last, LastKind, Outlet, Pending, Phase, Rest};
use super::{COMMAND_LINE_BYTES_MAX, OUTPUTS_MAX, REFUSED_COMMANDS_MAX, SmtpSession, text};
use crate::TLS_HANDSHAKE;
use crate::dot::Piece;
use crate::{Done, End, Event, SettledBy, Side, Violation};

impl SmtpSession {
    /// True if something changed.
    pub(super) fn serve_client(&mut self) -> bool {
        match &self.phase {
            Phase::Greeting | Phase::Undecided | Phase::Held(_) => false,
            Phase::Commands | Phase::Sasl if self.pending.is_full() => false,
            Phase::Commands if self.may_wrap && !self.client.is_empty() => {
                self.unwrap_or_go_on();
                true
            }
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
            Phase::Barrier(_) => self.behind_barrier(),
            Phase::Message(_) => self.message(),
            Phase::Chunk(_) => self.chunk(),
            Phase::Judged(..) => self.conclude(),
            Phase::Drain { .. } => self.drain(),
            Phase::StartTls => {
                if self.client.is_empty() {
                    return false;
                }
                let what = Violation::InjectionBehindStartTls;
                self.violation(Side::Client, what, text::TLS_INJECTION);
                true
            }
            Phase::TlsHello => match self.client.first() {
                None => false,
                Some(TLS_HANDSHAKE) => {
                    self.phase = Phase::Opaque;
                    true
                }
                // Who goes on in clear is not passed on unread.
                Some(_) => {
                    let what = Violation::InjectionBehindStartTls;
                    self.violation(Side::Client, what, text::TLS_INJECTION);
                    true
                }
            },
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
            _ if self.is_masked(command::verb(text).0) => {
                self.forbidden();
                self.refuse_command(text::FORBIDDEN);
            }
            _ => {
                let command = command::parse(text);
                self.command(line, command);
            }
        }
    }

    fn command(&mut self, line: Bytes, command: Command) {
        match command {
            Command::Mail { is_binary: true, .. } if self.is_masked(b"BINARYMIME") => {
                self.refuse_command(text::NO_BINARYMIME);
            }
            Command::Ehlo => self.abandon(line, Pending::Ehlo),
            Command::Helo => self.abandon(line, Pending::Helo),
            Command::Rset => self.abandon(line, Pending::Rset),
            Command::Mail { path, .. } => self.abandon(line, Pending::Mail(path)),
            Command::Quit => self.abandon(line, Pending::Plain),
            Command::Rcpt(path) => self.forward(line, Pending::Rcpt(path)),
            Command::Plain => self.forward(line, Pending::Plain),
            Command::Data => {
                self.phase = Phase::Undecided;
                self.abandon(line, Pending::Data);
            }
            Command::Foreign => {
                self.phase = Phase::Undecided;
                self.abandon(line, Pending::Foreign);
            }
            Command::Auth { may_wrap } => {
                self.phase = Phase::Undecided;
                self.may_wrap = may_wrap;
                self.forward(line, Pending::Auth);
            }
            Command::Unknown => {
                self.phase = Phase::Undecided;
                self.forward(line, Pending::Unknown);
            }
            Command::StartTls => {
                self.phase = Phase::StartTls;
                self.abandon(line, Pending::StartTls);
            }
            Command::Nothing => self.refuse_command(text::NO_COMMAND),
            Command::Forbidden => {
                self.forbidden();
                self.refuse_command(text::FORBIDDEN);
            }
            Command::Bdat(_) if self.is_masked(b"CHUNKING") => {
                self.forbidden();
                self.last_word(text::NO_BDAT);
            }
            Command::Bdat(Some(size)) => {
                self.content(Content::Chunk { line, size });
            }
            // What follows is a chunk, of a length that could be read in two ways.
            Command::Bdat(None) => {
                let what = Violation::ChunkSize;
                self.event(Event::Violation { side: Side::Client, what });
                self.last_word(text::BAD_CHUNK_SIZE);
            }
            Command::Burl { is_last } => {
                self.content(Content::Url { line, is_last });
            }
        }
    }

    /// The first byte behind an accepted AUTH. A security layer puts four octets of length before
    /// everything (RFC 4422 section 3.7), of which the first is 0 below 16 MiB; no command has it.
    fn unwrap_or_go_on(&mut self) {
        self.may_wrap = false;
        if self.client.first() == Some(0) {
            self.lose_framing(None);
        }
    }

    pub(super) fn forward(&mut self, line: Bytes, pending: Pending) {
        self.send(Side::Server, line);
        self.expect(pending);
    }

    /// Forwards a command that has no place between the chunks of a message.
    fn abandon(&mut self, line: Bytes, pending: Pending) {
        self.abort_message(Side::Client);
        self.forward(line, pending);
    }

    fn is_masked(&self, keyword: &[u8]) -> bool {
        let masked = &self.settings.masked;
        masked.iter().any(|masked| keyword.eq_ignore_ascii_case(masked.as_bytes()))
    }

    fn forbidden(&mut self) {
        let what = Violation::ForbiddenCommand;
        self.event(Event::Violation { side: Side::Client, what });
    }

    /// Answers a command in the server's place.
    pub(super) fn refuse_command(&mut self, reply: &'static str) {
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

    /// Passes on what has come of a dot-stuffed message. True if something changed.
    fn message(&mut self) -> bool {
        if self.outputs.len() >= OUTPUTS_MAX {
            return false;
        }
        let Some(mut chunk) = self.client.take_chunk() else { return false };
        while self.outputs.len() < OUTPUTS_MAX
            && let Phase::Message(transfer) = &mut self.phase
            && let Some(piece) = transfer.framer.advance(&mut chunk)
        {
            match piece {
                Piece::Data { wire, content } => {
                    self.moved = self.moved.saturating_add(wire.len() as u64);
                    self.carry(wire);
                    self.scan(content);
                }
                Piece::Trick => {
                    let what = Violation::BareLineEnd;
                    self.event(Event::Violation { side: Side::Client, what });
                    self.give_message_up(Done::Refused, SettledBy::LineEnds);
                    self.drop_server(text::SMUGGLING.into(), AfterDrain::Orphan);
                }
                Piece::End { marker, content } => {
                    self.scan(content);
                    let kind = LastKind::Dots;
                    self.hold(Last { before: Bytes::new(), after: marker, kind });
                }
            }
        }
        // What is left over goes on when the outputs have been taken, or is no message.
        self.client.push_front(chunk);
        true
    }

    /// Throws away the rest of a message. True if something changed.
    fn drain(&mut self) -> bool {
        let Phase::Drain { rest, then, .. } = &mut self.phase else { return false };
        let then = *then;
        let is_over = match rest {
            Rest::Bytes(0) => true,
            Rest::Bytes(left) => {
                let Some(bytes) = self.client.take_up_to(*left) else { return false };
                *left -= bytes.len() as u64;
                self.moved = self.moved.saturating_add(bytes.len() as u64);
                *left == 0
            }
            Rest::Dots(framer) => {
                let Some(mut chunk) = self.client.take_chunk() else { return false };
                while let Some(piece) = framer.advance(&mut chunk) {
                    if let Piece::Data { wire, .. } = piece {
                        self.moved = self.moved.saturating_add(wire.len() as u64);
                    }
                }
                self.client.push_front(chunk);
                framer.is_done()
            }
        };
        match then {
            _ if !is_over => {}
            AfterDrain::Orphan => self.phase = Phase::Orphan,
            AfterDrain::Close => self.close(End::Fin),
        }
        true
    }

    /// The client has ended its direction, and all of it that could be handled is.
    pub(super) fn end_client(&mut self) {
        match &self.phase {
            // The replies still go to the client; a line without its end is no command, and chunks
            // without a last one are no message.
            Phase::Commands | Phase::Sasl if !self.pending.is_full() => {
                self.abort_message(Side::Client);
                self.shutdown(Side::Server, End::Fin);
            }
            Phase::TlsHello | Phase::Opaque => {
                self.shutdown(Side::Server, End::Fin);
                if self.to_client != Outlet::Open {
                    self.phase = Phase::Closed;
                }
            }
            Phase::Message(_) if self.client.is_empty() => self.cut_off(),
            Phase::Chunk(chunk) if chunk.left > 0 && self.client.is_empty() => self.cut_off(),
            Phase::Drain { .. } | Phase::Orphan => self.close(End::Fin),
            _ => {}
        }
    }
}
