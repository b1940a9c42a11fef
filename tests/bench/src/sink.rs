//! The mail server of the comparison: takes mail, compares every byte with what was sent, counts.

use std::{
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::message::{Arrived, Comparison, END_OF_DATA, Pool};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Longest command line, in bytes (RFC 5321, section 4.5.3.1.4, and parameters).
const LINE_BYTES_MAX: u64 = 2_048;
/// Said on standard output when mail is taken.
pub(crate) const READY: &str = "ready";
/// Asks on standard input for the counts since the last time.
pub(crate) const TAKE: &str = "take";

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Byte for byte as sent.
    pub(crate) exact: u64,
    /// With header fields added to what was sent.
    pub(crate) fields_added: u64,
    /// Different in another way.
    pub(crate) altered: u64,
    /// Not of the comparison.
    pub(crate) foreign: u64,
}

impl Counts {
    /// All mails.
    #[must_use]
    pub(crate) fn mails(self) -> u64 {
        self.exact + self.fields_added + self.altered + self.foreign
    }

    /// Adds these to those.
    pub(crate) fn add(&mut self, more: Self) {
        self.exact += more.exact;
        self.fields_added += more.fields_added;
        self.altered += more.altered;
        self.foreign += more.foreign;
    }

    /// Counts one mail more.
    pub(crate) fn count(&mut self, arrived: Arrived) {
        *match arrived {
            Arrived::Exact => &mut self.exact,
            Arrived::FieldsAdded => &mut self.fields_added,
            Arrived::Altered => &mut self.altered,
            Arrived::Foreign => &mut self.foreign,
        } += 1;
    }
}

/// Where the sink listens.
#[derive(Debug, clap::Args)]
pub(crate) struct Sink {
    /// Address and port; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
}

#[derive(Debug, Default)]
struct Shared {
    pool: Pool,
    counts: Mutex<Counts>,
}

impl Sink {
    /// Takes mail until standard input ends. Each line [`TAKE`] there is answered by the [`Counts`]
    /// since the last, in JSON.
    ///
    /// # Errors
    /// When it cannot listen.
    pub(crate) fn run(self) -> Result<()> {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = Arc::clone(&shared);
        runtime.block_on(async {
            for address in self.listen {
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
                tokio::spawn(accept(listener, Arc::clone(&shared)));
            }
            tokio::task::spawn_blocking(move || answer(&asked)).await?
        })
    }
}

fn answer(shared: &Shared) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{READY}")?;
    for line in std::io::stdin().lock().lines() {
        if line? == TAKE {
            let mut counts = shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = serde_json::to_string(&std::mem::take(&mut *counts))?;
            writeln!(stdout, "{counts}")?;
        }
    }
    Ok(())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let shared = Arc::clone(&shared);
        // A session that breaks is the client's to report.
        tokio::spawn(async move { drop(serve(stream, &shared).await) });
    }
}

/// One session, as RFC 5321 has it.
async fn serve(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(READ_BYTES, stream);
    reply(&mut stream, "220 sink.bench.test ESMTP").await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or(&line).to_ascii_uppercase();
        match verb.as_slice() {
            b"EHLO" => reply(&mut stream, EHLO_REPLY).await?,
            b"HELO" => reply(&mut stream, "250 sink.bench.test").await?,
            b"DATA" => {
                reply(&mut stream, "354 End data with <CR><LF>.<CR><LF>").await?;
                let arrived = receive(&mut stream, &shared.pool).await?;
                shared.counts.lock().unwrap_or_else(PoisonError::into_inner).count(arrived);
                reply(&mut stream, "250 2.0.0 Taken").await?;
            }
            b"QUIT" => {
                reply(&mut stream, "221 2.0.0 Bye").await?;
                return Ok(stream.get_mut().shutdown().await?);
            }
            b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => reply(&mut stream, "250 2.0.0 Ok").await?,
            _ => reply(&mut stream, "502 5.5.1 Not here").await?,
        }
    }
}

const EHLO_REPLY: &str = "250-sink.bench.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n\
                          250-8BITMIME\r\n250 ENHANCEDSTATUSCODES";

async fn reply(stream: &mut BufReader<TcpStream>, text: &str) -> Result<()> {
    Ok(stream.get_mut().write_all(format!("{text}\r\n").as_bytes()).await?)
}

async fn receive(stream: &mut BufReader<TcpStream>, pool: &Pool) -> Result<Arrived> {
    let (mut framing, mut comparison) = (Framing::default(), Comparison::default());
    loop {
        let bytes = stream.fill_buf().await?;
        if bytes.is_empty() {
            bail!("the connection was closed within a message");
        }
        let length = bytes.len();
        let ended = framing.push(bytes, |part| comparison.push(pool, part));
        stream.consume(ended.unwrap_or(length));
        if ended.is_some() {
            return Ok(comparison.finish());
        }
    }
}

