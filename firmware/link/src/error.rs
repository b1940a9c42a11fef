//! What can go wrong on a link, and whose fault it is.

use std::io;
use std::time::Duration;

use wire::frame::{DecodeError, EncodeError};
use wire::identity::IdentityError;

/// A link that failed. `Display` says at which step; the source says why.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer's host refused, or there is no way to it.
    #[error("{}", describe_connect(.source))]
    Connect {
        /// Why.
        source: io::Error,
    },
    /// No answer to the TCP connection.
    #[error("no TCP connection within {timeout:?}")]
    ConnectTimedOut {
        /// As asked for.
        timeout: Duration,
    },
    /// The socket's settings were refused; the peer is probably gone already.
    #[error("cannot set up the socket")]
    Socket {
        /// Why.
        source: io::Error,
    },
    /// TCP was there, TLS was not finished in time.
    #[error("the TLS handshake was not finished within {timeout:?}")]
    HandshakeTimedOut {
        /// As asked for.
        timeout: Duration,
    },
    /// The TLS handshake failed: not TLS at all, a certificate that was not accepted, or a
    /// connection that broke.
    #[error("the TLS handshake failed")]
    Handshake {
        /// Why; holds a [`rustls::Error`] when it was TLS that failed.
        source: io::Error,
    },
    /// TLS, but not our protocol in it.
    #[error("the peer does not speak avr/1 (ALPN)")]
    Alpn,
    /// A certificate passed the handshake and yet cannot be read.
    #[error("the peer's identity is unclear")]
    Identity {
        /// Why.
        source: IdentityError,
    },
    /// TLS failed after the handshake. A server that refuses a client's certificate shows here, in
    /// the client's first [`recv`](crate::Link::recv): TLS 1.3 has the client finish first.
    #[error("TLS failed")]
    Tls {
        /// Why; holds a [`rustls::Error`].
        source: io::Error,
    },
    /// The peer broke the frame format.
    #[error("the peer broke the protocol")]
    Protocol {
        /// How.
        source: DecodeError,
    },
    /// A well-formed message that has no place here.
    #[error("the peer sent {got} where {expected} was expected")]
    Unexpected {
        /// What would have been right.
        expected: &'static str,
        /// Name of the message.
        got: &'static str,
    },
    /// The peer closed the link in order, between two messages.
    #[error("the peer closed the link")]
    Closed,
    /// The connection ended without a word, or within a message.
    #[error("the connection was cut")]
    Cut {
        /// Why, where the system knows.
        source: io::Error,
    },
    /// A message of ours that may not be sent.
    #[error("cannot send this message")]
    Encode {
        /// Why.
        source: EncodeError,
    },
    /// The peer did not take what was sent, or did not close, in time.
    #[error("the peer did not let the link be closed within {timeout:?}")]
    CloseTimedOut {
        /// [`crate::CLOSE_TIMEOUT`].
        timeout: Duration,
    },
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The peer did something wrong, or is not whom we trust.
    Peer,
    /// The way there, or the peer's host, is broken or down.
    Network,
    /// Too slow: either of these two, and nobody knows which.
    TimedOut,
    /// Ours.
    Ours,
    /// Nobody's: an orderly end.
    None,
}

impl LinkError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Connect { .. } | Self::Cut { .. } | Self::Socket { .. } => Fault::Network,
            Self::ConnectTimedOut { .. }
            | Self::HandshakeTimedOut { .. }
            | Self::CloseTimedOut { .. } => Fault::TimedOut,
            Self::Handshake { source } if tls_error(source).is_none() => Fault::Network,
            Self::Handshake { .. }
            | Self::Alpn
            | Self::Identity { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Unexpected { .. } => Fault::Peer,
            Self::Encode { .. } => Fault::Ours,
            Self::Closed => Fault::None,
        }
    }

    /// Whether it was time that ran out.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.fault() == Fault::TimedOut
    }

    /// Whether the link is simply over, in order or not.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed | Self::Cut { .. })
    }

    /// What reading or writing TLS gave, after the handshake.
    pub(crate) fn from_io(source: io::Error) -> Self {
        if tls_error(&source).is_some() { Self::Tls { source } } else { Self::Cut { source } }
    }
}

/// For [`SessionStream`](crate::SessionStream), whose readers know io errors only.
impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        Self::new(io::ErrorKind::ConnectionReset, error)
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn describe_connect(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => "the peer's host refused the TCP connection",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no route to the peer"
        }
        io::ErrorKind::TimedOut => "the peer's host did not answer",
        _ => "cannot open a TCP connection",
    }
}
