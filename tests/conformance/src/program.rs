//! The program under test: `avr listen` on a free port, and what its log says of each session.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use regex::Regex;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::Notify;

use crate::case::Path as Way;

/// How long the program may take to compile its rules and listen.
const START_MAX: Duration = Duration::from_secs(60);
/// How long the log line of a session that has ended may take.
const LOG_MAX: Duration = Duration::from_secs(20);

/// A running `avr listen`; killed when dropped.
#[derive(Debug)]
pub struct Avr {
    _child: Child,
    address: SocketAddr,
    log: Arc<Log>,
}

/// How one is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder of YARA rules.
    pub rules: Option<PathBuf>,
    /// Further arguments, as a person would type them.
    pub arguments: Vec<String>,
}

impl Options {
    /// With the rules of a folder and nothing else.
    #[must_use]
    pub fn with_rules(folder: &Path) -> Self {
        Self { rules: Some(folder.to_owned()), ..Self::default() }
    }
}

impl Avr {
    /// Starts one in front of `to` and waits until it says where it listens.
    ///
    /// # Errors
    ///
    /// When there is no such program, or it ends before it listens; with what it said.
    pub async fn start(to: SocketAddr, way: Way, options: &Options) -> anyhow::Result<Self> {
        let program = path()?;
        let mut command = Command::new(&program);
        command.args(["listen", "--listen", "127.0.0.1:0", "--protocol", way.name(), "--to"]);
        command.arg(to.to_string());
        if let Some(folder) = &options.rules {
            command.arg("--rules").arg(folder);
        }
        let mut child = command
            .args(&options.arguments)
            .env("AVR_LOG", "info")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!("run {}; `cargo build --release` makes it", program.display())
            })?;
        let mut lines = BufReader::new(child.stderr.take().context("the log is piped")?).lines();
        let ready = tokio::time::timeout(START_MAX, listening(&mut lines)).await;
        let address = ready.context("wait for avr listen")??;
        let log = Arc::new(Log::default());
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.note(&line);
            }
        });
        Ok(Self { _child: child, address, log })
    }

    /// A connection to it.
    ///
    /// # Errors
    ///
    /// When it does not listen any more.
    pub async fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await.context("connect as the client")?;
        // Small writes of a script are segments of their own.
        stream.set_nodelay(true).context("send small segments")?;
        // Nobody asked after a session that was refused, and its port may be given out again.
        self.log.forget(stream.local_addr().context("the client's own address")?);
        Ok(stream)
    }

    /// What the log said of the session that came from `client` and is over: the verdicts on its
    /// messages, in order. `None` if it says nothing.
    pub async fn verdicts(&self, client: SocketAddr) -> Option<Vec<String>> {
        tokio::time::timeout(LOG_MAX, async {
            loop {
                let news = self.log.news.notified();
                if let Some(verdicts) = self.log.take(client) {
                    return verdicts;
                }
                news.await;
            }
        })
        .await
        .ok()
    }
}

/// Whether `avr listen` has an option, by its own help.
///
/// # Errors
///
/// When there is no program to ask.
pub async fn knows(option: &str) -> anyhow::Result<bool> {
    let program = path()?;
    let help =
        Command::new(&program).args(["listen", "--help"]).output().await.with_context(|| {
            format!("run {}; `cargo build --release` makes it", program.display())
        })?;
    Ok(String::from_utf8_lossy(&help.stdout).contains(option))
}

async fn listening(lines: &mut Lines<BufReader<ChildStderr>>) -> anyhow::Result<SocketAddr> {
    let mut said = String::new();
    while let Some(line) = lines.next_line().await? {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix("local="));
        if let Some(address) = word {
            return Ok(address.parse()?);
        }
        said.push_str(&line);
        said.push('\n');
    }
    anyhow::bail!("avr listen ended before it listened: {said}")
}

/// `avr` as built beside this program, or what `AVR_PROGRAM` names.
fn path() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("AVR_PROGRAM") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find this program")?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("avr"));
    let found = beside.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!("no avr beside {}; `cargo build --release` makes it", own.display())
    })
}

/// What has been logged, by session.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<Sessions>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Sessions {
    verdicts: HashMap<String, Vec<String>>,
    ended: HashMap<SocketAddr, String>,
}

static SESSION: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#" session="?([^\s"]+)"#).ok());
static CLIENT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r" client=(\S+)").ok());
static VERDICT: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#" verdict="([a-z-]+)""#).ok());
static REASON: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r#" reason="([^"]*)""#).ok());

impl Log {
    fn note(&self, line: &str) {
        let field = |pattern: &LazyLock<Option<Regex>>| {
            let found = pattern.as_ref()?.captures(line)?.get(1)?;
            Some(found.as_str().to_owned())
        };
        let Some(session) = field(&SESSION) else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // What was cut off has no verdict that a case could be about.
        if let Some(verdict) = field(&VERDICT).filter(|verdict| verdict != "cut-off") {
            let verdict = match field(&REASON) {
                Some(reason) if verdict == "unscannable" => format!("{verdict}: {reason}"),
                _ => verdict,
            };
            state.verdicts.entry(session).or_default().push(verdict);
        } else if line.contains("session ended")
            && let Some(client) = field(&CLIENT).and_then(|client| client.parse().ok())
        {
            state.ended.insert(client, session);
        }
        drop(state);
        self.news.notify_waiters();
    }

    /// A new session begins at this address.
    fn forget(&self, client: SocketAddr) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = state.ended.remove(&client) {
            state.verdicts.remove(&session);
        }
    }

    fn take(&self, client: SocketAddr) -> Option<Vec<String>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let session = state.ended.remove(&client)?;
        Some(state.verdicts.remove(&session).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_session_is_found_by_its_client() {
        let log = Log::default();
        log.note(
            "INFO journal: mail session=ab12 client=127.0.0.1:4000 parts=2 verdict=\"unscannable\" \
             name=\"\" reason=\"an archive\" action=\"passed\" waited_ms=1",
        );
        log.note("INFO avr::listen: session ended session=ab12 client=127.0.0.1:4000 server=x");
        let client = "127.0.0.1:4000".parse().unwrap();
        assert_eq!(log.take(client), Some(vec!["unscannable: an archive".to_owned()]));
        assert_eq!(log.take(client), None);
    }

    #[test]
    fn an_address_that_is_given_out_again_has_no_past() {
        let log = Log::default();
        log.note("INFO journal: mail session=ab12 client=127.0.0.1:4000 verdict=\"infected\"");
        log.note("INFO avr::listen: session ended session=ab12 client=127.0.0.1:4000 server=x");
        let client = "127.0.0.1:4000".parse().unwrap();
        log.forget(client);
        assert_eq!(log.take(client), None);
        log.note("INFO avr::listen: session ended session=cd34 client=127.0.0.1:4000 server=x");
        assert_eq!(log.take(client), Some(Vec::new()));
    }
}
