//! An image onto a disk, in an order that a power cut cannot turn into half a box: the old partition
//! tables go first and the new ones come last, so that a disk with a table is a whole one.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use gptman::{GPT, GPTPartitionEntry};
use uuid::Uuid;

use super::bmap::{Map, Range};
use super::medium::{Medium, Stream};
use crate::ImageError;
use crate::disk::{ESP, SECTOR_BYTES, TABLE_BYTES, XBOOTLDR};
use crate::error::Step as _;

/// Read and written at once, in bytes.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Partitions begin and end at multiples of this, in bytes.
const ALIGN_BYTES: u64 = 1024 * 1024;
/// Where a FAT32 volume has its number, its kind, and the sector of its boot sector's copy, in bytes
/// (Microsoft's FAT specification, section 3.3).
const FAT_NUMBER: usize = 67;
const FAT_KIND: std::ops::Range<usize> = 82..90;
const FAT_COPY: usize = 50;

/// GUIDs of one disk, drawn anew for each: two disks of one image would be taken for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guids {
    /// The disk's.
    pub disk: Uuid,
    /// The partitions', in their order.
    pub partitions: Vec<Uuid>,
}

impl Guids {
    /// Draws them.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn draw(partitions: usize) -> Result<Self, ImageError> {
        let drawn = (0..partitions).map(|_| random_guid()).collect::<Result<_, _>>()?;
        Ok(Self { disk: random_guid()?, partitions: drawn })
    }
}

fn random_guid() -> Result<Uuid, ImageError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| ImageError::Wrong("the system gives no random numbers; try again".into()))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// A partition of the image, as its table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// By the type in the table.
    is_fat: bool,
    entry: GPTPartitionEntry,
}

/// An image that can be written: its map and its partition table were read.
#[derive(Debug)]
pub struct Source<'a> {
    path: &'a Path,
    map: &'a Map,
    /// In the table's order.
    pub partitions: Vec<Partition>,
}

/// What is being done, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Writing.
    Write,
    /// Reading back.
    Verify,
}

/// Told how far a phase is: bytes done, and of how many.
pub type Progress<'a> = &'a mut dyn FnMut(Phase, u64, u64);

impl<'a> Source<'a> {
    /// Looks at the beginning of a compressed image.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn open(path: &'a Path, map: &'a Map) -> Result<Self, ImageError> {
        let step = || format!("reading {}", path.display());
        let mut head = Vec::new();
        unpacked(path)?.take(TABLE_BYTES).read_to_end(&mut head).step(step)?;
        let wrong = |what: &str| {
            ImageError::Wrong(format!("{} {what}; build or fetch it anew", path.display()))
        };
        let table = GPT::read_from(&mut io::Cursor::new(&head), SECTOR_BYTES)
            .map_err(|_| wrong("has no partition table"))?;
        let mut partitions: Vec<Partition> = Vec::new();
        for (_, entry) in table.iter().filter(|(_, entry)| entry.is_used()) {
            let kind = entry.partition_type_guid;
            let sectors = entry.size().map_err(|_| wrong("has a broken partition table"))?;
            let place =
                entry.starting_lba.checked_mul(SECTOR_BYTES).zip(sectors.checked_mul(SECTOR_BYTES));
            let (start, bytes) = place
                .filter(|(start, bytes)| {
                    start.checked_add(*bytes).is_some_and(|end| end <= map.image_bytes)
                })
                .ok_or_else(|| wrong("has a partition beyond its end"))?;
            partitions.push(Partition {
                name: entry.partition_name.as_str().trim_end_matches('\0').to_owned(),
                start,
                bytes,
                is_fat: [ESP.to_bytes_le(), XBOOTLDR.to_bytes_le()].contains(&kind),
                entry: entry.clone(),
            });
        }
        let names: Vec<&str> = partitions.iter().map(|it| it.name.as_str()).collect();
        if !names.contains(&"STATE") || names.last() != Some(&"DATA") {
            return Err(wrong("has no partition STATE, or DATA is not its last one"));
        }
        Ok(Self { path, map, partitions })
    }

    /// Number of a partition in [`Self::partitions`].
    ///
    /// # Panics
    /// For others than STATE and DATA, which [`Self::open`] has seen.
    #[must_use]
    pub fn index(&self, name: &str) -> usize {
        self.partitions.iter().position(|it| it.name == name).expect("it was seen")
    }

    /// How large DATA becomes on a disk of that size, in bytes.
    #[must_use]
    pub fn data_bytes(&self, disk_bytes: u64) -> u64 {
        let end = disk_bytes.saturating_sub(TABLE_BYTES) / ALIGN_BYTES * ALIGN_BYTES;
        end.saturating_sub(self.partitions[self.index("DATA")].start)
    }

    /// Whether the image's part there is written as it is: not where the unit's own file systems and
    /// its own table come.
    fn is_copied(&self, range: &Range) -> bool {
        let own = ["STATE", "DATA"].map(|name| &self.partitions[self.index(name)]);
        let in_own = own.iter().any(|it| (it.start..it.start + it.bytes).contains(&range.start));
        let is_table = range.start < TABLE_BYTES
            || range.start >= self.map.image_bytes.saturating_sub(TABLE_BYTES);
        !in_own && !is_table
    }
}

