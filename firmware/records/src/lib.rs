//! What a program that carries mail keeps of it, and the commands that show it: sealed copies of
//! what was refused (`quarantine`), and a line for each mail (`journal`).
//!
//! A daemon opens both with [`Records::open`]; what an operator types is [`TraceArgs`] and
//! [`QuarantineVerb`], which need no daemon. The box and the proxy have the same, each with its own
//! private key and settings file. Must not depend on what mail or scanning is, nor on anything of
//! the box or of a site. Entry: [`Places`].
#![forbid(unsafe_code)]

mod durations;
mod outgoing;
mod output;
mod quarantine_verbs;
mod table;
mod trace;

pub use durations::{ParseSpanError, Span};
pub use output::print_to_end;
pub use quarantine_verbs::{Delete, QuarantineVerb, Release};
pub use table::bytes;
pub use trace::TraceArgs;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use journal::Journal;
use journal::settings::JournalSettings;
use quarantine::settings::{Mode, QuarantineSettings};
use quarantine::{Vault, VaultError, VaultKey};
use serde::Serialize;
use tracing::{error, info};

/// How often what is too old is deleted. Anything that is stored has it done as well.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Where things are kept, by a program's settings.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Where what has no folder of its own is kept.
    pub state_directory: &'a Path,
    /// The table `[quarantine]`.
    pub quarantine: &'a QuarantineSettings,
    /// The table `[journal]`.
    pub journal: &'a JournalSettings,
}

impl Places<'_> {
    /// The quarantine; its folder is made where there is none.
    ///
    /// # Errors
    ///
    /// The folder cannot be used.
    pub fn vault(&self, key: &VaultKey) -> Result<Vault, VaultError> {
        let folder = self.quarantine.folder(self.state_directory);
        Vault::open(&folder, key, self.quarantine.limits())
    }
}

/// Cheap to clone. What cannot be used is left out: mail goes on without it.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// `None` by setting, or when its folder cannot be used.
    pub vault: Option<Arc<Vault>>,
    /// `None` when its folder cannot be used.
    pub journal: Option<Arc<Journal>>,
}

/// How much there is, for status pages.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Numbers {
    /// Items in the quarantine; `null` where there is none.
    pub quarantine_items: Option<u64>,
    /// Disk that they take, in bytes.
    pub quarantine_bytes: Option<u64>,
    /// Mails since the start of which a copy was to be kept and could not be.
    pub quarantine_missing: Option<u64>,
    /// Disk that the journal takes, in bytes; `null` where there is none.
    pub journal_bytes: Option<u64>,
    /// Mails since the start that the journal has no line of.
    pub journal_missing: Option<u64>,
}

impl Records {
    /// Of a daemon. What cannot be used is in the log, with what to do.
    #[must_use]
    pub fn open(places: &Places<'_>, key: Result<VaultKey, VaultError>) -> Self {
        let vault = match places.quarantine.mode {
            Mode::On => usable("quarantine", key.and_then(|key| places.vault(&key))),
            Mode::Off => None,
        };
        let folder = places.journal.folder(places.state_directory);
        let journal = Journal::open(&folder, places.journal.limits());
        Self { vault, journal: usable("journal", journal) }
    }

    /// Deletes what is too old, for ever. `now` gives the time in seconds since 1970.
    pub async fn sweep(self, now: fn() -> u64) {
        let Some(vault) = self.vault else { return };
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            let vault = Arc::clone(&vault);
            let swept = tokio::task::spawn_blocking(move || vault.sweep(now())).await;
            match swept {
                Ok(Ok(swept)) if swept.expired + swept.evicted > 0 => {
                    info!(swept.expired, swept.evicted, "old items of the quarantine were deleted");
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => error!(error = telemetry::chain(&error), "quarantine"),
                Err(error) => error!(%error, "quarantine"),
            }
        }
    }

    /// Looks at the folders, so it blocks for some milliseconds.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        let items = self.vault.as_ref().and_then(|vault| vault.usage().ok());
        let lines = self.journal.as_ref().and_then(|journal| journal.usage().ok());
        Numbers {
            quarantine_items: items.map(|usage| usage.items),
            quarantine_bytes: items.map(|usage| usage.bytes),
            quarantine_missing: self.vault.as_ref().map(|vault| vault.counters().refused),
            journal_bytes: lines.map(|usage| usage.bytes),
            journal_missing: self.journal.as_ref().map(|journal| journal.counters().failed),
        }
    }
}

fn usable<T, E: std::error::Error>(what: &str, opened: Result<T, E>) -> Option<Arc<T>> {
    opened
        .map(Arc::new)
        .inspect_err(|error| {
            error!(error = telemetry::chain(error), "mail goes on without its {what}")
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file stands where the folders should: mail is not to suffer from it.
    #[test]
    fn what_cannot_be_used_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let settings = (QuarantineSettings::default(), JournalSettings::default());
        let places = |state_directory| Places {
            state_directory,
            quarantine: &settings.0,
            journal: &settings.1,
        };
        let records = Records::open(&places(&file), VaultKey::derive(b"secret"));
        assert!(records.vault.is_none() && records.journal.is_none());
        let numbers = records.numbers();
        assert_eq!((numbers.quarantine_items, numbers.journal_bytes), (None, None));
        // Without a key there are no copies, but there are lines.
        let records = Records::open(&places(folder.path()), Err(VaultError::Random));
        assert!(records.vault.is_none() && records.journal.is_some());
        let records = Records::open(&places(folder.path()), VaultKey::derive(b"secret"));
        assert_eq!(records.numbers().quarantine_items, Some(0));
        assert_eq!(records.numbers().quarantine_missing, Some(0));
    }

    #[test]
    fn no_quarantine_by_setting() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = QuarantineSettings { mode: Mode::Off, ..QuarantineSettings::default() };
        let journal = JournalSettings::default();
        let places =
            Places { state_directory: folder.path(), quarantine: &quarantine, journal: &journal };
        let records = Records::open(&places, VaultKey::derive(b"secret"));
        assert!(records.vault.is_none() && records.journal.is_some());
        assert!(!folder.path().join("quarantine").exists());
    }
}
