//! The two ports, the bridge, and the addresses on it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::files;
use crate::addresses::Wanted;
use crate::control;
use crate::ports::Interface;

/// The port to the office.
pub(crate) const LAN: &str = "lan0";
/// The port to the router.
pub(crate) const WAN: &str = "wan0";
/// The bridge of both, which has the box's own address.
pub(crate) const BRIDGE: &str = "br0";

/// Where DNS servers are written; `/etc/resolv.conf` leads here.
pub(crate) const RESOLV_CONF: &str = "/run/init/resolv.conf";

/// `ARPHRD_ETHER`.
const ETHERNET: &str = "1";
/// One answer of the kernel, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long an answer is waited for, in seconds; the kernel answers at once.
const ANSWER_SECONDS_MAX: i64 = 5;
/// `IFLA_IFNAME` and others speak of interfaces by number; this is none.
const NO_INDEX: u32 = 0;

/// Frames to reserved addresses that the bridge passes on as a wire would, as bits of the address's last
/// four: 802.1X (port authentication) and LLDP. It cannot be told to pass the first three.
const FORWARD_RESERVED: &str = "0x4008";

/// A step on interfaces or addresses failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct NetError {
    step: String,
    #[source]
    source: io::Error,
}

/// The interfaces that have hardware.
pub(crate) fn interfaces() -> Vec<Interface> {
    let class = Path::new("/sys/class/net");
    let found = files::names(class).into_iter().filter_map(|name| {
        let folder = class.join(&name);
        let device = fs::canonicalize(folder.join("device")).ok()?;
        let wired = files::text(folder.join("type")) == ETHERNET
            && !folder.join("wireless").exists()
            && !folder.join("phy80211").exists();
        Some(Interface { name, device: device.to_string_lossy().into_owned(), wired })
    });
    found.collect()
}

