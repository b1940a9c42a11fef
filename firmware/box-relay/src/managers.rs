//! What is known of each manager, and so whom a session asks. Sans-IO.
//!
//! A manager is unknown, up or dead. A dead one is asked by no session until a probe has found it
//! again. One that is slow right now, or that shares its address with something that just fell
//! silent, is asked last. One that cannot help for a while (busy, no usable proxy, denied us) is
//! left out for that while. If a session has spent its whole budget in vain, [`Managers::trip`]
//! declares all of them dead, so that the next session goes direct at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::DeniedReason;

use crate::backoff::{Backoff, Dice};
use crate::limits::Timing;

/// All managers of the list, in its order.
#[derive(Debug)]
pub struct Managers {
    entries: Vec<Manager>,
    timing: Arc<Timing>,
    dice: Dice,
}

/// Why no manager can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoManager {
    /// DNS never gave one.
    Unlisted,
    /// All are dead.
    Dead,
    /// Some live, but none has a proxy for us now.
    Busy,
    /// All that live say that we are not admitted.
    Denied(DeniedReason),
}

/// What a manager answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A ping.
    Pong,
    /// An `Assign`.
    Assign,
}

/// A manager's state as the status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateNow {
    Unknown,
    Up,
    Slow,
    Held,
    Dead { since: Instant },
}

#[derive(Debug)]
struct Manager {
    address: SocketAddr,
    state: State,
    /// Since when it owes an answer.
    asked_at: Option<Instant>,
    suspect_until: Option<Instant>,
    hold: Option<Hold>,
    last_answer: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Unknown,
    Up,
    Dead { since: Instant, failures: u32, probe: Probe, deaf: bool },
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    At(Instant),
    /// Under way; due again at this time should its end never be heard of.
    Running(Instant),
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    until: Instant,
    why: NoManager,
}

impl Managers {
    pub(crate) fn new(timing: &Arc<Timing>, seed: u32) -> Self {
        Self { entries: Vec::new(), timing: Arc::clone(timing), dice: Dice::new(seed) }
    }

    /// Takes a new list; what is known of those that stay is kept. Returns those that left.
    pub(crate) fn set_list(&mut self, list: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut old = std::mem::take(&mut self.entries);
        for &address in list {
            if self.entries.iter().any(|m| m.address == address) {
                continue;
            }
            let known = old.iter().position(|m| m.address == address);
            self.entries.push(known.map_or_else(|| Manager::new(address), |at| old.remove(at)));
        }
        old.into_iter().map(|manager| manager.address).collect()
    }

    /// Whom to ask, in order; or why nobody.
    pub(crate) fn candidates(&self, now: Instant) -> Result<Vec<SocketAddr>, NoManager> {
        if self.entries.is_empty() {
            return Err(NoManager::Unlisted);
        }
        let (mut first, mut last) = (Vec::new(), Vec::new());
        let mut held = None;
        for manager in &self.entries {
            match (manager.state, manager.held(now)) {
                (State::Dead { .. }, _) => {}
                (_, Some(why)) => held = Some(held.map_or(why, |other| worse(other, why))),
                _ if self.is_slow(manager, now) => last.push(manager.address),
                _ => first.push(manager.address),
            }
        }
        first.append(&mut last);
        if first.is_empty() { Err(held.unwrap_or(NoManager::Dead)) } else { Ok(first) }
    }

    /// The one whose connection is kept open.
    pub fn preferred(&self, now: Instant) -> Option<SocketAddr> {
        self.candidates(now).ok().and_then(|list| list.first().copied())
    }

    /// It is asked by no session until a probe finds it.
    pub fn is_dead(&self, address: SocketAddr) -> bool {
        let dead = |m: &Manager| m.address == address && matches!(m.state, State::Dead { .. });
        self.entries.iter().any(dead)
    }

    /// It is listed, not dead, and not left alone for a while.
    pub(crate) fn may_be_asked(&self, address: SocketAddr, now: Instant) -> bool {
        self.entries.iter().any(|manager| {
            let dead = matches!(manager.state, State::Dead { .. });
            manager.address == address && !dead && manager.held(now).is_none()
        })
    }

