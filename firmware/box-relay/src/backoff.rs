//! Pauses that double, with a spread so that boxes do not all knock at once when a site comes back.

use std::time::Duration;

/// A doubling pause between `min` and `max`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The pause after this many failures in a row (1 is the first), spread by up to a quarter
    /// either way; never over `max` by more than that quarter.
    pub(crate) fn pause(self, failures: u32, dice: &mut Dice) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let pause = self.min.saturating_mul(1 << doublings).min(self.max);
        pause * (75 + dice.roll() % 51) / 100
    }
}

/// A small generator (xorshift32) for spreading pauses. Nothing secret hangs on it.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u32);

impl Dice {
    pub(crate) fn new(seed: u32) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn roll(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// Puts these into an order drawn anew.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let choices = u32::try_from(at).unwrap_or(u32::MAX).saturating_add(1);
            let other = usize::try_from(self.roll() % choices).unwrap_or(at);
            items.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_are_spread() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(20) };
        let mut dice = Dice::new(7);
        for (failures, centre_ms) in [(0, 1000), (1, 1000), (2, 2000), (5, 16_000), (6, 20_000)] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..100 {
                let pause = backoff.pause(failures, &mut dice).as_millis();
                assert!(pause >= centre_ms * 75 / 100 && pause <= centre_ms * 125 / 100, "{pause}");
                seen.insert(pause);
            }
            assert!(seen.len() > 10, "pauses are spread");
        }
        assert!(backoff.pause(u32::MAX, &mut dice) <= Duration::from_secs(25));
    }
}
