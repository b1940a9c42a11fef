//! Scans one mail while it streams by: MIME walk, engines, one verdict.
//!
//! The driver opens a [`MailScan`] with [`Scanner::begin`], feeds it the raw message as it arrives,
//! and awaits [`MailScan::finish`]. The message is then taken apart and looked at in a confined
//! process ([`worker`]), and beside it by engines elsewhere ([`engine`]).
//!
//! Three outcomes, never two: [`Verdict::Clean`], [`Verdict::Infected`], [`Verdict::Unscannable`].
//! What was not looked at in full is not clean. The MIME walk ([`mime`]) and the [`analysis`] do no IO
//! and read no clock. Depends on `spool` and `unpack`, and must not on any other crate of the workspace.
#![forbid(unsafe_code)]

pub mod analysis;
pub mod engine;
pub mod local;
pub mod mime;
mod pipeline;
mod volume;
pub mod worker;
pub mod yara;

pub use engine::{Engine, EngineOutcome, Object};
pub use pipeline::{EngineNumbers, MailScan, OBJECTS_AT_ONCE_MAX, ScanNumbers, Scanner};

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spool::Spooled;

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Finding {
    /// The engine's name for it; printable ASCII, at most [`FINDING_NAME_BYTES_MAX`].
    pub name: String,
    /// Name of the engine.
    pub engine: String,
    /// Which part: 0 is the raw message, parts count from 1.
    pub part: u32,
    /// File name of the part, where it has one (control characters removed).
    pub file_name: Option<String>,
    /// Where the part's entity stands in the message, in bytes: another entity may be put there.
    pub range: Option<Range<u64>>,
}

/// Name of the engine that finds what the operator blocks by name or kind.
pub const BLOCK: &str = "block";

/// Longest name of a finding that is kept.
pub const FINDING_NAME_BYTES_MAX: usize = 128;

/// Why something was not looked at in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unscannable {
    /// The message is larger than [`Limits::message_bytes_max`].
    OverSize,
    /// Nested deeper than [`Limits::depth_max`] or [`Limits::container_depth_max`].
    OverDepth,
    /// More parts than [`Limits::parts_max`], or members than [`Limits::members_max`].
    OverParts,
    /// What is decoded adds up to more than [`Limits::decoded_bytes_max`], or what is unpacked to
    /// more than [`Limits::unpacked_bytes_max`].
    OverDecoded,
    /// A member is packed more tightly than [`Limits::ratio_max`].
    OverRatio,
    /// Looking at it took longer than [`Limits::time_max`].
    OverTime,
    /// It was too much for the process that looked at it, which ended.
    Crashed,
    /// Something in it is encrypted (S/MIME, PGP, an archive, or by an engine's word).
    Encrypted,
    /// An archive of a kind that is not opened here, and no engine that opens archives is there
    /// ([`Engine::opens`]).
    Archive {
        /// Which.
        format: String,
    },
    /// An archive that is damaged: a lenient program may see more in it.
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// One piece of several: message/partial (RFC 2046 section 5.2.2), or a volume of an archive.
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

impl Unscannable {
    /// With texts that are short and harmless.
    pub(crate) fn bounded(self) -> Self {
        use analysis::bounded;
        match self {
            Self::Archive { format } => Self::Archive { format: bounded(format) },
            Self::Damaged { what } => Self::Damaged { what: bounded(what) },
            Self::EngineFailed { engine, why } => {
                Self::EngineFailed { engine: bounded(engine), why: bounded(why) }
            }
            Self::EngineLimit { engine, why } => {
                Self::EngineLimit { engine: bounded(engine), why: bounded(why) }
            }
            other => other,
        }
    }

    /// Which reason, in a word, as it is counted.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OverSize => "over-size",
            Self::OverDepth => "over-depth",
            Self::OverParts => "over-parts",
            Self::OverDecoded => "over-decoded",
            Self::OverRatio => "over-ratio",
            Self::OverTime => "over-time",
            Self::Crashed => "crashed",
            Self::Encrypted => "encrypted",
            Self::Archive { .. } => "archive",
            Self::Damaged { .. } => "damaged",
            Self::Partial => "partial",
            Self::Ambiguous => "ambiguous",
            Self::EngineFailed { .. } => "engine-failed",
            Self::EngineLimit { .. } => "engine-limit",
        }
    }
}

