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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};

    use super::*;
    use crate::message::{END_OF_DATA, Id, Message};

    /// A POP3 server with one mail for everybody; gives what it was told.
    fn serve(mail: Vec<u8>) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"+OK ready\r\n").unwrap();
            let mut told = Vec::new();
            while let Some(Ok(line)) = lines.next() {
                let retrieves = line.starts_with("RETR");
                told.push(line);
                let answer = if retrieves {
                    [b"+OK\r\n", &mail[..], END_OF_DATA].concat()
                } else {
                    b"+OK\r\n".to_vec()
                };
                stream.write_all(&answer).unwrap();
            }
            told
        });
        (address, serving)
    }

    fn fetch(from: SocketAddr) -> Fetched {
        Fetch { from, user: "u".to_owned(), sessions: 1, mails: 2 }.run().unwrap()
    }

    #[test]
    fn all_mails_of_a_mailbox_are_fetched_and_compared() {
        let id = Id { run: 1, number: 2, size: 50_000, repeated: false };
        let (address, serving) = serve(Message::new(id).to_vec(&Pool::new()));
        let fetched = fetch(address);
        assert_eq!(fetched.errors, Vec::<String>::new());
        assert_eq!(fetched.counts, Counts { exact: 2, ..Counts::default() });
        assert_eq!((fetched.first_bytes_us.len(), fetched.complete_us.len()), (2, 2));
        let told = serving.join().unwrap();
        assert_eq!(told[0], "USER u0");
        assert_eq!(told[2..], ["RETR 1", "RETR 2", "QUIT"]);
    }

    #[test]
    fn a_notice_in_a_mails_place_is_seen() {
        let (address, _serving) = serve(b"Subject: removed\r\n\r\nA virus.\r\n".to_vec());
        assert_eq!(fetch(address).counts, Counts { foreign: 2, ..Counts::default() });
    }

    #[test]
    fn a_server_that_is_away_is_an_error() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let fetched = fetch(gone);
        assert_eq!((fetched.errors.len(), fetched.counts.mails()), (1, 0));
    }
}
