//! What a manager counts, and the line in the log that shows it.

use std::sync::Arc;
use std::time::Duration;

use service_kit::counters;
use service_kit::listener::{self, count};
use tracing::info;
use wire::Bye;

use crate::Shared;
use crate::health::Health;

/// Between two lines in the log that show the state.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(60);

counters! {
    /// Since the start.
    pub struct Counters {
        /// Proxies named.
        assignments,
        /// Answers that no proxy may be named.
        busy,
        /// Tickets refused.
        denied,
        /// Peers that said something else than a box says to a manager, or nothing in time.
        misbehaved,
        /// Ends of sessions reported.
        byes,
        /// Assignments that were given back unused.
        unused,
        /// Ends reported for a lease that was not out, or another box's.
        late,
        /// Bytes of the sessions whose end was reported, both directions.
        bytes,
        /// Messages in the sessions whose end was reported.
        messages,
        /// Infected messages in the sessions whose end was reported.
        infected,
        /// Polls that failed.
        polls_failed,
    } with {
        /// Of the listener.
        pub connections: Arc<listener::Counters>,
    }
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
        self.bytes.inc_by(bytes);
        self.messages.inc_by(bye.messages.into());
        self.infected.inc_by(bye.infected.into());
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
        let counters = &shared.counters;
        info!(leases, %counters, connections = %counters.connections, "state");
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
