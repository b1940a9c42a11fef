//! Keys and certificates from the files that the settings name.

use std::fmt::{self, Debug};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{ConfigError, Document};
use tracing::warn;
use wire::identity::{self, FleetRoots};
use wire::ticket::TicketVerifier;

/// Largest PEM file that is read, in bytes. A chain of a few certificates has some thousands.
pub const PEM_BYTES_MAX: u64 = 256 * 1024;

/// Bits of a file's mode that let others than its owner and group read it.
const MODE_OTHERS: u32 = 0o007;

/// A server's identity, ready to use.
#[derive(Clone)]
pub struct Tls {
    /// For what connects to us.
    pub server: Arc<rustls::ServerConfig>,
    /// For what we connect to.
    pub client: Arc<rustls::ClientConfig>,
    /// The fleet CA, to tell who a peer is.
    pub roots: FleetRoots,
    /// Where the private key came from, if from a file.
    pub key_file: Option<PathBuf>,
}

impl Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// From the files behind the settings `fleet_ca`, `certificate` and `key`.
    ///
    /// # Errors
    /// One of the files cannot be read or used; the error knows which setting named it.
    pub fn load(fleet_ca: &Path, certificate: &Path, key: &Path) -> Result<Self, FileError> {
        let ca_pem = read_pem("fleet_ca", fleet_ca)?;
        let roots = FleetRoots::from_pem(&ca_pem)
            .map_err(|error| FileError::unusable("fleet_ca", fleet_ca, &error))?;
        let certificate_pem = read_pem("certificate", certificate)?;
        let key_pem = read_pem("key", key)?;
        // The CA is good, so what is wrong now is the certificate, or a key of another one.
        let pair = |error| FileError::unusable("certificate", certificate, &error);
        let server = identity::server_config(&ca_pem, &certificate_pem, &key_pem).map_err(pair)?;
        let client =
            identity::server_client_config(&ca_pem, &certificate_pem, &key_pem).map_err(pair)?;
        Ok(Self { server, client, roots, key_file: Some(key.to_owned()) })
    }

    /// Says so when everybody on the host can read the private key. Apart from [`Tls::load`] because
    /// the settings say where the log goes, and have to be read first.
    pub fn warn_if_open(&self) {
        if let Some(path) = &self.key_file {
            warn_if_open("key", path);
        }
    }
}

/// The public ticket key behind the setting `ticket_key`.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn ticket_verifier(path: &Path) -> Result<TicketVerifier, FileError> {
    let pem = read_pem("ticket_key", path)?;
    TicketVerifier::from_pem(&pem).map_err(|error| FileError::unusable("ticket_key", path, &error))
}

/// A PEM file as text, at most [`PEM_BYTES_MAX`]. `key` is the setting that names it.
///
/// # Errors
/// The file cannot be read, is too large, or is no text.
pub fn read_pem(key: &'static str, path: &Path) -> Result<String, FileError> {
    let unreadable = |source| FileError::Unreadable { key, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        let why = format!("it is larger than {PEM_BYTES_MAX} bytes");
        return Err(FileError::Unusable { key, path: path.to_owned(), why });
    }
    String::from_utf8(bytes).map_err(|_| FileError::Unusable {
        key,
        path: path.to_owned(),
        why: "it is no text, so no PEM".to_owned(),
    })
}

/// Says so when everybody on the host can read a private key.
pub fn warn_if_open(key: &'static str, path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    if metadata.permissions().mode() & MODE_OTHERS != 0 {
        warn!(
            setting = key,
            file = %path.display(),
            "this private key can be read by every user of this host; chmod o= it"
        );
    }
}

/// Why a file that a setting names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("`{key}`: cannot read {}", path.display())]
    Unreadable {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It holds something else than it should.
    #[error("`{key}`: cannot use {}: {why}", path.display())]
    Unusable {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The whole chain of reasons; it comes from several kinds of errors.
        why: String,
    },
}

impl FileError {
    /// For content that some parser refused.
    pub fn unusable(key: &'static str, path: &Path, error: &dyn std::error::Error) -> Self {
        Self::Unusable { key, path: path.to_owned(), why: telemetry::chain(error) }
    }

