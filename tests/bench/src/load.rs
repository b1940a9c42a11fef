//! The mail programs of the comparison: so many sessions at once, each command answered before the
//! next is sent, for a time or a number of mails.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    clamd::Clamd,
    message::{END_OF_DATA, Id, Message, Pool},
};

/// Bytes written at once.
const WRITE_BYTES: usize = 64 * 1024;
/// Longest wait for any reply.
const REPLY_MAX: Duration = Duration::from_secs(120);
/// A connection without a banner for this long is lost, and made again: a server whose queue of new
/// connections overflows forgets some of those that the client holds to be there.
const BANNER_MAX: Duration = Duration::from_secs(1);
/// Connections lost in a row before that is an error.
const LOST_MAX: u32 = 60;
/// Errors after which the rest is not tried.
const ERRORS_MAX: usize = 20;

/// What is sent, and to whom. With `--clamd` alone the mails are scanned and sent nowhere; with both,
/// `clamd` is asked for each mail at the same time, and its end is sent after the verdict.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// The SMTP server.
    #[arg(long)]
    pub(crate) to: Option<SocketAddr>,
    /// The socket of a `clamd`.
    #[arg(long)]
    pub(crate) clamd: Option<PathBuf>,
    /// Number of the measurement: no two have the same mails.
    #[arg(long)]
    pub(crate) run: u32,
    /// Size of a mail, in bytes.
    #[arg(long)]
    pub(crate) size: usize,
    /// All mails with the same attachment.
    #[arg(long)]
    pub(crate) repeated: bool,
    /// Sessions at once.
    #[arg(long)]
    pub(crate) sessions: u32,
    /// Mails in a session, before it ends and the next begins.
    #[arg(long)]
    pub(crate) mails: u32,
    /// No mail is begun after so many milliseconds.
    #[arg(long)]
    pub(crate) milliseconds: u64,
    /// No more mails than this.
    #[arg(long)]
    pub(crate) count: u32,
    /// Each session sends no faster than this.
    #[arg(long)]
    pub(crate) bytes_per_second: Option<u64>,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// From the first connection's start to the last mail's "250".
    pub(crate) seconds: f64,
    /// For each mail: from its last piece, of 64 KiB or less, to the reply, in microseconds.
    pub(crate) latencies_us: Vec<u64>,
    /// Connections that had no banner in time, and were made again.
    pub(crate) lost: u32,
    /// Bytes of all mails.
    pub(crate) bytes: u64,
    /// What went wrong.
    pub(crate) errors: Vec<String>,
}

struct Shared {
    load: Load,
    pool: Pool,
    begun: Cell<u32>,
    start: Instant,
    done: RefCell<Done>,
}

impl Load {
    /// Does it.
    ///
    /// # Errors
    /// When nothing can be begun at all; what fails later is in the result.
    pub(crate) fn run(self) -> Result<Done> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let pool = Pool::new();
            let (begun, start) = (Cell::new(0), Instant::now());
            let done = RefCell::default();
            let shared = Rc::new(Shared { load: self, pool, begun, start, done });
            let one = |_| tokio::task::spawn_local(sessions(Rc::clone(&shared)));
            let tasks: Vec<_> = (0..shared.load.sessions).map(one).collect();
            for task in tasks {
                task.await.context("a session's task")?;
            }
            Ok(shared.done.take())
        })
    }
}

/// One session after the other.
async fn sessions(shared: Rc<Shared>) {
    while let Some(id) = shared.next() {
        if let Err(error) = session(&shared, id).await {
            let errors = &mut shared.done.borrow_mut().errors;
            errors.push(format!("{error:#}"));
            if errors.len() >= ERRORS_MAX {
                return;
            }
        }
    }
}

