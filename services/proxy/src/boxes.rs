//! The driver on the boxes' side: waits for `Open`, connects, and has `session` carry the rest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use link::{Link, LinkError};
use service_kit::Drain;
use session::{Facts, Outcome, TcpLeg, carry};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};
use wire::ticket::{KeyFingerprint, Ticket};
use wire::{Denied, Message, Open, Opened, Refused, RefusedReason};

use crate::registry::{Place, network_of};
use crate::{Shared, announce};
use service_kit::listener::count;

/// Links that one network (an IPv4 address, an IPv6 /64) may keep warm.
pub const WARM_PER_NETWORK_MAX: usize = 32;
/// `Open`s on one link, the refused ones counted.
pub const OPENS_MAX: usize = 64;

/// How long a box may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the handshake, or a refusal, to the next `Open`. A link that waits longer is a warm
    /// one, and of these there are fewer: anybody can make a key and a handshake.
    pub open_max: Duration,
    /// How long a link is kept warm.
    pub warm_max: Duration,
    /// A message must be taken in this time.
    pub send_max: Duration,
    /// How long the box's `Bye` is waited for at the end of a session, whose place is free by then.
    pub bye_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            open_max: Duration::from_secs(30),
            warm_max: Duration::from_secs(10 * 60),
            send_max: Duration::from_secs(10),
            bye_max: Duration::from_secs(5),
        }
    }
}

