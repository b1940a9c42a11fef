//! Asks `clamd` servers (clamd(8): `zIDSESSION`, `zINSTREAM`) over TCP or unix sockets.
//!
//! Connections are sessions and are used again, so that a small object costs one write and one read;
//! larger ones are sent chunk by chunk as they are read back from where they wait. Of several servers the
//! one with the fewest bytes outstanding is asked; if it fails, one other (see [`pool`](super::pool)).
//!
//! What clamd did not look at in full comes out as [`EngineOutcome::Limit`], [`EngineOutcome::OverSize`]
//! or [`EngineOutcome::Encrypted`], which needs `AlertExceedsMax yes` and `AlertEncrypted yes` in its
//! settings: without them clamd says OK.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub use super::pool::ServerSettings as ClamdSettings;
use super::pool::{Answer, AskError, Pool, Protocol, WHY_BYTES_MAX};
use super::{Counts, Engine, EngineOutcome, Object, ScanFuture, ServerNumbers, named, printable};

/// Most bytes sent in one chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Longest answer, bytes.
pub const REPLY_BYTES_MAX: usize = 4096;
/// Longest address, bytes: a host name of 253 (RFC 1035 section 2.3.4) and a port, with room to spare.
pub const ADDRESS_BYTES_MAX: usize = 300;

/// Behind the last chunk: one of no bytes.
const END: &[u8] = &[0; 4];

/// Where a server listens: `host:port`, or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host name or address, and port.
    Tcp(String),
    /// Path of a socket.
    Unix(PathBuf),
}

/// Text that is no [`Address`]; the operator's fault.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no address of clamd: write host:port, or unix:/path/of/the.sock")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() <= ADDRESS_BYTES_MAX {
            if let Some(path) = text.strip_prefix("unix:") {
                if path.starts_with('/') && !path.contains('\0') {
                    return Ok(Self::Unix(path.into()));
                }
            } else if let Some((host, port)) = text.rsplit_once(':')
                && is_host(host)
                && port.parse::<u16>().is_ok_and(|port| port > 0)
            {
                return Ok(Self::Tcp(text.to_owned()));
            }
        }
        Err(AddressError(printable(text, ADDRESS_BYTES_MAX)))
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.chars().all(is_known)
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Asks one or several servers that are alike.
#[derive(Debug)]
pub struct ClamdEngine {
    pool: Pool<Clamd>,
}

impl ClamdEngine {
    /// An engine that asks the servers at these addresses (`host:port` or `unix:/path`). It connects
    /// when there is something to ask.
    ///
    /// # Errors
    /// Text that is no address.
    pub fn new(
        addresses: &[impl AsRef<str>],
        settings: ClamdSettings,
    ) -> Result<Self, AddressError> {
        let servers = addresses
            .iter()
            .map(|address| Ok(Clamd { address: address.as_ref().parse()? }))
            .collect::<Result<_, AddressError>>()?;
        Ok(Self { pool: Pool::new(servers, settings) })
    }
}

impl Engine for ClamdEngine {
    fn name(&self) -> &'static str {
        "clamd"
    }

    fn scan(&self, object: Object) -> ScanFuture<'_> {
        Box::pin(async move { self.pool.ask(&object).await })
    }

    fn reads_mail(&self) -> bool {
        true
    }

    /// Kinds that ClamAV's manual lists and that are not opened here.
    fn opens(&self, format: &str) -> bool {
        matches!(format, "arj" | "chm" | "dmg" | "xar")
    }

    /// Follows `zVERSION`, which tells of ClamAV's daily signatures. Signatures of the operator's own
    /// have no version: what was remembered of them ends by its age.
    fn generation(&self) -> u64 {
        self.pool.generation()
    }

    fn counts(&self) -> Counts {
        self.pool.counts()
    }

    fn servers(&self) -> Vec<ServerNumbers> {
        self.pool.servers()
    }
}

/// The protocol of one server.
struct Clamd {
    address: Address,
}

