//! What the relay client shows of itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::admission::NotAdmitted;
use crate::core::Core;
use crate::managers::StateNow;
use crate::shared::{Locked, Named, Shared, now};
use crate::way::{DirectReason, OpenError, Upstream, Way};

/// A picture of the relay client at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct RelayStatus {
    /// What the next session would do.
    pub route: Route,
    /// The way of the last session opened.
    pub last_way: Option<Way>,
    /// All managers of the list, in its order.
    pub managers: Vec<ManagerStatus>,
    /// Proxies that are not used now.
    pub proxies_excluded: Vec<ProxyStatus>,
    /// Proxy connections kept ready.
    pub warm_links: Vec<WarmStatus>,
    /// Whether this box is admitted.
    pub ticket: TicketStatus,
    /// The list of managers.
    pub managers_list: ListStatus,
    /// The list of authers.
    pub authers_list: ListStatus,
    /// What happened since the start.
    pub counters: Counters,
}

/// See [`RelayStatus::route`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// Through this proxy, over a link that is ready.
    Warm {
        /// The proxy.
        proxy: SocketAddr,
    },
    /// Through a proxy that this manager, or the next, is asked for.
    Ask {
        /// The manager asked first.
        manager: SocketAddr,
    },
    /// Straight to the mail server.
    Direct {
        /// Why.
        reason: DirectReason,
    },
}

/// One manager.
#[derive(Debug, Clone, Serialize)]
pub struct ManagerStatus {
    /// Its address.
    pub address: SocketAddr,
    /// What is known of it.
    pub state: ManagerState,
    /// For how long it has been dead, in seconds.
    pub dead_for_s: Option<u64>,
    /// How long its last answer took, in milliseconds.
    pub last_answer_ms: Option<u64>,
    /// There is a connection to it, or one is being made.
    pub connected: bool,
}

/// What is known of a manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManagerState {
    /// Not asked yet.
    Unknown,
    /// It answers.
    Up,
    /// It owes an answer, or its site is in doubt: asked last.
    Slow,
    /// It has no proxy for this box now, or denied it: not asked for a while.
    Held,
    /// Not asked until a probe finds it again.
    Dead,
}

/// One excluded proxy.
#[derive(Debug, Clone, Serialize)]
pub struct ProxyStatus {
    /// Its address.
    pub address: SocketAddr,
    /// Who names it.
    pub manager: SocketAddr,
    /// For how long it has been dead, in seconds; none: full, draining or denying.
    pub dead_for_s: Option<u64>,
}

/// One warm link.
#[derive(Debug, Clone, Serialize)]
pub struct WarmStatus {
    /// Its proxy.
    pub proxy: SocketAddr,
    /// Who named it.
    pub manager: SocketAddr,
    /// Seconds since it was made.
    pub age_s: u64,
}

/// Whether this box is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TicketStatus {
    /// It is.
    Valid {
        /// Seconds since 1970.
        until_s: u64,
    },
    /// No auther has answered, or the ticket ended while none did.
    None,
    /// An auther said no.
    Denied {
        /// Why, in words.
        reason: String,
    },
}

/// A list from DNS.
#[derive(Debug, Clone, Serialize)]
pub struct ListStatus {
    /// The name asked for.
    pub name: String,
    /// Addresses in it.
    pub addresses: usize,
    /// Seconds since it came from DNS; none: never.
    pub age_s: Option<u64>,
    /// Its time to live has ended, or it is an earlier process's.
    pub stale: bool,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counters {
    /// Sessions opened through a site.
    pub sessions_relayed: u64,
    /// Sessions opened straight to the mail server.
    pub sessions_direct: u64,
    /// Of these, because the proxy may not, will not or cannot: policy, loop, no IPv6.
    pub direct_policy: u64,
    /// Of these, because this box is not admitted or has no ticket yet.
    pub direct_not_admitted: u64,
    /// Of these, because no manager or proxy was there.
    pub direct_no_site: u64,
    /// Sessions that the mail server did not take.
    pub sessions_failed: u64,
    /// Times that a session went on to another proxy after one had been asked to open it.
    pub failovers: u64,
    /// Managers found dead.
    pub manager_failures: u64,
    /// Proxies found dead.
    pub proxy_failures: u64,
    /// Warm links that broke before a session took them.
    pub warm_lost: u64,
    /// Managers and proxies that came back.
    pub recoveries: u64,
    /// Probes of dead managers and proxies.
    pub probes: u64,
    /// `Busy` from managers.
    pub busy: u64,
    /// `Full` and `Draining` from proxies.
    pub full: u64,
    /// `Denied` from managers and proxies.
    pub denied: u64,
    /// Questions that a manager's queue had no room for.
    pub queue_full: u64,
    /// `Bye`s handed to a manager.
    pub byes: u64,
    /// `Bye`s that could not be delivered; the manager ends such leases by itself.
    pub byes_lost: u64,
    /// DNS lookups that gave a list.
    pub lookups: u64,
    /// DNS lookups that failed.
    pub lookups_failed: u64,
    /// Logins that gave a ticket.
    pub logins: u64,
    /// Logins denied.
    pub logins_denied: u64,
    /// Logins that no auther answered.
    pub logins_failed: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, outcome: &Result<Upstream, OpenError>) {
        match outcome {
            Ok(Upstream { way: Way::Relay { .. }, .. }) => self.sessions_relayed += 1,
            Ok(Upstream { way: Way::Direct { reason }, .. }) => {
                self.sessions_direct += 1;
                match reason {
                    DirectReason::Chosen => {}
                    DirectReason::Policy | DirectReason::NoRoute | DirectReason::Loop => {
                        self.direct_policy += 1;
                    }
                    DirectReason::NoTicket | DirectReason::Denied(_) => {
                        self.direct_not_admitted += 1;
                    }
                    DirectReason::NoManagers
                    | DirectReason::ManagersDead
                    | DirectReason::NoProxy
                    | DirectReason::BudgetSpent => self.direct_no_site += 1,
                }
            }
            Err(_) => self.sessions_failed += 1,
        }
    }
}

