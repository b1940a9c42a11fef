//! The unit's identity: the inventory number and the key that proves it.

use std::fmt;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::Context;
use wire::MacAddress;
use wire::identity::DeviceKey;
use wire::ticket::KeyFingerprint;

use crate::settings::Settings;

/// What an operator registers.
#[derive(Debug)]
pub struct Unit {
    /// MAC address of the LAN port.
    pub mac: MacAddress,
    /// The device key, made at the first start.
    pub key: DeviceKey,
}

impl Unit {
    /// The unit that these settings describe; makes the device key if there is none.
    ///
    /// # Errors
    ///
    /// When the LAN port has no MAC address or the state directory cannot be used.
    pub fn of(settings: &Settings) -> anyhow::Result<Self> {
        let folder = &settings.identity.state_directory;
        make_private_folder(folder)
            .with_context(|| format!("make the state directory {}", folder.display()))?;
        let key = box_relay::load_or_create_device_key(folder)
            .with_context(|| format!("use the device key in {}", folder.display()))?;
        let lan = &settings.ports.lan;
        let mac = box_net::mac_address(lan).with_context(|| {
            format!("find the MAC address of ports.lan = \"{lan}\"; `ip link` lists the ports")
        })?;
        Ok(Self { mac: MacAddress(mac), key })
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        self.key.fingerprint()
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "MAC address      {}", self.mac)?;
        write!(f, "key fingerprint  {}", self.fingerprint())
    }
}

fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
