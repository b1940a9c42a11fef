//! Asks ICAP servers (RFC 3507): every object is shown to them as the answer to a web request (RESPMOD).
//!
//! `OPTIONS` is asked first, and again when it has expired. Objects go with a preview where the server
//! wants one, the rest follows chunk by chunk when it says `100 Continue`. Connections are used again; of
//! several servers the one with the fewest bytes outstanding is asked (see [`pool`](super::pool)).
//!
//! **What counts as clean.** `204` behind the last byte; or `200` with the object itself, byte for byte, in
//! a response of status 200 (a server may ignore `Allow: 204`), and no word of an infection: it has had
//! every byte, and given every byte back. `204` before the last byte, in answer to a preview for example,
//! means that the server did not want to see the rest: its limit of size, or a type that it does not scan.
//! That is [`EngineOutcome::Limit`], never clean.
//!
//! Whatever fits into the preview is sent whole, so that there the server has to be set to scan all types:
//! with c-icap, `virus_scan.ScanFileTypes` has to name every group that `c-icap.magic` knows, and
//! `virus_scan.PassOnError` has to be `off`.

mod message;
mod verdict;

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use spool::Spooled;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

use self::message::{Head, is_echo, read_encapsulated, read_head, skip_body};
use super::clamd::is_host;
use super::pool::{Answer, AskError, Pool, Protocol, ServerSettings, WHY_BYTES_MAX, lock};
use super::{Counts, Engine, EngineOutcome, Object, ScanFuture, ServerNumbers, printable};

/// Port of ICAP where the address has none (RFC 3507 section 4.2).
pub const PORT_DEFAULT: u16 = 1344;
/// Longest address, bytes.
pub const ADDRESS_BYTES_MAX: usize = 500;
/// Longest preview that is sent, bytes, whatever the server would take.
pub const PREVIEW_BYTES_MAX: usize = 64 * 1024;
/// Longest head of a message, bytes: the server's own, and that of the response in it.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a head.
pub const HEADERS_MAX: usize = 64;
/// Longest file name that is shown to the server, bytes before encoding.
pub const NAME_BYTES_MAX: usize = 100;

/// Least and most time for which an answer to OPTIONS holds. Without the least, `Options-TTL: 0` would
/// double the number of requests.
const OPTIONS_TIMES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));

/// A service: `icap://host[:port]/service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    /// With what follows a question mark; without the slash before it.
    service: String,
}

/// Text that is no [`Address`]; the operator's fault.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no address of an ICAP service: write icap://host/service or icap://host:port/service"
)]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = (text.len() <= ADDRESS_BYTES_MAX).then(|| {
            let (authority, service) = text.strip_prefix("icap://")?.split_once('/')?;
            let (host, port) = match authority.rsplit_once(':') {
                // The last colon may be one of an IPv6 address.
                Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
                _ => (authority, PORT_DEFAULT),
            };
            let is_service = !service.is_empty() && service.bytes().all(|c| c.is_ascii_graphic());
            (is_host(host) && port > 0 && is_service).then(|| Self {
                host: host.to_owned(),
                port,
                service: service.to_owned(),
            })
        });
        address.flatten().ok_or_else(|| AddressError(printable(text, ADDRESS_BYTES_MAX)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "icap://{}:{}/{}", self.host, self.port, self.service)
    }
}

/// Asks one or several servers that are alike.
#[derive(Debug)]
pub struct IcapEngine {
    pool: Pool<Icap>,
}

impl IcapEngine {
    /// An engine that asks the services at these addresses (`icap://host[:port]/service`). It connects
    /// when there is something to ask.
    ///
    /// # Errors
    /// Text that is no address.
    pub fn new(
        addresses: &[impl AsRef<str>],
        settings: ServerSettings,
    ) -> Result<Self, AddressError> {
        let servers = addresses
            .iter()
            .map(|address| {
                Ok(Icap { address: address.as_ref().parse()?, options: Mutex::default() })
            })
            .collect::<Result<_, AddressError>>()?;
        Ok(Self { pool: Pool::new(servers, settings) })
    }
}

