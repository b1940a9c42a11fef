//! The folder of items, and its limits.

use std::error::Error;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::seal::{self, SealError, Sealer};
use crate::{Content, Id, Item, Meta, VaultError, VaultKey};

/// Only the owner may look into the folder.
const FOLDER_MODE: u32 = 0o700;
/// Only the owner may read an item, and nobody may run it.
const FILE_MODE: u32 = 0o600;
/// Names that are tried for an item before something else must be wrong.
const NAMES_TRIED_MAX: usize = 16;

const SEALED: &str = "sealed";
const TEMPORARY: &str = "tmp";
/// Held while room is made and an item put in it, so that two processes do not take the same room.
const LOCK_FILE: &str = ".lock";

/// What a vault may hold. Whatever is beyond it goes, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Disk that all items may take together, in bytes.
    pub bytes_max: u64,
    /// From when on an item is deleted.
    pub age_max: Duration,
    /// Most items.
    pub items_max: usize,
}

/// A quarantine. Cheap to open; see the crate's documentation.
#[derive(Debug)]
pub struct Vault {
    folder: PathBuf,
    key: VaultKey,
    limits: Limits,
    stored: AtomicU64,
    refused: AtomicU64,
    expired: AtomicU64,
    evicted: AtomicU64,
}

/// What this process has done to a vault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Items stored.
    pub stored: u64,
    /// Mails that could not be stored.
    pub refused: u64,
    /// Items deleted because of their age.
    pub expired: u64,
    /// Items deleted to make room.
    pub evicted: u64,
}

/// What a vault holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Items.
    pub items: u64,
    /// Disk that they take, in bytes.
    pub bytes: u64,
}

/// What [`Vault::sweep`] deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Items that were too old.
    pub expired: u64,
    /// Items beyond the limits of bytes and number.
    pub evicted: u64,
}

/// A file of the folder.
#[derive(Debug, Clone, Copy)]
struct Stored {
    id: Id,
    bytes: u64,
}

