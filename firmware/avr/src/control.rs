//! The daemon's control socket: a line of JSON asks, a line of JSON answers, and it is closed.
//!
//! `{"verb":"status"}`, `{"verb":"snooze","seconds":1800}`, `{"verb":"resume"}`. The socket is the
//! owner's alone (mode 0600), and so is what can be done here.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tracing::warn;

use crate::status::Status;

/// Longest request that the daemon reads, in bytes.
pub const REQUEST_BYTES_MAX: u64 = 1024;
/// Longest answer that a command reads, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// How long either side waits for the other.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the daemon does.
    Status {},
    /// Leave new connections on the bridge.
    Snooze {
        /// For how long; at most [`crate::snooze::SNOOZE_MAX`].
        seconds: u64,
    },
    /// End a snooze.
    Resume {},
}

/// What the daemon says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Snooze`] and [`Request::Resume`].
    Snooze {
        /// How long it still lasts; `null` when the box is awake.
        seconds_left: Option<u64>,
    },
    /// What was asked cannot be done.
    Error(String),
}

/// Answers every request at `path` with what `answer` makes of it, on a thread that may block. A
/// stale socket is replaced.
///
/// # Errors
///
/// When the socket cannot be made.
pub fn serve(
    path: &Path,
    answer: impl Fn(Request) -> Answer + Send + Sync + 'static,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let listener = listen(path)?;
    let answer = Arc::new(answer);
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serve = serve_one(stream, Arc::clone(&answer));
                    // One client at a time, and a slow one is given up.
                    if let Ok(Err(error)) = tokio::time::timeout(ANSWER_MAX, serve).await {
                        warn!(%error, "a command at the control socket was not answered");
                    }
                }
                Err(error) => {
                    warn!(%error, "control socket");
                    tokio::time::sleep(ANSWER_MAX).await;
                }
            }
        }
    }))
}

fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| {
            format!("make the folder {} of the control socket", folder.display())
        })?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("make the control socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restrict {}", path.display()))?;
    Ok(listener)
}

async fn serve_one(
    mut stream: tokio::net::UnixStream,
    answer: Arc<impl Fn(Request) -> Answer + Send + Sync + 'static>,
) -> io::Result<()> {
    let (near, _) = stream.split();
    let mut line = Vec::new();
    tokio::io::BufReader::new(near.take(REQUEST_BYTES_MAX)).read_until(b'\n', &mut line).await?;
    let answer = match parse(&line) {
        Ok(request) => tokio::task::spawn_blocking(move || answer(request))
            .await
            .unwrap_or_else(|error| Answer::Error(format!("the answer broke down: {error}"))),
        Err(problem) => Answer::Error(problem),
    };
    let mut document = serde_json::to_vec(&answer).unwrap_or_default();
    document.push(b'\n');
    stream.write_all(&document).await?;
    stream.shutdown().await
}

fn parse(line: &[u8]) -> Result<Request, String> {
    if !line.ends_with(b"\n") {
        return Err(format!("a request is one line of at most {REQUEST_BYTES_MAX} bytes"));
    }
    serde_json::from_slice(line).map_err(|error| {
        format!("the daemon does not know this request ({error}); it may be of another version")
    })
}

