//! The interceptor: frames of mail connections become byte streams.
//!
//! A thread of its own moves frames between `box-net` and `box-stack`; sessions read and write
//! through [`FlowStream`]. The packets' thread is not a tokio task, because it must get its turn
//! however busy the sessions are. Must not know anything of mail. Entry type: [`Interceptor`].

mod adapt;
mod driver;
mod stream;
mod watchdog;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Instant;

use box_net::{BoxNet, Port};
use box_stack::{FlowError, FlowId, Stack, Transmit};
use tokio::sync::mpsc;

pub use box_stack::Refusal;
pub use stream::FlowStream;

use driver::Driver;
use watchdog::{Heartbeat, Pulse, Watchdog};

/// Most connections that wait for a task to take them from the channel. They wait for their server
/// anyway; beyond it they wait in the stack, which has a limit of its own.
pub const INCOMING_MAX: usize = 64;

/// Allocations from here on are mappings of their own, in bytes: the flows' buffers then use memory
/// only as far as they are filled.
const MAPPED_BYTES: usize = 128 * 1024;

/// The interceptor could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ports could not be opened.
    #[error("open the ports")]
    Ports(#[from] box_net::OpenError),
    /// A thread could not be started.
    #[error("start a thread")]
    Thread(#[source] io::Error),
}

/// What the interceptor has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Flows in the table at present, those still dying included.
    pub flows: usize,
    /// The stack's own.
    pub stack: box_stack::Counters,
    /// Frames that the kernel had no room for.
    pub lost: u64,
}

/// The running interceptor. Dropping it resets all flows and gives the line back to the bridge.
#[derive(Debug)]
pub struct Interceptor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _watchdog: Watchdog,
}

impl Interceptor {
    /// Takes mail frames off the bridge, with a stack of the usual sizes. See [`Interceptor::start_with`].
    ///
    /// # Errors
    ///
    /// [`StartError`]; the line is as it was before, but for a bridge made.
    pub fn start(
        net: impl Into<box_net::Settings>,
        take: impl Fn(Port, SocketAddr, SocketAddr) -> bool + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<Incoming>), StartError> {
        Self::start_with(&net.into(), box_stack::Settings::default(), take)
    }

    /// Takes mail frames off the bridge. `take` says for each new connection, by its port, client and
    /// server, whether it is to be intercepted; otherwise it stays on the bridge. It is asked on the
    /// packets' thread, so it must be quick.
    ///
    /// Connections come out of the channel; it ends when the interceptor does.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the line is as it was before, but for a bridge made.
    pub fn start_with(
        net: &box_net::Settings,
        stack: box_stack::Settings,
        take: impl Fn(Port, SocketAddr, SocketAddr) -> bool + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<Incoming>), StartError> {
        box_net::map_large_allocations(MAPPED_BYTES);
        let net = BoxNet::open(net)?;
        let stack = box_stack::Settings { mtu: net.mtu().max(1280), segments: true, ..stack };
        let stack = Stack::new(stack, Box::new(random), now());
        let shared = Arc::new(Shared {
            net,
            state: Mutex::new(State { stack, sleeping_until: None, wakers: Vec::new() }),
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            heartbeat: Heartbeat::default(),
            pulse: Pulse::default(),
        });
        let (sender, incoming) = mpsc::channel(INCOMING_MAX);
        let driver = Driver::new(Arc::clone(&shared), sender, Box::new(take));
        let watchdog = Watchdog::start(Arc::clone(&shared)).map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("intercept".to_owned())
            .spawn(move || driver.run())
            .map_err(StartError::Thread)?;
        Ok((Self { shared, thread: Some(thread), _watchdog: watchdog }, incoming))
    }

