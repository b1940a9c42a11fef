//! Slots by their file names (Boot Loader Specification, "Boot counting"): nothing else says which system
//! is good, so nothing else can contradict it.
//!
//! `avr_000012.efi` is good, `avr_000012+2-1.efi` has two starts left and one behind it,
//! `avr_000012+0-3.efi` has failed. The loader takes the newest that has not failed. What is done to a
//! slot is a [`Rename`] of one file in one folder: one sector of the disk.

use std::fmt;

use crate::digest::Sha256;

/// Where slots are, on the partition that holds them.
pub const FOLDER: &str = "EFI/Linux";

/// File of the recovery system; on the boot loader's partition, in a folder of the same name.
pub const RECOVERY_FILE: &str = "zz-recovery.efi";

/// Starts that a new system has to prove itself.
pub const TRIES: u32 = 3;

/// Largest counter that is written: names keep their length, and so their place in the folder.
const COUNTER_MAX: u32 = 9;

/// What slots' names begin with.
const PREFIX: &str = "avr_";
const ENDING: &str = ".efi";
/// What names of files end with that are no slots yet, or no more: the loader passes over them.
const NEW_ENDING: &str = ".new";
const OLD_ENDING: &str = ".old";

/// Digits of the digest in the name of one that is no slot yet: other bytes are not gone on behind.
const DIGEST_DIGITS: usize = 8;

/// How far a slot is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It was healthy once.
    Good,
    /// It still has to be.
    Trial {
        /// Starts left, 1 or more.
        left: u32,
        /// Starts behind it.
        done: u32,
    },
    /// It has no starts left: the loader takes it only when there is nothing else.
    Failed {
        /// Starts behind it.
        done: u32,
    },
}

/// A system in the slots' folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    file: String,
    build: u32,
    trust: Trust,
}

impl Slot {
    /// Of a file's name, in any spelling of the counter that the loader understands; `None`: no slot's.
    #[must_use]
    pub fn parse(file: &str) -> Option<Self> {
        // FAT does not tell small letters from capitals.
        let small = file.to_ascii_lowercase();
        let stem = small.strip_prefix(PREFIX)?.strip_suffix(ENDING)?;
        let (build, trust) = match stem.split_once('+') {
            None => (stem, Trust::Good),
            Some((build, counters)) => {
                let (left, done) = counters.split_once('-').unwrap_or((counters, "0"));
                (build, trust(number(left)?, number(done)?))
            }
        };
        Some(Self { file: file.to_owned(), build: number(build)?, trust })
    }

    /// The file's name as it is.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its build number.
    #[must_use]
    pub fn build(&self) -> u32 {
        self.build
    }

    /// How far it is trusted.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust
    }

    fn renamed(&self, trust: Trust) -> Rename {
        Rename { from: self.file.clone(), to: file_name(self.build, trust) }
    }
}

fn trust(left: u32, done: u32) -> Trust {
    match left {
        0 => Trust::Failed { done },
        left => Trust::Trial { left, done },
    }
}

fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The name of a slot's file, spelled as this crate does.
#[must_use]
pub fn file_name(build: u32, trust: Trust) -> String {
    let (left, done) = match trust {
        Trust::Good => return format!("{PREFIX}{build:06}{ENDING}"),
        Trust::Trial { left, done } => (left, done),
        Trust::Failed { done } => (0, done),
    };
    format!("{PREFIX}{build:06}+{}-{}{ENDING}", left.min(COUNTER_MAX), done.min(COUNTER_MAX))
}

/// The name of a system's file until it is whole. In the same folder, so that the rename to a slot is one
/// sector; and of as many directory entries as a slot's name.
pub(crate) fn new_name(build: u32, sha256: &Sha256) -> String {
    let digits: String = sha256.to_string().chars().take(DIGEST_DIGITS).collect();
    format!("{PREFIX}{build:06}_{digits}{NEW_ENDING}")
}

/// The name of a slot's file while it is deleted.
pub(crate) fn old_name(build: u32) -> String {
    format!("{PREFIX}{build:06}{OLD_ENDING}")
}

/// A file that is no slot yet, or no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub(crate) build: u32,
    pub(crate) is_new: bool,
}

