//! Tickets: an auther's word that a box is admitted, checked offline.
//!
//! The auther signs with [`TicketSigner`]; managers, proxies and the box itself check with
//! [`TicketVerifier`], which holds only the public key. A ticket names the key of the box, so a
//! stolen one is worth nothing without it. Time is an argument.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};

use crate::identity::SecretPem;
use crate::{DeniedReason, MacAddress, hex};

/// Life of a ticket: 24 hours. Renewed from half of it on.
pub const TICKET_LIFE_S: u64 = 24 * 60 * 60;
/// How far the clocks of auther and verifier may be apart, in seconds: a ticket is good that much
/// before and after its times.
pub const CLOCK_SKEW_S: u64 = 5 * 60;
/// Longest encoded [`Ticket`], in bytes; today's are at most 63.
pub const TICKET_BYTES_MAX: usize = 128;
/// Length of an Ed25519 signature (RFC 8032 section 5.1.6).
pub const SIGNATURE_BYTES: usize = 64;

/// Stands before the ticket in what is signed, so that no other statement signed with the same key
/// can ever be taken for a ticket.
const CONTEXT: &[u8] = b"avr ticket 1\0";
/// SubjectPublicKeyInfo of an Ed25519 key, up to the key itself (RFC 8410 section 4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

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

impl Ticket {
    /// One that is good from `now_s` for [`TICKET_LIFE_S`].
    #[must_use]
    pub fn new(mac: MacAddress, key: KeyFingerprint, now_s: u64, sessions_max: u32) -> Self {
        let not_after_s = now_s.saturating_add(TICKET_LIFE_S);
        Self { mac, key, not_before_s: now_s, not_after_s, sessions_max }
    }

    /// When the box asks for the next one: half its life, in seconds since 1970.
    #[must_use]
    pub fn renew_at_s(&self) -> u64 {
        let life_s = self.not_after_s.saturating_sub(self.not_before_s);
        self.not_before_s.saturating_add(life_s / 2)
    }
}

/// A ticket's bytes (postcard) with the fleet's Ed25519 signature over them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTicket {
    /// The [`Ticket`] in postcard, as signed.
    #[serde(deserialize_with = "crate::bounded::vec")]
    pub ticket: Vec<u8>,
    /// Ed25519 over `"avr ticket 1\0"` and `ticket`, 64 bytes.
    #[serde(deserialize_with = "crate::bounded::vec")]
    pub signature: Vec<u8>,
}

/// Shows the ticket, not the signature: with the key it names, this is what admits a box.
impl fmt::Debug for SignedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SignedTicket");
        match postcard::from_bytes::<Ticket>(&self.ticket) {
            Ok(ticket) => shown.field("unverified", &ticket),
            Err(_) => shown.field("unreadable_bytes", &self.ticket.len()),
        };
        shown.finish_non_exhaustive()
    }
}

/// Identifies a device key: SHA-256 of its SubjectPublicKeyInfo (RFC 5280 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyFingerprint(pub [u8; 32]);

impl KeyFingerprint {
    /// Of a DER-encoded SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_spki(spki_der: &[u8]) -> Self {
        let mut fingerprint = [0; 32];
        // SHA-256 has 32 bytes; `zip` copies them without a way to panic.
        for (to, from) in fingerprint.iter_mut().zip(digest(&SHA256, spki_der).as_ref()) {
            *to = *from;
        }
        Self(fingerprint)
    }
}

impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(f, &self.0)
    }
}

impl fmt::Debug for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key fingerprint; it has 64 hexadecimal digits")]
pub struct ParseFingerprintError;

impl FromStr for KeyFingerprint {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, ParseFingerprintError> {
        hex::decode(text).map(Self).ok_or(ParseFingerprintError)
    }
}

/// Signs tickets: the auther's private key.
pub struct TicketSigner {
    key: KeyPair,
}

