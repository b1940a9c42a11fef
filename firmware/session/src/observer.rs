//! Follows the messages of one session: opens their scans, has them judged, counts and writes down
//! what became of them.

use std::mem;

use journal::Entry;
use mail::{
    Done, Envelope, Event, OpaqueReason, Protocol, Settled, SettledBy, Side, UnscannedReason,
};
use scan::{MailScan, Scanner};
use tracing::{info, warn};

use crate::judge::{self, Case};
use crate::{Carrier, Facts, Opaque, Outcome};

/// Sees what a session's machine says of its messages.
pub(crate) struct Observer<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) scanner: &'a Scanner,
    carrier: &'a Carrier,
    message: Message,
}

/// The message that is crossing, until it is settled.
enum Message {
    None,
    Scanned(Crossing, MailScan),
    /// By the operator's wish.
    LeftAlone(Crossing),
    /// Its verdict is awaited, or not any more.
    Waiting(Crossing),
    /// What was done with it is awaited.
    Judged(Box<Entry>),
}

/// What is known of a message without a verdict.
struct Crossing {
    envelope: Envelope,
    bytes: u64,
}

impl<'a> Observer<'a> {
    pub(crate) fn new(facts: &'a Facts, carrier: &'a Carrier, scanner: &'a Scanner) -> Self {
        Self { facts, scanner, carrier, message: Message::None }
    }

    pub(crate) fn begin(&mut self, envelope: Envelope) {
        let is_left_alone = self.carrier.policy.leaves_alone(&envelope);
        let crossing = Crossing { envelope, bytes: 0 };
        self.message = if is_left_alone {
            Message::LeftAlone(crossing)
        } else {
            Message::Scanned(crossing, self.scanner.begin())
        };
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        match &mut self.message {
            Message::Scanned(crossing, scan) => {
                crossing.bytes += bytes.len() as u64;
                scan.feed(bytes);
            }
            Message::LeftAlone(crossing) => crossing.bytes += bytes.len() as u64,
            Message::None | Message::Waiting(_) | Message::Judged(_) => {}
        }
    }

    /// The message is complete: what finds out what happens to it.
    pub(crate) fn end(&mut self) -> Option<judge::Judging> {
        let (crossing, judging): (_, judge::Judging) =
            match mem::replace(&mut self.message, Message::None) {
                Message::Scanned(crossing, scan) => {
                    let case = self.case(crossing.envelope.clone());
                    (crossing, Box::pin(case.judge(scan)))
                }
                Message::LeftAlone(crossing) => {
                    let case = self.case(crossing.envelope.clone());
                    let judgement = case.left_alone(crossing.bytes);
                    (crossing, Box::pin(std::future::ready(judgement)))
                }
                other => {
                    self.message = other;
                    return None;
                }
            };
        self.message = Message::Waiting(crossing);
        Some(judging)
    }

    /// The message has its verdict.
    pub(crate) fn judged(&mut self, entry: Entry) {
        self.message = Message::Judged(Box::new(entry));
    }

    /// The message will not be completed, or its verdict is not awaited any more.
    pub(crate) fn abort(&mut self) {
        self.message = match mem::replace(&mut self.message, Message::None) {
            Message::Scanned(crossing, _) | Message::LeftAlone(crossing) => {
                Message::Waiting(crossing)
            }
            other => other,
        };
    }

    pub(crate) fn event(&mut self, event: &Event, outcome: &mut Outcome) {
        let session = &self.facts.id;
        match event {
            Event::Settled(settled) => self.settle(settled, outcome),
            Event::Opaque(OpaqueReason::Tls) => {
                outcome.opaque = Some(Opaque::Tls);
                info!(session, "session went to TLS: not scanned from here on");
            }
            Event::Opaque(OpaqueReason::Unframed) => {
                outcome.opaque = Some(Opaque::Unframed);
                warn!(session, "session cannot be followed: not scanned from here on");
            }
            Event::Violation { side, what } => {
                outcome.violations += 1;
                warn!(session, ?side, ?what, "protocol violation");
            }
            Event::TimedOut { side } => warn!(session, ?side, "timed out"),
            // By SMTP its end still waits for the verdict.
            Event::HoldLimit if self.facts.protocol == Protocol::Smtp => {
                warn!(session, "a message cannot be held: streamed");
            }
            Event::HoldLimit => warn!(session, "a message cannot be held: not scanned"),
            Event::Unscanned(UnscannedReason::Burl) => {
                outcome.messages += 1;
                outcome.unscannable += 1;
                warn!(session, "the server fetches a message itself (BURL): not scanned");
            }
            Event::Authenticated => {}
        }
    }

