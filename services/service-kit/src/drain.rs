//! The end of a server: first take nothing new, then go.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::notify::Pulse;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Stopping,
}

/// Seen by everything that has to end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: watch::Receiver<Phase>,
    /// How whoever started the server learns that it serves.
    pulse: Pulse,
}

/// Starts the end. When all of its clones are dropped without that, the server runs on.
#[derive(Debug, Clone)]
pub struct DrainTrigger(Arc<watch::Sender<Phase>>);

impl DrainTrigger {
    /// A trigger and what it triggers.
    #[must_use]
    pub fn new() -> (Self, Drain) {
        let (sender, receiver) = watch::channel(Phase::Running);
        (Self(Arc::new(sender)), Drain { phase: receiver, pulse: Pulse::new() })
    }

    /// Take nothing new; let what runs come to its end.
    pub fn drain(&self) {
        self.raise(Phase::Draining);
    }

    /// End now.
    pub fn stop(&self) {
        self.raise(Phase::Stopping);
    }

    /// SIGTERM or SIGINT drains, a second one stops. Returns when both have come.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub async fn on_signals(self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        for phase in [Phase::Draining, Phase::Stopping] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match phase {
                Phase::Draining => info!("told to stop: draining; a second signal ends at once"),
                _ => info!("told to stop again: ending at once"),
            }
            self.raise(phase);
        }
        Ok(())
    }

    fn raise(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }
}

impl Drain {
    /// Whether nothing new is to be taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Returns when nothing new is to be taken any more. Cancel-safe.
    pub async fn started(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Returns when everything has to end: `drain_max` after the start of the drain, or when told.
    /// Cancel-safe, but then `drain_max` starts anew.
    pub async fn over(&self, drain_max: Duration) {
        self.started().await;
        // Reaching the limit and being told to stop are the same to the caller.
        let _ = tokio::time::timeout(drain_max, self.reached(Phase::Stopping)).await;
    }

    /// Answered by [`crate::serve`].
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.clone();
        if receiver.wait_for(|now| *now >= phase).await.is_err() {
            // Nobody is left who could start it.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN_MAX: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_over_after_its_limit() {
        let (trigger, drain) = DrainTrigger::new();
        assert!(!drain.is_draining());
        trigger.drain();
        drain.started().await;
        assert!(drain.is_draining());
        let before = tokio::time::Instant::now();
        drain.over(DRAIN_MAX).await;
        assert_eq!(before.elapsed(), DRAIN_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_at_once_and_nothing_goes_back() {
        let (trigger, drain) = DrainTrigger::new();
        trigger.stop();
        trigger.drain();
        let before = tokio::time::Instant::now();
        drain.over(DRAIN_MAX).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_trigger_the_server_runs_on() {
        let (trigger, drain) = DrainTrigger::new();
        drop(trigger);
        assert!(tokio::time::timeout(DRAIN_MAX, drain.started()).await.is_err());
    }
}
