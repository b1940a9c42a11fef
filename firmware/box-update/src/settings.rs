//! The box's settings across updates: a system that needs them in another form changes a copy, and what
//! the old system reads stays as it is until the new one is blessed.
//!
//! In STATE: `config/` is in use. `trial/` is the copy that a system on trial uses in its place, and
//! `former/` what was in use before the last change of form, for the way back. The file `schema` in each
//! says its form; without it, it is the first. Where the form stays the same there is no copy, so that
//! what is set during a trial is not lost with it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{RenameFlags, renameat2};

/// In use.
const CONFIG: &str = "config";
/// Used by a system on trial.
const TRIAL: &str = "trial";
/// In use before.
const FORMER: &str = "former";
/// What is being written; whatever has this ending is not whole.
const NEW: &str = "new";
/// Says the form.
const SCHEMA: &str = "schema";
/// Says which build made a copy.
const BUILD: &str = "build";

/// Most files of the settings.
pub const FILES_MAX: usize = 1000;
/// Largest settings, in bytes, all files together.
pub const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How deep folders of settings may be.
const DEPTH_MAX: usize = 4;

/// A file of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Who may read it: keys and secrets are among them.
    pub mode: u32,
}

/// Settings by their paths, relative to the folder.
pub type Files = BTreeMap<PathBuf, Setting>;

/// A change from one form to the next.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// What it does, for the log.
    pub what: &'static str,
    /// Does it. Fails with what is wrong with the settings.
    pub run: fn(&mut Files) -> Result<(), String>,
}

