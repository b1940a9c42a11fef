//! What the server says: replies, and the end of its direction.

use std::mem;

use super::reply::Reply;
use super::state::{AfterDrain, Body, Outlet, Pace, Pending, Phase, Rest, Transfer};
use super::{RECIPIENTS_KEPT_MAX, SmtpSession, Unframed, text};
use crate::dot::DotFramer;
use crate::{End, Event, OpaqueReason, Side, UnscannedReason, Violation};

impl SmtpSession {
    /// True if something changed.
    pub(super) fn serve_server(&mut self) -> bool {
        match self.phase {
            Phase::Orphan | Phase::Drain { .. } | Phase::Closed => {
                self.server.clear();
                false
            }
            // TLS starts with the client: this was meant to be taken for something said inside.
            Phase::TlsHello if !self.server.is_empty() => {
                let what = Violation::InjectionBehindStartTls;
                self.violation(Side::Server, what, text::SERVER_BROKEN);
                true
            }
            Phase::Opaque => match self.server.take_chunk() {
                Some(bytes) => {
                    self.send(Side::Client, bytes);
                    true
                }
                None => false,
            },
            _ => match self.reply.read(&mut self.server) {
                Ok(Some(reply)) => {
                    self.replies += 1;
                    self.answer(reply);
                    true
                }
                Ok(None) => false,
                Err(what) => {
                    self.violation(Side::Server, what, text::SERVER_BROKEN);
                    true
                }
            },
        }
    }

    /// A reply, whatever it answers.
    fn answer(&mut self, reply: Reply) {
        // RFC 5321 section 3.8: it may come unasked, and the connection ends with it.
        if reply.code == 421 {
            let in_message = matches!(self.body, Body::Open(_))
                || matches!(self.phase, Phase::Message(_) | Phase::Chunk(_) | Phase::Judged(..));
            if in_message {
                self.drop_server(reply.into_bytes(), AfterDrain::Close);
            } else {
                self.settle_sent(Some(reply.code));
                self.relay(reply);
                self.close(End::Fin);
            }
            return;
        }
        let Some(pending) = self.pending.pop_front() else {
            match self.phase {
                Phase::Message(_) | Phase::Chunk(_) | Phase::Held(_) => self.answer_early(reply),
                _ => self.unexpected_reply(),
            }
            return;
        };
        let is_expected = match (&pending, reply.class()) {
            // A client might take any 3yz for the 354, and any 2yz for the 220.
            (Pending::Data, 3) => reply.code == 354 && matches!(self.body, Body::None),
            (Pending::Auth, 3) => reply.code == 334,
            (Pending::StartTls, 2) => reply.code == 220,
            (Pending::Unknown, _) => true,
            (_, class) => class != 3,
        };
        if is_expected {
            self.answer_pending(pending, reply);
            self.flush_own();
        } else {
            self.unexpected_reply();
        }
    }

    fn unexpected_reply(&mut self) {
        self.violation(Side::Server, Violation::UnexpectedReply, text::SERVER_BROKEN);
    }

