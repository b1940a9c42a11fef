//! The MIME walk: takes a raw message in any chunks, gives its decoded parts and what hinders reading it.
//!
//! Calling order: [`Walker::new`], then [`Walker::feed`] and [`Walker::poll_event`] until it gives
//! `None`, at the end [`Walker::finish`] and `poll_event` again. Does no IO, reads no clock, does not
//! recurse, holds no more than a header, a line and what [`Limits`] allows. What the header says to people
//! is in [`Walker::summary`].
//!
//! The walk is made for the union of the readings that mail programs make of one message. It gets there
//! in three ways:
//!
//! - An entity whose header can be read in several ways is decoded in each of them, side by side.
//! - Where text looks like a MIME header, though the structure says that it is none (preamble, epilogue,
//!   text, delimiters nobody announced), what follows it is decoded as well.
//! - Where a whole message may have another structure, or base64 another dialect, [`Walker::oddities`]
//!   says so, and the caller walks it again as [`further_readings`] says. Regular mail never needs that.
//!
//! Where even that cannot cover all readings, the finding is [`Unscannable::Ambiguous`].

mod apple;
mod armour;
mod base64;
mod binhex;
mod cms;
mod decode;
mod entity;
mod files;
mod frame;
mod header;
mod leaf;
mod lines;
mod names;
mod params;
mod plain;
mod quoted;
mod sniff;
mod summary;
mod uu;
mod walk;
mod words;
mod yenc;

pub use decode::{Dialect, Oddities};
pub(crate) use files::holds_files;
pub use summary::{SUMMARY_FIELD_BYTES_MAX, Summary};

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use self::entity::Entity;
use self::header::{Block, CONTENT_TOTAL_BYTES_MAX};
use self::lines::Lines;
use self::summary::Summarizer;
use self::walk::Walk;
use crate::{Limits, Unscannable};

/// How much of a part is handed on at once, bytes.
const EVENT_BYTES: usize = 16 * 1024;

/// What the walk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A part starts. Parts may overlap: one body decoded in two ways is two parts.
    PartStart(PartHead),
    /// More of its decoded bytes.
    PartData {
        /// Which.
        number: u32,
        /// Not empty.
        bytes: Bytes,
    },
    /// The part is complete, and so is what is known of it: [`PartHead::range`] and
    /// [`PartHead::is_plain`] are set.
    PartEnd(PartHead),
    /// Something cannot be looked at; each reason comes once.
    Finding(Unscannable),
}

/// What is known of a part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartHead {
    /// From 1, in the order of their starts.
    pub number: u32,
    /// Multiparts and messages around it.
    pub depth: usize,
    /// Lower case, `text/plain` where nothing is said.
    pub content_type: String,
    /// Every name a client may give it, without control characters.
    pub file_names: Vec<String>,
    /// Whether the raw message has these bytes word for word.
    pub verbatim: bool,
    /// Known when the part has ended: where its entity stands in the raw message, in bytes from the start,
    /// header and body, without the end of the line before the next delimiter. Another entity (header,
    /// empty line, body) may be put there, and the message around it stays well-formed.
    ///
    /// `None` where that cannot be done: the entity is the message itself, is inside an encoded body,
    /// or its place depends on how the structure is read. One entity read in several ways is several
    /// parts with the same range.
    pub range: Option<Range<u64>>,
    /// Known when the part has ended: any engine that reads mail certainly decodes it to the same bytes.
    /// Only base64 in its simplest standard form is plain, at most 8 deep, and no text, of which engines
    /// may change the ends of lines. In doubt it is `false`.
    pub is_plain: bool,
}

/// One way to read a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// How base64 is read.
    pub dialect: Dialect,
    /// Whether the structure is ignored, and only what looks like a MIME header counts.
    pub flat: bool,
}

/// The readings that a message with these oddities needs beside `done`.
#[must_use]
pub fn further_readings(oddities: Oddities, done: &[Reading]) -> Vec<Reading> {
    let mut dialects = vec![Dialect::Usual];
    if oddities.padding_inside {
        dialects.extend([
            Dialect::PaddingIsJunk,
            Dialect::PaddingIsZero,
            Dialect::PaddingFillsQuantum,
        ]);
    }
    if oddities.url_alphabet {
        dialects.push(Dialect::UrlAlphabet);
    }
    if oddities.bad_escape {
        dialects.extend([Dialect::EscapeDropped, Dialect::EscapeDroppedWhole]);
    }
    if oddities.bad_escape || oddities.trailing_blanks {
        dialects.push(Dialect::BlanksKept);
    }
    let structures: &[bool] = if oddities.structure { &[false, true] } else { &[false] };
    let all = structures
        .iter()
        .flat_map(|&flat| dialects.iter().map(move |&dialect| Reading { dialect, flat }));
    all.filter(|reading| !done.contains(reading)).collect()
}

/// Walks one message.
#[derive(Debug)]
pub struct Walker {
    lines: Lines,
    summarizer: Summarizer,
    walk: Walk,
    out: Output,
}

