//! Legs over kernel sockets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Silence on a kernel connection before it is probed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Between probes of a silent connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A kernel TCP connection that is reset when dropped without a shutdown.
#[derive(Debug)]
pub struct TcpLeg(TcpStream);

impl TcpLeg {
    /// Takes over a connection: no delay, keep-alive, reset on drop.
    ///
    /// # Errors
    ///
    /// When the socket refuses an option, which means that it is closed already.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_keepalive(
            &socket2::TcpKeepalive::new()
                .with_time(KEEPALIVE_IDLE)
                .with_interval(KEEPALIVE_INTERVAL),
        )?;
        Ok(Self(stream))
    }
}

impl AsyncRead for TcpLeg {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpLeg {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_shutdown(cx))?;
        // Closed in order from our side: the bytes in flight must not be cut off by a reset.
        Poll::Ready(socket2::SockRef::from(&self.0).set_linger(None))
    }
}
