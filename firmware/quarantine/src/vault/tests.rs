use std::convert::Infallible;
use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_790_000_000;
const DAY: u64 = 86_400;

const LIMITS: Limits =
    Limits { bytes_max: 1_000_000, age_max: Duration::from_secs(30 * DAY), items_max: 100 };

fn open_with(folder: &Path, limits: Limits) -> Result<Vault, VaultError> {
    Vault::open(folder, &VaultKey::derive(b"secret").unwrap(), limits)
}

fn vault(limits: Limits) -> (TempDir, Vault) {
    let folder = tempfile::tempdir().unwrap();
    let vault = open_with(&folder.path().join("quarantine"), limits).unwrap();
    (folder, vault)
}

fn meta(subject: &str) -> Meta {
    Meta { subject: subject.to_owned(), ..Meta::default() }
}

fn store(vault: &Vault, subject: &str, bytes: usize, now: u64) -> Result<Id, VaultError> {
    let chunks = vec![b'm'; bytes];
    let chunks =
        chunks.chunks(10_000).map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)));
    vault.store(&meta(subject), chunks, now)
}

fn subjects(vault: &Vault, now: u64) -> Vec<String> {
    vault.list(now).unwrap().map(|(_, item)| item.unwrap().meta.subject).collect()
}

fn mail(vault: &Vault, id: Id) -> Result<Vec<u8>, VaultError> {
    vault.open_content(id)?.collect::<Result<Vec<_>, _>>().map(|chunks| chunks.concat())
}

fn files(vault: &Vault) -> Vec<String> {
    let entries = fs::read_dir(&vault.folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_item_is_kept_shown_read_and_deleted() {
    let (_folder, vault) = vault(LIMITS);
    let id = store(&vault, "first", 70_000, NOW).unwrap();
    store(&vault, "second", 1, NOW + 1).unwrap();
    assert_eq!(subjects(&vault, NOW + 2), ["second", "first"]);
    let item = vault.show(id).unwrap();
    assert_eq!((item.bytes, item.stored_at, item.age_s(NOW + 60)), (70_000, NOW, 60));
    assert_eq!(mail(&vault, id).unwrap(), vec![b'm'; 70_000]);
    vault.delete(id).unwrap();
    assert_eq!(subjects(&vault, NOW + 2), ["second"]);
    for gone in [vault.delete(id), vault.show(id).map(drop), mail(&vault, id).map(drop)] {
        assert!(matches!(gone, Err(VaultError::NotFound { .. })), "{gone:?}");
    }
    assert_eq!(vault.usage().unwrap().items, 1);
    assert_eq!(vault.counters(), Counters { stored: 2, ..Counters::default() });
}

#[test]
fn what_lies_in_the_folder_is_for_its_owner_alone_and_cannot_be_run() {
    let (folder, vault) = vault(LIMITS);
    let id = store(&vault, "a", 10, NOW).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&vault.folder), 0o700);
    assert_eq!(mode(&vault.path(id, SEALED)), 0o600);
    assert_eq!(mode(&vault.folder.join(LOCK_FILE)), 0o600);
    // One that was open to others is closed.
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    open_with(&open, LIMITS).unwrap();
    assert_eq!(mode(&open), 0o700);
}

#[test]
fn too_old_items_are_not_listed_and_go_with_the_next_one() {
    let (_folder, vault) = vault(LIMITS);
    store(&vault, "old", 10, NOW).unwrap();
    store(&vault, "younger", 10, NOW + DAY).unwrap();
    let later = NOW + 30 * DAY;
    assert_eq!(subjects(&vault, later - 1), ["younger", "old"]);
    assert_eq!(subjects(&vault, later), ["younger"]);
    assert_eq!(vault.usage().unwrap().items, 2);
    store(&vault, "new", 10, later).unwrap();
    assert_eq!(vault.usage().unwrap().items, 2);
    assert_eq!(vault.sweep(later + DAY).unwrap(), Swept { expired: 1, evicted: 0 });
    assert_eq!(subjects(&vault, later + DAY), ["new"]);
    assert_eq!(vault.counters(), Counters { stored: 3, expired: 2, ..Counters::default() });
}

