//! The system calls that have no safe wrapper: ioctls, and one setting of the C library.
//!
//! The only module of the workspace with `unsafe`. Each function is a safe, complete operation; what
//! it means is said by its callers.
#![allow(unsafe_code, reason = "ioctls have no safe wrapper; each block says why it is sound")]

use std::ffi::CString;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{self, c_char, c_int, c_ulong, c_void};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Longest interface name, in bytes (`IFNAMSIZ` less the final NUL).
pub(crate) const NAME_BYTES_MAX: usize = libc::IFNAMSIZ - 1;

/// Most ports of a bridge that the kernel's old interface reports.
const BRIDGE_PORTS_MAX: usize = 256;

/// Most entries of a bridge's forwarding table that are read.
const FORWARDING_ENTRIES_MAX: usize = 8192;

/// Entries asked for in one call.
const FORWARDING_ENTRIES_BATCH: usize = 256;

// linux/sockios.h, linux/if_bridge.h, linux/if_tun.h.
const SIOCBRADDBR: c_ulong = 0x89a0;
const SIOCBRADDIF: c_ulong = 0x89a2;
const BRCTL_GET_PORT_LIST: c_ulong = 7;
const BRCTL_GET_FDB_ENTRIES: c_ulong = 18;
const SIOCDEVPRIVATE: c_ulong = 0x89f0;
const TUNSETIFF: c_ulong = nix::request_code_write!(b'T', 202, size_of::<c_int>());
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;

nix::ioctl_write_ptr_bad!(ioctl_tun_set, TUNSETIFF, libc::ifreq);
nix::ioctl_write_ptr_bad!(ioctl_bridge_create, SIOCBRADDBR, c_char);
nix::ioctl_write_ptr_bad!(ioctl_bridge_add, SIOCBRADDIF, libc::ifreq);
nix::ioctl_readwrite_bad!(ioctl_device_private, SIOCDEVPRIVATE, libc::ifreq);
nix::ioctl_readwrite_bad!(ioctl_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(ioctl_set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
nix::ioctl_readwrite_bad!(ioctl_mtu, libc::SIOCGIFMTU, libc::ifreq);
nix::ioctl_write_ptr_bad!(ioctl_set_mtu, libc::SIOCSIFMTU, libc::ifreq);
nix::ioctl_write_ptr_bad!(ioctl_set_queue, libc::SIOCSIFTXQLEN, libc::ifreq);
nix::ioctl_write_ptr!(ioctl_ext4_resize, b'f', 16, u64);
nix::ioctl_readwrite!(ioctl_watchdog_seconds, b'W', 6, c_int);

/// An entry of a bridge's forwarding table (`struct __fdb_entry`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct ForwardingEntry {
    mac: [u8; 6],
    port_low: u8,
    is_local: u8,
    age: u32,
    port_high: u8,
    pad: u8,
    unused: u16,
}

/// Where a bridge has learned an Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Learned {
    pub(crate) mac: [u8; 6],
    /// Interface index of the port.
    pub(crate) port: c_int,
    /// It is the bridge's own.
    pub(crate) is_local: bool,
}

/// A socket that interface ioctls can be made on.
#[derive(Debug)]
pub(crate) struct Control(OwnedFd);

impl Control {
    pub(crate) fn open() -> Result<Self, Errno> {
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map(Self)
    }

    pub(crate) fn create_bridge(&self, name: &str) -> Result<(), Errno> {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the kernel reads a NUL-terminated name, which `CString` is, during the call only.
        unsafe { ioctl_bridge_create(self.0.as_raw_fd(), name.as_ptr()) }.map(drop)
    }

    pub(crate) fn add_to_bridge(&self, bridge: &str, port_index: u32) -> Result<(), Errno> {
        let mut request = request(bridge)?;
        request.ifr_ifru.ifru_ifindex = c_int::try_from(port_index).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the kernel reads an `ifreq` with name and index set, during the call only.
        unsafe { ioctl_bridge_add(self.0.as_raw_fd(), &raw const request) }.map(drop)
    }

