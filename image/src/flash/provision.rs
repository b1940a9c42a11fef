//! What makes a box one unit of a fleet: its settings, as the files of STATE that PID 1 starts with.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use box_init::BOX_DEFAULT;
use box_init::control::NetworkSettings;
use config::{ConfigError, Document};
use serde::de::{Deserialize, Deserializer, Error as _, Unexpected};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::ImageError;
use crate::error::{Step as _, run};
use crate::ext4::StateFile;

/// Longest serial number, in bytes; as the auther takes it.
const SERIAL_BYTES_MAX: usize = 64;
/// Longest note, in bytes; as the auther takes it.
const NOTE_BYTES_MAX: usize = 256;
/// Largest certificate or key that is read, in bytes.
const PEM_BYTES_MAX: u64 = 64 * 1024;
/// Where the fleet's files are on the box.
const FLEET: &str = "/state/config/fleet";
/// Paths in the gateway's settings that only the box has.
const BOX_PATHS: &[&str] = &["rules", "hashes", "templates"];

/// The provisioning file. All of it may be left out.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provision {
    /// Serial number, as on the case: letters, digits and `-_./#`, at most 64. Default: what the
    /// machine's maker has stored in it.
    pub serial: String,
    /// For the operator's list, as in "front desk". At most 256 bytes.
    pub note: String,
    /// File with the admin secret, on one line. Default: asked for.
    pub secret_file: Option<PathBuf>,
    /// MAC addresses of the ports, where they are known.
    pub mac: Macs,
    /// The fleet. Without it mail goes straight to its server, scanned on the box.
    pub fleet: Option<Fleet>,
    /// The box's name and its own addresses, as in `network.toml`. Default: by DHCP.
    pub network: NetworkSettings,
    /// More settings of the gateway, as in `avr.toml`; they win over the box's own.
    #[serde(rename = "box")]
    pub gateway: Table,
}

/// See [`Provision::mac`].
#[derive(Debug, Clone, Copy, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Macs {
    /// The office's switch. The box is admitted by this one.
    pub lan: Option<Mac>,
    /// The router.
    pub wan: Option<Mac>,
}

/// See [`Provision::fleet`].
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// `manager.<domain>` and `auther.<domain>` are asked of DNS.
    pub domain: String,
    /// `fleet-ca.pem` of `avr-auther init`; relative to the provisioning file.
    pub ca: PathBuf,
    /// `ticket.pub` of `avr-auther init`.
    pub ticket_key: PathBuf,
    /// Folder on a web server with the fleet's index of updates, as in
    /// `https://updates.example.net/avr/`. Without it boxes are updated by hand.
    pub updates: Option<String>,
    /// Where that is `https://`: PEM file of the authority that has signed the server's certificate.
    pub updates_ca: Option<PathBuf>,
}

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 6]);

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|it| !matches!(it, ':' | '-')).collect();
        let number = u64::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 12);
        let [_, _, bytes @ ..] = number.unwrap_or(0).to_be_bytes();
        // A group address is nobody's own.
        if bytes == [0; 6] || bytes[0] & 1 == 1 {
            return Err(format!("\"{}\" is no port's MAC address", text.escape_debug()));
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| {
            D::Error::invalid_value(
                Unexpected::Str(&text),
                &"the MAC address of a port, as in \"02:00:5e:10:00:01\"",
            )
        })
    }
}

impl Provision {
    /// Reads and checks a provisioning file.
    ///
    /// # Errors
    /// Names file, line, what is wrong and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let document = Document::load(path)?;
        let mut this: Self = document.parse()?;
        if let Err((key, problem)) = this.check() {
            let problem = format!("`{key}`: {problem}");
            return Err(document.invalid(key, problem, "write another instead"));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let fleet = this.fleet.as_mut();
        let files = fleet
            .into_iter()
            .flat_map(|it| [&mut it.ca, &mut it.ticket_key].into_iter().chain(&mut it.updates_ca));
        for file in files.chain(&mut this.secret_file) {
            *file = folder.join(&*file);
        }
        Ok(this)
    }