#[test]
fn a_clock_that_was_set_back_deletes_nothing() {
    let (_folder, vault) = vault(LIMITS);
    store(&vault, "tomorrow", 10, NOW + DAY).unwrap();
    store(&vault, "today", 10, NOW).unwrap();
    assert_eq!(subjects(&vault, NOW), ["tomorrow", "today"]);
    assert_eq!(vault.sweep(0).unwrap(), Swept::default());
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let (_folder, vault) = vault(Limits { items_max: 3, ..LIMITS });
    for n in 0..5 {
        store(&vault, &n.to_string(), 10, NOW + n).unwrap();
    }
    assert_eq!(subjects(&vault, NOW + 9), ["4", "3", "2"]);
    assert_eq!(vault.counters().evicted, 2);
}

#[test]
fn the_oldest_go_when_their_bytes_are_needed() {
    let (_folder, vault) = vault(Limits { bytes_max: 10_000, ..LIMITS });
    for n in 0..4 {
        store(&vault, &n.to_string(), 3_000, NOW + n).unwrap();
        assert!(vault.usage().unwrap().bytes <= 10_000);
    }
    assert_eq!(subjects(&vault, NOW + 9), ["3", "2", "1"]);
    // One that needs almost all the room.
    store(&vault, "large", 9_500, NOW + 4).unwrap();
    assert_eq!(subjects(&vault, NOW + 9), ["large"]);
    assert_eq!(vault.counters().evicted, 4);
}

#[test]
fn what_is_larger_than_everything_is_refused_and_costs_nothing_else() {
    let (_folder, vault) = vault(Limits { bytes_max: 50_000, ..LIMITS });
    store(&vault, "kept", 10, NOW).unwrap();
    let endless = std::iter::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0; 1_000])));
    let error = vault.store(&meta(""), endless, NOW + 1).unwrap_err();
    assert!(matches!(error, VaultError::TooLarge { bytes_max: 50_000 }), "{error}");
    assert!(error.to_string().ends_with("(quarantine.bytes_max)"), "{error}");
    let most = 50_000 - usize::try_from(vault.usage().unwrap().bytes).unwrap() + 10;
    let error = store(&vault, "more", most + 1, NOW + 1).unwrap_err();
    assert!(matches!(error, VaultError::TooLarge { bytes_max: 50_000 }), "{error}");
    assert_eq!(subjects(&vault, NOW + 2), ["kept"]);
    assert!(!files(&vault).iter().any(|name| name.ends_with(".tmp")));
    assert_eq!(vault.counters(), Counters { stored: 1, refused: 2, ..Counters::default() });
    // What takes all of it is within the limit.
    store(&vault, "most", most, NOW + 3).unwrap();
    assert_eq!(subjects(&vault, NOW + 4), ["most"]);
    assert_eq!(vault.usage().unwrap(), Usage { items: 1, bytes: 50_000 });
}

#[test]
fn a_mail_that_cannot_be_read_leaves_nothing() {
    let (_folder, vault) = vault(LIMITS);
    let chunks = [Ok(Bytes::from_static(b"a")), Err(io::Error::other("the spool is gone"))];
    let error = vault.store(&meta(""), chunks, NOW).unwrap_err();
    assert_eq!(telemetry::chain(&error), "read the mail that is to be kept: the spool is gone");
    assert_eq!(files(&vault), [""; 0]);
}

#[test]
fn what_a_power_cut_leaves_is_removed_at_the_next_start_and_nothing_else() {
    let (_folder, vault) = vault(LIMITS);
    let kept = store(&vault, "kept", 10, NOW).unwrap();
    let dead = vault.make_temporary(NOW).unwrap();
    (&dead.file).write_all(b"half an item").unwrap();
    let left_behind = dead.path.clone();
    // As if the process had ended here: the file stays, the lock goes.
    let copy = fs::read(&left_behind).unwrap();
    drop(dead);
    fs::write(&left_behind, copy).unwrap();
    let alive = vault.make_temporary(NOW).unwrap();
    fs::write(vault.folder.join("notes.txt"), "somebody's").unwrap();
    open_with(&vault.folder, LIMITS).unwrap();
    assert!(!left_behind.exists());
    assert!(alive.path.exists(), "one that is being written stays");
    let mut names = files(&vault);
    names.retain(|name| !name.ends_with(".tmp"));
    names.sort();
    assert_eq!(names, [".lock".to_owned(), format!("{kept}.sealed"), "notes.txt".to_owned()]);
}

