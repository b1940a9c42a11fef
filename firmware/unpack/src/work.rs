//! What every format needs while it is taken apart: the budget, the way out, the troubles.

use crate::{Budget, Format, LimitKind, Member, Stop, Trouble};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Output of one step of a decoder, after which budget and time are looked at.
const STEP_BYTES: usize = 64 * 1024;

/// How reading a member ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At the end of its stream.
    Whole,
    /// At an error in it, or because a decoder needs more memory than it may have.
    Broken,
    /// At a limit of the budget.
    Limit,
}

/// One container being taken apart.
pub(crate) struct Work<'a> {
    format: Format,
    /// Bytes of the container.
    packed: usize,
    budget: &'a mut Budget,
    found: &'a mut dyn FnMut(Member) -> ControlFlow<()>,
    troubles: Vec<Trouble>,
    is_over: bool,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        format: Format,
        packed: usize,
        budget: &'a mut Budget,
        found: &'a mut dyn FnMut(Member) -> ControlFlow<()>,
    ) -> Self {
        Self { format, packed, budget, found, troubles: Vec::new(), is_over: false }
    }

    pub(crate) fn into_troubles(self) -> Vec<Trouble> {
        self.troubles
    }

    /// Whether nothing more is to be looked at.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(crate) fn stop(&self) -> &Stop {
        self.budget.stop()
    }

    /// Bytes of the container.
    pub(crate) fn packed(&self) -> usize {
        self.packed
    }

    pub(crate) fn member_bytes_max(&self) -> usize {
        self.budget.limits().member_bytes_max
    }

    /// Unpacked bytes of a member up to which its ratio is in order.
    pub(crate) fn ratio_bytes_max(&self, packed: usize) -> usize {
        let limits = self.budget.limits();
        packed.saturating_mul(limits.ratio_max).max(limits.ratio_floor_bytes)
    }

    pub(crate) fn bytes_left(&self) -> usize {
        self.budget.bytes_left()
    }

    pub(crate) fn decoder_bytes_max(&self) -> usize {
        self.budget.limits().decoder_bytes_max
    }

    pub(crate) fn decoder_kib_max(&self) -> u32 {
        u32::try_from(self.decoder_bytes_max() / 1024).unwrap_or(u32::MAX - 1)
    }

    /// Notes something that was not looked at; the same thing once.
    pub(crate) fn trouble(&mut self, trouble: Trouble) {
        if !self.troubles.contains(&trouble) {
            self.troubles.push(trouble);
        }
    }

    pub(crate) fn damaged(&mut self, what: &'static str) {
        self.trouble(Trouble::Damaged { format: self.format, what });
    }

    pub(crate) fn unsupported(&mut self, what: &'static str) {
        self.trouble(Trouble::Unsupported { format: self.format, what });
    }

    pub(crate) fn encrypted(&mut self) {
        self.trouble(Trouble::Encrypted { format: self.format });
    }

    pub(crate) fn partial(&mut self) {
        self.trouble(Trouble::Partial { format: self.format });
    }

    /// Notes a limit. All but that on memory and ratio hold for what follows as well.
    pub(crate) fn limit(&mut self, kind: LimitKind) {
        self.trouble(Trouble::Limit(kind));
        self.is_over |= !matches!(kind, LimitKind::Memory | LimitKind::Ratio);
    }

    /// Counts a member that is about to be decoded. False: there may be none.
    pub(crate) fn begin(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        match self.budget.take_member() {
            Ok(()) => true,
            Err(kind) => {
                self.limit(kind);
                false
            }
        }
    }

    /// Reads a decoder to its end, within the budget. A decoder that panics is broken.
    pub(crate) fn read(&mut self, decoder: &mut dyn Source) -> (Vec<u8>, End) {
        let (mut bytes, mut filled) = (Vec::new(), 0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            while !self.is_over {
                bytes.resize(filled + STEP_BYTES, 0);
                let count = match decoder.read(bytes.get_mut(filled..).unwrap_or_default()) {
                    Ok(0) => return End::Whole,
                    Ok(count) => count.min(STEP_BYTES),
                    Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                        self.limit(LimitKind::Memory);
                        return End::Broken;
                    }
                    Err(_) => return End::Broken,
                };
                filled += count;
                if let Err(kind) = self.allow(filled, count, decoder.packed()) {
                    self.limit(kind);
                    return End::Limit;
                }
            }
            End::Limit
        }));
        bytes.truncate(filled);
        (bytes, caught.unwrap_or(End::Broken))
    }

    /// Whether a member of this length, of which these bytes are new, may go on.
    pub(crate) fn allow(
        &mut self,
        length: usize,
        count: usize,
        packed: usize,
    ) -> Result<(), LimitKind> {
        self.budget.take_bytes(count)?;
        if length > self.member_bytes_max() {
            return Err(LimitKind::Bytes);
        }
        if length > self.ratio_bytes_max(packed) {
            return Err(LimitKind::Ratio);
        }
        if self.budget.is_over_time() {
            return Err(LimitKind::Time);
        }
        Ok(())
    }

    /// Hands out a member that was counted.
    pub(crate) fn hand_out(&mut self, names: Vec<String>, bytes: Vec<u8>, is_odd: bool) {
        self.is_over |= (self.found)(Member { names, bytes, is_odd }).is_break();
    }

    /// Reads a decoder to its end, as a member of these names.
    pub(crate) fn member(
        &mut self,
        names: Vec<String>,
        decoder: &mut dyn Source,
        is_odd: bool,
    ) -> End {
        if !self.begin() {
            return End::Limit;
        }
        let (bytes, end) = self.read(decoder);
        self.hand_out(names, bytes, is_odd);
        end
    }

    /// Hands out bytes that stand in the container as they are, as one member.
    pub(crate) fn slice(&mut self, names: Vec<String>, bytes: &[u8], is_odd: bool) {
        if !self.begin() {
            return;
        }
        match self.allow(bytes.len(), bytes.len(), self.packed) {
            Ok(()) => self.hand_out(names, bytes.to_vec(), is_odd),
            Err(kind) => self.limit(kind),
        }
    }
}

/// A decoder that says how many packed bytes it reads from, for the ratio.
pub(crate) trait Source: Read {
    fn packed(&self) -> usize;
}

/// A decoder whose input has this length.
pub(crate) struct Sized<'a> {
    decoder: &'a mut dyn Read,
    packed: usize,
}

impl<'a> Sized<'a> {
    pub(crate) fn new(decoder: &'a mut dyn Read, packed: usize) -> Self {
        Self { decoder, packed }
    }
}

impl Read for Sized<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(output)
    }
}

impl Source for Sized<'_> {
    fn packed(&self) -> usize {
        self.packed
    }
}
