//! Connections that have proved nothing yet, so that a full listener can tell whom to put off: who
//! only connects and says nothing must not keep out who does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

/// Held by a connection's task until the peer has proved who it is.
#[derive(Debug)]
pub struct Unproven(Arc<()>);

/// The connections whose [`Unproven`] is still held, oldest first.
#[derive(Debug)]
pub(crate) struct Newcomers {
    queue: VecDeque<Newcomer>,
    /// Of all connections, so that `queue` may have twice as many before it is swept.
    connections_max: usize,
}

#[derive(Debug)]
struct Newcomer {
    unproven: Weak<()>,
    task: AbortHandle,
    peer: SocketAddr,
}

impl Unproven {
    pub(crate) fn new() -> Self {
        Self(Arc::new(()))
    }
}

impl Newcomers {
    pub(crate) fn new(connections_max: usize) -> Self {
        Self { queue: VecDeque::new(), connections_max }
    }

    /// Adds a connection. `spawn` starts its task with the mark that it is unproven.
    pub(crate) fn add(&mut self, peer: SocketAddr, spawn: impl FnOnce(Unproven) -> AbortHandle) {
        if self.queue.len() >= self.connections_max.saturating_mul(2) {
            self.queue.retain(|newcomer| newcomer.unproven.strong_count() > 0);
        }
        let mark = Unproven::new();
        let unproven = Arc::downgrade(&mark.0);
        self.queue.push_back(Newcomer { unproven, task: spawn(mark), peer });
    }

    /// Cuts off the oldest connection that has proved nothing and says whose it was; `None` when
    /// all have.
    pub(crate) fn put_off_oldest(&mut self) -> Option<SocketAddr> {
        while let Some(newcomer) = self.queue.pop_front() {
            if newcomer.unproven.strong_count() > 0 {
                newcomer.task.abort();
                return Some(newcomer.peer);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_proven_are_forgotten_and_the_queue_stays_bounded() {
        let mut newcomers = Newcomers::new(4);
        let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let idle = || tokio::spawn(std::future::pending::<()>()).abort_handle();
        let mut first = None;
        for port in 0..100 {
            newcomers.add(peer(port), |mark| {
                if port == 0 {
                    first = Some(mark); // Stays unproven; the others prove themselves at once.
                }
                idle()
            });
            assert!(newcomers.queue.len() <= 8);
        }
        assert_eq!(newcomers.put_off_oldest(), Some(peer(0)));
        assert_eq!(newcomers.put_off_oldest(), None);
        drop(first);
    }
}