/// Why a link ended, other than in order.
#[derive(Debug, thiserror::Error)]
enum BoxError {
    #[error("step open")]
    Receive(#[source] LinkError),
    #[error("step open: {0} is nothing that a box says here")]
    Unexpected(&'static str),
    #[error("step open: {OPENS_MAX} sessions asked for and none opened")]
    TooManyOpens,
    #[error("step answer")]
    Answer(#[source] LinkError),
    #[error("step answer: not taken within {0:?}")]
    AnswerTimedOut(Duration),
    #[error("step connect: the box left")]
    Left(#[source] LinkError),
}

impl BoxError {
    /// Whether the box simply went away.
    fn is_end(&self) -> bool {
        match self {
            Self::Receive(error) | Self::Answer(error) | Self::Left(error) => error.is_closed(),
            Self::Unexpected(_) | Self::TooManyOpens | Self::AnswerTimedOut(_) => false,
        }
    }
}

/// A session that may be opened, with its place.
struct Admitted {
    ticket: Ticket,
    destination: SocketAddr,
    place: Place<KeyFingerprint>,
}

/// What was said to an `Open`.
enum Step {
    /// It was refused; the link waits for the next.
    Refused,
    /// The box is not admitted: the link is closed.
    Denied,
    /// Both legs are there.
    Connected(Admitted, TcpLeg),
}

/// Serves one box's link until it has carried a session, or goes.
pub(crate) async fn serve(link: Link, key: KeyFingerprint, shared: Arc<Shared>, drain: Drain) {
    let address = link.peer_address();
    let mut conversation = Conversation { link, key, client: None, shared: &shared, drain: &drain };
    match conversation.open().await {
        Ok(Some((open, admitted, server))) => {
            let stream = conversation.link.into_session();
            carry_session(&open, admitted, stream, server, &shared).await;
            return;
        }
        Ok(None) => {}
        Err(error) if error.is_end() => {
            debug!(peer = %address, error = telemetry::chain(&error), "box has gone");
        }
        Err(error) => {
            count(&shared.counters.misbehaved);
            warn!(peer = %address, %key, error = telemetry::chain(&error), "connection closed");
        }
    }
    if let Err(error) = conversation.link.close().await {
        debug!(peer = %address, error = telemetry::chain(&error), "not closed in order");
    }
}

/// A link up to the session.
struct Conversation<'a> {
    link: Link,
    key: KeyFingerprint,
    /// Whom the next session is for, if the box said so.
    client: Option<SocketAddr>,
    shared: &'a Shared,
    drain: &'a Drain,
}

impl Conversation<'_> {
    /// Waits for an `Open` that comes to something; `None` when the link is to be closed.
    async fn open(&mut self) -> Result<Option<(Open, Admitted, TcpLeg)>, BoxError> {
        for _ in 0..OPENS_MAX {
            let Some(open) = self.receive_open().await? else { return Ok(None) };
            match self.answer(&open).await? {
                Step::Refused => {}
                Step::Denied => return Ok(None),
                Step::Connected(admitted, server) => return Ok(Some((open, admitted, server))),
            }
        }
        Err(BoxError::TooManyOpens)
    }

    /// The next `Open`; `None` when the wait is over or the drain starts. Pings are answered by the
    /// link meanwhile.
    async fn receive_open(&mut self) -> Result<Option<Open>, BoxError> {
        let start = Instant::now();
        let mut warm = None;
        let closing = self.shared.gate.closing();
        tokio::pin!(closing);
        loop {
            let Timing { open_max, warm_max, .. } = self.shared.timing;
            let deadline = start + if warm.is_some() { warm_max } else { open_max };
            let message = tokio::select! {
                () = self.drain.started() => return Ok(None),
                // A warm connection is of no use any more. Who connects later, with an assignment
                // from before, is told so in words.
                () = &mut closing => return Ok(None),
                () = sleep_until(deadline) => {
                    if warm.is_some() {
                        return Ok(None);
                    }
                    let network = network_of(self.link.peer_address().ip());
                    warm = self.shared.warm.take(network, WARM_PER_NETWORK_MAX);
                    if warm.is_none() {
                        debug!(peer = %self.link.peer_address(), "too many warm links");
                        return Ok(None);
                    }
                    continue;
                }
                received = self.link.recv() => received.map_err(BoxError::Receive)?,
            };
            match message {
                Message::Open(open) => return Ok(Some(open)),
                Message::Client(client) => self.client = Some(client.address),
                Message::Pong(_) => {}
                other => return Err(BoxError::Unexpected(other.name())),
            }
        }
    }

    async fn answer(&mut self, open: &Open) -> Result<Step, BoxError> {
        let admitted = match self.admit(open) {
            Ok(admitted) => admitted,
            Err(answer) => {
                self.send(&answer).await?;
                let denied = matches!(answer, Message::Denied(_));
                return Ok(if denied { Step::Denied } else { Step::Refused });
            }
        };
        self.send(&Message::Opening).await?;
        let start = Instant::now();
        match self.connect(open.destination, admitted.destination).await? {
            Ok(server) => {
                let connect_ms = u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX);
                self.send(&Message::Opened(Opened { connect_ms })).await?;
                Ok(Step::Connected(admitted, server))
            }
            Err(reason) => {
                self.shared.counters.not_connected(reason);
                let (session, destination) = (open.session, admitted.destination);
                info!(%session, mac = %admitted.ticket.mac, %destination, %reason, "not opened");
                self.send(&Message::Refused(Refused { reason })).await?;
                Ok(Step::Refused)
            }
        }
    }

    /// Whether this session may be opened; if not, what to answer.
    fn admit(&self, open: &Open) -> Result<Admitted, Message> {
        let Shared { counters, .. } = self.shared;
        let peer = self.link.peer_address();
        let session = open.session;
        let now_s = (self.shared.clock)();
        let verified = self.shared.tickets.verify(&open.ticket, now_s, &self.key);
        let checked = verified
            .map_err(|error| (error.denied_reason(), error.to_string()))
            .and_then(|ticket| match self.shared.revoked.revoked(&ticket) {
                Some(why) => Err((why.denied_reason(), format!("revoked: {why}"))),
                None => Ok(ticket),
            });
        let ticket = checked.map_err(|(reason, error)| {
            counters.refused(reason);
            warn!(%peer, key = %self.key, %session, error, step = "open", "denied");
            Message::Denied(Denied { reason })
        })?;
        let mac = ticket.mac;
        let refused = |counter, reason: RefusedReason| {
            count(counter);
            warn!(%peer, %mac, %session, destination = %open.destination, %reason, "refused");
            Message::Refused(Refused { reason })
        };
        if open.hops_left == 0 {
            return Err(refused(&counters.loops, RefusedReason::Loop));
        }
        let destination = self.shared.policy.check(open.destination).map_err(|why| {
            count(&counters.forbidden);
            warn!(%peer, %mac, %session, destination = %open.destination, %why, "forbidden");
            Message::Refused(Refused { reason: RefusedReason::Policy })
        })?;
        let sessions_max = usize::try_from(ticket.sessions_max).unwrap_or(usize::MAX);
        let place = self
            .shared
            .sessions
            .take(self.key, sessions_max)
            .ok_or_else(|| refused(&counters.full, RefusedReason::Full))?;
        // With its place taken: who drains sees the one or is seen by the other.
        if self.drain.is_draining() || self.shared.gate.is_drained() {
            return Err(refused(&counters.draining, RefusedReason::Draining));
        }
        Ok(Admitted { ticket, destination, place })
    }

    /// Connects to the mail server, which the client calls `called`, unless the box goes meanwhile.
    async fn connect(
        &mut self,
        called: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Result<TcpLeg, RefusedReason>, BoxError> {
        let header = self.header(called, destination);
        let connecting = timeout(self.shared.connect_time_max, connect(destination, &header));
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                connected = &mut connecting => {
                    return Ok(connected.unwrap_or(Err(RefusedReason::ServerTimedOut)));
                }
                received = self.link.recv() => match received.map_err(BoxError::Left)? {
                    Message::Pong(_) => {}
                    other => return Err(BoxError::Unexpected(other.name())),
                },
            }
        }
    }

