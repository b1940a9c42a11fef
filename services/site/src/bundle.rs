//! The *fleet bundle*: the folder that one carries to a new server.
//!
//! | file | |
//! |---|---|
//! | `bundle.toml` | the fleet's domain and the server's name |
//! | `fleet-ca.pem` | the fleet CA's certificate |
//! | `ticket.pub` | the public ticket key |
//! | `server.crt`, `server.key` | this server's certificate and its key |
//! | `ticket.key` | the private ticket key, only for a server with the role auther |
//!
//! Made by `avr-site bundle` of what `avr-auther init` and `avr-auther issue` wrote. The CA's own
//! key is never in it.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use config::Document;
use hickory_proto::rr::Name;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use service_kit::files::read_pem;
use service_kit::host::WallClock;
use wire::identity::{Peer, Role, server_client_config, server_config, server_in};
use wire::ticket::{TicketSigner, TicketVerifier};

use crate::plan::{parse_domain, quoted};

/// Names of the files; see the module.
pub const ABOUT: &str = "bundle.toml";
pub const CA: &str = "fleet-ca.pem";
pub const CERTIFICATE: &str = "server.crt";
pub const KEY: &str = "server.key";
pub const TICKET_PUBLIC_KEY: &str = "ticket.pub";
pub const TICKET_KEY: &str = "ticket.key";

/// `bundle.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    domain: String,
    name: String,
}

/// A bundle whose parts belong together.
pub struct Bundle {
    /// The fleet's domain as written.
    pub domain: String,
    /// The server's name.
    pub name: String,
    /// What the certificate allows the server to be.
    pub roles: Vec<Role>,
    /// PEM texts.
    pub ca: String,
    pub certificate: String,
    pub key: String,
    pub ticket_public_key: String,
    /// Of an auther.
    pub ticket_key: Option<String>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, name, roles, .. } = self;
        f.debug_struct("Bundle")
            .field("domain", domain)
            .field("name", name)
            .field("roles", roles)
            .finish_non_exhaustive()
    }
}

impl Bundle {
    /// Reads a bundle and checks that its parts belong together.
    ///
    /// # Errors
    /// With the file at fault and what to do.
    pub fn load(directory: &Path, clock: WallClock) -> anyhow::Result<Self> {
        let about = directory.join(ABOUT);
        if !about.exists() {
            bail!(
                "{} is no fleet bundle: it has no {ABOUT}; `avr-site bundle --fleet DIR --name \
                 NAME --domain DOMAIN --out DIR` makes one where the fleet's files are",
                directory.display()
            );
        }
        let document = Document::load(&about)?;
        let About { domain, name } = document.parse()?;
        parse_domain(&domain)
            .map_err(|wrong| document.invalid("domain", wrong.problem, wrong.remedy))?;
        let read = |file: &'static str| read_file(&directory.join(file));
        let certificate = read(CERTIFICATE)?;
        let roles = roles_in(&certificate, &name)
            .map_err(|why| anyhow::anyhow!("{}: {why}", directory.join(CERTIFICATE).display()))?;
        let ticket_key = match roles.contains(&Role::Auther) {
            true => Some(read(TICKET_KEY)?),
            false => None,
        };
        let bundle = Self {
            domain,
            name,
            roles,
            ca: read(CA)?,
            certificate,
            key: read(KEY)?,
            ticket_public_key: read(TICKET_PUBLIC_KEY)?,
            ticket_key,
        };
        bundle.check(clock).with_context(|| directory.display().to_string())?;
        Ok(bundle)
    }

    /// Collects one from where `avr-auther` put its files.
    ///
    /// # Errors
    /// With what has to be done before.
    pub fn collect(
        fleet: &Path,
        name: &str,
        domain: &str,
        clock: WallClock,
    ) -> anyhow::Result<Self> {
        parse_domain(domain)?;
        let read = |file: &str, how: &str| {
            let path = fleet.join(file);
            read_file(&path).with_context(|| format!("{how} makes {}", path.display()))
        };
        let init = format!("`avr-auther init --dir {}`", fleet.display());
        let issue =
            format!("`avr-auther issue --dir {} --role ROLE --name {name}`", fleet.display());
        let certificate = read(&format!("{name}.crt"), &issue)?;
        let roles = roles_in(&certificate, name).map_err(anyhow::Error::msg)?;
        let ticket_key = match roles.contains(&Role::Auther) {
            true => Some(read(TICKET_KEY, &init)?),
            false => None,
        };
        let bundle = Self {
            domain: domain.to_owned(),
            name: name.to_owned(),
            roles,
            ca: read(CA, &init)?,
            certificate,
            key: read(&format!("{name}.key"), &issue)?,
            ticket_public_key: read(TICKET_PUBLIC_KEY, &init)?,
            ticket_key,
        };
        bundle.check(clock).with_context(|| fleet.display().to_string())?;
        Ok(bundle)
    }

