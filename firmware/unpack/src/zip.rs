//! Zip (APPNOTE 6.3.10), read in every way that programs read it.
//!
//! Programs find members by the central directory that an end record points to, by the local
//! headers one after the other, or by both; and where the two differ, some believe the one, some
//! the other. So all records are found by their signatures wherever they stand, central entries are
//! joined with the local headers that they point to, and each reading that differs is decoded,
//! once. What lies inside a member that was handed out is left to whoever looks at that member.

use crate::bytes::{add_name, length, piece, piece_or_less, text, u16_le, u32_le, u64_le};
use crate::inflate::{Bzip2, Decoder, Deflate, Deflate64, Stream};
use crate::stream;
use crate::work::{End, Sized, Work};
use std::collections::{BTreeMap, BTreeSet, HashSet};

pub(crate) const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";
const DESCRIPTOR: &[u8] = b"PK\x07\x08";

const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;
const END64_BYTES: usize = 56;
const LOCATOR64_BYTES: usize = 20;

/// Where offsets may count from, one for each end record that says so. A file in which zips are
/// concatenated has one for each of them; beyond this many it is said to be damaged.
const BASES_MAX: usize = 64;
/// Longest member name that a header found by its signature alone may have, in bytes.
const NAME_BYTES_MAX: usize = 1024;

const FLAG_ENCRYPTED: u16 = 1;
/// LZMA: the stream has an end mark.
const FLAG_END_MARK: u16 = 1 << 1;
/// Bits that no version of the format uses.
const FLAGS_UNUSED: u16 = 0b1100_0111_1000_0000;

const METHOD_STORED: u16 = 0;
const METHOD_DEFLATE: u16 = 8;
const METHOD_DEFLATE64: u16 = 9;
const METHOD_BZIP2: u16 = 12;
const METHOD_LZMA: u16 = 14;
const METHOD_ZSTD_OLD: u16 = 20;
const METHOD_ZSTD: u16 = 93;
const METHOD_XZ: u16 = 95;
const METHOD_PPMD: u16 = 98;
const METHOD_AES: u16 = 99;

/// Whether these bytes can be read as a zip: they begin like one, or a local header stands
/// somewhere in them.
pub(crate) fn is_zip(bytes: &[u8]) -> bool {
    starts_zip(bytes)
        || memchr::memmem::find_iter(bytes, LOCAL)
            .any(|at| Header::local(bytes, at).is_some_and(|local| local.is_plausible()))
}

fn starts_zip(bytes: &[u8]) -> bool {
    [LOCAL, END, b"PK\x07\x08PK\x03\x04", b"PK00PK\x03\x04"]
        .iter()
        .any(|magic| bytes.starts_with(magic))
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let records = Records::find(bytes);
    if bytes.starts_with(DESCRIPTOR) || records.ends.iter().any(|end| end.is_of_several(bytes)) {
        work.partial();
    }
    if records.locals.is_empty() && records.ends.iter().any(|end| end.entries != 0) {
        work.damaged("no local header");
    }
    let mut zip = Zip {
        bytes,
        work,
        covered: Spans::default(),
        followed: HashSet::new(),
        read: HashSet::new(),
    };
    zip.unpack(&records);
}

/// Where the records stand.
struct Records {
    locals: Vec<usize>,
    centrals: Vec<usize>,
    ends: Vec<EndRecord>,
}

impl Records {
    fn find(bytes: &[u8]) -> Self {
        let mut records = Self { locals: Vec::new(), centrals: Vec::new(), ends: Vec::new() };
        for at in memchr::memmem::find_iter(bytes, b"PK") {
            match piece(bytes, at, 4) {
                Some(LOCAL) => records.locals.push(at),
                Some(CENTRAL) => records.centrals.push(at),
                Some(END) => records.ends.extend(EndRecord::read(bytes, at)),
                _ => {}
            }
        }
        records
    }
}

/// An end of central directory record, with its zip64 form if there is one.
struct EndRecord {
    at: usize,
    /// Number of this disk, and of that on which the directory starts.
    disks: [u16; 2],
    entries: u16,
    /// Where the directory may start, and the offset that the record claims for it.
    directories: Vec<(usize, usize)>,
}

