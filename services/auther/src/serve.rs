//! The server: a box says `Hello` and gets a ticket or a reason; a server of a site says `Fetch` and
//! gets the list of void tickets. Beside it the operators' ways in, and the status port.
//!
//! One connection, one question. Where the registry is busy a box is told `Unavailable`, which costs
//! it nothing: it goes on with the ticket it has and asks again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use link::{Acceptor, Link};
use service_kit::host::WallClock;
use service_kit::http::{Pages, Status};
use service_kit::listener::{Counters as ListenerCounters, bind, count};
use service_kit::metrics::{Counter, Family, Gauge, Label, Registry as Metrics};
use service_kit::{Drain, Limits};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::{error, info, warn};
use wire::identity::Peer;
use wire::revocation::{RevocationPart, SignedRevocations};
use wire::ticket::{KeyFingerprint, Ticket, TicketSigner};
use wire::{Denied, DeniedReason, Fetch, Hello, Message};

use crate::api::{self, Counters as AdminCounters, Listeners};
use crate::registry::{Login, LoginRequest, Registry};
use crate::settings::Ready;

/// From the end of the handshake to the question.
pub const HELLO_TIME_MAX: Duration = Duration::from_secs(10);
/// For the answer to be taken by the peer.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// From the start of the drain to its end: a login takes well below a second.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Between two looks at the registry, for readiness.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);

service_kit::counters! {
    /// Logins and questions since the start, by what became of them.
    pub struct Counters {
        /// Tickets handed out.
        admitted,
        /// First logins, which bound a key.
        enrolled,
        /// Logins denied.
        denied,
        /// Lists of revocations sent.
        lists_sent,
        /// Connections that did not ask a proper question, or did not take the answer.
        broken,
    } with {
        /// Of the logins denied, by reason.
        pub refusals: Family<Label, Counter>,
    }
}

/// Why a login is denied, as the value of a label. What else there is, is said of tickets, which are
/// not looked at here.
const REASONS: [(DeniedReason, &str); 5] = [
    (DeniedReason::Unknown, "unknown"),
    (DeniedReason::Suspended, "suspended"),
    (DeniedReason::EnrolmentClosed, "enrolment-closed"),
    (DeniedReason::OtherKey, "other-key"),
    (DeniedReason::Unavailable, "unavailable"),
];

/// A server that has its ports.
#[derive(Debug)]
pub struct Auther {
    listener: TcpListener,
    acceptor: Acceptor,
    limits: Limits,
    desk: Arc<Desk>,
    admin: Listeners,
    admin_counters: Arc<AdminCounters>,
    status: Option<Status>,
}

impl Auther {
    /// Binds the ports. `clock` gives the wall clock.
    ///
    /// # Errors
    /// A port or the socket cannot be had.
    pub async fn bind(ready: Ready, clock: WallClock) -> anyhow::Result<Self> {
        ready.tls.warn_if_open();
        let listener = bind(ready.listen).await?;
        let admin = Listeners::bind(ready.admin, ready.socket.as_ref()).await?;
        let status = match ready.status {
            Some(status) => Some(Status::bind(status).await?),
            None => None,
        };
        let acceptor = Acceptor::new(ready.tls.server, ready.tls.roots);
        let desk = Desk {
            registry: ready.registry,
            window_s: ready.enrolment_window_s,
            signer: ready.signer,
            clock,
            counters: Arc::default(),
        };
        let limits = Limits { connections_max: ready.connections_max, drain_max: DRAIN_MAX };
        let (desk, admin_counters) = (Arc::new(desk), Arc::default());
        Ok(Self { listener, acceptor, limits, desk, admin, admin_counters, status })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the HTTP API is.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    /// Where the status port is.
    #[must_use]
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status.as_ref().and_then(|status| status.address().ok())
    }