impl Engine for IcapEngine {
    fn name(&self) -> &'static str {
        "icap"
    }

    fn scan(&self, object: Object) -> ScanFuture<'_> {
        Box::pin(async move { self.pool.ask(&object).await })
    }

    /// Services differ: some take mail and archives apart, others do not, and none says so. So they are
    /// shown every part, and what nobody unpacks stays unscannable.
    fn reads_mail(&self) -> bool {
        false
    }

    fn looks_at_names(&self) -> bool {
        true
    }

    /// Follows `ISTag` (RFC 3507 section 4.7).
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
struct Icap {
    address: Address,
    options: Mutex<Option<Options>>,
}

/// What a server says of its service (RFC 3507 section 4.10.2).
#[derive(Debug, Clone, Copy)]
struct Options {
    /// Bytes of an object it wants to see before it decides whether it wants the rest.
    preview: Option<usize>,
    connections_max: Option<usize>,
    until: Instant,
}

impl fmt::Display for Icap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// A connection.
struct Session {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// What is sent next.
    buffer: Vec<u8>,
}

impl Protocol for Icap {
    type Session = Session;

    async fn connect(&self) -> Result<Session, AskError> {
        let host = self.address.host.trim_start_matches('[').trim_end_matches(']');
        let stream =
            TcpStream::connect((host, self.address.port)).await.map_err(AskError::Connect)?;
        stream.set_nodelay(true).map_err(AskError::Connect)?;
        let (reader, writer) = stream.into_split();
        Ok(Session { reader: BufReader::new(reader), writer, buffer: Vec::new() })
    }

    async fn exchange(&self, session: &mut Session, object: &Object) -> Result<Answer, AskError> {
        let known = *lock(&self.options);
        let options = match known.filter(|options| Instant::now() < options.until) {
            Some(options) => options,
            None => self.ask_options(session).await?.0,
        };
        session.buffer.clear();
        self.push_request(&mut session.buffer, object, options.preview);
        match options.preview {
            Some(bytes) => session.with_preview(&object.content, bytes).await,
            None => session.stream(&object.content, 0).await,
        }
    }

    async fn probe(&self, session: &mut Session) -> Result<Option<String>, AskError> {
        let (_, head) = self.ask_options(session).await?;
        Ok(version(&head))
    }

    fn connections_max(&self) -> Option<usize> {
        lock(&self.options).and_then(|options| options.connections_max)
    }
}

impl Icap {
    async fn ask_options(&self, session: &mut Session) -> Result<(Options, Head), AskError> {
        let Address { host, port, .. } = &self.address;
        let request = format!(
            "OPTIONS {} ICAP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: avr\r\n\
             Encapsulated: null-body=0\r\n\r\n",
            self.address
        );
        session.writer.write_all(request.as_bytes()).await.map_err(AskError::Send)?;
        let head = read_head(&mut session.reader, "ICAP/").await?;
        if head.status != 200 {
            return Err(reported(&head));
        }
        let methods = head.value("methods").unwrap_or_default();
        if !methods.split(',').any(|method| method.trim().eq_ignore_ascii_case("RESPMOD")) {
            return Err(AskError::Reported(format!(
                "the service has no RESPMOD, only {}",
                printable(methods, WHY_BYTES_MAX)
            )));
        }
        if head.encapsulated().is_some_and(|parts| parts.has_body) {
            skip_body(&mut session.reader).await?;
        }
        let number = |name: &str| head.value(name).and_then(|value| value.parse::<usize>().ok());
        let (least, most) = OPTIONS_TIMES;
        let seconds = number("options-ttl").and_then(|seconds| u64::try_from(seconds).ok());
        let holds = seconds.map_or(most, Duration::from_secs).clamp(least, most);
        let options = Options {
            preview: number("preview").map(|bytes| bytes.min(PREVIEW_BYTES_MAX)),
            connections_max: number("max-connections").filter(|&connections| connections > 0),
            until: Instant::now() + holds,
        };
        *lock(&self.options) = Some(options);
        Ok((options, head))
    }

