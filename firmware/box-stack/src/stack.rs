//! The stack: frames in, flows out, frames out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::TcpControl;

use crate::Port;
use crate::compose::{self, Answer};
use crate::connection::{Connection, Outgoing, Received, Sizes};
use crate::flow::{End, Ended, Flow, LINGER, Limits, Open, Phase, Residue};
use crate::frame::Segment;
use crate::table::{FLOWS_MAX, FlowId, FlowKey, Table};

/// Most connections that may wait for their server's answer at the same time. A SYN flood stops here,
/// and costs a SYN's bytes each until here.
pub const HELD_MAX: usize = 1024;

/// Most frames that wait for [`Stack::poll_transmit`] outside the flows' own buffers. A driver that
/// asks after each frame it hands in never comes near; frames beyond are dropped, as on a full link.
pub const FRAME_QUEUE_MAX: usize = 1024;

/// Earliest repetition of a challenge ACK in one flow.
const CHALLENGE_INTERVAL: Duration = Duration::from_secs(1);

/// A flow is not looked at again sooner than this without a frame or a call that concerns it.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// Sizes and limits of a [`Stack`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// Largest IP packet on the line, in bytes; at least 1280.
    pub mtu: u16,
    /// Bytes a flow takes in before its owner reads them. Memory is used only as far as it has been
    /// filled once. Above 64 KiB the window is scaled.
    pub receive_bytes: usize,
    /// Bytes a flow's owner may write ahead of the client's acknowledgement.
    pub transmit_bytes: usize,
    /// Most flows at the same time; at most [`FLOWS_MAX`].
    pub flows_max: usize,
    /// How long a SYN waits for [`Stack::accept`] or [`Stack::refuse`] before it is forgotten.
    pub hold_limit: Duration,
    /// How long a flow may stay without a byte either way before it is reset.
    pub idle_limit: Duration,
    /// What happens to new connections beyond a limit.
    pub overflow: Overflow,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mtu: 1500,
            receive_bytes: 256 * 1024,
            transmit_bytes: 256 * 1024,
            flows_max: FLOWS_MAX,
            // Longer than a relay's attempts one after the other, shorter than a client's patience.
            hold_limit: Duration::from_secs(75),
            // RFC 5321 §4.5.3.2.7 gives the longest wait, ten minutes; POP3's is ten as well.
            idle_limit: Duration::from_secs(30 * 60),
            overflow: Overflow::Bridge,
        }
    }
}

/// What happens to a SYN for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is bridged on: mail goes on, unscanned and counted.
    #[default]
    Bridge,
    /// It is dropped: the client asks again a second later.
    Drop,
}

/// What a policy says to a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// End it here.
    Take,
    /// Leave it to the bridge, and forget it: its later frames are those of an unknown connection.
    Bridge,
    /// Drop the SYN.
    Drop,
}

/// What becomes of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a frame to be bridged is lost otherwise"]
pub enum Disposition {
    /// The stack has it.
    Taken,
    /// To be sent out of the other port as it is.
    Bridge,
    /// It belongs to a flow but must not go anywhere.
    Dropped,
}

/// A connection that a client asks for; answered by [`Stack::accept`] or [`Stack::refuse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Its name from now on.
    pub flow: FlowId,
    /// Who asks.
    pub client: SocketAddr,
    /// Whom it asks for.
    pub server: SocketAddr,
    /// The side the client is on.
    pub port: Port,
}

/// Why a connection is not accepted, and so what the client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The server's RST.
    Refused,
    /// ICMP "host unreachable", ICMPv6 "address unreachable".
    Unreachable,
    /// Nothing. The client's next SYN is a new attempt.
    TimedOut,
}

/// Why a flow can be read or written no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The client, or we, sent RST.
    #[error("connection reset")]
    Reset,
    /// The client stopped answering, or no byte came for longer than the limit.
    #[error("connection timed out")]
    TimedOut,
    /// Our direction has been shut down already.
    #[error("written after shutdown")]
    ShutDown,
    /// There is no such flow: its client gave up, or its owner released it.
    #[error("connection is gone")]
    Gone,
}

/// What has happened since the start. Frames, unless it says flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Flows asked for and held.
    pub opened: u64,
    /// Flows accepted.
    pub accepted: u64,
    /// Flows refused.
    pub refused: u64,
    /// Flows reset by their client.
    pub reset_by_client: u64,
    /// Flows ended because nothing came.
    pub timed_out: u64,
    /// Flows ended because smoltcp failed on them; each is a defect.
    pub broken: u64,
    /// SYNs bridged on because the policy said so.
    pub bridged_by_policy: u64,
    /// SYNs that found no room, whatever became of them.
    pub overflowed: u64,
    /// Bridged on: of connections not seen from their start, or not TCP as we read it.
    pub bridged: u64,
    /// Taken from the line and not sent on: on the wrong side, or no longer wanted.
    pub dropped: u64,
    /// Of ours, not sent for lack of room.
    pub discarded: u64,
}

