//! What the relay client is told at its start.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use wire::MacAddress;
use wire::identity::DeviceKey;

use crate::limits::Timing;

/// Reads wall-clock time: seconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Settings of a [`crate::Relay`]. Make one with [`Settings::new`] and change what differs.
pub struct Settings {
    /// Carry sessions through sites. Off: everything goes direct, nobody is asked. Default: on.
    pub relay: bool,
    /// The fleet's domain: managers are `manager.<domain>`, authers `auther.<domain>`.
    pub domain: String,
    /// DNS resolvers in the order to ask them. Default: none, that is those of `resolv_conf`.
    pub resolvers: Vec<SocketAddr>,
    /// Where the resolvers stand if `resolvers` is empty. Default: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// TCP port of all managers. Default: [`wire::MANAGER_PORT`].
    pub manager_port: u16,
    /// TCP port of all authers. Default: [`wire::AUTHER_PORT`].
    pub auther_port: u16,
    /// Where lists and ticket survive a restart. Made if absent.
    pub state_directory: PathBuf,
    /// Certificate of the fleet CA, PEM.
    pub fleet_ca_pem: String,
    /// Public key that tickets are signed with, PEM (`ticket.pub`).
    pub ticket_key_pem: String,
    /// This box's key; see [`crate::load_or_create_device_key`].
    pub device_key: DeviceKey,
    /// This box's inventory number.
    pub mac: MacAddress,
    /// Version of this box's software, printable ASCII, at most 64 bytes. Default: this crate's.
    pub software: String,
    /// Proxy connections kept ready; each counts as a session at its manager. 0: none. Default 2,
    /// at most [`crate::limits::WARM_LINKS_MAX`].
    pub warm_links: usize,
    /// `SO_MARK` of connections straight to mail servers (needs `CAP_NET_ADMIN`). Default: none.
    pub direct_mark: Option<u32>,
    /// Local addresses of connections straight to mail servers; the first of the mail server's
    /// family is used. Default: none, the system chooses.
    pub direct_sources: Vec<IpAddr>,
    /// Wall-clock time, for tickets and the age of lists. Default: the system's.
    pub clock: Clock,
    /// All waits. Default: the product's.
    pub timing: Timing,
}

impl Settings {
    /// Settings with all defaults.
    #[must_use]
    pub fn new(
        domain: String,
        state_directory: PathBuf,
        fleet_ca_pem: String,
        ticket_key_pem: String,
        device_key: DeviceKey,
        mac: MacAddress,
    ) -> Self {
        Self {
            relay: true,
            domain,
            resolvers: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            manager_port: wire::MANAGER_PORT,
            auther_port: wire::AUTHER_PORT,
            state_directory,
            fleet_ca_pem,
            ticket_key_pem,
            device_key,
            mac,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            warm_links: 2,
            direct_mark: None,
            direct_sources: Vec::new(),
            clock: Arc::new(system_clock_s),
            timing: Timing::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("relay", &self.relay)
            .field("domain", &self.domain)
            .field("resolvers", &self.resolvers)
            .field("state_directory", &self.state_directory)
            .field("mac", &self.mac)
            .field("warm_links", &self.warm_links)
            .finish_non_exhaustive()
    }
}

/// Seconds since 1970 by the system's clock; 0 if that is set before 1970.
fn system_clock_s() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "the one place where this driver reads the clock")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