    /// The list names it.
    pub(crate) fn lists(&self, address: SocketAddr) -> bool {
        self.entries.iter().any(|m| m.address == address)
    }

    /// It owes an answer from now on.
    pub(crate) fn asked(&mut self, address: SocketAddr, now: Instant) {
        if let Some(manager) = self.find(address) {
            manager.asked_at.get_or_insert(now);
        }
    }

    /// It answered, whatever it said. True if it was dead until now.
    ///
    /// One that left an `Assign` unanswered is deaf: no pong brings it back, only an answer to the
    /// like.
    pub(crate) fn answered(&mut self, address: SocketAddr, answer: Heard, took: Duration) -> bool {
        let Some(manager) = self.find(address) else { return false };
        let recovered = match manager.state {
            State::Dead { deaf: true, .. } if answer == Heard::Pong => return false,
            State::Dead { .. } => true,
            State::Unknown | State::Up => false,
        };
        manager.state = State::Up;
        manager.asked_at = None;
        manager.suspect_until = None;
        manager.last_answer = Some(took);
        recovered
    }

    /// No connection, or nonsense: dead. True if it was not before.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Instant) -> bool {
        self.died(address, false, now)
    }

    /// It left an `Assign` unanswered: dead, and deaf. True if it was not dead before.
    pub(crate) fn unanswered(&mut self, address: SocketAddr, now: Instant) -> bool {
        self.died(address, true, now)
    }

    /// Its connection ended in order: what it does next is not known.
    pub(crate) fn lost(&mut self, address: SocketAddr) {
        if let Some(manager) = self.find(address)
            && matches!(manager.state, State::Up)
        {
            manager.state = State::Unknown;
            manager.asked_at = None;
        }
    }

    /// Leave it alone until then: it named no proxy, or denied us.
    pub(crate) fn hold(&mut self, address: SocketAddr, why: NoManager, until: Instant) {
        if let Some(manager) = self.find(address) {
            manager.hold = Some(Hold { until, why });
        }
    }

    /// There is a new ticket: those that denied the old one may be asked again.
    pub(crate) fn ticket_changed(&mut self) {
        for manager in &mut self.entries {
            manager.hold.take_if(|hold| matches!(hold.why, NoManager::Denied(_)));
        }
    }

    /// One of its proxies came back: it may be asked again.
    pub(crate) fn release(&mut self, address: SocketAddr) {
        if let Some(manager) = self.find(address) {
            manager.hold.take_if(|hold| hold.why == NoManager::Busy);
        }
    }

    /// A proxy of this manager, at this IP address, fell silent: ask the managers of that site
    /// last, for a while.
    pub(crate) fn suspect(&mut self, address: SocketAddr, ip: IpAddr, now: Instant) {
        let until = now + self.timing.suspicion;
        let same_site = |m: &&mut Manager| m.address == address || m.address.ip() == ip;
        for manager in self.entries.iter_mut().filter(same_site) {
            manager.suspect_until = Some(until);
        }
    }

    /// A session's whole budget passed and no manager answered: all are dead, to be probed at once.
    /// True if any was not dead before.
    pub(crate) fn trip(&mut self, now: Instant) -> bool {
        let mut died = false;
        for manager in &mut self.entries {
            if !matches!(manager.state, State::Dead { .. }) {
                died = true;
                let deaf = manager.asked_at.take().is_some();
                let probe = Probe::At(now);
                manager.state = State::Dead { since: now, failures: 1, probe, deaf };
            }
        }
        died
    }

    /// Probe the dead at once (the network changed).
    pub(crate) fn probe_now(&mut self, now: Instant) {
        for manager in &mut self.entries {
            if let State::Dead { probe: probe @ Probe::At(_), failures, .. } = &mut manager.state {
                *probe = Probe::At(now);
                *failures = 1;
            }
        }
    }

    /// The next dead manager whose probe is due; the probe counts as under way.
    pub fn due_probe(&mut self, now: Instant) -> Option<SocketAddr> {
        let again = now + self.timing.probe_max * 2;
        self.entries.iter_mut().find_map(|manager| match &mut manager.state {
            State::Dead { probe, .. } if probe.due() <= now => {
                *probe = Probe::Running(again);
                Some(manager.address)
            }
            _ => None,
        })
    }

    /// When the next probe is due.
    pub fn next_probe(&self) -> Option<Instant> {
        self.entries
            .iter()
            .filter_map(|manager| match manager.state {
                State::Dead { probe, .. } => Some(probe.due()),
                _ => None,
            })
            .min()
    }

    /// Address, state, and how long its last answer took.
    pub(crate) fn states(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (SocketAddr, StateNow, Option<Duration>)> + '_ {
        self.entries.iter().map(move |manager| {
            let state = match manager.state {
                State::Dead { since, .. } => StateNow::Dead { since },
                _ if manager.held(now).is_some() => StateNow::Held,
                _ if self.is_slow(manager, now) => StateNow::Slow,
                State::Unknown => StateNow::Unknown,
                State::Up => StateNow::Up,
            };
            (manager.address, state, manager.last_answer)
        })
    }

    fn is_slow(&self, manager: &Manager, now: Instant) -> bool {
        manager.suspect_until.is_some_and(|until| now < until)
            || manager.asked_at.is_some_and(|asked| now >= asked + self.timing.next_after)
    }

    fn died(&mut self, address: SocketAddr, unanswered: bool, now: Instant) -> bool {
        let Self { entries, timing, dice } = self;
        let Some(manager) = entries.iter_mut().find(|m| m.address == address) else { return false };
        manager.asked_at = None;
        let (since, failures, deaf, died) = match manager.state {
            State::Dead { since, failures, deaf, .. } => {
                (since, failures.saturating_add(1), deaf || unanswered, false)
            }
            State::Unknown | State::Up => (now, 1, unanswered, true),
        };
        let backoff = Backoff { min: timing.probe_pause_min, max: timing.probe_pause_max };
        let probe = Probe::At(now + backoff.pause(failures, dice));
        manager.state = State::Dead { since, failures, probe, deaf };
        died
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Manager> {
        self.entries.iter_mut().find(|m| m.address == address)
    }
}

