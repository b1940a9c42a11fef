//! A body being decoded, in as many ways as its header can be read.

use super::base64::Base64;
use super::decode::Decoder;
use super::files::UuFiles;
use super::header::{Encodings, Entity};
use super::lines::Piece;
use super::quoted::QuotedPrintable;
use super::uu;
use super::{EVENT_BYTES, Inner, InnerKind, Output, PartHead, cms};
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
    files: Option<UuFiles>,
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
        let kind = if entity.cms {
            Some(InnerKind::Cms)
        } else if !encoded {
            None
        } else if entity.composite.is_some() {
            Some(InnerKind::Composite(entity.clone()))
        } else {
            entity.mail_file.then_some(InnerKind::Message)
        };
        let inner = kind.map(|kind| Inner { kind, depth, bytes: Vec::new() });
        let files = (encoded && entity.text).then(|| UuFiles::new(depth));
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
                out.inner_bytes += self.buffer.len();
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
        if let Some(mut inner) = self.inner {
            if matches!(inner.kind, InnerKind::Cms) {
                let Some(content) = cms::signed_content(&inner.bytes) else {
                    out.finding(Unscannable::Encrypted);
                    return;
                };
                inner = Inner { kind: InnerKind::Message, bytes: content, ..inner };
            }
            out.walk_later(inner);
        }
    }
}
