//! The slots' folder: mounted for as long as something is done to it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::syncfs;

use super::files;
use crate::slots::{FOLDER, Rename};

/// Where the partition is mounted meanwhile.
const AT: &str = "/run/init/slots";

/// The mounted partition; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Slots(());

impl Slots {
    /// Mounts the partition.
    pub(crate) fn mount(device: &Path) -> io::Result<Self> {
        fs::create_dir_all(AT)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
        mount(Some(device), AT, Some("vfat"), flags, Some("umask=077"))?;
        Ok(Self(()))
    }

    fn folder() -> PathBuf {
        Path::new(AT).join(FOLDER)
    }

    /// Names of the files.
    pub(crate) fn files(&self) -> Vec<String> {
        files::names(Self::folder())
    }

    /// Renames, has it written out, and looks whether it is so.
    pub(crate) fn rename(&self, rename: &Rename) -> io::Result<()> {
        let folder = Self::folder();
        let disk = File::open(&folder)?;
        // All that is under way first, so that the name is written alone.
        syncfs(&disk)?;
        fs::rename(folder.join(&rename.from), folder.join(&rename.to))?;
        disk.sync_all()?;
        syncfs(&disk)?;
        let now = self.files();
        if now.contains(&rename.to) && !now.contains(&rename.from) {
            return Ok(());
        }
        Err(io::Error::other(format!("{} is not called {} afterwards", rename.from, rename.to)))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        if let Err(error) = umount2(AT, MntFlags::empty()) {
            tracing::error!(%error, "the slots' partition cannot be unmounted");
        }
    }
}
