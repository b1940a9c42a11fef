//! Decodes what looks like a MIME part where the structure has none: below a line `Content-Type:` or
//! `Content-Transfer-Encoding:` in a text, a preamble, an epilogue, or (in a flat reading) anywhere.
//!
//! Only encoded bodies matter: what stands in clear is in the raw message, which is scanned too.

use super::Output;
use super::header::{Block, LineKind, is_content_line};
use super::leaf::{Ending, Leaf};
use super::lines::Piece;
use super::params::trim;

/// Looks at the lines of one text.
#[derive(Debug)]
pub(crate) struct Sniffer {
    state: State,
    depth: usize,
}

#[derive(Debug)]
enum State {
    Idle,
    Header(Block),
    Body(Leaf),
}

impl Sniffer {
    pub(crate) fn new(depth: usize) -> Self {
        Self { state: State::Idle, depth }
    }

    pub(crate) fn piece(&mut self, piece: Piece<'_>, out: &mut Output) {
        if piece.first {
            let starts = is_content_line(piece.text);
            if !matches!(self.state, State::Header(_)) && (starts || is_delimiter(piece.text)) {
                self.end(out);
                if starts {
                    self.state = State::Header(Block::default());
                }
            }
        }
        match &mut self.state {
            State::Idle => {}
            State::Header(block) if !piece.first => block.more(piece.text),
            // The walk takes a line of blanks for a part of the header.
            State::Header(_) if trim(piece.text).is_empty() => self.open(out),
            State::Header(block) => match block.line(piece.text) {
                LineKind::Field => {}
                LineKind::Blank => self.open(out),
                LineKind::Junk => {
                    self.open(out);
                    self.body(piece, out);
                }
            },
            State::Body(leaf) => leaf.piece(piece, out),
        }
    }

    pub(crate) fn finish(mut self, out: &mut Output) {
        self.end(out);
    }

    fn open(&mut self, out: &mut Output) {
        let State::Header(block) = std::mem::replace(&mut self.state, State::Idle) else { return };
        out.count_header(&block);
        if out.stopped {
            return;
        }
        let entity = block.entity(false);
        if let Some(leaf) = Leaf::open_encoded(&entity, self.depth, out) {
            self.state = State::Body(leaf);
        }
    }

    fn body(&mut self, piece: Piece<'_>, out: &mut Output) {
        if let State::Body(leaf) = &mut self.state {
            leaf.piece(piece, out);
        }
    }

    fn end(&mut self, out: &mut Output) {
        if let State::Body(leaf) = std::mem::replace(&mut self.state, State::Idle) {
            leaf.finish(Ending::nowhere(true), out);
        }
    }
}

/// `--` and something behind it.
fn is_delimiter(line: &[u8]) -> bool {
    line.strip_prefix(b"--").is_some_and(|rest| !rest.trim_ascii().is_empty())
}
