//! The slots' file system on a disk of the host's.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;

use fatfs::{Date, DateTime, FileSystem, FsOptions, Time, TimeProvider};
use image::layout::Partition;

/// The part of a disk that is a partition.
#[derive(Debug)]
pub struct Device {
    disk: File,
    start: u64,
    bytes: u64,
    at: u64,
}

/// FAT's first day. The library's own choice without a clock is the zeroth of a month, with which firmware
/// does not rename: a system's starts would not be counted.
#[derive(Debug)]
struct FirstDay;

impl TimeProvider for FirstDay {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        let time = Time { hour: 0, min: 0, sec: 0, millis: 0 };
        DateTime { date: self.get_current_date(), time }
    }
}

/// How these tests write to a file system.
#[must_use]
pub fn options() -> FsOptions {
    FsOptions::new().time_provider(&FirstDay)
}

/// The file system of a disk's partition.
///
/// # Errors
/// There is none.
pub fn open(disk: File, partition: &Partition) -> io::Result<FileSystem<Device>> {
    let device = Device { disk, start: partition.start, bytes: partition.bytes, at: 0 };
    FileSystem::new(device, options())
}

/// Names in a folder, sorted.
///
/// # Errors
/// There is no such folder, or it cannot be read.
pub fn names<D: Read + Write + Seek>(
    system: &FileSystem<D>,
    folder: &str,
) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in system.root_dir().open_dir(folder)?.iter() {
        let entry = entry?;
        if entry.is_file() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names)
}

/// Writes a file anew.
///
/// # Errors
/// There is no room for it, or no such folder.
pub fn put<D: Read + Write + Seek>(
    system: &FileSystem<D>,
    path: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let mut file = system.root_dir().create_file(path)?;
    file.truncate()?;
    file.write_all(bytes)?;
    file.flush()
}

/// What is in a file.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn read<D: Read + Write + Seek>(system: &FileSystem<D>, path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    system.root_dir().open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Device {
    fn most(&self, len: usize) -> usize {
        let left = self.bytes.saturating_sub(self.at);
        len.min(usize::try_from(left).unwrap_or(usize::MAX))
    }
}

impl Read for Device {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.most(into.len());
        let read = self.disk.read_at(&mut into[..len], self.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Device {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let len = self.most(from.len());
        let written = self.disk.write_at(&from[..len], self.start + self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
