//! Puts the workers and the engines together: one mail in, one verdict out.
//!
//! While a mail arrives its bytes are kept ([`spool`]). At its end a worker takes it apart and looks at
//! every piece; beside it the engines elsewhere are asked about the message and about those pieces that
//! they might read otherwise. An engine that takes mail apart itself ([`Engine::reads_mail`]: clamd)
//! gets the raw message and the parts that do not stand in it word for word.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use spool::{Spool, Spooled, Spooler};
use telemetry::chain;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::analysis::{Analysis, Export, heaviest, note};
use crate::engine::cache::CacheCounts;
use crate::engine::{Counts, ServerNumbers, printable};
use crate::mime::Summary;
use crate::worker::pool::{ExportedObject, PoolError, WorkerNumbers, Workers};
use crate::{
    Engine, EngineOutcome, EngineReport, FINDING_NAME_BYTES_MAX, Finding, Limits, Object, Report,
    Unscannable, Verdict,
};

/// How long the other engines may take to answer once one has found something, so that of several
/// findings the same one is named each time.
const AFTER_FOUND_MAX: Duration = Duration::from_secs(2);

/// Most objects of one mail that engines elsewhere look at at a time.
pub const OBJECTS_AT_ONCE_MAX: usize = 16;

/// Objects that a worker has handed out and nobody has taken yet.
const EXPORTED_MAX: usize = 4;

/// What stands for the pipeline itself where an engine is named.
const PIPELINE: &str = "scan";

/// Name under which the workers' time is reported.
const ANALYSIS: &str = "analysis";

/// Shared by all sessions; cheap to clone.
#[derive(Debug, Clone)]
pub struct Scanner {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    workers: Workers,
    engines: Vec<Arc<dyn Engine>>,
    limits: Limits,
    spooler: Spooler,
    /// Mails by the reason why they were not scanned in full.
    unscannable: Mutex<BTreeMap<&'static str, u64>>,
}

/// How scanning went since the program started, for status pages.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ScanNumbers {
    /// The processes that take mails apart.
    pub workers: WorkerNumbers,
    /// Mails by the reason ([`Unscannable::kind`]) why they were not scanned in full.
    pub unscannable: BTreeMap<&'static str, u64>,
    /// The engines elsewhere, by name.
    pub engines: BTreeMap<String, EngineNumbers>,
    /// The servers of the engines elsewhere, by the engine's name.
    pub servers: BTreeMap<String, Vec<ServerNumbers>>,
    /// Bytes that wait for their verdicts now.
    pub spool_bytes: u64,
}

/// How an engine elsewhere did since the program started, in objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct EngineNumbers {
    /// What it was asked and answered.
    #[serde(flatten)]
    pub counts: Counts,
    /// What it was not asked, because the answer was known; `null` where nothing is remembered.
    pub cache: Option<CacheCounts>,
}

/// `clamd: asked=7 found=1 failed=0 retried=0 hits=3 misses=7 entries=7`, one after the other.
impl fmt::Display for ScanNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, EngineNumbers { counts, cache })) in self.engines.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            let Counts { asked, found, failed, retried } = counts;
            write!(f, "{separator}{name}: asked={asked} found={found} failed={failed} ")?;
            write!(f, "retried={retried}")?;
            if let Some(CacheCounts { hits, misses, entries }) = cache {
                write!(f, " hits={hits} misses={misses} entries={entries}")?;
            }
        }
        Ok(())
    }
}

impl Scanner {
    /// A scanner with these workers, and with these engines elsewhere beside them.
    #[must_use]
    pub fn new(
        workers: Workers,
        engines: Vec<Arc<dyn Engine>>,
        limits: Limits,
        spooler: Spooler,
    ) -> Self {
        let unscannable = Mutex::default();
        Self { shared: Arc::new(Shared { workers, engines, limits, spooler, unscannable }) }
    }

