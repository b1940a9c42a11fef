//! Cabinets ([MS-CAB]): stored, MSZIP and LZX folders. Quantum has no reader that is kept up.

use crate::bytes::{before_nul, length, piece, piece_or_less, text, u16_le, u32_le};
use crate::work::{End, Source, Work};
use flate2::{Decompress, FlushDecompress};
use lzxd::{Lzxd, WindowSize};
use std::io::{self, Read};

pub(crate) const MAGIC: &[u8] = b"MSCF\0\0\0\0";
const HEADER_BYTES: usize = 36;
const FOLDER_BYTES: usize = 8;
const FILE_BYTES: usize = 16;
const DATA_BYTES: usize = 8;
/// Unpacked bytes of a block at most, and of what MSZIP's next block may refer to.
const BLOCK_BYTES_MAX: usize = 32 * 1024;
/// Cabinets in one file that are looked at.
const STARTS_MAX: usize = 16;
/// Marks that are tried.
const MARKS_MAX: usize = 4096;

const FLAG_PREVIOUS: u16 = 1;
const FLAG_NEXT: u16 = 1 << 1;
const FLAG_RESERVE: u16 = 1 << 2;
/// Folder numbers from here on: the file continues in another cabinet.
const FOLDER_CONTINUED: u16 = 0xfffd;

/// Where cabinets begin: at the start of the bytes, and behind a program that unpacks them.
pub(crate) fn starts(bytes: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(bytes, MAGIC)
        .take(MARKS_MAX)
        .filter(|at| *at == 0 || Header::read(bytes.get(*at..).unwrap_or_default()).is_some())
        .take(STARTS_MAX)
        .collect()
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    for at in starts(bytes) {
        let cabinet = bytes.get(at..).unwrap_or_default();
        match Header::read(cabinet) {
            Some(header) => self::cabinet(cabinet, &header, work),
            None => work.damaged("the header"),
        }
    }
}

struct Header {
    folders_at: usize,
    folders: u16,
    files_at: usize,
    files: u16,
    /// Reserved bytes of each folder's entry, and of each block's header.
    folder_reserve: usize,
    data_reserve: usize,
    is_partial: bool,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let header = piece(bytes, 0, HEADER_BYTES).filter(|header| header.starts_with(MAGIC))?;
        let flags = u16_le(header, 30)?;
        let mut at = HEADER_BYTES;
        let (mut folder_reserve, mut data_reserve) = (0, 0);
        if flags & FLAG_RESERVE != 0 {
            folder_reserve = usize::from(*bytes.get(38)?);
            data_reserve = usize::from(*bytes.get(39)?);
            at += 4 + usize::from(u16_le(bytes, 36)?);
        }
        // Name and disk of the cabinet before, and of the one behind.
        let texts = 2 * (flags & FLAG_PREVIOUS).count_ones() + 2 * (flags & FLAG_NEXT).count_ones();
        for _ in 0..texts {
            at += before_nul(bytes.get(at..)?).len() + 1;
        }
        let header = Self {
            folders_at: at,
            folders: u16_le(header, 26)?,
            files_at: length(u32_le(header, 16)?),
            files: u16_le(header, 28)?,
            folder_reserve,
            data_reserve,
            is_partial: texts > 0,
        };
        (bytes.get(25) == Some(&1) && header.files_at < bytes.len()).then_some(header)
    }
}

/// One file's entry.
struct File {
    size: usize,
    /// Where it begins in its folder.
    start: usize,
    folder: u16,
    name: String,
}

fn cabinet(bytes: &[u8], header: &Header, work: &mut Work<'_>) {
    if header.is_partial {
        work.partial();
    }
    let mut files = files(bytes, header, work);
    files.sort_by_key(|file| file.folder);
    for group in files.chunk_by(|a, b| a.folder == b.folder) {
        if work.is_over() {
            return;
        }
        match group.first().map(|file| file.folder) {
            Some(FOLDER_CONTINUED..) => work.partial(),
            Some(folder) if folder >= header.folders => work.damaged("a folder's number"),
            Some(folder) => self::folder(bytes, header, folder, group, work),
            None => {}
        }
    }
}

fn files(bytes: &[u8], header: &Header, work: &mut Work<'_>) -> Vec<File> {
    let mut at = header.files_at;
    let mut files = Vec::new();
    for _ in 0..header.files {
        let file = piece(bytes, at, FILE_BYTES).and_then(|entry| {
            let name = before_nul(bytes.get(at + FILE_BYTES..)?);
            at += FILE_BYTES + name.len() + 1;
            Some(File {
                size: length(u32_le(entry, 0)?),
                start: length(u32_le(entry, 4)?),
                folder: u16_le(entry, 8)?,
                name: text(name),
            })
        });
        match file {
            Some(file) => files.push(file),
            None => {
                work.damaged("the list of files");
                break;
            }
        }
    }
    files
}

