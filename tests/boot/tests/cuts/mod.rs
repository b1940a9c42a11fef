//! The power is cut after each write to the disk, and between two flushes also with any of the writes lost:
//! what a box finds then, looked at without it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use boot::{Log, Write, fat};
use box_update::slots::{FOLDER, Slot, Slots, Trust};
use fatfs::{FileSystem, FsOptions};
use image::layout::Partition;

/// States of each interval beside those in order, with some writes lost. Drawn by [`SEED`].
const LOSSES: usize = 12;
const SEED: u64 = 0x5eed_0000_0000_0025;
const SECTOR_BYTES: usize = 512;

/// A partition as it was before, and everything that was written to it.
#[derive(Debug)]
pub(crate) struct Replayed {
    intervals: Vec<Vec<Write>>,
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl Replayed {
    pub(crate) fn new(before: Vec<u8>, partition: &Partition, log: &Log) -> Self {
        let own = |write: &Write| {
            let inside = write.at >= partition.start
                && write.at + write.bytes.len() as u64 <= partition.start + partition.bytes;
            let at = write.at.checked_sub(partition.start).filter(|_| inside)?;
            Some(Write { at, bytes: write.bytes.clone() })
        };
        let own = |writes: &Vec<Write>| writes.iter().filter_map(own).collect::<Vec<_>>();
        let mut intervals: Vec<Vec<Write>> = log.0.iter().map(own).collect();
        intervals.retain(|writes| !writes.is_empty());
        Self { intervals, bytes: Rc::new(RefCell::new(before)) }
    }

    pub(crate) fn writes(&self) -> usize {
        self.intervals.iter().map(Vec::len).sum()
    }

    /// Calls `check` with each state that a cut can leave and the writes that differ from the one before;
    /// gives how many there were.
    pub(crate) fn each(
        &self,
        mut check: impl FnMut(&Rc<RefCell<Vec<u8>>>, &str, &[Write]),
    ) -> usize {
        let (mut states, mut random) = (0, SEED);
        for (number, writes) in self.intervals.iter().enumerate() {
            // With some lost: the others are put over what was there, and taken off again.
            for _ in 0..if writes.len() > 1 { LOSSES } else { 0 } {
                let (mut kept, mut names) = (Vec::new(), Vec::new());
                for (index, write) in writes.iter().enumerate() {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    if random % 2 == 0 {
                        kept.push(write.clone());
                        names.push(index);
                    }
                }
                let undo: Vec<Write> = kept.iter().map(|write| self.put(write)).collect();
                check(&self.bytes, &format!("interval {number}, writes {names:?}"), &kept);
                states += 1;
                undo.iter().rev().for_each(|write| drop(self.put(write)));
            }
            for (index, write) in writes.iter().enumerate() {
                self.put(write);
                check(
                    &self.bytes,
                    &format!("interval {number} up to {index}"),
                    std::slice::from_ref(write),
                );
                states += 1;
            }
        }
        states
    }

    /// Writes; gives what was there.
    fn put(&self, write: &Write) -> Write {
        let at = usize::try_from(write.at).unwrap();
        let mut bytes = self.bytes.borrow_mut();
        let place = &mut bytes[at..at + write.bytes.len()];
        let before = Write { at: write.at, bytes: place.to_vec() };
        place.copy_from_slice(&write.bytes);
        before
    }
}

/// A partition in memory that is only looked at.
struct Memory {
    bytes: Rc<RefCell<Vec<u8>>>,
    at: u64,
}

impl Read for Memory {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.bytes.borrow();
        let mut from = Cursor::new(bytes.as_slice());
        from.set_position(self.at);
        let read = from.read(into)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl io::Write for Memory {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Memory {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let len = self.bytes.borrow().len() as u64;
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Looks at the slots of each state: what the loader would start is one of the two systems, and whole.
pub(crate) struct Loader<'s> {
    systems: [(u32, &'s [u8]); 2],
    /// Sectors of the systems, by which a write of theirs is told from one of the file system's.
    sectors: HashSet<&'s [u8]>,
    last: Option<u32>,
    /// What would start, in one state or another.
    pub(crate) started: BTreeSet<u32>,
}

impl<'s> Loader<'s> {
    pub(crate) fn new(systems: [(u32, &'s [u8]); 2]) -> Self {
        let sectors = systems.iter().flat_map(|(_, bytes)| bytes.chunks_exact(SECTOR_BYTES));
        Self { systems, sectors: sectors.collect(), last: None, started: BTreeSet::new() }
    }

    pub(crate) fn look(&mut self, bytes: &Rc<RefCell<Vec<u8>>>, state: &str, written: &[Write]) {
        let memory = Memory { bytes: Rc::clone(bytes), at: 0 };
        let system = FileSystem::new(memory, FsOptions::new())
            .unwrap_or_else(|error| panic!("{state}: no file system: {error}"));
        let names = fat::names(&system, FOLDER)
            .unwrap_or_else(|error| panic!("{state}: no folder of slots: {error}"));
        let slots = Slots::of(&names);
        let has_tries = |slot: &&Slot| !matches!(slot.trust(), Trust::Failed { .. });
        let starts = slots.iter().rfind(has_tries);
        let starts = starts.unwrap_or_else(|| panic!("{state}: nothing starts of {names:?}"));
        self.started.insert(starts.build());
        let is_same = self.last.replace(starts.build()) == Some(starts.build());
        if is_same && written.iter().all(|write| self.is_system(write)) {
            // The same as before, whole then, and nothing but pieces of a system was written since: whether
            // they went to its place is seen with the next write of the file system's own.
            return;
        }
        let found = fat::read(&system, &format!("{FOLDER}/{}", starts.file()))
            .unwrap_or_else(|error| panic!("{state}: {}: {error}", starts.file()));
        let (_, expected) =
            self.systems.iter().find(|(build, _)| *build == starts.build()).unwrap();
        assert!(found == *expected, "{state}: {} starts, and is damaged", starts.file());
    }

    fn is_system(&self, write: &Write) -> bool {
        write.bytes.get(..SECTOR_BYTES).is_some_and(|first| self.sectors.contains(first))
    }
}

/// What is in a file of a file system ext4 after a check has mended it, as the box does.
pub(crate) fn mended(bytes: &[u8], folder: &Path, path: &str) -> Result<Vec<u8>, String> {
    let device = folder.join("state.ext4");
    write_sparse(&device, bytes).map_err(|error| error.to_string())?;
    let run = |command: &mut Command| command.output().map_err(|error| error.to_string());
    let checked = run(Command::new("e2fsck").args(["-fy"]).arg(&device))?;
    // Of e2fsck: 0 clean, 1 mended.
    if !matches!(checked.status.code(), Some(0 | 1)) {
        return Err(String::from_utf8_lossy(&checked.stdout).into_owned());
    }
    let request = format!("cat {path}");
    Ok(run(Command::new("debugfs").arg("-R").arg(request).arg(&device))?.stdout)
}

fn write_sparse(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    for piece in bytes.chunks(1 << 16) {
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all(piece)?;
        } else {
            file.seek(SeekFrom::Current(i64::try_from(piece.len()).unwrap_or_default()))?;
        }
    }
    file.set_len(bytes.len() as u64)
}
