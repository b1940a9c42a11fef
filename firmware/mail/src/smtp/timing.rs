//! How long a session waits, and for what.

use std::time::{Duration, Instant};

use super::state::{Outlet, Pace, Pending, Phase};
use super::{SmtpSession, text};
use crate::{End, Event, Side};

/// From the connection to the whole greeting (RFC 5321 section 4.5.3.2.1).
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// For the reply to a command (sections 4.5.3.2.2 and 4.5.3.2.3).
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// For the 354 to DATA (section 4.5.3.2.4).
pub const DATA_REPLY_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// For the reply to the end of data (section 4.5.3.2.6).
pub const FINAL_REPLY_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// For the next command (section 4.5.3.2.7: at least five minutes). The half minute on top lets the
/// server's own word reach the client first.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5 * 60 + 30);
/// For a command line, from its first byte to its line end, however steadily it drips.
pub const COMMAND_LINE_TIMEOUT: Duration = Duration::from_secs(60);
/// For the next bytes of a message (section 4.5.3.2.7 again; 4.5.3.2.5 has three minutes for the
/// sending of a block).
pub const DATA_BLOCK_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// For a message as a whole, before its size counts.
pub const DATA_GRACE: Duration = Duration::from_secs(10 * 60);
/// Slower than this on average, after [`DATA_GRACE`], is an attack and no line.
pub const DATA_BYTES_PER_SECOND_MIN: u64 = 512;
/// For the next bytes of a message that has been refused already.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// For the verdict. Scanners have shorter limits of their own; this one is the last resort.
pub const VERDICT_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How long a session waits. The defaults are the constants of the same names, which follow RFC
/// 5321 section 4.5.3.2; shorter ones lose mail over slow lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// See [`GREETING_TIMEOUT`].
    pub greeting: Duration,
    /// See [`REPLY_TIMEOUT`].
    pub reply: Duration,
    /// See [`DATA_REPLY_TIMEOUT`].
    pub data_reply: Duration,
    /// See [`FINAL_REPLY_TIMEOUT`].
    pub final_reply: Duration,
    /// See [`COMMAND_TIMEOUT`].
    pub command: Duration,
    /// See [`COMMAND_LINE_TIMEOUT`].
    pub command_line: Duration,
    /// See [`DATA_BLOCK_TIMEOUT`].
    pub data_block: Duration,
    /// See [`DATA_GRACE`].
    pub data_grace: Duration,
    /// See [`DRAIN_TIMEOUT`].
    pub drain: Duration,
    /// See [`VERDICT_TIMEOUT`].
    pub verdict: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            greeting: GREETING_TIMEOUT,
            reply: REPLY_TIMEOUT,
            data_reply: DATA_REPLY_TIMEOUT,
            final_reply: FINAL_REPLY_TIMEOUT,
            command: COMMAND_TIMEOUT,
            command_line: COMMAND_LINE_TIMEOUT,
            data_block: DATA_BLOCK_TIMEOUT,
            data_grace: DATA_GRACE,
            drain: DRAIN_TIMEOUT,
            verdict: VERDICT_TIMEOUT,
        }
    }
}

/// What is waited for. The number tells one wait from the next of its kind: as long as a wait stays
/// equal, its time runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Greeting,
    /// Counts replies.
    Reply(u64),
    DataReply(u64),
    FinalReply(u64),
    /// The server's FIN, after the client's. Counts replies.
    ServerEnd(u64),
    /// Counts lines and replies.
    Command(u64),
    /// Counts lines.
    CommandLine(u64),
    /// Counts bytes of messages, and lines.
    DataBlock(u64),
    /// Counts bytes of messages.
    Drain(u64),
    Verdict,
}

impl Timeouts {
    fn of(&self, wait: Wait) -> Duration {
        match wait {
            Wait::Greeting => self.greeting,
            Wait::Reply(_) | Wait::ServerEnd(_) => self.reply,
            Wait::DataReply(_) => self.data_reply,
            Wait::FinalReply(_) => self.final_reply,
            Wait::Command(_) => self.command,
            Wait::CommandLine(_) => self.command_line,
            Wait::DataBlock(_) => self.data_block,
            Wait::Drain(_) => self.drain,
            Wait::Verdict => self.verdict,
        }
    }
}

/// A running wait.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watch {
    /// No deadline if it lies beyond what the clock can say.
    running: Option<(Wait, Option<Instant>)>,
}

