//! Receive, handle, transmit, sleep.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use mail::{End, Output, Session, Side};
use spool::SpoolError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tracing::warn;

use crate::hold::{Edited, Hold, Item, Stuffing};
use crate::judge::{Judgement, Judging};
use crate::{
    Carried, LINGER_MAX, OPAQUE_IDLE_MAX, Observer, Outcome, READ_BYTES_MAX, WRITE_QUEUE_BYTES_MAX,
    couple,
};

/// Pieces below this many bytes are joined before they are written: a mail of dot lines comes in
/// pieces of a line each, and would leave in as many segments.
const JOINED_PIECE_BYTES_MAX: usize = 1024;

/// The runtime's clock, which tests can stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// One side's connection and what waits to be written to it.
struct Leg<T> {
    /// `None` once it was reset or lost.
    stream: Option<T>,
    /// What is being written.
    writing: Bytes,
    queue: VecDeque<Item>,
    /// Small pieces behind the queue, joined.
    joined: BytesMut,
    /// In memory: in `writing`, `queue` and `joined`.
    queued_bytes: usize,
    stuffing: Stuffing,
    /// Written since the last complete flush.
    unflushed: bool,
    sending: Sending,
    receiving: bool,
}

/// The direction towards a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// A FIN follows what is queued.
    Closing,
    Closed,
}

/// What became possible.
enum Step {
    Read(Side, Bytes),
    Ended(Side, End),
    Wrote,
    Verdict(Box<Judgement>),
    Timeout,
}

/// One session on its way.
pub(crate) struct Pump<'a, C, S> {
    client: Leg<C>,
    server: Leg<S>,
    session: Session,
    observer: Observer<'a>,
    /// The message whose verdict is awaited.
    judged: Option<Judging>,
    /// What is kept of a message on the wire until its verdict.
    hold: Option<Hold>,
    /// The message as it may go on instead of the one that was found infected.
    edited: Option<Edited>,
    timer: Pin<Box<Sleep>>,
    /// When `timer` rings; a later deadline does not move it, so that a busy session seldom does.
    armed: Option<Instant>,
    /// Since when both sending directions have ended.
    lingering_until: Option<Instant>,
    /// When bytes were last read from either side.
    read_at: Instant,
    outcome: Outcome,
}

