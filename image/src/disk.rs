//! The disk image: partition table, what is in the partitions, and the map of what has to be written.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use gptman::{GPT, GPTPartitionEntry};
use uuid::{Uuid, uuid};

use crate::ImageError;
use crate::error::Step as _;
use crate::layout::{Kind, Layout};

/// Sector of the partition table, in bytes.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Unit of the map, in bytes.
const BLOCK_BYTES: u64 = 4096;
/// Space at both ends that the partition tables may take, in bytes.
pub(crate) const TABLE_BYTES: u64 = 1024 * 1024;

/// Types of partitions: the UEFI specification's, and those of the Discoverable Partitions Specification.
pub(crate) const ESP: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
pub(crate) const XBOOTLDR: Uuid = uuid!("bc13c2ff-59e6-4262-a352-b275fd6f7172");
const LINUX: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");

/// A disk image that is being written.
#[derive(Debug)]
pub struct Disk<'a> {
    file: File,
    layout: &'a Layout,
    /// First block and number of blocks that have to be written, by partition.
    mapped: Vec<(u64, u64)>,
}

impl<'a> Disk<'a> {
    /// Makes the file, with its partition table.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path, layout: &'a Layout) -> Result<Self, ImageError> {
        let step = || format!("writing {}", path.display());
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create(true).truncate(true).open(path).step(step)?;
        file.set_len(layout.bytes()).step(step)?;
        write_table(&mut file, layout).map_err(|error| ImageError::Program {
            step: format!("writing the partition table of {}", path.display()),
            complaint: error.to_string(),
        })?;
        let table = TABLE_BYTES / BLOCK_BYTES;
        Ok(Self { file, layout, mapped: vec![(0, table)] })
    }

    /// Writes a partition's contents from its start; zeros behind their end need not be written.
    ///
    /// # Errors
    /// There is no such partition, or it is smaller.
    pub fn put(&mut self, name: &str, contents: &[u8]) -> Result<(), ImageError> {
        let partition = self.layout.partition(name).ok_or_else(|| {
            ImageError::Wrong(format!("the layout has no partition {name}; add it to layout.toml"))
        })?;
        if contents.len() as u64 > partition.bytes {
            return Err(ImageError::Wrong(format!(
                "{name}: {} bytes do not fit {}; make it larger in layout.toml",
                contents.len(),
                partition.bytes
            )));
        }
        let block = usize::try_from(BLOCK_BYTES).expect("4096");
        // A block of zeros is a hole in the file; within the contents it is still part of the map,
        // because a file system's tables mean something by it.
        for (at, bytes) in (0_u64..).step_by(block).zip(contents.chunks(block)) {
            if bytes.iter().any(|&byte| byte != 0) {
                self.file
                    .write_all_at(bytes, partition.start + at)
                    .step(|| format!("writing the partition {name}"))?;
            }
        }
        let blocks = (contents.len() as u64).div_ceil(BLOCK_BYTES);
        self.mapped.push((partition.start / BLOCK_BYTES, blocks));
        Ok(())
    }

    /// Ends the image; gives its map in the form of bmap-tools (2.0), for an image of that name.
    ///
    /// # Errors
    /// The image cannot be read back.
    pub fn finish(mut self, name: &str) -> Result<String, ImageError> {
        let all = self.layout.bytes() / BLOCK_BYTES;
        self.mapped.push((all - TABLE_BYTES / BLOCK_BYTES, TABLE_BYTES / BLOCK_BYTES));
        self.mapped.sort_unstable();
        self.file.sync_all().step(|| format!("writing {name}"))?;
        let mut ranges = String::new();
        let mut count = 0;
        for (first, blocks) in std::mem::take(&mut self.mapped) {
            let hash = self.hash(first * BLOCK_BYTES, blocks * BLOCK_BYTES)?;
            let last = first + blocks - 1;
            let _ = writeln!(ranges, "        <Range chksum=\"{hash}\">{first}-{last}</Range>");
            count += blocks;
        }
        let without = bmap(self.layout.bytes(), all, count, &"0".repeat(64), &ranges);
        // The map's own checksum is of itself with zeros in its place.
        let own = crate::debian::sha256(without.as_bytes());
        Ok(bmap(self.layout.bytes(), all, count, &own, &ranges))
    }

    fn hash(&mut self, start: u64, bytes: u64) -> Result<String, ImageError> {
        let step = || "reading the image back".to_owned();
        self.file.seek(SeekFrom::Start(start)).step(step)?;
        let mut reader = BufReader::new(&self.file).take(bytes);
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = reader.read(&mut buffer).step(step)?;
            if read == 0 {
                break;
            }
            context.update(&buffer[..read]);
        }
        Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The file of the map.
