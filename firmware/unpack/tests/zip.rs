//! Zips that programs read in several ways: every reading is handed out.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "an integration test is all tests, and its helpers may fail"
)]

mod support;

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use support::{EICAR, budget, walk, walk_within};
use unpack::{Budget, Format, LimitKind, Limits, Trouble, formats, unpack};

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// One member, with what its two headers say of it.
#[derive(Clone)]
struct Entry {
    name: Vec<u8>,
    local_name: Vec<u8>,
    data: Vec<u8>,
    method: u16,
    local_method: u16,
    flags: u16,
    local_flags: u16,
    crc: u32,
    packed: u32,
    local_packed: u32,
    unpacked: u32,
    local_unpacked: u32,
    extra: Vec<u8>,
    descriptor: bool,
}

impl Entry {
    fn new(name: &str, content: &[u8], method: u16) -> Self {
        let data = if method == DEFLATED { deflate(content) } else { content.to_vec() };
        Self::packed(name, content, data, method)
    }

    fn packed(name: &str, content: &[u8], data: Vec<u8>, method: u16) -> Self {
        let packed = u32::try_from(data.len()).unwrap();
        let unpacked = u32::try_from(content.len()).unwrap();
        Self {
            name: name.into(),
            local_name: name.into(),
            data,
            method,
            local_method: method,
            flags: 0,
            local_flags: 0,
            crc: crc32fast::hash(content),
            packed,
            local_packed: packed,
            unpacked,
            local_unpacked: unpacked,
            extra: Vec::new(),
            descriptor: false,
        }
    }

    fn local(&self) -> Vec<u8> {
        let mut out = b"PK\x03\x04\x14\0".to_vec();
        for field in [self.local_flags, self.local_method, 0, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.crc, self.local_packed, self.local_unpacked] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&length(&self.local_name));
        out.extend_from_slice(&length(&self.extra));
        out.extend_from_slice(&self.local_name);
        out.extend_from_slice(&self.extra);
        out.extend_from_slice(&self.data);
        if self.descriptor {
            out.extend_from_slice(b"PK\x07\x08");
            for field in [self.crc, self.packed, self.unpacked] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        out
    }

    fn central(&self, offset: usize) -> Vec<u8> {
        let mut out = b"PK\x01\x02\x14\0\x14\0".to_vec();
        for field in [self.flags, self.method, 0, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.crc, self.packed, self.unpacked] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&length(&self.name));
        out.extend_from_slice(&length(&self.extra));
        out.extend_from_slice(&[0; 10]);
        out.extend_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
        out.extend_from_slice(&self.name);
        out.extend_from_slice(&self.extra);
        out
    }
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap().to_le_bytes()
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn end(entries: usize, size: usize, offset: usize, comment: &[u8]) -> Vec<u8> {
    let mut out = b"PK\x05\x06\0\0\0\0".to_vec();
    let entries = u16::try_from(entries).unwrap().to_le_bytes();
    out.extend_from_slice(&entries);
    out.extend_from_slice(&entries);
    out.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    out.extend_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
    out.extend_from_slice(&length(comment));
    out.extend_from_slice(comment);
    out
}

fn zip(entries: &[Entry]) -> Vec<u8> {
    zip_with_comment(entries, b"")
}

fn zip_with_comment(entries: &[Entry], comment: &[u8]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        directory.extend_from_slice(&entry.central(out.len()));
        out.extend_from_slice(&entry.local());
    }
    let offset = out.len();
    out.extend_from_slice(&directory);
    out.extend_from_slice(&end(entries.len(), directory.len(), offset, comment));
    out
}

fn eicar() -> Entry {
    Entry::new("eicar.com", EICAR, DEFLATED)
}

fn harmless() -> Entry {
    Entry::new("readme.txt", b"Nothing to see here, and a lot of it.", DEFLATED)
}

#[test]
fn a_regular_zip_is_decoded_once_and_gives_no_trouble() {
    let archive = zip(&[
        harmless(),
        Entry::new("stored.bin", b"as it is", STORED),
        Entry::new("folder/", b"", STORED),
        Entry::new("empty.txt", b"", STORED),
    ]);
    assert_eq!(formats(&archive), [Format::Zip]);
    let found = walk(&archive);
    assert_eq!(found.names(), ["readme.txt", "stored.bin", "empty.txt"]);
    assert!(found.members.iter().all(|member| !member.is_odd));
    assert_eq!(found.troubles, []);
    assert_eq!(walk(&zip(&[])).troubles, []);
}

