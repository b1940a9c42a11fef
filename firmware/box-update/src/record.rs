//! What a box remembers of its updates, in STATE: the floor, what awaits its trial, what failed.
//!
//! None of it says which system is good: that is in the slots' names. A box that loses it installs and
//! starts as before, and may try a bad build once more.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::manifest::Manifest;
use crate::slots::{Slots, Trust};

/// Where a box keeps its record.
pub const FILE: &str = "/state/update.json";

/// Failed updates that are remembered; the oldest goes first.
pub const FAILED_MAX: usize = 32;

/// Longest reason, in bytes.
pub const WHY_BYTES_MAX: usize = 1024;

/// Largest file that is read, in bytes: more than all the limits above together.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// An update that was installed and is not proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its build number.
    pub build: u32,
    /// For people.
    pub version: String,
    /// Its system's digest.
    pub sha256: Sha256,
    /// The floor once it is blessed.
    pub min_build_floor: u32,
}

/// An update that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Its build number.
    pub build: u32,
    /// Its system's digest: the same bytes are not tried again, others of that number are.
    pub sha256: Sha256,
    /// Why, for people.
    pub why: String,
}

/// What is in [`FILE`]. Fields of later systems are passed over, since an older one may come back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Builds below are neither installed nor gone back to.
    pub floor: u32,
    /// What awaits its trial, or is on it.
    pub pending: Option<Pending>,
    /// The latest last.
    pub failed: Vec<Failed>,
}

/// What became of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is blessed.
    Blessed(Pending),
    /// It was tried in vain.
    Failed(Pending),
    /// It never became a slot: the power was cut just before.
    NotInstalled(Pending),
}

impl Record {
    /// Why these bytes are not to be tried again.
    #[must_use]
    pub fn failure(&self, sha256: &Sha256) -> Option<&Failed> {
        self.failed.iter().rev().find(|failed| failed.sha256 == *sha256)
    }

    /// This update awaits its trial.
    pub(crate) fn expect(&mut self, manifest: &Manifest) {
        self.pending = Some(Pending {
            build: manifest.build.get(),
            version: manifest.version.clone(),
            sha256: manifest.uki.sha256,
            min_build_floor: manifest.min_build_floor,
        });
    }

    /// Remembers a failure, within the limits.
    pub fn fail(&mut self, build: u32, sha256: Sha256, why: &str) {
        // The last words say most.
        let from = why.len().saturating_sub(WHY_BYTES_MAX);
        let from = (from..=why.len()).find(|&at| why.is_char_boundary(at)).unwrap_or(0);
        let why = why.get(from..).unwrap_or_default().to_owned();
        self.failed.retain(|failed| failed.sha256 != sha256);
        self.failed.push(Failed { build, sha256, why });
        let excess = self.failed.len().saturating_sub(FAILED_MAX);
        self.failed.drain(..excess);
    }

    /// Draws the conclusions from how the slots are called now: after each start, after a blessing, and
    /// before an update. `why` is what is known of the last failed start. `None`: nothing is new.
    pub fn settle(&mut self, slots: &Slots, why: &str) -> Option<Outcome> {
        let pending = self.pending.as_ref()?;
        let trust =
            slots.iter().rfind(|slot| slot.build() == pending.build).map(|slot| slot.trust());
        match trust {
            Some(Trust::Trial { .. }) => None,
            None => self.pending.take().map(Outcome::NotInstalled),
            Some(Trust::Good) => {
                self.floor = self.floor.max(pending.min_build_floor);
                self.pending.take().map(Outcome::Blessed)
            }
            Some(Trust::Failed { done }) => {
                let pending = self.pending.take()?;
                let why = match why {
                    "" => format!("{done} starts in vain"),
                    why => format!("{done} starts in vain; the last: {why}"),
                };
                self.fail(pending.build, pending.sha256, &why);
                Some(Outcome::Failed(pending))
            }
        }
    }
}

/// Where the record is kept.
pub trait Store {
    /// The record; a new one where there is none.
    ///
    /// # Errors
    /// It is there, and cannot be read.
    fn load(&mut self) -> io::Result<Record>;

    /// Keeps it, so that after a power cut the former one or this one is there, whole.
    ///
    /// # Errors
    /// As the operating system says.
    fn save(&mut self, record: &Record) -> io::Result<()>;
}

