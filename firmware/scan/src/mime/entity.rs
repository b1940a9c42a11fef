//! What the header of an entity says of its body. Every field that is given twice counts in each of its
//! readings. Entry: [`Entity`].

use super::header::{Block, Field};
use super::names::{Sources, names};
use super::params::{READINGS_MAX, readings, strip_comments, trim};
use super::plain::{Fields, has_definite_boundary};
use super::words::decode_words;

/// Longest boundary that is looked for, bytes (RFC 2046 allows 70).
pub(crate) const BOUNDARY_BYTES_MAX: usize = 4096;
/// Longest content type that is kept, characters.
const TYPE_CHARS_MAX: usize = 255;

/// Ends of the names of files that mail programs open as messages.
const MAIL_FILES: &[&str] = &["eml", "mht", "mhtml", "nws"];

/// Ends of the names of texts that are files, and the types of such texts.
const UU_FILES: &[&str] = &["uu", "uue", "yenc", "ntx"];
const UU_TYPES: [&str; 3] =
    ["application/x-uuencode", "application/x-uue", "application/x-yencode"];
const BINHEX_TYPES: [&str; 3] =
    ["application/mac-binhex40", "application/mac-binhex", "application/x-binhex40"];

const APPLE_TYPES: [&str; 4] = [
    "application/applefile",
    "application/macbinary",
    "application/x-macbinary",
    "application/mac-binary",
];

/// How a body may be encoded: one flag a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encodings {
    pub(crate) identity: bool,
    pub(crate) base64: bool,
    pub(crate) quoted_printable: bool,
    pub(crate) uu: bool,
    /// The lines of a BinHex file, beside what else they are.
    pub(crate) binhex: bool,
}

impl Encodings {
    /// As it stands.
    pub(crate) const IDENTITY: Self = Self { identity: true, ..Self::NONE };
    /// What cannot be told.
    const ALL: Self =
        Self { identity: true, base64: true, quoted_printable: true, uu: true, binhex: true };
    const NONE: Self =
        Self { identity: false, base64: false, quoted_printable: false, uu: false, binhex: false };
}

/// What a composite type holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Composite {
    /// Parts between these delimiters.
    Multipart { boundaries: Vec<Vec<u8>>, digest: bool },
    /// One message.
    Message,
}

/// An entity as its header announces it, in all readings at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entity {
    /// For people and rules; lower case.
    pub(crate) content_type: String,
    /// Text that may hold files, uuencoded or otherwise.
    pub(crate) text: bool,
    /// A BinHex file, with its marker or without.
    pub(crate) binhex: bool,
    /// Set where some reading has parts or a message inside.
    pub(crate) composite: Option<Composite>,
    /// Set where all readings are composite, so that the body itself is no leaf.
    pub(crate) only_composite: bool,
    /// Of the composite, the first boundary is the one that everybody reads.
    pub(crate) definite: bool,
    /// multipart, but with no boundary to find.
    pub(crate) boundary_missing: bool,
    pub(crate) encodings: Encodings,
    pub(crate) file_names: Vec<String>,
    pub(crate) encrypted: bool,
    /// S/MIME: signed, encrypted or compressed, as its bytes say.
    pub(crate) cms: bool,
    /// A Macintosh file of several forks, as its bytes say.
    pub(crate) apple: bool,
    /// A message, by its file name or to some only.
    pub(crate) mail_file: bool,
    pub(crate) partial: bool,
    /// Nobody reads the header, or the body by it, in another way.
    pub(crate) plain: bool,
    /// Too many readings, or a boundary over its limit.
    pub(crate) ambiguous: bool,
}

