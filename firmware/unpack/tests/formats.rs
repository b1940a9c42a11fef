//! One small container of each format, made here, and what is found in it.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "an integration test is all tests, and its helpers may fail"
)]

mod support;

use std::io::{Cursor, Write};
use support::{EICAR, walk};
use unpack::{Format, Trouble, formats};

const TEXT: &[u8] = b"the same words, the same words, the same words";
const TEXT_XZ: &str = "fd377a585a000004e6d6b446020021010c0000008f98419ce0002d00175d003a1a08ce76d976d39\
                       3cee06c5c75e42bf800eb32ed80000000271b09c8e4e453010001332ed4dd3b081fb6f37d01000000\
                       0004595a";
const TEXT_LZMA: &str = "5d00000400ffffffffffffffff003a1a08ce76d976d393cee06c5c75e42bf800eb3e67b1fffff\
                         a9d5000";

fn unhex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn size32(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_le_bytes()
}

fn size16(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap().to_le_bytes()
}

/// That some bytes are one format, which holds one member of this content, and nothing else.
fn assert_holds(packed: &[u8], format: Format, content: &[u8], names: &[&str]) {
    assert_eq!(formats(packed), [format]);
    let found = walk(packed);
    assert_eq!(found.troubles, [], "{}", format.name());
    assert_eq!(found.members.len(), 1, "{}", format.name());
    assert_eq!(found.members[0].bytes, content, "{}", format.name());
    assert_eq!(found.names(), names, "{}", format.name());
}

