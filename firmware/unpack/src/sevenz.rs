//! 7z, by `sevenz-rust2`, which is given a limit for its dictionaries and for the archive's list.

use crate::LimitKind;
use crate::bytes::{piece, u32_le, u64_le};
use crate::work::{End, Sized, Work};
use sevenz_rust2::{Archive, ArchiveEntry, BlockDecoder, Error, Password};
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) const MAGIC: &[u8] = b"7z\xbc\xaf\x27\x1c";
/// Bytes of the start header, which has a checksum of its own.
const START_BYTES: usize = 32;
/// Archives in one file, one behind the other, that are looked at.
const STARTS_MAX: usize = 16;
/// Marks that are tried.
const MARKS_MAX: usize = 4096;

/// Where archives begin: at the start of the bytes, and behind a program that unpacks them.
pub(crate) fn starts(bytes: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(bytes, MAGIC)
        .take(MARKS_MAX)
        .filter(|at| *at == 0 || is_start_header(bytes, *at))
        .take(STARTS_MAX)
        .collect()
}

fn is_start_header(bytes: &[u8], at: usize) -> bool {
    piece(bytes, at, START_BYTES).is_some_and(|header| {
        let checked = header.get(12..).unwrap_or_default();
        u32_le(header, 8) == Some(crc32fast::hash(checked))
    })
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    for at in starts(bytes) {
        archive(bytes.get(at..).unwrap_or_default(), work);
    }
}

fn archive(bytes: &[u8], work: &mut Work<'_>) {
    if is_start_header(bytes, 0) && u64_le(bytes, 20) == Some(0) {
        // No list, no members.
        return;
    }
    let memory_kib = work.decoder_bytes_max() / 1024;
    let mut source = Cursor::new(bytes);
    let password = Password::empty();
    let mut archive = match Archive::read_with_memory_limit(&mut source, &password, memory_kib) {
        Ok(archive) => archive,
        Err(error) => return report(&error, work),
    };
    // A wrong checksum would cost the last bytes of a member; programs keep what they unpacked.
    archive.files.iter_mut().for_each(|file| file.has_crc = false);
    archive.blocks.iter_mut().for_each(|block| block.has_crc = false);
    for index in 0..archive.blocks.len() {
        if work.is_over() {
            return;
        }
        let decoder = BlockDecoder::new_with_memory_limit(
            1,
            memory_kib,
            index,
            &archive,
            &password,
            &mut source,
        );
        let mut each = |file: &ArchiveEntry, reader: &mut dyn Read| {
            Ok(member(file, reader, bytes.len(), work))
        };
        let done = catch_unwind(AssertUnwindSafe(|| decoder.for_each_entries(&mut each)));
        match done {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => report(&error, work),
            Err(_) => work.damaged("its decoder gave up"),
        }
    }
    let is_empty = |file: &&ArchiveEntry| !file.has_stream && !file.is_directory;
    for file in archive.files.iter().filter(is_empty) {
        member(file, &mut [].as_slice(), bytes.len(), work);
    }
}

/// Hands out one member. False: nothing more of its block can be read.
fn member(file: &ArchiveEntry, reader: &mut dyn Read, packed: usize, work: &mut Work<'_>) -> bool {
    if file.is_directory || file.is_anti_item {
        return true;
    }
    match work.member(vec![file.name.clone()], &mut Sized::new(reader, packed), false) {
        End::Whole => !work.is_over(),
        End::Broken => {
            work.damaged("the data of a member");
            false
        }
        End::Limit => false,
    }
}

fn report(error: &Error, work: &mut Work<'_>) {
    match error {
        Error::PasswordRequired | Error::MaybeBadPassword(_) => work.encrypted(),
        Error::UnsupportedCompressionMethod(method) if method.contains("AES") => work.encrypted(),
        Error::UnsupportedCompressionMethod(_) => work.unsupported("a compression method"),
        Error::Unsupported(_) | Error::ExternalUnsupported | Error::UnsupportedVersion { .. } => {
            work.unsupported("a feature");
        }
        Error::MaxMemLimited { .. } => work.limit(LimitKind::Memory),
        _ => work.damaged("its structure"),
    }
}