/// What is written beside the image.
#[derive(Debug)]
pub struct Unit<'a> {
    /// The disk's GUIDs.
    pub guids: &'a Guids,
    /// File system of the settings.
    pub state: &'a [u8],
    /// File system of everything else.
    pub data: &'a [u8],
}

/// Writes it, and reads back what was written.
///
/// # Errors
/// The image is not what its map says, or the disk does not keep what is written to it. It has no
/// partition table then, and starts no box.
pub fn write(
    medium: &dyn Medium,
    source: &Source<'_>,
    unit: &Unit<'_>,
    progress: Progress<'_>,
) -> Result<(), ImageError> {
    forget_tables(medium)?;
    let own = [("STATE", unit.state), ("DATA", unit.data)];
    let state = &source.partitions[source.index("STATE")];
    let own_bytes = state.bytes + unit.data.len() as u64;
    let total = source.map.mapped_bytes() + own_bytes;
    let mut done = 0;
    let mut advance = |phase, bytes| {
        done += bytes;
        progress(phase, done.min(total), total);
    };
    copy(medium, source, &mut |bytes| advance(Phase::Write, bytes))?;
    for (name, contents) in own {
        let partition = &source.partitions[source.index(name)];
        put(medium, partition.start, contents)?;
        advance(Phase::Write, contents.len() as u64);
    }
    // What another box left there would be its keys.
    let from = unit.state.len() as u64;
    zero(medium, state.start + from, state.bytes.saturating_sub(from))?;
    advance(Phase::Write, state.bytes.saturating_sub(from));
    settle(medium)?;

    let copied: Vec<&Range> = source.map.ranges.iter().filter(|it| source.is_copied(it)).collect();
    let total = copied.iter().map(|range| range.bytes).sum::<u64>() + own_bytes;
    let mut done = 0;
    let mut advance = |bytes| {
        done += bytes;
        progress(Phase::Verify, done.min(total), total);
    };
    for range in copied {
        if hash(medium, range, &mut advance)? != range.sha256 {
            return Err(unkept(range.start, range.bytes));
        }
    }
    for (name, contents) in own {
        compare(medium, source.partitions[source.index(name)].start, contents)?;
        advance(contents.len() as u64);
    }
    let rest = state.bytes.saturating_sub(from);
    compare(medium, state.start + from, &vec![0; usize::try_from(rest).unwrap_or(0)])?;
    advance(rest);

    for (partition, guid) in source.partitions.iter().zip(&unit.guids.partitions) {
        if partition.is_fat {
            number_fat(medium, partition, guid.as_fields().0)?;
        }
    }
    settle(medium)?;
    write_table(medium, source, unit.guids)
}

/// The image's bytes, unpacked.
fn unpacked(path: &Path) -> Result<impl Read, ImageError> {
    let step = || format!("reading {}", path.display());
    zstd::Decoder::new(File::open(path).step(step)?).step(step)
}

/// Firmware and PID 1 look for these; without them the disk is nobody's.
fn forget_tables(medium: &dyn Medium) -> Result<(), ImageError> {
    zero(medium, 0, TABLE_BYTES)?;
    zero(medium, medium.bytes().saturating_sub(TABLE_BYTES), TABLE_BYTES)?;
    settle(medium)
}

fn copy(
    medium: &dyn Medium,
    source: &Source<'_>,
    advance: &mut dyn FnMut(u64),
) -> Result<(), ImageError> {
    let step = || format!("reading {}", source.path.display());
    let mut image = unpacked(source.path)?;
    let mut at = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    for range in &source.map.ranges {
        let gap = range.start - at;
        let skipped = io::copy(&mut (&mut image).take(gap), &mut io::sink()).step(step)?;
        let mut context = Context::new(&SHA256);
        let mut left = range.bytes;
        at = range.start + range.bytes;
        while left > 0 && skipped == gap {
            let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let chunk = &mut buffer[..length];
            image.read_exact(chunk).step(step)?;
            context.update(chunk);
            if source.is_copied(range) {
                put(medium, at - left, chunk)?;
            }
            left -= length as u64;
            advance(length as u64);
        }
        if hex(context) != range.sha256 {
            return Err(ImageError::Wrong(format!(
                "{} is not what its map says, at byte {}; build or fetch both anew",
                source.path.display(),
                range.start
            )));
        }
    }
    Ok(())
}

