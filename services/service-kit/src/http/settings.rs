//! The section `[status]` of a server's settings.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{ConfigError, Document};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use super::token::Token;
use crate::files::{FileError, read_pem, warn_if_open};

/// The section as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusFile {
    /// Address and port, as in `"127.0.0.1:4661"`. Off loopback only with the three others.
    listen: SocketAddr,
    /// A file with the token that every request has to show. Without one everybody who reaches the
    /// port may read.
    token_file: Option<PathBuf>,
    /// A certificate for the port (PEM), of whatever authority the readers trust.
    certificate: Option<PathBuf>,
    /// Its private key (PEM).
    key: Option<PathBuf>,
}

/// The section, checked, with the files that it names.
#[derive(Clone)]
pub struct StatusSettings {
    /// Address and port.
    pub listen: SocketAddr,
    /// What requests have to show.
    pub(super) token: Option<Token>,
    /// For the port.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Files that others should not read, with the setting that names each.
    secrets: Vec<(&'static str, PathBuf)>,
}

impl fmt::Debug for StatusSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusSettings").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl StatusFile {
    /// Reads the files, and refuses what would show the site to strangers.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and what to write instead.
    pub fn check(self, document: &Document) -> Result<StatusSettings, ConfigError> {
        let in_settings = |error: FileError| error.in_settings(document);
        let mut secrets = Vec::new();
        let token = match self.token_file {
            Some(path) => {
                let token = Token::load(&path).map_err(in_settings)?;
                secrets.push(("status.token_file", path));
                Some(token)
            }
            None => None,
        };
        let tls = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => {
                let tls = tls_config(["status.certificate", "status.key"], &certificate, &key)
                    .map_err(in_settings)?;
                secrets.push(("status.key", key));
                Some(Arc::new(tls))
            }
            (None, None) => None,
            (certificate, _) => {
                let (has, lacks) = if certificate.is_some() {
                    ("certificate", "key")
                } else {
                    ("key", "certificate")
                };
                return Err(document.invalid(
                    &format!("status.{has}"),
                    format!("`status.{has}` without `status.{lacks}`"),
                    "write both, or neither on loopback",
                ));
            }
        };
        if !self.listen.ip().is_loopback() && (tls.is_none() || token.is_none()) {
            return Err(document.invalid(
                "status.listen",
                format!("`status.listen`: {} can be reached from other hosts", self.listen),
                "write an address of loopback, as in \"127.0.0.1:4661\", \
                 or write `token_file`, `certificate` and `key` too",
            ));
        }
        Ok(StatusSettings { listen: self.listen, token, tls, secrets })
    }
}

impl StatusSettings {
    /// A port on loopback that everybody on the host may read.
    #[must_use]
    pub fn on_loopback(port: u16) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        Self { listen, token: None, tls: None, secrets: Vec::new() }
    }

    /// The same with a token.
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Says so when everybody on the host can read the token or the key.
    pub(super) fn warn_if_open(&self) {
        for (key, path) in &self.secrets {
            warn_if_open(key, path);
        }
    }
}

/// TLS for HTTP clients, without certificates of theirs: they show a token. The two settings are those
/// that name the files.
///
/// # Errors
/// One of the files cannot be read or used.
pub fn tls_config(
    [certificate_setting, key_setting]: [&'static str; 2],
    certificate: &Path,
    key: &Path,
) -> Result<ServerConfig, FileError> {
    let certificate_pem = read_pem(certificate_setting, certificate)?;
    let key_pem = read_pem(key_setting, key)?;
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| FileError::unusable(certificate_setting, certificate, &error))?;
    let private = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|error| FileError::unusable(key_setting, key, &error))?;
    let pair = |error: rustls::Error| FileError::unusable(certificate_setting, certificate, &error);
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use wire::identity::{FleetCa, Role};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        status: StatusFile,
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let ca = FleetCa::create().unwrap();
            let (certificate, key) = ca.issue(&[Role::Manager], "tokyo-1").unwrap();
            fs::write(directory.path().join("a.crt"), certificate).unwrap();
            fs::write(directory.path().join("a.key"), key.expose()).unwrap();
            fs::write(directory.path().join("token"), "0123456789abcdef\n").unwrap();
            fs::write(directory.path().join("short"), "0123456789abcde\n").unwrap();
            Self(directory)
        }

        /// The section with these lines; `DIR` stands for the files' directory.
        fn check(&self, lines: &str) -> Result<StatusSettings, String> {
            let text = format!("[status]\n{lines}");
            let text = text.replace("DIR", self.0.path().to_str().unwrap());
            let document = Document::from_text("manager.toml", text);
            let file: File = document.parse().map_err(|error| error.to_string())?;
            file.status.check(&document).map_err(|error| error.to_string())
        }
    }

    const TLS: &str = "certificate = \"DIR/a.crt\"\nkey = \"DIR/a.key\"\n";
    const TOKEN: &str = "token_file = \"DIR/token\"\n";

    #[test]
    fn loopback_needs_nothing_and_the_world_everything() {
        let files = Files::new();
        for listen in ["127.0.0.1:4661", "[::1]:0", "127.9.9.9:1"] {
            files.check(&format!("listen = \"{listen}\"\n")).unwrap();
        }
        let world = "listen = \"192.0.2.1:4661\"\n";
        files.check(&format!("{world}{TLS}{TOKEN}")).unwrap();
        let any = "listen = \"0.0.0.0:4661\"\n";
        for lines in [any.to_owned(), format!("{any}{TLS}"), format!("{any}{TOKEN}")] {
            assert_eq!(
                files.check(&lines).unwrap_err(),
                "manager.toml:2: `status.listen`: 0.0.0.0:4661 can be reached from other hosts; \
                 write an address of loopback, as in \"127.0.0.1:4661\", \
                 or write `token_file`, `certificate` and `key` too"
            );
        }
    }

    #[test]
    fn errors_name_the_line() {
        let files = Files::new();
        let listen = "listen = \"127.0.0.1:0\"\n";
        let error = |more: &str| files.check(&format!("{listen}{more}")).unwrap_err();
        assert_eq!(
            error("key = \"DIR/a.key\"\n"),
            "manager.toml:3: `status.key` without `status.certificate`; \
             write both, or neither on loopback"
        );
        let short = error("token_file = \"DIR/short\"\n");
        assert!(short.starts_with("manager.toml:3: `status.token_file`: cannot use "), "{short}");
        assert!(short.contains("at least 16 characters"), "{short}");
        let missing = error("token_file = \"DIR/missing\"\n");
        assert!(missing.starts_with("manager.toml:3: `status.token_file`: cannot read "));
        let swapped = error("certificate = \"DIR/a.key\"\nkey = \"DIR/a.crt\"\n");
        assert!(swapped.starts_with("manager.toml:"), "{swapped}");
        assert!(error("tokn = 1\n").starts_with("manager.toml:3: "));
    }

    #[test]
    fn a_token_is_in_no_debug_output() {
        let settings = Files::new().check(&format!("listen = \"127.0.0.1:0\"\n{TOKEN}")).unwrap();
        assert!(!format!("{settings:?}").contains("0123456789abcdef"));
    }
}