/// Finds the end of a mail: CRLF, a dot, CRLF (RFC 5321, section 4.1.1.4), and nothing else.
#[derive(Debug)]
pub(crate) struct Framing {
    /// The last bytes, which may be the beginning of the end; at first the CRLF after DATA.
    window: Vec<u8>,
    /// So many of them are not the mail's.
    before: usize,
}

impl Default for Framing {
    fn default() -> Self {
        Self { window: b"\r\n".to_vec(), before: 2 }
    }
}

impl Framing {
    const END: &[u8] = b"\r\n.\r\n";

    /// Takes the next bytes. Gives those of the mail to `take`, dots still doubled; and when the
    /// mail ended, how many of `bytes` belong to it and its end.
    pub(crate) fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) -> Option<usize> {
        let known = self.window.len();
        self.window.extend_from_slice(bytes);
        if let Some(found) = memchr::memmem::find(&self.window, Self::END) {
            let end = found + Self::END.len();
            take(&self.window[self.before..end - END_OF_DATA.len()]);
            return Some(end - known);
        }
        let settled = self.window.len().saturating_sub(Self::END.len() - 1);
        if settled > self.before {
            take(&self.window[self.before..settled]);
            self.window.drain(..settled);
            self.before = 0;
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::message::{Id, Message};

    /// A mail server on a thread of its own, as long as the tests run; counts what it took.
    pub(crate) fn start() -> (SocketAddr, impl Fn() -> Counts) {
        let shared = Arc::new(Shared::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                accept(TcpListener::from_std(listener).unwrap(), serving).await;
            });
        });
        (address, move || *shared.counts.lock().unwrap())
    }

    /// What is taken for the mail, and what is left, with `bytes` in pieces of that size.
    fn framed(bytes: &[u8], piece: usize) -> Option<(Vec<u8>, usize)> {
        let mut framing = Framing::default();
        let mut mail = Vec::new();
        let mut consumed = 0;
        for chunk in bytes.chunks(piece) {
            if let Some(length) = framing.push(chunk, |part| mail.extend_from_slice(part)) {
                return Some((mail, bytes.len() - consumed - length));
            }
            consumed += chunk.len();
        }
        None
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_mail() {
        for (bytes, mail, left) in [
            ("a\r\n.\r\n", "a\r\n", 0),
            (".\r\n", "", 0),
            ("a\r\n..\r\n.\r\nQUIT\r\n", "a\r\n..\r\n", 6),
            ("a\n.\n\r\n.\r\n", "a\n.\n\r\n", 0),
            ("a\r\n.\n.\r\n\r\n.\r\n", "a\r\n.\n.\r\n\r\n", 0),
            ("a\r.\r\n\r\r\n.\r\nx", "a\r.\r\n\r\r\n", 1),
        ] {
            for piece in 1..=bytes.len() {
                let expected = Some((mail.as_bytes().to_vec(), left));
                assert_eq!(framed(bytes.as_bytes(), piece), expected, "{bytes:?} by {piece}");
            }
        }
    }

    #[test]
    fn without_an_end_a_mail_goes_on() {
        for bytes in ["", ".", "a\r\n.\r", "a\n.\n", "a.\r\n", "\r\n.\r.\r\n"] {
            for piece in 1..=bytes.len().max(1) {
                assert_eq!(framed(bytes.as_bytes(), piece), None, "{bytes:?} by {piece}");
            }
        }
    }

    #[tokio::test]
    async fn a_session_is_served_and_its_mails_are_counted() {
        let shared = Arc::new(Shared::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        let id = Id { run: 1, number: 2, size: 5_000, repeated: false };
        let mail = Message::new(id).to_vec(&shared.pool);
        let changed = String::from_utf8(mail.clone()).unwrap().replace("noon", "Noon");
        let mut client = TcpStream::connect(address).await.unwrap();
        // All at once: a server that offers PIPELINING reads on.
        let mut said = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n".to_vec();
        said.extend([&mail[..], END_OF_DATA, b"DATA\r\n"].concat());
        said.extend(
            [changed.as_bytes(), END_OF_DATA, b"DATA\r\nhello\r\n.\r\nBDAT 1\r\n"].concat(),
        );
        said.extend(b"QUIT\r\n");
        client.write_all(&said).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        let codes: Vec<_> = answers.lines().map(|line| &line[..4]).collect();
        assert_eq!(
            codes.join(""),
            "220 250-250-250-250-250 250 250 354 250 354 250 354 250 502 221 "
        );
        let counts = *shared.counts.lock().unwrap();
        assert_eq!(counts, Counts { exact: 1, altered: 1, foreign: 1, fields_added: 0 });
        assert_eq!(counts.mails(), 3);
    }
}