    /// Opens the scan of one mail.
    #[must_use]
    pub fn begin(&self) -> MailScan {
        MailScan {
            spool: Some(self.shared.spooler.open()),
            bytes: 0,
            unscannable: Vec::new(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Where mails are kept while they are scanned.
    #[must_use]
    pub fn spooler(&self) -> &Spooler {
        &self.shared.spooler
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.shared.workers
    }

    /// How it went.
    #[must_use]
    pub fn numbers(&self) -> ScanNumbers {
        let unscannable = self.shared.unscannable.lock().unwrap_or_else(PoisonError::into_inner);
        ScanNumbers {
            workers: self.shared.workers.numbers(),
            unscannable: unscannable.clone(),
            engines: self
                .shared
                .engines
                .iter()
                .map(|engine| {
                    let numbers =
                        EngineNumbers { counts: engine.counts(), cache: engine.cache_counts() };
                    (engine.name().to_owned(), numbers)
                })
                .collect(),
            servers: self
                .shared
                .engines
                .iter()
                .map(|engine| (engine.name().to_owned(), engine.servers()))
                .filter(|(_, servers)| !servers.is_empty())
                .collect(),
            spool_bytes: self.shared.spooler.bytes(),
        }
    }
}

impl Shared {
    fn count(&self, reasons: &[Unscannable]) {
        let mut unscannable = self.unscannable.lock().unwrap_or_else(PoisonError::into_inner);
        for why in reasons {
            *unscannable.entry(why.kind()).or_default() += 1;
        }
    }
}

/// The scan of one mail. Dropping it ends it.
#[derive(Debug)]
pub struct MailScan {
    shared: Arc<Shared>,
    /// Gone when the mail cannot be kept.
    spool: Option<Spool>,
    bytes: u64,
    unscannable: Vec<Unscannable>,
}

impl MailScan {
    /// Takes the next bytes of the raw message.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len().try_into().unwrap_or(u64::MAX));
        let Some(spool) = &mut self.spool else { return };
        if self.bytes > self.shared.limits.message_bytes_max.try_into().unwrap_or(u64::MAX) {
            self.give_up(Unscannable::OverSize);
        } else if let Err(error) = spool.write(bytes) {
            tracing::warn!(error = %error, "a mail cannot be kept for its scan");
            self.give_up(failed(PIPELINE, "the mail could not be kept for its scan"));
        }
    }

    fn give_up(&mut self, why: Unscannable) {
        note(&mut self.unscannable, why);
        self.spool = None;
    }

    /// All has been fed: the verdict. To be called in a tokio runtime.
    pub async fn finish(self) -> Report {
        let started = Instant::now();
        let Self { shared, spool, bytes, unscannable } = self;
        let Some(content) = spool.map(Spool::finish) else {
            shared.count(&unscannable);
            let why = heaviest(&unscannable).cloned().unwrap_or(Unscannable::OverSize);
            return Report {
                verdict: Verdict::Unscannable(why),
                blocked: None,
                unscannable,
                bytes,
                parts: 0,
                waited: Duration::ZERO,
                engines: Vec::new(),
                content: None,
                summary: Summary::default(),
            };
        };
        let deadline = started + shared.limits.time_max;
        let mut judgement = Judgement::new(&shared);
        judgement.run(&content, deadline).await;
        let report = judgement.finish(bytes, started.elapsed(), content);
        shared.count(&report.unscannable);
        report
    }
}

fn failed(engine: &str, why: &str) -> Unscannable {
    Unscannable::EngineFailed { engine: engine.to_owned(), why: why.to_owned() }
}

/// What is being found out about one mail.
struct Judgement<'a> {
    shared: &'a Arc<Shared>,
    asked: Asked,
    found: Option<(Order, Finding)>,
    blocked: Option<Finding>,
    unscannable: Vec<Unscannable>,
    parts: u32,
    engines: BTreeMap<String, EngineReport>,
    summary: Summary,
}

impl<'a> Judgement<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            shared,
            asked: Asked::new(),
            found: None,
            blocked: None,
            unscannable: Vec::new(),
            parts: 0,
            engines: BTreeMap::new(),
            summary: Summary::default(),
        }
    }

    async fn run(&mut self, content: &Spooled, deadline: Instant) {
        let message = ExportedObject { part: 0, file_name: None, content: content.clone() };
        self.asked.submit(&self.shared.engines, &message);
        let started = Instant::now();
        let analysis = self.analyze(content).await;
        let time = started.elapsed();
        let outcome = outcome_of(&analysis);
        let name = ANALYSIS.to_owned();
        self.engines.insert(name.clone(), EngineReport { name, outcome, time });
        match analysis {
            Ok(analysis) => self.take_analysis(analysis),
            Err(error) => self.take_failure(&error),
        }
        if self.found.is_some() {
            return;
        }
        if tokio::time::timeout_at(deadline, self.collect()).await.is_err() {
            let names: BTreeSet<_> = self.asked.names.values().cloned().collect();
            for name in names {
                let outcome = EngineOutcome::Failed("no answer in time".to_owned());
                self.report(&name, &outcome, started.elapsed());
                note(&mut self.unscannable, failed(&name, "no answer in time"));
            }
        }
    }

    /// A worker takes the mail apart, and the engines get what it hands out. It goes on to its end
    /// even if this session does not: a worker that is stopped has to be replaced.
    async fn analyze(&mut self, content: &Spooled) -> Result<Analysis, PoolError> {
        let engines = &self.shared.engines;
        let export = engines
            .iter()
            .map(|engine| if engine.reads_mail() { Export::Odd } else { Export::Parts })
            .max()
            .unwrap_or(Export::Nothing);
        let (exported, mut objects) = mpsc::channel(EXPORTED_MAX);
        let (shared, content) = (Arc::clone(self.shared), content.clone());
        let time = shared.limits.time_max;
        let analysis = tokio::spawn(async move {
            shared.workers.scan(&content, export, time, &shared.spooler, &exported).await
        });
        while let Some(object) = objects.recv().await {
            self.asked.submit(engines, &object);
        }
        analysis.await.unwrap_or_else(|error| Err(PoolError::Start(std::io::Error::other(error))))
    }

    fn take_analysis(&mut self, analysis: Analysis) {
        let Analysis { found, blocked, unscannable, parts, summary, objects: _ } = analysis;
        self.parts = parts;
        self.summary = summary;
        self.blocked = blocked;
        self.found = found.map(|finding| (Order::LOCAL, finding));
        for why in unscannable {
            // What an engine elsewhere opens is looked at there, or that engine fails and says so.
            let is_opened = match &why {
                Unscannable::Archive { format } => {
                    self.shared.engines.iter().any(|engine| engine.opens(format))
                }
                _ => false,
            };
            if !is_opened {
                note(&mut self.unscannable, why);
            }
        }
    }

    fn take_failure(&mut self, error: &PoolError) {
        tracing::warn!(error = chain(error), "a mail was not analyzed");
        let why = match error {
            PoolError::Died(_) => Unscannable::Crashed,
            PoolError::TimedOut => Unscannable::OverTime,
            PoolError::Busy | PoolError::Start(_) | PoolError::Spool(_) => {
                failed(ANALYSIS, &error.to_string())
            }
        };
        note(&mut self.unscannable, why);
    }

    /// Waits for all answers; once something is found, for [`AFTER_FOUND_MAX`] only.
    async fn collect(&mut self) {
        let mut found_deadline = None;
        loop {
            let next = self.asked.next();
            let done = match found_deadline {
                None => next.await,
                // What is missing then belongs to an engine that hangs; the mail is refused without it.
                Some(until) => match tokio::time::timeout_at(until, next).await {
                    Ok(done) => done,
                    Err(_) => return,
                },
            };
            let Some(done) = done else { return };
            self.take(done);
            if self.found.is_some() && found_deadline.is_none() {
                found_deadline = Some(Instant::now() + AFTER_FOUND_MAX);
            }
        }
    }

    fn take(&mut self, done: Done) {
        let Done { order, engine, part, file_name, outcome, time } = done;
        self.report(&engine, &outcome, time);
        let unscannable = &mut self.unscannable;
        match outcome {
            EngineOutcome::Clean => {}
            EngineOutcome::Found(name) => {
                let name = printable(&name, FINDING_NAME_BYTES_MAX);
                let finding = Finding { name, engine, part, file_name, range: None };
                if self.found.as_ref().is_none_or(|(kept, _)| order < *kept) {
                    self.found = Some((order, finding));
                }
            }
            EngineOutcome::Encrypted => note(unscannable, Unscannable::Encrypted),
            EngineOutcome::OverSize => note(unscannable, Unscannable::OverSize),
            EngineOutcome::Limit(why) => {
                note(unscannable, Unscannable::EngineLimit { engine, why });
            }
            EngineOutcome::Failed(why) => {
                note(unscannable, Unscannable::EngineFailed { engine, why });
            }
        }
    }

    /// Of an engine that is asked about several objects, what matters most is reported.
    fn report(&mut self, engine: &str, outcome: &EngineOutcome, time: Duration) {
        let report = self.engines.entry(engine.to_owned()).or_insert_with(|| EngineReport {
            name: engine.to_owned(),
            outcome: CLEAN.to_owned(),
            time: Duration::ZERO,
        });
        report.time = report.time.max(time);
        let has_found = report.outcome.starts_with(FOUND);
        match outcome {
            EngineOutcome::Clean => {}
            EngineOutcome::Found(name) => {
                report.outcome = format!("{FOUND}: {}", printable(name, FINDING_NAME_BYTES_MAX));
            }
            _ if has_found => {}
            EngineOutcome::Encrypted => "encrypted".clone_into(&mut report.outcome),
            EngineOutcome::OverSize => "too large".clone_into(&mut report.outcome),
            EngineOutcome::Limit(why) | EngineOutcome::Failed(why) => {
                report.outcome = printable(why, OUTCOME_BYTES_MAX);
            }
        }
    }

    fn finish(self, bytes: u64, waited: Duration, content: Spooled) -> Report {
        let named = self.found.map(|(_, finding)| finding).or_else(|| self.blocked.clone());
        let verdict = match (named, heaviest(&self.unscannable)) {
            (Some(finding), _) => Verdict::Infected(finding),
            (None, Some(why)) => Verdict::Unscannable(why.clone()),
            (None, None) => Verdict::Clean,
        };
        Report {
            verdict,
            blocked: self.blocked,
            unscannable: self.unscannable,
            bytes,
            parts: self.parts,
            waited,
            engines: self.engines.into_values().collect(),
            content: Some(content),
            summary: self.summary,
        }
    }
}

