//! Asks `clamd` servers (clamd(8): `zIDSESSION`, `zINSTREAM`) over TCP or unix sockets.
//!
//! Connections are sessions and are used again, so that a small part costs one round trip. Of several
//! servers the one with the fewest bytes outstanding is asked; if it fails, one other. What clamd did not
//! look at in full comes out as [`EngineOutcome::Limit`], which needs `AlertExceedsMax yes` and
//! `AlertEncrypted yes` in its settings: without them clamd says OK.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::{Engine, EngineOutcome, Object, ScanFuture, printable};

/// Most connections to one server at a time. clamd's `MaxThreads` is 10 unless set otherwise.
pub const CONNECTIONS_MAX: usize = 8;
/// Bytes sent in one chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Longest answer, bytes.
pub const REPLY_BYTES_MAX: usize = 4096;

/// Longest text of an answer that is passed on, bytes.
const WHY_BYTES_MAX: usize = 200;

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
        if let Some(path) = text.strip_prefix("unix:") {
            if path.starts_with('/') {
                return Ok(Self::Unix(path.into()));
            }
        } else if let Some((host, port)) = text.rsplit_once(':')
            && !host.is_empty()
            && port.parse::<u16>().is_ok_and(|port| port > 0)
        {
            return Ok(Self::Tcp(text.to_owned()));
        }
        Err(AddressError(text.to_owned()))
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

/// How long servers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClamdSettings {
    /// Longest wait for a connection to be made. Default 2 s.
    pub connect_time_max: Duration,
    /// Longest wait for a connection to be free, and then again for the answer, sending included.
    /// Default 12 s, so that two servers can be tried in the time of a mail.
    pub answer_time_max: Duration,
    /// How long an idle session is kept. Default 10 s; clamd's own `IdleTimeout` is 30 s.
    pub idle_time_max: Duration,
    /// How long a server that has failed is left alone: nobody waits for what is known to be dead. Then
    /// one object tries it again. Default 1 s.
    pub retry_after: Duration,
}

impl Default for ClamdSettings {
    fn default() -> Self {
        Self {
            connect_time_max: Duration::from_secs(2),
            answer_time_max: Duration::from_secs(12),
            idle_time_max: Duration::from_secs(10),
            retry_after: Duration::from_secs(1),
        }
    }
}

/// Asks one or several servers that are alike.
#[derive(Debug)]
pub struct ClamdEngine {
    servers: Vec<Server>,
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
            .map(|address| Ok(Server::new(address.as_ref().parse()?, settings)))
            .collect::<Result<_, AddressError>>()?;
        Ok(Self { servers })
    }

    async fn ask(&self, bytes: &[u8]) -> EngineOutcome {
        let mut failures = String::new();
        let mut tried: Option<usize> = None;
        for _ in 0..2 {
            let least = self
                .servers
                .iter()
                .enumerate()
                .filter(|(at, server)| Some(*at) != tried && !server.is_down())
                .min_by_key(|(_, server)| server.outstanding.load(Ordering::Relaxed));
            let Some((at, server)) = least else { break };
            let answers = server.answers.load(Ordering::Relaxed);
            match server.ask(bytes).await {
                Ok(outcome) => {
                    server.mark_up();
                    return outcome;
                }
                Err(error) => {
                    tracing::debug!(server = %server.address, %error, "clamd gave no answer");
                    // Who answered others meanwhile is alive: it is this object that takes long.
                    let alive = server.answers.load(Ordering::Relaxed) != answers;
                    if error.is_of_the_server() && !alive {
                        server.mark_down();
                    }
                    if !failures.is_empty() {
                        failures.push_str("; ");
                    }
                    failures.push_str(&format!("{}: {error}", server.address));
                }
            }
            tried = Some(at);
        }
        EngineOutcome::Failed(if failures.is_empty() {
            "no server is up".to_owned()
        } else {
            failures
        })
    }
}