fn gzip(content: &[u8], name: &str) -> Vec<u8> {
    let builder = flate2::GzBuilder::new().filename(name).extra(*b"ab\x01\0x").comment("c");
    let mut encoder = builder.write(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gzip_is_read_with_all_its_members() {
    let one = gzip(TEXT, "a.txt");
    assert_holds(&one, Format::Gzip, TEXT, &["a.txt"]);
    let two = [gzip(TEXT, "a.txt"), gzip(EICAR, "b.com")].concat();
    assert_holds(&two, Format::Gzip, &[TEXT, EICAR].concat(), &["a.txt", "b.com"]);
    // Without its trailer, with a wrong one, with zeros or anything else behind.
    assert_holds(&one[..one.len() - 8], Format::Gzip, TEXT, &["a.txt"]);
    let mut wrong = one.clone();
    wrong[one.len() - 7] ^= 1;
    assert_holds(&wrong, Format::Gzip, TEXT, &["a.txt"]);
    assert_holds(&[one.as_slice(), &[0; 512]].concat(), Format::Gzip, TEXT, &["a.txt"]);
    let padded = [one.as_slice(), &[0; 511], &gzip(EICAR, "b.com"), &[0; 3]].concat();
    assert_holds(&padded, Format::Gzip, &[TEXT, EICAR].concat(), &["a.txt", "b.com"]);
    assert_holds(&[one.as_slice(), b"rubbish"].concat(), Format::Gzip, TEXT, &["a.txt"]);
    // Cut off: what there is, and that it is not all.
    let found = walk(&one[..one.len() - 12]);
    assert!(TEXT.starts_with(&found.members[0].bytes));
    assert_eq!(found.troubles, [Trouble::Damaged { format: Format::Gzip, what: "its stream" }]);
}

#[test]
fn bzip2_is_read_with_all_its_streams() {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(TEXT).unwrap();
    let one = encoder.finish().unwrap();
    assert_holds(&one, Format::Bzip2, TEXT, &[]);
    assert_holds(&[one.clone(), one.clone()].concat(), Format::Bzip2, &[TEXT, TEXT].concat(), &[]);
    let padded = [one.as_slice(), &[0; 99], &one].concat();
    assert_holds(&padded, Format::Bzip2, &[TEXT, TEXT].concat(), &[]);
}

#[test]
fn xz_and_lzma_are_read() {
    let xz = unhex(TEXT_XZ);
    assert_holds(&xz, Format::Xz, TEXT, &[]);
    let two = [xz.as_slice(), &[0; 8], &xz, b"rubbish"].concat();
    assert_holds(&two, Format::Xz, &[TEXT, TEXT].concat(), &[]);
    let padded = [xz.as_slice(), &[0; 7], &xz].concat();
    assert_holds(&padded, Format::Xz, &[TEXT, TEXT].concat(), &[]);
    assert_holds(&unhex(TEXT_LZMA), Format::Lzma, TEXT, &[]);
}

#[test]
fn zstd_is_read_with_frames_to_skip() {
    let mut frame = b"\x28\xb5\x2f\xfd\x20".to_vec();
    frame.push(u8::try_from(TEXT.len()).unwrap());
    frame.extend_from_slice(&(1 | u32::try_from(TEXT.len()).unwrap() << 3).to_le_bytes()[..3]);
    frame.extend_from_slice(TEXT);
    assert_holds(&frame, Format::Zstd, TEXT, &[]);
    let skip = b"\x51\x2a\x4d\x18\x03\0\0\0abc".as_slice();
    let several = [skip, &frame, &[0; 9], skip, &frame].concat();
    assert_holds(&several, Format::Zstd, &[TEXT, TEXT].concat(), &[]);
}

/// A block of LZ4: literals alone, then the first four bytes of all again.
fn lz4_block(content: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0, u8::try_from(content.len() - 15).unwrap()];
    block.extend_from_slice(content);
    block.extend_from_slice(&size16(content));
    // No literals behind the last match.
    block.push(0);
    block
}

fn lz4_frame(flags: u8, more: &[u8], blocks: &[(&[u8], bool)], behind: &[u8]) -> Vec<u8> {
    let mut frame = b"\x04\x22\x4d\x18".to_vec();
    frame.extend_from_slice(&[flags, 0x70]);
    frame.extend_from_slice(more);
    frame.push(0);
    for (block, is_packed) in blocks {
        let size = u32::from_le_bytes(size32(block)) | if *is_packed { 0 } else { 1 << 31 };
        frame.extend_from_slice(&size.to_le_bytes());
        frame.extend_from_slice(block);
        frame.extend_from_slice(if flags & 0x10 != 0 { &[0; 4] } else { &[] });
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(behind);
    frame
}

#[test]
fn lz4_is_read_in_both_its_forms() {
    let block = lz4_block(TEXT);
    let content = [TEXT, &TEXT[..4]].concat();
    let frame = lz4_frame(0x40, &[], &[(&block, true)], &[]);
    assert_holds(&frame, Format::Lz4, &content, &[]);
    // With checksums and a size; a block as it is, and one that refers to it.
    let refers = [0x00, 46, 0, 0].as_slice();
    let frame = lz4_frame(0x5c, &[9; 8], &[(TEXT, false), (refers, true)], &[7; 4]);
    assert_holds(&frame, Format::Lz4, &content, &[]);
    let skip = b"\x51\x2a\x4d\x18\x03\0\0\0abc".as_slice();
    let several = [skip, &frame, &[0; 5], &frame].concat();
    assert_holds(&several, Format::Lz4, &[content.clone(), content.clone()].concat(), &[]);
    let legacy = [b"\x02\x21\x4c\x18", size32(&block).as_slice(), &block].concat();
    assert_holds(&legacy, Format::Lz4, &content, &[]);
    let broken = [Trouble::Damaged { format: Format::Lz4, what: "its stream" }];
    for bytes in [&frame[..40], &lz4_frame(0x40, &[], &[(b"\0\x01\0", true)], &[]), &frame[..5]] {
        assert_eq!(walk(bytes).troubles, broken);
    }
    assert!(walk(&frame[..60]).members[0].bytes.starts_with(&TEXT[..40]));
}

#[test]
fn zlib_streams_are_read_and_what_only_looks_like_one_is_not() {
    let one = zlib(TEXT);
    assert_holds(&one, Format::Zlib, TEXT, &[]);
    let mut wrong = one.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert_holds(&wrong, Format::Zlib, TEXT, &[]);
    assert_eq!(formats(&one[..one.len() - 6]), []);
    // A long one that breaks off is read as far as it goes, and no more is made of it.
    let noise: Vec<u8> =
        (0..200_000_u32).map(|at| (at.wrapping_mul(at) >> 7).to_le_bytes()[0]).collect();
    let long = zlib(&noise);
    let found = walk(&long[..long.len() / 2]);
    assert!(noise.starts_with(&found.members[0].bytes) && found.members[0].bytes.len() > 4096);
    assert_eq!(found.troubles, []);
}

#[test]
fn active_mime_and_flash_are_read() {
    let header = [b"ActiveMime\0\0\x01\xf0\x04\0\0\0".as_slice(), &[0; 32]].concat();
    assert_holds(&[header.as_slice(), &zlib(TEXT)].concat(), Format::ActiveMime, TEXT, &[]);
    let what = "its stream";
    let damaged = [Trouble::Damaged { format: Format::ActiveMime, what }];
    assert_eq!(walk(&header).troubles, damaged);
    let size = size32(&[TEXT, &[0; 8]].concat());
    let flash = [b"CWS\x0a", size.as_slice(), &zlib(TEXT)].concat();
    assert_holds(&flash, Format::Flash, TEXT, &[]);
    let lzma = unhex(TEXT_LZMA);
    let flash = [b"ZWS\x0d", size.as_slice(), &[0; 4], &lzma[..5], &lzma[13..]].concat();
    assert_holds(&flash, Format::Flash, TEXT, &[]);
}

#[test]
fn compress_is_read() {
    // Codes of 9 bits, each a byte of the text.
    let mut packed = b"\x1f\x9d\x90".to_vec();
    let bits = TEXT.iter().flat_map(|byte| (0..9).map(move |bit| u16::from(*byte) >> bit & 1));
    let bits: Vec<u16> = bits.collect();
    for byte in bits.chunks(8) {
        let value = byte.iter().rev().fold(0, |value, bit| value << 1 | bit);
        packed.push(u8::try_from(value).unwrap());
    }
    assert_holds(&packed, Format::Compress, TEXT, &[]);
}

fn tar_header(name: &[u8], size: &[u8], kind: u8, magic: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[257..257 + magic.len()].copy_from_slice(magic);
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn tar_member(name: &str, content: &[u8], kind: u8, magic: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}\0", content.len());
    let mut out = tar_header(name.as_bytes(), size.as_bytes(), kind, magic);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

#[test]
fn tar_is_read_in_its_old_and_new_forms() {
    for magic in [b"".as_slice(), b"ustar\x0000", b"ustar  \0"] {
        let tar = [tar_member("a.txt", TEXT, b'0', magic), vec![0; 1024]].concat();
        assert_holds(&tar, Format::Tar, TEXT, &["a.txt"]);
    }
    let gnu = b"ustar  \0".as_slice();
    let long = tar_member("././@LongLink", b"a/long/name.exe\0", b'L', gnu);
    let tar = [long, tar_member("short", TEXT, b'0', gnu)].concat();
    assert_holds(&tar, Format::Tar, TEXT, &["a/long/name.exe", "short"]);
    let records = format!("20 path=dir/pax.exe\n11 size={}\n", TEXT.len());
    let pax = tar_member("x", records.as_bytes(), b'x', b"ustar\x0000");
    let tar = [pax.clone(), tar_member("short", TEXT, b'0', b"ustar\x0000")].concat();
    assert_holds(&tar, Format::Tar, TEXT, &["dir/pax.exe", "short"]);
    // The header believes in another size than the record.
    let tar = [pax, tar_member("short", &[TEXT, TEXT].concat(), b'0', b"ustar\x0000")].concat();
    let found = walk(&tar);
    assert_eq!(found.members[0].bytes, TEXT);
    assert_eq!(found.members[1].bytes, [TEXT, TEXT].concat());
}

#[test]
fn tar_sizes_may_lie_and_members_may_hide() {
    let magic = b"ustar\x0000".as_slice();
    // 8 GiB, in binary.
    let mut lie = tar_header(b"a", b"\x80\0\0\0\0\0\0\x02\0\0\0\0", b'0', magic);
    lie.extend_from_slice(&tar_member("eicar.com", EICAR, b'0', magic));
    let found = walk(&lie);
    assert!(found.members.iter().any(|member| member.bytes == EICAR));
    assert!(!found.troubles.is_empty());
    // Behind the end mark, and behind a header whose checksum is wrong.
    let first = tar_member("a.txt", TEXT, b'0', magic);
    let second = tar_member("eicar.com", EICAR, b'0', magic);
    let behind = [first.as_slice(), &[0; 1024], &second].concat();
    assert!(walk(&behind).has(EICAR));
    let mut broken = first.clone();
    broken[0] = b'b';
    let found = walk(&[first.as_slice(), &broken, &second].concat());
    assert!(found.has(EICAR) && !found.troubles.is_empty());
    // Another container behind the last member.
    let polyglot = [first.as_slice(), &[0; 1024], &gzip(EICAR, "x")].concat();
    assert!(walk(&polyglot).has(EICAR));
    // A link that claims the size of what it links to.
    let link = tar_header(b"link", b"00000000100\0", b'1', magic);
    assert_holds(&[link, first].concat(), Format::Tar, TEXT, &["a.txt"]);
}

#[test]
fn ar_and_cpio_are_read() {
    let header = |name: &str, size: usize| {
        format!("{name:<16}0           0     0     644     {size:<10}`\n")
    };
    let mut ar = b"!<arch>\n".to_vec();
    ar.extend_from_slice(header("//", 14).as_bytes());
    ar.extend_from_slice(b"long_name.exe/");
    ar.extend_from_slice(header("/0", TEXT.len()).as_bytes());
    ar.extend_from_slice(TEXT);
    assert_holds(&ar, Format::Ar, TEXT, &["long_name.exe", "/0"]);

    let mut cpio = Vec::new();
    for (name, content) in [("a.txt\0", TEXT), ("TRAILER!!!\0", b"")] {
        let fields = [0, 0, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len(), 0];
        cpio.extend_from_slice(b"070701");
        fields.iter().for_each(|field| cpio.extend_from_slice(format!("{field:08x}").as_bytes()));
        cpio.extend_from_slice(name.as_bytes());
        cpio.resize(cpio.len().next_multiple_of(4), 0);
        cpio.extend_from_slice(content);
        cpio.resize(cpio.len().next_multiple_of(4), 0);
    }
    assert_holds(&cpio, Format::Cpio, TEXT, &["a.txt"]);
    cpio.extend_from_slice(&gzip(EICAR, "x"));
    assert!(walk(&cpio).has(EICAR));
}

/// A 7z of one member that is stored.
fn seven_zip(name: &str, content: &[u8]) -> Vec<u8> {
    let size = u8::try_from(content.len()).unwrap();
    let mut names = vec![0];
    names.extend(name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    let mut list = vec![1, 4, 6, 0, 1, 9, size, 0, 7, 0x0b, 1, 0, 1, 1, 0, 0x0c, size, 0, 8, 0, 0];
    list.extend_from_slice(&[5, 1, 0x11, u8::try_from(names.len()).unwrap()]);
    list.extend_from_slice(&names);
    list.extend_from_slice(&[0, 0]);
    let mut start = u64::from(size).to_le_bytes().to_vec();
    start.extend_from_slice(&u64::try_from(list.len()).unwrap().to_le_bytes());
    start.extend_from_slice(&crc32fast::hash(&list).to_le_bytes());
    let mut out = b"7z\xbc\xaf\x27\x1c\0\x04".to_vec();
    out.extend_from_slice(&crc32fast::hash(&start).to_le_bytes());
    out.extend_from_slice(&start);
    out.extend_from_slice(content);
    out.extend_from_slice(&list);
    out
}

#[test]
fn seven_zip_is_read_also_behind_a_program() {
    let archive = seven_zip("a.txt", TEXT);
    assert_holds(&archive, Format::SevenZip, TEXT, &["a.txt"]);
    assert_holds(&[b"MZ".as_slice(), &archive].concat(), Format::SevenZip, TEXT, &["a.txt"]);
    let found = walk(&archive[..archive.len() - 1]);
    assert!(!found.troubles.is_empty());
}

fn rar_block(header: &[u8], data: &[u8]) -> Vec<u8> {
    let sized = [&[u8::try_from(header.len()).unwrap()], header].concat();
    let mut out = crc32fast::hash(&sized).to_le_bytes().to_vec();
    out.extend_from_slice(&sized);
    out.extend_from_slice(data);
    out
}

/// The header and the data of a member that is stored.
fn rar_file(name: &str, content: &[u8], is_encrypted: bool) -> Vec<u8> {
    let size = u8::try_from(content.len()).unwrap();
    // Version, flags and strength of the encryption; salt and start.
    let record = [[36, 1, 0, 0, 5].as_slice(), &[7; 32]].concat();
    let (flags, extra) = if is_encrypted { (3, record.as_slice()) } else { (2, [].as_slice()) };
    let mut file = vec![2, flags];
    file.extend(is_encrypted.then(|| u8::try_from(extra.len()).unwrap()));
    file.extend_from_slice(&[size, 4, size, 0x20]);
    file.extend_from_slice(&crc32fast::hash(content).to_le_bytes());
    file.extend_from_slice(&[0, 1, u8::try_from(name.len()).unwrap()]);
    file.extend_from_slice(name.as_bytes());
    file.extend_from_slice(extra);
    rar_block(&file, content)
}

/// A rar of version 5.
fn rar_of(is_solid: bool, files: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"Rar!\x1a\x07\x01\0".to_vec();
    out.extend_from_slice(&rar_block(&[1, 0, if is_solid { 4 } else { 0 }], b""));
    files.iter().for_each(|file| out.extend_from_slice(file));
    out.extend_from_slice(&rar_block(&[5, 0, 0], b""));
    out
}

fn rar(name: &str, content: &[u8]) -> Vec<u8> {
    rar_of(false, &[rar_file(name, content, false)])
}

#[test]
fn encryption_in_a_rar_is_told_and_hides_nothing() {
    let files = [rar_file("secret.txt", TEXT, true), rar_file("eicar.com", EICAR, false)];
    let encrypted = || Trouble::Encrypted { format: Format::Rar };
    let found = walk(&rar_of(false, &files));
    assert!(found.has(EICAR));
    assert_eq!(found.troubles, [encrypted()]);
    let found = walk(&rar_of(true, &files));
    let what = "a solid archive of which some is encrypted or elsewhere";
    let unsupported = Trouble::Unsupported { format: Format::Rar, what };
    assert_eq!(found.troubles, [encrypted(), unsupported]);
    let found = walk(&rar_of(true, &files[..1]));
    assert_eq!(found.troubles, [encrypted()]);
}

#[test]
fn rar_is_read_also_behind_a_program() {
    let archive = rar("a.txt", TEXT);
    assert_holds(&archive, Format::Rar, TEXT, &["a.txt"]);
    assert_holds(&[b"MZ".as_slice(), &archive].concat(), Format::Rar, TEXT, &["a.txt"]);
    let two = [archive.as_slice(), &rar("eicar.com", EICAR)].concat();
    assert!(walk(&two).has(EICAR));
    // A program that only has the mark in it.
    assert_eq!(formats(b"MZ Rar!\x1a\x07\0 Rar!\x1a\x07\x01\0"), []);
}

/// A cabinet of two files with one name in one folder; its blocks are given packed.
fn cabinet(method: u16, blocks: &[(Vec<u8>, usize)], files: &[(&str, usize, usize)]) -> Vec<u8> {
    let names: usize = files.iter().map(|file| file.0.len() + 1 + 16).sum();
    let data_at = u32::try_from(36 + 8 + names).unwrap();
    let mut out = b"MSCF\0\0\0\0".to_vec();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&44_u32.to_le_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, 3, 1, 1, 0]);
    out.extend_from_slice(&u16::try_from(files.len()).unwrap().to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&data_at.to_le_bytes());
    out.extend_from_slice(&u16::try_from(blocks.len()).unwrap().to_le_bytes());
    out.extend_from_slice(&method.to_le_bytes());
    for (name, start, size) in files {
        for field in [*size, *start] {
            out.extend_from_slice(&u32::try_from(field).unwrap().to_le_bytes());
        }
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(name.as_bytes());
        out.push(0);
    }
    for (block, unpacked) in blocks {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&size16(block));
        out.extend_from_slice(&u16::try_from(*unpacked).unwrap().to_le_bytes());
        out.extend_from_slice(block);
    }
    out
}

#[test]
fn cabinets_are_read_also_where_two_files_have_one_name() {
    let content = [TEXT, EICAR].concat();
    let files = [("a.txt", 0, TEXT.len()), ("a.txt", TEXT.len(), EICAR.len())];
    let mut encoder =
        flate2::write::DeflateEncoder::new(b"CK".to_vec(), flate2::Compression::best());
    encoder.write_all(&content).unwrap();
    for (method, block) in [(0, content.clone()), (1, encoder.finish().unwrap())] {
        let cabinet = cabinet(method, &[(block, content.len())], &files);
        assert_eq!(formats(&cabinet), [Format::Cab]);
        let found = walk(&cabinet);
        assert_eq!(found.troubles, [], "method {method}");
        assert_eq!(found.members[0].bytes, TEXT);
        assert_eq!(found.members[1].bytes, EICAR);
    }
    let quantum = cabinet(2, &[(content.clone(), content.len())], &files);
    let what = "a compression method";
    assert_eq!(walk(&quantum).troubles, [Trouble::Unsupported { format: Format::Cab, what }]);
}

/// Blocks of MSZIP refer to what the blocks before unpacked to.
#[test]
fn mszip_remembers_the_block_before() {
    let first: Vec<u8> =
        (0..32_768_u32).map(|at| (at.wrapping_mul(at) >> 7).to_le_bytes()[0]).collect();
    let mut encoder = flate2::Compress::new(flate2::Compression::best(), false);
    let mut pack = |content: &[u8], flush| {
        let mut out = Vec::with_capacity(100_000);
        encoder.compress_vec(content, &mut out, flush).unwrap();
        [b"CK".as_slice(), &out].concat()
    };
    let blocks = [
        (pack(&first, flate2::FlushCompress::Sync), first.len()),
        (pack(&first[..1000], flate2::FlushCompress::Finish), 1000),
    ];
    assert!(blocks[1].0.len() < 100, "the second block is a reference");
    let cabinet = cabinet(1, &blocks, &[("a", 0, 33_768)]);
    let found = walk(&cabinet);
    assert_eq!(found.troubles, []);
    assert_eq!(found.members[0].bytes, [first.as_slice(), &first[..1000]].concat());
}

#[test]
fn lha_is_read() {
    let mut header = b"-lh0-".to_vec();
    header.extend_from_slice(&size32(TEXT));
    header.extend_from_slice(&size32(TEXT));
    header.extend_from_slice(&[0, 0, 0, 0, 0x20, 0, 5]);
    header.extend_from_slice(b"a.txt\0\0");
    let sum = header.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let mut archive = vec![u8::try_from(header.len()).unwrap(), sum];
    archive.extend_from_slice(&header);
    archive.extend_from_slice(TEXT);
    archive.push(0);
    assert_holds(&archive, Format::Lha, TEXT, &["a.txt"]);
    let program = [b"MZ-lh5-".as_slice(), &[0; 99], &archive].concat();
    assert_holds(&program, Format::Lha, TEXT, &["a.txt"]);
    assert_eq!(formats(&[b"ZM".as_slice(), &archive].concat()), []);
}

fn attribute(id: u16, data: &[u8]) -> Vec<u8> {
    let mut out = vec![2];
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&[6, 0]);
    out.extend_from_slice(&size32(data));
    out.extend_from_slice(data);
    out.extend_from_slice(&[0, 0]);
    out
}

