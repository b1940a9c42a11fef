//! Servers that are alike: which of them is asked, what happens when it fails, when it is asked again.
//!
//! [`clamd`](super::clamd) and [`icap`](super::icap) bring a `Protocol`, which knows bytes and nothing of
//! other servers. Of those that are up, the one with the fewest bytes outstanding is asked; if it fails,
//! one other. A server that has failed is asked nothing until a probe has had an answer from it, so that no
//! mail waits for what is known to be dead.

use std::fmt::{self, Debug, Display};
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use spool::SpoolError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::{Counters, Counts, EngineOutcome, Object, ServerNumbers, printable};

/// Largest [`ServerSettings::connections_max`].
pub const CONNECTIONS_MAX_MAX: usize = 256;

/// Longest text of an answer that is passed on, bytes.
pub(crate) const WHY_BYTES_MAX: usize = 200;

/// How servers are used, and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSettings {
    /// Most connections to one server at a time, from 1 to [`CONNECTIONS_MAX_MAX`]. Default 8: `clamd`'s
    /// `MaxThreads` is 10 unless set otherwise, and probes need one. Each costs some 64 KiB.
    pub connections_max: usize,
    /// Longest wait for a connection to be made. Default 2 s.
    pub connect_time_max: Duration,
    /// Longest wait for a connection to be free, and then again for the answer, sending included.
    /// Default 12 s, so that two servers can be tried in the time of a mail.
    pub answer_time_max: Duration,
    /// How long an idle connection is kept. Default 10 s; `clamd`'s own `IdleTimeout` is 30 s.
    pub idle_time_max: Duration,
    /// How long after a probe that had no answer the next is sent. Default 1 s.
    pub probe_every: Duration,
    /// How often a server is asked for the version of its signatures, at most. Default 30 s.
    pub version_every: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            connections_max: 8,
            connect_time_max: Duration::from_secs(2),
            answer_time_max: Duration::from_secs(12),
            idle_time_max: Duration::from_secs(10),
            probe_every: Duration::from_secs(1),
            version_every: Duration::from_secs(30),
        }
    }
}

/// How one server is talked to.
pub(crate) trait Protocol: Display + Send + Sync + 'static {
    /// A connection, ready for the next object.
    type Session: Send + 'static;

    fn connect(&self) -> impl Future<Output = Result<Self::Session, AskError>> + Send;

    /// Asks about one object.
    fn exchange(
        &self,
        session: &mut Self::Session,
        object: &Object,
    ) -> impl Future<Output = Result<Answer, AskError>> + Send;

    /// Asks whether it lives; gives the version of its signatures, where it has one.
    fn probe(
        &self,
        session: &mut Self::Session,
    ) -> impl Future<Output = Result<Option<String>, AskError>> + Send;

    /// How many connections it wants at most, as far as it has said so.
    fn connections_max(&self) -> Option<usize> {
        None
    }
}

/// What a server said of an object.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: EngineOutcome,
    /// The connection may be used for the next object.
    pub(crate) reusable: bool,
    /// The version of its signatures, where the answer tells.
    pub(crate) version: Option<String>,
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("all connections are busy")]
    Busy,
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("connect: no answer in time")]
    ConnectTimeout,
    #[error("send: {0}")]
    Send(io::Error),
    #[error("receive: {0}")]
    Receive(io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("it closed the connection without an answer")]
    Closed,
    #[error("its answer is over {0} bytes")]
    ReplyTooLong(usize),
    #[error("it said OK before it had all of it")]
    Early,
    #[error("its answer makes no sense: {0}")]
    Rubbish(String),
    #[error("it reports: {0}")]
    Reported(String),
    #[error("the object cannot be read back: {0}")]
    Content(SpoolError),
}

impl AskError {
    /// With what it said, made fit for a log.
    pub(crate) fn rubbish(text: &str) -> Self {
        Self::Rubbish(printable(text, WHY_BYTES_MAX))
    }

    /// Whether other objects would fare no better.
    fn is_of_the_server(&self) -> bool {
        !matches!(self, Self::Busy | Self::Reported(_) | Self::Content(_))
    }
}

