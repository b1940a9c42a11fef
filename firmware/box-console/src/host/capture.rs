//! Frames of one interface into a pcap file, by a packet socket.
//!
//! The socket hears all interfaces and each frame says which one it is of: binding it to one takes an
//! address that has no safe constructor, and the frames of others are cheap to drop.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket,
};

use super::{Reporter, poll_for, uptime, wall_clock};
use crate::command::CaptureOrder;
use crate::filter::{FILE_HEADER_BYTES, SNAP_BYTES, file_header, record};

/// Largest file, in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Files that are kept; the oldest goes for a new one.
const FILES_MAX: usize = 8;
/// How often it is said how far it is.
const TELL: Duration = Duration::from_secs(5);

pub(crate) fn run(order: &CaptureOrder, folder: &Path, reporter: &Reporter) -> Result<(), String> {
    let interface = &order.interface;
    let index = if_nametoindex(interface.as_str())
        .map_err(|_| format!("there is no interface {interface}"))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let packets = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .map_err(|error| format!("open a packet socket: {error}"))?;
    let (path, file) = create(folder, interface)
        .map_err(|error| format!("make a file in {}: {error}", folder.display()))?;
    let written = |error: io::Error| format!("write {}: {error}", path.display());
    let mut file = BufWriter::new(file);
    file.write_all(&file_header()).map_err(written)?;
    reporter.line(format!("{}: for {} s; q ends it", path.display(), order.time.as_secs()));
    let began = uptime();
    let (mut frames, mut bytes, mut told) = (0_u64, FILE_HEADER_BYTES, began);
    let mut buffer = vec![0; SNAP_BYTES];
    let why = loop {
        let now = uptime();
        if now >= began + order.time {
            break "the time is over";
        }
        if reporter.is_cancelled() {
            break "ended";
        }
        if now >= told + TELL {
            told = now;
            reporter.line(format!("{frames} frames, {bytes} bytes"));
        }
        let mut descriptors = [PollFd::new(packets.as_fd(), PollFlags::POLLIN)];
        poll_for(&mut descriptors, Some(Duration::from_millis(200)))
            .map_err(|error| error.to_string())?;
        let (length, from) = match recvfrom::<LinkAddr>(packets.as_raw_fd(), &mut buffer) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            // The interface went down for a moment; the next frame may come.
            Err(Errno::ENETDOWN) => continue,
            Err(error) => return Err(format!("read from {interface}: {error}")),
        };
        let frame = buffer.get(..length).unwrap_or_default();
        let of_it = from.is_some_and(|from| u32::try_from(from.ifindex()) == Ok(index));
        if !of_it || !order.filter.wants(frame) {
            continue;
        }
        let record = record(frame, wall_clock());
        if bytes + record.len() > FILE_BYTES_MAX {
            break "the file is as large as it may be";
        }
        file.write_all(&record).map_err(written)?;
        frames += 1;
        bytes += record.len();
        if frames == 1 {
            reporter.line(format!("{frames} frames, {bytes} bytes"));
        }
    };
    file.flush().map_err(written)?;
    reporter.line(format!("{why}: {frames} frames, {bytes} bytes in {}", path.display()));
    reporter.line("It has what crossed the line, mail included: treat it so.");
    Ok(())
}

/// A new file, only for root; the oldest ones go.
fn create(folder: &Path, interface: &str) -> io::Result<(PathBuf, File)> {
    fs::create_dir_all(folder)?;
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "pcap"))
        .collect();
    files.sort();
    let too_many = files.len().saturating_sub(FILES_MAX - 1);
    for path in files.iter().take(too_many) {
        fs::remove_file(path)?;
    }
    // By their time first, so that they sort by age. Two of one microsecond: the second is refused.
    let path = folder.join(format!("{:016}-{interface}.pcap", wall_clock().as_micros()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let first = create(folder.path(), "lan0").unwrap().0;
        for _ in 0..FILES_MAX {
            create(folder.path(), "lan0").unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), FILES_MAX);
        assert!(!first.exists());
    }
}
