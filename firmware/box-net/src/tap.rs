//! A TAP device: the place where one port's mail frames come out of the kernel and go back in.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::libc;

use crate::OpenError;
use crate::bridge;
use crate::sys::{self, Control};
use crate::table::Interface;

/// Frames a TAP device queues for us. The kernel's own default (1,000) is reached by a burst that the
/// sender's segmentation offload made.
const QUEUE_FRAMES: libc::c_int = 4096;

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
        match nix::unistd::read(&self.file, buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one frame; `false` if the kernel has no room for it.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<bool, Errno> {
        match nix::unistd::write(&self.file, frame) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM) => Ok(false),
            Err(error) => Err(error),
        }
    }
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
