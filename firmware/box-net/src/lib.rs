//! The box's place on the line: two ports, the bridge between them, and the frames taken off it.
//!
//! Opening a [`BoxNet`] makes the bridge if there is none, one TAP device for each port, and the
//! nftables table that sends mail frames from a port to its TAP device and back. It knows addresses
//! and port numbers, nothing of TCP or mail; must not depend on tokio. The only crate of the
//! workspace with `unsafe`, in one module.
//!
//! **Two TAP devices, one for each port**, because a frame read from a device does not say where it
//! came in. With one, the side would have to be guessed from addresses, and a guess is wrong the day
//! a host moves or lies.
//!
//! **What stays in the kernel's bridge**: everything but TCP to or from a mail port; VLAN-tagged
//! frames; IP fragments; IPv4 with options and IPv6 with extension headers; frames to the box itself.
//!
//! **When the process ends**, in whatever way, the kernel removes the table and the TAP devices with
//! it, and the bridge carries mail as it carries everything else. The bridge itself is never taken
//! down, not even one made here: it is what the office's line hangs on. [`join`] makes it alone, for who
//! starts the box.
//!
//! Beside all that stand three system calls that have no safe wrapper elsewhere and nothing to do with
//! the line: [`map_large_allocations`], [`grow_ext4`], [`set_watchdog_seconds`].

mod bridge;
mod netlink;
mod sys;
mod table;
mod tap;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

pub use box_stack::{MacAddress, Port};
pub use sys::{grow_ext4, map_large_allocations, set_watchdog_seconds};
pub use table::TableError;

use sys::Control;
use table::{Pair, Table};
use tap::Tap;

/// Bytes of an Ethernet header with one VLAN tag, the most that comes before a packet.
const HEADER_BYTES_MAX: usize = 18;

/// Largest MTU of a TAP device, in bytes.
const PACKET_BYTES_MAX: u16 = 65_521;

/// Which interfaces to stand between, and what to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Interface towards the office.
    pub lan: String,
    /// Interface towards the router.
    pub wan: String,
    /// The bridge of the two; created if there is none.
    pub bridge: String,
    /// TCP ports whose frames are taken, as source or destination.
    pub mail_ports: Vec<u16>,
    /// Name of the nftables table, and first part of the TAP devices' names; at most 11 bytes.
    pub name: String,
}

/// Finds an interface's hardware address, the box's inventory number.
///
/// # Errors
///
/// There is no such interface.
pub fn mac_address(interface: &str) -> Result<[u8; 6], OpenError> {
    bridge::find(interface).map(|found| found.mac)
}

/// Sees to it that `bridge` exists, has these ports, and that all of them are up: what the line needs
/// before anybody looks at mail. What is so already is left as it is.
///
/// # Errors
///
/// [`OpenError`] says which step failed; what was done before it stays.
pub fn join(bridge: &str, ports: &[&str]) -> Result<(), OpenError> {
    let control = Control::open().map_err(OpenError::Descriptor)?;
    let found = ports.iter().map(|port| bridge::find(port)).collect::<Result<Vec<_>, _>>()?;
    bridge::ensure(&control, bridge, &found.iter().collect::<Vec<_>>())
}

