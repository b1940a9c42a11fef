//! The mail that stands in the place of one that must not arrive, or could not be scanned.
//!
//! A notice is a complete message (RFC 5322, MIME) that keeps From, Subject, Date and Message-ID of
//! the original where they are safe to repeat, so that mail programs sort and thread it as they would
//! have sorted the original. Headers are ASCII; nothing a sender wrote can begin a header of its own.
//! Must not depend on a protocol session.

mod encode;
mod original;

pub(crate) use self::original::HeaderCapture;

use bytes::Bytes;

use self::encode::{base64_lines, encoded_words, folded, quoted_printable};
use crate::Finding;

/// Longest name, engine or file name shown, in characters.
pub const SHOWN_CHARS_MAX: usize = 200;

/// Language of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

/// A notice as the answer to RETR or TOP: `+OK` line, dot-stuffed message, final dot.
pub(crate) fn pop3_reply(language: Language, cause: &Cause<'_>, original: &HeaderCapture) -> Bytes {
    let message = message(language, cause, original);
    let mut reply = format!("+OK {} octets\r\n", message.len());
    for line in message.split_inclusive('\n') {
        if line.starts_with('.') {
            reply.push('.');
        }
        reply.push_str(line);
    }
    reply.push_str(".\r\n");
    Bytes::from(reply)
}

/// The notice as a message with CRLF line ends, all ASCII.
fn message(language: Language, cause: &Cause<'_>, original: &HeaderCapture) -> String {
    let text = Text::new(language, cause);
    let mut message = String::with_capacity(2048);
    message.push_str(&folded("From", &original.from()));
    let subject = match original.subject() {
        subject if subject.is_empty() => encoded_words(text.subject_prefix),
        subject => format!("{} {subject}", encoded_words(text.subject_prefix)),
    };
    message.push_str(&folded("Subject", &subject));
    message.push_str(&folded("Date", &original.date()));
    if let Some(message_id) = original.message_id() {
        message.push_str(&folded("Message-ID", &message_id));
    }
    message.push_str(&folded("X-AVR-Notice", &tag(cause)));
    message.push_str("Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n");
    message.push_str("Content-Type: text/plain; charset=UTF-8\r\n");
    let (encoding, body) = match language {
        Language::English => ("quoted-printable", quoted_printable(&text.body)),
        Language::Japanese => ("base64", base64_lines(&text.body.replace('\n', "\r\n"))),
    };
    message.push_str("Content-Transfer-Encoding: ");
    message.push_str(encoding);
    message.push_str("\r\n\r\n");
    message.push_str(&body);
    message
}

/// For programs: what the text says, in a few words of ASCII.
fn tag(cause: &Cause<'_>) -> String {
    match cause {
        Cause::Refused(finding) => {
            format!("refused; name={}; engine={}", token(&finding.name), token(&finding.engine))
        }
        Cause::Unscanned { .. } => "unscanned".to_owned(),
    }
}

/// Printable ASCII without blanks and separators.
fn token(text: &str) -> String {
    let shown = |c: char| if c.is_ascii_graphic() && c != ';' { c } else { '_' };
    text.chars().take(SHOWN_CHARS_MAX).map(shown).collect()
}

/// What a notice says.
struct Text {
    subject_prefix: &'static str,
    /// With LF line ends.
    body: String,
}

impl Text {
    fn new(language: Language, cause: &Cause<'_>) -> Self {
        match (language, cause) {
            (Language::English, Cause::Refused(finding)) => Self::english_refused(finding),
            (Language::English, Cause::Unscanned { reason }) => Self::english_unscanned(reason),
            (Language::Japanese, Cause::Refused(finding)) => Self::japanese_refused(finding),
            (Language::Japanese, Cause::Unscanned { reason }) => Self::japanese_unscanned(reason),
        }
    }

    fn english_refused(finding: &Finding) -> Self {
        let mut body = String::from(
            "The mail gateway of your network found something dangerous in this\n\
             message. You are reading a notice in its place: nothing of its text or\n\
             attachments was let through.\n\n",
        );
        field(&mut body, "Found", &finding.name);
        field(&mut body, "Found by", &finding.engine);
        if let Some(file_name) = &finding.file_name {
            field(&mut body, "Attachment", file_name);
        }
        body.push_str(
            "\nSender, subject and date are as the message claims; they may be forged.\n\
             Do not answer if you do not know the sender.\n\n\
             If you expected this message, or want help: ask the person who looks\n\
             after your network, and give the name shown above and the date of the\n\
             message. The original stays in your mailbox on the mail server until\n\
             your mail program deletes it there.\n",
        );
        Self { subject_prefix: "[Blocked]", body }
    }

    fn english_unscanned(reason: &str) -> Self {
        let mut body = String::from(
            "The mail gateway of your network could not check this message for\n\
             viruses, so it was not let through. You are reading a notice in its\n\
             place.\n\n",
        );
        field(&mut body, "Reason", reason);
        body.push_str(
            "\nThe original stays in your mailbox on the mail server until your mail\n\
             program deletes it there: fetch it again later. If this happens again,\n\
             ask the person who looks after your network, and give the reason shown\n\
             above.\n",
        );
        Self { subject_prefix: "[Not checked]", body }
    }

    fn japanese_refused(finding: &Finding) -> Self {
        let mut body = String::from(
            "ネットワークのメールゲートウェイが、このメールに危険な内容を検出しました。\n\
             元の本文と添付ファイルは届けず、代わりにこのお知らせをお送りしています。\n\n",
        );
        field(&mut body, "検出名", &finding.name);
        field(&mut body, "検査エンジン", &finding.engine);
        if let Some(file_name) = &finding.file_name {
            field(&mut body, "添付ファイル", file_name);
        }
        body.push_str(
            "\n差出人・件名・日付は元のメールに書かれていたもので、偽装されている場合があります。\n\
             差出人に心当たりがないときは、返信しないでください。\n\n\
             必要なメールである場合や、ご不明な点がある場合は、上の検出名とメールの日付を\n\
             添えて、ネットワークの管理担当者にお問い合わせください。元のメールは、メール\n\
             ソフトが削除するまでメールサーバーのメールボックスに残っています。\n",
        );
        Self { subject_prefix: "[受信を遮断しました]", body }
    }

    fn japanese_unscanned(reason: &str) -> Self {
        let mut body = String::from(
            "ネットワークのメールゲートウェイがこのメールのウイルス検査を完了できなかった\n\
             ため、元のメールは届けず、代わりにこのお知らせをお送りしています。\n\n",
        );
        field(&mut body, "理由", reason);
        body.push_str(
            "\n元のメールは、メールソフトが削除するまでメールサーバーのメールボックスに残って\n\
             います。しばらくしてから、もう一度受信してください。続く場合は、上の理由を添えて、\n\
             ネットワークの管理担当者にお問い合わせください。\n",
        );
        Self { subject_prefix: "[検査できませんでした]", body }
    }
}

/// A line of the body with something that may come from a sender.
fn field(body: &mut String, label: &str, value: &str) {
    body.push_str("  ");
    body.push_str(label);
    body.push_str(": ");
    body.extend(value.chars().filter(|c| is_shown(*c)).take(SHOWN_CHARS_MAX));
    body.push('\n');
}

/// Neither a control character nor one that turns the direction of text, which makes `exe.fdp` out
/// of `pdf.exe`.
fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