    /// The heads of a RESPMOD (RFC 3507 section 4.9): the object is the body of a download of that name.
    fn push_request(&self, buffer: &mut Vec<u8>, object: &Object, preview: Option<usize>) {
        let Address { host, port, .. } = &self.address;
        let request = format!(
            "GET http://mail.invalid/{} HTTP/1.1\r\nHost: mail.invalid\r\n\r\n",
            safe_name(object.file_name.as_deref())
        );
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            object.content.len()
        );
        let preview = preview.map(|bytes| format!("Preview: {bytes}\r\n")).unwrap_or_default();
        let head = format!(
            "RESPMOD {} ICAP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: avr\r\nAllow: 204\r\n{preview}\
             Encapsulated: req-hdr=0, res-hdr={}, res-body={}\r\n\r\n",
            self.address,
            request.len(),
            request.len() + response.len(),
        );
        for part in [head, request, response] {
            buffer.extend_from_slice(part.as_bytes());
        }
    }
}

impl Session {
    /// Sends what is in the buffer and the first bytes (RFC 3507 section 4.5); the rest when it is wanted.
    async fn with_preview(&mut self, content: &Spooled, bytes: usize) -> Result<Answer, AskError> {
        let mut sent: u64 = 0;
        let room = u64::try_from(bytes).unwrap_or(u64::MAX);
        while sent < room.min(content.len()) {
            let piece = content.read_at(sent).map_err(AskError::Content)?;
            let left = usize::try_from(room - sent).unwrap_or(usize::MAX);
            let piece = piece.slice(..piece.len().min(left));
            push_chunk(&mut self.buffer, &piece);
            sent = sent.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        let is_all = sent == content.len();
        let end: &[u8] = if is_all { b"0; ieof\r\n\r\n" } else { b"0\r\n\r\n" };
        self.buffer.extend_from_slice(end);
        self.writer.write_all(&self.buffer).await.map_err(AskError::Send)?;
        self.buffer.clear();
        let head = read_head(&mut self.reader, "ICAP/").await?;
        if head.status == 100 && !is_all {
            return self.stream(content, sent).await;
        }
        let said = Said::read(&mut self.reader, head, content).await?;
        Ok(said.answer(sent, content))
    }

    /// Sends what is in the buffer and all from `offset` on, listening meanwhile.
    async fn stream(&mut self, content: &Spooled, offset: u64) -> Result<Answer, AskError> {
        let Self { reader, writer, buffer } = self;
        let mut sent = offset;
        let (said, is_early) = {
            let send = send(writer, buffer, content, &mut sent);
            let receive = async {
                let head = read_head(reader, "ICAP/").await?;
                Said::read(reader, head, content).await
            };
            tokio::pin!(send, receive);
            tokio::select! {
                biased;
                said = &mut receive => (said?, true),
                result = &mut send => match result {
                    Ok(()) => (receive.await?, false),
                    Err(error @ AskError::Content(_)) => return Err(error),
                    // It has closed; what it said before that still counts.
                    Err(error) => (receive.await.map_err(|_| error)?, true),
                },
            }
        };
        buffer.clear();
        let mut answer = said.answer(sent, content);
        // Everything may have been sent but the end of it.
        answer.reusable &= !is_early;
        Ok(answer)
    }
}

/// Sends what is in the buffer, the content from `sent` on, and the end. Keeps `sent` up to date.
async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    buffer: &mut Vec<u8>,
    content: &Spooled,
    sent: &mut u64,
) -> Result<(), AskError> {
    loop {
        let piece: Bytes = content.read_at(*sent).map_err(AskError::Content)?;
        if piece.is_empty() {
            break;
        }
        push_chunk(buffer, &piece);
        let next = sent.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        // The end goes with the last chunk.
        if next < content.len() {
            writer.write_all(buffer).await.map_err(AskError::Send)?;
            buffer.clear();
            *sent = next;
        } else {
            break;
        }
    }
    buffer.extend_from_slice(b"0\r\n\r\n");
    writer.write_all(buffer).await.map_err(AskError::Send)?;
    *sent = content.len();
    Ok(())
}