    /// What became of the message: counted, and written down.
    fn settle(&mut self, settled: &Settled, outcome: &mut Outcome) {
        let entry = match mem::replace(&mut self.message, Message::None) {
            Message::None => return,
            Message::Judged(entry) => judged_entry(*entry, settled),
            Message::Scanned(crossing, _)
            | Message::LeftAlone(crossing)
            | Message::Waiting(crossing) => {
                let (verdict, reason) = without_verdict(settled.by);
                Entry {
                    verdict,
                    reason,
                    action: action(settled.done),
                    ..self.case(crossing.envelope).unjudged(crossing.bytes)
                }
            }
        };
        count(&entry, outcome);
        self.record(&entry);
    }

    fn case(&self, envelope: Envelope) -> Case {
        Case {
            facts: self.facts.clone(),
            envelope,
            policy: self.carrier.policy.clone(),
            mail: self.carrier.mail.clone(),
            scanner: self.scanner.clone(),
            vault: self.carrier.vault.clone(),
            told: self.carrier.told.clone(),
        }
    }

    fn record(&self, entry: &Entry) {
        match &self.carrier.journal {
            Some(journal) => journal.record(entry),
            None => entry.bounded().log(),
        }
    }
}

/// What a judged message's entry is once the decision has been carried out, or could not be.
fn judged_entry(mut entry: Entry, settled: &Settled) -> Entry {
    let done = action(settled.done);
    if settled.by == SettledBy::LineEnds && entry.verdict == journal::Verdict::Clean {
        // Another program may read another message.
        (entry.verdict, entry.reason) = unscannable(LINE_ENDS);
    } else if done != entry.action {
        entry.decided = Some(entry.action);
    }
    Entry { action: done, answer: settled.answer.unwrap_or_default(), ..entry }
}

const LINE_ENDS: &str = "its line ends could be read in several ways";

fn unscannable(reason: &str) -> (journal::Verdict, String) {
    (journal::Verdict::Unscannable, reason.to_owned())
}

/// What is said of a message that was settled before it had a verdict.
fn without_verdict(by: SettledBy) -> (journal::Verdict, String) {
    match by {
        SettledBy::LineEnds => unscannable(LINE_ENDS),
        SettledBy::NoRoom => {
            unscannable("it was too large to be held, or there was no room for it")
        }
        SettledBy::NoVerdict | SettledBy::Decision => unscannable("no verdict came in time"),
        SettledBy::Peer(side) => {
            let who = match side {
                Side::Client => "the client went away, broke off or fell silent",
                Side::Server => "the mail server went away, refused it or fell silent",
            };
            (journal::Verdict::CutOff, format!("{who} before the mail was done with"))
        }
    }
}

fn action(done: Done) -> journal::Action {
    match done {
        Done::Passed => journal::Action::Passed,
        Done::Refused => journal::Action::Refused,
        Done::Replaced => journal::Action::Replaced,
        Done::Edited => journal::Action::Edited,
        Done::Deferred => journal::Action::Deferred,
        Done::CutOff => journal::Action::CutOff,
    }
}

/// Counters say what the journal says.
fn count(entry: &Entry, outcome: &mut Outcome) {
    match entry.verdict {
        journal::Verdict::Clean => outcome.messages += 1,
        journal::Verdict::Infected => {
            outcome.messages += 1;
            outcome.infected += 1;
        }
        journal::Verdict::Unscannable => {
            outcome.messages += 1;
            outcome.unscannable += 1;
        }
        journal::Verdict::Unread => outcome.unread += 1,
        journal::Verdict::CutOff => {}
    }
    if entry.action == journal::Action::CutOff {
        outcome.aborted += 1;
    }
}

/// A session that is stopped from here (a program that ends) tells of its mail, too, where it
/// certainly is one: what a server said to an unknown POP3 command need not be.
impl Drop for Observer<'_> {
    fn drop(&mut self) {
        let is_mail = |crossing: &Crossing| {
            let envelope = &crossing.envelope;
            envelope.protocol == Protocol::Smtp || envelope.message_number.is_some()
        };
        let entry = match mem::replace(&mut self.message, Message::None) {
            Message::Judged(entry) => {
                Entry { decided: Some(entry.action), action: journal::Action::CutOff, ..*entry }
            }
            Message::Scanned(crossing, _)
            | Message::LeftAlone(crossing)
            | Message::Waiting(crossing)
                if is_mail(&crossing) =>
            {
                Entry {
                    verdict: journal::Verdict::CutOff,
                    reason: "the session was stopped from here".to_owned(),
                    action: journal::Action::CutOff,
                    ..self.case(crossing.envelope).unjudged(crossing.bytes)
                }
            }
            _ => return,
        };
        self.record(&entry);
    }
}
