//! Ends the process when the packets' thread hangs, so that the kernel removes the table and the
//! bridge carries the mail again.
//!
//! The thread counts each step into work and each step into rest; an odd count is work. A count that
//! stays odd and the same over several of the watchdog's own naps is a hang. Naps are counted, not
//! time: a machine that was suspended, or a process that was stopped, wakes to one nap that is over,
//! never to several, and the packets' thread has the others to get on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::Shared;

/// Between two looks.
const NAP: Duration = Duration::from_millis(250);

/// Looks that find the thread at the same work before it counts as hanging. One batch takes well under
/// a millisecond.
const LOOKS_MAX: u32 = 4;

/// The packets' thread's steps.
#[derive(Debug, Default)]
pub(super) struct Heartbeat(AtomicU64);

impl Heartbeat {
    /// Work begins.
    pub(super) fn work(&self) {
        self.0.store((self.0.load(Ordering::Relaxed) + 1) | 1, Ordering::Relaxed);
    }

    /// Nothing is to be done.
    pub(super) fn rest(&self) {
        self.0.store((self.0.load(Ordering::Relaxed) + 1) & !1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Asked whether it turns, and answered by the packets' thread.
#[derive(Debug)]
pub(super) struct Pulse {
    asked: AtomicU64,
    answered: watch::Sender<u64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { asked: AtomicU64::new(0), answered: watch::Sender::new(0) }
    }
}

impl Pulse {
    /// Asks, has `wake` wake the thread, and returns when it has answered.
    pub(super) async fn beat(&self, wake: impl FnOnce()) {
        let mut answered = self.answered.subscribe();
        let question = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        wake();
        // The sender is in `self`, so it cannot be gone.
        let _ = answered.wait_for(|until| *until >= question).await;
    }

    /// Answers what was asked until now.
    pub(super) fn answer(&self) {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked != *self.answered.borrow() {
            self.answered.send_replace(asked);
        }
    }
}

/// The watching thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watchdog {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut looks = Looks::default();
            while !watched.load(Ordering::Relaxed) {
                std::thread::park_timeout(NAP);
                if looks.hangs(shared.heartbeat.count()) {
                    tracing::error!("the packets' thread hangs: giving mail back to the bridge");
                    std::process::abort();
                }
            }
        })?;
        Ok(Self { over, thread })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
    }
}

/// What the looks have found so far.
#[derive(Debug, Default)]
struct Looks {
    last: u64,
    same: u32,
}

impl Looks {
    fn hangs(&mut self, count: u64) -> bool {
        let works = count % 2 == 1;
        self.same = if works && count == self.last { self.same + 1 } else { 0 };
        self.last = count;
        self.same >= LOOKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_end_is_a_hang() {
        let (heartbeat, mut looks) = (Heartbeat::default(), Looks::default());
        heartbeat.work();
        let found: Vec<bool> = (0..6).map(|_| looks.hangs(heartbeat.count())).collect();
        assert_eq!(found, [false, false, false, false, true, true]);
    }

    #[test]
    fn rest_and_progress_are_none() {
        let (heartbeat, mut looks) = (Heartbeat::default(), Looks::default());
        for _ in 0..100 {
            heartbeat.rest();
            assert!(!looks.hangs(heartbeat.count()) && !looks.hangs(heartbeat.count()));
            heartbeat.work();
            assert!(!looks.hangs(heartbeat.count()));
        }
    }

    #[tokio::test]
    async fn a_question_is_answered_by_a_turn_after_it() {
        let pulse = Pulse::default();
        pulse.answer();
        let mut asks = std::pin::pin!(pulse.beat(|| ()));
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(asks.as_mut().poll(cx).is_pending()))
                .await
        );
        pulse.answer();
        asks.await;
        // Woken while it asks, the thread answers at once.
        pulse.beat(|| pulse.answer()).await;
    }

    #[test]
    fn any_order_of_steps_tells_work_from_rest() {
        let heartbeat = Heartbeat::default();
        heartbeat.rest();
        heartbeat.rest();
        assert_eq!(heartbeat.count() % 2, 0);
        heartbeat.work();
        heartbeat.work();
        assert_eq!(heartbeat.count() % 2, 1);
    }
}
