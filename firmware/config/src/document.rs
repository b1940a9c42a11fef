//! A settings file in memory: its text, and which line a key stands on.

use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{ConfigError, FILE_BYTES_MAX, Place, explain};

/// A settings file that has been read. [`Document::parse`] types it, [`Document::invalid`] blames
/// one of its keys.
#[derive(Debug, Clone)]
pub struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    /// Reads the file.
    ///
    /// # Errors
    /// It is missing, may not be read, is larger than [`FILE_BYTES_MAX`], or is not UTF-8.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = read_bounded(path).map_err(|source| {
            let at = Place { path: path.to_owned(), line: None };
            let (problem, remedy) = match source.kind() {
                std::io::ErrorKind::NotFound => {
                    ("there is no such file", "write one there, or name another with --config")
                }
                std::io::ErrorKind::PermissionDenied => {
                    ("may not be read", "give this user the right to read it")
                }
                _ => ("cannot be read", "name a readable file with --config"),
            };
            ConfigError::Unreadable { at, problem, remedy, source }
        })?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(ConfigError::Wrong {
                at: Place { path: path.to_owned(), line: None },
                problem: format!("is larger than {FILE_BYTES_MAX} bytes"),
                remedy: "name a settings file with --config".to_owned(),
            });
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let line = line_of(error.as_bytes(), good);
            ConfigError::Wrong {
                at: Place { path: path.to_owned(), line: Some(line) },
                problem: "is not UTF-8 text".to_owned(),
                remedy: "save the file as UTF-8 instead".to_owned(),
            }
        })?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// A document from memory; `path` only names it in errors.
    #[must_use]
    pub fn from_text(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// The file's path as the caller named it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Types the document.
    ///
    /// # Errors
    /// It is no TOML, or does not fit `T`: the first mistake found, with its line.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let failure = |error: &toml::de::Error, table: Option<String>| {
            let (problem, remedy) = explain::explain(error.message(), table.as_deref());
            let line = error.span().map(|span| line_of(self.text.as_bytes(), span.start));
            ConfigError::Wrong { at: Place { path: self.path.clone(), line }, problem, remedy }
        };
        let table = DeTable::parse(&self.text).map_err(|error| failure(&error, None))?;
        let names = table.clone();
        T::deserialize(toml::de::Deserializer::from(table)).map_err(|error| {
            let place = error.span().map(|span| path_to(names.get_ref(), &span));
            failure(&error, place)
        })
    }

    /// The error for a value that has the right type and still cannot be used. See [`crate::invalid`]
    /// for how `key` is written. A key that is not there is blamed on the table it would stand in.
    #[must_use]
    pub fn invalid(
        &self,
        key: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Wrong {
            at: Place { path: self.path.clone(), line: self.line(key) },
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// The line on which `key` stands, or the nearest table round it; counted from 1.
    fn line(&self, key: &str) -> Option<usize> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut found: Option<usize> = None;
        let mut here = Here::Table(root.get_ref());
        for step in steps(key) {
            let next = match (&step, here) {
                (Step::Key(name), Here::Table(table)) => {
                    table.iter().find(|(key, _)| key.get_ref().as_ref() == name.as_str())
                }
                (Step::Index(index), Here::List(list)) => {
                    let Some(value) = list.get(*index) else { break };
                    found = Some(value.span().start);
                    here = Here::of(value.get_ref());
                    continue;
                }
                _ => None,
            };
            let Some((key, value)) = next else { break };
            found = Some(key.span().start);
            here = Here::of(value.get_ref());
        }
        found.map(|offset| line_of(self.text.as_bytes(), offset))
    }
}

/// Where a walk through the document stands.
#[derive(Clone, Copy)]
enum Here<'a> {
    Table(&'a DeTable<'a>),
    List(&'a [Spanned<DeValue<'a>>]),
    Leaf,
}

