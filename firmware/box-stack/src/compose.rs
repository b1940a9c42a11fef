//! Frames that the stack writes without a socket: RST, a late ACK, and ICMP for a server that
//! cannot be reached.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber,
};

use crate::frame::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, MacAddress, Segment};

/// Hops a frame of ours may travel; what Linux and most servers use.
pub(crate) const HOP_LIMIT: u8 = 64;

/// The bytes of the offending packet's TCP header that an ICMP error quotes (RFC 792: 64 bits suffice
/// to find the connection; the whole header does no harm).
const QUOTED_BYTES_MAX: usize = 60;

/// The two ends of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) source_mac: MacAddress,
    pub(crate) destination_mac: MacAddress,
}

impl Answer {
    /// The way back to the sender of `segment`.
    pub(crate) fn to_sender(segment: &Segment<'_>) -> Self {
        Self {
            source: segment.destination(),
            destination: segment.source(),
            source_mac: segment.destination_mac(),
            destination_mac: segment.source_mac(),
        }
    }

    /// Ethernet header.
    pub(crate) fn ethernet(&self) -> [u8; ETHERNET_BYTES] {
        let mut header = [0; ETHERNET_BYTES];
        header[..6].copy_from_slice(&self.destination_mac);
        header[6..12].copy_from_slice(&self.source_mac);
        let ethertype: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
        header
    }
}

/// A TCP segment without data; `None` if the two addresses are of different families.
pub(crate) fn segment(
    answer: &Answer,
    control: TcpControl,
    sequence: u32,
    acknowledgement: Option<u32>,
    window: u16,
) -> Option<Vec<u8>> {
    let tcp = TcpRepr {
        src_port: answer.source.port(),
        dst_port: answer.destination.port(),
        control,
        seq_number: sequence_number(sequence),
        ack_number: acknowledgement.map(sequence_number),
        window_len: window,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (source, destination) = (answer.source.ip(), answer.destination.ip());
    let ip = ip_repr(source, destination, IpProtocol::Tcp, tcp.buffer_len())?;
    let checksums = ChecksumCapabilities::default();
    let (mut frame, header_bytes) = frame(answer, &ip);
    tcp.emit(
        &mut TcpPacket::new_unchecked(&mut frame[ETHERNET_BYTES + header_bytes..]),
        &source.into(),
        &destination.into(),
        &checksums,
    );
    Some(frame)
}

/// The RST that a host without such a connection sends (RFC 9293 §3.10.7.1); `None` for a RST, which
/// is never answered.
pub(crate) fn reset(answer: &Answer, offending: &Segment<'_>) -> Option<Vec<u8>> {
    if offending.resets() {
        return None;
    }
    if offending.acknowledges() {
        segment(answer, TcpControl::Rst, offending.acknowledgement(), None, 0)
    } else {
        let acknowledgement = offending.sequence().wrapping_add(offending.sequence_len());
        segment(answer, TcpControl::Rst, 0, Some(acknowledgement), 0)
    }
}

/// ICMP "host unreachable" (RFC 792) or ICMPv6 "address unreachable" (RFC 4443 §3.1), in the server's
/// name: the box has no address on the line that the client would know.
pub(crate) fn unreachable(offending: &Segment<'_>) -> Option<Vec<u8>> {
    let answer = Answer::to_sender(offending);
    let checksums = ChecksumCapabilities::default();
    let (source, destination) = (answer.source.ip(), answer.destination.ip());
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let packet = Ipv4Packet::new_checked(offending.packet()).ok()?;
            let data = offending.packet().get(IPV4_BYTES..)?;
            let icmp = Icmpv4Repr::DstUnreachable {
                reason: Icmpv4DstUnreachable::HostUnreachable,
                header: Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()?,
                data: data.get(..QUOTED_BYTES_MAX).unwrap_or(data),
            };
            let ip = ip_repr(source, destination, IpProtocol::Icmp, icmp.buffer_len())?;
            let (mut frame, header_bytes) = frame(&answer, &ip);
            let body = &mut frame[ETHERNET_BYTES + header_bytes..];
            icmp.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums);
            Some(frame)
        }
        (IpAddr::V6(v6_source), IpAddr::V6(v6_destination)) => {
            let packet = Ipv6Packet::new_checked(offending.packet()).ok()?;
            let data = offending.packet().get(IPV6_BYTES..)?;
            let icmp = Icmpv6Repr::DstUnreachable {
                reason: Icmpv6DstUnreachable::AddrUnreachable,
                header: Ipv6Repr::parse(&packet).ok()?,
                data: data.get(..QUOTED_BYTES_MAX).unwrap_or(data),
            };
            let ip = ip_repr(source, destination, IpProtocol::Icmpv6, icmp.buffer_len())?;
            let (mut frame, header_bytes) = frame(&answer, &ip);
            let body = &mut frame[ETHERNET_BYTES + header_bytes..];
            let mut icmp_packet = Icmpv6Packet::new_unchecked(body);
            icmp.emit(&v6_source, &v6_destination, &mut icmp_packet, &checksums);
            Some(frame)
        }
        _ => None,
    }
}

/// A frame of the right length with its Ethernet and IP headers written, and the IP header's length.
fn frame(answer: &Answer, ip: &IpRepr) -> (Vec<u8>, usize) {
    let mut frame = answer.ethernet().to_vec();
    frame.resize(ETHERNET_BYTES + ip.buffer_len(), 0);
    ip.emit(&mut frame[ETHERNET_BYTES..], &ChecksumCapabilities::default());
    (frame, ip.header_len())
}

fn ip_repr(
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    bytes: usize,
) -> Option<IpRepr> {
    match (source, destination) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => Some(IpRepr::Ipv4(Ipv4Repr {
            src_addr,
            dst_addr,
            next_header: protocol,
            payload_len: bytes,
            hop_limit: HOP_LIMIT,
        })),
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => Some(IpRepr::Ipv6(Ipv6Repr {
            src_addr,
            dst_addr,
            next_header: protocol,
            payload_len: bytes,
            hop_limit: HOP_LIMIT,
        })),
        _ => None,
    }
}

/// smoltcp keeps sequence numbers signed; the bits are the same.
pub(crate) fn sequence_number(number: u32) -> TcpSeqNumber {
    TcpSeqNumber(number.cast_signed())
}