    /// Interface indices of a bridge's ports, by port number (0 where there is none); `EOPNOTSUPP`
    /// for an interface that is no bridge.
    pub(crate) fn bridge_ports(&self, bridge: &str) -> Result<Vec<c_int>, Errno> {
        let mut indices: Vec<c_int> = vec![0; BRIDGE_PORTS_MAX];
        let count = c_ulong::try_from(BRIDGE_PORTS_MAX).map_err(|_| Errno::EINVAL)?;
        let place = indices.as_mut_ptr().expose_provenance() as c_ulong;
        let mut arguments: [c_ulong; 4] = [BRCTL_GET_PORT_LIST, place, count, 0];
        let mut request = request(bridge)?;
        request.ifr_ifru.ifru_data = arguments.as_mut_ptr().cast::<c_char>();
        // SAFETY: `ifr_data` leads to four words, the second of which leads to room for as many
        // indices as the third says; all of them outlive the call.
        unsafe { ioctl_device_private(self.0.as_raw_fd(), &raw mut request) }?;
        Ok(indices)
    }

    /// A bridge's forwarding table.
    pub(crate) fn bridge_learned(&self, bridge: &str) -> Result<Vec<Learned>, Errno> {
        let ports = self.bridge_ports(bridge)?;
        let mut learned = Vec::new();
        let mut batch = vec![ForwardingEntry::default(); FORWARDING_ENTRIES_BATCH];
        while learned.len() < FORWARDING_ENTRIES_MAX {
            let words = (c_ulong::try_from(batch.len()), c_ulong::try_from(learned.len()));
            let (Ok(room), Ok(skip)) = words else { return Err(Errno::EINVAL) };
            let place = batch.as_mut_ptr().expose_provenance() as c_ulong;
            let mut arguments: [c_ulong; 4] = [BRCTL_GET_FDB_ENTRIES, place, room, skip];
            let mut request = request(bridge)?;
            request.ifr_ifru.ifru_data = arguments.as_mut_ptr().cast::<c_char>();
            // SAFETY: `ifr_data` leads to four words, the second of which leads to room for as many
            // entries as the third says, laid out as the kernel's; all of them outlive the call.
            let count = unsafe { ioctl_device_private(self.0.as_raw_fd(), &raw mut request) }?;
            let Some(entries) = usize::try_from(count).ok().and_then(|count| batch.get(..count))
            else {
                return Err(Errno::EOVERFLOW);
            };
            learned.extend(entries.iter().map(|entry| {
                let number = usize::from(entry.port_high) << 8 | usize::from(entry.port_low);
                let port = ports.get(number).copied().unwrap_or(0);
                Learned { mac: entry.mac, port, is_local: entry.is_local != 0 }
            }));
            if entries.len() < FORWARDING_ENTRIES_BATCH {
                break;
            }
        }
        Ok(learned)
    }

    /// Sets the flags in `set` (`IFF_UP` and the like), leaving the others.
    pub(crate) fn set_flags(&self, name: &str, set: c_int) -> Result<(), Errno> {
        let mut request = request(name)?;
        // SAFETY: the kernel reads the name in an `ifreq` and writes the flags into it.
        unsafe { ioctl_flags(self.0.as_raw_fd(), &raw mut request) }?;
        // SAFETY: after `SIOCGIFFLAGS` the union holds flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let set = i16::try_from(set).map_err(|_| Errno::EINVAL)?;
        if flags & set == set {
            return Ok(());
        }
        request.ifr_ifru.ifru_flags = flags | set;
        // SAFETY: the kernel reads an `ifreq` with name and flags set, during the call only.
        unsafe { ioctl_set_flags(self.0.as_raw_fd(), &raw const request) }.map(drop)
    }

