//! STATE and DATA: found, checked, mended, mounted, grown; in memory where that is not to be had.
//!
//! Runs on a thread of its own while the bridge carries everything, and is done within
//! [`DISK_WAIT_MAX`] and a few times [`CHECK_MAX`]; the loop waits for it until [`STORAGE_MAX`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;

use super::children::{Children, End};
use super::slots::Slots;
use super::{block, files, mounts, time};
use crate::control::Storage;
use crate::disk::{Disk, Guid, NotFound, own};

/// Where STATE is.
pub(crate) const STATE: &str = "/state";
/// Where DATA is.
pub(crate) const DATA: &str = "/data";

/// How long the disk may take to appear.
pub(crate) const DISK_WAIT_MAX: Duration = Duration::from_secs(15);
/// How long one check of one partition may take.
pub(crate) const CHECK_MAX: Duration = Duration::from_secs(120);

/// When the box goes on without the disk, since the kernel's start: more than all checks may take, for a
/// disk that has the kernel itself wait.
pub(crate) const STORAGE_MAX: Duration = Duration::from_secs(600);

/// Folders in STATE and DATA, with their modes.
const FOLDERS: &[(&str, u32)] = &[
    ("/state/config", 0o700),
    ("/state/config/fleet", 0o700),
    ("/state/config/versions", 0o700),
    ("/state/identity", 0o700),
    ("/data/quarantine", 0o700),
    ("/data/journal", 0o700),
    ("/data/spool", 0o700),
    ("/data/logs", 0o700),
];

/// Most that is saved of a STATE that has to be made anew, in bytes.
const RESCUE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most files of it.
const RESCUE_FILES_MAX: usize = 500;
/// How deep it is looked into.
const RESCUE_DEPTH_MAX: u32 = 6;
/// A partition that is larger than its file system by more than this grows, in bytes.
const GROWTH_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Wiped at once, in bytes: a slow disk takes a second for it.
const ZERO_BYTES: usize = 4 * 1024 * 1024;
/// Largest template, in bytes: it is made to be small.
const TEMPLATE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: Storage,
    pub(crate) data: Storage,
    /// The partition with the slots, where the disk has one.
    pub(crate) slots: Option<PathBuf>,
    /// Names of the files there.
    pub(crate) files: Vec<String>,
}

impl Found {
    /// STATE outlives this start.
    pub(crate) fn is_on_disk(&self) -> bool {
        matches!(self.state, Storage::Disk { .. })
    }
}

/// One of the two.
struct Place {
    name: &'static str,
    at: &'static str,
    options: &'static str,
    template: &'static str,
    /// In memory: how large.
    memory: &'static str,
    /// Made anew without a second thought.
    expendable: bool,
}

const PLACES: [Place; 2] = [
    Place {
        name: "STATE",
        at: STATE,
        options: "data=journal,errors=remount-ro",
        template: "/usr/share/avr/state.ext4.zst",
        memory: "16m",
        expendable: false,
    },
    Place {
        name: "DATA",
        at: DATA,
        options: "errors=remount-ro",
        template: "/usr/share/avr/data.ext4.zst",
        memory: "25%",
        expendable: true,
    },
];

/// Looks for the disk, and makes both usable. `events` says when another disk has appeared.
pub(crate) fn prepare(
    loader: Option<Guid>,
    slots: &str,
    events: &Receiver<()>,
    children: &Children,
) -> Found {
    let disk = wait_for_disk(loader, events);
    let [state, data] = PLACES.map(|place| match &disk {
        Ok(disk) => {
            on_disk(&place, disk, children).unwrap_or_else(|problem| place.remember(problem))
        }
        Err(problem) => place.remember(problem.to_string()),
    });
    make_folders();
    let slots = disk.ok().and_then(|disk| {
        let partition = disk.partition(slots)?;
        block::device(&disk, partition)
    });
    let files = match slots.as_deref().map(Slots::mount) {
        Some(Ok(slots)) => slots.files(),
        Some(Err(error)) => {
            tracing::error!(%error, "the slots cannot be looked at");
            Vec::new()
        }
        None => Vec::new(),
    };
    Found { state, data, slots, files }
}

/// Both in memory: the disk was looked for in vain, and nobody knows how far that came.
pub(crate) fn in_memory(problem: &str) -> Found {
    let [state, data] = PLACES.map(|place| place.remember(problem.to_owned()));
    make_folders();
    Found { state, data, slots: None, files: Vec::new() }
}

fn make_folders() {
    for (folder, mode) in FOLDERS {
        let made = fs::create_dir_all(folder)
            .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(*mode)));
        if let Err(error) = made {
            tracing::error!(%error, folder, "a folder cannot be made");
        }
    }
}

