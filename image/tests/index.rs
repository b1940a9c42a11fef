//! The index of updates: written, signed by the development keys, and read as a box does.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../firmware/box-update/tests/common/bundles.rs"]
mod bundles;

use std::fs;
use std::path::Path;
use std::process::Command;

use box_update::rollout::{INDEX_FILE, INDEX_SIGNATURE_FILE, Index};
use bundles::{bundle, keys, uki};

fn key() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("keys/dev/dev-2.key")
}

fn read(folder: &Path) -> Index {
    let file = |name| fs::read(folder.join(name)).unwrap();
    Index::open(&file(INDEX_FILE), &file(INDEX_SIGNATURE_FILE), &keys()).unwrap()
}

#[test]
fn an_index_says_what_is_in_the_bundles() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let system = uki(7, 10_000);
    let new = bundle(7, &system);
    fs::write(at.join("a.update.tar"), &new).unwrap();
    fs::write(at.join("b.update.tar"), bundle(6, &uki(6, 1000))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_avr-image"));
    command.arg("index").arg(at).arg("--sign").arg(key());
    command.args(["--offer", "a.update.tar=10", "--offer", "b.update.tar=100"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" 10 percent of qemu-x86_64 take build 7 (0.2.0)\n"), "{said}");
    let index = read(at);
    let offer = &index.offers[0];
    assert_eq!((offer.build.get(), offer.percent, offer.bytes), (7, 10, new.len() as u64));
    assert_eq!(offer.sha256, box_update::Sha256::of(&system));
    assert_eq!(index.offers[1].file, "b.update.tar");
    // As any person can say, too.
    let mut minisign = Command::new("minisign");
    minisign.args(["-V", "-m", INDEX_FILE, "-p"]).arg(key().with_extension("pub")).current_dir(at);
    assert!(minisign.output().unwrap().status.success());
    let mut names: Vec<_> = fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["a.update.tar", "b.update.tar", INDEX_FILE, INDEX_SIGNATURE_FILE]);
}

#[test]
fn a_new_index_is_newer_and_a_wrong_one_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let whole = bundle(7, &uki(7, 10_000));
    fs::write(at.join("a.update.tar"), &whole).unwrap();
    fs::write(at.join("cut.update.tar"), &whole[..whole.len() - 1]).unwrap();
    let write = |file: &str, percent, key: &Path, now| {
        image::index::write(at, &[(file.to_owned(), percent)], key, now)
    };
    write("a.update.tar", 10, &key(), 1000).unwrap();
    assert_eq!(read(at).issued_at, 1000);
    // Also where the clock was set back.
    write("a.update.tar", 0, &key(), 5).unwrap();
    assert_eq!((read(at).issued_at, read(at).offers[0].percent), (1001, 0));
    let before = read(at);
    let other = at.join("other.key");
    let mut minisign = Command::new("minisign");
    minisign.args(["-G", "-W", "-p", "other.pub", "-s", "other.key"]).current_dir(at);
    assert!(minisign.output().unwrap().status.success());
    for (file, percent, key) in [
        ("cut.update.tar", 10, key()),
        ("none.update.tar", 10, key()),
        ("a.update.tar", 101, key()),
        ("a.update.tar", 10, other),
        ("a.update.tar", 10, at.join("none.key")),
    ] {
        assert!(write(file, percent, &key, 2000).is_err(), "{file} {percent}");
        assert_eq!(read(at), before);
        assert!(!at.join(".index.new").exists());
    }
}
