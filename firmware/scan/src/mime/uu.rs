//! Finds uuencoded and xxencoded files in lines of text and decodes them: the two differ in their
//! letters alone.
//!
//! Mail programs decode `begin 644 name` wherever it stands in a text, so the walk looks at every raw
//! line and at decoded text, whatever the structure says. Does no IO; entry: [`Scanner`].

/// Longest line of a uuencoded file that is looked at, bytes: a length letter, 63 bytes in groups of
/// four, and room for a checksum letter and blanks that were added on the way.
const LINE_BYTES_MAX: usize = 128;

/// Longest file name that is kept, bytes.
const NAME_BYTES_MAX: usize = 1024;

/// What a line meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing of a uuencoded file.
    None,
    /// A file of this name starts; a file that was open has ended.
    Begin(String),
    /// The same, and its first bytes were put out; a file that was open has ended before.
    BeginWith(String),
    /// Bytes were put out.
    Data,
    /// The open file has ended.
    End,
}

/// Takes lines, says what they are. Lines may come in pieces.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    open: bool,
    line: Vec<u8>,
    overlong: bool,
    alphabet: Alphabet,
    /// Of an xxencoded file: its name, until its first data show that it is one.
    waiting: Option<String>,
}

/// The letters of data.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    #[default]
    Uu,
    Xx,
}

impl Scanner {
    /// For xxencoded files, of which only lines count that can be nothing else.
    pub(crate) fn xx() -> Self {
        Self { alphabet: Alphabet::Xx, ..Self::default() }
    }

    /// For text that is a file from the start.
    pub(crate) fn opened() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// A piece of a line, without its end.
    pub(crate) fn text(&mut self, text: &[u8]) {
        // Outside a file only lines that may start with `begin` are kept.
        if self.overlong {
            return;
        }
        if !self.open && self.line.is_empty() && text.first().is_some_and(|&c| c | 0x20 != b'b') {
            self.overlong = true;
            return;
        }
        let limit = if self.open { LINE_BYTES_MAX } else { NAME_BYTES_MAX };
        if self.line.len() + text.len() > limit {
            self.overlong = true;
        } else {
            self.line.extend_from_slice(text);
        }
    }

