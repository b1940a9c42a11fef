//! The unit's certificate for its page: made at the first start, signed by itself, kept in STATE.
//!
//! No authority knows it, so a browser warns; whoever reads the console compares the SHA-256 of the
//! warning with that of the banner. The key is not the one that proves the unit to a site: what is
//! shown to everybody on the network must not be able to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Key and certificate in one file, so that a power cut cannot part them.
const FILE: &str = "page.pem";
/// Longest such file, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// A box without a battery starts in 1970, and nobody renews this.
const FIRST_YEAR: i32 = 1970;
const LAST_YEAR: i32 = 2099;

/// Key and certificate.
#[derive(Debug)]
pub(crate) struct Certificate {
    der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// rcgen has no random numbers, or does not take the name.
    #[error("make the page's certificate")]
    Make(#[from] rcgen::Error),
    /// What was read or made is none.
    #[error("use the page's certificate")]
    Use(#[from] rustls::Error),
    /// Likewise.
    #[error("read the page's certificate")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

impl Certificate {
    /// The one in `folder`; where there is none that can be used, a new one for `name`. One that cannot be
    /// kept is good until the page ends, and the log says so.
    pub(crate) fn load_or_make(
        folder: Option<&Path>,
        name: &str,
    ) -> Result<Self, CertificateError> {
        if let Some(text) = folder.and_then(|folder| read(&folder.join(FILE)).ok()) {
            match Self::from_pem(&text) {
                Ok(certificate) => return Ok(certificate),
                Err(error) => {
                    let error = telemetry::chain(&error);
                    tracing::error!(
                        error,
                        "the certificate in {FILE} is damaged: a new one is made"
                    );
                }
            }
        }
        let text = make(name)?;
        match folder.map(|folder| write(folder, &text)) {
            None => tracing::warn!("STATE is not there: the certificate is of this start only"),
            Some(Err(error)) => {
                tracing::error!(%error, "the certificate cannot be kept: it is of this start only");
            }
            Some(Ok(())) => tracing::info!("a certificate was made"),
        }
        Self::from_pem(&text)
    }

    /// SHA-256 as browsers show it, as in `AB:CD`.
    pub(crate) fn fingerprint(&self) -> String {
        let digest = digest(&SHA256, &self.der);
        let pairs: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        pairs.join(":")
    }

    /// For the page's port: TLS 1.3 alone, HTTP/1.1 in it.
    pub(crate) fn server(self) -> Result<Arc<ServerConfig>, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.der], self.key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let (der, key) = (
            CertificateDer::from_pem_slice(text.as_bytes())?,
            PrivateKeyDer::from_pem_slice(text.as_bytes())?,
        );
        let certificate = Self { der, key };
        // Fails where the two are not of one another.
        Self { der: certificate.der.clone(), key: certificate.key.clone_key() }.server()?;
        Ok(certificate)
    }
}

fn make(name: &str) -> Result<String, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(FIRST_YEAR, 1, 1);
    params.not_after = date_time_ymd(LAST_YEAR, 12, 31);
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// A power cut leaves no file or a whole one.
fn write(folder: &Path, text: &str) -> io::Result<()> {
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let new = folder.join("page.new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_stays_the_same_until_it_is_damaged() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("identity");
        let load = || Certificate::load_or_make(Some(&folder), "avr-02005e100003.local").unwrap();
        let first = load().fingerprint();
        assert_eq!((first.len(), first.split(':').count()), (95, 32), "{first}");
        assert_eq!(load().fingerprint(), first);
        let mode = fs::metadata(folder.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        // A key of another certificate is no pair.
        let other = make("other.local").unwrap();
        let own = fs::read_to_string(folder.join(FILE)).unwrap();
        let (key, _) = other.split_once("-----BEGIN CERTIFICATE").unwrap();
        let (_, certificate) = own.split_once("-----BEGIN CERTIFICATE").unwrap();
        let mixed = format!("{key}-----BEGIN CERTIFICATE{certificate}");
        for damaged in ["", "x", &own[..own.len() / 2], &mixed] {
            fs::write(folder.join(FILE), damaged).unwrap();
            let second = load().fingerprint();
            assert_ne!(second, first);
            assert_eq!(load().fingerprint(), second);
        }
    }

    #[test]
    fn without_a_disk_there_is_one_until_the_end() {
        Certificate::load_or_make(None, "avr.local").unwrap().server().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        Certificate::load_or_make(Some(file.path()), "avr.local").unwrap();
    }
}
