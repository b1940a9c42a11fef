//! One line for every mail: what happened to it, and why.
//!
//! A program that carries mail makes an [`Entry`] of each and hands it to [`Journal::record`]: it
//! goes to the program's log and, as a line of JSON, to a folder of a few files of limited size, of
//! which the oldest is deleted for the newest. [`find`] looks there for a session or a message,
//! with the program running or not, and [`Entry::explain`] says in words what happened.
//!
//! Addresses, sizes, engines, verdicts and times are in it; no subject, no content, no password. A
//! line costs one write to the page cache, microseconds, so drivers record where they are. It is
//! not flushed to the disk: a power cut may cost the last seconds. When the disk takes no more,
//! mail goes on without a journal.
//!
//! Must not depend on tokio, on sockets, nor on what mail or scanning is. Entry: [`Journal`],
//! [`Entry`].
#![forbid(unsafe_code)]

mod entry;
mod explain;
mod file;
mod find;
pub mod settings;
mod time;

pub use entry::{
    Action, Direction, ENGINES_MAX, EngineRun, Entry, LINE_BYTES_MAX, Protocol, RECIPIENTS_MAX,
    TEXT_BYTES_MAX, Verdict,
};
pub use file::{Counters, FILES_MAX, Journal, Limits, Usage};
pub use find::{FOUND_MAX, Found, SESSION_LETTERS_MIN, find, latest};
pub use time::{ParseTimeError, Timestamp};

use std::io;
use std::path::PathBuf;

/// Why an entry could not be kept or found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder cannot be made or used.
    #[error(
        "use the journal folder {}; it must be a folder of this program's own user, on a disk that \
         can be written",
        folder.display()
    )]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk's fault.
    #[error("write to the journal {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room on the disk.
    #[error("the disk of the journal {} is full; make room on it, or lower journal.bytes_max",
            path.display())]
    DiskFull {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk's fault.
    #[error("read the journal {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Several sessions begin so.
    #[error("several sessions begin with {query}: {}; write more of the one that is meant",
            sessions.join(", "))]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// The newest of them.
        sessions: Vec<String>,
    },
}
