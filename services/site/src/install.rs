//! Files put in their places, all or none: written into a folder beside them first, looked at, and
//! then renamed. What is there already is not written over unless that is asked for, and then
//! shown.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Largest file that is compared, in bytes; ours have some thousand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Most lines of a file that are compared one with each of another.
const DIFF_LINES_MAX: usize = 2_000;

/// One file to be there.
#[derive(Clone)]
pub struct Wanted {
    /// Below the root, as in `etc/avr/site.toml`.
    pub path: &'static str,
    /// What is in it.
    pub text: String,
    /// Whether it is a key, to be read by nobody else and shown to nobody.
    pub secret: bool,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("path", &self.path).finish_non_exhaustive()
    }
}

/// How a file that is there compares with what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing is there.
    Missing,
    /// It is as wanted.
    Same,
    /// Something else is there.
    Other {
        /// What; not of keys.
        text: Option<String>,
    },
}

/// Where files go.
#[derive(Debug, Clone)]
pub struct Target {
    /// `/`, or a folder that will be one.
    pub root: PathBuf,
    /// The group that may read keys; nobody but the owner without one.
    pub group: Option<u32>,
}

/// A folder of files that wait to be put in their places. It is removed when dropped.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
}

impl Target {
    /// How what is there compares with what is wanted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn state(&self, wanted: &Wanted) -> anyhow::Result<State> {
        let path = self.root.join(wanted.path);
        let mut bytes = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::Missing),
            Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
            Ok(_) => {}
        }
        if bytes == wanted.text.as_bytes() {
            return Ok(State::Same);
        }
        let text = (!wanted.secret).then(|| String::from_utf8_lossy(&bytes).into_owned());
        Ok(State::Other { text })
    }

    /// Writes the files beside their places.
    ///
    /// # Errors
    /// They cannot be written; nothing is left then.
    pub fn stage(&self, folder: &str, files: &[Wanted]) -> anyhow::Result<Staging> {
        let parent = self.root.join(folder);
        self.make_folder(&parent, 0o755)?;
        let staging = Staging { folder: parent.join(format!(".new-{}", std::process::id())) };
        DirBuilder::new()
            .mode(0o700)
            .create(&staging.folder)
            .with_context(|| format!("cannot make {}", staging.folder.display()))?;
        for wanted in files {
            self.write(&staging.of(wanted), wanted)?;
        }
        Ok(staging)
    }

    /// Renames the staged files to their places.
    ///
    /// # Errors
    /// One cannot be; those before it are there then, and the same command goes on.
    pub fn put(&self, staging: &Staging, files: &[Wanted]) -> anyhow::Result<()> {
        for wanted in files {
            let path = self.root.join(wanted.path);
            fs::rename(staging.of(wanted), &path)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let mut folders: Vec<&Path> =
            files.iter().filter_map(|wanted| Path::new(wanted.path).parent()).collect();
        folders.dedup();
        for folder in folders {
            File::open(self.root.join(folder)).and_then(|folder| folder.sync_all())?;
        }
        Ok(())
    }

    /// Makes a folder with all above it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_folder(&self, folder: &Path, mode: u32) -> anyhow::Result<()> {
        DirBuilder::new().recursive(true).mode(mode).create(folder).with_context(|| {
            format!("cannot make {}; run as root, or name a --root", folder.display())
        })
    }

    fn write(&self, path: &Path, wanted: &Wanted) -> anyhow::Result<()> {
        let mode = match (wanted.secret, self.group) {
            (true, Some(_)) => 0o640,
            (true, None) => 0o600,
            (false, _) => 0o644,
        };
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(
                |mut file| {
                    file.write_all(wanted.text.as_bytes())?;
                    if let (true, Some(group)) = (wanted.secret, self.group) {
                        fchown(&file, None, Some(group))?;
                    }
                    // Past the umask, and only now that group and content are right.
                    file.set_permissions(fs::Permissions::from_mode(mode))?;
                    file.sync_all()
                },
            );
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Staging {
    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where one file is.
    #[must_use]
    pub fn of(&self, wanted: &Wanted) -> PathBuf {
        self.folder.join(Path::new(wanted.path).file_name().unwrap_or_default())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What is left of it is seen and named by the next run.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Refuses to go on where something else is there and `force` was not given; shows the difference.
///
/// # Errors
/// With the files that differ.
pub fn agree(
    target: &Target,
    files: &[Wanted],
    force: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut differing = Vec::new();
    for wanted in files {
        let path = target.root.join(wanted.path);
        match target.state(wanted)? {
            State::Missing | State::Same => {}
            State::Other { text: None } => {
                writeln!(out, "{} is another one (not shown: it is a key)", path.display())?;
                differing.push(path);
            }
            State::Other { text: Some(text) } => {
                writeln!(out, "--- {}", path.display())?;
                write!(out, "{}", difference(&text, &wanted.text))?;
                differing.push(path);
            }
        }
    }
    if !differing.is_empty() && !force {
        let list: Vec<String> = differing.iter().map(|path| path.display().to_string()).collect();
        bail!(
            "{} would be changed as shown above; nothing was written. Write --force to change it, \
             or answer as before",
            list.join(", ")
        );
    }
    Ok(())
}

/// The lines that go (`-`) and come (`+`).
#[must_use]
pub fn difference(old: &str, new: &str) -> String {
    let old: Vec<&str> = old.lines().take(DIFF_LINES_MAX).collect();
    let new: Vec<&str> = new.lines().take(DIFF_LINES_MAX).collect();
    // Lengths of the longest common subsequences of all ends of both.
    let width = new.len() + 1;
    let mut common = vec![0_usize; (old.len() + 1) * width];
    let at = |table: &[usize], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let length = match left == right {
                true => at(&common, i + 1, j + 1) + 1,
                false => at(&common, i + 1, j).max(at(&common, i, j + 1)),
            };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = length;
            }
        }
    }
    let mut text = String::new();
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.get(i), new.get(j)) {
            (None, None) => return text,
            (Some(left), Some(right)) if left == right => (i, j) = (i + 1, j + 1),
            (Some(left), right)
                if right.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) =>
            {
                let _ = writeln!(text, "-{left}");
                i += 1;
            }
            (_, Some(right)) => {
                let _ = writeln!(text, "+{right}");
                j += 1;
            }
            (Some(_), None) => unreachable!("taken by the arm before the last"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted(path: &'static str, text: &str, secret: bool) -> Wanted {
        Wanted { path, text: text.to_owned(), secret }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_come_all_at_once_and_with_their_modes() {
        let root = tempfile::tempdir().unwrap();
        let target = Target { root: root.path().to_owned(), group: None };
        let files = [wanted("etc/avr/a", "1\n", false), wanted("etc/avr/b", "2\n", true)];
        let staging = target.stage("etc/avr", &files).unwrap();
        assert_eq!(mode(staging.folder()), 0o700);
        assert!(!root.path().join("etc/avr/a").exists());
        target.put(&staging, &files).unwrap();
        drop(staging);
        assert_eq!(mode(&root.path().join("etc/avr/a")), 0o644);
        assert_eq!(mode(&root.path().join("etc/avr/b")), 0o600);
        assert_eq!(fs::read_dir(root.path().join("etc/avr")).unwrap().count(), 2);
        assert_eq!(target.state(&files[0]).unwrap(), State::Same);
        let own = nix::unistd::getgid().as_raw();
        let target = Target { group: Some(own), ..target };
        let staging = target.stage("etc/avr", &files).unwrap();
        assert_eq!(mode(&staging.of(&files[1])), 0o640);
    }

    #[test]
    fn nothing_is_written_over_silently_and_no_key_is_shown() {
        let root = tempfile::tempdir().unwrap();
        let target = Target { root: root.path().to_owned(), group: None };
        let old = [wanted("etc/a", "1\n2\n3\n", false), wanted("etc/b", "KEY1", true)];
        let staging = target.stage("etc", &old).unwrap();
        target.put(&staging, &old).unwrap();
        let mut out = Vec::new();
        agree(&target, &old, false, &mut out).unwrap();
        assert!(out.is_empty());
        let new = [wanted("etc/a", "1\n3\n4\n", false), wanted("etc/b", "KEY2", true)];
        let error = agree(&target, &new, false, &mut out).unwrap_err().to_string();
        assert!(error.contains("etc/a, ") && error.contains("Write --force"), "{error}");
        let shown = String::from_utf8(out).unwrap();
        assert!(shown.contains("-2\n+4\n") && !shown.contains("KEY"), "{shown}");
        agree(&target, &new, true, &mut Vec::new()).unwrap();
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_one_text_to_the_other(
            old in proptest::collection::vec("[abc]", 0..12),
            new in proptest::collection::vec("[abc]", 0..12),
        ) {
            let shown = difference(&old.join("\n"), &new.join("\n"));
            let only = |sign: char| shown.lines().filter(|line| line.starts_with(sign)).count();
            prop_assert_eq!(old.len() - only('-'), new.len() - only('+'));
            prop_assert_eq!(shown.is_empty(), old == new);
        }
    }
}
