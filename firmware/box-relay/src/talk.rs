//! What is said on one manager's connection, and when. Sans-IO.
//!
//! Answers come in the order of the questions, as the protocol has no numbers. A manager counts
//! leases by connection, and hears nothing on one before an `Assign`: so a probe is an `Assign`
//! whose lease is given back, and a `Bye` goes over an admitted connection or not at all.
//!
//! `R` is who waits for an answer. Each method returns what is to be sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wire::{Assign, Bye, LeaseId, Message, Use};

use crate::core::Core;
use crate::limits::{ASSIGNS_UNANSWERED_MAX, Timing};
use crate::managers::Heard;
use crate::search::Reply;
use crate::watch::skipped;

/// See the module.
#[derive(Debug)]
pub struct Talk<R> {
    manager: SocketAddr,
    /// Questions without an answer yet, oldest first.
    unanswered: VecDeque<(Instant, R)>,
    ping: Option<Instant>,
    ping_number: u64,
    /// An `Assign` was not denied on it.
    admitted: bool,
    /// Leases of which no `Bye` was said.
    leases: usize,
    since: Instant,
    last_heard: Instant,
    last_used: Instant,
}

/// What came of the time that passed.
#[derive(Debug, PartialEq, Eq)]
pub enum Tick {
    /// Nothing.
    Nothing,
    /// Send this.
    Send(Message),
    /// Nobody needs the connection: close it, unless there are requests.
    Idle,
    /// An `Assign` was not answered in time.
    Unanswered,
    /// A ping was not answered in time.
    Silent,
}

/// What a manager said, for whom.
#[derive(Debug)]
pub enum Said<R, L> {
    /// The answer to this one's question.
    Answer(R, Reply<L>),
    /// Nothing for anybody.
    Nothing,
    /// What was not asked.
    Unasked,
}

impl<R> Talk<R> {
    /// Of a connection made at `now`.
    #[must_use]
    pub fn new(manager: SocketAddr, now: Instant) -> Self {
        Self {
            manager,
            unanswered: VecDeque::new(),
            ping: None,
            ping_number: 0,
            admitted: false,
            leases: 0,
            since: now,
            last_heard: now,
            last_used: now,
        }
    }

