//! What [`crate::Relay::open`] gives: the connection, the way it takes, or why there is none.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use link::SessionStream;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use wire::{Bye, DeniedReason, LeaseId};

/// A connection to a mail server.
#[derive(Debug)]
pub struct Upstream {
    /// Its bytes.
    pub stream: UpstreamStream,
    /// How they get there. Give it to [`crate::Relay::bye`] at the end of the session.
    pub way: Way,
}

/// Which way a session takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Through a site.
    Relay {
        /// Who named the proxy.
        manager: SocketAddr,
        /// Who carries the session.
        proxy: SocketAddr,
        /// What the manager counts it by.
        lease: LeaseId,
    },
    /// Straight to the mail server.
    Direct {
        /// Why not through a site.
        reason: DirectReason,
    },
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay { proxy, .. } => write!(f, "through proxy {proxy}"),
            Self::Direct { reason } => write!(f, "direct ({reason})"),
        }
    }
}

/// Why a session goes straight to the mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectReason {
    /// The settings say so, or the caller asked for it.
    Chosen,
    /// This box has no ticket: no auther has answered yet.
    NoTicket,
    /// This box is not admitted.
    Denied(#[serde(serialize_with = "as_debug")] DeniedReason),
    /// DNS has never named a manager.
    NoManagers,
    /// All managers are dead.
    ManagersDead,
    /// Managers live, but none has a proxy for this box now.
    NoProxy,
    /// No proxy had taken the session when its time for that was over.
    BudgetSpent,
    /// The proxy may not connect to this mail server.
    Policy,
    /// The site has no IPv6 route to this mail server; the office may have one.
    NoRoute,
    /// The proxy says that the session goes round in a loop.
    Loop,
}

impl fmt::Display for DirectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => f.write_str("chosen"),
            Self::NoTicket => f.write_str("no ticket yet"),
            Self::Denied(reason) => write!(f, "not admitted: {reason}"),
            Self::NoManagers => f.write_str("no manager known"),
            Self::ManagersDead => f.write_str("no manager answers"),
            Self::NoProxy => f.write_str("no proxy free"),
            Self::BudgetSpent => f.write_str("no proxy in time"),
            Self::Policy => f.write_str("the site may not connect there"),
            Self::NoRoute => f.write_str("the site has no IPv6 route there"),
            Self::Loop => f.write_str("relay loop"),
        }
    }
}

fn as_debug<T: fmt::Debug, S: serde::Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{value:?}"))
}

/// Why there is no connection to the mail server. To be shown to the client as it is: refused looks
/// refused, unreachable looks unreachable.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The mail server refused the connection.
    #[error("the mail server refused the connection ({0})")]
    Refused(Way),
    /// There is no route to the mail server.
    #[error("the mail server cannot be reached ({0})")]
    Unreachable(Way),
    /// The mail server did not answer in time.
    #[error("the mail server did not answer in time ({0})")]
    TimedOut(Way),
    /// This box could not even try: out of sockets, or a setting that does not fit.
    #[error("connect to the mail server from this box")]
    Local(#[source] io::Error),
}

/// The bytes to and from a mail server. Dropping it before both directions have ended resets the
/// connection, so that a broken session never looks complete.
#[derive(Debug)]
pub enum UpstreamStream {
    /// Through a proxy. Boxed: the frames' buffers are much larger than a socket.
    Relay(Box<SessionStream>),
    /// Straight.
    Direct(DirectStream),
}

impl UpstreamStream {
    /// Ends the session in order: tells the proxy what was carried. Nothing to say on a direct one.
    ///
    /// # Errors
    ///
    /// If the proxy is gone.
    pub async fn finish(self, bye: Bye) -> io::Result<()> {
        match self {
            Self::Relay(stream) => stream.finish(bye).await.map_err(io::Error::other),
            Self::Direct(_) => Ok(()),
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Relay(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Direct(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Relay(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Direct(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Relay(stream) => Pin::new(stream).poll_flush(context),
            Self::Direct(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Relay(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Direct(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// A TCP connection that is reset when it is dropped before its writing side was shut down.
#[derive(Debug)]
pub struct DirectStream {
    stream: TcpStream,
    ended: bool,
}

impl DirectStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, ended: false }
    }

    /// Address of the mail server.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl Drop for DirectStream {
    fn drop(&mut self) {
        if !self.ended {
            // Fails only on a socket that is gone already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for DirectStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for DirectStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        this.ended = true;
        Poll::Ready(Ok(()))
    }
}
