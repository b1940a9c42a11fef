//! Bundles, as they are made and as they arrive; and that minisign says the same of them.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::process::Command;
use std::sync::OnceLock;

use box_update::bundle::{self, BUNDLE_BYTES_MAX, BundleError, Event, Reader, WriteError};
use box_update::{Manifest, SIGNATURE_BYTES_MAX, SignatureError, UKI_BYTES_MAX};
use common::{key, keys, manifest, sign, uki};
use proptest::prelude::*;

fn sample() -> &'static (Vec<u8>, Vec<u8>) {
    static SAMPLE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let uki = uki(2, 3000);
        (common::bundle(2, &uki), uki)
    })
}

/// Reads a bundle in pieces of these sizes, the last of them again and again.
fn read(bundle: &[u8], pieces: &[usize]) -> Result<(Option<Manifest>, Vec<u8>), BundleError> {
    let keys = keys();
    let mut reader = Reader::new(&keys);
    let (mut found, mut uki, mut ended) = (None, Vec::new(), false);
    let mut sizes = pieces.iter().copied().chain(std::iter::repeat(*pieces.last().unwrap_or(&512)));
    let mut rest = bundle;
    while !rest.is_empty() {
        let len = sizes.next().unwrap().clamp(1, rest.len());
        let (mut piece, behind) = rest.split_at(len);
        rest = behind;
        while let Some(event) = reader.read(&mut piece)? {
            match event {
                Event::Manifest(manifest) => {
                    assert!(found.replace(*manifest).is_none() && uki.is_empty());
                }
                Event::Uki(bytes) => {
                    assert!(found.is_some() && !ended);
                    uki.extend(bytes);
                }
                Event::End => ended = true,
            }
        }
        assert!(piece.is_empty());
    }
    reader.finish()?;
    assert!(ended);
    Ok((found, uki))
}

#[test]
fn a_bundle_is_read_as_it_was_written() {
    let (bundle, uki) = sample();
    let (found, read) = read(bundle, &[bundle.len()]).unwrap();
    assert_eq!((found, &read), (Some(manifest(2, uki)), uki));
}

/// With nothing but Debian's programs.
#[test]
fn a_person_can_look_at_it_with_tar_minisign_and_sha256sum() {
    let (bundle, uki) = sample();
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&folder).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    std::fs::write(folder.path().join("bundle.tar"), bundle).unwrap();
    assert_eq!(
        run("tar", &["xvf", "bundle.tar"]),
        "manifest.toml\nmanifest.toml.minisig\nsystem.efi\n"
    );
    let public = key("dev-1.pub").canonicalize().unwrap();
    let said = run("minisign", &["-V", "-p", public.to_str().unwrap(), "-m", "manifest.toml"]);
    assert!(said.starts_with("Signature and comment signature verified"), "{said}");
    let sum = run("sha256sum", &["system.efi"]);
    let text = std::fs::read_to_string(folder.path().join("manifest.toml")).unwrap();
    assert!(text.contains(&format!("sha256 = \"{}\"", &sum[..64])), "{text}");
    assert_eq!(std::fs::read(folder.path().join("system.efi")).unwrap(), *uki);
}

#[test]
fn either_key_signs_and_minisigns_older_kind_does_not() {
    let text = b"text";
    for name in ["dev-1.key", "dev-2.key"] {
        assert_eq!(keys().verify(text, &sign(text, &key(name), false)), Ok(()));
    }
    let legacy = sign(text, &key("dev-1.key"), true);
    assert_eq!(keys().verify(text, &legacy), Err(SignatureError::Legacy));
}

#[test]
fn a_strangers_signature_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (public, secret) = (folder.path().join("a.pub"), folder.path().join("a.key"));
    let mut minisign = Command::new("minisign");
    minisign.args(["-G", "-W", "-p"]).arg(&public).arg("-s").arg(&secret);
    assert!(minisign.output().unwrap().status.success());
    let uki = uki(2, 100);
    let text = manifest(2, &uki).to_toml().unwrap();
    let signature = sign(text.as_bytes(), &secret, false);
    let written = bundle::write(text.as_bytes(), &signature, &uki[..], &keys(), &mut Vec::new());
    let Err(WriteError::Bundle(BundleError::Signature(error))) = written else {
        panic!("{written:?}");
    };
    assert_eq!(error, SignatureError::UnknownKey);
}

