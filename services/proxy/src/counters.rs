//! What a proxy counts, and the line in the log that shows it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use scan::engine::ServerNumbers;
use scan::{EngineNumbers, ScanNumbers, Scanner};
use service_kit::metrics::{
    Collector, Counter, DescriptorEncoder, Family, Label, MetricType, Registry,
};
use service_kit::{Drain, counters, listener, metrics};
use session::{Opaque, Outcome};
use tracing::info;
use wire::{DeniedReason, RefusedReason};

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
        /// Messages cut off before their end, or before they had gone on.
        cut_off,
        /// Times a client or mail server broke its protocol.
        violations,
        /// Tickets refused.
        denied,
        /// Sessions not opened because the mail server was not connected to.
        server_failed,
        /// Mail servers that were told the client's address.
        announced,
        /// Mail servers that expect the client's address, where the box had said none that may be told.
        announced_nobody,
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
        /// Tickets refused, by reason.
        pub refusals: Family<Label, Counter>,
        /// Mail servers not connected to, by reason.
        pub server_failures: Family<Label, Counter>,
    }
}

impl Counters {
    /// A ticket was refused.
    pub(crate) fn refused(&self, reason: DeniedReason) {
        self.denied.inc();
        self.refusals.get_or_create(&[("reason", metrics::denied(reason))]).inc();
    }

    /// A mail server was not connected to.
    pub(crate) fn not_connected(&self, reason: RefusedReason) {
        self.server_failed.inc();
        let reason = match reason {
            RefusedReason::ServerRefused => "refused",
            RefusedReason::ServerUnreachable => "unreachable",
            RefusedReason::ServerTimedOut => "timed-out",
            // This proxy's own trouble, such as no file descriptors.
            _ => "own",
        };
        self.server_failures.get_or_create(&[("reason", reason)]).inc();
    }

    /// Everything that a proxy exports.
    pub(crate) fn export(&self, shared: Arc<Shared>, drain: Drain) -> Registry {
        let mut registry = Registry::with_prefix("avr_proxy");
        self.register(&mut registry);
        self.connections.register(registry.sub_registry_with_prefix("connections"));
        registry.register("refusals", "Tickets refused, by reason", self.refusals.clone());
        registry.register(
            "server_failures",
            "Mail servers not connected to, by reason",
            self.server_failures.clone(),
        );
        registry.register_collector(Box::new(Now { shared, drain }));
        registry
    }

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
        add(&self.cut_off, outcome.aborted.into());
        add(&self.violations, outcome.violations.into());
    }
}

/// What keeps a proxy from carrying another session, for `/readyz`.
pub(crate) fn missing(shared: Arc<Shared>, drain: Drain) -> impl Fn() -> Vec<String> + Send + Sync {
    move || {
        let (live, most) = (shared.sessions.taken(), shared.sessions.places_max());
        let full = (live >= most).then(|| format!("full: {live} sessions"));
        let draining = drain.is_draining().then(|| format!("draining: {live} sessions are left"));
        let drained = shared
            .gate
            .is_drained()
            .then(|| format!("drained: {live} sessions are left; `avr-proxy undrain` ends that"));
        full.into_iter().chain(draining).chain(drained).collect()
    }
}

/// What is read when it is asked for.
#[derive(Debug)]
struct Now {
    shared: Arc<Shared>,
    drain: Drain,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self { shared, drain } = self;
        let revoked = &shared.revoked;
        let is_drained = drain.is_draining() || shared.gate.is_drained();
        let size = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        for (name, help, value) in [
            ("sessions_live", "Sessions carried now", size(shared.sessions.taken())),
            ("sessions_max", "Sessions at most", size(shared.sessions.places_max())),
            ("warm", "Connections that boxes keep warm", size(shared.warm.taken())),
            ("drained", "1 while it takes no new sessions", is_drained.into()),
            ("revoked", "Tickets that are void before their time, by box", size(revoked.count())),
        ] {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        if let Some(age_s) = revoked.age_s((shared.clock)()) {
            let help = "Seconds since an auther vouched for the list of void tickets";
            encoder
                .encode_descriptor("revoked_age_seconds", help, None, MetricType::Gauge)?
                .encode_gauge(&age_s)?;
        }
        match &shared.carrier.scanner {
            Some(scanner) => encode_scanning(&mut encoder, &scanner.numbers()),
            None => Ok(()),
        }
    }
}

/// A figure of one server of an engine.
type PerServer = (&'static str, &'static str, fn(&ServerNumbers) -> u64);
/// A count of one engine.
type PerEngine = (&'static str, &'static str, fn(&EngineNumbers) -> u64);

const PER_SERVER: [PerServer; 3] = [
    ("scanner_up", "1 while this scanner is asked", |server| server.up.into()),
    (
        "scanner_outstanding",
        "Objects that this scanner has not answered, those waiting for it included",
        |server| server.outstanding,
    ),
    ("scanner_outstanding_bytes", "Bytes of these", |server| server.outstanding_bytes),
];

const PER_ENGINE: [PerEngine; 4] = [
    ("engine_asked", "Objects that an engine was asked about", |engine| engine.counts.asked),
    ("engine_found", "Objects in which it found something", |engine| engine.counts.found),
    ("engine_failed", "Objects on which it gave no answer", |engine| engine.counts.failed),
    ("engine_retried", "Objects that a second scanner was asked about", |engine| {
        engine.counts.retried
    }),
];

/// What the scanners, the workers and the spool do.
fn encode_scanning(
    encoder: &mut DescriptorEncoder<'_>,
    numbers: &ScanNumbers,
) -> Result<(), fmt::Error> {
    for (name, help, value) in PER_SERVER {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (engine, servers) in &numbers.servers {
            for server in servers {
                let labels = [("engine", engine.as_str()), ("server", server.server.as_str())];
                family.encode_family(&labels)?.encode_gauge(&value(server))?;
            }
        }
    }
    for (name, help, value) in PER_ENGINE {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (engine, counts) in &numbers.engines {
            family
                .encode_family(&[("engine", engine.as_str())])?
                .encode_counter::<[(&str, &str); 0], _, u64>(&value(counts), None)?;
        }
    }
    let (name, help) = ("unscannable_reasons", "Mails not looked at in full, by reason");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (reason, mails) in &numbers.unscannable {
        family
            .encode_family(&[("reason", *reason)])?
            .encode_counter::<[(&str, &str); 0], _, u64>(mails, None)?;
    }
    let (name, help) = ("spool_bytes", "Bytes that wait for their verdicts");
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&numbers.spool_bytes)?;
    for (name, help, value) in [
        ("workers_started", "Scan workers started", numbers.workers.started),
        ("workers_died", "Scan workers that a mail ended", numbers.workers.died),
    ] {
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<[(&str, &str); 0], _, u64>(&value, None)?;
    }
    Ok(())
}

/// Logs the state from time to time, for ever.
pub(crate) async fn report(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let (live, warm) = (shared.sessions.taken(), shared.warm.taken());
        let counters = &shared.counters;
        let engines = shared.carrier.scanner.as_ref().map(Scanner::numbers).unwrap_or_default();
        info!(live, warm, %counters, connections = %counters.connections, %engines, "state");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_counter_is_counted_somewhere() {
        let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let names = Counters::NAMES.iter().chain(&["refusals", "server_failures"]).copied();
        assert_eq!(metrics::never_counted(source, names), Vec::<&str>::new());
    }
}
