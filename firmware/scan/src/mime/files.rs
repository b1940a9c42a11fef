//! Files that stand in texts, uuencoded or as yEnc, each a part of its own.

use super::lines::Piece;
use super::names::clean_name;
use super::{EVENT_BYTES, Output, PartHead, uu, yenc};

/// The files in the raw lines of a message, whatever its structure says.
#[derive(Debug)]
pub(crate) struct RawFiles {
    uu: UuFiles,
    yenc: yenc::Decoder,
    yenc_file: File,
}

impl RawFiles {
    pub(crate) fn new(depth: usize) -> Self {
        let (uu, yenc_file) = (UuFiles::new(depth), File::new(depth));
        Self { uu, yenc: yenc::Decoder::default(), yenc_file }
    }

    pub(crate) fn piece(&mut self, piece: Piece<'_>, out: &mut Output) {
        self.uu.scanner.text(piece.text);
        if piece.last {
            self.uu.end_of_line(out);
        }
        let file = &mut self.yenc_file;
        match self.yenc.piece(piece.text, piece.first, piece.last, &mut file.buffer) {
            yenc::Step::None => file.flush_full(out),
            yenc::Step::Begin(name) => file.begin(&name, out),
            yenc::Step::End => file.end(out),
        }
    }

    pub(crate) fn finish(mut self, out: &mut Output) {
        self.uu.finish(out);
        self.yenc_file.end(out);
    }
}

/// uuencoded files in a text.
#[derive(Debug)]
pub(crate) struct UuFiles {
    scanner: uu::Scanner,
    file: File,
}

impl UuFiles {
    pub(crate) fn new(depth: usize) -> Self {
        Self { scanner: uu::Scanner::default(), file: File::new(depth) }
    }

    /// Decoded text, in any chunks.
    pub(crate) fn bytes(&mut self, bytes: &[u8], out: &mut Output) {
        for line in bytes.split_inclusive(|&c| c == b'\n') {
            let text = line.strip_suffix(b"\n");
            self.scanner.text(text.unwrap_or(line));
            if text.is_some() {
                self.end_of_line(out);
            }
        }
    }

    pub(crate) fn finish(mut self, out: &mut Output) {
        self.end_of_line(out);
        self.file.end(out);
    }

    fn end_of_line(&mut self, out: &mut Output) {
        match self.scanner.end_of_line(&mut self.file.buffer) {
            uu::Step::None => {}
            uu::Step::Begin(name) => self.file.begin(&name, out),
            uu::Step::Data => self.file.flush_full(out),
            uu::Step::End => self.file.end(out),
        }
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
    fn new(depth: usize) -> Self {
        Self { depth, part: None, buffer: Vec::new() }
    }

    fn begin(&mut self, name: &str, out: &mut Output) {
        self.end(out);
        self.part = out.start_part(PartHead {
            depth: self.depth,
            content_type: "application/octet-stream".to_owned(),
            file_names: vec![clean_name(name)],
            ..PartHead::default()
        });
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