impl EndRecord {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        piece(bytes, at, END_BYTES)?;
        let disks = [u16_le(bytes, at + 4)?, u16_le(bytes, at + 6)?];
        let size = length(u32_le(bytes, at + 12)?);
        let offset = length(u32_le(bytes, at + 16)?);
        let mut directories = vec![(offset, offset)];
        directories.extend(at.checked_sub(size).map(|start| (start, offset)));
        for at64 in Self::ends64(bytes, at) {
            let claimed = u64_le(bytes, at64 + 40).zip(u64_le(bytes, at64 + 48));
            if let Some((size, offset)) = claimed {
                let (size, offset) = (length(size), length(offset));
                directories.push((offset, offset));
                directories.extend(at64.checked_sub(size).map(|start| (start, offset)));
            }
        }
        directories.retain(|(start, _)| piece(bytes, *start, 4) == Some(CENTRAL));
        let mut seen = HashSet::new();
        directories.retain(|directory| seen.insert(*directory));
        Some(Self { at, disks, entries: u16_le(bytes, at + 10)?, directories })
    }

    /// Where the zip64 end record of an end record may stand: where its locator says, and right
    /// before the locator.
    fn ends64(bytes: &[u8], at: usize) -> Vec<usize> {
        let Some(locator) = at.checked_sub(LOCATOR64_BYTES) else { return Vec::new() };
        if piece(bytes, locator, 4) != Some(LOCATOR64) {
            return Vec::new();
        }
        let claimed = u64_le(bytes, locator + 8).map(length);
        let before = locator.checked_sub(END64_BYTES);
        let ends = claimed.into_iter().chain(before);
        ends.filter(|end| piece(bytes, *end, END64_BYTES).is_some_and(|end| end.starts_with(END64)))
            .collect()
    }

    /// Whether it ends a set of several files.
    fn is_of_several(&self, bytes: &[u8]) -> bool {
        let comment_bytes = u16_le(bytes, self.at + 20).map_or(0, usize::from);
        self.at + END_BYTES + comment_bytes == bytes.len()
            && self.disks.iter().any(|disk| !matches!(disk, 0 | 0xffff))
    }
}

/// What a local header or a central entry says of a member.
struct Header<'z> {
    /// Where it ends: after a local one stands the data, after a central one the next.
    end: usize,
    version: u16,
    flags: u16,
    method: u16,
    crc: u32,
    packed: usize,
    unpacked: usize,
    /// Central only: where the local header is claimed to stand.
    local_at: usize,
    /// Its name, and that of the Unicode path field.
    names: [&'z [u8]; 2],
}

impl<'z> Header<'z> {
    fn local(bytes: &'z [u8], at: usize) -> Option<Self> {
        let header = piece(bytes, at, LOCAL_BYTES).filter(|header| header.starts_with(LOCAL))?;
        let name_bytes = usize::from(u16_le(header, 26)?);
        let extra_bytes = usize::from(u16_le(header, 28)?);
        let name_at = at + LOCAL_BYTES;
        Self::new(bytes, header, 4, name_at, name_bytes, extra_bytes, 0)
    }

    fn central(bytes: &'z [u8], at: usize) -> Option<Self> {
        let header =
            piece(bytes, at, CENTRAL_BYTES).filter(|header| header.starts_with(CENTRAL))?;
        let name_bytes = usize::from(u16_le(header, 28)?);
        let extra_bytes = usize::from(u16_le(header, 30)?);
        let comment_bytes = usize::from(u16_le(header, 32)?);
        let name_at = at + CENTRAL_BYTES;
        let mut entry =
            Self::new(bytes, header, 6, name_at, name_bytes, extra_bytes, comment_bytes)?;
        if entry.local_at == 0 {
            entry.local_at = length(u32_le(header, 42)?);
        }
        Some(entry)
    }

