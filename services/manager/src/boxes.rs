//! The driver on the boxes' side: one connection each, many questions on it.

use std::sync::Arc;
use std::time::Duration;

use link::{Link, LinkError};
use service_kit::Drain;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};
use wire::identity::Peer;
use wire::ticket::KeyFingerprint;
use wire::{Assign, Busy, Denied, Message, Use};

use crate::Shared;
use crate::fleet::Assignment;
use crate::lease::ConnectionId;
use service_kit::listener::count;

/// How long a box may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A box that has not shown a good ticket in this time is put off: anybody can make a key and a
    /// handshake.
    pub admission_max: Duration,
    /// An admitted box may ask nothing for so long. TCP notices when it is gone.
    pub idle_max: Duration,
    /// An answer must be taken in this time.
    pub send_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            admission_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(60 * 60),
            send_max: Duration::from_secs(10),
        }
    }
}

/// Why a connection ended, other than in order.
#[derive(Debug, thiserror::Error)]
enum BoxError {
    #[error("step receive")]
    Receive(#[source] LinkError),
    #[error("step answer")]
    Answer(#[source] LinkError),
    #[error("step answer: not taken within {0:?}")]
    AnswerTimedOut(Duration),
    #[error("step receive: no good ticket within {0:?}")]
    NotAdmitted(Duration),
    #[error("step receive: {0} is nothing that a box says to a manager")]
    Unexpected(&'static str),
}

/// Serves one box until it goes.
pub(crate) async fn serve(mut link: Link, shared: Arc<Shared>, drain: Drain) {
    let address = link.peer_address();
    let Peer::Device(key) = *link.peer() else {
        count(&shared.counters.misbehaved);
        warn!(peer = %address, who = %link.peer(), "closed: only boxes ask a manager");
        return;
    };
    let connection = Connection::new(shared);
    match connection.converse(&mut link, &key, &drain).await {
        Ok(()) => debug!(peer = %address, "box has gone"),
        Err(BoxError::Receive(error)) if error.is_closed() => {
            debug!(peer = %address, error = telemetry::chain(&error), "box has gone");
        }
        Err(error) => {
            count(&connection.shared.counters.misbehaved);
            warn!(peer = %address, %key, error = telemetry::chain(&error), "connection closed");
        }
    }
    if let Err(error) = link.close().await {
        debug!(peer = %address, error = telemetry::chain(&error), "not closed in order");
    }
}

/// Returns the box's leases when it ends, however it ends.
struct Connection {
    id: ConnectionId,
    shared: Arc<Shared>,
}

impl Connection {
    fn new(shared: Arc<Shared>) -> Self {
        let id = shared.fleet().connected();
        Self { id, shared }
    }

    async fn converse(
        &self,
        link: &mut Link,
        key: &KeyFingerprint,
        drain: &Drain,
    ) -> Result<(), BoxError> {
        let Timing { admission_max, idle_max, send_max } = self.shared.timing;
        let mut admitted = false;
        let admission = Instant::now() + admission_max;
        loop {
            let deadline = if admitted { Instant::now() + idle_max } else { admission };
            let message = tokio::select! {
                () = drain.started() => return Ok(()),
                () = tokio::time::sleep_until(deadline) => {
                    return if admitted { Ok(()) } else { Err(BoxError::NotAdmitted(admission_max)) };
                }
                received = link.recv() => received.map_err(BoxError::Receive)?,
            };
            match message {
                Message::Assign(assign) => {
                    let answer = self.assign(link, key, &assign);
                    admitted |= !matches!(answer, Message::Denied(_));
                    timeout(send_max, link.send(&answer))
                        .await
                        .map_err(|_| BoxError::AnswerTimedOut(send_max))?
                        .map_err(BoxError::Answer)?;
                }
                Message::Bye(bye) if admitted => {
                    let known = self.shared.fleet().bye(self.id, bye.lease);
                    self.shared.counters.bye(&bye, known);
                    debug!(session = %bye.session, lease = %bye.lease, known, "bye");
                }
                Message::Pong(_) => {}
                other => return Err(BoxError::Unexpected(other.name())),
            }
        }
    }

    fn assign(&self, link: &Link, key: &KeyFingerprint, assign: &Assign) -> Message {
        let Shared { tickets, clock, counters, .. } = &*self.shared;
        let address = link.peer_address();
        let ticket = match tickets.verify(&assign.ticket, clock(), key) {
            Ok(ticket) => ticket,
            Err(error) => {
                count(&counters.denied);
                warn!(peer = %address, %key, %error, step = "assign", "denied");
                return Message::Denied(Denied { reason: error.denied_reason() });
            }
        };
        let now = Instant::now().into_std();
        let assignment = self.shared.fleet().assign(self.id, &assign.exclude, now);
        match assignment {
            Assignment::Use { lease, proxy, alternates } => {
                count(&counters.assignments);
                debug!(mac = %ticket.mac, %lease, %proxy, alternates = alternates.len(), "use");
                Message::Use(Use { lease, proxy, alternates })
            }
            Assignment::Busy => {
                count(&counters.busy);
                info!(mac = %ticket.mac, excluded = assign.exclude.len(), "busy: no proxy to name");
                Message::Busy(Busy { retry_after_ms: self.shared.retry_after_ms })
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.fleet().disconnected(self.id);
    }
}
