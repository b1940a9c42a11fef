//! What a proxy counts, and the line in the log that shows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use service_kit::listener;
use session::{Opaque, Outcome};
use tracing::info;

use crate::Shared;

/// Between two lines in the log that show the state.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Of the listener.
    pub connections: Arc<listener::Counters>,
    /// Sessions opened.
    pub sessions: AtomicU64,
    /// Of these, reset rather than closed in order.
    pub resets: AtomicU64,
    /// Of these, passed unread because of `scan.mode = "off"`.
    pub unread: AtomicU64,
    /// Of these, gone to TLS.
    pub opaque: AtomicU64,
    /// Bytes of these, both directions.
    pub bytes: AtomicU64,
    /// Messages in these.
    pub messages: AtomicU64,
    /// Of these, infected.
    pub infected: AtomicU64,
    /// Of these, not looked at in full.
    pub unscannable: AtomicU64,
    /// Times a client or mail server broke its protocol.
    pub violations: AtomicU64,
    /// Tickets refused.
    pub denied: AtomicU64,
    /// Sessions not opened because of the mail server.
    pub server_failed: AtomicU64,
    /// Sessions not opened because of the destination policy.
    pub forbidden: AtomicU64,
    /// Sessions not opened because they had crossed too many relays.
    pub loops: AtomicU64,
    /// Sessions not opened because this proxy or the box had its number.
    pub full: AtomicU64,
    /// Sessions not opened because of the drain.
    pub draining: AtomicU64,
    /// Peers that said something else than they may, or nothing in time.
    pub misbehaved: AtomicU64,
    /// Polls answered.
    pub polls: AtomicU64,
    /// Sessions whose box said bye.
    pub byes: AtomicU64,
}

impl Counters {
    /// Takes the end of a session.
    pub(crate) fn session(&self, outcome: &Outcome) {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.resets, outcome.reset.into());
        let unread = matches!(outcome.opaque, Some(Opaque::Setting | Opaque::Unframed));
        add(&self.unread, unread.into());
        add(&self.opaque, (outcome.opaque == Some(Opaque::Tls)).into());
        add(&self.bytes, outcome.bytes_up.saturating_add(outcome.bytes_down));
        add(&self.messages, outcome.messages.into());
        add(&self.infected, outcome.infected.into());
        add(&self.unscannable, outcome.unscannable.into());
        add(&self.violations, outcome.violations.into());
    }
}

/// `sessions=12 resets=0 …`
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, counter) in [
            ("sessions", &self.sessions),
            ("resets", &self.resets),
            ("unread", &self.unread),
            ("opaque", &self.opaque),
            ("bytes", &self.bytes),
            ("messages", &self.messages),
            ("infected", &self.infected),
            ("unscannable", &self.unscannable),
            ("violations", &self.violations),
            ("denied", &self.denied),
            ("server_failed", &self.server_failed),
            ("forbidden", &self.forbidden),
            ("loops", &self.loops),
            ("full", &self.full),
            ("draining", &self.draining),
            ("misbehaved", &self.misbehaved),
            ("polls", &self.polls),
            ("byes", &self.byes),
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
        let (live, warm) = (shared.sessions.taken(), shared.warm.taken());
        info!(live, warm, counters = %shared.counters, "state");
    }
}