/// Gives an interface its name; it is down still.
pub(crate) fn rename(from: &str, to: &str) -> Result<(), NetError> {
    let mut link = LinkMessage::default();
    link.header.index = index_of(from)?;
    link.attributes.push(LinkAttribute::IfName(to.to_owned()));
    let step = format!("rename interface {from} to {to}");
    Netlink::open()?.ask(&step, RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
}

/// Makes the bridge of these ports, and has it be as much of a wire as a bridge can.
pub(crate) fn join(ports: &[&str]) -> Result<(), box_net::OpenError> {
    // Ports have no address, not even of IPv6; the bridge gets what the settings say.
    for port in ports {
        let _ = files::put(format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6"), "1");
    }
    box_net::join(BRIDGE, ports)?;
    for (key, value) in [
        ("stp_state", "0"),
        ("forward_delay", "0"),
        ("multicast_snooping", "0"),
        ("group_fwd_mask", FORWARD_RESERVED),
    ] {
        let path = format!("/sys/class/net/{BRIDGE}/bridge/{key}");
        if let Err(error) = files::put(&path, value) {
            tracing::warn!(%error, path, "a setting of the bridge cannot be set");
        }
    }
    Ok(())
}

/// Both ports are in the bridge, and those with a carrier forward.
pub(crate) fn is_bridged() -> bool {
    [LAN, WAN].iter().all(|port| {
        let state = files::text(format!("/sys/class/net/{BRIDGE}/brif/{port}/state"));
        // BR_STATE_FORWARDING, or BR_STATE_DISABLED where there is no carrier.
        state == "3" || (state == "0" && !has_carrier(port))
    })
}

fn has_carrier(port: &str) -> bool {
    files::text(format!("/sys/class/net/{port}/carrier")) == "1"
}

/// A port for people.
pub(crate) fn port(name: &str, place: &board::Port) -> control::Port {
    let folder = Path::new("/sys/class/net").join(name);
    let driver = fs::read_link(folder.join("device/driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name);
    control::Port {
        path: place.to_string(),
        found: folder.exists(),
        mac: files::text(folder.join("address")),
        link: has_carrier(name),
        speed_mbit: files::text(folder.join("speed")).parse().ok().filter(|&speed| speed > 0),
        driver: driver.map_or(String::new(), |name| name.to_string_lossy().into_owned()),
    }
}

/// An interface's hardware address.
pub(crate) fn mac(name: &str) -> Option<[u8; 6]> {
    box_net::mac_address(name).ok()
}

/// Has the bridge have what is wanted and nothing else, and writes `resolv.conf`.
pub(crate) fn apply(wanted: &Wanted, ipv6: control::Ipv6Settings) -> Result<(), NetError> {
    apply_to(BRIDGE, wanted)?;
    let off = if ipv6 == control::Ipv6Settings::Off { "1" } else { "0" };
    let folder = format!("/proc/sys/net/ipv6/conf/{BRIDGE}");
    for (key, value) in [("accept_ra", "1"), ("autoconf", "1"), ("disable_ipv6", off)] {
        let _ = files::put(format!("{folder}/{key}"), value);
    }
    let servers: String =
        wanted.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
    files::replace(Path::new(RESOLV_CONF), servers.as_bytes(), 0o644)
        .map_err(|source| NetError { step: format!("write {RESOLV_CONF}"), source })
}

/// IPv4's part of [`apply`], for any interface.
pub(crate) fn apply_to(interface: &str, wanted: &Wanted) -> Result<(), NetError> {
    let index = index_of(interface)?;
    let mut netlink = Netlink::open()?;
    let mut missing = wanted.ipv4;
    for (address, prefix, message) in netlink.addresses(index)? {
        match address {
            IpAddr::V4(address) if missing == Some((address, prefix)) => missing = None,
            IpAddr::V4(address) => {
                let step = format!("remove {address} from {interface}");
                netlink.ask(&step, RouteNetlinkMessage::DelAddress(message), NLM_F_ACK)?;
            }
            IpAddr::V6(_) => {}
        }
    }
    if let Some((address, prefix)) = missing {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.header.scope =
            if address.is_link_local() { AddressScope::Link } else { AddressScope::Universe };
        message.attributes.push(AddressAttribute::Local(address.into()));
        message.attributes.push(AddressAttribute::Address(address.into()));
        if prefix < 31 {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            let broadcast = Ipv4Addr::from_bits(address.to_bits() | host);
            message.attributes.push(AddressAttribute::Broadcast(broadcast));
        }
        let step = format!("add {address}/{prefix} to {interface}");
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        netlink.ask(&step, RouteNetlinkMessage::NewAddress(message), flags)?;
    }
    match wanted.gateway {
        Some(gateway) => {
            let step = format!("send through {gateway}");
            let message = RouteNetlinkMessage::NewRoute(default_route(gateway, index));
            netlink.ask(&step, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)?;
        }
        None => {
            for route in netlink.default_routes(index)? {
                let step = format!("remove a route through {interface}");
                netlink.ask(&step, RouteNetlinkMessage::DelRoute(route), NLM_F_ACK)?;
            }
        }
    }
    Ok(())
}

/// Addresses of an interface, with their prefix's length.
pub(crate) fn addresses(interface: &str) -> Vec<String> {
    let read = || Netlink::open()?.addresses(index_of(interface)?);
    let found: Result<_, NetError> = read();
    let found = found.unwrap_or_default();
    found.into_iter().map(|(address, prefix, _)| format!("{address}/{prefix}")).collect()
}

fn default_route(gateway: Ipv4Addr, index: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    // DHCP servers may name a router outside of the network that they give.
    route.header.flags = RouteFlags::Onlink;
    route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    route.attributes.push(RouteAttribute::Oif(index));
    route
}

fn index_of(interface: &str) -> Result<u32, NetError> {
    if_nametoindex(interface).map_err(|errno| NetError {
        step: format!("find interface {interface}"),
        source: errno.into(),
    })
}

/// A socket to the kernel's tables of interfaces, addresses and routes.
struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self, NetError> {
        let open = || {
            let descriptor = socket(
                nix::sys::socket::AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )?;
            bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            let time = TimeVal::seconds(ANSWER_SECONDS_MAX);
            setsockopt(&descriptor, sockopt::ReceiveTimeout, &time)?;
            Ok(Self(descriptor))
        };
        open().map_err(|errno: nix::errno::Errno| NetError {
            step: "open a socket to the kernel's routes".to_owned(),
            source: errno.into(),
        })
    }

    fn addresses(&mut self, index: u32) -> Result<Vec<(IpAddr, u8, AddressMessage)>, NetError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask("list addresses", message, NLM_F_DUMP)?;
        let found = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                let address = |local: bool| {
                    message.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Local(address) if local => Some(*address),
                        AddressAttribute::Address(address) if !local => Some(*address),
                        _ => None,
                    })
                };
                Some((
                    address(true).or_else(|| address(false))?,
                    message.header.prefix_len,
                    message,
                ))
            }
            _ => None,
        });
        Ok(found.collect())
    }

    fn default_routes(&mut self, index: u32) -> Result<Vec<RouteMessage>, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers =
            self.ask("list routes", RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        let found = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route)
                if route.header.destination_prefix_length == 0
                    && route.header.table == RouteHeader::RT_TABLE_MAIN
                    && route.header.address_family == AddressFamily::Inet
                    && route.attributes.contains(&RouteAttribute::Oif(index)) =>
            {
                Some(route)
            }
            _ => None,
        });
        Ok(found.collect())
    }

    /// Sends one message and takes in all answers.
    fn ask(
        &mut self,
        step: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let failed = |source| NetError { step: step.to_owned(), source };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.port_number = NO_INDEX;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|e| failed(e.into()))?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .map_err(|e| failed(e.into()))?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let answer: NetlinkMessage<RouteNetlinkMessage> = NetlinkMessage::deserialize(rest)
                    .map_err(|error| failed(io::Error::other(error.to_string())))?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(failed(error.to_io())),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
