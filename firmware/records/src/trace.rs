//! `trace`: what happened to a mail, and why.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use journal::Found;

use crate::Places;

/// What to look for.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// A session's number or the first six letters of it or more, a Message-ID, or the name of an
    /// item in the quarantine.
    query: String,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl TraceArgs {
    /// Looks for it (see [`journal::find`]) where the journal is, and writes what was found.
    ///
    /// # Errors
    ///
    /// Nothing was found, or the journal cannot be read; with what to do.
    pub fn execute(&self, places: &Places<'_>, out: &mut impl Write) -> anyhow::Result<()> {
        trace(out, &places.journal.folder(places.state_directory), &self.query, self.json)
    }
}

fn trace(out: &mut impl Write, folder: &Path, query: &str, json: bool) -> anyhow::Result<()> {
    let found = journal::find(folder, query)?;
    if found.entries.is_empty() {
        let shown = telemetry::escape(query.as_bytes());
        match found.since {
            Some(since) => bail!(
                "no mail of {shown} in the journal, which reaches back to {since}; ask by a \
                 session's number, the first {} letters of it or more, or a Message-ID",
                journal::SESSION_LETTERS_MIN
            ),
            None => bail!("the journal in {} is empty", folder.display()),
        }
    }
    if json { write_json(out, &found) } else { write_text(out, &found).context("write") }
}

/// One object a line.
fn write_json(out: &mut impl Write, found: &Found) -> anyhow::Result<()> {
    for entry in &found.entries {
        writeln!(out, "{}", serde_json::to_string(entry)?)?;
    }
    Ok(())
}

fn write_text(out: &mut impl Write, found: &Found) -> io::Result<()> {
    for (place, entry) in found.entries.iter().enumerate() {
        if place > 0 {
            writeln!(out)?;
        }
        write!(out, "{}", entry.explain())?;
    }
    if found.more {
        writeln!(out, "\nthere are more; these are the newest {}", found.entries.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use journal::{Action, Entry, Journal, Limits, Timestamp, Verdict};

    use super::*;

    fn entry(bytes: u64) -> Entry {
        Entry {
            time: Timestamp::from_unix(1_790_000_000),
            session: "00112233445566778899aabbccddeeff".to_owned(),
            message_id: "<abc@example.jp>".to_owned(),
            bytes,
            verdict: Verdict::Clean,
            action: Action::Passed,
            ..Entry::default()
        }
    }

    fn traced(folder: &Path, query: &str, json: bool) -> anyhow::Result<String> {
        let mut out = Vec::new();
        trace(&mut out, folder, query, json)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn mails_are_shown_in_words_or_as_json_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), Limits::default()).unwrap();
        journal.append(&entry(1)).unwrap();
        journal.append(&entry(2)).unwrap();
        let text = traced(folder.path(), "abc@example.jp", false).unwrap();
        assert_eq!(text, format!("{}\n{}", entry(2).explain(), entry(1).explain()));
        let json = traced(folder.path(), "001122", true).unwrap();
        let entries: Vec<Entry> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(entries, [entry(2), entry(1)]);
        for _ in 0..journal::FOUND_MAX {
            journal.append(&entry(3)).unwrap();
        }
        let text = traced(folder.path(), "001122", false).unwrap();
        assert!(text.ends_with("\nthere are more; these are the newest 100\n"), "{text}");
    }

    #[test]
    fn where_nothing_is_found_it_is_said_how_far_back_was_looked() {
        let folder = tempfile::tempdir().unwrap();
        let error = traced(folder.path(), "x", false).unwrap_err().to_string();
        assert!(error.ends_with(" is empty"), "{error}");
        Journal::open(folder.path(), Limits::default()).unwrap().append(&entry(1)).unwrap();
        let error =
            traced(folder.path(), "other@example.jp\x1b[2J", false).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "no mail of other@example.jp\\x1b[2J in the journal, which reaches back to \
                 2026-09-21T14:13:20Z; "
            ),
            "{error}"
        );
    }
}