/// Asks the daemon at `path`; the answer without the word round it.
///
/// # Errors
///
/// When no daemon answers there, or it refuses, with what to do.
pub fn ask(path: &Path, request: Request) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(path).with_context(|| {
        format!("no daemon answers at {}; is `avr run` running here?", path.display())
    })?;
    stream.set_read_timeout(Some(ANSWER_MAX)).context("set a time limit")?;
    stream.set_write_timeout(Some(ANSWER_MAX)).context("set a time limit")?;
    let mut line = serde_json::to_vec(&request).context("write the request")?;
    line.push(b'\n');
    stream.write_all(&line).context("the daemon does not read what it is asked")?;
    let mut document = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX))
        .read_until(b'\n', &mut document)
        .context("the daemon did not answer in time")?;
    let answer: Value = serde_json::from_slice(&document)
        .context("the daemon's answer is incomplete; ask again")?;
    match answer {
        Value::Object(fields) => match fields.into_iter().next() {
            Some((word, Value::String(problem))) if word == "error" => bail!("{problem}"),
            Some((_, value)) => Ok(value),
            None => bail!("the daemon's answer is empty; it may be of another version"),
        },
        _ => bail!("the daemon's answer is none; it may be of another version"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn answer(request: Request) -> Answer {
        match request {
            Request::Status {} => Answer::Error("not today".to_owned()),
            Request::Snooze { seconds } => Answer::Snooze { seconds_left: Some(seconds) },
            Request::Resume {} => Answer::Snooze { seconds_left: None },
        }
    }

    async fn ask_from_a_thread(path: &Path, request: Request) -> anyhow::Result<Value> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || ask(&path, request)).await.unwrap()
    }

    /// What the daemon says to these bytes, behind which nothing comes.
    async fn raw(path: PathBuf, bytes: &'static [u8]) -> String {
        let exchange = move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            // The daemon may close while bytes of ours are unread.
            let _ = stream.read_to_string(&mut text);
            text
        };
        tokio::task::spawn_blocking(exchange).await.unwrap()
    }

    #[test]
    fn requests_are_what_they_were() {
        for (request, json) in [
            (Request::Status {}, r#"{"verb":"status"}"#),
            (Request::Snooze { seconds: 1800 }, r#"{"verb":"snooze","seconds":1800}"#),
            (Request::Resume {}, r#"{"verb":"resume"}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), json);
            assert_eq!(parse(format!("{json}\n").as_bytes()), Ok(request));
        }
    }

    #[tokio::test]
    async fn the_daemon_answers_its_owner_also_behind_a_stale_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let error = ask_from_a_thread(&path, Request::Resume {}).await.unwrap_err();
        assert!(error.to_string().contains("is `avr run` running here?"), "{error}");
        // The first one dies without taking its socket away.
        for _ in 0..2 {
            let server = serve(&path, answer).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let snooze = Request::Snooze { seconds: 7 };
            let answer = ask_from_a_thread(&path, snooze).await.unwrap();
            assert_eq!(answer, json!({ "seconds_left": 7 }));
            let answer = ask_from_a_thread(&path, Request::Resume {}).await.unwrap();
            assert_eq!(answer, json!({ "seconds_left": null }));
            let error = ask_from_a_thread(&path, Request::Status {}).await.unwrap_err();
            assert_eq!(error.to_string(), "not today");
            server.abort();
        }
    }

    #[tokio::test]
    async fn what_the_daemon_does_not_know_is_answered_with_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let server = serve(&path, answer).unwrap();
        for (bytes, says) in [
            (&b"{\"verb\":\"fly\"}\n"[..], "does not know this request (unknown variant `fly`"),
            (b"{\"verb\":\"snooze\"}\n", "(missing field `seconds`"),
            (b"{\"verb\":\"snooze\",\"seconds\":-1}\n", "does not know this request"),
            (b"{\"verb\":\"resume\",\"when\":1}\n", "(unknown field `when`"),
            (b"\xff\n", "does not know this request"),
            (b"", "a request is one line of at most 1024 bytes"),
            (b"{\"verb\":\"resume\"}", "a request is one line of at most 1024 bytes"),
            (&[b' '; 1025], "a request is one line of at most 1024 bytes"),
        ] {
            let said = raw(path.clone(), bytes).await;
            let value: Value = serde_json::from_str(&said).unwrap_or_default();
            assert!(value["error"].as_str().unwrap_or_default().contains(says), "{says}: {said}");
        }
        server.abort();
    }

    #[test]
    fn a_daemon_that_says_nonsense_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            for said in ["{\"version\":", "{}\n", "7\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = String::new();
                BufReader::new(&stream).read_line(&mut asked).unwrap();
                assert_eq!(asked, "{\"verb\":\"status\"}\n");
                stream.write_all(said.as_bytes()).unwrap();
            }
        });
        for says in ["is incomplete; ask again", "is empty", "is none"] {
            let error = ask(&path, Request::Status {}).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        daemon.join().unwrap();
    }
}
