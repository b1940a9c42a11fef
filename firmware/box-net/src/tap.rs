//! A TAP device: the place where one port's mail frames come out of the kernel and go back in.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::libc;
use nix::sys::uio::{readv, writev};

use crate::OpenError;
use crate::bridge;
use crate::sys::{self, Control};
use crate::table::Interface;

/// Frames a TAP device queues for us. The kernel's own default (1,000) is reached by a burst that the
/// sender's segmentation offload made.
const QUEUE_FRAMES: libc::c_int = 4096;

/// Bytes of the header before each frame.
const VIRTIO_BYTES: usize = 10;

/// An open TAP device; it is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Tap {
    file: File,
    pub(crate) interface: Interface,
}

impl Tap {
    /// Creates the device and brings it up, without addresses and without ARP: this host is not to
    /// be found on it.
    pub(crate) fn create(control: &Control, name: &str, mtu: u16) -> Result<Self, OpenError> {
        let failed =
            |step| move |source| OpenError::Interface { step, name: name.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(OpenError::Tun)?;
        sys::make_tap(file.as_fd(), name).map_err(|source| match source {
            Errno::EBUSY => OpenError::TapBusy { name: name.to_owned() },
            source => failed("create")(source),
        })?;
        let interface = bridge::find(name)?.interface;
        without_ipv6(name)?;
        control.set_flags(name, libc::IFF_NOARP).map_err(failed("turn off ARP on"))?;
        control.set_mtu(name, libc::c_int::from(mtu)).map_err(failed("set the MTU of"))?;
        control.set_queue(name, QUEUE_FRAMES).map_err(failed("set the queue of"))?;
        bridge::bring_up(control, name)?;
        Ok(Self { file, interface })
    }

    /// Reads one frame; `None` if there is none at present.
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        // Says nothing of interest: offloads in this direction are off, so frames come whole.
        let mut header = [0; VIRTIO_BYTES];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        match readv(&self.file, &mut parts) {
            Ok(bytes) => Ok(Some(bytes.saturating_sub(VIRTIO_BYTES))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one frame, to be cut into segments of so many data bytes if that is given; `false` if the
    /// kernel has no room for it.
    pub(crate) fn send(&self, frame: &[u8], segment_bytes: Option<u16>) -> Result<bool, Errno> {
        let header = segment_bytes.map_or([0; VIRTIO_BYTES], |bytes| virtio_header(frame, bytes));
        match writev(&self.file, &[IoSlice::new(&header), IoSlice::new(frame)]) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// `struct virtio_net_hdr` (linux/virtio_net.h): a TCP frame whose checksum covers the pseudo-header so
/// far, to be cut into segments of `segment_bytes`.
fn virtio_header(frame: &[u8], segment_bytes: u16) -> [u8; VIRTIO_BYTES] {
    const NEEDS_CHECKSUM: u8 = 1;
    const TCP_IPV4: u8 = 1;
    const TCP_IPV6: u8 = 4;
    /// Where TCP's header has its checksum.
    const CHECKSUM_AT: u16 = 16;
    const TCP_BYTES: u16 = 20;
    const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
    let (kind, tcp_at) = match frame.get(12..14) {
        Some(ethertype) if ethertype == ETHERTYPE_IPV4 => (TCP_IPV4, 14 + 20_u16),
        _ => (TCP_IPV6, 14 + 40),
    };
    let mut header = [0; VIRTIO_BYTES];
    header[0] = NEEDS_CHECKSUM;
    header[1] = kind;
    header[2..4].copy_from_slice(&(tcp_at + TCP_BYTES).to_ne_bytes());
    header[4..6].copy_from_slice(&segment_bytes.to_ne_bytes());
    header[6..8].copy_from_slice(&tcp_at.to_ne_bytes());
    header[8..10].copy_from_slice(&CHECKSUM_AT.to_ne_bytes());
    header
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Keeps the kernel from giving the device a link-local address and announcing it on the line.
fn without_ipv6(name: &str) -> Result<(), OpenError> {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    match fs::write(&path, "1") {
        Ok(()) => Ok(()),
        // A kernel without IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::Ipv6 { path, source }),
    }
}
