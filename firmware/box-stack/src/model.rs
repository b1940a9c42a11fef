//! The words of the stack's interface: what goes into it and what comes out.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Port;
use crate::table::{FLOWS_MAX, FlowId};

/// Most connections that may wait for their server's answer at the same time. A SYN flood stops here,
/// and costs a SYN's bytes each until here.
pub const HELD_MAX: usize = 1024;

/// Most frames that wait for [`Stack::poll_transmit`](crate::Stack::poll_transmit) outside the flows' own buffers. A driver that
/// asks after each frame it hands in never comes near; frames beyond are dropped, as on a full link.
pub const FRAME_QUEUE_MAX: usize = 1024;

/// Sizes and limits of a [`Stack`](crate::Stack).
#[derive(Debug, Clone)]
pub struct Settings {
    /// Largest IP packet on the line, in bytes; at least 1280.
    pub mtu: u16,
    /// Bytes a flow takes in before its owner reads them. Memory is used only as far as it has been
    /// filled once. Above 64 KiB the window is scaled.
    pub receive_bytes: usize,
    /// Bytes a flow's owner may write ahead of the client's acknowledgement.
    pub transmit_bytes: usize,
    /// Most flows at the same time; at most [`FLOWS_MAX`].
    pub flows_max: usize,
    /// How long a SYN waits for [`Stack::accept`](crate::Stack::accept) or [`Stack::refuse`](crate::Stack::refuse) before it is forgotten.
    pub hold_limit: Duration,
    /// How long a flow may stay without a byte either way before it is reset.
    pub idle_limit: Duration,
    /// Whether the driver can cut frames into segments ([`Transmit::segment_bytes`]).
    pub segments: bool,
    /// What happens to new connections beyond a limit.
    pub overflow: Overflow,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mtu: 1500,
            receive_bytes: 256 * 1024,
            transmit_bytes: 256 * 1024,
            flows_max: FLOWS_MAX,
            // Longer than a relay's attempts one after the other, shorter than a client's patience.
            hold_limit: Duration::from_secs(75),
            // RFC 5321 §4.5.3.2.7 gives the longest wait, ten minutes; POP3's is ten as well.
            idle_limit: Duration::from_secs(30 * 60),
            segments: false,
            overflow: Overflow::Bridge,
        }
    }
}

/// A frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// The port to send it out of.
    pub port: Port,
    /// The frame.
    pub frame: &'a [u8],
    /// Data bytes of each TCP segment that the frame is to be cut into, its checksums completed; `None`
    /// if it is to be sent as it is.
    pub segment_bytes: Option<u16>,
}

/// What happens to a SYN for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is bridged on: mail goes on, unscanned and counted.
    #[default]
    Bridge,
    /// It is dropped: the client asks again a second later.
    Drop,
}

/// What a policy says to a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// End it here.
    Take,
    /// Leave it to the bridge, and forget it: its later frames are those of an unknown connection.
    Bridge,
    /// Drop the SYN.
    Drop,
}

/// What becomes of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a frame to be bridged is lost otherwise"]
pub enum Disposition {
    /// The stack has it.
    Taken,
    /// To be sent out of the other port as it is.
    Bridge,
    /// It belongs to a flow but must not go anywhere.
    Dropped,
}

/// A connection that a client asks for; answered by [`Stack::accept`](crate::Stack::accept) or [`Stack::refuse`](crate::Stack::refuse).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Its name from now on.
    pub flow: FlowId,
    /// Who asks.
    pub client: SocketAddr,
    /// Whom it asks for.
    pub server: SocketAddr,
    /// The side the client is on.
    pub port: Port,
}

/// Why a connection is not accepted, and so what the client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The server's RST.
    Refused,
    /// ICMP "host unreachable", ICMPv6 "address unreachable".
    Unreachable,
    /// Nothing. The client's next SYN is a new attempt.
    TimedOut,
}

/// Why a flow can be read or written no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The client, or we, sent RST.
    #[error("connection reset")]
    Reset,
    /// The client stopped answering, or no byte came for longer than the limit.
    #[error("connection timed out")]
    TimedOut,
    /// Our direction has been shut down already.
    #[error("written after shutdown")]
    ShutDown,
    /// There is no such flow: its client gave up, or its owner released it.
    #[error("connection is gone")]
    Gone,
}

/// What has happened since the start. Frames, unless it says flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Flows asked for and held.
    pub opened: u64,
    /// Flows accepted.
    pub accepted: u64,
    /// Flows refused.
    pub refused: u64,
    /// Flows reset by their client.
    pub reset_by_client: u64,
    /// Flows ended because nothing came.
    pub timed_out: u64,
    /// Flows ended because smoltcp failed on them; each is a defect.
    pub broken: u64,
    /// SYNs bridged on because the policy said so.
    pub bridged_by_policy: u64,
    /// SYNs that found no room, whatever became of them.
    pub overflowed: u64,
    /// Bridged on: of connections not seen from their start, or not TCP as we read it.
    pub bridged: u64,
    /// Taken from the line and not sent on: on the wrong side, or no longer wanted.
    pub dropped: u64,
    /// Of ours, not sent for lack of room.
    pub discarded: u64,
}

/// A fresh 64-bit random number from the operating system at each call.
pub type Entropy = Box<dyn FnMut() -> u64 + Send>;
