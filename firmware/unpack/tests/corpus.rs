//! The archives of the corpus beside the tree: what is evil in them is found or said not to be
//! seen, what is clean gives no false alarm, and none makes a decoder fail, hang or take too much.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "an integration test is all tests, and its helpers may fail"
)]

mod support;

use std::path::Path;
use support::{EICAR, corpus, files, uudecode, walk};
use unpack::{Format, LimitKind, Trouble, formats};

fn expectations(index: &str) -> Vec<(String, String)> {
    let rows = index.lines().filter(|line| line.starts_with("authored-archive/"));
    rows.map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        (fields[0].to_owned(), fields[4].to_owned())
    })
    .collect()
}

/// Whether the words of the expectation allow an archive to be called unscannable.
fn may_be_unscannable(expectation: &str) -> bool {
    ["REJECT", "POLICY-UNSCANNABLE", "LIMIT"].iter().any(|word| expectation.contains(word))
}

#[test]
fn authored_archives_meet_their_expectations() {
    let Some(folder) = corpus("authored-archive") else { return };
    let corpus = folder.parent().unwrap();
    let index = std::fs::read_to_string(corpus.join("AUTHORED-INDEX.tsv")).unwrap();
    let expectations = expectations(&index);
    assert_eq!(expectations.len(), files(&folder).len());
    for (file, expectation) in expectations {
        let bytes = std::fs::read(corpus.join(&file)).unwrap();
        let found = walk(&bytes);
        let is_detected = found.has(EICAR) || found.has(b"WDVPIVAlQEFQ");
        match expectation.as_str() {
            "LIMIT" => assert_eq!(found.troubles, [Trouble::Limit(LimitKind::Ratio)], "{file}"),
            "POLICY-UNSCANNABLE" => {
                assert_eq!(found.troubles, [Trouble::Encrypted { format: Format::Zip }], "{file}");
            }
            // The mate of the encrypted one is encrypted too.
            _ if file.contains("A13-") => assert_eq!(found.troubles.len(), 1, "{file}"),
            _ if file.contains(".clean.") => {
                assert_eq!(found.troubles, [], "{file}");
                assert!(!found.members.is_empty() && !is_detected, "{file}");
            }
            _ => assert!(
                is_detected || may_be_unscannable(&expectation) && !found.troubles.is_empty(),
                "{file}: {found:?}"
            ),
        }
    }
}

#[test]
fn well_formed_zips_give_no_trouble() {
    let Some(folder) = corpus("yauzl") else { return };
    for file in files(&folder.join("success")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let found = walk(&std::fs::read(&file).unwrap());
        match name.as_str() {
            _ if name.starts_with("traditional-encryption") => {
                assert_eq!(found.troubles, [Trouble::Encrypted { format: Format::Zip }], "{name}");
            }
            "bogus-compression-method.zip" => assert_eq!(found.troubles.len(), 1),
            _ => assert_eq!(found.troubles, [], "{name}"),
        }
    }
}

#[test]
fn malformed_zips_are_opened_or_said_to_be_damaged() {
    let Some(folder) = corpus("yauzl") else { return };
    for file in files(&folder.join("failure")) {
        let bytes = std::fs::read(&file).unwrap();
        let found = walk(&bytes);
        // Two of them hold nothing that any program could take for a member.
        let is_empty = memchr::memmem::find(&bytes, b"PK\x03\x04").is_none();
        assert!(
            is_empty || !found.troubles.is_empty() || found.members.len() >= 2 || has_all(&found),
            "{}: {found:?}",
            file.display()
        );
    }
}

/// Whether all of the two archives with one large member came out.
fn has_all(found: &support::Found) -> bool {
    found.members.iter().any(|member| member.bytes.len() == 1_000_000)
}

