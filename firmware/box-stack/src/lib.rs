//! Ends intercepted TCP connections in user space, in the name of the server they were meant for.
//!
//! Sans-IO: frames, the time and random numbers are arguments; frames to send, tasks to wake and the
//! time of the next call are results. Must not depend on any crate that opens a socket or reads a
//! clock. Entry type: [`Stack`], whose documentation gives the order of calls.
//!
//! smoltcp does the TCP. Around it stands what a bridge needs and smoltcp does not have: a table of
//! flows found by address, frames that are none of ours told apart from those that are, a handshake
//! that is answered only when the real server has answered, and each direction's end passed on.
#![forbid(unsafe_code)]

mod compose;
mod connection;
mod flow;
mod frame;
mod model;
mod receive;
mod stack;
mod table;
#[cfg(test)]
mod tests;
mod train;

pub use frame::{ETHERNET_BYTES, MacAddress, Segment};
pub use model::{
    Counters, Disposition, Entropy, FRAME_QUEUE_MAX, FlowError, HELD_MAX, Opening, Overflow,
    Refusal, Settings, Transmit, Verdict,
};
pub use stack::Stack;
pub use table::{FLOWS_MAX, FlowId};

/// One of the two sides of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// Towards the office.
    Lan,
    /// Towards the router.
    Wan,
}

impl Port {
    /// The port on the other side.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Lan => Self::Wan,
            Self::Wan => Self::Lan,
        }
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
        })
    }
}