fn wait_for_disk(loader: Option<Guid>, events: &Receiver<()>) -> Result<Disk, NotFound> {
    let until = time::uptime() + DISK_WAIT_MAX;
    loop {
        let problem = match own(&block::disks(), loader) {
            Ok(disk) => return Ok(disk.clone()),
            Err(problem) => problem,
        };
        let left = until.saturating_sub(time::uptime());
        let is_there = matches!(problem, NotFound::Several { .. });
        if is_there || left.is_zero() || events.recv_timeout(left).is_err() {
            return Err(problem);
        }
    }
}

impl Place {
    fn remember(&self, problem: String) -> Storage {
        tracing::error!(problem, "{} is in memory, and forgotten at the next start", self.name);
        if let Err(error) = mounts::memory(Path::new(self.at), self.memory, 0o755) {
            tracing::error!(%error, "{} cannot even be in memory", self.name);
        }
        Storage::Memory { problem }
    }
}

fn on_disk(place: &Place, disk: &Disk, children: &Children) -> Result<Storage, String> {
    let Place { name, at, .. } = *place;
    let partition =
        disk.partition(name).ok_or_else(|| format!("{} has no partition {name}", disk.name))?;
    let device = block::device(disk, partition)
        .ok_or_else(|| format!("the kernel does not show partition {name} of {}", disk.name))?;
    let mut repaired = None;
    let checked = check(&device, children);
    let usable = match checked {
        Check::Clean => true,
        Check::Repaired => {
            repaired = Some("errors were found and mended".to_owned());
            true
        }
        Check::Hopeless => false,
        // What is not known to be broken is not thrown away.
        Check::OutOfTime if !place.expendable => {
            return Err(format!("the check of {} takes too long", device.display()));
        }
        Check::OutOfTime => false,
    };
    let mounted = usable && mount_at(place, &device).is_ok();
    if !mounted {
        let saved = if place.expendable { Vec::new() } else { rescue(place, &device) };
        make_anew(place, &device)?;
        mount_at(place, &device).map_err(|error| format!("mount {}: {error}", device.display()))?;
        let count = restore(Path::new(at), saved);
        repaired = Some(format!("it was beyond repair and made anew; {count} files were saved"));
    }
    if let Err(problem) = grow(Path::new(at), partition.bytes) {
        tracing::warn!(problem, "{name} does not fill its partition");
    }
    if let Some(what) = &repaired {
        tracing::warn!(what, "{name}");
    }
    let room = statvfs(at).map_err(|error| format!("look at {at}: {error}"))?;
    Ok(Storage::Disk {
        device: device.display().to_string(),
        bytes: room.blocks() * room.fragment_size(),
        free_bytes: room.blocks_available() * room.fragment_size(),
        repaired,
    })
}

/// What a check has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Clean,
    Repaired,
    Hopeless,
    OutOfTime,
}

fn check(device: &Path, children: &Children) -> Check {
    for how in ["-p", "-y"] {
        let mut command = Command::new("/usr/sbin/e2fsck");
        command.arg(how).arg(device).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match children.run(&mut command, CHECK_MAX) {
            // e2fsck(8): 1 and 2 are added up where errors were mended.
            Ok(Some(End::Code(0))) => return Check::Clean,
            Ok(Some(End::Code(1..=3))) => return Check::Repaired,
            Ok(None) => return Check::OutOfTime,
            Ok(Some(end)) => {
                tracing::warn!(%end, device = %device.display(), how, "the check has found more");
            }
            Err(error) => {
                tracing::error!(%error, "e2fsck cannot be started: partitions go unchecked");
                return Check::Clean;
            }
        }
    }
    Check::Hopeless
}

fn mount_at(place: &Place, device: &Path) -> nix::Result<()> {
    let _ = fs::create_dir_all(place.at);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some(device), place.at, Some("ext4"), flags, Some(place.options))
}

/// What can still be read, without writing to it.
fn rescue(place: &Place, device: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let _ = fs::create_dir_all(place.at);
    if mount(Some(device), place.at, Some("ext4"), flags, Some("noload")).is_err() {
        return Vec::new();
    }
    let mut saved = Vec::new();
    let mut left = RESCUE_BYTES_MAX;
    save(Path::new(place.at), Path::new(""), RESCUE_DEPTH_MAX, &mut left, &mut saved);
    let _ = umount2(place.at, MntFlags::MNT_DETACH);
    saved
}

fn save(
    root: &Path,
    below: &Path,
    depth: u32,
    left: &mut u64,
    saved: &mut Vec<(PathBuf, u32, Vec<u8>)>,
) {
    let Ok(entries) = fs::read_dir(root.join(below)) else { return };
    for entry in entries.flatten() {
        let (Ok(kind), path) = (entry.file_type(), below.join(entry.file_name())) else { continue };
        if kind.is_dir() && depth > 0 && entry.file_name() != "lost+found" {
            save(root, &path, depth - 1, left, saved);
        } else if kind.is_file() && saved.len() < RESCUE_FILES_MAX {
            let mut bytes = Vec::new();
            let read = File::open(entry.path())
                .and_then(|file| file.take(*left + 1).read_to_end(&mut bytes));
            let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if read.is_ok() && size <= *left {
                *left -= size;
                let mode = entry.metadata().map_or(0o600, |metadata| metadata.permissions().mode());
                saved.push((path, mode & 0o777, bytes));
            }
        }
    }
}

