//! Bundles from web servers: whose names, whose certificates, and what this box takes.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use box_fetch::{Client, Downloaded, Limits, Names, Trust, Url, Wanted, download};
use box_update::install::admit;
use box_update::{Keys, Sha256};

use crate::settings::{DEFAULT_PATH, Settings};
use crate::update::{About, Places};

/// Largest file of authorities, in bytes.
const CA_BYTES_MAX: u64 = 256 * 1024;

/// Where a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    Web(String),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let start = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        let is_web = start.starts_with("http://") || start == "https://";
        Ok(if is_web { Self::Web(text.to_owned()) } else { Self::File(text.into()) })
    }
}

/// What is to be known of web servers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Server {
    /// For https://: PEM file of the authority to believe; default: updates.ca of the settings.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The settings file: updates.ca and the DNS servers of it are used, if it is there.
    #[arg(long, default_value = DEFAULT_PATH)]
    config: PathBuf,
}

impl Server {
    /// Fetches a bundle to DATA, if this box takes it.
    pub(crate) fn fetch(
        &self,
        places: &Places,
        about: &About,
        url: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> anyhow::Result<Downloaded> {
        let url: Url = url.parse()?;
        // By hand a box whose settings are broken can be updated all the same.
        let settings = Settings::load(&self.config).ok();
        let set = settings.as_ref().and_then(|settings| settings.updates.as_ref()?.ca.as_deref());
        let resolvers = settings.as_ref().map(Settings::resolvers).unwrap_or_default();
        let client = client(self.ca.as_deref().or(set), resolvers)?;
        let offer = None;
        runtime()?.block_on(bundle(&client, places, about, &url, offer, progress))
    }
}

/// Fetches a bundle that is offered with this size and digest of its system, or by hand.
pub(crate) async fn bundle(
    client: &Client<Resolvers>,
    places: &Places,
    about: &About,
    url: &Url,
    offer: Option<(u64, Sha256)>,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Downloaded> {
    let keys = Keys::built_in()?;
    // A box that has lost its record can be updated, too.
    let record = places.record().unwrap_or_default();
    let facts = about.facts();
    let running = about.slot().map(|slot| slot.build().max(about.release.build));
    let mut admit = |manifest: &_| {
        admit(manifest, &record, &facts, running).map_err(|refusal| refusal.to_string())
    };
    let mut wanted = Wanted { url, keys: &keys, offer, admit: &mut admit, progress };
    Ok(download(client, &places.downloads, &mut wanted).await?)
}

/// Asks by these names and this authority.
pub(crate) fn client(
    ca: Option<&Path>,
    resolvers: Vec<SocketAddr>,
) -> anyhow::Result<Client<Resolvers>> {
    let trust = ca.map(trust).transpose()?;
    Ok(Client::new(Resolvers(resolvers), trust, Limits::default()))
}

/// Believes the authorities of a file.
pub(crate) fn trust(ca: &Path) -> anyhow::Result<Trust> {
    let step = || format!("use the authority's certificate {}", ca.display());
    let mut pem = String::new();
    File::open(ca)
        .and_then(|file| file.take(CA_BYTES_MAX).read_to_string(&mut pem))
        .with_context(step)?;
    Trust::from_pem(&pem).with_context(step)
}

/// One thread is enough: one file comes at a time.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}

/// The box's DNS servers.
#[derive(Debug)]
pub(crate) struct Resolvers(Vec<SocketAddr>);

impl Names for Resolvers {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        box_relay::lookup_host(host, &self.0).await.map_err(|error| telemetry::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_from_a_file() {
        for (text, is_web) in [
            ("http://a/b.tar", true),
            ("HTTPS://a/b.tar", true),
            ("https:/a", false),
            ("/data/b.tar", false),
            ("b", false),
            ("é", false),
        ] {
            let source: Source = text.parse().unwrap_or_else(|never| match never {});
            assert_eq!(matches!(source, Source::Web(_)), is_web, "{text}");
        }
    }
}
