//! What the stack reads in an Ethernet frame before it decides whether the frame is its own.
//!
//! A frame is ours only if nothing about it is unusual: untagged Ethernet, IPv4 without options or
//! IPv6 without extension headers, not a fragment, TCP, and lengths that agree with each other.
//! Everything else is bridged on as it came, so that the box never breaks what it does not read.

use std::net::{IpAddr, SocketAddr};

use pnet::packet::Packet as _;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{Ipv4Flags, Ipv4Packet};
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{TcpFlags, TcpPacket};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire;

/// Bytes of an Ethernet II header without a VLAN tag.
pub const ETHERNET_BYTES: usize = 14;

/// Bytes of an IPv4 header without options.
pub(crate) const IPV4_BYTES: usize = 20;

/// Bytes of an IPv6 header.
pub(crate) const IPV6_BYTES: usize = 40;

/// Bytes of a TCP header without options.
pub(crate) const TCP_BYTES: usize = 20;

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// Checked view of one TCP segment in an Ethernet frame.
///
/// Checked are the lengths; whether the checksums are right is a question of its own
/// ([`Segment::is_intact`]), asked before a segment may change what the stack remembers.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    source: SocketAddr,
    destination: SocketAddr,
    source_mac: MacAddress,
    destination_mac: MacAddress,
    packet: &'a [u8],
    tcp: &'a [u8],
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
}

impl<'a> Segment<'a> {
    /// Reads a frame; `None` is one that the stack must leave alone.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let ethernet = EthernetPacket::new(frame)?;
        let destination_mac = ethernet.get_destination().octets();
        // Group addresses: no TCP is meant for them.
        if destination_mac[0] & 1 != 0 {
            return None;
        }
        let payload = frame.get(ETHERNET_BYTES..)?;
        let (source, destination, packet, tcp) = match ethernet.get_ethertype() {
            EtherTypes::Ipv4 => parse_ipv4(payload)?,
            EtherTypes::Ipv6 => parse_ipv6(payload)?,
            _ => return None,
        };
        if !is_host(source) || !is_host(destination) {
            return None;
        }
        let header = TcpPacket::new(tcp)?;
        let header_bytes = usize::from(header.get_data_offset()) * 4;
        if header_bytes < TCP_BYTES || header_bytes > tcp.len() {
            return None;
        }
        if header.get_source() == 0 || header.get_destination() == 0 {
            return None;
        }
        Some(Self {
            source: SocketAddr::new(source, header.get_source()),
            destination: SocketAddr::new(destination, header.get_destination()),
            source_mac: ethernet.get_source().octets(),
            destination_mac,
            packet,
            tcp,
            flags: header.get_flags(),
            sequence: header.get_sequence(),
            acknowledgement: header.get_acknowledgement(),
        })
    }

    /// Who sent it.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// For whom it is.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// The Ethernet address it came from.
    #[must_use]
    pub fn source_mac(&self) -> MacAddress {
        self.source_mac
    }

    /// The Ethernet address it goes to.
    #[must_use]
    pub fn destination_mac(&self) -> MacAddress {
        self.destination_mac
    }

    /// Whether it asks for a new connection (RFC 9293 §3.5): SYN, and neither ACK, RST nor FIN.
    #[must_use]
    pub fn opens(&self) -> bool {
        let mask = TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN;
        self.flags & mask == TcpFlags::SYN
    }

    /// Whether it carries RST.
    #[must_use]
    pub fn resets(&self) -> bool {
        self.flags & TcpFlags::RST != 0
    }

    pub(crate) fn acknowledges(&self) -> bool {
        self.flags & TcpFlags::ACK != 0
    }

    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    pub(crate) fn acknowledgement(&self) -> u32 {
        self.acknowledgement
    }

    /// Sequence numbers it takes up: its data, SYN and FIN.
    pub(crate) fn sequence_len(&self) -> u32 {
        let header =
            TcpPacket::new(self.tcp).map_or(0, |tcp| usize::from(tcp.get_data_offset()) * 4);
        let data = u32::try_from(self.tcp.len().saturating_sub(header)).unwrap_or(u32::MAX);
        let control =
            u32::from(self.flags & TcpFlags::SYN != 0) + u32::from(self.flags & TcpFlags::FIN != 0);
        data.wrapping_add(control)
    }

    /// The IP packet, without Ethernet's header and padding.
    pub(crate) fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Whether its checksums are right and its TCP options can be read.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        if self.source.is_ipv4() {
            let Ok(packet) = wire::Ipv4Packet::new_checked(self.packet) else {
                return false;
            };
            if !packet.verify_checksum() {
                return false;
            }
        }
        let Ok(packet) = wire::TcpPacket::new_checked(self.tcp) else {
            return false;
        };
        let (source, destination) = (self.source.ip().into(), self.destination.ip().into());
        let checksums = ChecksumCapabilities::default();
        wire::TcpRepr::parse(&packet, &source, &destination, &checksums).is_ok()
    }
}

