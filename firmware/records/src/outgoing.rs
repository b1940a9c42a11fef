//! A small SMTP client, for `quarantine release --via`: hands one mail to one server,
//! unchanged.
//!
//! No header is added, also none of those that tell of a resending (RFC 5322 section 3.6.6): what
//! was held back arrives byte for byte, signatures included. No TLS and no login, so the server is
//! one that takes mail from this machine. What SMTP cannot carry unchanged is refused before
//! anything is sent.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use bytes::Bytes;
use quarantine::VaultError;
use telemetry::escape;

/// How long a server may take to accept a connection.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(30);
/// How long a server may take to answer, or to take bytes (RFC 5321 section 4.5.3.2).
pub(crate) const REPLY_MAX: Duration = Duration::from_secs(5 * 60);
/// How long a server may take to answer the final dot (RFC 5321 section 4.5.3.2.6).
pub(crate) const ACCEPT_MAX: Duration = Duration::from_secs(10 * 60);
/// Longest line of a reply, in bytes: four times what RFC 5321 section 4.5.3.1.5 allows.
pub(crate) const REPLY_LINE_BYTES_MAX: usize = 2048;
/// Most lines of a reply.
pub(crate) const REPLY_LINES_MAX: usize = 128;
/// Longest address, in bytes (RFC 5321 section 4.5.3.1.3).
pub(crate) const ADDRESS_BYTES_MAX: usize = 254;

/// Why a mail was not sent, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The mail server is not there.
    #[error("connect to {via}; write the mail server as HOST:PORT")]
    Connect {
        /// As it was named.
        via: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or the server was too slow.
    #[error("{step}: the mail server does not answer; nothing is known of the mail")]
    Lost {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server broke the protocol.
    #[error("{step}: what the mail server answers is no SMTP reply")]
    NoReply {
        /// What was being done.
        step: &'static str,
    },
    /// The server does not want it.
    #[error("{step}: the mail server refuses: {code} {text}")]
    Refused {
        /// What was being done.
        step: String,
        /// Of the reply.
        code: u16,
        /// Of the reply, escaped.
        text: String,
    },
    /// The address would not be what it seems.
    #[error("{} is no address that can be sent; name one", escape(address.as_bytes()))]
    Address {
        /// As it was given.
        address: String,
    },
    /// 8-bit content, and RFC 6152 is missing.
    #[error(
        "the mail has 8-bit bytes, and the mail server takes only 7-bit mail; use --to FILE.eml"
    )]
    EightBit,
    /// An international address, and RFC 6531 is missing.
    #[error("the mail server takes no international addresses (SMTPUTF8); name others or use --to")]
    International,
    /// SMTP has CRLF and nothing else.
    #[error("the mail has line ends that SMTP cannot carry unchanged; use --to FILE.eml")]
    LineEnds,
    /// The quarantine's fault.
    #[error("read the mail")]
    Content(#[source] VaultError),
}

/// Whom a mail is from and for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope<'a> {
    /// The reverse path without brackets; empty for one that wants no answer.
    pub from: &'a str,
    /// Forward paths without brackets; at least one.
    pub to: &'a [String],
}

/// What the server must be able to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Size as it crosses the wire but for doubled dots, in bytes.
    pub bytes: u64,
    /// Some byte is over 127.
    has_8bit: bool,
    /// The last byte so far.
    last: Option<u8>,
    /// A CR or LF stood alone.
    has_bare_line_end: bool,
}

impl Shape {
    /// Looks through a mail, and verifies all of it on the way.
    ///
    /// # Errors
    ///
    /// It cannot be read, or SMTP cannot carry it.
    pub(crate) fn of(
        chunks: impl Iterator<Item = Result<Bytes, VaultError>>,
    ) -> Result<Self, SendError> {
        let mut shape = Self::default();
        for chunk in chunks {
            shape.add(&chunk.map_err(SendError::Content)?);
        }
        shape.has_bare_line_end |= shape.last == Some(b'\r');
        if shape.has_bare_line_end { Err(SendError::LineEnds) } else { Ok(shape) }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for &byte in bytes {
            self.has_8bit |= byte >= 0x80;
            let is_after_cr = self.last == Some(b'\r');
            self.has_bare_line_end |= is_after_cr != (byte == b'\n');
            self.last = Some(byte);
        }
    }
}