#[test]
fn headers_that_contradict_each_other_are_both_followed() {
    let mut method = eicar();
    method.local_method = STORED;
    assert!(walk(&zip(&[method.clone()])).has(EICAR));
    (method.method, method.local_method) = (STORED, DEFLATED);
    let found = walk(&zip(&[method]));
    assert!(found.has(EICAR));
    assert_eq!(found.troubles, [], "one reading is whole");

    let mut name = eicar();
    name.local_name = b"invoice.txt".to_vec();
    assert_eq!(walk(&zip(&[name])).names(), ["invoice.txt", "eicar.com"]);

    let mut size = Entry::new("eicar.com", EICAR, STORED);
    (size.local_packed, size.local_unpacked) = (3, 3);
    let found = walk(&zip(&[size]));
    assert!(found.members.iter().any(|member| member.bytes == EICAR));
    assert!(found.members.iter().any(|member| member.bytes == EICAR[..3]));
}

#[test]
fn names_come_from_the_unicode_field_too() {
    let mut entry = eicar();
    let mut field = vec![0x75, 0x70, 5 + 9, 0, 1, 0, 0, 0, 0];
    field.extend_from_slice(b"virus.exe");
    entry.extra = field;
    entry.name = b"\x81\0../x".to_vec();
    assert_eq!(walk(&zip(&[entry])).names(), ["eicar.com", "virus.exe", "ü\0../x"]);
}

#[test]
fn sizes_may_be_unknown_or_lies() {
    for method in [STORED, DEFLATED] {
        let mut streamed = Entry::new("eicar.com", EICAR, method);
        (streamed.flags, streamed.local_flags, streamed.descriptor) = (8, 8, true);
        (streamed.local_packed, streamed.local_unpacked) = (0, 0);
        let found = walk(&zip(&[streamed.clone(), harmless()]));
        assert!(found.members.iter().any(|member| member.bytes == EICAR), "method {method}");
        assert_eq!(found.troubles, [], "method {method}");
        let alone = streamed.local();
        assert!(walk(&alone).members.iter().any(|member| member.bytes == EICAR));

        let mut lie = Entry::new("eicar.com", EICAR, method);
        for size in [&mut lie.packed, &mut lie.unpacked, &mut lie.local_packed] {
            *size = 0;
        }
        lie.local_unpacked = 0;
        assert!(walk(&zip(&[lie.clone()])).has(EICAR), "method {method}");
        for size in [&mut lie.packed, &mut lie.unpacked, &mut lie.local_packed] {
            *size = 0x7fff_ffff;
        }
        lie.local_unpacked = 0x7fff_ffff;
        let found = walk(&zip(&[lie]));
        assert!(found.has(EICAR), "method {method}");
        assert_eq!(found.troubles.is_empty(), method == DEFLATED, "{:?}", found.troubles);
    }
}

#[test]
fn members_that_no_directory_names_are_found() {
    let evil = zip(&[eicar()]);
    let clean = zip(&[harmless()]);
    let in_comment = zip_with_comment(&[harmless()], &evil);
    let before = [evil.as_slice(), &clean].concat();
    let behind = [clean.as_slice(), &evil].concat();
    let no_directory = eicar().local();
    let program = [b"MZ".as_slice(), &[7; 5000], &evil].concat();
    for archive in [in_comment, before, behind, no_directory, program] {
        let found = walk(&archive);
        assert!(found.has(EICAR));
        assert_eq!(found.troubles, []);
    }
    // A directory that names the first only.
    let (first, second) = (harmless().local(), eicar().local());
    let directory = harmless().central(0);
    let offset = first.len() + second.len();
    let hidden = [first, second, directory.clone(), end(1, directory.len(), offset, b"")].concat();
    let found = walk(&hidden);
    assert!(found.members.iter().any(|member| member.bytes == EICAR && member.is_odd));
}

