//! Disks that an image may be written to, and why not to the others.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::ImageError;
use crate::disk::SECTOR_BYTES;
use crate::error::run;

/// What lsblk is asked for.
const COLUMNS: &str =
    "PATH,KNAME,TYPE,SIZE,RO,LOG-SEC,MODEL,TRAN,FSTYPE,LABEL,PARTLABEL,MOUNTPOINTS";
/// How deep partitions, RAID, LVM and encryption are followed.
const DEPTH_MAX: usize = 16;
/// Where the running system is.
const SYSTEM: &[&str] = &["/", "/boot", "/boot/efi", "/efi", "/usr"];

/// A disk, or what is on one: a partition, a RAID, a volume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Device {
    /// As in `/dev/sda`.
    pub path: PathBuf,
    /// `disk`, `part`, `raid1`, `lvm`, `crypt`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Its size, in bytes.
    #[serde(rename = "size")]
    pub bytes: u64,
    /// Nothing can be written to it.
    #[serde(rename = "ro")]
    pub read_only: bool,
    /// What it counts in, in bytes.
    #[serde(rename = "log-sec")]
    pub sector_bytes: u64,
    /// As its maker calls it.
    pub model: Option<String>,
    /// `usb`, `sata`, `nvme`, ...
    #[serde(rename = "tran")]
    pub bus: Option<String>,
    /// The file system on it.
    #[serde(rename = "fstype")]
    pub file_system: Option<String>,
    /// The file system's name.
    pub label: Option<String>,
    /// The partition's name.
    #[serde(rename = "partlabel")]
    pub partition: Option<String>,
    /// Where it is mounted; `[SWAP]` where it is swapped to.
    #[serde(rename = "mountpoints", default)]
    mounts: Vec<Option<String>>,
    /// What is on it.
    #[serde(default)]
    pub children: Vec<Self>,
}

#[derive(Deserialize)]
struct Lsblk {
    blockdevices: Vec<Device>,
}

/// All disks, as lsblk shows them.
///
/// # Errors
/// It is not there or fails.
pub fn list() -> Result<Vec<Device>, ImageError> {
    let mut lsblk = Command::new("lsblk");
    lsblk.env("LC_ALL", "C").args(["--json", "--bytes", "--tree=PATH", "--output", COLUMNS]);
    parse(&run("looking at the disks", &mut lsblk)?.stdout)
}

/// From lsblk's JSON.
///
/// # Errors
/// It is no such.
pub fn parse(json: &[u8]) -> Result<Vec<Device>, ImageError> {
    let read: Lsblk = serde_json::from_slice(json).map_err(|error| ImageError::Program {
        step: "looking at the disks".to_owned(),
        complaint: format!("lsblk says what is not understood: {error}"),
    })?;
    Ok(read.blockdevices)
}

/// Those that can be flashed if nothing speaks against it: real ones, with a medium.
pub fn candidates(all: &[Device]) -> impl Iterator<Item = &Device> {
    let is_memory = |device: &Device| {
        let name = device.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ["zram", "ram", "nbd"].iter().any(|kind| name.starts_with(kind))
    };
    all.iter().filter(move |it| it.kind == "disk" && it.bytes > 0 && !is_memory(it))
}

/// The disk of that path.
///
/// # Errors
/// It is not there, or not a whole disk; says what to write instead.
pub fn find<'a>(all: &'a [Device], path: &Path) -> Result<&'a Device, ImageError> {
    if let Some(disk) = candidates(all).find(|disk| disk.path == path) {
        return Ok(disk);
    }
    let shown = path.display();
    let parent = candidates(all).find(|disk| disk.any(&|it| it.path == path));
    Err(ImageError::Wrong(match parent {
        Some(disk) => format!(
            "{shown} is a part of {}; name the whole disk if you mean all of it",
            disk.path.display()
        ),
        None if path.is_file() => {
            format!("{shown} is a file and not a disk; write --file {shown} if you mean it")
        }
        None => format!("{shown} is not a disk; without a name the disks are listed"),
    }))
}

impl Device {
    /// Why the disk must not be written to, and what to do.
    #[must_use]
    pub fn refusal(&self, needed_bytes: u64) -> Option<String> {
        let mounted = self.mounted();
        if let Some((_, at)) = mounted.iter().find(|(_, at)| SYSTEM.contains(&at.as_str())) {
            return Some(format!("this system runs from it ({at}); plug in another disk"));
        }
        if let Some((path, at)) = mounted.first() {
            let path = path.display();
            return Some(if at.as_str() == "[SWAP]" {
                format!("{path} is swapped to; say `swapoff {path}` first")
            } else {
                format!("{path} is mounted on {at}; say `umount {at}` first")
            });
        }
        let is_part = |it: &Self| it.kind == "part" || it.kind == "disk";
        if self.any(&|it| !is_part(it)) {
            return Some(
                "a RAID, a volume group or an encrypted volume on it is in use; stop that first"
                    .to_owned(),
            );
        }
        if self.read_only {
            return Some("it can only be read; move its switch, or take another".to_owned());
        }
        if self.sector_bytes != SECTOR_BYTES {
            return Some(format!(
                "its sectors have {} bytes, and an image is made for {SECTOR_BYTES}; take another, or \
                 format it to {SECTOR_BYTES} (`nvme format --lbaf`)",
                self.sector_bytes
            ));
        }
        if self.bytes < needed_bytes {
            return Some(format!(
                "it has {}, and {} are needed; take a larger one",
                human(self.bytes),
                human(needed_bytes)
            ));
        }
        None
    }

