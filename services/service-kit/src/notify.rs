//! What the service manager is told (sd_notify(3)): that the server is ready, that it lives, that
//! it drains.
//!
//! "Ready" is said when the accept loop of [`crate::serve`] first waits for a connection: the
//! settings are loaded then, and the port is bound. "Alive" is said only when that loop has answered
//! a question a moment ago, which takes both the loop and the runtime to turn; a thread that tells
//! the watchdog by itself would prove nothing. Where no service manager asks (`NOTIFY_SOCKET` is not
//! set) nothing is sent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heartbeat::{NotifyState, tell};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::Drain;
use crate::listener::Accept;

/// How often the status is told during a drain.
pub const DRAIN_STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the service manager shall wait for the next word during a drain, beyond its
/// `TimeoutStopSec`. So the server's own `drain_seconds_max` decides, as long as the server lives.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(15);

/// Asked whether it lives, and answered by the accept loop. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Beats>);

#[derive(Debug)]
struct Beats {
    /// How many questions were asked.
    asked: watch::Sender<u64>,
    /// Up to which question they are answered; `None` before the loop first ran.
    answered: watch::Sender<Option<u64>>,
    connections: AtomicUsize,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let (asked, _) = watch::channel(0);
        let (answered, _) = watch::channel(None);
        Self(Arc::new(Beats { asked, answered, connections: AtomicUsize::new(0) }))
    }

    /// Returns when the accept loop has run for the first time.
    async fn started(&self) {
        let mut answered = self.0.answered.subscribe();
        // The sender is in `self`, so it cannot be gone.
        let _ = answered.wait_for(Option::is_some).await;
    }

    /// Asks the accept loop, and returns when it has answered.
    async fn beat(&self) {
        let mut answered = self.0.answered.subscribe();
        self.0.asked.send_modify(|asked| *asked += 1);
        let question = *self.0.asked.borrow();
        let _ = answered.wait_for(|until| until.is_some_and(|until| until >= question)).await;
    }

    fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection until what is returned is dropped.
    pub(crate) fn connection(&self) -> Connection {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Connection(self.clone())
    }
}

/// A connection that is counted. See [`Pulse::connection`].
#[derive(Debug)]
pub(crate) struct Connection(Pulse);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A source of connections that answers the [`Pulse`] whenever it is waited for.
#[derive(Debug)]
pub(crate) struct Pulsing<A> {
    source: A,
    pulse: Pulse,
}

impl<A: Accept> Pulsing<A> {
    pub(crate) fn new(source: A, pulse: Pulse) -> Self {
        Self { source, pulse }
    }
}

impl<A: Accept + Sync> Accept for Pulsing<A> {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let beats = &self.pulse.0;
        let mut asked = beats.asked.subscribe();
        let mut accepted = std::pin::pin!(self.source.accept());
        loop {
            let question = *asked.borrow_and_update();
            beats.answered.send_replace(Some(question));
            tokio::select! {
                accepted = &mut accepted => return accepted,
                _ = asked.changed() => {}
            }
        }
    }
}

/// Tells the service manager about one server, until it is dropped.
pub(crate) async fn report(drain: Drain) {
    if heartbeat::is_wanted() {
        report_to(drain, heartbeat::watchdog(), tell).await;
    }
}

/// Tells the service manager that the server has ended; a drain of nothing is over before [`report`]
/// has noticed it.
pub(crate) fn ended() {
    tell(&[NotifyState::Stopping, NotifyState::Status("ended")]);
}

