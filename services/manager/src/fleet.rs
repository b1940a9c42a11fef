//! The manager's core: what is known of each proxy, and which one the next session gets.
//!
//! No IO and no clock: the driver tells it how polls went and what boxes say, with the time.
//!
//! **Live sessions.** A proxy's report is the truth, of a moment ago, and counts the sessions that
//! every manager of the site gave it. Leases are what this manager has given out since. So a
//! proxy's count is `report + leases granted since the report`, and at least this manager's own
//! outstanding leases, which also hold the assignments that boxes keep in hand for their next
//! session.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::Instant;

use serde::Deserialize;
use wire::{ALTERNATES_MAX, LeaseId};

use crate::health::{Change, Health, HealthSettings, PollFailure};
use crate::lease::{ConnectionId, Lease, Leases};
use crate::random::Random;
use crate::table::{ProxyIndex, Table};

/// How a proxy is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// The better of two drawn by their share: fewer live sessions for its share, then less load.
    #[default]
    TwoChoices,
    /// One after the other in the order of the table.
    Table,
    /// The smallest reported load average.
    LeastLoad,
}

/// What a proxy said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// One-minute load average of its host, in thousandths.
    pub load_average_milli: u32,
    /// Sessions it carries.
    pub sessions: u32,
    /// It takes no new ones.
    pub draining: bool,
}

/// An answer to a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// Go there.
    Use {
        /// What the session is counted by.
        lease: LeaseId,
        /// Public address.
        proxy: SocketAddr,
        /// Public addresses, best first; at most [`ALTERNATES_MAX`].
        alternates: Vec<SocketAddr>,
    },
    /// No proxy may be named.
    Busy,
}

/// A line of [`Fleet::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyStatus {
    /// Where it is polled.
    pub local: SocketAddr,
    /// Whether it may be named.
    pub health: Health,
    /// What it said last.
    pub report: Report,
    /// Its sessions as this manager counts them.
    pub live: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Fleet {
    table: Table,
    selection: Selection,
    health: HealthSettings,
    proxies: Vec<State>,
    leases: Leases,
    random: Random,
    /// Next place of [`Selection::Table`].
    rotation: usize,
    last_connection: u64,
}

/// What is known of one proxy.
#[derive(Debug, Clone, Copy)]
struct State {
    health: Health,
    report: Report,
    /// Reports so far.
    reports: u64,
    /// Leases that are out.
    outstanding: u32,
    /// Of these, granted since the last report.
    fresh: u32,
}

impl State {
    fn live(&self) -> u32 {
        self.report.sessions.saturating_add(self.fresh).max(self.outstanding)
    }

    fn is_usable(&self) -> bool {
        self.health == Health::Up && !self.report.draining
    }
}

impl Fleet {
    /// A fleet whose proxies are all still to be polled. `seed` makes the draws.
    #[must_use]
    pub fn new(
        table: Table,
        selection: Selection,
        health: HealthSettings,
        seed: u64,
        now: Instant,
    ) -> Self {
        let new = State {
            health: Health::new(now),
            report: Report::default(),
            reports: 0,
            outstanding: 0,
            fresh: 0,
        };
        Self {
            proxies: vec![new; table.proxies().len()],
            table,
            selection,
            health,
            leases: Leases::default(),
            random: Random::new(seed),
            rotation: 0,
            last_connection: 0,
        }
    }

    /// A box has connected.
    pub fn connected(&mut self) -> ConnectionId {
        self.last_connection += 1;
        ConnectionId(self.last_connection)
    }

    /// A box's connection has ended: so have its leases. A session that goes on without it is in
    /// its proxy's reports.
    pub fn disconnected(&mut self, connection: ConnectionId) {
        for lease in self.leases.take_connection(connection) {
            self.ended(lease);
        }
    }

    /// A box wants a proxy, and not one of `exclude`.
    pub fn assign(
        &mut self,
        connection: ConnectionId,
        exclude: &[SocketAddr],
        now: Instant,
    ) -> Assignment {
        while let Some(lease) = self.leases.take_surplus(now) {
            self.ended(lease);
        }
        let usable: Vec<ProxyIndex> =
            self.table.entries().iter().copied().filter(|&at| self.may_name(at, exclude)).collect();
        let order = match self.selection {
            Selection::Table => self.in_rotation(exclude),
            Selection::LeastLoad => self.sorted(&usable, Self::by_load),
            Selection::TwoChoices => self.better_of_two(&usable),
        };
        let mut addresses = order.iter().filter_map(|&at| self.table.proxies().get(at));
        let Some((&first, proxy)) = order.first().zip(addresses.next()) else {
            return Assignment::Busy;
        };
        let proxy = proxy.public;
        let alternates = addresses.map(|proxy| proxy.public).take(ALTERNATES_MAX).collect();
        Assignment::Use { lease: self.grant(connection, first, now), proxy, alternates }
    }

