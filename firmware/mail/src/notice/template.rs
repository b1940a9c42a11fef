//! The texts of notices: built in, or as the operator wrote them.
//!
//! A text is a file of UTF-8. Its first line is `Subject: ` and what goes in front of the original's
//! subject; a blank line follows, then the body. [`PLACEHOLDERS`] stand in braces; `{{` and `}}` are
//! braces of the text. A line with a placeholder that has nothing to say is left out.

use super::{Language, Notice, SHOWN_CHARS_MAX, is_shown, release::release};

/// What may stand in braces: what was found or why there was no scan, when, the sender, subject and
/// date that the message claims, the attachment, the engine, the number to quote, and how to get the
/// message.
pub const PLACEHOLDERS: [&str; 9] =
    ["name", "time", "from", "subject", "date", "file", "engine", "id", "release"];

/// Largest text, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 16 * 1024;

/// Longest prefix of a subject, in characters.
pub const SUBJECT_PREFIX_CHARS_MAX: usize = 60;

/// Why a text cannot be used, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is too large.
    #[error("the text has {bytes} bytes; write at most {TEMPLATE_BYTES_MAX}")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// The first line is something else.
    #[error(
        "line 1: write `Subject: ` and what goes in front of the original's subject, at most \
         {SUBJECT_PREFIX_CHARS_MAX} characters and no placeholder"
    )]
    Subject,
    /// There is nothing below the first line.
    #[error("line 2: write a blank line, and behind it the text of the notice")]
    NoBody,
    /// A placeholder that there is not.
    #[error("line {line}: {{{name}}} is no placeholder; write one of {}", placeholders())]
    Unknown {
        /// Counted from 1.
        line: usize,
        /// What stands in the braces.
        name: String,
    },
    /// A brace alone.
    #[error(
        "line {line}: a brace without its other half; write {{{{ or }}}} for a brace of the text"
    )]
    Brace {
        /// Counted from 1.
        line: usize,
    },
    /// A control character, or one that turns the direction of text.
    #[error(
        "line {line}: a character that is not shown (code point {code_point:#x}); leave it out"
    )]
    Hidden {
        /// Counted from 1.
        line: usize,
        /// Which.
        code_point: u32,
    },
}

/// Which notice a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// In the place of a message that must not arrive.
    Refused,
    /// In the place of a message that could not be scanned.
    Unscanned,
}

/// The texts of all notices in all languages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    texts: Vec<(Language, Kind, Template)>,
    contact: String,
}

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    subject_prefix: String,
    lines: Vec<Vec<Piece>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// One of [`PLACEHOLDERS`].
    Placeholder(&'static str),
}

const BUILT_IN: [(Language, Kind, &str); 4] = [
    (Language::English, Kind::Refused, include_str!("texts/refused.en.txt")),
    (Language::English, Kind::Unscanned, include_str!("texts/unscanned.en.txt")),
    (Language::Japanese, Kind::Refused, include_str!("texts/refused.ja.txt")),
    (Language::Japanese, Kind::Unscanned, include_str!("texts/unscanned.ja.txt")),
];

impl Default for Templates {
    /// The built-in texts; whom to ask is "the person who looks after your network".
    fn default() -> Self {
        let built_in = BUILT_IN.into_iter().map(|(language, kind, text)| {
            let template = Template::parse(text);
            assert!(template.is_ok(), "the built-in texts are tested: {template:?}");
            template.map(|template| (language, kind, template))
        });
        Self { texts: built_in.flatten().collect(), contact: String::new() }
    }
}

impl Templates {
    /// Puts a text in the place of a built-in one.
    #[must_use]
    pub fn with(mut self, language: Language, kind: Kind, template: Template) -> Self {
        self.texts.retain(|text| (text.0, text.1) != (language, kind));
        self.texts.push((language, kind, template));
        self
    }

    /// Whom the reader of a notice shall ask, as it fits behind "ask" ("Ms Sato, extension 123").
    #[must_use]
    pub fn with_contact(mut self, contact: &str) -> Self {
        self.contact = shown(contact);
        self
    }

