//! Where the bytes of a mail come from.

/// How much of a message that is in memory is walked before the time is looked at, bytes.
const STEP_BYTES: usize = 256 * 1024;

/// Gives a mail piece by piece, and again from its start as often as it is asked. One that fails gives
/// nothing more; who made it knows.
pub trait Source {
    /// From the start again.
    fn restart(&mut self);

    /// The next bytes; none at the end.
    fn next_piece(&mut self) -> &[u8];

    /// All of it, where it is in memory.
    fn whole(&self) -> Option<&[u8]> {
        None
    }
}

/// A mail in memory.
#[derive(Debug)]
pub(super) struct Held<'a> {
    bytes: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Held<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, rest: bytes }
    }
}

impl Source for Held<'_> {
    fn restart(&mut self) {
        self.rest = self.bytes;
    }

    fn next_piece(&mut self) -> &[u8] {
        let (piece, rest) = self.rest.split_at(self.rest.len().min(STEP_BYTES));
        self.rest = rest;
        piece
    }

    fn whole(&self) -> Option<&[u8]> {
        Some(self.bytes)
    }
}
