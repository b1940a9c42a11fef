//! The listeners of the admin API: TCP, with TLS off loopback, and the local socket. Each has places
//! of its own, so that a flood on the one does not lock the operator out of the other.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::{Extensions, StatusCode};
use rustls::ServerConfig;
use service_kit::control;
use service_kit::files::FileError;
use service_kit::http::{self, serve_requests};

use service_kit::listener::{
    Counters as ListenerCounters, HANDSHAKE_TIME_MAX, Unproven, accept_loop, bind, count,
};
use service_kit::{Drain, Limits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

pub use service_kit::http::{HEAD_BYTES_MAX, HEAD_TIME_MAX};

use super::guard::{Peer, Proof};

/// Connections at once, by TCP and by the local socket each.
pub const CONNECTIONS_MAX: usize = 64;
/// How long the body of a request and the beginning of its answer may take together: an import of
/// 100,000 boxes into PostgreSQL needs minutes.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(300);
/// How long a connection may live, however slowly its peer reads an export.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(900);
/// Pause after a failed `accept`: no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

service_kit::counters! {
    /// What the admin API has seen.
    pub struct Counters {
        /// Answers that it went well.
        answered,
        /// Answers that the request was wrong.
        bad,
        /// Answers to requests without a token that admits them, and to clients that had too many.
        unauthorised,
        /// Answers that something here is wrong.
        failed,
        /// Connections to the local socket refused because as many were there as may be.
        local_refused,
    } with {
        /// Of the port.
        pub connections: ListenerCounters,
    }
}

impl Counters {
    pub(super) fn answered(&self, status: StatusCode) {
        count(match status.as_u16() {
            401 | 403 | 429 => &self.unauthorised,
            400..=499 => &self.bad,
            500.. => &self.failed,
            _ => &self.answered,
        });
    }
}

/// A port of the HTTP API, with TLS or without.
pub type Port = (SocketAddr, Option<Arc<ServerConfig>>);

/// The local socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Where.
    pub path: PathBuf,
    /// Number of the group that may use it too; without one its owner and root only.
    pub gid: Option<u32>,
}

/// The ports and sockets, bound.
#[derive(Debug, Default)]
pub struct Listeners {
    tcp: Option<(TcpListener, Option<Arc<ServerConfig>>)>,
    unix: Option<(UnixListener, PathBuf)>,
}

impl Listeners {
    /// Binds what is asked for.
    ///
    /// # Errors
    /// The port is taken, or another server has the socket.
    pub async fn bind(tcp: Option<Port>, socket: Option<&Socket>) -> anyhow::Result<Self> {
        let tcp = match tcp {
            Some((address, tls)) => Some((bind(address).await.context("the admin API")?, tls)),
            None => None,
        };
        let unix = match socket {
            Some(socket) => {
                let bound = control::listen(&socket.path, socket.gid);
                let listener = bound.with_context(|| {
                    format!(
                        "`admin.socket`: cannot listen on {}; write a path in a directory that \
                         this server can write",
                        socket.path.display()
                    )
                })?;
                Some((listener, socket.path.clone()))
            }
            None => None,
        };
        Ok(Self { tcp, unix })
    }

    /// Where it listens, if on TCP.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Serves until the drain starts, and then lets requests come to their end for `drain_max`.
    pub async fn serve(
        self,
        router: Router,
        counters: Arc<Counters>,
        drain: Drain,
        drain_max: Duration,
    ) {
        let Self { tcp, unix } = self;
        let server = Server { router, counters, drain, drain_max };
        let beside = server.clone();
        let tcp = async move {
            if let Some((listener, tls)) = tcp {
                server.serve_tcp(listener, tls.map(TlsAcceptor::from)).await;
            }
        };
        let unix = async move {
            if let Some((listener, path)) = unix {
                beside.serve_unix(listener).await;
                // Whoever comes later is told that there is no server.
                let _ = fs::remove_file(path);
            }
        };
        tokio::join!(tcp, unix);
    }
}

#[derive(Debug, Clone)]
struct Server {
    router: Router,
    counters: Arc<Counters>,
    drain: Drain,
    drain_max: Duration,
}

impl Server {
    /// When all places are taken, the oldest connection that has shown no good token makes room.
    async fn serve_tcp(self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let Self { router, counters, drain, drain_max } = self;
        let limits = Limits { connections_max: CONNECTIONS_MAX, drain_max };
        let handshakes = counters.clone();
        accept_loop(listener, limits, &counters.connections, drain, |stream, address, unproven| {
            let connection =
                secure(stream, address, unproven, tls.clone(), router.clone(), handshakes.clone());
            bounded(connection)
        })
        .await;
    }

    /// Each connection in a task of its own, up to [`CONNECTIONS_MAX`].
    async fn serve_unix(self, listener: UnixListener) {
        let Self { router, counters, drain, drain_max } = self;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = drain.started() => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = listener.accept() => match (accepted, places.clone().try_acquire_owned()) {
                    (Ok((stream, _)), Ok(place)) => {
                        let connection = bounded(local(stream, router.clone()));
                        tasks.spawn(async move {
                            connection.await;
                            drop(place);
                        });
                    }
                    (Ok(_), Err(_)) => count(&counters.local_refused),
                    (Err(error), _) => {
                        warn!(%error, "admin: cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        let finished = async { while tasks.join_next().await.is_some() {} };
        tokio::select! {
            () = finished => {}
            () = drain.over(drain_max) => {}
        }
    }
}

/// A connection, for [`CONNECTION_TIME_MAX`] at most.
async fn bounded(connection: impl Future<Output = ()>) {
    if timeout(CONNECTION_TIME_MAX, connection).await.is_err() {
        debug!("admin: a connection has lived long enough");
    }
}

/// A connection by TCP, with TLS where there is some.
async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    unproven: Unproven,
    tls: Option<TlsAcceptor>,
    router: Router,
    counters: Arc<Counters>,
) {
    let peer = Peer::Tcp(address);
    let proof = Proof::new(Some(unproven));
    let Some(tls) = tls else { return requests(stream, peer, proof, router).await };
    let error = match timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => return requests(stream, peer, proof, router).await,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    count(&counters.connections.handshakes_failed);
    info!(peer = %address, error, "admin: TLS handshake failed");
}

/// A connection by the local socket.
async fn local(stream: UnixStream, router: Router) {
    match stream.peer_cred() {
        Ok(user) => {
            requests(stream, Peer::Unix { uid: user.uid() }, Proof::new(None), router).await;
        }
        Err(error) => warn!(%error, "admin: the kernel does not say who asks"),
    }
}

/// One connection.
async fn requests<S>(stream: S, peer: Peer, proof: Proof, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mark = move |extensions: &mut Extensions| {
        extensions.insert(peer);
        extensions.insert(proof.clone());
    };
    if let Err(error) = serve_requests(stream, router, mark).await {
        debug!(?peer, error = telemetry::chain(&error), "admin: a connection broke");
    }
}

/// TLS of the port: see [`http::tls_config`].
///
/// # Errors
/// One of the files cannot be read or used.
pub fn tls_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, FileError> {
    http::tls_config(["admin.certificate", "admin.key"], certificate, key).map(Arc::new)
}