#[test]
fn two_directories_are_both_followed() {
    // The end record points to the one, its zip64 form to the other.
    let (first, second) = (harmless().local(), eicar().local());
    let (one, two) = (harmless().central(0), eicar().central(first.len()));
    let mut out = [first, second].concat();
    let one_at = out.len();
    out.extend_from_slice(&one);
    let two_at = out.len();
    out.extend_from_slice(&two);
    let end64_at = out.len();
    out.extend_from_slice(b"PK\x06\x06");
    out.extend_from_slice(&44_u64.to_le_bytes());
    out.extend_from_slice(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for field in [1, 1, two.len(), two_at] {
        out.extend_from_slice(&u64::try_from(field).unwrap().to_le_bytes());
    }
    out.extend_from_slice(b"PK\x06\x07\0\0\0\0");
    out.extend_from_slice(&u64::try_from(end64_at).unwrap().to_le_bytes());
    out.extend_from_slice(&[1, 0, 0, 0]);
    out.extend_from_slice(&end(1, one.len(), one_at, b""));
    let found = walk(&out);
    assert!(found.has(EICAR));
    assert_eq!(found.names(), ["readme.txt", "eicar.com"]);
}

#[test]
fn encryption_is_believed_where_plain_reading_fails() {
    let encrypted = |flags, local_flags| {
        let mut entry = eicar();
        (entry.flags, entry.local_flags) = (flags, local_flags);
        entry
    };
    for (flags, local_flags) in [(1, 0), (0, 1)] {
        let found = walk(&zip(&[encrypted(flags, local_flags)]));
        assert!(found.has(EICAR));
        assert_eq!(found.troubles, []);
        let mut real = encrypted(flags, local_flags);
        real.data.iter_mut().for_each(|byte| *byte ^= 0x5a);
        let troubles = walk(&zip(&[real])).troubles;
        assert_eq!(troubles, [Trouble::Encrypted { format: Format::Zip }]);
    }
    let found = walk(&zip(&[encrypted(1, 1), harmless()]));
    // The names of what is encrypted are in clear, and are told.
    assert_eq!(found.names(), ["eicar.com", "readme.txt"]);
    assert!(!found.has(EICAR));
    assert_eq!(found.troubles, [Trouble::Encrypted { format: Format::Zip }]);
}

#[test]
fn methods_beside_deflate_are_read() {
    let content = b"the same words, the same words, the same words".as_slice();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    bzip2.write_all(content).unwrap();
    // A stored block, which is the same in both windows.
    let size = u16::try_from(content.len()).unwrap();
    let mut deflate64 = vec![1];
    deflate64.extend_from_slice(&size.to_le_bytes());
    deflate64.extend_from_slice(&(!size).to_le_bytes());
    deflate64.extend_from_slice(content);
    let mut ppmd = (3_u16 | 1 << 4).to_le_bytes().to_vec();
    let restore = ppmd_rust::RestoreMethod::Restart;
    let mut encoder = ppmd_rust::Ppmd8Encoder::new(Vec::new(), 4, 2 << 20, restore).unwrap();
    encoder.write_all(content).unwrap();
    ppmd.extend_from_slice(&encoder.finish(false).unwrap());
    let mut zstd = b"\x28\xb5\x2f\xfd\x20".to_vec();
    zstd.push(u8::try_from(content.len()).unwrap());
    zstd.extend_from_slice(&(1 | u32::from(size) << 3).to_le_bytes()[..3]);
    zstd.extend_from_slice(content);
    for (method, data) in [(9, deflate64), (12, bzip2.finish().unwrap()), (93, zstd), (98, ppmd)] {
        let found = walk(&zip(&[Entry::packed("a", content, data, method)]));
        assert_eq!(found.troubles, [], "method {method}");
        assert_eq!(found.members[0].bytes, content, "method {method}");
    }
}

#[test]
fn what_is_not_read_is_said() {
    let implode = Entry::packed("a", b"content", b"whatever".to_vec(), 6);
    let what = "a compression method";
    let unsupported = Trouble::Unsupported { format: Format::Zip, what };
    assert_eq!(walk(&zip(&[implode])).troubles, [unsupported]);

    let mut broken = eicar();
    // A kind of block that does not exist.
    broken.data[0] = 7;
    let found = walk(&zip(&[broken]));
    assert!(matches!(found.troubles[..], [Trouble::Damaged { .. }]), "{:?}", found.troubles);

    let mut nowhere = zip(&[eicar()]);
    nowhere[0] = b'Q';
    assert!(!walk(&nowhere).troubles.is_empty() || formats(&nowhere).is_empty());

    let mut volume = zip(&[harmless()]);
    let at = volume.len() - 18;
    volume[at] = 2;
    assert_eq!(walk(&volume).troubles, [Trouble::Partial { format: Format::Zip }]);
}

#[test]
fn a_zip_in_a_zip_is_left_to_who_looks_at_the_member() {
    let inner = zip(&[Entry::new("eicar.com", EICAR, STORED)]);
    let outer = zip(&[Entry::new("inner.zip", &inner, STORED)]);
    let mut members = Vec::new();
    let troubles = unpack(&outer, Format::Zip, &mut budget(), &mut |member| {
        members.push(member);
        ControlFlow::Continue(())
    });
    assert_eq!(troubles, []);
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].bytes, inner);
}

/// As programs of Java are packed: each library an archive of its own, stored.
#[test]
fn many_zips_in_a_zip_give_no_trouble() {
    let library = |index: usize| {
        let name = format!("{index}.class");
        let inner = zip(&[Entry::new(&name, name.as_bytes(), DEFLATED)]);
        Entry::new(&format!("{index}.jar"), &inner, STORED)
    };
    let found = walk(&zip(&(0..200).map(library).collect::<Vec<_>>()));
    assert_eq!(found.troubles, []);
    assert_eq!(found.members.len(), 400);
    assert!(found.members.iter().all(|member| !member.is_odd));
    // One behind the other, there are too many for any that is honest.
    let many = (0..200).flat_map(|index| zip(&[library(index)])).collect::<Vec<_>>();
    assert!(walk(&many).troubles.iter().any(|trouble| matches!(trouble, Trouble::Damaged { .. })));
}

