//! The files of the journal, and their limits.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::{info, warn};

use crate::{Entry, JournalError};

/// Files over which the lines spread: the oldest is deleted for a new one.
pub const FILES_MAX: u64 = 4;

/// Only the owner may look into the folder.
const FOLDER_MODE: u32 = 0o700;
/// Only the owner may read a file.
const FILE_MODE: u32 = 0o600;

const PREFIX: &str = "mails-";
const SUFFIX: &str = ".jsonl";

/// What a journal may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Disk that all files may take together, in bytes.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 32 * 1024 * 1024 }
    }
}

/// Writes one line a mail. Shared by all sessions of a program; the lines of several programs, too,
/// may go to one folder.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    limits: Limits,
    /// `None` until the first line, and behind every failure: then it is looked at again.
    current: Mutex<Option<Current>>,
    written: AtomicU64,
    failed: AtomicU64,
    /// The last line failed, and the log has been told.
    is_failing: AtomicBool,
}

/// What this process has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Mails in the journal.
    pub written: u64,
    /// Mails that went on without a line in it.
    pub failed: u64,
}

/// What a journal holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its files.
    pub files: u64,
    /// Disk that they take, in bytes.
    pub bytes: u64,
}

/// The newest file.
#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    number: u64,
    /// Its last line was cut off by a power cut or a full disk.
    is_torn: bool,
}

impl Journal {
    /// Makes the folder where there is none, and closes it to others.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub fn open(folder: &Path, limits: Limits) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Folder { folder: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed)?;
        let mode = fs::metadata(folder).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)).map_err(failed)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            limits,
            current: Mutex::new(None),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
        })
    }

    /// The one call for each mail: a line in the program's log, and one in the journal. When the
    /// disk does not take it, mail goes on; the log is told once, and once again when it does.
    pub fn record(&self, entry: &Entry) {
        let entry = entry.bounded();
        entry.log();
        match self.append(&entry) {
            Ok(()) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    info!("mails are in the journal again");
                }
            }
            Err(error) => {
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    let error = telemetry::chain(&error);
                    warn!(error, "mails go on, but are missing in the journal");
                }
            }
        }
    }

    /// A line in the journal alone.
    ///
    /// # Errors
    ///
    /// The disk does not take it.
    pub fn append(&self, entry: &Entry) -> Result<(), JournalError> {
        let result = self.try_append(&entry.bounded());
        let counter = if result.is_ok() { &self.written } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn try_append(&self, entry: &Entry) -> Result<(), JournalError> {
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        line.push(b'\n');
        // A panic in here leaves nothing half done that the next call would not look at again.
        let mut slot = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = match slot.take() {
            Some(current) if !current.is_deleted() => current,
            _ => self.newest()?,
        };
        if current.is_torn {
            line.insert(0, b'\n');
        }
        let bytes = current.file.metadata().map_err(|error| write_failed(&current.path, error))?;
        if bytes.len() > 0 && bytes.len().saturating_add(line.len() as u64) > self.file_bytes_max()
        {
            current = self.next(current.number)?;
        }
        // One write a line: with O_APPEND, the lines of two programs do not mix.
        let written =
            current.file.write(&line).map_err(|error| write_failed(&current.path, error))?;
        if written < line.len() {
            return Err(write_failed(&current.path, io::ErrorKind::StorageFull.into()));
        }
        current.is_torn = false;
        *slot = Some(current);
        Ok(())
    }

    /// What there is now.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn usage(&self) -> Result<Usage, JournalError> {
        let mut usage = Usage::default();
        for (_, path) in files(&self.folder)? {
            // One that goes meanwhile takes nothing any more.
            if let Ok(metadata) = fs::metadata(path) {
                usage.files += 1;
                usage.bytes += metadata.len();
            }
        }
        Ok(usage)
    }

    /// What this process has written.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            written: self.written.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    fn file_bytes_max(&self) -> u64 {
        self.limits.bytes_max / FILES_MAX
    }

    /// The newest file there is, or the first one.
    fn newest(&self) -> Result<Current, JournalError> {
        let number = files(&self.folder)?.last().map_or(1, |(number, _)| *number);
        self.open_file(number)
    }

    /// A file behind `number`, and room for it.
    fn next(&self, number: u64) -> Result<Current, JournalError> {
        let files = files(&self.folder)?;
        let sizes: Vec<u64> = files
            .iter()
            .map(|(_, path)| fs::metadata(path).map_or(0, |metadata| metadata.len()))
            .collect();
        let mut bytes = sizes.iter().sum::<u64>().saturating_add(self.file_bytes_max());
        for ((_, path), size) in files.iter().zip(sizes) {
            if bytes <= self.limits.bytes_max {
                break;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(write_failed(path, error));
                }
                _ => bytes -= size,
            }
        }
        // Another program may have begun one already.
        let newest = files.last().map_or(number, |(newest, _)| *newest);
        self.open_file(if newest > number { newest } else { number.saturating_add(1) })
    }

    fn open_file(&self, number: u64) -> Result<Current, JournalError> {
        let path = self.folder.join(format!("{PREFIX}{number:08}{SUFFIX}"));
        let failed = |error| write_failed(&path, error);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut last = [b'\n'];
        if let Some(at) = bytes.checked_sub(1) {
            file.read_exact_at(&mut last, at).map_err(failed)?;
        }
        Ok(Current { file, path, number, is_torn: last != *b"\n" })
    }
}

impl Current {
    /// Somebody took the file away; lines written to it now would be lost.
    fn is_deleted(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

fn write_failed(path: &Path, source: io::Error) -> JournalError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            JournalError::DiskFull { path, source }
        }
        _ => JournalError::Write { path, source },
    }
}

/// The files of a journal by number, oldest first. What else lies there is none of ours.
pub(crate) fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    let failed = |source| JournalError::Folder { folder: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
        files.extend(number.map(|number| (number, folder.join(name))));
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests;
