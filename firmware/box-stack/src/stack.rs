//! The stack: frames in, flows out, frames out.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;
use smoltcp::time::Instant as StackInstant;

use crate::compose;
use crate::connection::{Connection, Outgoing, Received, Sizes};
use crate::flow::{End, Ended, Flow, LINGER, Limits, Open, Phase, Residue};
use crate::frame::Segment;
use crate::table::{FlowId, Table};
use crate::train::Train;
use crate::{
    Counters, Disposition, Entropy, FRAME_QUEUE_MAX, FlowError, Opening, Port, Refusal, Settings,
    Transmit, Verdict,
};

/// A flow is not looked at again sooner than this without a frame or a call that concerns it.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

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
    pub(crate) settings: Settings,
    limits: Limits,
    entropy: Entropy,
    epoch: Instant,
    pub(crate) table: Table<Flow>,
    pub(crate) held: usize,
    /// Flows that may have something to send.
    ready: VecDeque<FlowId>,
    /// Released remains, oldest first: what makes room when the table is full.
    pub(crate) remains: VecDeque<FlowId>,
    /// Accepted flows in their order: the oldest that its client never confirmed makes room too.
    pub(crate) accepted: VecDeque<FlowId>,
    queue: VecDeque<(Port, Vec<u8>)>,
    current: Vec<u8>,
    train: Train,
    pub(crate) outgoing: Outgoing,
    pub(crate) events: VecDeque<Opening>,
    wakers: Vec<Waker>,
    pub(crate) counters: Counters,
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
            accepted: VecDeque::new(),
            queue: VecDeque::new(),
            current: Vec::new(),
            train: Train::default(),
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
        // An owner that hears of a failure here has nothing to release later.
        flow.released = !sound;
        flow.phase = Phase::Open(Box::new(Open {
            connection,
            time_wait: None,
            reset: false,
            challenge_after: now,
        }));
        if sound {
            self.accepted.push_back(id);
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
            Refusal::Refused => compose::reset(&flow.answer, &segment),
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
                End::Finished | End::ResetAfterFin => Received::End,
                End::Reset => Received::Reset,
                End::TimedOut => return Poll::Ready(Err(FlowError::TimedOut)),
            },
        };
        match received {
            Received::Bytes(bytes) => {
                flow.active = now;
                // The window may have opened, or this was the last of a connection that is over.
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
            Phase::Open(open) if open.reset => return Poll::Ready(Err(FlowError::Reset)),
            Phase::Open(open) => open.connection.write(data),
            Phase::Ended(ended) => {
                return Poll::Ready(Err(match ended.end {
                    End::Finished => FlowError::ShutDown,
                    End::Reset | End::ResetAfterFin => FlowError::Reset,
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

    /// The next frame to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_>> {
        if let Some((port, frame)) = self.queue.pop_front() {
            self.current = frame;
            return Some(Transmit { port, frame: &self.current, segment_bytes: None });
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(flow) = self.table.get_mut(id) else { continue };
            if !std::mem::take(&mut flow.ready) {
                continue;
            }
            let port = flow.port;
            let Some(bytes) = self.egress(id, now) else {
                self.schedule(id, now);
                continue;
            };
            // Behind the others: one frame each in turn.
            self.mark_ready(id);
            if self.settings.segments && self.train.begin(self.outgoing.frame(bytes)) {
                while let Some(bytes) = self.egress(id, now) {
                    if !self.train.add(self.outgoing.frame(bytes)) {
                        let frame = self.outgoing.frame(bytes).to_vec();
                        self.enqueue(port, Some(frame));
                        break;
                    }
                }
                let (frame, segment_bytes) = self.train.finish();
                return Some(Transmit { port, frame, segment_bytes });
            }
            let frame = self.outgoing.frame(bytes);
            return Some(Transmit { port, frame, segment_bytes: None });
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

    /// Writes the flow's next frame into `outgoing`; its length, if there is one.
    fn egress(&mut self, id: FlowId, now: Instant) -> Option<usize> {
        let at = self.stack_time(now);
        let flow = self.table.get_mut(id)?;
        let Phase::Open(open) = &mut flow.phase else { return None };
        // Past its own TIME-WAIT smoltcp would forget what has not been read yet.
        if open.reset || open.time_wait.is_some_and(|since| now >= since + LINGER / 2) {
            self.settle(id, now);
            return None;
        }
        if open.connection.egress(&mut self.outgoing, at).is_err() {
            self.break_off(id, now);
            return None;
        }
        let bytes = self.outgoing.take(&flow.answer.ethernet());
        self.settle(id, now);
        bytes
    }

    /// Sees what a call into smoltcp has changed: wakes tasks, ends the flow.
    pub(crate) fn settle(&mut self, id: FlowId, now: Instant) {
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
            _ if open.reset && drained => {
                return self.end(id, End::ResetAfterFin, Residue::Reset, now);
            }
            _ if open.reset => {}
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
        let frame = self
            .outgoing
            .take(&flow.answer.ethernet())
            .map(|bytes| self.outgoing.frame(bytes).to_vec());
        let port = flow.port;
        if sent.is_err() {
            self.counters.broken += 1;
        }
        self.enqueue(port, frame);
        self.end(id, end, Residue::Reset, now);
    }

    /// Ends a flow on which smoltcp failed. Stragglers are answered with RST, so the client learns of it
    /// with its next segment.
    pub(crate) fn break_off(&mut self, id: FlowId, now: Instant) {
        self.counters.broken += 1;
        let Some(flow) = self.table.get(id) else { return };
        let _ = self.outgoing.take(&flow.answer.ethernet());
        self.end(id, End::Reset, Residue::Reset, now);
    }

    /// Frees the connection's memory; only how it ended remains, for its owner and for stragglers.
    pub(crate) fn end(&mut self, id: FlowId, end: End, residue: Residue, now: Instant) {
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.phase = Phase::Ended(Ended { end, residue, until: now + LINGER });
        flow.take_wakers(&mut self.wakers);
        if flow.released {
            self.remains.push_back(id);
        }
        self.schedule(id, now);
    }

    pub(crate) fn remove(&mut self, id: FlowId) {
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

    pub(crate) fn mark_ready(&mut self, id: FlowId) {
        let Some(flow) = self.table.get_mut(id) else { return };
        if !flow.ready && matches!(flow.phase, Phase::Open(_)) {
            flow.ready = true;
            self.ready.push_back(id);
        }
    }

    pub(crate) fn schedule(&mut self, id: FlowId, now: Instant) {
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

    pub(crate) fn enqueue(&mut self, port: Port, frame: Option<Vec<u8>>) {
        let Some(frame) = frame else { return };
        if self.queue.len() < FRAME_QUEUE_MAX {
            self.queue.push_back((port, frame));
        } else {
            self.counters.discarded += 1;
        }
    }

    /// smoltcp counts microseconds from a start; ours is the stack's.
    pub(crate) fn stack_time(&self, now: Instant) -> StackInstant {
        let since = now.saturating_duration_since(self.epoch).as_micros();
        StackInstant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

fn remember(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}
