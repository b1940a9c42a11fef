//! rustls configurations, the check of TLS clients, and who a peer is.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme, version,
};

use super::{DeviceKey, IdentityError, NODE_SUFFIX, Role};
use crate::ALPN;
use crate::ticket::KeyFingerprint;

/// The fleet CA's certificates: one, or during a change two. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FleetRoots {
    roots: Arc<RootCertStore>,
}

impl FleetRoots {
    /// From `fleet-ca.pem`.
    ///
    /// # Errors
    ///
    /// When there is no certificate in it, or one that cannot be an authority.
    pub fn from_pem(ca_pem: &str) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(ca_pem, "the fleet CA's certificate")? {
            roots.add(certificate).map_err(IdentityError::Tls)?;
        }
        Ok(Self { roots: Arc::new(roots) })
    }

    /// Whether a certificate says that the fleet CA made it. Says nothing about whether it did.
    fn claims(&self, certificate: &webpki::EndEntityCert<'_>) -> bool {
        self.roots.roots.iter().any(|root| root.subject.as_ref() == certificate.issuer())
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A box, by the key it proved to have. Whether it is admitted is another question.
    Device(KeyFingerprint),
    /// A server of the fleet.
    Server {
        /// What it may serve as.
        roles: Vec<Role>,
        /// As issued.
        name: String,
    },
}

impl Peer {
    /// Whether it is a server with this role.
    #[must_use]
    pub fn is_server(&self, role: Role) -> bool {
        matches!(self, Self::Server { roles, .. } if roles.contains(&role))
    }
}

/// For logs: `box 3f9c…` or `server tokyo-1`.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(key) => write!(f, "box with key {key}"),
            Self::Server { name, .. } => write!(f, "server {name}"),
        }
    }
}

/// Who showed `certificates` in a handshake that went well under a configuration of this module
/// with the same `fleet`. It is the handshake that checks: a certificate that names the fleet CA as
/// its issuer passes it only with the CA's signature.
///
/// # Errors
///
/// When there is none, or it cannot be read; neither passes a handshake.
pub fn peer(
    certificates: &[CertificateDer<'_>],
    fleet: &FleetRoots,
) -> Result<Peer, IdentityError> {
    let parsed = parse_first(certificates)?;
    if !fleet.claims(&parsed) {
        let key = parsed.subject_public_key_info();
        return Ok(Peer::Device(KeyFingerprint::of_spki(&key)));
    }
    Ok(server_named_in(&parsed))
}

/// Which server showed `certificates` to a client of this module: one of the fleet, or there would
/// be no connection.
///
/// # Errors
///
/// As for [`peer`].
pub fn server_peer(certificates: &[CertificateDer<'_>]) -> Result<Peer, IdentityError> {
    parse_first(certificates).map(|parsed| server_named_in(&parsed))
}

/// Which server a certificate file names, so that a program can say early that it was given one for
/// another role. Checks no signature.
///
/// # Errors
///
/// When there is no certificate in it.
pub fn server_in(certificate_pem: &str) -> Result<Peer, IdentityError> {
    server_peer(&read_certificates(certificate_pem, "the server's certificate")?)
}

fn parse_first<'a>(
    certificates: &'a [CertificateDer<'_>],
) -> Result<webpki::EndEntityCert<'a>, IdentityError> {
    let certificate = certificates.first().ok_or(IdentityError::NoCertificate)?;
    let what = "the peer's certificate";
    webpki::EndEntityCert::try_from(certificate)
        .map_err(|source| IdentityError::Unreadable { what, source })
}

fn server_named_in(certificate: &webpki::EndEntityCert<'_>) -> Peer {
    let names: Vec<&str> = certificate.valid_dns_names().collect();
    let roles = Role::ALL.into_iter().filter(|role| names.contains(&role.dns_name())).collect();
    let name = names.iter().find_map(|name| name.strip_suffix(NODE_SUFFIX)).unwrap_or("unnamed");
    Peer::Server { roles, name: name.to_owned() }
}

/// For a server: TLS 1.3, and a client certificate, either of the fleet CA or self-signed by a box.
///
/// Sessions are not resumed: every connection proves its key anew, and nothing is kept between.
///
/// # Errors
///
/// When a PEM text is not what it should be, or certificate and key do not belong together.
pub fn server_config(
    ca_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let provider = provider();
    let verifier = FleetOrDevice::new(FleetRoots::from_pem(ca_pem)?, &provider)?;
    let (chain, key) = read_pair(certificate_pem, key_pem)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)
        .map_err(IdentityError::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For a box, which shows its key in a certificate signed by itself.
///
/// # Errors
///
/// When `ca_pem` is not what it should be.
pub fn device_client_config(
    ca_pem: &str,
    key: &DeviceKey,
) -> Result<Arc<ClientConfig>, IdentityError> {
    client_config(ca_pem, vec![key.certificate()?], key.private_key())
}

/// For a server as a client of another, as a manager polling its proxies.
///
/// # Errors
///
/// When a PEM text is not what it should be, or certificate and key do not belong together.
pub fn server_client_config(
    ca_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let (chain, key) = read_pair(certificate_pem, key_pem)?;
    client_config(ca_pem, chain, key)
}

fn client_config(
    ca_pem: &str,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let fleet = FleetRoots::from_pem(ca_pem)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(IdentityError::Tls)?
        .with_root_certificates(fleet.roots)
        .with_client_auth_cert(chain, key)
        .map_err(IdentityError::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read_pair(
    certificate_pem: &str,
    key_pem: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
    let chain = read_certificates(certificate_pem, "the server's certificate")?;
    let what = "the server's key";
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|source| IdentityError::Pem { what, source })?;
    Ok((chain, key))
}

fn read_certificates(
    pem: &str,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityError::Pem { what, source })?;
    if certificates.is_empty() {
        let source = rustls::pki_types::pem::Error::NoItemsFound;
        return Err(IdentityError::Pem { what, source });
    }
    Ok(certificates)
}

/// Admits a certificate that the fleet CA signed, or any single other one: for the latter the
/// handshake's signature is the whole proof, and it proves a key, not a name.
#[derive(Debug)]
struct FleetOrDevice {
    fleet: FleetRoots,
    chain: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl FleetOrDevice {
    fn new(fleet: FleetRoots, provider: &Arc<CryptoProvider>) -> Result<Self, IdentityError> {
        let builder =
            WebPkiClientVerifier::builder_with_provider(fleet.roots.clone(), provider.clone());
        let chain = builder.build().map_err(IdentityError::Verifier)?;
        Ok(Self { fleet, chain, provider: provider.clone() })
    }
}

impl ClientCertVerifier for FleetOrDevice {
    /// None: a box's certificate has no authority, and a hint would make it show nothing.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bad = |error| Error::InvalidCertificate(error);
        let parsed = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| bad(CertificateError::BadEncoding))?;
        if self.fleet.claims(&parsed) {
            return self.chain.verify_client_cert(end_entity, intermediates, now);
        }
        if parsed.issuer() != parsed.subject() || !intermediates.is_empty() {
            return Err(bad(CertificateError::UnknownIssuer));
        }
        Ok(ClientCertVerified::assertion())
    }

    /// Never called: only TLS 1.3 is offered.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
