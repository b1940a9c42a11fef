//! Proxies that failed, so that no session tries them and managers are told. Sans-IO.
//!
//! A dead proxy is excluded until a probe finds it again, or until no manager has named it for a
//! long time. A full or draining one is left alone for a short time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use wire::EXCLUDED_MAX;

use crate::backoff::{Backoff, Dice};
use crate::limits::{PROXIES_REMEMBERED_MAX, Timing};

/// The proxies not to be used now.
#[derive(Debug)]
pub struct Proxies {
    entries: Vec<Proxy>,
    timing: Arc<Timing>,
    dice: Dice,
}

#[derive(Debug)]
struct Proxy {
    address: SocketAddr,
    /// Who names it, and so who is told.
    manager: SocketAddr,
    named_at: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Held {
        until: Instant,
    },
    /// Alive again since `at`; if it fails soon after, its probes go on as if it had not been.
    Back {
        at: Instant,
        failures: u32,
    },
    Dead {
        since: Instant,
        failures: u32,
        probe_at: Instant,
    },
}

impl Proxies {
    pub(crate) fn new(timing: &Arc<Timing>, seed: u32) -> Self {
        Self { entries: Vec::new(), timing: Arc::clone(timing), dice: Dice::new(seed) }
    }

    /// A session or warm link may use it.
    pub fn is_usable(&self, address: SocketAddr, now: Instant) -> bool {
        !self.entries.iter().any(|proxy| proxy.address == address && proxy.excluded(now))
    }

    /// A manager named it: it is still part of its site.
    pub(crate) fn named(&mut self, address: SocketAddr, manager: SocketAddr, now: Instant) {
        if let Some(proxy) = self.entries.iter_mut().find(|p| p.address == address) {
            proxy.named_at = now;
            proxy.manager = manager;
        }
    }

    /// It did not answer, or not sensibly. True if it was not known to be dead.
    pub(crate) fn failed(
        &mut self,
        address: SocketAddr,
        manager: SocketAddr,
        now: Instant,
    ) -> bool {
        let (since, failures) = match self.state_of(address) {
            Some(State::Dead { since, failures, .. }) => (since, failures.saturating_add(1)),
            Some(State::Back { failures, .. }) => (now, failures.saturating_add(1)),
            _ => (now, 1),
        };
        let new = !matches!(self.state_of(address), Some(State::Dead { .. }));
        let backoff =
            Backoff { min: self.timing.probe_pause_min, max: self.timing.probe_pause_max };
        let probe_at = now + backoff.pause(failures, &mut self.dice);
        self.put(address, manager, State::Dead { since, failures, probe_at }, now);
        new
    }

    /// It takes no sessions now. Does not hide that it is dead.
    pub(crate) fn hold(&mut self, address: SocketAddr, manager: SocketAddr, now: Instant) {
        self.leave_alone(address, manager, now + self.timing.proxy_hold, now);
    }

    /// It owes a session an answer: others are not sent there meanwhile.
    pub(crate) fn owes(&mut self, address: SocketAddr, manager: SocketAddr, now: Instant) {
        self.leave_alone(address, manager, now + self.timing.suspicion, now);
    }

    /// It takes sessions.
    pub(crate) fn takes(&mut self, address: SocketAddr) {
        self.entries
            .retain(|proxy| proxy.address != address || !matches!(proxy.state, State::Held { .. }));
    }

    fn leave_alone(
        &mut self,
        address: SocketAddr,
        manager: SocketAddr,
        until: Instant,
        now: Instant,
    ) {
        if !matches!(self.state_of(address), Some(State::Dead { .. })) {
            self.put(address, manager, State::Held { until }, now);
        }
    }

    /// It answered. True if it was dead.
    pub(crate) fn recovered(&mut self, address: SocketAddr, now: Instant) -> bool {
        let Some(proxy) = self.entries.iter_mut().find(|p| p.address == address) else {
            return false;
        };
        let State::Dead { failures, .. } = proxy.state else { return false };
        proxy.state = State::Back { at: now, failures };
        true
    }

    /// What to tell this manager, the latest failures first.
    pub(crate) fn excluded(&self, manager: SocketAddr, now: Instant) -> Vec<SocketAddr> {
        self.entries
            .iter()
            .rev()
            .filter(|proxy| proxy.manager == manager && proxy.excluded(now))
            .map(|proxy| proxy.address)
            .take(EXCLUDED_MAX)
            .collect()
    }

    /// The next dead proxy whose probe is due; the one after it is set a full pause later should
    /// its end never be heard of.
    pub fn due_probe(&mut self, now: Instant) -> Option<(SocketAddr, SocketAddr)> {
        self.forget(now);
        let again = now + self.timing.probe_max * 2;
        self.entries.iter_mut().find_map(|proxy| match &mut proxy.state {
            State::Dead { probe_at, .. } if *probe_at <= now => {
                *probe_at = again;
                Some((proxy.address, proxy.manager))
            }
            _ => None,
        })
    }

    /// When the next probe is due.
    pub fn next_probe(&self) -> Option<Instant> {
        self.entries
            .iter()
            .filter_map(|proxy| match proxy.state {
                State::Dead { probe_at, .. } => Some(probe_at),
                State::Held { .. } | State::Back { .. } => None,
            })
            .min()
    }

    /// Probe the dead at once (the network changed).
    pub(crate) fn probe_now(&mut self, now: Instant) {
        for proxy in &mut self.entries {
            if let State::Dead { probe_at, failures, .. } = &mut proxy.state {
                *probe_at = now;
                *failures = 1;
            }
        }
    }

