//! Engines: what looks at bytes and names what is in them.
//!
//! [`clamd::ClamdEngine`] asks servers. (Engines that run where a mail is taken apart are of another
//! kind: [`crate::analysis::LocalEngine`].)

pub mod clamd;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use spool::Spooled;

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

    /// It looks into archives itself. Where no engine does, an archive is not called clean.
    fn opens_archives(&self) -> bool {
        false
    }
}

/// Printable ASCII, cut to `bytes_max`: for names and reasons that come from outside.
pub(crate) fn printable(text: &str, bytes_max: usize) -> String {
    text.chars()
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .take(bytes_max)
        .collect()
}