impl Leftover {
    pub(crate) fn parse(file: &str) -> Option<Self> {
        let small = file.to_ascii_lowercase();
        let stem = small.strip_prefix(PREFIX)?;
        if let Some(build) = stem.strip_suffix(OLD_ENDING) {
            return Some(Self { build: number(build)?, is_new: false });
        }
        let (build, _) = stem.strip_suffix(NEW_ENDING)?.split_once('_')?;
        Some(Self { build: number(build)?, is_new: true })
    }
}

/// A name to give to a slot; nothing of that name is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// The present one.
    pub from: String,
    /// The new one.
    pub to: String,
}

/// What the loader says about this start, in the firmware's variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loader {
    /// `LoaderEntrySelected`: the entry's name before its start was counted.
    pub selected: Option<String>,
    /// `LoaderBootCountPath`: its file afterwards. Only where the loader counts, and only on trial.
    pub counted: Option<String>,
}

impl Loader {
    /// The slot's name as the loader left it.
    fn entry(&self) -> Option<&str> {
        let file = |text: &'_ str| -> usize { text.rfind(['\\', '/']).map_or(0, |at| at + 1) };
        let text = self.counted.as_deref().or(self.selected.as_deref())?;
        text.get(file(text)..)
    }

    /// The loader started a slot on trial and did not count that. PID 1 has to ([`Slots::count`]), or a
    /// bad system is started for ever.
    #[must_use]
    pub fn does_not_count(&self) -> bool {
        let selected = self.selected.as_deref().and_then(Slot::parse);
        self.counted.is_none() && selected.is_some_and(|slot| slot.trust != Trust::Good)
    }
}

/// Which system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running<'s> {
    /// One of the slots.
    Slot(&'s Slot),
    /// The one beside the boot loader, which no update touches.
    Recovery,
}

/// What is not done to slots, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// The firmware's variables say nothing.
    #[error(
        "the boot loader does not say which system it started: start the box by its own boot loader"
    )]
    NobodySays,
    /// The entry is none of ours.
    #[error("{0} was started, which is no slot: start the box by its own boot loader")]
    NoSlot(String),
    /// There is no such file.
    #[error("build {0} is in no slot: see `avr slots` for what there is")]
    Missing(u32),
    /// The same system under two names.
    #[error(
        "build {build} is there twice, as {files}: delete all but one, from the recovery system"
    )]
    Twice {
        /// Which.
        build: u32,
        /// Their names.
        files: String,
    },
    /// Without it nothing good would be left.
    #[error(
        "no other slot is good, and a bad system is better than none: install another build first"
    )]
    NoOther,
    /// There is an older one, but not to go back to.
    #[error(
        "the other build, {build}, is below the floor of {floor}: install a newer build instead"
    )]
    UnderFloor {
        /// The other one.
        build: u32,
        /// The least one.
        floor: u32,
    },
    /// It is on trial.
    #[error("build {0} is on trial: wait until it is blessed, or has failed")]
    OnTrial(u32),
}

/// The slots that there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(Vec<Slot>);

impl Slots {
    /// Of the names in [`FOLDER`]; those of others are passed over, and never touched.
    pub fn of<S: AsRef<str>>(files: impl IntoIterator<Item = S>) -> Self {
        let mut slots: Vec<Slot> =
            files.into_iter().filter_map(|file| Slot::parse(file.as_ref())).collect();
        slots.sort_by(|a, b| a.build.cmp(&b.build).then_with(|| a.file.cmp(&b.file)));
        Self(slots)
    }