impl<'a, C, S> Pump<'a, C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(client: C, server: S, session: Session, observer: Observer<'a>) -> Self {
        Self {
            client: Leg::new(client),
            server: Leg::new(server),
            session,
            observer,
            judged: None,
            hold: None,
            edited: None,
            timer: Box::pin(tokio::time::sleep_until(tokio::time::Instant::now())),
            armed: None,
            lingering_until: None,
            read_at: now(),
            outcome: Outcome::default(),
        }
    }

    pub(crate) async fn run(mut self) -> Carried<C, S> {
        loop {
            self.perform();
            if self.is_over() {
                return Carried {
                    outcome: self.outcome,
                    client: self.client.stream,
                    server: self.server.stream,
                };
            }
            if self.can_couple() {
                return self.couple().await;
            }
            if let Some(deadline) = self.deadline()
                && self.armed.is_none_or(|armed| deadline < armed)
            {
                self.timer.as_mut().reset(deadline.into());
                self.armed = Some(deadline);
            }
            let step = poll_fn(|cx| self.poll_step(cx)).await;
            self.handle(step);
        }
    }

    fn handle(&mut self, step: Step) {
        match step {
            Step::Wrote => {}
            // Both answers are out; what still comes has no reader.
            Step::Read(..) if self.lingering_until.is_some() => {}
            Step::Read(from, bytes) => {
                match from {
                    Side::Client => self.outcome.bytes_up += bytes.len() as u64,
                    Side::Server => self.outcome.bytes_down += bytes.len() as u64,
                }
                self.read_at = now();
                self.session.receive(from, bytes, self.read_at);
            }
            Step::Ended(from, end) => {
                self.outcome.reset |= end == End::Reset;
                self.session.receive_end(from, end, now());
            }
            Step::Verdict(judgement) => {
                self.judged = None;
                let Judgement { decision, edited, entry } = *judgement;
                self.observer.judged(entry);
                self.edited = edited;
                self.session.verdict(decision, now());
            }
            Step::Timeout => {
                self.armed = None;
                let now = now();
                if self.lingering_until.is_some_and(|until| until <= now) {
                    self.client.lose();
                    self.server.lose();
                } else if self.session.poll_timeout().is_some_and(|deadline| deadline <= now) {
                    self.session.handle_timeout(now);
                } else if self.opaque_deadline().is_some_and(|deadline| deadline <= now) {
                    let (id, idle_s) = (&self.observer.facts.id, OPAQUE_IDLE_MAX.as_secs());
                    warn!(session = %id, idle_s, "nothing moves: reset");
                    self.outcome.reset = true;
                    self.client.lose();
                    self.server.lose();
                }
            }
        }
    }

    /// Does all that the session asks for.
    fn perform(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send { to: Side::Client, bytes } => self.client.push(bytes),
                Output::Send { to: Side::Server, bytes } => self.server.push(bytes),
                Output::Shutdown { to, how } => {
                    self.outcome.reset |= how == End::Reset;
                    match to {
                        Side::Client => self.client.shutdown(how),
                        Side::Server => self.server.shutdown(how),
                    }
                }
                Output::MessageBegin(envelope) => self.observer.begin(envelope),
                Output::MessageData(bytes) => self.observer.feed(&bytes),
                Output::MessageEnd => self.judged = self.observer.end(),
                Output::MessageAbort => {
                    self.judged = None;
                    self.observer.abort();
                }
                Output::Hold(bytes) => self.hold(&bytes),
                Output::SendHeld { to, bytes } => self.send_held(to, bytes),
                Output::DropHeld => self.hold = None,
                Output::SendEdited { to, framing } => {
                    self.hold = None;
                    // Asked for only after a decision that brought it.
                    let items = self.edited.take().map(|edited| edited.items(framing));
                    items.into_iter().flatten().for_each(|item| self.push(to, item));
                }
                Output::Event(event) => self.observer.event(&event, &mut self.outcome),
            }
        }
    }

    fn push(&mut self, to: Side, item: Item) {
        match to {
            Side::Client => self.client.push_item(item),
            Side::Server => self.server.push_item(item),
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        let spooler = self.observer.scanner.spooler();
        let hold = self.hold.get_or_insert_with(|| Hold::new(spooler.open()));
        if let Err(error) = hold.write(bytes) {
            let error = telemetry::chain(&error);
            warn!(session = %self.observer.facts.id, error, "a message cannot be held");
            self.session.hold_failed(now());
        }
    }

    fn send_held(&mut self, to: Side, bytes: Option<u64>) {
        let items = match (bytes, self.hold.take()) {
            (None, Some(hold)) => Ok(hold.rest()),
            (Some(bytes), Some(mut hold)) => {
                let pieces = hold.next(bytes);
                self.hold = Some(hold);
                pieces.map(|pieces| pieces.into_iter().map(Item::Bytes).collect())
            }
            (_, None) => Ok(Vec::new()),
        };
        match items {
            Ok(items) => items.into_iter().for_each(|item| self.push(to, item)),
            Err(error) => self.lose_held(to, &error),
        }
    }

    /// What was kept cannot be read back: nothing may stand in its place but a broken connection.
    fn lose_held(&mut self, to: Side, error: &SpoolError) {
        let error = telemetry::chain(error);
        warn!(session = %self.observer.facts.id, error, "a held message cannot be read back: reset");
        match to {
            Side::Client => self.client.lose(),
            Side::Server => self.server.lose(),
        }
        self.session.receive_end(to, End::Reset, now());
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Some(judging) = &mut self.judged
            && let Poll::Ready(judgement) = judging.as_mut().poll(cx)
        {
            return Poll::Ready(Step::Verdict(Box::new(judgement)));
        }
        if self.client.poll_write(cx) {
            return Poll::Ready(Step::Ended(Side::Client, End::Reset));
        }
        if self.server.poll_write(cx) {
            return Poll::Ready(Step::Ended(Side::Server, End::Reset));
        }
        let lingering = self.lingering_until.is_some();
        if (lingering || self.session.wants(Side::Server) && self.client.has_room())
            && let Poll::Ready(step) = self.server.poll_read(cx, Side::Server)
        {
            return Poll::Ready(step);
        }
        if (lingering || self.session.wants(Side::Client) && self.server.has_room())
            && let Poll::Ready(step) = self.client.poll_read(cx, Side::Client)
        {
            return Poll::Ready(step);
        }
        // Both sides' directions ended while writing: the loop must look again.
        if self.lingering_until.is_none() && self.is_sent() {
            return Poll::Ready(Step::Wrote);
        }
        if self.can_couple() {
            return Poll::Ready(Step::Wrote);
        }
        if self.armed.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Step::Timeout);
        }
        Poll::Pending
    }

    fn deadline(&mut self) -> Option<Instant> {
        if self.is_sent() {
            return Some(*self.lingering_until.get_or_insert_with(|| now() + LINGER_MAX));
        }
        let ends = [self.session.poll_timeout(), self.opaque_deadline()];
        ends.into_iter().flatten().min()
    }

    /// A session that is not read any more and half closed: nobody else has a time limit for it.
    fn opaque_deadline(&self) -> Option<Instant> {
        self.session.is_opaque().then(|| self.read_at + OPAQUE_IDLE_MAX)
    }

    /// Both sending directions have ended.
    fn is_sent(&self) -> bool {
        self.client.is_sent() && self.server.is_sent()
    }

    fn is_over(&self) -> bool {
        self.is_sent() && !self.client.is_receiving() && !self.server.is_receiving()
    }

    /// The session is not read any more and nothing of it is left here. (A session that is half
    /// closed already stays with the pump, which passes the other half on.)
    fn can_couple(&self) -> bool {
        self.session.is_opaque() && self.client.is_idle() && self.server.is_idle()
    }

    async fn couple(self) -> Carried<C, S> {
        match (self.client.stream, self.server.stream) {
            (Some(client), Some(server)) => {
                couple::couple(&self.observer.facts.id, client, server, self.outcome).await
            }
            (client, server) => Carried { outcome: self.outcome, client, server },
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Leg<T> {
    fn new(stream: T) -> Self {
        Self {
            stream: Some(stream),
            writing: Bytes::new(),
            queue: VecDeque::new(),
            joined: BytesMut::new(),
            queued_bytes: 0,
            stuffing: Stuffing::default(),
            unflushed: false,
            sending: Sending::Open,
            receiving: true,
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if self.takes_more() && !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            if bytes.len() < JOINED_PIECE_BYTES_MAX {
                self.joined.extend_from_slice(&bytes);
            } else {
                self.enqueue_joined();
                self.queue.push_back(Item::Bytes(bytes));
            }
        }
    }

    fn push_item(&mut self, item: Item) {
        match item {
            Item::Bytes(bytes) => self.push(bytes),
            item if self.takes_more() => {
                self.enqueue_joined();
                self.queue.push_back(item);
            }
            _ => {}
        }
    }

    fn takes_more(&self) -> bool {
        self.stream.is_some() && self.sending == Sending::Open
    }

    /// Behind the queue with the small pieces; an idle session keeps no buffer for them.
    fn enqueue_joined(&mut self) {
        if !self.joined.is_empty() {
            self.queue.push_back(Item::Bytes(std::mem::take(&mut self.joined).freeze()));
        }
    }

    /// Sees to it that something is being written; false when nothing waits.
    fn fill(&mut self) -> Result<bool, SpoolError> {
        while self.writing.is_empty() {
            let Some(item) = self.queue.front_mut() else { return Ok(false) };
            let was_counted = matches!(item, Item::Bytes(_));
            match item.next(&mut self.stuffing)? {
                Some(bytes) => {
                    if !was_counted {
                        self.queued_bytes += bytes.len();
                    }
                    self.writing = bytes;
                }
                None => drop(self.queue.pop_front()),
            }
        }
        Ok(true)
    }

    fn shutdown(&mut self, how: End) {
        match how {
            End::Fin if self.sending == Sending::Open => self.sending = Sending::Closing,
            End::Fin => {}
            End::Reset => self.lose(),
        }
    }

    /// Dropping the stream resets the connection.
    fn lose(&mut self) {
        self.stream = None;
        self.writing = Bytes::new();
        self.queue.clear();
        self.joined = BytesMut::new();
        self.queued_bytes = 0;
    }

    fn has_room(&self) -> bool {
        self.queued_bytes < WRITE_QUEUE_BYTES_MAX
    }

    fn is_sent(&self) -> bool {
        self.stream.is_none() || self.sending == Sending::Closed
    }

    fn is_receiving(&self) -> bool {
        self.stream.is_some() && self.receiving
    }

    /// Open both ways, and nothing waits to be written.
    fn is_idle(&self) -> bool {
        self.sending == Sending::Open
            && self.receiving
            && self.stream.is_some()
            && self.queued_bytes == 0
            && self.queue.is_empty()
            && !self.unflushed
    }

    /// Writes what it can. True if the connection turned out to be lost.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        self.enqueue_joined();
        let result = loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break self.poll_finish(cx),
                // Kept bytes that cannot be read back: nothing may stand in their place.
                Err(error) => {
                    let error = telemetry::chain(&error);
                    warn!(error, "what was kept of a message cannot be read back: reset");
                    break Err(io::Error::other(error));
                }
            }
            let Some(stream) = &mut self.stream else { return false };
            match Pin::new(stream).poll_write(cx, &self.writing) {
                Poll::Ready(Ok(0)) => break Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.unflushed = true;
                    self.queued_bytes -= count;
                    self.writing.advance(count);
                }
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => break Ok(()),
            }
        };
        if result.is_err() {
            self.lose();
        }
        result.is_err()
    }

    /// All is written: ends the direction, or flushes.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        match self.sending {
            Sending::Closing => match Pin::new(stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => {
                    self.sending = Sending::Closed;
                    Ok(())
                }
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => Ok(()),
            },
            Sending::Open if self.unflushed => match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(result) => {
                    self.unflushed = false;
                    result
                }
                Poll::Pending => Ok(()),
            },
            Sending::Open | Sending::Closed => Ok(()),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<Step> {
        let (Some(stream), true) = (&mut self.stream, self.receiving) else {
            return Poll::Pending;
        };
        // On the stack, so that an idle session holds no buffer.
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let mut buffer = ReadBuf::uninit(&mut space);
        match Pin::new(stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                self.receiving = false;
                Poll::Ready(Step::Ended(side, End::Fin))
            }
            Poll::Ready(Ok(())) => {
                Poll::Ready(Step::Read(side, Bytes::copy_from_slice(buffer.filled())))
            }
            Poll::Ready(Err(_)) => {
                self.lose();
                Poll::Ready(Step::Ended(side, End::Reset))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::task::Waker;

    use super::*;

    /// Takes everything and remembers it, one entry a write.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncRead for Writes {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn small_pieces_leave_together_and_all_in_order() {
        let mut leg = Leg::new(Writes::default());
        let large = Bytes::from(vec![b'L'; JOINED_PIECE_BYTES_MAX]);
        for _ in 0..4_000 {
            leg.push(Bytes::from_static(b"..\r\n"));
        }
        leg.push(large.clone());
        leg.push(Bytes::from_static(b"end"));
        assert!(!leg.is_idle());
        let waker = Waker::noop();
        assert!(!leg.poll_write(&mut Context::from_waker(waker)));
        assert!(leg.is_idle());
        assert_eq!(leg.joined.capacity(), 0);
        let writes = leg.stream.unwrap().0;
        assert_eq!(writes, [b"..\r\n".repeat(4_000), large.to_vec(), b"end".to_vec()]);
    }
}
