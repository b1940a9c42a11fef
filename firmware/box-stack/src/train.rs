//! Several segments in a row as one frame, which the kernel cuts again on its way to the line.
//!
//! A frame costs the kernel about as much as its bytes do; one system call for forty segments makes a
//! bulk transfer three times as fast. smoltcp can leave the cutting to a device itself
//! (`segmentation-offload`), but in 0.14 it then drops IPv6 packets over the MTU.

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

use crate::frame::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, TCP_BYTES};

/// Longest train, in bytes with all headers; an IP packet has at most 65,535.
const TRAIN_BYTES_MAX: usize = 60 * 1024;

/// Bits of the TCP flags byte.
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Frames of one flow that are joined as they come.
#[derive(Debug, Default)]
pub(crate) struct Train {
    frame: Vec<u8>,
    /// Data bytes of each segment but the last, which may have fewer.
    segment_bytes: usize,
    segments: usize,
    /// Sequence number that the next segment must have.
    next: u32,
    closed: bool,
}

impl Train {
    /// Begins with a frame; `false` if no train can begin with it.
    pub(crate) fn begin(&mut self, frame: &[u8]) -> bool {
        let Some(car) = Car::parse(frame) else { return false };
        self.frame.clear();
        self.frame.extend_from_slice(frame);
        self.segment_bytes = car.data.len();
        self.segments = 1;
        self.next = car.sequence.wrapping_add(car.len());
        self.closed = car.flags & PSH != 0;
        true
    }

    /// Adds a frame; `false` if it does not continue the train.
    pub(crate) fn add(&mut self, frame: &[u8]) -> bool {
        let (Some(first), Some(car)) = (Car::parse(&self.frame), Car::parse(frame)) else {
            return false;
        };
        let fits = !self.closed
            && car.sequence == self.next
            && car.data.len() <= self.segment_bytes
            && first.network_bytes == car.network_bytes
            && first.answers == car.answers
            && self.frame.len() + car.data.len() <= TRAIN_BYTES_MAX;
        if !fits {
            return false;
        }
        // A short segment, and one that is to be handed on at once, is the last.
        self.closed = car.data.len() < self.segment_bytes || car.flags & PSH != 0;
        self.next = self.next.wrapping_add(car.len());
        let flags_at = ETHERNET_BYTES + car.network_bytes + 13;
        if let Some(flags) = self.frame.get_mut(flags_at) {
            *flags |= car.flags;
        }
        self.frame.extend_from_slice(car.data);
        self.segments += 1;
        true
    }

    /// The whole, and its segments' size if it has several. The TCP checksum of several covers the
    /// pseudo-header only: who cuts the train completes it for each segment.
    pub(crate) fn finish(&mut self) -> (&[u8], Option<u16>) {
        if self.segments < 2 {
            return (&self.frame, None);
        }
        let bytes = self.frame.len() - ETHERNET_BYTES;
        let ipv4 = self.frame.get(12) == Some(&0x08);
        let packet = &mut self.frame[ETHERNET_BYTES..];
        // `TRAIN_BYTES_MAX` is within 16 bits.
        let length = u16::try_from(bytes).unwrap_or(u16::MAX);
        if ipv4 {
            let mut ip = Ipv4Packet::new_unchecked(packet);
            ip.set_total_len(length);
            ip.fill_checksum();
            let addresses = [ip.src_addr().octets(), ip.dst_addr().octets()];
            let sum = pseudo_header(addresses.as_flattened(), bytes - IPV4_BYTES);
            TcpPacket::new_unchecked(ip.payload_mut()).set_checksum(sum);
        } else {
            let mut ip = Ipv6Packet::new_unchecked(packet);
            ip.set_payload_len(u16::try_from(bytes - IPV6_BYTES).unwrap_or(u16::MAX));
            let addresses = [ip.src_addr().octets(), ip.dst_addr().octets()];
            let sum = pseudo_header(addresses.as_flattened(), bytes - IPV6_BYTES);
            TcpPacket::new_unchecked(ip.payload_mut()).set_checksum(sum);
        }
        (&self.frame, u16::try_from(self.segment_bytes).ok())
    }
}

/// What of a frame decides whether it can be joined to others.
struct Car<'a> {
    network_bytes: usize,
    sequence: u32,
    flags: u8,
    /// Acknowledgement, and window: to be the same in all.
    answers: (&'a [u8], &'a [u8]),
    data: &'a [u8],
}

impl<'a> Car<'a> {
    /// A data segment without TCP options and with no other flags than ACK and PSH. The frames are
    /// our own, so nothing else is checked.
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let network_bytes = if frame.get(12) == Some(&0x08) { IPV4_BYTES } else { IPV6_BYTES };
        let tcp = frame.get(ETHERNET_BYTES + network_bytes..)?;
        let (header, data) = tcp.split_at_checked(TCP_BYTES)?;
        let flags = *header.get(13)?;
        let plain = header.get(12) == Some(&0x50) && flags & !PSH == ACK && !data.is_empty();
        let sequence = u32::from_be_bytes(*header.get(4..)?.first_chunk()?);
        let answers = (header.get(8..12)?, header.get(14..16)?);
        plain.then_some(Self { network_bytes, sequence, flags, answers, data })
    }

    fn len(&self) -> u32 {
        // At most a packet.
        u32::try_from(self.data.len()).unwrap_or(0)
    }
}

/// Sum of the TCP pseudo-header (RFC 9293 §3.1), folded, not inverted.
fn pseudo_header(addresses: &[u8], tcp_bytes: usize) -> u16 {
    let words = addresses.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let length = u32::try_from(tcp_bytes).unwrap_or(0);
    let mut sum = words.sum::<u32>() + length + u32::from(u8::from(IpProtocol::Tcp));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}
