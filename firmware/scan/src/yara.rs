//! YARA-X rules: compiled once, then matched wherever a [`YaraEngine`] is set up.
//!
//! A scanner maps gigabytes of address space and takes longer to set up than to scan a small part, so
//! each worker process keeps one for all its mails; and two more for objects that stream by in windows,
//! where the rules allow it ([`CompiledRules::whole_because`]).

mod whole;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use yara_x::{Compiler, MetaValue, Rules, ScanError, ScanResults, Scanner, SourceCode, blocks};

use crate::analysis::{LocalEngine, LocalObject, Slot, Slots, Window};
use crate::engine::EngineOutcome;

/// Name of the engine.
pub const YARA: &str = "yara";
/// Longest scan of one object. The scanner looks at the clock once a second.
pub const SCAN_TIME_MAX: Duration = Duration::from_secs(10);
/// The same for one that streams by: all that goes on beside it counts. The time of its mail is shorter,
/// and is looked at between windows.
pub const WINDOWS_TIME_MAX: Duration = Duration::from_secs(300);
/// Largest file of rules, bytes.
pub const RULE_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most files of rules in a folder.
pub const RULE_FILES_MAX: usize = 10_000;

/// The rules that are always there.
const EMBEDDED: &[(&str, &str)] = &[("eicar.yar", include_str!("../rules/eicar.yar"))];

/// Why the rules cannot be used. All of them are for the operator to put right.
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
}

/// Rules that compiled, with how many there are.
#[derive(Debug)]
pub struct CompiledRules {
    rules: Rules,
    whole_because: Option<String>,
}

impl CompiledRules {
    /// The embedded rules, and all `*.yar` and `*.yara` files in `folder`.
    ///
    /// # Errors
    /// A file that cannot be read or does not compile; no rule is left out silently.
    pub fn load(folder: Option<&Path>) -> Result<Self, RulesError> {
        let mut sources = Vec::new();
        if let Some(folder) = folder {
            for path in rule_files(folder)? {
                sources.push((path.display().to_string(), read(&path)?));
            }
        }
        Self::from_sources(&sources)
    }

    /// The embedded rules and these: pairs of origin and text.
    ///
    /// # Errors
    /// Rules that do not compile.
    pub fn from_sources(sources: &[(String, String)]) -> Result<Self, RulesError> {
        let rules = compile(sources)?;
        Ok(Self { rules, whole_because: all(sources).find_map(whole::because) })
    }

    /// Why objects have to be in memory as a whole to be matched, if they have to: the first rule, and
    /// what in it. Otherwise large ones may stream by.
    #[must_use]
    pub fn whole_because(&self) -> Option<&str> {
        self.whole_because.as_deref()
    }

    /// How many rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rules.iter().count()
    }

    /// As bytes, for another process of the same program.
    ///
    /// # Errors
    /// When the library cannot; its own fault.
    pub fn to_bytes(&self) -> Result<Vec<u8>, yara_x::errors::SerializationError> {
        self.rules.serialize()
    }

    /// From [`Self::to_bytes`] of the same version of the program, and [`Self::whole_because`].
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn from_bytes(
        bytes: &[u8],
        whole_because: Option<String>,
    ) -> Result<Self, yara_x::errors::SerializationError> {
        Ok(Self { rules: Rules::deserialize(bytes)?, whole_because })
    }
}

/// Matches rules.
pub struct YaraEngine<'r> {
    scanner: Scanner<'r>,
    /// Only where the rules allow it.
    windows: Option<Slots<WindowScan<'r>>>,
}

impl<'r> YaraEngine<'r> {
    /// Sets up its scanners, which takes some hundred microseconds each.
    #[must_use]
    pub fn new(rules: &'r CompiledRules) -> Self {
        let mut scanner = Scanner::new(&rules.rules);
        scanner.set_timeout(SCAN_TIME_MAX).fast_scan(true);
        let windows = || Slots::new(WindowScan::new(&rules.rules), WindowScan::new(&rules.rules));
        Self { scanner, windows: rules.whole_because.is_none().then(windows) }
    }
}

