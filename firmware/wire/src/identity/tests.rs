use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::*;
use crate::ALPN;

struct Fleet {
    ca: FleetCa,
    server: Arc<ServerConfig>,
}

impl Fleet {
    fn new(roles: &[Role]) -> Self {
        let ca = FleetCa::create().unwrap();
        let (certificate, key) = ca.issue(roles, "tokyo-1").unwrap();
        let server = server_config(&ca.certificate_pem(), &certificate, key.expose()).unwrap();
        Self { ca, server }
    }

    fn roots(&self) -> FleetRoots {
        FleetRoots::from_pem(&self.ca.certificate_pem()).unwrap()
    }

    fn device(&self, key: &DeviceKey) -> Arc<ClientConfig> {
        device_client_config(&self.ca.certificate_pem(), key).unwrap()
    }
}

/// A whole handshake without a socket: who the server found at the other end.
fn handshake(
    client: Arc<ClientConfig>,
    role: Role,
    server: &Fleet,
) -> Result<(Peer, Peer), rustls::Error> {
    let mut client = ClientConnection::new(client, role.server_name())?;
    let mut server_side = ServerConnection::new(server.server.clone())?;
    while client.is_handshaking() || server_side.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server_side.read_tls(&mut unread).unwrap();
            server_side.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server_side.wants_write() {
            server_side.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    assert_eq!(client.alpn_protocol(), Some(ALPN));
    assert_eq!(server_side.alpn_protocol(), Some(ALPN));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let roots = server.roots();
    let of_client = peer(server_side.peer_certificates().unwrap(), &roots).unwrap();
    let of_server = peer(client.peer_certificates().unwrap(), &roots).unwrap();
    Ok((of_client, of_server))
}

/// A client that shows `certificate` and signs with `key`.
fn client_showing(
    fleet: &Fleet,
    certificate: CertificateDer<'static>,
    key: &KeyPair,
) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(fleet.ca.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    // Built by hand because rustls checks here that key and certificate belong together.
    let shown = rustls::sign::CertifiedKey::new(vec![certificate], key);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Shows(Arc::new(shown))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_box_is_known_by_its_key_and_a_server_by_its_roles() {
    let fleet = Fleet::new(&[Role::Proxy, Role::Manager, Role::Proxy]);
    let key = DeviceKey::generate().unwrap();
    for role in [Role::Manager, Role::Proxy] {
        let (of_client, of_server) = handshake(fleet.device(&key), role, &fleet).unwrap();
        assert_eq!(of_client, Peer::Device(key.fingerprint()));
        let roles = vec![Role::Manager, Role::Proxy];
        assert_eq!(of_server, Peer::Server { roles, name: "tokyo-1".to_owned() });
        assert!(of_server.is_server(Role::Proxy) && !of_server.is_server(Role::Auther));
        assert!(!of_client.is_server(Role::Proxy));
    }
}

#[test]
fn a_certificate_file_says_whose_it_is() {
    let ca = FleetCa::create().unwrap();
    let (certificate, _) = ca.issue(&[Role::Auther], "tokyo-1").unwrap();
    assert!(server_in(&certificate).unwrap().is_server(Role::Auther));
    assert!(matches!(server_in("nothing"), Err(IdentityError::Pem { .. })));
}

#[test]
fn a_server_is_a_client_too() {
    let fleet = Fleet::new(&[Role::Proxy]);
    let (certificate, key) = fleet.ca.issue(&[Role::Manager], "tokyo-2").unwrap();
    let ca_pem = fleet.ca.certificate_pem();
    let client = server_client_config(&ca_pem, &certificate, key.expose()).unwrap();
    let (of_client, _) = handshake(client, Role::Proxy, &fleet).unwrap();
    assert_eq!(of_client, Peer::Server { roles: vec![Role::Manager], name: "tokyo-2".into() });
}

#[test]
fn a_server_without_the_role_is_refused() {
    let fleet = Fleet::new(&[Role::Manager]);
    let key = DeviceKey::generate().unwrap();
    let error = handshake(fleet.device(&key), Role::Proxy, &fleet).unwrap_err();
    assert!(error.to_string().contains("not valid for name \"proxy.avr.internal\""), "{error}");
}

#[test]
fn another_fleets_server_is_refused() {
    let (ours, theirs) = (Fleet::new(&[Role::Proxy]), Fleet::new(&[Role::Proxy]));
    let key = DeviceKey::generate().unwrap();
    let error = handshake(ours.device(&key), Role::Proxy, &theirs).unwrap_err();
    let unknown = rustls::CertificateError::UnknownIssuer;
    assert_eq!(error, rustls::Error::InvalidCertificate(unknown));
}

#[test]
fn another_fleets_server_is_no_client() {
    let (ours, theirs) = (Fleet::new(&[Role::Proxy]), Fleet::new(&[Role::Proxy]));
    let (certificate, key) = theirs.ca.issue(&[Role::Manager], "osaka-1").unwrap();
    let client =
        server_client_config(&ours.ca.certificate_pem(), &certificate, key.expose()).unwrap();
    let error = handshake(client, Role::Proxy, &ours).unwrap_err();
    let unknown = rustls::CertificateError::UnknownIssuer;
    assert_eq!(error, rustls::Error::InvalidCertificate(unknown));
}

#[test]
fn a_certificate_that_only_claims_to_be_the_fleets_is_refused() {
    let fleet = Fleet::new(&[Role::Proxy]);
    // A CA of the same name, made by somebody else.
    let key = generate_key().unwrap();
    let issuer = Issuer::from_ca_cert_der(&fleet.ca.certificate, &key).unwrap();
    let mut params = lasting_params();
    let name = Role::Manager.dns_name().try_into().unwrap();
    params.subject_alt_names.push(SanType::DnsName(name));
    let own = generate_key().unwrap();
    let certificate = params.signed_by(&own, &issuer).unwrap();
    let client = client_showing(&fleet, certificate.der().clone(), &own);
    let error = handshake(client, Role::Proxy, &fleet).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn somebody_elses_device_certificate_is_worth_nothing_without_its_key() {
    let fleet = Fleet::new(&[Role::Proxy]);
    let victim = DeviceKey::generate().unwrap();
    let thief = generate_key().unwrap();
    let client = client_showing(&fleet, victim.certificate().unwrap(), &thief);
    let error = handshake(client, Role::Proxy, &fleet).unwrap_err();
    let bad_signature = rustls::CertificateError::BadSignature;
    assert_eq!(error, rustls::Error::InvalidCertificate(bad_signature));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let fleet = Fleet::new(&[Role::Proxy]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(fleet.ca.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let error = handshake(Arc::new(config), Role::Proxy, &fleet).unwrap_err();
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
}

#[test]
fn the_fleet_ca_signs_for_its_own_domain_only() {
    let fleet = Fleet::new(&[Role::Proxy]);
    let issuer = Issuer::from_ca_cert_der(&fleet.ca.certificate, &fleet.ca.key).unwrap();
    let mut params = lasting_params();
    let name = "mail.example.com".try_into().unwrap();
    params.subject_alt_names.push(SanType::DnsName(name));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = generate_key().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let client = client_showing(&fleet, certificate.der().clone(), &key);
    let error = handshake(client, Role::Proxy, &fleet).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn a_device_key_is_the_same_after_pem_and_in_its_certificate() {
    let key = DeviceKey::generate().unwrap();
    let again = DeviceKey::from_pem(key.to_pem().expose()).unwrap();
    assert_eq!(again.fingerprint(), key.fingerprint());
    let fleet = Fleet::new(&[Role::Proxy]);
    let shown = again.certificate().unwrap();
    assert_eq!(peer(&[shown], &fleet.roots()).unwrap(), Peer::Device(key.fingerprint()));
}

#[test]
fn the_ca_goes_through_pem_and_signs_on() {
    let mut fleet = Fleet::new(&[Role::Proxy]);
    fleet.ca = FleetCa::from_pem(&fleet.ca.certificate_pem(), fleet.ca.key_pem().expose()).unwrap();
    let (certificate, key) = fleet.ca.issue(&[Role::Proxy], "tokyo-9").unwrap();
    let ca_pem = fleet.ca.certificate_pem();
    fleet.server = server_config(&ca_pem, &certificate, key.expose()).unwrap();
    let device = DeviceKey::generate().unwrap();
    assert!(handshake(fleet.device(&device), Role::Proxy, &fleet).is_ok());
}

#[test]
fn files_that_do_not_belong_together_are_named() {
    let (one, other) = (FleetCa::create().unwrap(), FleetCa::create().unwrap());
    let error = FleetCa::from_pem(&one.certificate_pem(), other.key_pem().expose()).unwrap_err();
    assert_eq!(error.to_string(), "the fleet CA's certificate and its key do not belong together");
    let (certificate, _) = one.issue(&[Role::Proxy], "a").unwrap();
    let (_, key) = one.issue(&[Role::Proxy], "b").unwrap();
    let error = server_config(&one.certificate_pem(), &certificate, key.expose()).unwrap_err();
    assert!(matches!(error, IdentityError::Tls(_)), "{error}");
    let error = FleetRoots::from_pem("nothing").unwrap_err();
    assert_eq!(error.to_string(), "the fleet CA's certificate is not in the PEM text");
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let error = DeviceKey::from_pem(&ed25519.serialize_pem()).unwrap_err();
    assert_eq!(error.to_string(), "the device key is not an ECDSA P-256 key");
}

#[test]
fn bad_server_names_are_refused() {
    let ca = FleetCa::create().unwrap();
    let long = "a".repeat(SERVER_NAME_BYTES_MAX + 1);
    for name in ["", "-a", "a-", "Tokyo", "a.b", "a b", "ä", &long] {
        let error = ca.issue(&[Role::Proxy], name).unwrap_err();
        assert!(matches!(error, IdentityError::ServerName), "{name}");
    }
    assert!(ca.issue(&[Role::Proxy], &"a".repeat(SERVER_NAME_BYTES_MAX)).is_ok());
    assert!(matches!(ca.issue(&[], "a"), Err(IdentityError::NoRole)));
}

#[test]
fn debug_shows_no_secret() {
    let ca = FleetCa::create().unwrap();
    let device = DeviceKey::generate().unwrap();
    let shown = format!("{ca:?} {device:?} {:?} {:?}", ca.key_pem(), device.to_pem());
    for pem in [ca.key_pem(), device.to_pem()] {
        let line = pem.expose().lines().nth(1).unwrap();
        assert!(!shown.contains(line));
    }
}

#[test]
fn roles_go_through_text() {
    for role in Role::ALL {
        assert_eq!(role.to_string().parse(), Ok(role));
        assert_eq!(role.server_name().to_str(), format!("{role}.avr.internal"));
    }
    assert_eq!("Proxy".parse::<Role>(), Err(ParseRoleError));
}