    /// Takes no new connections from here on: they stay on the bridge. Those there are go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Returns when the packets' thread has taken a turn: frames are taken and sent.
    pub async fn beat(&self) {
        self.shared.pulse.beat(|| self.shared.net.wake()).await;
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let state = self.shared.lock();
        Counters {
            flows: state.stack.flows(),
            stack: state.stack.counters(),
            lost: self.shared.lost.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.net.wake();
        if let Some(thread) = self.thread.take() {
            // The thread's panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// A connection that a client asks for. Nothing has been answered yet; dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
    flow: FlowId,
    client: SocketAddr,
    server: SocketAddr,
    port: Port,
    answered: bool,
}

impl Incoming {
    /// Who asks.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Whom it asks for.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The side the client is on.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Answers in the server's name: the connection is open.
    ///
    /// # Errors
    ///
    /// The client has given up meanwhile.
    pub fn accept(mut self) -> Result<FlowStream, FlowError> {
        self.answered = true;
        self.shared.with(|stack, now| stack.accept(self.flow, now))?;
        Ok(FlowStream::new(Arc::clone(&self.shared), self.flow))
    }

    /// Shows the client why there is no connection.
    pub fn refuse(mut self, refusal: Refusal) {
        self.answered = true;
        self.shared.with(|stack, _| stack.refuse(self.flow, refusal));
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.with(|stack, _| stack.refuse(self.flow, Refusal::Refused));
        }
    }
}

/// What the packets' thread and the sessions share.
struct Shared {
    net: BoxNet,
    state: Mutex<State>,
    draining: AtomicBool,
    stopping: AtomicBool,
    lost: AtomicU64,
    heartbeat: Heartbeat,
    pulse: Pulse,
}

struct State {
    stack: Stack,
    /// When the packets' thread wakes by itself; `None` while it is at work.
    sleeping_until: Option<Instant>,
    /// Kept for its capacity.
    wakers: Vec<Waker>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("net", &self.net).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A session that panics does so outside; were it inside, the stack's own checks still hold.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one thing with the stack and sends what comes of it, from the caller's thread: a reply
    /// leaves without waiting for another thread to wake.
    fn with<R>(&self, act: impl FnOnce(&mut Stack, Instant) -> R) -> R {
        let now = now();
        let mut state = self.lock();
        let result = act(&mut state.stack, now);
        self.transmit(&mut state.stack, now);
        let sooner = match (state.sleeping_until, state.stack.poll_timeout()) {
            (Some(sleeping), Some(due)) => due < sleeping,
            _ => false,
        };
        self.wake_tasks(state);
        if sooner {
            self.net.wake();
        }
        result
    }

    /// Sends what the stack has to send.
    fn transmit(&self, stack: &mut Stack, now: Instant) {
        while let Some(Transmit { port, frame, segment_bytes }) = stack.poll_transmit(now) {
            self.count(match segment_bytes {
                Some(bytes) => self.net.send_segments(port, frame, bytes),
                None => self.net.send(port, frame),
            });
        }
    }

    fn send(&self, port: Port, frame: &[u8]) {
        self.count(self.net.send(port, frame));
    }

    /// A frame that cannot be sent is a frame lost on the way: TCP sees to it. A device that is gone
    /// shows on the next receive.
    fn count(&self, sent: io::Result<bool>) {
        if !sent.unwrap_or(false) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Unlocks, then wakes the tasks that can get on: the other way round they would wait for the lock.
    fn wake_tasks(&self, mut state: MutexGuard<'_, State>) {
        let mut wakers = std::mem::take(&mut state.wakers);
        state.stack.take_wakers(&mut wakers);
        if wakers.is_empty() {
            state.wakers = wakers;
            return;
        }
        drop(state);
        for waker in wakers.drain(..) {
            waker.wake();
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A number no peer can guess; the seed of a flow's sequence numbers.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Where the operating system has no random numbers, TLS has none either and nothing runs.
    assert!(aws_lc_rs::rand::fill(&mut bytes).is_ok(), "no random numbers to be had");
    u64::from_ne_bytes(bytes)
}
