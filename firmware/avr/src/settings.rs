//! `avr.toml`: what the operator sets, and what it becomes once it is valid.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use box_fetch::Url;
use box_fetch::schedule::Window;
use box_relay::limits::WARM_LINKS_MAX;
use config::{ConfigError, Document};
use journal::settings::JournalSettings;
use quarantine::settings::QuarantineSettings;
use serde::Deserialize;
use session::settings::{Around, ScanSettings};
use wire::identity::FleetRoots;
use wire::ticket::TicketVerifier;

use crate::routes::{Route, Routes, Rule};

/// Where the settings are looked for by default.
pub const DEFAULT_PATH: &str = "/etc/avr/avr.toml";
/// Where the daemon's control socket is by default.
pub const DEFAULT_CONTROL: &str = "/run/avr/control.sock";
/// The longest time between two looks for updates, in hours.
pub const INTERVAL_HOURS_MAX: u64 = 168;

/// The file as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The two Ethernet ports and the bridge over them.
    pub ports: Ports,
    /// The unit's identity.
    pub identity: Identity,
    /// Relay sites. Without the table every session goes direct, scanned here.
    pub relay: Option<Relay>,
    /// Exceptions, first match wins.
    #[serde(default)]
    pub route: Vec<Rule>,
    /// Engines and policy.
    #[serde(default)]
    pub scan: ScanSettings,
    /// Sealed copies of refused mail.
    #[serde(default)]
    pub quarantine: QuarantineSettings,
    /// A line for every mail.
    #[serde(default)]
    pub journal: JournalSettings,
    /// Where updates come from by themselves. Without the table, only by hand.
    pub updates: Option<Updates>,
    /// Path of the control socket that `avr status` and `avr snooze` ask. Default
    /// `/run/avr/control.sock`.
    #[serde(default = "default_control")]
    pub control: PathBuf,
    /// `"text"` or `"json"`. Default text.
    #[serde(default)]
    pub log: telemetry::Format,
}

/// See [`Settings::ports`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// Interface towards the office's switch.
    pub lan: String,
    /// Interface towards the router.
    pub wan: String,
    /// The bridge over both; made if it is not there. Its address is the box's own.
    pub bridge: String,
    /// TCP ports that are taken as SMTP. Default 25, 587, 2525.
    #[serde(default = "default_smtp")]
    pub smtp: Vec<u16>,
    /// TCP ports that are taken as POP3. Default 110.
    #[serde(default = "default_pop3")]
    pub pop3: Vec<u16>,
}

/// See [`Settings::identity`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Folder for the device key, the ticket and the last good lists; made with mode 0700.
    pub state_directory: PathBuf,
    /// The fleet's CA certificate, PEM; needed with `[relay]`.
    pub fleet_ca: Option<PathBuf>,
    /// The fleet's public ticket key, PEM; needed with `[relay]`.
    pub ticket_key: Option<PathBuf>,
}

/// See [`Settings::relay`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// `manager.<domain>` and `auther.<domain>` are asked of DNS.
    pub domain: String,
    /// DNS servers; those of `/etc/resolv.conf` if empty.
    #[serde(default)]
    pub resolvers: Vec<IpAddr>,
    /// `"relay"`, `"direct"` or `"bypass"` for sessions that no `[[route]]` names. Default relay.
    #[serde(default)]
    pub route: Route,
    /// TCP port of managers. Default 4651.
    #[serde(default = "default_manager_port")]
    pub manager_port: u16,
    /// TCP port of authers. Default 4650.
    #[serde(default = "default_auther_port")]
    pub auther_port: u16,
    /// Proxy connections kept ready, so that a session costs one round trip more than a direct one.
    /// Default 1; each costs a site one idle TLS connection. At most 16.
    #[serde(default = "default_warm_links")]
    pub warm_links: usize,
}

/// See [`Settings::updates`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Updates {
    /// Folder on a web server with `index.toml` and the bundles it names, as in
    /// `https://updates.example.net/avr/`; `http://` will do, since what counts is the signature.
    pub url: String,
    /// For `https://`: PEM file of the authority that has signed the server's certificate.
    pub ca: Option<PathBuf>,
    /// How often is looked, in hours, 1 to 168. Default 6.
    #[serde(default = "default_interval_hours")]
    pub interval_hours: u64,
    /// When the box may start anew for an update that is installed: a time of the day in UTC, as in
    /// `"17:00-20:00"`. It costs the office some 20 seconds. Default: never by itself.
    pub restart: Option<Window>,
}

impl Updates {
    /// Where the index is, relative to which its bundles are.
    ///
    /// # Errors
    ///
    /// The address is none.
    pub fn folder(&self) -> Result<Url, box_fetch::UrlError> {
        self.url.parse()
    }

