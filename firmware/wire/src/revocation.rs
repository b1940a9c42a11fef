//! Revocations: an auther's word that tickets it gave are void before their time.
//!
//! A ticket lives for a day and is checked offline, so a box that is suspended, or whose key was
//! replaced, would be served for up to a day more. Whoever checks tickets therefore asks an auther
//! now and then for the list of those that are void: signed with the ticket key in parts of at most
//! [`REVOCATIONS_PART_MAX`], so that a list can be kept and handed on. Nobody has to have one: without
//! it a suspension takes effect with the end of the ticket.
//!
//! The auther makes parts with [`RevocationPart::split`] and signs them with
//! [`TicketSigner::sign_revocations`]; the other side checks each with
//! [`TicketVerifier::verify_revocations`] and puts them together with [`Revocations::join`]. Time is
//! an argument.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ticket::{
    CLOCK_SKEW_S, KeyFingerprint, SIGNATURE_BYTES, TICKET_LIFE_S, Ticket, TicketKeyError,
    TicketSigner, TicketVerifier,
};
use crate::{DeniedReason, MacAddress};

/// Most revocations in one part.
pub const REVOCATIONS_PART_MAX: usize = 256;
/// Most parts of a list; together some 32,000 revocations. Each is there for a day only.
pub const REVOCATIONS_PARTS_MAX: u16 = 128;
/// Longest encoded [`RevocationPart`], in bytes; a full one has at most 12,572.
pub const REVOCATION_PART_BYTES_MAX: usize = 14 * 1024;
/// How long a revocation stays in the list, in seconds: by then every ticket that it voids has run
/// out by itself, by any clock.
pub const REVOCATION_LIFE_S: u64 = TICKET_LIFE_S + 3 * CLOCK_SKEW_S;

/// Keeps these signatures apart from those of tickets.
const CONTEXT: &[u8] = b"avr revocations 1\0";

/// Why tickets are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RevokedReason {
    /// The operator suspended the box.
    Suspended,
    /// The box has another key now.
    KeyReplaced,
    /// The operator removed the box.
    Removed,
}

impl RevokedReason {
    /// What to answer the box: the same as its auther would.
    #[must_use]
    pub fn denied_reason(self) -> DeniedReason {
        match self {
            Self::Suspended => DeniedReason::Suspended,
            Self::KeyReplaced => DeniedReason::OtherKey,
            Self::Removed => DeniedReason::Unknown,
        }
    }
}

impl fmt::Display for RevokedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Suspended => "the box is suspended",
            Self::KeyReplaced => "the key of the box was replaced",
            Self::Removed => "the box was removed",
        })
    }
}

/// Voids the tickets of one box with one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The box.
    pub mac: MacAddress,
    /// The key; tickets of the same box with another one are good.
    pub key: KeyFingerprint,
    /// Tickets that begin before this are void, in seconds since 1970.
    pub not_before_s: u64,
    /// Why.
    pub reason: RevokedReason,
}

impl Revocation {
    /// Voids what was given out until `now_s` (seconds since 1970), also by an auther whose clock is
    /// [`CLOCK_SKEW_S`] ahead.
    #[must_use]
    pub fn new(mac: MacAddress, key: KeyFingerprint, now_s: u64, reason: RevokedReason) -> Self {
        Self { mac, key, not_before_s: now_s.saturating_add(CLOCK_SKEW_S + 1), reason }
    }

    /// Whether `ticket` is void.
    #[must_use]
    pub fn voids(&self, ticket: &Ticket) -> bool {
        self.mac == ticket.mac && self.key == ticket.key && ticket.not_before_s < self.not_before_s
    }
}

/// A part of the list, as it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationPart {
    /// Grows with every change of the list.
    pub number: u64,
    /// When the list was read from the registry, in seconds since 1970.
    pub made_s: u64,
    /// Which part this is, from 0.
    pub part: u16,
    /// How many there are. 0, in a part without revocations, says: nothing has changed since the
    /// number that was asked about.
    pub parts: u16,
    /// At most [`REVOCATIONS_PART_MAX`].
    #[serde(deserialize_with = "crate::bounded::vec")]
    pub revocations: Vec<Revocation>,
}

impl RevocationPart {
    /// The list of `revocations` in parts, at least one. `None` when there are more than fit
    /// [`REVOCATIONS_PARTS_MAX`] parts.
    #[must_use]
    pub fn split(number: u64, made_s: u64, revocations: &[Revocation]) -> Option<Vec<Self>> {
        let parts = revocations.len().div_ceil(REVOCATIONS_PART_MAX).max(1);
        let parts = u16::try_from(parts).ok().filter(|parts| *parts <= REVOCATIONS_PARTS_MAX)?;
        let mut chunks = revocations.chunks(REVOCATIONS_PART_MAX);
        let part = |part| {
            let revocations = chunks.next().unwrap_or_default().to_vec();
            Self { number, made_s, part, parts, revocations }
        };
        Some((0..parts).map(part).collect())
    }

    /// The answer to somebody who has the list of this number already.
    #[must_use]
    pub fn unchanged(number: u64, made_s: u64) -> Self {
        Self { number, made_s, part: 0, parts: 0, revocations: Vec::new() }
    }

