//! When to look for an update, and when to start anew for one. Reads no clock.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first look after a start comes within this time: boxes that the same power cut has started do not
/// all ask at once, and what they are needed for comes first.
pub const FIRST_LOOK_MAX: Duration = Duration::from_secs(10 * 60);

/// The first look after a start comes not before this.
pub const FIRST_LOOK_MIN: Duration = Duration::from_secs(60);

/// Until the next look after one that failed; it doubles with each failure, up to the interval.
pub const RETRY_MIN: Duration = Duration::from_secs(5 * 60);

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;

/// Until the first look after a start. `random` is any number.
#[must_use]
pub fn first_look(random: u32) -> Duration {
    FIRST_LOOK_MIN + (FIRST_LOOK_MAX - FIRST_LOOK_MIN).mul_f64(share(random))
}

/// Until the next look, after so many in a row that have failed: an eighth more or less, by chance, so that
/// a fleet does not ask in step.
#[must_use]
pub fn next_look(interval: Duration, failures: u32, random: u32) -> Duration {
    let wait = match failures {
        0 => interval,
        failures => {
            let doubled = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
            RETRY_MIN.saturating_mul(doubled).min(interval)
        }
    };
    wait.mul_f64(0.875 + share(random) / 4.0)
}

/// From 0 to 1.
fn share(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}

/// A time of each day, UTC, as in `17:00-20:00`; across midnight, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// In minutes since midnight, both.
    start: u16,
    end: u16,
}

/// A text that is no time of the day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time of the day: write one as in \"17:00-20:00\", in UTC")]
pub struct WindowError(String);

impl Window {
    /// Whether it is that time, in seconds since 1970 UTC.
    #[must_use]
    pub fn is_open(&self, now_s: u64) -> bool {
        let minute = u16::try_from(now_s / 60 % u64::from(DAY_MINUTES)).unwrap_or(0);
        if self.start < self.end {
            (self.start..self.end).contains(&minute)
        } else {
            minute >= self.start || minute < self.end
        }
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let wrong = || WindowError(text.to_owned());
        let minute = |text: &str| -> Option<u16> {
            let (hours, minutes) = text.split_once(':')?;
            let number = |text: &str| -> Option<u16> {
                let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| text.parse().ok()).flatten()
            };
            let (hours, minutes) = (number(hours)?, number(minutes)?);
            (minutes < 60).then_some(hours * 60 + minutes)
        };
        let (start, end) = text.split_once('-').ok_or_else(wrong)?;
        let (start, end) = minute(start.trim()).zip(minute(end.trim())).ok_or_else(wrong)?;
        // Until 24:00 is until midnight; a time without length is none.
        if start >= DAY_MINUTES || end > DAY_MINUTES || start == end {
            return Err(wrong());
        }
        Ok(Self { start, end })
    }
}

impl TryFrom<String> for Window {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Self, WindowError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, end } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", start / 60, start % 60, end / 60, end % 60)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR_S: u64 = 3600;

    #[test]
    fn a_window_is_open_at_its_time_of_each_day() {
        let night: Window = "17:00-20:30".parse().unwrap();
        let day = 20_000 * 24 * HOUR_S;
        for (at, is_open) in [(16, false), (17, true), (20, true), (21, false)] {
            assert_eq!(night.is_open(day + at * HOUR_S), is_open, "{at}");
        }
        assert!(!night.is_open(day + 20 * HOUR_S + 30 * 60));
        let across: Window = "23:00-01:00".parse().unwrap();
        for (at, is_open) in [(22, false), (23, true), (0, true), (1, false)] {
            assert_eq!(across.is_open(day + at * HOUR_S), is_open, "{at}");
        }
        let evening: Window = "22:00-24:00".parse().unwrap();
        assert!(evening.is_open(day - 1) && !evening.is_open(day));
    }

    #[test]
    fn what_is_no_time_of_the_day_is_refused() {
        for text in ["", "17-20", "17:00", "25:00-26:00", "17:60-18:00", "5:00-6:00", "1:00-1:00"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
        assert!("07:00-07:00".parse::<Window>().unwrap_err().to_string().contains("17:00-20:00"));
    }

    #[test]
    fn failures_are_tried_again_later_each_time_and_no_later_than_the_interval() {
        let interval = Duration::from_secs(6 * HOUR_S);
        let waits: Vec<u64> =
            [1, 2, 3, 20, u32::MAX].map(|n| next_look(interval, n, u32::MAX / 2).as_secs()).into();
        let near = |wait: u64, wanted: u64| wait.abs_diff(wanted) <= 1;
        let wanted = [300, 600, 1200, 6 * HOUR_S, 6 * HOUR_S];
        assert!(waits.iter().zip(wanted).all(|(&wait, wanted)| near(wait, wanted)), "{waits:?}");
    }

    proptest! {
        #[test]
        fn looks_are_spread(seconds in 3600_u64..700_000, random in any::<u32>()) {
            let interval = Duration::from_secs(seconds);
            let wait = next_look(interval, 0, random);
            prop_assert!(wait >= interval * 7 / 8 - Duration::from_secs(1));
            prop_assert!(wait <= interval * 9 / 8 + Duration::from_secs(1));
            let first = first_look(random);
            prop_assert!(first >= FIRST_LOOK_MIN && first <= FIRST_LOOK_MAX);
        }

        #[test]
        fn windows_survive_being_written(start in 0_u16..1440, end in 0_u16..=1440) {
            if start != end {
                let window = Window { start, end };
                prop_assert_eq!(window.to_string().parse(), Ok(window));
            }
        }
    }
}