impl Manager {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            state: State::Unknown,
            asked_at: None,
            suspect_until: None,
            hold: None,
            last_answer: None,
        }
    }

    fn held(&self, now: Instant) -> Option<NoManager> {
        self.hold.filter(|hold| now < hold.until).map(|hold| hold.why)
    }
}

impl Probe {
    fn due(self) -> Instant {
        match self {
            Self::At(at) | Self::Running(at) => at,
        }
    }
}

/// Of two reasons, the one worth telling: a denial needs the operator, busy passes.
fn worse(one: NoManager, other: NoManager) -> NoManager {
    match (one, other) {
        (NoManager::Denied(_), _) => one,
        _ => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4651))
    }

    fn start(count: u8) -> (Managers, Instant, Arc<Timing>) {
        let timing = Arc::<Timing>::default();
        let mut managers = Managers::new(&timing, 3);
        managers.set_list(&(1..=count).map(address).collect::<Vec<_>>());
        (managers, tokio::time::Instant::now().into_std(), timing)
    }

    fn ask(managers: &Managers, now: Instant) -> Vec<SocketAddr> {
        managers.candidates(now).unwrap()
    }

    #[test]
    fn no_list_is_told_apart_from_dead_managers() {
        let (mut managers, t0, _) = start(0);
        assert_eq!(managers.candidates(t0), Err(NoManager::Unlisted));
        managers.set_list(&[address(1)]);
        managers.failed(address(1), t0);
        assert_eq!(managers.candidates(t0), Err(NoManager::Dead));
    }

    #[test]
    fn the_dead_are_skipped_until_a_probe_finds_them() {
        let (mut managers, t0, timing) = start(3);
        assert_eq!(ask(&managers, t0), [address(1), address(2), address(3)]);
        assert!(managers.failed(address(1), t0));
        assert!(!managers.failed(address(1), t0), "dead already");
        assert_eq!(ask(&managers, t0 + Duration::from_secs(3600)), [address(2), address(3)]);
        let due = managers.next_probe().unwrap();
        assert_eq!(managers.due_probe(t0), None);
        assert!(due <= t0 + timing.probe_pause_max);
        assert_eq!(managers.due_probe(due), Some(address(1)));
        assert_eq!(managers.due_probe(due), None, "under way");
        assert!(managers.answered(address(1), Heard::Pong, Duration::from_millis(9)));
        assert_eq!(ask(&managers, due), [address(1), address(2), address(3)]);
        assert_eq!(managers.next_probe(), None);
    }

    #[test]
    fn a_probe_that_never_ends_is_made_again() {
        let (mut managers, t0, timing) = start(1);
        managers.failed(address(1), t0);
        let due = managers.next_probe().unwrap();
        assert_eq!(managers.due_probe(due), Some(address(1)));
        assert_eq!(managers.due_probe(due + timing.probe_max * 2), Some(address(1)));
    }

    #[test]
    fn probes_back_off_to_their_limit() {
        let (mut managers, mut now, timing) = start(1);
        managers.failed(address(1), now);
        for _ in 0..50 {
            now = managers.next_probe().unwrap();
            managers.due_probe(now).unwrap();
            managers.failed(address(1), now);
            let pause = managers.next_probe().unwrap() - now;
            assert!(pause <= timing.probe_pause_max * 5 / 4);
        }
        assert!(managers.next_probe().unwrap() - now >= timing.probe_pause_max / 2);
    }

    #[test]
    fn a_slow_manager_is_asked_last_until_it_answers() {
        let (mut managers, t0, timing) = start(2);
        managers.asked(address(1), t0);
        assert_eq!(ask(&managers, t0), [address(1), address(2)], "not slow yet");
        let later = t0 + timing.next_after;
        assert_eq!(ask(&managers, later), [address(2), address(1)]);
        managers.answered(address(1), Heard::Pong, Duration::from_millis(400));
        assert_eq!(ask(&managers, later), [address(1), address(2)]);
    }

    #[test]
    fn managers_beside_a_silent_proxy_are_asked_last_for_a_while() {
        let (mut managers, t0, timing) = start(2);
        managers.suspect(address(9), address(1).ip(), t0);
        assert_eq!(ask(&managers, t0), [address(2), address(1)]);
        assert_eq!(ask(&managers, t0 + timing.suspicion), [address(1), address(2)]);
        managers.suspect(address(1), address(9).ip(), t0);
        assert_eq!(ask(&managers, t0), [address(2), address(1)]);
    }

    #[test]
    fn a_spent_budget_trips_the_breaker_for_all() {
        let (mut managers, t0, _) = start(3);
        managers.answered(address(2), Heard::Pong, Duration::ZERO);
        assert!(managers.trip(t0));
        assert!(!managers.trip(t0));
        assert_eq!(managers.candidates(t0), Err(NoManager::Dead));
        let mut probed = Vec::new();
        while let Some(address) = managers.due_probe(t0) {
            probed.push(address);
        }
        assert_eq!(probed, [address(1), address(2), address(3)], "all probed at once");
    }

    #[test]
    fn a_deaf_manager_has_to_answer_an_assign() {
        let (mut managers, t0, _) = start(1);
        assert!(managers.unanswered(address(1), t0));
        managers.failed(address(1), t0);
        let due = managers.next_probe().unwrap();
        assert_eq!(managers.due_probe(due), Some(address(1)));
        assert!(!managers.answered(address(1), Heard::Pong, Duration::ZERO));
        assert_eq!(managers.candidates(due), Err(NoManager::Dead));
        assert!(managers.answered(address(1), Heard::Assign, Duration::ZERO));
        assert_eq!(ask(&managers, due), [address(1)]);
        managers.asked(address(1), due);
        managers.trip(due);
        assert_eq!(managers.due_probe(due), Some(address(1)));
        assert!(!managers.answered(address(1), Heard::Pong, Duration::ZERO), "it owed an answer");
    }

    #[test]
    fn a_connection_that_ended_in_order_is_no_death() {
        let (mut managers, t0, _) = start(1);
        managers.answered(address(1), Heard::Pong, Duration::ZERO);
        managers.lost(address(1));
        assert_eq!(ask(&managers, t0), [address(1)]);
        managers.failed(address(1), t0);
        managers.lost(address(1));
        assert_eq!(managers.candidates(t0), Err(NoManager::Dead), "nor a resurrection");
    }

    #[test]
    fn holds_end_and_say_why() {
        let (mut managers, t0, _) = start(2);
        let until = t0 + Duration::from_secs(5);
        managers.hold(address(1), NoManager::Busy, until);
        assert_eq!(ask(&managers, t0), [address(2)]);
        managers.release(address(1));
        assert_eq!(ask(&managers, t0), [address(1), address(2)], "a proxy of it came back");
        managers.hold(address(1), NoManager::Busy, until);
        let denied = NoManager::Denied(DeniedReason::TicketExpired);
        managers.hold(address(2), denied, until);
        assert_eq!(managers.candidates(t0), Err(denied));
        managers.ticket_changed();
        assert_eq!(ask(&managers, t0), [address(2)], "a new ticket ends the denial, not the rest");
        assert_eq!(ask(&managers, until), [address(1), address(2)]);
    }

    #[test]
    fn a_new_list_keeps_what_is_known_and_its_own_order() {
        let (mut managers, t0, _) = start(3);
        managers.failed(address(2), t0);
        let left = managers.set_list(&[address(4), address(2), address(1), address(4)]);
        assert_eq!(left, [address(3)]);
        assert_eq!(ask(&managers, t0), [address(4), address(1)]);
        assert!(managers.lists(address(2)) && !managers.lists(address(3)));
        assert!(!managers.failed(address(3), t0), "unlisted ones are not remembered");
    }

    #[test]
    fn a_change_of_network_probes_at_once() {
        let (mut managers, t0, _) = start(1);
        for _ in 0..9 {
            managers.failed(address(1), t0);
        }
        managers.probe_now(t0);
        assert_eq!(managers.next_probe(), Some(t0));
    }

    proptest::proptest! {
        /// Whatever happens in whatever order: no dead manager is a candidate, each dead one has a
        /// probe to come, and one that answers an `Assign` is a candidate unless held.
        #[test]
        fn the_dead_are_never_asked_and_always_probed(
            events in proptest::collection::vec((0u8..9, 1u8..5, 0u64..8000), 0..200),
        ) {
            let (mut managers, mut now, timing) = start(4);
            for (event, last, later_ms) in events {
                let address = address(last);
                match event {
                    0 => managers.asked(address, now),
                    1 => { managers.answered(address, Heard::Assign, Duration::ZERO); }
                    2 => { managers.answered(address, Heard::Pong, Duration::ZERO); }
                    3 => { managers.failed(address, now); }
                    4 => { managers.unanswered(address, now); }
                    5 => { managers.trip(now); }
                    6 => { managers.due_probe(now); }
                    7 => managers.lost(address),
                    _ => managers.suspect(address, address.ip(), now),
                }
                let candidates = managers.candidates(now).unwrap_or_default();
                let mut dead = 0;
                for (address, state, _) in managers.states(now) {
                    let is_dead = matches!(state, StateNow::Dead { .. });
                    proptest::prop_assert_eq!(is_dead, !candidates.contains(&address));
                    dead += usize::from(is_dead);
                }
                if event == 1 {
                    proptest::prop_assert!(candidates.contains(&address));
                }
                proptest::prop_assert_eq!(dead > 0, managers.next_probe().is_some());
                if let Some(next) = managers.next_probe() {
                    let longest = (timing.probe_pause_max * 5 / 4).max(timing.probe_max * 2);
                    proptest::prop_assert!(next <= now + longest);
                }
                now += Duration::from_millis(later_ms);
            }
        }
    }
}
