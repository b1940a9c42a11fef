//! The `[scan]` table, which the box, the proxy and `avr listen` share.

mod engines;
mod reload;
mod rules;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::{ConfigError, Document};
use journal::Journal;
use mail::notice::Language;
use quarantine::Vault;
use scan::Limits;
use scan::worker::pool::Isolation;
use serde::Deserialize;

pub use self::engines::ScanSettingsError;
pub use self::reload::{Marks, RELOAD_INTERVAL, Watch};
pub use self::rules::RuleOverrides;
use crate::Carrier;
use crate::policy::{Action, Policy, Rule, Rules};

/// Smallest limit of bytes: less would let every mail with an attachment pass unscanned.
pub const BYTES_MAX_MIN: u64 = 64 * 1024;
/// Largest [`ScanSettings::message_bytes_max`]: a worker holds a message in memory.
pub const MESSAGE_BYTES_MAX_MAX: u64 = 512 * 1024 * 1024;
/// Largest [`ScanSettings::unpacked_bytes_max`]: as above.
pub const UNPACKED_BYTES_MAX_MAX: u64 = 1024 * 1024 * 1024;
/// Largest [`ScanSettings::spool_bytes_max`].
pub const SPOOL_BYTES_MAX_MAX: u64 = 1024 * 1024 * 1024 * 1024;
/// Largest [`ScanSettings::verdict_seconds_max`]: below the time that `mail` waits for a verdict.
pub const VERDICT_SECONDS_MAX_MAX: u64 = 240;
/// Largest [`ScanSettings::keep_alive_first_seconds`] and `_interval_seconds`: mail programs give up
/// after a minute or two.
pub const KEEP_ALIVE_SECONDS_MAX: u64 = 600;
/// Most senders in [`ScanSettings::unscanned_senders`].
pub const UNSCANNED_SENDERS_MAX: usize = 10_000;

/// The extension that is never masked.
const STARTTLS: &str = "STARTTLS";

