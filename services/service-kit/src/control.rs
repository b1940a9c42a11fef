//! The control socket: what an operator tells a server that runs, from a shell on its host.
//!
//! A Unix socket that only the server's own user and root may use, by its mode and by the peer's
//! credentials. A request is one line of JSON; the answer is one line or more, the last of which the
//! server chooses by ending. Nothing of it goes over a network.

use std::fmt;
use std::future::Future;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream as Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

/// Longest line, in bytes, of a request or an answer.
pub const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Connections at once: operators, and scripts of theirs.
pub const CONNECTIONS_MAX: usize = 16;
/// How long a request may take to arrive, and an answer's line to be taken.
pub const LINE_TIME_MAX: Duration = Duration::from_secs(10);

/// Mode of a socket: its owner's, and with a group also that.
const MODE_OWNER: u32 = 0o600;
const MODE_GROUP: u32 = 0o660;
/// Mode of the directory, where it has to be made.
const DIRECTORY_MODE: u32 = 0o700;

/// What a line of an answer is to who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// More will come.
    More,
    /// All is said.
    Last,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A server with the same path runs.
    #[error("{} is in use: another server answers there", .0.display())]
    InUse(PathBuf),
    /// Something of that name is no socket, and is left alone.
    #[error("{} is there, and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// The operating system refuses.
    #[error("cannot make {}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A control socket that is bound and not served yet. Removed when it is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// Where the lines of an answer go.
#[derive(Debug)]
pub struct Replies(OwnedWriteHalf);

/// The peer has gone, or takes no more.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not taken")]
pub struct NotTaken;

impl Replies {
    /// Sends a line.
    ///
    /// # Errors
    /// Nobody takes it any more: what is being waited for need not be.
    pub async fn say<T: Serialize>(&mut self, reply: &T) -> Result<(), NotTaken> {
        let mut line = serde_json::to_string(reply).map_err(|_| NotTaken)?;
        line.push('\n');
        let sent = timeout(LINE_TIME_MAX, self.0.write_all(line.as_bytes())).await;
        sent.map_err(|_| NotTaken)?.map_err(|_| NotTaken)
    }
}

impl Control {
    /// Makes the socket, and its directory where there is none. One that a server left behind when
    /// it died is replaced.
    ///
    /// # Errors
    /// Another server has it, or the operating system refuses.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let refused = |source| BindError::Refused { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(directory)
                .map_err(refused)?;
        }
        Ok(Self { listener: listen(path, None)?, path: path.to_owned() })
    }

    /// Answers requests until it is dropped, each in a task of its own.
    pub async fn serve<T, H, F>(self, handler: H)
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(T, Replies) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        loop {
            // Full: the next one waits in the socket's queue, which has an end of its own.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while tasks.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = handler.clone();
                    tasks.spawn(async move {
                        request(stream, handler).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "control: cannot accept");
                    tokio::time::sleep(crate::listener::ACCEPT_PAUSE_MAX).await;
                }
            }
        }
    }
}

/// Makes a socket, in place of one that a server left behind when it died. Its owner and root may use it,
/// and who is in the group `gid` where one is given.
///
/// # Errors
/// Another server has it, something else has its name, or the operating system refuses.
pub fn listen(path: &Path, gid: Option<u32>) -> Result<UnixListener, BindError> {
    let refused = |source| BindError::Refused { path: path.to_owned(), source };
    match Connection::connect(path) {
        Ok(_) => return Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) if is_socket(path) => {}
        Err(_) => return Err(BindError::NoSocket(path.to_owned())),
    }
    // Under another name until its mode is right: nobody connects before that. A process of this number
    // that had the name before is gone.
    let mut hidden = path.to_owned().into_os_string();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(refused)?;
    let made = fit(&hidden, gid).and_then(|()| std::fs::rename(&hidden, path));
    if made.is_err() {
        let _ = std::fs::remove_file(&hidden);
    }
    made.map(|()| listener).map_err(refused)
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn fit(socket: &Path, gid: Option<u32>) -> io::Result<()> {
    let set_mode = |mode| std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode));
    // Before the group is given, nobody of it can connect.
    set_mode(MODE_OWNER)?;
    if gid.is_some() {
        chown(socket, None, gid)?;
        set_mode(MODE_GROUP)?;
    }
    Ok(())
}

