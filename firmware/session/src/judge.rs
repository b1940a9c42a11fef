//! From a message that is complete to what happens to it: scan, rule, copy, decision, journal.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use journal::{EngineRun, Entry, Timestamp};
use mail::{Decision, Envelope, Protocol};
use quarantine::{Meta, Vault};
use scan::{Finding, MailScan, Report, Scanner, Unscannable, Verdict};
use tracing::warn;

use crate::Facts;
use crate::hold::Edited;
use crate::policy::{Action, Direction, Policy};
use crate::told::{Key, Notice, Told};

/// What [`Case::judge`] gives.
pub(crate) type Judging = Pin<Box<dyn Future<Output = Judgement> + Send>>;

/// A message with all that decides over it.
pub(crate) struct Case {
    pub(crate) facts: Facts,
    pub(crate) envelope: Envelope,
    pub(crate) policy: Arc<Policy>,
    pub(crate) mail: Arc<mail::Settings>,
    pub(crate) scanner: Scanner,
    pub(crate) vault: Option<Arc<Vault>>,
    pub(crate) told: Arc<Told>,
}

/// What happens to a message, and why.
pub(crate) struct Judgement {
    pub(crate) decision: Decision,
    /// The message without what was found, where it may go on so.
    pub(crate) edited: Option<Edited>,
    /// As far as it is known before the decision is carried out.
    pub(crate) entry: Entry,
}

impl Case {
    /// Has the message scanned, and decides.
    pub(crate) async fn judge(self, scan: MailScan) -> Judgement {
        let report = scan.finish().await;
        let outcomes = report.outcomes();
        let (rule, at) = self.policy.strictest(&outcomes, &self.envelope);
        let cause = outcomes.get(at).unwrap_or(&report.verdict);
        let now = unix_now();
        let Notice { finding, copy } = self.notice(cause, &report, rule.quarantine, now).await;
        let (decision, edited) = self.decide(rule.action, cause, &report, finding).await;
        let entry = Entry {
            quarantine: copy.unwrap_or_default(),
            action: wanted(&decision, self.envelope.protocol),
            ..self.entry(&report, now)
        };
        Judgement { decision, edited, entry }
    }

    /// For a message whose sender the operator trusts.
    pub(crate) fn left_alone(self, bytes: u64) -> Judgement {
        let entry = Entry {
            reason: "its sender is in scan.unscanned_senders".to_owned(),
            action: journal::Action::Passed,
            ..self.unjudged(bytes)
        };
        Judgement { decision: Decision::Release, edited: None, entry }
    }

    /// For a message of which nothing is known but its beginning: so many bytes.
    pub(crate) fn unjudged(&self, bytes: u64) -> Entry {
        Entry { bytes, verdict: journal::Verdict::Unread, ..self.facts_of(unix_now()) }
    }

    async fn decide(
        &self,
        action: Action,
        cause: &Verdict,
        report: &Report,
        finding: mail::Finding,
    ) -> (Decision, Option<Edited>) {
        match action {
            Action::Pass => (Decision::Release, None),
            Action::Refuse => (Decision::Refuse(finding), None),
            Action::Tempfail => {
                let reason = match cause {
                    Verdict::Infected(_) => "the mail is not acceptable now",
                    Verdict::Clean | Verdict::Unscannable(_) => "the mail could not be scanned",
                };
                (Decision::Tempfail { reason: reason.to_owned() }, None)
            }
            Action::Replace => (Decision::Replace(finding), None),
            Action::ReplacePart => match self.edit(cause, report, &finding) {
                Some(edited) if self.may_pass(&edited).await => {
                    (Decision::Edit(finding), Some(edited))
                }
                _ => (Decision::Replace(finding), None),
            },
        }
    }

    /// The message without the part that was found infected, if that part can be told.
    fn edit(&self, cause: &Verdict, report: &Report, finding: &mail::Finding) -> Option<Edited> {
        let Verdict::Infected(found) = cause else { return None };
        let range = found.range.clone()?;
        let content = report.content.clone()?;
        let entity = mail::notice::entity(&self.mail, finding);
        Some(Edited { content, start: range.start, end: range.end, entity })
    }

