//! Staged rollout: what a fleet's boxes are offered, and which of them take it first.
//!
//! The operator's index lies on any web server, beside the bundles that it names:
//!
//! ```text
//! index.toml             what there is for which board, and for how many of its boxes; signed
//! index.toml.minisig     minisign's signature of it, by one of the keys that sign bundles
//! ```
//!
//! It is signed so that nobody on the way can hurry, stop or turn back a rollout; an index older than
//! one that the box has seen is not believed either. What is installed is what the bundle's own manifest
//! says, whatever the index says.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::keys::{Keys, SignatureError};
use crate::manifest::NAME_BYTES_MAX;
use crate::record::{Failed, Record};

/// The index's name in the fleet's folder.
pub const INDEX_FILE: &str = "index.toml";
/// Name of its signature.
pub const INDEX_SIGNATURE_FILE: &str = "index.toml.minisig";

/// The form that this crate writes, and the only one it reads.
pub const INDEX_FORMAT: u32 = 1;

/// Longest index, in bytes: [`OFFERS_MAX`] offers of 400.
pub const INDEX_BYTES_MAX: u64 = 64 * 1024;

/// Most offers of an index: several builds for each of some thirty boards.
pub const OFFERS_MAX: usize = 128;

/// Longest name of a bundle's file, in bytes.
const FILE_BYTES_MAX: usize = 128;

/// What a fleet's boxes are offered, in TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// [`INDEX_FORMAT`].
    pub format: u32,
    /// `avr`.
    pub product: String,
    /// When it was written, in seconds since 1970 UTC: what takes the place of an older one.
    pub issued_at: u64,
    /// What there is, in any order.
    #[serde(default, rename = "offer")]
    pub offers: Vec<Offer>,
}

/// A build that a board's boxes are offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The board it is for.
    pub board: String,
    /// For people.
    pub version: String,
    /// Build number of the bundle.
    pub build: NonZeroU32,
    /// Share of boxes that take it by themselves, in percent: 0 none, 100 all.
    pub percent: u8,
    /// The bundle's name, in the index's own folder.
    pub file: String,
    /// Size of the bundle, in bytes.
    pub bytes: u64,
    /// Digest of the system in it, by which a box knows one that has failed.
    pub sha256: Sha256,
}

/// An index that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Nobody who may has signed it.
    #[error("the index of updates is not believed: sign it with a key of this product")]
    Signature(#[from] SignatureError),
    /// It is of a later form.
    #[error(
        "the index of updates has format {0}, and this system knows {INDEX_FORMAT}: install an update \
         by hand, which knows both"
    )]
    Format(u32),
    /// It is none, or says what no tool writes.
    #[error("the index of updates {0}: have it written again")]
    Wrong(String),
    /// A later one has been here.
    #[error(
        "the index of updates is of {issued_at}, and one of {seen_at} was here before (seconds since \
         1970): have it written again"
    )]
    Stale {
        /// When this one was written.
        issued_at: u64,
        /// When the latest one was.
        seen_at: u64,
    },
}

/// What a box takes an index for: which it is, and what it knows.
#[derive(Debug, Clone, Copy)]
pub struct Taker<'a> {
    /// As in the image.
    pub product: &'a str,
    /// The board.
    pub board: &'a str,
    /// The MAC address by which the box is admitted: its place in the queue depends on it.
    pub unit: &'a str,
    /// The running build's number.
    pub running: u32,
    /// What it remembers of updates.
    pub record: &'a Record,
    /// When the latest index was written that it has believed, in seconds since 1970 UTC; 0: none yet.
    pub seen_at: u64,
}

