//! Straight to the mail server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::limits::Timing;
use crate::settings::Settings;
use crate::way::{DirectReason, DirectStream, OpenError, Upstream, UpstreamStream, Way};

/// Connects from this box as its settings say.
pub(crate) async fn open(
    settings: &Settings,
    destination: SocketAddr,
    reason: DirectReason,
) -> Result<Upstream, OpenError> {
    let socket = socket(settings, destination).map_err(OpenError::Local)?;
    connect(socket, destination, settings.timing.direct_connect_max, reason).await
}

/// Connects straight to a mail server without a relay client, for a box that has no sites.
///
/// # Errors
///
/// As [`crate::Relay::open`].
pub async fn connect_directly(destination: SocketAddr) -> Result<Upstream, OpenError> {
    let socket = plain_socket(destination).map_err(OpenError::Local)?;
    connect(socket, destination, Timing::default().direct_connect_max, DirectReason::Chosen).await
}

async fn connect(
    socket: TcpSocket,
    destination: SocketAddr,
    connect_max: Duration,
    reason: DirectReason,
) -> Result<Upstream, OpenError> {
    let way = Way::Direct { reason };
    match timeout(connect_max, socket.connect(destination)).await {
        Ok(Ok(stream)) => {
            // Without it, small commands wait; failing to set it is no reason to fail.
            let _ = stream.set_nodelay(true);
            Ok(Upstream { stream: UpstreamStream::Direct(DirectStream::new(stream)), way })
        }
        Ok(Err(error)) => Err(classify(error, way)),
        Err(_) => Err(OpenError::TimedOut(way)),
    }
}

fn socket(settings: &Settings, destination: SocketAddr) -> io::Result<TcpSocket> {
    let socket = plain_socket(destination)?;
    if let Some(mark) = settings.direct_mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == destination.is_ipv4();
    if let Some(source) = settings.direct_sources.iter().find(same_family) {
        socket.bind(SocketAddr::new(*source, 0))?;
    }
    Ok(socket)
}

fn plain_socket(destination: SocketAddr) -> io::Result<TcpSocket> {
    if destination.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// What connect(2) said, as the client is to see it.
fn classify(error: io::Error, way: Way) -> OpenError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
            OpenError::Refused(way)
        }
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkDown => OpenError::Unreachable(way),
        io::ErrorKind::TimedOut => OpenError::TimedOut(way),
        _ => OpenError::Local(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tests_support::fleet::Fleet;

    #[tokio::test]
    async fn a_direct_stream_carries_bytes_and_ends_in_order() {
        let settings = Fleet::new().settings();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let destination = listener.local_addr().unwrap();
        let Upstream { mut stream, way } =
            open(&settings, destination, DirectReason::Chosen).await.unwrap();
        assert_eq!(way, Way::Direct { reason: DirectReason::Chosen });
        let (mut server, _) = listener.accept().await.unwrap();
        stream.write_all(b"QUIT\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"QUIT\r\n");
        drop(stream);
    }

    #[tokio::test]
    async fn without_a_fleet_it_just_connects() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = connect_directly(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(upstream.way, Way::Direct { reason: DirectReason::Chosen });
    }

    #[tokio::test]
    async fn dropping_a_direct_stream_resets_it() {
        let settings = Fleet::new().settings();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let destination = listener.local_addr().unwrap();
        let upstream = open(&settings, destination, DirectReason::Chosen).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        drop(upstream);
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn refused_looks_refused_and_the_source_is_as_set() {
        let mut settings = Fleet::new().settings();
        settings.direct_sources = vec!["::1".parse().unwrap(), "127.0.0.7".parse().unwrap()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let destination = listener.local_addr().unwrap();
        let upstream = open(&settings, destination, DirectReason::Chosen).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip(), settings.direct_sources[1]);
        drop((upstream, listener));
        let error = open(&settings, destination, DirectReason::NoTicket).await.unwrap_err();
        assert!(matches!(error, OpenError::Refused(Way::Direct { .. })), "{error}");
        settings.direct_sources = vec!["192.0.2.1".parse().unwrap()];
        let error = open(&settings, destination, DirectReason::NoTicket).await.unwrap_err();
        assert!(matches!(error, OpenError::Local(_)), "{error}");
    }

    #[test]
    fn what_connect_says_is_what_the_client_sees() {
        let way = Way::Direct { reason: DirectReason::Chosen };
        let seen = |kind: io::ErrorKind| classify(kind.into(), way);
        assert!(matches!(seen(io::ErrorKind::HostUnreachable), OpenError::Unreachable(_)));
        assert!(matches!(seen(io::ErrorKind::NetworkUnreachable), OpenError::Unreachable(_)));
        assert!(matches!(seen(io::ErrorKind::TimedOut), OpenError::TimedOut(_)));
        assert!(matches!(seen(io::ErrorKind::PermissionDenied), OpenError::Local(_)));
    }
}
