//! Systems, and signed bundles of them. Of the tests of `avr`, too.
#![allow(dead_code, reason = "each test uses some of it")]

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;

use board::Arch;
use box_update::{FORMAT, Keys, Manifest, Sha256, Uki};

pub(crate) const BOARD: &str = "qemu-x86_64";
pub(crate) const VERSION: &str = "0.2.0";

/// A small PE file with a UKI's sections.
pub(crate) fn uki(build: u32, linux_bytes: usize) -> Vec<u8> {
    let os_release = format!(
        "ID=avr\nVERSION_ID={VERSION}\nBUILD_ID={build}\nIMAGE_ID=avr\nIMAGE_VERSION={build}\n\
         VARIANT_ID={BOARD}\n"
    );
    uki_with(&os_release, "quiet console=ttyS0", linux_bytes)
}

pub(crate) fn uki_with(os_release: &str, cmdline: &str, linux_bytes: usize) -> Vec<u8> {
    // Different everywhere, so that blocks in the wrong place are noticed.
    let linux: Vec<u8> =
        (0..linux_bytes).flat_map(|n| (n * 77).to_le_bytes()).take(linux_bytes).collect();
    pe(
        0x8664,
        &[
            (".osrel", os_release.as_bytes()),
            (".cmdline", cmdline.as_bytes()),
            (".linux", &linux),
            (".initrd", b"a root"),
        ],
    )
}

pub(crate) fn pe(machine: u16, sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 64;
    file.extend(b"PE\0\0");
    file.extend(machine.to_le_bytes());
    file.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
    file.extend([0; 12]);
    file.extend(240_u16.to_le_bytes());
    file.extend(0x22_u16.to_le_bytes());
    let optional = file.len();
    file.extend([0; 240]);
    file[optional..optional + 2].copy_from_slice(&0x20b_u16.to_le_bytes());
    file[optional + 108] = 16;
    let mut at = 1024;
    for (name, bytes) in sections {
        let mut padded = [0; 8];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        file.extend(padded);
        for number in [bytes.len(), at * 8, bytes.len().next_multiple_of(512), at] {
            file.extend(u32::try_from(number).unwrap().to_le_bytes());
        }
        file.extend([0; 16]);
        at += bytes.len().next_multiple_of(512);
    }
    file.resize(1024, 0);
    for (_, bytes) in sections {
        file.extend(*bytes);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    file
}

pub(crate) fn manifest(build: u32, uki: &[u8]) -> Manifest {
    Manifest {
        format: FORMAT,
        product: "avr".to_owned(),
        board: BOARD.to_owned(),
        arch: Arch::X86_64,
        version: VERSION.to_owned(),
        build: NonZeroU32::new(build).unwrap(),
        min_build_floor: 1,
        built_at: 1_790_000_000,
        commit: "4f2a91".to_owned(),
        uki: Uki { bytes: uki.len() as u64, sha256: Sha256::of(uki) },
    }
}

pub(crate) fn key(name: &str) -> PathBuf {
    // The tests of more than one crate read this file.
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let tree = above.find(|folder| folder.join("image/keys/dev").is_dir()).unwrap();
    tree.join("image/keys/dev").join(name)
}

/// Has Debian's minisign sign these bytes with a secret key.
pub(crate) fn sign(bytes: &[u8], key: &Path, legacy: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (file, signature) = (folder.path().join("file"), folder.path().join("signature"));
    std::fs::write(&file, bytes).unwrap();
    let mut minisign = Command::new("minisign");
    minisign.args(if legacy { ["-S", "-l"].as_slice() } else { &["-S"] });
    minisign.arg("-s").arg(key).arg("-m").arg(&file).arg("-x").arg(&signature).args(["-t", "test"]);
    let output = minisign.output().expect("install Debian's package minisign");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(signature).unwrap()
}

pub(crate) fn keys() -> Keys {
    Keys::built_in().unwrap()
}

/// A bundle of these.
pub(crate) fn bundle_of(manifest: &Manifest, uki: &[u8]) -> Vec<u8> {
    let text = manifest.to_toml().unwrap();
    let signature = sign(text.as_bytes(), &key("dev-1.key"), false);
    let mut bundle = Vec::new();
    box_update::bundle::write(text.as_bytes(), &signature, uki, &keys(), &mut bundle).unwrap();
    bundle
}

pub(crate) fn bundle(build: u32, uki: &[u8]) -> Vec<u8> {
    bundle_of(&manifest(build, uki), uki)
}
