//! Tells a mail server who its client is: the header of the PROXY protocol, version 2 ("The PROXY
//! protocol, versions 1 & 2", section 2.2). No IO.
//!
//! A mail server behind proxies sees only their addresses, and with them loses its limits by client
//! and what it writes down. One that is listed in the settings is told the client's address in front of
//! the first byte, as Postfix (`postscreen_upstream_proxy_protocol`), Dovecot (`haproxy = yes`) and
//! HAProxy (`accept-proxy`) take it. **What is told is what the box said**: a mail server that is
//! listed believes the boxes of this fleet.

use std::net::{IpAddr, SocketAddr};

/// Longest header, in bytes: that of two IPv6 addresses.
pub const HEADER_BYTES_MAX: usize = FIXED_BYTES + 36;

const FIXED_BYTES: usize = 16;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command `LOCAL`: the connection is the proxy's own, and the addresses are the socket's.
const LOCAL: u8 = 0x20;
/// Version 2, command `PROXY`.
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header for a `client` who wanted to reach `server`. Without a client it says that there is
/// nobody to name, which the mail server takes for the proxy itself.
#[must_use]
pub fn header(client: Option<SocketAddr>, server: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
    header.extend_from_slice(&SIGNATURE);
    let mut put = |command, family, addresses: &[&[u8]]| {
        let length: usize = addresses.iter().map(|address| address.len()).sum();
        let [high, low] = u16::try_from(length).unwrap_or(0).to_be_bytes();
        header.extend_from_slice(&[command, family, high, low]);
        addresses.iter().for_each(|address| header.extend_from_slice(address));
    };
    let server = plain(server);
    match client.map(|client| (client.ip(), server.ip(), client.port())) {
        Some((IpAddr::V4(from), IpAddr::V4(to), port)) => {
            let ports = [port.to_be_bytes(), server.port().to_be_bytes()].concat();
            put(PROXY, TCP_OVER_IPV4, &[&from.octets(), &to.octets(), &ports]);
        }
        Some((IpAddr::V6(from), IpAddr::V6(to), port)) => {
            let ports = [port.to_be_bytes(), server.port().to_be_bytes()].concat();
            put(PROXY, TCP_OVER_IPV6, &[&from.octets(), &to.octets(), &ports]);
        }
        // Both addresses have to be of one kind (section 2.2), so here there is none to name.
        Some(_) | None => put(LOCAL, UNSPECIFIED, &[]),
    }
    header
}

/// The client that may be named, in its plain form: an address that a host in an office can have. No
/// box makes a mail server believe that it talks to itself.
#[must_use]
pub fn nameable(client: SocketAddr) -> Option<SocketAddr> {
    let client = plain(client);
    let is_hosts = match client.ip() {
        IpAddr::V4(ip) => {
            let this_network = ip.octets()[0] == 0;
            // Class E and the broadcast address are behind it.
            let is_multicast_or_above = ip.octets()[0] >= 224;
            !(this_network || ip.is_loopback() || is_multicast_or_above)
        }
        IpAddr::V6(ip) => {
            // Also the deprecated form of an IPv4 address (RFC 4291 section 2.5.5.1), with "::" and "::1".
            let is_compatible = ip.segments()[..6] == [0; 6];
            !(is_compatible || ip.is_multicast())
        }
    };
    (is_hosts && client.port() != 0).then_some(client)
}

/// Without the scope and flow of an IPv6 socket address, and IPv4 as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(client: Option<&str>, server: &str) -> String {
        let header = header(client.map(|text| text.parse().unwrap()), server.parse().unwrap());
        assert!(header.len() <= HEADER_BYTES_MAX);
        header.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const BEGIN: &str = "0d0a0d0a000d0a515549540a";

    #[test]
    fn an_ipv4_client_is_told_in_28_bytes() {
        let expected = format!("{BEGIN}2111000cc0a80114cb0071 19c3500019").replace(' ', "");
        assert_eq!(bytes(Some("192.168.1.20:50000"), "203.0.113.25:25"), expected);
        // The box's socket may have it in the other form.
        assert_eq!(bytes(Some("192.168.1.20:50000"), "[::ffff:203.0.113.25]:25"), expected);
    }

    #[test]
    fn an_ipv6_client_is_told_in_52_bytes() {
        let expected = format!(
            "{BEGIN}21210024{}{}c350006e",
            "20010db8000000010000000000000020", "20010db8000000020000000000000025"
        );
        assert_eq!(bytes(Some("[2001:db8:0:1::20]:50000"), "[2001:db8:0:2::25]:110"), expected);
    }

    #[test]
    fn who_cannot_be_named_is_local() {
        let expected = format!("{BEGIN}20000000");
        assert_eq!(bytes(None, "203.0.113.25:25"), expected);
        assert_eq!(bytes(Some("[2001:db8::1]:1"), "203.0.113.25:25"), expected);
    }

    #[test]
    fn only_addresses_of_hosts_are_named() {
        let named = |text: &str| nameable(text.parse().unwrap()).map(|client| client.to_string());
        for text in
            ["192.168.1.20:50000", "10.0.0.1:1", "169.254.1.1:9", "[fe80::1]:25", "[fd00::1]:2"]
        {
            assert_eq!(named(text).as_deref(), Some(text));
        }
        assert_eq!(named("[::ffff:10.0.0.1]:1").as_deref(), Some("10.0.0.1:1"));
        assert_eq!(named("[fe80::1%3]:25").as_deref(), Some("[fe80::1]:25"));
        for text in [
            "127.0.0.1:50000",
            "127.9.9.9:50000",
            "[::ffff:127.0.0.1]:50000",
            "[::127.0.0.1]:50000",
            "[::1]:50000",
            "[::]:50000",
            "0.0.0.0:50000",
            "0.1.2.3:50000",
            "224.0.0.1:50000",
            "255.255.255.255:50000",
            "[ff02::1]:50000",
            "192.168.1.20:0",
        ] {
            assert_eq!(named(text), None, "{text}");
        }
    }
}
