//! A line that is being typed: editing, history, and how it looks on the screen.

use std::collections::VecDeque;

use crate::keys::Key;
use crate::text::{COLUMNS, columns, visible, width};

/// Longest line, in characters; more are not taken.
pub const LINE_CHARS_MAX: usize = 512;
/// Most lines of the history.
pub const HISTORY_LINES_MAX: usize = 50;

/// What a key came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Nothing that shows.
    Nothing,
    /// The line looks different.
    Changed,
    /// Enter: the line is done, and a new one begins.
    Line(String),
    /// Ctrl-C: the line is given up.
    Interrupted,
    /// Ctrl-D on an empty line.
    EndOfInput,
    /// Tab.
    Complete,
}

/// The line and those before it.
#[derive(Debug, Default)]
pub struct Editor {
    text: Vec<char>,
    cursor: usize,
    history: VecDeque<String>,
    /// How far back in the history, and what was typed before going there.
    back: Option<(usize, Vec<char>)>,
    secret: bool,
}

impl Editor {
    /// Begins an empty line; a secret one is neither shown nor remembered.
    pub fn begin(&mut self, secret: bool) {
        self.text.clear();
        self.cursor = 0;
        self.back = None;
        self.secret = secret;
    }

    /// Forgets the history, when somebody else may come.
    pub fn forget(&mut self) {
        self.begin(false);
        self.history.clear();
    }

    /// What stands before the cursor.
    #[must_use]
    pub fn before_cursor(&self) -> String {
        self.text.iter().take(self.cursor).collect()
    }

    /// Puts text at the cursor, as if it were typed.
    pub fn insert(&mut self, text: &str) {
        for char in text.chars().filter(|char| !char.is_control()) {
            if self.text.len() >= LINE_CHARS_MAX {
                break;
            }
            self.text.insert(self.cursor.min(self.text.len()), char);
            self.cursor += 1;
        }
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key) -> Edit {
        let before = (self.text.len(), self.cursor);
        match key {
            Key::Char(char) => self.insert(char.encode_utf8(&mut [0; 4])),
            Key::Enter => return self.finish(),
            Key::Interrupt => {
                self.begin(self.secret);
                return Edit::Interrupted;
            }
            Key::EndOfInput if self.text.is_empty() => return Edit::EndOfInput,
            Key::Tab => return Edit::Complete,
            Key::Redraw => return Edit::Changed,
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.text.len(),
            Key::Backspace => self.delete(self.cursor.saturating_sub(1), self.cursor),
            Key::Delete | Key::EndOfInput => self.delete(self.cursor, self.cursor + 1),
            Key::KillStart => self.delete(0, self.cursor),
            Key::KillEnd => self.delete(self.cursor, self.text.len()),
            Key::KillWord => self.delete(self.word_start(), self.cursor),
            Key::Up => return self.go(1),
            Key::Down => return self.go(-1),
        }
        if (self.text.len(), self.cursor) == before { Edit::Nothing } else { Edit::Changed }
    }

    /// The line behind a prompt: bytes that draw it anew from the left edge and put the cursor in place.
    /// Of a line that is too long, that part is shown in which the cursor stands.
    #[must_use]
    pub fn draw(&self, prompt: &str) -> String {
        // The last column stays free: some terminals go to the next line when it is written.
        let room = (COLUMNS - 1).saturating_sub(width(prompt)).max(8);
        let shown: &[char] = if self.secret { &[] } else { &self.text };
        let cursor = self.cursor.min(shown.len());
        let mut start = 0;
        let span = |start: usize| -> usize {
            shown.iter().take(cursor).skip(start).map(|&char| columns(char)).sum()
        };
        while span(start) > room {
            start += 1;
        }
        let mut used = 0;
        let part: String = shown
            .iter()
            .skip(start)
            .take_while(|&&char| {
                used += columns(char);
                used <= room
            })
            .collect();
        let place = width(prompt) + span(start);
        let mut drawn = format!("\r{prompt}{}\u{1b}[K\r", visible(&part));
        if place > 0 {
            drawn.push_str(&format!("\u{1b}[{place}C"));
        }
        drawn
    }