impl Walker {
    /// The usual reading.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self::reading(Reading::default(), limits)
    }

    /// Another reading of the same message.
    #[must_use]
    pub fn reading(reading: Reading, limits: &Limits) -> Self {
        Self {
            lines: Lines::default(),
            summarizer: Summarizer::default(),
            walk: if reading.flat { Walk::flat() } else { Walk::outermost() },
            out: Output::new(reading.dialect, limits),
        }
    }

    /// A text that is no message, for the files in its lines.
    #[must_use]
    pub fn text(limits: &Limits) -> Self {
        Self { walk: Walk::text(), ..Self::new(limits) }
    }

    /// The next bytes of the raw message.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { lines, summarizer, walk, out } = self;
        if !out.stopped {
            lines.feed(bytes, |piece| {
                summarizer.piece(piece);
                walk.piece(piece, out);
            });
        }
    }

    /// The message has ended. Messages that were encoded themselves are walked now.
    pub fn finish(&mut self) {
        let Self { lines, summarizer, walk, out } = self;
        lines.finish(|piece| {
            summarizer.piece(piece);
            walk.piece(piece, out);
        });
        walk.finish(out);
        while let Some(inner) = out.inner.pop_front() {
            if out.stopped {
                break;
            }
            *lines = Lines::default();
            *walk = Walk::inner(&inner, out);
            lines.feed(&inner.bytes, |piece| walk.piece(piece, out));
            lines.finish(|piece| walk.piece(piece, out));
            walk.finish(out);
        }
    }

    /// What the header of the message says to people, as far as it has been read.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summarizer.summary()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// Parts that have started so far.
    #[must_use]
    pub fn parts(&self) -> u32 {
        self.out.parts
    }

    /// Decoded bytes so far.
    #[must_use]
    pub fn decoded_bytes(&self) -> usize {
        self.out.decoded_bytes
    }

    /// Bytes it holds of bodies that have a structure of their own, beside what it has given out.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.out.inner_bytes
    }

    /// What was seen so far that other readings take otherwise.
    #[must_use]
    pub fn oddities(&self) -> Oddities {
        self.out.oddities
    }
}

/// A decoded body that has a structure of its own.
#[derive(Debug)]
struct Inner {
    kind: InnerKind,
    /// Of the body itself.
    depth: usize,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum InnerKind {
    /// What its header says.
    Composite(Entity),
    /// A message, header first.
    Message,
    /// S/MIME, in which there may be a message.
    Cms,
    /// A Macintosh file with forks.
    Apple,
}

/// Where all stages put what they have found; counts against the limits.
#[derive(Debug)]
struct Output {
    events: VecDeque<Event>,
    inner: VecDeque<Inner>,
    /// In `inner` and on the way there; counted until the walk ends.
    inner_bytes: usize,
    oddities: Oddities,
    findings: Vec<Unscannable>,
    dialect: Dialect,
    parts: u32,
    parts_max: u32,
    depth_max: usize,
    comparisons: usize,
    content_bytes: usize,
    decoded_bytes: usize,
    decoded_bytes_max: usize,
    /// A limit was reached: nothing more is looked at.
    stopped: bool,
}

impl Output {
    fn new(dialect: Dialect, limits: &Limits) -> Self {
        Self {
            events: VecDeque::new(),
            inner: VecDeque::new(),
            inner_bytes: 0,
            oddities: Oddities::default(),
            findings: Vec::new(),
            dialect,
            parts: 0,
            parts_max: limits.parts_max,
            depth_max: limits.depth_max,
            comparisons: 0,
            content_bytes: 0,
            decoded_bytes: 0,
            decoded_bytes_max: limits.decoded_bytes_max,
            stopped: false,
        }
    }

    /// Gives it its number; `None` at the limit.
    fn start_part(&mut self, head: PartHead) -> Option<PartHead> {
        if self.stopped {
            return None;
        }
        if self.parts >= self.parts_max {
            self.stop(Unscannable::OverParts);
            return None;
        }
        self.parts += 1;
        let head = PartHead { number: self.parts, ..head };
        self.events.push_back(Event::PartStart(head.clone()));
        Some(head)
    }

    /// Whether there was room for them.
    fn data(&mut self, number: u32, bytes: &[u8]) -> bool {
        if self.stopped || bytes.is_empty() {
            return !self.stopped;
        }
        if bytes.len() > self.decoded_bytes_max - self.decoded_bytes {
            self.stop(Unscannable::OverDecoded);
            return false;
        }
        self.decoded_bytes += bytes.len();
        self.events.push_back(Event::PartData { number, bytes: Bytes::copy_from_slice(bytes) });
        true
    }

    fn end_part(&mut self, head: PartHead) {
        if !self.stopped {
            self.events.push_back(Event::PartEnd(head));
        }
    }

    /// A header is about to be read.
    fn count_header(&mut self, block: &Block) {
        if block.is_overfull() {
            self.finding(Unscannable::Ambiguous);
        }
        self.oddities.structure |= block.is_doubtful();
        self.content_bytes = self.content_bytes.saturating_add(block.content_bytes());
        if self.content_bytes > CONTENT_TOTAL_BYTES_MAX {
            self.stop(Unscannable::Ambiguous);
        }
    }

    /// A body to be walked when the message has ended.
    fn walk_later(&mut self, inner: Inner) {
        if inner.depth >= self.depth_max {
            self.finding(Unscannable::OverDepth);
        } else if !self.stopped && !inner.bytes.is_empty() {
            self.inner.push_back(inner);
        }
    }

    fn finding(&mut self, finding: Unscannable) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding.clone());
            self.events.push_back(Event::Finding(finding));
        }
    }

    fn stop(&mut self, finding: Unscannable) {
        self.finding(finding);
        self.stopped = true;
        self.inner.clear();
    }
}

#[cfg(test)]
mod tests;
