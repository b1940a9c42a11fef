//! Who is who: the fleet CA, the servers it signs, the keys of the boxes, and the TLS
//! configurations made of them.
//!
//! Two kinds of peers. A **server** of a site has a certificate of the [`FleetCa`] that names its
//! roles (`manager.avr.internal`) and itself (`tokyo-1.node.avr.internal`). A **box** has only a
//! key, [`DeviceKey`], shown in a certificate it signed itself: the handshake proves the key, and
//! the auther's registry or a ticket says what the key may do.
//!
//! Certificates are good from 1970 to [`CERTIFICATE_END_YEAR`]. rustls checks them by the host's
//! clock, and a box without a battery boots in 1970, before any time server answers: it must reach
//! its site all the same. There are no revocation lists yet, so a server whose key was stolen is
//! put out by making a new CA.
//!
//! Everything is PEM text; reading files is the caller's. Entry: [`FleetCa`], [`DeviceKey`],
//! [`server_config`], [`device_client_config`], [`server_client_config`], [`peer`].

use std::fmt;
use std::str::FromStr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

pub use tls::{
    FleetRoots, Peer, device_client_config, peer, server_client_config, server_config, server_in,
    server_peer,
};

use crate::ticket::KeyFingerprint;

mod tls;

/// Last year of every certificate made here.
pub const CERTIFICATE_END_YEAR: i32 = 2099;
/// Longest name of a server, in bytes (a label of DNS, RFC 1035 section 2.3.4).
pub const SERVER_NAME_BYTES_MAX: usize = 63;

/// The domain of all names in fleet certificates (RFC 9476 keeps `.internal` free for such use);
/// the CA is constrained to it.
const DOMAIN: &str = "avr.internal";
/// Stands between a server's own name and [`DOMAIN`].
const NODE_SUFFIX: &str = ".node.avr.internal";

/// What a server of a site does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Admits boxes.
    Auther,
    /// Names proxies.
    Manager,
    /// Carries sessions.
    Proxy,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Auther, Self::Manager, Self::Proxy];

    /// As in arguments and logs: `manager`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auther => "auther",
            Self::Manager => "manager",
            Self::Proxy => "proxy",
        }
    }

    /// The name a client demands in the server's certificate: `manager.avr.internal`.
    #[must_use]
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::Auther => "auther.avr.internal",
            Self::Manager => "manager.avr.internal",
            Self::Proxy => "proxy.avr.internal",
        }
    }

    /// [`Role::dns_name`] for rustls.
    #[must_use]
    pub fn server_name(self) -> ServerName<'static> {
        match ServerName::try_from(self.dns_name()) {
            Ok(name) => name,
            Err(_) => unreachable!("the names above are valid DNS names"),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(ParseRoleError)
    }
}

/// A text that is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a role; write auther, manager or proxy")]
pub struct ParseRoleError;

/// A private key in PEM. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct SecretPem(String);

impl SecretPem {
    pub(crate) fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The key itself, to be written into a file that only its owner can read.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(..)")
    }
}

/// The certificate authority of a fleet, with its private key. Kept offline.
pub struct FleetCa {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl FleetCa {
    /// A new one: ECDSA P-256, self-signed, good for names under `avr.internal` only.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn create() -> Result<Self, IdentityError> {
        let key = generate_key()?;
        let fingerprint = fingerprint_of(&key).to_string();
        let mut params = lasting_params();
        // The key in the name keeps two fleets apart, in logs and where issuers are compared.
        let name = format!("AVR fleet CA {}", fingerprint.get(..16).unwrap_or_default());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(DOMAIN.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let certificate = params.self_signed(&key).map_err(IdentityError::Certificate)?;
        Ok(Self { certificate: certificate.der().clone(), key })
    }