fn bmap(image_bytes: u64, blocks: u64, mapped: u64, own: &str, ranges: &str) -> String {
    format!(
        "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n    <ImageSize> {image_bytes} </ImageSize>\n    \
         <BlockSize> {BLOCK_BYTES} </BlockSize>\n    <BlocksCount> {blocks} </BlocksCount>\n    \
         <MappedBlocksCount> {mapped} </MappedBlocksCount>\n    \
         <ChecksumType> sha256 </ChecksumType>\n    \
         <BmapFileChecksum> {own} </BmapFileChecksum>\n    <BlockMap>\n{ranges}    </BlockMap>\n</bmap>\n"
    )
}

fn write_table(file: &mut File, layout: &Layout) -> Result<(), gptman::Error> {
    GPT::write_protective_mbr_into(file, SECTOR_BYTES)?;
    let mut table = GPT::new_from(file, SECTOR_BYTES, layout.disk_guid.to_bytes_le())?;
    for (number, partition) in (1..).zip(&layout.partitions) {
        let kind = match partition.kind {
            Kind::Esp => ESP,
            Kind::Xbootldr => XBOOTLDR,
            Kind::Linux => LINUX,
        };
        table[number] = GPTPartitionEntry {
            partition_type_guid: kind.to_bytes_le(),
            unique_partition_guid: partition.guid.to_bytes_le(),
            starting_lba: partition.start / SECTOR_BYTES,
            ending_lba: (partition.start + partition.bytes) / SECTOR_BYTES - 1,
            attribute_bits: 0,
            partition_name: partition.name.as_str().into(),
        };
    }
    table.write_into(file).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use board::Slots;

    use super::*;
    use crate::error::run;

    #[test]
    fn tools_of_others_read_table_and_map() {
        let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join("layout.toml");
        let layout = Layout::load(&layout, Slots::Xbootldr).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let mut disk = Disk::create(&path, &layout).unwrap();
        disk.put("STATE", &[7; 10_000]).unwrap();
        let error = disk.put("DATA", &vec![0; 257 << 20]).unwrap_err().to_string();
        assert!(error.starts_with("DATA: 269484032 bytes do not fit 268435456"), "{error}");
        let map = disk.finish("disk.img").unwrap();

        let shown = run("table", Command::new("sgdisk").arg("--verify").arg(&path)).unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("No problems found"), "{shown}");
        let shown = run("table", Command::new("sgdisk").arg("--print").arg(&path)).unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        for (number, name, code) in [(1, "ESP", "EF00"), (2, "SLOTS", "EA00"), (4, "DATA", "8300")]
        {
            let line =
                shown.lines().find(|line| line.trim().starts_with(&number.to_string())).unwrap();
            assert!(line.ends_with(name) && line.contains(code), "{line}");
        }

        // bmaptool copies what the map says, and compares each range's checksum.
        let bmap = folder.path().join("disk.bmap");
        std::fs::write(&bmap, map).unwrap();
        let copy = folder.path().join("copy.img");
        let mut bmaptool = Command::new("bmaptool");
        bmaptool.args(["--quiet", "copy", "--bmap"]).arg(&bmap).arg(&path).arg(&copy);
        run("copying", &mut bmaptool).unwrap();
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap(), "the copy differs");
    }
}
