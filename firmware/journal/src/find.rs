//! Looking for mails in the files of a journal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use serde::de::IgnoredAny;
use telemetry::harmless;

use crate::entry::{LINE_BYTES_MAX, TEXT_BYTES_MAX};
use crate::file::files;
use crate::{Entry, JournalError, Timestamp};

/// Most mails that [`find`] returns.
pub const FOUND_MAX: usize = 100;
/// Fewest letters of a session's number that are taken for its beginning.
pub const SESSION_LETTERS_MIN: usize = 6;

/// Most letters of a session's number.
const SESSION_LETTERS: usize = 32;
/// Most sessions that an error names.
const SESSIONS_NAMED_MAX: usize = 8;

/// What [`find`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Newest first, at most [`FOUND_MAX`].
    pub entries: Vec<Entry>,
    /// There were more.
    pub more: bool,
    /// The oldest mail in the journal: what came before is forgotten.
    pub since: Option<Timestamp>,
    /// Lines that are none: cut off by a power cut, as a rule.
    pub lines_broken: u64,
}

/// The mails of a session, by its number or the beginning of it (at least [`SESSION_LETTERS_MIN`]
/// letters); those with this Message-ID, with or without brackets; or the one whose sealed copy has
/// this name. Needs no running program.
///
/// # Errors
///
/// Several sessions begin so, or the files cannot be read.
pub fn find(folder: &Path, query: &str) -> Result<Found, JournalError> {
    let query = Query::new(query);
    let mut found = Found::default();
    for (_, path) in files(folder)?.into_iter().rev() {
        let file = match File::open(&path) {
            Ok(file) => file,
            // It was the oldest, and has gone for a new one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(JournalError::Read { path, source }),
        };
        search(BufReader::new(file), &query, &mut found)
            .map_err(|source| JournalError::Read { path, source })?;
    }
    match query.several_sessions(&found.entries) {
        Some(sessions) => Err(JournalError::Ambiguous { query: query.text, sessions }),
        None => Ok(found),
    }
}

/// The last mails, newest first, at most `mails_max`. Needs no running program; of an empty folder, or
/// none, there are none.
///
/// # Errors
///
/// The files cannot be read.
pub fn latest(folder: &Path, mails_max: usize) -> Result<Vec<Entry>, JournalError> {
    let mut entries = Vec::new();
    let files = match files(folder) {
        Err(JournalError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(entries);
        }
        files => files?,
    };
    for (_, path) in files.into_iter().rev() {
        let room = mails_max.saturating_sub(entries.len());
        if room == 0 {
            break;
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(JournalError::Read { path, source }),
        };
        let lines = last_lines(BufReader::new(file), room)
            .map_err(|source| JournalError::Read { path, source })?;
        let read = |line: &Vec<u8>| serde_json::from_slice::<Entry>(line).ok();
        entries.extend(lines.iter().rev().filter_map(read));
    }
    Ok(entries)
}

/// The last whole lines, oldest first. What is in them is not kept, so that a file of many mails costs little
/// more than its reading.
fn last_lines(mut lines: impl BufRead, lines_max: usize) -> io::Result<VecDeque<Vec<u8>>> {
    let mut last = VecDeque::with_capacity(lines_max);
    let mut line = Vec::new();
    while next_line(&mut lines, &mut line)? {
        // A torn one takes nobody's place.
        if serde_json::from_slice::<IgnoredAny>(&line).is_err() {
            continue;
        }
        // The oldest one's memory is taken for the newest.
        let mut kept =
            if last.len() >= lines_max { last.pop_front() } else { None }.unwrap_or_default();
        std::mem::swap(&mut kept, &mut line);
        last.push_back(kept);
    }
    Ok(last)
}

/// What is looked for.
#[derive(Debug)]
struct Query {
    /// As entries have it: bounded, without brackets.
    text: String,
    /// Could be the beginning of a session's number.
    session: Option<String>,
}

impl Query {
    fn new(query: &str) -> Self {
        let query = query.trim();
        let is_session = (SESSION_LETTERS_MIN..=SESSION_LETTERS).contains(&query.len())
            && query.bytes().all(|byte| byte.is_ascii_hexdigit());
        Self {
            text: without_brackets(&harmless(query.as_bytes(), TEXT_BYTES_MAX)).to_owned(),
            session: is_session.then(|| query.to_ascii_lowercase()),
        }
    }

    fn matches(&self, entry: &Entry) -> bool {
        self.names_session(entry)
            || !self.text.is_empty()
                && (without_brackets(&entry.message_id) == self.text
                    || entry.quarantine.eq_ignore_ascii_case(&self.text))
    }

    fn names_session(&self, entry: &Entry) -> bool {
        self.session.as_ref().is_some_and(|begin| entry.session.starts_with(begin))
    }

    /// The sessions that the query may mean, if they are several.
    fn several_sessions(&self, entries: &[Entry]) -> Option<Vec<String>> {
        let mut sessions: Vec<String> = Vec::new();
        for entry in entries.iter().filter(|entry| self.names_session(entry)) {
            if !sessions.contains(&entry.session) && sessions.len() < SESSIONS_NAMED_MAX {
                sessions.push(entry.session.clone());
            }
        }
        (sessions.len() > 1).then_some(sessions)
    }
}

/// A Message-ID is the same with its brackets and without; a cut one has lost the second.
fn without_brackets(id: &str) -> &str {
    let id = id.strip_prefix('<').unwrap_or(id);
    id.strip_suffix('>').unwrap_or(id)
}

/// Adds what is found in one file, all of which is older than what was found before.
fn search(mut lines: impl BufRead, query: &Query, found: &mut Found) -> io::Result<()> {
    let mut newest = VecDeque::new();
    let room = FOUND_MAX - found.entries.len();
    let mut line = Vec::new();
    let mut since = None;
    while next_line(&mut lines, &mut line)? {
        // What a torn line is separated with.
        if line.trim_ascii().is_empty() {
            continue;
        }
        let Ok(entry) = serde_json::from_slice::<Entry>(&line) else {
            found.lines_broken += 1;
            continue;
        };
        since = since.or(Some(entry.time));
        if query.matches(&entry) {
            newest.push_front(entry);
            if newest.len() > room {
                newest.pop_back();
                found.more = true;
            }
        }
    }
    found.since = since.or(found.since);
    found.entries.extend(newest);
    Ok(())
}

/// The next line, of which at most one byte more than [`LINE_BYTES_MAX`] is kept; whether there was
/// one.
fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut limited = lines.by_ref().take(LINE_BYTES_MAX as u64 + 1);
    let read = limited.read_until(b'\n', line)?;
    if read > LINE_BYTES_MAX && !line.ends_with(b"\n") {
        lines.skip_until(b'\n')?;
    }
    Ok(read > 0)
}

#[cfg(test)]
mod tests;
