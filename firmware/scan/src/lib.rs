//! Scans one mail while it streams by: MIME walk, engines, one verdict.
//!
//! The driver opens a [`MailScan`] with [`Scanner::begin`], feeds it the raw message as it arrives,
//! and awaits [`MailScan::finish`]. Parts are decoded as they stream and go to every engine as soon
//! as they are complete, beside the raw message itself.
//!
//! Three outcomes, never two: [`Verdict::Clean`], [`Verdict::Infected`], [`Verdict::Unscannable`].
//! What was not looked at in full is not clean. The MIME walk ([`mime`]) does no IO and reads no
//! clock; adapters of engines ([`engine`]) do IO. Must not depend on any other crate of the workspace.
#![forbid(unsafe_code)]

mod archive;
pub mod engine;
pub mod mime;
mod pipeline;

pub use engine::{Engine, EngineOutcome, Object};
pub use pipeline::{BYTES_IN_FLIGHT_MAX, MailScan, OBJECTS_AT_ONCE_MAX, Scanner};

use std::time::Duration;

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was looked at, nothing was found.
    Clean,
    /// Something was found.
    Infected(Finding),
    /// Not everything could be looked at, and nothing was found in the rest.
    Unscannable(Unscannable),
}

/// What an engine found, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The engine's name for it; printable ASCII, at most [`FINDING_NAME_BYTES_MAX`].
    pub name: String,
    /// Name of the engine.
    pub engine: String,
    /// Which part: 0 is the raw message, parts count from 1.
    pub part: u32,
    /// File name of the part, where it has one (control characters removed).
    pub file_name: Option<String>,
}

/// Longest name of a finding that is kept.
pub const FINDING_NAME_BYTES_MAX: usize = 128;

/// Why something was not looked at in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unscannable {
    /// The message is larger than [`Limits::message_bytes_max`].
    OverSize,
    /// Nested deeper than [`Limits::depth_max`].
    OverDepth,
    /// More parts than [`Limits::parts_max`].
    OverParts,
    /// Decoded parts add up to more than [`Limits::decoded_bytes_max`].
    OverDecoded,
    /// Took longer than [`Limits::time_max`].
    OverTime,
    /// The part is encrypted (S/MIME, PGP, or by an engine's word).
    Encrypted,
    /// An archive, and no engine that opens archives is there ([`Engine::opens_archives`]).
    Archive,
    /// message/partial: a fragment of a message (RFC 2046 section 5.2.2).
    Partial,
    /// The structure cannot be read in one way.
    Ambiguous,
    /// An engine gave no answer; the fail policy applies.
    EngineFailed {
        /// Which.
        engine: String,
        /// Why; ours, for the log.
        why: String,
    },
    /// An engine said that it did not look at everything.
    EngineLimit {
        /// Which.
        engine: String,
        /// What it said.
        why: String,
    },
}

impl std::fmt::Display for Unscannable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OverSize => f.write_str("larger than the size limit"),
            Self::OverDepth => f.write_str("nested too deep"),
            Self::OverParts => f.write_str("too many parts"),
            Self::OverDecoded => f.write_str("too large when decoded"),
            Self::OverTime => f.write_str("scan took too long"),
            Self::Encrypted => f.write_str("encrypted"),
            Self::Archive => f.write_str("an archive, which no engine here opens"),
            Self::Partial => f.write_str("fragment of a message (message/partial)"),
            Self::Ambiguous => f.write_str("structure can be read in more than one way"),
            Self::EngineFailed { engine, why } => write!(f, "{engine} gave no answer: {why}"),
            Self::EngineLimit { engine, why } => write!(f, "{engine} did not look at all: {why}"),
        }
    }
}

/// How much of a mail is looked at, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Raw bytes of one message.
    pub message_bytes_max: usize,
    /// Sum of the decoded bytes of all its parts.
    pub decoded_bytes_max: usize,
    /// Multipart and message/rfc822 nesting.
    pub depth_max: usize,
    /// Leaf parts.
    pub parts_max: u32,
    /// From the end of the message to the verdict.
    pub time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 64 * 1024 * 1024,
            decoded_bytes_max: 128 * 1024 * 1024,
            depth_max: 128,
            parts_max: 2_000,
            time_max: Duration::from_secs(30),
        }
    }
}

/// A verdict with what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The verdict on the whole mail. Infected wins over unscannable, unscannable over clean.
    pub verdict: Verdict,
    /// Raw bytes.
    pub bytes: u64,
    /// Leaf parts that were decoded.
    pub parts: u32,
    /// From the end of the message to the verdict.
    pub waited: Duration,
}

#[cfg(test)]
mod tests {
    /// The anti-virus test file, put together here so that no scanner takes this source away.
    pub(crate) fn eicar() -> Vec<u8> {
        let halves = [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!$H+H*"];
        halves.concat().into_bytes()
    }

    /// Base64 in one line, with padding.
    pub(crate) fn encode_base64(bytes: &[u8]) -> String {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let mut word = [0; 4];
            word[1..=group.len()].copy_from_slice(group);
            let word = u32::from_be_bytes(word);
            for at in 0..4 {
                let letter = letters[(word >> (18 - 6 * at)) as usize & 63];
                text.push(if at <= group.len() { char::from(letter) } else { '=' });
            }
        }
        text
    }
}
