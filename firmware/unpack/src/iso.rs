//! Images of optical disks: ISO 9660 (ECMA-119) with the names of Joliet and Rock Ridge. UDF is not
//! read; where an image has both, which one is shown depends on the system, so that is said.

use crate::bytes::{add_name, length, piece, piece_or_less, text, u32_le};
use crate::work::Work;
use std::collections::{BTreeMap, HashSet};

const SECTOR_BYTES: usize = 2048;
/// Where the volume descriptors begin, and how many there are at most.
const DESCRIPTORS_AT: usize = 16;
const DESCRIPTORS_MAX: usize = 32;
/// Entries of all directories, and bytes of a path, that are looked at.
const ENTRIES_MAX: u32 = 200_000;
const PATH_BYTES_MAX: usize = 1024;
/// Bytes of a directory's entry before its name.
const ENTRY_BYTES: usize = 33;

const FLAG_DIRECTORY: u8 = 1 << 1;
/// The file goes on in the next entry.
const FLAG_MORE: u8 = 1 << 7;

pub(crate) fn is_iso(bytes: &[u8]) -> bool {
    marks(bytes).any(|mark| matches!(mark, b"CD001" | b"BEA01" | b"NSR02" | b"NSR03"))
}

fn marks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let sectors = DESCRIPTORS_AT..DESCRIPTORS_AT + DESCRIPTORS_MAX;
    sectors.map_while(|sector| piece(bytes, sector * SECTOR_BYTES + 1, 5))
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    if marks(bytes).any(|mark| mark.starts_with(b"NSR0")) {
        work.unsupported("UDF");
    }
    let mut image = Image {
        bytes,
        files: BTreeMap::new(),
        walked: HashSet::new(),
        entries: 0,
        is_damaged: false,
    };
    for sector in DESCRIPTORS_AT..DESCRIPTORS_AT + DESCRIPTORS_MAX {
        let Some(descriptor) = piece(bytes, sector * SECTOR_BYTES, SECTOR_BYTES) else { break };
        match descriptor.get(..6) {
            Some([1, b'C', b'D', b'0', b'0', b'1']) => image.volume(descriptor, false),
            Some([2, b'C', b'D', b'0', b'0', b'1']) => {
                let is_joliet = descriptor.get(88..90) == Some(b"%/");
                image.volume(descriptor, is_joliet);
            }
            _ => {}
        }
    }
    if image.is_damaged {
        work.damaged("a directory");
    }
    for (extents, names) in &image.files {
        let mut content = Vec::new();
        for (at, size) in extents {
            let extent = piece_or_less(bytes, *at, *size);
            if extent.len() < *size {
                work.damaged("a file is cut off");
            }
            if content.len() + extent.len() > work.bytes_left() {
                work.limit(crate::LimitKind::Bytes);
                return;
            }
            content.extend_from_slice(extent);
        }
        work.slice(names.clone(), &content, false);
        if work.is_over() {
            return;
        }
    }
}

/// Where the parts of a file stand: offset and size, in bytes.
type Extents = Vec<(usize, usize)>;

struct Image<'a> {
    bytes: &'a [u8],
    /// The files, with the names that the trees of the image have for each.
    files: BTreeMap<Extents, Vec<String>>,
    walked: HashSet<(usize, bool)>,
    entries: u32,
    is_damaged: bool,
}

impl Image<'_> {
    /// Goes through all directories of one tree.
    fn volume(&mut self, descriptor: &[u8], is_joliet: bool) {
        let Some(root) = descriptor.get(156..).and_then(Entry::read) else {
            self.is_damaged = true;
            return;
        };
        let mut waiting = vec![(root.extent, String::new())];
        while let Some(((at, size), path)) = waiting.pop() {
            if !self.walked.insert((at, is_joliet)) {
                continue;
            }
            let directory = piece_or_less(self.bytes, at, size);
            self.is_damaged |= directory.len() < size;
            self.directory(directory, is_joliet, &path, &mut waiting);
        }
    }

    fn directory(
        &mut self,
        directory: &[u8],
        is_joliet: bool,
        path: &str,
        waiting: &mut Vec<((usize, usize), String)>,
    ) {
        let mut extents = Extents::new();
        let mut at = 0;
        while at < directory.len() {
            let size = directory.get(at).map_or(0, |size| usize::from(*size));
            if size == 0 {
                // Entries do not cross sectors; the rest of this one is empty.
                at = (at + 1).next_multiple_of(SECTOR_BYTES);
                continue;
            }
            let entry = piece_or_less(directory, at, size);
            at += size;
            self.entries = self.entries.saturating_add(1);
            if self.entries > ENTRIES_MAX {
                self.is_damaged = true;
                return;
            }
            let Some(entry) = Entry::read(entry) else {
                self.is_damaged = true;
                continue;
            };
            if matches!(entry.name, [0 | 1]) {
                continue;
            }
            let names = entry.names(is_joliet);
            let path = if path.len() > PATH_BYTES_MAX { "" } else { path };
            let full = |name: &str| format!("{path}{name}");
            if entry.flags & FLAG_DIRECTORY != 0 {
                let name = names.last().map(String::as_str).unwrap_or_default();
                waiting.push((entry.extent, full(name) + "/"));
                continue;
            }
            extents.push(entry.extent);
            if entry.flags & FLAG_MORE == 0 {
                let known = self.files.entry(std::mem::take(&mut extents)).or_default();
                names.iter().for_each(|name| add_name(known, full(name)));
            }
        }
        if !extents.is_empty() {
            self.files.entry(extents).or_default();
        }
    }
}

/// A directory's entry (section 9.1).
struct Entry<'a> {
    /// Where its data stand, and how long they are.
    extent: (usize, usize),
    flags: u8,
    name: &'a [u8],
    /// What other systems add.
    more: &'a [u8],
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let name_bytes = usize::from(*bytes.get(32)?);
        let more_at = (ENTRY_BYTES + name_bytes).next_multiple_of(2);
        let sector = length(u32_le(bytes, 2)?) + usize::from(*bytes.get(1)?);
        Some(Self {
            extent: (sector.saturating_mul(SECTOR_BYTES), length(u32_le(bytes, 10)?)),
            flags: *bytes.get(25)?,
            name: piece(bytes, ENTRY_BYTES, name_bytes)?,
            more: bytes.get(more_at..).unwrap_or_default(),
        })
    }

    /// Its own name without the version, and Rock Ridge's.
    fn names(&self, is_joliet: bool) -> Vec<String> {
        let mut names = Vec::new();
        let name = if is_joliet {
            let units =
                self.name.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            String::from_utf16_lossy(&units.collect::<Vec<_>>())
        } else {
            text(self.name)
        };
        add_name(&mut names, name.split(';').next().unwrap_or_default().to_owned());
        let (mut more, mut long) = (self.more, Vec::new());
        while let Some(size) = more.get(2).map(|size| usize::from(*size)).filter(|size| *size >= 4)
        {
            let field = piece_or_less(more, 0, size);
            if field.starts_with(b"NM") {
                long.extend_from_slice(field.get(5..).unwrap_or_default());
            }
            more = more.get(size..).unwrap_or_default();
        }
        add_name(&mut names, text(&long));
        names
    }
}
