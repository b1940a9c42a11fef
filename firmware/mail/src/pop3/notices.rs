//! What becomes of a held message: released, replaced, edited, or let out a little at a time.

use std::mem;
use std::time::Instant;

use bytes::Bytes;

use super::message::{Fate, Message, Piecemeal};
use super::{OnHoldFailure, Pop3Session, Reading};
use crate::notice::{Cause, Notice};
use crate::{Decision, Done, Event, Finding, Framing, Output, Protocol, SettledBy, Side};

/// Name of the finding for a message whose end clients could see in different places.
pub(super) const MALFORMED_LINE_END: &str = "Malformed.LineEnd";

/// Why a message has not been scanned that there was no room for.
const NO_ROOM: &str = "the gateway had no room to hold the message for its scan";

/// In front of a message that is not the server's.
const STATUS: &[u8] = b"+OK\r\n";

impl Pop3Session {
    /// Carries out the decision on the message that waits for it.
    pub(super) fn decide(&mut self, decision: Decision, by: SettledBy, now: Instant) {
        let message = match mem::replace(&mut self.reading, Reading::Reply) {
            Reading::Verdict { message, .. } => message,
            other => return self.reading = other,
        };
        self.server.heard = now;
        match decision {
            Decision::Refuse(finding) | Decision::Replace(finding) => {
                self.replace(&message, Cause::Refused(&finding), now);
                self.settled(Done::Replaced, by);
            }
            Decision::Edit(finding) => self.edit(&message, &finding, now),
            Decision::Release | Decision::Tempfail { .. } if message.fate == Fate::Malformed => {
                let finding = Finding {
                    name: MALFORMED_LINE_END.to_owned(),
                    engine: "avr".to_owned(),
                    ..Finding::default()
                };
                self.replace(&message, Cause::Refused(&finding), now);
                self.settled(Done::Replaced, SettledBy::LineEnds);
            }
            Decision::Release => {
                self.send_held(None);
                self.settled(Done::Passed, by);
            }
            Decision::Tempfail { reason } => {
                self.replace(&message, Cause::Unscanned { reason: &reason }, now);
                self.settled(Done::Deferred, by);
            }
        }
        self.answered(now);
    }

    /// The driver's version goes out, if nothing of the original's header has left.
    fn edit(&mut self, message: &Message, finding: &Finding, now: Instant) {
        // An edited message may still have the line ends that two programs read in two ways.
        if message.fate == Fate::Malformed || message.early.out_bytes > 0 {
            self.replace(message, Cause::Refused(finding), now);
            return self.settled(Done::Replaced, SettledBy::Decision);
        }
        self.outputs.push_back(Output::DropHeld);
        if !message.early.status_is_out {
            self.send(Side::Client, Bytes::from_static(STATUS));
        }
        self.outputs.push_back(Output::SendEdited { to: Side::Client, framing: Framing::Dots });
        self.settled(Done::Edited, SettledBy::Decision);
    }

    /// A notice goes out in the place of what has not left.
    fn replace(&mut self, message: &Message, cause: Cause<'_>, now: Instant) {
        if message.is_kept {
            self.outputs.push_back(Output::DropHeld);
        }
        let notice = Notice {
            templates: &self.templates,
            language: self.language,
            protocol: Protocol::Pop3,
            cause,
            original: &message.headers,
            unix_s: self.wall.unix_s(now),
        };
        let reply = if message.early.status_is_out {
            notice.pop3_rest(message.early.out_bytes)
        } else {
            notice.pop3_reply()
        };
        self.send(Side::Client, reply);
    }

    /// The message cannot be held any further, by its limit or for want of room.
    pub(super) fn no_room(&mut self, now: Instant) {
        let (Reading::Message { message, .. } | Reading::Verdict { message, .. }) =
            &mut self.reading
        else {
            return;
        };
        match (message.fate, self.settings.on_hold_failure) {
            (Fate::NoRoom, _) => {}
            // Nothing of it was to be sent but its beginning, which is here as well.
            (Fate::Malformed, _) => {
                if mem::take(&mut message.is_kept) {
                    self.outputs.push_back(Output::DropHeld);
                }
            }
            (Fate::Held, OnHoldFailure::Replace) => {
                message.fate = Fate::NoRoom;
                message.is_kept = false;
                message.headers.seal();
                self.event(Event::HoldLimit);
                self.outputs.push_back(Output::MessageAbort);
                self.outputs.push_back(Output::DropHeld);
                if matches!(self.reading, Reading::Verdict { .. }) {
                    self.end_unheld(now);
                }
            }
            (Fate::Held, OnHoldFailure::Pass) => self.stream_on(now),
        }
    }

    /// What is held passes unscanned, and the rest as it comes.
    fn stream_on(&mut self, now: Instant) {
        self.event(Event::HoldLimit);
        self.outputs.push_back(Output::MessageAbort);
        self.send_held(None);
        self.settled(Done::Passed, SettledBy::NoRoom);
        match mem::replace(&mut self.reading, Reading::Reply) {
            Reading::Message { message, since } => {
                self.reading = Reading::List { stream: message.stream, since };
            }
            _ => self.answered(now),
        }
    }

    /// The end of a message that there was no room for.
    pub(super) fn end_unheld(&mut self, now: Instant) {
        let reading = mem::replace(&mut self.reading, Reading::Reply);
        if let Reading::Message { message, .. } | Reading::Verdict { message, .. } = reading {
            self.server.heard = now;
            self.replace(&message, Cause::Unscanned { reason: NO_ROOM }, now);
            self.settled(Done::Deferred, SettledBy::NoRoom);
            self.answered(now);
        }
    }

    /// The client has waited: a little more of the message leaves.
    pub(super) fn keep_alive(&mut self, now: Instant) {
        let (Reading::Message { message, .. } | Reading::Verdict { message, .. }) =
            &mut self.reading
        else {
            return;
        };
        let next = message.next_early();
        let early = &mut message.early;
        let Some(next) = next else {
            (early.due, early.is_overdue) = (None, true);
            return;
        };
        early.due = now.checked_add(self.settings.keep_alive_interval);
        let start = early.out_bytes;
        let bytes = match next {
            Piecemeal::Status(bytes) => {
                early.status_is_out = true;
                bytes
            }
            Piecemeal::Header(bytes) => {
                early.out_bytes += bytes;
                bytes
            }
        };
        if message.is_kept {
            return self.send_held(Some(bytes as u64));
        }
        // The driver keeps nothing any more.
        let bytes = match next {
            Piecemeal::Status(_) => Bytes::from_static(STATUS),
            Piecemeal::Header(_) => {
                let released = message.headers.as_on_wire().get(start..start + bytes);
                Bytes::copy_from_slice(released.unwrap_or_default())
            }
        };
        self.send(Side::Client, bytes);
    }

    fn send_held(&mut self, bytes: Option<u64>) {
        self.outputs.push_back(Output::SendHeld { to: Side::Client, bytes });
    }
}
