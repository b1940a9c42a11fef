//! The proxy: carries sessions from boxes to mail servers, scanning on the way.
//!
//! A box opens a link, shows its ticket and names a mail server; the proxy checks both ([`policy`]
//! says what it connects to), connects, and hands the two legs to `session`, which is the same code
//! as on the box. Managers poll it on links of their own. Nothing that a session
//! needs is kept between sessions, so a proxy can be lost at any time; what is kept of mails
//! ([`settings::Kept`]) is for its operator. Entry: [`Settings::load`], [`Proxy::bind`].
#![forbid(unsafe_code)]

pub mod announce;
pub mod args;
mod boxes;
pub mod counters;
mod managers;
pub mod operate;
pub mod policy;
pub mod registry;
pub mod settings;

pub use boxes::{OPENS_MAX, Timing, WARM_PER_NETWORK_MAX};
pub use settings::Settings;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use link::Link;
use records::Records;
use service_kit::control::Control;
use service_kit::host::{self, WallClock};
use service_kit::http::{Pages, Status};
use service_kit::listener::{self, BindError, count};
use service_kit::revocations::{self, Authers, Revoked};
use service_kit::{Drain, Limits, Served};
use session::{Carrier, READ_BYTES_MAX, WRITE_QUEUE_BYTES_MAX};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{info, warn};
use wire::frame::FRAME_BYTES_MAX;
use wire::identity::{Peer, Role};
use wire::ticket::TicketVerifier;

use counters::Counters;
use operate::Gate;
use policy::{Network, Policy};
use registry::{Sessions, Warm};

/// Connections that boxes keep warm, at once.
pub const WARM_MAX: usize = 1_024;
/// Bytes of a session that a proxy holds in memory at most, whoever is slow: in both directions what was
/// read and what waits to be written; on the box's side a frame that is not whole, the frames that wait
/// for TLS and one beyond them, and TLS itself. What is scanned has limits of its own. A session takes
/// some of it only while somebody is slow.
pub const SESSION_BYTES_MAX: usize = 2 * (READ_BYTES_MAX + WRITE_QUEUE_BYTES_MAX)
    + FRAME_BYTES_MAX
    + 2 * link::OUTPUT_BYTES_MAX
    + 2 * link::TLS_BUFFER_BYTES_MAX;
/// Connections beside those that carry sessions: warm ones, managers, and as many in handshakes.
pub const CONNECTIONS_BESIDE_SESSIONS_MAX: usize = 2 * WARM_MAX;

/// A proxy that has its port and does not serve yet.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    status: Option<Status>,
    control: Option<Control>,
    settings: Settings,
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tickets: TicketVerifier,
    /// Tickets that are void before their time.
    pub(crate) revoked: Arc<Revoked>,
    /// Whether the operator has it take new sessions.
    pub(crate) gate: Gate,
    pub(crate) clock: WallClock,
    pub(crate) policy: Policy,
    /// Mail servers that are told who their client is.
    pub(crate) announced_to: Vec<Network>,
    pub(crate) carrier: Carrier,
    pub(crate) records: Records,
    pub(crate) connect_time_max: Duration,
    pub(crate) timing: Timing,
    pub(crate) load_average: PathBuf,
    pub(crate) sessions: Sessions,
    pub(crate) warm: Warm,
    pub(crate) counters: Arc<Counters>,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A manager could not be told how this host is.
    #[error("cannot learn the load average from {}; mount /proc", path.display())]
    LoadAverage {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: host::LoadAverageError,
    },
    /// The addresses of this host are forbidden destinations, so they have to be known.
    #[error("cannot list the addresses of this host")]
    OwnAddresses(#[source] std::io::Error),
}

