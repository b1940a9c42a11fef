//! `auther.toml`.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use config::{ConfigError, Document};
use serde::Deserialize;
use service_kit::Tls;
use service_kit::files::{FileError, read_pem, warn_if_open};
use service_kit::http::{StatusFile, StatusSettings};
use wire::AUTHER_PORT;
use wire::identity::{Peer, Role, server_in};
use wire::ticket::TicketSigner;

use crate::api::{self, Port, Socket, tls_config};
use crate::device::{ENROLMENT_WINDOW_HOURS_MAX, HOUR_S};
use crate::registry::postgres::{self, PgPlace};
use crate::registry::{Place, Registry, RegistryError};

/// Where the settings are looked for.
pub const DEFAULT_PATH: &str = "/etc/avr/auther.toml";

const REGISTRY_REMEDY: &str = "write the path of a file in a directory that this server can write";
const URL_REMEDY: &str = "write postgresql://USER@HOST/DATABASE of a database that answers";

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
    /// The registry of boxes: an SQLite file in a directory that this server can write, or the URL
    /// of a PostgreSQL database, `postgresql://USER@HOST/DATABASE`.
    pub registry: RegistryName,
    /// A file with the password of that user. Passwords in the URL work, and can be read by whoever
    /// reads this file.
    pub registry_password_file: Option<PathBuf>,
    /// Where the registry is written, if `registry` is a copy of it (logical replication).
    pub registry_primary: Option<RegistryName>,
    /// A file with the password for that one.
    pub registry_primary_password_file: Option<PathBuf>,
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
    /// How operators reach this server.
    #[serde(default)]
    pub admin: AdminSettings,
    /// Health, readiness and metrics. Nobody listens there unless asked for.
    pub status: Option<StatusFile>,
}

/// The section `[admin]`. Without it operators' commands work on the registry itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSettings {
    /// A local socket for operators' commands. Its mode lets its owner use it.
    pub socket: Option<PathBuf>,
    /// A group that may use it too.
    pub socket_group: Option<String>,
    /// Address and port of the HTTP API. Off loopback with TLS only, which it has by `certificate`
    /// and `key` here, or by those of the server.
    pub listen: Option<SocketAddr>,
    /// A certificate for it (PEM), of whatever authority its clients trust.
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
    /// Whether the HTTP API on loopback goes without TLS. Default false.
    #[serde(default)]
    pub plain: bool,
}

/// A path or a URL. `Debug` shows no password.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct RegistryName(String);

impl RegistryName {
    /// The path, unless it is a URL.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        let is_url =
            ["postgresql://", "postgres://"].iter().any(|scheme| self.0.starts_with(scheme));
        (!is_url).then(|| Path::new(&self.0))
    }
}

