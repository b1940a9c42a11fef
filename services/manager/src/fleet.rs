//! The manager's core: what is known of each proxy, and which one the next session gets.
//!
//! No IO and no clock: the driver tells it how polls went and what boxes say, with the time.
//!
//! **Calls.** A box's connection is [`Fleet::connected`], shows a ticket ([`Fleet::admitted`]), asks
//! ([`Fleet::assign`]), gives back ([`Fleet::bye`]), and ends ([`Fleet::disconnected`]). A proxy is
//! [`Fleet::reported`] or its [`Fleet::poll_failed`]. The operator drains
//! ([`Fleet::drain`], [`Fleet::undrain`]) and changes the table ([`Fleet::reload`]);
//! [`Fleet::take_emptied`] says what has nothing left to do.
//!
//! **Places.** A proxy's [`ProxyIndex`] is its place in [`Table::proxies`] of the table that the
//! fleet was made with. A reload keeps the places of what stays; what is new gets a free one.
//!
//! **Live sessions.** A proxy's report is the truth, of a moment ago, and counts the sessions that
//! every manager of the site gave it. Leases are what this manager has given out since. So a
//! proxy's count is `report + leases granted since the report`, and at least this manager's own
//! outstanding leases, which also hold the assignments that boxes keep in hand for their next
//! session.
//!
//! **Lies.** What a proxy reports is bounded ([`SESSIONS_REPORTED_MAX`], [`LOAD_AVERAGE_MILLI_MAX`]);
//! beyond that it is taken for no answer at all. Who reports too little still has this manager's
//! own leases counted against it.

mod change;
mod choice;
mod state;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Deserialize;
use wire::ticket::KeyFingerprint;
use wire::{ALTERNATES_MAX, LeaseId};

use crate::health::{Change, Health, HealthSettings, PollFailure};
use crate::lease::{ConnectionId, Lease, Leases};
use crate::quota::{Quotas, Surplus};
use crate::random::Random;
use crate::table::{ProxyIndex, Table};

pub use change::{Emptied, Left, Reloaded};
pub use state::{SLOW_START_DEFAULT, START_SHARE_MILLI};

use state::State;

/// Most sessions that a report may name: what a proxy's own settings can be set to.
pub const SESSIONS_REPORTED_MAX: u32 = 100_000;
/// Largest load average that a report may name, in thousandths: no host has ten thousand runnable
/// threads and still answers.
pub const LOAD_AVERAGE_MILLI_MAX: u32 = 10_000_000;

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

impl Selection {
    /// As the settings have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoChoices => "two-choices",
            Self::Table => "table",
            Self::LeastLoad => "least-load",
        }
    }
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

impl Report {
    /// Whether a proxy could say so of itself.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        self.sessions <= SESSIONS_REPORTED_MAX && self.load_average_milli <= LOAD_AVERAGE_MILLI_MAX
    }
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
    /// This box has more than its ticket grants.
    TooMany(Surplus),
}

