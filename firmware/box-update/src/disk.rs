//! The partition with the slots, as the steps of an update need it; and the driver for one that is mounted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use nix::fcntl::{OFlag, PosixFadviseAdvice, RenameFlags, posix_fadvise, renameat2};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::syncfs;

/// Most files of a folder that are looked at.
const FILES_MAX: usize = 256;

/// What reads past the cache has to be aligned to, in bytes: a multiple of any disk's sector.
const ALIGNMENT_BYTES: usize = 4096;

/// A file in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// What an update does to the partition. Paths are relative to it, with slashes.
///
/// Until [`Disk::sync`] has returned, a power cut may undo what was done before it, all or in part.
pub trait Disk {
    /// The files in a folder; none where there is no such folder.
    ///
    /// # Errors
    /// As the operating system says, as with all others.
    fn list(&mut self, folder: &str) -> io::Result<Vec<Entry>>;

    /// Room that is left, in bytes.
    ///
    /// # Errors
    /// As above.
    fn free_bytes(&mut self) -> io::Result<u64>;

    /// Writes at this place of a file, and makes the file and its folder where they are not there.
    ///
    /// # Errors
    /// As above.
    fn write(&mut self, path: &str, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything so far is on the medium.
    ///
    /// # Errors
    /// As above.
    fn sync(&mut self) -> io::Result<()>;

    /// Reads from the medium, and from no cache, what was synced; returns how much, 0 at the end.
    ///
    /// # Errors
    /// As above.
    fn read_back(&mut self, path: &str, at: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Deletes a file.
    ///
    /// # Errors
    /// As above.
    fn delete(&mut self, path: &str) -> io::Result<()>;

    /// Gives a file another name; nothing of that name is there. Within a folder, a power cut leaves the file
    /// whole under one name or the other.
    ///
    /// # Errors
    /// As above.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
}

/// A partition that is mounted somewhere.
#[derive(Debug)]
pub struct Mounted {
    root: PathBuf,
    /// Of the whole of it, to sync by.
    handle: File,
    /// The file that is being written, open.
    writing: Option<(PathBuf, File)>,
    /// Aligned within, for reads past the cache.
    buffer: Vec<u8>,
}

impl Mounted {
    /// The partition mounted at `root`.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        // Whole, since a rename takes other paths as relative to the partition.
        let root = root.into().canonicalize()?;
        let handle = File::open(&root)?;
        Ok(Self { root, handle, writing: None, buffer: Vec::new() })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Linux's FAT writes everything for `syncfs`, and does not tell the disk to keep it; for `fsync` it
    /// does.
    fn barrier(&self) -> io::Result<()> {
        syncfs(&self.handle)?;
        self.handle.sync_all()
    }
}

impl Disk for Mounted {
    fn list(&mut self, folder: &str) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(self.at(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries.take(FILES_MAX) {
            let entry = entry?;
            let about = entry.metadata()?;
            if let (true, Ok(name)) = (about.is_file(), entry.file_name().into_string()) {
                files.push(Entry { name, bytes: about.len() });
            }
        }
        Ok(files)
    }

    fn free_bytes(&mut self) -> io::Result<u64> {
        let about = fstatvfs(&self.handle)?;
        Ok(about.blocks_available().saturating_mul(about.fragment_size()))
    }

    fn write(&mut self, path: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.at(path);
        if self.writing.as_ref().is_none_or(|(open, _)| *open != path) {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            self.writing = Some((path, file));
        }
        self.writing.as_ref().map_or(Ok(()), |(_, file)| file.write_all_at(bytes, at))
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some((_, file)) = self.writing.take() {
            file.sync_all()?;
            // Out of the cache, so that it is read from the medium.
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        self.barrier()
    }

    fn read_back(&mut self, path: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let path = self.at(path);
        let direct = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(&path);
        let mut file = match direct {
            Ok(file) => file,
            // Some file systems have no way past their cache; those of boxes do.
            Err(error) if error.raw_os_error() == Some(nix::Error::EINVAL as i32) => {
                File::open(&path)?
            }
            Err(error) => return Err(error),
        };
        // Whole aligned pieces around what is wanted.
        let alignment = ALIGNMENT_BYTES as u64;
        let before = usize::try_from(at % alignment).unwrap_or_default();
        let wanted = (before + into.len()).next_multiple_of(ALIGNMENT_BYTES);
        self.buffer.resize(wanted + ALIGNMENT_BYTES, 0);
        let start = self.buffer.as_ptr().align_offset(ALIGNMENT_BYTES);
        let aligned = self.buffer.get_mut(start..start + wanted).ok_or(io::ErrorKind::Other)?;
        file.seek(SeekFrom::Start(at - at % alignment))?;
        let mut len = 0;
        while let Some(rest) = aligned.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match file.read(rest)? {
                0 => break,
                more => len += more,
            }
            // The end: what follows it is not aligned any more.
            if len % ALIGNMENT_BYTES != 0 {
                break;
            }
        }
        let found = aligned.get(before..len).unwrap_or_default();
        let len = found.len().min(into.len());
        into[..len].copy_from_slice(&found[..len]);
        Ok(len)
    }

    fn delete(&mut self, path: &str) -> io::Result<()> {
        self.writing = None;
        fs::remove_file(self.at(path))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.writing = None;
        let (from, to) = (self.at(from), self.at(to));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::open(&from)?;
        renameat2(&self.handle, &from, &self.handle, &to, RenameFlags::RENAME_NOREPLACE)?;
        // Linux's FAT gives the new name no clusters and no size before the file's own data about itself are
        // written. So that comes first: a folder that is synced before has an empty file on the disk, and a
        // cut then is the end of the slot.
        file.sync_all()?;
        self.barrier()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_read_and_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Mounted::new(folder.path()).unwrap();
        assert_eq!(disk.list("EFI/Linux").unwrap(), []);
        assert!(disk.free_bytes().unwrap() > 0);
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        disk.write("EFI/Linux/a", 0, &bytes[..5000]).unwrap();
        disk.write("EFI/Linux/a", 5000, &bytes[5000..]).unwrap();
        disk.sync().unwrap();
        for (at, len) in [(0, 20_000), (0, 1), (4096, 4096), (4095, 4098), (19_999, 9), (20_000, 1)]
        {
            let mut found = vec![0; len];
            let len = disk.read_back("EFI/Linux/a", at, &mut found).unwrap();
            let at = usize::try_from(at).unwrap();
            assert_eq!(found[..len], bytes[at..(at + found.len()).min(bytes.len())], "{at}");
        }
        disk.rename("EFI/Linux/a", "EFI/Linux/b").unwrap();
        let b = Entry { name: "b".to_owned(), bytes: 20_000 };
        assert_eq!(disk.list("EFI/Linux").unwrap(), [b]);
        disk.write("EFI/Linux/c", 0, b"c").unwrap();
        // What is there is not lost to a new name.
        assert!(disk.rename("EFI/Linux/c", "EFI/Linux/b").is_err());
        disk.delete("EFI/Linux/b").unwrap();
        disk.delete("EFI/Linux/c").unwrap();
        assert_eq!(disk.list("EFI/Linux").unwrap(), []);
    }
}
