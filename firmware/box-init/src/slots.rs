//! The slots as the loader's entries name them: what a slot is called in what is kept of it, and what is to
//! be done to the one that runs. Names and counters are [`box_update::slots`]'s, and so is every decision.

use box_update::slots::{Rename, Slot, Slots, SlotsError, Trust, file_name};

/// What is kept of a slot is kept under this name: `avr_000012`, however the entry is spelled and whatever
/// its counters are. An entry that is no slot's, as the recovery system's, has its own.
#[must_use]
pub fn name(entry: &str) -> String {
    Slot::parse(entry).map_or_else(|| entry.to_owned(), |slot| name_of(slot.build()))
}

fn name_of(build: u32) -> String {
    let file = file_name(build, Trust::Good);
    file.strip_suffix(".efi").unwrap_or(&file).to_owned()
}

/// Starts that an entry has left; `None` for one that is good, and for one that is no slot's.
#[must_use]
pub fn starts_left(entry: &str) -> Option<u32> {
    match Slot::parse(entry)?.trust() {
        Trust::Good => None,
        Trust::Trial { left, .. } => Some(left),
        Trust::Failed { .. } => Some(0),
    }
}

/// Names of the slots that were tried in vain, the oldest build first.
#[must_use]
pub fn failed(files: &[String]) -> Vec<String> {
    let slots = Slots::of(files);
    let failed = slots.iter().filter(|slot| matches!(slot.trust(), Trust::Failed { .. }));
    failed.map(|slot| name_of(slot.build())).collect()
}

/// How to do that to the slot that the entry `running` names; `Ok(None)`: it is so already.
///
/// # Errors
/// Why it cannot be done.
pub fn decide(
    files: &[String],
    running: &str,
    what: impl FnOnce(&Slots, u32) -> Result<Option<Rename>, SlotsError>,
) -> Result<Option<Rename>, SlotsError> {
    let slot = Slot::parse(running).ok_or_else(|| SlotsError::NoSlot(running.to_owned()))?;
    what(&Slots::of(files), slot.build())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn to(done: Result<Option<Rename>, SlotsError>) -> Option<(String, String)> {
        done.unwrap().map(|rename| (rename.from, rename.to))
    }

    #[test]
    fn a_slot_has_one_name_however_it_is_spelled() {
        for entry in ["avr_000012.efi", "avr_000012+2-1.efi", "AVR_12+0-3.EFI", "avr_12+3.efi"] {
            assert_eq!(name(entry), "avr_000012", "{entry}");
        }
        for entry in ["zz-recovery.efi", "none", "", "avr_000012.new", "other_000012.efi"] {
            assert_eq!(name(entry), entry);
        }
        let left =
            ["avr_000002+2-1.efi", "avr_000002+0-3.efi", "avr_000002.efi", "zz-recovery.efi"];
        assert_eq!(left.map(starts_left), [Some(2), Some(0), None, None]);
    }

    #[test]
    fn blessing_takes_the_counters_off() {
        // What the loader said was before it counted this start.
        let now = files(&["avr_000001.efi", "avr_000002+2-1.efi"]);
        let pair = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
        let done = to(decide(&now, "avr_000002+3-0.efi", Slots::bless));
        assert_eq!(done, pair("avr_000002+2-1.efi", "avr_000002.efi"));
        assert_eq!(to(decide(&now, "avr_000001.efi", Slots::bless)), None);
        // FAT and firmware may give a name in capitals: it is the same file.
        let shouted = files(&["AVR_000002+2-1.EFI"]);
        let done = to(decide(&shouted, "avr_000002+2-1.efi", Slots::bless));
        assert_eq!(done, pair("AVR_000002+2-1.EFI", "avr_000002.efi"));
    }

    #[test]
    fn what_is_no_slot_of_ours_is_left_alone() {
        let now = files(&["debian_000002+2-1.efi", "avr_000001.efi", "zz-recovery.efi"]);
        for entry in ["debian_000002+2-1.efi", "zz-recovery.efi", "none"] {
            for what in [Slots::bless, Slots::condemn, Slots::count] {
                let refused = decide(&now, entry, what).unwrap_err();
                assert_eq!(refused, SlotsError::NoSlot(entry.to_owned()));
            }
        }
        // Another system's good slot is none that this one could leave its place to.
        let alone = files(&["debian_000001.efi", "avr_000002.efi"]);
        let refused = decide(&alone, "avr_000002.efi", Slots::condemn).unwrap_err();
        assert_eq!(refused, SlotsError::NoOther);
        assert!(failed(&files(&["debian_000002+0-3.efi"])).is_empty());
    }

    #[test]
    fn one_that_has_failed_is_not_condemned_again() {
        let now = files(&["avr_000001.efi", "avr_000002+0-3.efi"]);
        assert_eq!(to(decide(&now, "avr_000002+0-3.efi", Slots::condemn)), None);
        assert_eq!(failed(&now), ["avr_000002"]);
    }

    proptest! {
        #[test]
        fn no_entry_panics(entry in any::<String>(), file in any::<String>()) {
            let _ = (name(&entry), starts_left(&entry), failed(std::slice::from_ref(&file)));
            let _ = decide(&[file], &entry, Slots::bless);
        }
    }
}
