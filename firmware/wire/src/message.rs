//! The messages. Variants are appended, never reordered or changed: `golden` fixes the bytes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ticket::SignedTicket;

/// A hardware address, the inventory number of a box.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

/// Names a session on the box, the proxy and in both logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// What the manager counts a session by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

/// Which mail protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 1939.
    Pop3,
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
}

/// See [`Message::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The box's inventory number.
    pub mac: MacAddress,
    /// Version of its software, printable ASCII, at most 64 bytes.
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

/// See [`Message::Assign`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    /// Who asks.
    pub ticket: SignedTicket,
    /// Proxies that the box found dead; at most [`crate::EXCLUDED_MAX`].
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
impl std::fmt::Debug for MacAddress { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("Mac") } }
impl std::fmt::Debug for SessionId { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("SessionId") } }
