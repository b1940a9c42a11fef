//! The three selections, each with the slow start of what came back.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::Instant;

use super::state::FULL_SHARE_MILLI;
use super::{Fleet, Selection};
use crate::table::ProxyIndex;

impl Fleet {
    /// Every proxy that may be named, each once, the chosen one first.
    pub(super) fn choose(&mut self, exclude: &[SocketAddr], now: Instant) -> Vec<ProxyIndex> {
        match self.selection {
            Selection::Table => self.in_rotation(exclude, now),
            Selection::LeastLoad => {
                let usable = self.usable(exclude);
                self.least_loaded(&usable, now)
            }
            Selection::TwoChoices => {
                let usable = self.usable(exclude);
                self.better_of_two(&usable, now)
            }
        }
    }

    /// The entries of the table that may be named, repetitions included.
    fn usable(&self, exclude: &[SocketAddr]) -> Vec<ProxyIndex> {
        self.entries.iter().copied().filter(|&at| self.may_name(at, exclude)).collect()
    }

    pub(super) fn may_name(&self, proxy: ProxyIndex, exclude: &[SocketAddr]) -> bool {
        !self.site_drained
            && self
                .state(proxy)
                .is_some_and(|state| state.is_usable() && !exclude.contains(&state.public))
    }

    /// From the place of the rotation on, each proxy once; moves the rotation behind the first.
    fn in_rotation(&mut self, exclude: &[SocketAddr], now: Instant) -> Vec<ProxyIndex> {
        let count = self.entries.len();
        let entries = (0..count).filter_map(|step| {
            let place = (self.rotation + step) % count;
            Some((place, *self.entries.get(place)?))
        });
        let turns: Vec<(usize, ProxyIndex)> =
            entries.filter(|&(_, at)| self.may_name(at, exclude)).collect();
        // When all turns are left out, the first one it is after all.
        let chosen = turns.iter().position(|&(_, at)| self.takes_turn(at, now)).unwrap_or(0);
        let mut order = Vec::new();
        for &(place, at) in turns.iter().cycle().skip(chosen).take(turns.len()) {
            if order.is_empty() {
                self.rotation = (place + 1) % count;
            }
            if !order.contains(&at) {
                order.push(at);
            }
        }
        order
    }

    /// The smallest load first, but for those in their slow start whose turn it is not.
    fn least_loaded(&mut self, usable: &[ProxyIndex], now: Instant) -> Vec<ProxyIndex> {
        let mut order = self.sorted(usable, |fleet, a, b| fleet.by_load(a, b, now));
        let chosen = order.iter().position(|&at| self.takes_turn(at, now)).unwrap_or(0);
        if let Some(first) = order.get_mut(..=chosen) {
            first.rotate_right(1);
        }
        order
    }

    /// The better of two drawn, then the others from the best on.
    fn better_of_two(&mut self, usable: &[ProxyIndex], now: Instant) -> Vec<ProxyIndex> {
        let Some(one) = self.draw(usable, now) else { return Vec::new() };
        let others: Vec<ProxyIndex> = usable.iter().copied().filter(|&at| at != one).collect();
        let chosen = match self.draw(&others, now) {
            Some(other) if self.by_sessions(other, one, now).is_lt() => other,
            _ => one,
        };
        let mut order = self.sorted(usable, |fleet, a, b| fleet.by_sessions(a, b, now));
        order.retain(|&at| at != chosen);
        order.insert(0, chosen);
        order
    }

    /// One of the entries, each as likely as what part of its share it gets.
    fn draw(&mut self, entries: &[ProxyIndex], now: Instant) -> Option<ProxyIndex> {
        let whole = entries.iter().map(|&at| u64::from(self.share_milli(at, now))).sum();
        let mut drawn = self.random.below(whole)?;
        entries.iter().copied().find(|&at| {
            let share = u64::from(self.share_milli(at, now));
            let is_it = drawn < share;
            drawn = drawn.saturating_sub(share);
            is_it
        })
    }

    fn share_milli(&self, at: ProxyIndex, now: Instant) -> u32 {
        self.state(at).map_or(0, |state| state.share_milli(self.slow_start, now))
    }

    fn takes_turn(&mut self, at: ProxyIndex, now: Instant) -> bool {
        let slow_start = self.slow_start;
        self.state_mut(at).is_some_and(|state| state.takes_turn(slow_start, now))
    }

    /// Each proxy once, best first; those that are alike stay in the order of the table.
    fn sorted(
        &self,
        usable: &[ProxyIndex],
        compare: impl Fn(&Self, ProxyIndex, ProxyIndex) -> Ordering,
    ) -> Vec<ProxyIndex> {
        let mut order = Vec::new();
        for &proxy in usable {
            if !order.contains(&proxy) {
                order.push(proxy);
            }
        }
        order.sort_by(|&a, &b| compare(self, a, b));
        order
    }

    fn load(&self, at: ProxyIndex) -> Option<u32> {
        self.state(at).map(|state| state.report.load_average_milli)
    }

    fn by_load(&self, a: ProxyIndex, b: ProxyIndex, now: Instant) -> Ordering {
        self.load(a).cmp(&self.load(b)).then_with(|| self.by_share(a, b, now))
    }

    fn by_sessions(&self, a: ProxyIndex, b: ProxyIndex, now: Instant) -> Ordering {
        self.by_share(a, b, now).then_with(|| self.load(a).cmp(&self.load(b)))
    }

    /// Compares live sessions per share, without division. At most 2^17 sessions by reports and 2^16
    /// leases, times 2^10 entries, times 2^10 thousandths: far from the end of 64 bits.
    fn by_share(&self, a: ProxyIndex, b: ProxyIndex, now: Instant) -> Ordering {
        let live = |at: ProxyIndex| self.state(at).map_or(0, |state| u64::from(state.live()));
        let share = |at: ProxyIndex| {
            let weight = self.state(at).map_or(1, |state| state.weight.max(1));
            u64::from(weight) * u64::from(self.share_milli(at, now).clamp(1, FULL_SHARE_MILLI))
        };
        (live(a) * share(b)).cmp(&(live(b) * share(a)))
    }
}
