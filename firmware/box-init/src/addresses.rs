//! The box's own addresses: settings that are tried before they are kept, and leases that outlive their
//! end. Says what the bridge is to have; what it takes to get there is the driver's.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::{AddressSource, CONFIRM_SECONDS, Ipv4Settings, NetworkSettings};

/// DNS servers in `resolv.conf`; more are not asked.
pub const DNS_MAX: usize = 3;

/// Time servers.
pub const NTP_MAX: usize = 4;

/// Longest host name, in bytes.
pub const HOSTNAME_BYTES_MAX: usize = 63;

/// What a DHCP server gave. Kept in `/state/lease.json`, so that it is there when the server is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix, in bits.
    pub prefix: u8,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
}

/// What the DHCP client told its script, as its variables (busybox, `networking/udhcp`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum DhcpEvent {
    /// There is a lease, new or the same.
    Bound {
        /// Which.
        lease: Lease,
    },
    /// The lease is over, or the client begins.
    Deconfigured,
    /// No server answers.
    NoAnswer,
}

impl DhcpEvent {
    /// From the script's argument and environment; `None` for what says nothing of use.
    #[must_use]
    pub fn read(argument: &str, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        match argument {
            "deconfig" => Some(Self::Deconfigured),
            "leasefail" | "nak" => Some(Self::NoAnswer),
            "bound" | "renew" => {
                let address = variable("ip")?.parse().ok()?;
                let prefix = variable("mask")
                    .and_then(|mask| mask.parse().ok())
                    .filter(|prefix| (1..=32).contains(prefix))
                    .unwrap_or(24);
                let list = |name: &str, max| {
                    let text = variable(name).unwrap_or_default();
                    text.split_whitespace().filter_map(|word| word.parse().ok()).take(max).collect()
                };
                let routers = variable("router").unwrap_or_default();
                let gateway = routers.split_whitespace().find_map(|word| word.parse().ok());
                let (dns, ntp) = (list("dns", DNS_MAX), list("ntpsrv", NTP_MAX));
                Some(Self::Bound { lease: Lease { address, prefix, gateway, dns, ntp } })
            }
            _ => None,
        }
    }
}

/// What the bridge is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Address and length of its prefix.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
    /// The DHCP client is to run.
    pub dhcp: bool,
}

/// The settings in use, the ones to go back to, and the lease.
#[derive(Debug)]
pub struct Addresses {
    settings: NetworkSettings,
    /// What comes back, and when, unless the present ones are confirmed.
    former: Option<(NetworkSettings, Duration)>,
    lease: Option<Lease>,
    /// The lease was given since the start, and not taken back.
    lease_in_force: bool,
    /// A server was looked for in vain, so that a link-local address is better than none.
    no_server: bool,
    link_local: Ipv4Addr,
}

/// There is nothing to confirm or to go back from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no new settings wait for a confirmation")]
pub struct NothingPending;

impl Addresses {
    /// From what STATE has. `mac` gives the link-local address, so that it stays the same.
    #[must_use]
    pub fn new(settings: NetworkSettings, lease: Option<Lease>, mac: [u8; 6]) -> Self {
        let [.., third, fourth] = mac;
        // RFC 3927, section 2.1: neither the first nor the last 256 addresses.
        let link_local = Ipv4Addr::new(169, 254, third.clamp(1, 254), fourth);
        Self { settings, former: None, lease, lease_in_force: false, no_server: false, link_local }
    }

    /// The settings in use.
    #[must_use]
    pub fn settings(&self) -> &NetworkSettings {
        &self.settings
    }

    /// Tries new settings.
    pub fn set(&mut self, settings: NetworkSettings, now: Duration) {
        let until = now + Duration::from_secs(u64::from(CONFIRM_SECONDS));
        let present = std::mem::replace(&mut self.settings, settings);
        // A second try before the first is confirmed goes back to what was confirmed.
        let former = self.former.take().map_or(present, |(former, _)| former);
        self.former = Some((former, until));
    }

