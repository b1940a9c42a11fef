//! The time, as far as it is known: a floor that never moves back, and servers that say more.
//!
//! Many boards have no clock that outlives a power cut. What is certain is that it is later than the
//! image was built and later than what was last written to STATE. Times are seconds since 1970 UTC.

use std::time::Duration;

use crate::control::ClockState;

/// How often the floor is written to STATE.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(600);

/// A clock of the board that is further than this above the floor is broken, in seconds: 20 years, more
/// than any image is used.
const AHEAD_SECONDS_MAX: u64 = 20 * 366 * 24 * 3600;

/// What is known of the time.
#[derive(Debug)]
pub struct Clock {
    state: ClockState,
    floor_seconds: u64,
    /// The time comes from a clock of the board that nobody has confirmed. It is used, but does not
    /// raise the floor: one that runs ahead would otherwise do so for ever.
    hearsay: bool,
    saved_at: Option<Duration>,
}

/// A time server's answer cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it says {said_seconds} s since 1970, and it is later than {floor_seconds} s")]
pub struct BelowFloor {
    /// What it said.
    pub said_seconds: u64,
    /// What is known.
    pub floor_seconds: u64,
}

impl Clock {
    /// From when the image was built, what STATE says, and what the system's clock shows; and what the
    /// system's clock is to be set to, if so. `built` is 0 where nobody knows it.
    #[must_use]
    pub fn start(
        built_seconds: u64,
        saved_seconds: Option<u64>,
        now_seconds: u64,
    ) -> (Self, Option<u64>) {
        // Something that was written long after the image was built is as broken as such a clock.
        let most = built_seconds.saturating_add(AHEAD_SECONDS_MAX);
        let saved = saved_seconds.filter(|&saved| built_seconds == 0 || saved <= most);
        let floor = saved.unwrap_or(0).max(built_seconds);
        let believable =
            now_seconds >= floor && now_seconds <= floor.saturating_add(AHEAD_SECONDS_MAX);
        let state = if floor == 0 { ClockState::Unknown } else { ClockState::Floor };
        let hearsay = believable || floor == 0;
        let clock = Self { state, floor_seconds: floor, hearsay, saved_at: None };
        (clock, (!hearsay).then_some(floor))
    }

    /// How well the time is known.
    #[must_use]
    pub fn state(&self) -> ClockState {
        self.state
    }

    /// Earlier than this it is not, in seconds.
    #[must_use]
    pub fn floor_seconds(&self) -> u64 {
        self.floor_seconds
    }

    /// STATE was found after the start, and says this; what to set the system's clock to, if so.
    pub fn found_saved(&mut self, saved_seconds: u64, now_seconds: u64) -> Option<u64> {
        if self.state == ClockState::Synced
            || (self.floor_seconds > 0
                && saved_seconds > self.floor_seconds.saturating_add(AHEAD_SECONDS_MAX))
        {
            return None;
        }
        let (next, set) = Self::start(self.floor_seconds, Some(saved_seconds), now_seconds);
        *self = Self { saved_at: self.saved_at, ..next };
        set
    }

    /// A time server says this.
    ///
    /// # Errors
    /// [`BelowFloor`]: it is wrong, and the clock stays as it is.
    pub fn synced(&mut self, said_seconds: u64) -> Result<(), BelowFloor> {
        if said_seconds < self.floor_seconds {
            return Err(BelowFloor { said_seconds, floor_seconds: self.floor_seconds });
        }
        self.state = ClockState::Synced;
        self.hearsay = false;
        Ok(())
    }

    /// What to write to STATE now, if anything. `uptime` is since the kernel's start.
    pub fn due(&mut self, uptime: Duration, now_seconds: u64) -> Option<u64> {
        let is_due = self.saved_at.is_none_or(|at| uptime.saturating_sub(at) >= SAVE_INTERVAL);
        if !is_due {
            return None;
        }
        self.saved_at = Some(uptime);
        self.save(now_seconds)
    }

    /// What to write to STATE at the end, if anything.
    pub fn save(&mut self, now_seconds: u64) -> Option<u64> {
        if self.hearsay || now_seconds <= self.floor_seconds {
            return None;
        }
        self.floor_seconds = now_seconds;
        Some(now_seconds)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUILT: u64 = 1_790_000_000;
    const DAY: u64 = 86_400;

    #[test]
    fn without_a_clock_it_is_as_late_as_anybody_knows() {
        let (clock, set) = Clock::start(BUILT, Some(BUILT + DAY), 12);
        assert_eq!((clock.state(), set), (ClockState::Floor, Some(BUILT + DAY)));
        assert_eq!(Clock::start(BUILT, None, 12).1, Some(BUILT));
        assert_eq!(Clock::start(0, None, 12).0.state(), ClockState::Unknown);
    }

    #[test]
    fn a_clock_of_the_board_is_used_and_not_written_down() {
        let (mut clock, set) = Clock::start(BUILT, None, BUILT + 5 * DAY);
        assert_eq!(set, None);
        assert_eq!(clock.due(Duration::ZERO, BUILT + 5 * DAY), None);
        clock.synced(BUILT + DAY).unwrap();
        assert_eq!(clock.due(SAVE_INTERVAL, BUILT + DAY), Some(BUILT + DAY));
    }

    #[test]
    fn clocks_in_the_far_future_are_broken() {
        let far = BUILT + 2 * AHEAD_SECONDS_MAX;
        assert_eq!(Clock::start(BUILT, None, far).1, Some(BUILT));
        assert_eq!(Clock::start(BUILT, Some(far), 12).1, Some(BUILT));
        let (mut clock, _) = Clock::start(BUILT, None, 12);
        assert_eq!(clock.found_saved(far, BUILT + 9), None);
        assert_eq!(clock.floor_seconds(), BUILT);
    }

    #[test]
    fn what_state_says_comes_later() {
        let (mut clock, _) = Clock::start(BUILT, None, 12);
        assert_eq!(clock.found_saved(BUILT + DAY, BUILT + 3), Some(BUILT + DAY));
        assert_eq!(clock.floor_seconds(), BUILT + DAY);
    }

    #[test]
    fn servers_below_the_floor_are_wrong() {
        let (mut clock, _) = Clock::start(BUILT, None, 12);
        assert!(clock.synced(BUILT - 1).is_err());
        assert_eq!(clock.state(), ClockState::Floor);
        assert!(clock.synced(BUILT).is_ok());
        assert_eq!(clock.state(), ClockState::Synced);
    }

    proptest! {
        #[test]
        fn the_floor_never_moves_back(
            built in 0_u64..4_000_000_000,
            saved in proptest::option::of(any::<u64>()),
            steps in proptest::collection::vec((any::<bool>(), any::<u64>()), 0..20),
        ) {
            let (mut clock, _) = Clock::start(built, saved, 0);
            let mut floor = clock.floor_seconds();
            prop_assert!(floor >= built);
            for (number, (sync, now)) in steps.into_iter().enumerate() {
                if sync {
                    let _ = clock.synced(now);
                } else {
                    let uptime = SAVE_INTERVAL * u32::try_from(number).unwrap();
                    if let Some(saved) = clock.due(uptime, now) {
                        prop_assert!(saved > floor);
                    }
                }
                prop_assert!(clock.floor_seconds() >= floor);
                floor = clock.floor_seconds();
            }
        }
    }
}
