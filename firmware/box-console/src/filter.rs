//! Which frames a capture keeps, and how they are written: `host A`, `port N`, a protocol; all of them
//! together. Frames are strangers' bytes: what cannot be read matches only a filter that wants nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a frame that are kept.
pub const SNAP_BYTES: usize = 65_535;
/// Bytes before the first frame of a file.
pub const FILE_HEADER_BYTES: usize = 24;
/// VLAN tags that are read over.
const TAGS_MAX: usize = 2;

/// Which frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    host: Option<IpAddr>,
    port: Option<u16>,
    protocol: Option<Protocol>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
    Arp,
}

/// A filter that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A word that is none of a filter's.
    #[error("\"{0}\" is not part of a filter: write host A, port N, tcp, udp, icmp or arp")]
    Word(String),
    /// No address, or none that is one.
    #[error("host is followed by an address, as in host 192.0.2.1")]
    Host,
    /// No port, or none that is one.
    #[error("port is followed by a port, as in port 25")]
    Port,
}

impl Filter {
    /// From its words; none: every frame.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn read(words: &[&str]) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "and" => {}
                "host" => {
                    let given = words.next().and_then(|word| word.parse().ok());
                    filter.host = Some(given.ok_or(FilterError::Host)?);
                }
                "port" => {
                    let given = words.next().and_then(|word| word.parse().ok());
                    filter.port = Some(given.ok_or(FilterError::Port)?);
                }
                "tcp" => filter.protocol = Some(Protocol::Tcp),
                "udp" => filter.protocol = Some(Protocol::Udp),
                "icmp" => filter.protocol = Some(Protocol::Icmp),
                "arp" => filter.protocol = Some(Protocol::Arp),
                other => return Err(FilterError::Word(other.to_owned())),
            }
        }
        Ok(filter)
    }

    /// Whether an Ethernet frame is wanted.
    #[must_use]
    pub fn wants(&self, frame: &[u8]) -> bool {
        if *self == Self::default() {
            return true;
        }
        let Some(seen) = Seen::read(frame) else { return false };
        self.protocol.is_none_or(|protocol| seen.protocol == Some(protocol))
            && self.host.is_none_or(|host| seen.hosts.contains(&Some(host)))
            && self.port.is_none_or(|port| seen.ports.contains(&Some(port)))
    }
}

/// What a filter looks at.
#[derive(Debug, Default)]
struct Seen {
    protocol: Option<Protocol>,
    hosts: [Option<IpAddr>; 2],
    ports: [Option<u16>; 2],
}

impl Seen {
    fn read(frame: &[u8]) -> Option<Self> {
        let mut at = 12;
        let mut kind = number(frame, at)?;
        for _ in 0..TAGS_MAX {
            if matches!(kind, 0x8100 | 0x88a8) {
                at += 4;
                kind = number(frame, at)?;
            }
        }
        let packet = frame.get(at + 2..)?;
        match kind {
            0x0800 => Self::ipv4(packet),
            0x86dd => Self::ipv6(packet),
            0x0806 => Some(Self {
                protocol: Some(Protocol::Arp),
                hosts: [v4(packet, 14), v4(packet, 24)],
                ports: [None; 2],
            }),
            _ => None,
        }
    }

    fn ipv4(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let first_piece = number(packet, 6)? & 0x1fff == 0;
        let rest = packet.get(header..).filter(|_| first_piece);
        Some(Self::carried(*packet.get(9)?, rest, [v4(packet, 12), v4(packet, 16)]))
    }

    /// Extension headers are not read over: a packet with one matches by its hosts only.
    fn ipv6(packet: &[u8]) -> Option<Self> {
        Some(Self::carried(*packet.get(6)?, packet.get(40..), [v6(packet, 8), v6(packet, 24)]))
    }

    fn carried(number_of: u8, rest: Option<&[u8]>, hosts: [Option<IpAddr>; 2]) -> Self {
        let protocol = match number_of {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            1 | 58 => Some(Protocol::Icmp),
            _ => None,
        };
        let has_ports = matches!(protocol, Some(Protocol::Tcp | Protocol::Udp));
        let ports = match rest.filter(|_| has_ports) {
            Some(rest) => [number(rest, 0), number(rest, 2)],
            None => [None; 2],
        };
        Self { protocol, hosts, ports }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

/// The beginning of a pcap file of Ethernet frames with microseconds (draft-ietf-opsawg-pcap).
#[must_use]
pub fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    let fields: [&[u8]; 6] = [
        &0xa1b2_c3d4_u32.to_le_bytes(),
        &2_u16.to_le_bytes(),
        &4_u16.to_le_bytes(),
        &[0; 8],
        &65_535_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
    ];
    for (place, byte) in header.iter_mut().zip(fields.concat()) {
        *place = byte;
    }
    header
}

/// A frame as the file has it; `at` since 1970 UTC.
#[must_use]
pub fn record(frame: &[u8], at: std::time::Duration) -> Vec<u8> {
    let kept = frame.get(..SNAP_BYTES).unwrap_or(frame);
    let mut record = Vec::with_capacity(16 + kept.len());
    // The format's seconds end in 2106.
    let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    for field in [seconds, at.subsec_micros(), length(kept), length(frame)] {
        record.extend(field.to_le_bytes());
    }
    record.extend(kept);
    record
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::read(&text.split(' ').collect::<Vec<_>>()).unwrap()
    }

    fn tcp(tag: bool) -> Vec<u8> {
        let mut frame = vec![2; 12];
        if tag {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame
            .extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend([0x9c, 0x40, 0, 25]);
        frame
    }

    #[test]
    fn frames_are_kept_by_host_port_and_protocol() {
        for tag in [false, true] {
            for (text, wanted) in [
                ("port 25", true),
                ("port 40000", true),
                ("port 26", false),
                ("host 192.0.2.2 and tcp port 25", true),
                ("host 192.0.2.3", false),
                ("udp", false),
                ("arp", false),
            ] {
                assert_eq!(filter(text).wants(&tcp(tag)), wanted, "{text}");
            }
        }
        let mut six = vec![2; 12];
        six.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        six.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        six.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        six.extend([0, 53, 0xd4, 0x31]);
        assert!(filter("udp port 53 host 2001:db8::2").wants(&six));
        assert!(!filter("host 192.0.2.2").wants(&six));
    }

    #[test]
    fn later_pieces_of_a_packet_have_no_ports() {
        let mut frame = tcp(false);
        frame[20] = 0x00;
        frame[21] = 0x10;
        assert!(!filter("port 25").wants(&frame));
        assert!(filter("tcp").wants(&frame));
    }

    #[test]
    fn a_filter_that_means_nothing_is_refused() {
        for words in [&["host"][..], &["host", "x"], &["port", "x"], &["vlan"]] {
            assert!(Filter::read(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn files_are_pcap() {
        assert_eq!(file_header()[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        let record = record(b"abc", Duration::new(7, 5000));
        assert_eq!(record, [7, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, b'a', b'b', b'c']);
    }

    proptest! {
        #[test]
        fn any_frame_is_looked_at(frame in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = filter("host 192.0.2.1 tcp port 25").wants(&frame);
            prop_assert!(Filter::default().wants(&frame));
        }
    }
}
