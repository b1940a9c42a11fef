//! Puts the walk and the engines together: one mail in, one verdict out.
//!
//! Every decoded part goes to the engines as soon as it is complete, the raw message at the end, so that
//! behind the last byte only the raw message is left to wait for. The first finding ends the scan.
//!
//! An engine that takes mail apart itself ([`Engine::reads_mail`]: clamd) gets the raw message and the
//! parts that had to be decoded. Those it may have decoded in its own way too; but where its reading and
//! ours differ, ours is not lost, and it works on them while the rest of the mail still arrives.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::archive::is_archive;
use crate::engine::printable;
use crate::mime::{Event, Oddities, PartHead, Reading, Walker, further_readings};
use crate::{
    Engine, EngineOutcome, FINDING_NAME_BYTES_MAX, Finding, Limits, Object, Report, Unscannable,
    Verdict,
};

/// Most bytes of all mails together that are held while they are scanned: raw messages and parts. A mail
/// that does not fit is unscannable at once; it waits for nobody.
pub const BYTES_IN_FLIGHT_MAX: usize = 512 * 1024 * 1024;

/// How long the other engines may take to answer once one has found something, so that of several
/// findings the same one is named each time.
const AFTER_FOUND_MAX: Duration = Duration::from_secs(2);

/// Most objects of one mail that engines look at at a time.
pub const OBJECTS_AT_ONCE_MAX: usize = 16;

/// How much of a held message is walked before others get their turn, bytes.
const WALK_STEP_BYTES: usize = 64 * 1024;

/// What stands for the pipeline itself where an engine is named.
const PIPELINE: &str = "scan";

/// Shared by all sessions; cheap to clone.
#[derive(Debug, Clone)]
pub struct Scanner {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engines: Vec<Arc<dyn Engine>>,
    limits: Limits,
    budget: Arc<Budget>,
}

impl Scanner {
    /// A scanner with these engines. Without any, nothing is clean.
    #[must_use]
    pub fn new(engines: Vec<Arc<dyn Engine>>, limits: Limits) -> Self {
        Self::with_budget(engines, limits, BYTES_IN_FLIGHT_MAX)
    }

    /// The same with another limit than [`BYTES_IN_FLIGHT_MAX`].
    #[must_use]
    pub fn with_budget(engines: Vec<Arc<dyn Engine>>, limits: Limits, bytes_max: usize) -> Self {
        let budget = Arc::new(Budget { used: AtomicUsize::new(0), bytes_max });
        Self { shared: Arc::new(Shared { engines, limits, budget }) }
    }

