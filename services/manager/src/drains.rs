//! Drains survive a restart: one that began before an upgrade is not over behind it.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use service_kit::state::{self, StateError};
use tracing::{info, warn};

use crate::fleet::Fleet;

/// Name of the file in the state directory. There is none while nothing is drained.
const STATE_FILE: &str = "drains.json";

/// The file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drains {
    /// The whole site.
    site: bool,
    /// Proxies, by their local addresses.
    proxies: Vec<SocketAddr>,
}

/// Why what was drained is not known.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the file holds something else than drains")]
    Form(#[from] serde_json::Error),
}

/// Drains again what was drained before. What cannot be read is in the log; a proxy that is not in the
/// table any more is left out.
pub(crate) fn restore(directory: &Path, fleet: &mut Fleet) {
    let path = directory.join(STATE_FILE);
    let Drains { site, proxies } = read(&path).unwrap_or_else(|error| {
        let error = telemetry::chain(&error);
        warn!(error, file = %path.display(), "what was drained is not known: nothing is drained");
        Drains::default()
    });
    if site {
        fleet.drain(None);
        info!("the site is drained, as before the restart");
    }
    for proxy in proxies {
        if fleet.drain(Some(proxy)) {
            info!(%proxy, "drained, as before the restart");
        }
    }
}

/// Keeps what is drained now.
///
/// # Errors
/// The file cannot be written or removed.
pub(crate) fn keep(directory: &Path, fleet: &Fleet) -> Result<(), StateError> {
    let path = directory.join(STATE_FILE);
    let drains = Drains { site: fleet.is_drained(), proxies: fleet.drained().collect() };
    if drains == Drains::default() {
        return state::remove(&path);
    }
    // Addresses and a flag always have a form.
    state::write(&path, &serde_json::to_vec(&drains).unwrap_or_default())
}

fn read(path: &Path) -> Result<Drains, RestoreError> {
    match state::read(path)? {
        Some(bytes) => Ok(serde_json::from_slice(&bytes)?),
        None => Ok(Drains::default()),
    }
}