impl TicketSigner {
    /// A new key, from the operating system's random source.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn generate() -> Result<Self, TicketKeyError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(TicketKeyError::Generate)?;
        Ok(Self { key })
    }

    /// From a PKCS#8 `PRIVATE KEY` (RFC 8410).
    ///
    /// # Errors
    ///
    /// When it is not PEM, or no Ed25519 key.
    pub fn from_pem(pem: &str) -> Result<Self, TicketKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(TicketKeyError::PrivatePem)?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519)
            .map_err(TicketKeyError::NotEd25519)?;
        Ok(Self { key })
    }

    /// As PKCS#8 in PEM.
    #[must_use]
    pub fn to_pem(&self) -> SecretPem {
        SecretPem::new(self.key.serialize_pem())
    }

    /// What checks this signer's tickets.
    #[must_use]
    pub fn verifier(&self) -> TicketVerifier {
        let mut public_key = [0; ED25519_PUBLIC_KEY_LEN];
        for (to, from) in public_key.iter_mut().zip(self.key.public_key_raw()) {
            *to = *from;
        }
        TicketVerifier { public_key }
    }

    /// Signs.
    ///
    /// # Errors
    ///
    /// When the crypto library fails, which it has no known reason to.
    pub fn sign(&self, ticket: &Ticket) -> Result<SignedTicket, TicketKeyError> {
        let ticket = postcard::to_allocvec(ticket).map_err(TicketKeyError::Encode)?;
        let signature = self.sign_bytes(CONTEXT, &ticket)?;
        Ok(SignedTicket { ticket, signature })
    }

    /// Signs `bytes` as what `context` says they are.
    pub(crate) fn sign_bytes(
        &self,
        context: &[u8],
        bytes: &[u8],
    ) -> Result<Vec<u8>, TicketKeyError> {
        self.key.sign(&[context, bytes].concat()).map_err(TicketKeyError::Sign)
    }
}

impl fmt::Debug for TicketSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketSigner").field("public", &self.verifier()).finish_non_exhaustive()
    }
}

/// Checks tickets: the fleet's public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TicketVerifier {
    public_key: [u8; ED25519_PUBLIC_KEY_LEN],
}

impl TicketVerifier {
    /// From a `PUBLIC KEY` (SubjectPublicKeyInfo, RFC 8410).
    ///
    /// # Errors
    ///
    /// When it is not PEM, or no Ed25519 key.
    pub fn from_pem(pem: &str) -> Result<Self, TicketKeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(TicketKeyError::PublicPem)?;
        let public_key = der
            .strip_prefix(ED25519_SPKI_PREFIX.as_slice())
            .and_then(|key| key.try_into().ok())
            .ok_or(TicketKeyError::PublicNotEd25519)?;
        Ok(Self { public_key })
    }

    /// As SubjectPublicKeyInfo in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut der = ED25519_SPKI_PREFIX.to_vec();
        der.extend_from_slice(&self.public_key);
        let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("PUBLIC KEY", der), unix)
    }

    /// Whether `signed` admits `peer`, the key that the TLS handshake proved, at `now_s` (seconds
    /// since 1970).
    ///
    /// # Errors
    ///
    /// The first that applies, in the order of [`TicketError`]: nothing is said about a ticket's
    /// content before its signature is good.
    pub fn verify(
        &self,
        signed: &SignedTicket,
        now_s: u64,
        peer: &KeyFingerprint,
    ) -> Result<Ticket, TicketError> {
        if signed.signature.len() != SIGNATURE_BYTES || signed.ticket.len() > TICKET_BYTES_MAX {
            return Err(TicketError::Malformed);
        }
        if !self.is_signed(CONTEXT, &signed.ticket, &signed.signature) {
            return Err(TicketError::Forged);
        }
        let (ticket, rest) = postcard::take_from_bytes::<Ticket>(&signed.ticket)
            .map_err(|_| TicketError::Malformed)?;
        if !rest.is_empty() || ticket.not_after_s < ticket.not_before_s {
            return Err(TicketError::Malformed);
        }
        if ticket.key != *peer {
            return Err(TicketError::OtherKey { mac: ticket.mac });
        }
        if now_s.saturating_add(CLOCK_SKEW_S) < ticket.not_before_s {
            let early_s = ticket.not_before_s - now_s;
            return Err(TicketError::NotYetValid { mac: ticket.mac, early_s });
        }
        if now_s > ticket.not_after_s.saturating_add(CLOCK_SKEW_S) {
            let late_s = now_s - ticket.not_after_s;
            return Err(TicketError::Expired { mac: ticket.mac, late_s });
        }
        Ok(ticket)
    }

    /// Whether this fleet signed `bytes` as what `context` says they are.
    pub(crate) fn is_signed(&self, context: &[u8], bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public_key)
            .verify(&[context, bytes].concat(), signature)
            .is_ok()
    }
}

impl fmt::Debug for TicketVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketVerifier(")?;
        hex::write(f, &self.public_key)?;
        f.write_str(")")
    }
}