fn put(medium: &dyn Medium, at: u64, bytes: &[u8]) -> Result<(), ImageError> {
    medium.write_at(bytes, at).step(|| format!("writing to the disk at byte {at}"))
}

fn zero(medium: &dyn Medium, at: u64, bytes: u64) -> Result<(), ImageError> {
    let nothing = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        put(medium, at + bytes - left, &nothing[..length])?;
        left -= length as u64;
    }
    Ok(())
}

fn settle(medium: &dyn Medium) -> Result<(), ImageError> {
    medium.settle().step(|| "waiting for the disk to keep what was written".to_owned())
}

fn take(medium: &dyn Medium, at: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
    medium.read_at(buffer, at).step(|| format!("reading the disk back at byte {at}"))
}

fn hash(
    medium: &dyn Medium,
    range: &Range,
    advance: &mut dyn FnMut(u64),
) -> Result<String, ImageError> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = range.bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let chunk = &mut buffer[..length];
        take(medium, range.start + range.bytes - left, chunk)?;
        context.update(chunk);
        left -= length as u64;
        advance(length as u64);
    }
    Ok(hex(context))
}

fn compare(medium: &dyn Medium, at: u64, expected: &[u8]) -> Result<(), ImageError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    for (start, part) in (at..).step_by(CHUNK_BYTES).zip(expected.chunks(CHUNK_BYTES)) {
        let chunk = &mut buffer[..part.len()];
        take(medium, start, chunk)?;
        if chunk != part {
            return Err(unkept(start, part.len() as u64));
        }
    }
    Ok(())
}

fn unkept(start: u64, bytes: u64) -> ImageError {
    ImageError::Wrong(format!(
        "the disk does not hold what was written to it, within {bytes} bytes from byte {start}; \
         flash it again, and take another disk if it happens twice"
    ))
}

fn hex(context: Context) -> String {
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives a FAT volume its number: in its boot sector, and in the copy of it.
fn number_fat(medium: &dyn Medium, partition: &Partition, number: u32) -> Result<(), ImageError> {
    let mut sector = vec![0; usize::try_from(SECTOR_BYTES).expect("512")];
    take(medium, partition.start, &mut sector)?;
    let copy = u64::from(u16::from_le_bytes([sector[FAT_COPY], sector[FAT_COPY + 1]]));
    for at in [partition.start, partition.start + copy * SECTOR_BYTES] {
        take(medium, at, &mut sector)?;
        if &sector[FAT_KIND] != b"FAT32   " {
            return Err(ImageError::Wrong(format!(
                "the image's partition {} is not FAT32; build or fetch it anew",
                partition.name
            )));
        }
        sector[FAT_NUMBER..FAT_NUMBER + 4].copy_from_slice(&number.to_le_bytes());
        put(medium, at, &sector)?;
    }
    Ok(())
}

fn write_table(medium: &dyn Medium, source: &Source<'_>, guids: &Guids) -> Result<(), ImageError> {
    let wrong = |error: gptman::Error| ImageError::Program {
        step: "writing the partition table".to_owned(),
        complaint: error.to_string(),
    };
    let mut stream = Stream::new(medium);
    let mut table =
        GPT::new_from(&mut stream, SECTOR_BYTES, guids.disk.to_bytes_le()).map_err(wrong)?;
    let data = source.index("DATA");
    for (index, (partition, guid)) in source.partitions.iter().zip(&guids.partitions).enumerate() {
        let mut entry = partition.entry.clone();
        entry.unique_partition_guid = guid.to_bytes_le();
        if index == data {
            let end = partition.start + source.data_bytes(medium.bytes());
            entry.ending_lba = end / SECTOR_BYTES - 1;
        }
        table[u32::try_from(index + 1).expect("few partitions")] = entry;
    }
    let backup = table.write_into(&mut stream).map_err(wrong)?;
    settle(medium)?;
    // Last of all: without it firmware and Linux take the disk for one of another kind.
    GPT::write_protective_mbr_into(&mut stream, SECTOR_BYTES).map_err(wrong)?;
    stream.flush().step(|| "writing the partition table".to_owned())?;
    settle(medium)?;
    let read = GPT::read_from(&mut stream, SECTOR_BYTES).map_err(wrong)?;
    let is_kept = read.is_primary() && read.header.disk_guid == guids.disk.to_bytes_le();
    let at = backup.primary_lba * SECTOR_BYTES;
    let mut signature = [0; 8];
    take(medium, at, &mut signature)?;
    if !is_kept || &signature != b"EFI PART" {
        return Err(unkept(0, TABLE_BYTES));
    }
    Ok(())
}
