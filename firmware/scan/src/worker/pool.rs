//! The daemon's side of the workers: a few processes, each with one mail at a time.
//!
//! A mail waits for a free worker in the order of arrival. One that takes long lends its turn to small ones
//! meanwhile, in another worker, so that a few evil mails do not hold up all others. One that does not
//! answer in time is killed, one that dies is replaced, and its mail gets one more try, because it may have
//! been innocent (a machine out of memory kills whom it likes). New knowledge reaches the next mail: workers
//! that have the old one finish their mail and are replaced.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spool::{SpoolError, Spooled, Spooler};
use telemetry::chain;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, error, warn};

use super::confine::Confined;
use super::{
    Answer, HELD_BYTES_MAX, Knowledge, LENGTH_BYTES, PASSES_MAX, Request, STRETCH_BYTES,
    WORKER_VERB, WorkerError, checked_length, decode, encode,
};
use crate::analysis::{Analysis, Export, bounded};

/// Most workers. Each keeps the compiled rules and, while it works, one mail and what comes of it.
pub const WORKERS_MAX: usize = 8;
/// How long a worker may take from its start to its first mail: it compiles the rules for this
/// processor.
pub const START_TIME_MAX: Duration = Duration::from_secs(60);
/// All the time that a mail may wait, for its turn and in it: less than a session waits for its verdict.
const WAIT_TIME_MAX: Duration = Duration::from_secs(280);
/// How long a mail that may be looked at for `time` waits for its turn.
#[must_use]
pub fn queue_time_max(time: Duration) -> Duration {
    WAIT_TIME_MAX.saturating_sub(time).min(QUEUE_TIME_MAX)
}
/// Longest wait for a turn.
pub const QUEUE_TIME_MAX: Duration = Duration::from_secs(120);
/// A mail that takes longer lends its turn to the next small one: few honest ones do, and those that wait would
/// be noticed. The other worker is one more process for as long as that lasts. Large mails wait, or memory
/// would go with their number.
pub(super) const LONG_SCAN_TIME: Duration = Duration::from_secs(1);
/// What a worker gets on top of the time of its mail, before it is killed: to say what it has.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// User and group of workers where the daemon is root: nobody, as Debian numbers it.
const NOBODY: u32 = 65_534;
/// Largest answer of a worker, the bytes of objects apart. It reads hostile bytes, and is not trusted.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How a worker's allocator is told to give memory back: blocks over 2 MiB when they are free, and what is
/// free at the end of its heap, but for 4 MiB, in which small mails find their memory again. (Left to
/// itself, glibc keeps tens of megabytes after the first large mail. Other allocators do not read this.)
const ALLOCATOR: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=2097152:glibc.malloc.trim_threshold=4194304");
/// How often a mail is given to a worker that then dies.
pub(super) const TRIES_MAX: u32 = 2;

/// How workers are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A process of this program, which must have the verb [`WORKER_VERB`]: what daemons use.
    Process,
    /// A thread, not confined: for tests, whose program has no such verb.
    Thread,
}

/// Why a mail has no analysis.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No worker became free before the time was over.
    #[error("no scan worker was free in time")]
    Busy,
    /// A worker cannot be started.
    #[error("start a scan worker")]
    Start(#[source] io::Error),
    /// The mail was too much for its worker, twice.
    #[error("the scan worker ended without an answer")]
    Died(#[source] WorkerError),
    /// The worker did not come to an end with it.
    #[error("the scan worker took too long and was stopped")]
    TimedOut,
    /// The mail could not be read back, or an object not kept for the other engines.
    #[error("read the mail back, or keep a part of it for the other engines")]
    Spool(#[from] SpoolError),
}

/// An object that a worker hands out for engines elsewhere.
#[derive(Debug)]
pub struct ExportedObject {
    /// Part of the message.
    pub part: u32,
    /// Its file name, where it has one.
    pub file_name: Option<String>,
    /// All of it.
    pub content: Spooled,
}

/// The workers of one program. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers {
    shared: Arc<Shared>,
}

/// Starts a worker at the other end of a socket; a process is killed when it is dropped.
pub(super) type Start = fn(StdUnixStream) -> io::Result<Option<Child>>;

#[derive(Debug)]
struct Shared {
    isolation: Isolation,
    start_worker: Start,
    /// Workers, but for lent turns.
    count: usize,
    /// Encoded once for all, and which it is.
    knowledge: Mutex<(u64, Bytes)>,
    idle: Mutex<Vec<Worker>>,
    turns: Semaphore,
    /// Turns that are lent and free: for small mails. Each turn is lent once, so workers are twice as many
    /// at most.
    lent: Semaphore,
    /// Lent turns that end with the mails that have them.
    owed: Mutex<usize>,
    started: AtomicU64,
    died: AtomicU64,
}

/// One worker, idle or with a mail. Dropping it ends it.
#[derive(Debug)]
struct Worker {
    stream: BufReader<UnixStream>,
    /// Which knowledge it has.
    generation: u64,
    /// Killed when dropped. `None`: a thread, which ends when the stream does.
    _child: Option<Child>,
}

/// How workers fared, for status pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct WorkerNumbers {
    /// Started since the program did.
    pub started: u64,
    /// Of these, ended by a mail.
    pub died: u64,
}