/// Why a ticket admits nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// No ticket at all.
    #[error("the ticket is malformed")]
    Malformed,
    /// The signature is not this fleet's.
    #[error("the ticket is not signed by this fleet")]
    Forged,
    /// Somebody else's.
    #[error("the ticket of {mac} names another key than the peer's")]
    OtherKey {
        /// Whose it is.
        mac: MacAddress,
    },
    /// From the future, beyond [`CLOCK_SKEW_S`]: one of the clocks is wrong.
    #[error("the ticket of {mac} becomes valid in {early_s} s; is the clock right?")]
    NotYetValid {
        /// Whose it is.
        mac: MacAddress,
        /// By how much.
        early_s: u64,
    },
    /// Over.
    #[error("the ticket of {mac} expired {late_s} s ago")]
    Expired {
        /// Whose it is.
        mac: MacAddress,
        /// By how much.
        late_s: u64,
    },
}

impl TicketError {
    /// What to answer the box.
    #[must_use]
    pub fn denied_reason(&self) -> DeniedReason {
        match self {
            Self::Malformed | Self::Forged => DeniedReason::TicketForged,
            Self::OtherKey { .. } => DeniedReason::TicketOtherKey,
            Self::NotYetValid { .. } | Self::Expired { .. } => DeniedReason::TicketExpired,
        }
    }
}

