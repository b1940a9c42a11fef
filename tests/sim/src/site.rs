//! The model of a site: managers with the production core, proxies with capacities, and a line.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use manager::fleet::{Fleet, Selection};
use manager::health::HealthSettings;
use manager::table::Table;

use crate::queue::At;

/// Managers of a site.
pub const MANAGERS: usize = 2;
/// Proxies of a site.
pub const PROXIES: usize = 5;
/// How often each stands in the table.
pub const WEIGHTS: [u32; PROXIES] = [1, 1, 2, 2, 1];
/// Sites that addresses can be made for.
pub const SITES_MAX: usize = 200;
/// Sessions at once: the proxy's default setting.
pub const SESSIONS_MAX: u32 = 2_000;
/// Links that boxes keep warm, at once: the proxy's limit.
pub const WARM_MAX: u32 = 1_024;
/// Links at once: the proxy's limit.
pub const LINKS_MAX: u32 = SESSIONS_MAX + 2 * WARM_MAX;
/// Links of boxes at once: the manager's default setting.
pub const CONNECTIONS_MAX: u32 = 8_192;
/// A link that nothing was asked on for so long is a warm one to the proxy, microseconds.
pub const WARM_AFTER_US: At = 30_000_000;
/// Bits a second of a site's line.
pub const LINE_BPS: f64 = 100e6;
/// A load average is over a minute.
const LOAD_S: f64 = 60.0;
/// CPU time of a TLS handshake, seconds.
pub const HANDSHAKE_CPU_S: f64 = 0.002;

/// What becomes of what is sent there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It arrives.
    Up,
    /// It is dropped.
    Silent,
    /// It is refused.
    Refusing,
}

/// One site's line and place.
#[derive(Debug)]
pub struct Site {
    /// Of all of it.
    pub reach: Reach,
    /// Round trip to the middle of the internet, microseconds.
    pub round_trip_us: At,
    /// Given to transfers, bits a second.
    pub given_bps: f64,
    /// Sessions carried.
    pub sessions: u32,
}

/// One manager: the core that ships.
#[derive(Debug)]
pub struct Manager {
    /// The core.
    pub fleet: Fleet,
    /// Of this host alone.
    pub reach: Reach,
    /// How often it was started.
    pub epoch: u32,
    /// Links of boxes.
    pub connections: u32,
}

/// One proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Of this host alone.
    pub reach: Reach,
    /// How often it was started.
    pub epoch: u32,
    /// Links of boxes, those that carry sessions counted.
    pub links: u32,
    /// Of these, warm ones.
    pub warm: u32,
    /// Sessions.
    pub sessions: u32,
    /// Sessions taken so far.
    pub taken: u64,
    /// Its load average.
    pub load: Load,
    /// Load from something else.
    pub other_load: f64,
}

/// An exponentially averaged use of CPU, as the kernel has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    average: f64,
    at: At,
    /// CPUs in use.
    busy: f64,
}

impl Load {
    /// From now on, so many CPUs more are in use.
    pub fn add(&mut self, cpus: f64, now: At) {
        self.average(now);
        self.busy = (self.busy + cpus).max(0.0);
    }

    /// So much CPU time is used at once.
    pub fn spend(&mut self, cpu_s: f64, now: At) {
        self.average(now);
        self.average += cpu_s / LOAD_S;
    }

    /// The average at `now`.
    pub fn average(&mut self, now: At) -> f64 {
        let passed_s = now.saturating_sub(self.at) as f64 / 1e6;
        self.average = self.busy + (self.average - self.busy) * (-passed_s / LOAD_S).exp();
        self.at = now;
        self.average
    }
}

impl Proxy {
    /// Just started.
    #[must_use]
    pub fn new() -> Self {
        Self {
            reach: Reach::Up,
            epoch: 0,
            links: 0,
            warm: 0,
            sessions: 0,
            taken: 0,
            load: Load::default(),
            other_load: 0.0,
        }
    }

    /// Its power fails: it starts anew when it is reached again.
    pub fn dies(&mut self, now: At) {
        let epoch = self.epoch + 1;
        let taken = self.taken;
        let reach = self.reach;
        *self = Self { epoch, taken, reach, ..Self::new() };
        self.load.at = now;
    }

