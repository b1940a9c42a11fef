//! What survives a restart: lists from DNS, the ticket, the device key.
//!
//! Each is a small file in the state directory, written to a temporary name, flushed to the disk
//! and renamed, so that a power cut leaves the old file or the new one. A file that cannot be read
//! is reported and treated as absent; only the device key is never replaced that way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use wire::identity::DeviceKey;

use crate::limits::STATE_FILE_BYTES_MAX;

/// Name of the device key's file in the state directory.
pub const DEVICE_KEY_FILE: &str = "device.key";
/// The version that records carry; others are ignored.
const RECORD_VERSION: u32 = 1;
/// Only the owner may read or write.
const PRIVATE: u32 = 0o600;

/// Why something could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk's fault, or the directory's rights.
    #[error("{step} {}", .path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is too long to be ours.
    #[error("{} is longer than {STATE_FILE_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    /// Not what was written.
    #[error("read the record in {}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Written by another version of this software.
    #[error("{} has version {version}, this software writes {RECORD_VERSION}", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The device key cannot be read or made. It is not replaced: the auther knows the old one.
    #[error("use the device key {}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Reads this box's key from the state directory, or makes it there at the first boot.
///
/// # Errors
///
/// If the directory cannot be read or written, or the file holds no key. A broken key is not
/// replaced: the auther has bound the old one to this box, so the operator must decide.
pub fn load_or_create_device_key(state_directory: &Path) -> Result<DeviceKey, StateError> {
    let path = state_directory.join(DEVICE_KEY_FILE);
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| StateError::Key {
        path: path.clone(),
        source,
    };
    if let Some(bytes) = read(&path)? {
        close_to_others(&path);
        let pem = String::from_utf8(bytes).map_err(|error| broken(error.into()))?;
        return DeviceKey::from_pem(&pem).map_err(|error| broken(error.into()));
    }
    let key = DeviceKey::generate().map_err(|error| broken(error.into()))?;
    write(&path, key.to_pem().expose().as_bytes())?;
    Ok(key)
}

/// A key that others on this box could read is closed to them, and the operator told: it may have
/// been copied.
fn close_to_others(key: &Path) {
    let Ok(metadata) = fs::metadata(key) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return;
    }
    let closed = fs::set_permissions(key, fs::Permissions::from_mode(0o600)).is_ok();
    tracing::warn!(
        key = %key.display(),
        mode = format_args!("{mode:o}"),
        closed,
        "others could read the device key; if that worries you, have this box enrolled anew"
    );
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    record: T,
}

/// Reads a record; none if there is no file.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Some(bytes) = read(path)? else { return Ok(None) };
    let broken = |source| StateError::Record { path: path.to_owned(), source };
    // The version first: another one's record may look different.
    let Version { version } = serde_json::from_slice(&bytes).map_err(broken)?;
    if version != RECORD_VERSION {
        return Err(StateError::Version { path: path.to_owned(), version });
    }
    let versioned: Versioned<T> = serde_json::from_slice(&bytes).map_err(broken)?;
    Ok(Some(versioned.record))
}

/// Keeps a record, readable by the owner only.
pub(crate) fn save<T: Serialize>(path: &Path, record: &T) -> Result<(), StateError> {
    let bytes = serde_json::to_vec(&Versioned { version: RECORD_VERSION, record })
        .map_err(|source| StateError::Record { path: path.to_owned(), source })?;
    write(path, &bytes)
}

/// Removes a record, if there is one.
pub(crate) fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Io { step: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let failed = |source| StateError::Io { step: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    let length = file.take(STATE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > STATE_FILE_BYTES_MAX {
        return Err(StateError::TooLong(path.to_owned()));
    }
    Ok(Some(bytes))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    let attempt = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        // One left over by a power cut may have other rights: made afresh.
        let _ = fs::remove_file(&temporary);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    attempt().map_err(|source| StateError::Io { step: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/list.json");
        assert!(load::<Vec<u32>>(&path).unwrap().is_none());
        save(&path, &vec![1u32, 2]).unwrap();
        save(&path, &vec![3u32]).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing left over");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(load::<Vec<u32>>(&path).unwrap().is_none());
    }

    #[test]
    fn broken_long_and_foreign_files_are_errors_that_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list.json");
        for (bytes, expected) in [
            (b"{\"version\":1,\"rec".to_vec(), "read the record"),
            (b"{\"version\":2,\"record\":\"new\"}".to_vec(), "version 2"),
            (b"{\"version\":1,\"record\":\"text\"}".to_vec(), "read the record"),
            (vec![b' '; 70_000], "longer than"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = load::<Vec<u32>>(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("list.json"), "{error}");
        }
    }

    #[test]
    fn what_a_power_cut_left_does_not_stop_the_next_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list.json");
        fs::write(directory.path().join("list.json.new"), b"half").unwrap();
        save(&path, &7u32).unwrap();
        assert_eq!(load::<u32>(&path).unwrap(), Some(7));
    }

    #[test]
    fn the_device_key_is_made_once_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_create_device_key(directory.path()).unwrap();
        let second = load_or_create_device_key(directory.path()).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        let path = directory.path().join(DEVICE_KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        load_or_create_device_key(directory.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"not a key").unwrap();
        assert!(matches!(load_or_create_device_key(directory.path()), Err(StateError::Key { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }
}