    /// From `fleet-ca.pem` and `fleet-ca.key` (PKCS#8).
    ///
    /// # Errors
    ///
    /// When either is not what it should be, or they do not belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let what = "the fleet CA's certificate";
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|source| IdentityError::Pem { what, source })?;
        let key = read_key(key_pem, "the fleet CA's key")?;
        let parsed = webpki::EndEntityCert::try_from(&certificate)
            .map_err(|source| IdentityError::Unreadable { what, source })?;
        if *parsed.subject_public_key_info() != *key.subject_public_key_info() {
            return Err(IdentityError::KeyMismatch { what });
        }
        Ok(Self { certificate, key })
    }

    /// What `fleet-ca.pem` holds; every program of the fleet has it.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        certificate_pem(&self.certificate)
    }

    /// What `fleet-ca.key` holds.
    #[must_use]
    pub fn key_pem(&self) -> SecretPem {
        SecretPem::new(self.key.serialize_pem())
    }

    /// A certificate and its new key for the server `name` (letters, digits and inner hyphens, at
    /// most [`SERVER_NAME_BYTES_MAX`]), which may serve as any of `roles`, and be a TLS client.
    ///
    /// # Errors
    ///
    /// A bad name, no role, or no randomness.
    pub fn issue(&self, roles: &[Role], name: &str) -> Result<(String, SecretPem), IdentityError> {
        if !is_label(name) {
            return Err(IdentityError::ServerName);
        }
        if roles.is_empty() {
            return Err(IdentityError::NoRole);
        }
        let mut roles = roles.to_vec();
        roles.sort_unstable();
        roles.dedup();
        let own_name = format!("{name}{NODE_SUFFIX}");
        let names = roles.iter().map(|role| role.dns_name()).chain([own_name.as_str()]);

        let mut params = lasting_params();
        params.distinguished_name.push(DnType::CommonName, name);
        for dns_name in names {
            let dns_name = dns_name.try_into().map_err(IdentityError::Certificate)?;
            params.subject_alt_names.push(SanType::DnsName(dns_name));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;

        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)
            .map_err(IdentityError::Certificate)?;
        let key = generate_key()?;
        let certificate = params.signed_by(&key, &issuer).map_err(IdentityError::Certificate)?;
        Ok((certificate_pem(certificate.der()), SecretPem::new(key.serialize_pem())))
    }
}

impl fmt::Debug for FleetCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetCa").field("key", &fingerprint_of(&self.key)).finish_non_exhaustive()
    }
}

/// A box's private key, made at its first boot: ECDSA P-256, which a TPM can hold too.
pub struct DeviceKey {
    key: KeyPair,
}

impl DeviceKey {
    /// A new one, from the operating system's random source.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        Ok(Self { key: generate_key()? })
    }

    /// From a PKCS#8 `PRIVATE KEY`.
    ///
    /// # Errors
    ///
    /// When it is not PEM, or not a P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        Ok(Self { key: read_key(pem, "the device key")? })
    }

    /// As PKCS#8 in PEM.
    #[must_use]
    pub fn to_pem(&self) -> SecretPem {
        SecretPem::new(self.key.serialize_pem())
    }

    /// What auther, tickets and TLS peers know it by.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        fingerprint_of(&self.key)
    }

    /// A certificate round the key, signed by itself. Only the key in it counts.
    fn certificate(&self) -> Result<CertificateDer<'static>, IdentityError> {
        let mut params = lasting_params();
        params.distinguished_name.push(DnType::CommonName, "AVR box");
        let certificate = params.self_signed(&self.key).map_err(IdentityError::Certificate)?;
        Ok(certificate.der().clone())
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceKey").field(&self.fingerprint()).finish()
    }
}

/// An identity that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No randomness.
    #[error("cannot make a key")]
    Generate(#[source] rcgen::Error),
    /// Building or signing failed.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// Not PEM, or something else in it.
    #[error("{what} is not in the PEM text")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// Another kind of key.
    #[error("{what} is not an ECDSA P-256 key")]
    NotP256 {
        /// Which key.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// DER that is no certificate.
    #[error("{what} cannot be read")]
    Unreadable {
        /// Which certificate.
        what: &'static str,
        /// Why.
        source: webpki::Error,
    },
    /// Files of two different pairs.
    #[error("{what} and its key do not belong together")]
    KeyMismatch {
        /// Which certificate.
        what: &'static str,
    },
    /// Not a DNS label.
    #[error(
        "a server's name is 1 to {} letters, digits and inner hyphens, as in tokyo-1",
        SERVER_NAME_BYTES_MAX
    )]
    ServerName,
    /// A server without roles could do nothing.
    #[error("a server needs at least one role")]
    NoRole,
    /// rustls refused the pieces.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The fleet CA cannot check clients.
    #[error("cannot set up the check of TLS clients")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// No certificate at all; cannot be after a handshake of ours.
    #[error("the peer showed no certificate")]
    NoCertificate,
}

fn generate_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Generate)
}

fn read_key(pem: &str, what: &'static str) -> Result<KeyPair, IdentityError> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|source| IdentityError::Pem { what, source })?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map_err(|source| IdentityError::NotP256 { what, source })
}

fn fingerprint_of(key: &KeyPair) -> KeyFingerprint {
    KeyFingerprint::of_spki(&key.subject_public_key_info())
}

/// Parameters without a name, good from 1970 on; see the module's comment.
fn lasting_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(CERTIFICATE_END_YEAR, 12, 31);
    params.distinguished_name.remove(DnType::CommonName);
    params
}

fn certificate_pem(der: &CertificateDer<'_>) -> String {
    let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), unix)
}

/// One label of a host name (RFC 1123 section 2.1), in lower case.
fn is_label(name: &str) -> bool {
    (1..=SERVER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests;
