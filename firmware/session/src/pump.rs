//! Receive, handle, transmit, sleep.

mod leg;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use mail::{End, Output, Session, Side};
use spool::SpoolError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tracing::warn;

use self::leg::{Heard, Leg};
use crate::hold::{Edited, Hold, Item};
use crate::judge::{Judgement, Judging};
use crate::{Carried, LINGER_MAX, OPAQUE_IDLE_MAX, Observer, Outcome, couple};

/// The runtime's clock, which tests can stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What became possible.
enum Step {
    Read(Side, Bytes),
    Ended(Side, End),
    Wrote,
    Verdict(Box<Judgement>),
    Timeout,
}

impl Step {
    fn of(side: Side, heard: Heard) -> Self {
        match heard {
            Heard::Bytes(bytes) => Self::Read(side, bytes),
            Heard::End(end) => Self::Ended(side, end),
        }
    }
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
                    client: self.client.into_stream(),
                    server: self.server.into_stream(),
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
            && let Poll::Ready(heard) = self.server.poll_read(cx)
        {
            return Poll::Ready(Step::of(Side::Server, heard));
        }
        if (lingering || self.session.wants(Side::Client) && self.server.has_room())
            && let Poll::Ready(heard) = self.client.poll_read(cx)
        {
            return Poll::Ready(Step::of(Side::Client, heard));
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
        match (self.client.into_stream(), self.server.into_stream()) {
            (Some(client), Some(server)) => {
                couple::couple(&self.observer.facts.id, client, server, self.outcome).await
            }
            (client, server) => Carried { outcome: self.outcome, client, server },
        }
    }
}
