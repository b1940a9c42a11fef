//! A body being decoded, in as many ways as its header can be read.

use super::decode::{Base64, Decoder, QuotedPrintable};
use super::header::{Encodings, Entity, clean_name};
use super::lines::Piece;
use super::uu;
use super::{EVENT_BYTES, Inner, Output, PartHead};
use crate::Unscannable;

/// The local header of a zip file up to its flags (APPNOTE.TXT section 4.3.7).
const ZIP_HEAD_BYTES: usize = 7;

/// One body.
#[derive(Debug)]
pub(crate) struct Leaf {
    sinks: Vec<Sink>,
    /// The end of the last line, which belongs to the delimiter if one follows.
    held_end: Vec<u8>,
}

impl Leaf {
    /// Every reading of the body as a leaf.
    pub(crate) fn open(entity: &Entity, depth: usize, out: &mut Output) -> Self {
        let Encodings { identity, base64, quoted_printable, uu } = entity.encodings;
        let mut sinks = Vec::new();
        let mut add = |decoder| sinks.extend(Sink::open(decoder, entity, depth, out));
        if base64 {
            add(|dialect| Decoder::Base64(Base64::new(dialect)));
        }
        if quoted_printable {
            add(|dialect| Decoder::QuotedPrintable(QuotedPrintable::new(dialect)));
        }
        if uu {
            add(|_| Decoder::Uu(uu::Scanner::opened()));
        }
        if identity {
            add(|_| Decoder::Identity);
        }
        Self { sinks, held_end: Vec::new() }
    }

    /// Those readings that change the bytes; `None` where there are none.
    pub(crate) fn open_encoded(entity: &Entity, depth: usize, out: &mut Output) -> Option<Self> {
        let encodings = Encodings { identity: false, ..entity.encodings };
        let any = encodings.base64 || encodings.quoted_printable || encodings.uu;
        any.then(|| Self::open(&Entity { encodings, ..entity.clone() }, depth, out))
    }

    /// Whether one of the readings leaves the bytes as they are.
    pub(crate) fn has_identity(&self) -> bool {
        self.sinks.iter().any(|sink| sink.decoder.is_identity())
    }

    pub(crate) fn piece(&mut self, piece: Piece<'_>, out: &mut Output) {
        for sink in &mut self.sinks {
            if !self.held_end.is_empty() {
                sink.decoder.end_of_line(&self.held_end, &mut sink.buffer);
            }
            sink.decoder.text(piece.text, &mut sink.buffer);
            if sink.buffer.len() >= EVENT_BYTES {
                sink.flush(out);
            }
        }
        self.held_end.clear();
        self.held_end.extend_from_slice(piece.end);
    }

    /// The body has ended, with a delimiter or with the message.
    pub(crate) fn finish(self, delimited: bool, out: &mut Output) {
        for mut sink in self.sinks {
            if !delimited && !self.held_end.is_empty() {
                sink.decoder.end_of_line(&self.held_end, &mut sink.buffer);
            }
            sink.finish(out);
        }
    }
}

/// One reading of it.
#[derive(Debug)]
struct Sink {
    number: u32,
    decoder: Decoder,
    buffer: Vec<u8>,
    head: Vec<u8>,
    /// Decoded text may hold uuencoded files.
    files: Option<Files>,
    /// A decoded body with a structure: all of it is needed.
    inner: Option<Inner>,
}

impl Sink {
    fn open(
        decoder: fn(super::Dialect) -> Decoder,
        entity: &Entity,
        depth: usize,
        out: &mut Output,
    ) -> Option<Self> {
        let decoder = decoder(out.dialect);
        let number = out.start_part(PartHead {
            number: 0,
            depth,
            content_type: entity.content_type.clone(),
            file_names: entity.file_names.clone(),
            verbatim: decoder.is_identity(),
        })?;
        let encoded = !decoder.is_identity();
        let inner = (encoded && entity.composite.is_some()).then(|| Inner {
            entity: entity.clone(),
            depth,
            bytes: Vec::new(),
        });
        let files = (encoded && entity.text).then(|| Files::new(depth, false));
        Some(Self { number, decoder, buffer: Vec::new(), head: Vec::new(), files, inner })
    }

    fn flush(&mut self, out: &mut Output) {
        let room = ZIP_HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend(self.buffer.iter().take(room));
        if out.data(self.number, &self.buffer) {
            if let Some(files) = &mut self.files {
                files.bytes(&self.buffer, out);
            }
            if let Some(inner) = &mut self.inner {
                inner.bytes.extend_from_slice(&self.buffer);
            }
        }
        self.buffer.clear();
    }

    fn finish(mut self, out: &mut Output) {
        let oddities = self.decoder.finish(&mut self.buffer);
        out.oddities = out.oddities.or(oddities);
        self.flush(out);
        if let [b'P', b'K', 3, 4, _, _, flags] = self.head[..]
            && flags & 1 == 1
        {
            out.finding(Unscannable::Encrypted);
        }
        out.end_part(self.number);
        if let Some(files) = self.files {
            files.finish(out);
        }
        if let Some(inner) = self.inner
            && !out.stopped
        {
            out.inner.push_back(inner);
        }
    }
}

/// uuencoded files in a text, each a part.
#[derive(Debug)]
pub(crate) struct Files {
    scanner: uu::Scanner,
    depth: usize,
    /// Whether the text is the raw message, with its lines already cut.
    file: Option<u32>,
    buffer: Vec<u8>,
    raw: bool,
}

impl Files {
    pub(crate) fn new(depth: usize, raw: bool) -> Self {
        Self { scanner: uu::Scanner::default(), depth, file: None, buffer: Vec::new(), raw }
    }

    /// A piece of a line of the raw message.
    pub(crate) fn piece(&mut self, piece: Piece<'_>, out: &mut Output) {
        debug_assert!(self.raw, "decoded text comes as bytes");
        self.scanner.text(piece.text);
        if piece.last {
            self.end_of_line(out);
        }
    }

    /// Decoded text, in any chunks.
    fn bytes(&mut self, bytes: &[u8], out: &mut Output) {
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
        self.end_file(out);
    }

    fn end_of_line(&mut self, out: &mut Output) {
        match self.scanner.end_of_line(&mut self.buffer) {
            uu::Step::None => {}
            uu::Step::Begin(name) => {
                self.end_file(out);
                self.file = out.start_part(PartHead {
                    number: 0,
                    depth: self.depth,
                    content_type: "application/octet-stream".to_owned(),
                    file_names: vec![clean_name(&name)],
                    verbatim: false,
                });
            }
            uu::Step::Data if self.buffer.len() >= EVENT_BYTES => self.flush(out),
            uu::Step::Data => {}
            uu::Step::End => self.end_file(out),
        }
    }

    fn flush(&mut self, out: &mut Output) {
        if let Some(number) = self.file {
            out.data(number, &self.buffer);
        }
        self.buffer.clear();
    }

    fn end_file(&mut self, out: &mut Output) {
        self.flush(out);
        if let Some(number) = self.file.take() {
            out.end_part(number);
        }
    }
}
