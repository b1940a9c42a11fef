//! The header of an entity, collected line by line. Entry: [`Block`].

use super::entity::Entity;
use super::params::trim;
use super::plain::{
    PLAIN_HEADER_BYTES_MAX, PLAIN_HEADER_LINES_MAX, begins_as_mail, is_regular_name,
};

/// Most bytes of one header, all fields together.
pub(crate) const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes kept of the Content-* fields of one header.
const CONTENT_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of the Content-* fields of all headers of one message: reading them in every way is the
/// dearest thing here, byte for byte.
pub(crate) const CONTENT_TOTAL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a line of a header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// A field, or more of one.
    Field,
    /// The empty line behind the header.
    Blank,
    /// No line of a header: many clients take it for the first line of the body.
    Junk,
}

/// The fields that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Type,
    Encoding,
    Disposition,
    /// A name, in some clients' eyes.
    Description,
    /// A URL whose end is a name.
    Location,
    Other,
}

/// A header being collected.
#[derive(Debug, Default)]
pub(crate) struct Block {
    fields: Vec<(Field, Vec<u8>)>,
    current: Option<Field>,
    lines: usize,
    bytes: usize,
    content_bytes: usize,
    overfull: bool,
    /// A line that some may read otherwise.
    irregular: bool,
    /// A line that is the end of the header to some.
    doubtful: bool,
    begins_as_mail: bool,
}

impl Block {
    /// A line, or the first piece of a long one.
    pub(crate) fn line(&mut self, line: &[u8]) -> LineKind {
        if line.is_empty() {
            return LineKind::Blank;
        }
        let from = line.starts_with(b"From ") || line.starts_with(b">From ");
        if from && self.lines == 0 {
            // The line that mailboxes put before a message.
            self.irregular = true;
            return LineKind::Field;
        }
        self.doubtful |= doubt(line).is_some();
        if is_folded(line) {
            // Above the first field it belongs to none, and those that follow are read nevertheless.
            self.irregular |= trim(line).is_empty() || self.current.is_none();
            self.count(line.len());
            self.append(line);
            return LineKind::Field;
        }
        let Some(colon) = line.iter().position(|&c| c == b':') else {
            self.irregular = true;
            return LineKind::Junk;
        };
        let (name, value) = line.split_at(colon);
        self.begins_as_mail |= self.lines == 0 && begins_as_mail(line);
        self.irregular |= !is_regular_name(name);
        self.count(line.len());
        let field = field(name);
        self.current = Some(field);
        if field != Field::Other {
            self.fields.push((field, Vec::new()));
            self.append(value.get(1..).unwrap_or_default());
        }
        LineKind::Field
    }

    /// A further piece of the line before.
    pub(crate) fn more(&mut self, text: &[u8]) {
        self.count(text.len());
        self.append(text);
    }

    /// Whether a message that begins with this header is seen to be one by all.
    pub(crate) fn begins_as_mail(&self) -> bool {
        self.begins_as_mail
    }

    /// Whether a line of it is the end of the header to some.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubtful && self.lines > 0
    }

    /// Whether a limit of the header was reached.
    pub(crate) fn is_overfull(&self) -> bool {
        self.overfull
    }

    /// Bytes of its Content-* fields.
    pub(crate) fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// Whether no line is such that somebody may read it otherwise, and none of its limits is near.
    pub(crate) fn is_regular(&self) -> bool {
        !self.irregular
            && self.lines <= PLAIN_HEADER_LINES_MAX
            && self.bytes <= PLAIN_HEADER_BYTES_MAX
    }

    /// Whether nothing has been collected yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// What the header says.
    pub(crate) fn entity(&self, digest: bool) -> Entity {
        Entity::new(self, digest)
    }

    /// The values of one field, as often as it is given.
    pub(crate) fn values(&self, wanted: Field) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |(field, _)| *field == wanted).map(|(_, v)| v.as_slice())
    }

    fn append(&mut self, text: &[u8]) {
        if self.current.is_none_or(|field| field == Field::Other) {
            return;
        }
        self.content_bytes += text.len() + 1;
        if self.content_bytes > CONTENT_BYTES_MAX {
            self.overfull = true;
        } else if let Some((_, value)) = self.fields.last_mut() {
            value.extend_from_slice(text);
        }
    }

    fn count(&mut self, bytes: usize) {
        self.lines += 1;
        self.bytes += bytes;
        self.overfull |= self.bytes > HEADER_BYTES_MAX;
    }
}

/// Why some readers see the end of a header in a line that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Nothing but blanks.
    Blanks,
    /// Nothing but control characters.
    Controls,
    /// Blanks or bytes in the name of the field that no name has.
    Name,
    /// No field at all.
    NoColon,
}

/// Whether some readers see the end of a header in this line.
pub(crate) fn doubt(line: &[u8]) -> Option<Doubt> {
    let folded = is_folded(line);
    if trim(line).is_empty() {
        return Some(if folded { Doubt::Blanks } else { Doubt::Controls });
    }
    if folded {
        return None;
    }
    let Some(colon) = line.iter().position(|&c| c == b':') else { return Some(Doubt::NoColon) };
    let name = line.get(..colon).unwrap_or_default();
    let odd = name.is_empty() || !name.iter().all(u8::is_ascii_graphic);
    odd.then_some(Doubt::Name)
}

fn is_folded(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// Whether a line of text looks like a field of a MIME header.
pub(crate) fn is_content_line(line: &[u8]) -> bool {
    let line = trim(line);
    line.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-"))
        && line.iter().position(|&c| c == b':').and_then(|colon| line.get(..colon)).is_some_and(
            |name| matches!(field(name), Field::Type | Field::Encoding | Field::Disposition),
        )
}

/// Blanks and control characters in and about the name do not count.
fn field(name: &[u8]) -> Field {
    let name: Vec<u8> =
        name.iter().filter(|c| c.is_ascii_graphic()).map(u8::to_ascii_lowercase).collect();
    match name.as_slice() {
        b"content-type" => Field::Type,
        b"content-transfer-encoding" => Field::Encoding,
        b"content-disposition" => Field::Disposition,
        b"content-description" | b"content-name" | b"x-sun-data-name" => Field::Description,
        b"content-location" => Field::Location,
        _ => Field::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_over_its_limit_is_overfull_and_not_kept() {
        let mut block = Block::default();
        for _ in 0..HEADER_BYTES_MAX / 100 + 1 {
            block.line(&[b"X: ".as_slice(), &[b'x'; 97]].concat());
        }
        assert!(block.is_overfull());
        let mut block = Block::default();
        block.line(b"Content-Type: text/plain;");
        for _ in 0..CONTENT_BYTES_MAX / 100 + 1 {
            block.line(&[b' '; 100]);
        }
        assert!(block.is_overfull() && block.content_bytes < 2 * CONTENT_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_lines(lines: Vec<Vec<u8>>) {
            let mut block = Block::default();
            block.line(b"Content-Type: x");
            for line in &lines {
                block.line(line);
                block.more(line);
            }
            block.entity(true);
        }
    }
}