/// How outcomes are reported.
const CLEAN: &str = "clean";
const FOUND: &str = "infected";
/// Longest text of an outcome that is reported, bytes.
const OUTCOME_BYTES_MAX: usize = 128;

/// What the analysis came to, in a few words.
fn outcome_of(analysis: &Result<Analysis, PoolError>) -> String {
    match analysis {
        Ok(Analysis { found: Some(finding), .. }) => format!("{FOUND}: {}", finding.name),
        Ok(Analysis { blocked: Some(finding), .. }) => format!("{FOUND}: {}", finding.name),
        Ok(analysis) => {
            heaviest(&analysis.unscannable).map_or_else(|| CLEAN.to_owned(), ToString::to_string)
        }
        Err(error) => error.to_string(),
    }
}

/// Which of several findings is named, the least: always the same one for the same mail, whichever
/// engine is quicker. What our own analysis finds comes first; then a part, which says more than the
/// message; then what stands first in the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    is_message: bool,
    /// Number of the object, as submitted.
    object: usize,
    /// Number of the engine, as configured.
    engine: usize,
}

impl Order {
    const LOCAL: Self = Self { is_message: false, object: 0, engine: 0 };
}

/// What engines elsewhere are looking at.
#[derive(Debug)]
struct Asked {
    tasks: JoinSet<Done>,
    /// Which engine a task asks, for the case that it panics.
    names: HashMap<Id, String>,
    turns: Arc<Semaphore>,
    objects: usize,
}

