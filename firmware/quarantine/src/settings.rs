//! The `[quarantine]` table, which the box and the proxy share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::Limits;

/// Smallest [`QuarantineSettings::bytes_max`]: room for one ordinary mail.
pub const BYTES_MAX_MIN: u64 = 1024 * 1024;
/// Largest [`QuarantineSettings::bytes_max`].
pub const BYTES_MAX_MAX: u64 = 1024 * 1024 * 1024 * 1024;
/// Largest [`QuarantineSettings::days_max`]: ten years.
pub const DAYS_MAX_MAX: u64 = 3_650;
/// Largest [`QuarantineSettings::items_max`]: a listing reads the head of each.
pub const ITEMS_MAX_MAX: u64 = 100_000;

const DAY: u64 = 24 * 60 * 60;

/// Where copies of refused mail are kept, and for how long.
///
/// ```toml
/// [quarantine]
/// mode = "on"                # "off": nothing is kept
/// bytes_max = 536870912      # of disk; the oldest goes first
/// days_max = 30
/// items_max = 10000
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuarantineSettings {
    /// `"on"`, or `"off"`: what is refused is gone, as far as this machine is concerned. Default
    /// on.
    pub mode: Mode,
    /// Folder of the sealed copies, of this program alone; made with mode 0700. Default:
    /// `quarantine` in the state directory.
    pub folder: Option<PathBuf>,
    /// Disk that all copies may take together, in bytes; for a new one the oldest are deleted.
    /// Default 512 MiB. From 1 MiB to 1 TiB.
    #[serde(deserialize_with = "config::within::<_, BYTES_MAX_MIN, BYTES_MAX_MAX>")]
    pub bytes_max: u64,
    /// After how many days a copy is deleted. Default 30. From 1 to 3650.
    #[serde(deserialize_with = "config::within::<_, 1, DAYS_MAX_MAX>")]
    pub days_max: u64,
    /// Most copies; for a new one the oldest is deleted. Default 10,000, which a listing reads in
    /// about a second on a small box. From 1 to 100,000.
    #[serde(deserialize_with = "config::within::<_, 1, ITEMS_MAX_MAX>")]
    pub items_max: u64,
}

/// See [`QuarantineSettings::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Keep a copy of what is refused.
    #[default]
    On,
    /// Keep nothing.
    Off,
}

impl Default for QuarantineSettings {
    fn default() -> Self {
        Self {
            mode: Mode::On,
            folder: None,
            bytes_max: 512 * 1024 * 1024,
            days_max: 30,
            items_max: 10_000,
        }
    }
}

impl QuarantineSettings {
    /// The folder of the copies, where none is set below `state_directory`.
    #[must_use]
    pub fn folder(&self, state_directory: &Path) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| state_directory.join("quarantine"))
    }

    /// As the vault wants them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            bytes_max: self.bytes_max,
            age_max: Duration::from_secs(self.days_max.saturating_mul(DAY)),
            items_max: usize::try_from(self.items_max).unwrap_or(usize::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use config::Document;

    use super::*;

    fn read(text: &str) -> Result<QuarantineSettings, String> {
        Document::from_text("x.toml", text).parse().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let settings = read("").unwrap();
        assert_eq!(settings, QuarantineSettings::default());
        assert_eq!(
            settings.folder(Path::new("/var/lib/avr")),
            Path::new("/var/lib/avr/quarantine")
        );
        let settings = read("folder = \"/data/q\"\nmode = \"off\"\ndays_max = 7").unwrap();
        assert_eq!(settings.folder(Path::new("/var/lib/avr")), Path::new("/data/q"));
        assert_eq!(settings.mode, Mode::Off);
        assert_eq!(settings.limits().age_max, Duration::from_secs(604_800));
    }

    #[test]
    fn limits_that_would_be_none_are_refused_with_their_line() {
        for (key, min, max) in [
            ("bytes_max", BYTES_MAX_MIN, BYTES_MAX_MAX),
            ("days_max", 1, DAYS_MAX_MAX),
            ("items_max", 1, ITEMS_MAX_MAX),
        ] {
            for good in [min, max] {
                read(&format!("{key} = {good}")).unwrap();
            }
            for bad in [min - 1, max + 1] {
                let error = read(&format!("\n{key} = {bad}")).unwrap_err();
                assert!(error.starts_with(&format!("x.toml:2: `{key}`: ")), "{error}");
                let remedy = format!("; write a whole number from {min} to {max} instead");
                assert!(error.ends_with(&remedy), "{error}");
            }
        }
    }
}
