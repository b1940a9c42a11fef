//! Compound files ([MS-CFB]) that `cfb` refuses, read as Office does: tables that are cut off,
//! chains that leave the file and directories with faults cost what they concern, and no more.

use crate::bytes::{length, piece, piece_or_less, text_utf16, u16_le, u32_le};
use crate::ole::MAGIC;
use std::collections::HashSet;

const HEADER_BYTES: usize = 512;
const ENTRY_BYTES: usize = 128;
/// Numbers of sectors from here on mean something else: end, free, table.
const SECTOR_END: u32 = 0xffff_fffa;
const NO_ENTRY: u32 = u32::MAX;
const MINI_SECTOR_BYTES: usize = 64;

const KIND_STREAM: u8 = 2;
const KIND_ROOT: u8 = 5;

pub(crate) struct File<'a> {
    bytes: &'a [u8],
    sector_bytes: usize,
    /// Streams shorter than this stand in the mini stream.
    mini_below: usize,
    table: Vec<u32>,
    mini_table: Vec<u32>,
    mini_stream: Vec<u8>,
    streams: Vec<Stream>,
}

struct Stream {
    path: String,
    start: u32,
    size: usize,
}

impl<'a> File<'a> {
    pub(crate) fn open(bytes: &'a [u8]) -> Option<Self> {
        let header = piece(bytes, 0, HEADER_BYTES).filter(|header| header.starts_with(MAGIC))?;
        let sector_bytes = match u16_le(header, 30)? {
            9 => 512,
            12 => 4096,
            _ => return None,
        };
        let mut file = Self {
            bytes,
            sector_bytes,
            mini_below: length(u32_le(header, 56)?),
            table: Vec::new(),
            mini_table: Vec::new(),
            mini_stream: Vec::new(),
            streams: Vec::new(),
        };
        file.read_table(header)?;
        let directory = file.chain(u32_le(header, 48)?, usize::MAX);
        let mini_table = file.chain(u32_le(header, 60)?, usize::MAX);
        file.mini_table = numbers(&mini_table).collect();
        file.read_directory(&directory);
        (!file.streams.is_empty()).then_some(file)
    }

    /// Paths of the streams, in the order of the directory.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.streams.iter().map(|stream| stream.path.clone()).collect()
    }

    /// The content of a stream, and whether all of it is there.
    pub(crate) fn read(&self, index: usize) -> (Vec<u8>, bool) {
        let Some(stream) = self.streams.get(index) else { return (Vec::new(), false) };
        let content = if stream.size < self.mini_below {
            self.mini_chain(stream.start, stream.size)
        } else {
            self.chain(stream.start, stream.size)
        };
        let is_whole = content.len() >= stream.size;
        (content, is_whole)
    }

    /// The table of sectors, whose own sectors stand in the header and in a chain (section 2.5).
    fn read_table(&mut self, header: &[u8]) -> Option<()> {
        let mut sectors: Vec<u32> = numbers(header.get(76..)?).collect();
        let mut next = u32_le(header, 68)?;
        let mut seen = HashSet::new();
        while next < SECTOR_END && seen.insert(next) {
            let mut more: Vec<u32> = numbers(self.sector(next)).collect();
            next = more.pop().unwrap_or(NO_ENTRY);
            sectors.extend(more);
        }
        let most = self.bytes.len() / self.sector_bytes;
        let of_file = sectors.iter().filter(|sector| **sector < SECTOR_END).take(most);
        self.table = of_file.flat_map(|sector| numbers(self.sector(*sector))).collect();
        Some(())
    }

    fn sector(&self, number: u32) -> &'a [u8] {
        let at = length(number).saturating_add(1).saturating_mul(self.sector_bytes);
        piece_or_less(self.bytes, at, self.sector_bytes)
    }

    /// What stands in a chain of sectors, up to a size. A chain in a circle ends.
    fn chain(&self, start: u32, size: usize) -> Vec<u8> {
        let mut content = Vec::new();
        let mut seen = HashSet::new();
        let mut next = start;
        while next < SECTOR_END && content.len() < size && seen.insert(next) {
            let sector = self.sector(next);
            if sector.is_empty() {
                break;
            }
            content.extend_from_slice(sector);
            next = self.table.get(length(next)).copied().unwrap_or(NO_ENTRY);
        }
        content.truncate(size);
        content
    }

    fn mini_chain(&self, start: u32, size: usize) -> Vec<u8> {
        let mut content = Vec::new();
        let mut seen = HashSet::new();
        let mut next = start;
        while next < SECTOR_END && content.len() < size && seen.insert(next) {
            let at = length(next).saturating_mul(MINI_SECTOR_BYTES);
            content.extend_from_slice(piece_or_less(&self.mini_stream, at, MINI_SECTOR_BYTES));
            next = self.mini_table.get(length(next)).copied().unwrap_or(NO_ENTRY);
        }
        content.truncate(size);
        content
    }

    /// Takes all streams of the directory, also those that its tree does not reach (section 2.6).
    fn read_directory(&mut self, directory: &[u8]) {
        let entries: Vec<Entry<'_>> =
            directory.chunks_exact(ENTRY_BYTES).filter_map(Entry::read).collect();
        let mut paths = vec![None; entries.len()];
        if let Some(root) = entries.iter().find(|entry| entry.kind == KIND_ROOT) {
            self.mini_stream = self.chain(root.start, root.size);
            name_tree(&entries, root.child, &mut paths);
        }
        for (entry, path) in entries.iter().zip(paths) {
            if entry.kind == KIND_STREAM {
                let path = path.unwrap_or_else(|| entry.name());
                self.streams.push(Stream { path, start: entry.start, size: entry.size });
            }
        }
    }
}

/// Gives each entry that the tree reaches its path.
fn name_tree(entries: &[Entry<'_>], root: u32, paths: &mut [Option<String>]) {
    /// Bytes of a path; what lies deeper has the end of its path only.
    const PATH_BYTES_MAX: usize = 1024;
    let mut waiting = vec![(root, String::new())];
    while let Some((index, parent)) = waiting.pop() {
        let index = length(index);
        let (Some(entry), Some(path)) = (entries.get(index), paths.get_mut(index)) else {
            continue;
        };
        if path.is_some() {
            continue;
        }
        let parent = if parent.len() > PATH_BYTES_MAX { String::new() } else { parent };
        let own = format!("{parent}/{}", entry.name());
        waiting.push((entry.child, own.clone()));
        waiting.push((entry.left, parent.clone()));
        waiting.push((entry.right, parent));
        *path = Some(own);
    }
}

struct Entry<'a> {
    bytes: &'a [u8],
    kind: u8,
    left: u32,
    right: u32,
    child: u32,
    start: u32,
    size: usize,
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            bytes,
            kind: *bytes.get(66)?,
            left: u32_le(bytes, 68)?,
            right: u32_le(bytes, 72)?,
            child: u32_le(bytes, 76)?,
            start: u32_le(bytes, 116)?,
            // The upper half is rubbish in files of version 3, and no mail holds more than the
            // lower.
            size: length(u32_le(bytes, 120)?),
        })
    }

    fn name(&self) -> String {
        text_utf16(self.bytes.get(..64).unwrap_or_default())
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).filter_map(|number| u32_le(number, 0))
}
