//! How often a secret may be tried. Takes the time as an argument; console and status page each have one.

use std::time::Duration;

/// After the first wrong secret, the next one is taken after this long; it doubles with each.
pub const LOGIN_DELAY_MIN: Duration = Duration::from_secs(1);
/// The longest that it gets.
pub const LOGIN_DELAY_MAX: Duration = Duration::from_secs(300);

/// Wrong secrets in a row, and until when no other is taken.
#[derive(Debug, Clone, Default)]
pub struct Throttle {
    wrong: u32,
    held_until: Option<Duration>,
}

impl Throttle {
    /// Until when no secret is taken; `None`: one is taken now.
    #[must_use]
    pub fn held_until(&self, now: Duration) -> Option<Duration> {
        self.held_until.filter(|until| now < *until)
    }

    /// The secret was right: what was wrong before is forgotten.
    pub fn right(&mut self) {
        *self = Self::default();
    }

    /// The secret was wrong. Returns how long the next one has to wait.
    pub fn wrong(&mut self, now: Duration) -> Duration {
        let delay = LOGIN_DELAY_MIN
            .saturating_mul(1_u32.checked_shl(self.wrong).unwrap_or(u32::MAX))
            .min(LOGIN_DELAY_MAX);
        self.wrong = self.wrong.saturating_add(1);
        self.held_until = Some(now.saturating_add(delay));
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_secret_doubles_the_wait_up_to_its_longest() {
        let mut throttle = Throttle::default();
        let mut now = Duration::from_secs(7);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert_eq!(throttle.held_until(now), None);
            assert_eq!(throttle.wrong(now), Duration::from_secs(seconds));
            let over = now + Duration::from_secs(seconds);
            assert_eq!(throttle.held_until(over - Duration::from_millis(1)), Some(over));
            now = over;
        }
        throttle.wrong = u32::MAX;
        assert_eq!(throttle.wrong(now), LOGIN_DELAY_MAX);
        throttle.right();
        assert_eq!(throttle.held_until(now), None);
        assert_eq!(throttle.wrong(now), LOGIN_DELAY_MIN);
    }
}
