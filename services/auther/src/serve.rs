//! The server: a box says `Hello`, and gets a ticket or a reason.
//!
//! One connection, one question. SQLite blocks, so one thread has the registry; the connections
//! send it their logins through a bounded queue, and where that is full a box is told `Unavailable`,
//! which costs it nothing: it goes on with the ticket it has and asks again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use link::{Acceptor, Link};
use service_kit::host::WallClock;
use service_kit::listener::{Counters as ListenerCounters, bind, count};
use service_kit::{Drain, Limits};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{error, info, warn};
use wire::identity::Peer;
use wire::ticket::{KeyFingerprint, Ticket, TicketSigner};
use wire::{Denied, DeniedReason, Hello, Message};

use crate::registry::{Login, Registry};
use crate::settings::Ready;

/// From the end of the handshake to the `Hello`.
pub const HELLO_TIME_MAX: Duration = Duration::from_secs(10);
/// For the answer to be taken by the box.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Logins that wait for the registry. At some thousand logins a second it is behind by a fraction
/// of a second at most; only a locked or failing disk fills it.
pub const LOGINS_WAITING_MAX: usize = 64;
/// From the start of the drain to its end: a login takes well below a second.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Logins since the start, by what became of them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Tickets handed out.
    pub admitted: AtomicU64,
    /// Of these, first logins, which bound a key.
    pub enrolled: AtomicU64,
    /// Denied for another reason than the following.
    pub denied: AtomicU64,
    /// Denied because another key is bound: a box was reset, or somebody uses its address.
    pub denied_other_key: AtomicU64,
    /// Denied because the registry could not be asked.
    pub unavailable: AtomicU64,
    /// Connections that did not say a proper `Hello`, or did not take the answer.
    pub broken: AtomicU64,
}

/// A server that has its port.
#[derive(Debug)]
pub struct Auther {
    listener: TcpListener,
    acceptor: Acceptor,
    limits: Limits,
    desk: Arc<Desk>,
}

impl Auther {
    /// Binds the port. `clock` gives the wall clock.
    ///
    /// # Errors
    /// The port cannot be had, or the registry's thread not be started.
    pub async fn bind(ready: Ready, clock: WallClock) -> anyhow::Result<Self> {
        ready.tls.warn_if_open();
        let listener = bind(ready.listen).await?;
        let acceptor = Acceptor::new(ready.tls.server, ready.tls.roots);
        let logins = start_registry(ready.registry, ready.enrolment_window_s)?;
        let desk = Desk { logins, signer: ready.signer, clock, counters: Arc::default() };
        let limits = Limits { connections_max: ready.connections_max, drain_max: DRAIN_MAX };
        Ok(Self { listener, acceptor, limits, desk: Arc::new(desk) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Logins so far; live while the server runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.desk.counters.clone()
    }

    /// Serves until the drain is over.
    pub async fn serve(self, drain: Drain) {
        let desk = self.desk.clone();
        let handler = move |link, address| {
            let desk = desk.clone();
            async move { desk.attend(link, address).await }
        };
        let seen = Arc::new(ListenerCounters::default());
        let (listener, acceptor) = (self.listener, self.acceptor);
        service_kit::serve(listener, acceptor, self.limits, seen.clone(), drain, handler).await;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let logins = &self.desk.counters;
        info!(
            admitted = read(&logins.admitted),
            enrolled = read(&logins.enrolled),
            denied = read(&logins.denied),
            denied_other_key = read(&logins.denied_other_key),
            unavailable = read(&logins.unavailable),
            broken = read(&logins.broken),
            connections = %seen,
            "stopped"
        );
    }
}

/// What every connection needs.
#[derive(Debug)]
struct Desk {
    logins: mpsc::Sender<Question>,
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
            // The box has its answer, or will ask again.
            tracing::debug!(peer = %address, error = telemetry::chain(&error), "not closed");
        }
    }

