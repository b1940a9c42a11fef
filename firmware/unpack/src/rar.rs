//! Rar, by `rars`, without its cryptography: members that are encrypted are named, not opened.

use crate::bytes::{add_name, before_nul, length, piece, text, u16_le, u32_le};
use crate::work::Work;
use crate::{LimitKind, Stop};
use rars::{
    ArchiveMember, ArchiveMemberDetail, ArchiveReadOptions, ArchiveReader, Error, ErrorKind,
    ExtractionDecision, ExtractionErrorAction, ReadCancellation,
};
use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

/// What the two below begin with.
pub(crate) const MARK: &[u8] = b"Rar!\x1a\x07";
/// Version 1.5 to 4, and 5.
const MAGIC_4: &[u8] = b"Rar!\x1a\x07\0";
const MAGIC_5: &[u8] = b"Rar!\x1a\x07\x01\0";
const MAGIC_13: &[u8] = b"RE~^";
/// Archives in one file, one behind the other, that are looked at.
const STARTS_MAX: usize = 16;
/// Marks that are tried.
const MARKS_MAX: usize = 4096;
/// Headers of one archive, and their bytes.
const HEADERS_MAX: u64 = 200_000;
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// Where archives begin: at the start of the bytes, and behind a program that unpacks them.
pub(crate) fn starts(bytes: &[u8]) -> Vec<usize> {
    let mut starts: Vec<usize> = memchr::memmem::find_iter(bytes, MARK)
        .take(MARKS_MAX)
        .filter(|at| *at == 0 || is_main_header(bytes.get(*at..).unwrap_or_default()))
        .take(STARTS_MAX)
        .collect();
    if bytes.starts_with(MAGIC_13) {
        starts.insert(0, 0);
    }
    starts
}

/// Whether an archive's first header follows the magic, by its checksum.
fn is_main_header(bytes: &[u8]) -> bool {
    if let Some(header) = bytes.strip_prefix(MAGIC_4) {
        let size = u16_le(header, 5).map_or(0, usize::from);
        let checked = piece(header, 2, size.saturating_sub(2)).map(crc32fast::hash);
        return u16_le(header, 0).map(u32::from) == checked.map(|crc| crc & 0xffff);
    }
    let Some(header) = bytes.strip_prefix(MAGIC_5) else { return false };
    // The size is a number of 7 bits a byte; that of a first header takes one or two.
    let (size, size_bytes) = match header.get(4..6) {
        Some([low @ 0..0x80, _]) => (usize::from(*low), 1),
        Some([low, high @ 0..0x80]) => (usize::from(low & 0x7f) | usize::from(*high) << 7, 2),
        _ => return false,
    };
    u32_le(header, 0) == piece(header, 4, size_bytes + size).map(crc32fast::hash)
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    for at in starts(bytes) {
        archive(bytes.get(at..).unwrap_or_default(), work);
    }
}

fn archive(bytes: &[u8], work: &mut Work<'_>) {
    let cancel = ReadCancellation::new();
    let decoder_bytes_max = u64::try_from(work.decoder_bytes_max()).unwrap_or(u64::MAX);
    let options = ArchiveReadOptions::new()
        .with_cancellation(&cancel)
        .with_max_header_count(HEADERS_MAX)
        .with_max_header_bytes(HEADER_BYTES_MAX)
        .with_rar50_dictionary_size_limit(decoder_bytes_max)
        .with_rar50_buffered_decode_limit(decoder_bytes_max)
        .with_max_reader_workspace_bytes(decoder_bytes_max.saturating_mul(2));
    let archive = match ArchiveReader::read_with_options(bytes, options) {
        Ok(archive) => archive,
        Err(error) => return report(&error, work),
    };
    let walk = RefCell::new(Walk { work, current: None, cancel: cancel.clone() });
    let outcome = archive.extract_with_control_and_errors(
        options,
        |member| Ok(walk.borrow_mut().decide(member)),
        |_, error| {
            let mut walk = walk.borrow_mut();
            walk.hand_out();
            report(error, walk.work);
            Ok(ExtractionErrorAction::Continue)
        },
    );
    let mut walk = walk.into_inner();
    let is_limited = walk.hand_out();
    match outcome {
        Err(_) if is_limited => {}
        // In a solid archive what follows a member that is not opened is not opened either.
        Err(error) if matches!(cause(&error), Error::CannotSkipSolidMember) => {
            if archive.members().any(|member| is_plain(&member)) {
                walk.work.unsupported("a solid archive of which some is encrypted or elsewhere");
            }
        }
        Err(error) => report(&error, walk.work),
        Ok(_) => {}
    }
}

