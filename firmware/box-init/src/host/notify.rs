//! Datagrams to PID 1: what services say of themselves, and the DHCP client's script; and the kernel's
//! events about devices.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
    UnixCredentials, bind, recv, recvmsg, setsockopt, socket, sockopt,
};

use crate::addresses::DhcpEvent;
use crate::notify::{self, MESSAGE_BYTES_MAX, Word};
use crate::texts::{self, Uevent};

/// Where services say how they are.
pub(crate) const SOCKET: &str = "/run/init/notify";
/// Where the DHCP client's script says what it was told.
pub(crate) const DHCP_SOCKET: &str = "/run/init/dhcp";

/// Largest event of the kernel, in bytes (`UEVENT_BUFFER_SIZE` is 2048, and a header).
const UEVENT_BYTES_MAX: usize = 4096;
/// Room for events while PID 1 loads modules, in bytes.
const UEVENT_QUEUE_BYTES: usize = 1024 * 1024;
/// `KOBJ_UEVENT` group of the kernel.
const KERNEL_GROUP: u32 = 1;

/// A socket that services write to.
#[derive(Debug)]
pub(crate) struct Notify(UnixDatagram);

impl Notify {
    pub(crate) fn open(path: &str) -> std::io::Result<Self> {
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(Path::new(path))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(Self(socket))
    }

    /// The next message, and which process sent it.
    pub(crate) fn next(&self) -> Option<(i32, Vec<u8>)> {
        loop {
            let mut bytes = vec![0; MESSAGE_BYTES_MAX];
            let mut space = nix::cmsg_space!(UnixCredentials);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let descriptor = self.0.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(descriptor, &mut parts, Some(&mut space), flags);
            let (length, sender) = match received {
                Ok(message) => {
                    let sender = message.cmsgs().ok().and_then(|mut words| {
                        words.find_map(|word| match word {
                            ControlMessageOwned::ScmCredentials(who) => Some(who.pid()),
                            _ => None,
                        })
                    });
                    (message.bytes, sender)
                }
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            bytes.truncate(length);
            if let Some(sender) = sender {
                return Some((sender, bytes));
            }
        }
    }

    /// The next words of a service.
    pub(crate) fn next_words(&self) -> Option<(i32, Vec<Word>)> {
        self.next().map(|(pid, bytes)| (pid, notify::parse(&bytes)))
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Said by the DHCP client's script, which is this program by another name.
///
/// # Errors
/// PID 1 is not there.
pub(crate) fn tell_dhcp(event: &DhcpEvent) -> std::io::Result<()> {
    let message = serde_json::to_vec(event)?;
    UnixDatagram::unbound()?.send_to(&message, DHCP_SOCKET).map(drop)
}

/// The kernel's events about devices.
#[derive(Debug)]
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    pub(crate) fn open() -> Result<Self, Errno> {
        let descriptor = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        setsockopt(&descriptor, sockopt::RcvBuf, &UEVENT_QUEUE_BYTES)?;
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self(descriptor))
    }

    /// Takes in all that wait; the second is true if some were lost, so that all devices have to be
    /// looked at again.
    pub(crate) fn take(&self) -> (Vec<Uevent>, bool) {
        let (mut events, mut lost) = (Vec::new(), false);
        let mut buffer = vec![0; UEVENT_BYTES_MAX];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(bytes) => events.extend(buffer.get(..bytes).and_then(texts::uevent)),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => lost = true,
                Err(_) => return (events, lost),
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