    /// There is room for another question.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.unanswered.len() < ASSIGNS_UNANSWERED_MAX
    }

    /// Asks for a proxy.
    pub fn assign(&mut self, assign: Assign, asker: R, now: Instant) -> Message {
        self.last_used = now;
        self.unanswered.push_back((now, asker));
        Message::Assign(assign)
    }

    /// Says that a session is over; nothing where the manager would not listen.
    #[must_use]
    pub fn bye(&mut self, bye: Bye) -> Option<Message> {
        self.leases = self.leases.saturating_sub(1);
        self.admitted.then_some(Message::Bye(bye))
    }

    /// Finds out whether it answers an `Assign`; nothing where it owes an answer, which is probe
    /// enough. `nobody` waits for the answer, so its lease comes back at once.
    pub fn probe(&mut self, core: &mut Core, nobody: R, now: Instant) -> Option<Message> {
        if !self.unanswered.is_empty() {
            return None;
        }
        let exclude = core.proxies.excluded(self.manager, now);
        let Ok(ticket) = core.ticket(now) else { return self.ping(core, now) };
        self.unanswered.push_back((now, nobody));
        core.managers.asked(self.manager, now);
        Some(Message::Assign(Assign { ticket, exclude }))
    }

    /// Finds out whether it is there; nothing while a ping is under way.
    pub fn ping(&mut self, core: &mut Core, now: Instant) -> Option<Message> {
        if self.ping.is_some() {
            return None;
        }
        self.ping_number = self.ping_number.wrapping_add(1);
        self.ping = Some(now);
        core.managers.asked(self.manager, now);
        Some(Message::Ping(self.ping_number))
    }

    /// Takes a message of the manager's. `lease` makes a lease of its number.
    pub fn hear<L>(
        &mut self,
        core: &mut Core,
        message: Message,
        lease: impl FnOnce(LeaseId) -> L,
        now: Instant,
    ) -> Said<R, L> {
        self.last_heard = now;
        let reply = match message {
            Message::Use(Use { lease: id, proxy, alternates }) => {
                self.admitted = true;
                self.leases += 1;
                Reply::Use { lease: lease(id), proxy, alternates }
            }
            Message::Busy(busy) => {
                self.admitted = true;
                let limit = core.timing().busy_max;
                Reply::Busy(Duration::from_millis(busy.retry_after_ms.into()).min(limit))
            }
            Message::Denied(denied) => Reply::Denied(denied.reason),
            Message::Pong(number) if number == self.ping_number => {
                if let Some(sent) = self.ping.take() {
                    self.alive(core, Heard::Pong, sent, now);
                }
                return Said::Nothing;
            }
            Message::Pong(_) => return Said::Nothing,
            _ => return Said::Unasked,
        };
        let Some((asked, asker)) = self.unanswered.pop_front() else { return Said::Unasked };
        self.alive(core, Heard::Assign, asked, now);
        Said::Answer(asker, reply)
    }

    /// Looks at the clock.
    pub fn tick(&mut self, core: &mut Core, now: Instant) -> Tick {
        let timing = core.timing();
        if self.unanswered.front().is_some_and(|(at, _)| now >= *at + timing.manager_answer_max) {
            return Tick::Unanswered;
        }
        if self.ping.is_some_and(|sent| now >= sent + timing.pong_max) {
            return Tick::Silent;
        }
        let ping_at = self.last_heard + timing.ping_interval;
        if self.unanswered.is_empty() && now >= self.last_used + timing.manager_idle_max {
            if core.managers.preferred(now) != Some(self.manager) {
                return Tick::Idle;
            }
            self.last_used = now;
        }
        if now < ping_at {
            return Tick::Nothing;
        }
        self.ping(core, now).map_or(Tick::Nothing, Tick::Send)
    }

    /// The manager is not in DNS any more, and no session needs its connection: close it, unless there
    /// are requests. A site that is taken out is to become empty.
    #[must_use]
    pub fn is_over(&self, core: &Core) -> bool {
        self.unanswered.is_empty() && self.leases == 0 && !core.managers.lists(self.manager)
    }

    /// There were requests after all: not idle.
    pub fn used(&mut self, now: Instant) {
        self.last_used = now;
    }

    /// When something is due.
    #[must_use]
    pub fn next_time(&self, timing: &Timing) -> Instant {
        let answer = self.unanswered.front().map(|(at, _)| *at + timing.manager_answer_max);
        let pong = match self.ping {
            Some(sent) => sent + timing.pong_max,
            None => self.last_heard + timing.ping_interval,
        };
        let idle = self.unanswered.is_empty().then_some(self.idle_at(timing));
        [answer, idle].into_iter().flatten().fold(pong, Instant::min)
    }

    /// When the connection is closed if it is not the first choice's.
    #[must_use]
    pub fn idle_at(&self, timing: &Timing) -> Instant {
        self.last_used + timing.manager_idle_max
    }

    /// It owes nothing: neither an answer nor a pong.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.unanswered.is_empty() && self.ping.is_none()
    }

    /// Long enough for its end in order not to be a failure.
    #[must_use]
    pub fn has_lasted(&self, timing: &Timing, now: Instant) -> bool {
        now >= self.since + timing.ping_interval
    }

    /// Who waits for an answer that does not come any more.
    pub fn into_unanswered(self) -> impl Iterator<Item = R> {
        self.unanswered.into_iter().map(|(_, asker)| asker)
    }

    /// As if every ping up to `now` had been sent and answered after `round_trip`. So a simulation
    /// need not.
    pub fn skip_pings(&mut self, timing: &Timing, round_trip: Duration, now: Instant) {
        self.last_heard = skipped(self.last_heard, timing, round_trip, now);
    }

    fn alive(&self, core: &mut Core, heard: Heard, asked: Instant, now: Instant) {
        if core.manager_heard(self.manager, heard, asked, now) {
            tracing::info!(manager = %self.manager, "manager is back");
        }
    }
}
