//! Runs everything, and counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::argued::Argued;
use crate::carry::Road;
use crate::case::{Case, Column, Expect, Outcome, Path, Setup, Standing};
use crate::own::smtp::Session;
use crate::program::{self, Options};
use crate::script::Script;
use crate::{corpus, dialogue, judge, own, run, script};

/// Mails under way at once through one gateway.
const MAILS_AT_ONCE: usize = 12;
/// Scripted sessions at once; each has a gateway of its own.
const SESSIONS_AT_ONCE: usize = 10;

/// Sessions of the corpus that are not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("S13-slowloris-cmd", "takes 33 minutes; the time limit of a line is tested in `mail`"),
    (
        "P13b-slow-server",
        "takes 7 minutes; what a client gets while a message is held is tested in `mail`",
    ),
];

/// What one part of the run gave: our own cases, or the corpus.
#[derive(Debug, Default)]
pub struct Tally {
    /// Mails by source and path.
    pub mails: BTreeMap<(String, Path), Counts>,
    /// Sessions by source.
    pub sessions: BTreeMap<String, SessionCounts>,
    /// Arguments used, by their number in the file, with how often.
    pub argued: BTreeMap<usize, usize>,
    /// Outcomes that nothing argues, a line each.
    pub unargued: BTreeSet<String>,
    /// What was not run, with the reason, a line each.
    pub not_run: BTreeSet<String>,
}

/// See [`Tally::mails`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// All, run or not.
    pub cases: usize,
    /// By what became of them.
    pub columns: BTreeMap<Column, usize>,
    /// Of those passed: counted as not scanned in full.
    pub unscannable: usize,
    /// Not run.
    pub not_run: usize,
}

/// See [`Tally::sessions`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// All, run or not.
    pub cases: usize,
    /// As their rule says.
    pub as_expected: usize,
    /// Otherwise.
    pub otherwise: usize,
    /// Not run.
    pub not_run: usize,
}

/// Our own cases.
///
/// # Errors
///
/// When the program or the machine does not allow it.
pub async fn own(argued: &Argued) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    tally.run_mails(own::cases(), argued).await?;
    let mut sessions = own::smtp::sessions();
    sessions.extend(own::pop3::sessions());
    tally.run_sessions(sessions.into_iter().map(Scripted::Own).collect()).await?;
    Ok(tally)
}

/// The corpus. `None` where there is none.
///
/// # Errors
///
/// When the corpus, the program or the machine does not allow it.
pub async fn corpus(argued: &Argued) -> anyhow::Result<Option<Tally>> {
    let Some(corpus) = corpus::load()? else { return Ok(None) };
    let mut tally = Tally::default();
    for name in corpus.without_mail {
        let source = name.split('/').next().unwrap_or_default().to_owned();
        for path in Path::ALL {
            let counts = tally.mails.entry((source.clone(), path)).or_default();
            counts.cases += 1;
            counts.not_run += 1;
        }
        tally.not_run.insert(format!("{source}: files without a mail in them"));
    }
    tally.run_mails(corpus.cases, argued).await?;
    let mut sessions: Vec<Scripted> = Vec::new();
    sessions.extend(script::load_all()?.unwrap_or_default().into_iter().map(Scripted::Authored));
    sessions.extend(dialogue::load()?.into_iter().map(Scripted::Dialogue));
    tally.run_sessions(sessions).await?;
    Ok(Some(tally))
}