    /// One line about the disk, and one about each thing on it.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!(
            "{}  {}  {}  {}\n",
            self.path.display(),
            human(self.bytes),
            self.model.as_deref().map_or("unknown model", str::trim),
            self.bus.as_deref().unwrap_or("unknown bus"),
        );
        for child in &self.children {
            child.describe_part(&mut text, 1);
        }
        text.chars().map(|it| if it.is_control() && it != '\n' { '?' } else { it }).collect()
    }

    fn describe_part(&self, text: &mut String, depth: usize) {
        let name = self.partition.as_deref().or(self.label.as_deref()).unwrap_or("");
        let mut words = vec![self.path.display().to_string(), human(self.bytes)];
        words.push(self.file_system.clone().unwrap_or_else(|| self.kind.clone()));
        words.push(name.to_owned());
        words.extend(self.mounts.iter().flatten().map(|at| format!("on {at}")));
        words.retain(|word| !word.is_empty());
        text.push_str(&"    ".repeat(depth));
        text.push_str(&words.join("  "));
        text.push('\n');
        if depth < DEPTH_MAX {
            for child in &self.children {
                child.describe_part(text, depth + 1);
            }
        }
    }

    /// Whether that is so of the disk or of anything on it.
    fn any(&self, is: &dyn Fn(&Self) -> bool) -> bool {
        is(self) || self.children.iter().any(|child| child.any(is))
    }

    /// What of it is mounted, and where.
    fn mounted(&self) -> Vec<(&Path, &String)> {
        let here = self.mounts.iter().flatten().map(|at| (self.path.as_path(), at));
        here.chain(self.children.iter().flat_map(Self::mounted)).collect()
    }
}

/// Bytes as disks are sold.
#[must_use]
pub fn human(bytes: u64) -> String {
    let (unit, name) =
        if bytes >= 1_000_000_000 { (1_000_000_000, "GB") } else { (1_000_000, "MB") };
    format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: u64 = 941_621_248;

    /// A machine with its system on LVM over a RAID of two disks, and all kinds of others.
    const MACHINE: &str = include_str!("../../tests/lsblk.json");

    fn refusal(path: &str) -> Option<String> {
        let all = parse(MACHINE.as_bytes()).unwrap();
        find(&all, Path::new(path)).unwrap().refusal(NEEDED)
    }

    #[test]
    fn what_is_in_use_is_refused() {
        for disk in ["/dev/sda", "/dev/sdb"] {
            let said = refusal(disk).unwrap();
            assert!(said.starts_with("this system runs from it (/)"), "{disk}: {said}");
        }
        let mounted = "/dev/sdc1 is mounted on /media/stick; say `umount /media/stick` first";
        assert_eq!(refusal("/dev/sdc").unwrap(), mounted);
        let swap = refusal("/dev/sde").unwrap();
        assert_eq!(swap, "/dev/sde2 is swapped to; say `swapoff /dev/sde2` first");
        assert!(refusal("/dev/sdf").unwrap().contains("an encrypted volume on it is in use"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(refusal("/dev/mmcblk0").unwrap().contains("can only be read"));
        assert!(refusal("/dev/nvme0n1").unwrap().contains("its sectors have 4096 bytes"));
        let small = "it has 512.0 MB, and 941.6 MB are needed; take a larger one";
        assert_eq!(refusal("/dev/sdg").unwrap(), small);
        assert_eq!(refusal("/dev/sdd"), None);
    }

    #[test]
    fn what_is_no_disk_is_said_so() {
        let all = parse(MACHINE.as_bytes()).unwrap();
        let complaint = |path: &str| find(&all, Path::new(path)).unwrap_err().to_string();
        assert!(complaint("/dev/sdd1").starts_with("/dev/sdd1 is a part of /dev/sdd; name"));
        let root = complaint("/dev/mapper/vg-root");
        assert!(root.starts_with("/dev/mapper/vg-root is a part of /dev/sda"), "{root}");
        for other in ["/dev/sr0", "/dev/loop0", "/dev/zram0", "/dev/null", "/dev/sdx"] {
            assert!(complaint(other).contains("is not a disk"), "{other}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = find(&all, file.path()).unwrap_err().to_string();
        assert!(said.contains("is a file and not a disk; write --file"), "{said}");
    }

    #[test]
    fn a_disk_is_described_with_all_that_is_on_it() {
        let all = parse(MACHINE.as_bytes()).unwrap();
        let shown: Vec<_> = candidates(&all).map(|it| it.path.to_str().unwrap()).collect();
        assert_eq!(shown.len(), 9, "{shown:?}");
        let sdc = find(&all, Path::new("/dev/sdc")).unwrap();
        assert_eq!(
            sdc.describe(),
            "/dev/sdc  16.0 GB  Ultra?[31m Fit  usb\n    /dev/sdc1  15.9 GB  vfat  STICK  on /media/stick\n"
        );
        let sda = find(&all, Path::new("/dev/sda")).unwrap().describe();
        assert!(sda.contains("\n            /dev/mapper/vg-root  100.0 GB  ext4  on /\n"), "{sda}");
    }

    #[test]
    fn this_machine_can_be_asked() {
        for disk in candidates(&list().unwrap()) {
            assert!(disk.path.starts_with("/dev"), "{disk:?}");
        }
    }
}
