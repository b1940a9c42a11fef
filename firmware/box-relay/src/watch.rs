//! Watches over a warm link until a session takes it: pings it when it is quiet, and replaces it
//! when it is old. Sans-IO.

use std::time::{Duration, Instant};

use crate::limits::Timing;

/// See the module.
#[derive(Debug)]
pub struct Watch {
    /// When it is to be replaced.
    old_at: Instant,
    last_heard: Instant,
    ping: Option<Instant>,
    /// Of the last ping.
    number: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStep {
    /// Nothing until then.
    Wait(Instant),
    /// Send this ping.
    Ping(u64),
    /// It is too old: close it.
    Old,
    /// The last ping got no answer in time.
    Silent,
}

impl Watch {
    /// Of a link made at `now`, that is to be replaced at `old_at`.
    pub(crate) fn new(old_at: Instant, now: Instant) -> Self {
        Self { old_at, last_heard: now, ping: None, number: 0 }
    }

    /// The next step at `now`.
    pub fn poll(&mut self, timing: &Timing, now: Instant) -> WatchStep {
        if let Some(sent) = self.ping {
            let limit = sent + timing.pong_max;
            return if now >= limit { WatchStep::Silent } else { WatchStep::Wait(limit) };
        }
        if now >= self.old_at {
            return WatchStep::Old;
        }
        let next = self.last_heard + timing.ping_interval;
        if now < next {
            return WatchStep::Wait(next.min(self.old_at));
        }
        self.ping = Some(now);
        self.number += 1;
        WatchStep::Ping(self.number)
    }

    /// The proxy answered a ping.
    pub fn pong(&mut self, number: u64, now: Instant) {
        if number == self.number && self.ping.take().is_some() {
            self.last_heard = now;
        }
    }

    /// The last ping was answered, whatever its number.
    pub fn ponged(&mut self, now: Instant) {
        self.pong(self.number, now);
    }

    /// No ping is under way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.ping.is_none()
    }

    /// When it is to be replaced, should nothing happen to it.
    #[must_use]
    pub fn old_at(&self) -> Instant {
        self.old_at
    }

    /// As if every ping up to `now` had been sent and answered after `round_trip`. So a simulation
    /// need not.
    pub fn skip_pings(&mut self, timing: &Timing, round_trip: Duration, now: Instant) {
        self.last_heard = skipped(self.last_heard, timing, round_trip, now);
    }
}

/// When the last of the pings up to `now` was answered, if each is sent a whole interval after the
/// answer before.
pub(crate) fn skipped(
    heard: Instant,
    timing: &Timing,
    round_trip: Duration,
    now: Instant,
) -> Instant {
    let period = timing.ping_interval + round_trip;
    let rounds = now.saturating_duration_since(heard).as_nanos() / period.as_nanos().max(1);
    heard + period.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> (Watch, Timing, Instant) {
        let (timing, now) = (Timing::default(), tokio::time::Instant::now().into_std());
        (Watch::new(now + timing.warm_age_max, now), timing, now)
    }

    #[test]
    fn a_quiet_link_is_pinged_and_is_silent_without_an_answer() {
        let (mut watch, timing, t0) = start();
        let first = t0 + timing.ping_interval;
        assert_eq!(watch.poll(&timing, t0), WatchStep::Wait(first));
        assert_eq!(watch.poll(&timing, first), WatchStep::Ping(1));
        watch.pong(7, first);
        assert_eq!(watch.poll(&timing, first), WatchStep::Wait(first + timing.pong_max));
        watch.pong(1, first);
        let second = first + timing.ping_interval;
        assert_eq!(watch.poll(&timing, second), WatchStep::Ping(2));
        assert_eq!(watch.poll(&timing, second + timing.pong_max), WatchStep::Silent);
    }

    #[test]
    fn an_old_link_is_replaced() {
        let (mut watch, timing, t0) = start();
        let old_at = watch.old_at();
        assert!(old_at <= t0 + timing.warm_age_max);
        assert_eq!(watch.poll(&timing, old_at), WatchStep::Old);
    }

    #[test]
    fn pings_that_are_skipped_leave_it_as_if_they_had_been_sent() {
        let (mut one, timing, t0) = start();
        let mut other = Watch::new(one.old_at(), t0);
        let round_trip = Duration::from_millis(30);
        let mut now = t0;
        for _ in 0..7 {
            now += timing.ping_interval;
            let WatchStep::Ping(number) = one.poll(&timing, now) else { panic!("no ping") };
            now += round_trip;
            one.pong(number, now);
        }
        now += Duration::from_secs(2);
        other.skip_pings(&timing, round_trip, now);
        assert_eq!(other.poll(&timing, now), one.poll(&timing, now));
    }
}
