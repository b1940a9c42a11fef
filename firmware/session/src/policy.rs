//! From a verdict to what is done.

use mail::{Envelope, Protocol};
use scan::{Unscannable, Verdict};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// What happens to a message of some outcome; the later, the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Let it go on unchanged; counted and logged.
    Pass,
    /// SMTP: 451. POP3: a notice that it could not be scanned.
    Tempfail,
    /// The message without the part that was found infected, a notice in that part's place; where no
    /// part can be told, or something else is wrong with the rest, as `Replace`.
    ReplacePart,
    /// A notice in its place, also by SMTP: messages are then held there until their verdict.
    Replace,
    /// SMTP: 554. POP3: a notice in its place.
    Refuse,
}

/// An action, and whether a sealed copy of the message is kept. Written `"refuse"`, or
/// `"refuse+quarantine"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What happens to the message.
    pub action: Action,
    /// A copy goes to the quarantine, where there is one.
    pub quarantine: bool,
}

impl Rule {
    const fn plain(action: Action) -> Self {
        Self { action, quarantine: false }
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (action, quarantine) = match text.strip_suffix("+quarantine") {
            Some(action) => (action, true),
            None => (text.as_str(), false),
        };
        let action = match action {
            "pass" => Action::Pass,
            "refuse" => Action::Refuse,
            "tempfail" => Action::Tempfail,
            "replace" => Action::Replace,
            "replace-part" => Action::ReplacePart,
            _ => {
                return Err(D::Error::custom(format!(
                    "{text:?} is no action; write \"pass\", \"refuse\", \"tempfail\", \"replace\" or \
                     \"replace-part\" instead, and \"+quarantine\" behind it to keep a copy"
                )));
            }
        };
        Ok(Self { action, quarantine })
    }
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Fetched by POP3.
    Fetched,
    /// Sent by SMTP, by a client that has authenticated.
    Submitted,
    /// Sent by SMTP, by a client that has not.
    Received,
}

impl Direction {
    /// Of a message with this envelope.
    #[must_use]
    pub fn of(envelope: &Envelope) -> Self {
        match envelope.protocol {
            Protocol::Pop3 => Self::Fetched,
            Protocol::Smtp if envelope.authenticated => Self::Submitted,
            Protocol::Smtp => Self::Received,
        }
    }

    /// For logs and settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Submitted => "submitted",
            Self::Received => "received",
        }
    }
}

/// The rule for each outcome, in one direction. The defaults suit an office: what is infected is
/// refused; an encrypted or over-large mail passes and is counted; what no one can read one way is
/// refused; when no engine answers, people go on working and strange servers are asked to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Infected.
    pub infected: Rule,
    /// Of a blocked kind or name.
    pub blocked: Rule,
    /// Encrypted parts.
    pub encrypted: Rule,
    /// Archives that no engine opened, or damaged ones.
    pub archive: Rule,
    /// Over the size limit.
    pub over_size: Rule,
    /// Over another limit, a fragment, ambiguous, or too much for the scanner.
    pub unreadable: Rule,
    /// No answer from an engine.
    pub engine_failed: Rule,
}

impl Rules {
    const fn of_an_office(engine_failed: Action) -> Self {
        Self {
            infected: Rule::plain(Action::Refuse),
            blocked: Rule::plain(Action::Refuse),
            encrypted: Rule::plain(Action::Pass),
            archive: Rule::plain(Action::Pass),
            over_size: Rule::plain(Action::Pass),
            unreadable: Rule::plain(Action::Refuse),
            engine_failed: Rule::plain(engine_failed),
        }
    }

    fn all(&self) -> [Rule; 7] {
        let Self { infected, blocked, encrypted, archive, over_size, unreadable, engine_failed } =
            *self;
        [infected, blocked, encrypted, archive, over_size, unreadable, engine_failed]
    }
}

/// The rules of every direction, and whose mail is not scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// POP3.
    pub fetched: Rules,
    /// SMTP of an authenticated client.
    pub submitted: Rules,
    /// SMTP without authentication.
    pub received: Rules,
    /// Senders whose mail by SMTP passes unscanned and counted: addresses, or `@domain`. Lower case.
    pub unscanned_senders: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            fetched: Rules::of_an_office(Action::Pass),
            submitted: Rules::of_an_office(Action::Pass),
            received: Rules::of_an_office(Action::Tempfail),
            unscanned_senders: Vec::new(),
        }
    }
}

impl Policy {
    /// What to do with a message of this verdict and envelope. A clean one passes.
    #[must_use]
    pub fn rule(&self, verdict: &Verdict, envelope: &Envelope) -> Rule {
        let rules = match Direction::of(envelope) {
            Direction::Fetched => &self.fetched,
            Direction::Submitted => &self.submitted,
            Direction::Received => &self.received,
        };
        match verdict {
            Verdict::Clean => Rule::plain(Action::Pass),
            Verdict::Infected(finding) if finding.engine == scan::BLOCK => rules.blocked,
            Verdict::Infected(_) => rules.infected,
            Verdict::Unscannable(reason) => match reason {
                Unscannable::Encrypted => rules.encrypted,
                Unscannable::Archive { .. } | Unscannable::Damaged { .. } => rules.archive,
                Unscannable::OverSize => rules.over_size,
                Unscannable::OverDepth
                | Unscannable::OverParts
                | Unscannable::OverDecoded
                | Unscannable::OverRatio
                | Unscannable::OverTime
                | Unscannable::Crashed
                | Unscannable::Partial
                | Unscannable::Ambiguous
                | Unscannable::EngineLimit { .. } => rules.unreadable,
                Unscannable::EngineFailed { .. } => rules.engine_failed,
            },
        }
    }