    fn finish(&mut self) -> Edit {
        let line: String = self.text.iter().collect();
        if !self.secret && !line.trim().is_empty() && self.history.back() != Some(&line) {
            if self.history.len() >= HISTORY_LINES_MAX {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        self.begin(self.secret);
        Edit::Line(line)
    }

    fn delete(&mut self, from: usize, to: usize) {
        let to = to.min(self.text.len());
        if from < to {
            self.text.drain(from..to);
            self.cursor = from;
        }
    }

    fn word_start(&self) -> usize {
        let before = self.text.get(..self.cursor).unwrap_or_default();
        let end = before.iter().rposition(|char| *char != ' ').map_or(0, |last| last + 1);
        let word = before.get(..end).unwrap_or_default();
        word.iter().rposition(|char| *char == ' ').map_or(0, |space| space + 1)
    }

    /// So many lines further back in the history.
    fn go(&mut self, lines: isize) -> Edit {
        if self.secret {
            return Edit::Nothing;
        }
        let now = self.back.as_ref().map_or(0, |(back, _)| *back);
        let Some(wanted) = now.checked_add_signed(lines).filter(|&it| it <= self.history.len())
        else {
            return Edit::Nothing;
        };
        let draft = match self.back.take() {
            Some((_, draft)) => draft,
            None => self.text.clone(),
        };
        if wanted == 0 {
            self.text = draft;
        } else {
            let line = self.history.get(self.history.len() - wanted);
            self.text = line.map(|line| line.chars().collect()).unwrap_or_default();
            self.back = Some((wanted, draft));
        }
        self.cursor = self.text.len();
        Edit::Changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::Keys;

    fn typed(editor: &mut Editor, bytes: &[u8]) -> Vec<Edit> {
        let mut keys = Keys::default();
        bytes.iter().filter_map(|&byte| keys.push(byte)).map(|key| editor.key(key)).collect()
    }

    fn line(editor: &mut Editor, bytes: &[u8]) -> String {
        match typed(editor, bytes).pop() {
            Some(Edit::Line(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_edited() {
        let mut editor = Editor::default();
        assert_eq!(
            line(&mut editor, b"stat\x1b[Dx\x08u\x1b[C\x08s\x01e\x05!\r"),
            "estausx!".replace('x', "")
        );
        assert_eq!(line(&mut editor, b"ping a.example  \x17b\r"), "ping b");
        assert_eq!(line(&mut editor, b"abc\x1b[D\x0b\r"), "ab");
        assert_eq!(line(&mut editor, "日本\x7f語\r".as_bytes()), "日語");
    }

    #[test]
    fn history_goes_back_and_returns_to_what_was_typed() {
        let mut editor = Editor::default();
        line(&mut editor, b"one\r");
        line(&mut editor, b"two\r");
        assert_eq!(line(&mut editor, b"\x1b[A\x1b[A\r"), "one");
        assert_eq!(line(&mut editor, b"dra\x1b[A\x1b[A\x1b[B\x1b[B\x1b[Bft\r"), "draft");
        for number in 0..100 {
            line(&mut editor, format!("l{number}\r").as_bytes());
        }
        assert_eq!(editor.history.len(), HISTORY_LINES_MAX);
    }

    #[test]
    fn secrets_are_neither_shown_nor_remembered() {
        let mut editor = Editor::default();
        editor.begin(true);
        typed(&mut editor, b"hunter42");
        assert!(!editor.draw("secret: ").contains('h'));
        assert_eq!(line(&mut editor, b"\r"), "hunter42");
        editor.begin(false);
        assert_eq!(line(&mut editor, b"\x1b[A\r"), "");
    }

    proptest! {
        #[test]
        fn any_bytes_leave_a_line_that_fits(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            let mut editor = Editor::default();
            typed(&mut editor, &bytes);
            prop_assert!(editor.text.len() <= LINE_CHARS_MAX);
            prop_assert!(editor.cursor <= editor.text.len());
            let drawn = editor.draw("avr> ");
            let seen = drawn.trim_start_matches('\r').split('\u{1b}').next().unwrap();
            prop_assert!(width(seen) < COLUMNS, "{seen}");
        }
    }
}
