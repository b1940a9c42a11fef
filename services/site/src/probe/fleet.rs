//! The fleet's own servers: their port, their certificate, and what a proxy says of itself.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{CertificateError, ClientConfig, Error as TlsError};
use service_kit::host::WallClock;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wire::identity::{Peer, Role, server_peer};
use wire::{ALPN, Message, Poll};

use super::{PROBE_TIME_MAX, ProbeError, connect};
use crate::diag::Found;

/// Certificates that end within this many days are worth a word.
pub const CERTIFICATE_DAYS_MIN: u64 = 30;

const DAY_S: u64 = 86_400;

/// Whether somebody listens. `hint` says what to look at when nobody does.
pub async fn port(address: SocketAddr, hint: &str) -> Found {
    match connect(address).await {
        Ok(_) => Found::Good(format!("{address} is open")),
        Err(ProbeError::Network(_, error)) if error.kind() == ErrorKind::ConnectionRefused => {
            Found::wrong(format!("{address} is closed: nobody listens there"), hint)
        }
        Err(ProbeError::Silent(_)) => {
            Found::wrong(format!("{address} does not answer: packets are lost or dropped"), hint)
        }
        Err(error) => Found::wrong(error.to_string(), hint),
    }
}

/// Whether the server there is of this fleet and has `role`.
pub async fn certificate(
    address: SocketAddr,
    role: Role,
    client: Arc<ClientConfig>,
    clock: WallClock,
) -> Found {
    let socket = match connect(address).await {
        Ok(socket) => socket,
        Err(error) => return Found::wrong(error.to_string(), "let the server listen there"),
    };
    let handshake = TlsConnector::from(client).connect(role.server_name(), socket);
    let stream = match timeout(PROBE_TIME_MAX, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return judge_handshake(&error, address, role),
        Err(_) => {
            return Found::wrong(
                format!("{address} takes connections and then says nothing"),
                format!("look into the log of avr-{role}, and restart it"),
            );
        }
    };
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(ALPN) {
        return Found::wrong(
            format!("{address} speaks TLS, and not that of AVR"),
            format!("forward the port to avr-{role}"),
        );
    }
    let certificates = session.peer_certificates().unwrap_or_default();
    let ends_s = certificates.first().and_then(|certificate| end_of(certificate));
    match (server_peer(certificates), ends_s) {
        (Ok(Peer::Server { name, roles }), Some(ends_s)) => {
            judge_certificate(&name, &roles, ends_s, clock())
        }
        _ => Found::wrong(
            format!("the certificate at {address} cannot be read"),
            "issue a new one with `avr-auther issue`",
        ),
    }
}

/// The last second of a certificate, since 1970.
fn end_of(certificate: &[u8]) -> Option<u64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    u64::try_from(parsed.validity().not_after.timestamp()).ok()
}

fn judge_certificate(name: &str, roles: &[Role], ends_s: u64, now_s: u64) -> Found {
    let roles: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    let days = ends_s.saturating_sub(now_s) / DAY_S;
    let what = format!("{name}, as {}; good for {days} more days", roles.join(" and "));
    match days {
        0..CERTIFICATE_DAYS_MIN => {
            Found::doubtful(what, format!("issue a new one: `avr-auther issue --name {name}`"))
        }
        _ => Found::Good(what),
    }
}

