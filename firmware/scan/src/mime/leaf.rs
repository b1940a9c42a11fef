//! A body being decoded, in as many ways as its header can be read.

use super::armour::PGP_MESSAGE;
use super::base64::Base64;
use super::decode::Decoder;
use super::entity::{Encodings, Entity};
use super::files::DecodedFiles;
use super::lines::Piece;
use super::quoted::QuotedPrintable;
use super::uu;
use super::{EVENT_BYTES, Inner, InnerKind, Output, PartHead, apple, cms};
use crate::Unscannable;

/// How much of a part's start is kept, bytes: enough for the signs of encryption below.
const START_BYTES: usize = PGP_MESSAGE.len();

/// Ends of the names of files that are encrypted as a rule; their first byte says whether they are.
const PGP_FILES: [&str; 2] = [".pgp", ".gpg"];
/// Types of packet that encrypted messages start with: session keys and encrypted data (RFC 9580 section 5).
const PGP_TAGS: [u8; 5] = [1, 3, 9, 18, 20];

/// Where an entity stands in the outermost structure, as the walk finds it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    /// Start of its header in the raw message, bytes; `None` where there is no such place.
    pub(crate) start: Option<u64>,
    /// Whether all readers find it here, with this header.
    pub(crate) plain: bool,
}

/// How a body ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// With a delimiter, to which the end of the line before it belongs; else with the message.
    pub(crate) delimited: bool,
    /// Where it ends in the raw message, bytes; counts only where the entity has a [`Place`].
    pub(crate) at: u64,
    /// Whether all readers see this end.
    pub(crate) plain: bool,
}

impl Ending {
    /// Of a body that has no [`Place`].
    pub(crate) fn nowhere(delimited: bool) -> Self {
        Self { delimited, at: 0, plain: false }
    }
}

/// One body.
#[derive(Debug)]
pub(crate) struct Leaf {
    sinks: Vec<Sink>,
    place: Place,
    /// The end of the last line, which belongs to the delimiter if one follows.
    held_end: Vec<u8>,
}

impl Leaf {
    /// Every reading of the body as a leaf.
    pub(crate) fn open(entity: &Entity, depth: usize, place: Place, out: &mut Output) -> Self {
        let Encodings { identity, base64, quoted_printable, uu, .. } = entity.encodings;
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
        let place = Place { plain: place.plain && entity.plain && sinks.len() == 1, ..place };
        Self { sinks, place, held_end: Vec::new() }
    }

    /// Those readings that change the bytes; `None` where there are none.
    pub(crate) fn open_encoded(entity: &Entity, depth: usize, out: &mut Output) -> Option<Self> {
        let encodings = Encodings { identity: false, ..entity.encodings };
        let any = encodings.base64 || encodings.quoted_printable || encodings.uu;
        let entity = Entity { encodings, ..entity.clone() };
        any.then(|| Self::open(&entity, depth, Place::default(), out))
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

    pub(crate) fn finish(self, ending: Ending, out: &mut Output) {
        for mut sink in self.sinks {
            sink.part.range = self.place.start.map(|start| start..ending.at);
            sink.part.is_plain = self.place.plain && ending.plain && sink.decoder.is_clean();
            if !ending.delimited && !self.held_end.is_empty() {
                sink.decoder.end_of_line(&self.held_end, &mut sink.buffer);
            }
            sink.finish(out);
        }
    }
}

/// One reading of it.
#[derive(Debug)]
struct Sink {
    part: PartHead,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// Its first bytes.
    start: Vec<u8>,
    /// Decoded text may hold files of its own.
    files: Option<DecodedFiles>,
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
        let part = out.start_part(PartHead {
            depth,
            content_type: entity.content_type.clone(),
            file_names: entity.file_names.clone(),
            verbatim: decoder.is_identity(),
            ..PartHead::default()
        })?;
        let encoded = !decoder.is_identity();
        let kind = if entity.cms {
            Some(InnerKind::Cms)
        } else if entity.apple {
            Some(InnerKind::Apple)
        } else if !encoded {
            None
        } else if entity.composite.is_some() {
            Some(InnerKind::Composite(entity.clone()))
        } else {
            entity.mail_file.then_some(InnerKind::Message)
        };
        let inner = kind.map(|kind| Inner { kind, depth, bytes: Vec::new() });
        let files = ((encoded && entity.text) || entity.binhex)
            .then(|| DecodedFiles::new(depth, entity.binhex));
        Some(Self { part, decoder, buffer: Vec::new(), start: Vec::new(), files, inner })
    }

    fn flush(&mut self, out: &mut Output) {
        let room = START_BYTES.saturating_sub(self.start.len());
        self.start.extend(self.buffer.iter().take(room));
        if room > 0 && self.start == PGP_MESSAGE && self.part_is_decoded() {
            // Whatever it is said to be: programs open such a file by how it begins.
            self.files.get_or_insert_with(|| DecodedFiles::new(self.part.depth, false));
        }
        if out.data(self.part.number, &self.buffer) {
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
        if self.is_encrypted() {
            out.finding(Unscannable::Encrypted);
        }
        out.end_part(self.part.clone());
        if let Some(files) = self.files.take() {
            files.finish(out);
        }
        if let Some(inner) = self.inner.take() {
            self.look_inside(inner, out);
        }
    }

    fn look_inside(&self, inner: Inner, out: &mut Output) {
        match inner.kind {
            InnerKind::Cms => match cms::signed_content(&inner.bytes) {
                Some(bytes) => out.walk_later(Inner { kind: InnerKind::Message, bytes, ..inner }),
                None => out.finding(Unscannable::Encrypted),
            },
            InnerKind::Apple => {
                for fork in apple::forks(&inner.bytes) {
                    self.fork(fork, out);
                }
            }
            InnerKind::Composite(_) | InnerKind::Message => out.walk_later(inner),
        }
    }

    /// A file in this one is a part of its own.
    fn fork(&self, bytes: &[u8], out: &mut Output) {
        let head = PartHead {
            depth: self.part.depth + 1,
            content_type: "application/octet-stream".to_owned(),
            file_names: self.part.file_names.clone(),
            ..PartHead::default()
        };
        if let Some(part) = out.start_part(head) {
            for bytes in bytes.chunks(EVENT_BYTES) {
                out.data(part.number, bytes);
            }
            out.end_part(part);
        }
    }

    fn is_encrypted(&self) -> bool {
        let is_pgp = self.part.file_names.iter().any(|name| {
            let name = name.to_ascii_lowercase();
            PGP_FILES.iter().any(|end| name.ends_with(end))
        });
        match self.start[..] {
            // The flags in the local header of a zip file (APPNOTE.TXT section 4.3.7).
            [b'P', b'K', 3, 4, _, _, flags, ..] => flags & 1 == 1,
            // A packet's type, in its two formats (RFC 9580 section 4.2).
            [first @ 0xc0..=0xff, ..] if is_pgp => PGP_TAGS.contains(&(first & 0x3f)),
            [first @ 0x80..=0xbf, ..] if is_pgp => PGP_TAGS.contains(&(first >> 2 & 0xf)),
            _ => false,
        }
    }

    /// Not as it stands in the message, whose raw lines are looked at.
    fn part_is_decoded(&self) -> bool {
        !self.part.verbatim
    }
}