/// Sends a mail to the server `via` (`HOST:PORT`); what the server said when it had taken it.
///
/// # Errors
///
/// It was not taken, or not by all recipients; then nothing has been sent to anyone, but for
/// [`SendError::Lost`] at the end.
pub(crate) fn send(
    via: &str,
    envelope: Envelope<'_>,
    shape: Shape,
    chunks: impl Iterator<Item = Result<Bytes, VaultError>>,
) -> Result<String, SendError> {
    check_address(envelope.from, true)?;
    envelope.to.iter().try_for_each(|address| check_address(address, false))?;
    let failed = |source| SendError::Connect { via: via.to_owned(), source };
    let stream = connect(via).map_err(failed)?;
    let own = stream.local_addr().map_err(failed)?;
    let mut client = Client::new(stream).map_err(failed)?;
    client.open(own)?;
    client.envelope(envelope, shape)?;
    let taken = client.data(chunks)?;
    // The mail is the server's by now, whatever becomes of the farewell.
    let _ = client.command("QUIT", "QUIT", 221);
    Ok(taken)
}

/// None that could be read as more than an address, or that the quarantine had to change.
fn check_address(address: &str, may_be_empty: bool) -> Result<(), SendError> {
    let is_good = |c: char| !c.is_control() && !matches!(c, '<' | '>' | ' ' | '\u{fffd}' | '…');
    let is_there = may_be_empty || !address.is_empty();
    if is_there && address.len() <= ADDRESS_BYTES_MAX && address.chars().all(is_good) {
        return Ok(());
    }
    Err(SendError::Address { address: address.to_owned() })
}

fn connect(via: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in via.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[derive(Debug)]
struct Client {
    replies: BufReader<TcpStream>,
    out: BufWriter<TcpStream>,
    /// Keywords of the EHLO reply, in capitals.
    extensions: Vec<String>,
}

impl Client {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(REPLY_MAX))?;
        stream.set_write_timeout(Some(REPLY_MAX))?;
        let out = BufWriter::new(stream.try_clone()?);
        Ok(Self { replies: BufReader::new(stream), out, extensions: Vec::new() })
    }

    fn open(&mut self, own: SocketAddr) -> Result<(), SendError> {
        self.expect("greeting", "greeting", 220)?;
        // An address literal is a name that is always right (RFC 5321 section 4.1.3).
        let name = match own {
            SocketAddr::V4(own) => format!("[{}]", own.ip()),
            SocketAddr::V6(own) => format!("[IPv6:{}]", own.ip()),
        };
        let lines = self.command("EHLO", &format!("EHLO {name}"), 250)?;
        let keyword =
            |line: &String| line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        self.extensions = lines.iter().skip(1).map(keyword).collect();
        Ok(())
    }

    fn envelope(&mut self, envelope: Envelope<'_>, shape: Shape) -> Result<(), SendError> {
        let offers = |extension: &str| self.extensions.iter().any(|known| known == extension);
        let mut mail = format!("MAIL FROM:<{}>", envelope.from);
        if offers("SIZE") {
            mail += &format!(" SIZE={}", shape.bytes);
        }
        if shape.has_8bit {
            if !offers("8BITMIME") {
                return Err(SendError::EightBit);
            }
            mail += " BODY=8BITMIME";
        }
        if !envelope.from.is_ascii() || !envelope.to.iter().all(|address| address.is_ascii()) {
            if !offers("SMTPUTF8") {
                return Err(SendError::International);
            }
            mail += " SMTPUTF8";
        }
        self.command("MAIL FROM", &mail, 250)?;
        for address in envelope.to {
            let command = format!("RCPT TO:<{address}>");
            self.put("RCPT TO", &command)?;
            // All or none: who is told that the mail was sent must not have to ask to whom.
            self.expect("RCPT TO", &command, 250)?;
        }
        Ok(())
    }

    fn data(
        &mut self,
        chunks: impl Iterator<Item = Result<Bytes, VaultError>>,
    ) -> Result<String, SendError> {
        self.command("DATA", "DATA", 354)?;
        let lost = |source| SendError::Lost { step: "send the mail", source };
        let mut last = None;
        for chunk in chunks {
            // The connection is dropped without the dot then, and the server drops the mail.
            let chunk = chunk.map_err(SendError::Content)?;
            write_stuffed(&mut self.out, &chunk, &mut last).map_err(lost)?;
        }
        // A last line without an end gets one: the dot needs a line of its own.
        let end: &[u8] = if matches!(last, None | Some(b'\n')) { b".\r\n" } else { b"\r\n.\r\n" };
        self.out.write_all(end).and_then(|()| self.out.flush()).map_err(lost)?;
        self.out.get_ref().set_read_timeout(Some(ACCEPT_MAX)).map_err(lost)?;
        Ok(self.expect("final dot", "final dot", 250)?.join(" "))
    }

    fn command(
        &mut self,
        step: &'static str,
        command: &str,
        wanted: u16,
    ) -> Result<Vec<String>, SendError> {
        self.put(step, command)?;
        self.expect(step, step, wanted)
    }

    fn put(&mut self, step: &'static str, command: &str) -> Result<(), SendError> {
        write!(self.out, "{command}\r\n")
            .and_then(|()| self.out.flush())
            .map_err(|source| SendError::Lost { step, source })
    }

    /// The text of the reply's lines, escaped. A code that differs in its last digits is good as
    /// well.
    fn expect(
        &mut self,
        step: &'static str,
        command: &str,
        wanted: u16,
    ) -> Result<Vec<String>, SendError> {
        let (code, lines) = read_reply(&mut self.replies, step)?;
        if code / 100 == wanted / 100 {
            return Ok(lines);
        }
        Err(SendError::Refused { step: command.to_owned(), code, text: lines.join(" ") })
    }
}