    /// What is wrong with it: the key, and what is wrong.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_serial = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./#".contains(&byte);
        if self.serial.len() > SERIAL_BYTES_MAX || !self.serial.bytes().all(is_serial) {
            let problem = format!(
                "{:?} is no serial number: letters, digits and -_./#, at most {SERIAL_BYTES_MAX}",
                self.serial
            );
            return Err(("serial", problem));
        }
        if self.note.len() > NOTE_BYTES_MAX || self.note.chars().any(char::is_control) {
            let problem = format!("a note is one line of at most {NOTE_BYTES_MAX} bytes");
            return Err(("note", problem));
        }
        if self.mac.lan.is_some() && self.mac.lan == self.mac.wan {
            return Err(("mac.wan", "the other port has this MAC address already".to_owned()));
        }
        self.network.check().map_err(|(key, problem)| {
            let key = match key {
                "hostname" => "network.hostname",
                "dns" => "network.dns",
                "ntp" => "network.ntp",
                "ipv4.prefix" => "network.ipv4.prefix",
                "ipv4.gateway" => "network.ipv4.gateway",
                _ => "network.ipv4.address",
            };
            (key, problem)
        })
    }

    /// The files of STATE, without the secret.
    ///
    /// # Errors
    /// A file of the fleet cannot be used.
    pub fn files(&self) -> Result<Vec<StateFile>, ImageError> {
        let file = |path: &str, contents: String| StateFile { path: path.to_owned(), contents };
        let text = |what: &str, value: &dyn Fn() -> Result<String, toml::ser::Error>| {
            value().map_err(|error| ImageError::Wrong(format!("{what} cannot be written: {error}")))
        };
        let network = text("the address settings", &|| toml::to_string(&self.network))?;
        let gateway = self.gateway();
        let gateway = text("the gateway's settings", &|| toml::to_string(&gateway))?;
        let heading = "# As this box was flashed. What each means: avr.example.toml.\n\n";
        let mut files = vec![
            file("config/box.toml", format!("{heading}{gateway}")),
            file("config/network.toml", network),
        ];
        if let Some(fleet) = &self.fleet {
            let ca = pem(&fleet.ca, "CERTIFICATE", "fleet-ca.pem")?;
            files.push(file("config/fleet/fleet-ca.pem", ca));
            let key = pem(&fleet.ticket_key, "PUBLIC KEY", "ticket.pub")?;
            files.push(file("config/fleet/ticket.pub", key));
            if let Some(path) = &fleet.updates_ca {
                let ca = pem(path, "CERTIFICATE", "authority for updates")?;
                files.push(file("config/fleet/updates-ca.pem", ca));
            }
        }
        if !self.serial.is_empty() {
            files.push(file("config/serial", format!("{}\n", self.serial)));
        }
        Ok(files)
    }

    /// The gateway's settings: the box's own, the file's over them, the fleet's over both.
    fn gateway(&self) -> Table {
        let mut settings: Table = BOX_DEFAULT.parse().expect("the box starts with it");
        merge(&mut settings, &self.gateway);
        if let Some(fleet) = &self.fleet {
            let path = |name: &str| Value::String(format!("{FLEET}/{name}"));
            let identity = Table::from_iter([
                ("fleet_ca".to_owned(), path("fleet-ca.pem")),
                ("ticket_key".to_owned(), path("ticket.pub")),
            ]);
            let domain = Value::String(fleet.domain.clone());
            let relay = Table::from_iter([("domain".to_owned(), domain)]);
            let mut over = Table::from_iter([
                ("identity".to_owned(), Value::Table(identity)),
                ("relay".to_owned(), Value::Table(relay)),
            ]);
            let url = fleet.updates.clone().map(|url| ("url".to_owned(), Value::String(url)));
            let ca = fleet.updates_ca.as_ref().map(|_| ("ca".to_owned(), path("updates-ca.pem")));
            let updates = Table::from_iter(url.into_iter().chain(ca));
            if !updates.is_empty() {
                over.insert("updates".to_owned(), Value::Table(updates));
            }
            merge(&mut settings, &over);
        }
        settings
    }

    /// Has the gateway's own program look at its settings.
    ///
    /// # Errors
    /// It finds something wrong: in its words, which name the line of what becomes `box.toml`, with
    /// that line.
    pub fn check_gateway(&self, avr: &Path) -> Result<(), ImageError> {
        let folder = TempDir::new().step(|| "making a temporary folder".to_owned())?;
        let mut settings = self.gateway();
        let put = |table: &mut Table, from: &Path, key: &str| {
            let value = Value::String(from.display().to_string());
            table.insert(key.to_owned(), value)
        };
        // Where files of the box are named, those that it will get; others are not here to be looked at.
        if let Some(Value::Table(scan)) = settings.get_mut("scan") {
            scan.retain(|key, _| !BOX_PATHS.contains(&key));
            put(scan, folder.path(), "spool");
        }
        if let (Some(fleet), Some(Value::Table(identity))) =
            (&self.fleet, settings.get_mut("identity"))
        {
            put(identity, &fleet.ca, "fleet_ca");
            put(identity, &fleet.ticket_key, "ticket_key");
        }
        if let (Some(ca), Some(Value::Table(updates))) = (
            self.fleet.as_ref().and_then(|fleet| fleet.updates_ca.as_ref()),
            settings.get_mut("updates"),
        ) {
            put(updates, ca, "ca");
        }
        let text = toml::to_string(&settings).map_err(|error| {
            ImageError::Wrong(format!("the gateway's settings cannot be written: {error}"))
        })?;
        let file = folder.path().join("box.toml");
        fs::write(&file, &text).step(|| "writing the gateway's settings".to_owned())?;
        let mut check = Command::new(avr);
        check.args(["config", "check", "--config"]).arg(&file);
        run("checking the gateway's settings", &mut check).map(|_| ()).map_err(|error| {
            let said = error.to_string().replace(&file.display().to_string(), "box.toml");
            let line = said
                .split_once("box.toml:")
                .and_then(|(_, rest)| rest.split(':').next()?.parse().ok())
                .and_then(|line: usize| text.lines().nth(line.checked_sub(1)?));
            let line = line.map(|line| format!(" (the line is {line})")).unwrap_or_default();
            ImageError::Wrong(format!("{said}{line}; mend it in [box] or [fleet]"))
        })
    }
}

