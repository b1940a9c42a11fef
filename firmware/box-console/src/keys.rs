//! Bytes of a terminal in, keys out.
//!
//! Takes whatever comes, in any chunks: what is no key is dropped, never kept for long, and Enter and
//! Ctrl-C are themselves in whatever rubbish they stand.

/// Longest escape sequence that is read, in bytes behind the escape; the rest of a longer one is dropped.
pub const SEQUENCE_BYTES_MAX: usize = 8;

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A printable character.
    Char(char),
    /// Return, or a line feed that does not follow one.
    Enter,
    /// Completion.
    Tab,
    /// Deletes before the cursor.
    Backspace,
    /// Deletes at the cursor.
    Delete,
    /// One character left.
    Left,
    /// One character right.
    Right,
    /// The line before in the history.
    Up,
    /// The line after in the history.
    Down,
    /// To the line's start; also Ctrl-A.
    Home,
    /// To the line's end; also Ctrl-E.
    End,
    /// Ctrl-U: deletes all before the cursor.
    KillStart,
    /// Ctrl-K: deletes from the cursor on.
    KillEnd,
    /// Ctrl-W: deletes the word before the cursor.
    KillWord,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    EndOfInput,
    /// Ctrl-L.
    Redraw,
}

/// Reads keys from bytes.
#[derive(Debug, Default)]
pub struct Keys {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    /// A return has come: a line feed behind it is the same key.
    Returned,
    /// The beginning of a character of several bytes.
    Character { bytes: [u8; 4], length: usize },
    /// An escape.
    Escape,
    /// `ESC [` or `ESC O`, and what followed.
    Sequence { bytes: [u8; SEQUENCE_BYTES_MAX], length: usize },
    /// A string that terminals send as an answer (OSC, DCS and their like), up to BEL or an escape.
    Text,
}

impl Keys {
    /// What this byte completes, if anything.
    pub fn push(&mut self, byte: u8) -> Option<Key> {
        let state = std::mem::take(&mut self.state);
        // Whatever has begun, these end it.
        if matches!(byte, b'\r' | 0x03) {
            return self.ground(byte);
        }
        match state {
            State::Returned if byte == b'\n' => None,
            State::Ground | State::Returned => self.ground(byte),
            State::Character { bytes, length } => self.character(bytes, length, byte),
            State::Escape => {
                self.state = match byte {
                    b'[' | b'O' => State::Sequence { bytes: [0; SEQUENCE_BYTES_MAX], length: 0 },
                    b']' | b'P' | b'^' | b'_' | b'X' => State::Text,
                    0x1b => State::Escape,
                    _ => State::Ground,
                };
                None
            }
            State::Sequence { bytes, length } => self.sequence(bytes, length, byte),
            State::Text => {
                self.state = match byte {
                    0x07 => State::Ground,
                    0x1b => State::Escape,
                    _ => State::Text,
                };
                None
            }
        }
    }

