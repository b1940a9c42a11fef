//! What a log, a quarantine or a trace says of a message: a few fields of its header, bounded and safe to
//! show. For people only; nothing is decided by it.

use serde::{Deserialize, Serialize};

use super::lines::Piece;
use super::words::decode_words_as_text;

/// Longest field, bytes.
pub const SUMMARY_FIELD_BYTES_MAX: usize = 256;
/// Most bytes of a field that are kept until it is complete. Encoded, a text takes up to nine times its
/// bytes, and more with the words around it.
const RAW_BYTES_MAX: usize = 16 * SUMMARY_FIELD_BYTES_MAX;

/// Fields of a message's header, as its sender wrote them: each one line without control characters, at most
/// [`SUMMARY_FIELD_BYTES_MAX`] bytes of UTF-8, `None` where it is not there. Of a field that is given twice
/// the first counts. Encoded words (RFC 2047) in UTF-8, ISO 8859-1 and US-ASCII are decoded, those in other
/// charsets left as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Message-ID.
    pub message_id: Option<String>,
    /// Subject.
    pub subject: Option<String>,
    /// From.
    pub from: Option<String>,
    /// To.
    pub to: Option<String>,
    /// Date.
    pub date: Option<String>,
}

impl Summary {
    fn field(&mut self, name: &[u8]) -> Option<&mut Option<String>> {
        let name = name.trim_ascii_end();
        let fields = [
            (&b"message-id"[..], &mut self.message_id),
            (b"subject", &mut self.subject),
            (b"from", &mut self.from),
            (b"to", &mut self.to),
            (b"date", &mut self.date),
        ];
        fields
            .into_iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))
            .map(|(_, field)| field)
    }
}

/// Takes the lines of a message until its header ends.
#[derive(Debug, Default)]
pub(crate) struct Summarizer {
    summary: Summary,
    /// The field that is open: its name and what came of its value.
    open: Option<(Vec<u8>, Vec<u8>)>,
    started: bool,
    done: bool,
}

impl Summarizer {
    pub(crate) fn piece(&mut self, piece: Piece<'_>) {
        if self.done {
            return;
        }
        if !piece.first || matches!(piece.text.first(), Some(b' ' | b'\t')) {
            self.more(piece.text);
            return;
        }
        self.close();
        if piece.text.is_empty() {
            self.done = self.started;
            return;
        }
        self.started = true;
        if let Some(at) = piece.text.iter().position(|&c| c == b':') {
            let (name, value) = piece.text.split_at(at);
            // A field that is known already does not count.
            if self.summary.field(name).is_some_and(|field| field.is_none()) {
                self.open = Some((name.to_vec(), Vec::new()));
                self.more(value.get(1..).unwrap_or_default());
            }
        }
    }

    /// What is known so far.
    pub(crate) fn summary(&self) -> Summary {
        let mut summary = self.summary.clone();
        if let Some((name, value)) = &self.open
            && let Some(field) = summary.field(name)
        {
            *field = Some(display(value));
        }
        summary
    }

    fn more(&mut self, text: &[u8]) {
        if let Some((_, value)) = &mut self.open {
            let room = RAW_BYTES_MAX.saturating_sub(value.len());
            value.extend(text.iter().take(room));
        }
    }

    fn close(&mut self) {
        self.summary = self.summary();
        self.open = None;
    }
}

/// One line of text for people.
fn display(value: &[u8]) -> String {
    let text = decode_words_as_text(value.trim_ascii());
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_control() || is_invisible(c) { ' ' } else { c };
        if c == ' ' && (out.is_empty() || out.ends_with(' ')) {
            continue;
        }
        if out.len() + c.len_utf8() > SUMMARY_FIELD_BYTES_MAX {
            break;
        }
        out.push(c);
    }
    out.truncate(out.trim_end().len());
    out
}

/// Marks of line ends and of writing direction, with which a text looks like another one.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::super::lines::Lines;
    use super::*;
    use proptest::prelude::*;

    fn of(chunks: &[&[u8]]) -> Summary {
        let (mut lines, mut summarizer) = (Lines::default(), Summarizer::default());
        for chunk in chunks {
            lines.feed(chunk, |piece| summarizer.piece(piece));
        }
        lines.finish(|piece| summarizer.piece(piece));
        summarizer.summary()
    }

    fn subject(value: &str) -> String {
        of(&[format!("Subject:{value}\n\nx").as_bytes()]).subject.unwrap()
    }

    #[test]
    fn the_first_of_each_field_counts() {
        let summary =
            of(&[b"\nX: y\nFROM : a@b.example\nSubject: one\nSubject: two\nmessage-id:\n <1@x>\n\
                             Date: today\n\nTo: in the body\nFrom: too\n"]);
        let wanted = Summary {
            message_id: Some("<1@x>".to_owned()),
            subject: Some("one".to_owned()),
            from: Some("a@b.example".to_owned()),
            to: None,
            date: Some("today".to_owned()),
        };
        assert_eq!(summary, wanted);
        assert_eq!(of(&[b"To: cut o"]).to.unwrap(), "cut o", "the message may end there");
    }

    #[test]
    fn words_are_decoded_where_the_charset_is_known() {
        for (value, wanted) in [
            (" =?utf-8?B?44GC?= =?UTF-8?Q?=E3=81=84_x?=", "\u{3042}\u{3044} x"),
            (" =?iso-8859-1?Q?=E4?=,\n =?us-ascii?Q?b?=", "\u{e4}, b"),
            // A character in two words.
            (" =?utf-8?Q?=E3=81?= =?utf-8?Q?=82?=", "\u{3042}"),
            (" =?ISO-2022-JP?B?GyRCJCIbKEI=?= x", "=?ISO-2022-JP?B?GyRCJCIbKEI=?= x"),
            (" =?utf-8?Q?a=0D=0AX:_y=00?=", "a X: y"),
            (" a \u{202e}b\t\tc\u{7f} ", "a b c"),
            (" \u{3042}", "\u{3042}"),
            ("", ""),
        ] {
            assert_eq!(subject(value), wanted, "{value}");
        }
        assert_eq!(of(&[b"Subject: \xe4\xff\n"]).subject.unwrap(), "\u{e4}\u{ff}");
    }

    #[test]
    fn fields_have_a_limit() {
        let long = subject(&"\u{3042}".repeat(SUMMARY_FIELD_BYTES_MAX));
        assert_eq!(long.len(), SUMMARY_FIELD_BYTES_MAX / 3 * 3);
        let mut summarizer = Summarizer::default();
        let mut lines = Lines::default();
        lines.feed(b"Subject: x", |piece| summarizer.piece(piece));
        for _ in 0..1000 {
            lines.feed(&[b'y'; 1000], |piece| summarizer.piece(piece));
        }
        assert!(summarizer.open.unwrap().1.len() <= RAW_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn always_one_safe_line(mail: Vec<u8>, value in "(=\\?utf-8\\?[QB]\\?|\\?=|\\PC|[\r\n\t =]){0,200}", cut: u16) {
            for mail in [mail, format!("Subject: {value}").into_bytes()] {
                let summary = of(&[&mail]);
                let (head, tail) = mail.split_at(usize::from(cut).min(mail.len()));
                prop_assert_eq!(&of(&[head, tail]), &summary);
                for field in [summary.subject, summary.from].into_iter().flatten() {
                    prop_assert!(field.len() <= SUMMARY_FIELD_BYTES_MAX);
                    prop_assert!(!field.chars().any(char::is_control));
                }
            }
        }
    }
}