/// What is scanned, by what, and what is done then.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScanSettings {
    /// `"on"`, or `"off"`: bytes pass unread and sessions count as unscanned. Default on.
    pub mode: Mode,
    /// Folder of YARA rules (`*.yar`, `*.yara`), beside the built-in one for the EICAR test file.
    /// Default none. Costs some milliseconds a MiB scanned, by rules. Where every rule asks only whether its
    /// strings match (no sizes, places, counts, modules, regular expressions), large mails are matched
    /// as they stream by, and a worker takes 1 MiB for one; one rule that asks for more has it hold
    /// them, and the log names it. What changes in it takes effect within seconds.
    pub rules: Option<PathBuf>,
    /// Folder of lists of hashes: `*.sha256`, and ClamAV's `*.hdb` and `*.hsb`. Default none. What
    /// changes in it takes effect within seconds.
    pub hashes: Option<PathBuf>,
    /// What is blocked by its name (`".exe"`) or by what it is (`"pe"`, `"elf"`, ...). Default nothing.
    pub block: Vec<String>,
    /// `clamd` servers, `"host:port"` or `"unix:/path"`. Objects spread over them, and one that fails
    /// is tried on another. Their `clamd.conf` needs `AlertExceedsMax yes` and `AlertEncrypted yes`,
    /// or `clamd` calls clean what it did not look at. Default none.
    pub clamd: Vec<String>,
    /// ICAP services (RFC 3507), `"icap://host:1344/service"`, which are asked about every part.
    /// Default none. A service that has a size limit of its own says nothing of it: set it above
    /// `message_bytes_max`.
    pub icap: Vec<String>,
    /// Processes that take mails apart; each keeps the compiled rules, some 20 MiB, and looks at one mail
    /// at a time. Default: one a processor. From 1 to 8.
    #[serde(deserialize_with = "workers")]
    pub workers: Option<usize>,
    /// Folder for what waits for its verdict; sealed, and gone when the program ends. Default: the
    /// system's folder for temporary files.
    pub spool: Option<PathBuf>,
    /// Bytes of all messages that wait; a message beyond it could not be scanned. A fetched message that
    /// is held counts twice, as it came and as it is scanned, and parts for `clamd` and ICAP count too.
    /// Default 4 GiB: give a small box less, the more so where `spool` is in memory. From 64 KiB to 1 TiB.
    #[serde(deserialize_with = "config::within::<_, BYTES_MAX_MIN, SPOOL_BYTES_MAX_MAX>")]
    pub spool_bytes_max: u64,
    /// Largest message that is scanned, in bytes. Default 64 MiB. A worker takes up to three times that
    /// memory where parts have to be held (archives and documents, rules that need it, engines
    /// elsewhere), and what is unpacked besides; otherwise 1 MiB.
    /// From 64 KiB to 512 MiB.
    #[serde(deserialize_with = "config::within::<_, BYTES_MAX_MIN, MESSAGE_BYTES_MAX_MAX>")]
    pub message_bytes_max: u64,
    /// Bytes that all archives of one message may unpack to. Default 512 MiB. From 64 KiB to 1 GiB.
    #[serde(deserialize_with = "config::within::<_, BYTES_MAX_MIN, UNPACKED_BYTES_MAX_MAX>")]
    pub unpacked_bytes_max: u64,
    /// Bytes a member may unpack to for each byte it takes, once it is large. Default 250. From 10 to
    /// 100,000.
    #[serde(deserialize_with = "config::within::<_, 10, 100_000>")]
    pub ratio_max: u64,
    /// Members of all archives of one message. Default 10,000. From 10 to 1,000,000.
    #[serde(deserialize_with = "config::within::<_, 10, 1_000_000>")]
    pub members_max: u64,
    /// Parts of one message. Default 2,000. From 10 to 100,000.
    #[serde(deserialize_with = "config::within::<_, 10, 100_000>")]
    pub parts_max: u64,
    /// Multiparts and messages in one another. Default 128. From 8 to 1,000.
    #[serde(deserialize_with = "config::within::<_, 8, 1_000>")]
    pub mime_depth_max: u64,
    /// Archives in one another. Default 24. From 2 to 64.
    #[serde(deserialize_with = "config::within::<_, 2, 64>")]
    pub archive_depth_max: u64,
    /// From the end of a message to its verdict, in seconds. Default 30. At most 240: after five
    /// minutes the session itself gives a verdict up.
    #[serde(deserialize_with = "config::within::<_, 1, VERDICT_SECONDS_MAX_MAX>")]
    pub verdict_seconds_max: u64,
    /// A POP3 client whose message is held gets its first bytes after so many seconds. Default 10.
    /// From 1 to 600.
    #[serde(deserialize_with = "config::within::<_, 1, KEEP_ALIVE_SECONDS_MAX>")]
    pub keep_alive_first_seconds: u64,
    /// And then a line every so many seconds. Default 15. From 1 to 600.
    #[serde(deserialize_with = "config::within::<_, 1, KEEP_ALIVE_SECONDS_MAX>")]
    pub keep_alive_interval_seconds: u64,
    /// Keywords that an EHLO reply loses on its way to the client, as in `["CHUNKING"]`. Default none.
    /// `STARTTLS` is never one of them.
    pub masked_extensions: Vec<String>,
    /// What is done with a session that uses something whose framing is unknown: `"opaque"`, it passes
    /// unread and counts as unscanned; or `"close"`. Default: opaque for SMTP, close for POP3.
    pub on_unframed: Option<Unframed>,
    /// Senders whose mail by SMTP passes unscanned and is counted so: `"a@b.example"`, or
    /// `"@b.example"`. Default none. A sender is easily forged: name only those who cannot be helped
    /// otherwise.
    pub unscanned_senders: Vec<String>,
    /// Language of notices: `"en"` or `"ja"`. Default en.
    pub language: NoticeLanguage,
    /// Folder of notice texts that take the place of the built-in ones: `refused.en.txt`,
    /// `unscanned.ja.txt` and so on. Default none.
    pub templates: Option<PathBuf>,
    /// Whom to ask about a notice, in its words: a name, a telephone number. Default none.
    pub contact: Option<String>,
    /// Infected: `"refuse"`, `"tempfail"`, `"replace"` (a notice in its place), `"replace-part"` or
    /// `"pass"`; with `"+quarantine"` behind it a sealed copy is kept. Default refuse.
    pub on_infected: Rule,
    /// What `block` names. Default refuse.
    pub on_blocked: Rule,
    /// Encrypted parts. Default pass.
    pub on_encrypted: Rule,
    /// Archives that no engine opens, and damaged ones. Default pass, counted as unscannable.
    pub on_archive: Rule,
    /// Larger than `message_bytes_max`, or than `clamd` takes. Default pass.
    pub on_over_size: Rule,
    /// Over another limit, fragments, ambiguous structure, too much for the scanner. Default refuse.
    pub on_unreadable: Rule,
    /// No engine answered: POP3 and authenticated SMTP. Default pass.
    pub on_engine_failure: Rule,
    /// No engine answered: SMTP without authentication. Default tempfail.
    pub on_engine_failure_unauthenticated: Rule,
    /// Other rules for mail that is fetched by POP3.
    pub fetched: RuleOverrides,
    /// Other rules for mail that is sent by a client that has authenticated.
    pub submitted: RuleOverrides,
    /// Other rules for mail that is sent by a client that has not.
    pub received: RuleOverrides,
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

