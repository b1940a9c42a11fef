//! The watchdog's device: opened once, and kept open until the box goes off.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

use super::files;
use crate::control;

/// What the kernel's own calls itself.
const SOFTWARE: &str = "Software Watchdog";

/// An open watchdog: it resets the box unless it is fed.
#[derive(Debug)]
pub(crate) struct Watchdog {
    device: File,
    identity: String,
    seconds: u16,
}

impl Watchdog {
    /// Opens the board's, or else the kernel's own.
    pub(crate) fn open(seconds: u64) -> Result<Self, String> {
        let mut found: Vec<(bool, String, String)> = files::names("/sys/class/watchdog")
            .into_iter()
            .map(|name| {
                let identity = files::text(format!("/sys/class/watchdog/{name}/identity"));
                (identity == SOFTWARE, name, identity)
            })
            .collect();
        found.sort();
        let wanted = u16::try_from(seconds).unwrap_or(u16::MAX);
        let mut problem = "there is no watchdog".to_owned();
        for (_, name, identity) in found {
            match OpenOptions::new().write(true).open(format!("/dev/{name}")) {
                Ok(device) => {
                    let seconds = box_net::set_watchdog_seconds(device.as_fd(), wanted)
                        .ok()
                        .or_else(|| {
                            files::text(format!("/sys/class/watchdog/{name}/timeout")).parse().ok()
                        })
                        .unwrap_or(wanted);
                    return Ok(Self { device, identity, seconds });
                }
                Err(error) => problem = format!("open /dev/{name}: {error}"),
            }
        }
        Err(problem)
    }

    /// How often to feed it.
    pub(crate) fn interval(&self) -> Duration {
        (Duration::from_secs(u64::from(self.seconds)) / 4).clamp(Duration::from_secs(1), FEED_MAX)
    }

    pub(crate) fn feed(&mut self) {
        if let Err(error) = self.device.write_all(b"\0") {
            tracing::error!(%error, "the watchdog does not take its food");
        }
    }

    /// Turns it off, where the device can be.
    pub(crate) fn disarm(mut self) {
        // The magic word of linux/watchdog.h; without it closing does not stop the device.
        let _ = self.device.write_all(b"V");
    }

    pub(crate) fn report(&self) -> control::Watchdog {
        control::Watchdog {
            driver: self.identity.clone(),
            hardware: self.identity != SOFTWARE,
            seconds: u32::from(self.seconds),
        }
    }
}

/// Longest time between two feedings.
const FEED_MAX: Duration = Duration::from_secs(10);
