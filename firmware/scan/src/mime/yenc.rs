//! Decodes yEnc files (`=ybegin`), which some mail programs show as attachments.
//!
//! Does no IO; entry: [`Decoder`]. <http://www.yenc.org/yenc-draft.1.3.txt>

/// What every letter is moved by.
const SHIFT: u8 = 42;
/// What an escaped letter is moved by besides.
const ESCAPED_SHIFT: u8 = 64;
/// Longest `=y` line that is kept, bytes.
const CONTROL_BYTES_MAX: usize = 1024;

/// What a line meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing of a yEnc file.
    None,
    /// A file of this name starts.
    Begin(String),
    /// The open file has ended.
    End,
}

/// Takes the pieces of lines.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    open: bool,
    /// A line that starts with `=y`, so far.
    control: Option<Vec<u8>>,
    escaped: bool,
}

impl Decoder {
    /// A piece of a line. `first` where the line starts, `last` where it ends with this piece.
    pub(crate) fn piece(
        &mut self,
        text: &[u8],
        first: bool,
        last: bool,
        out: &mut Vec<u8>,
    ) -> Step {
        if first {
            self.escaped = false;
            self.control = text.starts_with(b"=y").then(Vec::new);
        }
        if let Some(line) = &mut self.control {
            let room = CONTROL_BYTES_MAX.saturating_sub(line.len());
            line.extend(text.iter().take(room));
        } else if self.open {
            for &byte in text {
                if std::mem::take(&mut self.escaped) {
                    out.push(byte.wrapping_sub(ESCAPED_SHIFT).wrapping_sub(SHIFT));
                } else if byte == b'=' {
                    self.escaped = true;
                } else {
                    out.push(byte.wrapping_sub(SHIFT));
                }
            }
        }
        match self.control.take_if(|_| last) {
            Some(line) => self.control_line(&line),
            None => Step::None,
        }
    }

    fn control_line(&mut self, line: &[u8]) -> Step {
        if let Some(rest) = line.strip_prefix(b"=ybegin ") {
            self.open = true;
            let rest = String::from_utf8_lossy(rest);
            let name = rest.split_once("name=").map_or("", |(_, name)| name.trim());
            return Step::Begin(name.to_owned());
        }
        if line.starts_with(b"=yend") && self.open {
            self.open = false;
            return Step::End;
        }
        Step::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(bytes: &[u8], width: usize) -> Vec<Vec<u8>> {
        let mut lines = vec![b"=ybegin line=128 size=1 name= a b.bin ".to_vec(), Vec::new()];
        for &byte in bytes {
            if lines.last().unwrap().len() >= width {
                lines.push(Vec::new());
            }
            let line = lines.last_mut().unwrap();
            let letter = byte.wrapping_add(SHIFT);
            if matches!(letter, 0 | b'\n' | b'\r' | b'=') {
                line.extend([b'=', letter.wrapping_add(ESCAPED_SHIFT)]);
            } else {
                line.push(letter);
            }
        }
        lines.push(b"=yend size=1".to_vec());
        lines
    }

    proptest! {
        #[test]
        fn round_trip(bytes: Vec<u8>, width in 1_usize..200, piece in 1_usize..20) {
            let mut decoder = Decoder::default();
            let (mut out, mut steps) = (Vec::new(), Vec::new());
            for line in encode(&bytes, width) {
                // The first piece must show what kind of line it is, as pieces of 8 KiB do.
                let piece = piece.max(if line.starts_with(b"=y") { 2 } else { 1 });
                let pieces: Vec<&[u8]> = line.chunks(piece).collect();
                for (at, text) in pieces.iter().enumerate() {
                    let last = at + 1 == pieces.len();
                    let step = decoder.piece(text, at == 0, last, &mut out);
                    if step != Step::None {
                        steps.push(step);
                    }
                }
            }
            prop_assert_eq!(out, bytes);
            prop_assert_eq!(steps, vec![Step::Begin("a b.bin".to_owned()), Step::End]);
        }

        #[test]
        fn arbitrary_lines(lines: Vec<Vec<u8>>) {
            let mut decoder = Decoder::default();
            let mut out = Vec::new();
            decoder.piece(b"=ybegin x", true, true, &mut out);
            for line in &lines {
                decoder.piece(line, true, true, &mut out);
            }
            prop_assert!(out.len() <= lines.iter().map(Vec::len).sum());
        }
    }
}