/// A fresh 64-bit random number from the operating system at each call.
pub type Entropy = Box<dyn FnMut() -> u64 + Send>;

/// All intercepted flows.
///
/// The driver's order of calls:
///
/// 1. [`Stack::receive`] with each frame from a port; bridge it on if told so.
/// 2. [`Stack::handle_timeout`] when the time of [`Stack::poll_timeout`] has come.
/// 3. After these, and after any call of a flow's owner: [`Stack::poll_transmit`] until it has
///    nothing, sending each frame out of the port it names.
/// 4. [`Stack::poll_event`] until it has nothing, and [`Stack::take_wakers`], waking each.
///
/// Owners of flows call [`Stack::accept`] or [`Stack::refuse`] once, then [`Stack::poll_read`],
/// [`Stack::poll_write`], [`Stack::shutdown`], and at the end [`Stack::release`].
///
/// Every call takes the present time, which must not run backwards.
pub struct Stack {
    settings: Settings,
    limits: Limits,
    entropy: Entropy,
    epoch: Instant,
    table: Table<Flow>,
    held: usize,
    /// Flows that may have something to send.
    ready: VecDeque<FlowId>,
    /// Released remains, oldest first: what makes room when the table is full.
    remains: VecDeque<FlowId>,
    queue: VecDeque<(Port, Vec<u8>)>,
    current: Vec<u8>,
    outgoing: Outgoing,
    events: VecDeque<Opening>,
    wakers: Vec<Waker>,
    counters: Counters,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("settings", &self.settings)
            .field("flows", &self.table.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// A stack without flows.
    #[must_use]
    pub fn new(settings: Settings, entropy: Entropy, now: Instant) -> Self {
        Self {
            limits: Limits { hold: settings.hold_limit, idle: settings.idle_limit },
            entropy,
            epoch: now,
            table: Table::new(settings.flows_max),
            held: 0,
            ready: VecDeque::new(),
            remains: VecDeque::new(),
            queue: VecDeque::new(),
            current: Vec::new(),
            outgoing: Outgoing::new(usize::from(settings.mtu)),
            events: VecDeque::new(),
            wakers: Vec::new(),
            counters: Counters::default(),
            settings,
        }
    }

    /// Flows, remains included.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a frame that came in at `port`. `policy` is asked about each new connection; it sees the
    /// SYN and the side it came from.
    pub fn receive(
        &mut self,
        port: Port,
        frame: &[u8],
        now: Instant,
        policy: &mut dyn FnMut(&Segment<'_>, Port) -> Verdict,
    ) -> Disposition {
        let disposition = self.dispose(port, frame, now, policy);
        match disposition {
            Disposition::Taken => {}
            Disposition::Bridge => self.counters.bridged += 1,
            Disposition::Dropped => self.counters.dropped += 1,
        }
        disposition
    }

    /// The next connection that a client asks for.
    pub fn poll_event(&mut self) -> Option<Opening> {
        while let Some(opening) = self.events.pop_front() {
            // Its client may have given up meanwhile.
            if self.table.get(opening.flow).is_some() {
                return Some(opening);
            }
        }
        None
    }

    /// Whether [`Stack::poll_event`] has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Answers the held SYN with SYN-ACK.
    ///
    /// # Errors
    ///
    /// [`FlowError::Gone`] if the client has given up or the hold limit has passed.
    pub fn accept(&mut self, id: FlowId, now: Instant) -> Result<(), FlowError> {
        let at = self.stack_time(now);
        let sizes = Sizes {
            receive: self.settings.receive_bytes,
            transmit: self.settings.transmit_bytes,
            mtu: usize::from(self.settings.mtu),
        };
        let flow = self.table.get_mut(id).ok_or(FlowError::Gone)?;
        let Phase::Held { syn, .. } = &flow.phase else { return Err(FlowError::Gone) };
        let segment = Segment::parse(syn).ok_or(FlowError::Gone)?;
        let mut connection =
            Connection::listen(flow.key.server(), sizes, (self.entropy)(), segment.sequence(), at);
        let taken = connection.ingress(segment.packet(), &mut self.outgoing, at);
        self.held -= 1;
        self.counters.accepted += 1;
        flow.active = now;
        let sound = taken.is_ok() && connection.state() == State::SynReceived;
        flow.phase =
            Phase::Open(Box::new(Open { connection, time_wait: None, challenge_after: now }));
        if sound {
            self.mark_ready(id);
            Ok(())
        } else {
            self.break_off(id, now);
            Err(FlowError::Gone)
        }
    }

    /// Lets the client see why it is not connected, and forgets the flow. Does nothing to a flow that
    /// is not held.
    pub fn refuse(&mut self, id: FlowId, refusal: Refusal) {
        let Some(flow) = self.table.get(id) else { return };
        let Phase::Held { syn, .. } = &flow.phase else { return };
        let port = flow.port;
        let answer = Segment::parse(syn).and_then(|segment| match refusal {
            Refusal::Refused => compose::reset(&segment),
            Refusal::Unreachable => compose::unreachable(&segment),
            Refusal::TimedOut => None,
        });
        self.counters.refused += 1;
        self.enqueue(port, answer);
        self.remove(id);
    }

    /// Reads what has come. `Ok(0)` is the client's FIN (or an empty `buffer`).
    ///
    /// # Errors
    ///
    /// Reset, timed out, or gone; bytes that came before a reset and were not read are lost with it.
    pub fn poll_read(
        &mut self,
        id: FlowId,
        context: &mut Context<'_>,
        buffer: &mut [u8],
        now: Instant,
    ) -> Poll<Result<usize, FlowError>> {
        let Some(flow) = self.table.get_mut(id) else { return Poll::Ready(Err(FlowError::Gone)) };
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let received = match &mut flow.phase {
            Phase::Held { .. } => Received::Nothing,
            Phase::Open(open) => open.connection.read(buffer),
            Phase::Ended(ended) => match ended.end {
                End::Finished => Received::End,
                End::Reset => Received::Reset,
                End::TimedOut => return Poll::Ready(Err(FlowError::TimedOut)),
            },
        };
        match received {
            Received::Bytes(bytes) => {
                flow.active = now;
                // The window may have opened.
                self.mark_ready(id);
                Poll::Ready(Ok(bytes))
            }
            Received::Nothing => {
                remember(&mut flow.reader, context);
                Poll::Pending
            }
            Received::End => Poll::Ready(Ok(0)),
            Received::Reset => Poll::Ready(Err(FlowError::Reset)),
        }
    }

    /// Queues bytes for the client: as many as there is room for, at least one.
    ///
    /// # Errors
    ///
    /// Reset, timed out, gone, or [`FlowError::ShutDown`] after [`Stack::shutdown`].
    pub fn poll_write(
        &mut self,
        id: FlowId,
        context: &mut Context<'_>,
        data: &[u8],
        now: Instant,
    ) -> Poll<Result<usize, FlowError>> {
        let Some(flow) = self.table.get_mut(id) else { return Poll::Ready(Err(FlowError::Gone)) };
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = match &mut flow.phase {
            Phase::Held { .. } => Some(0),
            Phase::Open(open) => open.connection.write(data),
            Phase::Ended(ended) => {
                return Poll::Ready(Err(match ended.end {
                    End::Finished => FlowError::ShutDown,
                    End::Reset => FlowError::Reset,
                    End::TimedOut => FlowError::TimedOut,
                }));
            }
        };
        match written {
            Some(0) => {
                remember(&mut flow.writer, context);
                Poll::Pending
            }
            Some(bytes) => {
                flow.active = now;
                self.mark_ready(id);
                Poll::Ready(Ok(bytes))
            }
            None => Poll::Ready(Err(FlowError::ShutDown)),
        }
    }

    /// Sends FIN after what is queued. The other direction stays as it is.
    pub fn shutdown(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.table.get_mut(id) else { return };
        if let Phase::Open(open) = &mut flow.phase {
            open.connection.shutdown();
            flow.active = now;
            self.mark_ready(id);
        }
    }

    /// Sends RST; what is queued or unread is dropped.
    pub fn abort(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.table.get_mut(id) else { return };
        match &flow.phase {
            Phase::Held { .. } => self.refuse(id, Refusal::Refused),
            Phase::Open(_) => self.reset(id, End::Reset, now),
            Phase::Ended(_) => {}
        }
    }

    /// Resets every flow: the stack is to be used no more.
    pub fn abort_all(&mut self, now: Instant) {
        for id in self.table.ids() {
            self.abort(id, now);
        }
    }

    /// The owner lets go. A flow that was shut down finishes in peace, what its client still sends
    /// being acknowledged and dropped; any other is aborted.
    pub fn release(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.released = true;
        flow.reader = None;
        flow.writer = None;
        match &flow.phase {
            Phase::Held { .. } => self.refuse(id, Refusal::Refused),
            Phase::Open(open) if open.connection.is_shut_down() => {
                flow.active = now;
                self.settle(id, now);
                self.mark_ready(id);
            }
            Phase::Open(_) => self.reset(id, End::Reset, now),
            Phase::Ended(ended) if ended.until <= now => self.remove(id),
            Phase::Ended(_) => self.remains.push_back(id),
        }
    }

    /// The next frame to send, and the port to send it out of.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Port, &[u8])> {
        if let Some((port, frame)) = self.queue.pop_front() {
            self.current = frame;
            return Some((port, &self.current));
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(flow) = self.table.get_mut(id) else { continue };
            if !std::mem::take(&mut flow.ready) {
                continue;
            }
            let port = flow.port;
            match self.egress(id, now) {
                // Behind the others: one frame each in turn.
                Some(bytes) => {
                    self.mark_ready(id);
                    return Some((port, self.outgoing.frame(bytes)));
                }
                None => self.schedule(id, now),
            }
        }
        None
    }

    /// When [`Stack::handle_timeout`] is to be called next, if no other call comes before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// Does what has come due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.table.pop_due(now) {
            let Some(flow) = self.table.get(id) else { continue };
            if now < flow.silence_ends(&self.limits) {
                match &flow.phase {
                    // Scheduled again once it has nothing more to send.
                    Phase::Open(_) => self.mark_ready(id),
                    _ => self.schedule(id, now),
                }
                continue;
            }
            match &flow.phase {
                Phase::Held { .. } => {
                    self.counters.timed_out += 1;
                    self.remove(id);
                }
                Phase::Open(_) => {
                    self.counters.timed_out += 1;
                    self.reset(id, End::TimedOut, now);
                }
                Phase::Ended(_) if flow.released => self.remove(id),
                // The address is free again; how it ended, the owner may still ask.
                Phase::Ended(_) => self.table.detach(id, &flow.key.clone()),
            }
        }
    }

    /// Moves the tasks that can get on into `wakers`, to be woken once the stack is not locked any more.
    pub fn take_wakers(&mut self, wakers: &mut Vec<Waker>) {
        wakers.append(&mut self.wakers);
    }

    fn dispose(
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
                    Residue::Reset => compose::reset(&segment),
                    Residue::TimeWait { .. } if segment.sequence_len() == 0 => None,
                    Residue::TimeWait { sequence, acknowledgement } => compose::segment(
                        &Answer::to(&segment),
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
        self.make_room();
        let flow = Flow {
            key,
            port,
            ethernet: Answer::to(segment).ethernet(),
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
        flow.active = now;
        let taken = open.connection.ingress(segment.packet(), &mut self.outgoing, at);
        let answer =
            self.outgoing.take(&flow.ethernet).map(|bytes| self.outgoing.frame(bytes).to_vec());
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
            self.end(id, End::Reset, Residue::Reset, now);
            return Disposition::Taken;
        }
        if now >= open.challenge_after {
            open.challenge_after = now + CHALLENGE_INTERVAL;
            let (sequence, acknowledgement) = open.connection.last_sent();
            let challenge = compose::segment(
                &Answer::to(segment),
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

    /// Writes the flow's next frame into `outgoing`; its length, if there is one.
    fn egress(&mut self, id: FlowId, now: Instant) -> Option<usize> {
        let at = self.stack_time(now);
        let flow = self.table.get_mut(id)?;
        let Phase::Open(open) = &mut flow.phase else { return None };
        // Past its own TIME-WAIT smoltcp would forget what has not been read yet.
        if open.time_wait.is_some_and(|since| now >= since + LINGER / 2) {
            return None;
        }
        if open.connection.egress(&mut self.outgoing, at).is_err() {
            self.break_off(id, now);
            return None;
        }
        let bytes = self.outgoing.take(&flow.ethernet);
        self.settle(id, now);
        bytes
    }

    /// Sees what a call into smoltcp has changed: wakes tasks, ends the flow.
    fn settle(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.table.get_mut(id) else { return };
        let Phase::Open(open) = &mut flow.phase else { return };
        let connection = &mut open.connection;
        if flow.released {
            let mut scrap = [0; 2048];
            while matches!(connection.read(&mut scrap), Received::Bytes(_)) {}
        }
        let (sequence, acknowledgement) = connection.last_sent();
        let remains = Residue::TimeWait { sequence, acknowledgement };
        let drained = !connection.has_unread();
        match connection.state() {
            State::TimeWait => {
                open.time_wait.get_or_insert(now);
                if drained && acknowledgement == connection.next_expected() {
                    return self.end(id, End::Finished, remains, now);
                }
            }
            State::Closed | State::Listen if connection.has_received_fin() && drained => {
                return self.end(id, End::Finished, remains, now);
            }
            State::Closed | State::Listen if connection.has_received_fin() => {}
            State::Closed | State::Listen => {
                return self.end(id, End::Reset, Residue::Reset, now);
            }
            _ => {}
        }
        flow.take_wakers(&mut self.wakers);
    }

    /// Sends RST and ends the flow.
    fn reset(&mut self, id: FlowId, end: End, now: Instant) {
        let at = self.stack_time(now);
        let Some(flow) = self.table.get_mut(id) else { return };
        let Phase::Open(open) = &mut flow.phase else { return };
        open.connection.abort();
        let sent = open.connection.egress(&mut self.outgoing, at);
        let frame =
            self.outgoing.take(&flow.ethernet).map(|bytes| self.outgoing.frame(bytes).to_vec());
        let port = flow.port;
        if sent.is_err() {
            self.counters.broken += 1;
        }
        self.enqueue(port, frame);
        self.end(id, end, Residue::Reset, now);
    }

    /// Ends a flow on which smoltcp failed. Stragglers are answered with RST, so the client learns of it
    /// with its next segment.
    fn break_off(&mut self, id: FlowId, now: Instant) {
        self.counters.broken += 1;
        let Some(flow) = self.table.get(id) else { return };
        let _ = self.outgoing.take(&flow.ethernet);
        self.end(id, End::Reset, Residue::Reset, now);
    }

    /// Frees the connection's memory; only how it ended remains, for its owner and for stragglers.
    fn end(&mut self, id: FlowId, end: End, residue: Residue, now: Instant) {
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.phase = Phase::Ended(Ended { end, residue, until: now + LINGER });
        flow.take_wakers(&mut self.wakers);
        if flow.released {
            self.remains.push_back(id);
        }
        self.schedule(id, now);
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

    fn make_room(&mut self) {
        while self.table.is_full() {
            let Some(id) = self.remains.pop_front() else { return };
            self.remove(id);
        }
        // Names of remains that went in their own time.
        while self.remains.front().is_some_and(|&id| self.table.get(id).is_none()) {
            self.remains.pop_front();
        }
    }

    fn remove(&mut self, id: FlowId) {
        let Some(flow) = self.table.get(id) else { return };
        let key = flow.key;
        if let Some(mut flow) = self.table.remove(id, &key) {
            if matches!(flow.phase, Phase::Held { .. }) {
                self.held -= 1;
            }
            self.wakers.extend(flow.reader.take());
            self.wakers.extend(flow.writer.take());
        }
    }

    fn mark_ready(&mut self, id: FlowId) {
        let Some(flow) = self.table.get_mut(id) else { return };
        if !flow.ready && matches!(flow.phase, Phase::Open(_)) {
            flow.ready = true;
            self.ready.push_back(id);
        }
    }

    fn schedule(&mut self, id: FlowId, now: Instant) {
        let at = self.stack_time(now);
        let epoch = self.epoch;
        let Some(flow) = self.table.get_mut(id) else { return };
        let mut deadline = flow.silence_ends(&self.limits);
        if let Phase::Open(open) = &mut flow.phase {
            let wanted = open.connection.poll_at(at).map(|due| {
                let since = u64::try_from(due.total_micros()).unwrap_or(0);
                epoch + Duration::from_micros(since)
            });
            let limit = open.time_wait.map(|since| since + LINGER / 2);
            // In TIME-WAIT only the delayed acknowledgement matters, see `egress`.
            if let Some(due) = wanted.filter(|due| limit.is_none_or(|limit| *due < limit)) {
                deadline = deadline.min(due.max(now + TIMER_RESOLUTION));
            }
        }
        self.table.set_deadline(id, Some(deadline));
    }

    fn enqueue(&mut self, port: Port, frame: Option<Vec<u8>>) {
        let Some(frame) = frame else { return };
        if self.queue.len() < FRAME_QUEUE_MAX {
            self.queue.push_back((port, frame));
        } else {
            self.counters.discarded += 1;
        }
    }

    /// smoltcp counts microseconds from a start; ours is the stack's.
    fn stack_time(&self, now: Instant) -> StackInstant {
        let since = now.saturating_duration_since(self.epoch).as_micros();
        StackInstant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
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

fn remember(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}