    async fn converse(&self, link: &mut Link, address: SocketAddr) -> Result<(), Trouble> {
        let step = "hello";
        let &Peer::Device(key) = link.peer() else {
            let error = "only boxes log in here, and this is a server of the fleet".to_owned();
            return Err(Trouble { step, error });
        };
        let hello = match timeout(HELLO_TIME_MAX, link.recv()).await {
            Ok(Ok(Message::Hello(hello))) => hello,
            Ok(Ok(other)) => {
                let error = format!("the peer sent {} where Hello was expected", other.name());
                return Err(Trouble { step, error });
            }
            Ok(Err(error)) => return Err(Trouble { step, error: telemetry::chain(&error) }),
            Err(_) => {
                let error = format!("the peer said nothing for {HELLO_TIME_MAX:?}");
                return Err(Trouble { step, error });
            }
        };
        let answer = self.answer(hello, key, address).await;
        let step = "answer";
        match timeout(ANSWER_TIME_MAX, link.send(&answer)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Trouble { step, error: telemetry::chain(&error) }),
            Err(_) => {
                let error = format!("the peer did not take it for {ANSWER_TIME_MAX:?}");
                Err(Trouble { step, error })
            }
        }
    }

    async fn answer(&self, hello: Hello, key: KeyFingerprint, address: SocketAddr) -> Message {
        let mac = hello.mac;
        let software = telemetry::escape(hello.software.as_bytes()).to_string();
        let now_s = (self.clock)();
        let reason = match self.ask(hello, key, now_s).await {
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
                error!(peer = %address, %mac, error, "the registry gives no answer");
                DeniedReason::Unavailable
            }
        };
        match reason {
            DeniedReason::OtherKey => {
                count(&self.counters.denied_other_key);
                warn!(
                    peer = %address, %mac, %key, software,
                    "denied: another key is bound to this address; if the box was reset or \
                     replaced, `avr-auther remove` and `add` it again"
                );
            }
            DeniedReason::Unavailable => {
                count(&self.counters.unavailable);
            }
            reason => {
                count(&self.counters.denied);
                info!(peer = %address, %mac, %key, software, %reason, "denied");
            }
        }
        Message::Denied(Denied { reason })
    }

    /// Asks the registry's thread.
    async fn ask(&self, hello: Hello, key: KeyFingerprint, now_s: u64) -> Result<Login, String> {
        let (reply, answer) = oneshot::channel();
        self.logins.try_send(Question { hello, key, now_s, reply }).map_err(
            |error| match error {
                mpsc::error::TrySendError::Full(_) => {
                    format!("{LOGINS_WAITING_MAX} logins wait for it already")
                }
                mpsc::error::TrySendError::Closed(_) => "its thread has ended".to_owned(),
            },
        )?;
        answer.await.unwrap_or_else(|_| Err("its thread has ended".to_owned()))
    }
}

/// A login for the registry's thread.
#[derive(Debug)]
struct Question {
    hello: Hello,
    key: KeyFingerprint,
    now_s: u64,
    reply: oneshot::Sender<Result<Login, String>>,
}

/// A connection that did not go as it should, and where.
struct Trouble {
    step: &'static str,
    error: String,
}

/// Gives the registry a thread of its own. It ends when nobody can ask any more.
fn start_registry(
    mut registry: Registry,
    enrolment_window_s: u64,
) -> std::io::Result<mpsc::Sender<Question>> {
    let (sender, mut questions) = mpsc::channel::<Question>(LOGINS_WAITING_MAX);
    std::thread::Builder::new().name("registry".to_owned()).spawn(move || {
        while let Some(Question { hello, key, now_s, reply }) = questions.blocking_recv() {
            let login = registry.login(hello.mac, key, &hello.software, now_s, enrolment_window_s);
            // The box may have gone in the meantime.
            let _ = reply.send(login.map_err(|error| telemetry::chain(&error)));
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests;