impl<'a> Here<'a> {
    fn of(value: &'a DeValue<'a>) -> Self {
        match value {
            DeValue::Table(table) => Self::Table(table),
            DeValue::Array(list) => Self::List(list),
            _ => Self::Leaf,
        }
    }
}

/// One step of a key path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Splits `a."b.c"[2].d`.
fn steps(key: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = key;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (name, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            steps.push(Step::Key(name.to_owned()));
            rest = after;
        } else if let Some(bracketed) = rest.strip_prefix('[') {
            let (index, after) = bracketed.split_once(']').unwrap_or((bracketed, ""));
            steps.push(Step::Index(index.parse().unwrap_or(usize::MAX)));
            rest = after;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            steps.push(Step::Key(name.to_owned()));
            rest = after;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    steps
}

/// The dotted key whose key or value covers `span`; empty for the top of the file.
fn path_to(table: &DeTable<'_>, span: &Range<usize>) -> String {
    let covers = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for (key, value) in table {
        let name = key.get_ref().escape_debug();
        if covers(key.span()) {
            // The key itself is at fault: what matters is the table round it.
            return String::new();
        }
        let inner = match value.get_ref() {
            // The span of a table made of several headers covers only the first: look into it anyway.
            DeValue::Table(inner) => Some(path_to(inner, span)),
            DeValue::Array(list) => list.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => Some(path_to(inner, span)).filter(|p| !p.is_empty()),
                _ => None,
            }),
            _ => None,
        };
        match inner {
            Some(inner) if !inner.is_empty() => return format!("{name}.{inner}"),
            _ if covers(value.span()) => return name.to_string(),
            _ if contains_key_at(value.get_ref(), span) => return name.to_string(),
            _ => {}
        }
    }
    String::new()
}

/// Whether a key that stands directly in this table (or table of a list) is what `span` covers.
fn contains_key_at(value: &DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => table.keys().any(|key| key.span() == *span),
        DeValue::Array(list) => list.iter().any(|item| contains_key_at(item.get_ref(), span)),
        _ => false,
    }
}

/// The line that holds byte `offset`, counted from 1.
fn line_of(text: &[u8], offset: usize) -> usize {
    text.iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
}

/// Reads at most one byte more than [`FILE_BYTES_MAX`], so that a device or a growing log named by
/// mistake costs no memory.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_paths_are_split_as_toml_writes_them() {
        let key = |name: &str| Step::Key(name.to_owned());
        assert_eq!(steps("a"), [key("a")]);
        assert_eq!(steps("a.b-c"), [key("a"), key("b-c")]);
        assert_eq!(steps("public.\"10.0.0.1\""), [key("public"), key("10.0.0.1")]);
        assert_eq!(steps("route[1].to"), [key("route"), Step::Index(1), key("to")]);
    }

    #[test]
    fn the_line_of_a_key_is_found() {
        let text = "a = 1\n\n[relay]\ndomain = \"x\"\n\n[public]\n\"10.0.0.1\" = \"y\"\n\
                    [[route]]\nto = 1\n[[route]]\nto = 2\n";
        let document = Document::from_text("f", text);
        assert_eq!(document.line("a"), Some(1));
        assert_eq!(document.line("relay.domain"), Some(4));
        assert_eq!(document.line("public.\"10.0.0.1\""), Some(7));
        assert_eq!(document.line("route[0].to"), Some(9));
        assert_eq!(document.line("route[1].to"), Some(11));
        // What is missing is blamed on the table it should stand in, or on the file.
        assert_eq!(document.line("relay.missing"), Some(3));
        assert_eq!(document.line("missing"), None);
        assert_eq!(document.line("a.b"), Some(1));
        assert_eq!(document.line("route[9]"), Some(8));
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!(line_of(b"a\nb\n", 0), 1);
        assert_eq!(line_of(b"a\nb\n", 2), 2);
        assert_eq!(line_of(b"", 9), 1);
    }
}