/// Several servers that are alike.
pub(crate) struct Pool<P: Protocol> {
    servers: Vec<Arc<Server<P>>>,
    /// Where the search for a server starts, so that idle ones get their share.
    turn: AtomicUsize,
    /// Counts changes of any server's signatures.
    generation: Arc<AtomicU64>,
    counters: Counters,
}

impl<P: Protocol> Pool<P> {
    pub(crate) fn new(protocols: Vec<P>, settings: ServerSettings) -> Self {
        let generation = Arc::new(AtomicU64::new(0));
        let servers = protocols
            .into_iter()
            .map(|protocol| Arc::new(Server::new(protocol, settings, &generation)))
            .collect();
        Self { servers, turn: AtomicUsize::new(0), generation, counters: Counters::default() }
    }

    /// Asks one server, and if it fails one other.
    pub(crate) async fn ask(&self, object: &Object) -> EngineOutcome {
        let outcome = self.ask_twice(object).await;
        self.counters.note(&outcome);
        outcome
    }

    async fn ask_twice(&self, object: &Object) -> EngineOutcome {
        let mut failures = String::new();
        let mut tried = None;
        for _ in 0..2 {
            let Some(server) = self.choose(tried) else { break };
            if tried.is_some() {
                self.counters.note_retry();
            }
            let answers = server.answers.load(Ordering::Relaxed);
            let error = match server.ask(object).await {
                Ok(outcome) => return outcome,
                Err(error) => error,
            };
            server.note_failure(&error, answers);
            if !failures.is_empty() {
                failures.push_str("; ");
            }
            failures.push_str(&format!("{}: {error}", server.protocol));
            if matches!(error, AskError::Content(_)) {
                break;
            }
            tried = Some(server);
        }
        EngineOutcome::Failed(if failures.is_empty() {
            "no server is up".to_owned()
        } else {
            failures
        })
    }

    /// Of those that are up, the one with the fewest bytes outstanding.
    fn choose(&self, tried: Option<&Arc<Server<P>>>) -> Option<&Arc<Server<P>>> {
        let turn = match tried {
            None => self.turn.fetch_add(1, Ordering::Relaxed),
            Some(_) => self.turn.load(Ordering::Relaxed),
        } % self.servers.len().max(1);
        let (behind, from) = self.servers.split_at_checked(turn)?;
        from.iter()
            .chain(behind)
            .filter(|server| !tried.is_some_and(|tried| Arc::ptr_eq(tried, server)))
            .filter(|server| !server.is_down.load(Ordering::Relaxed))
            .min_by_key(|server| server.outstanding.load(Ordering::Relaxed))
    }

    /// See [`Engine::generation`](super::Engine::generation). Whoever asks for it keeps it up to date: a
    /// server that was not asked for long is asked in the background.
    pub(crate) fn generation(&self) -> u64 {
        for server in &self.servers {
            server.poll_version();
        }
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counters.counts()
    }

    /// See [`Engine::servers`](super::Engine::servers).
    pub(crate) fn servers(&self) -> Vec<ServerNumbers> {
        let number =
            |value: &AtomicUsize| u64::try_from(value.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        let servers = self.servers.iter().map(|server| ServerNumbers {
            server: server.protocol.to_string(),
            up: !server.is_down.load(Ordering::Relaxed),
            outstanding: number(&server.objects),
            outstanding_bytes: number(&server.outstanding),
        });
        servers.collect()
    }

    /// Bytes outstanding, by server.
    #[cfg(test)]
    pub(crate) fn outstanding(&self) -> Vec<usize> {
        self.servers.iter().map(|server| server.outstanding.load(Ordering::Relaxed)).collect()
    }

    /// Whether this server is left out.
    #[cfg(test)]
    pub(crate) fn is_down(&self, server: usize) -> bool {
        self.servers[server].is_down.load(Ordering::Relaxed)
    }

    /// As if this server had told its version.
    #[cfg(test)]
    pub(crate) fn note_version(&self, server: usize, text: &str) {
        self.servers[server].note_version(text.to_owned());
    }
}

impl<P: Protocol> Debug for Pool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.servers.iter().map(|server| server.protocol.to_string());
        f.debug_list().entries(servers).finish()
    }
}

