//! One manager's connection: a task that keeps it open, asks over it, and pings it when it is quiet.
//!
//! Starting the task is also the probe of a dead manager: it connects, asks, and tells the core how
//! that went. Answers come in the order of the questions, as the protocol has no numbers.
//!
//! A manager counts leases by connection, and hears nothing on one before an `Assign`: so a probe
//! is an `Assign` whose lease is given back, and a `Bye` goes over an admitted connection or not at
//! all.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use link::{Link, LinkError};
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use wire::identity::Role;
use wire::{Assign, Bye, DeniedReason, Message, Use};

use crate::limits::{ASSIGNS_UNANSWERED_MAX, MANAGER_QUEUE_MAX, Timing};
use crate::managers::Heard;
use crate::shared::{Core, LeaseGuard, Shared};

/// What a manager's task is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Name a proxy. The sender is dropped if no answer came.
    Assign(Box<Assign>, oneshot::Sender<Reply>),
    /// Say that a session is over.
    Bye(Box<Bye>),
    /// Find out whether it answers an `Assign`.
    Probe,
    /// Find out whether the connection is still there.
    Ping,
}

/// What a manager said to an `Assign`. Dropped unheard, it gives its lease back.
#[derive(Debug)]
pub(crate) enum Reply {
    Use { lease: LeaseGuard, proxy: SocketAddr, alternates: Vec<SocketAddr> },
    Busy(Duration),
    Denied(DeniedReason),
}

/// Why a manager's connection ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("connect to the manager")]
    Connect(#[source] LinkError),
    #[error("talk to the manager")]
    Link(#[from] LinkError),
    #[error("the manager took nothing more")]
    SendTimedOut,
    #[error("the manager did not answer a ping in time")]
    Silent,
    #[error("the manager did not answer an Assign in time")]
    Unanswered,
    #[error("the manager answered what was not asked")]
    Unasked,
    /// Nobody's fault: it may be stopping, or tired of a quiet connection.
    #[error("the manager closed the connection in order")]
    Ended,
}

/// Hands a request to the manager's task, which is started if there is none. Gives the request back
/// if its queue is full.
pub(crate) fn request(
    shared: &Arc<Shared>,
    core: &mut Core,
    manager: SocketAddr,
    request: Request,
) -> Result<(), Request> {
    let request = match core.links.get(&manager) {
        Some(queue) => match queue.try_send(request) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(request)) => return Err(request),
            Err(mpsc::error::TrySendError::Closed(request)) => request,
        },
        None => request,
    };
    let (queue, requests) = mpsc::channel(MANAGER_QUEUE_MAX);
    queue.try_send(request).map_err(|full| full.into_inner())?;
    core.links.insert(manager, queue);
    let task = ManagerLink { shared: Arc::clone(shared), manager, requests };
    shared.spawn(task.run());
    Ok(())
}

struct ManagerLink {
    shared: Arc<Shared>,
    manager: SocketAddr,
    requests: mpsc::Receiver<Request>,
}

/// The connection with what is owed on it.
struct Open {
    link: Link,
    /// Questions without an answer yet, oldest first.
    unanswered: VecDeque<(Instant, oneshot::Sender<Reply>)>,
    ping: Option<Instant>,
    ping_number: u64,
    /// An `Assign` was not denied on it.
    admitted: bool,
    since: Instant,
    last_heard: Instant,
    last_used: Instant,
}

/// What happened on an open connection.
enum Event {
    Request(Option<Request>),
    Message(Result<Message, LinkError>),
    Time,
}

impl ManagerLink {
    async fn run(mut self) {
        let Err(failure) = self.serve().await else { return };
        let mut core = self.shared.core();
        core.links.remove(&self.manager);
        let now = crate::shared::now();
        let died = match failure {
            Failure::Unanswered => core.managers.unanswered(self.manager, now),
            Failure::Ended => {
                core.managers.lost(self.manager);
                false
            }
            _ => core.managers.failed(self.manager, now),
        };
        if died {
            core.counters.manager_failures += 1;
        }
        drop(core);
        let error = telemetry::chain(&failure);
        if died {
            tracing::warn!(manager = %self.manager, %error, "manager is dead");
        } else {
            tracing::debug!(manager = %self.manager, %error, "connection to manager ended");
        }
        self.shared.bells.prober.notify_one();
        self.shared.bells.keeper.notify_one();
    }

