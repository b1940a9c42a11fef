//! Files that stand in texts: uuencoded, xxencoded, yEnc, BinHex, OpenPGP in armour. Each is a part of
//! its own.

use super::binhex::{self, Item};
use super::lines::{Lines, Piece};
use super::names::clean_name;
use super::{EVENT_BYTES, Output, PartHead, armour, uu, yenc};
use crate::Unscannable;

/// Whether decoded bytes may hold such files, but for OpenPGP: each of them has one of these words.
pub(crate) fn holds_files(bytes: &[u8]) -> bool {
    memchr::memchr2_iter(b'b', b'B', bytes).any(|at| {
        let word = bytes.get(at..).unwrap_or_default();
        let is_word = |wanted: &[u8]| {
            word.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted))
        };
        // `begin 644 name`; `=ybegin line=`; "converted with BinHex".
        is_word(b"begin") && word.get(5).is_some_and(u8::is_ascii_whitespace) || is_word(b"binhex")
    })
}

/// The files in lines of text, raw or decoded.
#[derive(Debug)]
pub(crate) struct TextFiles {
    uu: uu::Scanner,
    uu_file: File,
    xx: uu::Scanner,
    xx_file: File,
    armour: armour::Scanner,
    armour_file: File,
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
            xx: uu::Scanner::xx(),
            xx_file: file(),
            armour: armour::Scanner::default(),
            armour_file: file(),
            yenc: yenc::Decoder::default(),
            yenc_file: file(),
            binhex: binhex::Decoder::default(),
            binhex_file: file(),
        }
    }

    pub(crate) fn piece(&mut self, piece: Piece<'_>, out: &mut Output) {
        let Piece { text, first, last, .. } = piece;
        let step = self.armour.piece(text, first, last, &mut self.armour_file.buffer);
        self.armour_step(step, out);
        self.uu.text(text);
        self.xx.text(text);
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
        self.xx_file.end(out);
        self.yenc_file.end(out);
        let step = self.armour.finish();
        self.armour_step(step, out);
        let items = self.binhex.finish();
        self.binhex_file.items(items, out);
    }

    fn uu_line_ends(&mut self, out: &mut Output) {
        for (scanner, file) in
            [(&mut self.uu, &mut self.uu_file), (&mut self.xx, &mut self.xx_file)]
        {
            match scanner.end_of_line(&mut file.buffer) {
                uu::Step::None => {}
                uu::Step::Begin(name) => file.begin(&name, out),
                uu::Step::BeginWith(name) => file.begin_with_buffer(Some(&name), out),
                uu::Step::Data => file.flush_full(out),
                uu::Step::End => file.end(out),
            }
        }
    }

    fn armour_step(&mut self, step: armour::Step, out: &mut Output) {
        let file = &mut self.armour_file;
        match step {
            armour::Step::None => {}
            armour::Step::Encrypted => out.finding(Unscannable::Encrypted),
            armour::Step::Begin => file.begin_with_buffer(None, out),
            armour::Step::Data => file.flush_full(out),
            armour::Step::End => file.end(out),
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
        self.start(vec![clean_name(name)], out);
    }

    /// The same of which the first bytes are there; the one before has ended.
    fn begin_with_buffer(&mut self, name: Option<&str>, out: &mut Output) {
        self.start(name.map(clean_name).into_iter().collect(), out);
    }

    fn start(&mut self, file_names: Vec<String>, out: &mut Output) {
        self.part = out.start_part(PartHead {
            depth: self.depth,
            content_type: "application/octet-stream".to_owned(),
            file_names,
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
