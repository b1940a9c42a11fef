//! Objects that are looked at while they stream by, and not kept.
//!
//! A large object that nobody has to take apart costs a window instead of itself. What it is is decided
//! by its start; engines are shown it in windows that overlap; and marks of containers are looked for
//! all the while, because some stand anywhere. Where one comes up late the object is needed whole: the
//! message is read again from its start, and this time its parts are kept.

use std::hash::{BuildHasher, Hasher as _, RandomState};

use unpack::watch;

use super::{LocalEngine, looks_like_mail};
use crate::mime::holds_files;
use crate::volume::is_binary;

/// By how much windows overlap, bytes: no pattern that is looked for in windows is longer, so that each
/// of its matches is in one window.
pub const OVERLAP_BYTES: usize = 4 * 1024;
/// How much of an object is kept at first, bytes: its start decides what becomes of it.
pub const START_BYTES: usize = watch::START_BYTES;
/// New bytes of a window, unless a test wants it otherwise.
pub(super) const WINDOW_BYTES: usize = 128 * 1024;

const _: () = assert!(OVERLAP_BYTES >= watch::OVERLAP_BYTES && OVERLAP_BYTES >= watch::END_BYTES);
const _: () = assert!(START_BYTES >= crate::local::kind::START_BYTES);
const _: () = assert!(START_BYTES >= super::MAIL_START_BYTES);

/// Which of the two objects that may stream by at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The raw message.
    Message,
    /// A part of it.
    Part,
}

/// What an engine knows of the objects that stream by.
#[derive(Debug, Default)]
pub struct Slots<T> {
    message: T,
    part: T,
}

impl<T> Slots<T> {
    /// Of these two.
    pub fn new(message: T, part: T) -> Self {
        Self { message, part }
    }

    /// Of that object.
    pub fn at(&mut self, slot: Slot) -> &mut T {
        match slot {
            Slot::Message => &mut self.message,
            Slot::Part => &mut self.part,
        }
    }
}

/// A stretch of an object.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// Where it begins in the object, in bytes.
    pub at: usize,
    /// Some of them were in the window before.
    pub bytes: &'a [u8],
    /// How many.
    pub old_bytes: usize,
}

impl<'a> Window<'a> {
    /// Those that are seen for the first time.
    #[must_use]
    pub fn new_bytes(&self) -> &'a [u8] {
        self.bytes.get(self.old_bytes..).unwrap_or_default()
    }
}

/// An object that is being collected, whole or in windows.
pub(super) struct Collected {
    slot: Slot,
    /// All of it so far, or the window.
    buffer: Vec<u8>,
    way: Way,
    /// It begins as no text does; known once its start is complete.
    is_binary: bool,
}

/// How an object is collected.
enum Way {
    /// To be decided when its start is complete.
    Open,
    /// As a whole.
    Held,
    InWindows(Windows),
}

/// How an object streams by.
struct Windows {
    /// Where the buffer begins in the object, in bytes.
    at: usize,
    /// Of the buffer, shown already.
    old_bytes: usize,
    hasher: <RandomState as BuildHasher>::Hasher,
}

/// An object that is complete.
#[derive(Clone, Copy)]
pub(super) enum Whole<'a> {
    /// In memory.
    Held(&'a [u8]),
    /// Gone by, in this slot.
    Seen(Slot),
}

/// What makes two objects the same: length and hash.
pub(super) type Key = (usize, u64);

/// Whether an archive, or a file in a text, may begin somewhere in this window.
fn may_hold(window: &[u8]) -> bool {
    watch::has_mark(window) || holds_files(window)
}

/// Of bytes in memory.
pub(super) fn key(keys: &RandomState, bytes: &[u8]) -> Key {
    let mut hasher = keys.build_hasher();
    hasher.write(bytes);
    (bytes.len(), hasher.finish())
}

/// What is shown to whom, and in which pieces.
pub(super) struct Showing<'a, 'r> {
    pub(super) engines: &'a mut [Box<dyn LocalEngine + 'r>],
    pub(super) keys: &'a RandomState,
    pub(super) window_bytes: usize,
}

/// An object may hold others: it is needed whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeededWhole;