async fn session(shared: &Shared, first: Id) -> Result<()> {
    let load = &shared.load;
    let mut clamd = match &load.clamd {
        Some(path) => Some(Clamd::open(path).await?),
        None => None,
    };
    let mut smtp = match load.to {
        Some(address) => Some(open(shared, address).await?),
        None => None,
    };
    let mut next = Some(first);
    if let Some(smtp) = &mut smtp {
        smtp.command("EHLO pc.bench.test\r\n", "250").await?;
    }
    for sent in 1..=load.mails {
        let Some(id) = next else { break };
        let message = Message::new(id);
        let latency = match (&mut smtp, &mut clamd) {
            (Some(smtp), clamd) => smtp.send(shared, &message, clamd.as_mut()).await?,
            (None, Some(clamd)) => {
                let ending = clamd.send(&shared.pool, &message).await?;
                clamd.read_clean().await?;
                ending.elapsed()
            }
            (None, None) => bail!("neither --to nor --clamd"),
        };
        shared.count(&message, latency);
        next = if sent < load.mails { shared.next() } else { None };
    }
    match smtp {
        Some(smtp) => smtp.quit().await,
        None => Ok(()),
    }
}

async fn open(shared: &Shared, address: SocketAddr) -> Result<Smtp> {
    for _ in 0..LOST_MAX {
        match timeout(BANNER_MAX, Smtp::open(address)).await {
            Ok(opened) => return opened,
            Err(_) => shared.done.borrow_mut().lost += 1,
        }
    }
    bail!("{LOST_MAX} connections without a banner")
}

impl Shared {
    /// The next mail, if there is to be one.
    fn next(&self) -> Option<Id> {
        let number = self.begun.get();
        let in_time = self.start.elapsed() < Duration::from_millis(self.load.milliseconds);
        if number >= self.load.count || !in_time {
            return None;
        }
        self.begun.set(number + 1);
        let Load { run, size, repeated, .. } = self.load;
        Some(Id { run, number, size, repeated })
    }

    fn count(&self, message: &Message, latency: Duration) {
        let mut done = self.done.borrow_mut();
        done.latencies_us.push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        done.bytes += message.bytes() as u64;
        done.seconds = self.start.elapsed().as_secs_f64();
    }
}

/// A session, greeted.
struct Smtp {
    stream: BufReader<TcpStream>,
    buffer: Vec<u8>,
    line: String,
}

