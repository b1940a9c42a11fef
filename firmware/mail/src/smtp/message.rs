//! The message of a transaction: handed out, held, decided about.

use std::mem;

use bytes::Bytes;

use super::command::ChunkSize;
use super::state::{AfterDrain, Body, Course, Judged, Kept, Last, LastKind, Pending, Phase};
use super::{BDAT_TAIL_BYTES, SmtpSession, text};
use crate::notice::{Cause, Notice};
use crate::{Decision, Done, End, Event, Framing, Output, Protocol, Settled, SettledBy, Side};

impl SmtpSession {
    /// Starts a scan.
    pub(super) fn begin_message(&mut self, is_kept: bool) {
        self.outputs.push_back(Output::MessageBegin(self.transaction.clone()));
        self.body = Body::Open(is_kept.then(Kept::default));
    }

    /// Content on its way to the scanner, unless the message has been given up.
    pub(super) fn scan(&mut self, content: Bytes) {
        let Body::Open(kept) = &mut self.body else { return };
        if let Some(kept) = kept {
            kept.header.push(&content);
        }
        if !content.is_empty() {
            self.outputs.push_back(Output::MessageData(content));
        }
    }

    /// Bytes of the message on their way to the server, which the driver may have to keep.
    pub(super) fn carry(&mut self, mut wire: Bytes) {
        let limit = self.settings.hold_bytes_max;
        if let Body::Open(slot) = &mut self.body
            && let Some(kept) = slot
        {
            let room = usize::try_from(limit - kept.bytes).unwrap_or(usize::MAX);
            let rest = wire.split_off(room.min(wire.len()));
            kept.bytes += wire.len() as u64;
            if !wire.is_empty() {
                self.outputs.push_back(Output::Hold(wire));
            }
            if rest.is_empty() {
                return;
            }
            *slot = None;
            self.event(Event::HoldLimit);
            self.outputs.push_back(Output::SendHeld { to: Side::Server, bytes: None });
            wire = rest;
        }
        self.send(Side::Server, wire);
    }

    /// The message is complete but for this; the driver has the word.
    pub(super) fn hold(&mut self, last: Last) {
        self.outputs.push_back(Output::MessageEnd);
        self.phase = Phase::Held(last);
    }

    /// The driver has no room for what it keeps: that goes on now, and the rest as it comes. The end
    /// still waits for the verdict, so what cannot be scanned is a matter of policy as ever.
    pub(super) fn stream_on(&mut self) {
        let Body::Open(slot) = &mut self.body else { return };
        let Some(kept) = slot.take() else { return };
        self.event(Event::HoldLimit);
        let chunk =
            |bytes, is_last| ChunkSize { bytes, is_last, has_leading_zero: false }.to_line();
        match &mut self.phase {
            // The end of a last chunk is what makes the message real.
            Phase::Chunk(under_way) => {
                let tail = under_way.left.min(BDAT_TAIL_BYTES);
                under_way.left -= tail;
                under_way.course = Course::Part { tail };
                let bytes = kept.bytes + under_way.left;
                self.send(Side::Server, chunk(bytes, false));
            }
            Phase::Held(last) if last.kind == LastKind::Chunk => {
                last.before = chunk(0, true);
                last.kind = LastKind::Tail;
                self.send(Side::Server, chunk(kept.bytes, false));
                self.expect(Pending::Part);
            }
            _ => {}
        }
        self.outputs.push_back(Output::SendHeld { to: Side::Server, bytes: None });
    }

    /// Drops the scan of a message that will not be completed, for what that side did.
    pub(super) fn abort_message(&mut self, side: Side) {
        self.give_message_up(Done::CutOff, SettledBy::Peer(side));
    }

    /// Drops the message that is under way, if one is and has not gone to the server.
    pub(super) fn give_message_up(&mut self, done: Done, by: SettledBy) {
        match &self.body {
            Body::Open(kept) => {
                let is_kept = kept.is_some();
                self.outputs.push_back(Output::MessageAbort);
                if is_kept {
                    self.outputs.push_back(Output::DropHeld);
                }
            }
            Body::Judged => {}
            Body::None | Body::Sent(_) | Body::Dead => return,
        }
        self.body = Body::Dead;
        self.settled(done, by, None);
    }

    /// What has gone to the server is answered, or will not be.
    pub(super) fn settle_sent(&mut self, answer: Option<u16>) {
        if let Body::Sent(done) = self.body {
            self.body = Body::None;
            self.settled(done, SettledBy::Decision, answer);
        }
    }

    fn settled(&mut self, done: Done, by: SettledBy, answer: Option<u16>) {
        self.event(Event::Settled(Settled { done, by, answer }));
    }