#[test]
fn tnef_attachments_have_both_names() {
    let utf16: Vec<u8> = "long name.exe\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut properties = vec![2, 0, 0, 0];
    // A named one, to be passed over: a flag in a set of 16 bytes, by its number.
    properties.extend_from_slice(&[0x0b, 0, 0, 0x80]);
    properties.extend_from_slice(&[7; 16]);
    properties.extend_from_slice(&[0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0]);
    properties.extend_from_slice(&[0x1f, 0, 0x07, 0x37, 1, 0, 0, 0]);
    properties.extend_from_slice(&size32(&utf16));
    properties.extend_from_slice(&utf16);
    let mut tnef = b"\x78\x9f\x3e\x22\x01\0".to_vec();
    for (id, data) in [
        (0x9002, b"render".as_slice()),
        (0x8010, b"short.exe\0"),
        (0x800f, EICAR),
        (0x9005, &properties),
        (0x9002, b"render"),
        (0x8010, b"second.txt\0"),
        (0x800f, TEXT),
    ] {
        tnef.extend_from_slice(&attribute(id, data));
    }
    assert_eq!(formats(&tnef), [Format::Tnef]);
    let found = walk(&tnef);
    assert_eq!(found.troubles, []);
    assert_eq!(found.members[0].bytes, EICAR);
    assert_eq!(found.members[0].names, ["short.exe", "long name.exe"]);
    assert_eq!(found.members[1].bytes, TEXT);
    assert_eq!(found.members[1].names, ["second.txt"]);
    tnef.truncate(tnef.len() - 10);
    assert!(!walk(&tnef).troubles.is_empty());
}