impl Entity {
    /// Reads a header; `digest` in a multipart/digest, where messages are the default.
    pub(crate) fn new(block: &Block, digest: bool) -> Self {
        let mut types: Vec<String> = Vec::new();
        let mut boundaries: Vec<Vec<u8>> = Vec::new();
        for value in block.values(Field::Type) {
            types.extend(type_readings(value));
            boundaries.extend(readings(value, "boundary"));
        }
        if types.is_empty() {
            types.push(if digest { "message/rfc822" } else { "text/plain" }.to_owned());
        }
        let any = |test: &dyn Fn(&str) -> bool| types.iter().any(|name| test(name));

        let mut ambiguous = boundaries.len() > READINGS_MAX * 2;
        let mut delimiters: Vec<Vec<u8>> = Vec::new();
        for boundary in boundaries {
            // Blanks behind a delimiter do not count, so neither do those at the end of a boundary.
            let boundary = boundary.trim_ascii_end().to_vec();
            ambiguous |= boundary.len() > BOUNDARY_BYTES_MAX;
            if boundary.len() <= BOUNDARY_BYTES_MAX && !delimiters.contains(&boundary) {
                delimiters.push(boundary);
            }
        }
        delimiters.retain(|boundary| !boundary.is_empty());
        delimiters.truncate(READINGS_MAX);

        let multipart = any(&|name| name.starts_with("multipart"));
        let message = any(&|name| is_message(name));
        let boundary_missing = multipart && delimiters.is_empty();
        let composite = if !delimiters.is_empty() {
            let digest = any(&|name| name == "multipart/digest");
            Some(Composite::Multipart { boundaries: delimiters, digest })
        } else if message {
            Some(Composite::Message)
        } else {
            None
        };
        let all_multipart = types.iter().all(|name| name.starts_with("multipart/"));
        let all_message = types.iter().all(|name| is_message(name));
        let only_composite = match composite {
            Some(Composite::Multipart { .. }) => all_multipart,
            Some(Composite::Message) => all_message,
            None => false,
        };

        let mut type_values = block.values(Field::Type);
        let definite = only_composite
            && match (&composite, type_values.next(), type_values.next()) {
                (Some(Composite::Multipart { .. }), Some(value), None) => {
                    has_definite_boundary(value)
                }
                (composite, ..) => *composite == Some(Composite::Message),
            };
        drop(type_values);
        let plain = block.is_regular()
            && Fields {
                types: block.values(Field::Type).collect(),
                encodings: block.values(Field::Encoding).collect(),
                dispositions: block.values(Field::Disposition).collect(),
            }
            .are_plain(types.first().map_or("", String::as_str), composite.as_ref());
        let (file_names, over_names) = names(&Sources {
            dispositions: block.values(Field::Disposition).collect(),
            types: block.values(Field::Type).collect(),
            descriptions: block.values(Field::Description).collect(),
            locations: block.values(Field::Location).collect(),
        });
        ambiguous |= over_names;
        let named = |kinds: &[&str]| {
            file_names.iter().any(|name| {
                let end = name.rsplit('.').next().unwrap_or_default();
                kinds.iter().any(|kind| end.trim_end().eq_ignore_ascii_case(kind))
            })
        };
        // A message of a kind that only some know is one to them.
        let mail_file = named(MAIL_FILES) || any(&|name| name.starts_with("message/"));
        let encodings = encodings(block.values(Field::Encoding));
        let binhex =
            encodings.binhex || named(&["hqx"]) || any(&|name| BINHEX_TYPES.contains(&name));
        Self {
            text: any(&|name| name.starts_with("text") || UU_TYPES.contains(&name))
                || named(UU_FILES),
            binhex,
            composite,
            only_composite,
            definite,
            boundary_missing,
            encodings,
            apple: any(&|name| APPLE_TYPES.contains(&name)),
            mail_file,
            encrypted: any(&|n| n == "multipart/encrypted" || n == "application/pgp-encrypted"),
            cms: named(&["p7m"])
                || any(&|n| n == "application/pkcs7-mime" || n == "application/x-pkcs7-mime"),
            file_names,
            partial: any(&|name| name == "message/partial"),
            plain,
            ambiguous,
            content_type: types.swap_remove(0),
        }
    }
}

fn is_message(name: &str) -> bool {
    matches!(name, "message/rfc822" | "message/global" | "message/news" | "message/external-body")
}

/// The type as the grammar reads it, then without what only some clients drop.
fn type_readings(value: &[u8]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let words = decode_words(value);
    for text in [strip_comments(value), value.to_vec()].into_iter().chain(words) {
        let end = text.iter().position(|&c| c == b';' || c == b',').unwrap_or(text.len());
        let head = trim(text.get(..end).unwrap_or_default());
        let name: String = head
            .iter()
            .filter(|c| c.is_ascii_graphic() && !matches!(c, b'"' | b'\\'))
            .map(|c| char::from(c.to_ascii_lowercase()))
            .take(TYPE_CHARS_MAX)
            .collect();
        if !name.is_empty() && !out.contains(&name) {
            out.push(name);
        }
        if !value.contains(&b'(') && !value.windows(2).any(|pair| pair == b"=?") {
            break;
        }
    }
    out
}