    /// Reads the fields that both have in the same order, from `fields` on.
    fn new(
        bytes: &'z [u8],
        header: &[u8],
        fields: usize,
        name_at: usize,
        name_bytes: usize,
        extra_bytes: usize,
        comment_bytes: usize,
    ) -> Option<Self> {
        let name = piece(bytes, name_at, name_bytes)?;
        let extra_at = name_at + name_bytes;
        let extra = piece_or_less(bytes, extra_at, extra_bytes);
        let mut parsed = Self {
            end: extra_at + extra_bytes + comment_bytes,
            version: u16_le(header, fields)?,
            flags: u16_le(header, fields + 2)?,
            method: u16_le(header, fields + 4)?,
            crc: u32_le(header, fields + 10)?,
            packed: length(u32_le(header, fields + 14)?),
            unpacked: length(u32_le(header, fields + 18)?),
            local_at: 0,
            names: [name, &[]],
        };
        let offset = u32_le(header, 42).filter(|_| header.len() == CENTRAL_BYTES);
        parsed.read_extra(extra, offset == Some(u32::MAX));
        Some(parsed)
    }

    /// Takes sizes and offset from the zip64 field (section 4.5.3) where the header leaves them to
    /// it, and the name from the Unicode path field (section 4.6.9).
    fn read_extra(&mut self, mut extra: &'z [u8], has_offset64: bool) {
        let unset = length(u32::MAX);
        while let (Some(id), Some(size)) = (u16_le(extra, 0), u16_le(extra, 2)) {
            let size = usize::from(size);
            let field = piece_or_less(extra, 4, size);
            match id {
                1 => {
                    let (unpacked, packed) = (self.unpacked == unset, self.packed == unset);
                    let wanted = [
                        unpacked.then_some(&mut self.unpacked),
                        packed.then_some(&mut self.packed),
                        has_offset64.then_some(&mut self.local_at),
                    ];
                    for (index, value) in wanted.into_iter().flatten().enumerate() {
                        if let Some(wide) = u64_le(field, index * 8) {
                            *value = length(wide);
                        }
                    }
                }
                0x7075 => self.names[1] = field.get(5..).unwrap_or_default(),
                _ => {}
            }
            extra = extra.get(4 + size..).unwrap_or_default();
        }
    }

    /// Whether a program would take it for a header, were it found by its signature alone.
    fn is_plausible(&self) -> bool {
        self.version & 0xff <= 100
            && self.flags & FLAGS_UNUSED == 0
            && (1..=NAME_BYTES_MAX).contains(&self.names[0].len())
            && (is_read(self.method) || is_known(self.method))
    }

    fn is_encrypted(&self) -> bool {
        self.flags & FLAG_ENCRYPTED != 0 || self.method == METHOD_AES
    }

    fn is_directory(&self) -> bool {
        self.packed == 0
            && self.names.iter().all(|name| name.last().is_none_or(|last| b"/\\".contains(last)))
    }
}

fn is_read(method: u16) -> bool {
    matches!(
        method,
        METHOD_STORED
            | METHOD_DEFLATE
            | METHOD_DEFLATE64
            | METHOD_BZIP2
            | METHOD_LZMA
            | METHOD_ZSTD_OLD
            | METHOD_ZSTD
            | METHOD_XZ
            | METHOD_PPMD
    )
}

/// Methods that some programs read: shrink, reduce, implode, PKWARE's, IBM's, MP3, JPEG, WavPack.
fn is_known(method: u16) -> bool {
    matches!(method, 1..=7 | 10 | 16 | 18 | 19 | 94 | 96 | 97 | METHOD_AES)
}

/// One way to decode the data of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Reading {
    /// Where the data start.
    at: usize,
    method: u16,
    /// Its bytes, packed or not, where the method does not find its own end.
    size: Option<usize>,
}

struct Zip<'z, 'w> {
    bytes: &'z [u8],
    work: &'z mut Work<'w>,
    /// What was handed out, as far as its end is certain.
    covered: Spans,
    /// Ends of the local headers that were followed, and what was decoded behind them.
    followed: HashSet<usize>,
    read: HashSet<Reading>,
}

impl Zip<'_, '_> {
    fn unpack(&mut self, records: &Records) {
        let mut bases = BTreeSet::from([0]);
        let mut walked = HashSet::new();
        for (index, end) in records.ends.iter().rev().enumerate() {
            // Those in a member, as in a program's archive of archives, are that member's.
            if self.covered.contains(end.at) {
                continue;
            }
            bases.extend(end.directories.iter().filter_map(|(start, at)| start.checked_sub(*at)));
            if bases.len() > BASES_MAX {
                self.work.damaged("too many end records");
                break;
            }
            self.directories(end, &bases, &mut walked, index > 0);
        }
        let stray: Vec<usize> = records
            .centrals
            .iter()
            .copied()
            .filter(|at| !walked.contains(at) && !self.covered.contains(*at))
            .collect();
        let bases: Vec<usize> = bases.into_iter().collect();
        self.entries(&stray, &bases, true, false);
        self.locals(&records.locals);
    }

