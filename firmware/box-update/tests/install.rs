//! Updates on a FAT file system in memory: what is refused, what is gone on with, what is remembered.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use board::Arch;
use box_update::bundle::BundleError;
use box_update::install::{Facts, InstallError, Installed, Refusal, install, rename_slot, slots};
use box_update::record::{Outcome, Store as _};
use box_update::slots::{FOLDER, Loader, RECOVERY_FILE, Slots};
use common::fat::{Event, FatDisk, Memory, facts};
use common::{bundle, bundle_of, keys, manifest, pe, uki, uki_with};

const DISK_BYTES: usize = 4 * 1024 * 1024;

/// A box that runs build 2, good, beside build 1.
struct Unit {
    disk: FatDisk,
    store: Memory,
    facts: Facts,
}

impl Unit {
    fn new() -> Self {
        let mut disk = FatDisk::format(DISK_BYTES);
        for build in [1, 2] {
            disk.put(&format!("{FOLDER}/avr_{build:06}.efi"), &uki(build, 3000));
        }
        Self { disk, store: Memory::default(), facts: facts(2, "avr_000002.efi") }
    }

    fn install(&mut self, bundle: &[u8]) -> Result<Installed, InstallError> {
        self.install_from(&mut Cursor::new(bundle))
    }

    fn install_from(&mut self, source: &mut (impl Read + Seek)) -> Result<Installed, InstallError> {
        let keys = keys();
        install(source, &mut self.disk, &mut self.store, &self.facts, &keys, &mut |_, _| {})
    }

    /// Nothing was written, and the bundle is refused for this reason.
    fn refuses(&mut self, bundle: &[u8]) -> Refusal {
        self.disk.medium.borrow_mut().events.clear();
        let error = self.install(bundle).unwrap_err();
        let InstallError::Refused(refusal) = error else { panic!("{error}") };
        let events = &self.disk.medium.borrow().events;
        assert!(!events.iter().any(|event| matches!(event, Event::Write { .. })));
        refusal
    }

    fn names(&mut self) -> Vec<String> {
        self.disk.names(FOLDER)
    }
}

#[test]
fn an_update_takes_the_other_slot_and_is_on_trial() {
    let mut unit = Unit::new();
    let new = uki(3, 5000);
    let mut told = Vec::new();
    let installed = install(
        &mut Cursor::new(bundle(3, &new)),
        &mut unit.disk,
        &mut unit.store,
        &unit.facts,
        &keys(),
        &mut |done, total| told.push((done, total)),
    )
    .unwrap();
    assert_eq!(installed.file, "avr_000003+3-0.efi");
    assert_eq!((installed.resumed_bytes, installed.earlier), (0, None));
    assert_eq!(unit.names(), ["avr_000002.efi", "avr_000003+3-0.efi"]);
    assert_eq!(unit.disk.bytes("EFI/Linux/avr_000003+3-0.efi").unwrap(), new);
    assert_eq!(told.last(), Some(&(new.len() as u64, new.len() as u64)));
    assert_eq!(unit.store.0.pending.as_ref().unwrap().build, 3);
}

#[test]
fn a_whole_life() {
    let mut unit = Unit::new();
    let mut third = manifest(3, &uki(3, 5000));
    third.min_build_floor = 2;
    unit.install(&bundle_of(&third, &uki(3, 5000))).unwrap();
    // It starts, the loader counts, it is healthy.
    let rename = slots(&mut unit.disk).unwrap().count(3).unwrap().unwrap();
    rename_slot(&mut unit.disk, &rename).unwrap();
    unit.facts = Facts {
        build: 3,
        loader: Loader {
            selected: Some("avr_000003+3-0.efi".to_owned()),
            counted: Some("\\EFI\\Linux\\avr_000003+2-1.efi".to_owned()),
        },
        ..unit.facts
    };
    let refusal = unit.refuses(&bundle(4, &uki(4, 100))).to_string();
    assert_eq!(
        refusal,
        "build 3, which runs, is on trial, 2 starts left: wait until it is blessed (2 minutes of health)"
    );
    let rename = slots(&mut unit.disk).unwrap().bless(3).unwrap().unwrap();
    rename_slot(&mut unit.disk, &rename).unwrap();
    assert_eq!(unit.names(), ["avr_000002.efi", "avr_000003.efi"]);
    // The next one fails.
    let fourth = bundle(4, &uki(4, 6000));
    let installed = unit.install(&fourth).unwrap();
    assert!(matches!(installed.earlier, Some(Outcome::Blessed(pending)) if pending.build == 3));
    assert_eq!(unit.store.0.floor, 2);
    for _ in 0..3 {
        let rename = slots(&mut unit.disk).unwrap().count(4).unwrap().unwrap();
        rename_slot(&mut unit.disk, &rename).unwrap();
    }
    assert_eq!(unit.names(), ["avr_000003.efi", "avr_000004+0-3.efi"]);
    let outcome = unit.store.0.settle(&slots(&mut unit.disk).unwrap(), "no bridge");
    assert!(matches!(outcome, Some(Outcome::Failed(pending)) if pending.build == 4));
    let refusal = unit.refuses(&fourth).to_string();
    assert!(
        refusal.contains("failed (3 starts in vain; the last: no bridge): take a later"),
        "{refusal}"
    );
    // The same number with other bytes is another update.
    unit.install(&bundle(4, &uki(4, 6001))).unwrap();
    assert_eq!(unit.names(), ["avr_000003.efi", "avr_000004+3-0.efi"]);
}