impl Tally {
    /// Nothing that would have to be mended or argued.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.unargued.is_empty()
    }

    async fn run_mails(&mut self, cases: Vec<Case>, argued: &Argued) -> anyhow::Result<()> {
        let mut by_setup: BTreeMap<Setup, Vec<Case>> = BTreeMap::new();
        for case in cases {
            by_setup.entry(case.setup).or_default().push(case);
        }
        for (setup, cases) in by_setup {
            if setup == Setup::Block && !program::knows("--block").await? {
                self.skip(&cases, "avr listen has no --block");
                continue;
            }
            self.run_setup(setup, cases.into(), argued).await?;
        }
        Ok(())
    }

    fn skip(&mut self, cases: &[Case], why: &str) {
        for case in cases {
            for path in Path::ALL {
                let counts = self.mails.entry((case.source.clone(), path)).or_default();
                counts.cases += 1;
                counts.not_run += 1;
            }
            self.not_run.insert(format!("{}: {why}", case.source));
        }
    }

    async fn run_setup(
        &mut self,
        setup: Setup,
        cases: Arc<[Case]>,
        argued: &Argued,
    ) -> anyhow::Result<()> {
        let rules = tempfile::tempdir().context("make a folder for the rules")?;
        std::fs::write(rules.path().join("corpus.yar"), setup.rules())
            .context("write the rules")?;
        let options =
            Options { rules: Some(rules.path().to_owned()), arguments: setup.arguments() };
        let road = Arc::new(Road::build(Arc::clone(&cases), &options).await?);
        let permits = Arc::new(Semaphore::new(MAILS_AT_ONCE));
        let mut running = JoinSet::new();
        for number in 0..cases.len() {
            for path in Path::ALL {
                let (cases, road) = (Arc::clone(&cases), Arc::clone(&road));
                let permits = Arc::clone(&permits);
                running.spawn(async move {
                    let _permit = permits.acquire().await;
                    let case = cases.get(number).context("a case of these")?;
                    let outcome = road.carry(number, case, path).await;
                    let outcome = outcome.with_context(|| case.name.clone())?;
                    anyhow::Ok((number, path, outcome))
                });
            }
        }
        while let Some(done) = running.join_next().await {
            let (number, path, outcome) = done.context("a case panicked")??;
            let case = cases.get(number).context("a case of these")?;
            self.count(case, path, &outcome, argued);
        }
        Ok(())
    }

    fn count(&mut self, case: &Case, path: Path, outcome: &Outcome, argued: &Argued) {
        let (column, standing) = case.expect.judge(outcome);
        let counts = self.mails.entry((case.source.clone(), path)).or_default();
        counts.cases += 1;
        *counts.columns.entry(column).or_default() += 1;
        if matches!(outcome, Outcome::Unchanged(Some(_))) && column == Column::Passed {
            counts.unscannable += 1;
        }
        let argument = argued.find(&case.name, path, column);
        match (standing, argument) {
            (Standing::AsExpected, _) => {}
            (Standing::ToBeArgued, Some(number)) => {
                *self.argued.entry(number).or_default() += 1;
            }
            (Standing::ToBeArgued | Standing::Wrong, _) => {
                let why = detail(outcome, case.expect);
                self.unargued.insert(format!("{} ({}): {column}: {why}", case.name, path.name()));
            }
        }
    }

    async fn run_sessions(&mut self, sessions: Vec<Scripted>) -> anyhow::Result<()> {
        let rules = tempfile::tempdir().context("make a folder for the rules")?;
        std::fs::write(rules.path().join("corpus.yar"), Setup::Mail.rules())?;
        let options = Options::with_rules(rules.path());
        let permits = Arc::new(Semaphore::new(SESSIONS_AT_ONCE));
        let mut running = JoinSet::new();
        for session in sessions {
            let counts = self.sessions.entry(session.source()).or_default();
            counts.cases += 1;
            let id = session.id();
            if let Some((_, why)) = NOT_RUN.iter().find(|(name, _)| *name == id) {
                counts.not_run += 1;
                self.not_run.insert(format!("{id}: {why}"));
                continue;
            }
            let (options, permits) = (options.clone(), Arc::clone(&permits));
            running.spawn(async move {
                let _permit = permits.acquire().await;
                let judged = session.judge(&options).await;
                (session.source(), session.id(), judged)
            });
        }
        while let Some(done) = running.join_next().await {
            let (source, id, judged) = done.context("a session panicked")?;
            let counts = self.sessions.entry(source).or_default();
            match judged {
                Ok(()) => counts.as_expected += 1,
                Err(why) => {
                    counts.otherwise += 1;
                    self.unargued.insert(format!("{id}: {why}"));
                }
            }
        }
        Ok(())
    }
}

/// What is said of an outcome that is not argued.
fn detail(outcome: &Outcome, expect: Expect) -> String {
    match outcome {
        Outcome::Detected(name) => format!("as {name}"),
        Outcome::Refused(why) | Outcome::Altered(why) => why.clone(),
        Outcome::Unchanged(None) => format!("reported clean, expected {expect:?}"),
        Outcome::Unchanged(Some(verdict)) => format!("passed as {verdict}"),
        Outcome::Hung => "no end".to_owned(),
    }
}

/// A scripted session of any kind.
enum Scripted {
    Authored(Script),
    Own(Session),
    Dialogue(dialogue::Dialogue),
}

impl Scripted {
    fn id(&self) -> String {
        match self {
            Self::Authored(script) => script.id.clone(),
            Self::Own(session) => session.script.id.clone(),
            Self::Dialogue(dialogue) => dialogue.name.clone(),
        }
    }

    fn source(&self) -> String {
        match self {
            Self::Authored(script) => format!("authored-sessions/{}", script.proto),
            Self::Own(session) => format!("own/{}", session.script.proto),
            Self::Dialogue(dialogue) => dialogue.source(),
        }
    }

    async fn judge(&self, options: &Options) -> Result<(), String> {
        let script = match self {
            Self::Authored(script) => script,
            Self::Own(session) => &session.script,
            Self::Dialogue(dialogue) => &dialogue.script,
        };
        let transcript = run::run(script, options).await.map_err(|error| format!("{error:#}"))?;
        match self {
            Self::Authored(script) => judge::judge(script, &transcript),
            Self::Own(session) => session.judge(&transcript),
            Self::Dialogue(dialogue) => dialogue.judge(&transcript),
        }
    }
}
