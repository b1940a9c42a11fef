//! One connection, as messages.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;

use tokio::time::timeout;
use wire::Message;
use wire::identity::Peer;

use crate::framed::Framed;
use crate::{CLOSE_TIMEOUT, LinkError, SessionStream};

/// An authenticated connection that carries messages.
///
/// Dropping it cuts the connection; [`Link::close`] ends it in order. Neither [`Link::send`] nor
/// [`Link::recv`] has a time limit of its own: wrap them in `tokio::time::timeout`.
pub struct Link {
    framed: Framed,
    peer: Peer,
    address: SocketAddr,
}

impl Link {
    pub(crate) fn new(framed: Framed, peer: Peer, address: SocketAddr) -> Self {
        Self { framed, peer, address }
    }

    /// Who is at the other end, as proved in the handshake.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Where it is.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a message and waits until the system has it.
    ///
    /// Dropping the future never breaks the framing: what was not sent goes with the next `send` or
    /// `recv`.
    ///
    /// # Errors
    ///
    /// When the message breaks a limit (the link stays usable), or the link is gone.
    pub async fn send(&mut self, message: &Message) -> Result<(), LinkError> {
        poll_fn(|cx| self.framed.poll_room(cx)).await?;
        self.framed.queue(message)?;
        poll_fn(|cx| self.framed.poll_flush(cx)).await
    }

    /// The next message. `Ping` is answered here and not returned.
    ///
    /// Cancel-safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`LinkError::Closed`] at an orderly end; otherwise see [`LinkError`]. After an error the
    /// link is of no more use.
    pub async fn recv(&mut self) -> Result<Message, LinkError> {
        poll_fn(|cx| self.framed.poll_message(cx)).await
    }

    /// Ends the link in order: the peer's `recv` gives [`LinkError::Closed`].
    ///
    /// # Errors
    ///
    /// When the peer is gone, or does not take what was sent within [`CLOSE_TIMEOUT`].
    pub async fn close(mut self) -> Result<(), LinkError> {
        timeout(CLOSE_TIMEOUT, poll_fn(|cx| self.framed.poll_shutdown(cx)))
            .await
            .map_err(|_| LinkError::CloseTimedOut { timeout: CLOSE_TIMEOUT })?
    }

    #[cfg(test)]
    pub(crate) fn output_bytes(&self) -> usize {
        self.framed.output_bytes()
    }

    /// From now on this link carries one mail session: after `Opened` was sent or received.
    #[must_use]
    pub fn into_session(self) -> SessionStream {
        SessionStream::new(self.framed)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.peer)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