    /// Keeps what is tried; to be written to STATE now.
    ///
    /// # Errors
    /// [`NothingPending`].
    pub fn confirm(&mut self) -> Result<&NetworkSettings, NothingPending> {
        self.former.take().map(|_| &self.settings).ok_or(NothingPending)
    }

    /// Goes back to what was before.
    ///
    /// # Errors
    /// [`NothingPending`].
    pub fn revert(&mut self) -> Result<(), NothingPending> {
        let (former, _) = self.former.take().ok_or(NothingPending)?;
        self.settings = former;
        Ok(())
    }

    /// Goes back if nobody has confirmed in time; whether that is so.
    pub fn poll(&mut self, now: Duration) -> bool {
        self.former.as_ref().is_some_and(|(_, until)| *until <= now) && self.revert().is_ok()
    }

    /// When to call [`Addresses::poll`] at the latest.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.former.as_ref().map(|(_, until)| *until)
    }

    /// Seconds left to confirm, if something waits for that.
    #[must_use]
    pub fn confirm_seconds(&self, now: Duration) -> Option<u32> {
        let left = self.due()?.saturating_sub(now);
        u32::try_from(left.as_millis().div_ceil(1000)).ok()
    }

    /// What the DHCP client says; whether the lease is to be written to STATE.
    pub fn dhcp(&mut self, event: DhcpEvent) -> bool {
        match event {
            DhcpEvent::Bound { lease } => {
                self.lease_in_force = true;
                self.no_server = false;
                let lease = Some(lease);
                let is_new = self.lease != lease;
                self.lease = lease;
                is_new
            }
            DhcpEvent::Deconfigured => {
                self.lease_in_force = false;
                false
            }
            DhcpEvent::NoAnswer => {
                self.no_server = true;
                false
            }
        }
    }

    /// Where the IPv4 address comes from.
    #[must_use]
    pub fn source(&self) -> AddressSource {
        match (&self.settings.ipv4, &self.lease) {
            (Ipv4Settings::Off, _) => AddressSource::None,
            (Ipv4Settings::Static { .. }, _) => AddressSource::Static,
            (Ipv4Settings::Dhcp, Some(_)) if self.lease_in_force => AddressSource::Lease,
            (Ipv4Settings::Dhcp, Some(_)) => AddressSource::OldLease,
            (Ipv4Settings::Dhcp, None) if self.no_server => AddressSource::LinkLocal,
            (Ipv4Settings::Dhcp, None) => AddressSource::None,
        }
    }

    /// What the bridge is to have now.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let (ipv4, gateway) = match (&self.settings.ipv4, self.source(), &self.lease) {
            (Ipv4Settings::Static { address, prefix, gateway }, ..) => {
                (Some((*address, *prefix)), *gateway)
            }
            (_, AddressSource::Lease | AddressSource::OldLease, Some(lease)) => {
                (Some((lease.address, lease.prefix)), lease.gateway)
            }
            (_, AddressSource::LinkLocal, _) => (Some((self.link_local, 16)), None),
            _ => (None, None),
        };
        let dhcp = self.settings.ipv4 == Ipv4Settings::Dhcp;
        let lease = self.lease.as_ref().filter(|_| dhcp);
        let or_leased = |own: &[IpAddr], leased: fn(&Lease) -> &Vec<IpAddr>, max| {
            let leased = lease.map_or(&[][..], |lease| leased(lease));
            let list = if own.is_empty() { leased } else { own };
            list.iter().copied().take(max).collect()
        };
        Wanted {
            ipv4,
            gateway,
            dns: or_leased(&self.settings.dns, |lease| &lease.dns, DNS_MAX),
            ntp: or_leased(&self.settings.ntp, |lease| &lease.ntp, NTP_MAX),
            dhcp,
        }
    }
}