    /// Opens the scan of one mail.
    #[must_use]
    pub fn begin(&self) -> MailScan {
        MailScan {
            walker: Some(Box::new(Walker::new(&self.shared.limits))),
            held: Held::new(&self.shared.budget),
            raw_bytes: 0,
            walk_parts: 0,
            walk_charge: Charge { budget: Arc::clone(&self.shared.budget), bytes: 0 },
            open: HashMap::new(),
            jobs: Jobs::new(),
            findings: Findings::default(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Bytes of all mails that are held now.
    #[must_use]
    pub fn bytes_in_flight(&self) -> usize {
        self.shared.budget.used.load(Ordering::Relaxed)
    }
}

/// The scan of one mail. Dropping it ends it.
#[derive(Debug)]
pub struct MailScan {
    shared: Arc<Shared>,
    /// Gone when there is nothing more to find out.
    walker: Option<Box<Walker>>,
    held: Held,
    raw_bytes: u64,
    walk_parts: u32,
    /// What the walker holds itself.
    walk_charge: Charge,
    open: HashMap<u32, Part>,
    jobs: Jobs,
    findings: Findings,
}

/// A part being collected.
#[derive(Debug)]
struct Part {
    head: PartHead,
    held: Held,
}

impl MailScan {
    /// Takes the next bytes of the raw message. To be called in a tokio runtime.
    // By value, though they are copied: keeping them would keep the reader's whole buffer.
    #[allow(clippy::needless_pass_by_value, reason = "the interface leaves room for keeping them")]
    pub fn feed(&mut self, bytes: Bytes) {
        self.raw_bytes = self.raw_bytes.saturating_add(bytes.len().try_into().unwrap_or(u64::MAX));
        if self.walker.is_none() {
            return;
        }
        let limit = self.shared.limits.message_bytes_max;
        if self.raw_bytes > limit.try_into().unwrap_or(u64::MAX) {
            self.give_up(Unscannable::OverSize);
            return;
        }
        if !self.held.extend(&bytes) {
            self.give_up(no_memory());
            return;
        }
        self.walk(|walker| walker.feed(&bytes));
        self.jobs.collect_ready(&mut self.findings);
        if self.findings.found.is_some() {
            self.stop();
        }
    }

    /// All has been fed: the verdict.
    pub async fn finish(mut self) -> Report {
        let started = Instant::now();
        let deadline = started + self.shared.limits.time_max;
        if self.shared.engines.is_empty() {
            self.give_up(Unscannable::EngineFailed {
                engine: PIPELINE.to_owned(),
                why: "there is no engine".to_owned(),
            });
        }
        let scanned = tokio::time::timeout_at(deadline, async {
            self.finish_walk().await;
            self.jobs.collect_all(&mut self.findings).await;
        });
        if scanned.await.is_err() {
            self.findings.note(Unscannable::OverTime);
        }
        Report {
            verdict: self.findings.verdict(),
            bytes: self.raw_bytes,
            parts: self.walk_parts,
            waited: started.elapsed(),
        }
    }

    /// The rest of the walk, and the message itself for the engines.
    async fn finish_walk(&mut self) {
        self.walk(Walker::finish);
        let Some(walker) = self.walker.take() else { return };
        let mut oddities = walker.oddities();
        // All readings of a mail share its limits, so that an odd mail costs no more than a large one.
        let mut limits = less(&self.shared.limits, &walker);
        drop(walker);
        // Parts that never ended: the walk stopped at a limit, and has said so.
        self.open.clear();
        let raw = std::mem::replace(&mut self.held, Held::new(&self.shared.budget)).share();
        let message = PartHead {
            number: 0,
            depth: 0,
            content_type: String::new(),
            file_names: Vec::new(),
            verbatim: false,
        };
        self.jobs.submit(&self.shared, message, &raw);

        let mut done = vec![Reading::default()];
        while let Some(reading) = further_readings(oddities, &done).first().copied() {
            done.push(reading);
            self.walker = Some(Box::new(Walker::reading(reading, &limits)));
            for step in raw.bytes.chunks(WALK_STEP_BYTES) {
                self.walk(|walker| walker.feed(step));
                self.jobs.collect_ready(&mut self.findings);
                if self.findings.found.is_some() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            self.walk(Walker::finish);
            let Some(walker) = self.walker.take() else { return };
            limits = less(&limits, &walker);
            let seen = walker.oddities();
            oddities = Oddities { structure: oddities.structure, ..oddities.or(seen) };
            self.open.clear();
        }
    }

    /// Runs the walker and takes what it gives. A bug in it costs this mail its verdict, no more.
    fn walk(&mut self, step: impl FnOnce(&mut Walker)) {
        let Some(walker) = &mut self.walker else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            step(walker);
            let events: Vec<Event> = std::iter::from_fn(|| walker.poll_event()).collect();
            (events, walker.parts(), walker.held_bytes())
        }));
        let Ok((events, parts, held_bytes)) = outcome else {
            tracing::error!("the MIME walk panicked; this mail is unscannable");
            self.give_up(Unscannable::Ambiguous);
            return;
        };
        self.walk_parts = self.walk_parts.max(parts);
        if !self.walk_charge.set(held_bytes) {
            self.give_up(no_memory());
            return;
        }
        for event in events {
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::PartStart(head) => {
                let held = Held::new(&self.shared.budget);
                self.open.insert(head.number, Part { head, held });
            }
            Event::PartData { number, bytes } => {
                if let Some(part) = self.open.get_mut(&number)
                    && !part.held.extend(&bytes)
                {
                    self.give_up(no_memory());
                }
            }
            Event::PartEnd { number } => {
                if let Some(part) = self.open.remove(&number) {
                    let held = part.held.share();
                    let unpacked = self.shared.engines.iter().any(|engine| engine.opens_archives());
                    if !unpacked && is_archive(&held.bytes) {
                        self.findings.note(Unscannable::Archive);
                    }
                    self.jobs.submit(&self.shared, part.head, &held);
                }
            }
            Event::Finding(finding) => self.findings.note(finding),
        }
    }

    /// Nothing more is looked at; what the engines have already may still be found infected.
    fn give_up(&mut self, why: Unscannable) {
        self.findings.note(why);
        self.stop();
    }

    fn stop(&mut self) {
        self.walker = None;
        self.walk_charge.set(0);
        self.open.clear();
        self.held = Held::new(&self.shared.budget);
    }
}

/// What is left of the limits after this walk.
fn less(limits: &Limits, walker: &Walker) -> Limits {
    Limits {
        decoded_bytes_max: limits.decoded_bytes_max.saturating_sub(walker.decoded_bytes()),
        parts_max: limits.parts_max.saturating_sub(walker.parts()),
        ..limits.clone()
    }
}

fn no_memory() -> Unscannable {
    Unscannable::EngineFailed {
        engine: PIPELINE.to_owned(),
        why: "too much mail is being scanned at a time".to_owned(),
    }
}

/// What is known so far.
#[derive(Debug, Default)]
struct Findings {
    found: Option<(Order, Finding)>,
    unscannable: Option<Unscannable>,
}

impl Findings {
    /// Keeps the reason that weighs most.
    fn note(&mut self, why: Unscannable) {
        if self.unscannable.as_ref().is_none_or(|kept| weight(&why) > weight(kept)) {
            self.unscannable = Some(why);
        }
    }

