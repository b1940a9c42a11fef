//! Questions to one server each, as `avr-site check` asks them. Every one has a time limit, reads a
//! limited number of bytes, and believes nothing of what it reads.

pub mod clock;
pub mod fleet;
pub mod host;
pub mod http;
pub mod scanner;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may take for one answer, connecting included.
pub const PROBE_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Why nothing came back. Displays as what was seen.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing came in time.
    #[error("no answer from {0} within {PROBE_TIME_MAX:?}")]
    Silent(SocketAddr),
    /// The network said no.
    #[error("{0}: {1}")]
    Network(SocketAddr, std::io::Error),
}

/// Connects, sends `request`, and reads until `is_whole` or the server's end.
///
/// # Errors
/// See [`ProbeError`].
pub async fn exchange(
    address: SocketAddr,
    request: &[u8],
    is_whole: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, ProbeError> {
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        let mut limited = stream.take(ANSWER_BYTES_MAX);
        while limited.read_buf(&mut answer).await? != 0 && !is_whole(&answer) {}
        Ok(answer)
    };
    match timeout(PROBE_TIME_MAX, work).await {
        Ok(done) => done.map_err(|error| ProbeError::Network(address, error)),
        Err(_) => Err(ProbeError::Silent(address)),
    }
}

/// Only connects.
///
/// # Errors
/// See [`ProbeError`].
pub async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeError> {
    match timeout(PROBE_TIME_MAX, TcpStream::connect(address)).await {
        Ok(done) => done.map_err(|error| ProbeError::Network(address, error)),
        Err(_) => Err(ProbeError::Silent(address)),
    }
}

/// What a server said, so that it can be shown: one line without control characters.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const CHARS_MAX: usize = 100;
    let text = String::from_utf8_lossy(bytes);
    let line = text.trim_matches(['\0', '\r', '\n', ' ']).lines().next().unwrap_or_default();
    line.chars().take(CHARS_MAX).collect::<String>().escape_debug().to_string()
}