    /// Logins so far; live while the server runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.desk.counters.clone()
    }

    /// What the admin API has seen; live while the server runs.
    #[must_use]
    pub fn admin_counters(&self) -> Arc<AdminCounters> {
        self.admin_counters.clone()
    }

    /// Serves until the drain is over.
    pub async fn serve(self, drain: Drain) {
        let Self { listener, acceptor, limits, desk, admin, admin_counters, status } = self;
        let seen = Arc::new(ListenerCounters::default());
        let health = Arc::new(Health::default());
        let mut metrics = Metrics::with_prefix("avr_auther");
        desk.counters.register_all(&mut metrics);
        seen.register(metrics.sub_registry_with_prefix("connections"));
        admin_counters.register(metrics.sub_registry_with_prefix("admin"));
        let admin_connections = metrics.sub_registry_with_prefix("admin_connections");
        admin_counters.connections.register(admin_connections);
        health.register(&mut metrics);

        let router = api::router(desk.registry.clone(), desk.clock, admin_counters.clone());
        let admin = admin.serve(router, admin_counters.clone(), drain.clone(), DRAIN_MAX);
        let beside = async {
            let missing = health.clone();
            let pages = Pages {
                registry: metrics,
                missing: Box::new(move || missing.missing()),
                more: axum::Router::new(),
            };
            let status = async {
                if let Some(status) = status {
                    status.serve(pages).await;
                }
            };
            tokio::join!(status, watch(&desk.registry, &health))
        };
        let attending = desk.clone();
        let handler = move |link, address| {
            let desk = attending.clone();
            async move { desk.attend(link, address).await }
        };
        let boxes = service_kit::serve(listener, acceptor, limits, seen.clone(), drain, handler);
        tokio::select! {
            _ = async { tokio::join!(boxes, admin) } => {}
            _ = beside => {}
        }
        info!(logins = %desk.counters, connections = %seen, admin = %admin_counters, "stopped");
    }
}

/// Whether the registry could be read at the last look.
#[derive(Debug)]
struct Health {
    trouble: Mutex<Option<String>>,
    registry_up: Gauge,
    primary_away: Gauge,
}

impl Default for Health {
    fn default() -> Self {
        let trouble = Mutex::new(Some("the registry has not been looked at yet".to_owned()));
        Self { trouble, registry_up: Gauge::default(), primary_away: Gauge::default() }
    }
}

impl Health {
    fn register(&self, metrics: &mut Metrics) {
        let help = "1 while the registry can be read";
        metrics.register("registry_up", help, self.registry_up.clone());
        let help = "1 while the primary of the registry does not answer";
        metrics.register("registry_primary_away", help, self.primary_away.clone());
    }

