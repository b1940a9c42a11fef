//! Where a proxy connects, and where never: mail ports of the public internet.
//!
//! A box names the destination, so this is what keeps a stolen box, or a bug in one, from reaching
//! the networks behind the proxy. The check is on the address that is connected to, which it also
//! brings into its plain form: a private address hidden in an IPv6 one is found. No IO, no names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Most networks in one list of the settings.
pub const NETWORKS_MAX: usize = 1024;

/// A network such as `10.0.0.0/8`; a single address is one with all bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// What may be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Ports of mail.
    pub mail_ports: Vec<u16>,
    /// This site's own addresses, which a box has no business with.
    pub own: Vec<Network>,
    /// Networks that may be connected to whatever else is said here; empty but in tests.
    pub test: Vec<Network>,
}

/// Why a destination is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// No port of mail.
    #[error("port {0} is no mail port")]
    Port(u16),
    /// One of the site's own.
    #[error("the address is one of this site's own")]
    Own,
    /// Not on the public internet.
    #[error("the address is {0}")]
    Network(&'static str),
}

impl Policy {
    /// The destination in its plain form, if it may be connected to.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, destination: SocketAddr) -> Result<SocketAddr, Forbidden> {
        // Canonical, and without the scope and flow of an IPv6 socket address, which are the peer's.
        let ip = destination.ip().to_canonical();
        let plain = SocketAddr::new(ip, destination.port());
        if !self.mail_ports.contains(&plain.port()) {
            return Err(Forbidden::Port(plain.port()));
        }
        if self.test.iter().any(|network| network.contains(ip)) {
            return Ok(plain);
        }
        let embedded = match ip {
            IpAddr::V6(ip) => embedded(ip).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        for ip in std::iter::once(ip).chain(embedded) {
            if self.own.iter().any(|network| network.contains(ip)) {
                return Err(Forbidden::Own);
            }
            if let Some(name) = reserved(ip) {
                return Err(Forbidden::Network(name));
            }
        }
        Ok(plain)
    }
}

impl Network {
    /// Whether the address lies in it. An IPv4 address in IPv6 form counts as what it is.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => v4_in(ip, network, self.bits.into()),
            (IpAddr::V6(network), IpAddr::V6(ip)) => v6_in(ip, network, self.bits.into()),
            _ => false,
        }
    }
}

impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        let address = ip.to_canonical();
        Self { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let error = || ParseNetworkError(text.escape_debug().to_string());
        let Some((address, bits)) = text.split_once('/') else {
            return text.parse::<IpAddr>().map(Self::from).map_err(|_| error());
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let bits: u8 = bits.parse().map_err(|_| error())?;
        let whole = Self::from(address);
        // A network in IPv4-mapped form would mean something else than it looks like.
        if bits > whole.bits || whole.address != address {
            return Err(error());
        }
        Ok(Self { address, bits })
    }
}

/// From a text. A visitor, and not `try_from`, so that an error knows its line within a list.
impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Network;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or network in quotes, as in \"203.0.113.0/24\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Network, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no network, expected an address or network, as in \"203.0.113.0/24\"")]
pub struct ParseNetworkError(String);

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// The registries of special addresses (RFC 6890 and its successors at IANA), as far as nothing in
/// them is a mail server.
const RESERVED_V4: [(Ipv4Addr, u32, &str); 16] = [
    (Ipv4Addr::UNSPECIFIED, 32, "unspecified"),
    (Ipv4Addr::new(0, 0, 0, 0), 8, "in \"this network\" (RFC 791)"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private (RFC 1918)"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared behind carriers' NAT (RFC 6598)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local (RFC 3927)"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private (RFC 1918)"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "for protocols (RFC 6890)"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation (RFC 5737)"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a 6to4 relay (RFC 7526)"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private (RFC 1918)"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks (RFC 2544)"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation (RFC 5737)"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation (RFC 5737)"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast (RFC 5771)"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved or broadcast (RFC 1112)"),
];

/// The same for IPv6, to be tried in this order: behind them everything outside `2000::/3` is no
/// global unicast (RFC 4291 section 2.4), with NAT64's prefix as the exception.
const RESERVED_V6: [(Ipv6Addr, u32, &str); 9] = [
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "unique local (RFC 4193)"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local (RFC 4291)"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast (RFC 4291)"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "for protocols (RFC 2928)"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "for documentation (RFC 3849)"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "for documentation (RFC 9637)"),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16, "for segment routing (RFC 9602)"),
];

