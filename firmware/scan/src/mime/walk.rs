//! The structure: which line belongs to which header, body or delimiter.

use super::entity::{Composite, Encodings, Entity};
use super::files::TextFiles;
use super::frame::{Delimiter, Frame, FrameKind, find, is_exact};
use super::header::{Block, LineKind, is_content_line};
use super::leaf::{Ending, Leaf, Place};
use super::lines::Piece;
use super::params::trim;
use super::plain::{PLAIN_DEPTH_MAX, PLAIN_PARTS_MAX};
use super::sniff::Sniffer;
use super::{Inner, InnerKind, Output};
use crate::Unscannable;

/// Most composite bodies around one line that are decoded beside being walked. Regular mail has none.
const SHADOWS_MAX: usize = 4;

/// Most times that a line of one message is compared with a boundary. Regular mail stays a thousand times
/// below; deep nesting with many boundaries and many lines of dashes would take minutes.
pub(crate) const COMPARISONS_MAX: usize = 20_000_000;

/// One message, or one decoded body with a structure.
#[derive(Debug)]
pub(crate) struct Walk {
    frames: Vec<Frame>,
    state: State,
    files: Option<TextFiles>,
    base_depth: usize,
    /// Of all open multiparts together.
    boundaries: usize,
    /// How the line before ended, to tell a bare CR.
    after_bare_cr: bool,
    line_feeds: bool,
    /// Something was seen that another reader may take otherwise, or for no mail at all.
    doubtful: bool,
    /// It is the message itself, so that places in it are places in the raw message.
    outermost: bool,
    /// Where the entity now open starts, bytes.
    entity_at: u64,
    /// Where the line before ends, without and with its end, bytes.
    text_end: u64,
    line_end: u64,
}

#[derive(Debug)]
enum State {
    /// `leading` while empty lines before the header are skipped.
    Header { block: Block, digest: bool, leading: bool },
    /// A body; without a leaf it is a preamble or an epilogue.
    Body { leaf: Option<Leaf>, sniffer: Option<Sniffer> },
}

impl Walk {
    /// A message: header first.
    pub(crate) fn message(base_depth: usize) -> Self {
        Self {
            frames: Vec::new(),
            state: State::Header { block: Block::default(), digest: false, leading: true },
            files: Some(TextFiles::new(base_depth)),
            base_depth,
            boundaries: 0,
            after_bare_cr: false,
            line_feeds: false,
            doubtful: false,
            outermost: false,
            entity_at: 0,
            text_end: 0,
            line_end: 0,
        }
    }

    /// The message that the walk is about.
    pub(crate) fn outermost() -> Self {
        Self { outermost: true, ..Self::message(0) }
    }

    /// A message of which the structure is ignored.
    pub(crate) fn flat() -> Self {
        let state = State::Body { leaf: None, sniffer: Some(Sniffer::new(0)) };
        Self { state, files: None, ..Self::message(0) }
    }

    /// No message: only files in its lines are looked for.
    pub(crate) fn text() -> Self {
        let state = State::Body { leaf: None, sniffer: None };
        Self { state, ..Self::message(0) }
    }

    /// A decoded body with a structure.
    pub(crate) fn inner(inner: &Inner, out: &mut Output) -> Self {
        match &inner.kind {
            InnerKind::Message | InnerKind::Cms | InnerKind::Apple => {
                Self::message(inner.depth + 1)
            }
            InnerKind::Composite(entity) => {
                let mut walk = Self::message(inner.depth);
                // It is decoded already.
                let entity = Entity { encodings: Encodings::IDENTITY, ..entity.clone() };
                walk.open(&entity, out);
                walk
            }
        }
    }

    pub(crate) fn piece(&mut self, piece: Piece<'_>, out: &mut Output) {
        if out.stopped {
            return;
        }
        if let Some(files) = &mut self.files {
            files.piece(piece, out);
        }
        let delimiter = if piece.first { self.delimiter(piece, out) } else { None };
        let shadows = delimiter.map_or(self.frames.len(), |delimiter| delimiter.frame + 1);
        for frame in self.frames.iter_mut().take(shadows) {
            if let Some(shadow) = &mut frame.shadow {
                shadow.piece(piece, out);
            }
        }
        match delimiter {
            Some(delimiter) => self.cross(delimiter, piece, out),
            None => self.content(piece, out),
        }
        self.after_bare_cr = piece.end == b"\r";
        self.doubtful |= self.after_bare_cr;
        self.line_feeds |= piece.end.ends_with(b"\n");
        self.line_end = piece.next_at();
        self.text_end = self.line_end.saturating_sub(piece.end.len().try_into().unwrap_or(0));
    }

    pub(crate) fn finish(&mut self, out: &mut Output) {
        self.end_state(Ending { delimited: false, at: self.line_end, plain: false }, out);
        self.close_frames(0, out);
        if let Some(files) = self.files.take() {
            files.finish(out);
        }
    }