/// Unpacks one folder and hands out its files.
fn folder(bytes: &[u8], header: &Header, index: u16, files: &[File], work: &mut Work<'_>) {
    let entry_bytes = FOLDER_BYTES + header.folder_reserve;
    let entry = piece(bytes, header.folders_at + usize::from(index) * entry_bytes, FOLDER_BYTES);
    let fields = entry
        .and_then(|entry| Some((length(u32_le(entry, 0)?), u16_le(entry, 4)?, u16_le(entry, 6)?)));
    let Some((at, blocks, method)) = fields else {
        work.damaged("the list of folders");
        return;
    };
    let Some(method) = Method::new(method) else {
        work.unsupported("a compression method");
        return;
    };
    let mut source = Folder {
        bytes,
        at,
        blocks,
        data_reserve: header.data_reserve,
        method,
        ready: Vec::new(),
        taken: 0,
        packed: 0,
    };
    let (content, end) = work.read(&mut source);
    for file in files {
        let member = piece_or_less(&content, file.start, file.size);
        if member.len() < file.size && end != End::Limit {
            work.damaged("a file is cut off");
        }
        work.slice(vec![file.name.clone()], member, false);
    }
}

enum Method {
    Stored,
    /// With what the blocks before unpacked to.
    MsZip(Vec<u8>),
    Lzx(Box<Lzxd>),
}

impl Method {
    fn new(method: u16) -> Option<Self> {
        match method & 0xf {
            0 => Some(Self::Stored),
            1 => Some(Self::MsZip(Vec::new())),
            3 => {
                let window = match method >> 8 & 0x1f {
                    15 => WindowSize::KB32,
                    16 => WindowSize::KB64,
                    17 => WindowSize::KB128,
                    18 => WindowSize::KB256,
                    19 => WindowSize::KB512,
                    20 => WindowSize::MB1,
                    21 => WindowSize::MB2,
                    _ => return None,
                };
                Some(Self::Lzx(Box::new(Lzxd::new(window))))
            }
            _ => None,
        }
    }

    fn decode(&mut self, block: &[u8], size: usize) -> Option<Vec<u8>> {
        match self {
            Self::Stored => Some(block.to_vec()),
            Self::MsZip(history) => {
                let mut content = inflate(block.strip_prefix(b"CK")?, history)?;
                content.truncate(size);
                history.extend_from_slice(&content);
                let old = history.len().saturating_sub(BLOCK_BYTES_MAX);
                history.drain(..old);
                Some(content)
            }
            Self::Lzx(decoder) => decoder.decompress_next(block, size).ok().map(<[u8]>::to_vec),
        }
    }
}

/// Inflates one block of MSZIP. What came before it is put before it as a stored block, whose
/// content is then left out.
fn inflate(block: &[u8], history: &[u8]) -> Option<Vec<u8>> {
    let size = u16::try_from(history.len()).ok()?;
    let mut output = Vec::with_capacity(2 * BLOCK_BYTES_MAX + 1);
    let mut decoder = Decompress::new(false);
    if size > 0 {
        let mut stored = vec![0];
        stored.extend_from_slice(&size.to_le_bytes());
        stored.extend_from_slice(&(!size).to_le_bytes());
        stored.extend_from_slice(history);
        decoder.decompress_vec(&stored, &mut output, FlushDecompress::None).ok()?;
    }
    let done = decoder.decompress_vec(block, &mut output, FlushDecompress::Finish);
    let content = output.split_off(history.len().min(output.len()));
    (done.is_ok() || !content.is_empty()).then_some(content)
}

/// The blocks of a folder, one after the other.
struct Folder<'a> {
    bytes: &'a [u8],
    at: usize,
    blocks: u16,
    data_reserve: usize,
    method: Method,
    ready: Vec<u8>,
    taken: usize,
    packed: usize,
}

impl Folder<'_> {
    fn next_block(&mut self) -> Option<Vec<u8>> {
        let header = piece(self.bytes, self.at, DATA_BYTES)?;
        let packed = usize::from(u16_le(header, 4)?);
        let unpacked = usize::from(u16_le(header, 6)?);
        let data_at = self.at.checked_add(DATA_BYTES + self.data_reserve)?;
        let data = piece(self.bytes, data_at, packed)?;
        self.at = data_at + packed;
        self.packed += packed;
        if unpacked > BLOCK_BYTES_MAX {
            return None;
        }
        self.method.decode(data, unpacked)
    }
}

impl Read for Folder<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.ready.len() {
            if self.blocks == 0 {
                return Ok(0);
            }
            self.blocks -= 1;
            self.taken = 0;
            self.ready = self.next_block().ok_or(io::ErrorKind::InvalidData)?;
        }
        let rest = self.ready.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(output.len());
        let (Some(to), Some(from)) = (output.get_mut(..count), rest.get(..count)) else {
            return Ok(0);
        };
        to.copy_from_slice(from);
        self.taken += count;
        Ok(count)
    }
}

impl Source for Folder<'_> {
    fn packed(&self) -> usize {
        self.packed
    }
}