    /// Thousandths of its load average.
    pub fn load_milli(&mut self, now: At) -> u32 {
        let milli = (self.load.average(now) + self.other_load) * 1e3;
        u32::try_from(crate::random::us(milli / 1e6)).unwrap_or(u32::MAX)
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self::new()
    }
}

impl Manager {
    /// Just started.
    #[must_use]
    pub fn new(table: &Table, selection: Selection, seed: u64, now: Instant) -> Self {
        Self {
            fleet: fleet(table, selection, seed, now),
            reach: Reach::Up,
            epoch: 0,
            connections: 0,
        }
    }

    /// Its power fails.
    pub fn dies(&mut self, table: &Table, selection: Selection, seed: u64, now: Instant) {
        self.epoch += 1;
        self.connections = 0;
        self.fleet = fleet(table, selection, seed, now);
    }
}

fn fleet(table: &Table, selection: Selection, seed: u64, now: Instant) -> Fleet {
    // The defaults of the settings file.
    let health = HealthSettings {
        load_average_max_milli: 8_000,
        load_average_recover_milli: 6_000,
        recover_polls: manager::settings::RECOVER_POLLS,
    };
    Fleet::new(table.clone(), selection, health, seed, now)
}

/// A site's table, as its managers' settings have it.
///
/// # Panics
///
/// If the manager does not take the table: a mistake here.
#[must_use]
pub fn table(site: usize) -> Table {
    let local = |proxy: usize| format!("10.0.0.{}", proxy + 1);
    let written: Vec<String> = WEIGHTS
        .iter()
        .enumerate()
        .flat_map(|(proxy, weight)| (0..*weight).map(move |_| local(proxy)))
        .collect();
    let public: BTreeMap<String, String> = (0..PROXIES)
        .map(|proxy| (local(proxy), proxy_address(site * PROXIES + proxy).to_string()))
        .collect();
    match Table::parse(&written.join(", "), &public) {
        Ok(table) => table,
        Err(error) => panic!("the table of site {site}: {error}"),
    }
}

/// A manager's public address. A site has two addresses, each forwarded to a manager and to some of
/// the proxies.
#[must_use]
pub fn manager_address(manager: usize) -> SocketAddr {
    SocketAddr::new(ip(manager / MANAGERS, manager % MANAGERS), wire::MANAGER_PORT)
}

/// A proxy's public address.
#[must_use]
pub fn proxy_address(proxy: usize) -> SocketAddr {
    let (site, place) = (proxy / PROXIES, proxy % PROXIES);
    let port = wire::PROXY_PORT + u16::try_from(place).unwrap_or(0);
    SocketAddr::new(ip(site, place % MANAGERS), port)
}

/// The other way round; none for what is no manager's.
#[must_use]
pub fn manager_at(address: SocketAddr) -> Option<usize> {
    let (site, place) = place(address)?;
    Some(site * MANAGERS + place)
}

/// The other way round; none for what is no proxy's.
#[must_use]
pub fn proxy_at(address: SocketAddr) -> Option<usize> {
    let (site, _) = place(address)?;
    Some(site * PROXIES + usize::from(address.port().checked_sub(wire::PROXY_PORT)?))
}

fn ip(site: usize, place: usize) -> IpAddr {
    let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    IpAddr::from([198, 18, byte(site), byte(place + 1)])
}

fn place(address: SocketAddr) -> Option<(usize, usize)> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    let [_, _, site, place] = ip.octets();
    Some((usize::from(site), usize::from(place).checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_can_be_read_back() {
        for number in 0..60 {
            assert_eq!(proxy_at(proxy_address(number)), Some(number));
        }
        for number in 0..24 {
            assert_eq!(manager_at(manager_address(number)), Some(number));
        }
        assert_eq!(table(3).proxies().len(), PROXIES);
        assert_eq!(table(3).entries().len(), 7);
    }

    #[test]
    fn a_load_average_follows_the_load_within_a_minute() {
        let mut load = Load::default();
        load.add(4.0, 0);
        assert!((2.4..2.6).contains(&load.average(60_000_000)));
        load.add(-4.0, 60_000_000);
        assert!((0.9..1.0).contains(&load.average(120_000_000)));
        load.spend(60.0, 120_000_000);
        assert!((1.9..2.0).contains(&load.average(120_000_000)));
    }
}
