//! What the stack keeps of one flow, from its SYN to the last late segment.

use std::task::Waker;
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use crate::Port;
use crate::compose::Answer;
use crate::connection::Connection;
use crate::table::FlowKey;

/// One intercepted connection.
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    /// The side its client is on.
    pub(crate) port: Port,
    /// The way to its client: the SYN's addresses, exchanged.
    pub(crate) answer: Answer,
    pub(crate) phase: Phase,
    /// When its client was heard last, or its owner last read or wrote.
    pub(crate) active: Instant,
    /// It stands in the queue of flows that may have something to send.
    pub(crate) ready: bool,
    /// Its owner has let go of it.
    pub(crate) released: bool,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

/// Where a flow is in its life.
pub(crate) enum Phase {
    /// The SYN waits for the real server's answer; nothing has been sent.
    ///
    /// Only the SYN is kept. smoltcp could hold its SYN-ACK itself (`pause_synack`), but a socket needs
    /// its buffers from the start, and a flood of SYNs should not cost two mappings each.
    Held {
        /// The frame as it came.
        syn: Box<[u8]>,
        since: Instant,
    },
    /// smoltcp has it.
    Open(Box<Open>),
    /// The connection is gone; what is left answers stragglers.
    Ended(Ended),
}

/// A connection with what the stack adds to it.
pub(crate) struct Open {
    pub(crate) connection: Connection,
    /// Since when both sides have said FIN (TIME-WAIT).
    pub(crate) time_wait: Option<Instant>,
    /// The client sent RST after its FIN: it wants no more, but what it sent is whole and may be read.
    pub(crate) reset: bool,
    /// Earliest time of the next challenge ACK (RFC 5961 §7: they are to be throttled).
    pub(crate) challenge_after: Instant,
}

/// A connection's remains.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) end: End,
    pub(crate) residue: Residue,
    /// When the residue may go.
    pub(crate) until: Instant,
}

/// How a connection ended, as its owner is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// FIN both ways, acknowledged.
    Finished,
    /// FIN from the client, everything read, and then its RST.
    ResetAfterFin,
    /// RST, from either side.
    Reset,
    /// The client fell silent.
    TimedOut,
}

/// How stragglers of an ended connection are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Residue {
    /// With RST: there is no such connection any more.
    Reset,
    /// With the last acknowledgement, as a socket in TIME-WAIT does (RFC 9293 §3.10.7.4).
    TimeWait { sequence: u32, acknowledgement: u32 },
}

/// How long a flow may stay in each silence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) hold: Duration,
    pub(crate) idle: Duration,
}

/// A client that does not answer our SYN-ACK for this long never asked.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// A client that does not acknowledge for this long is gone.
pub(crate) const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(120);

/// How long a connection without an owner may take to finish; what Linux allows an orphan.
pub(crate) const ORPHAN_LIMIT: Duration = Duration::from_secs(60);

/// How long stragglers are answered after the end. smoltcp waits as long in TIME-WAIT.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

impl Flow {
    /// When the flow falls silent for too long, in its present phase.
    pub(crate) fn silence_ends(&self, limits: &Limits) -> Instant {
        match &self.phase {
            Phase::Held { since, .. } => *since + limits.hold,
            Phase::Open(open) if open.connection.is_half_open() => {
                self.active + HANDSHAKE_LIMIT.min(limits.idle)
            }
            // smoltcp 0.14 does not repeat its FIN in CLOSING: if it was lost, nothing more happens.
            Phase::Open(open) if open.connection.state() == State::Closing => {
                self.active + LINGER.min(limits.idle)
            }
            Phase::Open(open) if open.connection.awaits_acknowledgement() => {
                self.active + ACKNOWLEDGE_LIMIT.min(limits.idle)
            }
            Phase::Open(_) if self.released => self.active + ORPHAN_LIMIT.min(limits.idle),
            Phase::Open(_) => self.active + limits.idle,
            Phase::Ended(ended) => ended.until,
        }
    }

    /// Whether our SYN-ACK has not been answered since before `then`.
    pub(crate) fn is_half_open_since(&self, then: Instant) -> bool {
        matches!(&self.phase, Phase::Open(open) if open.connection.is_half_open())
            && self.active <= then
    }

    /// Tasks that can get on now.
    pub(crate) fn take_wakers(&mut self, wakers: &mut Vec<Waker>) {
        let (readable, writable) = match &self.phase {
            Phase::Held { .. } => (false, false),
            Phase::Open(open) if open.reset => (true, true),
            Phase::Open(open) => (open.connection.is_readable(), open.connection.is_writable()),
            Phase::Ended(_) => (true, true),
        };
        if readable {
            wakers.extend(self.reader.take());
        }
        if writable {
            wakers.extend(self.writer.take());
        }
    }
}
