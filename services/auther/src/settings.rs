//! `auther.toml`.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use config::{ConfigError, Document};
use serde::Deserialize;
use service_kit::Tls;
use service_kit::files::{FileError, read_pem, warn_if_open};
use wire::AUTHER_PORT;
use wire::identity::{Peer, Role, server_in};
use wire::ticket::TicketSigner;

use crate::registry::{Registry, RegistryError};

/// Where the settings are looked for.
pub const DEFAULT_PATH: &str = "/etc/avr/auther.toml";
/// Longest enrolment window, in hours: a year. A window without end is no window.
pub const ENROLMENT_WINDOW_HOURS_MAX: u32 = 8760;

const REGISTRY_REMEDY: &str = "write the path of a file in a directory that this server can write";
const SECONDS_IN_HOUR: u64 = 3600;

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address and port to listen on. Default `[::]:4650`, which is IPv4 too.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The fleet's `fleet-ca.pem`.
    pub fleet_ca: PathBuf,
    /// This server's certificate, with the role `auther`.
    pub certificate: PathBuf,
    /// The key that belongs to it.
    pub key: PathBuf,
    /// The fleet's `ticket.key`, the private one: what makes this server an auther.
    pub ticket_key: PathBuf,
    /// The registry of boxes, an SQLite file in a directory that this server can write.
    pub registry: PathBuf,
    /// For how many hours after `add` the first login binds a box's key. Default 72. Longer is more
    /// convenient for the one who carries boxes about, and for the one who steals an address.
    #[serde(default = "default_enrolment_window_hours")]
    pub enrolment_window_hours: u32,
    /// Connections at once, default 256; each takes some 30 KiB for the moment of a login.
    #[serde(default = "default_connections_max")]
    pub connections_max: usize,
    /// How log lines look: `text` (the default) or `json`.
    #[serde(default)]
    pub log: telemetry::Format,
}

fn default_listen() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, AUTHER_PORT).into()
}

fn default_enrolment_window_hours() -> u32 {
    72
}

fn default_connections_max() -> usize {
    256
}

/// The settings with everything they name, ready to serve.
#[derive(Debug)]
pub struct Ready {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// This server's identity.
    pub tls: Tls,
    /// Signs the tickets.
    pub signer: TicketSigner,
    /// The boxes.
    pub registry: Registry,
    /// In seconds.
    pub enrolment_window_s: u64,
    /// Connections at once.
    pub connections_max: usize,
}

impl Ready {
    /// File descriptors for everything that may be open at once.
    #[must_use]
    pub fn files_max(&self) -> u64 {
        // Boxes, and some for the registry, logs and the runtime.
        u64::try_from(self.connections_max.saturating_add(64)).unwrap_or(u64::MAX)
    }
}

/// Reads `auther.toml`; none of the files it names.
///
/// # Errors
/// With file, line and what to write instead.
pub fn load(path: &Path) -> Result<(Settings, Document), ConfigError> {
    let document = Document::load(path)?;
    let settings: Settings = document.parse()?;
    if !(1..=ENROLMENT_WINDOW_HOURS_MAX).contains(&settings.enrolment_window_hours) {
        return Err(document.invalid(
            "enrolment_window_hours",
            format!("{} hours is no enrolment window", settings.enrolment_window_hours),
            format!("write a number from 1 to {ENROLMENT_WINDOW_HOURS_MAX}"),
        ));
    }
    if settings.connections_max == 0 {
        return Err(document.invalid(
            "connections_max",
            "no connection at all could be taken",
            "write 256",
        ));
    }
    Ok((settings, document))
}

impl Settings {
    /// Reads every file that is named and looks at the registry, but makes none: who checks the
    /// settings may be another user than the server, which then could not write its own registry.
    ///
    /// # Errors
    /// With the settings' file and line, and what to write instead.
    pub fn check(&self, document: &Document) -> Result<(), ConfigError> {
        let in_settings = |error: FileError| error.in_settings(document);
        Tls::load(&self.fleet_ca, &self.certificate, &self.key).map_err(in_settings)?;
        self.check_role(document)?;
        load_signer(&self.ticket_key).map_err(in_settings)?;
        if self.registry.exists() {
            Registry::open(&self.registry).map_err(|error| self.no_registry(document, &error))?;
        } else if !directory_of(&self.registry).is_dir() {
            let problem = format!("{} is in no directory", self.registry.display());
            return Err(document.invalid("registry", problem, REGISTRY_REMEDY));
        }
        Ok(())
    }

    /// Reads every file that is named, and opens the registry (or makes an empty one).
    ///
    /// # Errors
    /// With the settings' file and line, and what to write instead.
    pub fn ready(&self, document: &Document) -> Result<Ready, ConfigError> {
        let in_settings = |error: FileError| error.in_settings(document);
        let tls = Tls::load(&self.fleet_ca, &self.certificate, &self.key).map_err(in_settings)?;
        self.check_role(document)?;
        let signer = load_signer(&self.ticket_key).map_err(in_settings)?;
        let registry =
            Registry::create(&self.registry).map_err(|error| self.no_registry(document, &error))?;
        Ok(Ready {
            listen: self.listen,
            tls,
            signer,
            registry,
            enrolment_window_s: u64::from(self.enrolment_window_hours) * SECONDS_IN_HOUR,
            connections_max: self.connections_max,
        })
    }

