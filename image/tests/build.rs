//! Images as files: the same bytes each time, and what is said of boards that cannot be built.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use box_update::install::{Facts, install};
use box_update::record::FileStore;
use box_update::slots::Loader;
use box_update::{Keys, Mounted};
use image::{Options, Signing, build};

#[test]
fn two_builds_give_the_same_bytes() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let built = build(&common::options("qemu-x86_64", 7, one.path())).unwrap();
    build(&common::options("qemu-x86_64", 7, other.path())).unwrap();
    let (files, others) = (contents(one.path()), contents(other.path()));
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "avr-qemu-x86_64-0.0.1.SHA256SUMS",
            "avr-qemu-x86_64-0.0.1.bmap",
            "avr-qemu-x86_64-0.0.1.cdx.json",
            "avr-qemu-x86_64-0.0.1.efi",
            "avr-qemu-x86_64-0.0.1.img.zst",
            "avr-qemu-x86_64-0.0.1.update.tar",
        ]
    );
    for (name, bytes) in &files {
        assert!(others[name] == *bytes, "{name} differs");
    }

    // Another build is another image: the comparison above would see it.
    build(&common::options("qemu-x86_64", 8, other.path())).unwrap();
    assert!(contents(other.path())["avr-qemu-x86_64-0.0.1.efi"] != fs::read(&built.uki).unwrap());

    let bom: serde_json::Value = serde_json::from_slice(&fs::read(&built.sbom).unwrap()).unwrap();
    let components = bom["components"].as_array().unwrap();
    let names: Vec<&str> = components.iter().filter_map(|it| it["name"].as_str()).collect();
    for name in ["board", "serde", "busybox-static", "systemd-boot-efi"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let kernel = components
        .iter()
        .find(|it| it["name"].as_str().is_some_and(|name| name.starts_with("linux-image-6.12.")))
        .unwrap();
    let source = kernel["properties"][0]["value"].as_str().unwrap();
    assert!(source.starts_with("linux-signed-6.12-amd64 ("), "{source}");
}

/// With nothing but Debian's programs.
fn by_hand(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("programs print text")
}

#[test]
fn the_update_is_what_a_person_verifies_and_a_box_takes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let built = build(&common::options("qemu-x86_64", 7, at)).unwrap();
    let update = built.update.unwrap();
    let sums = built.sums.file_name().unwrap().to_str().unwrap();
    let checked = by_hand(at, "sha256sum", &["--check", sums]);
    assert!(checked.contains("avr-qemu-x86_64-0.0.1.update.tar: OK"), "{checked}");

    by_hand(at, "tar", &["xf", update.to_str().unwrap()]);
    let public = common::tree().join("image/keys/dev/dev-1.pub");
    let verify = ["-V", "-p", public.to_str().unwrap(), "-m", "manifest.toml"];
    let said = by_hand(at, "minisign", &verify);
    assert!(said.contains("Trusted comment: avr qemu-x86_64 0.0.1, build 7"), "{said}");
    // Nothing that depends on when or where it was signed: two builds in one second would agree on that.
    let signature = fs::read_to_string(at.join("manifest.toml.minisig")).unwrap();
    let comments: Vec<&str> = signature.lines().step_by(2).collect();
    assert_eq!(
        comments,
        ["untrusted comment: avr update", "trusted comment: avr qemu-x86_64 0.0.1, build 7"]
    );
    assert!(fs::read(at.join("system.efi")).unwrap() == fs::read(&built.uki).unwrap());

    let slots = at.join("slots/EFI/Linux");
    fs::create_dir_all(&slots).unwrap();
    fs::write(slots.join("avr_000006.efi"), b"the one that runs").unwrap();
    let facts = Facts {
        product: "avr".to_owned(),
        board: "qemu-x86_64".to_owned(),
        arch: board::Arch::X86_64,
        build: 6,
        loader: Loader { selected: Some("avr_000006.efi".to_owned()), counted: None },
    };
    let installed = install(
        &mut File::open(&update).unwrap(),
        &mut Mounted::new(at.join("slots")).unwrap(),
        &mut FileStore::new(at.join("update.json")),
        &facts,
        &Keys::built_in().unwrap(),
        &mut |_, _| {},
    )
    .unwrap();
    assert_eq!((installed.manifest.build.get(), installed.manifest.min_build_floor), (7, 1));
    assert_eq!(
        (installed.manifest.version.as_str(), &installed.manifest.commit[..4]),
        ("0.0.1", "0123")
    );
    assert!(fs::read(slots.join(installed.file)).unwrap() == fs::read(&built.uki).unwrap());
}

#[test]
fn a_key_that_no_box_knows_signs_no_update() {
    let folder = tempfile::tempdir().unwrap();
    by_hand(folder.path(), "minisign", &["-G", "-W", "-p", "a.pub", "-s", "a.key"]);
    let sign = |key: &str| Some(Signing { key: folder.path().join(key), floor: 1 });
    let with = |sign| build(&Options { sign, ..common::options("qemu-x86_64", 7, folder.path()) });
    let error = with(sign("a.key")).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("signed with a key that this system does not know"), "{source}");
    let error = with(sign("b.key")).unwrap_err().to_string();
    assert!(error.starts_with("signing the update with "), "{error}");
    // What nobody may use is not there.
    assert!(!folder.path().join("avr-qemu-x86_64-0.0.1.update.tar").exists());
}

#[test]
fn every_board_can_be_built() {
    for entry in fs::read_dir(common::tree().join("board")).unwrap() {
        let entry = entry.unwrap();
        let id = entry.file_name().into_string().unwrap();
        // Those of QEMU are built and started by the tests of booting.
        let tried_there = id == board::COMMON || id.starts_with("qemu-");
        if !entry.file_type().unwrap().is_dir() || tried_there {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let built = build(&common::options(&id, 1, folder.path()));
        built.unwrap_or_else(|error| panic!("{id}: {error}"));
    }
}

#[test]
fn a_module_that_the_kernel_lacks_is_said_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    for path in
        ["image/layout.toml", "image/packages.toml", "image/debian.lock", "board/common/board.toml"]
    {
        let to = tree.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(common::tree().join(path), to).unwrap();
    }
    let own = fs::read_to_string(common::tree().join("board/qemu-x86_64/board.toml")).unwrap();
    fs::create_dir(tree.join("board/qemu-x86_64")).unwrap();
    let wrong = own.replace("\"virtio_net\"", "\"virtio_nett\"");
    fs::write(tree.join("board/qemu-x86_64/board.toml"), &wrong).unwrap();
    let options = Options {
        tree: tree.clone(),
        crates: Vec::new(),
        ..common::options("qemu-x86_64", 1, folder.path())
    };
    let error = build(&options).unwrap_err().to_string();
    let line = 1 + wrong.lines().position(|line| line.contains("virtio_nett")).unwrap();
    let file = tree.join("board/qemu-x86_64/board.toml");
    let expected = format!("{}:{line}: module \"virtio_nett\": Linux 6.12.", file.display());
    assert!(error.starts_with(&expected), "{error}");
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let files = entries.map(|entry| {
        let name = entry.file_name().into_string().expect("a name of ours");
        (name, fs::read(entry.path()).expect("a file"))
    });
    files.collect()
}
