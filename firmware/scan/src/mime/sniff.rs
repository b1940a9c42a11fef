//! Decodes what looks like a MIME part where the structure has none: below a line `Content-Type:` or
//! `Content-Transfer-Encoding:` in a text, a preamble, an epilogue, or (in a flat reading) anywhere.
//!
//! Only encoded bodies matter: what stands in clear is in the raw message, which is scanned too.

use super::Output;
use super::header::{Block, Doubt, doubt, is_content_line};
use super::leaf::{Ending, Leaf};
use super::lines::Piece;

/// Looks at the lines of one text.
#[derive(Debug)]
pub(crate) struct Sniffer {
    header: Option<Header>,
    /// The body, once for each line that may be the end of its header.
    bodies: Vec<Leaf>,
    depth: usize,
}

/// A header that may have ended already.
#[derive(Debug, Default)]
struct Header {
    block: Block,
    /// A reader takes all doubts of a kind alike, so that the first one of each is enough.
    doubts: Vec<Doubt>,
}

impl Sniffer {
    pub(crate) fn new(depth: usize) -> Self {
        Self { header: None, bodies: Vec::new(), depth }
    }

    pub(crate) fn piece(&mut self, piece: Piece<'_>, out: &mut Output) {
        if piece.first {
            let starts = self.header.is_none() && is_content_line(piece.text);
            if starts || is_delimiter(piece.text) {
                self.end(out);
            }
            if starts {
                self.header = Some(Header::default());
            }
        }
        // Bodies that are open already; those that this line opens begin behind it, or with it.
        for body in &mut self.bodies {
            body.piece(piece, out);
        }
        let Some(mut header) = self.header.take() else { return };
        if !piece.first {
            header.block.more(piece.text);
        } else if piece.text.is_empty() {
            self.open(&header.block, None, out);
            return;
        } else if let Some(doubt) = doubt(piece.text).filter(|_| !header.block.is_empty()) {
            if !header.doubts.contains(&doubt) {
                header.doubts.push(doubt);
                let begins = matches!(doubt, Doubt::Name | Doubt::NoColon);
                self.open(&header.block, begins.then_some(piece), out);
            }
            header.block.line(piece.text);
        } else {
            header.block.line(piece.text);
        }
        self.header = Some(header);
    }

    pub(crate) fn finish(mut self, out: &mut Output) {
        self.end(out);
    }

    /// A body starts, perhaps with this line.
    fn open(&mut self, block: &Block, first: Option<Piece<'_>>, out: &mut Output) {
        out.count_header(block);
        if out.stopped {
            return;
        }
        if let Some(mut body) = Leaf::open_encoded(&block.entity(false), self.depth, out) {
            if let Some(piece) = first {
                body.piece(piece, out);
            }
            self.bodies.push(body);
        }
    }

    fn end(&mut self, out: &mut Output) {
        self.header = None;
        for body in self.bodies.drain(..) {
            body.finish(Ending::nowhere(true), out);
        }
    }
}

/// `--` and something behind it.
fn is_delimiter(line: &[u8]) -> bool {
    line.strip_prefix(b"--").is_some_and(|rest| !rest.trim_ascii().is_empty())
}
