//! Streaming decoders of the content transfer encodings: identity, base64, quoted-printable.
//!
//! They take the body line by line, ends of lines apart, and never fail: what is not in the alphabet
//! is read as lenient clients read it (RFC 2045 sections 6.7 and 6.8). Where clients differ so that one
//! reading is not the beginning of the other, the decoder says so ([`Oddities`]), and the walk is done
//! again in the other [`Dialect`].

use super::uu;

/// Longest run of blanks that quoted-printable holds back to see whether the line ends there, bytes.
const BLANK_RUN_BYTES_MAX: usize = 4096;

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
            Self::Base64(_) => {}
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

    pub(crate) fn is_identity(&self) -> bool {
        matches!(self, Self::Identity)
    }
}

/// RFC 2045 section 6.8.
#[derive(Debug, Default)]
pub(crate) struct Base64 {
    dialect: Dialect,
    quantum: u32,
    letters: u8,
    /// Padding in this quantum, where it fills quanta.
    fillers: u8,
    padded: bool,
    oddities: Oddities,
}

const SKIP: u8 = 0xff;
const PADDING: u8 = 0xfe;
const URL_62: u8 = 0xfd;
const URL_63: u8 = 0xfc;

const fn alphabet() -> [u8; 256] {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut table = [SKIP; 256];
    let mut value: u8 = 0;
    while value < 64 {
        table[letters[value as usize] as usize] = value;
        value += 1;
    }
    table[b'=' as usize] = PADDING;
    table[b'-' as usize] = URL_62;
    table[b'_' as usize] = URL_63;
    table
}

static ALPHABET: [u8; 256] = alphabet();

impl Base64 {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, ..Self::default() }
    }

    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        out.reserve(text.len() / 4 * 3 + 3);
        let text = self.whole_quanta(text, out);
        for &byte in text {
            match ALPHABET[usize::from(byte)] {
                SKIP => {}
                PADDING => self.padding(out),
                URL_62 => self.url_letter(62, out),
                URL_63 => self.url_letter(63, out),
                value => self.letter(value, out),
            }
        }
    }

    /// The usual case in one go: quanta without anything odd. Gives the rest.
    fn whole_quanta<'a>(&self, mut text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        if self.letters + self.fillers > 0 || self.padded {
            return text;
        }
        while let Some((quantum, rest)) = text.split_first_chunk::<4>() {
            let values = quantum.map(|byte| ALPHABET[usize::from(byte)]);
            if values.iter().any(|&value| value >= 64) {
                break;
            }
            let word = values.iter().fold(0_u32, |word, &value| word << 6 | u32::from(value));
            let [_, a, b, c] = word.to_be_bytes();
            out.extend_from_slice(&[a, b, c]);
            text = rest;
        }
        text
    }

    fn padding(&mut self, out: &mut Vec<u8>) {
        match self.dialect {
            Dialect::PaddingIsJunk => {}
            Dialect::PaddingIsZero => self.letter(0, out),
            Dialect::PaddingFillsQuantum => {
                self.fillers += 1;
                if self.letters + self.fillers >= 4 {
                    self.flush(out);
                }
            }
            _ => self.flush(out),
        }
        self.padded = true;
    }

    fn url_letter(&mut self, value: u8, out: &mut Vec<u8>) {
        self.oddities.url_alphabet = true;
        if self.dialect == Dialect::UrlAlphabet {
            self.letter(value, out);
        }
    }

    fn letter(&mut self, value: u8, out: &mut Vec<u8>) {
        if self.padded {
            self.oddities.padding_inside = true;
        }
        self.quantum = (self.quantum << 6) | u32::from(value);
        self.letters += 1;
        if self.letters == 4 {
            let [_, a, b, c] = self.quantum.to_be_bytes();
            out.extend_from_slice(&[a, b, c]);
            self.quantum = 0;
            self.letters = 0;
        } else if self.letters + self.fillers >= 4 {
            self.flush(out);
        }
    }

    /// What an unfinished quantum holds: 2 letters one byte, 3 letters two, 1 letter none.
    fn flush(&mut self, out: &mut Vec<u8>) {
        let [_, _, a, b] = self.quantum.to_be_bytes();
        match self.letters {
            2 => out.push(((u16::from_be_bytes([a, b]) >> 4) & 0xff).to_be_bytes()[1]),
            3 => {
                let [_, a, b, c] = (self.quantum >> 2).to_be_bytes();
                debug_assert_eq!(a, 0, "18 bits less 2 are 16");
                out.extend_from_slice(&[b, c]);
            }
            _ => {}
        }
        self.quantum = 0;
        self.letters = 0;
        self.fillers = 0;
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Oddities {
        self.flush(out);
        self.oddities
    }
}

