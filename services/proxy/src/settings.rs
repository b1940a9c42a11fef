//! The settings file, `proxy.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{ConfigError, Document};
use journal::settings::JournalSettings;
use quarantine::settings::QuarantineSettings;
use quarantine::{Vault, VaultError, VaultKey};
use records::{Places, Records};
use serde::Deserialize;
use service_kit::http::{StatusFile, StatusSettings};
use service_kit::{FileError, Tls, files, host, revocations};
use session::Carrier;
use session::settings::{Around, ScanSettings};
use wire::ticket::TicketVerifier;

use crate::boxes::Timing;
use crate::policy::{NETWORKS_MAX, Network, Policy};

/// Where a program without `--config` looks.
pub const DEFAULT_PATH: &str = "/etc/avr/proxy.toml";

/// Where the state is kept by default.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/avr-proxy";

/// Where the operator's commands find a proxy that runs.
pub const CONTROL_PATH: &str = "/run/avr-proxy/control";

/// Most sessions a setting may ask for: each has two sockets of some 64 KiB at least.
pub const SESSIONS_MAX_MAX: usize = 100_000;

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Address and port for boxes and managers, as in `"0.0.0.0:4652"`.
    listen: SocketAddr,
    /// The fleet CA's certificate (PEM).
    fleet_ca: PathBuf,
    /// This server's certificate (PEM).
    certificate: PathBuf,
    /// This server's private key (PEM).
    key: PathBuf,
    /// The fleet's public ticket key (PEM).
    ticket_key: PathBuf,
    /// This site's public addresses and networks, which are no destinations. The addresses of this
    /// host are known and need not be here. Default none.
    #[serde(default)]
    own_addresses: Vec<Network>,
    /// Ports that may be connected to. Default 25, 110, 587, 2525.
    #[serde(default = "mail_ports")]
    mail_ports: Vec<u16>,
    /// Only for tests: networks that may be connected to although they are private, reserved or
    /// this site's own. Default none.
    #[serde(default)]
    test_networks: Vec<Network>,
    /// Sessions at once. Default 2000; each costs two file descriptors and about 100 KiB, and what
    /// is scanned in it.
    #[serde(default = "sessions_max")]
    sessions_max: usize,
    /// How long a mail server may take to accept, in seconds. Default 25: below the 30 after which
    /// a box gives up by itself.
    #[serde(default = "connect_seconds_max")]
    connect_seconds_max: u64,
    /// How long sessions may go on after SIGTERM, in seconds. Default 60. systemd is asked to wait as
    /// long; another service manager has to be told.
    #[serde(default = "drain_seconds_max")]
    drain_seconds_max: u64,
    /// Mail servers that are told who the office's client is, in front of the first byte, by the PROXY
    /// protocol, version 2: addresses and networks. They have to expect it, and believe what boxes
    /// say. Default none.
    #[serde(default)]
    proxy_protocol: Vec<Network>,
    /// Authers that are asked which tickets are void before their time, in this order, as in
    /// `["10.0.0.9:4650"]`. Default none: then a suspension takes effect with the end of the ticket.
    #[serde(default)]
    auther: Vec<SocketAddr>,
    /// From one such question to the next, in seconds. Default 60.
    #[serde(default = "revocation_seconds")]
    revocation_seconds: u64,
    /// The socket of `avr-proxy drain`, `undrain` and `status`. Default [`CONTROL_PATH`].
    #[serde(default = "control")]
    control: PathBuf,
    /// Folder for what survives a restart: a drain, the last list of void tickets, and what is kept of
    /// mails, with quarantine and journal below it; made with mode 0700. Default `/var/lib/avr-proxy`.
    #[serde(default = "state_directory")]
    state_directory: PathBuf,
    /// What is scanned, by what, and what is done then.
    #[serde(default)]
    scan: ScanSettings,
    /// The port of the metrics. Default none.
    status: Option<StatusFile>,
    /// Sealed copies of refused mail.
    #[serde(default)]
    quarantine: QuarantineSettings,
    /// A line for every mail.
    #[serde(default)]
    journal: JournalSettings,
    /// Log lines as `"text"` or `"json"`. Default text.
    #[serde(default)]
    log: telemetry::Format,
}

fn mail_ports() -> Vec<u16> {
    vec![25, 110, 587, 2525]
}

fn sessions_max() -> usize {
    2_000
}

fn connect_seconds_max() -> u64 {
    25
}

fn revocation_seconds() -> u64 {
    revocations::FETCH_INTERVAL.as_secs()
}

fn control() -> PathBuf {
    CONTROL_PATH.into()
}

fn state_directory() -> PathBuf {
    DEFAULT_STATE_DIRECTORY.into()
}

fn drain_seconds_max() -> u64 {
    60
}

