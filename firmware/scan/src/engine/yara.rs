//! YARA-X rules, matched in this process.
//!
//! The rules are compiled once. A scanner maps gigabytes of address space and takes longer to set up
//! than to scan a small part, so each of a fixed number of threads keeps one; they serve a bounded
//! queue. A thread that panics in a scan answers "failed" and sets its scanner up anew.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use yara_x::{Compiler, MetaValue, Rules, ScanError, Scanner, SourceCode};

use super::{Engine, EngineOutcome, Object, ScanFuture};

/// Most threads that match rules.
pub const THREADS_MAX: usize = 8;
/// Objects that wait for a thread; who finds the queue full waits, within [`ANSWER_TIME_MAX`]. Holds
/// references only: the bytes are counted where they are kept.
pub const QUEUE_OBJECTS_MAX: usize = 256;
/// Longest scan of one object. The scanner looks at the clock once a second.
pub const SCAN_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest wait for an answer, the queue included.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(25);
/// Largest file of rules, bytes.
pub const RULE_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most files of rules in a folder.
pub const RULE_FILES_MAX: usize = 10_000;

/// The rules that are always there.
const EMBEDDED: &[(&str, &str)] = &[("eicar.yar", include_str!("../../rules/eicar.yar"))];

/// Why the rules cannot be used. All of them are for the operator to put right, but `Thread`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The folder cannot be listed.
    #[error("list the folder of rules {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too many files.
    #[error("the folder {} has more than {RULE_FILES_MAX} files of rules", path.display())]
    TooManyFiles {
        /// Which.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("read the rules {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is over [`RULE_FILE_BYTES_MAX`].
    #[error("the rules {} are larger than {RULE_FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// The rules in a file are wrong.
    #[error("compile the rules {origin}, line {line}: {report}")]
    Compile {
        /// The file.
        origin: String,
        /// Counted from 1; 0 where the compiler names none.
        line: usize,
        /// What the compiler says, with an excerpt.
        report: String,
    },
    /// No thread could be started.
    #[error("start a thread for YARA")]
    Thread(#[source] io::Error),
}

/// Matches rules. Cheap to share; the threads end with it.
pub struct YaraEngine {
    jobs: mpsc::Sender<Job>,
    threads: usize,
    rules: usize,
}

struct Job {
    bytes: Bytes,
    answer: oneshot::Sender<EngineOutcome>,
}

impl YaraEngine {
    /// The embedded rules, and all `*.yar` and `*.yara` files in `folder`.
    ///
    /// # Errors
    /// A file that cannot be read or does not compile; no rule is left out silently.
    pub fn new(folder: Option<&Path>) -> Result<Self, RulesError> {
        let mut sources = Vec::new();
        if let Some(folder) = folder {
            for path in rule_files(folder)? {
                sources.push((path.display().to_string(), read(&path)?));
            }
        }
        Self::with_sources(&sources)
    }

    /// The embedded rules and these: pairs of origin and text.
    ///
    /// # Errors
    /// Rules that do not compile.
    pub fn with_sources(sources: &[(String, String)]) -> Result<Self, RulesError> {
        let rules = Arc::new(compile(sources)?);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (jobs, queue) = mpsc::channel(QUEUE_OBJECTS_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let (rules, queue) = (Arc::clone(&rules), Arc::clone(&queue));
            std::thread::Builder::new()
                .name(format!("yara-{number}"))
                .spawn(move || while serve(&rules, &queue) == Ended::Panicked {})
                .map_err(RulesError::Thread)?;
        }
        Ok(Self { jobs, threads, rules: rules.iter().count() })
    }

    /// How many rules there are.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.rules
    }

    async fn ask(&self, bytes: Bytes) -> EngineOutcome {
        let (answer, outcome) = oneshot::channel();
        if self.jobs.send(Job { bytes, answer }).await.is_err() {
            return EngineOutcome::Failed("no thread is left".to_owned());
        }
        outcome.await.unwrap_or_else(|_| EngineOutcome::Failed("the scan panicked".to_owned()))
    }
}

impl fmt::Debug for YaraEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs: _, threads, rules } = self;
        f.debug_struct("YaraEngine").field("threads", threads).field("rules", rules).finish()
    }
}

