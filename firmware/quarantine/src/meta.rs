//! What is known of an item besides its content.

use std::fmt;

use serde::{Deserialize, Serialize};
use telemetry::harmless;

use crate::Id;

/// Most bytes of a text in a [`Meta`].
pub const TEXT_BYTES_MAX: usize = 512;
/// Most recipients that a [`Meta`] keeps by name.
pub const RECIPIENTS_MAX: usize = 100;

/// Where a mail came from and why it was kept. All texts are made harmless to terminals and cut at
/// [`TEXT_BYTES_MAX`] when it is stored; what is not known stays empty.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// The session's number in all logs.
    pub session: String,
    /// `smtp` or `pop3`.
    pub protocol: String,
    /// `incoming` or `outgoing`.
    pub direction: String,
    /// Address of who opened the session.
    pub client: String,
    /// Address of the mail server.
    pub server: String,
    /// The reverse path, without brackets.
    pub mail_from: String,
    /// The forward paths, without brackets: at most [`RECIPIENTS_MAX`], and none that is not kept
    /// letter by letter.
    pub rcpt_to: Vec<String>,
    /// All forward paths, also those that `rcpt_to` has no room for.
    pub recipients: u32,
    /// With brackets or without.
    pub message_id: String,
    /// As people read it.
    pub subject: String,
    /// The header field, as people read it.
    pub from: String,
    /// What was found, or why it was refused.
    pub verdict: String,
    /// Which engine found it.
    pub engine: String,
    /// Name of the attachment at fault.
    pub file_name: String,
    /// Which part of the mail is at fault.
    pub part: String,
}

impl Meta {
    /// Within its limits.
    pub(crate) fn bounded(&self) -> Self {
        let text = |text: &String| harmless(text.as_bytes(), TEXT_BYTES_MAX);
        let whole = |address: &&String| text(address) == **address;
        let rcpt_to: Vec<_> =
            self.rcpt_to.iter().filter(whole).take(RECIPIENTS_MAX).cloned().collect();
        let given = u32::try_from(self.rcpt_to.len()).unwrap_or(u32::MAX);
        Self {
            session: text(&self.session),
            protocol: text(&self.protocol),
            direction: text(&self.direction),
            client: text(&self.client),
            server: text(&self.server),
            mail_from: text(&self.mail_from),
            rcpt_to,
            recipients: self.recipients.max(given),
            message_id: text(&self.message_id),
            subject: text(&self.subject),
            from: text(&self.from),
            verdict: text(&self.verdict),
            engine: text(&self.engine),
            file_name: text(&self.file_name),
            part: text(&self.part),
        }
    }
}

/// Without what is a mail's content: this may reach a log.
impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meta")
            .field("session", &self.session)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

/// A mail in the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Its name.
    pub id: Id,
    /// When it was stored, in seconds since 1970.
    pub stored_at: u64,
    /// Size of the mail, in bytes.
    pub bytes: u64,
    /// What it takes of the disk, in bytes.
    pub bytes_on_disk: u64,
    /// All that is known of it.
    #[serde(flatten)]
    pub meta: Meta,
}

impl Item {
    /// How long it has been here, in seconds.
    #[must_use]
    pub fn age_s(&self, now: u64) -> u64 {
        now.saturating_sub(self.stored_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_recipients_are_whole_or_left_out() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let mut rcpt_to = vec!["a@b.example\r\nRCPT TO:<c@d.example>".to_owned(), long.clone()];
        rcpt_to.extend((0..=RECIPIENTS_MAX).map(|n| format!("{n}@b.example")));
        let meta = Meta { subject: long, from: "\u{1b}[2J".to_owned(), rcpt_to, ..Meta::default() };
        let bounded = meta.bounded();
        assert_eq!(bounded.subject.len(), TEXT_BYTES_MAX);
        assert_eq!(bounded.from, "\u{fffd}[2J");
        assert_eq!(bounded.rcpt_to.len(), RECIPIENTS_MAX);
        assert_eq!(bounded.rcpt_to[0], "0@b.example");
        assert_eq!(bounded.recipients, 103);
        assert_eq!(bounded.bounded(), bounded);
    }

    #[test]
    fn contents_do_not_reach_a_log() {
        let meta =
            Meta { subject: "secret".to_owned(), verdict: "Eicar".to_owned(), ..Meta::default() };
        let debug = format!("{meta:?}");
        assert!(debug.contains("Eicar") && !debug.contains("secret"), "{debug}");
    }
}
