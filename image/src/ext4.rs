//! Empty ext4 file systems, made by mke2fs in a file of ours: no root, no loop device, and the same
//! bytes each time.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use uuid::Uuid;

use crate::ImageError;
use crate::error::{Step as _, run};
use crate::layout::MIB;

/// Size of a file system before the box lets it grow over its partition, in bytes.
pub const TEMPLATE_BYTES: u64 = 8 * MIB;
/// Unit of space, in bytes: growing needs no more than the disk has.
const BLOCK_BYTES: u32 = 4096;
/// How far it may grow while it is mounted, in blocks: 1 TiB. Takes half a MiB.
const GROWTH_BLOCKS: u32 = 1 << 28;
/// Files for which there is room in each 128 MiB. Mails have some tens of KiB.
const INODES: u32 = 4096;

/// Makes one. Its times are `epoch` (Unix seconds).
///
/// # Errors
/// mke2fs is not there or fails.
pub fn template(label: &str, uuid: Uuid, epoch: u32) -> Result<Vec<u8>, ImageError> {
    let folder = TempDir::new().step(|| "making a temporary folder".to_owned())?;
    let file = folder.path().join("ext4");
    let mut command = Command::new("mke2fs");
    command
        // Its own settings file may say anything.
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("E2FSPROGS_FAKE_TIME", epoch.to_string())
        .env("LC_ALL", "C")
        .args(["-q", "-F", "-t", "ext4", "-m", "0"])
        .args([
            "-O",
            "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize",
        ])
        .args(["-O", "ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"])
        .args(["-I", "256", "-N", &INODES.to_string(), "-b", &BLOCK_BYTES.to_string()])
        .args(["-L", label, "-U", &uuid.to_string()])
        .arg("-E")
        .arg(format!(
            "hash_seed={uuid},root_owner=0:0,resize={GROWTH_BLOCKS},lazy_itable_init=0,\
             lazy_journal_init=0,nodiscard"
        ))
        .arg(&file)
        .arg(format!("{}k", TEMPLATE_BYTES / 1024));
    run(&format!("making the file system {label}"), &mut command)?;
    fs::read(&file).step(|| format!("reading the file system {label}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef);

    #[test]
    fn the_same_bytes_each_time_and_a_checker_is_content() {
        let bytes = template("DATA", UUID, 1_700_000_000).unwrap();
        assert_eq!(bytes.len() as u64, TEMPLATE_BYTES);
        assert_eq!(bytes, template("DATA", UUID, 1_700_000_000).unwrap());
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("ext4");
        fs::write(&file, &bytes).unwrap();
        run("checking", Command::new("e2fsck").args(["-f", "-n"]).arg(&file)).unwrap();
        let shown = run("showing", Command::new("dumpe2fs").arg("-h").arg(&file)).unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        for line in ["Filesystem created:       Tue Nov 14", "Reserved GDT blocks:      127"] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
    }
}
