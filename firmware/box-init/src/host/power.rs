//! The end: what is left of the processes goes, everything is written out, and the kernel takes over.

use std::convert::Infallible;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sync};

use super::children::Children;

/// How the box ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Reboot,
    Poweroff,
}

/// How long processes may take to end once they were killed.
const KILLED_MAX: Duration = Duration::from_secs(3);

/// Ends the box; the services have ended already.
pub(crate) fn finish(end: End, children: &Children) -> Errno {
    // Everybody but PID 1: whatever services left behind.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let until = super::time::uptime() + KILLED_MAX;
    while Children::any() && super::time::uptime() < until {
        while children.reap().is_some() {}
        std::thread::yield_now();
    }
    unmount();
    tracing::info!(?end, "the end");
    sync();
    let mode = match end {
        End::Reboot => RebootMode::RB_AUTOBOOT,
        End::Poweroff => RebootMode::RB_POWER_OFF,
    };
    match reboot(mode) {
        Ok(never) => impossible(never),
        Err(error) => error,
    }
}

/// Takes the partitions off, so that their next check has nothing to do.
pub(crate) fn unmount() {
    for at in ["/run/init/slots", "/data", "/state/config", "/state"] {
        sync();
        match umount2(at, MntFlags::empty()) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => {
                tracing::warn!(%error, at, "a partition is in use at the end");
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                let _ = mount(None::<&str>, at, None::<&str>, flags, None::<&str>);
            }
        }
    }
}

fn impossible(never: Infallible) -> Errno {
    match never {}
}
