//! The admin secret: a hash in STATE (Argon2id, as a PHC string), checked and set here, for console and status page.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use box_init::control::{Status, Storage};

use crate::report::Answer;

/// Longest file, in bytes.
const FILE_BYTES_MAX: u64 = 1024;

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// Who knows the secret.
    Locked,
    /// Everybody: the box is new, and no secret is set.
    Open,
    /// Everybody, to repair: the secret cannot be read, and why.
    Broken(String),
    /// Nobody for so many seconds: the box has only started, and STATE may still be found.
    Early(u64),
}

fn path(state: &Path) -> PathBuf {
    state.join("config/secret")
}

/// Since the box's start, before a secret that is not found counts as lost: disks are found late, and every
/// start would be a moment in which nobody is asked for it.
const FOUND_MAX: Duration = Duration::from_secs(60);

/// Who may come in. Without a secret everybody, but only if STATE is there to say that none was set: who
/// pulls the disk's cable must not get more than a repair needs. `init` is asked before this looks: STATE
/// that appears between the two is then looked at.
#[must_use]
pub fn door(state: &Path, init: &Answer<Status>, uptime: Duration) -> Door {
    let lost = |why: String| match FOUND_MAX.checked_sub(uptime) {
        Some(left) if !left.is_zero() => {
            Door::Early(left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
        }
        _ => Door::Broken(why),
    };
    match read(state) {
        Ok(Some(hash)) => match PasswordHash::new(&hash) {
            // Without its end, no secret would ever be right.
            Ok(hash) if hash.salt.is_none() || hash.hash.is_none() => {
                Door::Broken("its hash is damaged: a part is missing".to_owned())
            }
            Ok(_) => Door::Locked,
            Err(error) => Door::Broken(format!("its hash is damaged: {error}")),
        },
        Ok(None) => match init {
            Ok(Status { state: Storage::Disk { .. }, .. }) => Door::Open,
            Ok(Status { state: Storage::Memory { problem }, .. }) => {
                lost(format!("STATE is not there: {problem}"))
            }
            Err(problem) => lost(format!("whether STATE is there is not known: {problem}")),
        },
        Err(error) => lost(format!("read its hash: {error}")),
    }
}

/// Whether this is the secret. Takes tens of milliseconds and 19 MiB, as it is meant to.
#[must_use]
pub fn verify(state: &Path, secret: &str) -> bool {
    let Ok(Some(hash)) = read(state) else { return false };
    let Ok(hash) = PasswordHash::new(&hash) else { return false };
    Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok()
}

/// Makes this the secret; a power cut leaves the former one or this one.
///
/// # Errors
/// It cannot be written, in words for people.
pub fn set(state: &Path, secret: &str) -> Result<(), String> {
    let hash: PasswordHash = Argon2::default()
        .hash_password(secret.as_bytes())
        .map_err(|error| format!("hash the secret: {error}"))?;
    let path = path(state);
    let folder = path.parent().unwrap_or(state);
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let new = folder.join("secret.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(format!("{hash}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| format!("write {}: {error}", path.display()))
}

fn read(state: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path(state)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(Some(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_that_was_set_is_the_only_one() {
        let state = tempfile::tempdir().unwrap();
        assert!(!verify(state.path(), ""));
        set(state.path(), "correct horse").unwrap();
        assert!(verify(state.path(), "correct horse"));
        assert!(!verify(state.path(), "correct hors"));
        assert_eq!(door(state.path(), &Err("x".to_owned()), Duration::ZERO), Door::Locked);
        let mode = fs::metadata(path(state.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_hash_opens_nothing_but_repairs() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("config")).unwrap();
        for damaged in ["", "hunter42", "$argon2id$v=19$m=1"] {
            fs::write(path(state.path()), damaged).unwrap();
            assert!(!verify(state.path(), "hunter42"));
            assert!(
                matches!(door(state.path(), &Err(String::new()), FOUND_MAX), Door::Broken(_)),
                "{damaged}"
            );
        }
        fs::write(path(state.path()), [0xff]).unwrap();
        assert!(matches!(door(state.path(), &Err(String::new()), FOUND_MAX), Door::Broken(_)));
    }

    #[test]
    fn a_secret_that_is_not_found_yet_is_waited_for() {
        let state = tempfile::tempdir().unwrap();
        let silent = Err("x".to_owned());
        let at = |seconds| door(state.path(), &silent, Duration::from_secs(seconds));
        assert_eq!(at(0), Door::Early(60));
        assert_eq!(at(59), Door::Early(1));
        assert!(matches!(at(60), Door::Broken(_)));
    }
}
