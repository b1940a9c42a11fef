//! The messages. Variants are appended, never reordered or changed: `golden_v1` fixes the bytes.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hex;
use crate::revocation::SignedRevocations;
use crate::ticket::SignedTicket;

/// A hardware address, the inventory number of a box.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether it can be a box's own: neither a group address nor all zeros (IEEE 802 section 8.2).
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address; write it as 02:00:5e:10:00:01")]
pub struct ParseMacError;

impl FromStr for MacAddress {
    type Err = ParseMacError;

    /// Takes the ways labels and switches print it: `02:00:5e:10:00:01`, `02-00-5E-10-00-01`,
    /// `0200.5e10.0001` and `02005e100001`.
    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let groups = match text.bytes().find(|b| matches!(b, b':' | b'-' | b'.')) {
            Some(b'.') => (b'.', 4),
            Some(separator) => (separator, 2),
            None => (0, 12),
        };
        let (separator, width) = groups;
        let mut digits = String::with_capacity(12);
        for group in text.split(char::from(separator)) {
            if group.len() != width {
                return Err(ParseMacError);
            }
            digits.push_str(group);
        }
        hex::decode::<6>(&digits).map(Self).ok_or(ParseMacError)
    }
}

/// Names a session on the box, the proxy and in both logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// From 16 bytes of the caller's random source; this crate has none of its own.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(f, &self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the manager counts a session by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which mail protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 1939.
    Pop3,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Smtp => "SMTP",
            Self::Pop3 => "POP3",
        })
    }
}

/// All that can be said on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Box → auther: admit me.
    Hello(Hello),
    /// Auther → box: admitted.
    Ticket(SignedTicket),
    /// Auther, manager or proxy → box: not admitted.
    Denied(Denied),
    /// Box → manager: name a proxy.
    Assign(Assign),
    /// Manager → box: this one.
    Use(Use),
    /// Manager → box: none is free.
    Busy(Busy),
    /// Box → proxy: carry a session.
    Open(Open),
    /// Proxy → box, at once: heard, connecting. Tells a slow mail server from a dead proxy.
    Opening,
    /// Proxy → box: connected; session bytes follow.
    Opened(Opened),
    /// Proxy → box: not connected, and why.
    Refused(Refused),
    /// Session bytes, either way; at most [`crate::DATA_BYTES_MAX`]. Not postcard: raw.
    Data(bytes::Bytes),
    /// The sender's direction of the session ended in order.
    Fin,
    /// The session was reset on the sender's side.
    Reset,
    /// Manager → proxy: how are you?
    Poll(Poll),
    /// Proxy → manager: so.
    Load(Load),
    /// Box → proxy and manager: a session is over.
    Bye(Bye),
    /// Are you there? Answered by `Pong` with the same number.
    Ping(u64),
    /// I am.
    Pong(u64),
    /// Server of a site → auther: which tickets are void?
    Fetch(Fetch),
    /// Auther → server of a site: these, in one or more parts.
    Revocations(SignedRevocations),
    /// Box → proxy, before `Open`: whom the next session is for. A message of its own, because a proxy
    /// that does not know it skips it.
    Client(Client),
}

impl Message {
    /// Its name, for logs and errors: `expected Hello, got Poll`. Shows none of the content.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Ticket(_) => "Ticket",
            Self::Denied(_) => "Denied",
            Self::Assign(_) => "Assign",
            Self::Use(_) => "Use",
            Self::Busy(_) => "Busy",
            Self::Open(_) => "Open",
            Self::Opening => "Opening",
            Self::Opened(_) => "Opened",
            Self::Refused(_) => "Refused",
            Self::Data(_) => "Data",
            Self::Fin => "Fin",
            Self::Reset => "Reset",
            Self::Poll(_) => "Poll",
            Self::Load(_) => "Load",
            Self::Bye(_) => "Bye",
            Self::Ping(_) => "Ping",
            Self::Pong(_) => "Pong",
            Self::Fetch(_) => "Fetch",
            Self::Revocations(_) => "Revocations",
            Self::Client(_) => "Client",
        }
    }
}

/// See [`Message::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The box's inventory number.
    pub mac: MacAddress,
    /// Version of its software, printable ASCII, at most [`crate::SOFTWARE_BYTES_MAX`].
    #[serde(deserialize_with = "crate::bounded::string")]
    pub software: String,
}

/// See [`Message::Denied`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Why.
    pub reason: DeniedReason,
}

/// Why a box is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeniedReason {
    /// The MAC address is not registered.
    Unknown,
    /// The operator suspended it.
    Suspended,
    /// Registered, but the enrolment window passed without a login.
    EnrolmentClosed,
    /// Another key is bound to this MAC address.
    OtherKey,
    /// The ticket has expired, or is not valid yet.
    TicketExpired,
    /// The ticket names another key than the peer's.
    TicketOtherKey,
    /// The ticket is not signed by this fleet.
    TicketForged,
    /// The server cannot answer now.
    Unavailable,
}

impl fmt::Display for DeniedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "this MAC address is not registered",
            Self::Suspended => "this box is suspended",
            Self::EnrolmentClosed => "the enrolment window passed without a login",
            Self::OtherKey => "another key is bound to this MAC address",
            Self::TicketExpired => "the ticket has expired or is not valid yet",
            Self::TicketOtherKey => "the ticket names another key than the peer's",
            Self::TicketForged => "the ticket is not signed by this fleet",
            Self::Unavailable => "the server cannot answer now",
        })
    }
}