/// Puts a table's values over another's, table by table.
fn merge(into: &mut Table, over: &Table) {
    for (key, value) in over {
        match (into.get_mut(key), value) {
            (Some(Value::Table(into)), Value::Table(over)) => merge(into, over),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Reads a public file of the fleet.
fn pem(path: &Path, kind: &str, name: &str) -> Result<String, ImageError> {
    let step = || format!("reading the fleet's {name}, {}", path.display());
    let mut text = String::new();
    fs::File::open(path).step(step)?.take(PEM_BYTES_MAX).read_to_string(&mut text).step(step)?;
    let wrong = |problem: &str| {
        ImageError::Wrong(format!("{}: {problem}; name the fleet's {name}", path.display()))
    };
    if text.contains("PRIVATE KEY") {
        return Err(wrong("is a private key, which must not come onto a box"));
    }
    if !text.contains(&format!("-----BEGIN {kind}-----")) {
        return Err(wrong(&format!("has no {}", kind.to_lowercase())));
    }
    Ok(text)
}

/// Reads a file or, as `-`, what comes in.
pub(crate) fn read_line(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().lock().take(bytes_max).read_to_string(&mut text)?;
    } else {
        fs::File::open(path)?.take(bytes_max).read_to_string(&mut text)?;
    }
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
serial = "AVR-0007"
note = "front desk, 2F"

[mac]
lan = "02:00:5e:10:00:01"
wan = "02005E100002"

[fleet]
domain = "avr.example.net"
ca = "fleet-ca.pem"
ticket_key = "ticket.pub"

[network]
hostname = "front-desk"
ipv4 = { method = "static", address = "192.0.2.7", prefix = 24, gateway = "192.0.2.1" }
dns = ["192.0.2.53"]

[box.scan]
language = "en"

[[box.route]]
port = 587
use = "direct"
"#;

    fn load(text: &str) -> Result<(TempDir, Provision), String> {
        let folder = tempfile::tempdir().unwrap();
        let ca = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";
        fs::write(folder.path().join("fleet-ca.pem"), ca).unwrap();
        let key = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n";
        fs::write(folder.path().join("ticket.pub"), key).unwrap();
        let path = folder.path().join("unit.toml");
        fs::write(&path, text).unwrap();
        let loaded = Provision::load(&path)
            .map_err(|error| error.to_string().replace(&folder.path().display().to_string(), ""))?;
        Ok((folder, loaded))
    }

    fn wrong(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        load(&GOOD.replacen(from, to, 1)).unwrap_err()
    }

    #[test]
    fn the_files_are_those_that_the_box_reads() {
        let (_folder, provision) = load(GOOD).unwrap();
        let files = provision.files().unwrap();
        let file = |path: &str| {
            &files
                .iter()
                .find(|file| file.path == path)
                .unwrap_or_else(|| panic!("{path}"))
                .contents
        };
        let network: NetworkSettings = toml::from_str(file("config/network.toml")).unwrap();
        assert_eq!(network, provision.network);
        let gateway: Table = file("config/box.toml").parse().unwrap();
        let value = |table: &str, key: &str| gateway[table][key].as_str().unwrap();
        assert_eq!(value("relay", "domain"), "avr.example.net");
        assert_eq!(value("identity", "fleet_ca"), "/state/config/fleet/fleet-ca.pem");
        assert_eq!(value("identity", "state_directory"), "/state/identity");
        assert_eq!(value("scan", "language"), "en");
        assert_eq!(value("scan", "rules"), "/usr/share/avr/rules");
        assert_eq!(gateway["route"][0]["port"].as_integer(), Some(587));
        assert!(file("config/fleet/ticket.pub").contains("PUBLIC KEY"));
        assert_eq!(file("config/serial"), "AVR-0007\n");
    }

    #[test]
    fn a_fleet_says_where_its_updates_are() {
        let fleet = "ticket_key = \"ticket.pub\"\nupdates = \"https://u.example.net/avr/\"\n\
                     updates_ca = \"fleet-ca.pem\"\n";
        let text = GOOD.replace("ticket_key = \"ticket.pub\"\n", fleet);
        let text = text + "[box.updates]\nrestart = \"17:00-20:00\"\n";
        let (_folder, provision) = load(&text).unwrap();
        let files = provision.files().unwrap();
        let ca = files.iter().find(|file| file.path == "config/fleet/updates-ca.pem").unwrap();
        assert!(ca.contents.contains("CERTIFICATE"));
        let gateway: Table = files[0].contents.parse().unwrap();
        let updates = &gateway["updates"];
        assert_eq!(updates["url"].as_str(), Some("https://u.example.net/avr/"));
        assert_eq!(updates["ca"].as_str(), Some("/state/config/fleet/updates-ca.pem"));
        assert_eq!(updates["restart"].as_str(), Some("17:00-20:00"));
    }

    #[test]
    fn the_example_is_right() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("unit.example.toml");
        let example = Provision::load(&path).unwrap();
        assert!(example.fleet.is_some() && !example.gateway.is_empty());
        assert_eq!(example.secret_file, Some(path.with_file_name("secret.txt")));
    }

    #[test]
    fn nothing_has_to_be_said() {
        let (_folder, provision) = load("").unwrap();
        let files = provision.files().unwrap();
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["config/box.toml", "config/network.toml"]);
        let gateway: Table = files[0].contents.parse().unwrap();
        assert_eq!(gateway, BOX_DEFAULT.parse().unwrap());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let said = wrong("serial =", "serail =");
        assert!(said.starts_with("/unit.toml:2: unknown key `serail`"), "{said}");
        let said = wrong("02:00:5e:10:00:01", "03:00:5e:10:00:01");
        assert!(said.starts_with("/unit.toml:6: "), "{said}");
        assert!(said.contains("write the MAC address of a port, as in"), "{said}");
        let said = wrong("02005E100002", "02-00-5e-10-00-01");
        assert!(said.starts_with("/unit.toml:7: `mac.wan`: the other port has"), "{said}");
        let said = wrong("192.0.2.1\"", "198.51.100.1\"");
        assert!(said.starts_with("/unit.toml:16: `network.ipv4.gateway`: 198.51.100.1"), "{said}");
        let said = wrong("AVR-0007", "no 7");
        assert!(said.starts_with("/unit.toml:2: `serial`: \"no 7\" is no serial"), "{said}");
        let said = wrong("hostname = \"front-desk\"", "hostname = \"front desk\"");
        assert!(said.starts_with("/unit.toml:15: `network.hostname`"), "{said}");
    }

    #[test]
    fn a_private_key_does_not_come_onto_a_box() {
        let (folder, provision) = load(GOOD).unwrap();
        let ca = folder.path().join("fleet-ca.pem");
        fs::write(&ca, "-----BEGIN PRIVATE KEY-----\n").unwrap();
        let said = provision.files().unwrap_err().to_string();
        assert!(said.contains("is a private key, which must not come onto a box"), "{said}");
        fs::write(&ca, "hello").unwrap();
        let said = provision.files().unwrap_err().to_string();
        assert!(said.ends_with("fleet-ca.pem: has no certificate; name the fleet's fleet-ca.pem"));
    }

    #[test]
    fn what_the_gateway_says_of_its_settings_is_passed_on() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, provision) = load(GOOD).unwrap();
        let avr = folder.path().join("avr");
        let program = |last: &str| {
            let text = format!(
                "#!/bin/sh\ntest \"$1 $2 $3\" = 'config check --config' || exit 9\n\
                 grep -q 'fleet_ca = \"{}/fleet-ca.pem\"' \"$4\" || exit 8\n{last}\n",
                folder.path().display()
            );
            fs::write(&avr, text).unwrap();
            fs::set_permissions(&avr, fs::Permissions::from_mode(0o700)).unwrap();
        };
        program("exit 0");
        provision.check_gateway(&avr).unwrap();
        program(
            "n=$(grep -n '^language' $4 | cut -d: -f1); echo \"$4:$n: no such language\" >&2; exit 1",
        );
        let said = provision.check_gateway(&avr).unwrap_err().to_string();
        assert!(said.contains("box.toml:") && said.contains("no such language"), "{said}");
        assert!(
            said.ends_with("(the line is language = \"en\"); mend it in [box] or [fleet]"),
            "{said}"
        );
    }
}
