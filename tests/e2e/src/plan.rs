//! Who has which address. Public ones are from the documentation networks
//! (RFC 5737, RFC 3849).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The lab's own files: settings, mail, logs. On the lab's own file system.
pub(crate) const ROOT: &str = "/run/avr-lab";
/// The box's domain for its servers.
pub(crate) const DOMAIN: &str = "avr.test";
/// How long a box may keep the list of managers, in seconds.
pub(crate) const MANAGER_TTL_S: u32 = 5;

pub(crate) const PC: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 10);
pub(crate) const BOX: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
pub(crate) const OFFICE: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 1);
/// The office router's address in the internet: what a mail server sees of direct sessions.
pub const OFFICE_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub(crate) const DNS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
/// The mail host: Postfix and Dovecot.
pub const MAIL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 25);
pub(crate) const WEB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
/// The internet's router towards the hosts above.
pub(crate) const EXCHANGE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// Name of the mail host.
pub const MAIL_NAME: &str = "mail.avr.test";
/// Name of the web server.
pub const WEB_NAME: &str = "www.avr.test";

/// Where a site stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SitePlan {
    pub(crate) name: &'static str,
    /// Its one public address of IPv4.
    pub(crate) public: Ipv4Addr,
    /// The internet's end of its line.
    pub(crate) upstream: Ipv4Addr,
    /// Third group of its IPv6 networks.
    group: u16,
}

impl SitePlan {
    /// Host `host` on its line.
    pub(crate) const fn line6(self, host: u16) -> Ipv6Addr {
        network6(self.group, 0, host)
    }

    /// Host `host` on its inner network, which IPv6 reaches without translation.
    pub(crate) const fn inner6(self, host: u16) -> Ipv6Addr {
        network6(self.group, 1, host)
    }
}

/// The sites. A lab has the first two, unless it is made larger; these two are in the order of the DNS
/// answer, since Knot gives addresses sorted.
pub(crate) const SITES: [SitePlan; 3] = [
    SitePlan {
        name: "tokyo",
        public: Ipv4Addr::new(192, 0, 2, 1),
        upstream: Ipv4Addr::new(192, 0, 2, 254),
        group: 0xa,
    },
    SitePlan {
        name: "osaka",
        public: Ipv4Addr::new(198, 51, 100, 1),
        upstream: Ipv4Addr::new(198, 51, 100, 254),
        group: 0xb,
    },
    SitePlan {
        name: "nagoya",
        // The documentation networks are used up; this one is for benchmarks (RFC 2544).
        public: Ipv4Addr::new(198, 18, 0, 1),
        upstream: Ipv4Addr::new(198, 18, 0, 254),
        group: 0xc,
    },
];

/// How large a lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Sites, at most three.
    pub sites: usize,
    /// Scanners of each site, at most two.
    pub scanners: usize,
}

impl Size {
    /// What is at hand where a scenario asks for nothing.
    pub const USUAL: Self = Self { sites: 2, scanners: 1 };
    /// All that there can be.
    pub const LARGE: Self = Self { sites: SITES.len(), scanners: SCANNERS.len() };
}

/// A host of the documentation network of IPv6 (RFC 3849).
const fn network6(group: u16, subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, group, subnet, 0, 0, 0, host)
}

/// The PC in IPv6.
pub const PC6: Ipv6Addr = network6(0x10, 0, 0x10);
pub(crate) const BOX6: Ipv6Addr = network6(0x10, 0, 2);
pub(crate) const OFFICE6: Ipv6Addr = network6(0x10, 0, 1);
pub(crate) const OFFICE_PUBLIC6: Ipv6Addr = network6(1, 0, 7);
/// The mail host in IPv6.
pub const MAIL6: Ipv6Addr = network6(1, 0, 0x25);
pub(crate) const EXCHANGE6: Ipv6Addr = network6(1, 0, 0x254);
/// Networks of the lab where a proxy must connect although they are no real ones.
pub(crate) const TEST_NETWORKS: &str = "\"203.0.113.0/24\", \"2001:db8::/32\"";

/// Inside a site; the same in each.
/// What every site calls itself.
pub(crate) const SITE_NETWORK: &str = "10.0.0.0/24";
pub(crate) const SITE_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
pub(crate) const MANAGER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
pub(crate) const AUTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 20);
pub(crate) const SCANNERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 0, 0, 30), Ipv4Addr::new(10, 0, 0, 31)];
pub(crate) const PROXIES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

pub(crate) const AUTHER_PORT: u16 = 4650;
pub(crate) const MANAGER_PORT: u16 = 4651;
pub(crate) const PROXY_PORT: u16 = 4652;
pub(crate) const SCANNER_PORT: u16 = 3310;
/// The public ports of a site's proxies, in the order of [`PROXIES`].
pub(crate) const PROXY_PUBLIC_PORTS: [u16; 2] = [4652, 4653];

pub const SMTP_PORT: u16 = 25;
pub const POP3_PORT: u16 = 110;
/// Hardware address of the box's LAN port: its inventory number.
pub(crate) const BOX_MAC: &str = "02:00:5e:00:53:01";
/// A mail port on which the mail host sinks bulk data: `iperf3`.
pub const BULK_PORT: u16 = 2525;
pub(crate) const MAIL_PORTS: &str = "25, 110, 587, 2525";

/// Where the office's mail program sends to.
pub const RECIPIENT: &str = "partner@partner.test";
/// The office's own address.
pub const SENDER: &str = "user@office.test";
/// The POP3 account of the office.
pub const USER: &str = "user";
pub const PASSWORD: &str = "wachtwoord";

/// The mail host's SMTP service.
#[must_use]
pub fn smtp_server() -> SocketAddr {
    (MAIL, SMTP_PORT).into()
}

/// The mail host's POP3 service.
#[must_use]
pub fn pop3_server() -> SocketAddr {
    (MAIL, POP3_PORT).into()
}
