//! The driver on the boxes' side: one connection each, many questions on it.

use std::sync::Arc;
use std::time::Duration;

use link::{Link, LinkError};
use service_kit::Drain;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};
use wire::identity::Peer;
use wire::ticket::{KeyFingerprint, SignedTicket, Ticket};
use wire::{Assign, Busy, Denied, DeniedReason, Message, Use};

use crate::Shared;
use crate::fleet::Assignment;
use crate::lease::ConnectionId;
use crate::quota::Surplus;
use service_kit::listener::count;

/// Refused tickets that end a connection: a box with a wrong one asks its auther, not us again.
pub const DENIALS_MAX: u32 = 16;
/// A ticket that was good is checked anew when it is shown after so long. A box shows the same one
/// with every question, and its signature costs more than all the rest of the answer.
const TICKET_TRUST: Duration = Duration::from_secs(10);

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
    #[error("step assign: {DENIALS_MAX} tickets refused")]
    Denied,
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
    let mut connection = Connection::new(shared, key);
    match connection.converse(&mut link, &drain).await {
        Ok(()) => debug!(peer = %address, "box has gone"),
        Err(BoxError::Receive(error)) if error.is_closed() => {
            debug!(peer = %address, error = telemetry::chain(&error), "box has gone");
        }
        Err(error) => {
            count(&connection.shared.counters.misbehaved);
            let key = connection.key;
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
    key: KeyFingerprint,
    shared: Arc<Shared>,
    /// The ticket that was good last, and until when it is taken without a look.
    trusted: Option<(SignedTicket, Ticket, Instant)>,
    denials: u32,
}

impl Connection {
    fn new(shared: Arc<Shared>, key: KeyFingerprint) -> Self {
        let id = shared.fleet().connected();
        Self { id, key, shared, trusted: None, denials: 0 }
    }

    async fn converse(&mut self, link: &mut Link, drain: &Drain) -> Result<(), BoxError> {
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
                    let answer = self.assign(link, assign);
                    admitted |= !matches!(answer, Message::Denied(_));
                    timeout(send_max, link.send(&answer))
                        .await
                        .map_err(|_| BoxError::AnswerTimedOut(send_max))?
                        .map_err(BoxError::Answer)?;
                    if self.denials >= DENIALS_MAX {
                        return Err(BoxError::Denied);
                    }
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

    fn assign(&mut self, link: &Link, assign: Assign) -> Message {
        let Assign { ticket, exclude } = assign;
        let ticket = match self.admit(link, ticket) {
            Ok(ticket) => ticket,
            Err(denied) => return Message::Denied(denied),
        };
        let Shared { counters, retry_after_ms, .. } = &*self.shared;
        let busy = Message::Busy(Busy { retry_after_ms: *retry_after_ms });
        let now = Instant::now().into_std();
        let mut fleet = self.shared.fleet();
        fleet.admitted(self.id, self.key, ticket.sessions_max, now);
        let assignment = fleet.assign(self.id, &exclude, now);
        drop(fleet);
        match assignment {
            Assignment::Use { lease, proxy, alternates } => {
                count(&counters.assignments);
                debug!(mac = %ticket.mac, %lease, %proxy, alternates = alternates.len(), "use");
                Message::Use(Use { lease, proxy, alternates })
            }
            Assignment::Busy => {
                count(&counters.busy);
                info!(mac = %ticket.mac, excluded = exclude.len(), "busy: no proxy to name");
                busy
            }
            Assignment::TooMany(surplus) => {
                match surplus {
                    Surplus::Sessions => count(&counters.surplus_sessions),
                    Surplus::Rate => count(&counters.surplus_rate),
                }
                debug!(mac = %ticket.mac, ?surplus, "busy: over the limits of its ticket");
                busy
            }
        }
    }

    /// The ticket, if it is good now.
    fn admit(&mut self, link: &Link, signed: SignedTicket) -> Result<Ticket, Denied> {
        let checked = self.verify(signed).and_then(|ticket| {
            // Every time, also of a ticket that is trusted: a suspension takes effect at once.
            match self.shared.revoked.revoked(&ticket) {
                Some(why) => Err((why.denied_reason(), format!("revoked: {why:?}"))),
                None => Ok(ticket),
            }
        });
        checked.map_err(|(reason, error)| {
            self.denials += 1;
            self.shared.counters.refused(reason);
            warn!(peer = %link.peer_address(), key = %self.key, error, step = "assign", "denied");
            Denied { reason }
        })
    }

    /// The ticket, if its times and its signature are good.
    fn verify(&mut self, signed: SignedTicket) -> Result<Ticket, (DeniedReason, String)> {
        let now = Instant::now();
        if let Some((trusted, ticket, until)) = &self.trusted
            && *trusted == signed
            && now < *until
        {
            return Ok(ticket.clone());
        }
        self.trusted = None;
        let verified = self.shared.tickets.verify(&signed, (self.shared.clock)(), &self.key);
        let ticket = verified.map_err(|error| (error.denied_reason(), error.to_string()))?;
        self.trusted = Some((signed, ticket.clone(), now + TICKET_TRUST));
        Ok(ticket)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.fleet().disconnected(self.id);
    }
}