    fn ground(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'\r' => {
                self.state = State::Returned;
                Some(Key::Enter)
            }
            b'\n' => Some(Key::Enter),
            b'\t' => Some(Key::Tab),
            0x7f | 0x08 => Some(Key::Backspace),
            0x01 => Some(Key::Home),
            0x02 => Some(Key::Left),
            0x03 => Some(Key::Interrupt),
            0x04 => Some(Key::EndOfInput),
            0x05 => Some(Key::End),
            0x06 => Some(Key::Right),
            0x0b => Some(Key::KillEnd),
            0x0c => Some(Key::Redraw),
            0x0e => Some(Key::Down),
            0x10 => Some(Key::Up),
            0x15 => Some(Key::KillStart),
            0x17 => Some(Key::KillWord),
            0x1b => {
                self.state = State::Escape;
                None
            }
            0x20..=0x7e => Some(Key::Char(char::from(byte))),
            0xc2..=0xf4 => {
                self.state = State::Character { bytes: [byte, 0, 0, 0], length: 1 };
                None
            }
            _ => None,
        }
    }

    fn character(&mut self, mut bytes: [u8; 4], length: usize, byte: u8) -> Option<Key> {
        let Some(place) = bytes.get_mut(length).filter(|_| byte & 0xc0 == 0x80) else {
            // The character is not continued: this byte is something of its own.
            return self.ground(byte);
        };
        *place = byte;
        let length = length + 1;
        match std::str::from_utf8(bytes.get(..length)?) {
            Ok(text) => text.chars().next().filter(|char| !char.is_control()).map(Key::Char),
            Err(error) => {
                if error.error_len().is_none() {
                    self.state = State::Character { bytes, length };
                }
                None
            }
        }
    }

    fn sequence(
        &mut self,
        mut bytes: [u8; SEQUENCE_BYTES_MAX],
        length: usize,
        byte: u8,
    ) -> Option<Key> {
        match byte {
            0x1b => {
                self.state = State::Escape;
                None
            }
            0x20..=0x3f => {
                if let Some(place) = bytes.get_mut(length) {
                    *place = byte;
                }
                // One too long stays so, and means nothing.
                let length = (length + 1).min(SEQUENCE_BYTES_MAX + 1);
                self.state = State::Sequence { bytes, length };
                None
            }
            0x40..=0x7e => meaning(bytes.get(..length)?, byte),
            _ => None,
        }
    }
}

/// Of the keys that VT100, xterm and Linux's own console send.
fn meaning(parameters: &[u8], last: u8) -> Option<Key> {
    Some(match (parameters, last) {
        (_, b'A') => Key::Up,
        (_, b'B') => Key::Down,
        (_, b'C') => Key::Right,
        (_, b'D') => Key::Left,
        (_, b'H') | (b"1" | b"7", b'~') => Key::Home,
        (_, b'F') | (b"4" | b"8", b'~') => Key::End,
        (b"3", b'~') => Key::Delete,
        (b"", b'M') => Key::Enter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().filter_map(|&byte| keys.push(byte)).collect()
    }

    #[test]
    fn keys_are_what_terminals_send() {
        use Key::*;
        assert_eq!(keys(b"a\r\nb\n"), [Char('a'), Enter, Char('b'), Enter]);
        assert_eq!(keys("é日😀".as_bytes()), [Char('é'), Char('日'), Char('😀')]);
        assert_eq!(keys(b"\x1b[A\x1bOB\x1b[1;5C\x1b[D\x1b[3~"), [Up, Down, Right, Left, Delete]);
        assert_eq!(keys(b"\x1b[H\x1b[4~\x7f\x08"), [Home, End, Backspace, Backspace]);
    }

    #[test]
    fn rubbish_means_nothing() {
        assert_eq!(keys(b"\x00\xff\x80\xc2"), []);
        assert_eq!(keys(b"\x1b[99999999999999999999A"), []);
        assert_eq!(keys(b"\x1b]0;title\x07\x1bP1$r\x1b\\x"), [Key::Char('x')]);
        // Characters that C1 controls would be.
        assert_eq!(keys("\u{9b}A".as_bytes()), [Key::Char('A')]);
        // A break arrives as NUL where the driver does not ignore it.
        assert_eq!(keys(b"a\0\0b"), [Key::Char('a'), Key::Char('b')]);
    }

    proptest! {
        #[test]
        fn after_anything_enter_is_enter(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            bytes.push(b'\r');
            prop_assert_eq!(keys(&bytes).pop(), Some(Key::Enter));
            bytes.push(0x03);
            prop_assert_eq!(keys(&bytes).pop(), Some(Key::Interrupt));
        }

        #[test]
        fn no_key_is_a_control_character(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for key in keys(&bytes) {
                if let Key::Char(char) = key {
                    prop_assert!(!char.is_control());
                }
            }
        }

        #[test]
        fn text_comes_as_it_was_sent(text in "\\PC{0,80}") {
            let read: String = keys(text.as_bytes())
                .into_iter()
                .filter_map(|key| if let Key::Char(char) = key { Some(char) } else { None })
                .collect();
            prop_assert_eq!(read, text);
        }
    }
}