impl fmt::Display for Clamd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection in `IDSESSION`.
struct Session {
    stream: Box<dyn Stream>,
    /// Commands sent; clamd numbers its answers by it.
    commands: u32,
    /// What is sent next. Kept, so that a small object costs no memory of its own.
    buffer: Vec<u8>,
}

impl Protocol for Clamd {
    type Session = Session;

    async fn connect(&self) -> Result<Session, AskError> {
        let stream = match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(AskError::Connect)?;
                stream.set_nodelay(true).map_err(AskError::Connect)?;
                Box::new(stream) as Box<dyn Stream>
            }
            Address::Unix(path) => {
                Box::new(UnixStream::connect(path).await.map_err(AskError::Connect)?)
            }
        };
        Ok(Session { stream, commands: 0, buffer: Vec::new() })
    }

    async fn exchange(&self, session: &mut Session, object: &Object) -> Result<Answer, AskError> {
        session.command(b"zINSTREAM\0");
        let Reply { text, is_early, is_last } = match object.content.in_memory() {
            Some(bytes) if bytes.len() <= CHUNK_BYTES => session.send_small(bytes).await?,
            _ => session.stream(object).await?,
        };
        let outcome = parse(&text, session.commands)?;
        // What it did not wait for it has not looked at.
        if is_early && outcome == EngineOutcome::Clean {
            return Err(AskError::Early);
        }
        // Over its size limit it closes; early, the rest of the object would be taken for commands.
        let reusable = is_last && !is_early && outcome != EngineOutcome::OverSize;
        Ok(Answer { outcome, reusable, version: None })
    }

    async fn probe(&self, session: &mut Session) -> Result<Option<String>, AskError> {
        let pong = session.ask(b"zPING\0").await?;
        if pong != "PONG" {
            return Err(AskError::rubbish(&pong));
        }
        let version = session.ask(b"zVERSION\0").await?;
        Ok(Some(printable(&version, WHY_BYTES_MAX)))
    }
}

/// What a server said.
struct Reply {
    /// Without its NUL.
    text: Vec<u8>,
    /// It came before everything was sent.
    is_early: bool,
    /// Nothing came behind it.
    is_last: bool,
}

impl Session {
    /// Puts a command into the buffer.
    fn command(&mut self, command: &[u8]) {
        self.buffer.clear();
        if self.commands == 0 {
            self.buffer.extend_from_slice(b"zIDSESSION\0");
        }
        self.commands = self.commands.wrapping_add(1);
        self.buffer.extend_from_slice(command);
    }

    /// Asks something that has no object.
    async fn ask(&mut self, command: &[u8]) -> Result<String, AskError> {
        self.command(command);
        self.stream.write_all(&self.buffer).await.map_err(AskError::Send)?;
        let reply = receive(&mut self.stream).await?;
        let text = String::from_utf8_lossy(&reply.text);
        let numbered = text.strip_prefix(&format!("{}: ", self.commands));
        numbered.map(str::to_owned).ok_or_else(|| AskError::rubbish(&text))
    }

    /// All in one write: the reply is too short for anybody to wait in the meantime.
    async fn send_small(&mut self, bytes: &[u8]) -> Result<Reply, AskError> {
        // A chunk of no bytes would be the end.
        if !bytes.is_empty() {
            push_length(&mut self.buffer, bytes)?;
            self.buffer.extend_from_slice(bytes);
        }
        self.buffer.extend_from_slice(END);
        match self.stream.write_all(&self.buffer).await {
            Ok(()) => receive(&mut self.stream).await,
            // It has closed; what it said before that still counts.
            Err(error) => {
                let reply = receive(&mut self.stream).await;
                let reply = reply.map_err(|_| AskError::Send(error))?;
                Ok(Reply { is_early: true, ..reply })
            }
        }
    }