    /// The strictest rule for all that was found out of a message, and for which of the outcomes: the
    /// first of those that are alike. A copy is kept where any of them asks for one.
    #[must_use]
    pub fn strictest(&self, outcomes: &[Verdict], envelope: &Envelope) -> (Rule, usize) {
        let mut strictest = (Rule::plain(Action::Pass), 0);
        for (at, outcome) in outcomes.iter().enumerate() {
            let rule = self.rule(outcome, envelope);
            if rule.action > strictest.0.action {
                strictest = (Rule { action: rule.action, ..strictest.0 }, at);
            }
            strictest.0.quarantine |= rule.quarantine;
        }
        strictest
    }

    /// Whether any rule asks for a copy.
    #[must_use]
    pub fn wants_copies(&self) -> bool {
        let rules = [self.fetched.all(), self.submitted.all(), self.received.all()];
        rules.as_flattened().iter().any(|rule| rule.quarantine)
    }

    /// Whether messages by SMTP have to be held, because something may have to take their place.
    #[must_use]
    pub fn holds_smtp(&self) -> bool {
        let rules = [self.submitted.all(), self.received.all()];
        rules
            .as_flattened()
            .iter()
            .any(|rule| matches!(rule.action, Action::Replace | Action::ReplacePart))
    }

    /// Whether the operator wants this sender's mail left alone.
    #[must_use]
    pub fn leaves_alone(&self, envelope: &Envelope) -> bool {
        if self.unscanned_senders.is_empty() || envelope.mail_from.is_empty() {
            return false;
        }
        let sender = envelope.mail_from.to_ascii_lowercase();
        self.unscanned_senders
            .iter()
            .map(String::as_bytes)
            .any(|listed| sender == listed || listed.starts_with(b"@") && sender.ends_with(listed))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn envelope(protocol: Protocol, authenticated: bool) -> Envelope {
        Envelope {
            protocol,
            authenticated,
            mail_from: Bytes::new(),
            rcpt_to: Vec::new(),
            message_number: None,
        }
    }

    fn action(why: Unscannable, envelope: &Envelope) -> Action {
        Policy::default().rule(&Verdict::Unscannable(why), envelope).action
    }

    #[test]
    fn a_dead_engine_stops_strangers_but_not_the_office() {
        let failed =
            || Unscannable::EngineFailed { engine: "clamd".to_owned(), why: "down".to_owned() };
        assert_eq!(action(failed(), &envelope(Protocol::Smtp, false)), Action::Tempfail);
        for office in [envelope(Protocol::Smtp, true), envelope(Protocol::Pop3, true)] {
            assert_eq!(action(failed(), &office), Action::Pass);
        }
    }

    #[test]
    fn encrypted_passes_and_what_breaks_the_scanner_does_not() {
        let any = envelope(Protocol::Pop3, true);
        assert_eq!(action(Unscannable::Encrypted, &any), Action::Pass);
        for why in [Unscannable::Partial, Unscannable::Crashed, Unscannable::OverTime] {
            assert_eq!(action(why, &any), Action::Refuse);
        }
    }

    #[test]
    fn what_is_blocked_has_a_rule_of_its_own() {
        let rules = Rules { blocked: Rule::plain(Action::Pass), ..Policy::default().fetched };
        let policy = Policy { fetched: rules, ..Policy::default() };
        let verdict = |engine: &str| {
            Verdict::Infected(scan::Finding {
                name: "x".to_owned(),
                engine: engine.to_owned(),
                ..scan::Finding::default()
            })
        };
        let any = envelope(Protocol::Pop3, true);
        assert_eq!(policy.rule(&verdict(scan::BLOCK), &any).action, Action::Pass);
        assert_eq!(policy.rule(&verdict("yara"), &any).action, Action::Refuse);
    }

    #[test]
    fn of_several_outcomes_the_strictest_rule_counts() {
        let encrypted = Verdict::Unscannable(Unscannable::Encrypted);
        let damaged = Verdict::Unscannable(Unscannable::Damaged { what: "zip".to_owned() });
        let mut policy = Policy::default();
        policy.fetched.encrypted = Rule { action: Action::Refuse, quarantine: false };
        policy.fetched.archive = Rule { action: Action::Pass, quarantine: true };
        let any = envelope(Protocol::Pop3, true);
        let strictest = (Rule { action: Action::Refuse, quarantine: true }, 1);
        assert_eq!(policy.strictest(&[damaged, encrypted], &any), strictest);
        assert_eq!(policy.strictest(&[Verdict::Clean], &any), (Rule::plain(Action::Pass), 0));
        assert!(policy.wants_copies() && !Policy::default().wants_copies());
    }

    #[test]
    fn smtp_is_held_only_where_something_may_take_a_messages_place() {
        let replace = Rules { blocked: Rule::plain(Action::Replace), ..Policy::default().fetched };
        assert!(!Policy { fetched: replace, ..Policy::default() }.holds_smtp());
        assert!(Policy { received: replace, ..Policy::default() }.holds_smtp());
        assert!(!Policy::default().holds_smtp());
    }

    #[test]
    fn senders_are_left_alone_by_address_or_domain() {
        let policy = Policy {
            unscanned_senders: vec!["@partner.example".to_owned(), "a@b.example".to_owned()],
            ..Policy::default()
        };
        let from = |sender: &'static str| Envelope {
            mail_from: Bytes::from_static(sender.as_bytes()),
            ..envelope(Protocol::Smtp, false)
        };
        for alone in ["x@Partner.Example", "A@b.example"] {
            assert!(policy.leaves_alone(&from(alone)), "{alone}");
        }
        for scanned in ["x@evilpartner.example", "aa@b.example", "", "partner.example"] {
            assert!(!policy.leaves_alone(&from(scanned)), "{scanned}");
        }
    }
}