#[test]
fn what_is_not_for_this_box_is_refused_before_anything_is_written() {
    let mut unit = Unit::new();
    let new = uki(3, 100);
    let with = |change: fn(&mut box_update::Manifest)| {
        let mut manifest = manifest(3, &new);
        change(&mut manifest);
        bundle_of(&manifest, &new)
    };
    assert_eq!(
        unit.refuses(&with(|manifest| manifest.board = "rockpro64".to_owned())).to_string(),
        "the bundle is for the board rockpro64 (x86_64), and this is qemu-x86_64 (x86_64): take one for \
         qemu-x86_64 (x86_64)"
    );
    let refusal = unit.refuses(&with(|manifest| manifest.arch = Arch::Aarch64));
    assert!(matches!(refusal, Refusal::Board { .. }), "{refusal}");
    let refusal = unit.refuses(&with(|manifest| manifest.product = "other".to_owned()));
    assert!(matches!(refusal, Refusal::Product { .. }), "{refusal}");
    let refusal = unit.refuses(&bundle(2, &uki(2, 100)));
    assert_eq!(refusal, Refusal::NotNewer { new: 2, running: 2 });
    let refusal = unit.refuses(&bundle(1, &uki(1, 100)));
    assert_eq!(refusal, Refusal::NotNewer { new: 1, running: 2 });
    unit.store.0.floor = 4;
    let refusal = unit.refuses(&bundle(3, &new));
    assert_eq!(refusal, Refusal::UnderFloor { new: 3, floor: 4 });
}

#[test]
fn it_is_refused_where_nobody_knows_what_runs() {
    for entry in ["", "debian.efi", "avr_000009.efi"] {
        let mut unit = Unit::new();
        unit.facts = facts(2, entry);
        let error = unit.install(&bundle(3, &uki(3, 100))).unwrap_err();
        assert!(matches!(error, InstallError::Slots(_)), "{error}");
        assert_eq!(unit.names(), ["avr_000001.efi", "avr_000002.efi"]);
    }
}

#[test]
fn what_has_no_room_is_refused() {
    let mut unit = Unit::new();
    let refusal = unit.refuses(&bundle(3, &uki(3, DISK_BYTES - 1024 * 1024)));
    assert!(matches!(refusal, Refusal::NoRoom { .. }), "{refusal}");
}

#[test]
fn a_damaged_bundle_leaves_nothing() {
    let mut unit = Unit::new();
    let good = bundle(3, &uki(3, 5000));
    let mut damaged = good.clone();
    let at = damaged.len() - 4000;
    damaged[at] ^= 1;
    let error = unit.install(&damaged).unwrap_err();
    assert!(matches!(error, InstallError::Bundle(BundleError::Damaged)), "{error}");
    assert_eq!(unit.names(), ["avr_000001.efi", "avr_000002.efi"]);
    // That was the way here, and not the build.
    unit.install(&good).unwrap();
}