    fn take(&mut self, done: Done) {
        let Done { engine, part, file_name, outcome, order } = done;
        match outcome {
            EngineOutcome::Clean => {}
            EngineOutcome::Found(name) => {
                let name = printable(&name, FINDING_NAME_BYTES_MAX);
                let finding = Finding { name, engine, part, file_name };
                if self.found.as_ref().is_none_or(|(kept, _)| order < *kept) {
                    self.found = Some((order, finding));
                }
            }
            EngineOutcome::Encrypted => self.note(Unscannable::Encrypted),
            EngineOutcome::OverSize => self.note(Unscannable::OverSize),
            EngineOutcome::Limit(why) => self.note(Unscannable::EngineLimit { engine, why }),
            EngineOutcome::Failed(why) => {
                self.note(Unscannable::EngineFailed { engine, why });
            }
        }
    }

    fn verdict(self) -> Verdict {
        match (self.found, self.unscannable) {
            (Some((_, finding)), _) => Verdict::Infected(finding),
            (None, Some(why)) => Verdict::Unscannable(why),
            (None, None) => Verdict::Clean,
        }
    }
}

/// Which reason counts where there are several: the more suspicious the mail, the more it weighs, so that
/// an encrypted part does not hide a structure that nobody can read.
fn weight(why: &Unscannable) -> u8 {
    match why {
        Unscannable::Ambiguous => 10,
        Unscannable::OverDepth => 9,
        Unscannable::OverParts => 8,
        Unscannable::OverDecoded => 7,
        Unscannable::Partial => 6,
        Unscannable::EngineFailed { .. } => 5,
        Unscannable::OverTime => 4,
        Unscannable::EngineLimit { .. } => 3,
        Unscannable::OverSize => 2,
        Unscannable::Encrypted => 1,
        Unscannable::Archive => 0,
    }
}

/// What engines are looking at.
#[derive(Debug)]
struct Jobs {
    tasks: JoinSet<Done>,
    /// Which engine a task asks, for the case that it panics.
    asked: HashMap<Id, String>,
    turns: Arc<Semaphore>,
    /// Objects that were submitted, so that the same bytes are not looked at twice. The keys are secret:
    /// nobody can make a collision.
    seen: HashSet<(usize, u64)>,
    keys: RandomState,
}

/// Which of several findings is named, the least: always the same one for the same mail, whichever
/// engine is quicker. A part says more than the message; then what stands first in the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    is_message: bool,
    /// Number of the object, as submitted.
    object: usize,
    /// Number of the engine, as configured.
    engine: usize,
}

#[derive(Debug)]
struct Done {
    order: Order,
    engine: String,
    part: u32,
    file_name: Option<String>,
    outcome: EngineOutcome,
}

