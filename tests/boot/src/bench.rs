//! A machine's parts: its disk, its firmware's variables, and what is plugged into it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use box_update::slots::{FOLDER, Trust, file_name};
use fatfs::FileSystem;
use image::qemu;
use tempfile::TempDir;

use crate::fat::{self, Device};
use crate::{Machine, Released};

/// Unit in which a disk is unpacked: one of zeros is a hole in the file.
const PIECE_BYTES: usize = 1 << 20;

/// What a machine has that is not as usual.
#[derive(Debug, Clone, Default)]
pub struct Fittings {
    /// Memory, in MiB.
    pub memory_mib: Option<u32>,
    /// A disk on USB.
    pub stick: Option<PathBuf>,
    /// Everything that is written to the disk goes to that file as well.
    pub log: Option<PathBuf>,
    /// What its clock says at the start, as QEMU has it.
    pub clock: Option<String>,
}

/// Parts that outlive a power cut.
#[derive(Debug)]
pub struct Bench {
    folder: TempDir,
    /// What is on its disk.
    pub released: Released,
}

impl Bench {
    /// A machine that was never switched on, with the published image on its disk.
    ///
    /// # Errors
    /// There is no image, or no room for it.
    pub fn new() -> Result<Self> {
        let released = Released::find()?;
        let folder = tempfile::tempdir()?;
        let this = Self { folder, released };
        unpack(&this.released.image, &this.disk())?;
        let fresh = qemu::efi(this.released.board.arch).variables;
        fs::copy(fresh, this.variables())
            .with_context(|| format!("{fresh}: install Debian's package ovmf"))?;
        Ok(this)
    }

    /// Folder for what belongs to the test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder().join("disk.img")
    }

    pub(crate) fn variables(&self) -> PathBuf {
        self.folder().join("variables.fd")
    }

    /// Number of the system on its disk.
    #[must_use]
    pub fn build(&self) -> u32 {
        self.released.manifest.build.get()
    }

    /// Switches it on.
    ///
    /// # Errors
    /// There is no QEMU.
    pub fn start(&self, fittings: &Fittings) -> Result<Machine> {
        Machine::start(self, fittings)
    }

    /// The file system of the slots, while the machine is off.
    ///
    /// # Errors
    /// There is none.
    pub fn slots(&self) -> Result<FileSystem<Device>> {
        self.files("SLOTS")
    }

    /// The file system of a partition that has FAT, while the machine is off.
    ///
    /// # Errors
    /// There is none.
    pub fn files(&self, partition: &str) -> Result<FileSystem<Device>> {
        let partition = self.released.layout.partition(partition).context("no such partition")?;
        let disk = File::options().read(true).write(true).open(self.disk())?;
        Ok(fat::open(disk, partition)?)
    }

    /// Names of the slots, while the machine is off.
    ///
    /// # Errors
    /// There is no file system.
    pub fn slot_names(&self) -> Result<Vec<String>> {
        Ok(fat::names(&self.slots()?, FOLDER)?)
    }

    /// Puts a system on trial into the other slot, as an update leaves it.
    ///
    /// # Errors
    /// There is no room.
    pub fn put_on_trial(&self, build: u32, uki: &[u8]) -> Result<()> {
        let slots = self.slots()?;
        let name = file_name(build, Trust::Trial { left: box_update::slots::TRIES, done: 0 });
        fat::put(&slots, &format!("{FOLDER}/{name}"), uki)?;
        Ok(slots.unmount()?)
    }

    /// Puts another system under the name of the one that is there.
    ///
    /// # Errors
    /// There is no room.
    pub fn replace_system(&self, uki: &[u8]) -> Result<()> {
        let slots = self.slots()?;
        let name = file_name(self.build(), Trust::Good);
        fat::put(&slots, &format!("{FOLDER}/{name}"), uki)?;
        Ok(slots.unmount()?)
    }

    /// Writes over the start of a partition.
    ///
    /// # Errors
    /// There is no such partition.
    pub fn overwrite(&self, partition: &str, bytes: &[u8]) -> Result<()> {
        let partition = self.released.layout.partition(partition).context("no such partition")?;
        let disk = File::options().write(true).open(self.disk())?;
        Ok(disk.write_all_at(bytes, partition.start)?)
    }

    /// Makes a stick with these files on it.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn stick(&self, files: &[(&str, &Path)]) -> Result<PathBuf> {
        let path = self.folder().join("stick.img");
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        let lens = files.iter().map(|(_, from)| Ok(fs::metadata(from)?.len()));
        let bytes = lens.sum::<Result<u64>>()? + image::fat::FAT_BYTES_MIN;
        file.set_len(bytes.next_multiple_of(512))?;
        fatfs::format_volume(&mut file, fatfs::FormatVolumeOptions::new())?;
        let stick = FileSystem::new(file, fat::options())?;
        for (name, from) in files {
            fat::put(&stick, name, &fs::read(from)?)?;
        }
        stick.unmount()?;
        Ok(path)
    }
}

fn unpack(image: &Path, disk: &Path) -> Result<()> {
    let step = || format!("unpacking {}", image.display());
    let mut source =
        zstd::Decoder::new(File::open(image).with_context(step)?).with_context(step)?;
    let to = File::create(disk).with_context(step)?;
    let (mut piece, mut at) = (vec![0; PIECE_BYTES], 0);
    loop {
        let len = fill(&mut source, &mut piece).with_context(step)?;
        if len == 0 {
            break;
        }
        if piece[..len].iter().any(|&byte| byte != 0) {
            to.write_all_at(&piece[..len], at).with_context(step)?;
        }
        at += len as u64;
    }
    to.set_len(at).with_context(step)?;
    Ok(())
}

/// Reads until it is full or there is no more.
fn fill(source: &mut impl Read, into: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < into.len() {
        match source.read(&mut into[len..])? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}