#[test]
fn what_is_signed_is_all_that_is_written() {
    let uki = uki(2, 100);
    let text = manifest(2, &uki).to_toml().unwrap();
    let signature = sign(text.as_bytes(), &key("dev-2.key"), false);
    let write = |text: &[u8], signature: &[u8], uki: &[u8]| {
        let mut bundle = Vec::new();
        match bundle::write(text, signature, uki, &keys(), &mut bundle) {
            Ok(()) => Ok(bundle),
            Err(WriteError::Bundle(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(write(text.as_bytes(), &signature, &uki).is_ok());
    let other = text.replacen("build = 2", "build = 3", 1);
    let wrong = Err(BundleError::Signature(SignatureError::Wrong));
    assert_eq!(write(other.as_bytes(), &signature, &uki), wrong);
    assert_eq!(write(text.as_bytes(), &signature, &uki[1..]), Err(BundleError::Damaged));
    let long = [signature.as_slice(), &[b'\n'; 1024]].concat();
    let error = write(text.as_bytes(), &long, &uki).unwrap_err();
    assert!(matches!(error, BundleError::TooLarge { bytes_max: SIGNATURE_BYTES_MAX, .. }));
}

/// What a header says is believed for no longer than its limit.
#[test]
fn sizes_have_limits() {
    let mut header = sample().0[..512].to_vec();
    let mut set_size = |bytes: u64| {
        header[124..136].copy_from_slice(format!("{bytes:011o}\0").as_bytes());
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
        read(&header, &[512]).unwrap_err()
    };
    assert_eq!(set_size(8 * 1024), BundleError::Truncated { at: 512 });
    let error = set_size(8 * 1024 + 1);
    assert_eq!(
        error.to_string(),
        "the bundle's manifest.toml has 8193 bytes, and may have 8192: have the bundle built again"
    );
    assert!(matches!(set_size(0o77_777_777_777), BundleError::TooLarge { .. }));
    const { assert!(BUNDLE_BYTES_MAX < UKI_BYTES_MAX + 16 * 1024) };
}

#[test]
fn something_else_is_told_at_once() {
    for bytes in [vec![0; 4096], vec![0xff; 4096], uki(1, 4096)] {
        let error = read(&bytes, &[4096]).unwrap_err();
        assert!(matches!(error, BundleError::NotABundle { at: 0..512 }), "{error}");
    }
    assert_eq!(read(b"", &[1]), Err(BundleError::Truncated { at: 0 }));
}

#[test]
fn what_follows_the_end_is_refused_also_later() {
    let (bundle, _) = sample();
    let longer = [bundle.as_slice(), &[0]].concat();
    assert_eq!(read(&longer, &[longer.len()]), Err(BundleError::Trailing));
    assert_eq!(read(&longer, &[bundle.len()]), Err(BundleError::Trailing));
}

#[test]
fn no_bit_of_it_may_be_another() {
    let (bundle, _) = sample();
    for at in 0..bundle.len() {
        let mut damaged = bundle.clone();
        damaged[at] ^= 1 << (at % 8);
        // Comments that nobody signed are free.
        let text = String::from_utf8_lossy(bundle);
        let comment = text.find("untrusted comment: ").unwrap();
        let is_comment = (comment..comment + text[comment..].find('\n').unwrap()).contains(&at);
        assert!(is_comment || read(&damaged, &[bundle.len()]).is_err(), "byte {at}");
    }
}

#[test]
fn it_goes_on_where_it_stopped() {
    let (bundle, uki) = sample();
    let keys = keys();
    for done in [1, 700, uki.len()] {
        let mut reader = Reader::new(&keys);
        let mut head = &bundle[..5 * 512];
        let head_event = reader.read(&mut head).unwrap();
        let Some(Event::Manifest(_)) = head_event else { panic!("{head_event:?}") };
        let mut hasher = box_update::Hasher::default();
        hasher.update(&uki[..done]);
        let at = usize::try_from(reader.resume(hasher, done as u64).unwrap()).unwrap();
        assert_eq!(reader.resume(box_update::Hasher::default(), 1), None);
        let (mut rest, mut read) = (&bundle[at..], uki[..done].to_vec());
        while let Some(event) = reader.read(&mut rest).unwrap() {
            if let Event::Uki(bytes) = event {
                read.extend(bytes);
            }
        }
        reader.finish().unwrap();
        assert_eq!(read, *uki);
    }
}

proptest! {
    #[test]
    fn any_pieces_give_the_same(pieces in proptest::collection::vec(1_usize..2000, 1..20)) {
        let (bundle, uki) = sample();
        let (found, read) = read(bundle, &pieces).unwrap();
        prop_assert_eq!((found, &read), (Some(manifest(2, uki)), uki));
    }

    #[test]
    fn a_part_of_it_is_truncated(part in any::<prop::sample::Index>()) {
        let (bundle, _) = sample();
        let len = part.index(bundle.len());
        prop_assert_eq!(read(&bundle[..len], &[777]), Err(BundleError::Truncated { at: len as u64 }));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in 0_usize..3000) {
        let _ = read(&bytes, &[100]);
        let mut bundle = sample().0.clone();
        for (place, byte) in bundle.iter_mut().skip(at).zip(&bytes) {
            *place = *byte;
        }
        let _ = read(&bundle, &[100]);
    }
}