    fn check(&self, document: &Document) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: String, remedy: &str| {
            Err(document.invalid(
                &format!("updates.{key}"),
                format!("`updates.{key}`: {problem}"),
                remedy,
            ))
        };
        let example = "write the folder's address, as in \"https://updates.example.net/avr/\"";
        let url = match self.folder() {
            Ok(url) if url.request_target().ends_with('/') => url,
            Ok(_) => return wrong("url", "it does not end with a slash".to_owned(), example),
            Err(error) => return wrong("url", error.to_string(), example),
        };
        if url.is_secure() && self.ca.is_none() {
            let remedy =
                "write updates.ca = \"/state/config/fleet/updates-ca.pem\", or http:// in url";
            return wrong("url", "https:// needs an authority to believe".to_owned(), remedy);
        }
        if !(1..=INTERVAL_HOURS_MAX).contains(&self.interval_hours) {
            let remedy = format!("write a number from 1 to {INTERVAL_HOURS_MAX} instead");
            return wrong(
                "interval_hours",
                format!("{} is out of range", self.interval_hours),
                &remedy,
            );
        }
        Ok(())
    }
}

impl Settings {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Names file, line, what is wrong and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let document = Document::load(path)?;
        let settings: Self = document.parse()?;
        settings.check(&document)?;
        Ok(settings)
    }

    /// [`Settings::load`], and looks at every file that the settings name. Opens no port and makes
    /// nothing.
    ///
    /// # Errors
    ///
    /// Names file, line, what is wrong and what to write instead.
    pub fn check_files(path: &Path) -> Result<(), ConfigError> {
        let document = Document::load(path)?;
        let settings: Self = document.parse()?;
        settings.check(&document)?;
        settings.scan.carrier_in(&document, Around::nothing())?;
        let unusable = |key: &str, path: &Path, error: &dyn std::error::Error, file: &str| {
            let key = format!("identity.{key}");
            let problem =
                format!("`{key}`: cannot use {}: {}", path.display(), telemetry::chain(error));
            let remedy = format!("write the path of the fleet's {file} instead");
            document.invalid(&key, problem, remedy)
        };
        if let Some(path) = &settings.identity.fleet_ca {
            let wrong =
                |error: &dyn std::error::Error| unusable("fleet_ca", path, error, "fleet-ca.pem");
            let pem = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
            FleetRoots::from_pem(&pem).map_err(|error| wrong(&error))?;
        }
        if let Some(path) = settings.updates.as_ref().and_then(|updates| updates.ca.as_ref()) {
            crate::fetch::trust(path).map_err(|error| {
                let problem = format!("`updates.ca`: cannot use {}: {error:#}", path.display());
                document.invalid("updates.ca", problem, "write the path of an authority's PEM file")
            })?;
        }
        if let Some(path) = &settings.identity.ticket_key {
            let wrong =
                |error: &dyn std::error::Error| unusable("ticket_key", path, error, "ticket.pub");
            let pem = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
            TicketVerifier::from_pem(&pem).map_err(|error| wrong(&error))?;
        }
        Ok(())
    }

    /// How sessions are routed.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let default = self.relay.as_ref().map_or(Route::Direct, |relay| relay.route);
        Routes::new(self.route.clone(), default)
    }

    /// The DNS servers with their port.
    #[must_use]
    pub fn resolvers(&self) -> Vec<SocketAddr> {
        let relay = self.relay.as_ref();
        relay.map_or(&[][..], |relay| &relay.resolvers).iter().map(|&ip| (ip, 53).into()).collect()
    }

    fn check(&self, document: &Document) -> Result<(), ConfigError> {
        if self.ports.lan == self.ports.wan {
            return Err(document.invalid(
                "ports.wan",
                format!("`ports.wan`: {} is ports.lan already", self.ports.wan),
                "write the name of the other port instead",
            ));
        }
        for (key, name) in [
            ("ports.lan", &self.ports.lan),
            ("ports.wan", &self.ports.wan),
            ("ports.bridge", &self.ports.bridge),
        ] {
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ', '"']) {
                return Err(document.invalid(
                    key,
                    format!("`{key}`: {name:?} is no interface name"),
                    "write a name as `ip link` shows it, of at most 15 characters, instead",
                ));
            }
        }
        if let Some(port) = self.ports.smtp.iter().find(|port| self.ports.pop3.contains(port)) {
            return Err(document.invalid(
                "ports.pop3",
                format!("`ports.pop3`: {port} is in ports.smtp already"),
                "write each port in one of the two lists only",
            ));
        }
        if self.ports.smtp.is_empty() && self.ports.pop3.is_empty() {
            return Err(document.invalid(
                "ports.smtp",
                "`ports.smtp` and `ports.pop3` are empty: no session would be taken",
                "write the ports of mail instead, as in smtp = [25, 587, 2525]",
            ));
        }
        if let Some(updates) = &self.updates {
            updates.check(document)?;
        }
        let Some(relay) = &self.relay else { return Ok(()) };
        for (path, key, file) in [
            (&self.identity.fleet_ca, "fleet_ca", "fleet-ca.pem"),
            (&self.identity.ticket_key, "ticket_key", "ticket.pub"),
        ] {
            if path.is_none() {
                return Err(document.invalid(
                    "identity",
                    format!("[identity] has no {key}, which [relay] needs"),
                    format!("write {key} = \"/etc/avr/{file}\", the file from `avr-auther init`"),
                ));
            }
        }
        let labels_are_good = relay.domain.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
        if !labels_are_good || relay.domain.len() > 240 {
            return Err(document.invalid(
                "relay.domain",
                format!("`relay.domain`: {:?} is no domain name", relay.domain),
                "write the fleet's domain, as in \"avr.example.net\", without a dot at the end",
            ));
        }
        if relay.warm_links == 0 || relay.warm_links > WARM_LINKS_MAX {
            return Err(document.invalid(
                "relay.warm_links",
                format!("`relay.warm_links`: {} is out of range", relay.warm_links),
                format!("write a number from 1 to {WARM_LINKS_MAX} instead"),
            ));
        }
        Ok(())
    }
}