    /// Whether the rest of the message may go on. The scan ended at what it found, so nobody has
    /// looked at all of it.
    async fn may_pass(&self, edited: &Edited) -> bool {
        let mut scan = self.scanner.begin();
        for piece in edited.pieces() {
            match piece {
                Ok(piece) => scan.feed(&piece),
                Err(_) => return false,
            }
        }
        let report = scan.finish().await;
        self.policy.strictest(&report.outcomes(), &self.envelope).0.action == Action::Pass
    }

    /// What the client is told, and the copy that is kept. A message that is fetched again has both
    /// already.
    async fn notice(&self, cause: &Verdict, report: &Report, is_kept: bool, now: u64) -> Notice {
        let is_fetched = self.envelope.protocol == Protocol::Pop3 && *cause != Verdict::Clean;
        let key = if is_fetched { self.key(report).await } else { None };
        if let Some(key) = key
            && let Some(notice) = self.told.find(key, &self.finding(cause, None, now))
            && self.is_there(notice.copy.as_deref(), is_kept).await
        {
            return notice;
        }
        let copy = if is_kept { self.keep(report, now).await } else { None };
        let notice = Notice { finding: self.finding(cause, copy.as_deref(), now), copy };
        if let Some(key) = key {
            self.told.remember(key, notice.clone());
        }
        notice
    }

    async fn key(&self, report: &Report) -> Option<Key> {
        let (told, content) = (self.told.clone(), report.content.clone()?);
        tokio::task::spawn_blocking(move || told.key(&content)).await.ok()?.ok()
    }

    /// Whether the copy of then is what is wanted now: the operator may have deleted it.
    async fn is_there(&self, copy: Option<&str>, is_wanted: bool) -> bool {
        let (copy, vault) = match (copy, self.vault.clone()) {
            (Some(copy), Some(vault)) if is_wanted => (copy, vault),
            (None, Some(_)) => return !is_wanted,
            (copy, _) => return copy.is_none(),
        };
        let Ok(id) = copy.parse() else { return false };
        tokio::task::spawn_blocking(move || vault.show(id).is_ok()).await.unwrap_or(false)
    }

    /// What is said of it for the first time.
    fn finding(&self, verdict: &Verdict, copy: Option<&str>, now: u64) -> mail::Finding {
        let (name, engine, file_name) = match verdict {
            Verdict::Infected(Finding { name, engine, file_name, .. }) => {
                (name.clone(), engine.clone(), file_name.clone())
            }
            // What an engine says of itself (its address, say) is for the journal, not for strangers.
            Verdict::Unscannable(
                reason @ (Unscannable::EngineFailed { .. } | Unscannable::EngineLimit { .. }),
            ) => (format!("unscannable: {}", reason.kind()), "policy".to_owned(), None),
            Verdict::Unscannable(reason) => {
                (format!("unscannable: {reason}"), "policy".to_owned(), None)
            }
            Verdict::Clean => (String::new(), String::new(), None),
        };
        mail::Finding {
            name,
            engine,
            file_name,
            time: Some(Timestamp::from_unix(now).to_string()),
            reference: Some(copy.unwrap_or(&self.facts.id).to_owned()),
            quarantined: copy.is_some(),
        }
    }

    /// Keeps a copy, and gives its number. A copy that cannot be kept changes nothing else.
    async fn keep(&self, report: &Report, now: u64) -> Option<String> {
        let vault = self.vault.clone()?;
        let Some(content) = report.content.clone() else {
            warn!(
                session = &self.facts.id,
                "no copy in the quarantine: the mail was too large to keep"
            );
            return None;
        };
        let meta = self.meta(report);
        let stored = tokio::task::spawn_blocking(move || vault.store(&meta, content.chunks(), now));
        let session = &self.facts.id;
        match stored.await {
            Ok(Ok(id)) => Some(id.to_string()),
            Ok(Err(error)) => {
                warn!(session, error = telemetry::chain(&error), "no copy in the quarantine");
                None
            }
            Err(error) => {
                warn!(session, %error, "no copy in the quarantine");
                None
            }
        }
    }