fn restore(root: &Path, saved: Vec<(PathBuf, u32, Vec<u8>)>) -> usize {
    let write = |(path, mode, bytes): &(PathBuf, u32, Vec<u8>)| {
        files::replace(&root.join(path), bytes, *mode).is_ok()
    };
    saved.iter().filter(|file| write(file)).count()
}

fn make_anew(place: &Place, device: &Path) -> Result<(), String> {
    write_template(Path::new(place.template), device)
        .map_err(|error| format!("make {} anew: {error}", place.name))
}

/// Writes a compressed image of a file system to a device.
fn write_template(template: &Path, device: &Path) -> io::Result<()> {
    let packed = File::open(template)?;
    let mut image = ruzstd::decoding::StreamingDecoder::new(packed).map_err(io::Error::other)?;
    let mut device = OpenOptions::new().write(true).open(device)?;
    io::copy(&mut (&mut image).take(TEMPLATE_BYTES_MAX), &mut device)?;
    device.sync_all()
}

/// Has the mounted file system fill its partition.
fn grow(at: &Path, partition_bytes: u64) -> Result<(), String> {
    let room = statvfs(at).map_err(|error| error.to_string())?;
    // statvfs leaves the file system's own tables out, so that one that fills its partition looks up to
    // an eighth smaller; to ask for a growth of nothing is harmless.
    let seen = room.blocks() * room.fragment_size();
    if partition_bytes.saturating_sub(seen) < GROWTH_BYTES_MIN {
        return Ok(());
    }
    let folder = File::open(at).map_err(|error| error.to_string())?;
    let blocks = partition_bytes / room.fragment_size();
    box_net::grow_ext4(folder.as_fd(), blocks).map_err(|error| error.to_string())
}

/// Forgets both for ever. Nothing of them is in use any more. Takes longer than the watchdog waits, so
/// `alive` is called now and then.
pub(crate) fn forget(found: &Found, alive: &mut dyn FnMut()) -> Result<(), String> {
    for (place, storage) in PLACES.iter().zip([&found.state, &found.data]) {
        let Storage::Disk { device, .. } = storage else { continue };
        let device = Path::new(device);
        if !place.expendable {
            // Keys and settings were here. DATA is sealed with one of these keys.
            zero(device, alive).map_err(|error| format!("wipe {}: {error}", place.name))?;
        }
        make_anew(place, device)?;
    }
    Ok(())
}

fn zero(device: &Path, alive: &mut dyn FnMut()) -> io::Result<()> {
    let mut device = OpenOptions::new().write(true).open(device)?;
    let mut left = device.seek(SeekFrom::End(0))?;
    device.rewind()?;
    let nothing = vec![0; ZERO_BYTES];
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
        device.write_all(nothing.get(..now).unwrap_or_default())?;
        // What only the cache holds says nothing of how far the disk is.
        device.sync_data()?;
        left -= u64::try_from(now).unwrap_or(left);
        alive();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_is_saved_and_comes_back() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(old.path().join("config/fleet")).unwrap();
        fs::write(old.path().join("config/box.toml"), "a = 1\n").unwrap();
        fs::write(old.path().join("config/fleet/ca.pem"), "pem").unwrap();
        fs::write(old.path().join("large"), vec![0; 20]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", old.path().join("link")).unwrap();
        let (mut saved, mut left) = (Vec::new(), 19);
        save(old.path(), Path::new(""), RESCUE_DEPTH_MAX, &mut left, &mut saved);
        assert_eq!((saved.len(), left), (2, 19 - 9));
        assert_eq!(restore(new.path(), saved), 2);
        assert_eq!(fs::read(new.path().join("config/fleet/ca.pem")).unwrap(), b"pem");
        assert!(!new.path().join("link").exists());
    }

    #[test]
    fn templates_are_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (template, device) = (folder.path().join("t.zst"), folder.path().join("device"));
        let image = [7; 5000];
        let packed = ruzstd::encoding::compress_to_vec(
            &image[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        fs::write(&template, packed).unwrap();
        fs::write(&device, [1; 9000]).unwrap();
        write_template(&template, &device).unwrap();
        let written = fs::read(&device).unwrap();
        assert!(written[..5000] == image && written[5000..] == [1; 4000]);
        let mut beats = 0;
        zero(&device, &mut || beats += 1).unwrap();
        assert_eq!((fs::read(&device).unwrap(), beats), (vec![0; 9000], 1));
    }
}
