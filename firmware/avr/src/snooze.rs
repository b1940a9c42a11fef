//! `avr snooze`: for a while, new connections are left on the bridge.
//!
//! For whoever has to know now whether the box is to blame. Sessions that run go on; nothing is
//! scanned meanwhile. It ends by itself, and with the daemon: after a restart mail is scanned.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// Longest snooze. What is to stay on the bridge for longer belongs into the settings.
pub const SNOOZE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether the box snoozes, and until when. Shared by the control socket and the packets' thread.
#[derive(Debug)]
pub struct Snooze {
    until: watch::Sender<Option<Instant>>,
}

/// The time asked for cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a snooze lasts from a second to {} hours; for longer, write use = \"bypass\" into a [[route]]",
    SNOOZE_MAX.as_secs() / 3600
)]
pub struct SnoozeError;

impl Default for Snooze {
    fn default() -> Self {
        Self { until: watch::Sender::new(None) }
    }
}

impl Snooze {
    /// Starts one, or gives the one that runs another end.
    ///
    /// # Errors
    ///
    /// It would be longer than [`SNOOZE_MAX`], or none.
    pub fn start(&self, now: Instant, time: Duration) -> Result<(), SnoozeError> {
        if time.is_zero() || time > SNOOZE_MAX {
            return Err(SnoozeError);
        }
        self.until.send_replace(Some(now + time));
        warn!(seconds = time.as_secs(), "snoozing: new connections stay on the bridge, unscanned");
        Ok(())
    }

    /// Ends the one that runs, if any.
    pub fn end(&self, now: Instant) {
        let was_on = self.left(now).is_some();
        self.until.send_replace(None);
        if was_on {
            info!("the snooze was ended: mail is intercepted again");
        }
    }

    /// How long it still lasts; `None` when the box is awake.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let left = (*self.until.borrow())?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Says so in the log when a snooze ends by itself. Runs for ever; that connections are taken
    /// again does not depend on it.
    pub async fn watch(&self) {
        let mut changes = self.until.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender is ours, so it is there.
                _ = changes.changed() => {}
                () = over => self.lapse(until),
            }
        }
    }

    fn lapse(&self, until: Option<Instant>) {
        let lapsed = self.until.send_if_modified(|current| {
            let is_the_same = *current == until;
            if is_the_same {
                *current = None;
            }
            is_the_same
        });
        if lapsed {
            info!("the snooze is over: mail is intercepted again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn it_ends_by_itself_and_by_command() {
        let snooze = Snooze::default();
        let now = Instant::now();
        assert_eq!(snooze.left(now), None);
        snooze.start(now, MINUTE).unwrap();
        assert_eq!(snooze.left(now), Some(MINUTE));
        assert_eq!(snooze.left(now + MINUTE / 2), Some(MINUTE / 2));
        assert_eq!(snooze.left(now + MINUTE), None);
        snooze.start(now, 2 * MINUTE).unwrap();
        snooze.start(now, MINUTE).unwrap();
        assert_eq!(snooze.left(now), Some(MINUTE), "the last word counts");
        snooze.end(now);
        assert_eq!(snooze.left(now), None);
    }

    #[test]
    fn it_lasts_a_day_at_most() {
        let snooze = Snooze::default();
        let now = Instant::now();
        snooze.start(now, SNOOZE_MAX).unwrap();
        snooze.end(now);
        for bad in [Duration::ZERO, SNOOZE_MAX + Duration::from_secs(1), Duration::MAX] {
            assert_eq!(snooze.start(now, bad), Err(SnoozeError));
            assert_eq!(snooze.left(now), None);
        }
        let text = SnoozeError.to_string();
        assert!(text.starts_with("a snooze lasts from a second to 24 hours; "), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_noticed_whatever_came_between() {
        let snooze = Arc::new(Snooze::default());
        let watcher = Arc::clone(&snooze);
        let watcher = tokio::spawn(async move { watcher.watch().await });
        let mut changes = snooze.until.subscribe();
        let begun = Instant::now();
        snooze.start(begun, 2 * MINUTE).unwrap();
        tokio::time::advance(MINUTE).await;
        snooze.start(Instant::now(), 3 * MINUTE).unwrap();
        changes.wait_for(Option::is_none).await.unwrap();
        let lasted = begun.elapsed();
        assert!((4 * MINUTE..5 * MINUTE).contains(&lasted), "{lasted:?}");
        watcher.abort();
    }
}
