//! The search for a proxy: the managers are raced for a name, then that site's proxies for a
//! connection. Sans-IO.
//!
//! Call [`Search::poll`] and do what it says until it says [`SearchStep::Wait`]; tell it of each
//! answer and connection; [`Search::connected`] ends it. `L` is a lease, given back when dropped.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wire::{Assign, DeniedReason};

use crate::core::{Core, Task};
use crate::managers::NoManager;
use crate::race::{Race, Step};
use crate::way::DirectReason;

/// See the module.
#[derive(Debug)]
pub struct Search<L> {
    deadline: Option<Instant>,
    state: State<L>,
}

#[derive(Debug)]
enum State<L> {
    /// For a name. `heard`: a manager has said something.
    Asking {
        race: Race,
        heard: bool,
    },
    /// For a connection.
    Connecting {
        manager: SocketAddr,
        lease: L,
        race: Race,
    },
    Over,
}

/// What to do now.
#[derive(Debug)]
pub enum SearchStep {
    /// Put the question to this manager, and say with [`Search::asked`] whether it went out.
    Ask(SocketAddr, Box<Assign>),
    /// Connect to this proxy.
    Connect(SocketAddr),
    /// Nothing until then, unless something is heard. None: only when something is heard.
    Wait(Instant),
    /// There is no proxy to be had: go direct.
    NoProxy(DirectReason),
    /// None of the proxies named could be reached. They are excluded now: search anew.
    Unreached,
}

/// What a manager said to an `Assign`. Dropped unheard, it gives its lease back.
#[derive(Debug)]
pub enum Reply<L> {
    /// Go there.
    Use {
        /// What the session is counted by.
        lease: L,
        /// The proxy.
        proxy: SocketAddr,
        /// Others, best first.
        alternates: Vec<SocketAddr>,
    },
    /// No proxy for so long.
    Busy(Duration),
    /// Not admitted.
    Denied(DeniedReason),
}

impl<L> Search<L> {
    /// Begins; at `deadline`, if there is one, it gives up.
    ///
    /// # Errors
    ///
    /// Nobody can be asked: go direct.
    pub fn new(core: &Core, deadline: Option<Instant>, now: Instant) -> Result<Self, DirectReason> {
        let timing = core.timing();
        let race =
            Race::new(core.candidates(now)?, timing.next_after, timing.manager_answer_max, now);
        Ok(Self { deadline, state: State::Asking { race, heard: false } })
    }

    /// The next step at `now`.
    pub fn poll(&mut self, core: &mut Core, now: Instant) -> SearchStep {
        loop {
            let step = match &mut self.state {
                State::Asking { race, .. } | State::Connecting { race, .. } => race.poll(now),
                State::Over => return SearchStep::Unreached,
            };
            match (step, &mut self.state) {
                (Step::Wait(until), _) => match self.deadline {
                    Some(end) if now >= end => return self.give_up(core, now),
                    end => return SearchStep::Wait(end.map_or(until, |end| end.min(until))),
                },
                (Step::Start(manager), State::Asking { .. }) => {
                    let exclude = core.proxies.excluded(manager, now);
                    return match core.ticket(now) {
                        Ok(ticket) => {
                            SearchStep::Ask(manager, Box::new(Assign { ticket, exclude }))
                        }
                        Err(reason) => SearchStep::NoProxy(reason),
                    };
                }
                (Step::Start(proxy), _) => return SearchStep::Connect(proxy),
                (Step::GiveUp(manager), State::Asking { .. }) => {
                    // Its connection comes to the same end, perhaps a moment later.
                    if core.managers.unanswered(manager, now) {
                        core.counters.manager_failures += 1;
                        tracing::warn!(%manager, "manager did not answer in time");
                    }
                    core.wake(Task::Prober);
                }
                (Step::GiveUp(proxy), State::Connecting { manager, .. }) => {
                    core.fell_silent(proxy, *manager, now);
                }
                (Step::Lost, State::Asking { .. }) => {
                    let reason = core.candidates(now).err().unwrap_or(DirectReason::NoProxy);
                    return SearchStep::NoProxy(reason);
                }
                (Step::Lost | Step::GiveUp(_), _) => {
                    self.state = State::Over;
                    return SearchStep::Unreached;
                }
            }
        }
    }