fn default_control() -> PathBuf {
    DEFAULT_CONTROL.into()
}

fn default_smtp() -> Vec<u16> {
    vec![25, 587, 2525]
}

fn default_pop3() -> Vec<u16> {
    vec![110]
}

fn default_manager_port() -> u16 {
    wire::MANAGER_PORT
}

fn default_auther_port() -> u16 {
    wire::AUTHER_PORT
}

fn default_warm_links() -> usize {
    1
}

fn default_interval_hours() -> u64 {
    6
}

#[cfg(test)]
mod tests {
    use wire::identity::FleetCa;
    use wire::ticket::TicketSigner;

    use super::*;

    const GOOD: &str = r#"
[ports]
lan = "lan0"
wan = "wan0"
bridge = "br0"

[identity]
state_directory = "/var/lib/avr"
fleet_ca = "/etc/avr/fleet-ca.pem"
ticket_key = "/etc/avr/ticket.pub"

[relay]
domain = "avr.example.net"
resolvers = ["192.0.2.53", "2001:db8::53"]

[[route]]
port = 587
use = "direct"

[scan]
clamd = ["unix:/run/clamav/clamd.ctl"]
"#;

    fn read(text: &str) -> Result<Settings, String> {
        let document = Document::from_text("avr.toml", text);
        let settings: Settings = document.parse().map_err(|error| error.to_string())?;
        settings.check(&document).map_err(|error| error.to_string())?;
        Ok(settings)
    }

    /// The one line that is wrong is named, and what is wrong with it.
    fn wrong(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        read(&GOOD.replacen(from, to, 1)).unwrap_err()
    }

    #[test]
    fn the_example_file_is_right() {
        let settings = read(include_str!("../avr.example.toml")).unwrap();
        settings.scan.carrier(Around::nothing()).unwrap();
        assert_eq!(settings.quarantine, QuarantineSettings::default());
        assert_eq!(settings.journal, JournalSettings::default());
        let office_server = "192.168.1.20:5000".parse().unwrap();
        let way = settings.routes().choose(office_server, "192.0.2.1:25".parse().unwrap());
        assert_eq!(way, Route::Bypass);
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let settings = read(GOOD).unwrap();
        assert_eq!(settings.ports.smtp, [25, 587, 2525]);
        assert_eq!(settings.control, Path::new(DEFAULT_CONTROL));
        assert_eq!(settings.resolvers()[1], "[2001:db8::53]:53".parse().unwrap());
        let lan = "192.168.1.2:5000".parse().unwrap();
        assert_eq!(settings.routes().choose(lan, "192.0.2.1:587".parse().unwrap()), Route::Direct);
        assert_eq!(settings.routes().choose(lan, "192.0.2.1:25".parse().unwrap()), Route::Relay);
    }

    #[test]
    fn without_a_relay_table_everything_goes_direct() {
        let text: String = GOOD.split("[relay]").next().unwrap().to_owned();
        let settings = read(&text).unwrap();
        let lan = "192.168.1.2:5000".parse().unwrap();
        assert_eq!(settings.routes().choose(lan, "192.0.2.1:25".parse().unwrap()), Route::Direct);
    }

