//! From an address or an accepted socket to a [`Link`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use wire::ALPN;
use wire::identity::{FleetRoots, Role, peer, server_peer};

use crate::framed::Framed;
use crate::{
    KEEPALIVE_AFTER, KEEPALIVE_EVERY, KEEPALIVE_PROBES_MAX, Link, LinkError, TLS_BUFFER_BYTES_MAX,
    UNACKNOWLEDGED_MAX,
};

/// Connects to the server at `address`, which must prove to be a `role` of the fleet. `timeout`
/// covers TCP and TLS together.
///
/// TLS 1.3 is done on this side before the server has looked at our certificate; if it refuses it,
/// the first [`Link::recv`] says so.
///
/// # Errors
///
/// See [`LinkError`]; the two timeouts tell a silent host from one whose program hangs.
pub async fn connect(
    address: SocketAddr,
    role: Role,
    tls: Arc<ClientConfig>,
    timeout: Duration,
) -> Result<Link, LinkError> {
    let deadline = Instant::now() + timeout;
    let socket = timeout_at(deadline, TcpStream::connect(address))
        .await
        .map_err(|_| LinkError::ConnectTimedOut { timeout })?
        .map_err(|source| LinkError::Connect { source })?;
    set_up(&socket)?;
    let handshake = TlsConnector::from(tls).connect_with(role.server_name(), socket, |tls| {
        tls.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
    });
    let stream = timeout_at(deadline, handshake)
        .await
        .map_err(|_| LinkError::HandshakeTimedOut { timeout })?
        .map_err(|source| LinkError::Handshake { source })?;
    let (_, session) = stream.get_ref();
    check_alpn(session.alpn_protocol())?;
    let certificates = session.peer_certificates().unwrap_or_default();
    let peer = server_peer(certificates).map_err(|source| LinkError::Identity { source })?;
    Ok(Link::new(Framed::new(TlsStream::Client(stream)), peer, address))
}

/// Makes links of accepted sockets. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    fleet: FleetRoots,
}

impl Acceptor {
    /// With a configuration from [`wire::identity::server_config`], and the fleet it was made for.
    #[must_use]
    pub fn new(tls: Arc<ServerConfig>, fleet: FleetRoots) -> Self {
        Self { tls: tls.into(), fleet }
    }

    /// Does the handshake on a socket just accepted; `timeout` bounds a client that stalls.
    ///
    /// # Errors
    ///
    /// See [`LinkError`].
    pub async fn accept(&self, socket: TcpStream, timeout: Duration) -> Result<Link, LinkError> {
        let address = socket.peer_addr().map_err(|source| LinkError::Socket { source })?;
        set_up(&socket)?;
        let handshake = self.tls.accept_with(socket, |tls| {
            tls.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
        });
        let stream = tokio::time::timeout(timeout, handshake)
            .await
            .map_err(|_| LinkError::HandshakeTimedOut { timeout })?
            .map_err(|source| LinkError::Handshake { source })?;
        let (_, session) = stream.get_ref();
        check_alpn(session.alpn_protocol())?;
        let certificates = session.peer_certificates().unwrap_or_default();
        let peer =
            peer(certificates, &self.fleet).map_err(|source| LinkError::Identity { source })?;
        Ok(Link::new(Framed::new(TlsStream::Server(stream)), peer, address))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// No delay, because a mail command waits for its answer; and an end to peers that vanish.
fn set_up(socket: &TcpStream) -> Result<(), LinkError> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES_MAX);
    let raw = SockRef::from(socket);
    socket
        .set_nodelay(true)
        .and_then(|()| raw.set_tcp_keepalive(&keepalive))
        .and_then(|()| raw.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX)))
        .map_err(|source| LinkError::Socket { source })
}

/// rustls lets a client through that names no protocol at all; we do not.
fn check_alpn(protocol: Option<&[u8]>) -> Result<(), LinkError> {
    if protocol == Some(ALPN) { Ok(()) } else { Err(LinkError::Alpn) }
}
