//! The console on the box's serial port and screen: how the box is, checks, probes, settings, without
//! network and without a disk.
//!
//! What decides is apart from what does. [`keys`], [`editor`], [`text`] and [`session`] turn bytes, the
//! time and reports of jobs into bytes for the screen and orders for jobs; [`command`], [`report`],
//! [`selftest`], [`filter`] and [`redact`] are tables and texts. None of them has a system call.
//! `host` opens the terminal and runs the jobs. It asks PID 1 (`box_init::control`) and the gateway (its
//! control socket, as JSON, since its program links the scanner), each with a deadline; with either of
//! them gone it goes on with what it can. Must not depend on tokio, on `avr`, nor on anything that scans.
//! Entry: [`run`]; commands and who may come in: README.md.
#![forbid(unsafe_code)]

pub mod ask;
pub mod command;
pub mod editor;
pub mod filter;
mod host;
pub mod keys;
pub mod login;
pub mod redact;
pub mod report;
pub mod secret;
pub mod selftest;
pub mod session;
pub mod text;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;

use clap::Parser;

/// The console on a serial port or screen of the box.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Options {
    /// The terminal, as in ttyS0 or /dev/ttyS0.
    #[arg(long)]
    tty: String,
    /// Bits per second.
    #[arg(long, default_value_t = 115_200)]
    baud: u32,
    /// PID 1's control socket.
    #[arg(long, default_value = box_init::control::SOCKET)]
    init: PathBuf,
    /// The gateway's control socket.
    #[arg(long, default_value = "/run/avr/control.sock")]
    gateway: PathBuf,
    /// Where the status page says which certificate it shows.
    #[arg(long, default_value = report::PAGE_FINGERPRINT)]
    page: PathBuf,
    /// Where STATE is.
    #[arg(long, default_value = "/state")]
    state: PathBuf,
    /// Where captures go.
    #[arg(long, default_value = "/data/captures")]
    captures: PathBuf,
    /// Where the console keeps what ends with it.
    #[arg(long, default_value = "/run/console")]
    run: PathBuf,
    /// Names DNS servers.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// For ping and traceroute.
    #[arg(long, default_value = "/usr/bin/busybox")]
    busybox: PathBuf,
    /// For mail, update and slots.
    #[arg(long, default_value = "/usr/bin/avr")]
    avr: PathBuf,
    /// Where USB sticks are looked for.
    #[arg(long, default_value = "/sys")]
    sys: PathBuf,
}

impl Options {
    fn tty_path(&self) -> PathBuf {
        if self.tty.contains('/') {
            PathBuf::from(&self.tty)
        } else {
            PathBuf::from("/dev").join(&self.tty)
        }
    }
}

/// Serves the terminal for ever: a line that hangs up is opened again.
///
/// # Errors
/// The system gives no descriptors.
pub fn run(options: &Options) -> io::Result<Infallible> {
    host::run(options)
}
