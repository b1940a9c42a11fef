//! What is plugged into the machine's two ports: the test itself, by QEMU's sockets of frames.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::clock::wait_for;

/// Largest frame, in bytes.
const FRAME_BYTES_MAX: usize = 2048;
/// Most frames that wait to be looked at; then the oldest go, as in a card that nobody reads.
const FRAMES_MAX: usize = 4096;
/// How often a cable sees whether its test has ended.
const CABLE_LOOK: Duration = Duration::from_secs(1);

/// One of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The office.
    Lan,
    /// The router.
    Wan,
}

/// Both cables' other ends.
#[derive(Debug)]
pub struct Ports {
    folder: PathBuf,
    lan: End,
    wan: End,
}

/// One cable. What comes out of it is taken at once: a machine whose frames nobody takes stops sending.
#[derive(Debug)]
struct End {
    socket: UnixDatagram,
    frames: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

impl End {
    fn new(path: &Path) -> Result<Self> {
        let step = || format!("making the socket {}", path.display());
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path).with_context(step)?;
        let frames = Arc::<Mutex<VecDeque<Vec<u8>>>>::default();
        let (from, to) = (socket.try_clone().with_context(step)?, Arc::downgrade(&frames));
        from.set_read_timeout(Some(CABLE_LOOK)).with_context(step)?;
        std::thread::spawn(move || {
            let mut frame = [0; FRAME_BYTES_MAX];
            loop {
                let received = from.recv(&mut frame);
                let Some(to) = to.upgrade() else { break };
                if let Ok(len) = received {
                    let mut frames = to.lock().unwrap_or_else(PoisonError::into_inner);
                    frames.push_back(frame[..len].to_vec());
                    if frames.len() > FRAMES_MAX {
                        frames.pop_front();
                    }
                }
            }
        });
        Ok(Self { socket, frames })
    }

    fn next(&self) -> Option<Vec<u8>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Ports {
    /// Plugs them in; their sockets are in that folder.
    ///
    /// # Errors
    /// The sockets cannot be made.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let end = |name: &str| End::new(&folder.join(format!("{name}.test")));
        Ok(Self { folder: folder.to_owned(), lan: end("lan")?, wan: end("wan")? })
    }

    fn end(&self, side: Side) -> &End {
        match side {
            Side::Lan => &self.lan,
            Side::Wan => &self.wan,
        }
    }

    /// QEMU's option for a port.
    pub(crate) fn option(folder: &Path, id: &str) -> String {
        let path = |end: &str| folder.join(format!("{id}.{end}")).display().to_string();
        format!(
            "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            path("qemu"),
            path("test"),
        )
    }

    /// Sends a frame into a port.
    ///
    /// # Errors
    /// The machine is off.
    pub fn send(&self, side: Side, frame: &[u8]) -> io::Result<()> {
        let name = match side {
            Side::Lan => "lan.qemu",
            Side::Wan => "wan.qemu",
        };
        self.end(side).socket.send_to(frame, self.folder.join(name)).map(|_| ())
    }

    /// Waits for a frame out of a port of which that holds.
    ///
    /// # Errors
    /// None came within the time.
    pub fn wait(
        &self,
        side: Side,
        what: &str,
        limit: Duration,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>> {
        let end = self.end(side);
        wait_for(&format!("{what} at {side:?}"), limit, || {
            std::iter::from_fn(|| end.next()).find(|frame| is_it(frame))
        })
    }

    /// What has come out of both ports and was not looked at is forgotten.
    pub fn drain(&self) {
        for end in [&self.lan, &self.wan] {
            end.frames.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}
