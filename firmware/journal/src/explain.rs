//! An entry in words.

use std::fmt::Write as _;

use crate::{Action, Entry, Protocol, Verdict};

impl Entry {
    /// What happened to the mail and why, for people: some labelled lines, the last one ended as
    /// well.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = format!("{}  session {}\n", self.time, self.session);
        let mut line = |label: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(text, "  {label:<10} {value}");
            }
        };
        line("mail", &self.in_short());
        line("from", &self.sender());
        line("to", &self.recipients());
        line("message-id", &self.message_id);
        line("way", &format!("{} -> {}, {}", self.client, self.server, or(&self.way, "not known")));
        line("scanned", &self.engines());
        line("verdict", &self.verdict());
        line("so", &self.consequence());
        line("but", &self.too_late());
        line("answer", &self.answered());
        line("copy", &self.copy());
        line("waited", &format!("{} ms were added here", self.waited_ms));
        text
    }

    fn in_short(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Smtp => "sent by SMTP",
            Protocol::Pop3 => "fetched by POP3",
        };
        format!("{}, {protocol}, {}", self.direction.name(), count(self.bytes, "byte"))
    }

    fn sender(&self) -> String {
        match self.protocol {
            Protocol::Pop3 => String::new(),
            Protocol::Smtp => {
                let who = if self.authenticated { "logged in" } else { "not logged in" };
                format!("{} ({who})", or(&self.mail_from, "<>"))
            }
        }
    }

    fn recipients(&self) -> String {
        let named = self.rcpt_to.join(", ");
        let shown = u32::try_from(self.rcpt_to.len()).unwrap_or(u32::MAX);
        match self.recipients.saturating_sub(shown) {
            0 => named,
            more if named.is_empty() => count(more.into(), "recipient"),
            more => format!("{named} and {more} more"),
        }
    }

    fn engines(&self) -> String {
        if self.engines.is_empty() {
            return "by no engine".to_owned();
        }
        let runs: Vec<_> = self
            .engines
            .iter()
            .map(|run| format!("{}: {} in {} ms", run.name, run.outcome, run.ms))
            .collect();
        format!("{}; {}", count(self.parts.into(), "part"), runs.join("; "))
    }

    fn verdict(&self) -> String {
        let reason = or(&self.reason, "no reason was recorded");
        match self.verdict {
            Verdict::Clean => "clean: all of it was looked at, and nothing was found".to_owned(),
            Verdict::Infected => format!("infected: {}", or(&self.name, "no name was recorded")),
            Verdict::Unscannable => format!("unscannable: {reason}"),
            Verdict::Unread => format!("unread: {reason}"),
            Verdict::CutOff => format!("cut off: {reason}"),
        }
    }

    fn consequence(&self) -> String {
        let text = match (self.action, self.protocol) {
            (Action::Passed, _) if self.verdict == Verdict::Clean => "it went on, byte for byte",
            (Action::Passed, _) => "the settings let such mail pass: it went on, byte for byte",
            (Action::Refused, Protocol::Smtp) => {
                "it was refused (554), and its sender told why; the mail server never got it"
            }
            (Action::Refused, Protocol::Pop3) => "it was not delivered",
            (Action::Replaced, Protocol::Smtp) => "a notice went on in its place",
            (Action::Replaced, Protocol::Pop3) => {
                "a notice was delivered in its place; the mail server still had the mail then"
            }
            (Action::Edited, _) => "it went on without what was found",
            (Action::Deferred, Protocol::Smtp) => {
                "its sender was asked to send it again later (451); the mail server never got it"
            }
            (Action::Deferred, Protocol::Pop3) => {
                "a notice was delivered in its place, and the mail can be fetched again"
            }
            (Action::CutOff, _) => "the session ended before the mail did; nothing went on",
        };
        text.to_owned()
    }

    /// Where something else was done than was decided.
    fn too_late(&self) -> String {
        let wanted = match self.decided {
            None => return String::new(),
            Some(Action::Passed) => "it was to go on",
            Some(Action::Refused) => "it was to be refused",
            Some(Action::Replaced) => "a notice was to go on in its place",
            Some(Action::Edited) => "it was to go on without what was found",
            Some(Action::Deferred) => "its sender was to be asked to come again",
            Some(Action::CutOff) => "it was to be cut off",
        };
        format!("{wanted}, which could not be done any more")
    }

    /// What the next server said of what it got, which need not be the mail server: a site scans, too.
    fn answered(&self) -> String {
        match self.answer {
            0 => String::new(),
            code @ 200..=299 => format!("the next server took it ({code})"),
            code => format!("the next server did not take it ({code})"),
        }
    }

    fn copy(&self) -> String {
        let id = &self.quarantine;
        if id.is_empty() {
            return String::new();
        }
        format!("{id} in the quarantine; `quarantine show {id}` shows it")
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use crate::entry::tests::sample;
    use crate::{Direction, EngineRun};

    use super::*;

    #[test]
    fn a_refused_mail_is_explained() {
        assert_eq!(
            sample().explain(),
            "\
2026-09-21T14:13:20Z  session 00112233445566778899aabbccddeeff
  mail       outgoing, sent by SMTP, 12345 bytes
  from       sender@example.jp (logged in)
  to         someone@example.com and 2 more
  message-id <abc@example.jp>
  way        192.168.1.5:50000 -> 203.0.113.5:587, direct
  scanned    3 parts; yara: clean in 3 ms; clamd: infected in 12 ms
  verdict    infected: Eicar-Test-Signature
  so         it was refused (554), and its sender told why; the mail server never got it
  copy       darkq047sw in the quarantine; `quarantine show darkq047sw` shows it
  waited     15 ms were added here
"
        );
    }

    #[test]
    fn a_fetched_mail_that_nobody_could_open_is_explained() {
        let entry = Entry {
            protocol: Protocol::Pop3,
            direction: Direction::Incoming,
            mail_from: String::new(),
            rcpt_to: Vec::new(),
            recipients: 0,
            message_id: String::new(),
            parts: 1,
            engines: vec![EngineRun { name: "yara".into(), outcome: "encrypted".into(), ms: 1 }],
            verdict: Verdict::Unscannable,
            name: String::new(),
            reason: "an encrypted part".to_owned(),
            action: Action::Passed,
            quarantine: String::new(),
            ..sample()
        };
        assert_eq!(
            entry.explain(),
            "\
2026-09-21T14:13:20Z  session 00112233445566778899aabbccddeeff
  mail       incoming, fetched by POP3, 12345 bytes
  way        192.168.1.5:50000 -> 203.0.113.5:587, direct
  scanned    1 part; yara: encrypted in 1 ms
  verdict    unscannable: an encrypted part
  so         the settings let such mail pass: it went on, byte for byte
  waited     15 ms were added here
"
        );
    }

    #[test]
    fn a_mail_that_was_cut_off_is_explained() {
        let entry = Entry {
            engines: Vec::new(),
            verdict: Verdict::CutOff,
            name: String::new(),
            reason: "the client went".to_owned(),
            action: Action::CutOff,
            quarantine: String::new(),
            ..sample()
        };
        let text = entry.explain();
        assert!(text.contains("\n  mail       outgoing, sent by SMTP, 12345 bytes\n"), "{text}");
        assert!(text.contains("\n  verdict    cut off: the client went\n"), "{text}");
        assert!(text.contains("\n  so         the session ended before the mail did; "), "{text}");
    }

    #[test]
    fn what_was_wanted_and_what_the_next_server_said_is_explained() {
        let entry = Entry { decided: Some(Action::Edited), ..sample() };
        let text = entry.explain();
        let but = "\n  but        it was to go on without what was found, which could not be done any more\n";
        assert!(text.contains(but), "{text}");
        assert!(!text.contains("answer"), "{text}");
        let passed = |answer| Entry { action: Action::Passed, answer, ..sample() }.explain();
        let text = passed(250);
        assert!(text.contains("\n  answer     the next server took it (250)\n"), "{text}");
        let text = passed(554);
        assert!(text.contains("\n  answer     the next server did not take it (554)\n"), "{text}");
    }

    #[test]
    fn nothing_unscanned_is_called_clean_and_everything_has_a_consequence() {
        for verdict in [Verdict::Infected, Verdict::Unscannable, Verdict::Unread, Verdict::CutOff] {
            for protocol in [Protocol::Smtp, Protocol::Pop3] {
                for action in [
                    Action::Passed,
                    Action::Refused,
                    Action::Replaced,
                    Action::Edited,
                    Action::Deferred,
                    Action::CutOff,
                ] {
                    let entry = Entry { verdict, protocol, action, ..Entry::default() };
                    let text = entry.explain();
                    assert!(!text.contains("clean"), "{text}");
                    assert!(text.contains("\n  so         "), "{text}");
                    assert!(text.contains("recorded"), "{text}");
                }
            }
        }
    }
}
