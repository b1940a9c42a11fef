//! Streaming decoders of the content transfer encodings: identity, base64, quoted-printable, uuencode.
//!
//! They take the body line by line, ends of lines apart, and never fail: what is not in the alphabet
//! is read as lenient clients read it (RFC 2045 sections 6.7 and 6.8). Where clients differ so that one
//! reading is not the beginning of the other, the decoder says so ([`Oddities`]), and the walk is done
//! again in the other [`Dialect`].

use super::base64::Base64;
use super::quoted::QuotedPrintable;
use super::uu;

/// How an encoding is read where clients differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Base64: padding ends a quantum and what follows starts another one; all else that is not in the
    /// alphabet is skipped. Quoted-printable: an escape that is none stands for itself.
    #[default]
    Usual,
    /// Base64: padding inside is skipped like any other junk.
    PaddingIsJunk,
    /// Base64: padding inside is a letter of the value 0.
    PaddingIsZero,
    /// Base64: four characters are a quantum, padding among them or not.
    PaddingFillsQuantum,
    /// Base64: `-` and `_` are the last two letters of the alphabet (RFC 4648 section 5).
    UrlAlphabet,
    /// Quoted-printable: of an escape that is none, `=` and a digit or blanks behind it are dropped,
    /// and so is the end of a line there.
    EscapeDropped,
    /// Quoted-printable: the same, and the character that is no digit behind a digit.
    EscapeDroppedWhole,
    /// Quoted-printable: blanks at the end of a line stay, so that `=` in front of them is no soft break;
    /// `==` is one `=`.
    BlanksKept,
}

/// What was seen that other dialects read otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oddities {
    /// Base64 goes on behind its padding.
    pub padding_inside: bool,
    /// Base64 has `-` or `_` in it.
    pub url_alphabet: bool,
    /// Quoted-printable has `=` without two digits.
    pub bad_escape: bool,
    /// Quoted-printable has blanks at the end of a line.
    pub trailing_blanks: bool,
    /// The structure may be read in another way.
    pub structure: bool,
}

impl Oddities {
    /// Both together.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            padding_inside: self.padding_inside || other.padding_inside,
            url_alphabet: self.url_alphabet || other.url_alphabet,
            bad_escape: self.bad_escape || other.bad_escape,
            trailing_blanks: self.trailing_blanks || other.trailing_blanks,
            structure: self.structure || other.structure,
        }
    }
}

/// One transfer encoding being undone.
#[derive(Debug)]
pub(crate) enum Decoder {
    Identity,
    Base64(Base64),
    QuotedPrintable(QuotedPrintable),
    /// The lines of a uuencoded file, with `begin` or without.
    Uu(uu::Scanner),
}

impl Decoder {
    /// A piece of a line, without its end.
    pub(crate) fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Identity => out.extend_from_slice(text),
            Self::Base64(base64) => base64.text(text, out),
            Self::QuotedPrintable(printable) => printable.text(text, out),
            Self::Uu(scanner) => scanner.text(text),
        }
    }

    /// The end of a line: CRLF, LF or CR.
    pub(crate) fn end_of_line(&mut self, end: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Identity => out.extend_from_slice(end),
            Self::Base64(base64) => base64.end_of_line(),
            Self::QuotedPrintable(printable) => printable.end_of_line(end, out),
            Self::Uu(scanner) => drop(scanner.end_of_line(out)),
        }
    }

    /// Nothing follows.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Oddities {
        match self {
            Self::Identity => Oddities::default(),
            Self::Base64(base64) => base64.finish(out),
            Self::QuotedPrintable(printable) => printable.finish(out),
            Self::Uu(scanner) => {
                scanner.end_of_line(out);
                Oddities::default()
            }
        }
    }

    /// Whether every reader decodes what came so far to the same bytes.
    pub(crate) fn is_clean(&self) -> bool {
        matches!(self, Self::Base64(base64) if base64.is_clean())
    }

    pub(crate) fn is_identity(&self) -> bool {
        matches!(self, Self::Identity)
    }
}

/// The value of a hexadecimal digit, either case.
pub(crate) fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
