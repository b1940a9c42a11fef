//! Messages, framing, tickets and identities between box and site.
//!
//! TLS 1.3 over TCP, ALPN [`ALPN`], both sides authenticated. Each frame is a fixed header (version,
//! kind, length) and a body of at most [`BODY_BYTES_MAX`]; unknown kinds can be skipped. The crate
//! does no IO and reads no clock: [`frame::Decoder`] takes bytes, tickets take the time, and
//! [`identity`] only builds rustls configurations. `link` is the driver. Must not depend on any
//! other crate of the workspace. Entry: [`Message`], [`frame`], [`ticket`],
//! [`revocation`], [`identity`].
#![forbid(unsafe_code)]

mod bounded;
pub mod frame;
#[cfg(test)]
mod golden_v1;
mod hex;
pub mod identity;
mod message;
pub mod revocation;
pub mod ticket;

pub use message::*;

/// The protocol's name in TLS (RFC 7301).
pub const ALPN: &[u8] = b"avr/1";
/// Version in each frame header.
pub const VERSION: u8 = 1;
/// Largest body of a frame.
pub const BODY_BYTES_MAX: usize = 32 * 1024;
/// Most session bytes in one `Data` frame.
pub const DATA_BYTES_MAX: usize = 16 * 1024;
/// Most proxies that an `Assign` excludes.
pub const EXCLUDED_MAX: usize = 16;
/// Most alternates in a `Use`.
pub const ALTERNATES_MAX: usize = 8;
/// Longest `Hello.software`, in bytes of printable ASCII.
pub const SOFTWARE_BYTES_MAX: usize = 64;
/// Most proxies a session may cross.
pub const HOPS_MAX: u8 = 1;
/// Default TCP port of the auther.
pub const AUTHER_PORT: u16 = 4650;
/// Default TCP port of a manager.
pub const MANAGER_PORT: u16 = 4651;
/// Default TCP port of a proxy.
pub const PROXY_PORT: u16 = 4652;
