//! The settings file, `manager.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{ConfigError, Document};
use serde::Deserialize;
use service_kit::http::{StatusFile, StatusSettings};
use service_kit::{Tls, files, host, revocations};
use wire::ticket::TicketVerifier;

use crate::boxes::Timing;
use crate::fleet::{SLOW_START_DEFAULT, Selection};
use crate::health::HealthSettings;
use crate::table::Table;

/// Good polls in a row that unmark a proxy.
pub const RECOVER_POLLS: u32 = 3;
/// Where a program without `--config` looks.
pub const DEFAULT_PATH: &str = "/etc/avr/manager.toml";
/// Where the operator's commands find a manager that runs.
pub const CONTROL_PATH: &str = "/run/avr-manager/control";
/// Where the state is kept by default.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/avr-manager";
/// Longest slow start, in seconds.
const SLOW_START_S_MAX: u64 = 60 * 60;

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Address and port for boxes, as in `"0.0.0.0:4651"`.
    listen: SocketAddr,
    /// The fleet CA's certificate (PEM).
    fleet_ca: PathBuf,
    /// This server's certificate (PEM).
    certificate: PathBuf,
    /// This server's private key (PEM).
    key: PathBuf,
    /// The fleet's public ticket key (PEM).
    ticket_key: PathBuf,
    /// The management table: see [`crate::table`].
    proxy_address: String,
    /// Local address to public address.
    #[serde(default)]
    public: BTreeMap<String, String>,
    /// How a proxy is chosen. Default `"two-choices"`.
    #[serde(default)]
    selection: Selection,
    /// Above this one-minute load average a proxy is not named. Default 8.
    #[serde(default = "load_average_max")]
    load_average_max: f64,
    /// An overloaded proxy has to come down to this. Default three quarters of the maximum.
    load_average_recover: Option<f64>,
    /// From one poll of a proxy to the next, in milliseconds. Default 1000. A dead proxy is named
    /// for at most this and `poll_timeout_ms` together; one whose program ends, not at all.
    #[serde(default = "poll_ms")]
    poll_interval_ms: u64,
    /// For a poll, connecting included, in milliseconds. Default 1000.
    #[serde(default = "poll_ms")]
    poll_timeout_ms: u64,
    /// Connections of boxes at once; each costs a file descriptor and about 20 KiB. Default 8192.
    #[serde(default = "connections_max")]
    connections_max: usize,
    /// How long a proxy that comes back takes from a tenth of its share to the whole, in seconds.
    /// Default 30; 0 gives it the whole at once.
    #[serde(default = "slow_start_seconds")]
    slow_start_seconds: u64,
    /// The socket of `avr-manager drain` and `reload`. Default [`CONTROL_PATH`].
    #[serde(default = "control")]
    control: PathBuf,
    /// Folder for what survives a restart: drains, and the last list of void tickets; made with mode
    /// 0700. Default [`DEFAULT_STATE_DIRECTORY`].
    #[serde(default = "state_directory")]
    state_directory: PathBuf,
    /// Authers that are asked which tickets are void before their time, in this order, as in
    /// `["10.0.0.9:4650"]`. Default none: then a suspension takes effect with the end of the ticket.
    #[serde(default)]
    auther: Vec<SocketAddr>,
    /// From one such question to the next, in seconds. Default 60.
    #[serde(default = "revocation_seconds")]
    revocation_seconds: u64,
    /// The port of the page and of the metrics. Default none.
    status: Option<StatusFile>,
    /// Log lines as `"text"` or `"json"`. Default text.
    #[serde(default)]
    log: telemetry::Format,
}

fn slow_start_seconds() -> u64 {
    SLOW_START_DEFAULT.as_secs()
}

fn revocation_seconds() -> u64 {
    revocations::FETCH_INTERVAL.as_secs()
}

fn control() -> PathBuf {
    PathBuf::from(CONTROL_PATH)
}

fn state_directory() -> PathBuf {
    PathBuf::from(DEFAULT_STATE_DIRECTORY)
}

fn load_average_max() -> f64 {
    8.0
}

fn poll_ms() -> u64 {
    1_000
}

fn connections_max() -> usize {
    8_192
}

/// Longest poll interval and timeout that make sense, in milliseconds.
const POLL_MS_MAX: u64 = 60_000;

