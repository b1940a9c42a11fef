//! `avr listen`: the same engine between two ordinary sockets, without a bridge or a site.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mail::Protocol;
use session::{Carrier, TcpLeg};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::session_id;

/// Sessions at once; more wait in the kernel's backlog.
pub const SESSIONS_MAX: usize = 1024;
/// How long the mail server may take to answer a connection.
pub const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Pause after an `accept` that failed (out of descriptors), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
    let permits = Arc::new(Semaphore::new(SESSIONS_MAX));
    let server: Arc<str> = server.into();
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.context("the semaphore is open")?;
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accept failed; trying again");
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

async fn one_session(
    stream: TcpStream,
    client: SocketAddr,
    server: &str,
    protocol: Protocol,
    carrier: &Carrier,
) {
    let id = match session_id() {
        Ok(id) => id,
        Err(error) => return turn_away(stream, protocol, server, &format!("{error:#}")).await,
    };
    let upstream = match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(server)).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(error)) => return turn_away(stream, protocol, server, &error.to_string()).await,
        Err(_) => return turn_away(stream, protocol, server, "no answer").await,
    };
    let (Ok(near), Ok(far)) = (TcpLeg::new(stream), TcpLeg::new(upstream)) else {
        return; // One of the two is closed already.
    };
    let outcome = session::carry(id, protocol, near, far, carrier).await.outcome;
    info!(session = %id, %client, server, ?outcome, "session ended");
}

/// Tells the client in its own protocol that there is no server behind us.
async fn turn_away(mut stream: TcpStream, protocol: Protocol, server: &str, why: &str) {
    warn!(server, why, "cannot reach the mail server");
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
