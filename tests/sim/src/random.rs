//! Random numbers that a seed repeats, and the distributions that the model names.

use crate::queue::At;

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The bias of a remainder does not show in what is drawn here.
        self.bits().checked_rem(limit).unwrap_or(0)
    }

    /// From 0 up to, but not, 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponential: the time to the next of events that happen independently.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Lognormal, by its median and the deviation of its logarithm: sizes of mails and offices,
    /// times of people and servers.
    pub fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        let (one, other) = (1.0 - self.unit(), self.unit());
        // Box and Muller.
        let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
        median * (sigma * normal).exp()
    }

    /// In an order drawn anew.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = usize::try_from(self.below(at as u64 + 1)).unwrap_or(at);
            items.swap(at, other);
        }
    }
}

/// A time in seconds as one in microseconds; what is below zero is zero.
#[must_use]
pub fn us(seconds: f64) -> At {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` from a float keeps within the limits, which is what is wanted"
    )]
    let us = (seconds * 1e6) as u64;
    us
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_have_their_means_and_medians() {
        let mut random = Random::new(3);
        let mean = (0..20_000).map(|_| random.exponential(5.0)).sum::<f64>() / 20_000.0;
        assert!((4.8..5.2).contains(&mean), "{mean}");
        let mut sizes: Vec<f64> = (0..20_001).map(|_| random.lognormal(30.0, 1.6)).collect();
        sizes.sort_by(f64::total_cmp);
        assert!((28.0..32.0).contains(&sizes[10_000]), "{}", sizes[10_000]);
        let mut order: Vec<u8> = (0..50).collect();
        random.shuffle(&mut order);
        assert_ne!(order, (0..50).collect::<Vec<u8>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<u8>>());
    }
}