impl std::fmt::Display for Unscannable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OverSize => f.write_str("larger than the size limit"),
            Self::OverDepth => f.write_str("nested too deep"),
            Self::OverParts => f.write_str("too many parts"),
            Self::OverDecoded => f.write_str("too large when decoded"),
            Self::OverRatio => f.write_str("packed more tightly than real files are"),
            Self::OverTime => f.write_str("scan took too long"),
            Self::Crashed => f.write_str("too much for the scanner, which ended"),
            Self::Encrypted => f.write_str("encrypted"),
            Self::Archive { format } => write!(f, "{format}: no engine here opens it"),
            Self::Damaged { what } => f.write_str(what),
            Self::Partial => {
                f.write_str("one piece of several (message/partial, or a volume of an archive)")
            }
            Self::Ambiguous => f.write_str("structure can be read in more than one way"),
            Self::EngineFailed { engine, why } => write!(f, "{engine} gave no answer: {why}"),
            Self::EngineLimit { engine, why } => write!(f, "{engine} did not look at all: {why}"),
        }
    }
}

/// How much of a mail is looked at, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Raw bytes of one message.
    pub message_bytes_max: usize,
    /// Sum of the decoded bytes of all its parts.
    pub decoded_bytes_max: usize,
    /// Multipart and message/rfc822 nesting.
    pub depth_max: usize,
    /// Leaf parts.
    pub parts_max: u32,
    /// Containers in containers, mails among them included.
    pub container_depth_max: usize,
    /// Members of all containers of one mail.
    pub members_max: u32,
    /// Bytes unpacked from all containers of one mail.
    pub unpacked_bytes_max: usize,
    /// Unpacked bytes per packed byte of a member, from 16 MiB of it on.
    pub ratio_max: usize,
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
            container_depth_max: 24,
            members_max: 10_000,
            unpacked_bytes_max: 512 * 1024 * 1024,
            ratio_max: 250,
            time_max: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Those that unpacking has.
    pub(crate) fn unpacking(&self) -> unpack::Limits {
        unpack::Limits {
            members_max: self.members_max,
            bytes_max: self.unpacked_bytes_max,
            member_bytes_max: self.unpacked_bytes_max,
            ratio_max: self.ratio_max,
            ..unpack::Limits::default()
        }
    }
}

/// How one engine fared with one mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineReport {
    /// Which.
    pub name: String,
    /// `clean`, `infected: NAME`, or why it could not say.
    pub outcome: String,
    /// Longest wait for an answer.
    pub time: Duration,
}

/// A verdict with what led to it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The verdict on the whole mail. Infected wins over blocked, that over unscannable, and that over
    /// clean; of several reasons the most suspicious is named.
    pub verdict: Verdict,
    /// What the operator blocks in it, also where something worse was found.
    pub blocked: Option<Finding>,
    /// All reasons why it was not scanned in full.
    pub unscannable: Vec<Unscannable>,
    /// Raw bytes.
    pub bytes: u64,
    /// Leaf parts that were decoded.
    pub parts: u32,
    /// From the end of the message to the verdict.
    pub waited: Duration,
    /// Who looked at it.
    pub engines: Vec<EngineReport>,
    /// The message, for who wants to keep it; `None` where it was too large.
    pub content: Option<Spooled>,
    /// What the message's header says to people.
    pub summary: mime::Summary,
}

impl Report {
    /// All that was found out, each by itself and the verdict first: rules may differ.
    #[must_use]
    pub fn outcomes(&self) -> Vec<Verdict> {
        let blocked = self.blocked.clone().map(Verdict::Infected);
        let reasons = self.unscannable.iter().cloned().map(Verdict::Unscannable);
        let mut outcomes = vec![self.verdict.clone()];
        outcomes.extend(blocked.into_iter().chain(reasons).filter(|other| *other != self.verdict));
        outcomes
    }
}

#[cfg(test)]
mod tests {
    pub(crate) use testkit::{base64 as encode_base64, eicar};
}
