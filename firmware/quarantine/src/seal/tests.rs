use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::{RECIPIENTS_MAX, TEXT_BYTES_MAX};

const ID: u64 = 1_790_000_000;

fn id() -> Id {
    Id::new(ID, 7)
}

fn key() -> VaultKey {
    VaultKey::derive(b"the private key of a device").unwrap()
}

fn meta() -> Meta {
    Meta {
        session: "00112233445566778899aabbccddeeff".to_owned(),
        subject: "見積書".to_owned(),
        rcpt_to: vec!["someone@example.jp".to_owned()],
        recipients: 1,
        ..Meta::default()
    }
}

fn sealed(mail: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut sealer = Sealer::start(&mut file, &key(), id(), &meta()).unwrap();
    sealer.write(mail).unwrap();
    let expected = sealer.bytes();
    let bytes = sealer.finish().unwrap();
    assert_eq!((bytes, file.len() as u64), (expected, bytes));
    file
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    file
}

/// The item and the whole mail, or the first error.
fn unsealed(bytes: &[u8]) -> Result<(Item, Vec<u8>), VaultError> {
    let (item, content) = open(file(bytes), &key(), id())?;
    let chunks = content.collect::<Result<Vec<_>, _>>()?;
    Ok((item, chunks.concat()))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250_u8).map(|byte| byte.wrapping_mul(31)).cycle().take(len).collect()
}

#[test]
fn what_goes_in_comes_out_whatever_its_size_and_cut() {
    for len in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_001] {
        let mail = pattern(len);
        let (item, back) = unsealed(&sealed(&mail)).unwrap();
        assert!(back == mail, "{len}");
        assert_eq!((item.bytes, item.meta, item.stored_at), (len as u64, meta(), ID), "{len}");
        let mut piecewise = Vec::new();
        let mut sealer = Sealer::start(&mut piecewise, &key(), id(), &meta()).unwrap();
        for piece in mail.chunks(7_777) {
            sealer.write(piece).unwrap();
        }
        sealer.finish().unwrap();
        assert!(unsealed(&piecewise).unwrap().1 == mail, "{len}");
    }
}

#[test]
fn nothing_of_it_can_be_read_on_the_disk_and_no_two_files_are_alike() {
    let mail = b"X5O!P%@AP a line that must not be readable\r\n".repeat(100);
    let (one, two) = (sealed(&mail), sealed(&mail));
    for text in [b"X5O!P".as_slice(), b"readable", b"example.jp", "見積".as_bytes()] {
        assert!(!one.windows(text.len()).any(|window| window == text));
    }
    // All but magic, version, names and length.
    let same = one.iter().zip(&two).filter(|(a, b)| a == b).count();
    assert!(same < HEAD_BYTES - SALT_BYTES + one.len() / 64, "{same}");
    assert!(!one.starts_with(b"#!") && !one.starts_with(b"MZ") && !one.starts_with(b"\x7fELF"));
}

#[test]
fn every_byte_of_a_small_file_counts() {
    let good = sealed(b"Subject: a\r\n\r\nb\r\n");
    unsealed(&good).unwrap();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            assert!(unsealed(&bad).is_err(), "byte {at} of {}", good.len());
        }
        assert!(unsealed(&good[..at]).is_err(), "cut at {at} of {}", good.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_cut_or_longer_file_is_noticed(
        len in prop_oneof![Just(0), Just(CHUNK_BYTES), Just(2 * CHUNK_BYTES), 0..200_000_usize],
        at: prop::sample::Index,
        flip in 1_u8..,
        more in prop::collection::vec(any::<u8>(), 1..100),
    ) {
        let good = sealed(&pattern(len));
        let at = at.index(good.len());
        let mut bad = good.clone();
        bad[at] ^= flip;
        prop_assert!(unsealed(&bad).is_err());
        prop_assert!(unsealed(&good[..at]).is_err());
        let longer = [good.as_slice(), &more].concat();
        prop_assert!(unsealed(&longer).is_err());
    }

    #[test]
    fn other_files_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(unsealed(&bytes).is_err());
        let head = [MAGIC.as_slice(), &[VERSION], &key().name, &id().to_bytes(), &bytes].concat();
        prop_assert!(unsealed(&head).is_err());
    }
}