fn compound(streams: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = cfb::CompoundFile::create(Cursor::new(Vec::new())).unwrap();
    for (path, content) in streams {
        let parent = std::path::Path::new(path).parent().unwrap();
        file.create_storage_all(parent).unwrap();
        file.create_stream(path).unwrap().write_all(content).unwrap();
    }
    file.into_inner().into_inner()
}

#[test]
fn compound_files_hand_out_streams_and_what_they_wrap() {
    let mut native = vec![0; 4];
    native.extend_from_slice(b"\x02\0invoice.exe\0C:\\invoice.exe\0\0\0\x03\0");
    native.extend_from_slice(&size32(b"C:\\tmp\\i.exe\0"));
    native.extend_from_slice(b"C:\\tmp\\i.exe\0");
    native.extend_from_slice(&size32(EICAR));
    native.extend_from_slice(EICAR);
    let module = b"\xff\xff\x01\x13\xb0\0Attribut\0e VB_Nam\0e = \"a\"";
    let file = compound(&[
        ("/ObjectPool/_1/\u{1}Ole10Native", &native),
        ("/VBA/Module1", module),
        ("/Plain", TEXT),
    ]);
    assert_eq!(formats(&file), [Format::Ole]);
    let found = walk(&file);
    assert_eq!(found.troubles, []);
    let wrapped = found.members.iter().find(|member| member.bytes == EICAR).unwrap();
    assert_eq!(wrapped.names, ["invoice.exe", "C:\\invoice.exe", "C:\\tmp\\i.exe"]);
    assert!(found.members.iter().any(|member| member.bytes.starts_with(b"Attribute VB_Name")));
    assert!(found.names().contains(&"Plain"));
}