impl Engine for ClamdEngine {
    fn name(&self) -> &'static str {
        "clamd"
    }

    fn scan(&self, object: Object) -> ScanFuture<'_> {
        Box::pin(async move {
            let mut bytes = Vec::new();
            for chunk in object.content.chunks() {
                match chunk {
                    Ok(chunk) => bytes.extend_from_slice(&chunk),
                    Err(error) => return EngineOutcome::Failed(error.to_string()),
                }
            }
            self.ask(&bytes).await
        })
    }

    fn reads_mail(&self) -> bool {
        true
    }

    fn opens_archives(&self) -> bool {
        true
    }
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("all connections are busy")]
    Busy,
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("connect: no answer in time")]
    ConnectTimeout,
    #[error("send: {0}")]
    Send(io::Error),
    #[error("receive: {0}")]
    Receive(io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("it closed the connection without an answer")]
    Closed,
    #[error("its answer is over {REPLY_BYTES_MAX} bytes")]
    ReplyTooLong,
    #[error("it said OK before it had all of it")]
    Early,
    #[error("its answer makes no sense: {0}")]
    Rubbish(String),
    #[error("it reports: {0}")]
    Reported(String),
}

impl AskError {
    /// Whether other objects would fare no better.
    fn is_of_the_server(&self) -> bool {
        !matches!(self, Self::Busy | Self::Reported(_))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One server, with its connections.
struct Server {
    address: Address,
    settings: ClamdSettings,
    /// Bytes it has been asked about and has not answered.
    outstanding: AtomicUsize,
    /// Counts its answers.
    answers: AtomicUsize,
    connections: Semaphore,
    idle: Mutex<Vec<Session>>,
    /// Set where it has failed: when it may be tried again.
    down_until: Mutex<Option<Instant>>,
}

/// A connection in `IDSESSION`.
struct Session {
    stream: Box<dyn Stream>,
    /// Commands sent; clamd numbers its answers by it.
    commands: u32,
    used: Instant,
}

impl Server {
    fn new(address: Address, settings: ClamdSettings) -> Self {
        Self {
            address,
            settings,
            outstanding: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            connections: Semaphore::new(CONNECTIONS_MAX),
            idle: Mutex::default(),
            down_until: Mutex::default(),
        }
    }

    fn is_down(&self) -> bool {
        let until = self.down_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn mark_down(&self) {
        let until = Instant::now() + self.settings.retry_after;
        *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn mark_up(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn ask(&self, bytes: &[u8]) -> Result<EngineOutcome, AskError> {
        let _outstanding = Outstanding::new(&self.outstanding, bytes.len());
        let was_down = self.down_until.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if was_down {
            // This object tries it for all; the others need not wait until it has failed again.
            self.mark_down();
        }
        let time_max = self.settings.answer_time_max;
        // Those before us have the whole time of an answer.
        let _permit = timeout(time_max, self.connections.acquire())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(AskError::Busy)?;
        timeout(time_max, self.exchange(bytes)).await.map_err(|_| AskError::Timeout)?
    }

    async fn exchange(&self, bytes: &[u8]) -> Result<EngineOutcome, AskError> {
        if let Some(session) = self.idle_session() {
            // It may have ended the idle session meanwhile, with or without a word: that is no failure.
            if let Ok(outcome) = self.exchange_on(session, bytes).await {
                return Ok(outcome);
            }
        }
        let session = self.connect().await?;
        self.exchange_on(session, bytes).await
    }

    async fn exchange_on(
        &self,
        mut session: Session,
        bytes: &[u8],
    ) -> Result<EngineOutcome, AskError> {
        session.commands += 1;
        let Answer { reply, is_early } = session.stream(bytes).await?;
        let outcome = parse(&reply, session.commands)?;
        // What it did not wait for it has not looked at.
        if is_early && outcome == EngineOutcome::Clean {
            return Err(AskError::Early);
        }
        if outcome != EngineOutcome::OverSize {
            session.used = Instant::now();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < CONNECTIONS_MAX {
                idle.push(session);
            }
        }
        Ok(outcome)
    }

    fn idle_session(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|session| session.used.elapsed() < self.settings.idle_time_max);
        idle.pop()
    }

    async fn connect(&self) -> Result<Session, AskError> {
        let connected = timeout(self.settings.connect_time_max, async {
            Ok(match &self.address {
                Address::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream) as Box<dyn Stream>
                }
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            })
        });
        match connected.await {
            Ok(Ok(stream)) => Ok(Session { stream, commands: 0, used: Instant::now() }),
            Ok(Err(error)) => Err(AskError::Connect(error)),
            Err(_) => Err(AskError::ConnectTimeout),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Session {
    /// Sends the bytes, gives the answer.
    async fn stream(&mut self, bytes: &[u8]) -> Result<Answer, AskError> {
        let first = self.commands == 1;
        let (reader, writer) = tokio::io::split(&mut self.stream);
        let send = send(writer, bytes, first);
        let receive = receive(reader);
        tokio::pin!(send, receive);
        tokio::select! {
            biased;
            // It does not want the rest: over its size limit, or in trouble.
            reply = &mut receive => return Ok(Answer { reply: reply?, is_early: true }),
            sent = &mut send => if let Err(error) = sent {
                // It has closed; what it said before that still counts.
                let reply = receive.await.map_err(|_| AskError::Send(error))?;
                return Ok(Answer { reply, is_early: true });
            },
        }
        Ok(Answer { reply: receive.await?, is_early: false })
    }
}

/// What a server said of one object.
struct Answer {
    /// Without its NUL.
    reply: Vec<u8>,
    /// It came before everything was sent.
    is_early: bool,
}

async fn send(
    mut writer: impl AsyncWrite + Unpin,
    bytes: &[u8],
    first: bool,
) -> Result<(), io::Error> {
    let mut buffer = Vec::with_capacity(bytes.len().min(CHUNK_BYTES) + 64);
    if first {
        buffer.extend_from_slice(b"zIDSESSION\0");
    }
    buffer.extend_from_slice(b"zINSTREAM\0");
    for chunk in bytes.chunks(CHUNK_BYTES) {
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        buffer.extend_from_slice(&length.to_be_bytes());
        buffer.extend_from_slice(chunk);
        if buffer.len() >= CHUNK_BYTES {
            writer.write_all(&buffer).await?;
            buffer.clear();
        }
    }
    buffer.extend_from_slice(&[0; 4]);
    writer.write_all(&buffer).await?;
    writer.flush().await
}

async fn receive(mut reader: impl AsyncRead + Unpin) -> Result<Vec<u8>, AskError> {
    let mut reply = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let count = reader.read(&mut buffer).await.map_err(AskError::Receive)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Err(AskError::Closed);
        }
        if let Some(end) = bytes.iter().position(|&c| c == 0) {
            reply.extend_from_slice(bytes.get(..end).unwrap_or_default());
            return Ok(reply);
        }
        reply.extend_from_slice(bytes);
        if reply.len() > REPLY_BYTES_MAX {
            return Err(AskError::ReplyTooLong);
        }
    }
}

/// What an answer means. Those to commands of a session start with the number of the command.
fn parse(reply: &[u8], command: u32) -> Result<EngineOutcome, AskError> {
    let reply = String::from_utf8_lossy(reply);
    let text = reply.strip_prefix(&format!("{command}: ")).unwrap_or(&reply).trim();
    if text.contains("size limit exceeded") {
        return Ok(EngineOutcome::OverSize);
    }
    match text.strip_prefix("stream: ") {
        Some("OK") => return Ok(EngineOutcome::Clean),
        Some(found) => {
            if let Some(name) = found.strip_suffix(" FOUND").filter(|name| !name.is_empty()) {
                let shown = printable(name, WHY_BYTES_MAX);
                return Ok(if name.starts_with("Heuristics.Encrypted") {
                    EngineOutcome::Encrypted
                } else if name.starts_with("Heuristics.Limits.Exceeded") {
                    EngineOutcome::Limit(shown)
                } else {
                    EngineOutcome::Found(shown)
                });
            }
        }
        None => {}
    }
    let shown = printable(text, WHY_BYTES_MAX);
    Err(if text.ends_with("ERROR") { AskError::Reported(shown) } else { AskError::Rubbish(shown) })
}

/// Counts bytes while they are outstanding.
struct Outstanding<'a>(&'a AtomicUsize, usize);

impl<'a> Outstanding<'a> {
    fn new(counter: &'a AtomicUsize, bytes: usize) -> Self {
        // At least one, so that idle servers share small objects too.
        let bytes = bytes.max(1);
        counter.fetch_add(bytes, Ordering::Relaxed);
        Self(counter, bytes)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