    /// The same with the settings file and line that name the file.
    #[must_use]
    pub fn in_settings(&self, document: &Document) -> ConfigError {
        let (Self::Unreadable { key, .. } | Self::Unusable { key, .. }) = self;
        let remedy = match *key {
            "fleet_ca" => "write the path of the fleet's fleet-ca.pem instead",
            "certificate" => "write the path of this server's .crt file from `avr-auther issue`",
            "key" => "write the path of the .key file that belongs to `certificate`",
            "ticket_key" => "write the path of the fleet's ticket key file instead",
            _ => "write the path of a file that can be read instead",
        };
        document.invalid(key, telemetry::chain(self), remedy)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use wire::identity::{FleetCa, Role};
    use wire::ticket::TicketSigner;

    use super::*;

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let ca = FleetCa::create().unwrap();
            let (certificate, key) = ca.issue(&[Role::Proxy], "tokyo-1").unwrap();
            let write = |name: &str, text: &str| {
                fs::write(directory.path().join(name), text).unwrap();
            };
            write("ca.pem", &ca.certificate_pem());
            write("a.crt", &certificate);
            write("a.key", key.expose());
            write("ticket.pub", &TicketSigner::generate().unwrap().verifier().to_pem());
            write("rubbish", "rubbish");
            Self { directory }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn tls(&self, ca: &str, certificate: &str, key: &str) -> Result<Tls, FileError> {
            Tls::load(&self.path(ca), &self.path(certificate), &self.path(key))
        }
    }

    #[test]
    fn good_files_load() {
        let files = Files::new();
        files.tls("ca.pem", "a.crt", "a.key").unwrap();
        ticket_verifier(&files.path("ticket.pub")).unwrap();
    }

    #[test]
    fn errors_name_the_setting_and_the_line() {
        let files = Files::new();
        let text = "listen = \"x\"\nfleet_ca = \"ca.pem\"\ncertificate = \"a.crt\"\nkey = \"no\"\n";
        let document = Document::from_text("proxy.toml", text);
        let error = files.tls("ca.pem", "a.crt", "no").unwrap_err().in_settings(&document);
        let path = files.path("no");
        assert_eq!(
            error.to_string(),
            format!(
                "proxy.toml:4: `key`: cannot read {}: No such file or directory (os error 2); \
                 write the path of the .key file that belongs to `certificate`",
                path.display()
            )
        );
        let error = files.tls("rubbish", "a.crt", "a.key").unwrap_err().in_settings(&document);
        assert!(error.to_string().starts_with("proxy.toml:2: `fleet_ca`: cannot use "), "{error}");
        let error = files.tls("ca.pem", "rubbish", "a.key").unwrap_err().in_settings(&document);
        assert!(error.to_string().starts_with("proxy.toml:3: `certificate`: "), "{error}");
        let error = ticket_verifier(&files.path("rubbish")).unwrap_err();
        assert!(error.to_string().starts_with("`ticket_key`: cannot use "), "{error}");
    }

    #[test]
    fn a_key_of_another_certificate_is_found() {
        let files = Files::new();
        let (_, key) = FleetCa::create().unwrap().issue(&[Role::Proxy], "x").unwrap();
        fs::write(files.path("b.key"), key.expose()).unwrap();
        let error = files.tls("ca.pem", "a.crt", "b.key").unwrap_err();
        assert!(matches!(error, FileError::Unusable { key: "certificate", .. }), "{error}");
    }

    #[test]
    fn files_over_the_limit_and_binary_files_are_refused() {
        let files = Files::new();
        let bytes_max = usize::try_from(PEM_BYTES_MAX).unwrap();
        fs::write(files.path("large"), vec![b'x'; bytes_max + 1]).unwrap();
        let error = read_pem("key", &files.path("large")).unwrap_err();
        assert!(error.to_string().ends_with("it is larger than 262144 bytes"), "{error}");
        fs::write(files.path("binary"), [0xff, 0xfe]).unwrap();
        let error = read_pem("key", &files.path("binary")).unwrap_err();
        assert!(error.to_string().ends_with("it is no text, so no PEM"), "{error}");
        fs::write(files.path("just"), vec![b'x'; bytes_max]).unwrap();
        read_pem("key", &files.path("just")).unwrap();
    }
}
