//! The `[scan]` table, which the box and the proxy share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::{ConfigError, Document};
use mail::notice::Language;
use scan::engine::clamd::{ClamdEngine, ClamdSettings};
use scan::engine::yara::YaraEngine;
use scan::{BYTES_IN_FLIGHT_MAX, Engine, Limits, Scanner};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Unexpected};

use crate::{Action, Carrier, Policy};

/// Smallest limit of bytes: less would let every mail with an attachment pass unscanned.
pub const BYTES_MAX_MIN: u64 = 64 * 1024;
/// Largest [`ScanSettings::message_bytes_max`].
pub const MESSAGE_BYTES_MAX_MAX: u64 = 1024 * 1024 * 1024;
/// Largest [`ScanSettings::memory_bytes_max`].
pub const MEMORY_BYTES_MAX_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Largest [`ScanSettings::verdict_seconds_max`]: below the time that `mail` waits for a verdict.
pub const VERDICT_SECONDS_MAX_MAX: u64 = 240;

/// What is scanned, by what, and what is done then.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScanSettings {
    /// `"on"`, or `"off"`: bytes pass unread and sessions count as unscanned. Default on.
    pub mode: Mode,
    /// Folder of YARA rules (`*.yar`, `*.yara`), beside the built-in one for the EICAR test file.
    /// Default none. Costs some milliseconds a MiB scanned, by rules.
    pub rules: Option<PathBuf>,
    /// `clamd` servers, `"host:port"` or `"unix:/path"`. Objects spread over them, and one that fails
    /// is tried on another. Their `clamd.conf` needs `AlertExceedsMax yes` and `AlertEncrypted yes`,
    /// or `clamd` calls clean what it did not look at. Default none.
    pub clamd: Vec<String>,
    /// Largest message that is scanned, in bytes. Default 64 MiB, which is also what one message
    /// may cost in memory, twice. From 64 KiB to 1 GiB.
    #[serde(deserialize_with = "bytes::<_, MESSAGE_BYTES_MAX_MAX>")]
    pub message_bytes_max: usize,
    /// Bytes of all messages in scanning together, raw and decoded; a message beyond it counts as
    /// over the size limit. Default 512 MiB: give a small box less. From 64 KiB to 64 GiB.
    #[serde(deserialize_with = "bytes::<_, MEMORY_BYTES_MAX_MAX>")]
    pub memory_bytes_max: usize,
    /// From the end of a message to its verdict, in seconds. Default 30. At most 240: after five
    /// minutes the session itself gives a verdict up.
    #[serde(deserialize_with = "verdict_seconds")]
    pub verdict_seconds_max: u64,
    /// Language of notices: `"en"` or `"ja"`. Default en.
    pub language: NoticeLanguage,
    /// Infected: `"refuse"`, `"tempfail"` or `"pass"`. Default refuse.
    pub on_infected: Action,
    /// Encrypted parts. Default pass.
    pub on_encrypted: Action,
    /// Archives, where no engine opens them (`clamd` does). Default pass, counted as unscannable.
    pub on_archive: Action,
    /// Larger than `message_bytes_max`, or than `clamd` takes. Default pass.
    pub on_over_size: Action,
    /// Over another limit, fragments, ambiguous structure. Default refuse.
    pub on_unreadable: Action,
    /// No engine answered: POP3 and authenticated SMTP. Default pass.
    pub on_engine_failure: Action,
    /// No engine answered: SMTP without authentication. Default tempfail.
    pub on_engine_failure_unauthenticated: Action,
}

/// See [`ScanSettings::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Scan.
    #[default]
    On,
    /// Pass bytes unread.
    Off,
}

/// See [`ScanSettings::language`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum NoticeLanguage {
    /// English.
    #[default]
    #[serde(rename = "en")]
    English,
    /// Japanese.
    #[serde(rename = "ja")]
    Japanese,
}

impl Default for ScanSettings {
    fn default() -> Self {
        let limits = Limits::default();
        let policy = Policy::default();
        Self {
            mode: Mode::On,
            rules: None,
            clamd: Vec::new(),
            message_bytes_max: limits.message_bytes_max,
            memory_bytes_max: BYTES_IN_FLIGHT_MAX,
            verdict_seconds_max: limits.time_max.as_secs(),
            language: NoticeLanguage::English,
            on_infected: policy.infected,
            on_encrypted: policy.encrypted,
            on_archive: policy.archive,
            on_over_size: policy.over_size,
            on_unreadable: policy.unreadable,
            on_engine_failure: policy.engine_failed,
            on_engine_failure_unauthenticated: policy.engine_failed_unauthenticated,
        }
    }
}

/// A limit of bytes. Checked here, and not later, so that the error knows its line.
fn bytes<'de, D: Deserializer<'de>, const MAX: u64>(deserializer: D) -> Result<usize, D::Error> {
    let value = within(deserializer, BYTES_MAX_MIN, MAX)?;
    usize::try_from(value).map_err(D::Error::custom)
}

fn verdict_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(deserializer, 1, VERDICT_SECONDS_MAX_MAX)
}

fn within<'de, D: Deserializer<'de>>(deserializer: D, min: u64, max: u64) -> Result<u64, D::Error> {
    let value = u64::deserialize(deserializer)?;
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let expected = format!("a whole number from {min} to {max}");
    Err(D::Error::invalid_value(Unexpected::Unsigned(value), &expected.as_str()))
}