impl fmt::Debug for YaraEngine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("YaraEngine").finish_non_exhaustive()
    }
}

impl LocalEngine for YaraEngine<'_> {
    fn name(&self) -> &'static str {
        YARA
    }

    fn scan(&mut self, object: &LocalObject<'_>) -> EngineOutcome {
        match self.scanner.scan(object.bytes) {
            Ok(results) => first(&results),
            Err(error) => failed(&error),
        }
    }

    fn begin(&mut self, slot: Slot, _: &[u8]) -> bool {
        self.windows.as_mut().map(|windows| windows.at(slot).begin()).is_some()
    }

    fn window(&mut self, slot: Slot, window: &Window<'_>) {
        if let Some(windows) = &mut self.windows {
            windows.at(slot).window(window);
        }
    }

    fn end(&mut self, slot: Slot, _: &[String]) -> EngineOutcome {
        match &mut self.windows {
            Some(windows) => windows.at(slot).end(),
            None => EngineOutcome::Failed("the rules need whole objects".to_owned()),
        }
    }
}

/// Matches an object that streams by.
struct WindowScan<'r> {
    rules: &'r Rules,
    scanner: blocks::Scanner<'r>,
    state: WindowState,
}

enum WindowState {
    /// Nothing was shown.
    Fresh,
    Shown,
    Failed(EngineOutcome),
}

impl<'r> WindowScan<'r> {
    fn new(rules: &'r Rules) -> Self {
        Self { rules, scanner: Self::scanner(rules), state: WindowState::Fresh }
    }

