//! `avr page`: the status page, with what of this program's settings it needs.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use quarantine::settings::Mode;
use status_page::{Options, Places};

use crate::settings::{DEFAULT_CONTROL, DEFAULT_PATH, Settings};

/// Threads that wait for the disk, for answers, or for who downloads a mail.
const BLOCKING_THREADS_MAX: usize = 16;

/// What `avr page` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct PageArgs {
    /// The gateway's settings file: where journal and quarantine are.
    #[arg(long, default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// The gateway's control socket.
    #[arg(long, default_value = DEFAULT_CONTROL)]
    control: PathBuf,
    /// PID 1's control socket.
    #[arg(long, default_value = "/run/init/control")]
    init: PathBuf,
    /// Where STATE is: secret, certificate, config/page.toml.
    #[arg(long, default_value = "/state")]
    state: PathBuf,
    /// The file of the last day.
    #[arg(long, default_value = "/data/page/day")]
    history: PathBuf,
    /// Where the console finds the certificate's fingerprint.
    #[arg(long, default_value = "/run/page/fingerprint")]
    fingerprint: PathBuf,
    /// Address and port of the page.
    #[arg(long, default_value_t = on_port(443))]
    https: SocketAddr,
    /// Address and port of plain HTTP, which only leads to the page.
    #[arg(long, default_value_t = on_port(80))]
    http: SocketAddr,
    /// The page is on this interface's addresses alone, and `avr-<serial>.local` leads there.
    #[arg(long)]
    interface: Option<String>,
}

const fn on_port(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

impl PageArgs {
    /// Serves for ever.
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        telemetry::init(telemetry::Format::Text);
        let config = self.config;
        let options = Options {
            init: self.init,
            gateway: self.control,
            state: self.state,
            history: self.history,
            fingerprint: self.fingerprint,
            https: self.https,
            http: self.http,
            interface: self.interface,
            places: Box::new(move || places(&config)),
            clock: crate::unix_now_s,
        };
        // One thread is enough for a few browsers, and costs the least memory.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()
            .context("start the runtime")?;
        runtime.block_on(status_page::run(options)).map(|never| match never {})
    }
}

/// By the settings as they are now: the file may be found, or changed, at any time.
fn places(config: &Path) -> Result<Places, String> {
    let settings = Settings::load(config).map_err(|error| telemetry::chain(&error))?;
    let vault = match settings.quarantine.mode {
        Mode::On => crate::kept::vault(&settings).map_err(|error| format!("{error:#}")),
        Mode::Off => Err("none: what is refused is not kept".to_owned()),
    };
    let journal = settings.journal.folder(&settings.identity.state_directory);
    Ok(Places { journal, vault })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_those_of_the_settings() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("box.toml");
        let error = places(&config).unwrap_err();
        assert!(error.contains("box.toml"), "{error}");
        let state = folder.path().join("identity");
        let text = format!(
            "[ports]\nlan = \"lan0\"\nwan = \"wan0\"\nbridge = \"br0\"\n[identity]\nstate_directory = {state:?}\n"
        );
        std::fs::write(&config, &text).unwrap();
        let known = places(&config).unwrap();
        assert_eq!(known.journal, state.join("journal"));
        let problem = known.vault.unwrap_err();
        assert!(problem.contains("there is no device key"), "{problem}");
        std::fs::write(&config, format!("{text}[quarantine]\nmode = \"off\"\n")).unwrap();
        assert!(places(&config).unwrap().vault.unwrap_err().starts_with("none: "));
        std::fs::write(&config, &text).unwrap();
        box_relay::load_or_create_device_key(&{
            std::fs::create_dir_all(&state).unwrap();
            state.clone()
        })
        .unwrap();
        assert!(places(&config).unwrap().vault.unwrap().list(0).unwrap().next().is_none());
    }
}
