//! The settings in the form that this system reads: where that is a copy, it is mounted over what all others
//! know as `config`, and so nobody else has to know.

use std::io;
use std::path::Path;

use box_update::settings::{Migration, Settings, SettingsError};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// In STATE.
const CONFIG: &str = "config";

/// Why the settings are not in the form that this system reads. What was in use is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("put the changed settings into their place")]
    Mount(#[source] io::Error),
}

/// Before anything reads the settings of this start of `build`; whether they are a copy.
pub(crate) fn open(
    state: &Path,
    migrations: &[Migration],
    build: u32,
    is_on_trial: bool,
) -> Result<bool, Problem> {
    let config = state.join(CONFIG);
    let folder = Settings::new(state, migrations).open(build, is_on_trial)?;
    if folder == config {
        return Ok(false);
    }
    cover(&folder, &config)?;
    Ok(true)
}

/// After `build` is blessed: the copy that it has used is the settings from now on.
pub(crate) fn adopt(state: &Path, migrations: &[Migration], build: u32) -> Result<(), Problem> {
    let config = state.join(CONFIG);
    // What is mounted on cannot be renamed. For a moment the former settings are seen; whoever has a file of
    // the copy open keeps it.
    let was_covered = match umount2(&config, MntFlags::MNT_DETACH) {
        Ok(()) => true,
        Err(Errno::EINVAL) => false,
        Err(error) => return Err(Problem::Mount(error.into())),
    };
    let adopted = Settings::new(state, migrations).adopt(build);
    if adopted.is_err() && was_covered {
        cover(&state.join("trial"), &config)?;
    }
    Ok(adopted?)
}

fn cover(folder: &Path, config: &Path) -> Result<(), Problem> {
    mount(Some(folder), config, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| Problem::Mount(error.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    const TO_TWO: Migration = Migration {
        what: "relay is called site",
        run: |files| {
            let file = files.get_mut(Path::new("box.toml")).ok_or("there is no box.toml")?;
            file.bytes = b"site = 1\n".to_vec();
            Ok(())
        },
    };
    const IMPOSSIBLE: Migration =
        Migration { what: "cannot be", run: |_| Err("box.toml has no relay".to_owned()) };

    /// STATE, in mounts of this test's thread alone. As root.
    fn state() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join(CONFIG)).unwrap();
        fs::write(state.path().join("config/box.toml"), "relay = 1\n").unwrap();
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).expect("be root");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        state
    }

    fn text(state: &Path, path: &str) -> String {
        fs::read_to_string(state.join(path)).unwrap_or_default()
    }

    #[test]
    fn a_system_on_trial_uses_a_copy_that_a_blessing_puts_in_place() {
        let state = state();
        let state = state.path();
        assert!(open(state, &[TO_TWO], 2, true).unwrap());
        assert_eq!(text(state, "config/box.toml"), "site = 1\n");
        // What somebody sets meanwhile is set in the copy.
        fs::write(state.join("config/network.toml"), "x").unwrap();
        // The old system would see its own.
        let config = state.join(CONFIG);
        umount2(&config, MntFlags::empty()).unwrap();
        assert_eq!(text(state, "config/box.toml"), "relay = 1\n");
        cover(&state.join("trial"), &config).unwrap();
        adopt(state, &[TO_TWO], 2).unwrap();
        assert_eq!(text(state, "config/box.toml"), "site = 1\n");
        assert_eq!(text(state, "config/network.toml"), "x");
        assert_eq!(text(state, "former/box.toml"), "relay = 1\n");
        assert!(!open(state, &[TO_TWO], 2, false).unwrap());
        adopt(state, &[TO_TWO], 2).unwrap();
    }

    #[test]
    fn a_trial_that_fails_leaves_the_old_system_its_settings() {
        let state = state();
        let state = state.path();
        assert!(open(state, &[TO_TWO], 2, true).unwrap());
        umount2(&state.join(CONFIG), MntFlags::empty()).unwrap();
        assert!(!open(state, &[], 1, false).unwrap());
        assert_eq!(text(state, "config/box.toml"), "relay = 1\n");
        assert!(!state.join("trial").exists());
    }

    #[test]
    fn a_change_that_cannot_be_made_leaves_the_settings_as_they_are() {
        let state = state();
        let state = state.path();
        for is_on_trial in [true, false] {
            let error = open(state, &[TO_TWO, IMPOSSIBLE], 3, is_on_trial).unwrap_err().to_string();
            assert!(error.contains("(cannot be): box.toml has no relay"), "{error}");
            assert_eq!(text(state, "config/box.toml"), "relay = 1\n");
            assert!(!state.join("trial").exists());
        }
    }
}
