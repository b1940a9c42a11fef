//! Follows the messages of one session: opens their scans, has them judged, counts and writes them down.

use std::mem;

use journal::Entry;
use mail::pop3::OnHoldFailure;
use mail::{Envelope, Event, OpaqueReason, Protocol, UnscannedReason};
use scan::{MailScan, Scanner, Verdict};
use tracing::{info, warn};

use crate::judge::{self, Case, Judgement};
use crate::{Carrier, Facts, Opaque, Outcome};

/// Sees what a session's machine says of its messages.
pub(crate) struct Observer<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) scanner: &'a Scanner,
    carrier: &'a Carrier,
    message: Message,
    /// Of the message that waits for its verdict.
    judged: Option<Envelope>,
}

/// The message that is crossing.
enum Message {
    None,
    Scanned(Envelope, MailScan),
    /// By the operator's wish.
    LeftAlone(Envelope, u64),
}

/// Whether the scan of the message that is crossing still matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scanning {
    GoesOn,
    /// What comes of the message is decided without it.
    Over,
}

impl<'a> Observer<'a> {
    pub(crate) fn new(facts: &'a Facts, carrier: &'a Carrier, scanner: &'a Scanner) -> Self {
        Self { facts, scanner, carrier, message: Message::None, judged: None }
    }

    pub(crate) fn begin(&mut self, envelope: Envelope) {
        self.message = if self.carrier.policy.leaves_alone(&envelope) {
            Message::LeftAlone(envelope, 0)
        } else {
            Message::Scanned(envelope, self.scanner.begin())
        };
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        match &mut self.message {
            Message::Scanned(_, scan) => scan.feed(bytes),
            Message::LeftAlone(_, count) => *count += bytes.len() as u64,
            Message::None => {}
        }
    }

    /// The message is complete: what finds out what happens to it.
    pub(crate) fn end(&mut self) -> Option<judge::Judging> {
        match mem::replace(&mut self.message, Message::None) {
            Message::Scanned(envelope, scan) => {
                self.judged = Some(envelope.clone());
                Some(Box::pin(self.case(envelope).judge(scan)))
            }
            Message::LeftAlone(envelope, bytes) => {
                self.judged = Some(envelope.clone());
                Some(Box::pin(std::future::ready(self.case(envelope).left_alone(bytes))))
            }
            Message::None => None,
        }
    }

    fn case(&self, envelope: Envelope) -> Case {
        Case {
            facts: self.facts.clone(),
            envelope,
            policy: self.carrier.policy.clone(),
            mail: self.carrier.mail.clone(),
            scanner: self.scanner.clone(),
            vault: self.carrier.vault.clone(),
        }
    }

    /// The message that is crossing, or waits for its verdict, is not followed any further.
    fn forget(&mut self) -> Option<Envelope> {
        match mem::replace(&mut self.message, Message::None) {
            Message::Scanned(envelope, _) | Message::LeftAlone(envelope, _) => Some(envelope),
            Message::None => self.judged.take(),
        }
    }

    /// The message will not be completed, or its verdict is not awaited.
    pub(crate) fn abort(&mut self, outcome: &mut Outcome) {
        if self.forget().is_some() {
            outcome.aborted += 1;
        }
    }

    fn record(&self, entry: &Entry) {
        match &self.carrier.journal {
            Some(journal) => journal.record(entry),
            None => entry.bounded().log(),
        }
    }

    /// Counts a judgement, and writes it down.
    pub(crate) fn note(&mut self, judgement: &Judgement, outcome: &mut Outcome) {
        self.judged = None;
        match &judgement.verdict {
            None => outcome.unread += 1,
            Some(verdict) => {
                outcome.messages += 1;
                match verdict {
                    Verdict::Clean => {}
                    Verdict::Infected(_) => outcome.infected += 1,
                    Verdict::Unscannable(_) => outcome.unscannable += 1,
                }
            }
        }
        self.record(&judgement.entry);
    }

    pub(crate) fn event(&mut self, event: &Event, outcome: &mut Outcome) -> Scanning {
        let session = &self.facts.id;
        match event {
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
                warn!(session, "message over the hold limit: streamed");
            }
            Event::HoldLimit => {
                // Counted here, and so no longer as cut off when its scan is dropped.
                outcome.messages += 1;
                outcome.unscannable += 1;
                warn!(session, "a message cannot be held: not scanned");
                let action = match self.carrier.mail.pop3.on_hold_failure {
                    OnHoldFailure::Pass => journal::Action::Passed,
                    OnHoldFailure::Replace => journal::Action::Replaced,
                };
                if let Some(envelope) = self.forget() {
                    let reason = "it was too large to be held, or there was no room for it";
                    self.record(&self.case(envelope).unread(reason, action));
                }
                return Scanning::Over;
            }
            Event::Unscanned(UnscannedReason::Burl) => {
                outcome.messages += 1;
                outcome.unscannable += 1;
                warn!(session, "the server fetches a message itself (BURL): not scanned");
            }
            Event::Authenticated => {}
        }
        Scanning::GoesOn
    }
}
