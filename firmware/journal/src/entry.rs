//! What is known of a mail that has crossed.

use serde::{Deserialize, Serialize};
use telemetry::harmless;

use crate::Timestamp;

/// Most bytes of a text in an [`Entry`].
pub const TEXT_BYTES_MAX: usize = 256;
/// Most recipients that an [`Entry`] names.
pub const RECIPIENTS_MAX: usize = 8;
/// Most engines that an [`Entry`] names.
pub const ENGINES_MAX: usize = 16;
/// Most bytes of an [`Entry`] as a line of JSON.
pub const LINE_BYTES_MAX: usize = 32 * 1024;

/// One mail, from its first byte to what was done with it. Texts are made harmless to terminals and
/// cut at [`TEXT_BYTES_MAX`] when it is recorded; what is not known stays as it is by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// When it was decided on.
    pub time: Timestamp,
    /// The session's number, the same in the logs of box, proxy and manager.
    pub session: String,
    /// What was spoken.
    pub protocol: Protocol,
    /// Into the office or out of it.
    pub direction: Direction,
    /// Address of who opened the session.
    pub client: String,
    /// Address of the mail server.
    pub server: String,
    /// How the session got there: `direct`, or the site and proxy.
    pub way: String,
    /// The client had authenticated.
    pub authenticated: bool,
    /// The reverse path, without brackets; empty for POP3 and for notices of mail servers.
    pub mail_from: String,
    /// The first [`RECIPIENTS_MAX`] forward paths, without brackets; none for POP3.
    pub rcpt_to: Vec<String>,
    /// All forward paths.
    pub recipients: u32,
    /// As the mail's header has it.
    pub message_id: String,
    /// Size of the mail, in bytes.
    pub bytes: u64,
    /// Parts that were looked at, those in archives included.
    pub parts: u32,
    /// Who looked at it.
    pub engines: Vec<EngineRun>,
    /// What they said, together.
    pub verdict: Verdict,
    /// Name of what was found; empty where nothing was.
    pub name: String,
    /// Why it was not, or not wholly, scanned; empty where it was.
    pub reason: String,
    /// What was done with it.
    pub action: Action,
    /// What was to be done with it, where it was too late for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<Action>,
    /// SMTP: code of the next server's reply to it; 0 where it got none or did not answer.
    pub answer: u16,
    /// Name of its sealed copy; empty where there is none.
    pub quarantine: String,
    /// Time that it was held back here, in milliseconds.
    pub waited_ms: u64,
}

/// What one engine did with a mail.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineRun {
    /// Of the engine.
    pub name: String,
    /// `clean`, `infected`, or why it could not say.
    pub outcome: String,
    /// Time that it took, in milliseconds.
    pub ms: u64,
}

/// What was spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// SMTP and submission.
    #[default]
    Smtp,
    /// POP3.
    Pop3,
}

/// Which way a mail goes, seen from the office.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Out of it.
    #[default]
    Outgoing,
    /// Into it.
    Incoming,
}

/// What the engines said. Nothing unscanned is clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All of it was looked at, and nothing found.
    Clean,
    /// Something was found.
    Infected,
    /// It could not be looked at in full.
    Unscannable,
    /// It was not looked at, by a setting.
    #[default]
    Unread,
    /// It did not arrive in full, or went no further before anything was known of it.
    CutOff,
}

/// What was done with a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It went on, unchanged.
    Passed,
    /// It did not go on, and its sender was told so.
    Refused,
    /// A notice went on in its place.
    Replaced,
    /// It went on without what was found.
    Edited,
    /// Its sender was asked to come again.
    Deferred,
    /// The session ended before the mail did, or before it had gone on.
    #[default]
    CutOff,
}

impl Protocol {
    /// As in settings and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Pop3 => "pop3",
        }
    }
}

impl Direction {
    /// As in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outgoing => "outgoing",
            Self::Incoming => "incoming",
        }
    }
}