#[test]
fn a_wrong_system_in_a_good_bundle_is_not_tried_twice() {
    let good = String::from_utf8(uki(3, 0)[1024..].to_vec()).unwrap();
    let os_release = &good[..good.find('\0').unwrap()];
    let change = |from, to| uki_with(&os_release.replacen(from, to, 1), "quiet", 100);
    let sections: &[(&str, &[u8])] = &[(".osrel", os_release.as_bytes()), (".cmdline", b"quiet")];
    for (system, told) in [
        (
            change("IMAGE_VERSION=3", "IMAGE_VERSION=4"),
            "says IMAGE_VERSION is \"4\", and its manifest \"3\"",
        ),
        (change("VARIANT_ID=qemu", "VARIANT_ID=rock"), "says VARIANT_ID is"),
        (change("IMAGE_ID=avr", "IMAGE_ID=zz-recovery"), "says IMAGE_ID is"),
        (change("VERSION_ID=0.2.0\n", ""), "says VERSION_ID is \"\""),
        (change("ID=avr\n", "ID=avr\nVARIANT_ID=x\n"), "says VARIANT_ID is \"x, qemu"),
        (uki_with(os_release, "quiet avr.recovery=1", 100), "is a recovery system"),
        (pe(0xaa64, sections), "is not for x86_64"),
        (pe(0x8664, sections), "has no section .linux"),
        (pe(0x8664, &[(".osrel", b"x"), (".osrel", b"x")]), "has two sections .osrel"),
        (uki(3, 5000)[..4096].to_vec(), "ends before its sections do"),
        (b"MZ".to_vec(), "is no 64-bit PE file"),
        (vec![0; 5000], "is no 64-bit PE file"),
    ] {
        let mut unit = Unit::new();
        let bundle = bundle(3, &system);
        let error = unit.install(&bundle).unwrap_err();
        assert!(matches!(error, InstallError::Uki(_)), "{error}");
        assert!(error.to_string().contains(told), "{told}: {error}");
        assert_eq!(unit.names(), ["avr_000001.efi", "avr_000002.efi"]);
        assert!(matches!(unit.refuses(&bundle), Refusal::FailedBefore { build: 3, .. }));
    }
}

/// A source that fails after so many bytes, and counts what is read.
struct Line {
    bytes: Cursor<Vec<u8>>,
    fails_at: u64,
    read: u64,
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.bytes.position() >= self.fails_at {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let most = into.len().min(700);
        let len = self.bytes.read(&mut into[..most])?;
        self.read += len as u64;
        Ok(len)
    }
}

impl Seek for Line {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let mut unit = Unit::new();
    let new = uki(3, 100_000);
    let bytes = bundle(3, &new);
    let line = |fails_at| Line { bytes: Cursor::new(bytes.clone()), fails_at, read: 0 };
    for fails_at in [50_000, 80_000] {
        let error = unit.install_from(&mut line(fails_at)).unwrap_err();
        assert!(matches!(error, InstallError::Source(_)), "{error}");
    }
    let mut rest = line(u64::MAX);
    let installed = unit.install_from(&mut rest).unwrap();
    assert!(installed.resumed_bytes > 70_000, "{}", installed.resumed_bytes);
    assert!(rest.read < 40_000, "{}", rest.read);
    assert_eq!(unit.disk.bytes("EFI/Linux/avr_000003+3-0.efi").unwrap(), new);
    // So does one that is cut short.
    let mut unit = Unit::new();
    let error = unit.install(&bytes[..60_000]).unwrap_err();
    assert!(
        matches!(error, InstallError::Bundle(BundleError::Truncated { at: 60_000 })),
        "{error}"
    );
    assert!(unit.install(&bytes).unwrap().resumed_bytes > 50_000);
}

#[test]
fn what_a_power_cut_left_of_a_download_is_not_believed() {
    let mut unit = Unit::new();
    let new = uki(3, 100_000);
    let bytes = bundle(3, &new);
    unit.install(&bytes[..60_000]).unwrap_err();
    let name = unit.names().remove(2);
    assert!(name.starts_with("avr_000003_"), "{name}");
    unit.disk.put(&format!("{FOLDER}/{name}"), &[0; 4096]);
    // From the start, by itself.
    assert_eq!(unit.install(&bytes).unwrap().resumed_bytes, 0);
    assert_eq!(unit.names(), ["avr_000002.efi", "avr_000003+3-0.efi"]);
}