    #[test]
    fn errors_name_line_and_remedy() {
        for (from, to, line, says) in [
            (
                "wan = \"wan0\"",
                "wan = \"lan0\"",
                4,
                "`ports.wan`: lan0 is ports.lan already; write the name of the other port instead",
            ),
            (
                "bridge = \"br0\"",
                "bridge = \"a bridge\"",
                5,
                "`ports.bridge`: \"a bridge\" is no interface name; \
                 write a name as `ip link` shows it, of at most 15 characters, instead",
            ),
            (
                "bridge = \"br0\"",
                "bridge = \"br0\"\npop3 = [110, 25]",
                6,
                "`ports.pop3`: 25 is in ports.smtp already; \
                 write each port in one of the two lists only",
            ),
            (
                "bridge = \"br0\"",
                "bridge = \"br0\"\nsmtp = []\npop3 = []",
                6,
                "`ports.smtp` and `ports.pop3` are empty: no session would be taken; \
                 write the ports of mail instead, as in smtp = [25, 587, 2525]",
            ),
            (
                "domain = \"avr.example.net\"",
                "domain = \"-..-\"",
                13,
                "`relay.domain`: \"-..-\" is no domain name; \
                 write the fleet's domain, as in \"avr.example.net\", without a dot at the end",
            ),
            (
                "domain = \"avr.example.net\"",
                "domain = \"a\"\nwarm_links = 17",
                14,
                "`relay.warm_links`: 17 is out of range; write a number from 1 to 16 instead",
            ),
            (
                "fleet_ca = \"/etc/avr/fleet-ca.pem\"",
                "",
                7,
                "[identity] has no fleet_ca, which [relay] needs; \
                 write fleet_ca = \"/etc/avr/fleet-ca.pem\", the file from `avr-auther init`",
            ),
        ] {
            assert_eq!(wrong(from, to), format!("avr.toml:{line}: {says}"));
        }
        let error = wrong("[scan]", "[quarantine]\ndays_max = 0\n\n[scan]");
        assert!(error.starts_with("avr.toml:21: `quarantine.days_max`: "), "{error}");
        let error = wrong("[scan]", "[journal]\nbytes = 1\n\n[scan]");
        assert!(error.starts_with("avr.toml:21: unknown key `bytes` in [journal]; "), "{error}");
        for (table, line, told) in [
            (
                "url = \"http://a/b\"",
                21,
                "`updates.url`: it does not end with a slash; write the folder's",
            ),
            ("url = \"a\"", 21, "`updates.url`: the address has no http://"),
            (
                "url = \"https://a/\"",
                21,
                "https:// needs an authority to believe; write updates.ca",
            ),
            (
                "url = \"http://a/\"\ninterval_hours = 0",
                22,
                "0 is out of range; write a number from 1 to",
            ),
            ("url = \"http://a/\"\nrestart = \"night\"", 22, "\"night\" is no time of the day"),
        ] {
            let error = wrong("[scan]", &format!("[updates]\n{table}\n\n[scan]"));
            assert!(
                error.starts_with(&format!("avr.toml:{line}: ")) && error.contains(told),
                "{error}"
            );
        }
        let error = wrong("wan = \"wan0\"", "wann = \"wan0\"");
        assert!(error.starts_with("avr.toml:4: ") && error.contains("wan"), "{error}");
        let error = wrong("use = \"direct\"", "use = \"driect\"");
        assert!(error.starts_with("avr.toml:18: ") && error.contains("direct"), "{error}");
    }

    #[test]
    fn files_that_are_named_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let ca = FleetCa::create().unwrap().certificate_pem();
        let ticket_key = TicketSigner::generate().unwrap().verifier().to_pem();
        let check = |ca: &str, ticket_key: &str| {
            std::fs::write(path("fleet-ca.pem"), ca).unwrap();
            std::fs::write(path("ticket.pub"), ticket_key).unwrap();
            let text = GOOD.replace("/etc/avr", &folder.path().display().to_string());
            std::fs::write(path("avr.toml"), text).unwrap();
            Settings::check_files(&path("avr.toml")).map_err(|error| error.to_string())
        };
        check(&ca, &ticket_key).unwrap();
        let error = check(&ticket_key, &ticket_key).unwrap_err();
        assert!(error.contains("avr.toml:9: `identity.fleet_ca`: cannot use "), "{error}");
        let error = check(&ca, &ca).unwrap_err();
        assert!(error.contains("avr.toml:10: `identity.ticket_key`: cannot use "), "{error}");
        assert!(error.ends_with("; write the path of the fleet's ticket.pub instead"), "{error}");
    }
}