impl Workers {
    /// `count` workers at most, at least one, that look for what `knowledge` says. They are started
    /// when there is something to look at.
    ///
    /// # Errors
    ///
    /// Knowledge too large to be sent.
    pub fn new(
        isolation: Isolation,
        count: usize,
        knowledge: &Knowledge,
    ) -> Result<Self, WorkerError> {
        let start_worker: Start = match isolation {
            Isolation::Process => |socket| spawn(socket).map(Some),
            Isolation::Thread => |socket| start_thread(socket).map(|()| None),
        };
        Self::with(isolation, start_worker, count, knowledge)
    }

    /// Workers that are started so, which in tests may be anything that holds the socket.
    pub(super) fn with(
        isolation: Isolation,
        start_worker: Start,
        count: usize,
        knowledge: &Knowledge,
    ) -> Result<Self, WorkerError> {
        let count = count.clamp(1, WORKERS_MAX);
        let shared = Shared {
            isolation,
            start_worker,
            count,
            knowledge: Mutex::new((0, encode(knowledge)?.into())),
            idle: Mutex::default(),
            turns: Semaphore::new(count),
            lent: Semaphore::new(0),
            owed: Mutex::new(0),
            started: AtomicU64::new(0),
            died: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// From now on mails are looked at with this knowledge.
    ///
    /// # Errors
    ///
    /// Knowledge too large to be sent; the old one stays in force.
    pub fn learn(&self, knowledge: &Knowledge) -> Result<(), WorkerError> {
        let encoded = encode(knowledge)?.into();
        let mut current = self.shared.knowledge.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, encoded);
        drop(current);
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// Starts all workers, so that the first mails do not wait for them.
    pub async fn warm_up(&self) {
        let count = self.shared.turns.available_permits();
        let mut starts = tokio::task::JoinSet::new();
        for _ in 0..count {
            let shared = Arc::clone(&self.shared);
            starts.spawn(async move {
                // A mail that comes meanwhile waits for this worker instead of starting another.
                let _turn = shared.turns.acquire().await;
                shared.start().await.map(|worker| shared.put_back(worker))
            });
        }
        while let Some(started) = starts.join_next().await {
            match started {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(error = chain(&error), "a scan worker does not start"),
                Err(error) => error!(%error, "start of a scan worker"),
            }
        }
    }

    #[cfg(test)]
    pub(super) fn turns(&self) -> &Semaphore {
        &self.shared.turns
    }

    /// How they fared.
    #[must_use]
    pub fn numbers(&self) -> WorkerNumbers {
        WorkerNumbers {
            started: self.shared.started.load(Ordering::Relaxed),
            died: self.shared.died.load(Ordering::Relaxed),
        }
    }

    /// Has a mail looked at, within `time` from when its turn comes. A crowd of mails is no dead engine:
    /// each waits up to [`queue_time_max`] for its turn. `exported` gets the objects for other engines as they
    /// are found; after a second try some may come twice. To be run as a task of its own: when this
    /// future is dropped, its worker is stopped and has to be replaced.
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    pub async fn scan(
        &self,
        mail: &Spooled,
        export: Export,
        time: Duration,
        spooler: &Spooler,
        exported: &mpsc::Sender<ExportedObject>,
    ) -> Result<Analysis, PoolError> {
        let is_small = mail.len() <= HELD_BYTES_MAX;
        let turn = tokio::time::timeout(queue_time_max(time), self.shared.turn(is_small)).await;
        let Ok(Some(mut turn)) = turn else { return Err(PoolError::Busy) };
        let deadline = Instant::now() + time;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut worker = match timeout_at(deadline, self.shared.take(tries == 1)).await {
                Ok(Ok(worker)) => worker,
                Ok(Err(error)) if tries >= TRIES_MAX => return Err(error),
                // It may have been killed while it started.
                Ok(Err(error)) => {
                    warn!(error = chain(&error), tries, "a scan worker does not start");
                    continue;
                }
                Err(_) => return Err(PoolError::Busy),
            };
            let time = deadline.saturating_duration_since(Instant::now());
            let exchange = worker.exchange(mail, export, time, spooler, exported);
            match turn.lent_meanwhile(timeout_at(deadline + GRACE, exchange)).await {
                Ok(Ok(analysis)) => {
                    self.shared.put_back(worker);
                    return Ok(analysis);
                }
                Ok(Err(PoolError::Died(error))) => {
                    self.shared.died.fetch_add(1, Ordering::Relaxed);
                    warn!(
                        error = chain(&error),
                        tries, "a scan worker ended in the middle of a mail"
                    );
                    if tries >= TRIES_MAX {
                        return Err(PoolError::Died(error));
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    self.shared.died.fetch_add(1, Ordering::Relaxed);
                    warn!("a scan worker took too long and is stopped");
                    return Err(PoolError::TimedOut);
                }
            }
        }
    }
}

/// The turn of one mail. What it lends is taken back when it ends, or as soon as who has it does.
#[derive(Debug)]
struct Turn<'s> {
    shared: &'s Shared,
    /// `None`: given back.
    permit: Option<SemaphorePermit<'s>>,
    kind: TurnKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TurnKind {
    /// One of as many as there are workers.
    Own,
    /// The same, and it is lent to a small mail.
    Lending,
    /// Lent by another.
    Lent,
}

impl Turn<'_> {
    /// Waits for `scan`, and lends the turn when that takes long.
    async fn lent_meanwhile<T>(&mut self, scan: impl Future<Output = T>) -> T {
        tokio::pin!(scan);
        if self.kind == TurnKind::Own {
            if let Ok(done) = tokio::time::timeout(LONG_SCAN_TIME, &mut scan).await {
                return done;
            }
            self.shared.lent.add_permits(1);
            self.kind = TurnKind::Lending;
        }
        scan.await
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut owed = self.shared.owed.lock().unwrap_or_else(PoisonError::into_inner);
        match self.kind {
            TurnKind::Own => {}
            TurnKind::Lending => match self.shared.lent.try_acquire() {
                Ok(unused) => unused.forget(),
                Err(_) => *owed += 1,
            },
            TurnKind::Lent if *owed > 0 => {
                *owed -= 1;
                if let Some(permit) = self.permit.take() {
                    permit.forget();
                }
            }
            TurnKind::Lent => {}
        }
        // With the count still locked: nobody takes a turn that is owed.
        drop(self.permit.take());
    }
}

impl Shared {
    /// Waits for a turn, a small mail also for one that is lent. `None`: never, the semaphores are not closed.
    async fn turn(&self, is_small: bool) -> Option<Turn<'_>> {
        let (permit, kind) = tokio::select! {
            biased;
            own = self.turns.acquire() => (own, TurnKind::Own),
            lent = self.lent.acquire(), if is_small => (lent, TurnKind::Lent),
        };
        Some(Turn { shared: self, permit: Some(permit.ok()?), kind })
    }