    /// Writes it into a new folder and gives the files written.
    ///
    /// # Errors
    /// The folder is there already, or cannot be written.
    pub fn write(&self, directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
        DirBuilder::new().mode(0o700).create(directory).with_context(|| {
            format!("cannot make {}; name a folder that is not there yet", directory.display())
        })?;
        let about = format!(
            "# A fleet bundle: carry this folder to the server {} and run `avr-site init` there.\n\
             domain = {}\nname = {}\n",
            self.name,
            quoted(&self.domain),
            quoted(&self.name)
        );
        let mut files = vec![
            (ABOUT, about.as_str(), 0o644),
            (CA, &self.ca, 0o644),
            (TICKET_PUBLIC_KEY, &self.ticket_public_key, 0o644),
            (CERTIFICATE, &self.certificate, 0o644),
            (KEY, &self.key, 0o600),
        ];
        files.extend(self.ticket_key.as_deref().map(|key| (TICKET_KEY, key, 0o600)));
        let mut written = Vec::new();
        for (name, text, mode) in files {
            let path = directory.join(name);
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
            written.push(path);
        }
        fs::File::open(directory)?.sync_all()?;
        Ok(written)
    }

    /// For connections to the fleet's servers, as this server.
    ///
    /// # Errors
    /// Not after [`Bundle::load`].
    pub fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        Ok(server_client_config(&self.ca, &self.certificate, &self.key)?)
    }

    /// The fleet's domain.
    ///
    /// # Errors
    /// Not after [`Bundle::load`].
    pub fn domain(&self) -> anyhow::Result<Name> {
        Ok(parse_domain(&self.domain)?)
    }

    fn check(&self, clock: WallClock) -> anyhow::Result<()> {
        server_config(&self.ca, &self.certificate, &self.key).with_context(|| {
            format!("{CERTIFICATE}, {KEY} and {CA} do not go together; make the bundle anew")
        })?;
        self.check_signature(clock).with_context(|| {
            format!(
                "{CERTIFICATE} is not good under this {CA}; is it of another fleet? \
                 `avr-auther issue` makes one of this fleet"
            )
        })?;
        let verifier = TicketVerifier::from_pem(&self.ticket_public_key)
            .with_context(|| format!("{TICKET_PUBLIC_KEY} cannot be used; copy it anew"))?;
        if let Some(key) = &self.ticket_key {
            let signer = TicketSigner::from_pem(key)
                .with_context(|| format!("{TICKET_KEY} cannot be used; copy it anew"))?;
            if signer.verifier().to_pem() != verifier.to_pem() {
                bail!(
                    "{TICKET_KEY} and {TICKET_PUBLIC_KEY} are of two fleets; \
                     take both from one `avr-auther init`"
                );
            }
        }
        Ok(())
    }

    /// That the CA signed the certificate, and that it is good now.
    fn check_signature(&self, clock: WallClock) -> anyhow::Result<()> {
        let ca = CertificateDer::from_pem_slice(self.ca.as_bytes())?;
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())?;
        let anchor = webpki::anchor_from_trusted_cert(&ca)?;
        let certificate = webpki::EndEntityCert::try_from(&certificate)?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(clock()));
        certificate.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            now,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )?;
        Ok(())
    }
}

