//! One question to one DNS server, and its answer: UDP, and TCP where UDP is not enough.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long a server may take for one answer.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
/// How often a question is sent by UDP, which may lose it.
pub const UDP_TRIES: u32 = 2;
/// Largest answer by UDP that is read, in bytes; without EDNS no server sends more than 512.
const UDP_BYTES_MAX: usize = 4096;
/// Bytes of a DNS header (RFC 1035 section 4.1.1).
const HEADER_BYTES: usize = 12;
/// The flag TC in the third byte of a header.
const TRUNCATED: u8 = 0x02;

/// By what a question goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP; TCP when the answer does not fit.
    Udp,
    /// TCP.
    Tcp,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nothing came.
    #[error(
        "no answer from {server} within {} s; is it the DNS server's address, and port {} open?",
        ANSWER_TIME_MAX.as_secs(),
        server.port()
    )]
    Silent {
        /// Who was asked.
        server: SocketAddr,
    },
    /// The network said no.
    #[error("cannot ask {server}")]
    Network {
        /// Who was asked.
        server: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Sends `message` and gives the answer with the same id.
///
/// # Errors
/// See [`ExchangeError`].
pub async fn ask(
    server: SocketAddr,
    message: &[u8],
    transport: Transport,
) -> Result<Vec<u8>, ExchangeError> {
    let network = |source| ExchangeError::Network { server, source };
    if transport == Transport::Udp {
        let mut answer = None;
        for _ in 0..UDP_TRIES {
            answer = match timeout(ANSWER_TIME_MAX, by_udp(server, message)).await {
                Ok(answer) => Some(answer.map_err(network)?),
                Err(_) => continue,
            };
            break;
        }
        let answer = answer.ok_or(ExchangeError::Silent { server })?;
        if answer.get(2).is_some_and(|flags| flags & TRUNCATED == 0) {
            return Ok(answer);
        }
    }
    match timeout(ANSWER_TIME_MAX, by_tcp(server, message)).await {
        Ok(answer) => answer.map_err(network),
        Err(_) => Err(ExchangeError::Silent { server }),
    }
}

async fn by_udp(server: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; UDP_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        // Anything else is late, or somebody's guess.
        if length >= HEADER_BYTES && answer.get(..2) == message.get(..2) {
            return Ok(answer.to_vec());
        }
    }
}

/// With the length in front (RFC 1035 section 4.2.2).
async fn by_tcp(server: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const QUESTION: [u8; HEADER_BYTES] = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

    #[tokio::test]
    async fn an_answer_that_is_cut_short_is_asked_for_by_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(server).await.unwrap();
        let udp = async {
            let mut buffer = [0; 64];
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], QUESTION);
            // Not ours, too short, and then ours with TC.
            socket.send_to(&[9, 9, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0], peer).await.unwrap();
            socket.send_to(&[7, 9], peer).await.unwrap();
            socket.send_to(&[7, 9, 0x82, 0, 0, 0, 0, 0, 0, 0, 0, 0], peer).await.unwrap();
        };
        let tcp = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut framed = [0; HEADER_BYTES + 2];
            stream.read_exact(&mut framed).await.unwrap();
            assert_eq!(framed[2..], QUESTION);
            stream.write_all(&[0, 3, 7, 9, 0x80]).await.unwrap();
        };
        let (answer, (), ()) = tokio::join!(ask(server, &QUESTION, Transport::Udp), udp, tcp);
        assert_eq!(answer.unwrap(), [7, 9, 0x80]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let start = tokio::time::Instant::now();
        let error = ask(server, &QUESTION, Transport::Udp).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Silent { .. }), "{error}");
        assert_eq!(start.elapsed(), ANSWER_TIME_MAX * UDP_TRIES);
    }

    #[tokio::test]
    async fn a_closed_port_is_said_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        drop(listener);
        for transport in [Transport::Tcp, Transport::Udp] {
            let error = ask(server, &QUESTION, transport).await.unwrap_err();
            assert!(matches!(error, ExchangeError::Network { .. }), "{error}");
        }
    }
}
