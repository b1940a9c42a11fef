//! PID 1 of the box: the bridge first, then disk, services, addresses, clock and blessing.
//!
//! What decides is apart from what does: the public modules take bytes and the time and say what is to
//! be done, and have no system call; `host` has the system calls, and `init` is the loop that joins
//! them. What is asked of PID 1 at run time, by console and status page, is in [`control`]. Must not
//! depend on tokio, on `avr`, nor on anything that scans. Entry: [`run`], [`control`].
#![forbid(unsafe_code)]

pub mod addresses;
pub mod boots;
pub mod clock;
pub mod cmdline;
pub mod control;
pub mod disk;
pub mod health;
mod host;
mod init;
pub mod modules;
pub mod notify;
pub mod ports;
mod release;
pub mod ring;
mod role;
mod services;
pub mod slots;
pub mod supervise;
pub mod texts;

pub use host::exec::{ExecError, Spec};
pub use init::{BOX_DEFAULT, run};
pub use role::{Role, ask, become_service, modprobe, tell_dhcp};
