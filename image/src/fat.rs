//! A FAT32 file system, the same bytes each time.
//!
//! Made by mkfs.vfat and mtools in a file of ours. The crate `fatfs` 0.3 will not do: it gives `.` and `..`
//! long names, which fsck.fat calls damage.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::ImageError;
use crate::error::{Step as _, run};

/// Small enough for FAT32 in 128 MiB (it needs 65,525 clusters), large enough that firmware reads a
/// UKI in few steps. In sectors of 512 bytes.
const CLUSTER_SECTORS: u32 = 2;
/// Below this FAT32 would have too few clusters. In bytes.
pub const FAT_BYTES_MIN: u64 = 70 * 1024 * 1024;
/// Every time in a volume, in Unix seconds: the first of 1980, FAT's first day. A name is what says how
/// old a system is.
const EPOCH: u32 = 315_532_800;

/// A volume in a temporary file.
#[derive(Debug)]
pub struct Fat {
    folder: TempDir,
}

impl Fat {
    /// Formats that many bytes.
    ///
    /// # Errors
    /// That is too little or too much for FAT32, or mkfs.vfat is not there.
    pub fn format(bytes: u64, label: &str, volume_id: u32) -> Result<Self, ImageError> {
        if bytes < FAT_BYTES_MIN || u32::try_from(bytes).is_err() {
            return Err(ImageError::Wrong(format!(
                "{label}: FAT32 needs 70 MiB or more, and 4 GiB at most"
            )));
        }
        let this = Self::new()?;
        let file = fs::File::create(this.file()).step(|| format!("making {label}"))?;
        file.set_len(bytes).step(|| format!("making {label}"))?;
        let mut format = Command::new("mkfs.vfat");
        format
            .args(["--invariant", "-F", "32", "-S", "512", "-s", &CLUSTER_SECTORS.to_string()])
            .args(["-i", &format!("{volume_id:08x}"), "-n", label])
            .arg(this.file());
        run(&format!("formatting {label}"), &mut format)?;
        Ok(this)
    }

    /// A volume that was read from somewhere.
    ///
    /// # Errors
    /// There is no room for it in the folder for temporary files.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImageError> {
        let this = Self::new()?;
        fs::write(this.file(), bytes).step(|| "writing a FAT file system".to_owned())?;
        Ok(this)
    }

    /// The volume's bytes.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ImageError> {
        fs::read(self.file()).step(|| "reading a FAT file system".to_owned())
    }

    /// Writes a file, and the folders above it where there are none.
    ///
    /// # Errors
    /// It does not fit, or its name is none for FAT.
    pub fn put(&mut self, path: &str, contents: &[u8]) -> Result<(), ImageError> {
        let step = format!("writing /{path} into a FAT file system");
        for (end, _) in path.match_indices('/') {
            let folder = &path[..end];
            if self.list(folder).is_err() {
                run(&step, self.tool("mmd").arg(inside(folder)))?;
            }
        }
        let from = self.folder.path().join("contents");
        fs::write(&from, contents).step(|| step.clone())?;
        run(&step, self.tool("mcopy").arg("-o").arg(&from).arg(inside(path)))?;
        fs::remove_file(&from).step(|| step)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// There is none.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, ImageError> {
        let step = format!("reading /{path} from a FAT file system");
        Ok(run(&step, self.tool("mcopy").arg(inside(path)).arg("-"))?.stdout)
    }

    /// Names in a folder, sorted.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn list(&self, folder: &str) -> Result<Vec<String>, ImageError> {
        let step = format!("reading /{folder} of a FAT file system");
        let output = run(&step, self.tool("mdir").arg("-b").arg(inside(folder)))?.stdout;
        let lines = String::from_utf8_lossy(&output);
        let names = lines.lines().filter_map(|line| line.trim_end_matches('/').rsplit('/').next());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Gives a file another name in its folder.
    ///
    /// # Errors
    /// There is no such file, or there is one of the new name.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), ImageError> {
        let step = format!("renaming /{from} to /{to} in a FAT file system");
        run(&step, self.tool("mren").arg(inside(from)).arg(inside(to)))?;
        Ok(())
    }

    fn new() -> Result<Self, ImageError> {
        let folder = TempDir::new().step(|| "making a temporary folder".to_owned())?;
        Ok(Self { folder })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("fat")
    }

    /// One of mtools, for this volume.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            // A person's own settings file may say anything.
            .env("MTOOLSRC", "/dev/null")
            .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
            .env("TZ", "UTC")
            .env("LC_ALL", "C.UTF-8")
            .arg("-i")
            .arg(self.file());
        command
    }
}

/// A path as mtools wants it.
fn inside(path: &str) -> String {
    format!("::/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_checker_is_content() {
        let mut fat = Fat::format(FAT_BYTES_MIN, "SLOTS", 0x1234_5678).unwrap();
        let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        fat.put("EFI/Linux/avr_000007.efi", &large).unwrap();
        fat.put("EFI/Linux/zz-recovery.efi", b"x").unwrap();
        fat.put("loader/loader.conf", b"timeout 0\n").unwrap();
        fat.rename("EFI/Linux/avr_000007.efi", "EFI/Linux/avr_000007+3-0.efi").unwrap();
        assert_eq!(fat.list("EFI/Linux").unwrap(), ["avr_000007+3-0.efi", "zz-recovery.efi"]);
        assert_eq!(fat.read("EFI/Linux/avr_000007+3-0.efi").unwrap(), large);
        assert!(fat.read("EFI/Linux/avr_000007.efi").is_err());

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fat");
        fs::write(&file, fat.to_bytes().unwrap()).unwrap();
        let check = Command::new("fsck.fat").arg("-n").arg(&file).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let make = || {
            let mut fat = Fat::format(FAT_BYTES_MIN, "ESP", 7).unwrap();
            fat.put("a/b/c", b"c").unwrap();
            fat.to_bytes().unwrap()
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn too_small_for_fat32_is_said_so() {
        let error = Fat::format(FAT_BYTES_MIN - 1, "ESP", 7).unwrap_err().to_string();
        assert_eq!(error, "ESP: FAT32 needs 70 MiB or more, and 4 GiB at most");
    }
}