const GLOBAL_UNICAST: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
const SIX_TO_FOUR: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// What an address is, if it is nothing that a mail server could have.
fn reserved(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => RESERVED_V4
            .iter()
            .find(|(network, bits, _)| v4_in(ip, *network, *bits))
            .map(|(_, _, name)| *name),
        IpAddr::V6(ip) => RESERVED_V6
            .iter()
            .find(|(network, bits, _)| v6_in(ip, *network, *bits))
            .map(|(_, _, name)| *name)
            .or_else(|| {
                let global = [GLOBAL_UNICAST, NAT64].iter().any(|(n, bits)| v6_in(ip, *n, *bits));
                (!global).then_some("not global unicast (RFC 4291)")
            }),
    }
}

/// The IPv4 address that packets to this IPv6 address end up at: NAT64 (RFC 6052 section 2.1) and
/// 6to4 (RFC 3056 section 2). IPv4-mapped ones are IPv4 already.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c, d] = ip.octets();
    let [_, _, e, f, g, h, ..] = ip.octets();
    if v6_in(ip, NAT64.0, NAT64.1) {
        Some(Ipv4Addr::new(a, b, c, d))
    } else if v6_in(ip, SIX_TO_FOUR.0, SIX_TO_FOUR.1) {
        Some(Ipv4Addr::new(e, f, g, h))
    } else {
        None
    }
}

fn v4_in(ip: Ipv4Addr, network: Ipv4Addr, bits: u32) -> bool {
    let shift = u32::BITS - bits.min(u32::BITS);
    // A shift by all bits leaves nothing to compare: every address is in 0.0.0.0/0.
    ip.to_bits().checked_shr(shift) == network.to_bits().checked_shr(shift)
}