#[test]
fn a_temporary_file_taken_away_before_it_was_locked_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let file = File::create(&path).unwrap();
    assert!(is_still_ours(&file, &path).unwrap());
    let cleaner = File::open(&path).unwrap();
    assert!(matches!(cleaner.try_lock(), Err(TryLockError::WouldBlock)));
    file.unlock().unwrap();
    cleaner.try_lock().unwrap();
    assert!(!is_still_ours(&file, &path).unwrap());
    fs::remove_file(&path).unwrap();
    drop(cleaner);
    assert!(!is_still_ours(&file, &path).unwrap());
    File::create(&path).unwrap();
    assert!(!is_still_ours(&file, &path).unwrap());
}

#[test]
fn an_item_that_does_not_open_is_listed_with_the_reason_and_can_be_deleted() {
    let (_folder, vault) = vault(LIMITS);
    let id = store(&vault, "a", 10, NOW).unwrap();
    store(&vault, "b", 10, NOW + 1).unwrap();
    let path = vault.path(id, SEALED);
    let mut bytes = fs::read(&path).unwrap();
    bytes[70] ^= 1;
    fs::write(&path, bytes).unwrap();
    let listed: Vec<_> = vault.list(NOW + 2).unwrap().collect();
    assert_eq!(listed.len(), 2);
    let (damaged, Err(error)) = &listed[1] else { panic!("{listed:?}") };
    assert_eq!(*damaged, id);
    assert!(error.to_string().ends_with("do not trust it, delete it"), "{error}");
    vault.delete(id).unwrap();
    // A renamed one does not pass for another.
    let other = store(&vault, "c", 10, NOW + 3).unwrap();
    fs::rename(vault.path(other, SEALED), vault.path(id, SEALED)).unwrap();
    assert!(matches!(vault.show(id), Err(VaultError::Damaged { .. })));
}

#[test]
fn another_key_opens_nothing() {
    let (_folder, vault) = vault(LIMITS);
    let id = store(&vault, "a", 10, NOW).unwrap();
    let key = VaultKey::derive(b"another secret").unwrap();
    let other = Vault::open(&vault.folder, &key, LIMITS).unwrap();
    assert!(matches!(other.show(id), Err(VaultError::OtherKey { .. })));
    other.delete(id).unwrap();
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    for bad in [path.clone(), path.join("below")] {
        let error = open_with(&bad, LIMITS).unwrap_err().to_string();
        assert!(error.contains(&bad.display().to_string()), "{error}");
    }
    // One that goes while it is used.
    let vault = open_with(&folder.path().join("q"), LIMITS).unwrap();
    fs::remove_dir(&vault.folder).unwrap();
    assert!(matches!(store(&vault, "", 1, NOW), Err(VaultError::Write { .. })));
    assert!(matches!(vault.list(NOW).map(drop), Err(VaultError::Folder { .. })));
}

#[test]
fn a_full_disk_is_called_that() {
    let (_folder, vault) = vault(LIMITS);
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        let error = vault.write_failed(kind.into());
        assert!(matches!(error, VaultError::DiskFull { .. }), "{error}");
        assert!(error.to_string().ends_with("or lower quarantine.bytes_max"), "{error}");
    }
}

/// Two programs with one folder: one stores, the other lists, reads and deletes.
#[test]
fn several_processes_may_use_it_at_a_time() {
    let limits = Limits { items_max: 8, ..LIMITS };
    let (_folder, vault) = vault(limits);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let daemon = open_with(&vault.folder, limits).unwrap();
                scope.spawn(move || {
                    for n in 0..60 {
                        store(&daemon, &format!("{writer} {n}"), 5_000, NOW + n).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut deleted = 0;
            while !done.load(Ordering::Relaxed) {
                let reader = open_with(&vault.folder, limits).unwrap();
                for (id, item) in reader.list(NOW).unwrap() {
                    assert_eq!(item.unwrap().bytes, 5_000);
                    match mail(&reader, id) {
                        Ok(mail) => assert_eq!(mail, vec![b'm'; 5_000]),
                        Err(error) => {
                            assert!(matches!(error, VaultError::NotFound { .. }), "{error}")
                        }
                    }
                    deleted += 1;
                    if deleted % 3 == 0 {
                        match reader.delete(id) {
                            Ok(()) | Err(VaultError::NotFound { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
        });
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|result| result.unwrap());
    });
    assert!(vault.usage().unwrap().items <= 8);
    assert_eq!(files(&vault).iter().filter(|name| name.ends_with(".tmp")).count(), 0);
}
