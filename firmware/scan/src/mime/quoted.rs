//! Quoted-printable (RFC 2045 section 6.7), in every dialect.

use memchr::memchr;

use super::decode::{Dialect, Oddities, digit};

/// Longest run of blanks that is held back to see whether the line ends there, bytes.
const BLANK_RUN_BYTES_MAX: usize = 4096;

/// Quoted-printable being undone.
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

    pub(crate) fn text(&mut self, mut text: &[u8], out: &mut Vec<u8>) {
        while let Some((&first, rest)) = text.split_first() {
            if self.state != Escape::None {
                self.byte(first, out);
                text = rest;
                continue;
            }
            let (run, escape) = text.split_at(memchr(b'=', text).unwrap_or(text.len()));
            self.run(run, out);
            text = escape;
            match *escape {
                [b'=', high, low, ref after @ ..]
                    if let (Some(high), Some(low)) = (digit(high), digit(low)) =>
                {
                    out.append(&mut self.blanks);
                    out.push(high << 4 | low);
                    text = after;
                }
                [byte, ref after @ ..] => {
                    self.byte(byte, out);
                    text = after;
                }
                [] => {}
            }
        }
    }

    /// Text without an escape.
    fn run(&mut self, run: &[u8], out: &mut Vec<u8>) {
        let blank = |&byte: &u8| byte == b' ' || byte == b'\t';
        let end = run.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
        let (text, blanks) = run.split_at(end);
        if !text.is_empty() {
            out.append(&mut self.blanks);
            out.extend_from_slice(text);
        }
        for &byte in blanks {
            self.blank(byte, out);
        }
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        let blank = byte == b' ' || byte == b'\t';
        match self.state {
            Escape::Equals if blank => self.blank(byte, out),
            Escape::Equals if self.blanks.is_empty() && digit(byte).is_some() => {
                self.state = Escape::Digit(byte, digit(byte).unwrap_or(0));
            }
            Escape::Equals if byte == b'=' && self.blanks.is_empty() && self.keeps_blanks() => {
                self.state = Escape::None;
                self.oddities.bad_escape = true;
                out.push(b'=');
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

    pub(crate) fn end_of_line(&mut self, end: &[u8], out: &mut Vec<u8>) {
        self.oddities.trailing_blanks |= !self.blanks.is_empty();
        match std::mem::take(&mut self.state) {
            Escape::Equals if self.keeps_blanks() && !self.blanks.is_empty() => out.push(b'='),
            // A soft line break.
            Escape::Equals => {
                self.blanks.clear();
                return;
            }
            Escape::Digit(first, _) => {
                self.bad_escape(&[first], out);
                if matches!(self.dialect, Dialect::EscapeDropped | Dialect::EscapeDroppedWhole) {
                    return;
                }
            }
            Escape::None => {}
        }
        if self.keeps_blanks() {
            out.append(&mut self.blanks);
        }
        self.blanks.clear();
        out.extend_from_slice(end);
    }

    fn keeps_blanks(&self) -> bool {
        self.dialect == Dialect::BlanksKept
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Oddities {
        self.end_of_line(b"", out);
        self.oddities
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(dialect: Dialect, lines: &[&[u8]]) -> (Vec<u8>, Oddities) {
        let mut decoder = QuotedPrintable::new(dialect);
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

    fn printable(lines: &[&[u8]]) -> Vec<u8> {
        decode(Dialect::Usual, lines).0
    }

    #[test]
    fn bad_escapes_in_other_dialects() {
        for (dialect, text) in [
            (Dialect::EscapeDropped, "=P=K==03"),
            (Dialect::EscapeDropped, "=0P=0K=0=03"),
            (Dialect::EscapeDropped, "= P=  K=\t=03"),
            (Dialect::EscapeDroppedWhole, "=0XP=0XK=0X=03"),
        ] {
            let (bytes, oddities) = decode(dialect, &[text.as_bytes()]);
            assert_eq!(bytes, b"PK\x03", "{text}");
            assert!(oddities.bad_escape, "{text}");
        }
    }

    #[test]
    fn takes_either_case_and_keeps_bad_escapes() {
        assert_eq!(printable(&[b"=4a=4A=XY=4", b"==41=G"]), b"JJ=XY=4\r\n=A=G");
    }

    #[test]
    fn soft_breaks_may_have_blanks_behind_them() {
        assert_eq!(printable(&[b"a= \t ", b"b=", b"c  ", b"d ", b""]), b"abc\r\nd\r\n");
        assert_eq!(printable(&[b"a= b"]), b"a= b");
    }

    #[test]
    fn blanks_at_the_end_are_kept_in_their_dialect() {
        let lines: &[&[u8]] = &[b"a \t", b"b= ", b"c=", b"==3D=X "];
        let (bytes, oddities) = decode(Dialect::BlanksKept, lines);
        assert_eq!(bytes, b"a \t\r\nb= \r\nc=3D=X ");
        assert!(oddities.trailing_blanks);
        assert_eq!(printable(lines), b"a\r\nbc===X");
        assert!(!decode(Dialect::Usual, &[b"a b=", b" c"]).1.trailing_blanks);
    }

    #[test]
    fn bounds_a_run_of_blanks() {
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
        fn round_trip(bytes: Vec<u8>, width in 1_usize..30, lower: bool) {
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

        /// The quick way gives what one byte after the other gives.
        #[test]
        fn any_split_gives_the_same(
            text in "[=0-2A-Cx \t]{0,40}",
            width in 1_usize..9,
            dialect in proptest::sample::select(vec![
                Dialect::Usual, Dialect::EscapeDropped, Dialect::EscapeDroppedWhole,
                Dialect::BlanksKept,
            ]),
        ) {
            let mut decoder = QuotedPrintable::new(dialect);
            let mut out = Vec::new();
            for piece in text.as_bytes().chunks(width) {
                decoder.text(piece, &mut out);
            }
            let oddities = decoder.finish(&mut out);
            prop_assert_eq!((out, oddities), decode(dialect, &[text.as_bytes()]));
        }
    }
}
