//! The tokio driver of `wire`: TLS over TCP, framed messages, and session bytes as a stream.
//!
//! Purpose: connect or accept with both sides authenticated ([`connect`], [`Acceptor`]), exchange
//! messages ([`Link`]), and carry one mail session as an ordinary byte stream ([`SessionStream`]).
//! Knows nothing of what the messages mean. Must not depend on any crate of the workspace but
//! `wire`.
//!
//! Many links stand idle at once, on a small box too. So buffers are made when bytes come and given
//! back when none are left: an idle pair of [`SessionStream`]s that are being read from, both ends
//! counted, takes about 18 KiB of memory, nearly all of it rustls' own
//! (`cargo run --release -p link --example idle_memory` measures it).
#![forbid(unsafe_code)]

use std::time::Duration;

pub use connect::{Acceptor, connect};
pub use error::{Fault, LinkError};
pub use link::Link;
pub use session_stream::SessionStream;

mod connect;
mod error;
mod framed;
mod link;
mod session_stream;

/// Silence after which the system asks whether the peer is still there (TCP keepalive).
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Time between such questions; after [`KEEPALIVE_PROBES_MAX`] without answer the link is gone.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Unanswered keepalives that end a link.
pub const KEEPALIVE_PROBES_MAX: u32 = 3;
/// Longest that sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`).
///
/// It is what ends a session whose site has gone silent: its mail program tries again after that, and
/// until then waits for nothing. A line that is away for less than this costs a session nothing but the
/// wait.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);
/// Most encrypted bytes that wait in rustls for the socket; then writers wait.
pub const TLS_BUFFER_BYTES_MAX: usize = 32 * 1024;
/// Bytes of frames waiting for TLS at which writers wait: one frame beyond this may stand there.
pub const OUTPUT_BYTES_MAX: usize = wire::frame::FRAME_BYTES_MAX;
/// Longest that [`SessionStream::finish`] and [`Link::close`] wait for the peer.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
