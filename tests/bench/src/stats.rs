//! Medians, percentiles, and what belongs beside them.

use serde::{Deserialize, Serialize};

/// The middle and the ends of what the rounds gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value; the median of an even number of them is the mean of the middle two.
    #[must_use]
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values[values.len() / 2];
        let lower = values[(values.len() - 1) / 2];
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }
}

/// Percentiles of times, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// Of so many.
    pub(crate) samples: usize,
    pub(crate) p50: u64,
    pub(crate) p95: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

impl Percentiles {
    /// By nearest rank: the smallest value that so many hundredths of all do not exceed.
    #[must_use]
    pub(crate) fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let rank = |hundredths: usize| {
            let rank = (times.len() * hundredths).div_ceil(100).max(1);
            times.get(rank - 1).copied().unwrap_or_default()
        };
        Self { samples: times.len(), p50: rank(50), p95: rank(95), p99: rank(99), max: rank(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred = Percentiles::of((1..=100).rev().collect());
        let expected = Percentiles { samples: 100, p50: 50, p95: 95, p99: 99, max: 100 };
        assert_eq!(hundred, expected);
        let three = Percentiles::of(vec![30, 10, 20]);
        assert_eq!(three, Percentiles { samples: 3, p50: 20, p95: 30, p99: 30, max: 30 });
    }

    #[test]
    fn of_nothing_all_is_nothing() {
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
    }
}