    /// A line of a header or a body.
    fn content(&mut self, piece: Piece<'_>, out: &mut Output) {
        match &mut self.state {
            State::Header { block, .. } if !piece.first => block.more(piece.text),
            State::Header { block, leading, .. } => match block.line(piece.text) {
                LineKind::Blank if *leading && block.is_empty() => self.doubtful = true,
                LineKind::Field => {}
                LineKind::Blank => {
                    self.end_header(out);
                    self.message_starts(piece.next_at());
                }
                LineKind::Junk => {
                    // Some skip the line, and read on in the header.
                    out.oddities.structure |= !block.is_empty();
                    self.end_header(out);
                    self.message_starts(piece.at);
                    self.body(piece, out);
                }
            },
            State::Body { .. } => self.body(piece, out),
        }
    }

    fn body(&mut self, piece: Piece<'_>, out: &mut Output) {
        let State::Body { leaf, sniffer } = &mut self.state else {
            // The body is a message, and this is the first line of its header.
            if let State::Header { block, .. } = &mut self.state {
                block.line(piece.text);
            }
            return;
        };
        if let Some(sniffer) = sniffer {
            sniffer.piece(piece, out);
        } else if piece.first && is_content_line(piece.text) {
            // A header amid encoded lines: somebody may see a delimiter here that we do not.
            out.oddities.structure = true;
        }
        if let Some(leaf) = leaf {
            leaf.piece(piece, out);
        }
    }

    /// Where the header of a message starts, if one is open now.
    fn message_starts(&mut self, at: u64) {
        if matches!(self.state, State::Header { .. }) {
            self.entity_at = at;
        }
    }

    fn end_header(&mut self, out: &mut Output) {
        let State::Header { block, digest, .. } = &self.state else { return };
        self.doubtful |= self.frames.is_empty() && !block.begins_as_mail();
        out.count_header(block);
        if out.stopped {
            return;
        }
        let entity = block.entity(*digest);
        self.open(&entity, out);
    }

    /// The header has been read: what follows is what it says.
    fn open(&mut self, entity: &Entity, out: &mut Output) {
        if entity.partial {
            out.finding(Unscannable::Partial);
        }
        if entity.encrypted {
            out.finding(Unscannable::Encrypted);
        }
        if entity.ambiguous {
            out.finding(Unscannable::Ambiguous);
        }
        if entity.boundary_missing {
            out.oddities.structure = true;
        }
        let depth = self.base_depth + self.frames.len();
        match &entity.composite {
            Some(_) if depth >= out.depth_max => {
                out.finding(Unscannable::OverDepth);
                self.open_leaf(entity, depth, out);
            }
            Some(composite) => self.open_frame(composite, entity, depth, out),
            None => self.open_leaf(entity, depth, out),
        }
    }

    fn open_leaf(&mut self, entity: &Entity, depth: usize, out: &mut Output) {
        let place = Place {
            start: (self.is_definite() && !entity.ambiguous).then_some(self.entity_at),
            plain: self.is_plain(out),
        };
        let leaf = Leaf::open(entity, depth, place, out);
        let sniffer = leaf.has_identity().then(|| Sniffer::new(depth));
        self.state = State::Body { leaf: Some(leaf), sniffer };
    }

    /// Whether a leaf that starts now can be replaced where it stands.
    fn is_definite(&self) -> bool {
        self.outermost
            && !self.frames.is_empty()
            && self.frames.iter().all(|frame| frame.definite && !frame.is_closed())
    }

    /// Whether every reader finds the leaf that starts now.
    fn is_plain(&self, out: &Output) -> bool {
        self.outermost
            && !self.doubtful
            && out.findings.is_empty()
            && out.parts < PLAIN_PARTS_MAX
            && self.frames.len() <= PLAIN_DEPTH_MAX
            && self.frames.iter().all(|frame| frame.plain && !frame.is_closed())
    }

    fn open_frame(
        &mut self,
        composite: &Composite,
        entity: &Entity,
        depth: usize,
        out: &mut Output,
    ) {
        // The body decoded as it says, beside the body as it stands.
        let mut shadow = Leaf::open_encoded(entity, depth, out);
        let shadows = self.frames.iter().filter(|frame| frame.shadow.is_some()).count();
        if shadows >= SHADOWS_MAX
            && let Some(shadow) = shadow.take()
        {
            out.finding(Unscannable::Ambiguous);
            shadow.finish(Ending::nowhere(true), out);
        }
        let (kind, state) = match composite {
            Composite::Message => (
                FrameKind::Message,
                State::Header { block: Block::default(), digest: false, leading: true },
            ),
            Composite::Multipart { boundaries, digest } => (
                FrameKind::Multipart {
                    boundaries: boundaries.clone(),
                    digest: *digest,
                    used: None,
                    closed: false,
                    stray_delimiter: false,
                },
                // Where another reading has no parts here, the body is a leaf of its own.
                State::Body {
                    leaf: (!entity.only_composite && entity.encodings.identity).then(|| {
                        let plain = Entity {
                            encodings: Encodings::IDENTITY,
                            composite: None,
                            ..entity.clone()
                        };
                        Leaf::open(&plain, depth, Place::default(), out)
                    }),
                    sniffer: Some(Sniffer::new(depth)),
                },
            ),
        };
        if let Composite::Multipart { boundaries, .. } = composite {
            self.boundaries += boundaries.len();
        }
        let definite = entity.definite && entity.encodings == Encodings::IDENTITY;
        self.frames.push(Frame { kind, shadow, definite, plain: entity.plain });
        self.state = state;
    }

