//! Tickets: an auther's word that a box is admitted, checked offline.
use serde::{Deserialize, Serialize};
use crate::MacAddress;

/// Identifies a device key: SHA-256 of its SubjectPublicKeyInfo (RFC 5280 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyFingerprint(pub [u8; 32]);

/// What the auther says of a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The box.
    pub mac: MacAddress,
    /// Its key; the TLS peer must have this one.
    pub key: KeyFingerprint,
    /// Seconds since 1970.
    pub not_before_s: u64,
    /// Seconds since 1970; [`TICKET_LIFE_S`] after `not_before_s`.
    pub not_after_s: u64,
    /// Sessions it may have at once.
    pub sessions_max: u32,
}

/// Life of a ticket: 24 hours. Renewed from half of it on.
pub const TICKET_LIFE_S: u64 = 24 * 60 * 60;

/// A ticket's bytes (postcard) with the fleet's Ed25519 signature over them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTicket {
    /// The [`Ticket`] in postcard, as signed.
    pub ticket: Vec<u8>,
    /// Ed25519, 64 bytes.
    pub signature: Vec<u8>,
}
impl std::fmt::Debug for SignedTicket { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("SignedTicket") } }
impl std::fmt::Debug for KeyFingerprint { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("KeyFingerprint") } }
