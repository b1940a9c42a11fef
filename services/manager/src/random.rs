//! A small generator of random numbers, seeded by the caller, so that a test can repeat itself.
//!
//! SplitMix64 (Steele, Lea and Flood, 2014): good enough to spread load, nothing to keep a secret.

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, each as likely; `None` when there is none.
    pub(crate) fn below(&mut self, end: u64) -> Option<u64> {
        // The bias of a remainder is below 2^-40 for any table that can be written.
        self.next().checked_rem(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn every_choice_comes_about_as_often() {
        let mut random = Random::new(7);
        let mut counts = [0_u32; 3];
        for _ in 0..9_000 {
            counts[usize::try_from(random.below(3).unwrap()).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (2_800..3_200).contains(count)), "{counts:?}");
        assert_eq!(random.below(0), None);
    }
}
