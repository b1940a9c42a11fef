//! A USB stick: found, mounted for as long as it is needed, and let go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};

use crate::Options;

/// File systems that sticks come with and the kernel has.
const KINDS: &[&str] = &["vfat", "ext4"];

/// What the names of bundles end with.
const BUNDLE_ENDING: &str = ".update.tar";
/// Most files of a stick that are looked at.
const ENTRIES_MAX: usize = 1000;

/// A mounted stick. Its file system is read by the kernel, which a stick made for that may deceive: that is
/// the risk of plugging one in. Nothing on it is run, is a device, or has a right.
pub(crate) struct Stick {
    folder: PathBuf,
}

impl Stick {
    /// Mounts the one stick that is plugged in.
    pub(crate) fn mount(options: &Options, write: bool) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let device = find(&options.sys, &mounts)?;
        let folder = options.run.join("stick");
        fs::create_dir_all(&folder)
            .map_err(|error| format!("make {}: {error}", folder.display()))?;
        let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
        if !write {
            flags |= MsFlags::MS_RDONLY;
        }
        let path = Path::new("/dev").join(&device);
        let mut problem = String::new();
        for kind in KINDS {
            match mount(Some(&path), &folder, Some(*kind), flags, None::<&str>) {
                Ok(()) => return Ok(Self { folder }),
                Err(error) => problem = format!("{kind}: {error}"),
            }
        }
        Err(format!("{} has neither FAT nor ext4 ({problem})", path.display()))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets it go, when all is written; only then may it be pulled.
    pub(crate) fn finish(self) -> Result<(), String> {
        let done = umount(&self.folder).map_err(|error| format!("let go of the stick: {error}"));
        std::mem::forget(self);
        done
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        // Of one that was only read; what was written is let go by `finish`.
        let _ = umount(&self.folder);
    }
}

/// What there is to install in a folder, for a person.
pub(crate) fn bundles(folder: &Path) -> Result<Vec<String>, String> {
    let read = |error: io::Error| format!("look at what is on the stick: {error}");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)?.take(ENTRIES_MAX) {
        let entry = entry.map_err(read)?;
        let about = entry.metadata().map_err(read)?;
        if let Ok(name) = entry.file_name().into_string()
            && about.is_file()
            && name.ends_with(BUNDLE_ENDING)
        {
            found.push(format!("update usb:{name}   ({} KiB)", about.len().div_ceil(1024)));
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(format!("the stick's top folder has no bundle (a file *{BUNDLE_ENDING})"));
    }
    Ok(found)
}

/// The device of the one USB disk of which nothing is mounted: its first partition, or itself.
fn find(sys: &Path, mounts: &str) -> Result<String, String> {
    let block = sys.join("block");
    let names = |folder: &Path| -> io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    };
    let disks =
        names(&block).map_err(|error| format!("look for disks in {}: {error}", block.display()))?;
    let sticks: Vec<String> = disks
        .into_iter()
        .filter(|disk| {
            let by_usb = fs::canonicalize(block.join(disk)).is_ok_and(|path| {
                path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"))
            });
            let ours = mounts.lines().any(|line| line.starts_with(&format!("/dev/{disk}")));
            by_usb && !ours
        })
        .collect();
    match sticks.as_slice() {
        [] => Err("no USB stick is plugged in".to_owned()),
        [disk] => {
            let parts = names(&block.join(disk)).unwrap_or_default();
            let first = parts
                .into_iter()
                .find(|part| part.strip_prefix(disk.as_str()).is_some_and(|rest| !rest.is_empty()));
            Ok(first.unwrap_or_else(|| disk.clone()))
        }
        several => {
            Err(format!("several USB sticks are plugged in ({}): leave one", several.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A `/sys` with these disks; those with true are on USB.
    fn sys(disks: &[(&str, bool, &[&str])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("block")).unwrap();
        for (disk, usb, parts) in disks {
            let bus = if *usb { "usb1/1-1" } else { "ata1" };
            let device = folder.path().join("devices").join(bus).join(disk);
            for part in *parts {
                fs::create_dir_all(device.join(part)).unwrap();
            }
            fs::create_dir_all(device.join("queue")).unwrap();
            symlink(&device, folder.path().join("block").join(disk)).unwrap();
        }
        folder
    }

    #[test]
    fn bundles_are_listed_as_they_are_typed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(bundles(folder.path()).unwrap_err().contains("has no bundle"));
        for name in ["b.update.tar", "a.update.tar", "photo.jpg"] {
            fs::write(folder.path().join(name), [0; 1500]).unwrap();
        }
        fs::create_dir(folder.path().join("c.update.tar")).unwrap();
        symlink("/etc/passwd", folder.path().join("d.update.tar")).unwrap();
        assert_eq!(
            bundles(folder.path()).unwrap(),
            ["update usb:a.update.tar   (2 KiB)", "update usb:b.update.tar   (2 KiB)"]
        );
    }

    #[test]
    fn the_stick_is_the_usb_disk_that_nobody_uses() {
        let mounts = "/dev/sda3 /state ext4 rw 0 0\n/dev/sdc4 /data ext4 rw 0 0\n";
        let disks = sys(&[
            ("sda", false, &["sda1"]),
            ("sdb", true, &["sdb1", "sdb2"]),
            // The box itself may have been started from one.
            ("sdc", true, &["sdc4"]),
        ]);
        assert_eq!(find(disks.path(), mounts).unwrap(), "sdb1");
        let whole = sys(&[("sdb", true, &[])]);
        assert_eq!(find(whole.path(), mounts).unwrap(), "sdb");
        let none = sys(&[("sda", false, &["sda1"])]);
        assert!(find(none.path(), mounts).unwrap_err().contains("no USB stick"));
        let two = sys(&[("sdb", true, &[]), ("sdd", true, &[])]);
        assert!(find(two.path(), mounts).unwrap_err().contains("sdb, sdd"));
    }
}
