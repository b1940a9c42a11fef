//! Decodes BinHex 4.0 files (RFC 1741, appendix A), wherever they stand in a text.
//!
//! Checksums are not looked at: clients take files with wrong ones. Does no IO; entry: [`Decoder`].

use super::params::trim;

/// What stands on the line before the file; case does not count.
const MARKER: &[u8] = b"(this file must be converted with binhex";
/// The byte that repeats the one before it.
const REPEAT: u8 = 0x90;
/// Bytes of the header without the name: its length, version, type, creator, flags, two lengths, checksum.
const HEADER_BYTES: usize = 1 + 1 + 4 + 4 + 2 + 4 + 4 + 2;
/// Bytes of a fork's checksum.
const CHECKSUM_BYTES: u32 = 2;

const SKIP: u8 = 0xff;

const fn alphabet() -> [u8; 256] {
    let letters = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr";
    let mut table = [SKIP; 256];
    let mut value: u8 = 0;
    while value < 64 {
        table[letters[value as usize] as usize] = value;
        value += 1;
    }
    table
}

static ALPHABET: [u8; 256] = alphabet();

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A fork of the file of this name starts.
    Begin(String),
    /// More of it.
    Data(Vec<u8>),
    /// It has ended.
    End,
}

/// Takes the pieces of lines.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    state: State,
    /// The line starts with the marker.
    marked: bool,
    items: Vec<Item>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// The next line with a colon at its start starts the file.
    Ready,
    Open(File),
}

impl Decoder {
    /// For text that is a file, with the marker or without.
    pub(crate) fn opened() -> Self {
        Self { state: State::Ready, ..Self::default() }
    }

    /// Whether lines matter that do not start with `(`.
    pub(crate) fn is_awake(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// A piece of a line. `first` where the line starts, `last` where it ends with this piece.
    pub(crate) fn piece(&mut self, text: &[u8], first: bool, last: bool) -> Vec<Item> {
        if first {
            let start = trim(text).get(..MARKER.len());
            self.marked = start.is_some_and(|start| start.eq_ignore_ascii_case(MARKER));
        }
        if self.marked {
            if last {
                self.end();
                self.state = State::Ready;
                self.marked = false;
            }
        } else if let State::Open(file) = &mut self.state {
            if file.text(text, &mut self.items) {
                self.end();
            }
        } else if let (State::Ready, true, [b':', rest @ ..]) = (&self.state, first, trim(text)) {
            let mut file = File::default();
            let ended = file.text(rest, &mut self.items);
            self.state = State::Open(file);
            if ended {
                self.end();
            }
        }
        std::mem::take(&mut self.items)
    }

    /// The text has ended.
    pub(crate) fn finish(&mut self) -> Vec<Item> {
        self.end();
        std::mem::take(&mut self.items)
    }

    fn end(&mut self) {
        if let State::Open(file) = std::mem::take(&mut self.state)
            && file.in_fork
        {
            self.items.push(Item::End);
        }
    }
}

/// A file being decoded: letters, then bytes without repetition, then forks.
#[derive(Debug, Default)]
struct File {
    bits: u32,
    letters: u8,
    previous: u8,
    repeats: bool,
    header: Vec<u8>,
    part: Part,
    /// Bytes until the part changes.
    left: u32,
    in_fork: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Header,
    Data,
    DataChecksum,
    Resource,
    Rest,
}

impl File {
    /// Whether the file ends in this text.
    fn text(&mut self, text: &[u8], items: &mut Vec<Item>) -> bool {
        for &letter in text {
            if letter == b':' {
                return true;
            }
            let value = ALPHABET[usize::from(letter)];
            if value == SKIP {
                continue;
            }
            self.bits = (self.bits << 6 | u32::from(value)) & 0xff_ffff;
            self.letters = (self.letters + 1) % 4;
            let [_, high, middle, low] = self.bits.to_be_bytes();
            match self.letters {
                // 12, 18 and 24 bits: the second, third and fourth letter each complete a byte.
                2 => self.coded((u16::from_be_bytes([middle, low]) >> 4).to_be_bytes()[1], items),
                3 => self.coded(
                    (u32::from_be_bytes([0, high, middle, low]) >> 2).to_be_bytes()[3],
                    items,
                ),
                0 => self.coded(low, items),
                _ => {}
            }
        }
        false
    }