impl fmt::Debug for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file() {
            Some(path) => path.fmt(f),
            None => f.write_str("postgresql://.."),
        }
    }
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
    /// The HTTP API, with TLS or without.
    pub admin: Option<Port>,
    /// The local socket.
    pub socket: Option<Socket>,
    /// Health, readiness and metrics.
    pub status: Option<StatusSettings>,
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
    /// File descriptors for everything that may be open at once.
    #[must_use]
    pub fn files_max(&self) -> u64 {
        // Boxes; operators on both ways; readers of the status port; the registry's connections; and
        // some for logs and the runtime.
        let databases = 2 * usize::try_from(postgres::CONNECTIONS_MAX).unwrap_or(0);
        let others = 2 * api::CONNECTIONS_MAX + service_kit::http::CONNECTIONS_MAX + databases + 64;
        u64::try_from(self.connections_max.saturating_add(others)).unwrap_or(u64::MAX)
    }

    /// Reads every file that is named and looks at the registry, but makes none: who checks the
    /// settings may be another user than the server, which then could not write its own registry. A
    /// database is not asked.
    ///
    /// # Errors
    /// With the settings' file and line, and what to write instead.
    pub fn check(&self, document: &Document) -> Result<(), ConfigError> {
        let in_settings = |error: FileError| error.in_settings(document);
        Tls::load(&self.fleet_ca, &self.certificate, &self.key).map_err(in_settings)?;
        self.check_role(document)?;
        load_signer(&self.ticket_key).map_err(in_settings)?;
        if let Place::File(path) = self.place(document)? {
            if path.exists() {
                Registry::inspect(&path)
                    .map_err(|error| no_registry(document, &error, REGISTRY_REMEDY))?;
            } else if !directory_of(&path).is_dir() {
                let problem = format!("{} is in no directory", path.display());
                return Err(document.invalid("registry", problem, REGISTRY_REMEDY));
            }
        }
        self.admin(document)?;
        self.socket(document)?;
        self.status.clone().map(|status| status.check(document)).transpose()?;
        Ok(())
    }

    /// Reads every file that is named, and opens the registry (or makes an empty one): this one if
    /// given, rather than the one of the settings.
    ///
    /// # Errors
    /// With the settings' file and line, and what to write instead.
    pub async fn ready(
        &self,
        document: &Document,
        place: Option<Place>,
    ) -> Result<Ready, ConfigError> {
        let in_settings = |error: FileError| error.in_settings(document);
        let tls = Tls::load(&self.fleet_ca, &self.certificate, &self.key).map_err(in_settings)?;
        self.check_role(document)?;
        let signer = load_signer(&self.ticket_key).map_err(in_settings)?;
        let place = place.map_or_else(|| self.place(document), Ok)?;
        let remedy = match &place {
            Place::File(_) => REGISTRY_REMEDY,
            Place::Postgres { .. } => URL_REMEDY,
        };
        let registry = Registry::at(&place, true)
            .await
            .map_err(|error| no_registry(document, &error, remedy))?;
        Ok(Ready {
            listen: self.listen,
            tls,
            signer,
            registry,
            enrolment_window_s: u64::from(self.enrolment_window_hours) * HOUR_S,
            connections_max: self.connections_max,
            admin: self.admin(document)?,
            socket: self.socket(document)?,
            status: self.status.clone().map(|status| status.check(document)).transpose()?,
        })
    }

    /// Where the registry is.
    ///
    /// # Errors
    /// With the settings' file and line, and what to write instead.
    pub fn place(&self, document: &Document) -> Result<Place, ConfigError> {
        let Some(path) = self.registry.file() else {
            let local = database(
                document,
                ("registry", &self.registry),
                ("registry_password_file", self.registry_password_file.as_deref()),
            )?;
            let primary = self.registry_primary.as_ref().map(|primary| {
                let file = self.registry_primary_password_file.as_deref();
                let file = ("registry_primary_password_file", file);
                database(document, ("registry_primary", primary), file)
            });
            let (local, primary) = (Box::new(local), primary.transpose()?.map(Box::new));
            return Ok(Place::Postgres { local, primary });
        };
        for (key, is_there) in [
            ("registry_primary", self.registry_primary.is_some()),
            ("registry_password_file", self.registry_password_file.is_some()),
            ("registry_primary_password_file", self.registry_primary_password_file.is_some()),
        ] {
            if is_there {
                let problem = format!("`{key}` with a registry that is an SQLite file");
                let remedy =
                    "write `registry = \"postgresql://USER@HOST/DATABASE\"`, or take it out";
                return Err(document.invalid(key, problem, remedy));
            }
        }
        Ok(Place::File(path.to_owned()))
    }

    /// The HTTP API: its address, and TLS unless it goes without on loopback.
    fn admin(&self, document: &Document) -> Result<Option<Port>, ConfigError> {
        let admin = &self.admin;
        let Some(listen) = admin.listen else { return Ok(None) };
        let (certificate, key) = match (&admin.certificate, &admin.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => (&self.certificate, &self.key),
            (certificate, _) => {
                let (has, lacks) = if certificate.is_some() {
                    ("certificate", "key")
                } else {
                    ("key", "certificate")
                };
                return Err(document.invalid(
                    &format!("admin.{has}"),
                    format!("`admin.{has}` without `admin.{lacks}`"),
                    "write both, or neither to use those of this server",
                ));
            }
        };
        if admin.plain {
            if !listen.ip().is_loopback() {
                return Err(document.invalid(
                    "admin.listen",
                    format!(
                        "{listen} can be reached from other hosts, and tokens would go unencrypted"
                    ),
                    "take out `plain`, or write an address of loopback, as in \"127.0.0.1:4660\"",
                ));
            }
            return Ok(Some((listen, None)));
        }
        let tls = tls_config(certificate, key).map_err(|error| error.in_settings(document))?;
        Ok(Some((listen, Some(tls))))
    }

    fn socket(&self, document: &Document) -> Result<Option<Socket>, ConfigError> {
        let Some(path) = &self.admin.socket else { return Ok(None) };
        let gid = match &self.admin.socket_group {
            None => None,
            Some(name) => match nix::unistd::Group::from_name(name) {
                Ok(Some(group)) => Some(group.gid.as_raw()),
                Ok(None) | Err(_) => {
                    let problem = format!("there is no group {name:?} on this host");
                    let remedy = "make it with `addgroup --system`, or write another";
                    return Err(document.invalid("admin.socket_group", problem, remedy));
                }
            },
        };
        Ok(Some(Socket { path: path.clone(), gid }))
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

fn no_registry(document: &Document, error: &RegistryError, remedy: &str) -> ConfigError {
    document.invalid("registry", telemetry::chain(error), remedy)
}

/// A database, with its password if that is in a file. Each comes with the setting that names it.
fn database(
    document: &Document,
    (key, name): (&str, &RegistryName),
    (file_key, file): (&'static str, Option<&Path>),
) -> Result<PgPlace, ConfigError> {
    let password = file.map(|path| {
        warn_if_open(file_key, path);
        read_pem(file_key, path).map_err(|error| error.in_settings(document))
    });
    let password = password.transpose()?;
    let password = password.as_deref().map(|text| text.trim_end_matches(['\r', '\n']));
    if name.file().is_some() {
        return Err(document.invalid(key, format!("`{key}` is no URL"), URL_REMEDY));
    }
    PgPlace::parse(&name.0, password).map_err(|error| document.invalid(key, error, URL_REMEDY))
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
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ready = load(&path).and_then(|(settings, document)| {
                runtime.unwrap().block_on(settings.ready(&document, None))
            });
            let prefix = format!("{}/", self.directory.path().display());
            ready.map_err(|error| telemetry::chain(&error).replace(&prefix, ""))
        }
    }

    #[test]
    fn good_settings_are_ready() {
        let ready = Files::new().settings(|text| text).unwrap();
        assert_eq!(ready.enrolment_window_s, 72 * 3600);
        assert_eq!(ready.connections_max, 256);
        assert!(ready.registry.place().ends_with("/registry.sqlite"));
        assert!(ready.admin.is_none() && ready.socket.is_none() && ready.status.is_none());
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
        let registry = settings.registry.file().unwrap().to_owned();
        let check = |registry: PathBuf| {
            let registry = RegistryName(registry.display().to_string());
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

    #[test]
    fn a_database_is_named_with_its_password_apart() {
        let files = Files::new();
        let at = files.directory.path().display().to_string();
        fs::write(files.directory.path().join("password"), "secret\n").unwrap();
        let refused = |more: &str| {
            let registry = format!("registry = \"{at}/registry.sqlite\"");
            files.settings(|text| text.replace(&registry, more)).map(drop).unwrap_err()
        };
        // Nobody listens there.
        let away = "registry = \"postgresql://avr@127.0.0.1:1/boxes\"\n";
        let line = refused(&format!("{away}registry_password_file = \"{at}/password\""));
        assert!(
            line.starts_with(
                "auther.toml:6: cannot connect to the registry postgresql://avr@127.0.0.1:1/boxes"
            ),
            "{line}"
        );
        let line = refused("registry = \"postgresql://avr:secret@[x/boxes\"");
        assert!(line.starts_with("auther.toml:6: no URL of a PostgreSQL database"), "{line}");
        assert!(!line.contains("secret"), "{line}");
        let line = refused(&format!("{away}registry_primary = \"{at}/x.sqlite\""));
        assert!(line.starts_with("auther.toml:7: `registry_primary` is no URL"), "{line}");
        let line = refused(&format!("{away}registry_password_file = \"{at}/none\""));
        assert!(line.starts_with("auther.toml:7: `registry_password_file`: cannot read"), "{line}");
        let sqlite = format!("registry = \"{at}/registry.sqlite\"\n");
        let line = refused(&format!("{sqlite}registry_primary = \"postgresql://x/y\""));
        assert!(
            line.starts_with("auther.toml:7: `registry_primary` with a registry that"),
            "{line}"
        );
        let shown = format!("{:?}", RegistryName("postgresql://a:secret@h/d".to_owned()));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn the_admin_api_is_not_opened_to_strangers() {
        let files = Files::new();
        let at = files.directory.path().display().to_string();
        let with = |more: &str| files.settings(|text| format!("{text}[admin]\n{more}"));
        let ready = with("listen = \"127.0.0.1:0\"\nplain = true").unwrap();
        assert!(ready.admin.unwrap().1.is_none());
        // With the server's certificate.
        assert!(with("listen = \"0.0.0.0:0\"").unwrap().admin.unwrap().1.is_some());
        let refused = |more: &str| with(more).map(drop).unwrap_err();
        let line = refused("listen = \"0.0.0.0:0\"\nplain = true");
        assert!(line.starts_with("auther.toml:8: 0.0.0.0:0 can be reached from other"), "{line}");
        let line = refused(&format!("listen = \"[::1]:0\"\ncertificate = \"{at}/auther-1.crt\""));
        assert!(line.starts_with("auther.toml:9: `admin.certificate` without"), "{line}");
        let line = refused(&format!(
            "listen = \"[::1]:0\"\ncertificate = \"{at}/auther-1.crt\"\nkey = \"{at}/proxy-1.key\""
        ));
        assert!(line.starts_with("auther.toml:9: `admin.certificate`: cannot use"), "{line}");
        let line = refused("socket = \"/x\"\nsocket_group = \"nobodys-group\"");
        assert!(line.starts_with("auther.toml:9: there is no group \"nobodys-group\""), "{line}");
    }
}
