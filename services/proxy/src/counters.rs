//! What a proxy counts, and the line in the log that shows it.

use std::sync::Arc;
use std::time::Duration;

use service_kit::metrics::Counter;
use service_kit::{counters, listener};
use session::{Opaque, Outcome};
use tracing::info;

use crate::Shared;

/// Between two lines in the log that show the state.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(60);

counters! {
    /// Since the start.
    pub struct Counters {
        /// Sessions opened.
        sessions,
        /// Sessions reset rather than closed in order.
        resets,
        /// Sessions passed unread because of `scan.mode = "off"`.
        unread,
        /// Sessions gone to TLS.
        opaque,
        /// Bytes of sessions that ended, both directions.
        bytes,
        /// Messages that came to a verdict.
        messages,
        /// Infected messages.
        infected,
        /// Messages not looked at in full.
        unscannable,
        /// Times a client or mail server broke its protocol.
        violations,
        /// Tickets refused.
        denied,
        /// Sessions not opened because of the mail server.
        server_failed,
        /// Sessions not opened because of the destination policy.
        forbidden,
        /// Sessions not opened because they had crossed too many relays.
        loops,
        /// Sessions not opened because this proxy or the box had its number.
        full,
        /// Sessions not opened because of the drain.
        draining,
        /// Peers that said something else than they may, or nothing in time.
        misbehaved,
        /// Polls answered.
        polls,
        /// Sessions whose box said bye.
        byes,
    } with {
        /// Of the listener.
        pub connections: Arc<listener::Counters>,
    }
}

impl Counters {
    /// Takes the end of a session.
    pub(crate) fn session(&self, outcome: &Outcome) {
        let add = |counter: &Counter, n: u64| counter.inc_by(n);
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

/// Logs the state from time to time, for ever.
pub(crate) async fn report(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let (live, warm) = (shared.sessions.taken(), shared.warm.taken());
        let counters = &shared.counters;
        info!(live, warm, %counters, connections = %counters.connections, "state");
    }
}