/// See [`ScanSettings::on_unframed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unframed {
    /// Pass it unread.
    Opaque,
    /// End the session.
    Close,
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

impl From<NoticeLanguage> for Language {
    fn from(language: NoticeLanguage) -> Self {
        match language {
            NoticeLanguage::English => Self::English,
            NoticeLanguage::Japanese => Self::Japanese,
        }
    }
}

/// What a program has around its sessions.
#[derive(Debug, Clone)]
pub struct Around {
    /// How its scan workers are started.
    pub isolation: Isolation,
    /// Where sealed copies go.
    pub vault: Option<Arc<Vault>>,
    /// Where mails are written down.
    pub journal: Option<Arc<Journal>>,
}

impl Around {
    /// Of a daemon without quarantine and journal.
    #[must_use]
    pub fn nothing() -> Self {
        Self { isolation: Isolation::Process, vault: None, journal: None }
    }

    /// Of a test: workers are threads.
    #[must_use]
    pub fn test() -> Self {
        Self { isolation: Isolation::Thread, ..Self::nothing() }
    }
}

impl Default for ScanSettings {
    fn default() -> Self {
        let limits = Limits::default();
        let policy = Policy::default();
        let Rules { infected, blocked, encrypted, archive, over_size, unreadable, engine_failed } =
            policy.submitted;
        Self {
            mode: Mode::On,
            rules: None,
            hashes: None,
            block: Vec::new(),
            clamd: Vec::new(),
            icap: Vec::new(),
            workers: None,
            spool: None,
            spool_bytes_max: spool::BYTES_MAX_DEFAULT,
            message_bytes_max: limits.message_bytes_max as u64,
            unpacked_bytes_max: limits.unpacked_bytes_max as u64,
            ratio_max: limits.ratio_max as u64,
            members_max: limits.members_max.into(),
            parts_max: limits.parts_max.into(),
            mime_depth_max: limits.depth_max as u64,
            archive_depth_max: limits.container_depth_max as u64,
            verdict_seconds_max: limits.time_max.as_secs(),
            keep_alive_first_seconds: mail::pop3::KEEP_ALIVE_FIRST_DEFAULT.as_secs(),
            keep_alive_interval_seconds: mail::pop3::KEEP_ALIVE_INTERVAL_DEFAULT.as_secs(),
            masked_extensions: Vec::new(),
            on_unframed: None,
            unscanned_senders: Vec::new(),
            language: NoticeLanguage::English,
            templates: None,
            contact: None,
            on_infected: infected,
            on_blocked: blocked,
            on_encrypted: encrypted,
            on_archive: archive,
            on_over_size: over_size,
            on_unreadable: unreadable,
            on_engine_failure: engine_failed,
            on_engine_failure_unauthenticated: policy.received.engine_failed,
            fetched: RuleOverrides::default(),
            submitted: RuleOverrides::default(),
            received: RuleOverrides::default(),
        }
    }
}

fn workers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    config::within::<_, 1, { scan::worker::pool::WORKERS_MAX as u64 }>(deserializer)
        .map(|count| usize::try_from(count).ok())
}

impl ScanSettings {
    /// Makes everything ready: compiles the rules, reads lists and texts, looks at addresses. Connects
    /// nowhere and starts nothing.
    ///
    /// # Errors
    ///
    /// What cannot be used; the text says what to write.
    pub fn carrier(&self, around: Around) -> Result<Carrier, ScanSettingsError> {
        let policy = self.policy()?;
        // Before anything is read: see `Marks`.
        let read = self.sources()?.marks();
        let scanner = match self.mode {
            Mode::On => Some(self.scanner(around.isolation)?),
            Mode::Off => None,
        };
        let mail = self.mail(&policy)?;
        let Around { vault, journal, isolation: _ } = around;
        Ok(Carrier {
            scanner,
            mail: Arc::new(mail),
            policy: Arc::new(policy),
            vault,
            told: Arc::default(),
            journal,
            read,
        })
    }

    /// [`Self::carrier`] for settings that stand in a file as the table `[scan]`.
    ///
    /// # Errors
    ///
    /// As there, with file and line.
    pub fn carrier_in(&self, document: &Document, around: Around) -> Result<Carrier, ConfigError> {
        self.carrier(around).map_err(|error| error.at(document))
    }