/// Whether a member could be opened, were it alone.
fn is_plain(member: &ArchiveMember) -> bool {
    let meta = &member.meta;
    let is_file = !meta.is_directory && !meta.is_redirection;
    is_file && !meta.is_encrypted && !meta.is_split_before && !meta.is_split_after
}

/// Goes through the members; each is handed out when the next begins.
struct Walk<'z, 'w> {
    work: &'z mut Work<'w>,
    current: Option<(Vec<String>, Rc<RefCell<Output>>)>,
    cancel: ReadCancellation,
}

impl Walk<'_, '_> {
    fn decide(&mut self, member: &ArchiveMember) -> ExtractionDecision {
        self.hand_out();
        let meta = &member.meta;
        if self.work.is_over() {
            return ExtractionDecision::Stop;
        }
        if meta.is_directory || meta.is_redirection {
            return ExtractionDecision::Skip;
        }
        if meta.is_encrypted {
            self.work.encrypted();
            return ExtractionDecision::Skip;
        }
        if meta.is_split_before || meta.is_split_after {
            self.work.partial();
            return ExtractionDecision::Skip;
        }
        if !self.work.begin() {
            return ExtractionDecision::Stop;
        }
        let packed = length(meta.packed_size);
        // In a solid archive a member may be short because it repeats the ones before.
        let packed = if member.is_solid() { packed.max(self.work.packed()) } else { packed };
        let output = Rc::new(RefCell::new(Output {
            bytes: Vec::new(),
            bytes_max: self.work.bytes_left(),
            ratio_bytes_max: self.work.ratio_bytes_max(packed),
            stop: self.work.stop().clone(),
            cancel: self.cancel.clone(),
            limit: None,
        }));
        self.current = Some((names(member), Rc::clone(&output)));
        ExtractionDecision::Extract(Box::new(Sink(output)))
    }

    /// Hands out what has come of the current member. True: a limit ended it.
    fn hand_out(&mut self) -> bool {
        let Some((names, output)) = self.current.take() else { return false };
        let (bytes, limit) = {
            let mut output = output.borrow_mut();
            (std::mem::take(&mut output.bytes), output.limit)
        };
        let allowed = self.work.allow(bytes.len(), bytes.len(), usize::MAX);
        if let Some(kind) = limit.or(allowed.err()) {
            self.work.limit(kind);
        }
        self.work.hand_out(names, bytes, false);
        limit.is_some()
    }
}

fn names(member: &ArchiveMember) -> Vec<String> {
    let mut names = Vec::new();
    add_name(&mut names, text(before_nul(&member.meta.name)));
    if let ArchiveMemberDetail::Rar15To40 { unicode_name: Some(name), .. } = &member.detail {
        add_name(&mut names, text(name));
    }
    names
}

/// What a member unpacks to, within what the budget allows.
struct Output {
    bytes: Vec<u8>,
    bytes_max: usize,
    ratio_bytes_max: usize,
    stop: Stop,
    cancel: ReadCancellation,
    limit: Option<LimitKind>,
}

struct Sink(Rc<RefCell<Output>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut output = self.0.borrow_mut();
        let length = output.bytes.len().saturating_add(bytes.len());
        let limit = if length > output.bytes_max {
            Some(LimitKind::Bytes)
        } else if length > output.ratio_bytes_max {
            Some(LimitKind::Ratio)
        } else {
            (output.stop)().then_some(LimitKind::Time)
        };
        if limit.is_some() {
            output.limit = limit;
            output.cancel.cancel();
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        output.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is behind the words on where it happened.
fn cause(error: &Error) -> &Error {
    match error {
        Error::AtArchiveOffset { source, .. }
        | Error::AtEntry { source, .. }
        | Error::InVolume { source, .. } => cause(source),
        _ => error,
    }
}

fn report(error: &Error, work: &mut Work<'_>) {
    let error = cause(error);
    if let Error::FeatureDisabled { .. } | Error::UnsupportedEncryption { .. } = error {
        return work.encrypted();
    }
    match error.kind() {
        ErrorKind::PasswordRequired | ErrorKind::BadPassword => work.encrypted(),
        ErrorKind::UnsupportedFormat | ErrorKind::UnsupportedFeature => {
            work.unsupported("a compression method");
        }
        ErrorKind::ResourceLimit => work.limit(LimitKind::Memory),
        // The bytes were handed out; programs keep them as well.
        ErrorKind::ChecksumMismatch => {}
        ErrorKind::Cancelled => {}
        _ => work.damaged("its structure"),
    }
}