/// A line of [`Fleet::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyStatus {
    /// Where it is polled.
    pub local: SocketAddr,
    /// Where boxes reach it.
    pub public: SocketAddr,
    /// How often it stands in the table; 0 when it is not in it any more.
    pub weight: u32,
    /// Whether it may be named.
    pub health: Health,
    /// The operator drains it, or the whole site.
    pub drained: bool,
    /// What part of its share it gets, in thousandths; less than 1000 after it came back.
    pub share_milli: u32,
    /// What it said last.
    pub report: Report,
    /// Its sessions as this manager counts them.
    pub live: u32,
    /// Leases of this manager on it.
    pub leases: u32,
    /// How often it was named, since it is in the table.
    pub chosen: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Fleet {
    /// The table as written, as places of `proxies`.
    entries: Vec<ProxyIndex>,
    selection: Selection,
    health: HealthSettings,
    slow_start: Duration,
    /// `None` is a place that is free again.
    proxies: Vec<Option<State>>,
    /// No proxy is named.
    site_drained: bool,
    leases: Leases,
    quotas: Quotas,
    random: Random,
    /// Next place of [`Selection::Table`].
    rotation: usize,
    last_connection: u64,
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
        // All of them are new to this manager, which says nothing about them: no slow start.
        let proxies = table.proxies().iter().map(|proxy| Some(State::new(proxy, now)));
        Self {
            proxies: proxies.collect(),
            entries: table.entries().to_vec(),
            selection,
            health,
            slow_start: SLOW_START_DEFAULT,
            site_drained: false,
            leases: Leases::default(),
            quotas: Quotas::default(),
            random: Random::new(seed),
            rotation: 0,
            last_connection: 0,
        }
    }

    /// How long a proxy that came back takes to its full share. [`SLOW_START_DEFAULT`] before this
    /// is called.
    pub fn set_slow_start(&mut self, slow_start: Duration) {
        self.slow_start = slow_start;
    }

    /// How a proxy is chosen.
    #[must_use]
    pub fn selection(&self) -> Selection {
        self.selection
    }

    /// A box has connected.
    pub fn connected(&mut self) -> ConnectionId {
        self.last_connection += 1;
        ConnectionId(self.last_connection)
    }

    /// A box has shown its ticket on this connection: from now on the limits in it hold. A
    /// connection for which this was never called has none.
    pub fn admitted(
        &mut self,
        connection: ConnectionId,
        key: KeyFingerprint,
        sessions_max: u32,
        now: Instant,
    ) {
        self.quotas.admitted(connection, key, sessions_max, now);
    }

    /// A box's connection has ended: so have its leases. A session that goes on without it is in
    /// its proxy's reports.
    pub fn disconnected(&mut self, connection: ConnectionId) {
        for lease in self.leases.take_connection(connection) {
            self.ended(&lease);
        }
        self.quotas.disconnected(connection);
    }

    /// A box wants a proxy, and not one of `exclude`.
    pub fn assign(
        &mut self,
        connection: ConnectionId,
        exclude: &[SocketAddr],
        now: Instant,
    ) -> Assignment {
        while let Some(lease) = self.leases.take_surplus(now) {
            self.ended(&lease);
        }
        if let Err(surplus) = self.quotas.ask(connection, now) {
            return Assignment::TooMany(surplus);
        }
        let order = self.choose(exclude, now);
        let mut addresses = order.iter().filter_map(|&at| self.state(at).map(|s| s.public));
        let Some((&first, proxy)) = order.first().zip(addresses.next()) else {
            return Assignment::Busy;
        };
        let alternates = addresses.take(ALTERNATES_MAX).collect();
        Assignment::Use { lease: self.grant(connection, first, now), proxy, alternates }
    }

    /// A box says that a session is over, or gives an assignment back unused. False for a lease
    /// that is not this connection's or has ended already.
    pub fn bye(&mut self, connection: ConnectionId, lease: LeaseId) -> bool {
        let lease = self.leases.take(connection, lease);
        if let Some(lease) = &lease {
            self.ended(lease);
        }
        lease.is_some()
    }

    /// A proxy has answered a poll. An answer that is not plausible counts as
    /// [`PollFailure::Misbehaved`].
    pub fn reported(&mut self, proxy: ProxyIndex, report: Report, now: Instant) -> Option<Change> {
        if !report.is_plausible() {
            return self.poll_failed(proxy, PollFailure::Misbehaved, now);
        }
        let health = self.health;
        self.state_mut(proxy)?.reported(report, &health, now)
    }

    /// A poll has failed.
    pub fn poll_failed(
        &mut self,
        proxy: ProxyIndex,
        failure: PollFailure,
        now: Instant,
    ) -> Option<Change> {
        self.state_mut(proxy)?.health.failed(failure, now)
    }

    /// What is known of each proxy, in the order of their places.
    pub fn status(&self, now: Instant) -> impl Iterator<Item = ProxyStatus> + '_ {
        self.proxies.iter().flatten().map(move |state| ProxyStatus {
            local: state.local,
            public: state.public,
            weight: state.weight,
            health: state.health,
            drained: state.drained || self.site_drained,
            share_milli: state.share_milli(self.slow_start, now),
            report: state.report,
            live: state.live(),
            leases: state.outstanding,
            chosen: state.chosen,
        })
    }

    /// Whether there is a proxy to name to a box that excludes none.
    #[must_use]
    pub fn can_name(&self) -> bool {
        self.entries.iter().any(|&at| self.may_name(at, &[]))
    }

    /// Leases that are out.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// Boxes that are connected with a good ticket.
    #[must_use]
    pub fn boxes(&self) -> usize {
        self.quotas.connected()
    }

    fn state(&self, at: ProxyIndex) -> Option<&State> {
        self.proxies.get(at)?.as_ref()
    }

    fn state_mut(&mut self, at: ProxyIndex) -> Option<&mut State> {
        self.proxies.get_mut(at)?.as_mut()
    }

    fn grant(&mut self, connection: ConnectionId, proxy: ProxyIndex, now: Instant) -> LeaseId {
        self.quotas.granted(connection);
        let report = match self.state_mut(proxy) {
            Some(state) => state.grant(),
            None => 0,
        };
        self.leases.grant(connection, proxy, report, now)
    }

    fn ended(&mut self, lease: &Lease) {
        self.quotas.ended(lease.connection);
        if let Some(state) = self.state_mut(lease.proxy) {
            state.ended(lease.report);
        }
    }
}

#[cfg(test)]
mod tests;
