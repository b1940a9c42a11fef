//! The listeners of the admin API: TCP, with TLS off loopback, and the local socket. Each has places
//! of its own, so that a flood on the one does not lock the operator out of the other.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use service_kit::files::{FileError, read_pem};
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

use super::guard::{Peer, Proof};

/// Connections at once, by TCP and by the local socket each.
pub const CONNECTIONS_MAX: usize = 64;
/// Longest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header lines of a request.
pub(super) const HEADERS_MAX: usize = 64;
/// How long a request head may take to arrive, and a connection between two requests.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// How long the body of a request and the beginning of its answer may take together: an import of
/// 100,000 boxes into PostgreSQL needs minutes.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(300);
/// How long a connection may live, however slowly its peer reads an export.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(900);
/// Pause after a failed `accept`: no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Owner and group.
const MODE_GROUP: u32 = 0o660;
const MODE_OWNER: u32 = 0o600;

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
                let bound = bind_socket(socket).await;
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
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(proof.clone());
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(?peer, error = telemetry::chain(&error), "admin: a connection broke");
    }
}

/// Makes the socket, in place of one that a server left behind; one that is answered is another
/// server's. The mode is set under a name that nobody knows yet.
async fn bind_socket(socket: &Socket) -> io::Result<UnixListener> {
    let path = &socket.path;
    match UnixStream::connect(path).await {
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers there"));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of this name"));
    }
    let mut fresh = path.clone().into_os_string();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    let made = fit(&fresh, socket.gid).and_then(|()| fs::rename(&fresh, path));
    if made.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    made.map(|()| listener)
}

fn fit(path: &Path, gid: Option<u32>) -> io::Result<()> {
    let mode = if gid.is_some() { MODE_GROUP } else { MODE_OWNER };
    // Before the group is given, nobody of it can connect.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE_OWNER))?;
    if gid.is_some() {
        std::os::unix::fs::chown(path, None, gid)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// TLS for HTTP clients: they show a token, not a certificate.
///
/// # Errors
/// One of the files cannot be read or used.
pub fn tls_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, FileError> {
    let certificate_pem = read_pem("admin.certificate", certificate)?;
    let key_pem = read_pem("admin.key", key)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| FileError::unusable("admin.certificate", certificate, &error))?;
    let key_der = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|error| FileError::unusable("admin.key", key, &error))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
        .map_err(|error| FileError::unusable("admin.certificate", certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
