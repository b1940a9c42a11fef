//! Rules and lists that change while the program runs.

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

impl ScanSettings {
    /// Watches the folders of rules and lists: when one changes, everything is read and compiled anew,
    /// beside the mail that goes on; then the scanner has it from the next mail on. What is wrong is
    /// logged, and the old stays in force. `None` where there is nothing to watch.
    ///
    /// # Errors
    ///
    /// As [`Self::carrier`].
    pub fn watch(&self, scanner: &Scanner) -> Result<Option<Watch>, ScanSettingsError> {
        let sources = self.sources()?;
        if sources.rules.is_none() && sources.hashes.is_none() {
            return Ok(None);
        }
        let scanner = scanner.clone();
        Ok(Some(Watch(tokio::spawn(async move { watch(&sources, &scanner).await }))))
    }
}

async fn watch(sources: &Sources, scanner: &Scanner) {
    let folders: Vec<PathBuf> =
        [&sources.rules, &sources.hashes].into_iter().flatten().cloned().collect();
    let mut known = look(folders.clone()).await;
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let seen = look(folders.clone()).await;
        if seen == known {
            continue;
        }
        // Files are copied one after the other: read when nothing moves any more.
        let settled = tokio::time::sleep(RELOAD_INTERVAL / 5);
        settled.await;
        if look(folders.clone()).await != seen {
            continue;
        }
        known = seen;
        let from = sources.clone();
        let learned = match tokio::task::spawn_blocking(move || from.knowledge()).await {
            Ok(Ok(knowledge)) => {
                scanner.workers().learn(&knowledge).map_err(|error| telemetry::chain(&error))
            }
            Ok(Err(error)) => Err(telemetry::chain(&error)),
            Err(error) => Err(error.to_string()),
        };
        match learned {
            Ok(()) => info!("rules and lists were read anew"),
            Err(error) => {
                warn!(error, "rules and lists changed and cannot be used; the old ones stay")
            }
        }
    }
}

/// What tells one state of a file from another.
type Mark = (PathBuf, u64, Option<SystemTime>);

/// All files of the folders, in order. Folders may be on a slow disk.
async fn look(folders: Vec<PathBuf>) -> Vec<Mark> {
    let look = move || {
        let mut marks: Vec<Mark> = folders.iter().flat_map(|folder| marks(folder)).collect();
        marks.sort();
        marks
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

fn marks(folder: &Path) -> Vec<Mark> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let file = entry.metadata().ok()?;
            Some((entry.path(), file.len(), file.modified().ok()))
        })
        .collect()
}
