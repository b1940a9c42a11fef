//! What the server says: replies, and the end of its direction.

use std::mem;

use super::reply::Reply;
use super::{AfterDrain, Outlet, Pending, Phase, RECIPIENTS_KEPT_MAX, SmtpSession, Transfer, text};
use crate::dot::DotFramer;
use crate::{End, Event, OpaqueReason, Output, Side, Violation};

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
        if matches!(self.phase, Phase::Message(_) | Phase::Held(_)) {
            self.answer_early(reply);
            return;
        }
        let Some(pending) = self.pending.pop_front() else {
            // RFC 5321 section 3.8: only 421 may come unasked, and the connection ends with it.
            if reply.code == 421 {
                self.relay(reply);
            } else {
                let what = Violation::UnexpectedReply;
                self.violation(Side::Server, what, text::SERVER_BROKEN);
            }
            return;
        };
        let is_expected = match (&pending, reply.class()) {
            // A client might take any 3yz for the 354, and any 2yz for the 220.
            (Pending::Data, 3) => reply.code == 354,
            (Pending::Auth, 3) => reply.code == 334,
            (Pending::StartTls, 2) => reply.code == 220,
            (_, class) => class != 3,
        };
        if is_expected {
            self.answer_pending(pending, reply);
            self.flush_own();
        } else {
            self.violation(Side::Server, Violation::UnexpectedReply, text::SERVER_BROKEN);
        }
    }

    fn answer_pending(&mut self, pending: Pending, reply: Reply) {
        let code = reply.code;
        let accepted = reply.class() == 2;
        if accepted && matches!(pending, Pending::Ehlo) {
            self.send(Side::Client, reply.into_masked_bytes());
        } else {
            self.relay(reply);
        }
        match pending {
            Pending::Greeting => self.phase = Phase::Commands,
            Pending::Ehlo | Pending::Restart if accepted => self.reset_transaction(),
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
                self.outputs.push_back(Output::MessageBegin(self.transaction.clone()));
                self.phase = Phase::Message(Transfer {
                    framer: DotFramer::new(),
                    since: self.now,
                    bytes: 0,
                });
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
            // Refused: what follows are commands, and the server thinks so, too.
            Pending::Data | Pending::Auth | Pending::StartTls => self.phase = Phase::Commands,
            Pending::EndOfData => self.reset_transaction(),
            Pending::Ehlo | Pending::Restart | Pending::Mail(_) | Pending::Rcpt(_) => {}
            Pending::Other => {}
            Pending::Own(_) | Pending::Last(_) => {
                unreachable!("our own replies leave the queue as soon as they are the oldest")
            }
        }
    }

    /// The server answers before the end of the message. A refusal is true, so the client hears it;
    /// a success is not, and must not be taken for the reply to a message that is not complete.
    fn answer_early(&mut self, reply: Reply) {
        if reply.class() >= 4 {
            self.outputs.push_back(Output::MessageAbort);
            self.refuse_message(reply.into_bytes());
        } else {
            let what = Violation::UnexpectedReply;
            self.event(Event::Violation { side: Side::Server, what });
            self.outputs.push_back(Output::MessageAbort);
            self.refuse_message(text::EARLY_SUCCESS.into());
        }
    }

    /// The server will say nothing more. An incomplete reply is not passed on: a client at the end
    /// of the connection might take a beginning for the whole.
    pub(super) fn server_ended(&mut self) {
        match mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Message(transfer) => {
                self.outputs.push_back(Output::MessageAbort);
                self.send(Side::Client, text::SERVER_LOST.into());
                self.shutdown(Side::Server, End::Reset);
                self.phase = Phase::Drain { transfer, then: AfterDrain::Close };
            }
            Phase::Held(_) => {
                self.outputs.push_back(Output::MessageAbort);
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
}
