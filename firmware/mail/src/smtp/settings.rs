//! SMTP policy, and the limits of a session.

use super::Timeouts;

/// Longest command line or SASL response with its line end. RFC 4954 section 4 wants 12,288 octets
/// for AUTH and its responses, the longest of all; the rest is headroom. RFC 5321 section 4.5.3.1.4
/// has 512, to which RFC 3461, 4954 and 6531 add some 1,100. A longer one is answered with 500, and
/// the session ends.
pub const COMMAND_LINE_BYTES_MAX: usize = 12_288 + 2_048;
/// Most commands without a reply. RFC 2920 sets no limit, so more of them just wait: the client is
/// not read from until replies have come.
pub const PIPELINED_COMMANDS_MAX: usize = 128;
/// The client is not read from while more than this of it waits.
pub const UNPROCESSED_BYTES_MAX: usize = 16 * 1024;
/// A message is cut into outputs only while fewer than this wait, because one chunk of nothing but
/// dots can make thousands.
pub const OUTPUTS_MAX: usize = 256;
/// Most accepted recipients in an [`crate::Envelope`]; further ones are served, but not listed.
pub const RECIPIENTS_KEPT_MAX: usize = 32;
/// Most commands that are answered here and never reach the server, whose own limit on errors
/// cannot see them. The next one gets a 421, and the session ends.
pub const REFUSED_COMMANDS_MAX: u32 = 50;

/// Largest size of a chunk: what a server that counts in 32 bits with a sign can read. A larger
/// one is answered with 501, and the session ends. (A message may have any number of chunks.)
pub const BDAT_BYTES_MAX: u64 = i32::MAX as u64;
/// Largest last chunk that is held in memory as a whole, and then crosses as the client framed it.
/// Of a larger one only the end is held ([`BDAT_TAIL_BYTES`]).
pub const BDAT_HELD_BYTES_MAX: u64 = 64 * 1024;
/// What is held of a last chunk larger than [`BDAT_HELD_BYTES_MAX`], and goes on as a chunk of its
/// own.
pub const BDAT_TAIL_BYTES: u64 = 1_024;

/// Default of [`Settings::hold_bytes_max`].
pub const HOLD_BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024;

/// SMTP policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long to wait for whom.
    pub timeouts: Timeouts,
    /// Hold every message until its verdict instead of streaming it to the server: what
    /// [`crate::Decision::Replace`] and [`crate::Decision::Edit`] need. A message that comes in
    /// several chunks (BDAT) is streamed all the same. Default no.
    ///
    /// The server waits while the message comes in: one that takes longer than the server's limit
    /// for a block of data (RFC 5321 section 4.5.3.2.5, three minutes) may be lost to a 421.
    pub hold: bool,
    /// Most bytes of a message that are held. A larger one is streamed from there on, which is
    /// reported ([`crate::Event::HoldLimit`]); its end still waits for the verdict. Default 64 MiB.
    pub hold_bytes_max: u64,
    /// EHLO keywords that the client is not shown, whatever their case. A command that belongs to
    /// one (the verb of that name; BDAT to CHUNKING, BODY=BINARYMIME to BINARYMIME) is refused
    /// here. Default none: what the server offers is what the client sees.
    pub masked: Vec<String>,
    /// What to do where bytes follow whose meaning is not known here. Default [`Unframed::Opaque`].
    pub unframed: Unframed,
}

/// What becomes of a session when the server has accepted something behind which commands,
/// replies and messages can no longer be told apart: an unknown command answered with 3yz (such as
/// XEXCH50), LHLO (RFC 2033), TURN or ATRN (RFC 2645), AUTH with a security layer (RFC 4422).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unframed {
    /// It goes on unread, which is reported ([`crate::OpaqueReason::Unframed`]).
    #[default]
    Opaque,
    /// It ends with a 421.
    Close,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            hold: false,
            hold_bytes_max: HOLD_BYTES_MAX_DEFAULT,
            masked: Vec::new(),
            unframed: Unframed::default(),
        }
    }
}