/// Takes the picture.
pub(crate) fn status(shared: &Arc<Shared>) -> RelayStatus {
    let (now, now_s) = (now(), shared.now_s());
    let mut core = shared.core();
    let lists = [Named::Managers, Named::Authers].map(|kind| list(&mut core, kind, now, now_s));
    let [managers_list, authers_list] = lists;
    RelayStatus {
        route: route(&core, shared.settings.relay, now),
        last_way: core.last_way,
        managers: managers(&core, now),
        proxies_excluded: core
            .proxies
            .states(now)
            .map(|(address, manager, since)| ProxyStatus {
                address,
                manager,
                dead_for_s: since.map(|since| (now - since).as_secs()),
            })
            .collect(),
        warm_links: core
            .warm()
            .map(|warm| WarmStatus {
                proxy: warm.proxy,
                manager: warm.manager,
                age_s: (now - warm.since).as_secs(),
            })
            .collect(),
        ticket: ticket(&core, now),
        managers_list,
        authers_list,
        counters: core.counters,
    }
}

fn route(core: &Core, relay: bool, now: Instant) -> Route {
    if !relay {
        return Route::Direct { reason: DirectReason::Chosen };
    }
    if let Err(reason) = core.ticket(now) {
        return Route::Direct { reason };
    }
    if let Some(warm) = core.warm().find(|warm| !core.is_suspect(warm.proxy, warm.manager, now)) {
        return Route::Warm { proxy: warm.proxy };
    }
    match core.candidates(now) {
        Ok(list) => {
            list.first().map_or(Route::Direct { reason: DirectReason::ManagersDead }, |manager| {
                Route::Ask { manager: *manager }
            })
        }
        Err(reason) => Route::Direct { reason },
    }
}

fn managers(core: &Locked<'_>, now: Instant) -> Vec<ManagerStatus> {
    let shown = core.managers.states(now).map(|(address, state, last_answer)| {
        let (state, dead_for_s) = match state {
            StateNow::Unknown => (ManagerState::Unknown, None),
            StateNow::Up => (ManagerState::Up, None),
            StateNow::Slow => (ManagerState::Slow, None),
            StateNow::Held => (ManagerState::Held, None),
            StateNow::Dead { since } => (ManagerState::Dead, Some((now - since).as_secs())),
        };
        ManagerStatus {
            address,
            state,
            dead_for_s,
            last_answer_ms: last_answer.map(milliseconds),
            connected: core.has_link(address),
        }
    });
    shown.collect()
}

fn ticket(core: &Core, now: Instant) -> TicketStatus {
    match core.admission.ticket(now) {
        Ok(_) => TicketStatus::Valid { until_s: core.admission.valid_until_s().unwrap_or(0) },
        Err(NotAdmitted::NoTicket) => TicketStatus::None,
        Err(NotAdmitted::Denied(reason)) => TicketStatus::Denied { reason: reason.to_string() },
    }
}

fn list(core: &mut Core, kind: Named, now: Instant, now_s: u64) -> ListStatus {
    let directory = core.directory(kind);
    ListStatus {
        name: directory.name().to_owned(),
        addresses: directory.addresses().len(),
        age_s: directory.age_s(now_s),
        stale: directory.is_stale(now),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