/// All changes so far. The first is from form 1 to 2, and so on; appended to, and never changed.
pub const MIGRATIONS: &[Migration] = &[];

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A system with more changes made them.
    #[error(
        "the settings have form {0}, and this system knows up to {1}: install a later build, or restore \
             settings"
    )]
    Later(u32, u32),
    /// A change could not be made.
    #[error("the settings cannot be changed to what this system needs ({what}): {problem}")]
    Migration {
        /// Which.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// There are too many, or something that is no file.
    #[error("the settings have {0}: take it out")]
    Odd(String),
    /// A step failed.
    #[error("{step}: look at the disk")]
    Io {
        /// Which.
        step: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The settings of one box.
#[derive(Debug, Clone)]
pub struct Settings<'m> {
    state: PathBuf,
    migrations: &'m [Migration],
}

impl<'m> Settings<'m> {
    /// In this folder, STATE, for a system with these changes: [`MIGRATIONS`], but for tests.
    pub fn new(state: impl Into<PathBuf>, migrations: &'m [Migration]) -> Self {
        Self { state: state.into(), migrations }
    }

    /// The folder that this start of `build` is to use in the place of `config`: the same, or a copy. Once
    /// a start, before anything reads the settings.
    ///
    /// # Errors
    /// [`SettingsError`]. What was in use is as it was.
    pub fn open(&self, build: u32, is_on_trial: bool) -> Result<PathBuf, SettingsError> {
        self.remove(&format!("{TRIAL}.{NEW}"))?;
        self.keep_former()?;
        if !is_on_trial {
            self.adopt(build)?;
            self.go_back()?;
        }
        let schema = self.schema(CONFIG)?;
        if schema == self.own_schema() {
            self.remove(TRIAL)?;
            return Ok(self.at(CONFIG));
        }
        if schema > self.own_schema() {
            return Err(SettingsError::Later(schema, self.own_schema()));
        }
        if self.built_by(TRIAL) != Some(build) {
            self.copy(schema, build)?;
        }
        if !is_on_trial {
            // Flashed, and not updated: there is nothing to fall back to.
            self.adopt(build)?;
            return Ok(self.at(CONFIG));
        }
        Ok(self.at(TRIAL))
    }

    /// Puts the copy that `build` made, if any, into the place of `config`. After the slot is blessed,
    /// and not before: until then the old system may come back to what it knows. What a power cut keeps
    /// from being done, [`Settings::open`] does at the next start.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn adopt(&self, build: u32) -> Result<(), SettingsError> {
        if self.built_by(TRIAL) == Some(build) && self.schema(TRIAL)? > self.schema(CONFIG)? {
            self.exchange(CONFIG, TRIAL)?;
        }
        self.keep_former()
    }

    /// The form that this system reads.
    fn own_schema(&self) -> u32 {
        u32::try_from(self.migrations.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// An older system is back for good, and `former` is what it knows.
    fn go_back(&self) -> Result<(), SettingsError> {
        let own = self.own_schema();
        let is_known = self.at(FORMER).is_dir() && self.schema(FORMER)? <= own;
        if self.schema(CONFIG)? > own && is_known {
            self.exchange(CONFIG, FORMER)?;
        }
        Ok(())
    }

    /// Makes `trial` of `config`, changed.
    fn copy(&self, from: u32, build: u32) -> Result<(), SettingsError> {
        let mut files = Files::new();
        read(&self.at(CONFIG), Path::new(""), 0, &mut files)?;
        let done = usize::try_from(from).unwrap_or(usize::MAX).saturating_sub(1);
        for migration in self.migrations.iter().skip(done) {
            (migration.run)(&mut files)
                .map_err(|problem| SettingsError::Migration { what: migration.what, problem })?;
        }
        let text = |number: u32| Setting { bytes: format!("{number}\n").into_bytes(), mode: 0o600 };
        files.insert(SCHEMA.into(), text(self.own_schema()));
        files.insert(BUILD.into(), text(build));
        let new = format!("{TRIAL}.{NEW}");
        self.remove(&new)?;
        write(&self.at(&new), &files).map_err(io_at("writing the changed settings"))?;
        self.remove(TRIAL)?;
        fs::rename(self.at(&new), self.at(TRIAL))
            .and_then(|()| self.sync())
            .map_err(io_at("keeping the changed settings"))
    }

    /// Where `trial` has been put in the place of `config`, it is what was in use before: the way back.
    fn keep_former(&self) -> Result<(), SettingsError> {
        if !self.at(TRIAL).is_dir() || self.schema(TRIAL)? >= self.schema(CONFIG)? {
            return Ok(());
        }
        self.remove(FORMER)?;
        fs::rename(self.at(TRIAL), self.at(FORMER))
            .and_then(|()| self.sync())
            .map_err(io_at("keeping the former settings"))
    }

    /// Both are there before and after, at any moment.
    fn exchange(&self, one: &str, other: &str) -> Result<(), SettingsError> {
        File::open(&self.state)
            .and_then(|state| {
                Ok(renameat2(&state, one, &state, other, RenameFlags::RENAME_EXCHANGE)?)
            })
            .and_then(|()| self.sync())
            .map_err(io_at("putting the settings in each other's place"))
    }

    fn remove(&self, folder: &str) -> Result<(), SettingsError> {
        match fs::remove_dir_all(self.at(folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("removing settings that are not used")(error))
            }
            _ => Ok(()),
        }
    }

    fn schema(&self, folder: &str) -> Result<u32, SettingsError> {
        let path = self.at(folder).join(SCHEMA);
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                SettingsError::Odd(format!("a file {} that is no number", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(1),
            Err(error) => Err(io_at("reading the settings' form")(error)),
        }
    }

    fn built_by(&self, folder: &str) -> Option<u32> {
        fs::read_to_string(self.at(folder).join(BUILD)).ok()?.trim().parse().ok()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.state)?.sync_all()
    }

    fn at(&self, folder: &str) -> PathBuf {
        self.state.join(folder)
    }
}

/// Reads a folder with those in it.
fn read(
    folder: &Path,
    inside: &Path,
    depth: usize,
    files: &mut Files,
) -> Result<(), SettingsError> {
    let step = "reading the settings";
    let entries = match fs::read_dir(folder.join(inside)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && depth == 0 => return Ok(()),
        entries => entries.map_err(io_at(step))?,
    };
    for entry in entries {
        let entry = entry.map_err(io_at(step))?;
        let inside = inside.join(entry.file_name());
        let about = entry.metadata().map_err(io_at(step))?;
        if about.is_dir() && depth < DEPTH_MAX {
            read(folder, &inside, depth + 1, files)?;
        } else if about.is_file() {
            let bytes: u64 = files.values().map(|file| file.bytes.len() as u64).sum();
            if files.len() >= FILES_MAX || bytes.saturating_add(about.len()) > BYTES_MAX {
                return Err(SettingsError::Odd(format!(
                    "more than {FILES_MAX} files or {BYTES_MAX} bytes"
                )));
            }
            let bytes = fs::read(folder.join(&inside)).map_err(io_at(step))?;
            files.insert(inside, Setting { bytes, mode: about.mode() & 0o777 });
        } else {
            return Err(SettingsError::Odd(format!("{}, which is no file", inside.display())));
        }
    }
    Ok(())
}

/// Writes a folder that is not there, and has it on the disk.
fn write(folder: &Path, files: &Files) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let mut folders = vec![folder.to_owned()];
    for (inside, setting) in files {
        let path = folder.join(inside);
        if let Some(parent) = path.parent() {
            DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
            folders.push(parent.to_owned());
        }
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(setting.mode).open(&path)?;
        file.write_all(&setting.bytes)?;
        file.sync_all()?;
    }
    folders.iter().try_for_each(|folder| File::open(folder)?.sync_all())
}