    /// A chunk at a time, listening meanwhile.
    async fn stream(&mut self, object: &Object) -> Result<Reply, AskError> {
        let (reader, writer) = tokio::io::split(&mut self.stream);
        let send = send(writer, &mut self.buffer, object);
        let receive = receive(reader);
        tokio::pin!(send, receive);
        tokio::select! {
            biased;
            // It does not want the rest: over its size limit, or in trouble.
            reply = &mut receive => return Ok(Reply { is_early: true, ..reply? }),
            sent = &mut send => match sent {
                Ok(()) => {}
                Err(error @ AskError::Content(_)) => return Err(error),
                Err(error) => {
                    let reply = receive.await.map_err(|_| error)?;
                    return Ok(Reply { is_early: true, ..reply });
                }
            },
        }
        receive.await
    }
}

/// Sends what is in the buffer, and the object behind it: not empty, or it would have been a small one.
async fn send(
    mut writer: impl AsyncWrite + Unpin,
    buffer: &mut Vec<u8>,
    object: &Object,
) -> Result<(), AskError> {
    let mut left = object.content.len();
    for chunk in object.content.chunks() {
        let chunk = chunk.map_err(AskError::Content)?;
        for piece in chunk.chunks(CHUNK_BYTES) {
            push_length(buffer, piece)?;
            left = left.saturating_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            // The end goes with the last chunk; the chunk itself is not copied once more.
            let end = if left == 0 { END } else { &[] };
            let mut sent = Buf::chain(Buf::chain(buffer.as_slice(), piece), end);
            writer.write_all_buf(&mut sent).await.map_err(AskError::Send)?;
            buffer.clear();
        }
    }
    Ok(())
}

/// What stands before a chunk.
fn push_length(buffer: &mut Vec<u8>, chunk: &[u8]) -> Result<(), AskError> {
    let length = u32::try_from(chunk.len()).map_err(io::Error::other).map_err(AskError::Send)?;
    buffer.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

async fn receive(mut reader: impl AsyncRead + Unpin) -> Result<Reply, AskError> {
    let mut text = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let count = reader.read(&mut buffer).await.map_err(AskError::Receive)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Err(AskError::Closed);
        }
        if let Some(end) = bytes.iter().position(|&c| c == 0) {
            text.extend_from_slice(bytes.get(..end).unwrap_or_default());
            return Ok(Reply { text, is_early: false, is_last: end + 1 == bytes.len() });
        }
        text.extend_from_slice(bytes);
        if text.len() > REPLY_BYTES_MAX {
            return Err(AskError::ReplyTooLong(REPLY_BYTES_MAX));
        }
    }
}

/// What a server's answer to the first command of a session means, if anything; for `tests/fuzz`.
#[doc(hidden)]
#[must_use]
pub fn read_reply(reply: &[u8]) -> Option<EngineOutcome> {
    parse(reply, 1).ok()
}

/// What an answer means. Those to commands of a session start with the number of the command; only a
/// complaint about the session itself may come without.
fn parse(reply: &[u8], command: u32) -> Result<EngineOutcome, AskError> {
    let reply = String::from_utf8_lossy(reply);
    let numbered = reply.strip_prefix(&format!("{command}: ")).map(str::trim);
    let text = numbered.unwrap_or(&reply);
    if text.starts_with("INSTREAM size limit exceeded") {
        return Ok(EngineOutcome::OverSize);
    }
    // Its `MaxScanTime`, where `AlertExceedsMax` is off: another server would take as long.
    if text.ends_with("Time limit reached ERROR") {
        return Ok(EngineOutcome::Limit(printable(text, WHY_BYTES_MAX)));
    }
    match numbered.and_then(|text| text.strip_prefix("stream: ")) {
        Some("OK") => return Ok(EngineOutcome::Clean),
        Some(found) => {
            if let Some(name) = found.strip_suffix(" FOUND").filter(|name| !name.is_empty()) {
                return Ok(named(name));
            }
        }
        None => {}
    }
    let shown = printable(text, WHY_BYTES_MAX);
    Err(if text.ends_with("ERROR") { AskError::Reported(shown) } else { AskError::Rubbish(shown) })
}

#[cfg(test)]
mod tests;
