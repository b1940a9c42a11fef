//! ext4 file systems, made by mke2fs in a file of ours: no root, no loop device. Empty ones are the same
//! bytes each time; one with files is a unit's STATE.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
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

/// Folders of STATE that files stand in, as PID 1 makes them.
const FOLDERS: &[&str] = &["config", "config/fleet", "config/versions", "identity"];

/// A file of STATE. Only root can read it.
#[derive(Clone, PartialEq, Eq)]
pub struct StateFile {
    /// Below STATE, in one of its folders.
    pub path: String,
    /// What is in it.
    pub contents: String,
}

/// Without what is in it: it may be a secret.
impl std::fmt::Debug for StateFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StateFile").field(&self.path).finish()
    }
}

/// Makes one. Its times are `epoch` (Unix seconds).
///
/// # Errors
/// mke2fs is not there or fails.
pub fn template(label: &str, uuid: Uuid, epoch: u32) -> Result<Vec<u8>, ImageError> {
    make(label, uuid, epoch, None)
}

/// Makes one with these files, which belong to root whoever makes it.
///
/// # Errors
/// mke2fs or debugfs is not there or fails; the files do not fit.
pub fn with_files(
    label: &str,
    uuid: Uuid,
    epoch: u32,
    files: &[StateFile],
) -> Result<Vec<u8>, ImageError> {
    let root = TempDir::new().step(|| "making a temporary folder".to_owned())?;
    let at = |path: &str| root.path().join(path);
    for folder in FOLDERS {
        let made = fs::DirBuilder::new().mode(0o700).create(at(folder));
        made.step(|| format!("making the folder {folder}"))?;
    }
    for StateFile { path, contents } in files {
        let mut options = fs::File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(at(path));
        let written = file.and_then(|mut file| file.write_all(contents.as_bytes()));
        written.step(|| format!("writing {path}"))?;
    }
    let paths = FOLDERS.iter().copied().chain(files.iter().map(|file| file.path.as_str()));
    make(label, uuid, epoch, Some((root.path(), &paths.collect::<Vec<_>>())))
}

/// Makes one, with a folder's contents: these paths, and no other.
fn make(
    label: &str,
    uuid: Uuid,
    epoch: u32,
    contents: Option<(&Path, &[&str])>,
) -> Result<Vec<u8>, ImageError> {
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
        ));
    if let Some((root, _)) = contents {
        command.arg("-d").arg(root);
    }
    command.arg(&file).arg(format!("{}k", TEMPLATE_BYTES / 1024));
    run(&format!("making the file system {label}"), &mut command)?;
    if let Some((_, paths)) = contents {
        give_to_root(&file, paths)?;
    }
    fs::read(&file).step(|| format!("reading the file system {label}"))
}

/// mke2fs has copied the owner, who is whoever runs this.
fn give_to_root(file: &Path, paths: &[&str]) -> Result<(), ImageError> {
    let folder = TempDir::new().step(|| "making a temporary folder".to_owned())?;
    let script = folder.path().join("script");
    let lines = paths.iter().flat_map(|path| {
        ["uid", "gid"].map(|field| format!("set_inode_field /{path} {field} 0\n"))
    });
    fs::write(&script, lines.collect::<String>()).step(|| "writing a script".to_owned())?;
    let mut debugfs = Command::new("debugfs");
    debugfs.env("LC_ALL", "C").args(["-w", "-f"]).arg(&script).arg(file);
    run("giving the files of STATE to root", &mut debugfs).map(|_| ())
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

    #[test]
    fn files_are_in_it_and_belong_to_root() {
        let file = |path: &str, contents: &str| StateFile {
            path: path.to_owned(),
            contents: contents.to_owned(),
        };
        let files = [file("config/secret", "hash\n"), file("config/fleet/ticket.pub", "key\n")];
        let bytes = with_files("STATE", UUID, 1_700_000_000, &files).unwrap();
        let folder = TempDir::new().unwrap();
        let disk = folder.path().join("ext4");
        fs::write(&disk, &bytes).unwrap();
        run("checking", Command::new("e2fsck").args(["-f", "-n"]).arg(&disk)).unwrap();
        let debugfs = |request: &str| {
            let mut command = Command::new("debugfs");
            let output = run("looking", command.args(["-R", request]).arg(&disk)).unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(debugfs("cat /config/secret"), "hash\n");
        assert_eq!(debugfs("cat /config/fleet/ticket.pub"), "key\n");
        for (path, mode) in [("/config/secret", "0600"), ("/config/fleet", "0700")] {
            let shown = debugfs(&format!("stat {path}"));
            let lines = [format!("Mode:  {mode}"), "User:     0   Group:     0 ".to_owned()];
            assert!(lines.iter().all(|line| shown.contains(line)), "{shown}");
        }
        assert!(!format!("{:?}", files[0]).contains("hash"));
    }
}