    /// The server has refused a chunk or a BURL, and so the message: what it has not got of it will
    /// not go there any more.
    pub(super) fn message_failed(&mut self) {
        self.abort_message(Side::Server);
        self.body = Body::Dead;
        match mem::replace(&mut self.phase, Phase::Commands) {
            Phase::Chunk(chunk) => self.phase = Phase::Chunk(chunk.given_up()),
            // Its reply stands in the queue, or has just come.
            Phase::Held(last) | Phase::Judged(last, ..) if last.kind == LastKind::Tail => {}
            Phase::Held(_) | Phase::Judged(..) => self.expect(Pending::Own(text::CHUNK_OF_DEAD)),
            other => self.phase = other,
        }
    }

    /// Takes the verdict, if a message waits for one.
    pub(super) fn decide(&mut self, decision: Decision) {
        let by = SettledBy::Decision;
        let judged = match decision {
            Decision::Release => Judged::Release,
            Decision::Refuse(finding) => {
                Judged::Refuse { reply: text::refused(&finding), done: Done::Refused, by }
            }
            Decision::Tempfail { reason } => {
                Judged::Refuse { reply: text::tempfailed(&reason), done: Done::Deferred, by }
            }
            Decision::Replace(finding) => Judged::Replace(finding),
            Decision::Edit(finding) => Judged::Edit(finding),
        };
        self.judge(judged);
    }

    /// No verdict has come.
    pub(super) fn verdict_late(&mut self) {
        self.outputs.push_back(Output::MessageAbort);
        let reply = text::VERDICT_LATE.into();
        self.judge(Judged::Refuse { reply, done: Done::Deferred, by: SettledBy::NoVerdict });
    }

    fn judge(&mut self, judged: Judged) {
        match mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Held(last) => {
                let kept = match mem::replace(&mut self.body, Body::Judged) {
                    Body::Open(kept) => kept,
                    _ => None,
                };
                self.phase = Phase::Judged(last, judged, kept);
            }
            other => self.phase = other,
        }
    }

    /// Does what was decided, once the server has answered the chunks before: the client asked for
    /// those replies first, and what has failed must not be completed. True if something changed.
    pub(super) fn conclude(&mut self) -> bool {
        if !self.pending.is_empty() || !matches!(self.phase, Phase::Judged(..)) {
            return false;
        }
        let Phase::Judged(last, judged, kept) = mem::replace(&mut self.phase, Phase::Commands)
        else {
            return false;
        };
        let framing = last.framing();
        self.body = Body::None;
        match (judged, kept) {
            (Judged::Release, kept) => {
                self.body = Body::Sent(Done::Passed);
                self.release(last, kept.is_some());
            }
            (Judged::Replace(finding), Some(kept)) => {
                self.body = Body::Sent(Done::Replaced);
                self.outputs.push_back(Output::DropHeld);
                self.send_notice(&finding, &kept, framing);
                self.expect(last.pending());
            }
            (Judged::Edit(_), Some(_)) => {
                self.body = Body::Sent(Done::Edited);
                self.outputs.push_back(Output::SendEdited { to: Side::Server, framing });
                self.outputs.push_back(Output::DropHeld);
                self.expect(last.pending());
            }
            (Judged::Refuse { reply, done, by }, kept) => {
                if kept.is_some() {
                    self.outputs.push_back(Output::DropHeld);
                }
                self.settled(done, by, None);
                self.drop_server(reply, AfterDrain::Orphan);
            }
            // Some of it is at the server.
            (Judged::Replace(finding) | Judged::Edit(finding), None) => {
                self.settled(Done::Refused, SettledBy::Decision, None);
                self.drop_server(text::refused(&finding), AfterDrain::Orphan);
            }
        }
        true
    }

    fn release(&mut self, last: Last, is_kept: bool) {
        let pending = last.pending();
        self.send(Side::Server, last.before);
        if is_kept {
            self.outputs.push_back(Output::SendHeld { to: Side::Server, bytes: None });
        }
        self.send(Side::Server, last.after);
        self.expect(pending);
    }

    fn send_notice(&mut self, finding: &crate::Finding, kept: &Kept, framing: Framing) {
        let notice = Notice {
            templates: &self.templates,
            language: self.language,
            protocol: Protocol::Smtp,
            cause: Cause::Refused(finding),
            original: &kept.header,
            unix_s: self.wall.unix_s(self.now),
        };
        let message = notice.smtp_message(framing);
        if framing == Framing::Chunk {
            let line = format!("BDAT {} LAST\r\n", message.len());
            self.send(Side::Server, line.into());
        }
        self.send(Side::Server, message);
    }

    /// The client will not complete the message that it sends.
    pub(super) fn cut_off(&mut self) {
        self.abort_message(Side::Client);
        self.shutdown(Side::Server, End::Reset);
        self.close(End::Fin);
    }
}