/// A ticket key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TicketKeyError {
    /// No randomness.
    #[error("cannot make a ticket key")]
    Generate(#[source] rcgen::Error),
    /// Not PEM, or no private key in it.
    #[error("the private ticket key is not a PEM file with a PRIVATE KEY (PKCS#8)")]
    PrivatePem(#[source] rustls::pki_types::pem::Error),
    /// Another kind of key.
    #[error("the private ticket key is not an Ed25519 key")]
    NotEd25519(#[source] rcgen::Error),
    /// Not PEM, or no public key in it.
    #[error("the public ticket key is not a PEM file with a PUBLIC KEY")]
    PublicPem(#[source] rustls::pki_types::pem::Error),
    /// Another kind of key.
    #[error("the public ticket key is not an Ed25519 key")]
    PublicNotEd25519,
    /// postcard failed.
    #[error("cannot encode a ticket")]
    Encode(#[source] postcard::Error),
    /// aws-lc failed.
    #[error("cannot sign a ticket")]
    Sign(#[source] rcgen::Error),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;
    const PEER: KeyFingerprint = KeyFingerprint([7; 32]);
    /// RFC 8032 section 7.1, test 1.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";

    fn signer() -> TicketSigner {
        TicketSigner::generate().unwrap()
    }

    fn ticket() -> Ticket {
        Ticket::new(MacAddress([2, 0, 0, 0, 0, 1]), PEER, NOW_S, 1000)
    }

    #[test]
    fn a_ticket_is_good_for_its_life_and_the_skew_on_both_sides() {
        let signer = signer();
        let signed = signer.sign(&ticket()).unwrap();
        let verify = |now_s| signer.verifier().verify(&signed, now_s, &PEER);
        let end_s = NOW_S + TICKET_LIFE_S;
        for now_s in [NOW_S - CLOCK_SKEW_S, NOW_S, end_s, end_s + CLOCK_SKEW_S] {
            assert_eq!(verify(now_s), Ok(ticket()), "{now_s}");
        }
        let mac = ticket().mac;
        let early_s = CLOCK_SKEW_S + 1;
        assert_eq!(verify(NOW_S - early_s), Err(TicketError::NotYetValid { mac, early_s }));
        assert_eq!(verify(end_s + early_s), Err(TicketError::Expired { mac, late_s: early_s }));
        assert_eq!(verify(u64::MAX).unwrap_err().denied_reason(), DeniedReason::TicketExpired);
        assert_eq!(ticket().renew_at_s(), NOW_S + TICKET_LIFE_S / 2);
    }

    #[test]
    fn another_peers_key_is_told_apart_from_a_forgery() {
        let signer = signer();
        let mut signed = signer.sign(&ticket()).unwrap();
        let verifier = signer.verifier();
        let other = verifier.verify(&signed, NOW_S, &KeyFingerprint([8; 32])).unwrap_err();
        assert_eq!(other, TicketError::OtherKey { mac: ticket().mac });
        assert_eq!(other.denied_reason(), DeniedReason::TicketOtherKey);
        signed.ticket[0] ^= 1;
        let forged = verifier.verify(&signed, NOW_S, &PEER);
        assert_eq!(forged, Err(TicketError::Forged));
    }

    #[test]
    fn another_fleets_signature_is_forged() {
        let signed = signer().sign(&ticket()).unwrap();
        let verified = signer().verifier().verify(&signed, NOW_S, &PEER);
        assert_eq!(verified, Err(TicketError::Forged));
    }

    #[test]
    fn what_is_no_ticket_is_malformed_even_when_it_is_signed() {
        let signer = signer();
        let sign = |bytes: Vec<u8>| SignedTicket {
            signature: signer.sign_bytes(CONTEXT, &bytes).unwrap(),
            ticket: bytes,
        };
        let verify = |signed: &SignedTicket| signer.verifier().verify(signed, NOW_S, &PEER);
        let good = signer.sign(&ticket()).unwrap();

        let mut short = good.clone();
        short.signature.pop();
        assert_eq!(verify(&short), Err(TicketError::Malformed));
        assert_eq!(verify(&sign(Vec::new())), Err(TicketError::Malformed));
        let long = sign(vec![0; TICKET_BYTES_MAX + 1]);
        assert_eq!(verify(&long), Err(TicketError::Malformed));
        let mut trailing = good.ticket.clone();
        trailing.push(0);
        assert_eq!(verify(&sign(trailing)), Err(TicketError::Malformed));
        let backwards = Ticket { not_after_s: NOW_S - 1, ..ticket() };
        assert_eq!(verify(&signer.sign(&backwards).unwrap()), Err(TicketError::Malformed));
    }

    #[test]
    fn a_signature_without_the_context_is_no_ticket() {
        let signer = signer();
        let bytes = postcard::to_allocvec(&ticket()).unwrap();
        let signed = SignedTicket { signature: signer.key.sign(&bytes).unwrap(), ticket: bytes };
        assert_eq!(signer.verifier().verify(&signed, NOW_S, &PEER), Err(TicketError::Forged));
    }

    #[test]
    fn keys_go_through_pem() {
        let signer = signer();
        let private = signer.to_pem();
        assert!(private.expose().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let again = TicketSigner::from_pem(private.expose()).unwrap();
        let public = signer.verifier().to_pem();
        assert_eq!(public, signer.key.public_key_pem());
        let verifier = TicketVerifier::from_pem(&public).unwrap();
        let signed = again.sign(&ticket()).unwrap();
        assert_eq!(verifier.verify(&signed, NOW_S, &PEER), Ok(ticket()));
    }

    #[test]
    fn files_mixed_up_are_named() {
        let signer = signer();
        let public = signer.verifier().to_pem();
        let private = signer.to_pem();
        assert!(matches!(TicketSigner::from_pem(&public), Err(TicketKeyError::PrivatePem(_))));
        let swapped = TicketVerifier::from_pem(private.expose());
        assert!(matches!(swapped, Err(TicketKeyError::PublicPem(_))));
        let p256 = KeyPair::generate().unwrap();
        let other = TicketSigner::from_pem(&p256.serialize_pem());
        assert!(matches!(other, Err(TicketKeyError::NotEd25519(_))));
        let other = TicketVerifier::from_pem(&p256.public_key_pem());
        assert!(matches!(other, Err(TicketKeyError::PublicNotEd25519)));
    }

    proptest! {
        #[test]
        fn no_bytes_but_the_signed_ones_admit(
            ticket in proptest::collection::vec(any::<u8>(), 0..=TICKET_BYTES_MAX + 1),
            signature in proptest::collection::vec(any::<u8>(), 0..=SIGNATURE_BYTES + 1),
            flipped in any::<prop::sample::Index>(),
        ) {
            let signer = TicketSigner::from_pem(KEY).unwrap();
            let verify = |signed: &SignedTicket| signer.verifier().verify(signed, NOW_S, &PEER);
            let made_up = SignedTicket { ticket, signature };
            let error = verify(&made_up).unwrap_err();
            prop_assert!(matches!(error, TicketError::Forged | TicketError::Malformed));
            let _ = format!("{made_up:?}");

            let mut tampered = signer.sign(&self::ticket()).unwrap();
            let bits = 8 * (tampered.ticket.len() + tampered.signature.len());
            let bit = flipped.index(bits);
            let bytes = tampered.ticket.iter_mut().chain(&mut tampered.signature);
            for byte in bytes.skip(bit / 8).take(1) {
                *byte ^= 1 << (bit % 8);
            }
            prop_assert_eq!(verify(&tampered), Err(TicketError::Forged));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let signer = signer();
        let signed = signer.sign(&ticket()).unwrap();
        assert!(format!("{signed:?}").contains("02:00:00:00:00:01"));
        assert!(!format!("{signed:?}").contains("signature"));
        let secret: String = signer.to_pem().expose().lines().skip(1).take(1).collect();
        assert!(!format!("{signer:?}{:?}", signer.to_pem()).contains(&secret));
    }

    #[test]
    fn a_fingerprint_goes_through_text() {
        let text = PEER.to_string();
        assert_eq!(text, "07".repeat(32));
        assert_eq!(text.parse(), Ok(PEER));
        assert_eq!(text[1..].parse::<KeyFingerprint>(), Err(ParseFingerprintError));
    }
}
