//! The mail that stands in the place of one that must not arrive, or could not be scanned.
//!
//! A notice is a complete message (RFC 5322, MIME) that keeps From, Subject, Date and Message-ID of
//! the original where they are safe to repeat, so that mail programs sort and thread it as they would
//! have sorted the original. Headers are ASCII; nothing a sender wrote can begin a header of its own.
//! The text says what was found, by which engine, in which file and when, who the sender claims to
//! be, and how to get the message: from [`Templates`], built in or written by the operator.
//!
//! Where a beginning of the original has left already, while its client waited, the notice
//! goes on from there and adds only what is missing.
//!
//! Must not depend on a protocol session.

mod date;
mod decode;
mod encode;
mod fields;
mod original;
mod release;
mod template;

pub use self::template::{
    Kind, PLACEHOLDERS, SUBJECT_PREFIX_CHARS_MAX, TEMPLATE_BYTES_MAX, Template, TemplateError,
    Templates,
};

pub(crate) use self::original::HeaderCapture;

use bytes::Bytes;

use self::encode::{base64_lines, encoded_words, folded, quoted_printable};
use crate::{Finding, Framing, Protocol};

/// Longest name, engine, file name, sender, subject or number shown, in characters.
pub const SHOWN_CHARS_MAX: usize = 200;

/// Language of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Japanese.
    Japanese,
}

/// Why there is a notice in the place of a mail.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cause<'a> {
    /// It must not arrive.
    Refused(&'a Finding),
    /// It could not be scanned, for this reason of ours.
    Unscanned { reason: &'a str },
}

/// A notice in the making.
pub(crate) struct Notice<'a> {
    /// Its texts.
    pub(crate) templates: &'a Templates,
    /// Which of them.
    pub(crate) language: Language,
    /// On which way the original was: by POP3 it stays on its server.
    pub(crate) protocol: Protocol,
    /// Why.
    pub(crate) cause: Cause<'a>,
    /// The original's header.
    pub(crate) original: &'a HeaderCapture,
    /// Now, in seconds since 1970, for a date where the original has none.
    pub(crate) unix_s: u64,
}

impl Notice<'_> {
    /// The whole answer to RETR or TOP: `+OK` line, dot-stuffed message, final dot.
    pub(crate) fn pop3_reply(&self) -> Bytes {
        let message = self.message(0);
        let mut reply = format!("+OK {} octets\r\n", message.len());
        reply.push_str(&stuffed(&message));
        Bytes::from(reply)
    }

    /// The rest of such an answer, when its status line and the first `out` bytes of the original
    /// have left.
    pub(crate) fn pop3_rest(&self, out: usize) -> Bytes {
        Bytes::from(stuffed(&self.message(out)))
    }

    /// The whole message as SMTP carries it: [`Framing::Dots`] with dots stuffed and its end behind
    /// it (CRLF.CRLF, of which the first CRLF ends the last line), [`Framing::Chunk`] the bytes of
    /// one BDAT chunk, whose size is theirs.
    pub(crate) fn smtp_message(&self, framing: Framing) -> Bytes {
        let message = self.message(0);
        Bytes::from(match framing {
            Framing::Dots => stuffed(&message),
            Framing::Chunk => message,
        })
    }

    /// The notice as a message with CRLF line ends, all ASCII; without what has left of the original.
    fn message(&self, out: usize) -> String {
        let released = self.original.released(out);
        let (subject_prefix, body) = self.templates.render(self);
        let mut message = String::with_capacity(4096);
        if released.within_line {
            message.push_str("\r\n");
        }
        let mut field = |name: &str, value: &str| {
            if !released.has(name) {
                message.push_str(&folded(name, value));
            }
        };
        field("From", &self.original.from());
        let prefix = encoded_words(subject_prefix);
        field("Subject", &format!("{prefix} {}", self.original.subject()));
        let date = self.original.date().unwrap_or_else(|| date::rfc5322(self.unix_s));
        field("Date", &date);
        if let Some(message_id) = self.original.message_id() {
            field("Message-ID", &message_id);
        }
        field("X-AVR-Notice", &self.tag());
        field("Auto-Submitted", "auto-generated");
        field("MIME-Version", "1.0");
        field("Content-Type", "text/plain; charset=UTF-8");
        let (encoding, body) = encoded(&body);
        field("Content-Transfer-Encoding", encoding);
        message.push_str("\r\n");
        message.push_str(&body);
        message
    }

    /// For programs: what the text says, in a few words of ASCII.
    fn tag(&self) -> String {
        match self.cause {
            Cause::Refused(finding) => {
                format!("refused; name={}; engine={}", token(&finding.name), token(&finding.engine))
            }
            Cause::Unscanned { .. } => "unscanned".to_owned(),
        }
    }
}

impl<'a> Cause<'a> {
    fn kind(&self) -> Kind {
        match self {
            Self::Refused(_) => Kind::Refused,
            Self::Unscanned { .. } => Kind::Unscanned,
        }
    }

    fn name(&self) -> &'a str {
        match self {
            Self::Refused(finding) => &finding.name,
            Self::Unscanned { reason } => reason,
        }
    }

    fn finding(&self) -> Option<&'a Finding> {
        match self {
            Self::Refused(finding) => Some(finding),
            Self::Unscanned { .. } => None,
        }
    }
}

/// The notice as an entity (RFC 2045 section 2.4) that takes the place of the part of a message that
/// must not arrive: header, empty line and text, without the end of the last line.
#[must_use]
pub fn entity(settings: &crate::Settings, finding: &Finding) -> Bytes {
    let original = HeaderCapture::default();
    let notice = Notice {
        templates: &settings.templates,
        language: settings.language,
        protocol: Protocol::Smtp,
        cause: Cause::Refused(finding),
        original: &original,
        unix_s: 0,
    };
    let (_, text) = settings.templates.render(&notice);
    let (encoding, body) = encoded(&text);
    let body = body.trim_end();
    Bytes::from(format!(
        "Content-Type: text/plain; charset=UTF-8\r\n\
         Content-Transfer-Encoding: {encoding}\r\n\
         Content-Disposition: inline\r\n\r\n{body}"
    ))
}

/// A text as a body with CRLF line ends, and its encoding. What is mostly ASCII stays readable.
fn encoded(text: &str) -> (&'static str, String) {
    if text.bytes().filter(|byte| !byte.is_ascii()).count() * 4 < text.len() {
        ("quoted-printable", quoted_printable(text))
    } else {
        ("base64", base64_lines(&text.replace('\n', "\r\n")))
    }
}

/// A message on the wire: dots stuffed, and its end.
fn stuffed(message: &str) -> String {
    let mut out = String::with_capacity(message.len() + 64);
    for line in message.split_inclusive('\n') {
        if line.starts_with('.') {
            out.push('.');
        }
        out.push_str(line);
    }
    out.push_str(".\r\n");
    out
}

/// Printable ASCII without blanks and separators.
fn token(text: &str) -> String {
    let shown = |c: char| if c.is_ascii_graphic() && c != ';' { c } else { '_' };
    text.chars().take(SHOWN_CHARS_MAX).map(shown).collect()
}

/// Neither a control character nor one that is not seen, nor one that turns the direction of text,
/// which makes `exe.fdp` out of `pdf.exe`.
fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests;
