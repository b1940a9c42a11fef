//! Who is asked when: one after the other, the next as well when the last is slow, each given up in
//! the end. The idea is that of RFC 8305, over managers and over a site's proxies. Sans-IO.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// One race. Call [`Race::poll`] until it says [`Step::Wait`] or [`Step::Lost`]; tell it of each
/// failure with [`Race::failed`]; the first success ends it (drop it).
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<SocketAddr>,
    running: Vec<(SocketAddr, Instant)>,
    /// When the next one is asked as well.
    next: Instant,
    next_after: Duration,
    limit: Duration,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this one.
    Start(SocketAddr),
    /// This one had its time; it is out.
    GiveUp(SocketAddr),
    /// Nothing until then, unless one of those asked answers or fails.
    Wait(Instant),
    /// All are out.
    Lost,
}

impl Race {
    /// Candidates in the order in which to ask them; `limit` for each.
    pub(crate) fn new(
        candidates: impl IntoIterator<Item = SocketAddr>,
        next_after: Duration,
        limit: Duration,
        now: Instant,
    ) -> Self {
        Self {
            waiting: candidates.into_iter().collect(),
            running: Vec::new(),
            next: now,
            next_after,
            limit,
        }
    }

    /// The next step at `now`.
    pub(crate) fn poll(&mut self, now: Instant) -> Step {
        if let Some(at) = self.running.iter().position(|(_, since)| now >= *since + self.limit) {
            return Step::GiveUp(self.running.remove(at).0);
        }
        if (self.running.is_empty() || now >= self.next)
            && let Some(address) = self.waiting.pop_front()
        {
            self.running.push((address, now));
            self.next = now + self.next_after;
            return Step::Start(address);
        }
        let given_up = self.running.iter().map(|(_, since)| *since + self.limit).min();
        match (given_up, self.waiting.is_empty()) {
            (None, _) => Step::Lost,
            (Some(given_up), true) => Step::Wait(given_up),
            (Some(given_up), false) => Step::Wait(given_up.min(self.next)),
        }
    }

    /// This one failed or declined: the next is asked at once.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Instant) {
        let before = self.running.len();
        self.running.retain(|(running, _)| *running != address);
        if self.running.len() < before {
            self.next = now;
        }
    }

    /// Those asked and neither answered nor out.
    pub(crate) fn running(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.running.iter().map(|(address, _)| *address)
    }

    /// Those asked at least `next_after` ago and still silent.
    pub(crate) fn overdue(&self, now: Instant) -> impl Iterator<Item = SocketAddr> + '_ {
        self.running
            .iter()
            .filter(move |(_, since)| now >= *since + self.next_after)
            .map(|(address, _)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGGER: Duration = Duration::from_millis(300);
    const LIMIT: Duration = Duration::from_secs(5);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4651))
    }

    fn race(count: u8, now: Instant) -> Race {
        Race::new((1..=count).map(address), STAGGER, LIMIT, now)
    }

    fn t0() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn the_next_is_asked_when_the_first_is_slow_and_each_is_given_up() {
        let t0 = t0();
        let mut race = race(2, t0);
        assert_eq!(race.poll(t0), Step::Start(address(1)));
        assert_eq!(race.poll(t0), Step::Wait(t0 + STAGGER));
        assert_eq!(race.poll(t0 + STAGGER / 2), Step::Wait(t0 + STAGGER));
        assert_eq!(race.poll(t0 + STAGGER), Step::Start(address(2)));
        assert_eq!(race.poll(t0 + STAGGER), Step::Wait(t0 + LIMIT));
        assert_eq!(race.poll(t0 + LIMIT), Step::GiveUp(address(1)));
        assert_eq!(race.poll(t0 + LIMIT), Step::Wait(t0 + STAGGER + LIMIT));
        assert_eq!(race.poll(t0 + STAGGER + LIMIT), Step::GiveUp(address(2)));
        assert_eq!(race.poll(t0 + STAGGER + LIMIT), Step::Lost);
    }

    #[test]
    fn a_failure_asks_the_next_at_once() {
        let t0 = t0();
        let mut race = race(3, t0);
        assert_eq!(race.poll(t0), Step::Start(address(1)));
        race.failed(address(1), t0);
        assert_eq!(race.poll(t0), Step::Start(address(2)));
        race.failed(address(2), t0);
        assert_eq!(race.poll(t0), Step::Start(address(3)));
        race.failed(address(3), t0);
        assert_eq!(race.poll(t0), Step::Lost);
    }

    #[test]
    fn a_failure_while_another_runs_asks_the_next_at_once() {
        let t0 = t0();
        let mut race = race(3, t0);
        assert_eq!(race.poll(t0), Step::Start(address(1)));
        assert_eq!(race.poll(t0 + STAGGER), Step::Start(address(2)));
        let soon = t0 + STAGGER + Duration::from_millis(1);
        race.failed(address(2), soon);
        assert_eq!(race.poll(soon), Step::Start(address(3)));
        assert_eq!(race.overdue(soon).collect::<Vec<_>>(), [address(1)]);
        assert_eq!(race.running().count(), 2);
    }

    #[test]
    fn nobody_to_ask_is_lost_at_once() {
        let t0 = t0();
        assert_eq!(race(0, t0).poll(t0), Step::Lost);
    }

    proptest::proptest! {
        /// Whoever fails when: each candidate is asked once, in order, never later than its turn,
        /// and the race ends within the last one's limit.
        #[test]
        fn every_race_ends(count in 1u8..20, failures in proptest::collection::vec(0u64..9000, 0..20)) {
            let t0 = t0();
            let mut race = race(count, t0);
            let mut asked = Vec::new();
            let mut now = t0;
            let end = t0 + STAGGER * u32::from(count) + LIMIT;
            loop {
                match race.poll(now) {
                    Step::Start(address) => asked.push(address),
                    Step::GiveUp(_) => {}
                    Step::Wait(until) => {
                        proptest::prop_assert!(until > now);
                        let failing = race.running().find(|a| {
                            let at = asked.iter().position(|b| a == b).unwrap_or(0);
                            failures.get(at).is_some_and(|ms| t0 + Duration::from_millis(*ms) <= until)
                        });
                        now = until;
                        if let Some(failing) = failing { race.failed(failing, now); }
                    }
                    Step::Lost => break,
                }
                proptest::prop_assert!(now <= end);
            }
            proptest::prop_assert_eq!(asked, (1..=count).map(address).collect::<Vec<_>>());
        }
    }
}
