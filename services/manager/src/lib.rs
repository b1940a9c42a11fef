//! The manager: names a proxy to each box that asks, and watches its proxies.
//!
//! [`fleet`] decides, without IO and without a clock; `poll` and `boxes` are the drivers round it.
//! A manager knows the proxies of its own table and nothing else: no other manager, no other site.
//! It is not in the way of any session, so its loss costs a box the time to ask another one. Entry:
//! [`Settings::load`], [`Manager::bind`].
#![forbid(unsafe_code)]

mod boxes;
pub mod counters;
pub mod fleet;
pub mod health;
pub mod lease;
mod poll;
mod random;
pub mod settings;
pub mod table;

pub use boxes::Timing;
pub use settings::Settings;

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use service_kit::host::WallClock;
use service_kit::listener::{self, BindError};
use service_kit::{Drain, Limits, Served};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::info;
use wire::ticket::TicketVerifier;

use counters::Counters;
use fleet::Fleet;

/// A manager that has its port and does not serve yet.
#[derive(Debug)]
pub struct Manager {
    listener: TcpListener,
    settings: Settings,
    shared: Arc<Shared>,
}

/// What all connections and polls share.
#[derive(Debug)]
pub(crate) struct Shared {
    fleet: Mutex<Fleet>,
    tickets: TicketVerifier,
    clock: WallClock,
    /// What `Busy` tells a box to wait, in milliseconds.
    retry_after_ms: u32,
    timing: Timing,
    pub(crate) counters: Arc<Counters>,
}

impl Shared {
    /// The core. Held for one decision, never across an await.
    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        // The core has no half-done states: a decision that panicked leaves usable counts.
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Manager {
    /// Takes the port.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(settings: Settings, clock: WallClock) -> Result<Self, BindError> {
        let listener = listener::bind(settings.listen).await?;
        // Two managers of a site must not draw alike; the hasher's keys are the system's randomness.
        let seed = RandomState::new().hash_one(settings.listen);
        let fleet = Fleet::new(
            settings.table.clone(),
            settings.selection,
            settings.health,
            seed,
            tokio::time::Instant::now().into_std(),
        );
        let recover = settings.poll_interval * settings.health.recover_polls;
        let shared = Arc::new(Shared {
            fleet: Mutex::new(fleet),
            tickets: settings.tickets,
            clock,
            timing: settings.timing,
            retry_after_ms: u32::try_from(recover.as_millis()).unwrap_or(u32::MAX),
            counters: Arc::default(),
        });
        Ok(Self { listener, settings, shared })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What it counts, for whoever watches it.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Serves until the drain is over.
    pub async fn run(self, drain: Drain) -> Served {
        let Self { listener, settings, shared } = self;
        settings.tls.warn_if_open();
        info!(proxies = settings.table.proxies().len(), selection = ?settings.selection, "serving");
        // Ends with this function: dropping the set ends its tasks.
        let mut background = JoinSet::new();
        for (index, proxy) in settings.table.proxies().iter().enumerate() {
            let watch = poll::Watch {
                index,
                address: proxy.local,
                tls: settings.tls.client.clone(),
                interval: settings.poll_interval,
                timeout: settings.poll_timeout,
            };
            background.spawn(watch.run(shared.clone()));
        }
        background.spawn(counters::report(shared.clone()));

        let acceptor = link::Acceptor::new(settings.tls.server, settings.tls.roots);
        let limits =
            Limits { connections_max: settings.connections_max, drain_max: settings.drain_max };
        let connections = shared.counters.connections.clone();
        let handler = {
            let (shared, drain) = (shared.clone(), drain.clone());
            move |link, _| boxes::serve(link, shared.clone(), drain.clone())
        };
        let served =
            service_kit::serve(listener, acceptor, limits, connections, drain, handler).await;
        info!(counters = %shared.counters, connections = %shared.counters.connections, cut_off = served.cut_off, "ended");
        served
    }
}
