//! What is told of the looks for updates, kept in DATA for `avr slots` and the console.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Its file, in [`crate::FOLDER`].
pub const FILE: &str = "state.json";

/// Largest file that is read, in bytes: many times what its fields can need.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How the looks for updates went. Times are in seconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// When it was looked the last time.
    pub looked_at: Option<u64>,
    /// When it will be looked next.
    pub next_at: Option<u64>,
    /// Looks in a row that failed.
    pub failures: u32,
    /// When the latest index was written that was believed: an older one is not, afterwards.
    pub seen_at: u64,
    /// What came of the last look.
    pub news: News,
}

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "kebab-case")]
pub enum News {
    /// Not looked yet.
    #[default]
    None,
    /// The settings name no place to look at.
    NotSet,
    /// There is nothing newer.
    UpToDate,
    /// Others have their turn first.
    HeldBack {
        /// The build.
        build: u32,
        /// For people.
        version: String,
        /// Share of boxes that take it by now.
        percent: u8,
        /// This box's place among a hundred, from 0.
        place: u32,
    },
    /// It was tried on this box, and is not tried again.
    FailedBefore {
        /// The build.
        build: u32,
        /// What happened.
        why: String,
    },
    /// It is coming.
    Fetching {
        /// The build.
        build: u32,
        /// For people.
        version: String,
        /// What is there, in bytes.
        bytes: u64,
        /// Of so many.
        total: u64,
    },
    /// It is installed, and waits for a start.
    Installed {
        /// The build.
        build: u32,
        /// When the box starts anew by itself: a time of the day, UTC; `None`: by hand.
        restart: Option<String>,
    },
    /// It did not work.
    Failed {
        /// Why.
        why: String,
    },
}

impl State {
    /// What is in the folder; a new one where that cannot be read.
    #[must_use]
    pub fn load(folder: &Path) -> Self {
        let read = || -> io::Result<Self> {
            let mut bytes = Vec::new();
            File::open(folder.join(FILE))?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        read().unwrap_or_default()
    }

    /// Keeps it, whole.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let (path, new) = (folder.join(FILE), folder.join("state.new"));
        let options = &mut File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    }

    /// For a person, a line each; `time` writes one out.
    #[must_use]
    pub fn lines(&self, time: impl Fn(u64) -> String) -> Vec<String> {
        let text = match &self.news {
            News::None => "updates: not looked for since the start of this disk".to_owned(),
            News::NotSet => {
                return vec!["updates: by hand, since updates.url is not set".to_owned()];
            }
            News::UpToDate => "updates: none newer".to_owned(),
            News::HeldBack { build, version, percent, place } => format!(
                "updates: build {build} ({version}) is held back: {percent} percent of the boxes take \
                 it by now, and this one is {} of 100",
                place + 1
            ),
            News::FailedBefore { build, why } => {
                format!("updates: build {build} failed here, and is not taken again: {why}")
            }
            News::Fetching { build, version, bytes, total } => {
                let percent = bytes.saturating_mul(100) / (*total).max(1);
                format!("updates: build {build} ({version}) is being fetched: {percent} percent")
            }
            News::Installed { build, restart: Some(window) } => format!(
                "updates: build {build} is installed; the box starts anew for it at {window} UTC"
            ),
            News::Installed { build, restart: None } => {
                format!("updates: build {build} is installed; start the box anew for it: reboot")
            }
            News::Failed { why } if self.failures > 1 => {
                format!("updates: failed {} times, because: {why}", self.failures)
            }
            News::Failed { why } => format!("updates: failed, because: {why}"),
        };
        let mut lines =
            vec![text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")];
        let looks = [("last look", self.looked_at), ("next look", self.next_at)];
        let looks: Vec<String> = looks
            .into_iter()
            .filter_map(|(name, at)| Some(format!("{name} {}", time(at?))))
            .collect();
        if !looks.is_empty() {
            lines.push(format!("updates: {}", looks.join(", ")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("updates");
        assert_eq!(State::load(&folder), State::default());
        let time = |at: u64| format!("t{at}");
        for (news, told) in [
            (News::UpToDate, "none newer"),
            (
                News::HeldBack { build: 7, version: "0.2.0".to_owned(), percent: 10, place: 42 },
                "build 7 (0.2.0) is held back: 10 percent of the boxes take it by now, and this one is 43 \
                 of 100",
            ),
            (
                News::Fetching { build: 7, version: "0.2.0".to_owned(), bytes: 5, total: 20 },
                "being fetched: 25 percent",
            ),
            (
                News::Installed { build: 7, restart: Some("17:00-20:00".to_owned()) },
                "starts anew for it at 17:00-20:00 UTC",
            ),
            (News::Installed { build: 7, restart: None }, "for it: reboot"),
            (News::FailedBefore { build: 7, why: "x".to_owned() }, "is not taken again: x"),
            (
                News::Failed { why: "it's\n\u{1b}[2J".to_owned() },
                "3 times, because: it's\\n\\u{1b}[2J",
            ),
        ] {
            let state =
                State { looked_at: Some(1), next_at: Some(2), failures: 3, seen_at: 4, news };
            state.save(&folder).unwrap();
            assert_eq!(State::load(&folder), state);
            let lines = state.lines(time);
            assert!(lines[0].contains(told), "{lines:?}");
            assert_eq!(lines[1], "updates: last look t1, next look t2");
        }
        assert_eq!(State { news: News::NotSet, ..State::default() }.lines(time).len(), 1);
        fs::write(folder.join(FILE), "rubbish").unwrap();
        assert_eq!(State::load(&folder), State::default());
    }
}
