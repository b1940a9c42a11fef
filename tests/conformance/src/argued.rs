//! `argued.toml`: why an outcome that is not as expected is right all the same, or cannot be helped.

use anyhow::Context;
use serde::Deserialize;

use crate::case::{Column, Path};

/// The file, as committed.
const TEXT: &str = include_str!("../argued.toml");

/// All arguments.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argued {
    /// In the order of the file.
    #[serde(default)]
    pub argued: Vec<Argument>,
}

/// One argument.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// Names of cases; `*` stands for any characters.
    pub files: Vec<String>,
    /// Of one path alone.
    pub path: Option<PathName>,
    /// What became of them.
    pub outcome: Word,
    /// Why that is right, or cannot be helped.
    pub why: String,
}

/// See [`Argument::path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathName {
    /// Sent.
    Smtp,
    /// Fetched.
    Pop3,
}

/// See [`Argument::outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// A finding where none was expected.
    Detected,
    /// Refused where it should have been found or passed.
    Refused,
    /// Passed where it should have been found.
    Missed,
}

impl Argued {
    /// Reads the committed file.
    ///
    /// # Errors
    ///
    /// When it is not as described here.
    pub fn load() -> anyhow::Result<Self> {
        let argued: Self = toml::from_str(TEXT).context("read argued.toml")?;
        for argument in &argued.argued {
            let is_argued = argument.why.len() > 20 && !argument.files.is_empty();
            anyhow::ensure!(is_argued, "{:?}: says nothing", argument.files);
        }
        Ok(argued)
    }

    /// The number of the argument for this outcome of a case.
    #[must_use]
    pub fn find(&self, name: &str, path: Path, column: Column) -> Option<usize> {
        self.argued.iter().position(|argument| {
            let word = match argument.outcome {
                Word::Detected => Column::Detected,
                Word::Refused => Column::Refused,
                Word::Missed => Column::Missed,
            };
            let is_path = argument.path.is_none_or(|named| {
                path == match named {
                    PathName::Smtp => Path::Smtp,
                    PathName::Pop3 => Path::Pop3,
                }
            });
            word == column && is_path && argument.files.iter().any(|glob| matches(glob, name))
        })
    }
}

/// Whether a name fits a pattern in which `*` stands for any characters.
fn matches(glob: &str, name: &str) -> bool {
    let mut pieces = glob.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        let Some(at) = rest.find(piece) else { return false };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        assert!(matches("a/v0_*-x*.eml", "a/v0_b-x_1.eml"));
        assert!(matches("a", "a") && !matches("a", "ab") && matches("a*", "a"));
        assert!(!matches("a*bc", "abcd") && matches("*", ""));
    }

    #[test]
    fn the_committed_file_is_right() {
        Argued::load().unwrap();
    }
}