/// The box could not take its place on the line.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An interface's name is empty or too long.
    #[error("{name:?} cannot be an interface: a name has 1 to 15 bytes")]
    Name {
        /// The name.
        name: String,
    },
    /// Both ports are the same interface.
    #[error("{name} is set as both ports")]
    SamePort {
        /// The interface.
        name: String,
    },
    /// No mail port is set.
    #[error("no mail port is set, so there is nothing to take off the bridge")]
    NoMailPort,
    /// There is no such interface.
    #[error("there is no interface {name}")]
    NoInterface {
        /// The name.
        name: String,
    },
    /// The interface to be the bridge is something else.
    #[error("{name} is not a bridge")]
    NoBridge {
        /// The name.
        name: String,
    },
    /// A port is in another bridge or bond.
    #[error("{name} belongs to another bridge")]
    PortElsewhere {
        /// The port.
        name: String,
    },
    /// A step with the bridge failed.
    #[error("{step} bridge {name}")]
    Bridge {
        /// What was being done.
        step: &'static str,
        /// The bridge.
        name: String,
        /// Why not.
        source: Errno,
    },
    /// A step with another interface failed.
    #[error("{step} interface {name}")]
    Interface {
        /// What was being done.
        step: &'static str,
        /// The interface.
        name: String,
        /// Why not.
        source: Errno,
    },
    /// No TAP devices here.
    #[error("open /dev/net/tun")]
    Tun(#[source] io::Error),
    /// Another program has the TAP device.
    #[error("TAP device {name} is in use; is avr running already?")]
    TapBusy {
        /// The device.
        name: String,
    },
    /// IPv6 could not be turned off on a TAP device.
    #[error("write {path}")]
    Ipv6 {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A socket or event descriptor could not be made.
    #[error("open a control descriptor")]
    Descriptor(#[source] Errno),
    /// The table could not be made.
    #[error("set up nftables")]
    Table(#[from] TableError),
}

/// What [`BoxNet::wait`] came back for; several may be true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// A frame waits at the LAN port.
    pub lan: bool,
    /// A frame waits at the WAN port.
    pub wan: bool,
    /// [`BoxNet::wake`] was called.
    pub woken: bool,
}

/// The open ports. Shared between threads: every operation is one system call.
#[derive(Debug)]
pub struct BoxNet {
    // The order matters: the table goes first, so that no frame is sent to a device that is gone.
    table: Mutex<Option<Table>>,
    lan: Tap,
    wan: Tap,
    wakeup: EventFd,
    mtu: u16,
    control: Control,
    bridge: String,
    /// Interface indices of the LAN and the WAN port.
    indices: (u32, u32),
}

impl BoxNet {
    /// Takes the box's place on the line; from here on mail frames wait to be received.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says which step failed; what was done before it is undone, but for the bridge.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        if settings.mail_ports.is_empty() {
            return Err(OpenError::NoMailPort);
        }
        if settings.lan == settings.wan {
            return Err(OpenError::SamePort { name: settings.lan.clone() });
        }
        let control = Control::open().map_err(OpenError::Descriptor)?;
        let lan = bridge::find(&settings.lan)?;
        let wan = bridge::find(&settings.wan)?;
        bridge::ensure(&control, &settings.bridge, &[&lan, &wan])?;
        let own_bridge = bridge::find(&settings.bridge)?;
        let mtu = mtu(&control, &settings.lan)?.min(mtu(&control, &settings.wan)?);
        let lan_tap = Tap::create(&control, &format!("{}-lan", settings.name), mtu)?;
        let wan_tap = Tap::create(&control, &format!("{}-wan", settings.name), mtu)?;
        let wakeup = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(OpenError::Descriptor)?;
        let pairs = [
            Pair {
                chains: ("lan", "from-lan-tap"),
                port: lan.interface.clone(),
                tap: lan_tap.interface.clone(),
            },
            Pair {
                chains: ("wan", "from-wan-tap"),
                port: wan.interface.clone(),
                tap: wan_tap.interface.clone(),
            },
        ];
        let mut own = vec![own_bridge.mac, lan.mac, wan.mac];
        own.sort_unstable();
        own.dedup();
        let table = Table::create(&settings.name, &pairs, &settings.mail_ports, &own)?;
        tracing::info!(
            lan = settings.lan,
            wan = settings.wan,
            bridge = settings.bridge,
            ports = ?settings.mail_ports,
            "mail frames are taken off the bridge"
        );
        Ok(Self {
            table: Mutex::new(Some(table)),
            lan: lan_tap,
            wan: wan_tap,
            wakeup,
            mtu,
            control,
            bridge: settings.bridge.clone(),
            indices: (lan.interface.index, wan.interface.index),
        })
    }

    /// Largest packet that both ports carry, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Largest frame that [`BoxNet::recv`] may return, in bytes.
    #[must_use]
    pub fn frame_bytes_max(&self) -> usize {
        usize::from(self.mtu) + HEADER_BYTES_MAX
    }

    /// Takes one frame that came in at `port`; `None` if none waits. A longer frame than `buffer` is
    /// cut, and so will not be read as TCP.
    ///
    /// # Errors
    ///
    /// The device is gone or down.
    pub fn recv(&self, port: Port, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(self.tap(port).recv(buffer)?)
    }

    /// Sends one frame out of `port`; `false` if the kernel has no room for it and it is lost.
    ///
    /// # Errors
    ///
    /// The device is gone or down.
    pub fn send(&self, port: Port, frame: &[u8]) -> io::Result<bool> {
        Ok(self.tap(port).send(frame, None)?)
    }

    /// Sends several TCP segments of one connection as one frame, which the kernel or the card cuts into
    /// segments of `segment_bytes` data bytes each. No header may have options, and the TCP checksum is
    /// that of the pseudo-header, not inverted; `false` if the kernel has no room.
    ///
    /// # Errors
    ///
    /// The device is gone or down, or the frame is not of this kind.
    pub fn send_segments(&self, port: Port, frame: &[u8], segment_bytes: u16) -> io::Result<bool> {
        Ok(self.tap(port).send(frame, Some(segment_bytes))?)
    }

    /// Waits until a frame has come, [`BoxNet::wake`] was called, or `timeout` is over.
    ///
    /// # Errors
    ///
    /// The system's, on waiting itself.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Ready> {
        let mut descriptors = [
            PollFd::new(self.lan.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wan.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wakeup.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut descriptors, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let [lan, wan, woken] = descriptors.map(|descriptor| descriptor.any() == Some(true));
        if woken {
            // Only resets the counter; a second reader would find it reset already.
            let _ = self.wakeup.read();
        }
        Ok(Ready { lan, wan, woken })
    }

    /// Has [`BoxNet::wait`] return, now or the next time.
    pub fn wake(&self) {
        // Fails only when the counter is full, and then it is set.
        let _ = self.wakeup.write(1);
    }

    /// Whether the bridge knows the host with this address to be on the side of `port`. A frame from
    /// that same side came here only because a switch did not know better; the bridge would drop it.
    #[must_use]
    pub fn is_behind(&self, port: Port, mac: MacAddress) -> bool {
        let index = match port {
            Port::Lan => self.indices.0,
            Port::Wan => self.indices.1,
        };
        self.control.bridge_learned(&self.bridge).is_ok_and(|table| {
            table.iter().any(|entry| {
                entry.mac == mac && !entry.is_local && u32::try_from(entry.port) == Ok(index)
            })
        })
    }

    /// Gives the line back to the bridge while this is still in use elsewhere: no frame comes any more.
    pub fn let_go(&self) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner).take();
        if table.is_some() {
            tracing::info!("mail frames stay on the bridge from here on");
        }
    }

    fn tap(&self, port: Port) -> &Tap {
        match port {
            Port::Lan => &self.lan,
            Port::Wan => &self.wan,
        }
    }
}

/// The MTU of a port; more than a TAP device can have counts as that.
fn mtu(control: &Control, name: &str) -> Result<u16, OpenError> {
    let bytes = control.mtu(name).map_err(|source| OpenError::Interface {
        step: "read the MTU of",
        name: name.to_owned(),
        source,
    })?;
    Ok(u16::try_from(bytes).unwrap_or(u16::MAX).min(PACKET_BYTES_MAX))
}