/// See [`Message::Assign`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    /// Who asks.
    pub ticket: SignedTicket,
    /// Proxies that the box found dead; at most [`crate::EXCLUDED_MAX`].
    #[serde(deserialize_with = "crate::bounded::vec")]
    pub exclude: Vec<SocketAddr>,
}

/// See [`Message::Use`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Give it back in `Bye`.
    pub lease: LeaseId,
    /// Public address of the proxy.
    pub proxy: SocketAddr,
    /// Others of this site, best first; at most [`crate::ALTERNATES_MAX`].
    #[serde(deserialize_with = "crate::bounded::vec")]
    pub alternates: Vec<SocketAddr>,
}

/// See [`Message::Busy`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// Ask this site again after so many milliseconds.
    pub retry_after_ms: u32,
}

/// See [`Message::Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Who asks.
    pub ticket: SignedTicket,
    /// Names the session in logs.
    pub session: SessionId,
    /// What the manager counts it by.
    pub lease: LeaseId,
    /// The mail server.
    pub destination: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// How many more relays it may cross; 0 is refused. Stops loops.
    pub hops_left: u8,
}

/// See [`Message::Opened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// How long the connection to the mail server took.
    pub connect_ms: u32,
}

/// See [`Message::Refused`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub reason: RefusedReason,
}

/// Why a session was not opened. The first three are the mail server's and shown to the client as
/// they are; the others make the box go another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusedReason {
    /// The mail server refused the connection.
    ServerRefused,
    /// No route to the mail server.
    ServerUnreachable,
    /// The mail server did not answer in time.
    ServerTimedOut,
    /// The destination is not allowed: port, private or own address.
    Policy,
    /// `hops_left` was 0.
    Loop,
    /// This proxy carries as many sessions as it may.
    Full,
    /// This proxy is being drained.
    Draining,
}

impl RefusedReason {
    /// Whether the mail server said so itself: the client is shown the same, and no other way is
    /// tried.
    #[must_use]
    pub fn is_servers(&self) -> bool {
        matches!(self, Self::ServerRefused | Self::ServerUnreachable | Self::ServerTimedOut)
    }
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServerRefused => "the mail server refused the connection",
            Self::ServerUnreachable => "there is no route to the mail server",
            Self::ServerTimedOut => "the mail server did not answer in time",
            Self::Policy => "the proxy may not connect to this destination",
            Self::Loop => "the session has crossed too many relays",
            Self::Full => "the proxy carries as many sessions as it may",
            Self::Draining => "the proxy is being drained",
        })
    }
}

/// See [`Message::Poll`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// Returned in `Load`.
    pub sequence: u64,
}

/// See [`Message::Load`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Of the `Poll`.
    pub sequence: u64,
    /// One-minute load average of the host, in thousandths.
    pub load_average_milli: u32,
    /// Sessions carried now.
    pub sessions: u32,
    /// Takes no new sessions.
    pub draining: bool,
}

/// See [`Message::Bye`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Which session.
    pub session: SessionId,
    /// Which lease.
    pub lease: LeaseId,
    /// Bytes from client to server.
    pub bytes_up: u64,
    /// Bytes from server to client.
    pub bytes_down: u64,
    /// Messages seen.
    pub messages: u32,
    /// Of these, infected.
    pub infected: u32,
    /// Of these, unscannable.
    pub unscannable: u32,
    /// The session went opaque (STARTTLS).
    pub opaque: bool,
}

/// See [`Message::Fetch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Number of the list of revocations that the asker has; 0 for none.
    pub after: u64,
}

/// See [`Message::Client`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The office's mail client, as the box saw it.
    pub address: SocketAddr,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn mac_addresses_go_through_text(bytes in any::<[u8; 6]>(), text in "[0-9a-f:.-]{0,18}|\\PC*") {
            let mac = MacAddress(bytes);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            if let Ok(mac) = text.parse::<MacAddress>() {
                prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            }
        }
    }

    #[test]
    fn a_mac_address_is_read_in_every_common_form() {
        let mac = MacAddress([0x02, 0x00, 0x5e, 0x10, 0x00, 0xab]);
        for text in ["02:00:5e:10:00:ab", "02-00-5E-10-00-AB", "0200.5e10.00ab", "02005e1000AB"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ab");
        assert_eq!(format!("{mac:?}"), "02:00:5e:10:00:ab");
    }

    #[test]
    fn what_is_no_mac_address_is_refused() {
        for text in [
            "",
            ":",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "02:00:5e-10:00:01",
            "02:00:5e:10:00:0g",
            "2:0:5e:10:0:1",
            "0200.5e10.00",
            "+2:00:5e:10:00:01",
            "０２:00:5e:10:00:01",
            "02005e10000100",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(ParseMacError), "{text}");
        }
    }

    #[test]
    fn group_and_zero_addresses_are_no_boxes() {
        assert!(MacAddress([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!MacAddress([0xff; 6]).is_unicast());
        assert!(!MacAddress([1, 0, 0x5e, 0, 0, 1]).is_unicast());
        assert!(!MacAddress([0; 6]).is_unicast());
    }

    #[test]
    fn a_session_id_is_32_hexadecimal_digits() {
        let id = SessionId::from_random([0x0f; 16]);
        assert_eq!(id.to_string(), "0f".repeat(16));
    }
}