fn roles_in(certificate: &str, name: &str) -> Result<Vec<Role>, String> {
    match server_in(certificate) {
        Ok(Peer::Server { roles, name: found }) if found == name && !roles.is_empty() => Ok(roles),
        Ok(Peer::Server { name: found, .. }) => Err(format!(
            "this is the certificate of {found:?}, not of {name:?}; take the one of {name:?}"
        )),
        _ => Err("holds no server's certificate; `avr-auther issue` makes one".to_owned()),
    }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    // The name of the setting is not shown; there is none.
    read_pem("bundle", path).map_err(|error| match error {
        service_kit::FileError::Unreadable { path, source, .. } => {
            anyhow::Error::new(source).context(format!("cannot read {}", path.display()))
        }
        service_kit::FileError::Unusable { path, why, .. } => {
            anyhow::anyhow!("cannot use {}: {why}", path.display())
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use service_kit::host::unix_now_s;
    use wire::identity::FleetCa;

    use super::*;

    /// A fleet's folder, as `avr-auther` makes it.
    pub(crate) fn fleet(directory: &Path, servers: &[(&str, &[Role])]) -> FleetCa {
        let ca = FleetCa::create().unwrap();
        let ticket_key = TicketSigner::generate().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
        write(CA, &ca.certificate_pem());
        write("fleet-ca.key", ca.key_pem().expose());
        write(TICKET_KEY, ticket_key.to_pem().expose());
        write(TICKET_PUBLIC_KEY, &ticket_key.verifier().to_pem());
        for (name, roles) in servers {
            let (certificate, key) = ca.issue(roles, name).unwrap();
            write(&format!("{name}.crt"), &certificate);
            write(&format!("{name}.key"), key.expose());
        }
        ca
    }

    fn error<T: fmt::Debug>(result: anyhow::Result<T>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn a_bundle_holds_what_its_roles_need_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let servers: [(&str, &[Role]); 2] =
            [("tokyo-1", &[Role::Manager, Role::Proxy]), ("tokyo-2", &Role::ALL)];
        fleet(directory.path(), &servers);
        for (name, files) in [("tokyo-1", 5), ("tokyo-2", 6)] {
            let out = directory.path().join(format!("{name}-bundle"));
            let bundle = Bundle::collect(directory.path(), name, "avr.test", unix_now_s).unwrap();
            assert_eq!(bundle.write(&out).unwrap().len(), files);
            let loaded = Bundle::load(&out, unix_now_s).unwrap();
            assert_eq!((loaded.name.as_str(), loaded.roles.len()), (name, files - 3));
            assert!(!out.join("fleet-ca.key").exists());
            assert!(error(bundle.write(&out)).contains("name a folder that is not there yet"));
        }
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fleet(directory.path(), &[("tokyo-1", &[Role::Auther]), ("tokyo-2", &[Role::Proxy])]);
        let collect =
            |name: &str, domain: &str| Bundle::collect(directory.path(), name, domain, unix_now_s);
        let said = error(collect("osaka-1", "avr.test"));
        assert!(said.contains("--role ROLE --name osaka-1` makes "), "{said}");
        assert!(error(collect("tokyo-1", "-")).contains("is no domain; write the domain"));
        let out = directory.path().join("bundle");
        collect("tokyo-1", "avr.test").unwrap().write(&out).unwrap();
        let load = || error(Bundle::load(&out, unix_now_s));

        let copy = |from: &str, to: &str| {
            fs::copy(directory.path().join(from), out.join(to)).unwrap();
        };
        copy("tokyo-2.crt", CERTIFICATE);
        assert!(load().contains("the certificate of \"tokyo-2\", not of \"tokyo-1\""));
        copy("tokyo-1.crt", CERTIFICATE);
        copy("tokyo-2.key", KEY);
        assert!(load().contains("do not go together; make the bundle anew"));
        copy("tokyo-1.key", KEY);
        let other = tempfile::tempdir().unwrap();
        fleet(other.path(), &[]);
        fs::copy(other.path().join(TICKET_KEY), out.join(TICKET_KEY)).unwrap();
        assert!(load().contains("ticket.key and ticket.pub are of two fleets"));
        copy(TICKET_KEY, TICKET_KEY);
        fs::copy(other.path().join(CA), out.join(CA)).unwrap();
        assert!(load().contains("is it of another fleet?"), "{}", load());
        fs::remove_file(out.join(CA)).unwrap();
        assert!(load().contains("cannot read "));
        assert!(error(Bundle::load(other.path(), unix_now_s)).contains("is no fleet bundle"));
        fs::write(out.join(ABOUT), "domain = \"avr.test\"\nnam = \"x\"\n").unwrap();
        assert!(load().contains("bundle.toml:2: unknown key `nam`; write `name` instead"));
    }
}
