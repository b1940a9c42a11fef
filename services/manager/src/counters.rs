//! What a manager counts, and the line in the log that shows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use service_kit::listener::{self, count};
use tracing::info;
use wire::Bye;

use crate::Shared;
use crate::health::Health;

/// Between two lines in the log that show the state.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Of the listener.
    pub connections: Arc<listener::Counters>,
    /// Proxies named.
    pub used: AtomicU64,
    /// Answers that no proxy may be named.
    pub busy: AtomicU64,
    /// Tickets refused.
    pub denied: AtomicU64,
    /// Peers that said something else than a box says to a manager, or nothing in time.
    pub misbehaved: AtomicU64,
    /// Ends of sessions reported.
    pub byes: AtomicU64,
    /// Of these, assignments that were given back unused.
    pub unused: AtomicU64,
    /// Of these, for a lease that had ended already.
    pub late: AtomicU64,
    /// Bytes of these sessions, both directions.
    pub bytes: AtomicU64,
    /// Messages in these sessions.
    pub messages: AtomicU64,
    /// Of these, infected.
    pub infected: AtomicU64,
    /// Polls that failed.
    pub polls_failed: AtomicU64,
}

impl Counters {
    /// Takes a box's account of a session.
    pub(crate) fn bye(&self, bye: &Bye, known: bool) {
        let bytes = bye.bytes_up.saturating_add(bye.bytes_down);
        count(&self.byes);
        if bytes == 0 {
            count(&self.unused);
        }
        if !known {
            count(&self.late);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.messages.fetch_add(bye.messages.into(), Ordering::Relaxed);
        self.infected.fetch_add(bye.infected.into(), Ordering::Relaxed);
    }
}

/// `used=12 busy=0 …`
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, counter) in [
            ("used", &self.used),
            ("busy", &self.busy),
            ("denied", &self.denied),
            ("misbehaved", &self.misbehaved),
            ("byes", &self.byes),
            ("unused", &self.unused),
            ("late", &self.late),
            ("bytes", &self.bytes),
            ("messages", &self.messages),
            ("infected", &self.infected),
            ("polls_failed", &self.polls_failed),
        ] {
            write!(f, "{name}={} ", counter.load(Ordering::Relaxed))?;
        }
        write!(f, "{}", self.connections)
    }
}

/// Logs the state from time to time, for ever.
pub(crate) async fn report(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let (leases, proxies) = {
            let fleet = shared.fleet();
            (fleet.leases(), fleet.status().collect::<Vec<_>>())
        };
        info!(leases, counters = %shared.counters, "state");
        for proxy in proxies {
            let state = match proxy.health {
                Health::Up => "up".to_owned(),
                Health::Marked { why, .. } => format!("marked: {why}"),
            };
            let load_average_milli = proxy.report.load_average_milli;
            let draining = proxy.report.draining;
            info!(proxy = %proxy.local, state, load_average_milli, live = proxy.live, draining, "proxy");
        }
    }
}