    /// Reads the directories that one end record points to.
    fn directories(
        &mut self,
        end: &EndRecord,
        bases: &BTreeSet<usize>,
        walked: &mut HashSet<usize>,
        is_odd: bool,
    ) {
        for (index, (start, offset)) in end.directories.iter().enumerate() {
            let mut entries = Vec::new();
            let mut at = *start;
            while walked.insert(at) {
                let Some(entry) = Header::central(self.bytes, at) else {
                    walked.remove(&at);
                    break;
                };
                entries.push(at);
                at = entry.end;
            }
            let own = start.checked_sub(*offset);
            let bases: Vec<usize> = own.into_iter().chain(bases.iter().copied()).collect();
            self.entries(&entries, &bases, is_odd || index > 0, true);
        }
    }

    /// Decodes the members of these central entries, each local header once with all entries that
    /// point to it.
    fn entries(&mut self, at: &[usize], bases: &[usize], is_odd: bool, is_listed: bool) {
        let mut by_local: BTreeMap<usize, Vec<Header<'_>>> = BTreeMap::new();
        for entry in at.iter().filter_map(|at| Header::central(self.bytes, *at)) {
            if !is_listed && !entry.is_plausible() {
                continue;
            }
            let found = bases
                .iter()
                .filter_map(|base| base.checked_add(entry.local_at))
                .find(|at| piece(self.bytes, *at, 4) == Some(LOCAL));
            match found {
                Some(at) => by_local.entry(at).or_default().push(entry),
                None if entry.is_directory() || !is_listed => {}
                None => self.work.damaged("no local header where the central directory points"),
            }
        }
        for (at, entries) in by_local {
            if self.work.is_over() {
                return;
            }
            match Header::local(self.bytes, at) {
                Some(local) => self.member(&local, &entries, is_odd),
                None => self.work.damaged("a local header is cut off"),
            }
        }
    }

    /// Decodes the members whose local headers nothing points to, unless they lie in another
    /// member.
    fn locals(&mut self, locals: &[usize]) {
        let mut follows = HashSet::new();
        for at in locals {
            if self.work.is_over() || (self.covered.contains(*at) && !follows.contains(at)) {
                continue;
            }
            match Header::local(self.bytes, *at) {
                Some(local) if self.followed.contains(&local.end) => {}
                Some(local) if *at == 0 || local.is_plausible() => {
                    follows.extend(local.end.checked_add(local.packed));
                    self.member(&local, &[], true);
                }
                None if *at == 0 => self.work.damaged("a local header is cut off"),
                _ => {}
            }
        }
    }