/// The settings, checked, with the keys that they name. See the file's example for what each is.
#[derive(Debug)]
#[allow(missing_docs, reason = "the file's keys, documented there")]
pub struct Settings {
    pub listen: SocketAddr,
    pub tls: Tls,
    pub tickets: TicketVerifier,
    pub table: Table,
    pub selection: Selection,
    pub health: HealthSettings,
    pub poll_interval: Duration,
    pub poll_timeout: Duration,
    pub connections_max: usize,
    /// A manager's connections have nothing to finish: boxes ask the next one.
    pub drain_max: Duration,
    pub slow_start: Duration,
    pub auther: Vec<SocketAddr>,
    pub revocation_interval: Duration,
    pub state_directory: PathBuf,
    /// `None` only in tests.
    pub control: Option<PathBuf>,
    pub status: Option<StatusSettings>,
    /// The file that was read; it is read again when the operator says so.
    pub path: Option<PathBuf>,
    /// Waits that nobody has to set; tests shorten them.
    pub timing: Timing,
    pub log: telemetry::Format,
}

impl Settings {
    /// Reads the file and the keys and certificates it names. Binds nothing.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::from_document(&Document::load(path)?)
    }

    /// [`Settings::load`] for a document that is read already.
    ///
    /// # Errors
    /// See [`Settings::load`].
    pub fn from_document(document: &Document) -> Result<Self, ConfigError> {
        let file: File = document.parse()?;
        let table = Table::parse(&file.proxy_address, &file.public)
            .map_err(|error| document.invalid(&error.key, error.problem, error.remedy))?;
        let health = health(document, &file)?;
        let poll = |key, value_ms| match value_ms {
            1..=POLL_MS_MAX => Ok(Duration::from_millis(value_ms)),
            _ => Err(document.invalid(
                key,
                format!("`{key}`: {value_ms} ms is no sensible time"),
                format!("write a whole number from 1 to {POLL_MS_MAX} instead"),
            )),
        };
        let poll_interval = poll("poll_interval_ms", file.poll_interval_ms)?;
        let poll_timeout = poll("poll_timeout_ms", file.poll_timeout_ms)?;
        if file.connections_max == 0 {
            return Err(document.invalid(
                "connections_max",
                "`connections_max`: no box could connect",
                "write 1 or more instead",
            ));
        }
        let revocation_interval =
            revocations::check_settings(document, &file.auther, file.revocation_seconds)?;
        if file.slow_start_seconds > SLOW_START_S_MAX {
            return Err(document.invalid(
                "slow_start_seconds",
                format!("`slow_start_seconds`: {} s is no sensible time", file.slow_start_seconds),
                format!("write a whole number from 0 to {SLOW_START_S_MAX} instead"),
            ));
        }
        let in_settings = |error: files::FileError| error.in_settings(document);
        Ok(Self {
            listen: file.listen,
            tls: Tls::load(&file.fleet_ca, &file.certificate, &file.key).map_err(in_settings)?,
            tickets: files::ticket_verifier(&file.ticket_key).map_err(in_settings)?,
            table,
            selection: file.selection,
            health,
            poll_interval,
            poll_timeout,
            connections_max: file.connections_max,
            drain_max: Duration::from_secs(5),
            slow_start: Duration::from_secs(file.slow_start_seconds),
            auther: file.auther,
            revocation_interval,
            state_directory: file.state_directory,
            control: Some(file.control),
            status: file.status.map(|status| status.check(document)).transpose()?,
            path: Some(document.path().to_owned()),
            timing: Timing::default(),
            log: file.log,
        })
    }

    /// What is different from the settings that a manager was started with, and is taken by its next
    /// start only.
    #[must_use]
    pub fn what_takes_a_restart(&self, before: &Self) -> Vec<&'static str> {
        let status = |settings: &Self| settings.status.as_ref().map(|status| status.listen);
        [
            ("listen", self.listen != before.listen),
            ("ticket_key", self.tickets != before.tickets),
            ("connections_max", self.connections_max != before.connections_max),
            ("poll_interval_ms", self.poll_interval != before.poll_interval),
            ("poll_timeout_ms", self.poll_timeout != before.poll_timeout),
            ("auther", self.auther != before.auther),
            ("revocation_seconds", self.revocation_interval != before.revocation_interval),
            ("control", self.control != before.control),
            ("state_directory", self.state_directory != before.state_directory),
            ("status", status(self) != status(before)),
        ]
        .into_iter()
        .filter_map(|(key, is_different)| is_different.then_some(key))
        .collect()
    }

    /// File descriptors for everything that may be open at once.
    #[must_use]
    pub fn files_max(&self) -> u64 {
        // Boxes, proxies, and some for the status port, the operator, logs and the runtime.
        let files = self.connections_max.saturating_add(self.table.proxies().len() + 256);
        u64::try_from(files).unwrap_or(u64::MAX)
    }
}

/// Where the manager that runs with this settings file is told things. Reads no other file.
///
/// # Errors
/// The file cannot be read, or is wrong.
pub fn control_path(path: &Path) -> Result<PathBuf, ConfigError> {
    Ok(config::load::<File>(path)?.control)
}