impl Proxy {
    /// Takes the port and looks at the host.
    ///
    /// # Errors
    /// The address cannot be bound, or the host does not say what has to be known of it.
    pub async fn bind(settings: Settings, clock: WallClock) -> Result<Self, StartError> {
        let path = settings.load_average.clone();
        host::load_average_milli(&path)
            .map_err(|source| StartError::LoadAverage { path, source })?;
        let mut policy = settings.policy.clone();
        policy.own.extend(own_addresses().map_err(StartError::OwnAddresses)?.map(Network::from));
        let listener = listener::bind(settings.listen).await?;
        let status = match settings.status.clone() {
            Some(status) => Some(Status::bind(status).await?),
            None => None,
        };
        let control = settings.control.as_deref().and_then(|path| {
            Control::bind(path)
                .inspect_err(|error| {
                    let error = telemetry::chain(error);
                    warn!(error, "no control socket: `drain`, `undrain` and `status` do not work");
                })
                .ok()
        });
        let records = settings.kept.open();
        let state_directory = settings.kept.state_directory();
        let kept = state_directory.join(revocations::STATE_FILE);
        let revoked = Revoked::kept(&kept, &settings.tickets, clock());
        let gate = Gate::restore(state_directory);
        let carrier = Carrier {
            vault: records.vault.clone(),
            journal: records.journal.clone(),
            ..settings.carrier.clone()
        };
        let shared = Arc::new(Shared {
            tickets: settings.tickets,
            revoked: Arc::new(revoked),
            gate,
            clock,
            policy,
            announced_to: settings.proxy_protocol.clone(),
            carrier,
            records,
            connect_time_max: settings.connect_time_max,
            timing: settings.timing,
            load_average: settings.load_average.clone(),
            sessions: Sessions::new(settings.sessions_max),
            warm: Warm::new(WARM_MAX),
            counters: Arc::default(),
        });
        Ok(Self { listener, status, control, settings, shared })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where its metrics are, if anywhere.
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
        for network in &settings.policy.test {
            warn!(
                %network,
                "TEST SETTING test_networks: boxes can reach this network through this proxy; \
                 remove it on a real site"
            );
        }
        if settings.policy.own.is_empty() && settings.policy.test.is_empty() {
            warn!("own_addresses is empty: boxes can reach this site's own mail ports");
        }
        if shared.carrier.scanner.is_none() {
            warn!("scan.mode is \"off\": sessions pass unread");
        }
        let _watch = shared.carrier.start(&settings.scan).unwrap_or_else(|error| {
            let error = telemetry::chain(&error);
            warn!(error, "rules and lists are not watched: changes need a restart");
            None
        });
        info!(sessions_max = settings.sessions_max, "serving");
        // Ends with this function: dropping the set ends its task.
        let mut background = JoinSet::new();
        background.spawn(counters::report(shared.clone()));
        if let Some(control) = control {
            let (shared, drain) = (shared.clone(), drain.clone());
            background.spawn(control.serve(move |request, replies| {
                operate::answer(shared.clone(), drain.is_draining(), request, replies)
            }));
        }
        if !settings.auther.is_empty() {
            let authers = Authers {
                addresses: settings.auther.clone(),
                tls: settings.tls.client.clone(),
                verifier: settings.tickets,
                clock: shared.clock,
                kept: Some(settings.kept.state_directory().join(revocations::STATE_FILE)),
            };
            let interval = settings.revocation_interval;
            let revoked = shared.revoked.clone();
            background.spawn(revocations::follow(revoked, authers, interval, drain.clone()));
        }
        if let Some(status) = status {
            let registry = shared.counters.export(shared.clone(), drain.clone());
            let missing = Box::new(counters::missing(shared.clone(), drain.clone()));
            background.spawn(status.serve(Pages { registry, missing, more: Router::new() }));
        }
        background.spawn(shared.records.clone().sweep(host::unix_now_s));

        let acceptor = link::Acceptor::new(settings.tls.server, settings.tls.roots);
        let limits = Limits {
            connections_max: settings.sessions_max + CONNECTIONS_BESIDE_SESSIONS_MAX,
            drain_max: settings.drain_max,
        };
        let connections = shared.counters.connections.clone();
        let handler = {
            let (shared, drain) = (shared.clone(), drain.clone());
            move |link, _| serve(link, shared.clone(), drain.clone())
        };
        let served =
            service_kit::serve(listener, acceptor, limits, connections, drain, handler).await;
        info!(counters = %shared.counters, connections = %shared.counters.connections, cut_off = served.cut_off, "ended");
        served
    }
}

/// Serves one link, whoever is at its other end.
async fn serve(link: Link, shared: Arc<Shared>, drain: Drain) {
    match link.peer() {
        Peer::Device(key) => {
            let key = *key;
            boxes::serve(link, key, shared, drain).await;
        }
        peer if peer.is_server(Role::Manager) => managers::serve(link, shared, drain).await,
        peer => {
            count(&shared.counters.misbehaved);
            let address = link.peer_address();
            warn!(peer = %address, who = %peer, "closed: neither a box nor a manager");
        }
    }
}

/// The addresses of this host's interfaces.
fn own_addresses() -> std::io::Result<impl Iterator<Item = IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    Ok(interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    }))
}