    /// Whether this line delimits the parts of an open multipart, and of which.
    fn delimiter(&mut self, piece: Piece<'_>, out: &mut Output) -> Option<Delimiter> {
        let dashes = piece.text.strip_prefix(b"--");
        let Some(line) = dashes else {
            self.disguised(piece.text, out);
            return None;
        };
        let line = line.trim_ascii_end();
        if !self.may_compare(out) {
            return None;
        }
        let found = find(&self.frames, line);
        let Some(found) = found.filter(|_| piece.last) else {
            for frame in &mut self.frames {
                out.oddities.structure |= frame.stray(line);
            }
            return None;
        };
        if self.after_bare_cr && self.line_feeds {
            // To some this line is part of the one before.
            out.finding(Unscannable::Ambiguous);
        }
        Some(found)
    }

    /// A delimiter behind blanks or control characters, which some clients strip.
    fn disguised(&self, text: &[u8], out: &mut Output) {
        if text.first().is_none_or(|&c| c > b' ' && c != 0x7f) {
            return;
        }
        if let Some(line) = trim(text).strip_prefix(b"--")
            && self.may_compare(out)
            && find(&self.frames, line).is_some()
        {
            out.oddities.structure = true;
        }
    }

    /// Counts the comparisons of one line against their limit.
    fn may_compare(&self, out: &mut Output) -> bool {
        out.comparisons = out.comparisons.saturating_add(self.boundaries);
        if out.comparisons > COMPARISONS_MAX {
            out.stop(Unscannable::Ambiguous);
        }
        !out.stopped
    }

    /// A delimiter: everything inside its multipart ends.
    fn cross(&mut self, delimiter: Delimiter, piece: Piece<'_>, out: &mut Output) {
        let plain = is_exact(&self.frames, delimiter, piece.text);
        // A header that ends here had no body; its entity still counts.
        if matches!(&self.state, State::Header { block, .. } if !block.is_empty()) {
            self.end_header(out);
        }
        self.end_state(Ending { delimited: true, at: self.text_end, plain }, out);
        self.close_frames(delimiter.frame + 1, out);
        let depth = self.base_depth + self.frames.len();
        let Some(frame) = self.frames.get_mut(delimiter.frame) else { return };
        frame.plain &= plain || delimiter.closing;
        frame.definite &= delimiter.boundary == 0;
        let FrameKind::Multipart { used, closed, digest, .. } = &mut frame.kind else { return };
        if used.is_some_and(|used| used != delimiter.boundary) {
            // Two boundaries, and both occur: nobody knows which one a client takes.
            out.finding(Unscannable::Ambiguous);
        }
        *used = Some(delimiter.boundary);
        if *closed {
            // Parts behind the closing delimiter: some read on.
            out.oddities.structure = true;
        }
        if delimiter.closing {
            *closed = true;
            self.state = State::Body { leaf: None, sniffer: Some(Sniffer::new(depth)) };
        } else {
            self.state = State::Header { block: Block::default(), digest: *digest, leading: false };
            self.entity_at = piece.next_at();
        }
    }

    fn end_state(&mut self, ending: Ending, out: &mut Output) {
        // A header that the message ends in.
        if matches!(&self.state, State::Header { block, .. } if !block.is_empty())
            && !ending.delimited
        {
            self.end_header(out);
        }
        let over = State::Body { leaf: None, sniffer: None };
        if let State::Body { leaf, sniffer } = std::mem::replace(&mut self.state, over) {
            if let Some(leaf) = leaf {
                leaf.finish(ending, out);
            }
            if let Some(sniffer) = sniffer {
                sniffer.finish(out);
            }
        }
    }

    /// Closes all frames but the first `keep`.
    fn close_frames(&mut self, keep: usize, out: &mut Output) {
        while self.frames.len() > keep {
            let Some(frame) = self.frames.pop() else { break };
            if let FrameKind::Multipart { boundaries, .. } = &frame.kind {
                self.boundaries -= boundaries.len();
            }
            if let FrameKind::Multipart { used: None, stray_delimiter: true, .. } = frame.kind {
                // It has delimiters, but not those that it announced.
                out.oddities.structure = true;
                out.finding(Unscannable::Ambiguous);
            }
            if let Some(shadow) = frame.shadow {
                shadow.finish(Ending::nowhere(true), out);
            }
        }
    }
}
