//! The last hour, in a ring: what the page draws.
//!
//! No clock: the driver says when it is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::fleet::ProxyStatus;

/// From one point to the next.
pub const STEP: Duration = Duration::from_secs(10);
/// Most points that are kept: an hour's. A point of a site with 64 proxies has some 2 KiB.
pub const POINTS_MAX: usize = 360;
/// What they span, in seconds.
pub const SPAN_S: u64 = 3_600;

/// One moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Seconds since 1970.
    pub at_s: u64,
    /// Each proxy, by its local address.
    pub proxies: Vec<ProxyPoint>,
    /// Verdicts since the point before.
    pub verdicts: Verdicts,
}

/// One proxy at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyPoint {
    /// Its local address.
    pub proxy: SocketAddr,
    /// Sessions.
    pub live: u32,
    /// Times named, since it is in the table.
    pub chosen: u64,
}

/// Messages by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// Looked at in full, and nothing found.
    pub clean: u64,
    /// Not looked at in full.
    pub unscannable: u64,
    /// Something found.
    pub infected: u64,
}

impl Verdicts {
    /// Of all messages, and those among them that were not clean.
    #[must_use]
    pub fn of(messages: u64, unscannable: u64, infected: u64) -> Self {
        let clean = messages.saturating_sub(unscannable).saturating_sub(infected);
        Self { clean, unscannable, infected }
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.clean.saturating_add(self.unscannable).saturating_add(self.infected)
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            clean: self.clean.saturating_add(other.clean),
            unscannable: self.unscannable.saturating_add(other.unscannable),
            infected: self.infected.saturating_add(other.infected),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            clean: self.clean.saturating_sub(before.clean),
            unscannable: self.unscannable.saturating_sub(before.unscannable),
            infected: self.infected.saturating_sub(before.infected),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    points: VecDeque<Point>,
    /// Since the start, at the last point.
    total: Verdicts,
}

impl History {
    /// Adds a point; `total` counts from the start of the program. A clock that is set back begins
    /// the history anew.
    pub fn note<'a>(
        &mut self,
        at_s: u64,
        proxies: impl Iterator<Item = &'a ProxyStatus>,
        total: Verdicts,
    ) {
        if self.points.back().is_some_and(|last| at_s <= last.at_s) {
            self.points.clear();
        }
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        let proxies = proxies.map(|proxy| ProxyPoint {
            proxy: proxy.local,
            live: proxy.live,
            chosen: proxy.chosen,
        });
        let verdicts = total.since(&self.total);
        self.points.push_back(Point { at_s, proxies: proxies.collect(), verdicts });
        self.total = total;
    }

    /// Oldest first.
    pub fn points(&self) -> impl ExactSizeIterator<Item = &Point> + '_ {
        self.points.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_an_hour_and_counts_what_came_between() {
        let mut history = History::default();
        let step_s = STEP.as_secs();
        let points: u64 = POINTS_MAX.try_into().unwrap();
        assert_eq!(points * step_s, SPAN_S);
        for n in 0..points + 5 {
            let total = Verdicts::of(10 * n, 2 * n, n);
            history.note(1_000 + n * step_s, std::iter::empty(), total);
        }
        assert_eq!(history.points().len(), POINTS_MAX);
        let first = history.points().next().unwrap();
        assert_eq!(first.at_s, 1_000 + 5 * step_s);
        assert_eq!(first.verdicts, Verdicts { clean: 7, unscannable: 2, infected: 1 });
        assert_eq!(first.verdicts.and(&first.verdicts).sum(), 20);
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let mut history = History::default();
        history.note(1_000, std::iter::empty(), Verdicts::default());
        history.note(2_000, std::iter::empty(), Verdicts::default());
        history.note(1_500, std::iter::empty(), Verdicts::default());
        assert_eq!(history.points().map(|point| point.at_s).collect::<Vec<_>>(), [1_500]);
    }
}