/// A host's address: not unspecified, not multicast, not the limited broadcast.
fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// Source, destination, the IP packet, and the TCP segment in it.
type Parts<'a> = (IpAddr, IpAddr, &'a [u8], &'a [u8]);

fn parse_ipv4(payload: &[u8]) -> Option<Parts<'_>> {
    let header = Ipv4Packet::new(payload)?;
    let total = usize::from(header.get_total_length());
    let fragment =
        header.get_fragment_offset() != 0 || header.get_flags() & Ipv4Flags::MoreFragments != 0;
    if header.get_version() != 4
        || usize::from(header.get_header_length()) * 4 != IPV4_BYTES
        || fragment
        || header.get_next_level_protocol() != IpNextHeaderProtocols::Tcp
    {
        return None;
    }
    let packet = header.packet().len().checked_sub(total).and_then(|_| payload.get(..total))?;
    let tcp = packet.get(IPV4_BYTES..)?;
    Some((header.get_source().into(), header.get_destination().into(), packet, tcp))
}

fn parse_ipv6(payload: &[u8]) -> Option<Parts<'_>> {
    let header = Ipv6Packet::new(payload)?;
    if header.get_version() != 6 || header.get_next_header() != IpNextHeaderProtocols::Tcp {
        return None;
    }
    let total = IPV6_BYTES + usize::from(header.get_payload_length());
    let packet = payload.get(..total)?;
    let tcp = packet.get(IPV6_BYTES..)?;
    Some((header.get_source().into(), header.get_destination().into(), packet, tcp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{self, Answer};
    use proptest::prelude::*;

    fn syn() -> Vec<u8> {
        compose::segment(
            &Answer {
                source: "192.0.2.1:40000".parse().unwrap(),
                destination: "198.51.100.2:25".parse().unwrap(),
                source_mac: [2, 0, 0, 0, 0, 1],
                destination_mac: [2, 0, 0, 0, 0, 2],
            },
            wire::TcpControl::Syn,
            7,
            None,
            0,
        )
        .unwrap()
    }

    #[test]
    fn a_plain_syn_is_ours() {
        let frame = syn();
        let segment = Segment::parse(&frame).unwrap();
        assert!(segment.opens() && segment.is_intact());
        assert_eq!(segment.destination().port(), 25);
        assert_eq!((segment.sequence(), segment.sequence_len()), (7, 1));
    }

    #[test]
    fn ethernet_padding_is_not_part_of_the_packet() {
        let mut frame = syn();
        let bytes = frame.len() - ETHERNET_BYTES;
        frame.resize(frame.len() + 20, 0);
        let segment = Segment::parse(&frame).unwrap();
        assert_eq!(segment.packet().len(), bytes);
        assert!(segment.is_intact());
    }

    #[test]
    fn unusual_frames_are_left_alone() {
        let plain = syn();
        let changed = |at: usize, to: u8| {
            let mut frame = plain.clone();
            frame[at] = to;
            frame
        };
        for (what, frame) in [
            ("VLAN tag", changed(12, 0x81)),
            ("group address", changed(0, 0x01)),
            ("IPv4 options", changed(ETHERNET_BYTES, 0x46)),
            ("more fragments", changed(ETHERNET_BYTES + 6, 0x20)),
            ("fragment offset", changed(ETHERNET_BYTES + 7, 1)),
            ("UDP", changed(ETHERNET_BYTES + 9, 17)),
            ("longer than the frame", changed(ETHERNET_BYTES + 2, 0xff)),
            ("TCP header too short", changed(ETHERNET_BYTES + 32, 0x40)),
            ("TCP header too long", changed(ETHERNET_BYTES + 32, 0xf0)),
            ("multicast destination", changed(ETHERNET_BYTES + 16, 224)),
        ] {
            assert!(Segment::parse(&frame).is_none(), "{what}");
        }
    }

    #[test]
    fn a_damaged_segment_is_not_intact() {
        let mut frame = syn();
        frame[ETHERNET_BYTES + 24] ^= 1;
        assert!(!Segment::parse(&frame).unwrap().is_intact());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(frame in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(segment) = Segment::parse(&frame) {
                let _ = (segment.is_intact(), segment.sequence_len());
            }
        }

        #[test]
        fn a_damaged_syn_never_panics(at in 0usize..54, to: u8, cut in 0usize..54) {
            let mut frame = syn();
            frame[at] = to;
            frame.truncate(frame.len() - cut);
            if let Some(segment) = Segment::parse(&frame) {
                let _ = (segment.is_intact(), segment.sequence_len());
            }
        }
    }
}
