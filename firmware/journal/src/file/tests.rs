use std::collections::HashSet;

use tempfile::TempDir;

use super::*;
use crate::entry::tests::sample;
use crate::find;

fn journal(bytes_max: u64) -> (TempDir, Journal) {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("journal"), Limits { bytes_max }).unwrap();
    (folder, journal)
}

fn entry(session: u32) -> Entry {
    Entry { session: format!("{session:032x}"), ..sample() }
}

fn sessions(journal: &Journal) -> Vec<String> {
    let found = find(&journal.folder, "abc@example.jp").unwrap();
    found.entries.into_iter().map(|entry| entry.session).collect()
}

fn text(journal: &Journal) -> String {
    let files = files(&journal.folder).unwrap();
    files.iter().map(|(_, path)| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn a_mail_is_one_line_of_json_for_its_owner_alone() {
    let (_folder, journal) = journal(1024 * 1024);
    journal.record(&entry(1));
    journal.record(&entry(2));
    let text = text(&journal);
    let lines: Vec<Entry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [entry(1), entry(2)]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&journal.folder), 0o700);
    assert_eq!(mode(&journal.folder.join("mails-00000001.jsonl")), 0o600);
    assert_eq!(journal.counters(), Counters { written: 2, failed: 0 });
    assert_eq!(journal.usage().unwrap(), Usage { files: 1, bytes: text.len() as u64 });
    // One that others could read is closed.
    fs::set_permissions(&journal.folder, Permissions::from_mode(0o755)).unwrap();
    Journal::open(&journal.folder, Limits::default()).unwrap();
    assert_eq!(mode(&journal.folder), 0o700);
}

#[test]
fn the_oldest_file_goes_for_a_new_one() {
    let (_folder, journal) = journal(16 * 1024);
    for session in 0..200 {
        journal.append(&entry(session)).unwrap();
        assert!(journal.usage().unwrap().bytes <= 16 * 1024);
    }
    let usage = journal.usage().unwrap();
    assert!(usage.files <= FILES_MAX && usage.bytes > 8 * 1024, "{usage:?}");
    let kept = sessions(&journal);
    let newest_first: Vec<_> =
        (0..200).rev().take(kept.len()).map(|session| entry(session).session).collect();
    assert_eq!(kept, newest_first);
    // A smaller limit holds from the next file on.
    let smaller = Journal::open(&journal.folder, Limits { bytes_max: 8 * 1024 }).unwrap();
    for session in 200..210 {
        smaller.append(&entry(session)).unwrap();
    }
    assert!(smaller.usage().unwrap().bytes <= 8 * 1024);
}

#[test]
fn a_line_larger_than_a_file_may_be_has_a_file_of_its_own() {
    let (_folder, journal) = journal(400);
    journal.append(&entry(1)).unwrap();
    journal.append(&entry(2)).unwrap();
    assert_eq!(sessions(&journal), [entry(2).session]);
}

#[test]
fn a_line_that_a_power_cut_left_unfinished_costs_no_other() {
    let (_folder, journal) = journal(1024 * 1024);
    journal.append(&entry(1)).unwrap();
    journal.append(&entry(2)).unwrap();
    let path = journal.folder.join("mails-00000001.jsonl");
    let whole = fs::read(&path).unwrap();
    for cut in [1, 2, 100, whole.len() / 2 - 1] {
        fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let restarted = Journal::open(&journal.folder, Limits::default()).unwrap();
        restarted.append(&entry(3)).unwrap();
        restarted.append(&entry(4)).unwrap();
        let expected = if cut == 1 { vec![4, 3, 2, 1] } else { vec![4, 3, 1] };
        let expected: Vec<_> = expected.into_iter().map(|n| entry(n).session).collect();
        assert_eq!(sessions(&restarted), expected, "{cut}");
        let broken = find(&journal.folder, "x").unwrap().lines_broken;
        assert_eq!(broken, u64::from(cut != 1), "{cut}");
    }
}

#[test]
fn a_disk_that_takes_nothing_fails_softly_and_it_goes_on_when_it_does() {
    let (folder, journal) = journal(1024 * 1024);
    let aside = folder.path().join("aside");
    fs::rename(&journal.folder, &aside).unwrap();
    journal.record(&entry(1));
    journal.record(&entry(2));
    let error = journal.append(&entry(3)).unwrap_err();
    assert!(matches!(error, JournalError::Folder { .. }), "{error}");
    assert!(error.to_string().contains(&journal.folder.display().to_string()), "{error}");
    assert!(journal.is_failing.load(Ordering::Relaxed));
    assert_eq!(journal.counters(), Counters { written: 0, failed: 3 });
    fs::rename(&aside, &journal.folder).unwrap();
    journal.record(&entry(4));
    assert!(!journal.is_failing.load(Ordering::Relaxed));
    assert_eq!(sessions(&journal), [entry(4).session]);
}

/// The kernel's own full disk.
#[test]
fn a_full_disk_is_called_that() {
    let (_folder, journal) = journal(1024 * 1024);
    std::os::unix::fs::symlink("/dev/full", journal.folder.join("mails-00000001.jsonl")).unwrap();
    let error = journal.append(&entry(1)).unwrap_err();
    assert!(matches!(error, JournalError::DiskFull { .. }), "{error}");
    assert!(error.to_string().ends_with("or lower journal.bytes_max"), "{error}");
}

#[test]
fn a_file_that_somebody_deletes_is_begun_anew() {
    let (_folder, journal) = journal(1024 * 1024);
    journal.append(&entry(1)).unwrap();
    fs::remove_file(journal.folder.join("mails-00000001.jsonl")).unwrap();
    journal.append(&entry(2)).unwrap();
    assert_eq!(sessions(&journal), [entry(2).session]);
}

#[test]
fn several_programs_may_write_and_read_at_a_time() {
    let limits = Limits { bytes_max: 1024 * 1024 };
    let (_folder, journal) = journal(limits.bytes_max);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let other = Journal::open(&journal.folder, limits).unwrap();
            scope.spawn(move || {
                (0..30).for_each(|n| other.append(&entry(writer * 100 + n)).unwrap())
            });
        }
        scope.spawn(|| {
            // A line that is just being written may look broken to a reader; it stays whole.
            for _ in 0..20 {
                find(&journal.folder, "abc@example.jp").unwrap();
            }
        });
    });
    assert_eq!(sessions(&journal).into_iter().collect::<HashSet<_>>().len(), 90);
    assert_eq!(find(&journal.folder, "abc@example.jp").unwrap().lines_broken, 0);
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    let error = Journal::open(&path, Limits::default()).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}