/// The settings, checked, with the keys and engines that they name. See the file's example for what
/// each is.
#[derive(Debug)]
#[allow(missing_docs, reason = "the file's keys, documented there")]
pub struct Settings {
    pub listen: SocketAddr,
    pub tls: Tls,
    pub tickets: TicketVerifier,
    pub policy: Policy,
    pub proxy_protocol: Vec<Network>,
    pub auther: Vec<SocketAddr>,
    pub revocation_interval: Duration,
    /// `None` only in tests.
    pub control: Option<PathBuf>,
    pub sessions_max: usize,
    pub connect_time_max: Duration,
    pub drain_max: Duration,
    pub carrier: Carrier,
    pub scan: ScanSettings,
    pub kept: Kept,
    /// Waits that nobody has to set; tests shorten them.
    pub timing: Timing,
    /// Where the load average is read; a setting only of tests.
    pub load_average: PathBuf,
    pub status: Option<StatusSettings>,
    pub log: telemetry::Format,
}

/// Where what is kept of mails is, and the key that it is sealed with: the server's own.
#[derive(Debug, Clone)]
pub struct Kept {
    state_directory: PathBuf,
    quarantine: QuarantineSettings,
    journal: JournalSettings,
    key: VaultKey,
}

impl Kept {
    /// Reads of the file what a command needs that looks at what is kept, and nothing else: rules
    /// take their time.
    ///
    /// # Errors
    /// See [`Settings::load`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let document = Document::load(path)?;
        let file: File = document.parse()?;
        check(&document, &file)?;
        Self::of(&file).map_err(|error| error.in_settings(&document))
    }

    fn of(file: &File) -> Result<Self, FileError> {
        let pem = files::read_pem("key", &file.key)?;
        let key = VaultKey::from_pem(&pem)
            .map_err(|error| FileError::unusable("key", &file.key, &error))?;
        Ok(Self {
            state_directory: file.state_directory.clone(),
            quarantine: file.quarantine.clone(),
            journal: file.journal.clone(),
            key,
        })
    }

    /// The folder of all that survives a restart.
    #[must_use]
    pub fn state_directory(&self) -> &Path {
        &self.state_directory
    }

    /// The folders.
    #[must_use]
    pub fn places(&self) -> Places<'_> {
        Places {
            state_directory: &self.state_directory,
            quarantine: &self.quarantine,
            journal: &self.journal,
        }
    }

    /// For the daemon. What cannot be used is in the log, with what to do.
    #[must_use]
    pub fn open(&self) -> Records {
        Records::open(&self.places(), Ok(self.key.clone()))
    }

    /// The quarantine, for a command that a person types.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn vault(&self) -> Result<Vault, VaultError> {
        self.places().vault(&self.key)
    }
}

impl Settings {
    /// Reads the file and the keys, certificates and rules it names. Binds and connects nothing.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::from_document(&Document::load(path)?, Around::nothing())
    }

    /// [`Settings::load`] for a document that is read already.
    ///
    /// # Errors
    /// See [`Settings::load`].
    pub fn from_document(document: &Document, around: Around) -> Result<Self, ConfigError> {
        let file: File = document.parse()?;
        check(document, &file)?;
        let in_settings = |error: FileError| error.in_settings(document);
        let revocation_interval =
            revocations::check_settings(document, &file.auther, file.revocation_seconds)?;
        let tls = Tls::load(&file.fleet_ca, &file.certificate, &file.key).map_err(in_settings)?;
        let tickets = files::ticket_verifier(&file.ticket_key).map_err(in_settings)?;
        let kept = Kept::of(&file).map_err(in_settings)?;
        let carrier = file.scan.carrier_in(document, around)?;
        Ok(Self {
            listen: file.listen,
            tls,
            tickets,
            policy: Policy {
                mail_ports: file.mail_ports,
                own: file.own_addresses,
                test: file.test_networks,
            },
            proxy_protocol: file.proxy_protocol,
            auther: file.auther,
            revocation_interval,
            control: Some(file.control),
            sessions_max: file.sessions_max,
            connect_time_max: Duration::from_secs(file.connect_seconds_max),
            drain_max: Duration::from_secs(file.drain_seconds_max),
            carrier,
            scan: file.scan,
            kept,
            timing: Timing::default(),
            load_average: PathBuf::from(host::LOADAVG_PATH),
            status: file.status.map(|status| status.check(document)).transpose()?,
            log: file.log,
        })
    }

    /// File descriptors for everything that may be open at once.
    #[must_use]
    pub fn files_max(&self) -> u64 {
        // Two a session, one any other connection, and some for engines, logs and the runtime.
        let connections = 2 * self.sessions_max + crate::CONNECTIONS_BESIDE_SESSIONS_MAX + 256;
        u64::try_from(connections).unwrap_or(u64::MAX)
    }
}

/// Where the proxy that runs with this settings file is told things. Reads no other file.
///
/// # Errors
/// The file cannot be read, or is wrong.
pub fn control_path(path: &Path) -> Result<PathBuf, ConfigError> {
    Ok(config::load::<File>(path)?.control)
}