impl Watch {
    /// Starts, stops or goes on with a wait.
    fn set(&mut self, wait: Option<Wait>, timeouts: &Timeouts, now: Instant) {
        if self.running.map(|(wait, _)| wait) != wait {
            self.running = wait.map(|wait| (wait, now.checked_add(timeouts.of(wait))));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.running.and_then(|(_, deadline)| deadline)
    }

    /// What has been waited for too long.
    fn expired(&self, now: Instant) -> Option<Wait> {
        self.running
            .and_then(|(wait, deadline)| deadline.is_some_and(|at| at <= now).then_some(wait))
    }
}

impl SmtpSession {
    /// The earliest of all.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.client_watch.deadline(), self.server_watch.deadline(), self.transfer_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Looks what is waited for now.
    pub(super) fn watch(&mut self) {
        self.client_watch.set(self.client_wait(), &self.settings.timeouts, self.now);
        self.server_watch.set(self.server_wait(), &self.settings.timeouts, self.now);
    }

    /// Acts on the waits that are over.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        let is_slow = self.transfer_deadline().is_some_and(|deadline| deadline <= now);
        if let Some(wait) = self.server_watch.expired(now) {
            if wait == Wait::Verdict {
                self.verdict_late();
            } else {
                self.event(Event::TimedOut { side: Side::Server });
                self.give_up(Side::Server, text::SERVER_SILENT);
            }
        } else if is_slow || self.client_watch.expired(now).is_some() {
            self.event(Event::TimedOut { side: Side::Client });
            match self.phase {
                // Replies that are still to come go first.
                Phase::Commands | Phase::Sasl => self.last_word(text::CLIENT_SILENT),
                Phase::Drain { .. } => self.close(End::Fin),
                _ => self.give_up(Side::Client, text::CLIENT_SILENT),
            }
        }
    }

    fn client_wait(&self) -> Option<Wait> {
        match &self.phase {
            Phase::Commands | Phase::Sasl | Phase::Orphan if self.client_ended => None,
            Phase::Commands | Phase::Sasl | Phase::Orphan => {
                if !self.client.is_empty() && !self.pending.is_full() {
                    Some(Wait::CommandLine(self.lines))
                } else {
                    let is_its_turn = self.pending.is_empty();
                    is_its_turn.then_some(Wait::Command(self.lines + self.replies))
                }
            }
            Phase::TlsHello => Some(Wait::Command(self.lines + self.replies)),
            Phase::Message(_) | Phase::Chunk(_) => Some(Wait::DataBlock(self.moved + self.lines)),
            Phase::Drain { .. } => Some(Wait::Drain(self.moved)),
            Phase::Greeting
            | Phase::Undecided
            | Phase::StartTls
            | Phase::Barrier(_)
            | Phase::Held(_)
            | Phase::Judged(..)
            | Phase::Farewell
            | Phase::Opaque
            | Phase::Closed => None,
        }
    }

    fn server_wait(&self) -> Option<Wait> {
        match self.phase {
            Phase::Held(_) => return Some(Wait::Verdict),
            Phase::Opaque | Phase::Closed => return None,
            _ => {}
        }
        match self.pending.front() {
            Some(Pending::Greeting) => Some(Wait::Greeting),
            Some(Pending::Data) => Some(Wait::DataReply(self.replies)),
            Some(Pending::EndOfData | Pending::LastChunk | Pending::Url { is_last: true, .. }) => {
                Some(Wait::FinalReply(self.replies))
            }
            Some(_) => Some(Wait::Reply(self.replies)),
            None if self.to_server == Outlet::Ended => Some(Wait::ServerEnd(self.replies)),
            None => None,
        }
    }

    /// When a message, sent or thrown away, has been too slow on the whole.
    fn transfer_deadline(&self) -> Option<Instant> {
        let Pace { since, from } = match &self.phase {
            Phase::Message(transfer) => transfer.pace,
            Phase::Chunk(chunk) => chunk.pace,
            Phase::Drain { pace, .. } => *pace,
            _ => return None,
        };
        let bytes = self.moved.saturating_sub(from);
        let earned = Duration::from_secs(bytes / DATA_BYTES_PER_SECOND_MIN);
        since.checked_add(self.settings.timeouts.data_grace)?.checked_add(earned)
    }
}
