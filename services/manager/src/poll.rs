//! The driver on the proxies' side: polls each on a link that is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use link::{Link, LinkError};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tracing::{info, warn};
use wire::identity::Role;
use wire::{Message, Poll};

use crate::Shared;
use crate::fleet::Report;
use crate::health::{Change, PollFailure};
use crate::table::ProxyIndex;
use service_kit::listener::count;

/// One proxy to be watched.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) index: ProxyIndex,
    /// Its local address.
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// From one poll to the next.
    pub(crate) interval: Duration,
    /// For a poll, connecting included.
    pub(crate) timeout: Duration,
}

/// Why a poll failed.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("step connect")]
    Connect(#[source] LinkError),
    #[error("step ask")]
    Ask(#[source] LinkError),
    #[error("step answer")]
    Answer(#[source] LinkError),
    #[error("step answer: {0} is no answer to a poll")]
    Unexpected(&'static str),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("between polls")]
    Between(#[source] LinkError),
}

impl PollError {
    fn failure(&self) -> PollFailure {
        match self {
            Self::TimedOut(_) => PollFailure::TimedOut,
            Self::Unexpected(_) => PollFailure::Misbehaved,
            Self::Connect(error)
            | Self::Ask(error)
            | Self::Answer(error)
            | Self::Between(error) => match error.fault() {
                link::Fault::TimedOut => PollFailure::TimedOut,
                link::Fault::Peer => PollFailure::Misbehaved,
                _ => PollFailure::Unreachable,
            },
        }
    }
}

impl Watch {
    /// Polls until the proxy is out of the table and has nothing left to do.
    pub(crate) async fn run(self, shared: Arc<Shared>) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut link = None;
        let mut sequence = 0;
        while shared.fleet().is_at(self.index, self.address) {
            let lost = tokio::select! {
                _ = ticks.tick() => None,
                // A proxy that dies is noticed here, not at the next poll.
                error = lost(&mut link) => Some(error),
            };
            let polled = match lost {
                Some(error) => Err(PollError::Between(error)),
                None => {
                    sequence += 1;
                    let before = Instant::now();
                    let polled = timeout(self.timeout, self.poll(&mut link, sequence))
                        .await
                        .unwrap_or(Err(PollError::TimedOut(self.timeout)));
                    if polled.is_ok() {
                        shared.counters.polls.0.observe(before.elapsed().as_secs_f64());
                    }
                    polled
                }
            };
            if polled.is_err() {
                link = None;
            }
            self.note(polled, &shared);
        }
    }

    async fn poll(&self, link: &mut Option<Link>, sequence: u64) -> Result<Report, PollError> {
        let link = match link {
            Some(link) => link,
            none => {
                let new = link::connect(self.address, Role::Proxy, self.tls.clone(), self.timeout)
                    .await
                    .map_err(PollError::Connect)?;
                none.insert(new)
            }
        };
        link.send(&Message::Poll(Poll { sequence })).await.map_err(PollError::Ask)?;
        loop {
            match link.recv().await.map_err(PollError::Answer)? {
                Message::Load(load) if load.sequence == sequence => {
                    return Ok(Report {
                        load_average_milli: load.load_average_milli,
                        sessions: load.sessions,
                        draining: load.draining,
                    });
                }
                // The answer to a poll before, or to a ping.
                Message::Load(_) | Message::Pong(_) => {}
                other => return Err(PollError::Unexpected(other.name())),
            }
        }
    }

    fn note(&self, polled: Result<Report, PollError>, shared: &Shared) {
        let now = Instant::now().into_std();
        let proxy = self.address;
        let mut fleet = shared.fleet();
        if !fleet.is_at(self.index, proxy) {
            return;
        }
        let (change, error) = match polled {
            Ok(report) => {
                let absurd = !report.is_plausible();
                if absurd {
                    count(&shared.counters.reports_absurd);
                }
                let error = absurd.then(|| format!("no proxy has such figures: {report:?}"));
                (fleet.reported(self.index, report, now), error)
            }
            Err(error) => {
                count(&shared.counters.polls_failed);
                let change = fleet.poll_failed(self.index, error.failure(), now);
                (change, Some(telemetry::chain(&error)))
            }
        };
        drop(fleet);
        shared.look_for_emptied();
        shared.polled.send_modify(|polls| *polls += 1);
        match change {
            Some(Change::Marked(why)) => {
                shared.counters.marked(why);
                warn!(%proxy, %why, error, "proxy marked: not named");
            }
            Some(Change::Unmarked(after)) => {
                info!(%proxy, marked_s = after.as_secs(), "proxy is named from now on");
            }
            None => {}
        }
    }
}

/// Returns when the link is lost; never without a link. What comes between polls is late answers.
async fn lost(link: &mut Option<Link>) -> LinkError {
    let Some(link) = link else { return std::future::pending().await };
    loop {
        if let Err(error) = link.recv().await {
            return error;
        }
    }
}
