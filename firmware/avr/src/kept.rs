//! Where the box keeps what it keeps of mails, and with which key.

use anyhow::{Context, ensure};
use box_relay::{DEVICE_KEY_FILE, load_or_create_device_key};
use quarantine::{Vault, VaultKey};
use records::{Places, Records};
use wire::identity::DeviceKey;

use crate::settings::Settings;

/// By these settings.
#[must_use]
pub fn places(settings: &Settings) -> Places<'_> {
    Places {
        state_directory: &settings.identity.state_directory,
        quarantine: &settings.quarantine,
        journal: &settings.journal,
    }
}

/// Of the daemon; copies are sealed with the device's key.
#[must_use]
pub fn open(settings: &Settings, device: &DeviceKey) -> Records {
    Records::open(&places(settings), VaultKey::from_pem(device.to_pem().expose()))
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
    Ok(places(settings).vault(&VaultKey::from_pem(key.to_pem().expose())?)?)
}
