//! The files of a fleet: its certificate authority, its ticket key, and its servers' certificates.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use wire::identity::{FleetCa, Role};
use wire::ticket::TicketSigner;

/// The CA's certificate: goes to every program of the fleet.
pub const CA_CERTIFICATE: &str = "fleet-ca.pem";
/// The CA's key: kept offline.
pub const CA_KEY: &str = "fleet-ca.key";
/// The ticket key: goes to the authers, and nowhere else.
pub const TICKET_KEY: &str = "ticket.key";
/// Its public half: goes to managers, proxies and boxes.
pub const TICKET_PUBLIC_KEY: &str = "ticket.pub";

/// Nobody but the owner reads a key.
const MODE_SECRET: u32 = 0o600;
const MODE_PUBLIC: u32 = 0o644;
const MODE_DIRECTORY: u32 = 0o700;

/// Makes a new fleet in `directory` and returns the files written. Writes over nothing.
///
/// # Errors
/// One of the files is there already, or cannot be written.
pub fn init(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let ca = FleetCa::create()?;
    let ticket_key = TicketSigner::generate()?;
    make_directory(directory)?;
    write_all(
        directory,
        &[
            (CA_CERTIFICATE, &ca.certificate_pem(), MODE_PUBLIC),
            (CA_KEY, ca.key_pem().expose(), MODE_SECRET),
            (TICKET_KEY, ticket_key.to_pem().expose(), MODE_SECRET),
            (TICKET_PUBLIC_KEY, &ticket_key.verifier().to_pem(), MODE_PUBLIC),
        ],
    )
    .context("a new fleet needs a directory without one")
}

/// Signs a certificate for the server `name` with the CA in `directory`, and writes it with its key
/// into `out` as `NAME.crt` and `NAME.key`. Writes over nothing.
///
/// # Errors
/// The CA's files cannot be read, the name is no host name, or a file is there already.
pub fn issue(
    directory: &Path,
    roles: &[Role],
    name: &str,
    out: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let read = |file: &str| {
        let path = directory.join(file);
        fs::read_to_string(&path).with_context(|| {
            format!("cannot read {}; `avr-auther init` makes a fleet", path.display())
        })
    };
    let ca = FleetCa::from_pem(&read(CA_CERTIFICATE)?, &read(CA_KEY)?)
        .with_context(|| format!("the fleet CA in {} cannot be used", directory.display()))?;
    let (certificate, key) = ca.issue(roles, name)?;
    make_directory(out)?;
    let (certificate_file, key_file) = (format!("{name}.crt"), format!("{name}.key"));
    write_all(
        out,
        &[(&key_file, key.expose(), MODE_SECRET), (&certificate_file, &certificate, MODE_PUBLIC)],
    )
}

fn make_directory(directory: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(MODE_DIRECTORY)
        .create(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))
}

/// Writes the files, or none of them.
fn write_all(directory: &Path, files: &[(&str, &str, u32)]) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for &(name, text, mode) in files {
        let path = directory.join(name);
        if let Err(error) = write_new(&path, text, mode) {
            for path in &written {
                // Only what was made just now; what cannot be undone is left for the eye.
                let _ = fs::remove_file(path);
            }
            let what = match error.kind() {
                io::ErrorKind::AlreadyExists => "is there already and is not written over",
                _ => "cannot be written",
            };
            return Err(error).with_context(|| format!("{} {what}", path.display()));
        }
        written.push(path);
    }
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot sync {}", directory.display()))?;
    Ok(written)
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use wire::identity::{Peer, server_config, server_in};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_fleet_is_made_once_with_keys_that_only_the_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let fleet = directory.path().join("new");
        let files = init(&fleet).unwrap();
        assert_eq!(files.len(), 4);
        assert_eq!(mode(&fleet), MODE_DIRECTORY);
        for (file, expected) in [
            (CA_KEY, 0o600),
            (TICKET_KEY, 0o600),
            (CA_CERTIFICATE, 0o644),
            (TICKET_PUBLIC_KEY, 0o644),
        ] {
            assert_eq!(mode(&fleet.join(file)), expected, "{file}");
        }
        let key = fs::read(fleet.join(CA_KEY)).unwrap();
        let error = format!("{:#}", init(&fleet).unwrap_err());
        assert!(error.contains("fleet-ca.pem is there already"), "{error}");
        assert_eq!(fs::read(fleet.join(CA_KEY)).unwrap(), key);
    }

    #[test]
    fn half_a_fleet_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(TICKET_KEY), "mine").unwrap();
        init(directory.path()).unwrap_err();
        assert!(!directory.path().join(CA_CERTIFICATE).exists());
        assert!(!directory.path().join(CA_KEY).exists());
        assert_eq!(fs::read(directory.path().join(TICKET_KEY)).unwrap(), b"mine");
    }

    #[test]
    fn an_issued_certificate_serves() {
        let directory = tempfile::tempdir().unwrap();
        let (fleet, out) = (directory.path().join("fleet"), directory.path().join("out"));
        init(&fleet).unwrap();
        let roles = [Role::Manager, Role::Proxy];
        issue(&fleet, &roles, "tokyo-1", &out).unwrap();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        let certificate = read(out.join("tokyo-1.crt"));
        let key = read(out.join("tokyo-1.key"));
        assert_eq!(mode(&out.join("tokyo-1.key")), 0o600);
        server_config(&read(fleet.join(CA_CERTIFICATE)), &certificate, &key).unwrap();
        let name = "tokyo-1".to_owned();
        assert_eq!(server_in(&certificate).unwrap(), Peer::Server { roles: roles.to_vec(), name });

        let error = format!("{:#}", issue(&fleet, &roles, "tokyo-1", &out).unwrap_err());
        assert!(error.contains("tokyo-1.key is there already"), "{error}");
        assert_eq!(read(out.join("tokyo-1.crt")), certificate);
        assert!(issue(&fleet, &roles, "../x", &out).is_err());
        let error = format!("{:#}", issue(&out, &roles, "tokyo-2", &out).unwrap_err());
        assert!(error.contains("`avr-auther init` makes a fleet"), "{error}");
    }
}
