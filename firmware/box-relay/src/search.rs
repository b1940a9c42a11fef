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
                // What others found out since the race began counts.
                (Step::Start(manager), State::Asking { race, .. })
                    if !core.managers.may_be_asked(manager, now) =>
                {
                    race.failed(manager, now);
                }
                (Step::Start(proxy), State::Connecting { race, .. })
                    if !core.proxies.is_usable(proxy, now) =>
                {
                    race.failed(proxy, now);
                }
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use wire::ticket::SignedTicket;

    use super::*;
    use crate::admission::Granted;
    use crate::core::ManagerEnd;
    use crate::directory::Answer;
    use crate::limits::Timing;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn manager(last: u8) -> SocketAddr {
        SocketAddr::new(ip(last), 4651)
    }

    fn proxy(last: u8) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, last], 4652))
    }

    /// A box with a ticket, and two managers in the order given.
    fn start() -> (Core, Instant) {
        let now = tokio::time::Instant::now().into_std();
        let mut core = Core::new("fleet.example", &Arc::<Timing>::default(), || 7, now);
        let signed = SignedTicket { ticket: vec![1], signature: vec![2] };
        core.admission.granted(
            Granted { signed, not_before_s: 0, not_after_s: wire::ticket::TICKET_LIFE_S },
            now,
            0,
        );
        let answer = Answer { addresses: vec![ip(1), ip(2)], ttl_s: 60 };
        core.managers_named.answered(answer, now, 0);
        core.take_list(4651);
        (core, now)
    }

    fn wait(step: SearchStep) -> Instant {
        match step {
            SearchStep::Wait(until) => until,
            other => panic!("{other:?}"),
        }
    }

    fn found(search: &mut Search<u8>, core: &mut Core, now: Instant) {
        assert!(matches!(search.poll(core, now), SearchStep::Ask(asked, _) if asked == manager(1)));
        search.asked(core, manager(1), true, now);
        let reply = Reply::Use { lease: 5, proxy: proxy(1), alternates: vec![proxy(2), proxy(3)] };
        search.answered(core, manager(1), Some(reply), now);
        assert!(matches!(search.poll(core, now), SearchStep::Connect(to) if to == proxy(1)));
    }

    #[test]
    fn a_search_ends_with_the_first_proxy_connected() {
        let (mut core, t0) = start();
        let mut search = Search::new(&core, None, t0).unwrap();
        found(&mut search, &mut core, t0);
        let next = wait(search.poll(&mut core, t0));
        assert_eq!(next, t0 + core.timing().next_after);
        assert!(matches!(search.poll(&mut core, next), SearchStep::Connect(to) if to == proxy(2)));
        assert_eq!(search.connected(&mut core, proxy(2), next), Some((manager(1), 5)));
        assert!(!core.proxies.is_usable(proxy(1), next), "it was overtaken: a probe will tell");
    }

    #[test]
    fn who_is_found_dead_during_the_race_is_not_asked() {
        let (mut core, t0) = start();
        let mut search = Search::<u8>::new(&core, None, t0).unwrap();
        assert!(matches!(search.poll(&mut core, t0), SearchStep::Ask(..)));
        search.asked(&mut core, manager(1), true, t0);
        let next = wait(search.poll(&mut core, t0));
        core.manager_ended(manager(2), ManagerEnd::Failed, t0);
        assert!(wait(search.poll(&mut core, next)) > next, "only the first is waited for");

        let (mut core, t0) = start();
        let mut search = Search::new(&core, None, t0).unwrap();
        found(&mut search, &mut core, t0);
        core.proxies.failed(proxy(2), manager(1), t0);
        let next = wait(search.poll(&mut core, t0));
        assert!(matches!(search.poll(&mut core, next), SearchStep::Connect(to) if to == proxy(3)));
    }

    #[test]
    fn a_budget_that_is_spent_in_silence_declares_all_dead() {
        let (mut core, t0) = start();
        let end = t0 + core.timing().relay_budget;
        let mut search = Search::<u8>::new(&core, Some(end), t0).unwrap();
        let mut now = t0;
        loop {
            match search.poll(&mut core, now) {
                SearchStep::Ask(manager, _) => search.asked(&mut core, manager, true, now),
                SearchStep::Wait(until) => now = until,
                SearchStep::NoProxy(reason) => break assert_eq!(reason, DirectReason::BudgetSpent),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(now, end);
        assert_eq!(Search::<u8>::new(&core, None, now).err(), Some(DirectReason::ManagersDead));
    }
}
