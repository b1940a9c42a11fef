//! The power is cut at any moment of an update, a start that is counted, a blessing: after each, a system
//! starts that is whole, the running one until the commit; and the next update can be installed.
//!
//! The disk is FAT in memory, and what each operation does to it is known. Between two flushes a sector may
//! be as after any of the operations, whatever the others are. What one operation does to one sector is one
//! write here. That Linux's FAT does so too is up to the driver, which has a file's new entry written with
//! its clusters and not before them; a log of a real disk's writes shows whether it does.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::OnceLock;

use box_update::install::{Facts, install, rename_slot, slots};
use box_update::slots::{FOLDER, Loader, Slot, Trust};
use box_update::{Disk as _, Entry};
use common::fat::{Event, FatDisk, Memory, SECTOR_BYTES, facts};
use common::{bundle, keys, uki};
use proptest::prelude::*;
use proptest::test_runner::TestRng;

const DISK_BYTES: usize = 4 * 1024 * 1024;

/// What happened to the disk between two flushes.
#[derive(Debug, Default, Clone)]
struct Interval {
    /// The contents that sectors had after the operations, in their order.
    writes: Vec<(usize, Vec<u8>)>,
    /// The least build that may start, whatever of it is on the disk.
    oldest: u32,
}

/// A life of the box, from one update to its end.
#[derive(Debug)]
struct Life {
    /// The disk before.
    start: Vec<u8>,
    intervals: Vec<Interval>,
}

/// Every system there is, by its build.
fn systems() -> &'static BTreeMap<u32, Vec<u8>> {
    static SYSTEMS: OnceLock<BTreeMap<u32, Vec<u8>>> = OnceLock::new();
    SYSTEMS.get_or_init(|| {
        // Some clusters each, and the new one more than the one that goes.
        [(1, 3000), (2, 4000), (3, 20_000), (4, 9000)].map(|(n, len)| (n, uki(n, len))).into()
    })
}

fn bundle_of(build: u32) -> &'static [u8] {
    static BUNDLES: OnceLock<BTreeMap<u32, Vec<u8>>> = OnceLock::new();
    let all = || systems().iter().map(|(&build, uki)| (build, bundle(build, uki))).collect();
    &BUNDLES.get_or_init(all)[&build]
}

/// Build 2 runs, beside 1. It installs 3, which starts, is counted, and is blessed; then 3 installs 4,
/// which starts three times in vain.
fn life() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| {
        let mut disk = FatDisk::format(DISK_BYTES);
        for build in [1, 2] {
            disk.put(&format!("{FOLDER}/avr_{build:06}.efi"), &systems()[&build]);
        }
        disk.medium.borrow_mut().events.clear();
        let mut life = Life { start: disk.medium.borrow().bytes.clone(), intervals: Vec::new() };
        let mut store = Memory::default();
        let step = |disk: &mut FatDisk, life: &mut Life, oldest| {
            let events = std::mem::take(&mut disk.medium.borrow_mut().events);
            life.intervals.extend(intervals(&events, oldest));
        };
        update(&mut disk, &mut store, &facts(2, "avr_000002.efi"), 3);
        step(&mut disk, &mut life, 2);
        for count in [true, false] {
            let slots = slots(&mut disk).unwrap();
            let rename = if count { slots.count(3) } else { slots.bless(3) }.unwrap().unwrap();
            rename_slot(&mut disk, &rename).unwrap();
            step(&mut disk, &mut life, 3);
        }
        update(&mut disk, &mut store, &facts(3, "avr_000003.efi"), 4);
        step(&mut disk, &mut life, 3);
        for _ in 0..3 {
            let rename = slots(&mut disk).unwrap().count(4).unwrap().unwrap();
            rename_slot(&mut disk, &rename).unwrap();
            step(&mut disk, &mut life, 3);
        }
        assert_eq!(disk.names(FOLDER), ["avr_000003.efi", "avr_000004+0-3.efi"]);
        life
    })
}

/// Gives a bundle in pieces, each of which is an operation on the disk.
struct Pieces(Cursor<&'static [u8]>);

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(900);
        self.0.read(&mut into[..most])
    }
}