impl Collected {
    /// One that will be in memory as a whole.
    pub(super) fn held(slot: Slot) -> Self {
        Self { slot, buffer: Vec::new(), way: Way::Held, is_binary: false }
    }

    /// One that streams by, if it can.
    pub(super) fn windowed(slot: Slot) -> Self {
        Self { slot, buffer: Vec::new(), way: Way::Open, is_binary: false }
    }

    /// Takes the next bytes.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        showing: &mut Showing<'_, '_>,
    ) -> Result<(), NeededWhole> {
        while matches!(self.way, Way::Open) {
            let room = START_BYTES.saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if bytes.is_empty() {
                return Ok(());
            }
            self.decide(showing);
        }
        let Way::InWindows(windows) = &mut self.way else {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        };
        while !bytes.is_empty() {
            let limit = windows.old_bytes + showing.window_bytes;
            let room = limit.saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= limit {
                windows.show(self.slot, &mut self.buffer, showing)?;
            }
        }
        Ok(())
    }

    /// The start is complete, and more follows.
    fn decide(&mut self, showing: &mut Showing<'_, '_>) {
        let start = &self.buffer;
        // The message itself is not taken apart as a file.
        let may_hold_others = self.slot == Slot::Part
            && (watch::is_suspect(start) || may_hold(start) || looks_like_mail(start));
        self.is_binary = is_binary(start);
        let slot = self.slot;
        if may_hold_others || !showing.engines.iter_mut().all(|engine| engine.begin(slot, start)) {
            self.way = Way::Held;
            return;
        }
        let hasher = showing.keys.build_hasher();
        self.way = Way::InWindows(Windows { at: 0, old_bytes: 0, hasher });
        let limit = OVERLAP_BYTES + showing.window_bytes;
        self.buffer.reserve_exact(limit.saturating_sub(self.buffer.len()));
    }

    /// All is there. The key is that of [`key`].
    pub(super) fn finish(
        &mut self,
        showing: &mut Showing<'_, '_>,
    ) -> Result<Option<Key>, NeededWhole> {
        let Way::InWindows(windows) = &mut self.way else { return Ok(None) };
        if self.slot == Slot::Part && watch::is_suspect_end(&self.buffer) {
            return Err(NeededWhole);
        }
        if self.buffer.len() > windows.old_bytes {
            windows.show(self.slot, &mut self.buffer, showing)?;
        }
        Ok(Some((windows.at + self.buffer.len(), windows.hasher.finish())))
    }

    /// One that streams by is known to be no text.
    pub(super) fn is_binary(&self) -> bool {
        self.is_binary
    }

    /// After [`Self::finish`].
    pub(super) fn whole(&self) -> Whole<'_> {
        match self.way {
            Way::Open | Way::Held => Whole::Held(&self.buffer),
            Way::InWindows(_) => Whole::Seen(self.slot),
        }
    }

    /// Bytes so far.
    pub(super) fn length(&self) -> usize {
        let gone = match &self.way {
            Way::Open | Way::Held => 0,
            Way::InWindows(windows) => windows.at,
        };
        gone + self.buffer.len()
    }

    /// It is to be looked at in windows, or may be.
    pub(super) fn has_slot(&self) -> bool {
        !matches!(self.way, Way::Held)
    }
}

impl Windows {
    /// Shows what is new in the buffer, and leaves in it what the next window overlaps.
    fn show(
        &mut self,
        slot: Slot,
        buffer: &mut Vec<u8>,
        showing: &mut Showing<'_, '_>,
    ) -> Result<(), NeededWhole> {
        let window = Window { at: self.at, bytes: buffer, old_bytes: self.old_bytes };
        if slot == Slot::Part {
            self.hasher.write(window.new_bytes());
            if may_hold(buffer) {
                return Err(NeededWhole);
            }
        }
        for engine in showing.engines.iter_mut() {
            engine.window(slot, &window);
        }
        let gone = buffer.len().saturating_sub(OVERLAP_BYTES);
        buffer.drain(..gone);
        self.at += gone;
        self.old_bytes = buffer.len();
        Ok(())
    }
}