    /// Largest packet of an interface, in bytes.
    pub(crate) fn mtu(&self, name: &str) -> Result<c_int, Errno> {
        let mut request = request(name)?;
        // SAFETY: the kernel reads the name in an `ifreq` and writes the MTU into it.
        unsafe { ioctl_mtu(self.0.as_raw_fd(), &raw mut request) }?;
        // SAFETY: after `SIOCGIFMTU` the union holds the MTU.
        Ok(unsafe { request.ifr_ifru.ifru_mtu })
    }

    pub(crate) fn set_mtu(&self, name: &str, bytes: c_int) -> Result<(), Errno> {
        let mut request = request(name)?;
        request.ifr_ifru.ifru_mtu = bytes;
        // SAFETY: the kernel reads an `ifreq` with name and MTU set, during the call only.
        unsafe { ioctl_set_mtu(self.0.as_raw_fd(), &raw const request) }.map(drop)
    }

    /// Sets how many frames an interface queues before it drops.
    pub(crate) fn set_queue(&self, name: &str, frames: c_int) -> Result<(), Errno> {
        let mut request = request(name)?;
        // `ifr_qlen` shares its place with `ifr_mtu`.
        request.ifr_ifru.ifru_mtu = frames;
        // SAFETY: the kernel reads an `ifreq` with name and length set, during the call only.
        unsafe { ioctl_set_queue(self.0.as_raw_fd(), &raw const request) }.map(drop)
    }
}

/// Makes an open `/dev/net/tun` a TAP device without packet information, with a virtio header before
/// each frame.
pub(crate) fn make_tap(tun: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    // SAFETY: the kernel reads an `ifreq` with name and flags set, during the call only.
    unsafe { ioctl_tun_set(tun.as_fd().as_raw_fd(), &raw const request) }.map(drop)
}

/// Has the C library map every allocation from `bytes` upwards by itself, and keep to that.
///
/// glibc raises this threshold to the size of whatever was freed last; later buffers then come from
/// its heap, where they are filled with zeros by hand and so use memory at once. A mapping of its own
/// uses memory as far as it is touched, and gives it back when it is freed.
pub fn map_large_allocations(bytes: usize) {
    #[cfg(target_env = "gnu")]
    if let Ok(bytes) = c_int::try_from(bytes) {
        // SAFETY: `mallopt` takes two integers and is thread-safe.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, bytes) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
}

/// Has a mounted ext4, of which `file` is any open file or folder, take up `blocks` of its own blocks.
///
/// # Errors
///
/// There is no such room, the file system cannot grow, or it is no ext4.
pub fn grow_ext4(file: BorrowedFd<'_>, blocks: u64) -> Result<(), Errno> {
    // SAFETY: `EXT4_IOC_RESIZE_FS` reads one 64-bit number, during the call only.
    unsafe { ioctl_ext4_resize(file.as_raw_fd(), &raw const blocks) }.map(drop)
}

/// Sets after how long without food an open `/dev/watchdog` resets the machine; what it was set to, which
/// is what the device can do.
///
/// # Errors
///
/// The device has one time only, or this one is too long for it.
pub fn set_watchdog_seconds(watchdog: BorrowedFd<'_>, seconds: u16) -> Result<u16, Errno> {
    let mut seconds = c_int::from(seconds);
    // SAFETY: `WDIOC_SETTIMEOUT` reads an integer and writes one in its place, during the call only.
    unsafe { ioctl_watchdog_seconds(watchdog.as_raw_fd(), &raw mut seconds) }?;
    Ok(u16::try_from(seconds).unwrap_or(u16::MAX))
}

/// A request about the interface `name`, all else zero.
fn request(name: &str) -> Result<libc::ifreq, Errno> {
    // SAFETY: `ifreq` is integers, and a union of integers and pointers: all zero is a value of it.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    for (place, &byte) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    Ok(request)
}

/// Never built: keeps the layout the kernel expects.
const _: () = assert!(size_of::<ForwardingEntry>() == 16);
const _: () = assert!(size_of::<*mut c_void>() == size_of::<c_ulong>());
