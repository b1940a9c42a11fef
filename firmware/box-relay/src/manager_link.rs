//! One manager's connection: a task that keeps it open, asks over it, and pings it when it is quiet.
//!
//! Starting the task is also the probe of a dead manager: it connects, asks, and tells the core how
//! that went. What is said, and when, stands in `talk`.

use std::net::SocketAddr;
use std::sync::Arc;

use link::LinkError;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};
use wire::identity::Role;
use wire::{Assign, Bye, Message};

use crate::core::ManagerEnd;
use crate::limits::MANAGER_QUEUE_MAX;
use crate::search::Reply;
use crate::shared::{LeaseGuard, Locked, Shared, now};
use crate::talk::{Said, Talk, Tick};

/// What a manager's task is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Name a proxy. The sender is dropped if no answer came.
    Assign(Box<Assign>, Asker),
    /// Say that a session is over.
    Bye(Box<Bye>),
    /// Find out whether it answers an `Assign`.
    Probe,
    /// Find out whether the connection is still there.
    Ping,
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
    core: &mut Locked<'_>,
    manager: SocketAddr,
    request: Request,
) -> Result<(), Request> {
    let request = match core.links().get(&manager) {
        Some(queue) => match queue.try_send(request) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(request)) => return Err(request),
            Err(mpsc::error::TrySendError::Closed(request)) => request,
        },
        None => request,
    };
    let (queue, requests) = mpsc::channel(MANAGER_QUEUE_MAX);
    queue.try_send(request).map_err(|full| full.into_inner())?;
    core.links().insert(manager, queue);
    let task = ManagerLink { shared: Arc::clone(shared), manager, requests };
    shared.spawn(task.run());
    Ok(())
}

struct ManagerLink {
    shared: Arc<Shared>,
    manager: SocketAddr,
    requests: mpsc::Receiver<Request>,
}

/// What waits for an answer.
type Asker = oneshot::Sender<Reply<LeaseGuard>>;

/// What happened on an open connection.
enum Event {
    Request(Option<Request>),
    Message(Result<Message, LinkError>),
    Time,
}

impl ManagerLink {
    async fn run(mut self) {
        let Err(failure) = self.serve().await else { return };
        let end = match &failure {
            Failure::Unanswered => ManagerEnd::Unanswered,
            Failure::Ended => ManagerEnd::InOrder,
            _ => ManagerEnd::Failed,
        };
        let mut core = self.shared.core();
        core.links().remove(&self.manager);
        let died = core.manager_ended(self.manager, end, now());
        drop(core);
        let error = telemetry::chain(&failure);
        if died {
            tracing::warn!(manager = %self.manager, %error, "manager is dead");
        } else {
            tracing::debug!(manager = %self.manager, %error, "connection to manager ended");
        }
    }

    /// Returns when nobody needs the connection any more, with the entry in the core removed.
    async fn serve(&mut self) -> Result<(), Failure> {
        let timing = self.shared.timing().clone();
        let tls = Arc::clone(&self.shared.tls);
        let mut link = link::connect(self.manager, Role::Manager, tls, timing.manager_answer_max)
            .await
            .map_err(Failure::Connect)?;
        let mut talk = Talk::new(self.manager, now());
        loop {
            let next_time = talk.next_time(&timing).into();
            let event = tokio::select! {
                request = self.requests.recv(), if talk.accepts() => Event::Request(request),
                message = link.recv() => Event::Message(message),
                () = sleep_until(next_time) => Event::Time,
            };
            let send = match event {
                Event::Request(Some(request)) => self.take(&mut talk, request),
                Event::Request(None) => return Ok(()),
                Event::Message(Err(LinkError::Closed)) if talk.has_lasted(&timing, now()) => {
                    return Err(Failure::Ended);
                }
                Event::Message(message) => {
                    self.hear(&mut talk, message?)?;
                    None
                }
                Event::Time => match self.tick(&mut talk) {
                    Tick::Nothing => None,
                    Tick::Send(message) => Some(message),
                    Tick::Unanswered => return Err(Failure::Unanswered),
                    Tick::Silent => return Err(Failure::Silent),
                    Tick::Idle => {
                        // Nothing is lost if the peer is gone before it has seen the end.
                        let _ = link.close().await;
                        return Ok(());
                    }
                },
            };
            if let Some(message) = send {
                timeout(timing.send_max, link.send(&message))
                    .await
                    .map_err(|_| Failure::SendTimedOut)??;
            }
            if self.is_over(&talk) {
                let _ = link.close().await;
                return Ok(());
            }
        }
    }

    fn take(&self, talk: &mut Talk<Asker>, request: Request) -> Option<Message> {
        match request {
            Request::Assign(_, reply) if reply.is_closed() => None,
            Request::Assign(assign, reply) => Some(talk.assign(*assign, reply, now())),
            Request::Bye(bye) => talk.bye(*bye),
            Request::Probe => talk.probe(&mut self.shared.core(), oneshot::channel().0, now()),
            Request::Ping => talk.ping(&mut self.shared.core(), now()),
        }
    }

    fn hear(&self, talk: &mut Talk<Asker>, message: Message) -> Result<(), Failure> {
        let lease = |id| self.shared.lease(self.manager, id);
        let said = talk.hear(&mut self.shared.core(), message, lease, now());
        match said {
            Said::Nothing => Ok(()),
            Said::Unasked => Err(Failure::Unasked),
            Said::Answer(to, reply) => {
                // If another manager was quicker, or the session is gone, the lease goes back by
                // itself.
                let _ = to.send(reply);
                Ok(())
            }
        }
    }

    /// If so, the connection is no longer in the core.
    fn is_over(&self, talk: &Talk<Asker>) -> bool {
        let mut core = self.shared.core();
        let is_over = talk.is_over(&core) && self.requests.is_empty();
        if is_over {
            core.links().remove(&self.manager);
        }
        is_over
    }

    /// With [`Tick::Idle`], the connection is no longer in the core.
    fn tick(&self, talk: &mut Talk<Asker>) -> Tick {
        let mut core = self.shared.core();
        let tick = talk.tick(&mut core, now());
        if tick == Tick::Idle {
            // Requests are queued under the same lock, so none is lost.
            if !self.requests.is_empty() {
                talk.used(now());
                return Tick::Nothing;
            }
            core.links().remove(&self.manager);
        }
        tick
    }
}