    fn mail(&self, policy: &Policy) -> Result<mail::Settings, ScanSettingsError> {
        for keyword in &self.masked_extensions {
            if keyword.eq_ignore_ascii_case(STARTTLS) {
                return Err(ScanSettingsError::MaskedTls);
            }
            if !is_keyword(keyword) {
                return Err(ScanSettingsError::Masked(keyword.clone()));
            }
        }
        let pop3 = mail::pop3::Settings::default();
        let smtp = mail::smtp::Settings::default();
        // Stuffed dots and repaired line ends make a message larger on the wire than what is scanned.
        let hold_bytes_max = self.message_bytes_max.saturating_add(self.message_bytes_max / 4);
        Ok(mail::Settings {
            language: self.language.into(),
            templates: Arc::new(self.notices()?),
            pop3: mail::pop3::Settings {
                keep_alive_first: Duration::from_secs(self.keep_alive_first_seconds),
                keep_alive_interval: Duration::from_secs(self.keep_alive_interval_seconds),
                message_hold_bytes_max: hold_bytes_max,
                // Too large, or no room: the stricter of the two rules counts for both.
                on_hold_failure: match [policy.fetched.over_size, policy.fetched.engine_failed] {
                    [Rule { action: Action::Pass, .. }, Rule { action: Action::Pass, .. }] => {
                        mail::pop3::OnHoldFailure::Pass
                    }
                    _ => mail::pop3::OnHoldFailure::Replace,
                },
                unframed: match self.on_unframed {
                    None => pop3.unframed,
                    Some(Unframed::Opaque) => mail::pop3::Unframed::Opaque,
                    Some(Unframed::Close) => mail::pop3::Unframed::Close,
                },
            },
            smtp: mail::smtp::Settings {
                hold: policy.holds_smtp(),
                hold_bytes_max,
                masked: self.masked_extensions.clone(),
                unframed: match self.on_unframed {
                    None => smtp.unframed,
                    Some(Unframed::Opaque) => mail::smtp::Unframed::Opaque,
                    Some(Unframed::Close) => mail::smtp::Unframed::Close,
                },
                ..smtp
            },
        })
    }

    fn policy(&self) -> Result<Policy, ScanSettingsError> {
        if self.unscanned_senders.len() > UNSCANNED_SENDERS_MAX {
            return Err(ScanSettingsError::TooManySenders);
        }
        if let Some(wrong) = self.unscanned_senders.iter().find(|sender| !names_somebody(sender)) {
            return Err(ScanSettingsError::Sender(wrong.clone()));
        }
        let general = Rules {
            infected: self.on_infected,
            blocked: self.on_blocked,
            encrypted: self.on_encrypted,
            archive: self.on_archive,
            over_size: self.on_over_size,
            unreadable: self.on_unreadable,
            engine_failed: self.on_engine_failure,
        };
        let received = Rules { engine_failed: self.on_engine_failure_unauthenticated, ..general };
        Ok(Policy {
            fetched: self.fetched.over(general),
            submitted: self.submitted.over(general),
            received: self.received.over(received),
            unscanned_senders: self
                .unscanned_senders
                .iter()
                .map(|sender| sender.to_ascii_lowercase())
                .collect(),
        })
    }

    fn limits(&self) -> Limits {
        let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let count = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Limits {
            message_bytes_max: size(self.message_bytes_max),
            // All readings and encodings of a message together; more is no mail that anyone sends.
            decoded_bytes_max: size(self.message_bytes_max.saturating_mul(2)),
            depth_max: size(self.mime_depth_max),
            parts_max: count(self.parts_max),
            container_depth_max: size(self.archive_depth_max),
            members_max: count(self.members_max),
            unpacked_bytes_max: size(self.unpacked_bytes_max),
            ratio_max: size(self.ratio_max),
            time_max: Duration::from_secs(self.verdict_seconds_max),
        }
    }
}

/// Whether it is an address or a domain as a sender has it. One without a domain would be everybody
/// or nobody.
fn names_somebody(sender: &str) -> bool {
    let domain = sender.rsplit_once('@').map(|(_, domain)| domain);
    domain.is_some_and(|domain| !domain.is_empty())
        && !sender.contains(|c: char| c.is_whitespace() || c.is_control() || "<>,;".contains(c))
}

/// RFC 5321 section 4.1.1.1, `ehlo-keyword`.
fn is_keyword(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests;