/// One server, with its connections.
struct Server<P: Protocol> {
    protocol: P,
    settings: ServerSettings,
    /// Bytes it has been asked about and has not answered.
    outstanding: AtomicUsize,
    /// In so many objects.
    objects: AtomicUsize,
    /// Counts its answers.
    answers: AtomicUsize,
    connections: Semaphore,
    /// How many connections the semaphore stands for.
    connections_max: Mutex<usize>,
    idle: Mutex<Vec<Idle<P::Session>>>,
    /// It has failed. Exactly as long a task probes it.
    is_down: AtomicBool,
    version: Mutex<Version>,
    generation: Arc<AtomicU64>,
}

struct Idle<S> {
    session: S,
    since: Instant,
}

/// What is known of a server's signatures.
#[derive(Default)]
struct Version {
    text: Option<String>,
    asked: Option<Instant>,
}

impl<P: Protocol> Server<P> {
    fn new(protocol: P, settings: ServerSettings, generation: &Arc<AtomicU64>) -> Self {
        let connections_max = settings.connections_max.clamp(1, CONNECTIONS_MAX_MAX);
        let settings = ServerSettings { connections_max, ..settings };
        Self {
            protocol,
            settings,
            outstanding: AtomicUsize::new(0),
            objects: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            connections: Semaphore::new(connections_max),
            connections_max: Mutex::new(connections_max),
            idle: Mutex::default(),
            is_down: AtomicBool::new(false),
            version: Mutex::default(),
            generation: Arc::clone(generation),
        }
    }

