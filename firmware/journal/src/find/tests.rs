use proptest::prelude::*;

use super::*;
use crate::entry::tests::sample;
use crate::{Journal, Limits};

const SESSION: &str = "00112233445566778899aabbccddeeff";

fn journal_of(entries: &[Entry]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path(), Limits::default()).unwrap();
    entries.iter().for_each(|entry| journal.append(entry).unwrap());
    folder
}

fn numbers(folder: &Path, query: &str) -> Vec<u64> {
    find(folder, query).unwrap().entries.iter().map(|entry| entry.bytes).collect()
}

#[test]
fn mails_are_found_by_session_message_and_copy() {
    let other = Entry {
        session: "00112299000000000000000000000000".to_owned(),
        message_id: "<other@example.jp>".to_owned(),
        quarantine: String::new(),
        bytes: 2,
        ..sample()
    };
    let again = Entry { bytes: 3, quarantine: String::new(), ..sample() };
    let folder = journal_of(&[Entry { bytes: 1, ..sample() }, other, again]);
    for (query, expected) in [
        (SESSION, &[3, 1][..]),
        ("00112233", &[3, 1]),
        ("0011229", &[2]),
        (" 00112233445566778899AABBCCDDEEFF\n", &[3, 1]),
        ("<abc@example.jp>", &[3, 1]),
        ("abc@example.jp", &[3, 1]),
        ("other@example.jp", &[2]),
        ("darkq047sw", &[1]),
        ("DARKQ047SW", &[1]),
        ("bc@example.jp", &[]),
        ("00112", &[]),
        ("", &[]),
        ("<>", &[]),
    ] {
        assert_eq!(numbers(folder.path(), query), expected, "{query}");
    }
    assert_eq!(find(folder.path(), "x").unwrap().since, Some(sample().time));
}

#[test]
fn the_last_mails_are_those_of_the_newest_files() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes_max: crate::FILES_MAX * 4096 };
    let journal = Journal::open(folder.path(), limits).unwrap();
    for bytes in 0..60 {
        journal.append(&Entry { bytes, ..sample() }).unwrap();
    }
    assert!(files(folder.path()).unwrap().len() > 3);
    let numbers = |mails_max| -> Vec<u64> {
        latest(folder.path(), mails_max).unwrap().iter().map(|entry| entry.bytes).collect()
    };
    assert_eq!(numbers(3), [59, 58, 57]);
    assert_eq!(numbers(25), (35..60).rev().collect::<Vec<_>>());
    assert!(numbers(0).is_empty());
    // A line that a power cut tore is none.
    let (_, newest) = files(folder.path()).unwrap().pop().unwrap();
    let mut text = std::fs::read(&newest).unwrap();
    text.truncate(text.len() - 9);
    std::fs::write(&newest, text).unwrap();
    assert_eq!(numbers(3), [58, 57, 56]);
    assert!(latest(&folder.path().join("none"), 3).unwrap().is_empty());
}

#[test]
fn a_beginning_that_several_sessions_have_is_refused() {
    let session = |n: usize| format!("{SESSION:.30}{n:02x}");
    let entries: Vec<_> = (0..12).map(|n| Entry { session: session(n), ..sample() }).collect();
    let folder = journal_of(&entries);
    let error = find(folder.path(), "001122").unwrap_err();
    let JournalError::Ambiguous { sessions, .. } = &error else { panic!("{error}") };
    assert_eq!(sessions.len(), SESSIONS_NAMED_MAX);
    assert_eq!(sessions[0], session(11));
    let text = error.to_string();
    assert!(text.starts_with("several sessions begin with 001122: "), "{text}");
    assert!(text.ends_with("; write more of the one that is meant"), "{text}");
    // One message may well have come in several sessions.
    assert_eq!(find(folder.path(), "abc@example.jp").unwrap().entries.len(), 12);
}

#[test]
fn no_more_are_returned_than_can_be_read() {
    let entries: Vec<_> = (0..=FOUND_MAX as u64).map(|bytes| Entry { bytes, ..sample() }).collect();
    let folder = journal_of(&entries);
    let found = find(folder.path(), SESSION).unwrap();
    let bytes: Vec<_> = found.entries.iter().map(|entry| entry.bytes).collect();
    assert_eq!(bytes, (1..=FOUND_MAX as u64).rev().collect::<Vec<_>>());
    assert!(found.more);
    let folder = journal_of(&entries[1..]);
    assert!(!find(folder.path(), SESSION).unwrap().more);
}

/// A long Message-ID is kept cut, and found when it is asked for in full.
#[test]
fn what_was_cut_is_found_by_the_whole() {
    let long = format!("<{}@example.jp>", "x".repeat(2 * TEXT_BYTES_MAX));
    let folder = journal_of(&[Entry { message_id: long.clone(), ..sample() }]);
    assert_eq!(find(folder.path(), &long).unwrap().entries.len(), 1);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = find(Path::new("/nonexistent/journal"), "x").unwrap_err().to_string();
    assert!(error.contains("/nonexistent/journal"), "{error}");
}

#[test]
fn lines_that_are_too_long_are_passed_over() {
    let good = serde_json::to_vec(&sample()).unwrap();
    let mut padded = good.clone();
    padded.resize(LINE_BYTES_MAX, b' ');
    let mut longer = good.clone();
    longer.resize(LINE_BYTES_MAX + 1, b' ');
    let endless = vec![b' '; 5 * LINE_BYTES_MAX];
    let text = [&padded[..], &longer, &endless, &good].join(&b'\n');
    let mut found = Found::default();
    search(&text[..], &Query::new(SESSION), &mut found).unwrap();
    // The second fills what may be read of it with an entry and blanks; the third is blank.
    assert_eq!((found.entries.len(), found.lines_broken), (3, 0));
    let text = [&vec![b'x'; 5 * LINE_BYTES_MAX][..], &good].join(&b'\n');
    let mut found = Found::default();
    search(&text[..], &Query::new(SESSION), &mut found).unwrap();
    assert_eq!((found.entries.len(), found.lines_broken), (1, 1));
}

proptest! {
    #[test]
    fn whatever_lies_in_the_files_does_no_harm(
        junk in prop::collection::vec(any::<u8>(), 0..2_000),
        query in "\\PC{0,40}",
    ) {
        let mut text = junk;
        text.push(b'\n');
        text.extend(serde_json::to_vec(&sample()).unwrap());
        let mut found = Found::default();
        search(&text[..], &Query::new(&query), &mut found).unwrap();
        search(&text[..], &Query::new(SESSION), &mut found).unwrap();
        prop_assert!(!found.entries.is_empty());
    }
}
