//! What becomes of a frame: the half of [`Stack`] that answers to the line.

use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;
use smoltcp::wire::TcpControl;

use crate::compose::{self, Answer};
use crate::flow::{End, Flow, Phase, Residue};
use crate::frame::Segment;
use crate::table::{FlowId, FlowKey};
use crate::{Disposition, HELD_MAX, Opening, Overflow, Port, Stack, Verdict};

/// Earliest repetition of a challenge ACK in one flow.
const CHALLENGE_INTERVAL: Duration = Duration::from_secs(1);

/// How long an accepted client has to answer before it may have to make room; several round trips and
/// one retransmission of our SYN-ACK.
const HALF_OPEN_GRACE: Duration = Duration::from_secs(3);

impl Stack {
    pub(crate) fn dispose(
        &mut self,
        port: Port,
        frame: &[u8],
        now: Instant,
        policy: &mut dyn FnMut(&Segment<'_>, Port) -> Verdict,
    ) -> Disposition {
        let Some(segment) = Segment::parse(frame) else { return Disposition::Bridge };
        let key = FlowKey::new(segment.source(), segment.destination());
        let Some(id) = self.table.find(&key) else {
            // The real server has no part in a flow of ours; whatever it sends, the client must not
            // take it for an answer.
            let reversed = FlowKey::new(segment.destination(), segment.source());
            if self.table.find(&reversed).is_some() {
                return Disposition::Dropped;
            }
            return if segment.opens() {
                self.open(key, port, frame, &segment, now, policy)
            } else {
                Disposition::Bridge
            };
        };
        let Some(flow) = self.table.get_mut(id) else { return Disposition::Bridge };
        if flow.port != port {
            return Disposition::Dropped;
        }
        if segment.opens() && flow.may_be_replaced_by(&segment) && segment.is_intact() {
            self.replace(id);
            return self.open(key, port, frame, &segment, now, policy);
        }
        match &flow.phase {
            Phase::Held { syn, .. } => {
                let expected = Segment::parse(syn).map(|syn| syn.sequence().wrapping_add(1));
                if segment.resets() && Some(segment.sequence()) == expected && segment.is_intact() {
                    self.counters.reset_by_client += 1;
                    self.remove(id);
                }
                // A repeated SYN is absorbed; nothing else can be meant for a held flow.
                Disposition::Taken
            }
            Phase::Open(_) => self.receive_open(id, &segment, now),
            Phase::Ended(ended) => {
                let answer = match ended.residue {
                    _ if segment.resets() => None,
                    Residue::Reset => compose::reset(&flow.answer, &segment),
                    Residue::TimeWait { .. } if segment.sequence_len() == 0 => None,
                    Residue::TimeWait { sequence, acknowledgement } => compose::segment(
                        &flow.answer,
                        TcpControl::None,
                        sequence,
                        Some(acknowledgement),
                        0,
                    ),
                };
                self.enqueue(port, answer);
                Disposition::Taken
            }
        }
    }

    fn open(
        &mut self,
        key: FlowKey,
        port: Port,
        frame: &[u8],
        segment: &Segment<'_>,
        now: Instant,
        policy: &mut dyn FnMut(&Segment<'_>, Port) -> Verdict,
    ) -> Disposition {
        if !segment.is_intact() {
            return Disposition::Bridge;
        }
        match policy(segment, port) {
            Verdict::Take => {}
            Verdict::Bridge => {
                self.counters.bridged_by_policy += 1;
                return Disposition::Bridge;
            }
            Verdict::Drop => return Disposition::Dropped,
        }
        self.make_room(now);
        let flow = Flow {
            key,
            port,
            answer: Answer::to_sender(segment),
            phase: Phase::Held { syn: frame.into(), since: now },
            active: now,
            ready: false,
            released: false,
            reader: None,
            writer: None,
        };
        let crowded = self.held >= HELD_MAX || self.events.len() >= HELD_MAX;
        let inserted = if crowded { Err(flow) } else { self.table.insert(key, flow) };
        let Ok(id) = inserted else {
            self.counters.overflowed += 1;
            return match self.settings.overflow {
                Overflow::Bridge => Disposition::Bridge,
                Overflow::Drop => Disposition::Dropped,
            };
        };
        self.held += 1;
        self.counters.opened += 1;
        self.schedule(id, now);
        let (client, server) = (key.client(), key.server());
        self.events.push_back(Opening { flow: id, client, server, port });
        Disposition::Taken
    }

    fn receive_open(&mut self, id: FlowId, segment: &Segment<'_>, now: Instant) -> Disposition {
        let at = self.stack_time(now);
        let Some(flow) = self.table.get_mut(id) else { return Disposition::Dropped };
        let Phase::Open(open) = &mut flow.phase else { return Disposition::Dropped };
        if segment.resets() {
            return self.receive_reset(id, segment, now);
        }
        if open.reset {
            let answer = compose::reset(&flow.answer, segment);
            let port = flow.port;
            self.enqueue(port, answer);
            return Disposition::Taken;
        }
        flow.active = now;
        let taken = open.connection.ingress(segment.packet(), &mut self.outgoing, at);
        let answer = self
            .outgoing
            .take(&flow.answer.ethernet())
            .map(|bytes| self.outgoing.frame(bytes).to_vec());
        let port = flow.port;
        self.enqueue(port, answer);
        if taken.is_err() {
            self.break_off(id, now);
        } else {
            self.settle(id, now);
            self.mark_ready(id);
        }
        Disposition::Taken
    }

    /// RFC 5961 §3.2: only a RST with exactly the expected number ends the connection; one that is
    /// merely near is answered with a challenge, which a peer that meant it answers exactly.
    fn receive_reset(&mut self, id: FlowId, segment: &Segment<'_>, now: Instant) -> Disposition {
        let Some(flow) = self.table.get_mut(id) else { return Disposition::Dropped };
        let Phase::Open(open) = &mut flow.phase else { return Disposition::Dropped };
        if !segment.is_intact() {
            return Disposition::Dropped;
        }
        if segment.sequence() == open.connection.next_expected() {
            self.counters.reset_by_client += 1;
            if open.connection.has_received_fin() {
                open.reset = true;
                self.settle(id, now);
            } else {
                self.end(id, End::Reset, Residue::Reset, now);
            }
            return Disposition::Taken;
        }
        if now >= open.challenge_after {
            open.challenge_after = now + CHALLENGE_INTERVAL;
            let (sequence, acknowledgement) = open.connection.last_sent();
            let challenge = compose::segment(
                &flow.answer,
                TcpControl::None,
                sequence,
                Some(acknowledgement),
                0,
            );
            let port = flow.port;
            self.enqueue(port, challenge);
        }
        Disposition::Taken
    }

    /// Makes way for a new connection between the same ends.
    fn replace(&mut self, id: FlowId) {
        let Some(flow) = self.table.get(id) else { return };
        if matches!(flow.phase, Phase::Held { .. }) || flow.released {
            self.remove(id);
        } else {
            let key = flow.key;
            self.table.detach(id, &key);
        }
    }

    /// In a full table, forgets what is over but lingers, oldest first, and then what never came to be:
    /// a flood of SYNs must not keep others out.
    fn make_room(&mut self, now: Instant) {
        while let Some(&id) = self.remains.front() {
            if self.table.get(id).is_some() {
                if !self.table.is_full() {
                    break;
                }
                self.remove(id);
            }
            self.remains.pop_front();
        }
        while let Some(&id) = self.accepted.front() {
            let then = now.checked_sub(HALF_OPEN_GRACE).unwrap_or(now);
            match self.table.get(id) {
                Some(flow) if flow.is_half_open_since(then) => {
                    if !self.table.is_full() {
                        break;
                    }
                    self.counters.timed_out += 1;
                    self.remove(id);
                }
                Some(flow) if flow.is_half_open_since(now) => break,
                _ => {}
            }
            self.accepted.pop_front();
        }
    }
}

impl Flow {
    /// Whether a SYN between the same ends starts a new connection rather than repeating or disturbing
    /// this one: the client has given up a held one, or this one is over (RFC 6191).
    fn may_be_replaced_by(&self, segment: &Segment<'_>) -> bool {
        match &self.phase {
            Phase::Held { syn, .. } => {
                Segment::parse(syn).is_none_or(|held| held.sequence() != segment.sequence())
            }
            Phase::Open(open) => {
                matches!(open.connection.state(), State::TimeWait | State::Closed | State::Listen)
            }
            Phase::Ended(_) => true,
        }
    }
}
