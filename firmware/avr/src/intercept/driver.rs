//! The packets' thread: receive, handle, transmit, sleep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use box_net::Port;
use box_stack::{Disposition, Segment, Verdict};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Incoming, Shared, now};

/// Frames read from a port before the stack is locked once for all of them.
const BATCH_FRAMES: usize = 64;

/// How soon connections that found the channel full are offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(20);

/// Says whether a connection that came in at a port, from a client to a server, is to be taken.
pub(super) type Take = Box<dyn Fn(Port, SocketAddr, SocketAddr) -> bool + Send>;

/// Owned by the packets' thread.
pub(super) struct Driver {
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Incoming>,
    take: Take,
    batch: Batch,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, incoming: mpsc::Sender<Incoming>, take: Take) -> Self {
        let batch = Batch::new(shared.net.frame_bytes_max());
        Self { shared, incoming, take, batch }
    }

    /// Until the interceptor is dropped or a port is gone.
    pub(super) fn run(mut self) {
        let _end = End(Arc::clone(&self.shared));
        if let Err(error) = self.serve() {
            tracing::error!(%error, "interception has ended; mail crosses the plain bridge");
        }
    }

    fn serve(&mut self) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut full = false;
        while !shared.stopping.load(Ordering::Relaxed) {
            let timeout = {
                let mut state = shared.lock();
                let due = state.stack.poll_timeout();
                let timeout = due.map(|due| due.saturating_duration_since(now()));
                state.sleeping_until = due;
                if full {
                    Some(timeout.map_or(OFFER_AGAIN, |t| t.min(OFFER_AGAIN)))
                } else {
                    timeout
                }
            };
            shared.heartbeat.rest();
            let ready = shared.net.wait(timeout)?;
            shared.heartbeat.work();
            if ready.lan {
                self.receive(Port::Lan)?;
            }
            if ready.wan {
                self.receive(Port::Wan)?;
            }
            let now = now();
            let mut state = shared.lock();
            state.sleeping_until = None;
            state.stack.handle_timeout(now);
            shared.transmit(&mut state.stack, now);
            shared.wake_tasks(state);
            full = self.offer();
            shared.pulse.answer();
        }
        Ok(())
    }

    /// Takes in one batch from a port; what is left comes after the other port's turn.
    fn receive(&mut self, port: Port) -> std::io::Result<()> {
        let Self { shared, take, batch, .. } = self;
        batch.fill(|buffer| shared.net.recv(port, buffer))?;
        let now = now();
        let mut policy = |segment: &Segment<'_>, port| decide(shared, take, segment, port);
        let mut state = shared.lock();
        for (frame, bridge) in batch.frames() {
            *bridge = state.stack.receive(port, frame, now, &mut policy) == Disposition::Bridge;
        }
        shared.transmit(&mut state.stack, now);
        shared.wake_tasks(state);
        for (frame, bridge) in batch.frames() {
            if *bridge {
                shared.send(port.opposite(), frame);
            }
        }
        Ok(())
    }

    /// Hands new connections to the channel; whether some are left.
    fn offer(&mut self) -> bool {
        loop {
            let permit = match self.incoming.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return self.shared.lock().stack.has_events(),
                // Nobody takes connections any more: new ones belong on the bridge.
                Err(TrySendError::Closed(())) => {
                    self.shared.draining.store(true, Ordering::Relaxed);
                    return false;
                }
            };
            let Some(opening) = self.shared.lock().stack.poll_event() else { return false };
            permit.send(Incoming {
                shared: Arc::clone(&self.shared),
                flow: opening.flow,
                client: opening.client,
                server: opening.server,
                port: opening.port,
                answered: false,
            });
        }
    }
}

fn decide(shared: &Shared, take: &Take, segment: &Segment<'_>, port: Port) -> Verdict {
    if shared.draining.load(Ordering::Relaxed)
        || !take(port, segment.source(), segment.destination())
    {
        return Verdict::Bridge;
    }
    // Flooded here by a switch that did not know where the server is. It is on the same side, so the
    // bridge would drop the frame, and the server answers by itself.
    if shared.net.is_behind(port, segment.destination_mac()) {
        return Verdict::Drop;
    }
    Verdict::Take
}

/// However the thread ends, its flows are reset and the line is the bridge's again.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let shared = &self.0;
        let now = now();
        let mut state = shared.lock();
        state.stack.abort_all(now);
        shared.transmit(&mut state.stack, now);
        shared.wake_tasks(state);
        shared.net.let_go();
        shared.heartbeat.rest();
    }
}

/// Frames read one after the other into one allocation.
struct Batch {
    bytes: Box<[u8]>,
    frame_bytes_max: usize,
    /// Length of each frame read, and whether it is to be bridged.
    read: Vec<(usize, bool)>,
}

impl Batch {
    fn new(frame_bytes_max: usize) -> Self {
        let bytes = vec![0; BATCH_FRAMES * frame_bytes_max].into_boxed_slice();
        Self { bytes, frame_bytes_max, read: Vec::with_capacity(BATCH_FRAMES) }
    }

    fn fill(
        &mut self,
        recv: impl Fn(&mut [u8]) -> std::io::Result<Option<usize>>,
    ) -> std::io::Result<()> {
        self.read.clear();
        for place in self.bytes.chunks_exact_mut(self.frame_bytes_max) {
            match recv(place)? {
                Some(bytes) => self.read.push((bytes, false)),
                None => break,
            }
        }
        Ok(())
    }

    fn frames(&mut self) -> impl Iterator<Item = (&[u8], &mut bool)> {
        let places = self.bytes.chunks_exact(self.frame_bytes_max);
        places
            .zip(&mut self.read)
            .map(|(place, (bytes, bridge))| (place.get(..*bytes).unwrap_or(place), bridge))
    }
}