/// Why the engines could not be made ready, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ScanSettingsError {
    /// The rules cannot be read or compiled.
    #[error("scan.rules cannot be used; correct the rule file or leave the key out")]
    Rules(#[source] scan::engine::yara::RulesError),
    /// An address is none.
    #[error("scan.clamd cannot be used; write \"host:port\" or \"unix:/path\"")]
    Clamd(#[source] scan::engine::clamd::AddressError),
}

impl ScanSettings {
    /// Makes the engines ready: compiles the rules, reads the addresses. Connects nowhere.
    ///
    /// # Errors
    ///
    /// When rules do not compile or an address is none; the text says what to write.
    pub fn carrier(&self) -> Result<Carrier, ScanSettingsError> {
        let scanner = match self.mode {
            Mode::On => Some(self.scanner()?),
            Mode::Off => None,
        };
        let mail = mail::Settings {
            language: match self.language {
                NoticeLanguage::English => Language::English,
                NoticeLanguage::Japanese => Language::Japanese,
            },
            ..mail::Settings::default()
        };
        Ok(Carrier { scanner, mail: Arc::new(mail), policy: Arc::new(self.policy()) })
    }

    /// [`Self::carrier`] for settings that stand in a file as the table `[scan]`.
    ///
    /// # Errors
    ///
    /// As there, with file and line.
    pub fn carrier_in(&self, document: &Document) -> Result<Carrier, ConfigError> {
        self.carrier().map_err(|error| {
            let (key, source, remedy): (_, &dyn std::error::Error, _) = match &error {
                ScanSettingsError::Rules(source) => {
                    ("scan.rules", source, "correct the rule file, or leave the key out")
                }
                ScanSettingsError::Clamd(source) => {
                    ("scan.clamd", source, "write \"host:port\" or \"unix:/path\" instead")
                }
            };
            document.invalid(key, format!("`{key}`: {}", telemetry::chain(source)), remedy)
        })
    }

    fn scanner(&self) -> Result<Scanner, ScanSettingsError> {
        let yara = YaraEngine::new(self.rules.as_deref()).map_err(ScanSettingsError::Rules)?;
        let mut engines: Vec<Arc<dyn Engine>> = vec![Arc::new(yara)];
        if !self.clamd.is_empty() {
            let clamd = ClamdEngine::new(&self.clamd, ClamdSettings::default())
                .map_err(ScanSettingsError::Clamd)?;
            engines.push(Arc::new(clamd));
        }
        let limits = Limits {
            message_bytes_max: self.message_bytes_max,
            time_max: Duration::from_secs(self.verdict_seconds_max),
            ..Limits::default()
        };
        Ok(Scanner::with_budget(engines, limits, self.memory_bytes_max))
    }

    fn policy(&self) -> Policy {
        Policy {
            infected: self.on_infected,
            encrypted: self.on_encrypted,
            archive: self.on_archive,
            over_size: self.on_over_size,
            unreadable: self.on_unreadable,
            engine_failed: self.on_engine_failure,
            engine_failed_unauthenticated: self.on_engine_failure_unauthenticated,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, MapDeserializer};

    use super::*;

    fn read(key: &str, value: u64) -> Result<ScanSettings, String> {
        let table = MapDeserializer::<_, Error>::new(std::iter::once((key, value)));
        ScanSettings::deserialize(table).map_err(|error| error.to_string())
    }

    /// Beyond these, the clock would overflow at the first mail, or every mail pass unscanned.
    #[test]
    fn limits_that_would_be_none_are_refused() {
        for (key, min, max) in [
            ("message_bytes_max", BYTES_MAX_MIN, MESSAGE_BYTES_MAX_MAX),
            ("memory_bytes_max", BYTES_MAX_MIN, MEMORY_BYTES_MAX_MAX),
            ("verdict_seconds_max", 1, VERDICT_SECONDS_MAX_MAX),
        ] {
            for good in [min, max] {
                read(key, good).unwrap();
            }
            for bad in [0, min - 1, max + 1, u64::MAX] {
                let expected = format!(
                    "invalid value: integer `{bad}`, expected a whole number from {min} to {max}"
                );
                assert_eq!(read(key, bad).unwrap_err(), expected, "{key}");
            }
        }
        let longest = Duration::from_secs(VERDICT_SECONDS_MAX_MAX);
        assert!(longest < mail::smtp::VERDICT_TIMEOUT && longest < mail::pop3::VERDICT_TIMEOUT);
    }

    #[test]
    fn what_engines_cannot_use_is_blamed_on_its_line() {
        let error = |key: &str| {
            let text = format!("mode = \"on\"\n{key}\n");
            let document = Document::from_text("x.toml", format!("[scan]\n{text}"));
            let scan: ScanSettings = Document::from_text("x.toml", text).parse().unwrap();
            scan.carrier_in(&document).unwrap_err().to_string()
        };
        let rules = error("rules = \"/nonexistent\"");
        assert!(rules.starts_with("x.toml:3: `scan.rules`: "), "{rules}");
        assert!(rules.ends_with("; correct the rule file, or leave the key out"), "{rules}");
        let clamd = error("clamd = [\"nonsense\"]");
        assert!(clamd.starts_with("x.toml:3: `scan.clamd`: "), "{clamd}");
        assert!(clamd.ends_with("; write \"host:port\" or \"unix:/path\" instead"), "{clamd}");
    }

    #[test]
    fn the_defaults_are_within_the_limits() {
        let ScanSettings { message_bytes_max, memory_bytes_max, verdict_seconds_max, .. } =
            ScanSettings::default();
        let bytes = |limit: usize| u64::try_from(limit).unwrap();
        read("message_bytes_max", bytes(message_bytes_max)).unwrap();
        read("memory_bytes_max", bytes(memory_bytes_max)).unwrap();
        read("verdict_seconds_max", verdict_seconds_max).unwrap();
    }
}
