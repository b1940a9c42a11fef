//! Rules and lists that change while the program runs.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use scan::Scanner;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::engines::Sources;
use super::{ScanSettings, ScanSettingsError};

/// How often the folders of rules and hash lists are looked at.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Looks at the folders until it is dropped.
#[derive(Debug)]
pub struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How the files of rules and lists looked before they were read: what changes while they are read
/// is seen as a change, and not taken for read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(Vec<Mark>);

/// What tells one state of a file from another.
type Mark = (PathBuf, u64, Option<SystemTime>);

impl ScanSettings {
    /// Watches the folders of rules and lists: when they are not as they were `before` the scanner's
    /// knowledge was read, everything is read and compiled anew, beside the mail that goes on; then
    /// the scanner has it from the next mail on. What is wrong is logged, and the old stays in force;
    /// what could not be read is tried again. `None` where there is nothing to watch.
    ///
    /// # Errors
    ///
    /// As [`Self::carrier`].
    pub fn watch(
        &self,
        scanner: &Scanner,
        before: &Marks,
    ) -> Result<Option<Watch>, ScanSettingsError> {
        self.watch_every(RELOAD_INTERVAL, scanner, before)
    }

    fn watch_every(
        &self,
        interval: Duration,
        scanner: &Scanner,
        before: &Marks,
    ) -> Result<Option<Watch>, ScanSettingsError> {
        let sources = self.sources()?;
        if sources.rules.is_none() && sources.hashes.is_none() {
            return Ok(None);
        }
        let (scanner, state) = (scanner.clone(), State { known: before.clone(), complaint: None });
        let watch = async move { watch(&sources, &scanner, state, interval).await };
        Ok(Some(Watch(tokio::spawn(watch))))
    }
}

async fn watch(sources: &Sources, scanner: &Scanner, mut state: State, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let seen = look(sources).await;
        if seen == state.known {
            continue;
        }
        // Files are copied one after the other: read when nothing moves any more.
        let settled = tokio::time::sleep(interval / 5);
        settled.await;
        if look(sources).await != seen {
            continue;
        }
        let from = sources.clone();
        let learned = match tokio::task::spawn_blocking(move || from.knowledge()).await {
            Ok(Ok(knowledge)) => scanner.workers().learn(&knowledge).map_err(Fault::of),
            Ok(Err(error)) => Err(Fault::of(error)),
            Err(error) => Err(Fault::of(error)),
        };
        state.note(seen, learned);
    }
}

/// What was read last.
#[derive(Debug)]
struct State {
    known: Marks,
    /// What has been said of that which could not be read, so that it is not said each time.
    complaint: Option<String>,
}

/// Why what is new cannot be used.
#[derive(Debug)]
struct Fault {
    text: String,
    /// The disk's fault: the same files may be read the next time.
    may_pass: bool,
}

impl Fault {
    fn of(error: impl Error + 'static) -> Self {
        let mut cause: Option<&dyn Error> = Some(&error);
        let mut may_pass = false;
        while let Some(inner) = cause {
            may_pass |= inner.is::<io::Error>();
            cause = inner.source();
        }
        Self { text: telemetry::chain(&error), may_pass }
    }
}

impl State {
    /// The files as they were seen have been read, or could not be.
    fn note(&mut self, seen: Marks, learned: Result<(), Fault>) {
        match learned {
            Ok(()) => {
                info!("rules and lists were read anew");
                (self.known, self.complaint) = (seen, None);
            }
            Err(Fault { text, may_pass }) => {
                if self.complaint.as_ref() != Some(&text) {
                    let error = &text;
                    warn!(error, "rules and lists changed and cannot be used; the old ones stay");
                }
                self.complaint = Some(text);
                if !may_pass {
                    self.known = seen;
                }
            }
        }
    }
}

impl Sources {
    /// How their files look now.
    pub(super) fn marks(&self) -> Marks {
        let folders = [&self.rules, &self.hashes].into_iter().flatten();
        let mut marks: Vec<Mark> = folders.flat_map(|folder| marks(folder)).collect();
        marks.sort();
        Marks(marks)
    }
}

/// Folders may be on a slow disk.
async fn look(sources: &Sources) -> Marks {
    let sources = sources.clone();
    tokio::task::spawn_blocking(move || sources.marks()).await.unwrap_or_default()
}

fn marks(folder: &Path) -> Vec<Mark> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            // Of what a link leads to, if it leads anywhere.
            let path = entry.path();
            let file = std::fs::metadata(&path).or_else(|_| entry.metadata()).ok()?;
            Some((path, file.len(), file.modified().ok()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use scan::Verdict;

    use super::super::{Around, ScanSettings};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const RULE: &str = "rule Found { strings: $a = \"NEWLY-FORBIDDEN\" condition: $a }";

    async fn is_found(scanner: &Scanner) -> bool {
        let mut scan = scanner.begin();
        scan.feed(b"Subject: x\r\n\r\nNEWLY-FORBIDDEN\r\n");
        matches!(scan.finish().await.verdict, Verdict::Infected(_))
    }

    /// Between the reading of the rules and the first look at them.
    #[tokio::test]
    async fn what_changes_after_the_reading_is_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let rules = Some(folder.path().to_owned());
        let settings = ScanSettings { rules, workers: Some(1), ..ScanSettings::default() };
        let carrier = settings.carrier(Around::test()).unwrap();
        let scanner = carrier.scanner.unwrap();
        assert!(!is_found(&scanner).await);
        fs::write(folder.path().join("new.yar"), RULE).unwrap();
        let interval = Duration::from_millis(1);
        let watch = settings.watch_every(interval, &scanner, &carrier.read).unwrap();
        let found = async {
            while !is_found(&scanner).await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the rules are not read anew");
        drop(watch);
    }

    #[test]
    fn nothing_is_watched_where_there_are_no_folders() {
        let settings = ScanSettings::default();
        assert_eq!(settings.sources().unwrap().marks(), Marks::default());
    }

    #[test]
    fn what_could_not_be_read_is_tried_again_and_what_is_wrong_is_not() {
        let marks = |bytes| Marks(vec![(PathBuf::from("a.yar"), bytes, None)]);
        let read = |kind: io::ErrorKind| {
            let (path, source) = (PathBuf::from("a.yar"), kind.into());
            Fault::of(ScanSettingsError::Rules(scan::yara::RulesError::Read { path, source }))
        };
        let wrong = || {
            let path = PathBuf::from("a.yar");
            Fault::of(ScanSettingsError::Rules(scan::yara::RulesError::TooLarge { path }))
        };
        let mut state = State { known: marks(1), complaint: None };
        state.note(marks(2), Err(read(io::ErrorKind::NotFound)));
        assert_eq!(state.known, marks(1), "the next look finds a change still");
        let said = state.complaint.clone().unwrap();
        assert!(said.starts_with("scan.rules cannot be used; "), "{said}");
        state.note(marks(2), Ok(()));
        assert_eq!((&state.known, &state.complaint), (&marks(2), &None));
        state.note(marks(3), Err(wrong()));
        assert_eq!(state.known, marks(3), "until it changes");
    }

    #[test]
    fn a_file_that_a_link_leads_to_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        let rules = folder.path().join("rules");
        fs::create_dir(&rules).unwrap();
        std::os::unix::fs::symlink(&target, rules.join("a.yar")).unwrap();
        let sources = ScanSettings { rules: Some(rules), ..ScanSettings::default() };
        let sources = sources.sources().unwrap();
        let before = sources.marks();
        fs::write(&target, RULE).unwrap();
        assert_ne!(sources.marks(), before);
    }
}
