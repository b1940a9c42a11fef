//! The box in QEMU, and the two ends of its cables.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::{Moment, Times, Watch};
use crate::ImageError;
use crate::error::Step as _;

/// What the firmware says on the serial port when it starts the boot loader.
const HAND_OVER: &[u8] = b"BdsDxe: starting Boot";
/// How often a pair of frames is sent; the times are as exact as that.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// Longest that firmware and box may take.
const BOOT_MAX: Duration = Duration::from_secs(300);
/// In which the kernel counts a process's time, a second (`USER_HZ`, the same on all its architectures).
const TICKS_A_SECOND: u64 = 100;
/// Longest frame that is read, in bytes.
const FRAME_BYTES_MAX: usize = 2048;

/// What a box is given whose start is measured.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Folder of the sockets that its cables lead to.
    pub sockets: &'a Path,
    /// Processors.
    pub processors: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
}

impl Machine<'_> {
    /// QEMU's network of a port.
    pub(crate) fn netdev(&self, id: &str) -> String {
        let path = |end: &str| {
            self.sockets.join(format!("{id}-{end}")).to_string_lossy().replace(',', ",,")
        };
        format!(
            "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            path("guest"),
            path("host")
        )
    }

    fn bind(&self, id: &str) -> Result<UnixDatagram, ImageError> {
        let path = self.sockets.join(format!("{id}-host"));
        UnixDatagram::bind(&path).step(|| format!("making the socket {}", path.display()))
    }
}

/// Starts the guest, and ends it when its times are known.
///
/// # Errors
/// QEMU cannot be started, has ended, or the box takes longer than five minutes.
pub fn start(machine: &Machine<'_>, command: &[OsString]) -> Result<Times, ImageError> {
    for end in ["lan-guest", "wan-guest", "lan-host", "wan-host"] {
        let _ = fs::remove_file(machine.sockets.join(end));
    }
    let (lan, wan) = (machine.bind("lan")?, machine.bind("wan")?);
    lan.set_nonblocking(true).step(|| "setting up the office's cable".to_owned())?;
    wan.set_read_timeout(Some(PROBE_INTERVAL))
        .step(|| "setting up the router's cable".to_owned())?;
    let Some((program, arguments)) = command.split_first() else {
        return Err(ImageError::Wrong("an empty command line".to_owned()));
    };
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .step(|| format!("starting {}", program.display()))?;
    let mut guest = Guest(child);
    let hand_over = guest.hand_over();
    let begin = now();
    let Ok(started) = hand_over.recv_timeout(BOOT_MAX) else {
        return Err(ImageError::Wrong(format!("the firmware starts nothing{WHY}")));
    };

    let mut watch = Watch::default();
    let to = machine.sockets.join("lan-guest");
    let mut next = now();
    let mut frame = [0; FRAME_BYTES_MAX];
    while watch.times().intercepting.is_none() {
        if let Some(status) = guest.0.try_wait().step(|| "waiting for QEMU".to_owned())? {
            return Err(ImageError::Wrong(format!("QEMU has ended ({status}){WHY}")));
        }
        if now() - begin > BOOT_MAX {
            let seen = watch.times();
            return Err(ImageError::Wrong(format!("no interception, only {seen:?}{WHY}")));
        }
        if now() >= next {
            next = now() + PROBE_INTERVAL;
            for probe in watch.probe() {
                // A port that nobody serves yet has no room; such frames would be lost on a cable, too.
                let _ = lan.send_to(&probe, &to);
            }
        }
        match wan.recv(&mut frame) {
            Ok(bytes) => {
                watch.arrived(frame.get(..bytes).unwrap_or_default(), started.since(guest.0.id()))
            }
            Err(error) if is_silence(&error) => {}
            Err(source) => {
                return Err(ImageError::Io {
                    step: "reading the router's cable".to_owned(),
                    source,
                });
            }
        }
    }
    Ok(watch.times())
}

/// What a person does about a box that does not start.
const WHY: &str = "; watch it with scripts/qemu";

fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// The firmware's hand-over.
struct Start {
    at: Instant,
    processor: Duration,
}

impl Start {
    fn of(guest: u32) -> Self {
        Self { at: now(), processor: processor_time(guest) }
    }

    fn since(&self, guest: u32) -> Moment {
        Moment {
            elapsed: now() - self.at,
            processor: processor_time(guest).saturating_sub(self.processor),
        }
    }
}

/// What a process has used (proc(5), `/proc/PID/stat`: the 14th and 15th words, counted from the 3rd, which
/// follows the name in brackets). None where it has ended.
fn processor_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let words = stat.rsplit_once(") ").map_or("", |(_, words)| words).split(' ');
    let ticks: u64 = words.skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
}

#[allow(clippy::disallowed_methods, reason = "the clock that boots are measured with")]
fn now() -> Instant {
    Instant::now()
}

/// Ends with what was measured.
struct Guest(Child);

impl Guest {
    /// The time at which the firmware hands over. What the guest says afterwards is read and dropped:
    /// a full pipe would hold it up.
    fn hand_over(&mut self) -> Receiver<Start> {
        let guest = self.0.id();
        let (tell, told) = sync_channel(1);
        let Some(mut serial) = self.0.stdout.take() else { return told };
        thread::spawn(move || {
            let (mut said, mut chunk) = (Vec::new(), [0; 4096]);
            let mut has_told = false;
            while let Ok(bytes @ 1..) = serial.read(&mut chunk) {
                if has_told {
                    continue;
                }
                said.extend_from_slice(chunk.get(..bytes).unwrap_or_default());
                has_told = said.windows(HAND_OVER.len()).any(|window| window == HAND_OVER);
                if has_told {
                    let _ = tell.try_send(Start::of(guest));
                }
            }
        });
        told
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