    /// All, the oldest build first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Slot> {
        self.0.iter()
    }

    /// The slot of a build.
    ///
    /// # Errors
    /// There is none, or several files are: the loader and we might mean different ones.
    pub fn get(&self, build: u32) -> Result<&Slot, SlotsError> {
        let mut same = self.iter().filter(|slot| slot.build == build);
        let first = same.next().ok_or(SlotsError::Missing(build))?;
        if same.next().is_none() {
            return Ok(first);
        }
        let same = self.iter().filter(|slot| slot.build == build);
        let files: Vec<&str> = same.map(Slot::file).collect();
        Err(SlotsError::Twice { build, files: files.join(", ") })
    }

    /// The one that runs.
    ///
    /// # Errors
    /// Nobody can say.
    pub fn running(&self, loader: &Loader) -> Result<Running<'_>, SlotsError> {
        let entry = loader.entry().filter(|entry| !entry.is_empty());
        let entry = entry.ok_or(SlotsError::NobodySays)?;
        if entry.eq_ignore_ascii_case(RECOVERY_FILE) {
            return Ok(Running::Recovery);
        }
        // By its number, since the name may have changed since.
        let slot = Slot::parse(entry).ok_or_else(|| SlotsError::NoSlot(entry.to_owned()))?;
        self.get(slot.build).map(Running::Slot)
    }

    /// To bless a build: takes its counter off. `None`: it is blessed.
    ///
    /// # Errors
    /// It is not there, or twice.
    pub fn bless(&self, build: u32) -> Result<Option<Rename>, SlotsError> {
        let slot = self.get(build)?;
        Ok((slot.trust != Trust::Good).then(|| slot.renamed(Trust::Good)))
    }

    /// To count a start, where the loader cannot. `None`: it is blessed, or has none left.
    ///
    /// # Errors
    /// It is not there, or twice.
    pub fn count(&self, build: u32) -> Result<Option<Rename>, SlotsError> {
        let slot = self.get(build)?;
        Ok(match slot.trust {
            Trust::Trial { left, done } => {
                Some(slot.renamed(trust(left - 1, done.saturating_add(1))))
            }
            Trust::Good | Trust::Failed { .. } => None,
        })
    }

    /// To mark a build bad. `None`: it is.
    ///
    /// # Errors
    /// It is not there, or twice, or there is no other good one.
    pub fn condemn(&self, build: u32) -> Result<Option<Rename>, SlotsError> {
        let slot = self.get(build)?;
        let starts = match slot.trust {
            Trust::Failed { .. } => return Ok(None),
            Trust::Good => 1,
            Trust::Trial { left, done } => left.saturating_add(done).max(1),
        };
        self.other_good(build)?;
        Ok(Some(slot.renamed(Trust::Failed { done: starts })))
    }

    /// To go back from the running build to the other one by hand, at the next start.
    ///
    /// # Errors
    /// The other one is not good, or below the floor; or the running one is on trial, and goes back by
    /// itself if it has to.
    pub fn switch_back(&self, running: u32, floor: u32) -> Result<Rename, SlotsError> {
        let slot = self.get(running)?;
        if let Trust::Trial { .. } = slot.trust {
            return Err(SlotsError::OnTrial(running));
        }
        let other = self.other_good(running)?;
        if other.build < floor {
            return Err(SlotsError::UnderFloor { build: other.build, floor });
        }
        Ok(slot.renamed(Trust::Failed { done: 1 }))
    }

    /// To try a build again that was marked bad. `None`: it is not marked.
    ///
    /// # Errors
    /// It is not there, or twice, or below the floor.
    pub fn retry(&self, build: u32, floor: u32) -> Result<Option<Rename>, SlotsError> {
        let slot = self.get(build)?;
        if build < floor {
            return Err(SlotsError::UnderFloor { build, floor });
        }
        let is_failed = matches!(slot.trust, Trust::Failed { .. });
        Ok(is_failed.then(|| slot.renamed(Trust::Trial { left: TRIES, done: 0 })))
    }

    /// Files that make room for the build `new`, in any spelling: all but the running one. Where recovery
    /// runs, that is all but the best that is older and good.
    #[must_use]
    pub fn replaced_by(&self, new: u32, running: Running<'_>) -> Vec<&Slot> {
        let kept = match running {
            Running::Slot(slot) => Some(slot),
            Running::Recovery => {
                self.iter().rfind(|slot| slot.trust == Trust::Good && slot.build < new)
            }
        };
        self.iter().filter(|&slot| Some(slot) != kept).collect()
    }

    fn other_good(&self, build: u32) -> Result<&Slot, SlotsError> {
        let mut others = self.0.iter().rev().filter(|slot| slot.build != build);
        others.find(|slot| slot.trust == Trust::Good).ok_or(SlotsError::NoOther)
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("good"),
            Self::Trial { left, .. } => write!(f, "on trial, {left} starts left"),
            Self::Failed { done } => write!(f, "failed after {done} starts"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(file: &str) -> Option<(u32, Trust)> {
        Slot::parse(file).map(|slot| (slot.build, slot.trust))
    }

    fn loader(selected: &str, counted: Option<&str>) -> Loader {
        Loader { selected: Some(selected.to_owned()), counted: counted.map(str::to_owned) }
    }

    #[test]
    fn names_are_read_in_any_spelling() {
        assert_eq!(parsed("avr_000012.efi"), Some((12, Trust::Good)));
        for (file, left, done) in [
            ("avr_000012+3-0.efi", 3, 0),
            ("avr_000012+3.efi", 3, 0),
            ("avr_12+03-00.efi", 3, 0),
            ("AVR_000012+2-1.EFI", 2, 1),
        ] {
            assert_eq!(parsed(file), Some((12, Trust::Trial { left, done })), "{file}");
        }
        assert_eq!(parsed("avr_000012+0-3.efi"), Some((12, Trust::Failed { done: 3 })));
        assert_eq!(parsed("avr_000012+0.efi"), Some((12, Trust::Failed { done: 0 })));
        for file in [
            "zz-recovery.efi",
            "avr_.efi",
            "avr_1",
            "avr_1+.efi",
            "avr_1+3-.efi",
            "avr_1+-3.efi",
            "avr_1+3+3.efi",
            "avr_1+3-0-0.efi",
            "avr_99999999999.efi",
            "xavr_1.efi",
            "avr_1.efi.new",
        ] {
            assert_eq!(parsed(file), None, "{file}");
        }
    }

    #[test]
    fn what_is_no_slot_yet_or_no_more_is_told_from_slots() {
        let leftover = |build, is_new| Some(Leftover { build, is_new });
        let new = new_name(12, &Sha256::of(b"abc"));
        assert_eq!(
            (new.as_str(), Leftover::parse(&new)),
            ("avr_000012_ba7816bf.new", leftover(12, true))
        );
        assert_eq!(Leftover::parse(&old_name(12)), leftover(12, false));
        assert_eq!(Leftover::parse("AVR_000012.OLD"), leftover(12, false));
        for file in ["avr_000012.efi", "avr_000012.new", "avr_x.old", "x.old", "x_1.new"] {
            assert_eq!(Leftover::parse(file), None, "{file}");
        }
        // As many directory entries as a slot's name has: 13 letters in each but the last.
        for name in [new, old_name(12), file_name(12, Trust::Good), file_name(12, trust(3, 0))] {
            assert_eq!(name.len().div_ceil(13), 2, "{name}");
            assert_eq!(parsed(&name).is_some(), name.ends_with(".efi"));
        }
    }

    #[test]
    fn what_runs_is_found_by_its_number() {
        let slots = Slots::of(["avr_000001.efi", "avr_000002+2-1.efi", "zz-recovery.efi"]);
        let build = |loader: &Loader| match slots.running(loader) {
            Ok(Running::Slot(slot)) => Ok(Some(slot.build)),
            Ok(Running::Recovery) => Ok(None),
            Err(error) => Err(error),
        };
        let counted = loader("avr_000002+3-0.efi", Some("\\EFI\\Linux\\avr_000002+2-1.efi"));
        assert_eq!(build(&counted), Ok(Some(2)));
        assert!(!counted.does_not_count());
        let uncounted = loader("avr_000002+3-0.efi", None);
        assert_eq!(build(&uncounted), Ok(Some(2)));
        assert!(uncounted.does_not_count());
        assert_eq!(build(&loader("avr_000001.efi", None)), Ok(Some(1)));
        assert!(!loader("avr_000001.efi", None).does_not_count());
        assert_eq!(build(&loader("zz-recovery.efi", None)), Ok(None));
        assert_eq!(build(&Loader::default()), Err(SlotsError::NobodySays));
        assert_eq!(build(&loader("avr_000003.efi", None)), Err(SlotsError::Missing(3)));
        assert_eq!(
            build(&loader("debian.efi", None)),
            Err(SlotsError::NoSlot("debian.efi".to_owned()))
        );
    }

    #[test]
    fn one_system_under_two_names_is_left_alone() {
        let slots = Slots::of(["avr_000002.efi", "avr_000002+3-0.efi", "avr_000001.efi"]);
        for done in [slots.bless(2), slots.count(2), slots.condemn(2), slots.retry(2, 0)] {
            assert!(matches!(done, Err(SlotsError::Twice { build: 2, .. })));
        }
    }

    #[test]
    fn a_slot_is_given_up_only_for_a_good_one() {
        let two = Slots::of(["avr_000001.efi", "avr_000002.efi"]);
        assert_eq!(two.condemn(2).unwrap().unwrap().to, "avr_000002+0-1.efi");
        assert_eq!(two.switch_back(2, 1).unwrap().to, "avr_000002+0-1.efi");
        assert_eq!(two.switch_back(2, 2), Err(SlotsError::UnderFloor { build: 1, floor: 2 }));
        let failed = Slots::of(["avr_000001+0-3.efi", "avr_000002.efi"]);
        assert_eq!(failed.condemn(2), Err(SlotsError::NoOther));
        assert_eq!(failed.switch_back(2, 0), Err(SlotsError::NoOther));
        assert_eq!(failed.retry(1, 0).unwrap().unwrap().to, "avr_000001+3-0.efi");
        let trial = Slots::of(["avr_000001.efi", "avr_000002+1-2.efi"]);
        assert_eq!(trial.switch_back(2, 0), Err(SlotsError::OnTrial(2)));
        assert_eq!(trial.condemn(2).unwrap().unwrap().to, "avr_000002+0-3.efi");
    }

    #[test]
    fn an_update_replaces_all_but_what_runs() {
        let files = |slots: &Slots, new, running| -> Vec<String> {
            slots.replaced_by(new, running).iter().map(|slot| slot.file.clone()).collect()
        };
        let slots = Slots::of(["avr_000001.efi", "avr_000002+0-3.efi", "AVR_3.EFI", "x.efi"]);
        let running = Running::Slot(slots.get(1).unwrap());
        assert_eq!(files(&slots, 4, running), ["avr_000002+0-3.efi", "AVR_3.EFI"]);
        assert_eq!(files(&slots, 4, Running::Recovery), ["avr_000001.efi", "avr_000002+0-3.efi"]);
        assert_eq!(files(&slots, 2, Running::Recovery), ["avr_000002+0-3.efi", "AVR_3.EFI"]);
    }

    fn name() -> impl Strategy<Value = String> {
        "(avr|AVR|a)_0{0,3}[1-4](\\+[0-3](-[0-3])?)?\\.(efi|EFI)"
    }

    proptest! {
        #[test]
        fn names_survive(build in any::<u32>(), left in 0_u32..20, done in 0_u32..20, good: bool) {
            let trust = if good { Trust::Good } else { trust(left.min(9), done.min(9)) };
            prop_assert_eq!(parsed(&file_name(build, trust)), Some((build, trust)));
            // Of one length, so that they stay in their place (design: at most 26).
            if build < 1_000_000 {
                prop_assert_eq!(file_name(build, trust).len(), if good { 14 } else { 18 });
            }
        }

        #[test]
        fn no_name_panics(file in any::<String>()) {
            let _ = Slot::parse(&file);
            let loader = Loader { selected: Some(file.clone()), counted: Some(file) };
            let _ = (loader.does_not_count(), Slots::default().running(&loader).is_ok());
        }

        /// Whatever is done to slots: the file is there, its new name is not, one good slot stays.
        #[test]
        fn renames_are_sound(
            files in proptest::collection::hash_set(name(), 0..6),
            build in 1_u32..5,
            floor in 0_u32..5,
        ) {
            let slots = Slots::of(&files);
            let has_good = slots.iter().any(|slot| slot.trust == Trust::Good);
            let renames = [
                slots.bless(build).ok().flatten(), slots.count(build).ok().flatten(),
                slots.condemn(build).ok().flatten(), slots.switch_back(build, floor).ok(),
                slots.retry(build, floor).ok().flatten(),
            ];
            for rename in renames.into_iter().flatten() {
                prop_assert!(files.contains(&rename.from));
                let same = files.iter().find(|file| file.eq_ignore_ascii_case(&rename.to));
                prop_assert!(same.is_none_or(|same| *same == rename.from), "{:?}", rename);
                let after = Slots::of(files.iter().map(|file| match *file == rename.from {
                    true => &rename.to,
                    false => file,
                }));
                let stays = after.iter().any(|slot| slot.trust == Trust::Good);
                prop_assert!(stays || !has_good);
            }
        }
    }
}