fn encodings<'a>(values: impl Iterator<Item = &'a [u8]>) -> Encodings {
    let mut out = Encodings::NONE;
    let mut none = true;
    for value in values {
        none = false;
        let bare = strip_comments(value);
        match trim(&bare).to_ascii_lowercase().as_slice() {
            b"7bit" | b"8bit" | b"binary" => out.identity = true,
            b"base64" => out.base64 = true,
            b"quoted-printable" => out.quoted_printable = true,
            b"x-uuencode" | b"uuencode" | b"x-uue" | b"uue" | b"x-uu" => {
                (out.identity, out.uu) = (true, true);
            }
            // Its files are found by their `=ybegin`.
            b"x-yencode" | b"x-yenc" | b"yenc" | b"yencode" => out.identity = true,
            // The decoded bytes are a gzip file.
            b"gzip64" | b"x-gzip64" => (out.identity, out.base64) = (true, true),
            b"binhex" | b"x-binhex" | b"binhex40" | b"x-binhex40" | b"mac-binhex40" => {
                (out.identity, out.binhex) = (true, true);
            }
            // Unknown: whatever a client may take it for.
            _ => out = Encodings::ALL,
        }
    }
    out.identity |= none;
    out
}

#[cfg(test)]
mod tests {
    use super::super::header::LineKind;
    use super::*;

    fn entity(header: &str) -> Entity {
        let mut block = Block::default();
        for line in header.lines() {
            assert_eq!(block.line(line.as_bytes()), LineKind::Field, "{line}");
        }
        block.entity(false)
    }

    #[test]
    fn fields_are_found_however_they_are_written() {
        let plain = entity("Content-Type: multipart/mixed; boundary=BND");
        assert!(plain.only_composite && plain.encodings.identity);
        for header in [
            "content-type : MULTIPART/mixed;\n\tboundary=\"BND\"",
            "X: y\nContent-Type:\n multipart/mixed\n ; boundary = BND",
            "Content-Type: (a)multipart/(b)mixed;(c)boundary=BND(d)",
        ] {
            let Some(Composite::Multipart { boundaries, .. }) = entity(header).composite else {
                panic!("{header}")
            };
            assert!(boundaries.contains(&b"BND".to_vec()), "{header}: {boundaries:?}");
        }
    }

    #[test]
    fn twice_given_fields_count_in_both_readings() {
        let both = entity(
            "Content-Transfer-Encoding: quoted-printable\nContent-Transfer-Encoding: (x) BASE64 (y)",
        );
        assert!(both.encodings.base64 && both.encodings.quoted_printable);
        assert!(!both.encodings.identity);
        let types = entity("Content-Type: text/plain\nContent-Type: multipart/mixed; boundary=b");
        assert!(types.composite.is_some() && !types.only_composite);
    }

    #[test]
    fn an_unknown_encoding_is_every_encoding() {
        for value in ["x-base64", "", "base64, 7bit", "b\\ase64", "=?x?Q?base64?="] {
            let all = entity(&format!("Content-Transfer-Encoding: {value}")).encodings;
            assert!(all.identity && all.base64 && all.quoted_printable, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_looked_into_is_seen() {
        assert!(entity("Content-Type: message/partial; id=x; number=1; total=2").partial);
        for value in [
            "multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=x",
            "application/pgp-encrypted",
        ] {
            assert!(entity(&format!("Content-Type: {value}")).encrypted, "{value}");
        }
        assert!(entity("Content-Type: application/x-pkcs7-mime").cms);
        assert!(!entity("Content-Type: multipart/signed; boundary=x").encrypted);
    }

    #[test]
    fn a_boundary_over_its_limit_is_ambiguous() {
        let at = entity(&format!("Content-Type: multipart/x; boundary={}", "b".repeat(4096)));
        assert!(at.composite.is_some() && !at.ambiguous);
        let over = entity(&format!("Content-Type: multipart/x; boundary={}", "b".repeat(4097)));
        assert!(over.ambiguous);
    }
}