/// What `cfb` refuses is read all the same, and comes out the same.
#[test]
fn packed_objects_in_presentations_are_found() {
    let project = compound(&[("/VBA/x.com", EICAR)]);
    let packed = [size32(&project).as_slice(), &zlib(&project)].concat();
    let record = [b"\x10\0\x11\x10", size32(&packed).as_slice(), &packed].concat();
    let document = [b"\x0f\0\xe8\x03\0\0\0\0".as_slice(), &record, b"more"].concat();
    let found = walk(&compound(&[("/PowerPoint Document", &document)]));
    assert!(found.members.iter().any(|member| member.bytes == EICAR));
    assert_eq!(found.troubles, []);
    let cut = &document[..document.len() - 20];
    let what = "a packed object";
    let damaged = Trouble::Damaged { format: Format::Ole, what };
    assert!(walk(&compound(&[("/PowerPoint Document", cut)])).troubles.contains(&damaged));
}

#[test]
fn encrypted_presentations_are_said_to_be() {
    let user = |token: u32| {
        let atom = [b"\0\0\xf6\x0f\x14\0\0\0\x14\0\0\0".as_slice(), &token.to_le_bytes()].concat();
        walk(&compound(&[("/Current User", &atom)])).troubles
    };
    assert_eq!(user(0xf3d1_c4df), [Trouble::Encrypted { format: Format::Ole }]);
    assert_eq!(user(0xe391_c05f), []);
}

