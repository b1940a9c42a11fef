//! What all containers of one mail may cost together.

use std::fmt;
use std::sync::Arc;

/// Says whether time is over; asked between steps of at most 64 KiB of output.
pub type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// Limits on unpacking, for one mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Members, over all containers; every attempt to decode one counts.
    pub members_max: u32,
    /// Unpacked bytes, over all containers.
    pub bytes_max: usize,
    /// Unpacked bytes of one member.
    pub member_bytes_max: usize,
    /// Unpacked bytes per packed byte, for each member beyond [`Self::ratio_floor_bytes`].
    pub ratio_max: usize,
    /// Unpacked bytes of a member up to which its ratio does not matter. Spreadsheets with many
    /// equal cells pack several hundred to one.
    pub ratio_floor_bytes: usize,
    /// Bytes that a decoder may take for its dictionary or model, where a container says how large
    /// that has to be. Taken as address space; as memory only as far as it fills.
    pub decoder_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            members_max: 10_000,
            bytes_max: 512 << 20,
            member_bytes_max: 256 << 20,
            ratio_max: 250,
            ratio_floor_bytes: 16 << 20,
            decoder_bytes_max: 272 << 20,
        }
    }
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// [`Limits::members_max`].
    Members,
    /// [`Limits::bytes_max`] or [`Limits::member_bytes_max`].
    Bytes,
    /// [`Limits::ratio_max`].
    Ratio,
    /// [`Limits::decoder_bytes_max`].
    Memory,
    /// [`Stop`] said so.
    Time,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Members => "more members than are looked at",
            Self::Bytes => "more bytes when unpacked than are looked at",
            Self::Ratio => "packed more tightly than real files are",
            Self::Memory => "needs more memory to unpack than is given",
            Self::Time => "unpacking took too long",
        })
    }
}

/// Limits, with what has been used of them. One for all containers of one mail.
pub struct Budget {
    limits: Limits,
    stop: Stop,
    members: u32,
    bytes: usize,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limits", &self.limits)
            .field("members", &self.members)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Budget {
    /// Nothing used yet.
    pub fn new(limits: Limits, stop: Stop) -> Self {
        Self { limits, stop, members: 0, bytes: 0 }
    }

    /// What it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Members decoded so far.
    pub fn members(&self) -> u32 {
        self.members
    }

    /// Bytes unpacked so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts one member more, unless there may be none.
    pub(crate) fn take_member(&mut self) -> Result<(), LimitKind> {
        if self.is_over_time() {
            return Err(LimitKind::Time);
        }
        if self.members >= self.limits.members_max {
            return Err(LimitKind::Members);
        }
        self.members = self.members.saturating_add(1);
        Ok(())
    }

    /// Counts these bytes, unless that is too many.
    pub(crate) fn take_bytes(&mut self, count: usize) -> Result<(), LimitKind> {
        let bytes = self.bytes.saturating_add(count);
        if bytes > self.limits.bytes_max {
            return Err(LimitKind::Bytes);
        }
        self.bytes = bytes;
        Ok(())
    }

    pub(crate) fn is_over_time(&self) -> bool {
        (self.stop)()
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// How many bytes one more member may have.
    pub(crate) fn bytes_left(&self) -> usize {
        self.limits.bytes_max.saturating_sub(self.bytes).min(self.limits.member_bytes_max)
    }
}
