//! Finds the way of a mail session: DNS → manager → proxy → mail server, or straight there.
//!
//! Purpose: [`Relay::open`] gives the best connection to a mail server that there is at that
//! moment, and never waits for what is already known to be dead. Everything it needs for that is
//! prepared in the background: the list of managers, the ticket, an open connection to the first
//! manager, and a few proxy connections that are ready for a session ([`warm`]). A session that
//! finds one costs one round trip to the site; one that finds no site at all goes direct.
//!
//! What is decided, and when, stands in sans-IO modules, tested with a virtual clock and driven by
//! `tests/sim` for a whole fleet ([`cores`]); the rest moves bytes: `seek`, `open`, `warm`,
//! `manager_link`, `background` and `login`.
//! Until a proxy says `Opened` no byte of the session has flowed, so setting up may fail over;
//! after that nothing is ever tried again.
//!
//! Must not depend on any crate of the workspace but `wire`, `link` and `telemetry`. Entry:
//! [`Relay`].
#![forbid(unsafe_code)]

pub mod limits;

mod admission;
mod background;
mod backoff;
mod core;
mod direct;
mod directory;
mod dns;
mod login;
mod manager_link;
mod managers;
mod offering;
mod open;
mod proxies;
mod race;
mod search;
mod seek;
mod settings;
mod shared;
mod status;
mod store;
mod talk;
mod warm;
mod watch;
mod way;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_support;

/// The sans-IO cores, for whoever drives them with a clock of its own. A driver of all of them is
/// this crate; another is the simulation.
pub mod cores {
    pub use crate::admission::{Admission, Granted};
    pub use crate::core::{Core, Effect, Keep, ManagerEnd, Task, WarmEnd};
    pub use crate::directory::{Answer, Directory};
    pub use crate::managers::Managers;
    pub use crate::offering::{Attempt, NoWord, Offer, OfferStep, Offering, ServerAnswer, Word};
    pub use crate::proxies::Proxies;
    pub use crate::search::{Reply, Search, SearchStep};
    pub use crate::talk::{Said, Talk, Tick};
    pub use crate::watch::{Watch, WatchStep};
}

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use wire::identity::IdentityError;
use wire::ticket::TicketKeyError;
use wire::{Bye, Protocol, SessionId};

pub use direct::connect_directly;
pub use dns::lookup_host;
#[doc(hidden)]
pub use dns::read_dns_answer;
pub use limits::Timing;
pub use settings::{Clock, Settings};
pub use status::{
    Counters, ListStatus, ManagerState, ManagerStatus, ProxyStatus, RelayStatus, Route,
    TicketStatus, WarmStatus,
};
pub use store::{DEVICE_KEY_FILE, StateError, load_or_create_device_key};
pub use way::{DirectReason, DirectStream, OpenError, Upstream, UpstreamStream, Way};

use open::Wanted;
use shared::Shared;

/// The relay client. Clones share everything; the last one dropped ends its tasks and connections,
/// but not the sessions that it opened.
#[derive(Clone)]
pub struct Relay(Arc<Running>);

/// Why a relay client cannot start: the settings' fault.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Fleet CA or device key.
    #[error("use the fleet CA and the device key")]
    Identity(#[source] IdentityError),
    /// The ticket key.
    #[error("use the ticket key")]
    TicketKey(#[source] TicketKeyError),
}

impl Relay {
    /// Reads what an earlier process kept and starts the background tasks, on the current tokio
    /// runtime. Does not wait for the network.
    ///
    /// # Errors
    ///
    /// If a key or certificate in the settings cannot be used. A list or ticket that cannot be read
    /// is logged and done without.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let (shared, byes) = Shared::new(settings)?;
        if shared.settings.relay {
            shared.spawn(background::keep_list(Arc::clone(&shared)));
            shared.spawn(background::probe(Arc::clone(&shared)));
            shared.spawn(background::deliver_byes(Arc::clone(&shared), byes));
            shared.spawn(login::keep_admitted(Arc::clone(&shared)));
            shared.spawn(warm::keep_ready(Arc::clone(&shared)));
        }
        Ok(Self(Arc::new(Running { shared })))
    }

    /// Connects to a mail server, through a site if possible, and returns once the mail server has
    /// answered. Within [`Timing::relay_budget`] a proxy has taken the session or it goes direct.
    ///
    /// The proxy is told who the `client` is: some mail servers ask their proxies for it.
    ///
    /// Cancel-safe: dropping the future gives everything back.
    ///
    /// # Errors
    ///
    /// If the mail server does not take the connection, as it is to be shown to the client.
    pub async fn open(
        &self,
        client: SocketAddr,
        destination: SocketAddr,
        protocol: Protocol,
        session: SessionId,
    ) -> Result<Upstream, OpenError> {
        open::open(&self.0.shared, Wanted { client, destination, protocol, session }).await
    }

    /// Connects straight to a mail server, for sessions whose policy says so.
    ///
    /// # Errors
    ///
    /// As [`Relay::open`].
    pub async fn open_direct(&self, destination: SocketAddr) -> Result<Upstream, OpenError> {
        let shared = &self.0.shared;
        let outcome = direct::open(&shared.settings, destination, DirectReason::Chosen).await;
        shared.core().counters.count(&outcome);
        outcome
    }

    /// Tells the manager that a session is over; `bye.lease` is set from the way. Does not wait. On
    /// a direct way there is nobody to tell.
    pub fn bye(&self, way: &Way, bye: Bye) {
        let Way::Relay { manager, lease, .. } = *way else { return };
        let shared = &self.0.shared;
        if shared.byes.try_send((manager, Bye { lease, ..bye })).is_err() {
            shared.core().counters.byes_lost += 1;
        }
    }

    /// The network may have changed (a cable, an address): ask DNS, probe the dead and log in
    /// without waiting for their next turn.
    pub fn network_changed(&self) {
        let shared = &self.0.shared;
        shared.core().network_changed(shared::now());
    }

    /// What is known and what happened so far.
    #[must_use]
    pub fn status(&self) -> RelayStatus {
        status::status(&self.0.shared)
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("domain", &self.0.shared.settings.domain)
            .finish_non_exhaustive()
    }
}

/// Ends the tasks when the last [`Relay`] goes.
struct Running {
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
