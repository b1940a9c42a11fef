//! Text for an 80×24 terminal: what comes from elsewhere is made harmless, and cut to the screen's width.

use unicode_width::UnicodeWidthChar as _;

/// Columns of the terminal.
pub const COLUMNS: usize = 80;
/// Lines of the terminal.
pub const ROWS: usize = 24;

/// The same text without anything that a terminal would obey or that hides: control characters, marks
/// that turn or join text, line ends. Names, logs and peers' answers pass here before they are shown.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if char == '\t' {
            shown.push(' ');
        } else if char.is_control() || hides(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Takes no room, or changes the direction of what is beside it.
fn hides(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Columns that a text takes.
#[must_use]
pub fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// Columns that a character takes.
pub(crate) fn columns(char: char) -> usize {
    char.width().unwrap_or(0)
}

/// As many of the first characters as fit into so many columns.
#[must_use]
pub fn clip(text: &str, columns_max: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|&char| {
            used += columns(char);
            used <= columns_max
        })
        .collect()
}

/// The text in pieces of at most so many columns, parted at spaces where there are any; later pieces
/// are indented, so that a line of a report begins at the left only where it does begin.
#[must_use]
pub fn wrap(text: &str, columns_max: usize) -> Vec<String> {
    const INDENT: &str = "    ";
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_inclusive(' ') {
        if used > INDENT.len() && used + width(word.trim_end()) > columns_max {
            lines.push(std::mem::replace(&mut line, INDENT.to_owned()));
            used = INDENT.len();
        }
        for char in word.chars() {
            if used + columns(char) > columns_max && char != ' ' {
                lines.push(std::mem::replace(&mut line, INDENT.to_owned()));
                used = INDENT.len();
            }
            if used < columns_max {
                line.push(char);
                used += columns(char);
            }
        }
    }
    lines.push(line);
    for line in &mut lines {
        line.truncate(line.trim_end().len());
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        assert_eq!(visible("mx\u{1b}[2J\r\nEvil\u{9b}1m"), r"mx\u{1b}[2J\r\nEvil\u{9b}1m");
        assert_eq!(visible("exe.\u{202e}fdp"), r"exe.\u{202e}fdp");
        assert_eq!(visible("日本 é\tx"), "日本 é x");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(clip("日本語", 5), "日本");
        assert_eq!(wrap("PASS dns: aaa bbb", 12), ["PASS dns:", "    aaa bbb"]);
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text in any::<String>()) {
            let shown = visible(&text);
            prop_assert!(!shown.chars().any(|char| char.is_control() || hides(char)));
            for line in wrap(&shown, COLUMNS) {
                prop_assert!(width(&line) <= COLUMNS);
            }
        }

        #[test]
        fn wrapping_loses_nothing_but_spaces(text in "[a-z日 ]{0,300}") {
            let letters = |text: &str| text.replace(' ', "");
            prop_assert_eq!(letters(&wrap(&text, 20).concat()), letters(&text));
        }
    }
}