/// RFC 2045 section 6.7.
#[derive(Debug, Default)]
pub(crate) struct QuotedPrintable {
    dialect: Dialect,
    oddities: Oddities,
    state: Escape,
    /// Blanks that are dropped if the line ends behind them.
    blanks: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// `=`, then perhaps blanks in [`QuotedPrintable::blanks`].
    Equals,
    /// `=` and the first digit, as it came and as its value.
    Digit(u8, u8),
}

impl QuotedPrintable {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, ..Self::default() }
    }

    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        for &byte in text {
            self.byte(byte, out);
        }
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        let blank = byte == b' ' || byte == b'\t';
        match self.state {
            Escape::Equals if blank => self.blank(byte, out),
            Escape::Equals if self.blanks.is_empty() && digit(byte).is_some() => {
                self.state = Escape::Digit(byte, digit(byte).unwrap_or(0));
            }
            Escape::Equals => {
                self.state = Escape::None;
                self.bad_escape(&[], out);
                self.plain(byte, blank, out);
            }
            Escape::Digit(first, high) => {
                self.state = Escape::None;
                if let Some(low) = digit(byte) {
                    out.push(high << 4 | low);
                } else {
                    self.bad_escape(&[first], out);
                    if self.dialect != Dialect::EscapeDroppedWhole {
                        self.plain(byte, blank, out);
                    }
                }
            }
            Escape::None => self.plain(byte, blank, out),
        }
    }

    /// `=` with this or blanks behind it, which is no escape.
    fn bad_escape(&mut self, text: &[u8], out: &mut Vec<u8>) {
        self.oddities.bad_escape = true;
        if matches!(self.dialect, Dialect::EscapeDropped | Dialect::EscapeDroppedWhole) {
            self.blanks.clear();
        } else {
            // Literal, as most clients show it.
            out.push(b'=');
            out.extend_from_slice(text);
            out.append(&mut self.blanks);
        }
    }

    fn plain(&mut self, byte: u8, blank: bool, out: &mut Vec<u8>) {
        if blank {
            self.blank(byte, out);
            return;
        }
        out.append(&mut self.blanks);
        if byte == b'=' {
            self.state = Escape::Equals;
        } else {
            out.push(byte);
        }
    }

    fn blank(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.blanks.len() >= BLANK_RUN_BYTES_MAX {
            if std::mem::take(&mut self.state) == Escape::Equals {
                self.bad_escape(&[], out);
            }
            out.append(&mut self.blanks);
        }
        self.blanks.push(byte);
    }

    fn end_of_line(&mut self, end: &[u8], out: &mut Vec<u8>) {
        self.blanks.clear();
        match std::mem::take(&mut self.state) {
            // A soft line break.
            Escape::Equals => return,
            Escape::Digit(first, _) => {
                self.bad_escape(&[first], out);
                if self.dialect != Dialect::Usual {
                    return;
                }
            }
            Escape::None => {}
        }
        out.extend_from_slice(end);
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Oddities {
        self.end_of_line(b"", out);
        self.oddities
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

/// All of `text` as base64.
pub(crate) fn base64(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut decoder = Base64::default();
    decoder.text(text, &mut out);
    decoder.finish(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::encode_base64;
    use proptest::prelude::*;

    fn decode(mut decoder: Decoder, lines: &[&[u8]]) -> (Vec<u8>, Oddities) {
        let mut out = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                decoder.end_of_line(b"\r\n", &mut out);
            }
            decoder.text(line, &mut out);
        }
        let oddities = decoder.finish(&mut out);
        (out, oddities)
    }

    fn base64_lines(lines: &[&[u8]]) -> Vec<u8> {
        decode(Decoder::Base64(Base64::default()), lines).0
    }

    fn printable(lines: &[&[u8]]) -> Vec<u8> {
        decode(Decoder::QuotedPrintable(QuotedPrintable::default()), lines).0
    }

    #[test]
    fn base64_skips_what_is_not_in_the_alphabet() {
        assert_eq!(base64_lines(&[b"aG#Vs", b"bG \t\x0b8h\xff"]), b"hello!");
    }

    #[test]
    fn base64_one_letter_a_line() {
        assert_eq!(base64_lines(&[b"a", b"G", b"V", b"s", b"", b"b", b"G", b"8", b"="]), b"hello");
    }

    #[test]
    fn base64_without_padding_keeps_the_last_bytes() {
        assert_eq!(base64_lines(&[b"aGVsbG8"]), b"hello");
        assert_eq!(base64_lines(&[b"aGVsbA"]), b"hell");
        assert_eq!(base64_lines(&[b"aGVsb"]), b"hel");
    }

    #[test]
    fn base64_goes_on_behind_padding_and_says_so() {
        let (bytes, oddities) =
            decode(Decoder::Base64(Base64::default()), &[b"aGVsbG8=", b"aGVsbG8="]);
        assert_eq!(bytes, b"hellohello");
        assert!(oddities.padding_inside);
        let junk = Decoder::Base64(Base64::new(Dialect::PaddingIsJunk));
        assert_eq!(decode(junk, &[b"aGV=sb=G8="]).0, b"hello");
    }

    #[test]
    fn base64_padding_inside_in_other_dialects() {
        let zero = Decoder::Base64(Base64::new(Dialect::PaddingIsZero));
        assert_eq!(decode(zero, &[b"UEsDBBQ=Ag=I"]).0, base64(b"UEsDBBQAAgAI"));
        let fills = Decoder::Base64(Base64::new(Dialect::PaddingFillsQuantum));
        assert_eq!(decode(fills, &[b"UE=sAw=QFA=A"]).0, base64(b"UEsDBBQA"));
        let fills = Decoder::Base64(Base64::new(Dialect::PaddingFillsQuantum));
        assert_eq!(decode(fills, &[b"aGVsbG8="]).0, b"hello");
    }

    #[test]
    fn printable_bad_escapes_in_other_dialects() {
        for (dialect, text) in [
            (Dialect::EscapeDropped, "=P=K==03"),
            (Dialect::EscapeDropped, "=0P=0K=0=03"),
            (Dialect::EscapeDropped, "= P=  K=\t=03"),
            (Dialect::EscapeDroppedWhole, "=0XP=0XK=0X=03"),
        ] {
            let decoder = Decoder::QuotedPrintable(QuotedPrintable::new(dialect));
            let (bytes, oddities) = decode(decoder, &[text.as_bytes()]);
            assert_eq!(bytes, b"PK\x03", "{text}");
            assert!(oddities.bad_escape, "{text}");
        }
    }

    #[test]
    fn base64_url_alphabet_is_seen_and_read_in_its_dialect() {
        let (bytes, oddities) = decode(Decoder::Base64(Base64::default()), &[b"-_-_"]);
        assert_eq!((bytes.as_slice(), oddities.url_alphabet), (&b""[..], true));
        let url = Decoder::Base64(Base64::new(Dialect::UrlAlphabet));
        assert_eq!(decode(url, &[b"-_-_"]).0, base64(b"+/+/"));
    }

    #[test]
    fn printable_takes_either_case_and_keeps_bad_escapes() {
        assert_eq!(printable(&[b"=4a=4A=XY=4", b"==41=G"]), b"JJ=XY=4\r\n=A=G");
    }

    #[test]
    fn printable_soft_breaks_may_have_blanks_behind_them() {
        assert_eq!(printable(&[b"a= \t ", b"b=", b"c  ", b"d ", b""]), b"abc\r\nd\r\n");
        assert_eq!(printable(&[b"a= b"]), b"a= b");
    }

    #[test]
    fn printable_bounds_a_run_of_blanks() {
        let run = vec![b' '; 3 * BLANK_RUN_BYTES_MAX + 7];
        let mut decoder = QuotedPrintable::default();
        let mut out = Vec::new();
        decoder.text(b"=", &mut out);
        decoder.text(&run, &mut out);
        assert!(decoder.blanks.len() <= BLANK_RUN_BYTES_MAX);
        decoder.text(b"x", &mut out);
        assert_eq!(out.len(), run.len() + 2);
    }

    proptest! {
        #[test]
        fn base64_round_trip(bytes: Vec<u8>, pad: bool, width in 1_usize..80) {
            let text = encode_base64(&bytes);
            let text = if pad { text.as_str() } else { text.trim_end_matches('=') };
            let lines: Vec<&[u8]> = text.as_bytes().chunks(width).collect();
            prop_assert_eq!(base64_lines(&lines), bytes);
        }

        #[test]
        fn printable_round_trip(bytes: Vec<u8>, width in 1_usize..30, lower: bool) {
            let mut lines = Vec::new();
            for group in bytes.chunks(width) {
                let mut line = String::new();
                for byte in group {
                    if lower {
                        line += &format!("={byte:02x}");
                    } else {
                        line += &format!("={byte:02X}");
                    }
                }
                lines.push(line + "=");
            }
            let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            prop_assert_eq!(printable(&lines), bytes);
        }
    }
}
