//! Loads a TOML settings file into a typed value; errors name the file, the line, and what to write.
//!
//! Purpose: every program of this workspace has one settings file, and whoever edits it at night
//! must not have to guess. [`load`] is the whole of it for most callers. Programs that check more
//! than types can, keep the [`Document`] and call [`Document::invalid`] with the key at fault, which
//! finds its line. The settings types themselves carry `#[serde(deny_unknown_fields)]`. Must not
//! depend on any other crate of the workspace. Entry: [`load`], [`Document`].
#![forbid(unsafe_code)]

mod document;
mod explain;

pub use document::Document;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize as _, DeserializeOwned, Deserializer, Error as _, Unexpected};

/// Largest settings file that is read, in bytes: far more than anybody writes by hand.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads, parses and types the settings file at `path`.
///
/// # Errors
/// [`ConfigError`]: the file cannot be read, is no TOML, or does not fit `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    Document::load(path)?.parse()
}

/// The error for a value that has the right type and still cannot be used, found after [`load`].
///
/// `key` is written as TOML would, as in `relay.domain` or `public."10.0.0.1"`, with `[n]` for the
/// n-th element of a list, counted from 0. The file is read again to find the line.
#[must_use]
pub fn invalid(
    path: &Path,
    key: &str,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> ConfigError {
    match Document::load(path) {
        Ok(document) => document.invalid(key, problem, remedy),
        // It was there a moment ago; what the caller found is still what has to be said.
        Err(_) => ConfigError::Wrong {
            at: Place { path: path.to_owned(), line: None },
            problem: problem.into(),
            remedy: remedy.into(),
        },
    }
}

/// For `#[serde(deserialize_with = "config::within::<_, MIN, MAX>")]`: a whole number from `MIN` to
/// `MAX`, both included. Checked while parsing, so that the error knows its line.
///
/// # Errors
/// The value is no whole number, or out of the range.
pub fn within<'de, D: Deserializer<'de>, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<u64, D::Error> {
    let value = u64::deserialize(deserializer)?;
    if (MIN..=MAX).contains(&value) {
        return Ok(value);
    }
    let expected = format!("a whole number from {MIN} to {MAX}");
    Err(D::Error::invalid_value(Unexpected::Unsigned(value), &expected.as_str()))
}

/// Where in which file. Displays as `FILE:LINE`, or `FILE` where no line is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As the caller named it.
    pub path: PathBuf,
    /// Counted from 1.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// Why a settings file cannot be used. Displays as `FILE:LINE: what is wrong; write … instead`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, or may not be read.
    #[error("{at}: {problem}; {remedy}")]
    Unreadable {
        /// Which file.
        at: Place,
        /// What is wrong.
        problem: &'static str,
        /// What to do.
        remedy: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// What stands in the file cannot be used.
    #[error("{at}: {problem}; {remedy}")]
    Wrong {
        /// Which file and line.
        at: Place,
        /// What is wrong.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
}

impl ConfigError {
    /// Which file and line.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self {
            Self::Unreadable { at, .. } | Self::Wrong { at, .. } => at,
        }
    }
}