    /// A box says that a session is over, or gives an assignment back unused. False for a lease
    /// that is not this connection's or has ended already.
    pub fn bye(&mut self, connection: ConnectionId, lease: LeaseId) -> bool {
        let lease = self.leases.take(connection, lease);
        if let Some(lease) = lease {
            self.ended(lease);
        }
        lease.is_some()
    }

    /// A proxy has answered a poll.
    pub fn reported(&mut self, proxy: ProxyIndex, report: Report, now: Instant) -> Option<Change> {
        let state = self.proxies.get_mut(proxy)?;
        state.report = report;
        state.reports += 1;
        state.fresh = 0;
        state.health.reported(report.load_average_milli, &self.health, now)
    }

    /// A poll has failed.
    pub fn poll_failed(
        &mut self,
        proxy: ProxyIndex,
        failure: PollFailure,
        now: Instant,
    ) -> Option<Change> {
        self.proxies.get_mut(proxy)?.health.failed(failure, now)
    }

    /// What is known of each proxy, in the order of [`Table::proxies`].
    pub fn status(&self) -> impl Iterator<Item = ProxyStatus> + '_ {
        self.table.proxies().iter().zip(&self.proxies).map(|(proxy, state)| ProxyStatus {
            local: proxy.local,
            health: state.health,
            report: state.report,
            live: state.live(),
        })
    }

    /// Leases that are out.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    fn may_name(&self, proxy: ProxyIndex, exclude: &[SocketAddr]) -> bool {
        let usable = self.proxies.get(proxy).is_some_and(State::is_usable);
        usable && self.table.proxies().get(proxy).is_some_and(|p| !exclude.contains(&p.public))
    }

    /// From the place of the rotation on, each proxy once; moves the rotation behind the first.
    fn in_rotation(&mut self, exclude: &[SocketAddr]) -> Vec<ProxyIndex> {
        let entries = self.table.entries();
        let start = self.rotation;
        let mut order = Vec::new();
        for (step, &proxy) in entries.iter().cycle().skip(start).take(entries.len()).enumerate() {
            if !order.contains(&proxy) && self.may_name(proxy, exclude) {
                if order.is_empty() {
                    self.rotation = (start + step + 1) % entries.len();
                }
                order.push(proxy);
            }
        }
        order
    }

    /// The better of two drawn, then the others from the best on.
    fn better_of_two(&mut self, usable: &[ProxyIndex]) -> Vec<ProxyIndex> {
        let Some(&one) = self.random.choose(usable) else { return Vec::new() };
        let others: Vec<ProxyIndex> = usable.iter().copied().filter(|&at| at != one).collect();
        let chosen = match self.random.choose(&others) {
            Some(&other) if self.by_sessions(other, one).is_lt() => other,
            _ => one,
        };
        let mut order = self.sorted(usable, Self::by_sessions);
        order.retain(|&at| at != chosen);
        order.insert(0, chosen);
        order
    }

    /// Each proxy once, best first; those that are alike stay in the order of the table.
    fn sorted(
        &self,
        usable: &[ProxyIndex],
        compare: fn(&Self, ProxyIndex, ProxyIndex) -> Ordering,
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

    fn by_load(&self, a: ProxyIndex, b: ProxyIndex) -> Ordering {
        let load = |at: ProxyIndex| self.proxies.get(at).map(|s| s.report.load_average_milli);
        load(a).cmp(&load(b)).then_with(|| self.by_share(a, b))
    }

    fn by_sessions(&self, a: ProxyIndex, b: ProxyIndex) -> Ordering {
        let load = |at: ProxyIndex| self.proxies.get(at).map(|s| s.report.load_average_milli);
        self.by_share(a, b).then_with(|| load(a).cmp(&load(b)))
    }

    /// Compares live sessions per weight, without division.
    fn by_share(&self, a: ProxyIndex, b: ProxyIndex) -> Ordering {
        let live = |at: ProxyIndex| u64::from(self.proxies.get(at).map_or(0, State::live));
        let weight =
            |at: ProxyIndex| u64::from(self.table.proxies().get(at).map_or(1, |p| p.weight));
        (live(a) * weight(b)).cmp(&(live(b) * weight(a)))
    }

    fn grant(&mut self, connection: ConnectionId, proxy: ProxyIndex, now: Instant) -> LeaseId {
        let report = match self.proxies.get_mut(proxy) {
            Some(state) => {
                state.outstanding += 1;
                state.fresh += 1;
                state.reports
            }
            None => 0,
        };
        self.leases.grant(connection, proxy, report, now)
    }

    fn ended(&mut self, lease: Lease) {
        if let Some(state) = self.proxies.get_mut(lease.proxy) {
            state.outstanding = state.outstanding.saturating_sub(1);
            if lease.report == state.reports {
                state.fresh = state.fresh.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
