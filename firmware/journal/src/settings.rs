//! The `[journal]` table, which the box and the proxy share.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Limits;

/// Smallest [`JournalSettings::bytes_max`]: some thousand mails.
pub const BYTES_MAX_MIN: u64 = 1024 * 1024;
/// Largest [`JournalSettings::bytes_max`].
pub const BYTES_MAX_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Where a line for every mail is kept, and how many.
///
/// ```toml
/// [journal]
/// bytes_max = 33554432       # of disk; the oldest lines go first
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalSettings {
    /// Folder of the lines, of this program alone; made with mode 0700. Default: `journal` in the
    /// state directory.
    pub folder: Option<PathBuf>,
    /// Disk that all lines may take together, in bytes; the oldest quarter is deleted for new ones.
    /// Default 32 MiB, some 50,000 mails, which `avr trace` reads in about a second on a small box.
    /// From 1 MiB to 64 GiB.
    #[serde(deserialize_with = "config::within::<_, BYTES_MAX_MIN, BYTES_MAX_MAX>")]
    pub bytes_max: u64,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { folder: None, bytes_max: Limits::default().bytes_max }
    }
}

impl JournalSettings {
    /// The folder of the lines, where none is set below `state_directory`.
    #[must_use]
    pub fn folder(&self, state_directory: &Path) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| state_directory.join("journal"))
    }

    /// As the journal wants them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { bytes_max: self.bytes_max }
    }
}

#[cfg(test)]
mod tests {
    use config::Document;

    use super::*;

    #[test]
    fn defaults_and_limits() {
        let read = |text: &str| {
            let document = Document::from_text("x.toml", text);
            document.parse::<JournalSettings>().map_err(|error| error.to_string())
        };
        let settings = read("").unwrap();
        assert_eq!(settings.limits(), Limits::default());
        assert_eq!(settings.folder(Path::new("/var/lib/avr")), Path::new("/var/lib/avr/journal"));
        let settings = read("folder = \"/data/j\"").unwrap();
        assert_eq!(settings.folder(Path::new("/var/lib/avr")), Path::new("/data/j"));
        for good in [BYTES_MAX_MIN, BYTES_MAX_MAX] {
            read(&format!("bytes_max = {good}")).unwrap();
        }
        for bad in [0, BYTES_MAX_MIN - 1, BYTES_MAX_MAX + 1] {
            let error = read(&format!("\nbytes_max = {bad}")).unwrap_err();
            assert!(error.starts_with("x.toml:2: `bytes_max`: "), "{error}");
            assert!(error.contains("from 1048576 to 68719476736 instead"), "{error}");
        }
    }
}