/// Archives in which libarchive's tests find members, and what becomes of them here.
#[test]
fn archives_of_libarchive_are_read() {
    let Some(folder) = corpus("libarchive") else { return };
    for (file, members) in [
        ("test_read_format_7zip_bcj2_lzma2_1.7z", 1),
        ("test_read_format_7zip_copy_2.7z", 4),
        ("test_read_format_7zip_lzma1_lzma2.7z", 8),
        ("test_read_format_7zip_ppmd.7z", 1),
        ("test_read_format_7zip_bzip2.7z", 1),
        ("test_read_format_7zip_deflate.7z", 1),
        ("test_read_format_7zip_delta4_lzma2.7z", 1),
        ("test_read_format_7zip_empty_archive.7z", 0),
        ("test_read_format_cab_1.cab", 3),
        ("test_read_format_cab_2.cab", 4),
        ("test_read_format_cab_3.cab", 4),
        ("test_fuzz.cab", 4),
        ("test_read_format_lha_header0.lzh", 2),
        ("test_read_format_lha_header3.lzh", 2),
        ("test_read_format_lha_lh6.lzh", 2),
        ("test_read_format_lha_lh7.lzh", 2),
        ("test_read_format_rar.rar", 3),
        ("test_read_format_rar_compress_best.rar", 4),
        ("test_read_format_rar_unicode.rar", 4),
        ("test_read_format_rar5_arm.rar", 1),
        ("test_read_format_rar5_compressed.rar", 1),
        ("test_read_format_rar5_multiple_files_solid.rar", 4),
        ("test_read_format_rar5_solid.rar", 7),
        ("test_read_format_rar5_stored.rar", 1),
        ("test_read_format_zip_7z_lzma.zip", 2),
        ("test_read_format_zip_bzip2_multi.zipx", 3),
        ("test_read_format_zip_lzma_multi.zipx", 3),
        ("test_read_format_zip_ppmd8_multi.zipx", 3),
        ("test_read_format_zip_xz_multi.zipx", 3),
        ("test_read_format_zip_zstd_multi.zipx", 3),
        ("test_read_format_zip_zip64a.zip", 1),
        ("test_read_format_tar_concatenated.tar", 2),
        ("test_compat_gtar_1.tar", 1),
        ("test_read_format_tar_empty_pax.tar.Z", 1),
        ("test_compat_zstd_2.tar.zst", 7),
        ("test_compat_lzip_1.tlz", 7),
        ("test_compat_xz_1.txz", 7),
        ("test_compat_bzip2_2.tbz", 7),
        ("test_compat_gzip_1.tgz", 7),
    ] {
        let found = walk(&decoded(&folder.join(format!("{file}.uu"))));
        assert_eq!(found.troubles, [], "{file}");
        assert_eq!(found.members.len(), members, "{file}: {:?}", found.names());
    }
}

#[test]
fn archives_of_libarchive_that_are_encrypted_or_in_pieces_are_said_to_be() {
    let Some(folder) = corpus("libarchive") else { return };
    for file in files(&folder) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let found = walk(&decoded(&file));
        let is_encrypted = ["_encrypt", "_winzip_aes", "_ppmd8_aes256"];
        if is_encrypted.iter().any(|word| name.contains(word)) {
            let is_said = |trouble: &Trouble| matches!(trouble, Trouble::Encrypted { .. });
            assert!(found.troubles.iter().any(is_said), "{name}: {:?}", found.troubles);
        }
        if name.contains("multiarchive") || name.contains("cab_multi") {
            let is_said = |trouble: &Trouble| matches!(trouble, Trouble::Partial { .. });
            assert!(found.troubles.iter().any(is_said), "{name}: {:?}", found.troubles);
        }
    }
}

/// Every file of it goes through, within the default budget: the walk is the test.
#[test]
fn archives_of_libarchive_that_broke_decoders_break_none_here() {
    let Some(folder) = corpus("libarchive") else { return };
    let mut count = 0;
    for file in files(&folder) {
        let bytes = decoded(&file);
        let found = walk(&bytes);
        let is_silent = found.troubles.is_empty() && found.members.is_empty();
        count += usize::from(!is_silent && !formats(&bytes).is_empty());
    }
    assert!(count > 280, "{count} of the archives were opened or said to be damaged");
}

fn decoded(file: &Path) -> Vec<u8> {
    uudecode(&std::fs::read(file).unwrap())
}