    /// An idle worker if that will do, or a new one: whoever killed one may have killed them all.
    async fn take(&self, may_be_idle: bool) -> Result<Worker, PoolError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle.filter(|_| may_be_idle) {
            Some(worker) if worker.is_alive() => Ok(worker),
            _ => self.start().await,
        }
    }

    fn put_back(&self, worker: Worker) {
        let knowledge = self.knowledge.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was started for a lent turn is too many behind it.
        if worker.generation == knowledge.0 && idle.len() < self.count {
            idle.push(worker);
        }
    }

    async fn start(&self) -> Result<Worker, PoolError> {
        let (generation, knowledge) =
            self.knowledge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (near, far) = StdUnixStream::pair().map_err(PoolError::Start)?;
        near.set_nonblocking(true).map_err(PoolError::Start)?;
        let child = (self.start_worker)(far).map_err(PoolError::Start)?;
        self.started.fetch_add(1, Ordering::Relaxed);
        let stream = UnixStream::from_std(near).map_err(PoolError::Start)?;
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        let mut worker = Worker { stream, generation, _child: child };
        let ready = async {
            worker.stream.write_all(&knowledge).await?;
            receive::<Answer>(&mut worker.stream).await
        };
        match tokio::time::timeout(START_TIME_MAX, ready).await {
            Ok(Ok(Answer::Ready(confined))) => {
                report(confined, self.isolation);
                Ok(worker)
            }
            Ok(Ok(_)) => Err(PoolError::Start(io::ErrorKind::InvalidData.into())),
            Ok(Err(error)) => Err(PoolError::Start(io::Error::other(error))),
            Err(_) => Err(PoolError::Start(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Buffer for answers; objects larger than it are read past it.
const READ_BYTES: usize = 8 * 1024;

fn report(confined: Confined, isolation: Isolation) {
    if isolation == Isolation::Process && !confined.landlock {
        warn!("this kernel has no Landlock: scan workers are held by seccomp and their user alone");
    } else {
        debug!(?confined, "a scan worker is ready");
    }
}

/// This program again, as another user, with nothing but the socket.
fn spawn(socket: StdUnixStream) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(WORKER_VERB)
        .env_clear()
        .env(ALLOCATOR.0, ALLOCATOR.1)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .kill_on_drop(true);
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.spawn()
}

fn start_thread(socket: StdUnixStream) -> io::Result<()> {
    let confined = Confined { landlock: false, seccomp: false };
    std::thread::Builder::new().name("scan-worker".to_owned()).spawn(move || {
        if let Err(error) = super::serve(socket, || Ok(confined)) {
            debug!(error = chain(&error), "a scan worker ended");
        }
    })?;
    Ok(())
}

impl Worker {
    /// Whether it has neither closed nor said anything unasked.
    fn is_alive(&self) -> bool {
        let mut byte = [0];
        let read = self.stream.get_ref().try_read(&mut byte);
        self.stream.buffer().is_empty()
            && matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn exchange(
        &mut self,
        mail: &Spooled,
        export: Export,
        time: Duration,
        spooler: &Spooler,
        exported: &mpsc::Sender<ExportedObject>,
    ) -> Result<Analysis, PoolError> {
        self.ask(mail, export, time).await?;
        let answers = Answers { mail, spooler, exported };
        if mail.len() <= HELD_BYTES_MAX {
            return answers.take(&mut self.stream, None).await;
        }
        let (reader, writer) = tokio::io::split(&mut self.stream);
        // The worker asks when it has read what it asked for before.
        let (wanted, stretches) = mpsc::channel(1);
        // Both at once: a worker may have something to say while a stretch is on its way to it.
        tokio::select! {
            analysis = answers.take(reader, Some(Wanted::new(wanted, mail.len()))) => analysis,
            error = send_stretches(writer, mail, stretches) => Err(error),
        }
    }

    /// Sends a request, and behind it a mail that is not large: a small one in one piece with it.
    async fn ask(
        &mut self,
        mail: &Spooled,
        export: Export,
        time: Duration,
    ) -> Result<(), PoolError> {
        let request = Request::Scan { bytes: mail.len(), export, time };
        let mut frame = encode(&request).map_err(|error| PoolError::Died(error.into()))?;
        if mail.len() <= HELD_BYTES_MAX {
            for chunk in mail.chunks() {
                let chunk = chunk?;
                if frame.is_empty() {
                    self.stream.write_all(&chunk).await.map_err(died)?;
                } else {
                    frame.extend_from_slice(&chunk);
                    self.stream.write_all(&frame).await.map_err(died)?;
                    frame.clear();
                }
            }
        }
        if !frame.is_empty() {
            self.stream.write_all(&frame).await.map_err(died)?;
        }
        Ok(())
    }
}

fn died(error: io::Error) -> PoolError {
    PoolError::Died(error.into())
}

/// Sends every stretch that is wanted of a mail; ends only when that fails.
async fn send_stretches(
    mut writer: impl AsyncWrite + Unpin,
    mail: &Spooled,
    mut wanted: mpsc::Receiver<u64>,
) -> PoolError {
    while let Some(start) = wanted.recv().await {
        let end = start.saturating_add(STRETCH_BYTES).min(mail.len());
        let mut at = start;
        while at < end {
            let mut chunk = match mail.read_at(at) {
                Ok(chunk) => chunk,
                Err(error) => return error.into(),
            };
            assert!(!chunk.is_empty(), "what is not behind the end is there");
            chunk.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            if let Err(error) = writer.write_all(&chunk).await {
                return died(error);
            }
            at += chunk.len() as u64;
        }
    }
    // The answers go on, and are the end of it.
    std::future::pending().await
}

/// Passes on which stretches a worker wants. It reads hostile bytes: it may not want them for ever.
struct Wanted {
    stretches: mpsc::Sender<u64>,
    mail_bytes: u64,
    left: u64,
}

impl Wanted {
    fn new(stretches: mpsc::Sender<u64>, mail_bytes: u64) -> Self {
        let left = mail_bytes.div_ceil(STRETCH_BYTES).saturating_mul(PASSES_MAX);
        Self { stretches, mail_bytes, left }
    }

    async fn stretch(&mut self, at: u64) -> Result<(), PoolError> {
        if at >= self.mail_bytes || self.left == 0 {
            return Err(nonsense());
        }
        self.left -= 1;
        self.stretches.send(at).await.map_err(|_| nonsense())
    }
}

/// The worker says what none of ours would.
fn nonsense() -> PoolError {
    died(io::ErrorKind::InvalidData.into())
}

/// What a worker says of a mail.
struct Answers<'a> {
    mail: &'a Spooled,
    spooler: &'a Spooler,
    exported: &'a mpsc::Sender<ExportedObject>,
}

impl Answers<'_> {
    /// Reads them to the last one. `wanted`: the worker may ask for the mail.
    async fn take(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut wanted: Option<Wanted>,
    ) -> Result<Analysis, PoolError> {
        loop {
            match receive(&mut reader).await.map_err(PoolError::Died)? {
                Answer::Done(analysis) => return Ok(analysis.within(self.mail.len())),
                Answer::Object { part, file_name, bytes } => {
                    let file_name = file_name.map(bounded);
                    let content = self.object(&mut reader, bytes).await?;
                    // Nobody asks any more: the verdict is not awaited.
                    let _ = self.exported.send(ExportedObject { part, file_name, content }).await;
                }
                Answer::More { at } => match &mut wanted {
                    Some(wanted) => wanted.stretch(at).await?,
                    None => return Err(nonsense()),
                },
                Answer::Ready(_) => return Err(nonsense()),
            }
        }
    }

    async fn object(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        bytes: u64,
    ) -> Result<Spooled, PoolError> {
        let mut spool = self.spooler.open();
        let mut left = bytes;
        let mut buffer = [0; READ_BYTES];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let space = buffer.get_mut(..want).unwrap_or_default();
            let count = reader.read(space).await.map_err(died)?;
            if count == 0 {
                return Err(died(io::ErrorKind::UnexpectedEof.into()));
            }
            spool.write(space.get(..count).unwrap_or_default())?;
            left -= count as u64;
        }
        Ok(spool.finish())
    }
}

async fn receive<T: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<T, WorkerError> {
    let mut length = [0; LENGTH_BYTES];
    reader.read_exact(&mut length).await?;
    let mut body = vec![0; checked_length(length, ANSWER_BYTES_MAX)?];
    reader.read_exact(&mut body).await?;
    Ok(decode(&body)?)
}

#[cfg(test)]
mod tests;
