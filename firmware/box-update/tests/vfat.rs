//! An update on a file system that Debian's tools made, and what they say of it afterwards.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use box_update::install::{install, rename_slot, slots};
use common::fat::{FatDisk, Memory, facts};
use common::{bundle, keys, uki};

/// As small as mtools take for FAT32.
const DISK_BYTES: u64 = 64 * 1024 * 1024;

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    // A user's path may have no sbin.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    command.args(arguments).current_dir(folder).env("PATH", path).env("MTOOLS_SKIP_CHECK", "1");
    let output = command.output().unwrap_or_else(|error| {
        panic!("{program}: {error}; install Debian's packages dosfstools and mtools")
    });
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program}: {told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    told
}

#[test]
fn debians_tools_find_nothing_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::File::create(at.join("disk")).unwrap().set_len(DISK_BYTES).unwrap();
    run(at, "mkfs.vfat", &["-F", "32", "-n", "SLOTS", "disk"]);
    run(at, "mmd", &["-i", "disk", "::/EFI", "::/EFI/Linux"]);
    for build in [1, 2] {
        let name = format!("avr_{build:06}.efi");
        fs::write(at.join(&name), uki(build, 400_000)).unwrap();
        run(at, "mcopy", &["-i", "disk", &name, "::/EFI/Linux/"]);
    }

    let mut disk = FatDisk::open(fs::read(at.join("disk")).unwrap()).unwrap();
    let new = uki(3, 1_000_000);
    let mut source = Cursor::new(bundle(3, &new));
    let (mut store, facts, keys) = (Memory::default(), facts(2, "avr_000002.efi"), keys());
    let most = usize::try_from(DISK_BYTES).unwrap() / 100;
    let part = source.get_ref()[..most].to_vec();
    install(&mut Cursor::new(part), &mut disk, &mut store, &facts, &keys, &mut |_, _| {})
        .unwrap_err();
    let installed =
        install(&mut source, &mut disk, &mut store, &facts, &keys, &mut |_, _| {}).unwrap();
    assert!(installed.resumed_bytes > 600_000, "{}", installed.resumed_bytes);
    let rename = slots(&mut disk).unwrap().bless(3).unwrap().unwrap();
    rename_slot(&mut disk, &rename).unwrap();
    fs::write(at.join("disk"), disk.into_bytes()).unwrap();

    run(at, "fsck.vfat", &["-n", "disk"]);
    let listed = run(at, "mdir", &["-i", "disk", "-b", "::/EFI/Linux"]);
    let mut files: Vec<&str> = listed.lines().collect();
    files.sort_unstable();
    assert_eq!(files, ["::/EFI/Linux/avr_000002.efi", "::/EFI/Linux/avr_000003.efi"]);
    for (name, bytes) in [("avr_000002.efi", uki(2, 400_000)), ("avr_000003.efi", new)] {
        run(at, "mcopy", &["-n", "-i", "disk", &format!("::/EFI/Linux/{name}"), "found"]);
        assert!(fs::read(at.join("found")).unwrap() == bytes, "{name}");
        fs::remove_file(at.join("found")).unwrap();
    }
}