#[test]
fn what_is_called_encrypted_hides_nothing() {
    let mut cover = Entry::new("secret.txt", &zip(&[eicar()]), STORED);
    (cover.flags, cover.local_flags) = (1, 1);
    let found = walk(&zip(&[cover]));
    assert!(found.has(EICAR));
    assert_eq!(found.troubles, [Trouble::Encrypted { format: Format::Zip }]);
}

/// As D. Fifield's zip bombs: many central entries that share one stretch of packed data.
#[test]
fn overlapping_members_end_at_the_budget() {
    let kernel = Entry::new("0", &vec![0; 1 << 20], DEFLATED);
    let mut headers = Vec::new();
    let mut directory = Vec::new();
    // Each local header is quoted by a stored block of the one before, so that all are distinct.
    let mut out = Vec::new();
    for index in 0..500 {
        let mut entry = kernel.clone();
        entry.name = format!("{index}").into_bytes();
        entry.local_name = entry.name.clone();
        entry.data = vec![0, 0, 0, 0xff, 0xff];
        directory.push((entry.clone(), headers.len()));
        headers.extend_from_slice(&entry.local());
    }
    headers.extend_from_slice(&kernel.data);
    out.extend_from_slice(&headers);
    let offset = out.len();
    for (entry, at) in &directory {
        out.extend_from_slice(&entry.central(*at));
    }
    let size = out.len() - offset;
    out.extend_from_slice(&end(directory.len(), size, offset, b""));
    let limits = Limits { members_max: 100, bytes_max: 20 << 20, ..Limits::default() };
    let mut budget = Budget::new(limits, Arc::new(|| false));
    let found = walk_within(&out, &mut budget);
    assert!(found.troubles.iter().any(|trouble| matches!(trouble, Trouble::Limit(_))));
    assert!(budget.members() <= 100 && budget.bytes() <= 20 << 20);
}

#[test]
fn each_limit_is_reached() {
    let big = zip(&[Entry::new("a", &vec![0; 3 << 20], DEFLATED), harmless()]);
    let cases = [
        (Limits { members_max: 1, ..Limits::default() }, LimitKind::Members),
        (Limits { bytes_max: 1 << 20, ..Limits::default() }, LimitKind::Bytes),
        (Limits { member_bytes_max: 1 << 20, ..Limits::default() }, LimitKind::Bytes),
        (
            Limits { ratio_floor_bytes: 1 << 20, ratio_max: 100, ..Limits::default() },
            LimitKind::Ratio,
        ),
    ];
    for (limits, kind) in cases {
        let bytes_max = limits.bytes_max;
        let mut budget = Budget::new(limits, Arc::new(|| false));
        let found = walk_within(&big, &mut budget);
        assert_eq!(found.troubles, [Trouble::Limit(kind)]);
        assert!(budget.bytes() <= bytes_max);
        // Beyond the ratio of one member the others are still looked at.
        assert_eq!(found.names().contains(&"readme.txt"), kind == LimitKind::Ratio);
    }
    let mut budget = Budget::new(Limits::default(), Arc::new(|| true));
    assert_eq!(walk_within(&big, &mut budget).troubles, [Trouble::Limit(LimitKind::Time)]);

    let limits = Limits { decoder_bytes_max: 1 << 20, ..Limits::default() };
    let mut budget = Budget::new(limits, Arc::new(|| false));
    let model = Entry::packed("a", b"abc", vec![0xf3, 0x0f, 0, 0], 98);
    let found = walk_within(&zip(&[model]), &mut budget);
    assert!(found.troubles.contains(&Trouble::Limit(LimitKind::Memory)), "{:?}", found.troubles);
}

#[test]
fn documents_that_are_encrypted_say_so_themselves() {
    let manifest =
        |text: &'static str| Entry::new("META-INF/manifest.xml", text.as_bytes(), STORED);
    let plain = "<manifest:file-entry manifest:full-path=\"content.xml\"/>";
    let locked = "<manifest:encryption-data manifest:checksum-type=\"SHA1/1K\"/>";
    assert_eq!(walk(&zip(&[manifest(plain)])).troubles, []);
    let encrypted = [Trouble::Encrypted { format: Format::Zip }];
    assert_eq!(walk(&zip(&[manifest(locked)])).troubles, encrypted);
    assert_eq!(walk(&zip(&[Entry::new(".iwpv2", b"x", STORED)])).troubles, encrypted);
}

#[test]
fn the_caller_may_stop() {
    let archive = zip(&[harmless(), eicar()]);
    let mut count = 0;
    unpack(&archive, Format::Zip, &mut budget(), &mut |_| {
        count += 1;
        ControlFlow::Break(())
    });
    assert_eq!(count, 1);
}
