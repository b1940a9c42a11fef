//! Staged rollout: which boxes take an offered build first.
//!
//! The share of boxes is in the offer, beside the bundle, and not signed: whoever can change it can hurry
//! or delay a build that is signed, and nothing else.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// Longest offer, in bytes.
pub const OFFER_BYTES_MAX: u64 = 4 * 1024;

/// Longest name of a bundle's file, in bytes.
const FILE_BYTES_MAX: usize = 128;

/// What a board's boxes are offered, in TOML. It says where to look; what is believed is the bundle's
/// manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// Build number of the bundle.
    pub build: NonZeroU32,
    /// Share of boxes that take it by themselves, in percent: 0 none, 100 all.
    pub percent: u8,
    /// The bundle's name, in the offer's own folder.
    pub file: String,
}

/// An offer that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the offer of an update {0}: write it anew")]
pub struct OfferError(String);

impl Offer {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, OfferError> {
        let wrong = |what: &str| OfferError(what.to_owned());
        if bytes.len() as u64 > OFFER_BYTES_MAX {
            return Err(wrong("is too long"));
        }
        let text = str::from_utf8(bytes).map_err(|_| wrong("is no text"))?;
        let offer: Self = toml::from_str(text).map_err(|error| {
            OfferError(format!("cannot be read ({})", error.message().escape_debug()))
        })?;
        if offer.percent > 100 {
            return Err(wrong("is for more than 100 percent"));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+~".contains(&byte);
        let name = offer.file.as_bytes();
        let is_name = (1..=FILE_BYTES_MAX).contains(&name.len()) && !name.starts_with(b".");
        if !is_name || !name.iter().copied().all(is_plain) {
            return Err(wrong("names a file that is not 1 to 128 of letters, digits and -_.+~"));
        }
        Ok(offer)
    }

    /// Whether the box called `unit` takes it by itself, running `running`. For a growing share, boxes are
    /// only added; and for another build, others come first.
    #[must_use]
    pub fn is_for(&self, unit: &str, running: u32) -> bool {
        self.build.get() > running && place(unit, self.build.get()) < u32::from(self.percent)
    }
}

/// The box's place in the queue, 0 to 99.
fn place(unit: &str, build: u32) -> u32 {
    let digest = Sha256::of(format!("avr rollout {build} {unit}").as_bytes());
    let [a, b, c, d, ..] = *digest.as_bytes();
    // At most 100/2^32 off an equal share.
    u32::from_be_bytes([a, b, c, d]) % 100
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offer(build: u32, percent: u8) -> Offer {
        let build = NonZeroU32::new(build).unwrap();
        Offer { build, percent, file: "avr-0.2.0.update.tar".to_owned() }
    }

    #[test]
    fn offers_are_read_and_checked() {
        let good = "build = 7\npercent = 10\nfile = \"avr-0.2.0.update.tar\"\n";
        assert_eq!(Offer::parse(good.as_bytes()), Ok(offer(7, 10)));
        for (from, to, told) in [
            ("10", "101", "more than 100"),
            ("avr-", "../avr-", "names a file"),
            ("avr-0.2.0.update.tar", "", "names a file"),
            ("build", "biuld", "unknown field"),
        ] {
            let error =
                Offer::parse(good.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        assert!(Offer::parse(&[b' '; 5000]).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn a_tenth_is_a_tenth_and_not_always_the_same() {
        let units: Vec<String> = (0..10_000).map(|n| format!("02:00:5e:{n}")).collect();
        let first = |build| -> Vec<&String> {
            units.iter().filter(|unit| offer(build, 10).is_for(unit, 1)).collect()
        };
        let (seven, eight) = (first(7), first(8));
        assert!((900..1100).contains(&seven.len()), "{}", seven.len());
        let both = seven.iter().filter(|unit| eight.contains(unit)).count();
        assert!((50..200).contains(&both), "{both}");
    }

    proptest! {
        #[test]
        fn shares_only_grow(unit in ".{0,20}", build in 2_u32.., percent in 0_u8..100) {
            let is_for = |percent| offer(build, percent).is_for(&unit, 1);
            prop_assert!(!is_for(percent) || is_for(percent + 1));
            prop_assert!(!is_for(0) && is_for(100));
            prop_assert!(!offer(build, 100).is_for(&unit, build));
        }
    }
}