/// [`Record::settle`] on what is kept.
///
/// # Errors
/// It cannot be read, or what is new cannot be kept.
pub fn settle(store: &mut impl Store, slots: &Slots, why: &str) -> io::Result<Option<Outcome>> {
    let mut record = store.load()?;
    let outcome = record.settle(slots, why);
    if outcome.is_some() {
        store.save(&record)?;
    }
    Ok(outcome)
}

/// A record in a file.
#[derive(Debug, Clone)]
pub struct FileStore(PathBuf);

impl FileStore {
    /// In this file, which need not be there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl Store for FileStore {
    fn load(&mut self) -> io::Result<Record> {
        let file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    fn save(&mut self, record: &Record) -> io::Result<()> {
        let new = self.0.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::tests::manifest;

    fn expecting(build: u32) -> Record {
        let mut record = Record { floor: 2, ..Record::default() };
        record.expect(&manifest(build, b"system"));
        record
    }

    #[test]
    fn slots_say_what_became_of_it() {
        let pending = expecting(5).pending.unwrap();
        let settle = |files: &[&str]| {
            let mut record = expecting(5);
            record.pending.as_mut().unwrap().min_build_floor = 4;
            let outcome = record.settle(&Slots::of(files), "the scanner did not answer");
            (outcome.map(|outcome| std::mem::discriminant(&outcome)), record)
        };
        let kind = |outcome: Outcome| Some(std::mem::discriminant(&outcome));
        let (outcome, record) = settle(&["avr_000004.efi", "avr_000005.efi"]);
        assert_eq!(outcome, kind(Outcome::Blessed(pending.clone())));
        assert_eq!((record.floor, record.pending), (4, None));
        let (outcome, record) = settle(&["avr_000004.efi", "avr_000005+2-1.efi"]);
        assert_eq!(outcome, None);
        assert!(record.pending.is_some());
        let (outcome, record) = settle(&["avr_000004.efi"]);
        assert_eq!(outcome, kind(Outcome::NotInstalled(pending.clone())));
        assert_eq!((record.floor, record.failed.len()), (2, 0));
        let (outcome, record) = settle(&["avr_000004.efi", "avr_000005+0-3.efi"]);
        assert_eq!(outcome, kind(Outcome::Failed(pending.clone())));
        assert_eq!(record.floor, 2);
        assert_eq!(
            record.failure(&pending.sha256).unwrap().why,
            "3 starts in vain; the last: the scanner did not answer"
        );
    }

    #[test]
    fn records_are_kept_and_those_of_later_systems_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("update.json");
        let mut store = FileStore::new(&path);
        assert_eq!(store.load().unwrap(), Record::default());
        let record = expecting(5);
        store.save(&record).unwrap();
        assert_eq!(store.load().unwrap(), record);
        // What came of it is kept, and once: another start finds nothing new.
        let failed = Slots::of(["avr_000004.efi", "avr_000005+0-3.efi"]);
        let outcome = settle(&mut store, &failed, "no link").unwrap();
        assert!(matches!(outcome, Some(Outcome::Failed(pending)) if pending.build == 5));
        let kept = store.load().unwrap();
        assert_eq!((kept.pending, kept.failed.len()), (None, 1));
        assert_eq!(settle(&mut store, &failed, "no link").unwrap(), None);
        fs::write(&path, r#"{"floor": 3, "later": true}"#).unwrap();
        assert_eq!(store.load().unwrap().floor, 3);
        fs::write(&path, "{").unwrap();
        assert!(store.load().is_err());
        assert!(settle(&mut store, &failed, "").is_err());
    }

    proptest! {
        #[test]
        fn what_is_remembered_has_a_limit(
            whys in proptest::collection::vec("[aé]{0,3}".prop_map(|text| text.repeat(400)), 0..50),
        ) {
            let mut record = Record::default();
            for (build, why) in (0_u32..).zip(&whys) {
                record.fail(build, Sha256::of(&build.to_le_bytes()), why);
                let kept = &record.failed.last().unwrap().why;
                prop_assert!(kept.len() <= WHY_BYTES_MAX && why.ends_with(kept.as_str()));
            }
            prop_assert_eq!(record.failed.len(), whys.len().min(FAILED_MAX));
        }
    }
}