/// Doubles dots at the beginning of lines (RFC 5321 section 4.5.2). `last` is the byte before.
fn write_stuffed(out: &mut impl Write, bytes: &[u8], last: &mut Option<u8>) -> io::Result<()> {
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") && matches!(last, None | Some(b'\n')) {
            out.write_all(b".")?;
        }
        out.write_all(line)?;
        *last = line.last().copied();
    }
    Ok(())
}

fn read_reply(
    replies: &mut impl BufRead,
    step: &'static str,
) -> Result<(u16, Vec<String>), SendError> {
    let mut texts = Vec::new();
    let mut first = None;
    for _ in 0..REPLY_LINES_MAX {
        let mut line = Vec::new();
        let mut limited = replies.by_ref().take(REPLY_LINE_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut line).map_err(|source| SendError::Lost { step, source })?;
        if line.is_empty() {
            let source = io::ErrorKind::UnexpectedEof.into();
            return Err(SendError::Lost { step, source });
        }
        let (code, goes_on, text) = parse_line(&line).ok_or(SendError::NoReply { step })?;
        if *first.get_or_insert(code) != code {
            break;
        }
        texts.push(escape(text).to_string());
        if !goes_on {
            return Ok((code, texts));
        }
    }
    Err(SendError::NoReply { step })
}

/// Code, whether more lines follow, and text (RFC 5321 section 4.2).
fn parse_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let line = line.strip_suffix(b"\n")?.trim_ascii_end();
    let (code, rest) = line.split_at_checked(3)?;
    let code: u16 = std::str::from_utf8(code).ok()?.parse().ok()?;
    let (goes_on, text) = match rest.split_first() {
        None => (false, rest),
        Some((b' ', text)) => (false, text),
        Some((b'-', text)) => (true, text),
        Some(_) => return None,
    };
    (200..600).contains(&code).then_some((code, goes_on, text))
}

#[cfg(test)]
mod tests;