impl Verdict {
    /// As in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Infected => "infected",
            Self::Unscannable => "unscannable",
            Self::Unread => "unread",
            Self::CutOff => "cut-off",
        }
    }
}

impl Action {
    /// As in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Replaced => "replaced",
            Self::Edited => "edited",
            Self::Deferred => "deferred",
            Self::CutOff => "cut-off",
        }
    }
}

impl Entry {
    /// Within its limits.
    #[must_use]
    pub fn bounded(&self) -> Self {
        let text = |text: &String| harmless(text.as_bytes(), TEXT_BYTES_MAX);
        let given = u32::try_from(self.rcpt_to.len()).unwrap_or(u32::MAX);
        let engines = self.engines.iter().take(ENGINES_MAX).map(|run| EngineRun {
            name: text(&run.name),
            outcome: text(&run.outcome),
            ms: run.ms,
        });
        Self {
            session: text(&self.session),
            client: text(&self.client),
            server: text(&self.server),
            way: text(&self.way),
            mail_from: text(&self.mail_from),
            rcpt_to: self.rcpt_to.iter().take(RECIPIENTS_MAX).map(text).collect(),
            recipients: self.recipients.max(given),
            message_id: text(&self.message_id),
            engines: engines.collect(),
            name: text(&self.name),
            reason: text(&self.reason),
            quarantine: text(&self.quarantine),
            ..*self
        }
    }