impl Vault {
    /// Makes the folder where there is none, closes it to others, and removes what a power cut may
    /// have left in it.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or read.
    pub fn open(folder: &Path, key: &VaultKey, limits: Limits) -> Result<Self, VaultError> {
        let failed = |source| VaultError::Folder { folder: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed)?;
        let mode = fs::metadata(folder).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)).map_err(failed)?;
        }
        let vault = Self {
            folder: folder.to_owned(),
            key: key.clone(),
            limits,
            stored: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        };
        for id in vault.names(TEMPORARY)? {
            remove_if_left_behind(&vault.path(id, TEMPORARY)).map_err(failed)?;
        }
        Ok(vault)
    }

    /// Keeps a mail. `now` is in seconds since 1970. For a mail that is within the limits, items
    /// that are too old are deleted, and then the oldest ones until there is room.
    ///
    /// # Errors
    ///
    /// The mail is larger than all items may be, it cannot be read from `chunks`, or the disk does
    /// not take it. Nothing is left of it then.
    pub fn store<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        meta: &Meta,
        chunks: impl IntoIterator<Item = Result<Bytes, E>>,
        now: u64,
    ) -> Result<Id, VaultError> {
        let result = self.try_store(meta, chunks, now);
        let counter = if result.is_ok() { &self.stored } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn try_store<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        meta: &Meta,
        chunks: impl IntoIterator<Item = Result<Bytes, E>>,
        now: u64,
    ) -> Result<Id, VaultError> {
        let bytes_max = self.limits.bytes_max;
        let within = |bytes| {
            if bytes <= bytes_max { Ok(()) } else { Err(VaultError::TooLarge { bytes_max }) }
        };
        let seal_failed = |error| match error {
            SealError::Write(source) => self.write_failed(source),
            SealError::Vault(error) => error,
        };
        let write_failed = |source| self.write_failed(source);
        let temporary = self.make_temporary(now)?;
        let id = temporary.id;
        let mut sealer =
            Sealer::start(&temporary.file, &self.key, id, meta).map_err(seal_failed)?;
        for chunk in chunks {
            let chunk = chunk.map_err(|error| VaultError::Source(error.into()))?;
            sealer.write(&chunk).map_err(seal_failed)?;
            within(sealer.bytes())?;
        }
        let bytes = sealer.finish().map_err(seal_failed)?;
        within(bytes)?;
        temporary.file.sync_all().map_err(write_failed)?;
        let _lock = self.lock().map_err(write_failed)?;
        self.make_room(now, 1, bytes)?;
        temporary.keep_as(&self.path(id, SEALED)).map_err(write_failed)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(write_failed)?;
        Ok(id)
    }

    /// All items that are not too old, newest first, at most as many as there may be; or why one
    /// does not open. Each is read when it is asked for, and one that has gone meanwhile is left
    /// out.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn list(
        &self,
        now: u64,
    ) -> Result<impl Iterator<Item = (Id, Result<Item, VaultError>)>, VaultError> {
        let mut ids = self.names(SEALED)?;
        ids.retain(|id| !self.is_too_old(*id, now));
        let newest = ids.into_iter().rev().take(self.limits.items_max);
        Ok(newest
            .map(|id| (id, self.show(id)))
            .filter(|(_, result)| !matches!(result, Err(VaultError::NotFound { .. }))))
    }

    /// What is known of an item. Its mail is not read, so damage to that is not noticed here.
    ///
    /// # Errors
    ///
    /// There is none of this name, or it does not open.
    pub fn show(&self, id: Id) -> Result<Item, VaultError> {
        self.open_item(id).map(|(item, _)| item)
    }

    /// The mail of an item, byte for byte as it was stored.
    ///
    /// # Errors
    ///
    /// There is none of this name, or it does not open.
    pub fn open_content(&self, id: Id) -> Result<Content, VaultError> {
        self.open_item(id).map(|(_, content)| content)
    }

    fn open_item(&self, id: Id) -> Result<(Item, Content), VaultError> {
        let file = File::open(self.path(id, SEALED)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VaultError::NotFound { id },
            _ => VaultError::Read { id, source },
        })?;
        seal::open(file, &self.key, id)
    }

    /// Deletes an item.
    ///
    /// # Errors
    ///
    /// There is none of this name, or the disk does not let it go.
    pub fn delete(&self, id: Id) -> Result<(), VaultError> {
        fs::remove_file(self.path(id, SEALED)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VaultError::NotFound { id },
            _ => VaultError::Delete { id, source },
        })
    }

    /// Deletes what is too old or beyond the other limits. [`Self::store`] does it as well, so this
    /// is for the days on which nothing is stored.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or the disk does not let an item go.
    pub fn sweep(&self, now: u64) -> Result<Swept, VaultError> {
        let _lock = self.lock().map_err(|source| self.write_failed(source))?;
        self.make_room(now, 0, 0)
    }

    /// What there is now.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn usage(&self) -> Result<Usage, VaultError> {
        let stored = self.stored()?;
        Ok(Usage { items: stored.len() as u64, bytes: stored.iter().map(|item| item.bytes).sum() })
    }

    /// What this process has done here.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            stored: self.stored.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }

    /// Deletes until `items` more, of `bytes` together, are within the limits. Only under the lock.
    fn make_room(&self, now: u64, items: usize, bytes: u64) -> Result<Swept, VaultError> {
        let mut swept = Swept::default();
        let stored = self.stored()?;
        let mut items = stored.len().saturating_add(items);
        let mut bytes = stored.iter().fold(bytes, |bytes, item| bytes.saturating_add(item.bytes));
        for item in stored {
            let is_too_old = self.is_too_old(item.id, now);
            if !is_too_old && items <= self.limits.items_max && bytes <= self.limits.bytes_max {
                continue;
            }
            match self.delete(item.id) {
                Ok(()) if is_too_old => swept.expired += 1,
                Ok(()) => swept.evicted += 1,
                // Another process was faster.
                Err(VaultError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            items -= 1;
            bytes -= item.bytes;
        }
        self.expired.fetch_add(swept.expired, Ordering::Relaxed);
        self.evicted.fetch_add(swept.evicted, Ordering::Relaxed);
        Ok(swept)
    }

    fn is_too_old(&self, id: Id, now: u64) -> bool {
        now.saturating_sub(id.stored_at()) >= self.limits.age_max.as_secs()
    }

    /// The items with their sizes, oldest first.
    fn stored(&self) -> Result<Vec<Stored>, VaultError> {
        let mut stored = Vec::new();
        for id in self.names(SEALED)? {
            match fs::symlink_metadata(self.path(id, SEALED)) {
                Ok(metadata) => stored.push(Stored { id, bytes: metadata.len() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(VaultError::Read { id, source }),
            }
        }
        Ok(stored)
    }

    /// The names of the files that end so, oldest first. What else lies there is none of ours.
    fn names(&self, extension: &str) -> Result<Vec<Id>, VaultError> {
        let failed = |source| VaultError::Folder { folder: self.folder.clone(), source };
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some((stem, end)) = name.to_str().and_then(|name| name.rsplit_once('.')) else {
                continue;
            };
            // Only as this program writes it: other spellings would be found under another name.
            let id = stem.parse().ok().filter(|id: &Id| end == extension && id.to_string() == stem);
            ids.extend(id);
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn path(&self, id: Id, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }

    fn lock(&self) -> io::Result<File> {
        let path = self.folder.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path)?;
        file.lock()?;
        Ok(file)
    }

    /// A file for a new item, locked as long as it is open: [`Self::open`] takes only those away
    /// that nobody writes to any more.
    fn make_temporary(&self, now: u64) -> Result<Temporary, VaultError> {
        let write_failed = |source| self.write_failed(source);
        for _ in 0..NAMES_TRIED_MAX {
            let mut random = [0; 4];
            aws_lc_rs::rand::fill(&mut random).map_err(|_| VaultError::Random)?;
            let id = Id::new(now, u32::from_ne_bytes(random));
            let path = self.path(id, TEMPORARY);
            match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(write_failed(source)),
                Ok(file) if is_still_ours(&file, &path).map_err(write_failed)? => {
                    let temporary = Temporary { id, file, path };
                    // The name is ours from here on, unless an item has had it for long.
                    if !self.path(id, SEALED).try_exists().map_err(write_failed)? {
                        return Ok(temporary);
                    }
                }
                Ok(_) => {}
            }
        }
        Err(write_failed(io::ErrorKind::AlreadyExists.into()))
    }

    fn write_failed(&self, source: io::Error) -> VaultError {
        let folder = self.folder.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                VaultError::DiskFull { folder, source }
            }
            _ => VaultError::Write { folder, source },
        }
    }
}

/// An item that is being written. Dropping it removes it.
#[derive(Debug)]
struct Temporary {
    id: Id,
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn keep_as(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Behind a rename it is not there; otherwise the next start removes what stays.
        let _ = fs::remove_file(&self.path);
    }
}

/// Locks a file that was just made, and says whether it is still the one at its path: a process
/// that cleans up may have had it in hand before it was locked.
fn is_still_ours(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
        Ok(()) => {}
    }
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a temporary file that no process writes to any more.
fn remove_if_left_behind(path: &Path) -> io::Result<()> {
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return gone(error),
    };
    match file.try_lock() {
        Ok(()) => fs::remove_file(path).or_else(gone),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests;