    fn scanner(rules: &'r Rules) -> blocks::Scanner<'r> {
        let mut scanner = blocks::Scanner::new(rules);
        scanner.set_timeout(WINDOWS_TIME_MAX).fast_scan(true);
        scanner
    }

    fn begin(&mut self) {
        match self.state {
            WindowState::Fresh => {}
            // An object that was not looked at to its end is still in the scanner.
            WindowState::Shown => drop(self.scanner.finish()),
            WindowState::Failed(_) => self.scanner = Self::scanner(self.rules),
        }
        self.state = WindowState::Fresh;
    }

    fn window(&mut self, window: &Window<'_>) {
        if matches!(self.state, WindowState::Failed(_)) {
            return;
        }
        self.state = match self.scanner.scan(window.at, window.bytes) {
            Ok(_) => WindowState::Shown,
            Err(error) => WindowState::Failed(failed(&error)),
        };
    }

    fn end(&mut self) -> EngineOutcome {
        match &self.state {
            WindowState::Failed(outcome) => outcome.clone(),
            WindowState::Fresh | WindowState::Shown => match self.scanner.finish() {
                Ok(results) => {
                    self.state = WindowState::Fresh;
                    first(&results)
                }
                Err(error) => failed(&error),
            },
        }
    }
}

/// The first rule that matches, by the name that its author gave it.
fn first(results: &ScanResults<'_, '_>) -> EngineOutcome {
    results.matching_rules().next().map_or(EngineOutcome::Clean, |rule| {
        let named = rule.metadata().find_map(|(key, value)| match value {
            MetaValue::String(name) if key == "name" => Some(name),
            _ => None,
        });
        EngineOutcome::Found(named.unwrap_or(rule.identifier()).to_owned())
    })
}

fn failed(error: &ScanError) -> EngineOutcome {
    match error {
        ScanError::Timeout => EngineOutcome::Limit("scan took too long".to_owned()),
        error => EngineOutcome::Failed(error.to_string()),
    }
}

/// The embedded rules, then these.
fn all(sources: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    let given = sources.iter().map(|(origin, text)| (origin.as_str(), text.as_str()));
    EMBEDDED.iter().copied().chain(given)
}

fn compile(sources: &[(String, String)]) -> Result<Rules, RulesError> {
    let mut compiler = Compiler::new();
    // Rules come as single files; an include could read any file of this machine.
    compiler.enable_includes(false);
    for (origin, text) in all(sources) {
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

    fn scan(rules: &CompiledRules, bytes: &[u8]) -> EngineOutcome {
        YaraEngine::new(rules).scan(&LocalObject { bytes, file_names: &[] })
    }

    #[test]
    fn the_test_file_is_found_anywhere_also_by_rules_that_crossed_as_bytes() {
        let rules = CompiledRules::load(None).unwrap();
        let rules = CompiledRules::from_bytes(&rules.to_bytes().unwrap(), None).unwrap();
        let found = EngineOutcome::Found("EICAR-Test-File".to_owned());
        assert_eq!(scan(&rules, &eicar()), found);
        assert_eq!(scan(&rules, &[vec![b'x'; 99_999], eicar(), vec![0]].concat()), found);
        assert_eq!(scan(&rules, b"hello"), EngineOutcome::Clean);
        assert_eq!(scan(&rules, b""), EngineOutcome::Clean);
        assert!(CompiledRules::from_bytes(b"rubbish", None).is_err());
    }

    #[test]
    fn all_rule_files_of_a_folder_count() {
        let folder = tempfile::tempdir().unwrap();
        let rule = |word| format!("rule x {{ strings: $a = \"{word}\" condition: $a }}");
        std::fs::write(folder.path().join("one.yar"), rule("cat")).unwrap();
        std::fs::write(folder.path().join("two.yara"), rule("dog")).unwrap();
        std::fs::write(folder.path().join("readme.txt"), "no rule").unwrap();
        let rules = CompiledRules::load(Some(folder.path())).unwrap();
        assert_eq!(rules.count(), 3);
        for word in ["a cat", "a dog"] {
            assert_eq!(scan(&rules, word.as_bytes()), EngineOutcome::Found("x".to_owned()));
        }
    }

    #[test]
    fn bad_rules_are_refused_with_their_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.yar");
        std::fs::write(&path, "rule a { condition: true }\nrule b {\n condition: $x }\n").unwrap();
        let error = CompiledRules::load(Some(folder.path())).unwrap_err();
        let RulesError::Compile { origin, line, .. } = &error else { panic!("{error}") };
        assert_eq!((origin.as_str(), *line), (path.to_str().unwrap(), 3));
        assert!(error.to_string().contains("bad.yar, line 3"), "{error}");
    }

    #[test]
    fn files_of_rules_have_a_number_and_a_size_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("a.yar");
        let file = std::fs::File::create(&large).unwrap();
        file.set_len(RULE_FILE_BYTES_MAX + 1).unwrap();
        let error = CompiledRules::load(Some(folder.path())).unwrap_err();
        assert!(matches!(&error, RulesError::TooLarge { path } if *path == large), "{error}");
        // At the limit it is read: zeros, which are no rules.
        file.set_len(RULE_FILE_BYTES_MAX).unwrap();
        let text = read(&large).unwrap();
        assert_eq!(u64::try_from(text.len()).unwrap(), RULE_FILE_BYTES_MAX);
        drop(text);

        let folder = tempfile::tempdir().unwrap();
        for number in 0..RULE_FILES_MAX {
            std::fs::File::create(folder.path().join(format!("{number}.yar"))).unwrap();
        }
        std::fs::File::create(folder.path().join("readme.txt")).unwrap();
        assert_eq!(rule_files(folder.path()).unwrap().len(), RULE_FILES_MAX);
        std::fs::File::create(folder.path().join("more.yara")).unwrap();
        let error = CompiledRules::load(Some(folder.path())).unwrap_err();
        assert!(matches!(error, RulesError::TooManyFiles { .. }), "{error}");
    }

    #[test]
    fn includes_and_missing_folders_are_refused() {
        let include = [("mine.yar".to_owned(), "include \"/etc/passwd\"".to_owned())];
        let error = CompiledRules::from_sources(&include).unwrap_err();
        assert!(matches!(error, RulesError::Compile { .. }), "{error}");
        let error = CompiledRules::load(Some(Path::new("/nonexistent/rules"))).unwrap_err();
        assert!(matches!(error, RulesError::Folder { .. }), "{error}");
    }
}
