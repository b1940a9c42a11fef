//! Disks and their partitions, as the kernel shows them.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::files;
use crate::disk::{Disk, Partition};

/// What is no disk.
const NO_DISKS: &[&str] = &["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd"];

/// Disks with a partition table.
pub(crate) fn disks() -> Vec<Disk> {
    let names = files::names("/sys/block").into_iter();
    names
        .filter(|name| !NO_DISKS.iter().any(|kind| name.starts_with(kind)))
        .filter_map(|name| {
            let sector = files::text(format!("/sys/block/{name}/queue/logical_block_size"));
            let mut device = File::open(format!("/dev/{name}")).ok()?;
            Disk::read(&name, &mut device, sector.parse().unwrap_or(512))
        })
        .collect()
}

/// The device of a partition.
pub(crate) fn device(disk: &Disk, partition: &Partition) -> Option<PathBuf> {
    let folder = Path::new("/sys/block").join(&disk.name);
    let number = partition.number.to_string();
    let name = files::names(&folder)
        .into_iter()
        .find(|name| files::text(folder.join(name).join("partition")) == number)?;
    Some(Path::new("/dev").join(name))
}