#[test]
fn streams_of_hangul_documents_are_unpacked() {
    let deflated = |content: &[u8]| {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    };
    let header =
        |flags: u8| [b"HWP Document File".as_slice(), &[0; 19], &[flags, 0, 0, 0]].concat();
    let inner = compound(&[("/x.com", EICAR)]);
    let object = deflated(&[size32(&inner).as_slice(), &inner].concat());
    let document = |flags| {
        compound(&[
            ("/FileHeader", &header(flags)),
            ("/BinData/BIN0001.eps", &deflated(TEXT)),
            ("/BinData/BIN0002.ole", &object),
        ])
    };
    let found = walk(&document(1));
    assert_eq!(found.troubles, []);
    assert!(found.members.iter().any(|member| member.bytes == EICAR));
    let text = found.members.iter().find(|member| member.bytes == TEXT).unwrap();
    assert_eq!(text.names, ["BinData/BIN0001.eps"]);
    assert!(!walk(&document(0)).members.iter().any(|member| member.bytes == TEXT));
    assert_eq!(walk(&document(2)).troubles, [Trouble::Encrypted { format: Format::Ole }]);
}

#[test]
fn compound_files_with_faults_are_read() {
    let large = [7; 10_000].as_slice();
    let sound = compound(&[("/Folder/Small", EICAR), ("/Folder/Large", large), ("/Top", TEXT)]);
    let mut faulty = sound.clone();
    // The number of table sectors, and the size of mini sectors, which is always the same.
    faulty[44] = 0x77;
    faulty[32] = 7;
    assert!(cfb::CompoundFile::open(Cursor::new(&faulty)).is_err());
    let found = walk(&faulty);
    assert_eq!(found.troubles, []);
    for (name, content) in [("Folder/Small", EICAR), ("Folder/Large", large), ("Top", TEXT)] {
        let member = found.members.iter().find(|member| member.bytes == content).unwrap();
        assert_eq!(member.names, [name]);
    }
    faulty.truncate(faulty.len() - 4096);
    assert!(!walk(&faulty).troubles.is_empty());
    assert!(!walk(&sound[..700]).troubles.is_empty());
}

#[test]
fn attachments_of_messages_have_their_names() {
    let name: Vec<u8> = "report.exe\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let file = compound(&[
        ("/__attach_version1.0_#00000000/__substg1.0_3707001F", &name),
        ("/__attach_version1.0_#00000000/__substg1.0_37010102", EICAR),
    ]);
    let found = walk(&file);
    let attachment = found.members.iter().find(|member| member.bytes == EICAR).unwrap();
    assert_eq!(attachment.names, ["report.exe"]);
}

#[test]
fn encrypted_documents_are_said_to_be() {
    let encrypted = [Trouble::Encrypted { format: Format::Ole }];
    let new = compound(&[("/EncryptionInfo", b"x"), ("/EncryptedPackage", b"y")]);
    assert_eq!(walk(&new).troubles, encrypted);
    let mut word = vec![0; 32];
    word[11] = 1;
    assert_eq!(walk(&compound(&[("/WordDocument", &word)])).troubles, encrypted);
    let sheet = b"\x09\x08\x02\0\0\x06\x2f\0\x02\0\0\0";
    assert_eq!(walk(&compound(&[("/Workbook", sheet)])).troubles, encrypted);
    word[11] = 0;
    assert_eq!(walk(&compound(&[("/WordDocument", &word)])).troubles, []);
}

fn pdf_stream(number: u32, dictionary: &str, data: &[u8]) -> Vec<u8> {
    let head = format!("{number} 0 obj\n<<{dictionary}/Length {}>>\nstream\r\n", data.len());
    [head.as_bytes(), data, b"\nendstream\nendobj\n"].concat()
}

#[test]
fn pdf_files_are_found_with_their_names() {
    let specification =
        b"<</Type/Filespec/F(short.exe)/UF<FEFF006C002E006500780065>/EF<</F 12 0 R>>>>";
    let mut in_the_open = b"%PDF-1.7\n7 0 obj\n".to_vec();
    in_the_open.extend_from_slice(specification);
    in_the_open.extend_from_slice(b"\nendobj\n");
    in_the_open.extend_from_slice(&pdf_stream(12, "/Filter/FlateDecode", &zlib(EICAR)));
    let mut in_a_stream = b"%PDF-1.7\n".to_vec();
    let flate = "/Type/ObjStm/Filter /Fl#61teDecode";
    in_a_stream.extend_from_slice(&pdf_stream(3, flate, &zlib(specification)));
    in_a_stream.extend_from_slice(&pdf_stream(12, "/Filter[/AHx/Fl]", &hex(&zlib(EICAR))));
    for pdf in [in_the_open, in_a_stream] {
        assert_eq!(formats(&pdf), [Format::Pdf]);
        let found = walk(&pdf);
        assert_eq!(found.troubles, []);
        let file = found.members.iter().find(|member| member.bytes == EICAR).unwrap();
        assert!(file.names.contains(&"short.exe".to_owned()), "{:?}", file.names);
        assert!(file.names.contains(&"l.exe".to_owned()), "{:?}", file.names);
    }
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02X} ")).collect();
    (digits + ">").into_bytes()
}

