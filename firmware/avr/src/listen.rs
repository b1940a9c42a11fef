//! `avr listen`: the same engine between two ordinary sockets, without a bridge or a site.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mail::Protocol;
use session::{Carrier, Facts, TcpLeg};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::session_id;

/// Sessions at once; more wait in the kernel's backlog, and the log says so.
pub const SESSIONS_MAX: usize = 1024;
/// How long the mail server may take to answer a connection.
pub const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Pause after an `accept` that failed (out of descriptors), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one log line in this time says that clients wait, and one that `accept` fails.
const REPEATED_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long the client may take to read why it is turned away.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// Serves on `listener` for ever: each session is scanned and carried to `server` (`HOST:PORT`,
/// looked up for each session).
///
/// # Errors
///
/// Never returns one once it serves; the signature leaves room for a listener that cannot.
pub async fn serve(
    listener: TcpListener,
    server: &str,
    protocol: Protocol,
    carrier: Carrier,
) -> anyhow::Result<()> {
    let local = listener.local_addr().context("ask for the listening address")?;
    info!(%local, server, ?protocol, "listening");
    let (mut full, mut failing) = (Repeated::default(), Repeated::default());
    let permits = Arc::new(Semaphore::new(SESSIONS_MAX));
    let server: Arc<str> = server.into();
    loop {
        if permits.available_permits() == 0 && full.is_due() {
            warn!(sessions_max = SESSIONS_MAX, "full: further clients wait for a session's end");
        }
        let permit = Arc::clone(&permits).acquire_owned().await.context("the semaphore is open")?;
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if failing.is_due() {
                    warn!(%error, "accept failed; trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (server, carrier) = (Arc::clone(&server), carrier.clone());
        tokio::spawn(async move {
            one_session(stream, client, &server, protocol, &carrier).await;
            drop(permit);
        });
    }
}

/// Thins out a log line that clients could provoke without end.
#[derive(Debug, Default)]
struct Repeated(Option<Instant>);

impl Repeated {
    /// Whether it is time for a line; then that time starts again.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.0.is_none_or(|last| last + REPEATED_LOG_INTERVAL <= now);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

async fn one_session(
    stream: TcpStream,
    client: SocketAddr,
    server: &str,
    protocol: Protocol,
    carrier: &Carrier,
) {
    let id = match session_id() {
        Ok(id) => id,
        Err(error) => {
            warn!(%client, error = format!("{error:#}"), "session not begun");
            return turn_away(stream, protocol).await;
        }
    };
    let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(server)).await;
    let upstream = match connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
        Ok(upstream) => upstream,
        Err(error) => {
            warn!(session = %id, %client, server, %error, step = "connect", "no mail server");
            return turn_away(stream, protocol).await;
        }
    };
    let (Ok(near), Ok(far)) = (TcpLeg::new(stream), TcpLeg::new(upstream)) else {
        return; // One of the two is closed already.
    };
    let facts = Facts {
        id: id.to_string(),
        protocol,
        client: client.to_string(),
        server: server.to_owned(),
        way: "direct".to_owned(),
    };
    let outcome = session::carry(&facts, near, far, carrier).await.outcome;
    info!(session = %id, %client, server, ?outcome, "session ended");
}

/// Tells the client in its own protocol that there is no server behind us.
async fn turn_away(mut stream: TcpStream, protocol: Protocol) {
    let farewell: &[u8] = match protocol {
        Protocol::Smtp => b"421 4.4.1 The mail server cannot be reached, try again later\r\n",
        Protocol::Pop3 => b"-ERR [SYS/TEMP] The mail server cannot be reached, try again later\r\n",
    };
    // The client may be gone already; there is nobody else to tell.
    let _ = tokio::time::timeout(FAREWELL_MAX, async {
        let _ = stream.write_all(farewell).await;
        let _ = stream.shutdown().await;
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn a_line_that_clients_could_repeat_is_thinned_out() {
        let mut repeated = Repeated::default();
        assert!(repeated.is_due());
        assert!(!repeated.is_due());
    }

    #[tokio::test]
    async fn without_a_server_the_client_is_told_in_its_own_protocol() {
        for (protocol, word) in [(Protocol::Smtp, "421 "), (Protocol::Pop3, "-ERR ")] {
            // A port that was free a moment ago: nobody answers there.
            let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let settings = session::settings::ScanSettings::default();
            let carrier = settings.carrier(session::settings::Around::test()).unwrap();
            let server = gone.to_string();
            let client = async {
                let mut said = String::new();
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.read_to_string(&mut said).await.unwrap();
                said
            };
            tokio::select! {
                _ = serve(listener, &server, protocol, carrier) => unreachable!("it serves for ever"),
                said = client => assert!(said.starts_with(word) && said.ends_with("\r\n"), "{said}"),
            }
        }
    }
}