impl Smtp {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let buffer = Vec::with_capacity(WRITE_BYTES);
        let mut smtp = Self { stream: BufReader::new(stream), buffer, line: String::new() };
        smtp.read("220").await.context("reading the banner")?;
        Ok(smtp)
    }

    /// Sends a mail, and gives the time from its end to the "250".
    async fn send(
        &mut self,
        shared: &Shared,
        message: &Message,
        clamd: Option<&mut Clamd>,
    ) -> Result<Duration> {
        self.command("MAIL FROM:<user@bench.test>\r\n", "250").await?;
        self.command("RCPT TO:<partner@bench.test>\r\n", "250").await?;
        self.command("DATA\r\n", "354").await?;
        let ending = match clamd {
            Some(clamd) => {
                clamd.send(&shared.pool, message).await?;
                let ending = self.send_body(shared, message, &[]).await?;
                clamd.read_clean().await?;
                self.stream.get_mut().write_all(END_OF_DATA).await.context("sending the end")?;
                ending
            }
            None => self.send_body(shared, message, END_OF_DATA).await?,
        };
        self.read("250").await.context("reading the reply to the mail")?;
        Ok(ending.elapsed())
    }

    /// Sends it, with `end` behind it, and gives the moment before the last piece was written. After
    /// it would be too late: on the same core the mail server runs before the write returns.
    async fn send_body(
        &mut self,
        shared: &Shared,
        message: &Message,
        end: &[u8],
    ) -> Result<Instant> {
        let start = Instant::now();
        let mut position = 0;
        loop {
            self.buffer.clear();
            while self.buffer.len() < WRITE_BYTES && position < message.bytes() {
                let bytes = message.at(&shared.pool, position);
                let room = WRITE_BYTES - self.buffer.len();
                let bytes = &bytes[..bytes.len().min(room)];
                self.buffer.extend_from_slice(bytes);
                position += bytes.len();
            }
            if position == message.bytes() {
                self.buffer.extend_from_slice(end);
            }
            if let Some(speed) = shared.load.bytes_per_second {
                let due = Duration::from_secs_f64(position as f64 / speed as f64);
                sleep_until(start + due).await;
            }
            let before = Instant::now();
            self.stream.get_mut().write_all(&self.buffer).await.context("sending a mail")?;
            if position == message.bytes() {
                return Ok(before);
            }
        }
    }

    async fn quit(mut self) -> Result<()> {
        self.command("QUIT\r\n", "221").await
    }

    async fn command(&mut self, line: &str, code: &str) -> Result<()> {
        let verb = line.trim_end();
        let sent = self.stream.get_mut().write_all(line.as_bytes()).await;
        sent.with_context(|| format!("sending {verb}"))?;
        self.read(code).await.with_context(|| format!("reading the reply to {verb}"))
    }

    /// Reads a reply of any number of lines (RFC 5321, section 4.2).
    async fn read(&mut self, code: &str) -> Result<()> {
        loop {
            self.line.clear();
            let read = timeout(REPLY_MAX, self.stream.read_line(&mut self.line));
            let length = read.await.context("no reply in time")??;
            ensure!(length > 0, "the connection was closed");
            let line = self.line.trim_end();
            ensure!(line.starts_with(code), "{line}");
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::sink::{Counts, tests::start};

    fn load(to: SocketAddr) -> Load {
        Load {
            to: Some(to),
            clamd: None,
            run: 3,
            size: 200_000,
            repeated: false,
            sessions: 4,
            mails: 3,
            milliseconds: u64::MAX,
            count: 20,
            bytes_per_second: None,
        }
    }

    #[test]
    fn every_mail_arrives_once_and_is_counted() {
        let (address, counts) = start();
        let done = load(address).run().unwrap();
        assert_eq!(done.errors, Vec::<String>::new());
        assert_eq!((done.latencies_us.len(), done.lost), (20, 0));
        assert_eq!(counts(), Counts { exact: 20, ..Counts::default() });
        assert!(done.seconds > 0.0 && done.bytes > 20 * 199_000);
    }

    #[test]
    fn no_mail_is_begun_when_the_time_is_over() {
        let (address, counts) = start();
        let done = Load { milliseconds: 0, ..load(address) }.run().unwrap();
        assert!(done.latencies_us.is_empty() && done.errors.is_empty());
        assert_eq!(counts().mails(), 0);
    }

    #[test]
    fn a_slow_session_keeps_to_its_speed() {
        let (address, counts) = start();
        let slow =
            Load { bytes_per_second: Some(2_000_000), sessions: 1, count: 1, ..load(address) };
        let done = slow.run().unwrap();
        assert!(done.seconds >= 0.099, "200 KB at 2 MB/s took {} s", done.seconds);
        assert_eq!(counts().exact, 1);
    }

    #[test]
    fn a_server_that_refuses_is_an_error_and_not_tried_for_ever() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                stream.unwrap().write_all(b"421 4.3.2 Busy\r\n").unwrap();
            }
        });
        let done = Load { sessions: 1, count: u32::MAX, ..load(address) }.run().unwrap();
        assert_eq!(done.errors.len(), ERRORS_MAX);
        assert!(done.errors[0].contains("421 4.3.2 Busy"), "{}", done.errors[0]);
        assert!(done.latencies_us.is_empty());
    }

    #[test]
    fn a_connection_without_a_banner_is_made_again() {
        let (address, counts) = start();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let front = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let forgotten = listener.accept().unwrap();
            let (mut client, _) = listener.accept().unwrap();
            let mut server = std::net::TcpStream::connect(address).unwrap();
            let (mut from_client, mut to_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            std::io::copy(&mut server, &mut client).unwrap();
            drop(forgotten);
        });
        let done = Load { sessions: 1, count: 2, ..load(front) }.run().unwrap();
        assert_eq!((done.lost, done.latencies_us.len()), (1, 2));
        assert_eq!((done.errors, counts().exact), (Vec::new(), 2));
    }
}
