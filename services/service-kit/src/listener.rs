//! The accept loop: a bounded number of connections, each in a task of its own, until the drain.
//!
//! What a connection does cannot hurt the others: too many are refused, and before that the oldest
//! still in its handshake makes room; a handshake that stalls is given up, a panic ends its own task and is counted, and a failing `accept` (no file descriptors
//! left) is tried again after a pause.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use link::{Acceptor, Link};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::metrics::Count;
use crate::newcomers::Newcomers;
use crate::notify::Pulsing;
use crate::{Drain, counters};

pub use crate::newcomers::Unproven;

/// First pause after a failed `accept`; each further failure doubles it.
pub const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause after a failed `accept`.
pub const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// At most one log line in this time says that connections are refused or `accept` fails.
pub const REPEATED_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take, from `accept` on. A box on a bad line needs three seconds.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// What a listener grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, those in their handshake included. For one more the oldest of these is
    /// closed; when there is none, the new one.
    pub connections_max: usize,
    /// From the start of the drain to the end of the last connection; those left are cut off.
    pub drain_max: Duration,
}

counters! {
    /// What a listener has seen. Shared with whoever reports it.
    pub struct Counters {
        /// Connections taken.
        accepted,
        /// Connections closed because as many were there as may be.
        refused,
        /// TLS handshakes that failed or stalled.
        handshakes_failed,
        /// Failures of `accept` itself.
        accept_failures,
        /// Connections whose task panicked.
        panics,
    }
}

/// Counts one.
pub fn count(counter: &impl Count) {
    counter.count();
}

/// How the drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Connections that had not ended after [`Limits::drain_max`] and were reset.
    pub cut_off: usize,
}

/// Where connections come from: a [`TcpListener`], or a test.
pub trait Accept: Send {
    /// The next connection and its address. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        Self::accept(self)
    }
}

/// Binds, with an error that says what to change.
///
/// # Errors
/// The address cannot be bound; the text names it and the setting.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// See [`bind`].
#[derive(Debug, thiserror::Error)]
#[error("`listen`: cannot listen on {address}; write an address of this host and a free port")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Accepts links until the drain is over, each handled by `handler` in a task of its own. As soon as
/// it waits for the first, the service manager is told that the server is ready.
pub async fn serve<H, F>(
    source: impl Accept + Sync,
    acceptor: Acceptor,
    limits: Limits,
    counters: Arc<Counters>,
    drain: Drain,
    handler: H,
) -> Served
where
    H: Fn(Link, SocketAddr) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let handshakes = counters.clone();
    let pulse = drain.pulse().clone();
    let source = Pulsing::new(source, pulse.clone());
    let with_tls = move |stream: TcpStream, address: SocketAddr, unproven: Unproven| {
        let (acceptor, handler, counters) = (acceptor.clone(), handler.clone(), handshakes.clone());
        let connection = pulse.connection();
        async move {
            let _counted = connection;
            match acceptor.accept(stream, HANDSHAKE_TIME_MAX).await {
                Ok(link) => {
                    drop(unproven);
                    handler(link, address).await;
                }
                Err(error) => {
                    count(&counters.handshakes_failed);
                    let error = telemetry::chain(&error);
                    info!(peer = %address, step = "handshake", error, "connection given up");
                }
            }
        }
    };
    accept_loop(source, limits, &counters, drain, with_tls).await
}

/// [`serve`] before TLS: `handler` gets the stream, and drops [`Unproven`] when the peer has shown who
/// it is.
pub async fn accept_loop<H, F>(
    source: impl Accept,
    limits: Limits,
    counters: &Counters,
    drain: Drain,
    handler: H,
) -> Served
where
    H: Fn(TcpStream, SocketAddr, Unproven) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut pause = Pause::default();
    let mut refusals = Repeated::default();
    let mut newcomers = Newcomers::new(limits.connections_max);
    {
        let mut draining = pin!(drain.started());
        loop {
            tokio::select! {
                biased;
                () = &mut draining => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => note(ended, counters),
                () = pause.over(), if pause.until.is_some() => pause.until = None,
                accepted = source.accept(), if pause.until.is_none() => match accepted {
                    Ok((stream, peer)) => {
                        pause.reset();
                        let is_full = tasks.len() >= limits.connections_max;
                        let put_off = if is_full { newcomers.put_off_oldest() } else { None };
                        if is_full {
                            count(&counters.refused);
                            if let Some(repeats) = refusals.due() {
                                let connections_max = limits.connections_max;
                                let peer = put_off.unwrap_or(peer);
                                warn!(%peer, connections_max, repeats, "connection refused: full");
                            }
                        }
                        if !is_full || put_off.is_some() {
                            count(&counters.accepted);
                            newcomers.add(peer, |unproven| {
                                tasks.spawn(handler(stream, peer, unproven))
                            });
                        }
                    }
                    Err(error) => {
                        count(&counters.accept_failures);
                        pause.after(&error);
                    }
                },
            }
        }
    }
    // Closes the port: who connects now is refused at once and goes elsewhere.
    drop(source);
    finish(tasks, limits.drain_max, counters, &drain).await
}