#[test]
fn pdf_streams_are_joined_into_text() {
    let mut pdf = b"%PDF-1.4\n".to_vec();
    pdf.extend_from_slice(&pdf_stream(1, "/Filter/FlateDecode", &zlib(b"app.alert(1)")));
    pdf.extend_from_slice(&pdf_stream(2, "/Filter/ASCII85Decode", b"87cURD]i,\"Ebo80~>"));
    pdf.extend_from_slice(&pdf_stream(3, "/Filter/RunLengthDecode", b"\x01ab\xfec\x80"));
    // The example of ISO 32000 section 7.4.4.2.
    let lzw = b"\x80\x0b\x60\x50\x22\x0c\x0c\x85\x01";
    pdf.extend_from_slice(&pdf_stream(4, "/Filter/LZWDecode", lzw));
    let picture = "/Subtype/Image/Filter/FlateDecode";
    pdf.extend_from_slice(&pdf_stream(5, picture, &zlib(&[0xff, 0, 0x80, 7].repeat(99))));
    pdf.extend_from_slice(&pdf_stream(6, picture, &zlib(b"app.alert(2)")));
    let found = walk(&pdf);
    assert_eq!(found.troubles, []);
    assert_eq!(found.members.len(), 1);
    assert_eq!(
        found.members[0].bytes,
        b"app.alert(1)\nHello World!\nabccc\n-----A---B\napp.alert(2)\n"
    );
}

#[test]
fn encrypted_pdfs_are_said_to_be() {
    let mut pdf = b"%PDF-1.4\n".to_vec();
    pdf.extend_from_slice(&pdf_stream(1, "/Filter/FlateDecode", &zlib(TEXT)));
    pdf.extend_from_slice(b"trailer<</Encrypt 9 0 R/Root 1 0 R>>");
    assert_eq!(walk(&pdf).troubles, [Trouble::Encrypted { format: Format::Pdf }]);
}

#[test]
fn formats_that_nothing_here_reads_are_unsupported() {
    let arj = {
        let header = [30; 30];
        let mut out = b"\x60\xea\x1e\0".to_vec();
        out.extend_from_slice(&header);
        out.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        out
    };
    let mut vhd = vec![0; 1024];
    vhd[512..520].copy_from_slice(b"conectix");
    let mut dmg = vec![0; 1024];
    dmg[512..520].copy_from_slice(b"koly\0\0\0\x04");
    let mut zoo = vec![0; 64];
    zoo[20..24].copy_from_slice(b"\xdc\xa7\xc4\xfd");
    let program = |archive: &[u8]| [b"MZ\0\0", archive].concat();
    let arc = [b"\x1a\x02x.com\0".as_slice(), &[0; 30]].concat();
    let at = |size: usize, marks: &[(usize, &[u8])]| {
        let mut image = vec![0; size];
        for (at, mark) in marks {
            image[*at..at + mark.len()].copy_from_slice(mark);
        }
        image
    };
    let end: (usize, &[u8]) = (510, b"\x55\xaa");
    let fat = at(4096, &[(0, b"\xeb\x3c\x90"), (54, b"FAT16"), end]);
    let ntfs = at(4096, &[(0, b"\xeb\x52\x90NTFS    "), end]);
    let partitions = at(4096, &[(446, b"\x80\0\0\0\x07\0\0\0\x01\0\0\0\x05\0\0\0"), end]);
    let hfs = at(4096, &[(1024, b"H+\0\x04")]);
    let ext = at(4096, &[(1080, b"\x53\xef")]);
    for (bytes, format) in [
        (program(&arj), Format::Arj),
        (program(b"\0\0\x31\0\0\0\0**ACE**"), Format::Ace),
        (arc, Format::Arc),
        (fat, Format::Disk),
        (ntfs, Format::Disk),
        (partitions, Format::Disk),
        (hfs, Format::Disk),
        (ext, Format::Disk),
        (at(1024, &[(512, b"EFI PART")]), Format::Disk),
        (b"KDMV\x01\0\0\0".to_vec(), Format::Disk),
        (b"SZDD\x88\xf0\x27\x33A".to_vec(), Format::Expand),
        (b"!BDN".to_vec(), Format::MailStore),
        (b"\0\x01\0\0Standard ACE DB\0".to_vec(), Format::Access),
        (program(b"\xef\xbe\xad\xdeNullsoftInst"), Format::Installer),
        (program(b"Inno Setup Setup Data (5.5.0)"), Format::Installer),
        (b"ArC\x01".to_vec(), Format::Other),
        (b"AA01\x10\0TYP1".to_vec(), Format::Other),
        (b"AEA1\x01\0\0".to_vec(), Format::Other),
        (arj, Format::Arj),
        (vhd, Format::Vhd),
        (dmg, Format::Dmg),
        (zoo, Format::Zoo),
        (b"\0\0\x31\0\0\0\0**ACE**".to_vec(), Format::Ace),
        (b"ALZ\x01".to_vec(), Format::Alz),
        (b"SIT!\0\x01\0\0\0\0rLau".to_vec(), Format::StuffIt),
        (b"\x89LZO\0\r\n\x1a\n".to_vec(), Format::Lzop),
        (b"xar!".to_vec(), Format::Xar),
        (b"\xed\xab\xee\xdb".to_vec(), Format::Rpm),
        (b"MSWIM\0\0\0".to_vec(), Format::Wim),
        (b"ITSF\x03\0\0\0".to_vec(), Format::Chm),
        (b"hsqs".to_vec(), Format::SquashFs),
    ] {
        assert_eq!(formats(&bytes), [format]);
        let what = "the format";
        assert_eq!(walk(&bytes).troubles, [Trouble::Unsupported { format, what }]);
        assert!(!format.is_read());
    }
}

