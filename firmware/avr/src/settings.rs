//! `avr.toml`: what the operator sets, and what it becomes once it is valid.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use box_relay::limits::WARM_LINKS_MAX;
use config::{ConfigError, Document};
use serde::Deserialize;
use session::settings::ScanSettings;

use crate::routes::{Route, Routes, Rule};

/// Where the settings are looked for by default.
pub const DEFAULT_PATH: &str = "/etc/avr/avr.toml";
/// Where the daemon's control socket is by default.
pub const DEFAULT_CONTROL: &str = "/run/avr/control.sock";

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
    /// Path of the control socket that `avr status` asks. Default `/run/avr/control.sock`.
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
    /// Default 1; each costs a site one idle TLS connection. At most 8.
    #[serde(default = "default_warm_links")]
    pub warm_links: usize,
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
                "is the same interface as ports.lan",
                "the name of the other port",
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
                    "is no interface name",
                    "a name as `ip link` shows it, of at most 15 characters",
                ));
            }
        }
        if let Some(port) = self.ports.smtp.iter().find(|port| self.ports.pop3.contains(port)) {
            return Err(document.invalid(
                "ports.pop3",
                format!("names port {port}, which ports.smtp has too"),
                "each port in one of the two lists",
            ));
        }
        if self.ports.smtp.is_empty() && self.ports.pop3.is_empty() {
            return Err(document.invalid("ports.smtp", "no mail port is left", "[25, 587, 2525]"));
        }
        let Some(relay) = &self.relay else { return Ok(()) };
        for (path, key, file) in [
            (&self.identity.fleet_ca, "fleet_ca", "fleet-ca.pem"),
            (&self.identity.ticket_key, "ticket_key", "ticket.pub"),
        ] {
            if path.is_none() {
                return Err(document.invalid(
                    "identity",
                    format!("has no {key}, which [relay] needs"),
                    format!("{key} = \"/etc/avr/{file}\", the file that `avr-auther init` made"),
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
                "is no domain name",
                "the fleet's domain, as in \"avr.example.net\", without a dot at the end",
            ));
        }
        if relay.warm_links == 0 || relay.warm_links > WARM_LINKS_MAX {
            return Err(document.invalid(
                "relay.warm_links",
                "is out of range",
                format!("a number from 1 to {WARM_LINKS_MAX}"),
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

#[cfg(test)]
mod tests {
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
        settings.scan.carrier().unwrap();
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
        for (from, to, line, words) in [
            ("wan = \"wan0\"", "wan = \"lan0\"", 4, "same interface"),
            ("wan = \"wan0\"", "wann = \"wan0\"", 4, "wan"),
            ("bridge = \"br0\"", "bridge = \"a bridge\"", 5, "15 characters"),
            ("domain = \"avr.example.net\"", "domain = \"-..-\"", 13, "domain name"),
            ("use = \"direct\"", "use = \"driect\"", 18, "direct"),
        ] {
            let error = wrong(from, to);
            assert!(error.starts_with(&format!("avr.toml:{line}: ")), "{error}");
            assert!(error.contains(words), "{error}");
        }
        let error = wrong("fleet_ca = \"/etc/avr/fleet-ca.pem\"", "");
        assert!(error.contains("avr-auther init"), "{error}");
    }
}
