//! PID 1 of the box: the bridge first, then disk, services, addresses, clock and blessing.
//!
//! What decides is apart from what does: the modules below take bytes and the time and say what is to
//! be done, and have no system call. What is asked of PID 1 at run time, by console and status page,
//! is in [`control`]. Must not depend on tokio, on `avr`, nor on anything that scans. Entry:
//! [`control`].
#![forbid(unsafe_code)]

pub mod addresses;
pub mod boots;
pub mod clock;
pub mod cmdline;
pub mod control;
pub mod health;
pub mod modules;
pub mod notify;
pub mod ring;
pub mod slots;
pub mod supervise;