impl NetworkSettings {
    /// What is wrong with these settings, and what to write instead.
    ///
    /// # Errors
    /// The setting's key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_name = (1..=HOSTNAME_BYTES_MAX).contains(&self.hostname.len())
            && !self.hostname.starts_with('-')
            && self.hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_name {
            let problem = format!("{:?} is no host name: letters, digits, hyphens", self.hostname);
            return Err(("hostname", problem));
        }
        if self.dns.len() > DNS_MAX {
            return Err(("dns", format!("at most {DNS_MAX} servers are asked")));
        }
        if self.ntp.len() > NTP_MAX {
            return Err(("ntp", format!("at most {NTP_MAX} servers are asked")));
        }
        let Ipv4Settings::Static { address, prefix, gateway } = &self.ipv4 else { return Ok(()) };
        if !(1..=32).contains(prefix) {
            return Err(("ipv4.prefix", format!("{prefix} is not within 1 to 32")));
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
        let host = address.to_bits() & !mask;
        let is_host = *prefix >= 31 || (host != 0 && host != !mask);
        if address.is_unspecified()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_loopback()
            || !is_host
        {
            return Err(("ipv4.address", format!("{address}/{prefix} is no host's address")));
        }
        match gateway {
            Some(gateway)
                if gateway.to_bits() & mask != address.to_bits() & mask || gateway == address =>
            {
                let problem = format!("{gateway} is no other host of {address}/{prefix}");
                Err(("ipv4.gateway", problem))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MAC: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 7];

    fn fixed(last: u8) -> NetworkSettings {
        let ipv4 = Ipv4Settings::Static {
            address: Ipv4Addr::new(192, 0, 2, last),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(192, 0, 2, 1)),
        };
        NetworkSettings { ipv4, ..NetworkSettings::default() }
    }

    fn lease(last: u8) -> Lease {
        Lease {
            address: Ipv4Addr::new(198, 51, 100, last),
            prefix: 24,
            gateway: None,
            dns: vec![Ipv4Addr::new(198, 51, 100, 1).into()],
            ntp: Vec::new(),
        }
    }

    #[test]
    fn settings_come_back_unless_confirmed() {
        let mut addresses = Addresses::new(fixed(7), None, MAC);
        addresses.set(fixed(8), S);
        assert_eq!(addresses.wanted().ipv4.unwrap().0.octets()[3], 8);
        assert_eq!(addresses.confirm_seconds(2 * S), Some(179));
        assert!(!addresses.poll(180 * S) && addresses.poll(181 * S) && !addresses.poll(999 * S));
        assert_eq!(addresses.settings(), &fixed(7));
        assert_eq!(addresses.confirm(), Err(NothingPending));
    }

    #[test]
    fn a_second_try_goes_back_to_what_was_confirmed() {
        let mut addresses = Addresses::new(fixed(7), None, MAC);
        addresses.set(fixed(8), S);
        addresses.set(fixed(9), 100 * S);
        assert!(!addresses.poll(181 * S) && addresses.poll(280 * S));
        assert_eq!(addresses.settings(), &fixed(7));
        addresses.set(fixed(9), S);
        assert_eq!(addresses.confirm(), Ok(&fixed(9)));
        assert_eq!((addresses.revert(), addresses.due()), (Err(NothingPending), None));
    }

    #[test]
    fn leases_outlive_their_end() {
        let mut addresses = Addresses::new(NetworkSettings::default(), Some(lease(5)), MAC);
        assert_eq!(addresses.source(), AddressSource::OldLease);
        assert!(!addresses.dhcp(DhcpEvent::Deconfigured));
        assert_eq!(addresses.wanted().ipv4, Some((lease(5).address, 24)));
        assert!(!addresses.dhcp(DhcpEvent::Bound { lease: lease(5) }));
        assert_eq!(addresses.source(), AddressSource::Lease);
        assert!(addresses.dhcp(DhcpEvent::Bound { lease: lease(6) }));
        addresses.dhcp(DhcpEvent::Deconfigured);
        addresses.dhcp(DhcpEvent::NoAnswer);
        assert_eq!(addresses.source(), AddressSource::OldLease);
        assert_eq!(addresses.wanted().dns, lease(6).dns);
    }

    #[test]
    fn with_no_server_ever_there_is_a_link_local_address() {
        let mut addresses = Addresses::new(NetworkSettings::default(), None, MAC);
        assert_eq!((addresses.wanted().ipv4, addresses.source()), (None, AddressSource::None));
        addresses.dhcp(DhcpEvent::NoAnswer);
        assert_eq!(addresses.wanted().ipv4, Some((Ipv4Addr::new(169, 254, 1, 7), 16)));
    }

    #[test]
    fn the_script_is_understood() {
        let variable = |name: &str| {
            let value = match name {
                "ip" => "192.0.2.9",
                "mask" => "25",
                "router" => "192.0.2.1 192.0.2.2",
                "dns" => "192.0.2.3 nonsense 192.0.2.4",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let Some(DhcpEvent::Bound { lease }) = DhcpEvent::read("bound", variable) else { panic!() };
        assert_eq!((lease.prefix, lease.dns.len()), (25, 2));
        assert_eq!(lease.gateway, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(DhcpEvent::read("bound", |_| None), None);
        assert_eq!(DhcpEvent::read("deconfig", |_| None), Some(DhcpEvent::Deconfigured));
        assert_eq!(DhcpEvent::read("what", |_| None), None);
    }

    #[test]
    fn wrong_settings_are_named() {
        let key = |settings: NetworkSettings| settings.check().err().map(|(key, _)| key);
        assert_eq!(key(NetworkSettings::default()), None);
        assert_eq!(key(fixed(7)), None);
        for last in [0, 255] {
            assert_eq!(key(fixed(last)), Some("ipv4.address"));
        }
        assert_eq!(key(fixed(1)), Some("ipv4.gateway"));
        let hostname = |name: &str| key(NetworkSettings { hostname: name.to_owned(), ..fixed(7) });
        assert_eq!(hostname("box-7"), None);
        for name in ["", "-x", "a.b", &"x".repeat(64)] {
            assert_eq!(hostname(name), Some("hostname"));
        }
    }

    proptest! {
        #[test]
        fn what_is_confirmed_last_is_what_stays(steps in
            proptest::collection::vec((0_u8..4, 2_u8..254, 0_u64..300), 0..40))
        {
            let mut addresses = Addresses::new(fixed(2), None, MAC);
            let (mut confirmed, mut tried) = (fixed(2), None);
            let mut now = Duration::ZERO;
            for (what, last, seconds) in steps {
                now += Duration::from_secs(seconds);
                if addresses.poll(now) {
                    prop_assert!(tried.take().is_some());
                }
                match what {
                    0 | 1 => {
                        addresses.set(fixed(last), now);
                        tried = Some(fixed(last));
                    }
                    2 => if addresses.confirm().is_ok() {
                        confirmed = tried.take().unwrap();
                    },
                    _ => prop_assert_eq!(addresses.revert().is_ok(), tried.take().is_some()),
                }
                prop_assert_eq!(addresses.settings(), tried.as_ref().unwrap_or(&confirmed));
                prop_assert_eq!(addresses.due().is_some(), tried.is_some());
            }
        }

        #[test]
        fn prefixes_and_addresses_do_not_panic(address in any::<u32>(), prefix in any::<u8>(),
            gateway in proptest::option::of(any::<u32>()))
        {
            let ipv4 = Ipv4Settings::Static {
                address: address.into(), prefix, gateway: gateway.map(Ipv4Addr::from),
            };
            let _ = NetworkSettings { ipv4, ..NetworkSettings::default() }.check();
        }
    }
}
