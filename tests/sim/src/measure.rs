//! What is measured: waits as histograms, and the state of sites as a series.

use crate::queue::At;

/// Steps of a histogram in one doubling: so a figure is right to within five hundredths.
const STEPS: f64 = 16.0;

/// Waits, in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    counts: Vec<u64>,
    total: u64,
    max: At,
}

impl Waits {
    /// Counts one.
    pub fn add(&mut self, wait: At) {
        let step = (wait.max(1) as f64).log2() * STEPS;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a logarithm of 64 bits, of at least 1"
        )]
        let step = step as usize;
        if self.counts.len() <= step {
            self.counts.resize(step + 1, 0);
        }
        self.counts[step] += 1;
        self.total += 1;
        self.max = self.max.max(wait);
    }

    /// How many.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The longest.
    #[must_use]
    pub fn max_ms(&self) -> f64 {
        self.max as f64 / 1e3
    }

    /// The wait that this share of all does not exceed.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let mut left = (self.total as f64 * share).ceil();
        for (step, count) in self.counts.iter().enumerate() {
            left -= *count as f64;
            if left <= 0.0 {
                let limit = ((step as f64 + 1.0) / STEPS).exp2();
                return limit.min(self.max as f64) / 1e3;
            }
        }
        self.max_ms()
    }
}

/// The state at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// When.
    pub at: At,
    /// Sessions carried, by site.
    pub sessions: Vec<u32>,
    /// Warm links, by site.
    pub warm: Vec<u32>,
    /// Sessions begun since the last sample, by site; the last one: direct.
    pub begun: Vec<u32>,
    /// Connections made by boxes since the last sample, to proxies and managers, by site.
    pub connections: Vec<u32>,
    /// By site: the most links of a proxy for its weight, over what is even; 0: too few.
    pub herding: Vec<f64>,
    /// The highest load average of a proxy, by site.
    pub load: Vec<f64>,
    /// Use of the line, 0 to 1, by site.
    pub line: Vec<f64>,
}

/// The mean and the given quantile of some figures.
#[must_use]
pub fn mean_and_quantile(mut figures: Vec<f64>, share: f64) -> (f64, f64) {
    if figures.is_empty() {
        return (0.0, 0.0);
    }
    figures.sort_by(f64::total_cmp);
    let mean = figures.iter().sum::<f64>() / figures.len() as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let at = (share * (figures.len() - 1) as f64) as usize;
    (mean, figures[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_five_hundredths() {
        let mut waits = Waits::default();
        for wait in 1..=10_000 {
            waits.add(wait * 100);
        }
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0)] {
            let quantile = waits.quantile_ms(share);
            assert!((quantile / expected - 1.0).abs() < 0.05, "{quantile} for {expected}");
        }
        assert_eq!(waits.max_ms(), 1_000.0);
        assert_eq!(waits.quantile_ms(1.0), 1_000.0);
        assert_eq!(Waits::default().quantile_ms(0.5), 0.0);
        assert_eq!(mean_and_quantile(vec![1.0, 3.0, 2.0], 1.0), (2.0, 3.0));
    }
}
