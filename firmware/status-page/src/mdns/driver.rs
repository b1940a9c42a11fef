//! The socket of multicast DNS, and which addresses the box has.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info};

use super::{Address, DATAGRAM_BYTES_MAX, GROUP, PORT, Responder};

/// How often it is looked for other addresses.
const LOOK_STEP: Duration = Duration::from_secs(5);
/// How far such a datagram may go; 255 shows that none has come through a router (RFC 6762 section 11).
const HOPS: u32 = 255;

/// Answers on an interface for ever; the name as it is now is left in `name`.
pub(crate) async fn run(interface: &str, label: &str, name: &Mutex<String>) -> io::Result<()> {
    let start = Instant::now();
    let mut responder = Responder::new(label);
    let mut look = interval(LOOK_STEP);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let socket = open(interface)?;
    let mut joined: Option<u32> = None;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let due = responder.deadline().map(|due| start + due);
        tokio::select! {
            _ = look.tick() => {
                join(&socket, interface, &mut joined);
                let jitter = jitter();
                responder.set_addresses(addresses(interface), jitter, start.elapsed());
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok((bytes, from)) => {
                    let datagram = buffer.get(..bytes).unwrap_or_default();
                    responder.receive(datagram, from, start.elapsed());
                }
                Err(error) => {
                    debug!(%error, "mDNS: receive");
                    look.tick().await;
                }
            },
            () = sleep_until(due.unwrap_or(start)), if due.is_some() => responder.tick(start.elapsed()),
        }
        while let Some(datagram) = responder.transmit() {
            // A bridge without a carrier: what is not heard now is asked for later.
            if let Err(error) = socket.send_to(&datagram.bytes, SocketAddr::V4(datagram.to)).await {
                debug!(%error, to = %datagram.to, "mDNS: send");
            }
        }
        let mut shared = name.lock().unwrap_or_else(PoisonError::into_inner);
        if *shared != responder.name() {
            info!(name = responder.name(), "mDNS: the name was taken; this is the box's now");
            *shared = responder.name();
        }
    }
}

fn open(interface: &str) -> io::Result<Arc<UdpSocket>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    socket.set_multicast_ttl_v4(HOPS)?;
    socket.set_ttl_v4(HOPS)?;
    // What we say ourselves is not heard.
    socket.set_multicast_loop_v4(false)?;
    UdpSocket::from_std(socket.into()).map(Arc::new)
}

/// Listens to the group; an interface that is made anew is joined anew.
fn join(socket: &UdpSocket, interface: &str, joined: &mut Option<u32>) {
    let index = nix::net::if_::if_nametoindex(interface).ok();
    if index == *joined {
        return;
    }
    *joined = None;
    let Some(index) = index else { return };
    let socket2 = socket2::SockRef::from(socket);
    let by = InterfaceIndexOrAddress::Index(index);
    match socket2.join_multicast_v4_n(GROUP.ip(), &by) {
        Ok(()) => *joined = Some(index),
        Err(error) => debug!(%error, "mDNS: join the group"),
    }
}

/// The interface's addresses; of IPv6 no link-local ones, which nobody can dial by name alone.
fn addresses(interface: &str) -> Vec<Address> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let own = all.filter(|one| {
        one.interface_name == interface && one.flags.contains(InterfaceFlags::IFF_UP)
    });
    own.filter_map(|one| {
        let mask = ip(one.netmask.as_ref());
        let ip = ip(one.address.as_ref())?;
        let prefix = match mask {
            Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
            Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
            None => 128,
        };
        let prefix = u8::try_from(prefix).ok()?;
        let is_usable = match ip {
            IpAddr::V4(ip) => !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_loopback(),
        };
        is_usable.then_some(Address { ip, prefix })
    })
    .collect()
}

fn ip(address: Option<&SockaddrStorage>) -> Option<IpAddr> {
    let address = address?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// Up to 255 ms.
fn jitter() -> Duration {
    let mut byte = [0];
    // Without random numbers, boxes that start together ask together.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    Duration::from_millis(byte.into())
}
