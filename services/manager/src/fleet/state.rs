//! What is known of one proxy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Report;
use crate::health::{Change, Health, HealthSettings, Mark};
use crate::table::Proxy;

/// How long a proxy that came back takes to its full share, where the settings say nothing. A
/// proxy's load average follows its sessions by a minute; half of that lets its reports keep up.
pub const SLOW_START_DEFAULT: Duration = Duration::from_secs(30);
/// What part of its share a proxy that came back begins with, in thousandths.
pub const START_SHARE_MILLI: u32 = 100;
/// The whole share, in thousandths.
pub(super) const FULL_SHARE_MILLI: u32 = 1_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub(super) local: SocketAddr,
    pub(super) public: SocketAddr,
    /// 0: not in the table any more.
    pub(super) weight: u32,
    pub(super) health: Health,
    pub(super) report: Report,
    /// Drained by the operator.
    pub(super) drained: bool,
    /// [`super::Fleet::take_emptied`] has named it since it is drained or out of the table.
    pub(super) told: bool,
    /// Leases that are out.
    pub(super) outstanding: u32,
    /// How often it was named.
    pub(super) chosen: u64,
    /// Of the leases that are out, granted since the last report.
    fresh: u32,
    /// Reports so far.
    reports: u64,
    /// Since when it is back, if it had been away.
    back_since: Option<Instant>,
    /// Turns of the slow start that it has saved up, in thousandths: see [`State::takes_turn`].
    credit_milli: u32,
}

impl State {
    pub(super) fn new(proxy: &Proxy, now: Instant) -> Self {
        Self {
            local: proxy.local,
            public: proxy.public,
            weight: proxy.weight,
            health: Health::new(now),
            report: Report::default(),
            drained: false,
            told: false,
            outstanding: 0,
            chosen: 0,
            fresh: 0,
            reports: 0,
            back_since: None,
            credit_milli: 0,
        }
    }

    pub(super) fn live(&self) -> u32 {
        self.report.sessions.saturating_add(self.fresh).max(self.outstanding)
    }

    /// Whether it may be named, as far as the proxy itself is concerned.
    pub(super) fn is_usable(&self) -> bool {
        self.health == Health::Up && !self.report.draining && !self.drained
    }

    /// Whether it is, or could be, carrying something: an unreachable proxy has no sessions that
    /// one could wait for.
    pub(super) fn sessions_left(&self) -> u32 {
        match self.health {
            Health::Marked { why: Mark::Silent(_) | Mark::NotPolledYet, .. } => 0,
            _ => self.report.sessions,
        }
    }

    pub(super) fn reported(
        &mut self,
        report: Report,
        health: &HealthSettings,
        now: Instant,
    ) -> Option<Change> {
        let was_away = match self.health {
            Health::Up => self.report.draining,
            // The manager has just started: the proxy need not have.
            Health::Marked { why: Mark::NotPolledYet, .. } => false,
            Health::Marked { .. } => true,
        };
        self.report = report;
        self.reports += 1;
        self.fresh = 0;
        let change = self.health.reported(report.load_average_milli, health, now);
        if was_away && self.is_usable() {
            self.start_slowly(now);
        }
        change
    }

    /// From now on its share grows from [`START_SHARE_MILLI`] to the whole.
    pub(super) fn start_slowly(&mut self, now: Instant) {
        self.back_since = Some(now);
        self.credit_milli = 0;
    }

    /// What part of its share it gets.
    pub(super) fn share_milli(&self, slow_start: Duration, now: Instant) -> u32 {
        let Some(since) = self.back_since else { return FULL_SHARE_MILLI };
        let (elapsed, whole) =
            (now.saturating_duration_since(since).as_millis(), slow_start.as_millis());
        if elapsed >= whole {
            return FULL_SHARE_MILLI;
        }
        let to_grow = u128::from(FULL_SHARE_MILLI - START_SHARE_MILLI);
        // Below the whole, so it fits; `whole` is above `elapsed`, so it is not 0.
        let grown = u32::try_from(to_grow * elapsed / whole).unwrap_or(0);
        START_SHARE_MILLI + grown
    }

    /// Whether it takes a turn that has come to it: each time with the whole share, each tenth time
    /// with a tenth of it.
    pub(super) fn takes_turn(&mut self, slow_start: Duration, now: Instant) -> bool {
        let share_milli = self.share_milli(slow_start, now);
        self.credit_milli += share_milli;
        let takes = self.credit_milli >= FULL_SHARE_MILLI;
        if takes {
            self.credit_milli -= FULL_SHARE_MILLI;
        }
        takes
    }

    /// Counts a lease; returns the count of reports that it belongs to.
    pub(super) fn grant(&mut self) -> u64 {
        self.outstanding += 1;
        self.fresh += 1;
        self.chosen += 1;
        self.reports
    }

    /// A lease granted after so many reports has ended.
    pub(super) fn ended(&mut self, report: u64) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if report == self.reports {
            self.fresh = self.fresh.saturating_sub(1);
        }
    }

    #[cfg(test)]
    pub(super) fn fresh(&self) -> u32 {
        self.fresh
    }
}