    async fn ask(&self, object: &Object) -> Result<EngineOutcome, AskError> {
        let _bytes = Outstanding::new(&self.outstanding, object.content.len());
        let _object = Outstanding::new(&self.objects, 1);
        let _permit = self.permit().await?;
        let exchange = timeout(self.settings.answer_time_max, self.exchange(object));
        let outcome = exchange.await.map_err(|_| AskError::Timeout)??;
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.fit_connections();
        Ok(outcome)
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, AskError> {
        if let Ok(permit) = self.connections.try_acquire() {
            return Ok(permit);
        }
        // Those before us have the whole time of an answer.
        let acquire = timeout(self.settings.answer_time_max, self.connections.acquire());
        acquire.await.ok().and_then(Result::ok).ok_or(AskError::Busy)
    }

    async fn exchange(&self, object: &Object) -> Result<EngineOutcome, AskError> {
        if let Some(session) = self.idle_session() {
            match self.exchange_on(session, object).await {
                Ok(outcome) => return Ok(outcome),
                Err(error @ (AskError::Reported(_) | AskError::Content(_))) => return Err(error),
                // It may have ended the idle session meanwhile, with or without a word: no failure.
                Err(_) => {}
            }
        }
        let session = self.connect().await?;
        self.exchange_on(session, object).await
    }

    async fn exchange_on(
        &self,
        mut session: P::Session,
        object: &Object,
    ) -> Result<EngineOutcome, AskError> {
        let answer = self.protocol.exchange(&mut session, object).await?;
        if let Some(version) = answer.version {
            self.note_version(version);
        }
        if answer.reusable {
            let mut idle = lock(&self.idle);
            if idle.len() < self.settings.connections_max {
                idle.push(Idle { session, since: Instant::now() });
            }
        }
        Ok(answer.outcome)
    }

    fn idle_session(&self) -> Option<P::Session> {
        let mut idle = lock(&self.idle);
        idle.retain(|idle| idle.since.elapsed() < self.settings.idle_time_max);
        idle.pop().map(|idle| idle.session)
    }

    async fn connect(&self) -> Result<P::Session, AskError> {
        timeout(self.settings.connect_time_max, self.protocol.connect())
            .await
            .map_err(|_| AskError::ConnectTimeout)?
    }

    /// Brings the semaphore to what the server has said it wants.
    fn fit_connections(&self) {
        let wanted = self.protocol.connections_max().unwrap_or(usize::MAX);
        let wanted = wanted.clamp(1, self.settings.connections_max);
        let mut now = lock(&self.connections_max);
        if wanted > *now {
            self.connections.add_permits(wanted - *now);
            *now = wanted;
        } else if wanted < *now {
            // Those in use cannot be taken back; the next answer takes the rest.
            *now -= self.connections.forget_permits(*now - wanted);
        }
    }

    /// It gave no answer; `answers` is how many it had given when it was asked.
    fn note_failure(self: &Arc<Self>, error: &AskError, answers: usize) {
        tracing::debug!(server = %self.protocol, %error, "no answer");
        // Who answered others meanwhile is alive: it is this object that takes long.
        let is_alive = self.answers.load(Ordering::Relaxed) != answers;
        if error.is_of_the_server() && !is_alive {
            self.mark_down();
        }
    }

    /// Nothing is asked of it any more, until it has answered a probe.
    fn mark_down(self: &Arc<Self>) {
        if !self.is_down.swap(true, Ordering::Relaxed) {
            tracing::warn!(server = %self.protocol, "gives no answer: left out until it does");
            lock(&self.idle).clear();
            let probed = Probed(Arc::downgrade(self));
            tokio::spawn(async move { probed.until_it_answers().await });
        }
    }

    /// A connection of its own, so that the answer says that new ones work.
    async fn probe(&self) -> Result<(), AskError> {
        let mut session = self.connect().await?;
        let probe = timeout(self.settings.connect_time_max, self.protocol.probe(&mut session));
        if let Some(version) = probe.await.map_err(|_| AskError::Timeout)?? {
            self.note_version(version);
        }
        Ok(())
    }

    /// Asks for the version in the background, if that was not done for long. Who does not answer that is
    /// down before any mail has waited for it.
    fn poll_version(self: &Arc<Self>) {
        let now = Instant::now();
        let is_due = {
            let asked = &mut lock(&self.version).asked;
            let is_due = asked.is_none_or(|at| now >= at + self.settings.version_every);
            if is_due {
                *asked = Some(now);
            }
            is_due
        };
        // A probe asks for the version of those that are down.
        if !is_due || self.is_down.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let server = Arc::clone(self);
            runtime.spawn(async move {
                let answers = server.answers.load(Ordering::Relaxed);
                if let Err(error) = server.probe().await {
                    server.note_failure(&error, answers);
                }
            });
        }
    }

    fn note_version(&self, text: String) {
        let mut version = lock(&self.version);
        version.asked = Some(Instant::now());
        if version.text.as_ref() != Some(&text) {
            version.text = Some(text);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }
}

/// A server that is down, in the hands of the task that probes it.
struct Probed<P: Protocol>(Weak<Server<P>>);

impl<P: Protocol> Probed<P> {
    /// Ends with the server, too.
    async fn until_it_answers(self) {
        while let Some(server) = self.0.upgrade() {
            match server.probe().await {
                Ok(()) => {
                    tracing::info!(server = %server.protocol, "answers again");
                    return;
                }
                Err(error) => tracing::debug!(server = %server.protocol, %error, "still down"),
            }
            let pause = server.settings.probe_every;
            drop(server);
            tokio::time::sleep(pause).await;
        }
    }
}

impl<P: Protocol> Drop for Probed<P> {
    /// However the task ends: a server that nobody probes must not stay down for ever.
    fn drop(&mut self) {
        if let Some(server) = self.0.upgrade() {
            server.is_down.store(false, Ordering::Relaxed);
        }
    }
}

/// Counts bytes while they are outstanding.
struct Outstanding<'a>(&'a AtomicUsize, usize);

impl<'a> Outstanding<'a> {
    fn new(counter: &'a AtomicUsize, bytes: u64) -> Self {
        // At least one, so that idle servers share small objects too.
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        counter.fetch_add(bytes, Ordering::Relaxed);
        Self(counter, bytes)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// What is behind these locks is whole whenever they are let go.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
