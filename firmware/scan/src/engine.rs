//! Engines: what looks at bytes and names what is in them.
//!
//! [`clamd::ClamdEngine`] asks servers. (Engines that run where a mail is taken apart are of another
//! kind: [`crate::analysis::LocalEngine`].)

pub mod cache;
pub mod clamd;
pub mod icap;
pub mod pool;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use spool::Spooled;

use self::cache::CacheCounts;

/// What an engine is given: the raw message or one decoded part.
#[derive(Debug, Clone)]
pub struct Object {
    /// 0 is the raw message, parts count from 1.
    pub part: u32,
    /// All of its bytes.
    pub content: Spooled,
    /// Its file name, where it has one.
    pub file_name: Option<String>,
}

/// What an engine says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineOutcome {
    /// Looked at in full, nothing found.
    Clean,
    /// Found; the engine's name for it.
    Found(String),
    /// It is encrypted.
    Encrypted,
    /// It is larger than the engine takes.
    OverSize,
    /// It did not look at everything: over a limit of its own; which.
    Limit(String),
    /// It could not be asked, or gave no answer.
    Failed(String),
}

/// The future of [`Engine::scan`].
pub type ScanFuture<'a> = Pin<Box<dyn Future<Output = EngineOutcome> + Send + 'a>>;

/// One scanner. Adapters are cheap to share and may be asked about many objects at once.
pub trait Engine: Debug + Send + Sync {
    /// For logs, replies and notices.
    fn name(&self) -> &str;

    /// Looks at one object. Never panics on its bytes; ends within the engine's own time limit.
    fn scan(&self, object: Object) -> ScanFuture<'_>;

    /// Whether it takes mail apart itself. Such an engine is not sent the parts that stand in the raw
    /// message word for word: it would only see them twice.
    fn reads_mail(&self) -> bool {
        false
    }

    /// It opens archives of this kind (as `unpack` names them), which are not opened here. Where no
    /// engine does, such an archive is not called clean.
    fn opens(&self, format: &str) -> bool {
        let _ = format;
        false
    }

    /// Whether the file name can change what it says.
    fn looks_at_names(&self) -> bool {
        false
    }

    /// Changes whenever its rules or signatures do: what it said before may no longer hold.
    fn generation(&self) -> u64 {
        0
    }

    /// What it has done so far, for status pages.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// How each of its servers is now, where it has some.
    fn servers(&self) -> Vec<ServerNumbers> {
        Vec::new()
    }

    /// How often a cache before it could answer, where there is one.
    fn cache_counts(&self) -> Option<CacheCounts> {
        None
    }
}

/// What an engine has done since it was made, in objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// It was asked about.
    pub asked: u64,
    /// It found something in.
    pub found: u64,
    /// It gave no answer on.
    pub failed: u64,
    /// A second server was asked about, since the first had failed.
    pub retried: u64,
}

/// One server of an engine, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerNumbers {
    /// Its address, as in the settings.
    pub server: String,
    /// It is asked; `false` from a failure on until it has answered a probe.
    pub up: bool,
    /// Objects that it was given and has not answered, those that wait for a connection to it among
    /// them.
    pub outstanding: u64,
    /// Bytes of these.
    pub outstanding_bytes: u64,
}

/// [`Counts`], counting.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    asked: AtomicU64,
    found: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
}

impl Counters {
    /// An object has its answer.
    pub(crate) fn note(&self, outcome: &EngineOutcome) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match outcome {
            EngineOutcome::Found(_) => self.found.fetch_add(1, Ordering::Relaxed),
            EngineOutcome::Failed(_) => self.failed.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    pub(crate) fn note_retry(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            asked: self.asked.load(Ordering::Relaxed),
            found: self.found.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            retried: self.retried.load(Ordering::Relaxed),
        }
    }
}

/// What a name says that a server gives to what it found. Some tell only that it did not look at all.
pub(crate) fn named(name: &str) -> EngineOutcome {
    let shown = printable(name, crate::FINDING_NAME_BYTES_MAX);
    if name.starts_with("Heuristics.Encrypted") {
        EngineOutcome::Encrypted
    } else if name.starts_with("Heuristics.Limits.Exceeded") {
        EngineOutcome::Limit(shown)
    } else {
        EngineOutcome::Found(shown)
    }
}

/// Printable ASCII, cut to `bytes_max`: for names and reasons that come from outside.
pub(crate) fn printable(text: &str, bytes_max: usize) -> String {
    text.chars()
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .take(bytes_max)
        .collect()
}
