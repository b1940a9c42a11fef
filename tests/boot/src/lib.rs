//! Starts the box's disk image in QEMU, from firmware to the console's menu, and does to it what happens to
//! boxes: updates that fail, disks that are damaged or gone, programs that hang, power that is cut.
//!
//! Purpose: the image that is published, with the programs that are in it, as far as a machine can be played
//! without one. The way: the files of `scripts/build-image` ([`Released`]), or the same with another program
//! or another name ([`System`]), on a disk of the test's own ([`Bench`]), in a machine with a person at its
//! console ([`Machine`]). Nothing leaves the process but by QEMU's sockets: no root, no network. Must not
//! depend on what the box's programs are made of, but for names of slots and the form of updates. Entry:
//! [`Bench`].
#![forbid(unsafe_code)]

mod bench;
pub mod fat;
mod machine;
mod ports;
mod released;
mod system;
mod writes;

pub use bench::{Bench, Fittings};
pub use machine::Machine;
pub use ports::{Ports, Side};
pub use released::Released;
pub use system::{System, known_key};
pub use writes::{Log, Write};
