//! The manager: names a proxy to each box that asks, and watches its proxies.
//!
//! [`fleet`] decides, without IO and without a clock; `poll` and `boxes` are the drivers round it,
//! [`operate`] is the operator's side, and [`page`] shows the site. A manager knows the proxies of
//! its own table and nothing else: no other manager, no other site. It is not in the way of any
//! session, so its loss costs a box the time to ask another one. Entry: [`Settings::load`],
//! [`Manager::bind`].
#![forbid(unsafe_code)]

pub mod args;
mod boxes;
pub mod counters;
mod drains;
pub mod fleet;
pub mod health;
pub mod history;
pub mod lease;
pub mod operate;
pub mod page;
mod poll;
pub mod quota;
mod random;
pub mod settings;
pub mod table;

pub use boxes::{DENIALS_MAX, Timing};
pub use settings::Settings;

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use service_kit::control::Control;
use service_kit::host::WallClock;
use service_kit::http::{Pages, Status};
use service_kit::listener::{self, BindError};
use service_kit::revocations::{self, Authers, Revoked};
use service_kit::{Drain, Limits, Served};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use wire::ticket::TicketVerifier;

use counters::Counters;
use fleet::Fleet;
use history::History;
use operate::Desk;

/// A manager that has its ports and does not serve yet.
#[derive(Debug)]
pub struct Manager {
    listener: TcpListener,
    status: Option<Status>,
    control: Option<Control>,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
}

/// What all connections and polls share.
#[derive(Debug)]
pub(crate) struct Shared {
    fleet: Mutex<Fleet>,
    pub(crate) history: Mutex<History>,
    tickets: TicketVerifier,
    /// Tickets that are void before their time.
    pub(crate) revoked: Arc<Revoked>,
    clock: WallClock,
    /// What `Busy` tells a box to wait, in milliseconds.
    retry_after_ms: u32,
    timing: Timing,
    pub(crate) counters: Arc<Counters>,
    /// Polls so far, good or not: who waits for the core to change waits for the next.
    pub(crate) polled: watch::Sender<u64>,
}

impl Shared {
    /// The core. Held for one decision, never across an await.
    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        // The core has no half-done states: a decision that panicked leaves usable counts.
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since 1970.
    pub(crate) fn now_s(&self) -> u64 {
        (self.clock)()
    }

    /// Says of each drain that is over that it is.
    pub(crate) fn look_for_emptied(&self) {
        let emptied = self.fleet().take_emptied();
        for emptied in emptied {
            let proxy = emptied.proxy;
            match emptied.gone {
                Some(_) => info!(%proxy, "has left the table and has no session left: forgotten"),
                None => info!(%proxy, "drained: no session is left on it"),
            }
        }
    }

    /// What keeps this manager from naming a proxy, for `/readyz`.
    fn missing(&self) -> Vec<String> {
        let fleet = self.fleet();
        if fleet.is_drained() {
            return vec!["the site is drained; `avr-manager undrain --site` ends that".to_owned()];
        }
        if fleet.can_name() {
            return Vec::new();
        }
        let lines = fleet.status(Instant::now().into_std()).map(|proxy| {
            format!("proxy {} may not be named: {}", proxy.local, page::state_of(&proxy).text)
        });
        lines.collect()
    }
}

impl Manager {
    /// Takes the ports.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub async fn bind(settings: Settings, clock: WallClock) -> Result<Self, BindError> {
        let listener = listener::bind(settings.listen).await?;
        let status = match settings.status.clone() {
            Some(status) => Some(Status::bind(status).await?),
            None => None,
        };
        let control = settings.control.as_deref().and_then(|path| {
            Control::bind(path)
                .inspect_err(|error| {
                    let error = telemetry::chain(error);
                    warn!(error, "no control socket: commands cannot drain and reload; SIGHUP can");
                })
                .ok()
        });
        // Two managers of a site must not draw alike; the hasher's keys are the system's randomness.
        let seed = RandomState::new().hash_one(settings.listen);
        let mut fleet = Fleet::new(
            settings.table.clone(),
            settings.selection,
            settings.health,
            seed,
            Instant::now().into_std(),
        );
        fleet.set_slow_start(settings.slow_start);
        drains::restore(&settings.state_directory, &mut fleet);
        let kept = settings.state_directory.join(revocations::STATE_FILE);
        let revoked = Revoked::kept(&kept, &settings.tickets, clock());
        let recover = settings.poll_interval * settings.health.recover_polls;
        let shared = Arc::new(Shared {
            fleet: Mutex::new(fleet),
            history: Mutex::default(),
            tickets: settings.tickets,
            revoked: Arc::new(revoked),
            clock,
            timing: settings.timing,
            retry_after_ms: u32::try_from(recover.as_millis()).unwrap_or(u32::MAX),
            counters: Arc::default(),
            polled: watch::Sender::new(0),
        });
        Ok(Self { listener, status, control, settings: Arc::new(settings), shared })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where its page and metrics are, if anywhere.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn status_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.status.as_ref().map(Status::address).transpose()
    }

    /// What it counts, for whoever watches it.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Serves until the drain is over.
    pub async fn run(self, drain: Drain) -> Served {
        let Self { listener, status, control, settings, shared } = self;
        settings.tls.warn_if_open();
        // Ends with this function: dropping the set ends its tasks.
        let mut background = JoinSet::new();
        let mut polled = shared.polled.subscribe();
        let desk = Arc::new(Desk::new(shared.clone(), settings.clone()));
        background.spawn(desk.clone().on_hangups());
        if let Some(control) = control {
            background.spawn(
                control.serve(move |request, replies| desk.clone().answer(request, replies)),
            );
        }
        background.spawn(counters::report(shared.clone()));
        if !settings.auther.is_empty() {
            let authers = Authers {
                addresses: settings.auther.clone(),
                tls: settings.tls.client.clone(),
                verifier: settings.tickets,
                clock: shared.clock,
                kept: Some(settings.state_directory.join(revocations::STATE_FILE)),
            };
            let interval = settings.revocation_interval;
            background.spawn(revocations::follow(
                shared.revoked.clone(),
                authers,
                interval,
                drain.clone(),
            ));
        }
        if let Some(status) = status {
            let site = page::Site { name: settings.listen.to_string(), drain: drain.clone() };
            let (more, keep) = page::router(shared.clone(), site);
            background.spawn(keep);
            let missing = shared.clone();
            let pages = Pages {
                registry: shared.counters.export(shared.clone()),
                missing: Box::new(move || missing.missing()),
                more,
            };
            background.spawn(status.serve(pages));
        }

        // Boxes that come back after a restart wait in the port's queue until the proxies are known,
        // rather than hear that there is none.
        let proxies = settings.table.proxies().len();
        let first = polled.wait_for(|&polls| usize::try_from(polls).is_ok_and(|n| n >= proxies));
        let _ = timeout(settings.poll_timeout, first).await;
        info!(proxies, selection = settings.selection.name(), "serving");

        let acceptor = link::Acceptor::new(settings.tls.server.clone(), settings.tls.roots.clone());
        let limits =
            Limits { connections_max: settings.connections_max, drain_max: settings.drain_max };
        let connections = shared.counters.connections.clone();
        let handler = {
            let (shared, drain) = (shared.clone(), drain.clone());
            move |link, _| boxes::serve(link, shared.clone(), drain.clone())
        };
        let served =
            service_kit::serve(listener, acceptor, limits, connections, drain, handler).await;
        let (counters, cut_off) = (&shared.counters, served.cut_off);
        info!(%counters, connections = %counters.connections, cut_off, "ended");
        served
    }
}