    /// What this mail server is told in front of the first byte: mostly nothing.
    fn header(&mut self, called: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        // Only for this session, whatever comes of it.
        let client = self.client.take();
        let Shared { announced_to, counters, .. } = self.shared;
        if !announced_to.iter().any(|network| network.contains(destination.ip())) {
            return Vec::new();
        }
        let client = client.and_then(announce::nameable);
        match client {
            Some(_) => count(&counters.announced),
            None => count(&counters.announced_nobody),
        }
        announce::header(client, called)
    }

    async fn send(&mut self, message: &Message) -> Result<(), BoxError> {
        let send_max = self.shared.timing.send_max;
        timeout(send_max, self.link.send(message))
            .await
            .map_err(|_| BoxError::AnswerTimedOut(send_max))?
            .map_err(BoxError::Answer)
    }
}

/// A connection to the mail server, `header` already said on it.
async fn connect(destination: SocketAddr, header: &[u8]) -> Result<TcpLeg, RefusedReason> {
    let mut stream = TcpStream::connect(destination).await.map_err(|error| refusal(&error))?;
    // A socket that refuses a few bytes or its options was closed by the server already.
    stream.write_all(header).await.map_err(|_| RefusedReason::ServerRefused)?;
    TcpLeg::new(stream).map_err(|_| RefusedReason::ServerRefused)
}

/// What a failed connection means for the client.
fn refusal(error: &io::Error) -> RefusedReason {
    use io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown,
        NetworkUnreachable, PermissionDenied, TimedOut,
    };
    match error.kind() {
        ConnectionRefused | ConnectionReset => RefusedReason::ServerRefused,
        TimedOut => RefusedReason::ServerTimedOut,
        HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable
        | PermissionDenied => RefusedReason::ServerUnreachable,
        _ => {
            // This proxy's own trouble, as no file descriptors left: others may do better.
            error!(%error, step = "connect", "cannot open connections");
            RefusedReason::Full
        }
    }
}

/// Carries one session from its two legs to the box's `Bye`.
async fn carry_session(
    open: &Open,
    admitted: Admitted,
    client: link::SessionStream,
    server: TcpLeg,
    shared: &Shared,
) {
    let Admitted { ticket, destination, place } = admitted;
    count(&shared.counters.sessions);
    let protocol = match open.protocol {
        wire::Protocol::Smtp => mail::Protocol::Smtp,
        wire::Protocol::Pop3 => mail::Protocol::Pop3,
    };
    let start = Instant::now();
    debug!(session = %open.session, mac = %ticket.mac, %destination, "session opened");
    let facts = Facts {
        id: open.session.to_string(),
        protocol,
        client: ticket.mac.to_string(),
        server: destination.to_string(),
        way: "direct".to_owned(),
    };
    let carried = carry(&facts, client, server, &shared.carrier).await;
    drop((carried.server, place));
    shared.counters.session(&carried.outcome);
    log(open, &ticket, destination, &carried.outcome, start.elapsed());
    // A leg that was reset is gone already, and with it the word.
    if let Some(mut client) = carried.client
        && let Ok(Some(bye)) = timeout(shared.timing.bye_max, client.recv_bye()).await
    {
        count(&shared.counters.byes);
        debug!(session = %bye.session, messages = bye.messages, infected = bye.infected, "bye");
    }
}

fn log(
    open: &Open,
    ticket: &Ticket,
    destination: SocketAddr,
    outcome: &Outcome,
    duration: Duration,
) {
    info!(
        session = %open.session,
        mac = %ticket.mac,
        %destination,
        protocol = %open.protocol,
        bytes_up = outcome.bytes_up,
        bytes_down = outcome.bytes_down,
        messages = outcome.messages,
        infected = outcome.infected,
        unscannable = outcome.unscannable,
        aborted = outcome.aborted,
        violations = outcome.violations,
        opaque = ?outcome.opaque,
        reset = outcome.reset,
        duration_ms = duration.as_millis(),
        "session"
    );
}