    /// The question went out, or had no room in its queue.
    pub fn asked(&mut self, core: &mut Core, manager: SocketAddr, sent: bool, now: Instant) {
        if sent {
            core.managers.asked(manager, now);
        } else {
            core.counters.queue_full += 1;
            if let State::Asking { race, .. } = &mut self.state {
                race.failed(manager, now);
            }
        }
    }

    /// A manager answered; none: its connection ended without an answer.
    pub fn answered(
        &mut self,
        core: &mut Core,
        manager: SocketAddr,
        reply: Option<Reply<L>>,
        now: Instant,
    ) {
        let State::Asking { race, heard } = &mut self.state else { return };
        *heard |= reply.is_some();
        match reply.and_then(|reply| named(core, manager, reply, now)) {
            Some((lease, proxies)) => {
                let timing = core.timing();
                let race = Race::new(proxies, timing.next_after, timing.proxy_connect_max, now);
                self.state = State::Connecting { manager, lease, race };
            }
            None => race.failed(manager, now),
        }
    }

    /// A proxy is connected: it is this manager's, and this is the lease. The search is over.
    pub fn connected(
        &mut self,
        core: &mut Core,
        proxy: SocketAddr,
        now: Instant,
    ) -> Option<(SocketAddr, L)> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Connecting { manager, lease, mut race } => {
                race.failed(proxy, now);
                late_proxies(core, &race, manager, now);
                Some((manager, lease))
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// A proxy could not be connected to; `silent`: it did not say a word.
    pub fn not_connected(
        &mut self,
        core: &mut Core,
        proxy: SocketAddr,
        silent: bool,
        now: Instant,
    ) {
        let State::Connecting { race, manager, .. } = &mut self.state else { return };
        race.failed(proxy, now);
        if silent {
            core.fell_silent(proxy, *manager, now);
        } else {
            core.proxy_failed(proxy, *manager, now);
        }
    }

    fn give_up(&mut self, core: &mut Core, now: Instant) -> SearchStep {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Asking { race, heard } => {
                budget_spent(core, &race, heard, now);
                SearchStep::NoProxy(DirectReason::BudgetSpent)
            }
            State::Connecting { race, manager, .. } => {
                late_proxies(core, &race, manager, now);
                SearchStep::Unreached
            }
            State::Over => SearchStep::Unreached,
        }
    }
}

/// The lease and the usable proxies of an answer, best first; none if it is no help, which is then
/// remembered.
fn named<L>(
    core: &mut Core,
    manager: SocketAddr,
    reply: Reply<L>,
    now: Instant,
) -> Option<(L, Vec<SocketAddr>)> {
    match reply {
        Reply::Use { lease, proxy, alternates } => {
            let mut proxies: Vec<SocketAddr> = Vec::with_capacity(1 + alternates.len());
            for proxy in std::iter::once(proxy).chain(alternates) {
                core.proxies.named(proxy, manager, now);
                if core.proxies.is_usable(proxy, now) && !proxies.contains(&proxy) {
                    proxies.push(proxy);
                }
            }
            if proxies.is_empty() {
                let until = now + core.timing().no_proxy_hold;
                core.managers.hold(manager, NoManager::Busy, until);
                return None;
            }
            Some((lease, proxies))
        }
        Reply::Busy(retry_after) => {
            let hold = retry_after.max(core.timing().next_after);
            core.counters.busy += 1;
            core.managers.hold(manager, NoManager::Busy, now + hold);
            None
        }
        Reply::Denied(reason) => {
            tracing::warn!(%manager, %reason, "manager denies this box");
            core.manager_denied(manager, reason, now);
            None
        }
    }
}

/// The session goes direct now. If no manager said a word, none will to the next session either:
/// the breaker trips.
fn budget_spent(core: &mut Core, race: &Race, heard: bool, now: Instant) {
    let mut died = false;
    if heard {
        for manager in race.running() {
            died |= core.managers.unanswered(manager, now);
        }
    } else {
        died = core.managers.trip(now);
    }
    if died {
        core.counters.manager_failures += 1;
        tracing::warn!("no manager answered within the time of a session");
    }
    core.wake(Task::Prober);
}

/// Those that a later one overtook are sick: a probe will tell. Never all of a site, as one won or
/// the session's time is over.
fn late_proxies(core: &mut Core, race: &Race, manager: SocketAddr, now: Instant) {
    for proxy in race.overdue(now) {
        core.proxy_failed(proxy, manager, now);
    }
}