    /// Whether this is [`RevocationPart::unchanged`].
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.parts == 0
    }

    /// A list's parts are counted right, and none is too full.
    fn is_well_formed(&self) -> bool {
        let counted = match self.parts {
            0 => self.part == 0 && self.revocations.is_empty(),
            parts => parts <= REVOCATIONS_PARTS_MAX && self.part < parts,
        };
        counted && self.revocations.len() <= REVOCATIONS_PART_MAX
    }
}

/// A part's bytes (postcard) with the fleet's Ed25519 signature over them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRevocations {
    /// The [`RevocationPart`] in postcard, as signed; at most [`REVOCATION_PART_BYTES_MAX`].
    #[serde(deserialize_with = "crate::bounded::vec")]
    pub part: Vec<u8>,
    /// Ed25519 over `"avr revocations 1\0"` and `part`, 64 bytes.
    #[serde(deserialize_with = "crate::bounded::vec")]
    pub signature: Vec<u8>,
}

impl fmt::Debug for SignedRevocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedRevocations")
            .field("part_bytes", &self.part.len())
            .finish_non_exhaustive()
    }
}

impl TicketSigner {
    /// Signs a part of the list.
    ///
    /// # Errors
    ///
    /// When the crypto library fails, which it has no known reason to.
    pub fn sign_revocations(
        &self,
        part: &RevocationPart,
    ) -> Result<SignedRevocations, TicketKeyError> {
        let part = postcard::to_allocvec(part).map_err(TicketKeyError::Encode)?;
        let signature = self.sign_bytes(CONTEXT, &part)?;
        Ok(SignedRevocations { part, signature })
    }
}

impl TicketVerifier {
    /// A part of the list, if it is this fleet's, at `now_s` (seconds since 1970).
    ///
    /// How old a list may be is for the caller to say: one that was just asked for is from now, one
    /// from a disk may be of yesterday.
    ///
    /// # Errors
    ///
    /// The first that applies, in the order of [`RevocationError`].
    pub fn verify_revocations(
        &self,
        signed: &SignedRevocations,
        now_s: u64,
    ) -> Result<RevocationPart, RevocationError> {
        if signed.signature.len() != SIGNATURE_BYTES
            || signed.part.len() > REVOCATION_PART_BYTES_MAX
        {
            return Err(RevocationError::Malformed);
        }
        if !self.is_signed(CONTEXT, &signed.part, &signed.signature) {
            return Err(RevocationError::Forged);
        }
        let (part, rest) = postcard::take_from_bytes::<RevocationPart>(&signed.part)
            .map_err(|_| RevocationError::Malformed)?;
        if !rest.is_empty() || !part.is_well_formed() {
            return Err(RevocationError::Malformed);
        }
        if now_s.saturating_add(CLOCK_SKEW_S) < part.made_s {
            return Err(RevocationError::FromTheFuture { early_s: part.made_s - now_s });
        }
        Ok(part)
    }
}

/// Why a part of a list is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// No part of a list at all.
    #[error("the list of revocations is malformed")]
    Malformed,
    /// The signature is not this fleet's.
    #[error("the list of revocations is not signed by this fleet")]
    Forged,
    /// Beyond [`CLOCK_SKEW_S`]: one of the clocks is wrong.
    #[error("the list of revocations was made {early_s} s from now; is the clock right?")]
    FromTheFuture {
        /// By how much.
        early_s: u64,
    },
    /// Parts of several lists, or not all of one.
    #[error("the list of revocations is not complete, or mixed up")]
    Incomplete,
}

/// A whole list, to check tickets against.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    number: u64,
    made_s: u64,
    entries: HashMap<(MacAddress, KeyFingerprint), Revocation>,
}

impl Revocations {
    /// No revocation is known; the number is 0, which no list has.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The list of which `parts` are all parts, in order.
    ///
    /// # Errors
    ///
    /// [`RevocationError::Incomplete`] when they are not.
    pub fn join(parts: Vec<RevocationPart>) -> Result<Self, RevocationError> {
        let first = parts.first().ok_or(RevocationError::Incomplete)?;
        let (number, made_s, count) = (first.number, first.made_s, first.parts);
        if usize::from(count) != parts.len() {
            return Err(RevocationError::Incomplete);
        }
        let mut entries = HashMap::new();
        for (expected, part) in (0..count).zip(parts) {
            if (part.number, part.made_s, part.part, part.parts)
                != (number, made_s, expected, count)
            {
                return Err(RevocationError::Incomplete);
            }
            let keyed = |entry: Revocation| ((entry.mac, entry.key), entry);
            entries.extend(part.revocations.into_iter().map(keyed));
        }
        Ok(Self { number, made_s, entries })
    }

    /// Grows with every change; give it back when asking for the next list.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When the list was known to be true, in seconds since 1970.
    #[must_use]
    pub fn made_s(&self) -> u64 {
        self.made_s
    }

    /// An auther said that nothing has changed until `made_s`.
    pub fn confirm(&mut self, made_s: u64) {
        self.made_s = self.made_s.max(made_s);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Why `ticket` is void, if it is. It must have been verified before.
    #[must_use]
    pub fn revoked(&self, ticket: &Ticket) -> Option<RevokedReason> {
        let entry = self.entries.get(&(ticket.mac, ticket.key))?;
        entry.voids(ticket).then_some(entry.reason)
    }
}

#[cfg(test)]
mod tests;
