//! A FAT disk whose every write is known, and what else of a box an update needs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::rc::Rc;

use board::Arch;
use box_update::install::Facts;
use box_update::record::{Record, Store};
use box_update::slots::Loader;
use box_update::{Disk, Entry};

use super::BOARD;

/// A box that runs this entry, uncounted.
pub(crate) fn facts(build: u32, entry: &str) -> Facts {
    Facts {
        product: "avr".to_owned(),
        board: BOARD.to_owned(),
        arch: Arch::X86_64,
        build,
        loader: Loader { selected: Some(entry.to_owned()), counted: None },
    }
}

/// A record in memory.
#[derive(Debug, Default, Clone)]
pub(crate) struct Memory(pub Record);

impl Store for Memory {
    fn load(&mut self) -> io::Result<Record> {
        Ok(self.0.clone())
    }

    fn save(&mut self, record: &Record) -> io::Result<()> {
        self.0 = record.clone();
        Ok(())
    }
}

pub(crate) const SECTOR_BYTES: usize = 512;

/// What happened to a medium.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A sector has new contents, in memory at least.
    Write { sector: usize, bytes: Vec<u8> },
    /// An operation on the file system ended.
    Done,
    /// Everything before is on the medium.
    Flush,
}

/// A medium, with what happened to it.
#[derive(Debug, Default)]
pub(crate) struct Medium {
    pub(crate) bytes: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

/// A view of a medium as a device.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    medium: Rc<RefCell<Medium>>,
    at: usize,
}

impl Read for Device {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let medium = self.medium.borrow();
        let len = into.len().min(medium.bytes.len().saturating_sub(self.at));
        into[..len].copy_from_slice(&medium.bytes[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

impl Write for Device {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut medium = self.medium.borrow_mut();
        let end = self.at + from.len();
        medium.bytes[self.at..end].copy_from_slice(from);
        for sector in self.at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let bytes = medium.bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES].to_vec();
            medium.events.push(Event::Write { sector, bytes });
        }
        self.at = end;
        Ok(from.len())
    }

    /// Of the library's own: nothing is on the medium before [`Disk::sync`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let len = self.medium.borrow().bytes.len();
        let mut cursor = Cursor::new(());
        let at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => (self.at as u64).checked_add_signed(by).unwrap(),
            SeekFrom::End(by) => (len as u64).checked_add_signed(by).unwrap(),
        };
        cursor.set_position(at);
        self.at = usize::try_from(at).unwrap();
        Ok(at)
    }
}

/// A FAT file system on a medium.
pub(crate) struct FatDisk {
    pub(crate) medium: Rc<RefCell<Medium>>,
    system: fatfs::FileSystem<Device>,
}

impl FatDisk {
    /// Of a medium that has one.
    pub(crate) fn open(bytes: Vec<u8>) -> io::Result<Self> {
        let medium = Rc::new(RefCell::new(Medium { bytes, events: Vec::new() }));
        let device = Device { medium: Rc::clone(&medium), at: 0 };
        let system = fatfs::FileSystem::new(device, fatfs::FsOptions::new())?;
        Ok(Self { medium, system })
    }

    /// A new one of this size.
    pub(crate) fn format(bytes: usize) -> Self {
        let mut medium = Cursor::new(vec![0; bytes]);
        let options = fatfs::FormatVolumeOptions::new().bytes_per_cluster(512);
        fatfs::format_volume(&mut medium, options).unwrap();
        let disk = Self::open(medium.into_inner()).unwrap();
        for folder in ["EFI", "EFI/Linux"] {
            disk.system.root_dir().create_dir(folder).unwrap();
        }
        disk.medium.borrow_mut().events.clear();
        disk
    }

    pub(crate) fn put(&mut self, path: &str, bytes: &[u8]) {
        self.write(path, 0, bytes).unwrap();
        self.sync().unwrap();
    }

    pub(crate) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.system.root_dir().open_file(path).ok()?.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    pub(crate) fn files(&mut self, folder: &str) -> BTreeMap<String, u64> {
        let entries = self.list(folder).unwrap();
        entries.into_iter().map(|entry| (entry.name, entry.bytes)).collect()
    }

    pub(crate) fn names(&mut self, folder: &str) -> Vec<String> {
        self.files(folder).into_keys().collect()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let _ = self.system.unmount();
        self.medium.take().bytes
    }

    fn done<T>(&self, result: io::Result<T>) -> io::Result<T> {
        self.medium.borrow_mut().events.push(Event::Done);
        result
    }
}

impl Disk for FatDisk {
    fn list(&mut self, folder: &str) -> io::Result<Vec<Entry>> {
        let mut files = Vec::new();
        for entry in self.system.root_dir().open_dir(folder)?.iter() {
            let entry = entry?;
            if entry.is_file() {
                files.push(Entry { name: entry.file_name(), bytes: entry.len() });
            }
        }
        Ok(files)
    }

    fn free_bytes(&mut self) -> io::Result<u64> {
        let stats = self.system.stats()?;
        Ok(u64::from(stats.free_clusters()) * u64::from(stats.cluster_size()))
    }

    fn write(&mut self, path: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let write = || {
            let mut file = self.system.root_dir().create_file(path)?;
            file.seek(SeekFrom::Start(at))?;
            file.write_all(bytes)
        };
        self.done(write())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.medium.borrow_mut().events.push(Event::Flush);
        Ok(())
    }

    fn read_back(&mut self, path: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut file = self.system.root_dir().open_file(path)?;
        file.seek(SeekFrom::Start(at))?;
        file.read(into)
    }

    fn delete(&mut self, path: &str) -> io::Result<()> {
        self.done(self.system.root_dir().remove(path))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let root = self.system.root_dir();
        if root.open_file(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.done(root.rename(from, &root, to))
    }
}
