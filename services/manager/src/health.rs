//! Whether a proxy may be named: marked when it is overloaded or silent, unmarked with hysteresis.

use std::fmt;
use std::time::{Duration, Instant};

/// Limits of [`Health`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthSettings {
    /// Above this load average, in thousandths, a proxy is marked.
    pub load_average_max_milli: u32,
    /// An overloaded proxy has to come down to this.
    pub load_average_recover_milli: u32,
    /// So many good polls in a row unmark a proxy.
    pub recover_polls: u32,
}

/// A proxy's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// May be named.
    Up,
    /// May not.
    Marked {
        /// Since when.
        since: Instant,
        /// For what.
        why: Mark,
        /// Good polls in a row since then.
        good_polls: u32,
    },
}

/// Why a proxy is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// This manager has just started.
    NotPolledYet,
    /// Its load average was over the limit, in thousandths.
    Overloaded(u32),
    /// It gave no answer to a poll.
    Silent(PollFailure),
}

/// How a poll can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollFailure {
    /// No answer in time.
    TimedOut,
    /// No connection, or it broke.
    Unreachable,
    /// It answered something else.
    Misbehaved,
}

/// What became different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is not named any more.
    Marked(Mark),
    /// It is named again, after so long.
    Unmarked(Duration),
}

impl Health {
    /// Of a proxy that was never polled.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self::Marked { since: now, why: Mark::NotPolledYet, good_polls: 0 }
    }

    /// Takes a good answer to a poll.
    pub fn reported(
        &mut self,
        load_average_milli: u32,
        settings: &HealthSettings,
        now: Instant,
    ) -> Option<Change> {
        let overloaded = load_average_milli > settings.load_average_max_milli;
        match self {
            _ if overloaded => self.mark(Mark::Overloaded(load_average_milli), now),
            Self::Up => None,
            Self::Marked { since, why, good_polls } => {
                let (wanted_polls, wanted_milli) = match why {
                    Mark::NotPolledYet => (1, settings.load_average_max_milli),
                    Mark::Silent(_) => (settings.recover_polls, settings.load_average_max_milli),
                    Mark::Overloaded(_) => {
                        (settings.recover_polls, settings.load_average_recover_milli)
                    }
                };
                if load_average_milli > wanted_milli {
                    *good_polls = 0;
                    return None;
                }
                *good_polls = good_polls.saturating_add(1);
                if *good_polls < wanted_polls {
                    return None;
                }
                let marked_for = now.saturating_duration_since(*since);
                *self = Self::Up;
                Some(Change::Unmarked(marked_for))
            }
        }
    }

    /// Takes a failed poll.
    pub fn failed(&mut self, failure: PollFailure, now: Instant) -> Option<Change> {
        self.mark(Mark::Silent(failure), now)
    }

    fn mark(&mut self, mark: Mark, now: Instant) -> Option<Change> {
        match self {
            Self::Up => {
                *self = Self::Marked { since: now, why: mark, good_polls: 0 };
                Some(Change::Marked(mark))
            }
            Self::Marked { why, good_polls, .. } => {
                *good_polls = 0;
                // The same reason with another figure is no news.
                let news = std::mem::discriminant(why) != std::mem::discriminant(&mark);
                *why = mark;
                news.then_some(Change::Marked(mark))
            }
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPolledYet => f.write_str("not polled yet"),
            Self::Overloaded(milli) => {
                write!(f, "load average {}.{:03}", milli / 1000, milli % 1000)
            }
            Self::Silent(PollFailure::TimedOut) => f.write_str("poll timed out"),
            Self::Silent(PollFailure::Unreachable) => f.write_str("unreachable"),
            Self::Silent(PollFailure::Misbehaved) => f.write_str("wrong answer to a poll"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: HealthSettings = HealthSettings {
        load_average_max_milli: 8_000,
        load_average_recover_milli: 6_000,
        recover_polls: 3,
    };
    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn up(now: Instant) -> Health {
        let mut health = Health::new(now);
        assert_eq!(health.reported(0, &SETTINGS, now), Some(Change::Unmarked(Duration::ZERO)));
        health
    }

    #[test]
    fn a_new_proxy_is_named_after_its_first_good_poll() {
        let now = start();
        let mut health = Health::new(now);
        assert_eq!(
            health.reported(8_001, &SETTINGS, now),
            Some(Change::Marked(Mark::Overloaded(8_001)))
        );
        let mut health = Health::new(now);
        assert_eq!(health.reported(8_000, &SETTINGS, now + SECOND), Some(Change::Unmarked(SECOND)));
        assert_eq!(health, Health::Up);
    }

    #[test]
    fn an_overloaded_proxy_comes_back_after_three_polls_under_the_lower_limit() {
        let now = start();
        let mut health = up(now);
        assert_eq!(health.reported(8_000, &SETTINGS, now), None);
        assert!(matches!(health.reported(8_001, &SETTINGS, now), Some(Change::Marked(_))));
        // Between the limits it stays as it is, for however long.
        for _ in 0..100 {
            assert_eq!(health.reported(6_001, &SETTINGS, now), None);
        }
        assert_eq!(health.reported(6_000, &SETTINGS, now), None);
        assert_eq!(health.reported(6_000, &SETTINGS, now), None);
        // One bad poll in between and it starts anew.
        assert_eq!(health.reported(7_000, &SETTINGS, now), None);
        assert_eq!(health.reported(100, &SETTINGS, now), None);
        assert_eq!(health.reported(100, &SETTINGS, now), None);
        let back = health.reported(100, &SETTINGS, now + SECOND);
        assert_eq!(back, Some(Change::Unmarked(SECOND)));
    }

    #[test]
    fn a_silent_proxy_comes_back_after_three_answers_whatever_its_lawful_load() {
        let now = start();
        let mut health = up(now);
        let marked = health.failed(PollFailure::TimedOut, now);
        assert_eq!(marked, Some(Change::Marked(Mark::Silent(PollFailure::TimedOut))));
        // Said once, not at every poll.
        assert_eq!(health.failed(PollFailure::TimedOut, now), None);
        assert_eq!(health.failed(PollFailure::Unreachable, now), None);
        assert_eq!(health.reported(7_999, &SETTINGS, now), None);
        assert_eq!(health.failed(PollFailure::TimedOut, now), None);
        assert_eq!(health.reported(7_999, &SETTINGS, now), None);
        assert_eq!(health.reported(7_999, &SETTINGS, now), None);
        assert!(health.reported(7_999, &SETTINGS, now).is_some());
    }

    #[test]
    fn silence_that_turns_into_overload_is_news() {
        let now = start();
        let mut health = up(now);
        health.failed(PollFailure::Unreachable, now);
        assert_eq!(
            health.reported(9_500, &SETTINGS, now),
            Some(Change::Marked(Mark::Overloaded(9_500)))
        );
        assert_eq!(Mark::Overloaded(9_050).to_string(), "load average 9.050");
    }
}
