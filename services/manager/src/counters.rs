//! What a manager counts, and the line in the log that shows it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use service_kit::listener::{self, count};
use service_kit::metrics::{
    Collector, DescriptorEncoder, Family, Histogram, Label, MetricType, Registry,
    exponential_buckets,
};
use service_kit::{counters, metrics};
use tokio::time::Instant;
use tracing::info;
use wire::{Bye, DeniedReason};

use crate::Shared;
use crate::fleet::ProxyStatus;
use crate::health::{Health, Mark};

/// Between two lines in the log that show the state.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Most bytes of a session that a box is believed: a terabyte.
pub const BYE_BYTES_MAX: u64 = 1 << 40;
/// Most messages of a session that a box is believed.
pub const BYE_MESSAGES_MAX: u32 = 1_000_000;

counters! {
    /// Since the start.
    pub struct Counters {
        /// Proxies named.
        assignments,
        /// Answers that no proxy may be named.
        busy,
        /// Questions of a box with more sessions than its ticket grants.
        surplus_sessions,
        /// Questions of a box that asks more often than its ticket grants.
        surplus_rate,
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
        /// Ends reported with figures that no session has.
        byes_absurd,
        /// Bytes of the sessions whose end was reported, both directions.
        bytes,
        /// Messages in the sessions whose end was reported.
        messages,
        /// Infected messages in the sessions whose end was reported.
        infected,
        /// Messages in the sessions whose end was reported that were not looked at in full.
        unscannable,
        /// Sessions whose end was reported that went to TLS.
        opaque,
        /// Polls that failed.
        polls_failed,
        /// Answers to polls with figures that no proxy has.
        reports_absurd,
        /// Tables taken while running.
        reloads,
        /// Tables refused while running.
        reloads_refused,
    } with {
        /// Of the listener.
        pub connections: Arc<listener::Counters>,
        /// Tickets refused, by reason.
        pub refusals: Family<Label, metrics::Counter>,
        /// Proxies marked, by reason.
        pub marks: Family<Label, metrics::Counter>,
        /// How long polls took that were answered.
        pub polls: PollTimes,
    }
}

/// Seconds from a poll to its answer.
#[derive(Debug, Clone)]
pub struct PollTimes(pub Histogram);

impl Default for PollTimes {
    /// From a quarter of a millisecond, on one switch, to two seconds, which is beyond the timeout.
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.000_25, 2.0, 14)))
    }
}

impl Counters {
    /// Takes a box's account of a session. Of a lease that is not out it is taken for nothing: so a
    /// box can tell only of what it was given, and only once.
    pub(crate) fn bye(&self, bye: &Bye, known: bool) {
        count(&self.byes);
        if !known {
            count(&self.late);
            return;
        }
        let Some(bytes) = plausible_bytes(bye) else {
            count(&self.byes_absurd);
            return;
        };
        if bytes == 0 {
            count(&self.unused);
        }
        self.bytes.inc_by(bytes);
        self.messages.inc_by(bye.messages.into());
        self.infected.inc_by(bye.infected.into());
        self.unscannable.inc_by(bye.unscannable.into());
        self.opaque.inc_by(bye.opaque.into());
    }

    /// A ticket was refused.
    pub(crate) fn refused(&self, reason: DeniedReason) {
        count(&self.denied);
        self.refusals.get_or_create(&[("reason", metrics::denied(reason))]).inc();
    }

    /// A proxy was marked.
    pub(crate) fn marked(&self, mark: Mark) {
        self.marks.get_or_create(&[("reason", mark_label(mark))]).inc();
    }

    /// Everything that a manager exports.
    pub(crate) fn export(&self, shared: Arc<Shared>) -> Registry {
        let mut registry = Registry::with_prefix("avr_manager");
        self.register(&mut registry);
        self.connections.register(registry.sub_registry_with_prefix("connections"));
        registry.register("refusals", "Tickets refused, by reason", self.refusals.clone());
        registry.register("marks", "Proxies marked, by reason", self.marks.clone());
        registry.register(
            "poll_seconds",
            "Seconds from a poll to its answer",
            self.polls.0.clone(),
        );
        registry.register_collector(Box::new(Site(shared)));
        registry
    }
}

/// The bytes of a session that may have been as its box says.
fn plausible_bytes(bye: &Bye) -> Option<u64> {
    let bytes = bye.bytes_up.checked_add(bye.bytes_down)?;
    let judged = bye.infected.checked_add(bye.unscannable)?;
    let plausible =
        bytes <= BYE_BYTES_MAX && bye.messages <= BYE_MESSAGES_MAX && judged <= bye.messages;
    plausible.then_some(bytes)
}

/// A mark as the value of a label: without its figure.
pub(crate) fn mark_label(mark: Mark) -> &'static str {
    use crate::health::PollFailure::{Misbehaved, TimedOut, Unreachable};
    match mark {
        Mark::NotPolledYet => "not-polled-yet",
        Mark::Overloaded(_) => "overloaded",
        Mark::Silent(TimedOut) => "timed-out",
        Mark::Silent(Unreachable) => "unreachable",
        Mark::Silent(Misbehaved) => "misbehaved",
    }
}

/// What is read from the core when it is asked for.
#[derive(Debug)]
struct Site(Arc<Shared>);

