//! Small files of a server that survive its restart: written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Largest file that is read or written, in bytes: the longest list of revocations has 1.8 MB.
pub const STATE_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Mode of a file, and of a folder that has to be made: the server's own.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// A file that could not be kept, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct StateError {
    /// What was being done.
    step: &'static str,
    /// With what.
    path: PathBuf,
    /// Why not.
    source: io::Error,
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError { step, path: path.to_owned(), source }
}

/// What the file holds; `None` where there is none.
///
/// # Errors
/// It cannot be read, or is longer than [`STATE_FILE_BYTES_MAX`].
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("read", path))?,
    };
    let mut bytes = Vec::new();
    file.take(STATE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > STATE_FILE_BYTES_MAX {
        return Err(failed("read", path)(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(bytes))
}

/// Replaces the file, and makes its folder where there is none. A power cut leaves the old one or the
/// new one.
///
/// # Errors
/// The disk is full, or the folder is not this server's. The old file is then still there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let failed = failed("write", path);
    let fresh = path.with_extension("new");
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(FILE_MODE).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

/// Removes the file; where there is none, it is as wanted.
///
/// # Errors
/// The operating system refuses.
pub fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_written_is_read_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/drained");
        assert_eq!(read(&path).unwrap(), None);
        remove(&path).unwrap();
        for bytes in [&b"one"[..], b"", b"another"] {
            write(&path, bytes).unwrap();
            assert_eq!(read(&path).unwrap().as_deref(), Some(bytes));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing beside it");
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn errors_name_step_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let below = file.join("state");
        let error = write(&below, b"x").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}", below.display()));
        let long = File::create(&file).unwrap();
        long.set_len(STATE_FILE_BYTES_MAX + 1).unwrap();
        let error = read(&file).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {}", file.display()));
        long.set_len(STATE_FILE_BYTES_MAX).unwrap();
        assert!(read(&file).unwrap().is_some());
    }
}
