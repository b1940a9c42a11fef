//! What an image is written to.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;

/// A disk, or a file in its place.
pub trait Medium {
    /// Its size.
    fn bytes(&self) -> u64;
    /// Fills the buffer from there.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of it there.
    ///
    /// # Errors
    /// It cannot be written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Waits until everything is on the disk, and forgets what memory has of it: what is read from
    /// now on comes from the disk.
    ///
    /// # Errors
    /// The disk has not taken all of it.
    fn settle(&self) -> io::Result<()>;
}

/// The real one.
#[derive(Debug)]
pub struct Target {
    file: File,
    bytes: u64,
}

impl Target {
    /// Opens a disk for nobody else: the kernel refuses what is mounted or part of something else.
    ///
    /// # Errors
    /// It is in use, or not ours to open.
    pub fn disk(path: &Path) -> io::Result<Self> {
        // open(2): on block devices without O_CREAT, O_EXCL means that.
        Self::new(File::options().read(true).write(true).custom_flags(libc::O_EXCL).open(path)?)
    }

    /// Whether [`Self::disk`] would be let, without touching it.
    ///
    /// # Errors
    /// It would not.
    pub fn is_free(path: &Path) -> io::Result<()> {
        File::options().read(true).custom_flags(libc::O_EXCL).open(path).map(|_| ())
    }

    /// Opens or makes a file of that size.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(path: &Path, bytes: u64) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(bytes)?;
        Self::new(file)
    }

    fn new(mut file: File) -> io::Result<Self> {
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, bytes })
    }
}

impl Medium for Target {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn settle(&self) -> io::Result<()> {
        self.file.sync_all()?;
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    }
}

/// A medium for those who want a stream.
pub(crate) struct Stream<'a> {
    medium: &'a dyn Medium,
    at: u64,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(medium: &'a dyn Medium) -> Self {
        Self { medium, at: 0 }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.medium.bytes().saturating_sub(self.at));
        let length = buffer.len().min(left.unwrap_or(usize::MAX));
        self.medium.read_at(&mut buffer[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.medium.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Stream<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.medium.bytes().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
