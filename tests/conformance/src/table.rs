//! `RESULTS.md`: written from a run and nothing else, so that a second run gives the same file.

use std::fmt::Write as _;
use std::path::{Path as FilePath, PathBuf};

use crate::all::Tally;
use crate::argued::Argued;
use crate::case::Column;

/// What a person types to write the file anew.
pub const UPDATE: &str = "cargo run --release -p conformance -- --write";

const OWN: &str = "## Our own cases";
const CORPUS: &str = "## The corpus";

const HEAD: &str = "# Conformance

Made by `cargo run --release -p conformance -- --write`; `cargo test --release -p conformance` fails where
a run gives another table.

Each mail is sent by SMTP and fetched by POP3 through `avr listen`. *Detected*: refused, or replaced by a
notice, with the name of a finding. *Refused*: for another reason, or the session was closed. *Passed*:
byte for byte at the other side; *not scanned* says how many of these were counted and logged as not
looked at in full (encrypted, say), which is never called clean. *Missed*: passed as clean although
something is in it. *Altered* and *hung* are never right. Whatever is not as the case expects stands below
the tables with its reason, from `argued.toml`.

Rows that end in `, bare LF` are the files of the row above as they are stored, with LF line ends, which
no proper client sends; the row above has them with CRLF.
";

/// Where the file is committed.
#[must_use]
pub fn path() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md")
}

/// The file's text. Without a corpus, its section is taken from the committed file.
#[must_use]
pub fn render(own: &Tally, corpus: Option<&Tally>, argued: &Argued, committed: &str) -> String {
    let corpus = match corpus {
        Some(tally) => section(CORPUS, tally, argued),
        None => corpus_section(committed).to_owned(),
    };
    format!("{HEAD}\n{}\n{corpus}", section(OWN, own, argued))
}

/// The part of the file that needs the corpus.
#[must_use]
pub fn corpus_section(text: &str) -> &str {
    text.find(CORPUS).and_then(|at| text.get(at..)).unwrap_or_default()
}

fn section(title: &str, tally: &Tally, argued: &Argued) -> String {
    let mut out = format!("{title}\n\n");
    mails(&mut out, tally);
    sessions(&mut out, tally);
    list(&mut out, "Not run:", tally.not_run.iter());
    let reasons = tally.argued.iter().filter_map(|(number, times)| {
        let argument = argued.argued.get(*number)?;
        let word = format!("{:?}", argument.outcome).to_lowercase();
        let files = argument.files.join("`, `");
        Some(format!("{times} {word}, of `{files}`: {}", argument.why))
    });
    list(&mut out, "Not as expected, and why:", reasons);
    list(&mut out, "Not as expected, and wrong:", tally.unargued.iter());
    out
}

fn mails(out: &mut String, tally: &Tally) {
    const COLUMNS: [Column; 6] = [
        Column::Detected,
        Column::Refused,
        Column::Passed,
        Column::Missed,
        Column::Altered,
        Column::Hung,
    ];
    out.push_str(
        "| mails | path | cases | detected | refused | passed unchanged | of these not scanned \
         | missed | altered | hung | not run |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut sums = [0_usize; 9];
    for ((source, path), counts) in &tally.mails {
        let count = |column: Column| counts.columns.get(&column).copied().unwrap_or_default();
        let [detected, refused, passed, missed, altered, hung] = COLUMNS.map(count);
        let unscannable = counts.unscannable;
        let row = [
            counts.cases,
            detected,
            refused,
            passed,
            unscannable,
            missed,
            altered,
            hung,
            counts.not_run,
        ];
        for (sum, number) in sums.iter_mut().zip(row) {
            *sum += number;
        }
        let _ = writeln!(out, "| {source} | {} | {} |", path.name(), cells(&row));
    }
    let _ = writeln!(out, "| **all** | | {} |\n", cells(&sums));
}

fn sessions(out: &mut String, tally: &Tally) {
    out.push_str(
        "| sessions | cases | as expected | otherwise | not run |\n|---|--:|--:|--:|--:|\n",
    );
    let mut sums = [0_usize; 4];
    for (source, counts) in &tally.sessions {
        let row = [counts.cases, counts.as_expected, counts.otherwise, counts.not_run];
        for (sum, number) in sums.iter_mut().zip(row) {
            *sum += number;
        }
        let _ = writeln!(out, "| {source} | {} |", cells(&row));
    }
    let _ = writeln!(out, "| **all** | {} |\n", cells(&sums));
}

fn cells(numbers: &[usize]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

fn list(out: &mut String, title: &str, lines: impl Iterator<Item = impl AsRef<str>>) {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return;
    }
    let _ = writeln!(out, "{title}\n");
    for line in lines {
        // What a gateway said may hold anything; a line of the list stays one.
        let line = line.as_ref().replace(['\r', '\n'], " ");
        let _ = writeln!(out, "- {line}");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_corpus_its_section_stays_as_committed() {
        let (own, argued) = (Tally::default(), Argued::default());
        let whole = render(&own, Some(&Tally::default()), &argued, "");
        let again = render(&own, None, &argued, &whole);
        assert_eq!(whole, again);
        assert!(whole.contains(OWN) && corpus_section(&whole).starts_with(CORPUS));
    }
}