fn io_at(step: &'static str) -> impl FnOnce(io::Error) -> SettingsError {
    move |source| SettingsError::Io { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renames a key, as a new system might want it.
    const TO_TWO: Migration = Migration {
        what: "relay is called site",
        run: |files| {
            let file = files.get_mut(Path::new("box.toml")).ok_or("there is no box.toml")?;
            let text = String::from_utf8(file.bytes.clone()).map_err(|error| error.to_string())?;
            file.bytes = text.replace("relay", "site").into_bytes();
            Ok(())
        },
    };

    struct Unit {
        state: tempfile::TempDir,
    }

    impl Unit {
        fn new() -> Self {
            let state = tempfile::tempdir().unwrap();
            let config = state.path().join(CONFIG);
            fs::create_dir_all(config.join("fleet")).unwrap();
            fs::write(config.join("box.toml"), "relay = 1\n").unwrap();
            let secret = config.join("fleet/secret");
            File::options().create_new(true).write(true).mode(0o600).open(secret).unwrap();
            Self { state }
        }

        fn one(&self) -> Settings<'static> {
            Settings::new(self.state.path(), &[])
        }

        fn two(&self) -> Settings<'static> {
            Settings::new(self.state.path(), &[TO_TWO])
        }

        fn text(&self, folder: &str) -> String {
            fs::read_to_string(self.state.path().join(folder).join("box.toml")).unwrap_or_default()
        }

        fn config(&self) -> PathBuf {
            self.state.path().join(CONFIG)
        }

        fn trial(&self) -> PathBuf {
            self.state.path().join(TRIAL)
        }
    }

    #[test]
    fn where_nothing_changes_nothing_is_copied() {
        let unit = Unit::new();
        for is_on_trial in [false, true] {
            assert_eq!(unit.one().open(2, is_on_trial).unwrap(), unit.config());
        }
        unit.one().adopt(2).unwrap();
        assert!(!unit.trial().exists());
        assert_eq!(unit.text(CONFIG), "relay = 1\n");
    }

    #[test]
    fn a_trial_changes_a_copy_that_falls_with_it() {
        let unit = Unit::new();
        assert_eq!(unit.two().open(2, true).unwrap(), unit.trial());
        assert_eq!(unit.text(TRIAL), "site = 1\n");
        assert_eq!(unit.text(CONFIG), "relay = 1\n");
        let secret = fs::metadata(unit.trial().join("fleet/secret")).unwrap();
        assert_eq!(secret.mode() & 0o777, 0o600);
        // What was set during the trial is there at its next start.
        fs::write(unit.trial().join("box.toml"), "site = 2\n").unwrap();
        unit.two().open(2, true).unwrap();
        assert_eq!(unit.text(TRIAL), "site = 2\n");
        // The old one is back.
        assert_eq!(unit.one().open(1, false).unwrap(), unit.config());
        assert_eq!(unit.text(CONFIG), "relay = 1\n");
        assert!(!unit.trial().exists());
    }

    #[test]
    fn another_build_on_trial_makes_its_own_copy() {
        let unit = Unit::new();
        unit.two().open(2, true).unwrap();
        fs::write(unit.trial().join("box.toml"), "of build 2").unwrap();
        unit.two().open(3, true).unwrap();
        assert_eq!(unit.text(TRIAL), "site = 1\n");
    }

    #[test]
    fn a_blessed_one_adopts_its_copy_and_leaves_a_way_back() {
        let unit = Unit::new();
        unit.two().open(2, true).unwrap();
        unit.two().adopt(2).unwrap();
        unit.two().adopt(2).unwrap();
        assert_eq!(
            (unit.text(CONFIG), unit.text(FORMER)),
            ("site = 1\n".into(), "relay = 1\n".into())
        );
        assert_eq!(unit.two().open(2, false).unwrap(), unit.config());
        // Switched back by hand, and forth again.
        assert_eq!(unit.one().open(1, false).unwrap(), unit.config());
        assert_eq!(unit.text(CONFIG), "relay = 1\n");
        assert_eq!(unit.two().open(2, true).unwrap(), unit.trial());
        assert_eq!(unit.text(TRIAL), "site = 1\n");
    }

    #[test]
    fn a_power_cut_at_any_step_is_made_good_at_the_next_start() {
        // While the copy is written.
        let unit = Unit::new();
        fs::create_dir(unit.state.path().join("trial.new")).unwrap();
        fs::write(unit.state.path().join("trial.new/box.toml"), "si").unwrap();
        assert_eq!(unit.two().open(2, true).unwrap(), unit.trial());
        assert_eq!(unit.text(TRIAL), "site = 1\n");
        // Between the blessing and the exchange.
        assert_eq!(unit.two().open(2, false).unwrap(), unit.config());
        assert_eq!(
            (unit.text(CONFIG), unit.text(FORMER)),
            ("site = 1\n".into(), "relay = 1\n".into())
        );
        // Between the exchange and the rest, with half of an earlier way back there.
        for is_on_trial in [false, true] {
            let unit = Unit::new();
            unit.two().open(2, true).unwrap();
            unit.two().exchange(CONFIG, TRIAL).unwrap();
            fs::create_dir(unit.state.path().join(FORMER)).unwrap();
            assert_eq!(unit.two().open(2, is_on_trial).unwrap(), unit.config());
            assert_eq!(unit.text(CONFIG), "site = 1\n");
            assert_eq!(unit.text(FORMER), "relay = 1\n");
        }
    }

    #[test]
    fn a_flashed_system_changes_what_it_finds() {
        let unit = Unit::new();
        assert_eq!(unit.two().open(2, false).unwrap(), unit.config());
        assert_eq!(
            (unit.text(CONFIG), unit.text(FORMER)),
            ("site = 1\n".into(), "relay = 1\n".into())
        );
        // Of a later system, without a way back.
        fs::remove_dir_all(unit.state.path().join(FORMER)).unwrap();
        let error = unit.one().open(1, false).unwrap_err();
        assert!(matches!(error, SettingsError::Later(2, 1)), "{error}");
        assert_eq!(unit.text(CONFIG), "site = 1\n");
    }

    #[test]
    fn settings_that_cannot_be_changed_stay() {
        let unit = Unit::new();
        fs::remove_file(unit.config().join("box.toml")).unwrap();
        let error = unit.two().open(2, true).unwrap_err().to_string();
        assert!(error.contains("relay is called site): there is no box.toml"), "{error}");
        assert!(!unit.trial().exists());
        fs::write(unit.config().join("box.toml"), vec![b' '; 17 * 1024 * 1024]).unwrap();
        let error = unit.two().open(2, true).unwrap_err().to_string();
        assert!(error.contains("more than 1000 files or 16777216 bytes"), "{error}");
        fs::remove_file(unit.config().join("box.toml")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", unit.config().join("box.toml")).unwrap();
        let error = unit.two().open(2, true).unwrap_err().to_string();
        assert!(error.contains("box.toml, which is no file"), "{error}");
    }
}