#[test]
fn what_is_left_of_another_update_goes() {
    let mut unit = Unit::new();
    unit.install(&bundle(3, &uki(3, 100_000))[..60_000]).unwrap_err();
    unit.disk.put(&format!("{FOLDER}/avr_000009.old"), b"x");
    let fourth = bundle(4, &uki(4, 50_000));
    assert_eq!(unit.install(&fourth).unwrap().resumed_bytes, 0);
    assert_eq!(unit.names(), ["avr_000002.efi", "avr_000004+3-0.efi"]);
}

/// Such as a rename that was two sectors leaves, when one of them was written: of the running slot none goes,
/// and of others both.
#[test]
fn two_names_that_may_be_of_one_file_go_together_or_not_at_all() {
    let mut unit = Unit::new();
    for name in ["avr_000002_00000000.new", "avr_000001.old"] {
        unit.disk.put(&format!("{FOLDER}/{name}"), b"x");
    }
    unit.install(&bundle(3, &uki(3, 100))[..3000]).unwrap_err();
    let names = unit.names();
    assert_eq!(names[..2], ["avr_000002.efi", "avr_000002_00000000.new"]);
    unit.install(&bundle(3, &uki(3, 100))).unwrap();
    // With its slot, when that goes.
    unit.store.0.pending = None;
    let rename = slots(&mut unit.disk).unwrap().bless(3).unwrap().unwrap();
    rename_slot(&mut unit.disk, &rename).unwrap();
    unit.facts = facts(3, "avr_000003.efi");
    unit.install(&bundle(4, &uki(4, 100))).unwrap();
    assert_eq!(unit.names(), ["avr_000003.efi", "avr_000004+3-0.efi"]);
}

/// However its counter is spelled, and whatever its number.
#[test]
fn the_other_slot_goes_in_any_spelling_and_others_files_stay() {
    for other in ["avr_1.efi", "AVR_000003+0-3.EFI", "avr_000003+03.efi", "avr_000009.efi"] {
        let mut unit = Unit::new();
        rename_to(&mut unit.disk, "avr_000001.efi", other);
        unit.disk.put(&format!("{FOLDER}/{RECOVERY_FILE}"), b"recovery");
        unit.disk.put(&format!("{FOLDER}/debian.efi"), b"debian");
        unit.install(&bundle(3, &uki(3, 100))).unwrap();
        let names = ["avr_000002.efi", "avr_000003+3-0.efi", "debian.efi", "zz-recovery.efi"];
        assert_eq!(unit.names(), names, "{other}");
    }
}

#[test]
fn recovery_makes_good_slots_of_nothing() {
    let mut unit = Unit::new();
    rename_to(&mut unit.disk, "avr_000002.efi", "avr_000002+0-3.efi");
    unit.facts = facts(9, RECOVERY_FILE);
    unit.install(&bundle(3, &uki(3, 100))).unwrap();
    assert_eq!(unit.names(), ["avr_000001.efi", "avr_000003+3-0.efi"]);
    let mut empty = Unit::new();
    empty.disk = FatDisk::format(DISK_BYTES);
    empty.facts = facts(9, RECOVERY_FILE);
    empty.install(&bundle(3, &uki(3, 100))).unwrap();
    assert_eq!(empty.names(), ["avr_000003+3-0.efi"]);
}

#[test]
fn a_record_that_cannot_be_read_does_not_end_updates() {
    struct Broken(Memory);
    impl box_update::record::Store for Broken {
        fn load(&mut self) -> io::Result<box_update::record::Record> {
            Err(io::ErrorKind::InvalidData.into())
        }
        fn save(&mut self, record: &box_update::record::Record) -> io::Result<()> {
            self.0.save(record)
        }
    }
    let mut unit = Unit::new();
    let (mut store, keys) = (Broken(Memory::default()), keys());
    let mut source = Cursor::new(bundle(3, &uki(3, 100)));
    install(&mut source, &mut unit.disk, &mut store, &unit.facts, &keys, &mut |_, _| {}).unwrap();
    assert_eq!(store.0.load().unwrap().pending.unwrap().build, 3);
}

fn rename_to(disk: &mut FatDisk, from: &str, to: &str) {
    let bytes = disk.bytes(&format!("{FOLDER}/{from}")).unwrap();
    box_update::Disk::delete(disk, &format!("{FOLDER}/{from}")).unwrap();
    disk.put(&format!("{FOLDER}/{to}"), &bytes);
    assert!(Slots::of(disk.names(FOLDER)).iter().any(|slot| slot.file() == to));
}
