//! How much and how long: limits, and what a driver may set.

use std::time::Duration;

/// Longest command line, in bytes without its line end: a SASL response (RFC 5034 section 4).
pub const COMMAND_LINE_BYTES_MAX: usize = 12_288;

/// Longest reply line, in bytes without its line end: a SASL challenge behind `"+ "`.
pub const REPLY_LINE_BYTES_MAX: usize = 2 + 12_288;

/// Commands whose replies are awaited. At this number no further one is read: not an error.
pub const COMMANDS_IN_FLIGHT_MAX: usize = 64;

/// Most commands that are answered here and never reach the server, whose own limit on errors cannot
/// see them. The next one ends the session.
pub const REFUSED_COMMANDS_MAX: u32 = 50;

/// Bytes of a client that may wait while its commands cannot be handled. Larger than any command
/// line, so that a complete line is always seen.
pub const CLIENT_PENDING_BYTES_MAX: usize = 16 * 1024;

/// Largest message held by default, in bytes.
pub const MESSAGE_HOLD_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

/// The client may say nothing for this long (RFC 1939 section 3: at least 10 minutes).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The server may say nothing for this long while it owes a reply.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A command or reply line may take this long from its first byte to its last.
pub const LINE_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// A message or list may take this long from its status line to its end.
pub const MULTI_LINE_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);

/// The driver's scan may take this long; its own limits should strike long before.
pub const VERDICT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A server that falls silent for this long right behind an odd end of message has ended it.
pub const ODD_END_TIMEOUT: Duration = Duration::from_secs(20);

/// A server that says nothing for this long behind the `+OK` to an unknown command, while the client
/// goes on, has answered in one line. What the client says waits until then.
pub const UNFRAMED_TIMEOUT: Duration = Duration::from_secs(2);

/// A client may take this long to end its direction after the server has ended the other.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// Default of [`Settings::keep_alive_first`].
pub const KEEP_ALIVE_FIRST_DEFAULT: Duration = Duration::from_secs(10);

/// Default of [`Settings::keep_alive_interval`].
pub const KEEP_ALIVE_INTERVAL_DEFAULT: Duration = Duration::from_secs(15);

/// What a POP3 session is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Largest answer to RETR or TOP that is held for its verdict, in bytes; default
    /// [`MESSAGE_HOLD_BYTES_DEFAULT`]. The driver keeps it, in a file as a rule: it costs room on the
    /// disk and no memory.
    pub message_hold_bytes_max: u64,
    /// What becomes of a message over that limit, or for which the driver has no room
    /// ([`crate::Session::hold_failed`]); default pass.
    pub on_hold_failure: OnHoldFailure,
    /// While a message is held its client gets something at the latest this long after its turn
    /// began: its command was forwarded, or the answer before it ended. Default 10 s; `Duration::MAX`
    /// is never.
    pub keep_alive_first: Duration,
    /// From then on it gets something more at this interval. Default 15 s; mail programs give up after
    /// 30 to 60 s of silence.
    pub keep_alive_interval: Duration,
    /// What is done where neither framing nor turns are known; default close.
    pub unframed: Unframed,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            message_hold_bytes_max: MESSAGE_HOLD_BYTES_DEFAULT,
            on_hold_failure: OnHoldFailure::default(),
            keep_alive_first: KEEP_ALIVE_FIRST_DEFAULT,
            keep_alive_interval: KEEP_ALIVE_INTERVAL_DEFAULT,
            unframed: Unframed::default(),
        }
    }
}

/// What becomes of a message that cannot be held. Either way it is counted
/// ([`crate::Event::HoldLimit`]) and not reported clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnHoldFailure {
    /// It passes unscanned, as it comes.
    #[default]
    Pass,
    /// A notice that it could not be scanned takes its place.
    Replace,
}

/// What is done when a client and a server do something that no RFC describes and that cannot be
/// followed: a message sent by XTND XMIT, or a server that asks back (`+ `) after an unknown command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unframed {
    /// XTND XMIT is answered `-ERR`; a server that asks back ends the session.
    #[default]
    Close,
    /// The session passes unread from there on, and is counted so
    /// ([`crate::OpaqueReason::Unframed`]).
    Opaque,
}