#[test]
fn chunks_that_are_dropped_doubled_or_moved_are_noticed() {
    let good = sealed(&pattern(4 * CHUNK_BYTES));
    let chunk = CHUNK_BYTES + TAG_BYTES;
    let (head, chunks) = good.split_at(good.len() - 4 * chunk);
    let order = |order: &[usize]| {
        let mut file = head.to_vec();
        order.iter().for_each(|&at| file.extend(&chunks[at * chunk..(at + 1) * chunk]));
        unsealed(&file).map(drop)
    };
    order(&[0, 1, 2, 3]).unwrap();
    for bad in [&[0, 1, 2][..], &[0, 1, 3], &[1, 0, 2, 3], &[0, 1, 1, 2, 3], &[0, 1, 2, 3, 3], &[3]]
    {
        assert!(matches!(order(bad), Err(VaultError::Damaged { .. })), "{bad:?}");
    }
    // Those of another item, sealed by the same vault.
    let other = sealed(&pattern(4 * CHUNK_BYTES));
    let mixed = [head, &other[head.len()..]].concat();
    assert!(matches!(unsealed(&mixed), Err(VaultError::Damaged { .. })));
}

#[test]
fn the_error_says_what_is_the_matter() {
    let good = sealed(b"a");
    let error =
        |bytes: &[u8], key: &VaultKey, id| open(file(bytes), key, id).unwrap_err().to_string();
    let other_key = VaultKey::derive(b"another").unwrap();
    let text = error(&good, &other_key, id());
    assert!(text.contains("sealed with another private key"), "{text}");
    let text = error(&good, &key(), Id::new(ID, 8));
    assert!(text.contains("its file bears another item's name"), "{text}");
    let mut newer = good.clone();
    newer[MAGIC.len()] = 2;
    let text = error(&newer, &key(), id());
    assert!(text.contains("has format 2, which this version"), "{text}");
    let text = error(b"MZ", &key(), id());
    assert!(text.contains("its end is missing"), "{text}");
    let text = error(&[b'M'; 500], &key(), id());
    assert!(text.contains("it is no item"), "{text}");
}

#[test]
fn nothing_is_handed_out_behind_an_error() {
    let mut bad = sealed(&pattern(3 * CHUNK_BYTES));
    let last = bad.len() - 1;
    bad[last - 2 * (CHUNK_BYTES + TAG_BYTES)] ^= 1;
    let (_, content) = open(file(&bad), &key(), id()).unwrap();
    let results: Vec<_> = content.collect();
    assert!(matches!(results[..], [Err(VaultError::Damaged { .. })]), "{results:?}");
}

#[test]
fn the_largest_meta_is_within_its_limit() {
    let text = "x".repeat(TEXT_BYTES_MAX);
    let meta = Meta {
        session: text.clone(),
        protocol: text.clone(),
        direction: text.clone(),
        client: text.clone(),
        server: text.clone(),
        mail_from: text.clone(),
        rcpt_to: vec![text.clone(); RECIPIENTS_MAX],
        recipients: u32::MAX,
        message_id: text.clone(),
        subject: text.clone(),
        from: text.clone(),
        verdict: text.clone(),
        engine: text.clone(),
        file_name: text.clone(),
        part: text,
    };
    let mut bytes = Vec::new();
    Sealer::start(&mut bytes, &key(), id(), &meta).unwrap().finish().unwrap();
    let (item, _) = open(file(&bytes), &key(), id()).unwrap();
    assert_eq!(item.meta, meta);
    assert!(bytes.len() > META_BYTES_MAX / 2, "the limit is not far off: {}", bytes.len());
}

#[test]
fn a_private_key_in_pem_counts_by_what_it_encodes() {
    let plain = VaultKey::derive(b"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEH").unwrap();
    let pem = "-----BEGIN PRIVATE KEY-----\r\nMIGHAgEAMBMGByqG\r\nSM49AgEGCCqGSM49AwEH\r\n-----END \
               PRIVATE KEY-----\r\n";
    assert_eq!(VaultKey::from_pem(pem).unwrap().name, plain.name);
    assert_ne!(key().name, plain.name);
    assert_eq!(format!("{:?}", key()), "VaultKey(..)");
}

/// A file that the first version wrote. Do not change it: boxes in the field have such files.
#[test]
fn items_of_version_1_open() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/seal/version-1.sealed");
    let bytes = std::fs::read(path).unwrap();
    let (item, mail) = unsealed(&bytes).unwrap();
    assert_eq!((item.meta, mail), (meta(), pattern(100)));
}

#[test]
fn a_full_disk_is_told_from_other_faults() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sealer = Sealer::start(Full(100_000), &key(), id(), &meta()).unwrap();
    let error = sealer.write(&pattern(200_000)).unwrap_err();
    let SealError::Write(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}