    fn no_registry(&self, document: &Document, error: &RegistryError) -> ConfigError {
        document.invalid("registry", telemetry::chain(error), REGISTRY_REMEDY)
    }

    /// Boxes would refuse a certificate of another role, one by one, in their own logs.
    fn check_role(&self, document: &Document) -> Result<(), ConfigError> {
        let pem = read_pem("certificate", &self.certificate)
            .map_err(|error| error.in_settings(document))?;
        match server_in(&pem) {
            Ok(peer) if peer.is_server(Role::Auther) => Ok(()),
            Ok(Peer::Server { name, .. }) => Err(document.invalid(
                "certificate",
                format!("{} has not the role auther", self.certificate.display()),
                format!("issue one with `avr-auther issue --role auther --name {name}`"),
            )),
            Ok(Peer::Device(_)) | Err(_) => Err(document.invalid(
                "certificate",
                format!("{} is no certificate of a server", self.certificate.display()),
                "write the path of this server's .crt file from `avr-auther issue`",
            )),
        }
    }
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}

fn load_signer(path: &Path) -> Result<TicketSigner, FileError> {
    let pem = read_pem("ticket_key", path)?;
    warn_if_open("ticket_key", path);
    TicketSigner::from_pem(&pem).map_err(|error| FileError::unusable("ticket_key", path, &error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fleet::{init, issue};

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path();
            init(path).unwrap();
            issue(path, &[Role::Auther], "auther-1", path).unwrap();
            issue(path, &[Role::Proxy], "proxy-1", path).unwrap();
            Self { directory }
        }

        fn settings(&self, edit: impl Fn(String) -> String) -> Result<Ready, String> {
            let at = self.directory.path().display();
            let text = format!(
                "listen = \"127.0.0.1:0\"\n\
                 fleet_ca = \"{at}/fleet-ca.pem\"\n\
                 certificate = \"{at}/auther-1.crt\"\n\
                 key = \"{at}/auther-1.key\"\n\
                 ticket_key = \"{at}/ticket.key\"\n\
                 registry = \"{at}/registry.sqlite\"\n"
            );
            let path = self.directory.path().join("auther.toml");
            fs::write(&path, edit(text)).unwrap();
            let loaded = load(&path);
            let ready = loaded.and_then(|(settings, document)| settings.ready(&document));
            let prefix = format!("{}/", self.directory.path().display());
            ready.map_err(|error| telemetry::chain(&error).replace(&prefix, ""))
        }
    }

    #[test]
    fn good_settings_are_ready() {
        let ready = Files::new().settings(|text| text).unwrap();
        assert_eq!(ready.enrolment_window_s, 72 * 3600);
        assert_eq!(ready.connections_max, 256);
        assert!(ready.registry.list().unwrap().is_empty());
    }

    #[test]
    fn the_example_is_good_but_for_its_files() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/auther.example.toml");
        let (settings, document) = load(Path::new(path)).unwrap();
        let error = settings.check(&document).unwrap_err().to_string();
        assert!(error.contains("`fleet_ca`: cannot read /etc/avr/fleet-ca.pem"), "{error}");
    }

    #[test]
    fn a_check_makes_nothing_and_finds_what_serving_would() {
        let files = Files::new();
        files.settings(|text| text).unwrap();
        let (settings, document) = load(&files.directory.path().join("auther.toml")).unwrap();
        let registry = settings.registry.clone();
        let check = |registry: PathBuf| {
            let settings = Settings { registry, ..settings.clone() };
            settings.check(&document).map_err(|error| error.to_string())
        };
        check(registry.clone()).unwrap();
        let fresh = registry.with_file_name("fresh.sqlite");
        check(fresh.clone()).unwrap();
        assert!(!fresh.exists());
        let error = check(registry.join("x")).unwrap_err();
        assert!(
            error.contains("auther.toml:6: ") && error.contains("is in no directory"),
            "{error}"
        );
        let error = check(files.directory.path().join("ticket.pub")).unwrap_err();
        assert!(error.contains("cannot open the registry"), "{error}");
    }

    #[test]
    fn errors_name_line_and_remedy() {
        let files = Files::new();
        let refused = |from: &str, to: &str| {
            files.settings(|text| text.replace(from, to)).map(drop).unwrap_err()
        };
        let line = refused("ticket.key", "ticket.pub");
        assert!(line.starts_with("auther.toml:5: `ticket_key`: cannot use ticket.pub: "), "{line}");
        let line = refused("auther-1", "proxy-1");
        assert_eq!(
            line,
            "auther.toml:3: proxy-1.crt has not the role auther; \
             issue one with `avr-auther issue --role auther --name proxy-1`"
        );
        let line = refused("auther-1.key", "proxy-1.key");
        assert!(line.starts_with("auther.toml:3: `certificate`: "), "{line}");
        let line = refused("registry.sqlite", "none/registry.sqlite");
        assert!(line.starts_with("auther.toml:6: cannot open the registry "), "{line}");
        let line = refused("listen", "enrolment_window_hours = 0\nlisten");
        assert!(
            line.starts_with("auther.toml:1: 0 hours is no enrolment window; write "),
            "{line}"
        );
        let line = refused("listen", "connections_max = 0\nlisten");
        assert!(line.starts_with("auther.toml:1: no connection at all"), "{line}");
        let line = refused("listen", "enrolment_windows = 1\nlisten");
        assert!(line.starts_with("auther.toml:1: "), "{line}");
    }
}