    fn meta(&self, report: &Report) -> Meta {
        let (verdict, engine, file_name, part) = match &report.verdict {
            Verdict::Infected(found) => (
                found.name.clone(),
                found.engine.clone(),
                found.file_name.clone().unwrap_or_default(),
                found.part.to_string(),
            ),
            Verdict::Unscannable(reason) => {
                (format!("unscannable: {reason}"), String::new(), String::new(), String::new())
            }
            Verdict::Clean => Default::default(),
        };
        Meta {
            session: self.facts.id.clone(),
            protocol: protocol(self.envelope.protocol).name().to_owned(),
            direction: self.direction().name().to_owned(),
            client: self.facts.client.clone(),
            server: self.facts.server.clone(),
            mail_from: lossy(&self.envelope.mail_from),
            rcpt_to: self.envelope.rcpt_to.iter().map(|path| lossy(path)).collect(),
            recipients: u32::try_from(self.envelope.rcpt_to.len()).unwrap_or(u32::MAX),
            message_id: report.summary.message_id.clone().unwrap_or_default(),
            subject: report.summary.subject.clone().unwrap_or_default(),
            from: report.summary.from.clone().unwrap_or_default(),
            verdict,
            engine,
            file_name,
            part,
        }
    }

    fn entry(&self, report: &Report, now: u64) -> Entry {
        let (verdict, name, reason) = match &report.verdict {
            Verdict::Clean => (journal::Verdict::Clean, String::new(), String::new()),
            Verdict::Infected(found) => {
                (journal::Verdict::Infected, found.name.clone(), String::new())
            }
            Verdict::Unscannable(why) => {
                (journal::Verdict::Unscannable, String::new(), why.to_string())
            }
        };
        Entry {
            message_id: report.summary.message_id.clone().unwrap_or_default(),
            bytes: report.bytes,
            parts: report.parts,
            engines: report
                .engines
                .iter()
                .map(|engine| EngineRun {
                    name: engine.name.clone(),
                    outcome: engine.outcome.clone(),
                    ms: millis(engine.time),
                })
                .collect(),
            verdict,
            name,
            reason,
            waited_ms: millis(report.waited),
            ..self.facts_of(now)
        }
    }

    /// What is known without a scan.
    fn facts_of(&self, now: u64) -> Entry {
        Entry {
            time: Timestamp::from_unix(now),
            session: self.facts.id.clone(),
            protocol: protocol(self.envelope.protocol),
            direction: self.direction(),
            client: self.facts.client.clone(),
            server: self.facts.server.clone(),
            way: self.facts.way.clone(),
            authenticated: self.envelope.authenticated,
            mail_from: lossy(&self.envelope.mail_from),
            rcpt_to: self.envelope.rcpt_to.iter().map(|path| lossy(path)).collect(),
            recipients: u32::try_from(self.envelope.rcpt_to.len()).unwrap_or(u32::MAX),
            ..Entry::default()
        }
    }

    /// Seen from the office, whose programs opened the session.
    fn direction(&self) -> journal::Direction {
        match Direction::of(&self.envelope) {
            Direction::Fetched => journal::Direction::Incoming,
            Direction::Submitted | Direction::Received => journal::Direction::Outgoing,
        }
    }
}

/// What a decision comes to as long as it is not too late for it.
fn wanted(decision: &Decision, protocol: Protocol) -> journal::Action {
    match decision {
        Decision::Release => journal::Action::Passed,
        // POP3 has no way to refuse a mail that clients understand.
        Decision::Refuse(_) if protocol == Protocol::Pop3 => journal::Action::Replaced,
        Decision::Refuse(_) => journal::Action::Refused,
        Decision::Replace(_) => journal::Action::Replaced,
        Decision::Edit(_) => journal::Action::Edited,
        Decision::Tempfail { .. } => journal::Action::Deferred,
    }
}

fn protocol(protocol: Protocol) -> journal::Protocol {
    match protocol {
        Protocol::Smtp => journal::Protocol::Smtp,
        Protocol::Pop3 => journal::Protocol::Pop3,
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[allow(clippy::disallowed_methods, reason = "the driver's wall clock, for people")]
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
