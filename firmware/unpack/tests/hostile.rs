//! Any bytes, and archives that were tampered with: no panic leaves the crate, the budget holds,
//! and it ends. `UNPACK_SEED` and `UNPACK_ROUNDS` set where the tampering starts and how long it
//! goes on.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "an integration test is all tests, and its helpers may fail"
)]

mod support;

use proptest::prelude::*;
use std::ops::ControlFlow;
use std::sync::Arc;
use support::{corpus, files, uudecode, walk_within};
use unpack::{Budget, Format, Limits, formats, unpack};

/// Tampered copies of each archive.
const ROUNDS: u64 = 3;

fn limits() -> Limits {
    Limits {
        members_max: 500,
        bytes_max: 4 << 20,
        member_bytes_max: 2 << 20,
        decoder_bytes_max: 8 << 20,
        ..Limits::default()
    }
}

/// Takes some bytes apart as each format, whatever they look like, and then as what they look like.
fn try_all(bytes: &[u8]) {
    for format in Format::ALL {
        let mut budget = Budget::new(limits(), Arc::new(|| false));
        let mut handed_out = 0_usize;
        let troubles = unpack(bytes, format, &mut budget, &mut |member| {
            handed_out = handed_out.saturating_add(member.bytes.len());
            ControlFlow::Continue(())
        });
        assert!(budget.bytes() <= limits().bytes_max);
        assert!(budget.members() <= limits().members_max);
        // One step of a decoder may be beyond the limit that it then meets; PDF's text is a join.
        assert!(handed_out <= limits().bytes_max + (1 << 20), "{}", format.name());
        assert!(format.is_read() || !troubles.is_empty());
    }
    let mut budget = Budget::new(limits(), Arc::new(|| false));
    walk_within(bytes, &mut budget);
    assert!(budget.bytes() <= limits().bytes_max);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        try_all(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_mark_are_survived(
        mark in proptest::sample::select(MARKS.as_slice()),
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0_u8..4, Just(0xff)], 0..600),
    ) {
        try_all(&[mark, &bytes].concat());
    }
}

const MARKS: [&[u8]; 20] = [
    b"PK\x03\x04\x14\0\0\0\x08\0",
    b"PK\x05\x06",
    b"\x1f\x8b\x08",
    b"BZh91AY&SY",
    b"\xfd7zXZ\0\0\x01",
    b"\x5d\0\0\x10\0\xff\xff\xff\xff\xff\xff\xff\xff\0",
    b"LZIP\x01\x0c",
    b"\x28\xb5\x2f\xfd",
    b"\x1f\x9d\x90",
    b"!<arch>\n",
    b"070701",
    b"7z\xbc\xaf\x27\x1c\0\x04",
    b"Rar!\x1a\x07\0",
    b"Rar!\x1a\x07\x01\0",
    b"RE~^",
    b"MSCF\0\0\0\0",
    b"\x20\x20-lh5-",
    b"\x78\x9f\x3e\x22",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"%PDF-1.7\n1 0 obj\n<</Filter/FlateDecode>>stream\n",
];

/// Marks over and over: what each costs must not grow with how many there are.
#[test]
fn many_marks_cost_no_more_than_their_bytes() {
    const BYTES: usize = 1 << 20;
    let local = b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0a".as_slice();
    let stored = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\x0f\0\0\0\0\x01\0\0\0a";
    let central =
        b"PK\x01\x02\x14\0\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\0";
    let end = b"PK\x05\x06\0\0\0\0\x01\0\x01\0\x2e\0\0\0\x10\0\0\0\0\0";
    let patterns: [&[u8]; 23] = [
        local,
        stored,
        central,
        end,
        b"{\\rt\\objdata ",
        b"\\datastore{",
        b">>stream\n",
        b"<</Filter/AHx>>stream\n",
        b"1 0 obj<</Filter/FlateDecode>>stream\n\x78\x9c\0\0\0\xff\xff",
        b"/EF<</F 1 0 R>>/F(name)",
        b"Rar!\x1a\x07\0\0\0s\0\0\xff\xff",
        b"7z\xbc\xaf\x27\x1c\0\x04",
        b"MSCF\0\0\0\0",
        b"\x02\x10\x80\x07\0\x05\0\0\0a\0\0\0\0",
        b"\0Attribut\0e ",
        b"<a href=data:a/b;base64,",
        b"<w:binData><!--",
        b"<a <b data:&#",
        b"PHOTO;ENCODING=b\n ",
        b"-----BEGIN X-----\nbegin-base64 ",
        b"-----BEGIN PGP MESSAGE-----\n\n",
        b"\x04\x22\x4d\x18\x40\x70\0\0\0\0\0",
        b"\x60\xea\xff\x07-lh5-\x78\x9c",
    ];
    let heads: [&[u8]; 9] = [
        b"",
        b"%PDF-",
        b"{\\rt",
        local,
        b"\x78\x9f\x3e\x22\0\0",
        b"MSCF\0\0\0\0",
        b"<?xml",
        b"BEGIN:VCARD\r\n",
        b"MZ",
    ];
    for head in heads {
        for pattern in patterns {
            let bytes = [head, &pattern.repeat(BYTES / pattern.len())].concat();
            let mut budget = Budget::new(limits(), Arc::new(|| false));
            walk_within(&bytes, &mut budget);
            assert!(budget.members() <= limits().members_max);
        }
    }
}

/// A generator that needs no crate: what it yields is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap() % end.max(1)
    }
}

fn tamper(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        let Some(byte) = bytes.get_mut(at) else { return };
        match random.below(6) {
            0 => *byte = 0xff,
            1 => *byte = 0,
            2 => *byte ^= 1 << random.below(8),
            3 => *byte = byte.wrapping_add(1),
            4 => bytes.truncate(at),
            _ => {
                let copy = bytes[at..].iter().take(64).copied().collect::<Vec<_>>();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
}

#[test]
fn tampered_archives_are_survived() {
    let seed = setting("UNPACK_SEED").unwrap_or(1);
    let rounds = setting("UNPACK_ROUNDS").unwrap_or(ROUNDS);
    for folder in ["authored-archive", "yauzl", "libarchive"] {
        let Some(folder) = corpus(folder) else { return };
        for file in files(&folder) {
            let bytes = std::fs::read(&file).unwrap();
            let is_encoded = file.extension().is_some_and(|extension| extension == "uu");
            let bytes = if is_encoded { uudecode(&bytes) } else { bytes };
            // Large ones cost much time, and have no structure that small ones lack.
            if bytes.len() > 40_000 {
                continue;
            }
            for round in seed..seed + rounds {
                let mut random = Random(round);
                let mut tampered = bytes.clone();
                tamper(&mut tampered, &mut random);
                let mut budget = Budget::new(limits(), Arc::new(|| false));
                let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    for format in formats(&tampered) {
                        unpack(&tampered, format, &mut budget, &mut |_| ControlFlow::Continue(()));
                    }
                }));
                assert!(caught.is_ok(), "{} with seed {round}", file.display());
                assert!(budget.bytes() <= limits().bytes_max);
            }
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
