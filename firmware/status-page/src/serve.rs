//! The two ports: the page over TLS, and plain HTTP that only says where the page is.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::app::{App, lock};
use crate::reply::{self, Reply};
use crate::request::{host, without_port};

/// Connections at once: a few browsers.
pub(crate) const CONNECTIONS_MAX: usize = 32;
/// Of these, from one address: as many as a browser opens, and one.
pub(crate) const CONNECTIONS_OF_ONE_MAX: usize = 7;
/// Longest request head, in bytes; hyper takes no less.
pub(crate) const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most header lines of a request.
pub(crate) const HEADERS_MAX: usize = 64;
/// How long a TLS handshake may take.
pub(crate) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a request head may take to arrive, and a connection between two requests.
pub(crate) const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest that sent bytes may stay unread by the peer (`TCP_USER_TIMEOUT`).
const UNREAD_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a connection may live, whatever it does: also a large mail is there by then.
pub(crate) const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// Connections that the kernel holds for us.
const BACKLOG: i32 = 64;
/// Until it is accepted again where the system gives no descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Takes a port of the box's own addresses: with `interface`, of no other, whatever they are. An unspecified
/// IPv6 address is all addresses of both families, as far as the kernel has them.
pub(crate) fn bind(address: SocketAddr, interface: Option<&str>) -> io::Result<TcpListener> {
    let v6_too = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
    let (socket, address) = match v6_too {
        // The kernel has no IPv6.
        Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            let all = SocketAddr::from(([0, 0, 0, 0], address.port()));
            (Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?, all)
        }
        socket => (socket?, address),
    };
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind_device(interface.map(str::as_bytes))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves the page for ever.
pub(crate) async fn https(listener: TcpListener, tls: Arc<ServerConfig>, app: Arc<App>) {
    let acceptor = TlsAcceptor::from(tls);
    accept(listener, move |stream, peer| {
        let (acceptor, app) = (acceptor.clone(), Arc::clone(&app));
        async move {
            match timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let answer = move |request| {
                        let app = Arc::clone(&app);
                        async move { app.answer(request, peer).await }
                    };
                    requests(stream, answer).await;
                }
                // Also what a browser does of which nobody has said yet that it may go on.
                Ok(Err(error)) => debug!(%peer, %error, "page: TLS handshake failed"),
                Err(_) => debug!(%peer, "page: TLS handshake timed out"),
            }
        }
    })
    .await;
}

/// Says where the page is, for ever.
pub(crate) async fn http(listener: TcpListener, app: Arc<App>, https_port: u16) {
    accept(listener, move |stream, _| {
        let app = Arc::clone(&app);
        requests(stream, move |request| {
            let app = Arc::clone(&app);
            async move { elsewhere(&request, &app.names().await, https_port) }
        })
    })
    .await;
}

fn elsewhere(request: &Request<Incoming>, names: &[String], https_port: u16) -> Response<Reply> {
    const HTTPS: u16 = 443;
    let Some(host) = host(request.headers(), names).map(without_port) else {
        return reply::text(StatusCode::MISDIRECTED_REQUEST, "ask for the box's address or name");
    };
    let page = match https_port {
        HTTPS => format!("https://{host}/"),
        port => format!("https://{host}:{port}/"),
    };
    reply::to(StatusCode::FOUND, &page)
}

/// Each connection in a task of its own, none for longer than [`CONNECTION_TIME_MAX`]. One too many is
/// closed at once.
async fn accept<F>(listener: TcpListener, handle: impl Fn(TcpStream, IpAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Mutex::new(Places::default()));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "page: accept");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = peer.ip().to_canonical();
        if !lock(&places).take(peer) {
            debug!(%peer, "page: a connection too many");
            continue;
        }
        let place = Place { places: Arc::clone(&places), peer };
        if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIME_MAX)) {
            debug!(%peer, %error, "page: a connection has gone");
            continue;
        }
        let handled = handle(stream, peer);
        tokio::spawn(async move {
            let _place = place;
            if timeout(CONNECTION_TIME_MAX, handled).await.is_err() {
                debug!(%peer, "page: a connection has lived long enough");
            }
        });
    }
}

/// The connections there are, by address.
#[derive(Debug, Default)]
struct Places(HashMap<IpAddr, usize>);

impl Places {
    /// Whether there is room for another of this address.
    fn take(&mut self, peer: IpAddr) -> bool {
        let all: usize = self.0.values().sum();
        let own = self.0.get(&peer).copied().unwrap_or(0);
        let is_free = all < CONNECTIONS_MAX && own < CONNECTIONS_OF_ONE_MAX;
        if is_free {
            self.0.insert(peer, own + 1);
        }
        is_free
    }

    fn leave(&mut self, peer: IpAddr) {
        match self.0.get_mut(&peer) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                self.0.remove(&peer);
            }
        }
    }
}

/// A connection's place; it is free again when this is dropped.
struct Place {
    places: Arc<Mutex<Places>>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places).leave(self.peer);
    }
}

async fn requests<S, F>(stream: S, answer: impl Fn(Request<Incoming>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Reply>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(error = telemetry::chain(&error), "page: a connection broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places() {
        let mut places = Places::default();
        let address = |n: u32| IpAddr::V4(n.into());
        let taken = |places: &mut Places, n, times: usize| {
            (0..times).filter(|_| places.take(address(n))).count()
        };
        assert_eq!(taken(&mut places, 1, 100), CONNECTIONS_OF_ONE_MAX);
        assert_eq!(taken(&mut places, 2, 3), 3);
        assert_eq!((3..100).map(|n| taken(&mut places, n, 100)).sum::<usize>(), 32 - 7 - 3);
        assert!(!places.take(address(2)));
        places.leave(address(1));
        assert!(places.take(address(2)));
        for n in 0..100 {
            (0..9).for_each(|_| places.leave(address(n)));
        }
        assert!(places.0.is_empty());
    }
}