impl Jobs {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            asked: HashMap::new(),
            turns: Arc::new(Semaphore::new(OBJECTS_AT_ONCE_MAX)),
            seen: HashSet::new(),
            keys: RandomState::new(),
        }
    }

    /// Gives an object to every engine.
    fn submit(&mut self, shared: &Shared, head: PartHead, held: &Arc<SharedBytes>) {
        let key = (held.bytes.len(), self.keys.hash_one(&held.bytes));
        if held.bytes.is_empty() && head.number > 0 || !self.seen.insert(key) {
            return;
        }
        let file_name = head.file_names.into_iter().next();
        let (is_message, object) = (head.number == 0, self.seen.len());
        for (number, engine) in shared.engines.iter().enumerate() {
            let order = Order { is_message, object, engine: number };
            if head.verbatim && engine.reads_mail() {
                continue;
            }
            let (engine, held, turns) =
                (Arc::clone(engine), Arc::clone(held), Arc::clone(&self.turns));
            let (part, file_name) = (head.number, file_name.clone());
            let name = engine.name().to_owned();
            let task = self.tasks.spawn(async move {
                // The semaphore is never closed; without a permit the bound is lost, not the scan.
                let _turn = turns.acquire().await;
                let bytes = held.bytes.clone();
                let object = Object { part, content: bytes.into(), file_name: file_name.clone() };
                let outcome = engine.scan(object).await;
                Done { order, engine: engine.name().to_owned(), part, file_name, outcome }
            });
            self.asked.insert(task.id(), name);
        }
    }

    /// Takes the answers that are there.
    fn collect_ready(&mut self, findings: &mut Findings) {
        while let Some(done) = self.tasks.try_join_next_with_id() {
            self.take(done, findings);
        }
    }

    /// Waits for all answers; once something is found, for [`AFTER_FOUND_MAX`] only.
    async fn collect_all(&mut self, findings: &mut Findings) {
        while findings.found.is_none() {
            let Some(done) = self.tasks.join_next_with_id().await else { return };
            self.take(done, findings);
        }
        let rest = async {
            while let Some(done) = self.tasks.join_next_with_id().await {
                self.take(done, findings);
            }
        };
        // What is missing then belongs to an engine that hangs; the mail is refused without it.
        let _ = tokio::time::timeout(AFTER_FOUND_MAX, rest).await;
    }

    fn take(&mut self, done: Result<(Id, Done), JoinError>, findings: &mut Findings) {
        match done {
            Ok((id, done)) => {
                self.asked.remove(&id);
                findings.take(done);
            }
            Err(error) => {
                let engine = self.asked.remove(&error.id()).unwrap_or_else(|| PIPELINE.to_owned());
                let why = "the engine panicked".to_owned();
                findings.note(Unscannable::EngineFailed { engine, why });
            }
        }
    }
}

/// How many bytes all mails together may hold.
#[derive(Debug)]
struct Budget {
    used: AtomicUsize,
    bytes_max: usize,
}

impl Budget {
    fn take(&self, bytes: usize) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.bytes_max)
            })
            .is_ok()
    }
}

/// Bytes that count against the budget until they are dropped.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    charge: Charge,
}

#[derive(Debug)]
struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

/// The same, complete and shared by the engines.
#[derive(Debug)]
struct SharedBytes {
    bytes: Bytes,
    _charge: Charge,
}

impl Held {
    fn new(budget: &Arc<Budget>) -> Self {
        let charge = Charge { budget: Arc::clone(budget), bytes: 0 };
        Self { bytes: Vec::new(), charge }
    }

    /// Whether there was room for them.
    fn extend(&mut self, bytes: &[u8]) -> bool {
        let room = self.charge.set(self.charge.bytes + bytes.len());
        if room {
            self.bytes.extend_from_slice(bytes);
        }
        room
    }

    fn share(self) -> Arc<SharedBytes> {
        Arc::new(SharedBytes { bytes: self.bytes.into(), _charge: self.charge })
    }
}

impl Charge {
    /// Changes it to this many bytes; whether there was room.
    fn set(&mut self, bytes: usize) -> bool {
        let room = match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.take(more),
            None => {
                self.budget.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
                true
            }
        };
        if room {
            self.bytes = bytes;
        }
        room
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