/// Waits for the connections that are left, as long as the drain lasts.
async fn finish(
    mut tasks: JoinSet<()>,
    drain_max: Duration,
    counters: &Counters,
    drain: &Drain,
) -> Served {
    let mut over = pin!(drain.over(drain_max));
    loop {
        tokio::select! {
            biased;
            ended = tasks.join_next() => match ended {
                Some(ended) => note(ended, counters),
                None => return Served { cut_off: 0 },
            },
            () = &mut over => break,
        }
    }
    let cut_off = tasks.len();
    warn!(connections = cut_off, "drain is over: connections cut off");
    tasks.shutdown().await;
    Served { cut_off }
}

/// The end of a connection's task.
fn note(ended: Result<(), JoinError>, counters: &Counters) {
    if let Err(error) = ended
        && error.is_panic()
    {
        count(&counters.panics);
        error!("a connection's task panicked; its connection is reset, the others go on");
    }
}

/// The back-off of a failing `accept`.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    last: Duration,
    log: Repeated,
}

impl Pause {
    fn after(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            // That one connection's end (accept(2)), no reason to pause.
            return;
        }
        self.last = (self.last * 2).clamp(ACCEPT_PAUSE_MIN, ACCEPT_PAUSE_MAX);
        self.until = Some(Instant::now() + self.last);
        if let Some(repeats) = self.log.due() {
            error!(%error, repeats, pause_ms = self.last.as_millis(), "cannot accept");
        }
    }

    fn reset(&mut self) {
        self.last = Duration::ZERO;
    }

    async fn over(&self) {
        match self.until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

/// Thins out a log line that a peer could provoke without end.
#[derive(Debug, Default)]
struct Repeated {
    last: Option<Instant>,
    since: u64,
}

impl Repeated {
    /// How often it happened since the last line, if it is time for one.
    fn due(&mut self) -> Option<u64> {
        self.since += 1;
        let now = Instant::now();
        if self.last.is_some_and(|last| now < last + REPEATED_LOG_INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::DrainTrigger;

    const DRAIN_MAX: Duration = Duration::from_secs(60);

    struct Running {
        address: SocketAddr,
        counters: Arc<Counters>,
        trigger: DrainTrigger,
        task: tokio::task::JoinHandle<Served>,
    }

    /// A listener on a free port whose handler is an echo; `p` makes it panic. Its peers are proven
    /// by their first byte.
    async fn echo(connections_max: usize) -> Running {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters::default());
        let (trigger, drain) = DrainTrigger::new();
        let limits = Limits { connections_max, drain_max: DRAIN_MAX };
        let shared = counters.clone();
        let task = tokio::spawn(async move {
            accept_loop(listener, limits, &shared, drain, |mut stream, _, unproven| async move {
                let mut byte = [0];
                let mut unproven = Some(unproven);
                while let Ok(1) = stream.read(&mut byte).await {
                    unproven.take();
                    assert_ne!(byte, *b"p", "as the test asked");
                    stream.write_all(&byte).await.unwrap();
                }
            })
            .await
        });
        Running { address, counters, trigger, task }
    }

    async fn echoes(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok() && matches!(stream.read(&mut byte).await, Ok(1))
    }

    #[tokio::test]
    async fn one_connection_too_many_is_refused_and_the_others_go_on() {
        let running = echo(1).await;
        let mut first = TcpStream::connect(running.address).await.unwrap();
        assert!(echoes(&mut first).await);
        let mut second = TcpStream::connect(running.address).await.unwrap();
        assert!(!echoes(&mut second).await);
        assert!(echoes(&mut first).await);
        assert_eq!(running.counters.refused.get(), 1);
        drop(first);
        // The place is free as soon as the listener has seen the end of the first.
        loop {
            let mut third = TcpStream::connect(running.address).await.unwrap();
            if echoes(&mut third).await {
                break;
            }
        }
    }

    #[tokio::test]
    async fn who_says_nothing_makes_room_for_who_does() {
        let running = echo(3).await;
        let mut proven = TcpStream::connect(running.address).await.unwrap();
        assert!(echoes(&mut proven).await);
        let mut idle = Vec::new();
        for _ in 0..50 {
            idle.push(TcpStream::connect(running.address).await.unwrap());
        }
        let mut late = TcpStream::connect(running.address).await.unwrap();
        assert!(echoes(&mut late).await);
        assert!(echoes(&mut proven).await);
        // The oldest made room, not the one with something to say.
        assert!(matches!(idle[0].read(&mut [0]).await, Ok(0) | Err(_)));
        assert!(running.counters.refused.get() >= 49);
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_ends_only_its_own_connection() {
        let running = echo(8).await;
        let mut good = TcpStream::connect(running.address).await.unwrap();
        let mut bad = TcpStream::connect(running.address).await.unwrap();
        assert!(echoes(&mut good).await);
        bad.write_all(b"p").await.unwrap();
        assert!(matches!(bad.read(&mut [0]).await, Ok(0) | Err(_)));
        assert!(echoes(&mut good).await);
        running.trigger.drain();
        drop((good, bad));
        assert_eq!(running.task.await.unwrap(), Served { cut_off: 0 });
        assert_eq!(running.counters.panics.get(), 1);
    }

    #[tokio::test]
    async fn a_drain_closes_the_port_and_waits_for_what_runs() {
        let running = echo(8).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        assert!(echoes(&mut stream).await);
        running.trigger.drain();
        while TcpStream::connect(running.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(echoes(&mut stream).await);
        drop(stream);
        assert_eq!(running.task.await.unwrap(), Served { cut_off: 0 });
    }

    #[tokio::test]
    async fn what_outlives_the_drain_is_cut_off() {
        let running = echo(8).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        assert!(echoes(&mut stream).await);
        running.trigger.stop();
        assert_eq!(running.task.await.unwrap(), Served { cut_off: 1 });
        assert!(!echoes(&mut stream).await);
    }

    /// Fails as it is told to, then closes the gate.
    struct Faulty {
        errors: Mutex<VecDeque<io::Error>>,
        calls: Arc<Mutex<Vec<Instant>>>,
        drained: Semaphore,
    }

    impl Accept for Faulty {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            self.calls.lock().unwrap().push(Instant::now());
            if let Some(error) = self.errors.lock().unwrap().pop_front() {
                return Err(error);
            }
            let _ = self.drained.acquire().await;
            unreachable!("never released");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_accept_is_tried_again_after_growing_pauses() {
        const EMFILE: i32 = 24;
        let mut errors: VecDeque<_> =
            std::iter::repeat_with(|| io::Error::from_raw_os_error(EMFILE)).take(10).collect();
        errors.push_back(io::ErrorKind::ConnectionAborted.into());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let source =
            Faulty { errors: Mutex::new(errors), calls: calls.clone(), drained: Semaphore::new(0) };
        let (trigger, drain) = DrainTrigger::new();
        let counters = Counters::default();
        let limits = Limits { connections_max: 1, drain_max: DRAIN_MAX };
        let served = accept_loop(source, limits, &counters, drain, |_, _, _| async {});
        let stop = async {
            tokio::time::sleep(DRAIN_MAX).await;
            trigger.drain();
        };
        let (served, ()) = tokio::join!(served, stop);
        assert_eq!(served, Served { cut_off: 0 });
        assert_eq!(counters.accept_failures.get(), 11);
        let calls = calls.lock().unwrap();
        let pauses: Vec<u128> =
            calls.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 0]);
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let error = bind(address).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`listen`: cannot listen on {address}; \
                 write an address of this host and a free port"
            )
        );
    }
}