fn health(document: &Document, file: &File) -> Result<HealthSettings, ConfigError> {
    let max = milli(document, "load_average_max", file.load_average_max)?;
    let recover = match file.load_average_recover {
        Some(recover) => milli(document, "load_average_recover", recover)?,
        None => max / 4 * 3,
    };
    if recover > max {
        return Err(document.invalid(
            "load_average_recover",
            "`load_average_recover` is above load_average_max: an overloaded proxy would flap",
            "write a smaller number instead, or leave it out",
        ));
    }
    Ok(HealthSettings {
        load_average_max_milli: max,
        load_average_recover_milli: recover,
        recover_polls: RECOVER_POLLS,
    })
}

/// A load average in thousandths.
fn milli(document: &Document, key: &str, value: f64) -> Result<u32, ConfigError> {
    // By way of its decimal digits, which is exact and needs no cast.
    host::milli(&value.to_string()).filter(|&milli| milli > 0).ok_or_else(|| {
        document.invalid(
            key,
            format!("`{key}`: {value} is no load average"),
            "write a number above 0 instead, as in 8.0",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "listen = \"127.0.0.1:0\"\nfleet_ca = \"x\"\ncertificate = \"x\"\n\
                        key = \"x\"\nticket_key = \"x\"\nproxy_address = \"10.0.0.1\"\n";
    const PUBLIC: &str = "[public]\n\"10.0.0.1\" = \"203.0.113.10\"\n";

    /// The error for this text between a file that is good but for its keys.
    fn error(more: &str) -> String {
        let document = Document::from_text("manager.toml", format!("{GOOD}{more}{PUBLIC}"));
        Settings::from_document(&document).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_line_and_remedy() {
        assert_eq!(
            error("load_average_max = 4\nload_average_recover = 4.5\n"),
            "manager.toml:8: `load_average_recover` is above load_average_max: \
             an overloaded proxy would flap; write a smaller number instead, or leave it out"
        );
        assert_eq!(
            error("load_average_max = -1\n"),
            "manager.toml:7: `load_average_max`: -1 is no load average; \
             write a number above 0 instead, as in 8.0"
        );
        assert!(error("load_average_max = nan\n").contains("NaN is no load average"));
        let many = vec!["\"10.0.0.9:4650\""; revocations::AUTHERS_MAX + 1].join(",");
        let many = error(&format!("auther = [{many}]\n"));
        assert!(many.starts_with("manager.toml:7: `auther` has more than 16 addresses"), "{many}");
        let never = error("revocation_seconds = 0\n");
        assert!(never.ends_with("write a whole number from 1 to 86400 instead"), "{never}");
        assert_eq!(
            error("slow_start_seconds = 3601\n"),
            "manager.toml:7: `slow_start_seconds`: 3601 s is no sensible time; \
             write a whole number from 0 to 3600 instead"
        );
        assert_eq!(
            error("poll_timeout_ms = 0\n"),
            "manager.toml:7: `poll_timeout_ms`: 0 ms is no sensible time; \
             write a whole number from 1 to 60000 instead"
        );
        assert_eq!(
            error("selection = \"two_choices\"\n"),
            "manager.toml:7: `selection`: unknown value \"two_choices\"; write \"two-choices\" \
             instead (possible: \"two-choices\", \"table\", \"least-load\")"
        );
        assert_eq!(
            error("connections_max = 0\n"),
            "manager.toml:7: `connections_max`: no box could connect; write 1 or more instead"
        );
        // All of it right: then the first key file is what is missing.
        assert!(error("load_average_max = 8.5\n").starts_with("manager.toml:2: `fleet_ca`: "));
    }

    #[test]
    fn mistakes_in_the_table_are_blamed_on_its_lines() {
        let text = format!("{GOOD}[public]\n\"10.0.0.9\" = \"203.0.113.10\"\n");
        let document = Document::from_text("manager.toml", text);
        assert_eq!(
            Settings::from_document(&document).unwrap_err().to_string(),
            "manager.toml:6: 10.0.0.1 has no public address; \
             write `\"10.0.0.1\" = \"PUBLIC-ADDRESS:PORT\"` under [public]"
        );
    }

    #[test]
    fn the_example_is_good_but_for_its_keys() {
        let text = include_str!("../manager.example.toml");
        let document = Document::from_text("manager.example.toml", text);
        let error = Settings::from_document(&document).unwrap_err().to_string();
        assert!(error.contains("`fleet_ca`: cannot read /etc/avr/fleet-ca.pem"), "{error}");
    }
}