impl Collector for Site {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (leases, boxes, drained, proxies) = {
            let fleet = self.0.fleet();
            let proxies: Vec<_> = fleet.status(Instant::now().into_std()).collect();
            (fleet.leases(), fleet.boxes(), fleet.is_drained(), proxies)
        };
        let gauge = |encoder: &mut DescriptorEncoder<'_>, name, help, value: u64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        let size = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        gauge(&mut encoder, "leases", "Leases that are out", size(leases))?;
        gauge(&mut encoder, "boxes", "Boxes that are connected with a good ticket", size(boxes))?;
        gauge(&mut encoder, "drained", "1 while the site is drained", drained.into())?;
        let revoked = &self.0.revoked;
        gauge(&mut encoder, "revoked", "Tickets known to be revoked", size(revoked.count()))?;
        if let Some(age_s) = revoked.age_s(self.0.now_s()) {
            let help = "Seconds since an auther vouched for the list of revoked tickets";
            gauge(&mut encoder, "revoked_age_seconds", help, age_s)?;
        }
        for (name, help, value) in PER_PROXY {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for proxy in &proxies {
                let label = [("proxy", proxy.local.to_string())];
                family.encode_family(&label)?.encode_gauge(&value(proxy))?;
            }
        }
        let (name, help) = ("proxy_chosen", "Times that this proxy was named");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for proxy in &proxies {
            let label = [("proxy", proxy.local.to_string())];
            family
                .encode_family(&label)?
                .encode_counter::<[(&str, &str); 0], _, u64>(&proxy.chosen, None)?;
        }
        Ok(())
    }
}

type PerProxy = (&'static str, &'static str, fn(&ProxyStatus) -> f64);

const PER_PROXY: [PerProxy; 6] = [
    ("proxy_up", "1 while this proxy may be named", |proxy| {
        f64::from(u8::from(proxy.health == Health::Up && !proxy.drained && !proxy.report.draining))
    }),
    ("proxy_sessions", "Sessions of this proxy, as the manager counts them", |proxy| {
        f64::from(proxy.live)
    }),
    ("proxy_leases", "Leases of this manager on this proxy", |proxy| f64::from(proxy.leases)),
    ("proxy_load_average", "One-minute load average of the proxy's host", |proxy| {
        f64::from(proxy.report.load_average_milli) / 1000.0
    }),
    ("proxy_weight", "How often this proxy stands in the table", |proxy| f64::from(proxy.weight)),
    ("proxy_share", "What part of its share this proxy gets, 1 but after it came back", |proxy| {
        f64::from(proxy.share_milli) / 1000.0
    }),
];

/// Logs the state from time to time, for ever.
pub(crate) async fn report(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let (leases, proxies) = {
            let fleet = shared.fleet();
            (fleet.leases(), fleet.status(Instant::now().into_std()).collect::<Vec<_>>())
        };
        let counters = &shared.counters;
        info!(leases, %counters, connections = %counters.connections, "state");
        for proxy in proxies {
            let state = match proxy.health {
                Health::Up => "up".to_owned(),
                Health::Marked { why, .. } => format!("marked: {why}"),
            };
            let load_average_milli = proxy.report.load_average_milli;
            let draining = proxy.report.draining || proxy.drained;
            info!(proxy = %proxy.local, state, load_average_milli, live = proxy.live, draining, "proxy");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wire::{LeaseId, SessionId};

    use super::*;

    fn bye() -> Bye {
        Bye {
            session: SessionId([1; 16]),
            lease: LeaseId(1),
            bytes_up: 1_000,
            bytes_down: 500,
            messages: 3,
            infected: 1,
            unscannable: 1,
            opaque: true,
        }
    }

    #[test]
    fn a_bye_is_counted_once_and_only_by_who_has_the_lease() {
        let counters = Counters::default();
        counters.bye(&bye(), true);
        counters.bye(&bye(), false);
        let seen = [&counters.byes, &counters.late, &counters.bytes, &counters.messages];
        assert_eq!(seen.map(metrics::Counter::get), [2, 1, 1_500, 3]);
        let seen = [&counters.infected, &counters.unscannable, &counters.opaque];
        assert_eq!(seen.map(metrics::Counter::get), [1, 1, 1]);
    }

    #[test]
    fn figures_that_no_session_has_are_taken_for_nothing() {
        for absurd in [
            Bye { bytes_up: u64::MAX, ..bye() },
            Bye { bytes_up: u64::MAX, bytes_down: u64::MAX, ..bye() },
            Bye { bytes_down: BYE_BYTES_MAX, ..bye() },
            Bye { messages: BYE_MESSAGES_MAX + 1, ..bye() },
            Bye { infected: 3, ..bye() },
            Bye { infected: u32::MAX, unscannable: u32::MAX, ..bye() },
        ] {
            let counters = Counters::default();
            counters.bye(&absurd, true);
            assert_eq!(counters.byes_absurd.get(), 1, "{absurd:?}");
            assert_eq!(counters.bytes.get() + counters.messages.get(), 0, "{absurd:?}");
        }
        let counters = Counters::default();
        counters.bye(&Bye { bytes_up: BYE_BYTES_MAX - 500, ..bye() }, true);
        assert_eq!(counters.byes_absurd.get(), 0);
    }

    #[test]
    fn every_counter_is_counted_somewhere() {
        let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let names = Counters::NAMES.iter().chain(&["refusals", "marks", "polls"]);
        let never: Vec<_> = metrics::never_counted(source, names.copied());
        assert!(never.is_empty(), "{never:?}");
    }
}