    /// Those excluded now, and since when they are dead (none: full, draining or denying).
    pub(crate) fn states(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (SocketAddr, SocketAddr, Option<Instant>)> + '_ {
        self.entries.iter().filter(move |proxy| proxy.excluded(now)).map(|proxy| {
            let since = match proxy.state {
                State::Dead { since, .. } => Some(since),
                State::Held { .. } | State::Back { .. } => None,
            };
            (proxy.address, proxy.manager, since)
        })
    }

    fn state_of(&self, address: SocketAddr) -> Option<State> {
        self.entries.iter().find(|proxy| proxy.address == address).map(|proxy| proxy.state)
    }

    fn put(&mut self, address: SocketAddr, manager: SocketAddr, state: State, now: Instant) {
        let known = self.entries.iter().position(|proxy| proxy.address == address);
        let named_at = known.map_or(now, |at| self.entries.remove(at).named_at);
        self.forget(now);
        if self.entries.len() >= PROXIES_REMEMBERED_MAX {
            self.entries.remove(0);
        }
        self.entries.push(Proxy { address, manager, named_at, state });
    }

    fn forget(&mut self, now: Instant) {
        let after = self.timing.proxy_forgotten_after;
        self.entries.retain(|proxy| match proxy.state {
            State::Dead { .. } => now < proxy.named_at + after,
            State::Held { until } => now < until,
            State::Back { at, .. } => now < at + self.timing.flapping,
        });
    }
}

impl Proxy {
    fn excluded(&self, now: Instant) -> bool {
        match self.state {
            State::Dead { .. } => true,
            State::Held { until } => now < until,
            State::Back { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(last: u8) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, last], 4652))
    }

    fn manager(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4651))
    }

    fn start() -> (Proxies, Instant, Arc<Timing>) {
        let timing = Arc::<Timing>::default();
        (Proxies::new(&timing, 5), tokio::time::Instant::now().into_std(), timing)
    }

    #[test]
    fn a_dead_proxy_is_excluded_until_a_probe_finds_it() {
        let (mut proxies, t0, timing) = start();
        assert!(proxies.is_usable(proxy(1), t0));
        assert!(proxies.failed(proxy(1), manager(1), t0));
        assert!(!proxies.failed(proxy(1), manager(1), t0));
        assert!(!proxies.is_usable(proxy(1), t0));
        assert_eq!(proxies.excluded(manager(1), t0), [proxy(1)]);
        assert_eq!(proxies.excluded(manager(2), t0), [], "another site's manager is not told");
        let due = proxies.next_probe().unwrap();
        assert_eq!(proxies.due_probe(due), Some((proxy(1), manager(1))));
        assert_eq!(proxies.due_probe(due), None, "under way");
        assert_eq!(proxies.due_probe(due + timing.probe_max * 2), Some((proxy(1), manager(1))));
        assert!(proxies.recovered(proxy(1), due));
        assert!(!proxies.recovered(proxy(1), due));
        assert!(proxies.is_usable(proxy(1), due));
        assert_eq!(proxies.next_probe(), None);
    }

    #[test]
    fn a_proxy_that_comes_and_goes_is_probed_less_and_less() {
        let (mut proxies, mut now, timing) = start();
        let mut last = std::time::Duration::ZERO;
        for round in 0..5 {
            assert!(proxies.failed(proxy(1), manager(1), now), "new each time");
            let due = proxies.next_probe().unwrap();
            assert!(due - now > last, "round {round}");
            last = due - now;
            proxies.due_probe(due);
            assert!(proxies.recovered(proxy(1), due));
            now = due;
        }
        now += timing.flapping;
        proxies.due_probe(now);
        proxies.failed(proxy(1), manager(1), now);
        assert!(proxies.next_probe().unwrap() - now < last, "forgiven in time");
    }

    #[test]
    fn a_full_proxy_is_held_for_a_while_and_not_probed() {
        let (mut proxies, t0, timing) = start();
        proxies.hold(proxy(1), manager(1), t0);
        assert!(!proxies.is_usable(proxy(1), t0));
        assert_eq!(proxies.next_probe(), None);
        assert!(proxies.is_usable(proxy(1), t0 + timing.proxy_hold));
        assert_eq!(proxies.excluded(manager(1), t0 + timing.proxy_hold), []);
        proxies.failed(proxy(1), manager(1), t0);
        proxies.hold(proxy(1), manager(1), t0);
        assert!(!proxies.is_usable(proxy(1), t0 + timing.proxy_hold), "dead stays dead");
    }

    #[test]
    fn a_dead_proxy_nobody_names_is_forgotten() {
        let (mut proxies, t0, timing) = start();
        proxies.failed(proxy(1), manager(1), t0);
        proxies.failed(proxy(2), manager(1), t0);
        let later = t0 + timing.proxy_forgotten_after;
        proxies.named(proxy(2), manager(1), t0 + timing.proxy_forgotten_after / 2);
        assert_eq!(proxies.due_probe(later), Some((proxy(2), manager(1))));
        assert!(proxies.is_usable(proxy(1), later));
        assert!(!proxies.is_usable(proxy(2), later));
    }

    #[test]
    fn memory_and_exclusions_are_bounded_and_keep_the_latest() {
        let (mut proxies, t0, _) = start();
        for last in 0..=u8::MAX {
            proxies.failed(proxy(last), manager(1), t0);
        }
        assert_eq!(proxies.states(t0).count(), PROXIES_REMEMBERED_MAX);
        let excluded = proxies.excluded(manager(1), t0);
        assert_eq!(excluded.len(), EXCLUDED_MAX);
        assert_eq!(excluded.first(), Some(&proxy(u8::MAX)));
    }
}