impl Engine for YaraEngine {
    fn name(&self) -> &'static str {
        "yara"
    }

    fn scan(&self, object: Object) -> ScanFuture<'_> {
        Box::pin(async move {
            let Some(bytes) = object.content.in_memory().cloned() else {
                return EngineOutcome::Failed("not in memory".to_owned());
            };
            tokio::time::timeout(ANSWER_TIME_MAX, self.ask(bytes))
                .await
                .unwrap_or_else(|_| EngineOutcome::Failed("no answer in time".to_owned()))
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The engine is gone.
    Closed,
    /// The scanner may be in any state: set up another one.
    Panicked,
}

/// One thread: scans what comes, until the engine is gone.
fn serve(rules: &Rules, queue: &Mutex<mpsc::Receiver<Job>>) -> Ended {
    let mut scanner = Scanner::new(rules);
    scanner.set_timeout(SCAN_TIME_MAX).fast_scan(true);
    loop {
        // Whoever holds the lock waits for the next job, the others for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(Job { bytes, answer }) = job else { return Ended::Closed };
        // Nobody waits any more: its mail has its verdict.
        if answer.is_closed() {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(|| scan(&mut scanner, &bytes))) {
            // An error means that the caller has gone meanwhile.
            Ok(outcome) => drop(answer.send(outcome)),
            Err(_) => return Ended::Panicked,
        }
    }
}

fn scan(scanner: &mut Scanner<'_>, bytes: &[u8]) -> EngineOutcome {
    match scanner.scan(bytes) {
        Ok(results) => results.matching_rules().next().map_or(EngineOutcome::Clean, |rule| {
            let named = rule.metadata().find_map(|(key, value)| match value {
                MetaValue::String(name) if key == "name" => Some(name),
                _ => None,
            });
            EngineOutcome::Found(named.unwrap_or(rule.identifier()).to_owned())
        }),
        Err(ScanError::Timeout) => EngineOutcome::Limit("scan took too long".to_owned()),
        Err(error) => EngineOutcome::Failed(error.to_string()),
    }
}

fn compile(sources: &[(String, String)]) -> Result<Rules, RulesError> {
    let mut compiler = Compiler::new();
    // Rules come as single files; an include could read any file of this machine.
    compiler.enable_includes(false);
    let embedded = EMBEDDED.iter().map(|&(origin, text)| (origin, text));
    let given = sources.iter().map(|(origin, text)| (origin.as_str(), text.as_str()));
    for (origin, text) in embedded.chain(given) {
        // One namespace a file, so that two files may use one name.
        compiler.new_namespace(origin);
        if let Err(error) = compiler.add_source(SourceCode::from(text).with_origin(origin)) {
            let report = error.to_string();
            let line = line_of(&report);
            return Err(RulesError::Compile { origin: origin.to_owned(), line, report });
        }
    }
    Ok(compiler.build())
}

/// The line in a report of the compiler, which says ` --> origin:line:column`.
fn line_of(report: &str) -> usize {
    report
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("--> "))
        .and_then(|place| place.rsplit(':').nth(1))
        .and_then(|line| line.parse().ok())
        .unwrap_or(0)
}

/// In the order of their names, so that the same folder always gives the same rules.
fn rule_files(folder: &Path) -> Result<Vec<PathBuf>, RulesError> {
    let failed = |source| RulesError::Folder { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_rule = path.extension().is_some_and(|end| end == "yar" || end == "yara");
        if is_rule && path.is_file() {
            files.push(path);
        }
        if files.len() > RULE_FILES_MAX {
            return Err(RulesError::TooManyFiles { path: folder.to_owned() });
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, RulesError> {
    let failed = |source| RulesError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > RULE_FILE_BYTES_MAX {
        return Err(RulesError::TooLarge { path: path.to_owned() });
    }
    std::fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::eicar;

    async fn scan(engine: &YaraEngine, bytes: &[u8]) -> EngineOutcome {
        let bytes = Bytes::copy_from_slice(bytes);
        engine.scan(Object { part: 0, content: bytes.into(), file_name: None }).await
    }

    fn source(text: &str) -> Vec<(String, String)> {
        vec![("mine.yar".to_owned(), text.to_owned())]
    }

    #[tokio::test]
    async fn the_test_file_is_found_anywhere() {
        let engine = YaraEngine::new(None).unwrap();
        let found = EngineOutcome::Found("EICAR-Test-File".to_owned());
        assert_eq!(scan(&engine, &eicar()).await, found);
        assert_eq!(scan(&engine, &[vec![b'x'; 99_999], eicar(), vec![0]].concat()).await, found);
        assert_eq!(scan(&engine, b"hello").await, EngineOutcome::Clean);
        assert_eq!(scan(&engine, b"").await, EngineOutcome::Clean);
    }

    #[tokio::test]
    async fn all_rule_files_of_a_folder_count() {
        let folder = tempfile::tempdir().unwrap();
        let rule = |word| format!("rule x {{ strings: $a = \"{word}\" condition: $a }}");
        std::fs::write(folder.path().join("one.yar"), rule("cat")).unwrap();
        std::fs::write(folder.path().join("two.yara"), rule("dog")).unwrap();
        std::fs::write(folder.path().join("readme.txt"), "no rule").unwrap();
        let engine = YaraEngine::new(Some(folder.path())).unwrap();
        assert_eq!(engine.rules(), 3);
        for word in ["a cat", "a dog"] {
            assert_eq!(scan(&engine, word.as_bytes()).await, EngineOutcome::Found("x".to_owned()));
        }
    }

    #[test]
    fn bad_rules_are_refused_with_their_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.yar");
        std::fs::write(&path, "rule a { condition: true }\nrule b {\n condition: $x }\n").unwrap();
        let error = YaraEngine::new(Some(folder.path())).unwrap_err();
        let RulesError::Compile { origin, line, .. } = &error else { panic!("{error}") };
        assert_eq!((origin.as_str(), *line), (path.to_str().unwrap(), 3));
        assert!(error.to_string().contains("bad.yar, line 3"), "{error}");
    }

    #[test]
    fn includes_and_missing_folders_are_refused() {
        let error = YaraEngine::with_sources(&source("include \"/etc/passwd\"")).unwrap_err();
        assert!(matches!(error, RulesError::Compile { .. }), "{error}");
        let error = YaraEngine::new(Some(Path::new("/nonexistent/rules"))).unwrap_err();
        assert!(matches!(error, RulesError::Folder { .. }), "{error}");
    }

    #[tokio::test]
    async fn many_at_once_are_all_answered() {
        let engine = Arc::new(YaraEngine::new(None).unwrap());
        let mut jobs = tokio::task::JoinSet::new();
        for number in 0..2 * QUEUE_OBJECTS_MAX {
            let engine = Arc::clone(&engine);
            jobs.spawn(async move {
                let bytes = if number % 2 == 0 { eicar() } else { b"clean".to_vec() };
                (number, scan(&engine, &bytes).await)
            });
        }
        while let Some(done) = jobs.join_next().await {
            let (number, outcome) = done.unwrap();
            assert_eq!(matches!(outcome, EngineOutcome::Found(_)), number % 2 == 0);
        }
    }
}
