//! From a verdict to what is done.

use mail::{Decision, Envelope, Finding, Protocol};
use scan::{Unscannable, Verdict};
use serde::Deserialize;

/// What is done with a message of some outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Let it go on unchanged; counted and logged.
    Pass,
    /// SMTP: 554. POP3: a notice in its place.
    Refuse,
    /// SMTP: 451. POP3: a notice that it could not be scanned.
    Tempfail,
}

/// The action for each outcome. The defaults suit an office: an infected mail is refused; an
/// encrypted or over-large one passes and is counted; what no one can read one way is refused; when
/// no engine answers, people go on working and strange servers are asked to come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Infected.
    pub infected: Action,
    /// Encrypted parts.
    pub encrypted: Action,
    /// Archives that no engine opened.
    pub archive: Action,
    /// Over the size limit.
    pub over_size: Action,
    /// Over another limit, a fragment, or ambiguous.
    pub unreadable: Action,
    /// No answer from an engine: POP3, or SMTP of an authenticated client.
    pub engine_failed: Action,
    /// No answer from an engine: SMTP without authentication.
    pub engine_failed_unauthenticated: Action,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            infected: Action::Refuse,
            encrypted: Action::Pass,
            archive: Action::Pass,
            over_size: Action::Pass,
            unreadable: Action::Refuse,
            engine_failed: Action::Pass,
            engine_failed_unauthenticated: Action::Tempfail,
        }
    }
}

impl Policy {
    /// What to do with a message of this verdict and envelope.
    #[must_use]
    pub fn decide(&self, verdict: &Verdict, envelope: &Envelope) -> Decision {
        match verdict {
            Verdict::Clean => Decision::Release,
            Verdict::Infected(found) => apply(self.infected, || Finding {
                name: found.name.clone(),
                engine: found.engine.clone(),
                file_name: found.file_name.clone(),
            }),
            Verdict::Unscannable(reason) => apply(self.action(reason, envelope), || Finding {
                name: format!("unscannable: {reason}"),
                engine: "policy".to_owned(),
                file_name: None,
            }),
        }
    }

    fn action(&self, reason: &Unscannable, envelope: &Envelope) -> Action {
        match reason {
            Unscannable::Encrypted => self.encrypted,
            Unscannable::Archive => self.archive,
            Unscannable::OverSize => self.over_size,
            Unscannable::OverDepth
            | Unscannable::OverParts
            | Unscannable::OverDecoded
            | Unscannable::Partial
            | Unscannable::Ambiguous
            | Unscannable::EngineLimit { .. } => self.unreadable,
            Unscannable::OverTime | Unscannable::EngineFailed { .. } => {
                if envelope.authenticated || envelope.protocol == Protocol::Pop3 {
                    self.engine_failed
                } else {
                    self.engine_failed_unauthenticated
                }
            }
        }
    }
}

fn apply(action: Action, finding: impl FnOnce() -> Finding) -> Decision {
    match action {
        Action::Pass => Decision::Release,
        Action::Refuse => Decision::Refuse(finding()),
        Action::Tempfail => {
            Decision::Tempfail { reason: "the mail could not be scanned".to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn envelope(protocol: Protocol, authenticated: bool) -> Envelope {
        Envelope {
            protocol,
            authenticated,
            mail_from: Bytes::new(),
            rcpt_to: Vec::new(),
            message_number: None,
        }
    }

    fn failed() -> Verdict {
        Verdict::Unscannable(Unscannable::EngineFailed {
            engine: "clamd".to_owned(),
            why: "down".to_owned(),
        })
    }

    #[test]
    fn a_dead_engine_stops_strangers_but_not_the_office() {
        let policy = Policy::default();
        let stranger = envelope(Protocol::Smtp, false);
        assert!(matches!(policy.decide(&failed(), &stranger), Decision::Tempfail { .. }));
        for office in [envelope(Protocol::Smtp, true), envelope(Protocol::Pop3, true)] {
            assert_eq!(policy.decide(&failed(), &office), Decision::Release);
        }
    }

    #[test]
    fn encrypted_passes_and_partial_does_not() {
        let policy = Policy::default();
        let any = envelope(Protocol::Smtp, true);
        let encrypted = Verdict::Unscannable(Unscannable::Encrypted);
        assert_eq!(policy.decide(&encrypted, &any), Decision::Release);
        let partial = Verdict::Unscannable(Unscannable::Partial);
        assert!(matches!(policy.decide(&partial, &any), Decision::Refuse(_)));
    }
}
