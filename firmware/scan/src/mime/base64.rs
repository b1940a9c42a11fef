//! Base64 (RFC 2045 section 6.8), in every dialect.

use super::decode::{Dialect, Oddities};

/// Longest encoded line, characters.
const LINE_CHARS_MAX: usize = 76;

/// Base64 being undone.
#[derive(Debug, Default)]
pub(crate) struct Base64 {
    dialect: Dialect,
    quantum: u32,
    letters: u8,
    /// Padding in this quantum, where it fills quanta.
    fillers: u8,
    padded: bool,
    /// Of the line so far.
    line_is_empty: bool,
    blank_line: bool,
    unclean: bool,
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

/// Set in a word of which one character is no letter.
const NO_LETTER: u32 = 1 << 31;

/// The letters at one place of a quantum, moved to where they belong in its 24 bits.
const fn place(shift: u32) -> [u32; 256] {
    let mut table = [NO_LETTER; 256];
    let letters = alphabet();
    let mut at = 0;
    while at < 256 {
        if letters[at] < 64 {
            table[at] = (letters[at] as u32) << shift;
        }
        at += 1;
    }
    table
}

static PLACES: [[u32; 256]; 4] = [place(18), place(12), place(6), place(0)];

impl Base64 {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, line_is_empty: true, ..Self::default() }
    }

    /// Whether all lines so far are as the RFC has them: nothing but letters in whole quanta, padding at
    /// the end alone. Every reader agrees on those.
    pub(crate) fn is_clean(&self) -> bool {
        !self.unclean
    }

    pub(crate) fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        self.line_is_empty = false;
        self.unclean |= self.padded || self.blank_line || text.len() > LINE_CHARS_MAX;
        let text = self.whole_quanta(text, out);
        if text.is_empty() {
            return;
        }
        self.unclean |= self.letters > 0 || !is_padded_quantum(text);
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

    pub(crate) fn end_of_line(&mut self) {
        self.blank_line |= std::mem::replace(&mut self.line_is_empty, true);
    }

    /// The usual case in one go: quanta without anything odd. Gives the rest.
    fn whole_quanta<'a>(&self, text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        if self.letters + self.fillers > 0 || self.padded {
            return text;
        }
        let start = out.len();
        out.resize(start + text.len() / 4 * 3, 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let [first, second, third, fourth] = &PLACES;
        let mut done = 0;
        let (quanta, _) = text.as_chunks::<4>();
        for (&[a, b, c, d], to) in quanta.iter().zip(room.as_chunks_mut::<3>().0) {
            let word = first[usize::from(a)]
                | second[usize::from(b)]
                | third[usize::from(c)]
                | fourth[usize::from(d)];
            if word & NO_LETTER != 0 {
                break;
            }
            let [_, bytes @ ..] = word.to_be_bytes();
            *to = bytes;
            done += 1;
        }
        out.truncate(start + done * 3);
        text.get(done * 4..).unwrap_or_default()
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

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Oddities {
        self.flush(out);
        self.oddities
    }
}