#[derive(Debug)]
struct Done {
    order: Order,
    engine: String,
    part: u32,
    file_name: Option<String>,
    outcome: EngineOutcome,
    time: Duration,
}

impl Asked {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            turns: Arc::new(Semaphore::new(OBJECTS_AT_ONCE_MAX)),
            objects: 0,
        }
    }

    /// Gives an object to every engine.
    fn submit(&mut self, engines: &[Arc<dyn Engine>], object: &ExportedObject) {
        self.objects += 1;
        for (number, engine) in engines.iter().enumerate() {
            let is_message = object.part == 0;
            let order = Order { is_message, object: self.objects, engine: number };
            let (engine, turns) = (Arc::clone(engine), Arc::clone(&self.turns));
            let name = engine.name().to_owned();
            let (part, file_name) = (object.part, object.file_name.clone());
            let content = object.content.clone();
            let task = self.tasks.spawn(async move {
                // The semaphore is never closed; without a permit the bound is lost, not the scan.
                let _turn = turns.acquire().await;
                let started = Instant::now();
                let object = Object { part, content, file_name: file_name.clone() };
                let outcome = engine.scan(object).await;
                let engine = engine.name().to_owned();
                Done { order, engine, part, file_name, outcome, time: started.elapsed() }
            });
            self.names.insert(task.id(), name);
        }
    }

    /// The next answer; `None` when there are no more.
    async fn next(&mut self) -> Option<Done> {
        let done = self.tasks.join_next_with_id().await?;
        Some(match done {
            Ok((id, done)) => {
                self.names.remove(&id);
                done
            }
            Err(error) => self.panicked(&error),
        })
    }

    fn panicked(&mut self, error: &JoinError) -> Done {
        Done {
            order: Order { is_message: true, object: usize::MAX, engine: usize::MAX },
            engine: self.names.remove(&error.id()).unwrap_or_else(|| PIPELINE.to_owned()),
            part: 0,
            file_name: None,
            outcome: EngineOutcome::Failed("the engine panicked".to_owned()),
            time: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