    /// A byte that may stand for a repetition.
    fn coded(&mut self, byte: u8, items: &mut Vec<Item>) {
        if std::mem::take(&mut self.repeats) {
            match byte {
                0 => {
                    self.previous = REPEAT;
                    self.bytes(REPEAT, 1, items);
                }
                count => self.bytes(self.previous, u32::from(count) - 1, items),
            }
        } else if byte == REPEAT {
            self.repeats = true;
        } else {
            self.previous = byte;
            self.bytes(byte, 1, items);
        }
    }

    fn bytes(&mut self, byte: u8, count: u32, items: &mut Vec<Item>) {
        for _ in 0..count {
            self.byte(byte, items);
        }
    }

    fn byte(&mut self, byte: u8, items: &mut Vec<Item>) {
        match self.part {
            Part::Header => {
                self.header.push(byte);
                let name = self.header.first().map_or(0, |&length| usize::from(length));
                if self.header.len() == HEADER_BYTES + name {
                    self.enter(Part::Data, self.length(name, 0), items);
                }
            }
            Part::Data | Part::Resource => {
                match items.last_mut() {
                    Some(Item::Data(bytes)) => bytes.push(byte),
                    _ => items.push(Item::Data(vec![byte])),
                }
                self.left -= 1;
                self.leave(items);
            }
            Part::DataChecksum => {
                self.left -= 1;
                self.leave(items);
            }
            Part::Rest => {}
        }
    }

    /// Length of the data fork (0) or the resource fork (1), as the header says.
    fn length(&self, name: usize, fork: usize) -> u32 {
        let lengths = self.header.get(name + 12..).unwrap_or_default();
        let lengths = lengths.as_chunks::<4>().0;
        lengths.get(fork).map_or(0, |&length| u32::from_be_bytes(length))
    }

    fn enter(&mut self, part: Part, left: u32, items: &mut Vec<Item>) {
        (self.part, self.left) = (part, left);
        if left > 0 && matches!(part, Part::Data | Part::Resource) {
            let name = self.header.first().map_or(0, |&length| usize::from(length));
            let name = self.header.get(1..=name).unwrap_or_default();
            items.push(Item::Begin(String::from_utf8_lossy(name).into_owned()));
            self.in_fork = true;
        }
        self.leave(items);
    }