    /// The line ends: what it was. Decoded bytes are added to `out`.
    pub(crate) fn end_of_line(&mut self, out: &mut Vec<u8>) -> Step {
        let overlong = std::mem::take(&mut self.overlong);
        let mut line = std::mem::take(&mut self.line);
        let step = if overlong { self.junk() } else { self.line(&line, out) };
        line.clear();
        self.line = line;
        step
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step {
        if let Some(name) = begin(line) {
            self.open = true;
            if self.alphabet == Alphabet::Xx {
                self.waiting = Some(name);
                return Step::End;
            }
            return Step::Begin(name);
        }
        if !self.open {
            return Step::None;
        }
        let trimmed = line.trim_ascii_end();
        if trimmed.eq_ignore_ascii_case(b"end") {
            self.open = false;
            return Step::End;
        }
        if self.alphabet == Alphabet::Xx {
            return self.xx_line(trimmed, out);
        }
        if trimmed.is_empty() || trimmed == b"`" {
            // A line of no bytes; `end` follows, or blank lines somebody put in.
            return Step::Data;
        }
        decode(line, out).map_or_else(|| self.junk(), |()| Step::Data)
    }

    /// A line of an xxencoded file, which starts with the first of these.
    fn xx_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step {
        if !is_xx(line) {
            return self.junk();
        }
        let uu: Vec<u8> = line.iter().filter_map(|letter| xx_value(*letter)).map(letter).collect();
        if decode(&uu, out).is_none() {
            return self.junk();
        }
        self.waiting.take().map_or(Step::Data, Step::BeginWith)
    }

    /// A line that cannot be data: clients give the file up here or skip the line. What was decoded
    /// stands, and going on with the rest costs nothing.
    fn junk(&self) -> Step {
        if self.open { Step::Data } else { Step::None }
    }
}

/// The file name of a `begin` line. The mode is digits, but `begin-base64` is not ours.
fn begin(line: &[u8]) -> Option<String> {
    let (word, rest) = line.split_at_checked(5)?;
    if !word.eq_ignore_ascii_case(b"begin") || !rest.first()?.is_ascii_whitespace() {
        return None;
    }
    let rest = rest.trim_ascii();
    let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
    let (mode, name) = rest.split_at(digits);
    if mode.is_empty() || mode.len() > 6 {
        return None;
    }
    Some(String::from_utf8_lossy(name.trim_ascii()).into_owned())
}

/// One line of data. Trailing blanks may have been lost: what is missing counts as zero.
fn decode(line: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (&length, groups) = line.split_first()?;
    let length = usize::from(value(length)?);
    let needed = length.div_ceil(3) * 4;
    let letters = groups.get(..needed.min(groups.len()))?;
    let start = out.len();
    for group in letters.chunks(4) {
        let mut word: u32 = 0;
        for at in 0..4 {
            let letter = group.get(at).copied().unwrap_or(b' ');
            let Some(bits) = value(letter) else {
                out.truncate(start);
                return None;
            };
            word = word << 6 | u32::from(bits);
        }
        let [_, a, b, c] = word.to_be_bytes();
        out.extend_from_slice(&[a, b, c]);
    }
    out.resize(start + length, 0);
    Some(())
}

fn value(letter: u8) -> Option<u8> {
    matches!(letter, b' '..=b'`').then(|| (letter - b' ') & 63)
}

/// The letter of uuencoding for a value.
fn letter(value: u8) -> u8 {
    (value & 63) + b' '
}

/// What a letter of xxencoding stands for.
fn xx_value(letter: u8) -> Option<u8> {
    match letter {
        b'+' => Some(0),
        b'-' => Some(1),
        b'0'..=b'9' => Some(letter - b'0' + 2),
        b'A'..=b'Z' => Some(letter - b'A' + 12),
        b'a'..=b'z' => Some(letter - b'a' + 38),
        _ => None,
    }
}

/// Whether a line is one of xxencoded data: it has as many letters as its first says, or one more.
fn is_xx(line: &[u8]) -> bool {
    let Some((&first, letters)) = line.split_first() else { return false };
    let Some(length) = xx_value(first).filter(|length| *length > 0) else { return false };
    let needed = usize::from(length).div_ceil(3) * 4;
    (needed..=needed + 1).contains(&letters.len())
        && letters.iter().all(|letter| xx_value(*letter).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(lines: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let mut scanner = Scanner::default();
        let (mut names, mut out) = (Vec::new(), Vec::new());
        for line in lines {
            scanner.text(line);
            if let Step::Begin(name) = scanner.end_of_line(&mut out) {
                names.push(name);
            }
        }
        (names, out)
    }

    fn encode(bytes: &[u8], backtick: bool) -> Vec<Vec<u8>> {
        let letter = |bits: u32| match (bits & 63).to_be_bytes()[3] {
            0 if backtick => b'`',
            bits => bits + b' ',
        };
        let mut lines = vec![b"begin 644 a b.bin".to_vec()];
        for group in bytes.chunks(45) {
            let mut line = vec![letter(u32::try_from(group.len()).unwrap())];
            for three in group.chunks(3) {
                let mut word = [0; 4];
                word[1..=three.len()].copy_from_slice(three);
                let word = u32::from_be_bytes(word);
                line.extend([18, 12, 6, 0].map(|shift| letter(word >> shift)));
            }
            if !backtick {
                line.truncate(line.trim_ascii_end().len());
            }
            lines.push(line);
        }
        lines.push(b"`".to_vec());
        lines.push(b"end".to_vec());
        lines
    }

    #[test]
    fn a_file_in_text() {
        let (names, out) = run(&[b"Hello", b"begin 644 cat.txt", b"#0V%T", b"`", b"end", b"#0V%T"]);
        assert_eq!((names, out), (vec!["cat.txt".to_owned()], b"Cat".to_vec()));
    }

    #[test]
    fn xxencoded_files_are_told_by_their_letters() {
        let run_xx = |lines: &[&[u8]]| {
            let mut scanner = Scanner::xx();
            let (mut names, mut out) = (Vec::new(), Vec::new());
            for line in lines {
                scanner.text(line);
                if let Step::BeginWith(name) = scanner.end_of_line(&mut out) {
                    names.push(name);
                }
            }
            (names, out)
        };
        let lines: [&[u8]; 5] = [b"begin 644 cat.txt", b"1Eq3o", b"+", b"end", b"1Eq3o"];
        assert_eq!(run_xx(&lines), (vec!["cat.txt".to_owned()], b"Cat".to_vec()));
        let uu: [&[u8]; 4] = [b"begin 644 cat.txt", b"#0V%T", b"`", b"end"];
        assert_eq!(run_xx(&uu), (Vec::new(), Vec::new()));
    }

    #[test]
    fn prose_is_no_file() {
        assert_eq!(run(&[b"begin with the end", b"#0V%T", b"beginning 644 x"]).0.len(), 0);
    }

    #[test]
    fn junk_inside_does_not_end_a_file() {
        let (_, out) = run(&[b"begin 644 c", b"#0V%T", b"#0\xff", &[b'M'; 9999], b"#0V%T", b"end"]);
        assert_eq!(out, b"CatCat");
    }

    proptest! {
        #[test]
        fn round_trip(bytes: Vec<u8>, backtick: bool) {
            let lines = encode(&bytes, backtick);
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            let (names, out) = run(&lines);
            prop_assert_eq!(names, vec!["a b.bin".to_owned()]);
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn arbitrary_lines(lines: Vec<Vec<u8>>) {
            let mut all: Vec<&[u8]> = vec![b"begin 644 x"];
            all.extend(lines.iter().map(Vec::as_slice));
            let (_, out) = run(&all);
            prop_assert!(out.len() <= 63 * all.len());
        }
    }
}