    fn missing(&self) -> Vec<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.iter().cloned().collect()
    }

    async fn look(&self, registry: &Registry) {
        // Where it is and how it fails is for the log; the status port may be read by others.
        let trouble = registry.check().await.err().map(|error| {
            warn!(error = telemetry::chain(&error), "not ready");
            "the registry cannot be read".to_owned()
        });
        self.registry_up.set(i64::from(trouble.is_none()));
        self.primary_away.set(i64::from(registry.is_primary_away() == Some(true)));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Looks at the registry for ever.
async fn watch(registry: &Registry, health: &Health) {
    loop {
        health.look(registry).await;
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// What every connection needs.
#[derive(Debug)]
struct Desk {
    registry: Registry,
    window_s: u64,
    signer: TicketSigner,
    clock: WallClock,
    counters: Arc<Counters>,
}

impl Desk {
    /// One connection, from the handshake to its end.
    async fn attend(&self, mut link: Link, address: SocketAddr) {
        if let Err(trouble) = self.converse(&mut link, address).await {
            count(&self.counters.broken);
            let Trouble { step, error } = trouble;
            info!(peer = %address, who = %link.peer(), step, error, "connection given up");
            return;
        }
        if let Err(error) = link.close().await {
            // The peer has its answer, or will ask again.
            tracing::debug!(peer = %address, error = telemetry::chain(&error), "not closed");
        }
    }

    async fn converse(&self, link: &mut Link, address: SocketAddr) -> Result<(), Trouble> {
        let trouble = |error| Trouble { step: "question", error };
        let question = match timeout(HELLO_TIME_MAX, link.recv()).await {
            Ok(Ok(question)) => question,
            Ok(Err(error)) => return Err(trouble(telemetry::chain(&error))),
            Err(_) => return Err(trouble(format!("the peer said nothing for {HELLO_TIME_MAX:?}"))),
        };
        match (link.peer().clone(), question) {
            (Peer::Device(key), Message::Hello(hello)) => {
                let answer = self.answer(hello, key, address).await;
                send(link, &answer).await
            }
            (Peer::Server { .. }, Message::Fetch(Fetch { after })) => {
                for part in self.revocations(after).await? {
                    send(link, &Message::Revocations(part)).await?;
                }
                count(&self.counters.lists_sent);
                Ok(())
            }
            (Peer::Device(_), other) => {
                Err(trouble(format!("a box sent {} where Hello was expected", other.name())))
            }
            (Peer::Server { .. }, other) => Err(trouble(format!(
                "a server of the fleet sent {} where Fetch was expected",
                other.name()
            ))),
        }
    }

    /// The list of void tickets in signed parts, for somebody who has the list of number `after`.
    async fn revocations(&self, after: u64) -> Result<Vec<SignedRevocations>, Trouble> {
        let trouble = |error| Trouble { step: "revocations", error };
        let now_s = (self.clock)();
        let list = self.registry.revocations(now_s).await;
        let (number, list) = list.map_err(|error| {
            error!(error = telemetry::chain(&error), "the registry gives no answer");
            trouble("the registry gives no answer".to_owned())
        })?;
        let parts = if number == after {
            vec![RevocationPart::unchanged(number, now_s)]
        } else {
            RevocationPart::split(number, now_s, &list).ok_or_else(|| {
                let error = format!("{} revocations are more than a list has", list.len());
                error!(error, "no list of revocations is sent");
                trouble(error)
            })?
        };
        let sign = |part| self.signer.sign_revocations(part);
        let signed = parts.iter().map(sign).collect::<Result<_, _>>();
        signed.map_err(|error| trouble(telemetry::chain(&error)))
    }

    async fn answer(&self, hello: Hello, key: KeyFingerprint, address: SocketAddr) -> Message {
        let mac = hello.mac;
        let software = telemetry::escape(hello.software.as_bytes()).to_string();
        let (now_s, window_s) = ((self.clock)(), self.window_s);
        let request = LoginRequest { mac, key, software: hello.software, now_s, window_s };
        let reason = match self.registry.login(request).await {
            Ok(Login::Admitted { sessions_max, enrolled }) => {
                match self.signer.sign(&Ticket::new(mac, key, now_s, sessions_max)) {
                    Ok(ticket) => {
                        count(&self.counters.admitted);
                        if enrolled {
                            count(&self.counters.enrolled);
                        }
                        info!(peer = %address, %mac, %key, software, enrolled, "admitted");
                        return Message::Ticket(ticket);
                    }
                    Err(error) => {
                        error!(%mac, error = telemetry::chain(&error), "a ticket is not signed");
                        DeniedReason::Unavailable
                    }
                }
            }
            Ok(Login::Denied(reason)) => reason,
            Err(error) => {
                let error = telemetry::chain(&error);
                error!(peer = %address, %mac, error, "the registry gives no answer");
                DeniedReason::Unavailable
            }
        };
        self.counters.refused(reason);
        match reason {
            DeniedReason::OtherKey => warn!(
                peer = %address, %mac, %key, software,
                "denied: another key is bound to this address; if the box was reset or \
                 exchanged, `avr-auther replace-key`"
            ),
            reason => info!(peer = %address, %mac, %key, software, %reason, "denied"),
        }
        Message::Denied(Denied { reason })
    }
}

impl Counters {
    fn refused(&self, reason: DeniedReason) {
        count(&self.denied);
        self.refused_for(reason).inc();
    }

    /// Logins denied for this reason.
    #[must_use]
    pub fn refused_for(&self, reason: DeniedReason) -> Counter {
        let known = REASONS.iter().find(|(known, _)| *known == reason);
        let name = known.map_or("other", |(_, name)| *name);
        self.refusals.get_or_create(&[("reason", name)]).clone()
    }

    /// Adds every counter, and every reason with its zero, so that a rule has something to look at.
    fn register_all(&self, metrics: &mut Metrics) {
        self.register(metrics);
        for (reason, _) in REASONS {
            let _ = self.refused_for(reason);
        }
        metrics.register("refusals", "Logins denied, by reason", self.refusals.clone());
    }
}

async fn send(link: &mut Link, message: &Message) -> Result<(), Trouble> {
    let trouble = |error| Trouble { step: "answer", error };
    match timeout(ANSWER_TIME_MAX, link.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(trouble(telemetry::chain(&error))),
        Err(_) => Err(trouble(format!("the peer did not take it for {ANSWER_TIME_MAX:?}"))),
    }
}

/// A connection that did not go as it should, and where.
struct Trouble {
    step: &'static str,
    error: String,
}

#[cfg(test)]
mod tests;