/// What types cannot say.
fn check(document: &Document, file: &File) -> Result<(), ConfigError> {
    if file.mail_ports.is_empty() || file.mail_ports.contains(&0) {
        return Err(document.invalid(
            "mail_ports",
            "`mail_ports` names no port that could be connected to",
            "write ports of mail instead, as in [25, 110, 587, 2525]",
        ));
    }
    for (key, networks) in [
        ("own_addresses", &file.own_addresses),
        ("test_networks", &file.test_networks),
        ("proxy_protocol", &file.proxy_protocol),
    ] {
        if networks.len() > NETWORKS_MAX {
            return Err(document.invalid(
                key,
                format!("`{key}` has more than {NETWORKS_MAX} networks"),
                "write larger networks instead of single addresses",
            ));
        }
    }
    let in_range = |key: &str, value: u64, max: u64| {
        if (1..=max).contains(&value) {
            return Ok(());
        }
        Err(document.invalid(
            key,
            format!("`{key}`: {value} is out of range"),
            format!("write a whole number from 1 to {max} instead"),
        ))
    };
    let sessions_max = u64::try_from(file.sessions_max).unwrap_or(u64::MAX);
    in_range("sessions_max", sessions_max, SESSIONS_MAX_MAX.try_into().unwrap_or(u64::MAX))?;
    in_range("connect_seconds_max", file.connect_seconds_max, 300)?;
    in_range("drain_seconds_max", file.drain_seconds_max, 24 * 60 * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "listen = \"127.0.0.1:0\"\nfleet_ca = \"x\"\ncertificate = \"x\"\n\
                        key = \"x\"\nticket_key = \"x\"\n";

    /// The error for this text behind one that is good but for its key files.
    fn error(more: &str) -> String {
        let document = Document::from_text("proxy.toml", format!("{GOOD}{more}"));
        Settings::from_document(&document, Around::nothing()).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_line_and_remedy() {
        assert_eq!(
            error("test_networks = [\n  \"127.0.0.0/8\",\n  \"10.0.0.0/33\",\n]\n"),
            "proxy.toml:8: `test_networks`: \"10.0.0.0/33\" is no network; \
             write an address or network, as in \"203.0.113.0/24\" instead"
        );
        assert_eq!(
            error("mail_ports = []\n"),
            "proxy.toml:6: `mail_ports` names no port that could be connected to; \
             write ports of mail instead, as in [25, 110, 587, 2525]"
        );
        assert_eq!(
            error("sessions_max = 0\n"),
            "proxy.toml:6: `sessions_max`: 0 is out of range; \
             write a whole number from 1 to 100000 instead"
        );
        assert!(error("drain_seconds_max = 100000\n").contains("from 1 to 86400"));
        assert!(error("connect_seconds_max = 0\n").contains("from 1 to 300"));
        assert!(error("[scan]\nmode = \"of\"\n").starts_with("proxy.toml:7: `scan.mode`: "));
        let error_of = error("[quarantine]\ndays_max = 0\n");
        assert!(error_of.starts_with("proxy.toml:7: `quarantine.days_max`: "), "{error_of}");
        let error_of = error("[journal]\nbytes = 1\n");
        assert!(error_of.starts_with("proxy.toml:7: unknown key `bytes` in [journal]; "));
        let many = vec!["\"192.0.2.1\""; NETWORKS_MAX + 1].join(",");
        assert!(error(&format!("own_addresses = [{many}]\n")).contains("more than 1024 networks"));
        assert!(
            error("proxy_protocol = [\"mx.example\"]\n")
                .starts_with("proxy.toml:6: `proxy_protocol`: \"mx.example\" is no network; ")
        );
        assert!(
            error("revocation_seconds = 0\n").starts_with("proxy.toml:6: `revocation_seconds`")
        );
        // All of it right: then the first key file is what is missing.
        assert!(error("sessions_max = 10\n").starts_with("proxy.toml:2: `fleet_ca`: "));
    }

    #[test]
    fn the_example_is_good_but_for_its_keys() {
        let text = include_str!("../proxy.example.toml");
        let document = Document::from_text("proxy.example.toml", text);
        let error = Settings::from_document(&document, Around::nothing()).unwrap_err().to_string();
        assert!(error.contains("`fleet_ca`: cannot read /etc/avr/fleet-ca.pem"), "{error}");
        let file: File = document.parse().unwrap();
        assert_eq!(file.state_directory, Path::new(DEFAULT_STATE_DIRECTORY));
        assert_eq!(file.control, Path::new(CONTROL_PATH));
        assert_eq!(file.revocation_seconds, revocation_seconds());
        assert_eq!(file.quarantine, QuarantineSettings::default());
        assert_eq!(file.journal, JournalSettings::default());
    }
}
