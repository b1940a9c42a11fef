//! Finds OpenPGP messages in armour (RFC 9580 section 6.2) in lines of text, and tells by the first
//! packet whether they are encrypted. Others (packed, or signed alone) everybody can read: those are
//! handed on as they stand, to be taken apart like any other file.
//!
//! Does no IO; entry: [`Scanner`].

use super::base64::base64;

/// The line before a message.
pub(crate) const PGP_MESSAGE: &[u8] = b"-----BEGIN PGP MESSAGE-----";
/// The line behind it.
const PGP_MESSAGE_END: &[u8] = b"-----END PGP MESSAGE-----";
/// Most bytes of fields between that and the message.
const FIELDS_BYTES_MAX: usize = 8 * 1024;
/// Letters that hold the first byte.
const LETTERS: usize = 4;
/// Types of packet that a readable message starts with: signatures, packed and literal data, a marker.
const READABLE_TAGS: [u8; 5] = [2, 4, 8, 10, 11];

/// What a line meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing of a message, or nothing new.
    None,
    /// An encrypted message, or one that cannot be told from it.
    Encrypted,
    /// A readable message starts; its lines are put out from now on.
    Begin,
    /// More of it was put out.
    Data,
    /// It has ended.
    End,
}

/// Takes the pieces of lines.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    state: State,
    /// The piece belongs to the line that ends the message.
    ending: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// Behind the first line: what there is so far.
    Fields(Vec<u8>),
    Open,
}

impl Scanner {
    /// A piece of a line. `first` where the line starts, `last` where it ends with this piece.
    pub(crate) fn piece(
        &mut self,
        text: &[u8],
        first: bool,
        last: bool,
        out: &mut Vec<u8>,
    ) -> Step {
        let line_end: &[u8] = if last { b"\n" } else { b"" };
        let begins = first && text.starts_with(PGP_MESSAGE);
        match &mut self.state {
            State::Idle if begins => {
                self.state = State::Fields([text, line_end].concat());
                Step::None
            }
            State::Idle => Step::None,
            State::Fields(held) => {
                let is_field = text.contains(&b':') || text.trim_ascii().is_empty() || !first;
                held.extend([text, line_end].concat());
                if is_field && held.len() <= FIELDS_BYTES_MAX {
                    return Step::None;
                }
                let held = std::mem::take(held);
                let is_readable = begins_readable(text);
                self.state = if is_readable { State::Open } else { State::Idle };
                if !is_readable {
                    return Step::Encrypted;
                }
                out.extend(held);
                Step::Begin
            }
            State::Open => {
                out.extend([text, line_end].concat());
                self.ending |= first && text.starts_with(PGP_MESSAGE_END);
                if last && std::mem::take(&mut self.ending) {
                    self.state = State::Idle;
                    return Step::End;
                }
                Step::Data
            }
        }
    }

    /// The text has ended.
    pub(crate) fn finish(&mut self) -> Step {
        match std::mem::take(&mut self.state) {
            State::Idle => Step::None,
            State::Fields(_) => Step::Encrypted,
            State::Open => Step::End,
        }
    }
}

/// Whether the first line behind the fields begins with a packet that needs no key.
fn begins_readable(line: &[u8]) -> bool {
    let letters = line.trim_ascii();
    let first = base64(letters.get(..LETTERS).unwrap_or(letters));
    let tag = match first.first() {
        Some(first @ 0xc0..=0xff) => first & 0x3f,
        Some(first @ 0x80..=0xbf) => first >> 2 & 0xf,
        _ => return false,
    };
    READABLE_TAGS.contains(&tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(text: &str) -> (Vec<Step>, String) {
        let mut scanner = Scanner::default();
        let (mut steps, mut out) = (Vec::new(), Vec::new());
        for line in text.lines() {
            steps.push(scanner.piece(line.as_bytes(), true, true, &mut out));
        }
        steps.push(scanner.finish());
        steps.retain(|step| !matches!(step, Step::None | Step::Data));
        (steps, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_first_packet_tells() {
        let message =
            |letters| format!("-----BEGIN PGP MESSAGE-----\nVersion: x\n\n{letters}\nAAAA\n");
        assert_eq!(run(&message("hQEM")).0, [Step::Encrypted]);
        assert_eq!(run(&message("....")).0, [Step::Encrypted]);
        assert_eq!(run("-----BEGIN PGP MESSAGE-----\n").0, [Step::Encrypted]);
        let packed = message("owFC") + "-----END PGP MESSAGE-----\n";
        assert_eq!(run(&format!("x\n{packed}y\n")), (vec![Step::Begin, Step::End], packed));
        assert_eq!(run(&message("owFC")).0, [Step::Begin, Step::End]);
        assert_eq!(run("> -----BEGIN PGP MESSAGE-----\nowFC\n").0, []);
    }

    #[test]
    fn fields_without_end_are_not_waited_for() {
        let fields = "a: b\n".repeat(FIELDS_BYTES_MAX / 5 + 1);
        let text = format!("-----BEGIN PGP MESSAGE-----\n{fields}\nowFC\n");
        assert_eq!(run(&text).0, [Step::Encrypted]);
    }

    proptest! {
        #[test]
        fn arbitrary_lines(lines: Vec<(Vec<u8>, bool, bool)>) {
            let mut scanner = Scanner::default();
            let mut out = Vec::new();
            scanner.piece(PGP_MESSAGE, true, true, &mut out);
            for (line, first, last) in &lines {
                scanner.piece(line, *first, *last, &mut out);
            }
            scanner.finish();
            let most = lines.iter().map(|line| line.0.len() + 1).sum::<usize>();
            prop_assert!(out.len() <= most + PGP_MESSAGE.len() + 1);
        }
    }
}