/// One chunk (RFC 9112 section 7.1); one of no bytes would be the end.
fn push_chunk(buffer: &mut Vec<u8>, piece: &[u8]) {
    if !piece.is_empty() {
        buffer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        buffer.extend_from_slice(piece);
        buffer.extend_from_slice(b"\r\n");
    }
}

/// What a server said of an object, before it is known whether it had all of it.
struct Said {
    outcome: EngineOutcome,
    version: Option<String>,
    /// Its answer is read to the end, and it does not close behind it.
    is_complete: bool,
}

impl Said {
    /// Reads what follows the head of an answer, as far as it matters.
    async fn read(
        reader: &mut (impl AsyncBufRead + Unpin),
        head: Head,
        content: &Spooled,
    ) -> Result<Self, AskError> {
        let version = version(&head);
        let is_kept = !head.has_token("connection", "close");
        let said = |outcome, is_complete| Self { outcome, version, is_complete };
        if let Some(outcome) = verdict::of_headers(&head) {
            return Ok(said(outcome, head.status == 204 && is_kept));
        }
        match head.status {
            204 => return Ok(said(EngineOutcome::Clean, is_kept)),
            200 => {}
            413 => return Ok(said(EngineOutcome::OverSize, false)),
            _ => return Err(reported(&head)),
        }
        let parts =
            head.encapsulated().ok_or_else(|| AskError::rubbish("200 without a message"))?;
        let response = read_encapsulated(reader, &parts).await?;
        if let Some(outcome) = verdict::of_response(&response) {
            return Ok(said(outcome, false));
        }
        if response.status != 200 {
            return Err(AskError::Reported(format!("a page of status {}", response.status)));
        }
        let is_echo =
            if parts.has_body { is_echo(reader, content).await? } else { content.is_empty() };
        // Something else in its place: a page that says why, or what it made of it.
        let replaced = || EngineOutcome::Found(verdict::REPLACED.to_owned());
        Ok(said(if is_echo { EngineOutcome::Clean } else { replaced() }, is_echo && is_kept))
    }

    /// With `sent` bytes on their way when it came.
    fn answer(self, sent: u64, content: &Spooled) -> Answer {
        let Self { outcome, version, is_complete } = self;
        let is_all = sent == content.len();
        let outcome = match outcome {
            EngineOutcome::Clean if !is_all => EngineOutcome::Limit(format!(
                "it let the object pass after {sent} of {} bytes",
                content.len()
            )),
            outcome => outcome,
        };
        // Behind a preview that it does not want the rest of, the connection is as good as new.
        Answer { outcome, reusable: is_complete, version }
    }
}

fn version(head: &Head) -> Option<String> {
    head.value("istag").map(|tag| printable(tag, WHY_BYTES_MAX))
}

fn reported(head: &Head) -> AskError {
    AskError::Reported(printable(&format!("{} {}", head.status, head.reason), WHY_BYTES_MAX))
}

/// A name as one segment of a URL: letters, digits, `.`, `-` and `_` as they are, the rest as `%XX`.
fn safe_name(name: Option<&str>) -> String {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("part");
    let mut safe = String::new();
    // The end says what kind of file it is.
    let from = name.len().saturating_sub(NAME_BYTES_MAX);
    for &byte in name.as_bytes().get(from..).unwrap_or_default() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            safe.push(char::from(byte));
        } else {
            safe.push_str(&format!("%{byte:02X}"));
        }
    }
    safe
}

/// What the head of an answer says of an object, if anything; for `tests/fuzz`.
#[doc(hidden)]
#[must_use]
pub fn read_answer_head(bytes: &[u8]) -> Option<EngineOutcome> {
    let head = Head::parse(bytes, "ICAP/").ok()?;
    match head.encapsulated() {
        Some(_) => verdict::of_response(&head),
        None => verdict::of_headers(&head),
    }
}

#[cfg(test)]
mod tests;