    /// On to the next part where nothing is left of this one.
    fn leave(&mut self, items: &mut Vec<Item>) {
        if self.left > 0 {
            return;
        }
        if std::mem::take(&mut self.in_fork) {
            items.push(Item::End);
        }
        let name = self.header.first().map_or(0, |&length| usize::from(length));
        match self.part {
            Part::Data => self.enter(Part::DataChecksum, CHECKSUM_BYTES, items),
            Part::DataChecksum => self.enter(Part::Resource, self.length(name, 1), items),
            Part::Resource => self.part = Part::Rest,
            Part::Header | Part::Rest => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file in lines of 64 letters, without the marker.
    pub(crate) fn encode(name: &str, data: &[u8], resource: &[u8]) -> String {
        let mut bytes = vec![u8::try_from(name.len()).unwrap()];
        bytes.extend(name.bytes());
        bytes.extend(b"\0TEXTttxt\0\0");
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(u32::try_from(resource.len()).unwrap().to_be_bytes());
        bytes.extend(b"\0\0");
        bytes.extend([data, b"\0\0", resource, b"\0\0"].concat());
        let mut coded = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some(&byte) = rest.first() {
            let run = rest.iter().take(255).take_while(|&&other| other == byte).count();
            coded.push(byte);
            if byte == REPEAT {
                coded.push(0);
            }
            if run > 3 {
                coded.extend([REPEAT, u8::try_from(run).unwrap()]);
            }
            rest = &rest[if run > 3 { run } else { 1 }..];
        }
        let mut text = ":".to_owned();
        for group in coded.chunks(3) {
            let mut word = [0; 4];
            word[1..=group.len()].copy_from_slice(group);
            let word = u32::from_be_bytes(word);
            for at in 0..=group.len() {
                let value = (word >> (18 - 6 * at) & 63) as u8;
                let letter = ALPHABET.iter().position(|&v| v == value).unwrap();
                text.push(char::from(u8::try_from(letter).unwrap()));
                if text.len() % 65 == 64 {
                    text.push('\n');
                }
            }
        }
        text + ":"
    }

    fn decode(mut decoder: Decoder, text: &str, piece: usize) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut add = |more: Vec<Item>| {
            for item in more {
                match (items.last_mut(), item) {
                    (Some(Item::Data(bytes)), Item::Data(more)) => bytes.extend(more),
                    (_, item) => items.push(item),
                }
            }
        };
        for line in text.split('\n') {
            let pieces: Vec<&[u8]> = line.as_bytes().chunks(piece).collect();
            for (at, text) in pieces.iter().enumerate() {
                add(decoder.piece(text, at == 0, at + 1 == pieces.len()));
            }
        }
        add(decoder.finish());
        items
    }

    #[test]
    fn both_forks_come_out() {
        let text = format!(
            "Hello\n(This file must be converted with BinHex 4.0)\n\n{}\nbye\n",
            encode("a.zip", b"data\x90\x90fork aaaaaaaaaaaaaaaa", b"resource")
        );
        let wanted = [
            Item::Begin("a.zip".to_owned()),
            Item::Data(b"data\x90\x90fork aaaaaaaaaaaaaaaa".to_vec()),
            Item::End,
            Item::Begin("a.zip".to_owned()),
            Item::Data(b"resource".to_vec()),
            Item::End,
        ];
        assert_eq!(decode(Decoder::default(), &text, 8192), wanted);
    }

    #[test]
    fn without_the_marker_it_must_be_announced() {
        let text = encode("a", b"x", b"");
        assert_eq!(decode(Decoder::default(), &text, 100), []);
        assert_eq!(decode(Decoder::opened(), &text, 100)[1], Item::Data(b"x".to_vec()));
    }

    #[test]
    fn lengths_that_lie_end_with_the_text() {
        let data: Vec<u8> = (0..=200).collect();
        let text = encode("a", &data, b"");
        let cut = &text[..text.len() - 20];
        let items = decode(Decoder::opened(), cut, 100);
        assert!(matches!(&items[1], Item::Data(bytes) if bytes.starts_with(&data[..180])));
        assert_eq!(items[2], Item::End);
    }

    proptest! {
        #[test]
        fn round_trip(
            data in proptest::collection::vec(prop_oneof![Just(REPEAT), Just(0), any::<u8>()], 1..300),
            resource: Vec<u8>,
            run in 0_usize..600,
            // The first piece must show what kind of line it is, as pieces of 8 KiB do.
            piece in 50_usize..70,
        ) {
            let data = [data, vec![9; run]].concat();
            let text = encode("a b", &data, &resource);
            let marker = "(This file must be converted with BinHex 4.0)\n";
            let items = decode(Decoder::default(), &format!("{marker}{text}"), piece);
            prop_assert_eq!(&items[1], &Item::Data(data));
            if resource.is_empty() {
                prop_assert_eq!(items.len(), 3);
            } else {
                prop_assert_eq!(&items[4], &Item::Data(resource));
            }
        }

        #[test]
        fn arbitrary_lines(lines: Vec<Vec<u8>>, text in "[:!-r]{0,200}") {
            let mut decoder = Decoder::opened();
            decoder.piece(b":", true, true);
            for line in &lines {
                decoder.piece(line, true, true);
            }
            decode(Decoder::opened(), &format!(":{text}"), 60);
        }
    }
}