    /// The entry as one line of the program's log. Only of a [`Self::bounded`] one.
    pub fn log(&self) {
        let engines: Vec<_> = self
            .engines
            .iter()
            .map(|run| format!("{} {} {} ms", run.name, run.outcome, run.ms))
            .collect();
        tracing::info!(
            session = %self.session,
            protocol = self.protocol.name(),
            direction = self.direction.name(),
            client = %self.client,
            server = %self.server,
            way = %self.way,
            authenticated = self.authenticated,
            mail_from = ?self.mail_from,
            rcpt_to = ?self.rcpt_to,
            recipients = self.recipients,
            message_id = ?self.message_id,
            bytes = self.bytes,
            parts = self.parts,
            engines = ?engines,
            verdict = self.verdict.name(),
            name = ?self.name,
            reason = ?self.reason,
            action = self.action.name(),
            decided = self.decided.map_or("", Action::name),
            answer = self.answer,
            quarantine = %self.quarantine,
            waited_ms = self.waited_ms,
            "mail"
        );
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// An infected mail, sent and refused.
    pub(crate) fn sample() -> Entry {
        Entry {
            time: Timestamp::from_unix(1_790_000_000),
            session: "00112233445566778899aabbccddeeff".to_owned(),
            client: "192.168.1.5:50000".to_owned(),
            server: "203.0.113.5:587".to_owned(),
            way: "direct".to_owned(),
            authenticated: true,
            mail_from: "sender@example.jp".to_owned(),
            rcpt_to: vec!["someone@example.com".to_owned()],
            recipients: 3,
            message_id: "<abc@example.jp>".to_owned(),
            bytes: 12_345,
            parts: 3,
            engines: vec![
                EngineRun { name: "yara".to_owned(), outcome: "clean".to_owned(), ms: 3 },
                EngineRun { name: "clamd".to_owned(), outcome: "infected".to_owned(), ms: 12 },
            ],
            verdict: Verdict::Infected,
            name: "Eicar-Test-Signature".to_owned(),
            action: Action::Refused,
            quarantine: "darkq047sw".to_owned(),
            waited_ms: 15,
            ..Entry::default()
        }
    }

    #[test]
    fn the_largest_entry_is_within_its_limit() {
        // What JSON writes in two bytes.
        let text = "\"".repeat(TEXT_BYTES_MAX + 1);
        let engine = EngineRun { name: text.clone(), outcome: text.clone(), ms: u64::MAX };
        let entry = Entry {
            time: Timestamp::from_unix(u64::MAX),
            session: text.clone(),
            client: text.clone(),
            server: text.clone(),
            way: text.clone(),
            mail_from: text.clone(),
            rcpt_to: vec![text.clone(); RECIPIENTS_MAX + 1],
            message_id: text.clone(),
            bytes: u64::MAX,
            parts: u32::MAX,
            engines: vec![engine; ENGINES_MAX + 1],
            name: text.clone(),
            reason: text.clone(),
            quarantine: text,
            waited_ms: u64::MAX,
            ..Entry::default()
        };
        let bounded = entry.bounded();
        assert_eq!((bounded.rcpt_to.len(), bounded.recipients), (RECIPIENTS_MAX, 9));
        assert_eq!(bounded.engines.len(), ENGINES_MAX);
        let bytes = serde_json::to_vec(&bounded).unwrap().len();
        assert!((LINE_BYTES_MAX / 2..LINE_BYTES_MAX).contains(&bytes), "{bytes}");
    }

    #[test]
    fn peers_cannot_break_lines() {
        let entry = Entry { mail_from: "a\r\nb\u{1b}[2J\u{202e}".to_owned(), ..sample() };
        let line = serde_json::to_string(&entry.bounded()).unwrap();
        assert!(line.contains("a\u{fffd}\u{fffd}b\u{fffd}[2J\u{fffd}"), "{line}");
    }

    #[test]
    fn names_in_logs_are_those_in_the_journal() {
        for (name, json) in [
            (Protocol::Pop3.name(), serde_json::to_string(&Protocol::Pop3)),
            (Direction::Incoming.name(), serde_json::to_string(&Direction::Incoming)),
            (Verdict::Unscannable.name(), serde_json::to_string(&Verdict::Unscannable)),
            (Verdict::CutOff.name(), serde_json::to_string(&Verdict::CutOff)),
            (Action::CutOff.name(), serde_json::to_string(&Action::CutOff)),
        ] {
            assert_eq!(json.unwrap(), format!("\"{name}\""));
        }
    }

    /// Lines of other versions have fields that this one lacks, and lack some that it has.
    #[test]
    fn lines_of_other_versions_are_read() {
        let line =
            r#"{"time":"2026-09-21T14:13:20Z","session":"00aa","verdict":"clean","new":[1]}"#;
        let entry: Entry = serde_json::from_str(line).unwrap();
        assert_eq!((entry.session.as_str(), entry.verdict), ("00aa", Verdict::Clean));
        assert_eq!(entry.action, Action::CutOff);
    }

    /// What the log shows of an entry.
    fn logged(entry: &Entry, json: bool) -> String {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl Write for Log {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = Log::default();
        let writer = log.clone();
        let builder =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
        let subscriber: Box<dyn tracing::Subscriber + Send + Sync> =
            if json { Box::new(builder.json().finish()) } else { Box::new(builder.finish()) };
        tracing::subscriber::with_default(subscriber, || entry.bounded().log());
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_mail_is_one_line_of_the_log_as_text_and_as_json() {
        let entry = Entry { mail_from: "a\"\r\n2026 INFO forged".to_owned(), ..sample() };
        let text = logged(&entry, false);
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in [
            " mail session=00112233445566778899aabbccddeeff protocol=\"smtp\"",
            " bytes=12345 parts=3 engines=[\"yara clean 3 ms\", \"clamd infected 12 ms\"]",
            " verdict=\"infected\" name=\"Eicar-Test-Signature\" reason=\"\" action=\"refused\"",
            " quarantine=darkq047sw waited_ms=15",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = logged(&entry, true);
        assert_eq!(json.lines().count(), 1, "{json}");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["fields"]["message"], "mail");
        assert_eq!(value["fields"]["waited_ms"], 15);
        assert_eq!(value["fields"]["session"], "00112233445566778899aabbccddeeff");
    }
}