impl Seek for Pieces {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

fn update(disk: &mut FatDisk, store: &mut Memory, facts: &Facts, build: u32) {
    let mut bundle = Pieces(Cursor::new(bundle_of(build)));
    install(&mut bundle, disk, store, facts, &keys(), &mut |_, _| {}).unwrap();
}

fn intervals(events: &[Event], oldest: u32) -> Vec<Interval> {
    let mut found = Vec::new();
    let new = || Interval { oldest, ..Interval::default() };
    let (mut interval, mut operation) = (new(), BTreeMap::new());
    for event in events {
        match event {
            Event::Write { sector, bytes } => {
                operation.insert(*sector, bytes.clone());
            }
            Event::Done => interval.writes.extend(std::mem::take(&mut operation)),
            Event::Flush => {
                interval.writes.extend(std::mem::take(&mut operation));
                if !interval.writes.is_empty() {
                    found.push(std::mem::replace(&mut interval, new()));
                }
            }
        }
    }
    assert!(interval.writes.is_empty() && operation.is_empty(), "everything was synced");
    found
}

fn put(disk: &mut [u8], (sector, bytes): &(usize, Vec<u8>)) {
    disk[sector * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(bytes);
}

/// What the loader would start of this disk: of the systems that it sees, the newest that has tries left, or
/// else the newest.
fn started(disk: &mut FatDisk) -> Option<(Entry, Vec<u8>)> {
    let mut seen: Vec<(bool, u32, Entry, Vec<u8>)> = Vec::new();
    for entry in disk.list(FOLDER).ok()? {
        let Some(bytes) = disk.bytes(&format!("{FOLDER}/{}", entry.name)) else { continue };
        if !entry.name.to_ascii_lowercase().ends_with(".efi") {
            continue;
        }
        // By what is in it, as the loader does, and not by its name.
        let build = systems().iter().find(|(_, system)| **system == bytes).map(|(&build, _)| build);
        let slot = Slot::parse(&entry.name);
        let is_failed = matches!(slot.as_ref().map(Slot::trust), Some(Trust::Failed { .. }));
        // One that is damaged still says what it is, and nothing comes after it.
        let build = build.or(slot.map(|slot| slot.build())).unwrap_or(u32::MAX);
        seen.push((!is_failed, build, entry, bytes));
    }
    seen.sort_by_key(|(is_left, build, ..)| (*is_left, *build));
    seen.pop().map(|(.., entry, bytes)| (entry, bytes))
}

/// What must hold for every disk that a cut may leave.
fn starts(disk: Vec<u8>, oldest: u32) -> Result<(FatDisk, u32, String), String> {
    let mut disk = FatDisk::open(disk).map_err(|error| format!("no file system: {error}"))?;
    let (entry, bytes) = started(&mut disk).ok_or("nothing starts")?;
    let build = systems().iter().find(|(_, system)| **system == bytes).map(|(&build, _)| build);
    let build = build.ok_or_else(|| format!("{} starts, and is damaged", entry.name))?;
    if build < oldest {
        return Err(format!("build {build} starts, and {oldest} ran already"));
    }
    Ok((disk, build, entry.name))
}

/// Moreover each slot that can be seen is whole, and the update can be installed again.
fn goes_on(disk: Vec<u8>, oldest: u32) -> Result<(), String> {
    let (mut disk, build, name) = starts(disk, oldest)?;
    for entry in disk.list(FOLDER).map_err(|error| error.to_string())? {
        let Some(slot) = Slot::parse(&entry.name) else { continue };
        let bytes = disk.bytes(&format!("{FOLDER}/{}", entry.name));
        if bytes.as_ref() != Some(&systems()[&slot.build()]) {
            return Err(format!("{} is not whole", entry.name));
        }
    }
    // It starts, is healthy, and installs the next.
    let slots = slots(&mut disk).map_err(|error| error.to_string())?;
    if let Some(rename) = slots.bless(build).map_err(|error| error.to_string())? {
        rename_slot(&mut disk, &rename).map_err(|error| error.to_string())?;
    }
    let next = build.max(3) + u32::from(build >= 3);
    if let Some(bundle) = systems().contains_key(&next).then(|| bundle_of(next)) {
        let facts =
            Facts { loader: Loader { selected: Some(name), counted: None }, ..facts(build, "") };
        let (mut bundle, keys) = (Cursor::new(bundle), keys());
        let mut store = Memory::default();
        install(&mut bundle, &mut disk, &mut store, &facts, &keys, &mut |_, _| {})
            .map_err(|error| format!("the next update: {error}"))?;
        if disk.names(FOLDER).len() != 2 {
            return Err(format!("something is left: {:?}", disk.names(FOLDER)));
        }
        let (_, started, _) = starts(disk.into_bytes(), build)?;
        if started != next {
            return Err(format!("build {started} starts after the update to {next}"));
        }
    }
    Ok(())
}

/// The disk before each interval.
fn before(number: usize) -> Vec<u8> {
    let life = life();
    let mut disk = life.start.clone();
    for write in life.intervals[..number].iter().flat_map(|interval| &interval.writes) {
        put(&mut disk, write);
    }
    disk
}

#[test]
fn after_each_write_in_order() {
    let mut disk = life().start.clone();
    let mut writes = 0;
    for (number, interval) in life().intervals.iter().enumerate() {
        for write in &interval.writes {
            put(&mut disk, write);
            writes += 1;
            goes_on(disk.clone(), interval.oldest).unwrap_or_else(|error| {
                panic!("after write {writes} (interval {number}): {error}")
            });
        }
    }
    assert!(writes > 100, "{writes}");
}

/// Before it nothing has changed for the loader, and after it everything has.
#[test]
fn each_rename_is_one_sector() {
    let one_sector = life().intervals.iter().filter(|interval| {
        let sectors: Vec<usize> = interval.writes.iter().map(|(sector, _)| *sector).collect();
        sectors.len() == 1
    });
    // Each update takes the other slot's name and commits; a count, a blessing, three counts.
    assert_eq!(one_sector.count(), 9);
}

/// Each sector is as after any of its writes in the interval, or as before.
fn mixed(disk: &mut [u8], writes: &[(usize, Vec<u8>)], rng: &mut TestRng) {
    let mut versions: BTreeMap<usize, Vec<&(usize, Vec<u8>)>> = BTreeMap::new();
    for write in writes {
        versions.entry(write.0).or_default().push(write);
    }
    for versions in versions.values() {
        let choice = rng.random_range(0..=versions.len());
        if let Some(write) = choice.checked_sub(1).and_then(|at| versions.get(at)) {
            put(disk, write);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order_between_two_flushes(
        number in any::<prop::sample::Index>(),
        rng in any::<u64>().prop_perturb(|_, rng| rng).no_shrink(),
    ) {
        let number = number.index(life().intervals.len());
        let interval = &life().intervals[number];
        let (mut rng, mut disk) = (rng, before(number));
        mixed(&mut disk, &interval.writes, &mut rng);
        prop_assert_eq!(goes_on(disk, interval.oldest), Ok(()), "interval {}", number);
    }
}