/// What a box does about an index.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'i> {
    /// Nothing in it is newer than what runs, or allowed.
    UpToDate,
    /// This one is for others first.
    HeldBack(&'i Offer),
    /// It was tried here in vain.
    FailedBefore(&'i Offer, Failed),
    /// It is installed, and has not been started yet.
    Installed(&'i Offer),
    /// Take it.
    Take(&'i Offer),
}

impl Index {
    /// Believes it, reads and checks it.
    ///
    /// # Errors
    /// [`IndexError`]: before the signature holds, nothing of it is looked at.
    pub fn open(bytes: &[u8], signature: &[u8], keys: &Keys) -> Result<Self, IndexError> {
        keys.verify(bytes, signature)?;
        Self::parse(bytes)
    }

    /// Reads and checks it, whoever wrote it.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let wrong = |what: &str| IndexError::Wrong(what.to_owned());
        if bytes.len() as u64 > INDEX_BYTES_MAX {
            return Err(wrong("is too long"));
        }
        let text = str::from_utf8(bytes).map_err(|_| wrong("is no text"))?;
        let unreadable = |error: toml::de::Error| {
            IndexError::Wrong(format!("cannot be read ({})", error.message().escape_debug()))
        };
        // First, since a later form has fields that are unknown here.
        let Format { format } = toml::from_str(text).map_err(unreadable)?;
        if format != INDEX_FORMAT {
            return Err(IndexError::Format(format));
        }
        let index: Self = toml::from_str(text).map_err(unreadable)?;
        index.check()?;
        Ok(index)
    }

    /// As it is signed.
    ///
    /// # Errors
    /// A field has a value that would not be read again.
    pub fn to_toml(&self) -> Result<String, IndexError> {
        self.check()?;
        let text = toml::to_string(self).map_err(|error| IndexError::Wrong(error.to_string()))?;
        match text.len() as u64 > INDEX_BYTES_MAX {
            true => Err(IndexError::Wrong("is too long".to_owned())),
            false => Ok(text),
        }
    }

    /// What this box does about it: of several builds for its board the newest that it is the turn of.
    ///
    /// # Errors
    /// It is of another product, or older than one that was here.
    pub fn choose(&self, taker: &Taker<'_>) -> Result<Choice<'_>, IndexError> {
        if self.product != taker.product {
            let what =
                format!("is for the product {}, and this is {}", self.product, taker.product);
            return Err(IndexError::Wrong(what));
        }
        if self.issued_at < taker.seen_at {
            let (issued_at, seen_at) = (self.issued_at, taker.seen_at);
            return Err(IndexError::Stale { issued_at, seen_at });
        }
        let mut newer: Vec<&Offer> = self
            .offers
            .iter()
            .filter(|offer| offer.board == taker.board && offer.build.get() > taker.running)
            .filter(|offer| offer.build.get() >= taker.record.floor)
            .collect();
        newer.sort_by_key(|offer| std::cmp::Reverse(offer.build));
        let mut held_back = None;
        for offer in newer {
            let pending = taker.record.pending.as_ref();
            if pending.is_some_and(|pending| pending.build >= offer.build.get()) {
                return Ok(Choice::Installed(offer));
            }
            if !offer.is_for(taker.unit) {
                held_back = held_back.or(Some(offer));
            } else if let Some(failed) = taker.record.failure(&offer.sha256) {
                // An older one is no way on: what failed may be newer than that already.
                return Ok(Choice::FailedBefore(offer, failed.clone()));
            } else {
                return Ok(Choice::Take(offer));
            }
        }
        Ok(held_back.map_or(Choice::UpToDate, Choice::HeldBack))
    }

    fn check(&self) -> Result<(), IndexError> {
        let wrong = |what: String| Err(IndexError::Wrong(what));
        if self.offers.len() > OFFERS_MAX {
            return wrong(format!("has more than {OFFERS_MAX} offers"));
        }
        if !is_name(&self.product, NAME_BYTES_MAX) {
            return wrong("names no product".to_owned());
        }
        for (at, offer) in self.offers.iter().enumerate() {
            let Offer { board, version, build, .. } = offer;
            if !is_name(board, NAME_BYTES_MAX) || !is_name(version, NAME_BYTES_MAX) {
                return wrong(
                    "has a board or version that is not 1 to 40 of letters, digits and -_.+~"
                        .to_owned(),
                );
            }
            if offer.percent > 100 {
                return wrong(format!("offers build {build} to more than 100 percent"));
            }
            if !is_name(&offer.file, FILE_BYTES_MAX) || offer.file.starts_with('.') {
                return wrong(
                    "names a file that is not 1 to 128 of letters, digits and -_.+~".to_owned(),
                );
            }
            if !(1..=crate::bundle::BUNDLE_BYTES_MAX).contains(&offer.bytes) {
                return wrong(format!("has a bundle of {} bytes, which none has", offer.bytes));
            }
            let before = self.offers.iter().take(at);
            if before.filter(|other| other.board == *board).any(|other| other.build == *build) {
                return wrong(format!("offers build {build} for {board} twice"));
            }
        }
        Ok(())
    }
}

impl Offer {
    /// Whether it is this box's turn. For a growing share, boxes are only added; and for another build,
    /// others come first.
    #[must_use]
    pub fn is_for(&self, unit: &str) -> bool {
        self.place(unit) < u32::from(self.percent)
    }

    /// The box's place in the queue for this build, 0 to 99.
    #[must_use]
    pub fn place(&self, unit: &str) -> u32 {
        let digest = Sha256::of(format!("avr rollout {} {unit}", self.build).as_bytes());
        let [a, b, c, d, ..] = *digest.as_bytes();
        // At most 100/2^32 off an equal share.
        u32::from_be_bytes([a, b, c, d]) % 100
    }
}

fn is_name(text: &str, bytes_max: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+~".contains(&byte);
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Pending;

    const BOARD: &str = "qemu-x86_64";

    fn offer(build: u32, percent: u8) -> Offer {
        Offer {
            board: BOARD.to_owned(),
            version: "0.2.0".to_owned(),
            build: NonZeroU32::new(build).unwrap(),
            percent,
            file: format!("avr-{BOARD}-{build}.update.tar"),
            bytes: 1000,
            sha256: Sha256::of(&build.to_be_bytes()),
        }
    }

    fn index(offers: Vec<Offer>) -> Index {
        Index { format: INDEX_FORMAT, product: "avr".to_owned(), issued_at: 1000, offers }
    }

    fn taker(record: &Record) -> Taker<'_> {
        let unit = "02:00:5e:10:00:01";
        Taker { product: "avr", board: BOARD, unit, running: 3, record, seen_at: 1000 }
    }

    #[test]
    fn indexes_are_read_and_checked() {
        let whole = index(vec![offer(7, 10), offer(6, 100)]);
        let good = whole.to_toml().unwrap();
        assert!(good.contains("\n[[offer]]\nboard = \"qemu-x86_64\"\n"), "{good}");
        assert_eq!(Index::parse(good.as_bytes()), Ok(whole));
        for (from, to, told) in [
            ("format = 1", "format = 2", "has format 2, and this system knows 1"),
            ("percent = 10\n", "percent = 101\n", "build 7 to more than 100 percent"),
            ("\"avr-q", "\"../q", "names a file"),
            ("\"avr-q", "\".q", "names a file"),
            ("\"avr\"", "\"a r\"", "names no product"),
            ("\"qemu-x86_64\"", "\"\"", "has a board or version"),
            ("build = 7", "build = 6", "offers build 6 for qemu-x86_64 twice"),
            ("bytes = 1000", "bytes = 0", "has a bundle of 0 bytes"),
            ("build", "biuld", "unknown field"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            let error = Index::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{from}: {error}");
        }
        assert!(Index::parse(&[b' '; 70_000]).unwrap_err().to_string().contains("too long"));
        let many = (1..=129).map(|build| offer(build, 1)).collect();
        assert!(index(many).to_toml().unwrap_err().to_string().contains("more than 128 offers"));
    }

    #[test]
    fn nothing_of_it_is_read_before_the_signature_holds() {
        let keys = Keys::built_in().unwrap();
        let signature = include_bytes!("../tests/data/hello.minisig");
        // It holds, and then what was signed is looked at.
        let error = Index::open(b"hello", signature, &keys).unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
        let good = index(vec![offer(7, 100)]).to_toml().unwrap();
        let error = Index::open(good.as_bytes(), signature, &keys).unwrap_err();
        assert_eq!(error, IndexError::Signature(SignatureError::Wrong));
    }

    #[test]
    fn a_box_takes_the_newest_build_that_it_is_the_turn_of() {
        let mut record = Record::default();
        let choose = |index: &Index, record: &Record| -> String {
            match index.choose(&taker(record)) {
                Ok(Choice::Take(offer)) => format!("take {}", offer.build),
                Ok(Choice::HeldBack(offer)) => format!("held back {}", offer.build),
                Ok(Choice::Installed(offer)) => format!("installed {}", offer.build),
                Ok(Choice::FailedBefore(offer, failed)) => {
                    format!("{} {}", offer.build, failed.why)
                }
                Ok(Choice::UpToDate) => "up to date".to_owned(),
                Err(error) => error.to_string(),
            }
        };
        let two = index(vec![offer(6, 100), offer(7, 0), offer(3, 100)]);
        assert_eq!(choose(&two, &record), "take 6");
        assert_eq!(choose(&index(vec![offer(7, 0)]), &record), "held back 7");
        assert_eq!(choose(&index(vec![offer(3, 100)]), &record), "up to date");
        assert_eq!(choose(&index(vec![]), &record), "up to date");
        let other = Offer { board: "rockpro64".to_owned(), ..offer(7, 100) };
        assert_eq!(choose(&index(vec![other]), &record), "up to date");
        record.fail(6, offer(6, 100).sha256, "no link");
        assert_eq!(choose(&two, &record), "6 no link");
        let again = Offer { sha256: Sha256::of(b"again"), ..offer(6, 100) };
        assert_eq!(choose(&index(vec![again]), &record), "take 6");
        record.floor = 8;
        assert_eq!(choose(&two, &record), "up to date");
        record.floor = 1;
        record.pending = Some(Pending {
            build: 7,
            version: "0.2.0".to_owned(),
            sha256: offer(7, 0).sha256,
            min_build_floor: 1,
        });
        assert_eq!(choose(&index(vec![offer(7, 100)]), &record), "installed 7");
        assert_eq!(choose(&index(vec![offer(8, 100)]), &record), "take 8");
        let stale = Index { issued_at: 999, ..two.clone() };
        assert!(choose(&stale, &record).contains("is of 999, and one of 1000 was here"));
        let foreign = Index { product: "other".to_owned(), ..two };
        assert!(choose(&foreign, &record).contains("is for the product other"));
    }

    #[test]
    fn a_tenth_is_a_tenth_and_not_always_the_same() {
        let units: Vec<String> = (0..10_000).map(|n| format!("02:00:5e:{n}")).collect();
        let first = |build| -> Vec<&String> {
            units.iter().filter(|unit| offer(build, 10).is_for(unit)).collect()
        };
        let (seven, eight) = (first(7), first(8));
        assert!((900..1100).contains(&seven.len()), "{}", seven.len());
        let both = seven.iter().filter(|unit| eight.contains(unit)).count();
        assert!((50..200).contains(&both), "{both}");
    }

    proptest! {
        #[test]
        fn shares_only_grow(unit in ".{0,20}", build in 1_u32.., percent in 0_u8..100) {
            let is_for = |percent| offer(build, percent).is_for(&unit);
            prop_assert!(!is_for(percent) || is_for(percent + 1));
            prop_assert!(!is_for(0) && is_for(100));
        }
    }
}