    /// Decodes one member, in each way that its headers say.
    fn member(&mut self, local: &Header<'_>, entries: &[Header<'_>], is_odd: bool) {
        self.followed.insert(local.end);
        let headers: Vec<&Header<'_>> = std::iter::once(local).chain(entries).collect();
        if headers.iter().all(|header| header.is_directory()) {
            return;
        }
        if headers.iter().all(|header| header.is_encrypted()) {
            // What they claim to be encrypted is not passed over: it may be plain, and other
            // members. Its names are in clear, and tell what it is.
            self.work.encrypted();
            let mut names = Vec::new();
            headers
                .iter()
                .flat_map(|header| header.names)
                .for_each(|name| add_name(&mut names, text(name)));
            if self.work.begin() {
                self.work.hand_out(names, Vec::new(), is_odd);
            }
            return;
        }
        let mut names = Vec::new();
        headers
            .iter()
            .flat_map(|header| header.names)
            .for_each(|name| add_name(&mut names, text(name)));
        let mut fresh = self.readings(local.end, &headers);
        fresh.retain(|reading| self.read.insert(*reading));
        let is_doubtful = headers.iter().any(|header| header.is_encrypted());
        let crcs: Vec<u32> = headers.iter().map(|header| header.crc).collect();
        let crcs = if is_doubtful { crcs.as_slice() } else { &[] };
        let mut outcome = Outcome::default();
        for (index, reading) in fresh.iter().enumerate() {
            let is_odd = is_odd || index > 0;
            let packed = headers_packed(&headers);
            self.reading(*reading, packed, &names, crcs, is_odd, &mut outcome);
        }
        if fresh.is_empty() {
            return;
        }
        if is_doubtful && !outcome.is_crc_right {
            self.work.encrypted();
        } else if let Some(trouble) = outcome.trouble.filter(|_| !outcome.is_whole) {
            self.work.damaged(trouble);
        }
    }

    /// The ways in which the headers say that the data are to be decoded. A size of nothing stands
    /// for one that the other header or the data descriptor has.
    fn readings(&self, at: usize, headers: &[&Header<'_>]) -> Vec<Reading> {
        let mut readings: Vec<Reading> = Vec::new();
        let (mut seen, mut methods) = (HashSet::new(), HashSet::new());
        let mut add = |method, size| {
            methods.insert(method);
            if seen.insert((method, size)) {
                readings.push(Reading { at, method, size });
            }
        };
        for Header { method, flags, packed, unpacked, .. } in headers {
            match *method {
                METHOD_STORED => {
                    for size in [packed, unpacked].into_iter().filter(|size| **size != 0) {
                        add(METHOD_STORED, Some(*size));
                    }
                }
                METHOD_LZMA if flags & FLAG_END_MARK != 0 => add(METHOD_LZMA, None),
                METHOD_LZMA | METHOD_PPMD if *unpacked != 0 => add(*method, Some(*unpacked)),
                METHOD_LZMA | METHOD_PPMD => {}
                other => add(other, None),
            }
        }
        for Header { method, .. } in headers {
            if methods.insert(*method) {
                let size = Some(self.size_by_signature(at)).filter(|_| *method == METHOD_STORED);
                readings.push(Reading { at, method: *method, size });
            }
        }
        readings
    }

    /// Bytes of stored data of unknown size: up to the next record.
    fn size_by_signature(&self, at: usize) -> usize {
        let rest = self.bytes.get(at..).unwrap_or_default();
        memchr::memmem::find_iter(rest, b"PK")
            .find(|at| {
                let next = piece(rest, *at, 4);
                [LOCAL, CENTRAL, END, END64, DESCRIPTOR].iter().any(|mark| next == Some(mark))
            })
            .unwrap_or(rest.len())
    }

    /// Decodes a member in one way and hands it out. `packed` are the bytes that the headers claim.
    fn reading(
        &mut self,
        reading: Reading,
        packed: usize,
        names: &[String],
        crcs: &[u32],
        is_odd: bool,
        outcome: &mut Outcome,
    ) {
        if !is_read(reading.method) {
            if is_known(reading.method) {
                self.work.unsupported("a compression method");
            } else {
                outcome.trouble.get_or_insert("a compression method that does not exist");
            }
            return;
        }
        if !self.work.begin() {
            return;
        }
        let (bytes, end, consumed) = self.decode(reading, packed);
        outcome.is_crc_right |= !crcs.is_empty() && crcs.contains(&crc32fast::hash(&bytes));
        match end {
            End::Whole => {
                outcome.is_whole = true;
                self.covered.add(reading.at, reading.at.saturating_add(consumed));
            }
            End::Broken => {
                outcome.trouble.get_or_insert("the data of a member");
            }
            End::Limit => {}
        }
        if tells_encryption(names, &bytes) {
            self.work.encrypted();
        }
        self.work.hand_out(names.to_vec(), bytes, is_odd);
    }

    /// What a reading yields, how it ended, and how many packed bytes it used.
    fn decode(&mut self, reading: Reading, packed: usize) -> (Vec<u8>, End, usize) {
        let data = self.bytes.get(reading.at..).unwrap_or_default();
        let packed = if packed == 0 { data } else { piece_or_less(data, 0, packed) };
        let size = reading.size.unwrap_or(usize::MAX);
        match reading.method {
            METHOD_STORED => {
                let mut stored = piece_or_less(data, 0, size);
                let (consumed, is_cut) = (stored.len(), stored.len() < size);
                let (bytes, end) = self.work.read(&mut Sized::new(&mut stored, consumed));
                (bytes, if is_cut && end == End::Whole { End::Broken } else { end }, consumed)
            }
            METHOD_DEFLATE => self.decode_stream(data, Deflate::new()),
            METHOD_DEFLATE64 => self.decode_stream(data, Deflate64::new()),
            METHOD_BZIP2 => self.decode_stream(data, Bzip2::new()),
            METHOD_ZSTD | METHOD_ZSTD_OLD => stream::zstd_frames(data, self.work),
            METHOD_XZ => stream::xz_stream(data, self.work),
            METHOD_LZMA => self.decode_lzma(packed, size),
            _ => self.decode_ppmd(packed, size),
        }
    }

    fn decode_stream(&mut self, data: &[u8], decoder: impl Decoder) -> (Vec<u8>, End, usize) {
        let mut stream = Stream::new(data, decoder);
        let (bytes, end) = self.work.read(&mut stream);
        (bytes, end, stream.consumed())
    }

    /// LZMA with zip's header (section 5.8.8): two bytes of version, the length of the properties,
    /// and these.
    fn decode_lzma(&mut self, packed: &[u8], size: usize) -> (Vec<u8>, End, usize) {
        let (properties, dictionary) = (packed.get(4), u32_le(packed, 5));
        let Some(((properties, dictionary), data)) =
            properties.zip(dictionary).zip(packed.get(9..))
        else {
            return (Vec::new(), End::Broken, 0);
        };
        let size = size.try_into().unwrap_or(u64::MAX);
        let (bytes, end) = stream::lzma_raw(data, *properties, dictionary, size, self.work);
        (bytes, end, packed.len())
    }

    /// PPMd variant I (section 5.10): order, model size and restoration in two bytes.
    fn decode_ppmd(&mut self, packed: &[u8], size: usize) -> (Vec<u8>, End, usize) {
        let Some((parameters, data)) = u16_le(packed, 0).zip(packed.get(2..)) else {
            return (Vec::new(), End::Broken, 0);
        };
        let order = u32::from(parameters & 0xf) + 1;
        let model_bytes = (u32::from(parameters >> 4 & 0xff) + 1) << 20;
        let restore = ppmd_rust::RestoreMethod::from(parameters >> 12);
        if length(model_bytes) > self.work.decoder_bytes_max() {
            self.work.limit(crate::LimitKind::Memory);
            return (Vec::new(), End::Broken, 0);
        }
        let Ok(decoder) = ppmd_rust::Ppmd8Decoder::new(data, order, model_bytes, restore) else {
            return (Vec::new(), End::Broken, 0);
        };
        let mut limited = std::io::Read::take(decoder, size.try_into().unwrap_or(u64::MAX));
        let (bytes, end) = self.work.read(&mut Sized::new(&mut limited, packed.len()));
        (bytes, end, packed.len())
    }
}

