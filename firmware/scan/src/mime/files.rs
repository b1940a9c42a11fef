//! Files that stand in texts: uuencoded, yEnc, BinHex. Each is a part of its own.

use super::binhex::{self, Item};
use super::lines::{Lines, Piece};
use super::names::clean_name;
use super::{EVENT_BYTES, Output, PartHead, uu, yenc};
use crate::Unscannable;

/// The armour of an encrypted text (RFC 9580 section 6.2).
pub(crate) const PGP_MESSAGE: &[u8] = b"-----BEGIN PGP MESSAGE-----";

/// The files in lines of text, raw or decoded.
#[derive(Debug)]
pub(crate) struct TextFiles {
    uu: uu::Scanner,
    uu_file: File,
    yenc: yenc::Decoder,
    yenc_file: File,
    binhex: binhex::Decoder,
    binhex_file: File,
}

impl TextFiles {
    pub(crate) fn new(depth: usize) -> Self {
        let file = || File { depth, part: None, buffer: Vec::new() };
        Self {
            uu: uu::Scanner::default(),
            uu_file: file(),
            yenc: yenc::Decoder::default(),
            yenc_file: file(),
            binhex: binhex::Decoder::default(),
            binhex_file: file(),
        }
    }

    pub(crate) fn piece(&mut self, piece: Piece<'_>, out: &mut Output) {
        let Piece { text, first, last, .. } = piece;
        if first && text.starts_with(PGP_MESSAGE) {
            out.finding(Unscannable::Encrypted);
        }
        self.uu.text(text);
        if last {
            self.uu_line_ends(out);
        }
        let file = &mut self.yenc_file;
        match self.yenc.piece(text, first, last, &mut file.buffer) {
            yenc::Step::None => file.flush_full(out),
            yenc::Step::Begin(name) => file.begin(&name, out),
            yenc::Step::End => file.end(out),
        }
        // Few lines can start a BinHex file.
        if self.binhex.is_awake() || text.first().is_some_and(|c| *c <= b'(') {
            self.binhex_file.items(self.binhex.piece(text, first, last), out);
        }
    }

    pub(crate) fn finish(mut self, out: &mut Output) {
        self.uu_line_ends(out);
        self.uu_file.end(out);
        self.yenc_file.end(out);
        let items = self.binhex.finish();
        self.binhex_file.items(items, out);
    }

    fn uu_line_ends(&mut self, out: &mut Output) {
        let file = &mut self.uu_file;
        match self.uu.end_of_line(&mut file.buffer) {
            uu::Step::None => {}
            uu::Step::Begin(name) => file.begin(&name, out),
            uu::Step::Data => file.flush_full(out),
            uu::Step::End => file.end(out),
        }
    }
}

/// The same in decoded bytes.
#[derive(Debug)]
pub(crate) struct DecodedFiles {
    lines: Lines,
    files: TextFiles,
}

impl DecodedFiles {
    /// `binhex` where the bytes are said to be a BinHex file.
    pub(crate) fn new(depth: usize, binhex: bool) -> Self {
        let mut files = TextFiles::new(depth);
        if binhex {
            files.binhex = binhex::Decoder::opened();
        }
        Self { lines: Lines::default(), files }
    }

    /// Decoded text, in any chunks.
    pub(crate) fn bytes(&mut self, bytes: &[u8], out: &mut Output) {
        let Self { lines, files } = self;
        lines.feed(bytes, |piece| files.piece(piece, out));
    }

    pub(crate) fn finish(mut self, out: &mut Output) {
        let Self { lines, files } = &mut self;
        lines.finish(|piece| files.piece(piece, out));
        self.files.finish(out);
    }
}

/// One file after the other.
#[derive(Debug)]
struct File {
    depth: usize,
    part: Option<PartHead>,
    buffer: Vec<u8>,
}

impl File {
    fn begin(&mut self, name: &str, out: &mut Output) {
        self.end(out);
        self.part = out.start_part(PartHead {
            depth: self.depth,
            content_type: "application/octet-stream".to_owned(),
            file_names: vec![clean_name(name)],
            ..PartHead::default()
        });
    }

    fn items(&mut self, items: Vec<Item>, out: &mut Output) {
        for item in items {
            match item {
                Item::Begin(name) => self.begin(&name, out),
                Item::Data(bytes) => {
                    for bytes in bytes.chunks(EVENT_BYTES) {
                        self.buffer.extend_from_slice(bytes);
                        self.flush_full(out);
                    }
                }
                Item::End => self.end(out),
            }
        }
    }

    fn flush_full(&mut self, out: &mut Output) {
        if self.buffer.len() >= EVENT_BYTES {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Output) {
        if let Some(part) = &self.part {
            out.data(part.number, &self.buffer);
        }
        self.buffer.clear();
    }

    fn end(&mut self, out: &mut Output) {
        self.flush(out);
        if let Some(part) = self.part.take() {
            out.end_part(part);
        }
    }
}