    /// Returns when nobody needs the connection any more, with the entry in the core removed.
    async fn serve(&mut self) -> Result<(), Failure> {
        let timing = self.shared.timing().clone();
        let tls = Arc::clone(&self.shared.tls);
        let link = link::connect(self.manager, Role::Manager, tls, timing.manager_answer_max)
            .await
            .map_err(Failure::Connect)?;
        let now = Instant::now();
        let mut open = Open {
            link,
            unanswered: VecDeque::new(),
            ping: None,
            ping_number: 0,
            admitted: false,
            since: now,
            last_heard: now,
            last_used: now,
        };
        loop {
            let accepting = open.unanswered.len() < ASSIGNS_UNANSWERED_MAX;
            let next_time = open.next_time(&self.shared);
            let event = tokio::select! {
                request = self.requests.recv(), if accepting => Event::Request(request),
                message = open.link.recv() => Event::Message(message),
                () = sleep_until(next_time) => Event::Time,
            };
            match event {
                Event::Request(Some(request)) => self.take(&mut open, request).await?,
                Event::Request(None) => return Ok(()),
                Event::Message(Err(LinkError::Closed)) if open.has_lasted(&timing) => {
                    return Err(Failure::Ended);
                }
                Event::Message(message) => self.hear(&mut open, message?).await?,
                Event::Time => {
                    if self.keep_time(&mut open).await? {
                        // Nothing is lost if the peer is gone before it has seen the end.
                        let _ = open.link.close().await;
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn take(&self, open: &mut Open, request: Request) -> Result<(), Failure> {
        let now = Instant::now();
        match request {
            Request::Assign(assign, reply) => {
                if reply.is_closed() {
                    return Ok(());
                }
                open.last_used = now;
                open.unanswered.push_back((now, reply));
                self.send(open, &Message::Assign(*assign)).await
            }
            Request::Bye(bye) if open.admitted => self.send(open, &Message::Bye(*bye)).await,
            Request::Bye(_) => Ok(()),
            // What is unanswered is probe enough.
            Request::Probe if !open.unanswered.is_empty() => Ok(()),
            Request::Probe => {
                let (ticket, exclude) = {
                    let core = self.shared.core();
                    let now = now.into_std();
                    (core.ticket(now), core.proxies.excluded(self.manager, now))
                };
                let Ok(ticket) = ticket else { return self.ping(open, now).await };
                // Nobody waits for this answer, so its lease comes back at once.
                open.unanswered.push_back((now, oneshot::channel().0));
                self.shared.core().managers.asked(self.manager, now.into_std());
                self.send(open, &Message::Assign(Assign { ticket, exclude })).await
            }
            Request::Ping if open.ping.is_none() => self.ping(open, now).await,
            Request::Ping => Ok(()),
        }
    }

    async fn hear(&self, open: &mut Open, message: Message) -> Result<(), Failure> {
        let now = Instant::now();
        open.last_heard = now;
        let reply = match message {
            Message::Use(Use { lease, proxy, alternates }) => {
                open.admitted = true;
                let lease = self.shared.lease(self.manager, lease);
                Reply::Use { lease, proxy, alternates }
            }
            Message::Busy(busy) => {
                open.admitted = true;
                let limit = self.shared.timing().busy_max;
                Reply::Busy(Duration::from_millis(busy.retry_after_ms.into()).min(limit))
            }
            Message::Denied(denied) => Reply::Denied(denied.reason),
            Message::Pong(number) if number == open.ping_number => {
                if let Some(sent) = open.ping.take() {
                    self.alive(Heard::Pong, now - sent);
                }
                return Ok(());
            }
            Message::Pong(_) => return Ok(()),
            _ => return Err(Failure::Unasked),
        };
        let (asked, to) = open.unanswered.pop_front().ok_or(Failure::Unasked)?;
        self.alive(Heard::Assign, now - asked);
        // If another manager was quicker, or the session is gone, the lease goes back by itself.
        let _ = to.send(reply);
        Ok(())
    }

    /// True if the connection may be closed; it is then no longer in the core.
    async fn keep_time(&self, open: &mut Open) -> Result<bool, Failure> {
        let timing = self.shared.timing();
        let now = Instant::now();
        if open.unanswered.front().is_some_and(|(at, _)| now >= *at + timing.manager_answer_max) {
            return Err(Failure::Unanswered);
        }
        if open.ping.is_some_and(|sent| now >= sent + timing.pong_max) {
            return Err(Failure::Silent);
        }
        if open.unanswered.is_empty() && now >= open.last_used + timing.manager_idle_max {
            let mut core = self.shared.core();
            let first = core.managers.preferred(now.into_std()) == Some(self.manager);
            // Requests are queued under the same lock, so none is lost.
            if !first && self.requests.is_empty() {
                core.links.remove(&self.manager);
                return Ok(true);
            }
            open.last_used = now;
        }
        if open.ping.is_none() && now >= open.last_heard + timing.ping_interval {
            self.ping(open, now).await?;
        }
        Ok(false)
    }

    async fn ping(&self, open: &mut Open, now: Instant) -> Result<(), Failure> {
        open.ping_number = open.ping_number.wrapping_add(1);
        open.ping = Some(now);
        self.shared.core().managers.asked(self.manager, now.into_std());
        self.send(open, &Message::Ping(open.ping_number)).await
    }

    async fn send(&self, open: &mut Open, message: &Message) -> Result<(), Failure> {
        timeout(self.shared.timing().send_max, open.link.send(message))
            .await
            .map_err(|_| Failure::SendTimedOut)?
            .map_err(Failure::Link)
    }

    fn alive(&self, heard: Heard, took: Duration) {
        let mut core = self.shared.core();
        let recovered = core.managers.answered(self.manager, heard, took);
        core.heard_at(self.manager);
        drop(core);
        if recovered {
            tracing::info!(manager = %self.manager, "manager is back");
            self.shared.recovered();
        }
    }
}

impl Open {
    /// Long enough for its end not to be a failure.
    fn has_lasted(&self, timing: &Timing) -> bool {
        self.since.elapsed() >= timing.ping_interval
    }

    /// When something is due.
    fn next_time(&self, shared: &Shared) -> Instant {
        let timing = shared.timing();
        let answer = self.unanswered.front().map(|(at, _)| *at + timing.manager_answer_max);
        let pong = match self.ping {
            Some(sent) => sent + timing.pong_max,
            None => self.last_heard + timing.ping_interval,
        };
        let quiet = self.unanswered.is_empty();
        let idle = quiet.then_some(self.last_used + timing.manager_idle_max);
        [answer, idle].into_iter().flatten().fold(pong, Instant::min)
    }
}