    fn answer_pending(&mut self, pending: Pending, reply: Reply) {
        let code = reply.code;
        let class = reply.class();
        let accepted = class == 2;
        if matches!(
            pending,
            Pending::EndOfData | Pending::LastChunk | Pending::Url { is_last: true, .. }
        ) {
            self.settle_sent(Some(code));
        }
        match pending {
            Pending::Ehlo if accepted => {
                self.chunking = reply.offers("CHUNKING");
                let reply = reply.into_masked_bytes(&self.settings.masked);
                self.send(Side::Client, reply);
                self.reset_transaction();
                return;
            }
            Pending::Part if accepted => {
                // The client has said one BDAT, and gets one reply: that to its end, or this.
                if matches!(self.body, Body::Dead) {
                    self.send(Side::Client, text::CHUNK_OF_DEAD.into());
                }
                return;
            }
            Pending::Unknown if class == 3 => return self.lose_framing(Some(reply)),
            Pending::Foreign if accepted => return self.lose_framing(Some(reply)),
            _ => self.relay(reply),
        }
        match pending {
            Pending::Greeting => self.phase = Phase::Commands,
            Pending::Helo if accepted => {
                self.chunking = false;
                self.reset_transaction();
            }
            Pending::Rset if accepted => self.reset_transaction(),
            Pending::Mail(path) if accepted => {
                self.reset_transaction();
                self.transaction.mail_from = path.into();
            }
            Pending::Rcpt(path) if accepted => {
                if self.transaction.rcpt_to.len() < RECIPIENTS_KEPT_MAX {
                    self.transaction.rcpt_to.push(path.into());
                }
            }
            Pending::Data if code == 354 => {
                self.begin_message(self.settings.hold);
                let pace = self.pace();
                self.phase = Phase::Message(Transfer { framer: DotFramer::new(), pace });
            }
            Pending::Auth if code == 334 => self.phase = Phase::Sasl,
            Pending::Auth if accepted => {
                self.transaction.authenticated = true;
                self.event(Event::Authenticated);
                self.phase = Phase::Commands;
            }
            Pending::StartTls if code == 220 => {
                self.event(Event::Opaque(OpaqueReason::Tls));
                self.phase = Phase::TlsHello;
            }
            Pending::Auth => {
                self.may_wrap = false;
                self.phase = Phase::Commands;
            }
            // Refused, or nothing special: what follows are commands, for the server, too.
            Pending::Data | Pending::StartTls | Pending::Unknown | Pending::Foreign => {
                self.phase = Phase::Commands
            }
            Pending::EndOfData => self.reset_transaction(),
            Pending::LastChunk => {
                self.reset_transaction();
                // RFC 3030 section 2: failed until RSET. The server may have the chunks still.
                if !accepted {
                    self.body = Body::Dead;
                }
            }
            Pending::Url { is_last, .. } if accepted => {
                self.event(Event::Unscanned(UnscannedReason::Burl));
                if is_last {
                    self.reset_transaction();
                }
            }
            Pending::Chunk if accepted => {}
            Pending::Url { is_behind: false, .. } => {}
            Pending::Chunk | Pending::Part | Pending::Url { .. } => self.message_failed(),
            Pending::Ehlo | Pending::Helo | Pending::Rset => {}
            Pending::Mail(_) | Pending::Rcpt(_) | Pending::Plain => {}
            Pending::Own(_) | Pending::Last(_) => {
                unreachable!("our own replies leave the queue as soon as they are the oldest")
            }
        }
    }

    /// What comes behind it cannot be told apart any more: by policy nobody reads it, or the session
    /// ends. Nothing has been sent behind the command.
    pub(super) fn lose_framing(&mut self, reply: Option<Reply>) {
        match self.settings.unframed {
            Unframed::Opaque => {
                self.abort_message(Side::Client);
                if let Some(reply) = reply {
                    self.relay(reply);
                }
                self.event(Event::Opaque(OpaqueReason::Unframed));
                self.phase = Phase::Opaque;
            }
            Unframed::Close => self.give_up(Side::Client, text::UNFRAMED),
        }
    }

    /// The server answers before the end of the message. A refusal is true, so the client hears it;
    /// a success is not, and must not be taken for the reply to a message that is not complete.
    fn answer_early(&mut self, reply: Reply) {
        let reply = if reply.class() >= 4 {
            reply.into_bytes()
        } else {
            let what = Violation::UnexpectedReply;
            self.event(Event::Violation { side: Side::Server, what });
            text::EARLY_SUCCESS.into()
        };
        self.drop_server(reply, AfterDrain::Orphan);
    }

    /// The server will say nothing more. An incomplete reply is not passed on: a client at the end
    /// of the connection might take a beginning for the whole.
    pub(super) fn server_ended(&mut self) {
        match mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Message(transfer) => {
                self.lose_server(Rest::Dots(transfer.framer), transfer.pace)
            }
            Phase::Chunk(chunk) => self.lose_server(Rest::Bytes(chunk.rest()), chunk.pace),
            Phase::Held(_) | Phase::Judged(..) => {
                self.abort_message(Side::Server);
                self.send(Side::Client, text::SERVER_LOST.into());
                self.close(End::Fin);
            }
            Phase::Opaque => {
                self.shutdown(Side::Client, End::Fin);
                if self.to_server == Outlet::Open {
                    self.phase = Phase::Opaque;
                }
            }
            _ => {
                // What else was asked for gets no answer any more, but our reason is known.
                if let Some(Pending::Last(text)) = self.pending.back() {
                    let text = *text;
                    self.send(Side::Client, text.into());
                }
                self.close(End::Fin);
            }
        }
    }

    /// The same in the middle of a message, whose rest the client is still sending.
    fn lose_server(&mut self, rest: Rest, pace: Pace) {
        self.abort_message(Side::Server);
        self.send(Side::Client, text::SERVER_LOST.into());
        self.shutdown(Side::Server, End::Reset);
        self.pending.clear();
        self.phase = Phase::Drain { rest, pace, then: AfterDrain::Close };
    }
}