#[test]
fn other_bytes_are_no_container() {
    for bytes in [
        b"".as_slice(),
        b"P",
        b"PKWARE made PK\x03\x04 famous",
        b"hello, this is text",
        b"\x89PNG\r\n\x1a\n",
        b"MZ\x90\0",
        &[0; 2048],
        &[0xff; 2048],
        b"BZhello",
        b"BM6\0\0\0",
        b"AA01 is the number of this article",
        b"x^2 + y^2 = z^2, and so on",
        b"x\x9c but no stream",
        b"\x1a\x02no name of a file",
        b"PLEASE **ACE** THIS",
    ] {
        assert_eq!(formats(bytes), [], "{bytes:?}");
    }
    let all: std::collections::HashSet<&str> =
        Format::ALL.iter().map(|format| format.name()).collect();
    assert_eq!(all.len(), Format::ALL.len());
}

#[test]
fn objects_in_rtf_are_found_whatever_stands_between_their_digits() {
    let mut object = b"\x01\x05\0\0\x02\0\0\0\x08\0\0\0Package\0\0\0\0\0\0\0\0\0".to_vec();
    let mut native = b"\x02\0i.exe\0C:\\i.exe\0\0\0\x03\0".to_vec();
    native.extend_from_slice(&size32(b"C:\\i.exe\0"));
    native.extend_from_slice(b"C:\\i.exe\0");
    native.extend_from_slice(&size32(EICAR));
    native.extend_from_slice(EICAR);
    object.extend_from_slice(&size32(&native));
    object.extend_from_slice(&native);
    let digits: String = object.iter().map(|byte| format!("{byte:02x}")).collect();
    let (head, tail) = digits.split_at(21);
    let plain = format!("{{\\rtf1 {{\\object{{\\*\\objdata {digits}}}}}}}");
    let odd = format!("{{\\rt{{\\*\\objdata\\abc12 {head}\r\n {{\\*\\x 99}}\\'41\\foo {tail}}}}}");
    let raw = format!("{{\\rtf{{\\objdata {head}{}", &tail[..1]).into_bytes();
    let rest = &object[11..];
    let binary = [&raw, format!("\\bin{} ", rest.len()).as_bytes(), rest, b"}}"].concat();
    for rtf in [plain.into_bytes(), odd.into_bytes(), binary] {
        assert_eq!(formats(&rtf), [Format::Rtf]);
        let found = walk(&rtf);
        assert_eq!(found.troubles, []);
        let file = found.members.iter().find(|member| member.bytes == EICAR).unwrap();
        assert_eq!(file.names, ["i.exe", "C:\\i.exe"]);
    }
    let compound = compound(&[("/Plain", EICAR)]);
    let digits: String = compound.iter().map(|byte| format!("{byte:02X}")).collect();
    assert!(walk(format!("{{\\rtf1\\objdata 0105{digits}}}").as_bytes()).has(EICAR));
    assert_eq!(walk(b"{\\rtf1 Just words.}").members, []);
}

#[test]
fn files_in_onenote_are_found() {
    let mut section = b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3".to_vec();
    section.extend_from_slice(&[0; 100]);
    section.extend_from_slice(b"\xe7\x16\xe3\xbd\x65\x26\x11\x45\xa4\xc4\x8d\x4d\x0b\x7a\x9e\xac");
    section.extend_from_slice(&u64::try_from(EICAR.len()).unwrap().to_le_bytes());
    section.extend_from_slice(&[0; 12]);
    section.extend_from_slice(EICAR);
    assert_holds(&section, Format::OneNote, EICAR, &[]);
    section.pop();
    assert!(!walk(&section).troubles.is_empty());
}

fn iso_entry(sector: u32, size: usize, flags: u8, name: &[u8], more: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; 33];
    entry[2..6].copy_from_slice(&sector.to_le_bytes());
    entry[10..14].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    entry[25] = flags;
    entry[32] = u8::try_from(name.len()).unwrap();
    entry.extend_from_slice(name);
    entry.resize(entry.len().next_multiple_of(2), 0);
    entry.extend_from_slice(more);
    entry[0] = u8::try_from(entry.len()).unwrap();
    entry
}

/// An image with a file in a folder, which its two trees name differently.
fn iso() -> Vec<u8> {
    const SECTOR: usize = 2048;
    let mut image = vec![0; 24 * SECTOR];
    let mut put = |sector: usize, at: usize, bytes: &[u8]| {
        let at = sector * SECTOR + at;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let wide = |name: &str| name.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    put(16, 0, b"\x01CD001");
    put(16, 156, &iso_entry(19, SECTOR, 2, &[0], b""));
    put(17, 0, b"\x02CD001");
    put(17, 88, b"%/E");
    put(17, 156, &iso_entry(21, SECTOR, 2, &[0], b""));
    put(18, 0, b"\xffCD001");
    // A folder that holds itself is walked once.
    let folder = [iso_entry(19, SECTOR, 2, &[1], b""), iso_entry(20, SECTOR, 2, b"DIR", b"")];
    put(19, 0, &folder.concat());
    let again = iso_entry(20, SECTOR, 2, b"LOOP", b"");
    let file = iso_entry(22, EICAR.len(), 0, b"INVOIC~1.EXE;1", b"NM\x10\x01\0rock-ridge.");
    put(20, 0, &[again, file].concat());
    put(21, 0, &iso_entry(22, EICAR.len(), 0, &wide("invoice.exe;1"), b""));
    put(22, 0, EICAR);
    image
}

#[test]
fn images_of_disks_are_read_with_all_their_names() {
    let names = ["DIR/INVOIC~1.EXE", "DIR/rock-ridge.", "invoice.exe"];
    assert_holds(&iso(), Format::Iso, EICAR, &names);
    let mut bridge = iso();
    bridge[18 * 2048 + 1..18 * 2048 + 6].copy_from_slice(b"NSR02");
    let what = "UDF";
    assert_eq!(walk(&bridge).troubles, [Trouble::Unsupported { format: Format::Iso, what }]);
}