fn judge_handshake(error: &std::io::Error, address: SocketAddr, role: Role) -> Found {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    match tls {
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Found::wrong(
            format!("the server at {address} is of the fleet, and no {role}"),
            format!("forward the port to avr-{role}, or issue its certificate with --role {role}"),
        ),
        Some(TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => Found::wrong(
            format!("the server at {address} is of another fleet"),
            "set it up with a bundle of this fleet, or take this fleet's fleet-ca.pem here",
        ),
        Some(TlsError::InvalidCertificate(_)) => Found::wrong(
            format!("the certificate at {address} is not good: {error}"),
            "compare the clocks; else issue a new one with `avr-auther issue`",
        ),
        Some(TlsError::AlertReceived(_)) => Found::wrong(
            format!("the server at {address} refuses this machine: {error}"),
            "take certificate and fleet-ca.pem of one fleet on both machines",
        ),
        Some(_) => Found::wrong(
            format!("{address} does not speak TLS as AVR does: {error}"),
            format!("forward the port to avr-{role}"),
        ),
        None => Found::wrong(
            format!("{address} closes connections at once"),
            format!("look into the log of avr-{role}: it may be full, or draining"),
        ),
    }
}

/// What a proxy says to a manager.
pub async fn poll(address: SocketAddr, client: Arc<ClientConfig>) -> Found {
    let work = async {
        let mut link = link::connect(address, Role::Proxy, client, PROBE_TIME_MAX).await?;
        link.send(&Message::Poll(Poll { sequence: 1 })).await?;
        link.recv().await
    };
    let remedy = "look into the log of avr-proxy there";
    match timeout(PROBE_TIME_MAX, work).await {
        Ok(Ok(Message::Load(load))) if load.draining => Found::doubtful(
            format!("takes no new sessions; {} are left", load.sessions),
            "`avr-site undrain` takes it back, if that is not meant",
        ),
        Ok(Ok(Message::Load(load))) => {
            let (whole, thousandths) =
                (load.load_average_milli / 1000, load.load_average_milli % 1000);
            let sessions = load.sessions;
            Found::Good(format!("{sessions} sessions, load average {whole}.{thousandths:03}"))
        }
        Ok(Ok(other)) => Found::wrong(format!("says {} to a poll", other.name()), remedy),
        Ok(Err(error)) => Found::wrong(
            format!("does not answer a manager: {error}"),
            format!("{remedy}; it answers only certificates with the role manager"),
        ),
        Err(_) => Found::wrong("does not answer a manager in time".to_owned(), remedy),
    }
}

#[cfg(test)]
mod tests {
    use service_kit::host::unix_now_s;
    use tokio::net::TcpListener;
    use wire::identity::{FleetCa, server_client_config, server_config};

    use super::*;

    fn client(ca: &FleetCa) -> Arc<ClientConfig> {
        let (certificate, key) = ca.issue(&[Role::Manager], "asking").unwrap();
        server_client_config(&ca.certificate_pem(), &certificate, key.expose()).unwrap()
    }

    /// A server with a certificate of `ca`, which answers one connection.
    async fn server(ca: &FleetCa, role: Role) -> SocketAddr {
        let (certificate, key) = ca.issue(&[role], "tokyo-1").unwrap();
        let config = server_config(&ca.certificate_pem(), &certificate, key.expose()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            let _ = acceptor.accept(socket).await;
        });
        address
    }

    fn said(found: Found) -> String {
        match found {
            Found::Good(what) | Found::Unknown(what) => what,
            Found::Doubtful { what, remedy } | Found::Wrong { what, remedy } => {
                format!("{what}; {remedy}")
            }
        }
    }

    #[tokio::test]
    async fn a_certificate_is_seen_with_name_role_and_days() {
        let ca = FleetCa::create().unwrap();
        let address = server(&ca, Role::Auther).await;
        let found = certificate(address, Role::Auther, client(&ca), unix_now_s).await;
        let Found::Good(what) = found else { panic!("{found:?}") };
        assert!(what.starts_with("tokyo-1, as auther; good for "), "{what}");
    }

    #[tokio::test]
    async fn each_wrong_server_is_told_from_the_others() {
        let ca = FleetCa::create().unwrap();
        let look = async |address| {
            said(certificate(address, Role::Manager, client(&ca), unix_now_s).await)
        };
        let other_role = server(&ca, Role::Proxy).await;
        let what = look(other_role).await;
        assert!(
            what.contains("is of the fleet, and no manager; forward the port to avr-manager"),
            "{what}"
        );
        let other_fleet = server(&FleetCa::create().unwrap(), Role::Manager).await;
        let what = look(other_fleet).await;
        assert!(what.contains("is of another fleet"), "{what}");

        let talker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = talker.local_addr().unwrap();
        let greet = async {
            use tokio::io::AsyncWriteExt as _;
            let (mut socket, _) = talker.accept().await.unwrap();
            socket.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
            socket
        };
        let (what, _socket) = tokio::join!(look(address), greet);
        assert!(what.contains("does not speak TLS as AVR does"), "{what}");
        let close = async { drop(talker.accept().await.unwrap()) };
        let (what, ()) = tokio::join!(look(address), close);
        assert!(what.contains("closes connections at once"), "{what}");
    }

    #[tokio::test]
    async fn an_open_port_is_told_from_a_closed_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(matches!(port(address, "x").await, Found::Good(_)));
        drop(listener);
        let what = said(port(address, "start it").await);
        assert!(what.ends_with("is closed: nobody listens there; start it"), "{what}");
    }

    #[test]
    fn the_last_days_are_doubtful() {
        let day = |days: u64| judge_certificate("tokyo-1", &[Role::Proxy], days * DAY_S, 0);
        assert!(matches!(day(CERTIFICATE_DAYS_MIN), Found::Good(_)));
        assert!(said(day(29)).contains("good for 29 more days; issue a new one"));
        assert!(said(judge_certificate("x", &[], 5, 10)).contains("good for 0 more days"));
    }
}