/// The last quantum, with its padding.
fn is_padded_quantum(text: &[u8]) -> bool {
    let letter = |byte: u8| ALPHABET[usize::from(byte)] < 64;
    match *text {
        [a, b, b'=', b'='] => letter(a) && letter(b),
        [a, b, c, b'='] => letter(a) && letter(b) && letter(c),
        _ => false,
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

    fn decode(dialect: Dialect, lines: &[&[u8]]) -> (Vec<u8>, Oddities, bool) {
        let mut decoder = Base64::new(dialect);
        let mut out = Vec::new();
        for line in lines {
            decoder.text(line, &mut out);
            decoder.end_of_line();
        }
        let oddities = decoder.finish(&mut out);
        (out, oddities, decoder.is_clean())
    }

    fn usual(lines: &[&[u8]]) -> Vec<u8> {
        decode(Dialect::Usual, lines).0
    }

    #[test]
    fn skips_what_is_not_in_the_alphabet() {
        assert_eq!(usual(&[b"aG#Vs", b"bG \t\x0b8h\xff"]), b"hello!");
    }

    #[test]
    fn one_letter_a_line() {
        assert_eq!(usual(&[b"a", b"G", b"V", b"s", b"", b"b", b"G", b"8", b"="]), b"hello");
    }

    #[test]
    fn without_padding_the_last_bytes_are_kept() {
        assert_eq!(usual(&[b"aGVsbG8"]), b"hello");
        assert_eq!(usual(&[b"aGVsbA"]), b"hell");
        assert_eq!(usual(&[b"aGVsb"]), b"hel");
    }

    #[test]
    fn goes_on_behind_padding_and_says_so() {
        let (bytes, oddities, _) = decode(Dialect::Usual, &[b"aGVsbG8=", b"aGVsbG8="]);
        assert_eq!(bytes, b"hellohello");
        assert!(oddities.padding_inside);
        assert_eq!(decode(Dialect::PaddingIsJunk, &[b"aGV=sb=G8="]).0, b"hello");
    }

    #[test]
    fn padding_inside_in_other_dialects() {
        let zero = decode(Dialect::PaddingIsZero, &[b"UEsDBBQ=Ag=I"]).0;
        assert_eq!(zero, base64(b"UEsDBBQAAgAI"));
        let fills = decode(Dialect::PaddingFillsQuantum, &[b"UE=sAw=QFA=A"]).0;
        assert_eq!(fills, base64(b"UEsDBBQA"));
        assert_eq!(decode(Dialect::PaddingFillsQuantum, &[b"aGVsbG8="]).0, b"hello");
    }

    #[test]
    fn the_url_alphabet_is_seen_and_read_in_its_dialect() {
        let (bytes, oddities, _) = decode(Dialect::Usual, &[b"-_-_"]);
        assert_eq!((bytes.as_slice(), oddities.url_alphabet), (&b""[..], true));
        assert_eq!(decode(Dialect::UrlAlphabet, &[b"-_-_"]).0, base64(b"+/+/"));
    }

    #[test]
    fn clean_is_what_the_rfc_has() {
        let is_clean = |lines: &[&[u8]]| decode(Dialect::Usual, lines).2;
        let full = [b'Q'; LINE_CHARS_MAX];
        assert!(is_clean(&[&full, &full, b"aGVsbG8=", b"", b""]));
        assert!(is_clean(&[&full, b"QQ=="]) && is_clean(&[]) && is_clean(&[b""]));
        for lines in [
            &[&[b'Q'; LINE_CHARS_MAX + 4][..]][..],
            &[b"aGVsbG8"],
            &[b"aGVsbG8=", b"aGVsbG8="],
            &[b"aGVs", b"", b"aGVs"],
            &[b"", b"aGVs"],
            &[b"aGVs "],
            &[b" aGVs"],
            &[b"aG", b"Vs"],
            &[b"aGV#s"],
            &[b"aGV-"],
            &[b"Q==="],
            &[b"QQ=Q"],
        ] {
            assert!(!is_clean(lines), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(bytes: Vec<u8>, pad: bool, width in 1_usize..80) {
            let text = encode_base64(&bytes);
            let text = if pad { text.as_str() } else { text.trim_end_matches('=') };
            let lines: Vec<&[u8]> = text.as_bytes().chunks(width).collect();
            let (out, _, is_clean) = decode(Dialect::Usual, &lines);
            prop_assert_eq!(&out, &bytes);
            let regular = pad && width % 4 == 0 && width <= LINE_CHARS_MAX;
            prop_assert!(is_clean || !regular);
        }

        /// The quick way gives what one letter after the other gives.
        #[test]
        fn any_split_gives_the_same(
            text in "[A-D0+/=_#-]{0,60}",
            width in 1_usize..9,
            dialect in proptest::sample::select(vec![
                Dialect::Usual, Dialect::PaddingIsJunk, Dialect::PaddingIsZero,
                Dialect::PaddingFillsQuantum, Dialect::UrlAlphabet,
            ]),
        ) {
            let whole = decode(dialect, &[text.as_bytes()]);
            let split: Vec<&[u8]> = text.as_bytes().chunks(width).collect();
            let split = decode(dialect, &split);
            prop_assert_eq!((split.0, split.1), (whole.0, whole.1));
        }
    }
}