    /// What goes in front of the subject, and the body with LF line ends.
    pub(super) fn render(&self, notice: &Notice<'_>) -> (&str, String) {
        let kind = notice.cause.kind();
        let wanted =
            |text: &&(Language, Kind, Template)| (text.0, text.1) == (notice.language, kind);
        let found = self.texts.iter().find(wanted);
        let (_, _, template) = found.expect("texts are replaced, never taken away");
        (&template.subject_prefix, template.body(notice, &self.contact))
    }
}

impl Template {
    /// A built-in text, to begin one's own with.
    #[must_use]
    pub fn built_in(language: Language, kind: Kind) -> &'static str {
        let found = BUILT_IN.iter().find(|text| (text.0, text.1) == (language, kind));
        found.map_or("", |(_, _, text)| text)
    }

    /// Reads a text.
    ///
    /// # Errors
    ///
    /// Says the line and what to write instead.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLong { bytes: text.len() });
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end();
        for (at, line) in text.lines().enumerate() {
            if let Some(c) = line.chars().find(|c| !is_shown(*c) && *c != '\t') {
                return Err(TemplateError::Hidden { line: at + 1, code_point: c.into() });
            }
        }
        let mut lines = text.lines();
        let prefix = lines.next().and_then(|line| line.strip_prefix("Subject:")).map(str::trim);
        let prefix = prefix.filter(|prefix| {
            prefix.chars().count() <= SUBJECT_PREFIX_CHARS_MAX && !prefix.contains(['{', '}'])
        });
        let subject_prefix = prefix.ok_or(TemplateError::Subject)?.to_owned();
        if lines.next().is_none_or(|line| !line.trim().is_empty()) {
            return Err(TemplateError::NoBody);
        }
        let lines = lines.enumerate().map(|(at, line)| pieces(line, at + 3));
        Ok(Self { subject_prefix, lines: lines.collect::<Result<_, _>>()? })
    }

    fn body(&self, notice: &Notice<'_>, contact: &str) -> String {
        let mut body = String::with_capacity(2048);
        'lines: for line in &self.lines {
            let start = body.len();
            for piece in line {
                match piece {
                    Piece::Text(text) => body.push_str(text),
                    Piece::Placeholder(name) => {
                        let value = value(name, notice, contact);
                        if value.is_empty() {
                            body.truncate(start);
                            continue 'lines;
                        }
                        body.push_str(&value);
                    }
                }
            }
            body.push('\n');
        }
        body
    }
}

/// One line of a body; `number` is for errors.
fn pieces(line: &str, number: usize) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, behind) = rest.split_at(at);
        text.push_str(before);
        let doubled = ["{{", "}}"].iter().find(|pair| behind.starts_with(**pair));
        if let Some(pair) = doubled {
            text.push_str(&pair[..1]);
            rest = &behind[2..];
            continue;
        }
        let inner = behind.strip_prefix('{').and_then(|behind| behind.split_once('}'));
        let (name, behind) = inner.ok_or(TemplateError::Brace { line: number })?;
        let known = PLACEHOLDERS.iter().find(|known| **known == name);
        let known =
            known.ok_or_else(|| TemplateError::Unknown { line: number, name: name.to_owned() })?;
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Placeholder(known));
        rest = behind;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// What stands in the place of a placeholder; empty if there is nothing to say.
fn value(name: &str, notice: &Notice<'_>, contact: &str) -> String {
    let finding = notice.cause.finding();
    let of_finding = |part: Option<&String>| part.map(|part| shown(part)).unwrap_or_default();
    let id = || of_finding(finding.and_then(|finding| finding.reference.as_ref()));
    match name {
        "name" => shown(notice.cause.name()),
        "time" => of_finding(finding.and_then(|finding| finding.time.as_ref())),
        "from" => shown(&notice.original.claimed_from()),
        "subject" => shown(&notice.original.claimed_subject()),
        "date" => shown(&notice.original.claimed_date()),
        "file" => of_finding(finding.and_then(|finding| finding.file_name.as_ref())),
        "engine" => of_finding(finding.map(|finding| &finding.engine)),
        "id" => id(),
        "release" => release(notice, contact, &id()),
        _ => String::new(),
    }
}

/// What may come from a sender, safe to show on one line.
fn shown(text: &str) -> String {
    text.chars().filter(|c| is_shown(*c)).take(SHOWN_CHARS_MAX).collect()
}

fn placeholders() -> String {
    PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ")
}
