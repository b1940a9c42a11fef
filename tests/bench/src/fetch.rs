//! The POP3 clients of the comparison: so many mailboxes at once, all mails of each fetched and
//! compared.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    message::{Comparison, Pool},
    sink::{Counts, Framing},
};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Longest wait for anything.
const REPLY_MAX: Duration = Duration::from_secs(120);
/// Every mailbox's password.
pub(crate) const PASSWORD: &str = e2e::plan::PASSWORD;

/// What is fetched.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Fetch {
    /// The POP3 server.
    #[arg(long)]
    pub(crate) from: SocketAddr,
    /// Mailboxes are called this and a number from 0 on.
    #[arg(long)]
    pub(crate) user: String,
    /// Sessions at once, each with a mailbox of its own.
    #[arg(long)]
    pub(crate) sessions: u32,
    /// Mails in each mailbox.
    #[arg(long)]
    pub(crate) mails: u32,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// From the first connection's start to the last mail's last byte.
    pub(crate) seconds: f64,
    /// For each mail: from RETR to the first byte of the reply, in microseconds.
    pub(crate) first_bytes_us: Vec<u64>,
    /// For each mail: from RETR to the last byte.
    pub(crate) complete_us: Vec<u64>,
    pub(crate) counts: Counts,
    /// What went wrong.
    pub(crate) errors: Vec<String>,
}

impl Fetch {
    /// Does it.
    ///
    /// # Errors
    /// When nothing can be begun at all; what fails later is in the result.
    pub(crate) fn run(self) -> Result<Fetched> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let pool: &'static Pool = Box::leak(Box::default());
            let start = Instant::now();
            let mut sessions = JoinSet::new();
            for number in 0..self.sessions {
                let user = format!("{}{number}", self.user);
                sessions.spawn(session(pool, self.from, user, self.mails));
            }
            let mut all = Fetched::default();
            while let Some(ended) = sessions.join_next().await {
                match ended? {
                    Ok(one) => {
                        all.first_bytes_us.extend(one.first_bytes_us);
                        all.complete_us.extend(one.complete_us);
                        all.counts.add(one.counts);
                    }
                    Err(error) => all.errors.push(format!("{error:#}")),
                }
            }
            all.seconds = start.elapsed().as_secs_f64();
            Ok(all)
        })
    }
}

async fn session(pool: &Pool, from: SocketAddr, user: String, mails: u32) -> Result<Fetched> {
    let stream = TcpStream::connect(from).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(READ_BYTES, stream);
    read_ok(&mut stream).await.context("reading the banner")?;
    command(&mut stream, &format!("USER {user}")).await?;
    command(&mut stream, &format!("PASS {PASSWORD}")).await.context("logging in")?;
    let mut fetched = Fetched::default();
    for number in 1..=mails {
        let start = Instant::now();
        stream.get_mut().write_all(format!("RETR {number}\r\n").as_bytes()).await?;
        let first = timeout(REPLY_MAX, stream.fill_buf()).await.context("no reply in time")?;
        first.context("reading a mail")?;
        fetched.first_bytes_us.push(micros(start));
        read_ok(&mut stream).await.with_context(|| format!("fetching mail {number}"))?;
        let mut comparison = Comparison::default();
        receive(&mut stream, pool, &mut comparison).await?;
        fetched.complete_us.push(micros(start));
        fetched.counts.count(comparison.finish());
    }
    command(&mut stream, "QUIT").await?;
    Ok(fetched)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

async fn receive(
    stream: &mut BufReader<TcpStream>,
    pool: &Pool,
    comparison: &mut Comparison,
) -> Result<()> {
    let mut framing = Framing::default();
    loop {
        let bytes = timeout(REPLY_MAX, stream.fill_buf()).await.context("no more in time")??;
        ensure!(!bytes.is_empty(), "the connection was closed within a mail");
        let length = bytes.len();
        let ended = framing.push(bytes, |part| comparison.push(pool, part));
        stream.consume(ended.unwrap_or(length));
        if ended.is_some() {
            return Ok(());
        }
    }
}

async fn command(stream: &mut BufReader<TcpStream>, line: &str) -> Result<()> {
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await?;
    read_ok(stream).await
}

async fn read_ok(stream: &mut BufReader<TcpStream>) -> Result<()> {
    let mut line = String::new();
    let read = timeout(REPLY_MAX, stream.read_line(&mut line)).await.context("no reply in time")?;
    ensure!(read? > 0, "the connection was closed");
    ensure!(line.starts_with("+OK"), "{}", line.trim_end());
    Ok(())
}