impl Drop for Control {
    fn drop(&mut self) {
        // Gone already: as wanted. Otherwise the next start replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One connection: one request, and its answer.
async fn request<T, H, F>(stream: UnixStream, handler: H)
where
    T: DeserializeOwned,
    H: Fn(T, Replies) -> F,
    F: Future<Output = ()>,
{
    match stream.peer_cred() {
        // The mode says the same; this also holds where a directory is shared by mistake.
        Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => {}
        Ok(peer) => {
            warn!(uid = peer.uid(), "control: not this server's user; closed");
            return;
        }
        Err(error) => {
            warn!(%error, "control: the peer's user is not known; closed");
            return;
        }
    }
    let (reader, writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(LINE_BYTES_MAX));
    let read = timeout(LINE_TIME_MAX, reader.read_line(&mut line)).await;
    let mut replies = Replies(writer);
    let problem = match read {
        Ok(Ok(_)) if line.ends_with('\n') => match serde_json::from_str::<T>(&line) {
            Ok(request) => return handler(request, replies).await,
            Err(error) => format!("not understood: {error}"),
        },
        Ok(Ok(_)) => format!("a request is one line of at most {LINE_BYTES_MAX} bytes"),
        Ok(Err(error)) => format!("not read: {error}"),
        Err(_) => format!("no request within {LINE_TIME_MAX:?}"),
    };
    info!(problem, "control: request refused");
    // Who sends rubbish may have gone.
    let _ = replies.say(&Problem { error: problem }).await;
}

/// What is answered to a request that is not understood; servers answer their own errors likewise.
#[derive(Debug, Serialize, serde::Deserialize)]
pub struct Problem {
    /// In words.
    pub error: String,
}

/// Why a server could not be told something.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no such server, or not for this user.
    #[error(
        "cannot reach the server at {}; is it running, and is this its user or root?",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It went away meanwhile.
    #[error("the server has gone")]
    Broken(#[source] io::Error),
    /// It went away between two lines of its answer.
    #[error("the server ended before it had answered; its log says why")]
    Ended,
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// It says something else than it should.
    #[error("the server's answer was not understood")]
    Unexpected(#[source] serde_json::Error),
}

/// Sends a request and hands every line of the answer to `each`, which tells the last one. Waits as long as
/// the server does.
///
/// # Errors
/// The server is not there, breaks off, ends before that line, or answers with a [`Problem`].
pub fn ask<T, R>(path: &Path, request: &T, mut each: impl FnMut(R) -> Line) -> Result<(), AskError>
where
    T: Serialize,
    R: DeserializeOwned,
{
    let connect = |source| AskError::Connect { path: path.to_owned(), source };
    let mut stream = Connection::connect(path).map_err(connect)?;
    let mut line = serde_json::to_string(request).map_err(AskError::Unexpected)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(AskError::Broken)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line);
        if read.map_err(AskError::Broken)? == 0 {
            return Err(AskError::Ended);
        }
        if let Ok(Problem { error }) = serde_json::from_str(&line) {
            return Err(AskError::Refused(error));
        }
        if each(serde_json::from_str(&line).map_err(AskError::Unexpected)?) == Line::Last {
            return Ok(());
        }
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Countdown {
        from: u32,
    }

    struct Running {
        directory: tempfile::TempDir,
        task: tokio::task::JoinHandle<()>,
    }

    impl Running {
        /// Counts down, a line each; from 13 it will not, and after 50 lines it has gone.
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let control = Control::bind(&directory.path().join("run/control")).unwrap();
            let task = tokio::spawn(control.serve(async |countdown: Countdown, mut replies| {
                if countdown.from == 13 {
                    let _ = replies.say(&Problem { error: "not from 13".to_owned() }).await;
                    return;
                }
                for n in (0..countdown.from).rev().take(50) {
                    replies.say(&n).await.unwrap();
                }
            }));
            Self { directory, task }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("run/control")
        }

        async fn ask(&self, from: u32) -> Result<Vec<u32>, String> {
            let path = self.path();
            let asking = tokio::task::spawn_blocking(move || {
                let mut lines = Vec::new();
                let asked = ask(&path, &Countdown { from }, |line: u32| {
                    lines.push(line);
                    if line == 0 { Line::Last } else { Line::More }
                });
                asked.map(|()| lines).map_err(|error| telemetry::chain(&error))
            });
            asking.await.unwrap()
        }

        /// The answer to bytes that may be no request.
        async fn send(&self, bytes: &[u8]) -> String {
            let mut stream = UnixStream::connect(self.path()).await.unwrap();
            // The server may close before it has read all.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        }
    }

    #[tokio::test]
    async fn a_request_is_answered_line_by_line() {
        let running = Running::start();
        assert_eq!(running.ask(3).await.unwrap(), [2, 1, 0]);
        assert_eq!(running.ask(13).await.unwrap_err(), "not from 13");
        let cut_short = running.ask(99).await.unwrap_err();
        assert!(cut_short.contains("ended before it had answered"), "{cut_short}");
        let mode = std::fs::metadata(running.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn rubbish_is_answered_in_words_and_hurts_nobody() {
        let running = Running::start();
        assert!(running.send(b"{}\n").await.contains("missing field `from`"));
        assert!(running.send(b"{\"from\":1,\"x\":2}\n").await.contains("unknown field `x`"));
        assert!(running.send(b"\xff\xfe\n").await.contains("not read"));
        assert!(running.send(b"{\"from\":1}").await.contains("one line of at most 65536 bytes"));
        let long = vec![b' '; usize::try_from(LINE_BYTES_MAX).unwrap() + 1];
        assert!(running.send(&long).await.contains("one line of at most 65536 bytes"));
        let deep = [b"[".repeat(60_000), b"\n".to_vec()].concat();
        assert!(running.send(&deep).await.contains("not understood"));
        assert_eq!(running.ask(1).await.unwrap(), [0]);
    }

    #[tokio::test]
    async fn as_many_as_may_wait_are_served_in_turn() {
        let running = Running::start();
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            idle.push(UnixStream::connect(running.path()).await.unwrap());
        }
        // All places are taken by who says nothing; one of them goes.
        let asking = running.ask(2);
        idle.pop();
        assert_eq!(asking.await.unwrap(), [1, 0]);
    }

    #[tokio::test]
    async fn one_server_has_the_socket_and_the_next_one_replaces_a_dead_ones() {
        let running = Running::start();
        assert!(matches!(Control::bind(&running.path()), Err(BindError::InUse(_))));
        running.task.abort();
        let path = running.path();
        while path.exists() {
            tokio::task::yield_now().await;
        }
        assert!(running.ask(1).await.unwrap_err().starts_with("cannot reach the server at "));
        // As after a crash: the file is there, and nobody listens.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        Control::bind(&path).unwrap();
        let under_a_file = path.with_extension("x").join("control");
        std::fs::write(path.with_extension("x"), "").unwrap();
        assert!(matches!(Control::bind(&under_a_file), Err(BindError::Refused { .. })));
    }
}