fn v6_in(ip: Ipv6Addr, network: Ipv6Addr, bits: u32) -> bool {
    let shift = u128::BITS - bits.min(u128::BITS);
    ip.to_bits().checked_shr(shift) == network.to_bits().checked_shr(shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn policy() -> Policy {
        Policy {
            mail_ports: vec![25, 110, 587, 2525],
            own: networks(&["1.2.3.4", "2a00:1::/48"]),
            test: Vec::new(),
        }
    }

    fn check(ip: &str) -> Result<SocketAddr, Forbidden> {
        policy().check(SocketAddr::new(ip.parse().unwrap(), 25))
    }

    #[test]
    fn the_public_internet_is_allowed() {
        for ip in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "169.253.0.1",
            "9.255.255.255",
            "11.0.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "2001:200::1",
            "2a00::1",
            "2400:cb00::1",
            "3ffe::1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            let plain = SocketAddr::new(ip.parse().unwrap(), 25);
            assert_eq!(check(ip), Ok(plain), "{ip}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:0:7f00:1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "100::1",
            "64:ff9b:1::1",
            "4000::1",
            "e000::1",
        ] {
            assert!(matches!(check(ip), Err(Forbidden::Network(_))), "{ip}: {:?}", check(ip));
        }
    }

    #[test]
    fn forbidden_addresses_hidden_in_ipv6_ones_are_found() {
        for hidden in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "192.168.0.1"] {
            let v4: Ipv4Addr = hidden.parse().unwrap();
            let [high, low] = {
                let [a, b, c, d] = v4.octets();
                [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
            };
            for ip in [
                v4.to_ipv6_mapped(),
                v4.to_ipv6_compatible_for_test(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            ] {
                let checked = policy().check(SocketAddr::new(ip.into(), 25));
                assert!(matches!(checked, Err(Forbidden::Network(_))), "{ip}: {checked:?}");
            }
        }
    }

    trait Compatible {
        fn to_ipv6_compatible_for_test(self) -> Ipv6Addr;
    }

    impl Compatible for Ipv4Addr {
        /// `::a.b.c.d`, RFC 4291 section 2.5.5.1.
        fn to_ipv6_compatible_for_test(self) -> Ipv6Addr {
            Ipv6Addr::from_bits(self.to_bits().into())
        }
    }

    #[test]
    fn a_public_address_in_mapped_form_is_connected_to_in_its_plain_form() {
        assert_eq!(check("::ffff:8.8.8.8"), Ok("8.8.8.8:25".parse().unwrap()));
        let scoped = "[2a00::1%7]:25".parse().unwrap();
        assert_eq!(policy().check(scoped), Ok("[2a00::1]:25".parse().unwrap()));
    }

    #[test]
    fn own_addresses_are_forbidden_in_every_form() {
        for ip in ["1.2.3.4", "::ffff:1.2.3.4", "64:ff9b::1.2.3.4", "2002:102:304::", "2a00:1::9"] {
            assert_eq!(check(ip), Err(Forbidden::Own), "{ip}");
        }
        check("1.2.3.5").unwrap();
    }

    #[test]
    fn only_mail_ports_are_allowed() {
        for port in [0, 22, 80, 143, 443, 4650, 65535] {
            let destination = SocketAddr::new("1.1.1.1".parse().unwrap(), port);
            assert_eq!(policy().check(destination), Err(Forbidden::Port(port)));
        }
        for port in [25, 110, 587, 2525] {
            policy().check(SocketAddr::new("1.1.1.1".parse().unwrap(), port)).unwrap();
        }
    }

    #[test]
    fn test_networks_open_what_they_name_and_no_port() {
        let policy = Policy { test: networks(&["127.0.0.0/8", "fd00:1::/64"]), ..policy() };
        policy.check("127.0.0.1:25".parse().unwrap()).unwrap();
        policy.check("[::ffff:127.9.9.9]:25".parse().unwrap()).unwrap();
        policy.check("[fd00:1::1]:25".parse().unwrap()).unwrap();
        assert!(policy.check("[fd00:2::1]:25".parse().unwrap()).is_err());
        assert!(policy.check("10.0.0.1:25".parse().unwrap()).is_err());
        let port = policy.check("127.0.0.1:22".parse().unwrap());
        assert_eq!(port, Err(Forbidden::Port(22)));
        // NAT64 of a test network is not that network: it leaves the host.
        assert!(policy.check("[64:ff9b::127.0.0.1]:25".parse().unwrap()).is_err());
    }

    #[test]
    fn networks_are_parsed_strictly() {
        assert_eq!("1.2.3.4".parse::<Network>().unwrap().to_string(), "1.2.3.4/32");
        assert_eq!("::/0".parse::<Network>().unwrap().to_string(), "::/0");
        for bad in ["", "1.2.3.4/33", "1.2.3/8", "::/129", "1.2.3.4/", "x", "::ffff:1.2.3.0/120"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        let all = networks(&["0.0.0.0/0"]);
        assert!(all[0].contains("255.1.2.3".parse().unwrap()));
        assert!(!all[0].contains("::1".parse().unwrap()));
    }

    proptest! {
        /// Whatever the form, an IPv4 destination gets the same answer.
        #[test]
        fn mapped_and_plain_forms_agree(bits: u32) {
            let plain = Ipv4Addr::from_bits(bits);
            let mapped = plain.to_ipv6_mapped();
            let policy = policy();
            prop_assert_eq!(
                policy.check(SocketAddr::new(plain.into(), 25)),
                policy.check(SocketAddr::new(mapped.into(), 25))
            );
            let nat64 = Ipv6Addr::from_bits(NAT64.0.to_bits() | u128::from(bits));
            prop_assert_eq!(
                policy.check(SocketAddr::new(plain.into(), 25)).is_ok(),
                policy.check(SocketAddr::new(nat64.into(), 25)).is_ok()
            );
        }

        /// What the standard library knows to be special is never allowed.
        #[test]
        fn std_agrees(bits: u32) {
            let ip = Ipv4Addr::from_bits(bits);
            if ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast()
                || ip.is_broadcast() || ip.is_documentation() || ip.is_unspecified()
            {
                prop_assert!(policy().check(SocketAddr::new(ip.into(), 25)).is_err());
            }
        }
    }
}
