//! What an operator changes: drains, and another table.

use std::net::SocketAddr;
use std::time::Instant;

use super::Fleet;
use super::state::State;
use crate::fleet::Selection;
use crate::health::HealthSettings;
use crate::table::{ProxyIndex, Table};

/// What an accepted table changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Proxies that were not there before: to be polled from now on, at these places.
    pub added: Vec<(ProxyIndex, SocketAddr)>,
    /// Proxies that are not in the table any more, and drain.
    pub leaving: Vec<SocketAddr>,
    /// How many stayed.
    pub kept: usize,
}

/// What has nothing left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emptied {
    /// Where it is polled.
    pub proxy: SocketAddr,
    /// It is not in the table, so its place is free and it is polled no more. Otherwise it is
    /// drained, and still polled.
    pub gone: Option<ProxyIndex>,
}

/// What a drain still waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Sessions that the proxies report, whoever named them.
    pub sessions: u64,
    /// Leases of this manager: sessions, and assignments that boxes have in hand.
    pub leases: u64,
}

impl Left {
    /// Whether the drain is over.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Fleet {
    /// Names a proxy no more, or with `None` no proxy of the site. False when there is no such
    /// proxy.
    pub fn drain(&mut self, proxy: Option<SocketAddr>) -> bool {
        let Some(proxy) = proxy else {
            self.site_drained = true;
            return true;
        };
        let Some(state) = self.find_mut(proxy) else { return false };
        state.drained = true;
        state.told = false;
        true
    }

    /// Takes [`Fleet::drain`] back; what was drained comes back slowly. With `None` every drain of
    /// the site is over, those of single proxies too.
    pub fn undrain(&mut self, proxy: Option<SocketAddr>, now: Instant) -> bool {
        match proxy {
            None => {
                let site_was_drained = std::mem::take(&mut self.site_drained);
                for state in self.proxies.iter_mut().flatten() {
                    // With the whole site away none of them has more than the others.
                    if std::mem::take(&mut state.drained) && !site_was_drained {
                        state.start_slowly(now);
                    }
                }
                true
            }
            Some(proxy) => {
                let Some(state) = self.find_mut(proxy) else { return false };
                if std::mem::take(&mut state.drained) {
                    state.start_slowly(now);
                }
                true
            }
        }
    }

    /// The proxies that are drained one by one, by their local addresses, to be drained again after a
    /// restart.
    pub fn drained(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.proxies.iter().flatten().filter(|state| state.drained).map(|state| state.local)
    }

    /// Whether no proxy is named because the site is drained.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.site_drained
    }

    /// Whether a proxy, or with `None` the site, is drained. A proxy that has left the table is.
    #[must_use]
    pub fn is_draining(&self, proxy: Option<SocketAddr>) -> bool {
        let Some(proxy) = proxy else { return self.site_drained };
        let state = self.proxies.iter().flatten().find(|state| state.is_at(proxy));
        self.site_drained || state.is_none_or(|state| state.drained || state.weight == 0)
    }

    /// What is left to come to its end on a proxy, or with `None` on the site. `None` when there is
    /// no such proxy.
    #[must_use]
    pub fn left(&self, proxy: Option<SocketAddr>) -> Option<Left> {
        let mut left = Left::default();
        let mut found = proxy.is_none();
        for state in self.proxies.iter().flatten() {
            if proxy.is_none_or(|proxy| state.is_at(proxy)) {
                found = true;
                left.sessions += u64::from(state.sessions_left());
                left.leases += u64::from(state.outstanding);
            }
        }
        found.then_some(left)
    }

    /// Proxies that are drained, or out of the table, and have just become empty; each is named
    /// once. Call it after reports and byes.
    pub fn take_emptied(&mut self) -> Vec<Emptied> {
        let mut emptied = Vec::new();
        for (at, place) in self.proxies.iter_mut().enumerate() {
            let Some(state) = place else { continue };
            let leaving = state.weight == 0;
            let empty = state.sessions_left() == 0 && state.outstanding == 0;
            if state.told || !empty || !(state.drained || self.site_drained || leaving) {
                continue;
            }
            state.told = true;
            emptied.push(Emptied { proxy: state.local, gone: leaving.then_some(at) });
            if leaving {
                *place = None;
            }
        }
        emptied
    }

    /// Takes another table, and other limits. What stays in it keeps all that is known of it; what
    /// is new starts slowly; what is no more in it is not named again, and leaves its place when its
    /// last session has ended.
    pub fn reload(
        &mut self,
        table: &Table,
        selection: Selection,
        health: HealthSettings,
        now: Instant,
    ) -> Reloaded {
        let mut reloaded = Reloaded::default();
        for state in self.proxies.iter_mut().flatten() {
            let stays = table.proxies().iter().any(|proxy| proxy.local == state.local);
            if !stays && state.weight > 0 {
                state.weight = 0;
                state.told = false;
                reloaded.leaving.push(state.local);
            }
        }
        let mut places = Vec::new();
        for proxy in table.proxies() {
            let known = self.proxies.iter_mut().enumerate().find_map(|(at, place)| {
                place.as_mut().filter(|state| state.local == proxy.local).map(|state| (at, state))
            });
            if let Some((at, state)) = known {
                if state.weight == 0 {
                    state.start_slowly(now);
                }
                (state.public, state.weight) = (proxy.public, proxy.weight);
                places.push(at);
                reloaded.kept += 1;
                continue;
            }
            let mut new = State::new(proxy, now);
            new.start_slowly(now);
            let free = self.proxies.iter().position(Option::is_none);
            let at = free.unwrap_or(self.proxies.len());
            match self.proxies.get_mut(at) {
                Some(place) => *place = Some(new),
                None => self.proxies.push(Some(new)),
            }
            places.push(at);
            reloaded.added.push((at, proxy.local));
        }
        self.entries = table.entries().iter().filter_map(|&at| places.get(at).copied()).collect();
        (self.selection, self.health, self.rotation) = (selection, health, 0);
        reloaded
    }

    /// Whether the proxy at this place is that one. A place may have been given to another since.
    #[must_use]
    pub fn is_at(&self, place: ProxyIndex, proxy: SocketAddr) -> bool {
        self.state(place).is_some_and(|state| state.local == proxy)
    }

    fn find_mut(&mut self, proxy: SocketAddr) -> Option<&mut State> {
        self.proxies.iter_mut().flatten().find(|state| state.is_at(proxy))
    }
}

impl State {
    /// By which address an operator means it: the local one, or the one that boxes see.
    fn is_at(&self, address: SocketAddr) -> bool {
        self.local == address || self.public == address
    }
}
