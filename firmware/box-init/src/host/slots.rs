//! The slots' folder: mounted for as long as something is done to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use box_update::Mounted;
use box_update::install::rename_slot;
use box_update::slots::{FOLDER, Rename};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::files;

/// What else vfat is told. After a power cut an error in what is left over must not close it for writing.
const OPTIONS: &str = "umask=077,errors=continue";

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
        mount(Some(device), AT, Some("vfat"), flags, Some(OPTIONS))?;
        Ok(Self(()))
    }

    fn folder() -> PathBuf {
        Path::new(AT).join(FOLDER)
    }

    /// Names of the files.
    pub(crate) fn files(&self) -> Vec<String> {
        files::names(Self::folder())
    }

    /// Renames in the order that a power cut cannot harm, and looks whether it is so.
    pub(crate) fn rename(&self, rename: &Rename) -> io::Result<()> {
        rename_slot(&mut Mounted::new(AT)?, rename).map_err(io::Error::other)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        if let Err(error) = umount2(AT, MntFlags::empty()) {
            tracing::error!(%error, "the slots' partition cannot be unmounted");
        }
    }
}