/// Whether a member says that the others are encrypted by the document, not by the zip: of
/// OpenDocument (part 2, section 4.8), and of Apple's programs.
fn tells_encryption(names: &[String], bytes: &[u8]) -> bool {
    names.iter().any(|name| {
        name.ends_with(".iwpv2")
            || name.eq_ignore_ascii_case("META-INF/manifest.xml")
                && memchr::memmem::find(bytes, b"encryption-data").is_some()
    })
}

fn headers_packed(headers: &[&Header<'_>]) -> usize {
    headers.iter().map(|header| header.packed).max().unwrap_or(0)
}

/// What became of the readings of one member.
#[derive(Default)]
struct Outcome {
    /// One was decoded to its end.
    is_whole: bool,
    /// One has a checksum that a header claims; looked at where headers differ on encryption.
    is_crc_right: bool,
    trouble: Option<&'static str>,
}

/// Stretches of bytes, merged where they touch.
#[derive(Default)]
struct Spans(BTreeMap<usize, usize>);

impl Spans {
    fn add(&mut self, mut start: usize, mut end: usize) {
        if start >= end {
            return;
        }
        while let Some((&other, &other_end)) = self.0.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.0.remove(&other);
            (start, end) = (start.min(other), end.max(other_end));
        }
        self.0.insert(start, end);
    }

    fn contains(&self, at: usize) -> bool {
        self.0.range(..=at).next_back().is_some_and(|(_, end)| at < *end)
    }
}
