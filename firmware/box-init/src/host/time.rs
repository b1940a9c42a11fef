//! The system's clocks.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Since the kernel's start.
pub(crate) fn uptime() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// Since 1970 UTC, as far as the system knows.
pub(crate) fn now() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

/// Sets the system's clock, since 1970 UTC.
pub(crate) fn set(time: Duration) -> Result<(), Errno> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(time))
}

fn read(clock: ClockId) -> Duration {
    // Fails only for a clock that the kernel does not have, and it has both.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
