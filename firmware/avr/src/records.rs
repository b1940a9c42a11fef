//! What the box keeps of mails: sealed copies of those refused, and a line for each.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use box_relay::{DEVICE_KEY_FILE, load_or_create_device_key};
use journal::Journal;
use quarantine::settings::Mode;
use quarantine::{Vault, VaultKey};
use serde::Serialize;
use tracing::{error, info};
use wire::identity::DeviceKey;

use crate::settings::Settings;
use crate::unix_now_s;

/// How often what is too old is deleted. Anything that is stored has it done as well.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Cheap to clone. What cannot be used is left out: mail goes on without it.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// `None` by setting, or when its folder cannot be used.
    pub vault: Option<Arc<Vault>>,
    /// `None` when its folder cannot be used.
    pub journal: Option<Arc<Journal>>,
}

/// How much there is, for `avr status`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Numbers {
    /// Items in the quarantine; `null` where there is none.
    pub quarantine_items: Option<u64>,
    /// Disk that they take, in bytes.
    pub quarantine_bytes: Option<u64>,
    /// Disk that the journal takes, in bytes; `null` where there is none.
    pub journal_bytes: Option<u64>,
    /// Mails since the start that the journal has no line of.
    pub journal_missing: Option<u64>,
}

impl Records {
    /// Of the daemon. What cannot be used is in the log, with what to do.
    #[must_use]
    pub fn open(settings: &Settings, device: &DeviceKey) -> Self {
        let vault = match settings.quarantine.mode {
            Mode::On => usable("quarantine", open_vault(settings, device)),
            Mode::Off => None,
        };
        let folder = settings.journal.folder(&settings.identity.state_directory);
        let journal = Journal::open(&folder, settings.journal.limits());
        Self { vault, journal: usable("journal", journal.map_err(anyhow::Error::from)) }
    }

    /// Deletes what is too old, for ever.
    pub async fn sweep(self) {
        let Some(vault) = self.vault else { return };
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            let vault = Arc::clone(&vault);
            let swept = tokio::task::spawn_blocking(move || vault.sweep(unix_now_s())).await;
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
            journal_bytes: lines.map(|usage| usage.bytes),
            journal_missing: self.journal.as_ref().map(|journal| journal.counters().failed),
        }
    }
}

/// The quarantine, for a command that a person types. Makes no device key: without one there is
/// nothing to open.
///
/// # Errors
///
/// The daemon has not run here, or the folder or the key cannot be used.
pub fn vault(settings: &Settings) -> anyhow::Result<Vault> {
    let folder = &settings.identity.state_directory;
    let key = folder.join(DEVICE_KEY_FILE);
    let is_there = key.try_exists().with_context(|| format!("look for {}", key.display()))?;
    ensure!(is_there, "there is no device key at {}; has `avr run` ever run here?", key.display());
    let key = load_or_create_device_key(folder)
        .with_context(|| format!("use the device key in {}", folder.display()))?;
    open_vault(settings, &key)
}

fn open_vault(settings: &Settings, device: &DeviceKey) -> anyhow::Result<Vault> {
    let key = VaultKey::from_pem(device.to_pem().expose())?;
    let folder = settings.quarantine.folder(&settings.identity.state_directory);
    Ok(Vault::open(&folder, &key, settings.quarantine.limits())?)
}

fn usable<T>(what: &str, opened: anyhow::Result<T>) -> Option<Arc<T>> {
    opened
        .map(Arc::new)
        .inspect_err(|error| {
            error!(error = format!("{error:#}"), "mail goes on without its {what}")
        })
        .ok()
}