/// [`report`] to whatever takes the words.
async fn report_to(
    drain: Drain,
    watchdog: Option<Duration>,
    mut tell: impl FnMut(&[NotifyState<'_>]),
) {
    let pulse = drain.pulse();
    let mut draining = std::pin::pin!(drain.started());
    tokio::select! {
        () = &mut draining => {}
        () = pulse.started() => {
            tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
            tokio::select! {
                () = &mut draining => {}
                () = keep_alive(pulse, watchdog, &mut tell) => {}
            }
        }
    }
    tell(&[NotifyState::Stopping]);
    loop {
        let status = format!("draining, {} connections left", pulse.connections());
        let patience = u32::try_from(DRAIN_PATIENCE.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Status(&status), NotifyState::ExtendTimeoutUsec(patience)]);
        tokio::time::sleep(DRAIN_STATUS_INTERVAL).await;
    }
}

/// Tells the watchdog each time that the accept loop has answered. Does not return.
async fn keep_alive(
    pulse: &Pulse,
    watchdog: Option<Duration>,
    tell: &mut impl FnMut(&[NotifyState<'_>]),
) {
    let status = || format!("serving, {} connections", pulse.connections());
    let beat = || {
        let pulse = pulse.clone();
        async move { pulse.beat().await }
    };
    heartbeat::keep_alive("the accept loop", watchdog, beat, status, tell).await;
}

/// Says that the server reads its settings anew; that it is done, when what is returned is dropped.
#[must_use = "dropped at once, it says that the reload is over"]
pub fn reloading() -> Reloading {
    // systemd 253 wants the time with it, and older ones do not mind.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
    Reloading(())
}

/// See [`reloading`].
#[derive(Debug)]
pub struct Reloading(());

impl Drop for Reloading {
    fn drop(&mut self) {
        tell(&[NotifyState::Ready]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::timeout;

    use super::*;
    use crate::DrainTrigger;

    const WATCHDOG: Duration = Duration::from_secs(30);

    /// A port to which nobody connects.
    struct Quiet;

    impl Accept for Quiet {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            std::future::pending().await
        }
    }

    /// What was told, a line for each word.
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Told {
        fn tell(&self, states: &[NotifyState<'_>]) {
            self.0.lock().unwrap().extend(states.iter().map(ToString::to_string));
        }

        fn count(&self, word: &str) -> usize {
            self.0.lock().unwrap().iter().filter(|told| *told == word).count()
        }

        async fn holds(&self, word: &str) {
            while self.count(word) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_when_the_loop_runs_and_alive_as_long_as_it_answers() {
        let (_trigger, drain) = DrainTrigger::new();
        let told = Told::default();
        let source = Pulsing::new(Quiet, drain.pulse().clone());
        let watched = report_to(drain.clone(), Some(WATCHDOG), |states| told.tell(states));
        let story = async {
            tokio::time::sleep(WATCHDOG).await;
            assert!(told.0.lock().unwrap().is_empty(), "nothing before the loop runs");
            let _ = timeout(4 * WATCHDOG, source.accept()).await;
            assert_eq!(told.count("READY=1"), 1);
            let alive = told.count("WATCHDOG=1");
            assert!((11..=13).contains(&alive), "{alive} in four times the watchdog's time");
            assert_eq!(told.count("STATUS=serving, 0 connections"), alive);
            // Nobody polls the loop any more: it is as if it hung. An answer may be under way.
            tokio::time::sleep(WATCHDOG).await;
            let last = told.count("WATCHDOG=1");
            assert!(last <= alive + 1, "{last} after {alive}");
            tokio::time::sleep(4 * WATCHDOG).await;
            assert_eq!(told.count("WATCHDOG=1"), last);
            // One answer later it lives again.
            let _ = timeout(WATCHDOG, source.accept()).await;
            assert!(told.count("WATCHDOG=1") > last);
        };
        tokio::select! {
            () = watched => panic!("it ends with the server only"),
            () = story => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_says_what_is_left_and_asks_for_patience() {
        let (trigger, drain) = DrainTrigger::new();
        let told = Told::default();
        let source = Pulsing::new(Quiet, drain.pulse().clone());
        let watched = report_to(drain.clone(), None, |states| told.tell(states));
        let story = async {
            let _ = timeout(WATCHDOG, source.accept()).await;
            let connection = drain.pulse().connection();
            trigger.drain();
            told.holds("STATUS=draining, 1 connections left").await;
            assert_eq!(told.count("STOPPING=1"), 1);
            assert!(told.count("EXTEND_TIMEOUT_USEC=15000000") > 0);
            drop(connection);
            told.holds("STATUS=draining, 0 connections left").await;
        };
        tokio::select! {
            () = watched => panic!("it ends with the server only"),
            () = story => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_served_is_not_called_ready() {
        let (trigger, drain) = DrainTrigger::new();
        let told = Told::default();
        trigger.drain();
        let watched = report_to(drain, Some(WATCHDOG), |states| told.tell(states));
        assert!(timeout(WATCHDOG, watched).await.is_err());
        assert_eq!((told.count("READY=1"), told.count("STOPPING=1")), (0, 1));
    }
}
