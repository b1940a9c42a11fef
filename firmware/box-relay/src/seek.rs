//! The hands of a search: carries questions to managers, and connects to proxies.

use std::net::SocketAddr;
use std::sync::Arc;

use link::{Link, LinkError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use wire::Assign;
use wire::identity::Role;

use crate::manager_link::{self, Request};
use crate::search::{Reply, Search, SearchStep};
use crate::shared::{LeaseGuard, Shared, now};
use crate::way::DirectReason;

/// A connection to a proxy, ready for `Open`.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) link: Link,
    pub(crate) manager: SocketAddr,
    pub(crate) proxy: SocketAddr,
    pub(crate) lease: LeaseGuard,
    /// It was kept ready.
    pub(crate) warm: bool,
}

/// Questions and connections under way. Dropping it gives them up.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    answers: JoinSet<(SocketAddr, Option<Reply<LeaseGuard>>)>,
    connections: JoinSet<(SocketAddr, Result<Link, LinkError>)>,
}

/// What came of one of them.
pub(crate) enum Event {
    Answer(SocketAddr, Option<Reply<LeaseGuard>>),
    Connection(SocketAddr, Result<Link, LinkError>),
}

impl Hands {
    /// Puts the question to the manager's task. False if that has too much to do.
    pub(crate) fn ask(
        &mut self,
        shared: &Arc<Shared>,
        manager: SocketAddr,
        ask: Box<Assign>,
    ) -> bool {
        let (to, answer) = oneshot::channel();
        let request = Request::Assign(ask, to);
        let sent = manager_link::request(shared, &mut shared.core(), manager, request).is_ok();
        if sent {
            self.answers.spawn(async move { (manager, answer.await.ok()) });
        }
        sent
    }

    pub(crate) fn connect(&mut self, shared: &Shared, proxy: SocketAddr) {
        let (tls, limit) = (Arc::clone(&shared.tls), shared.timing().proxy_connect_max);
        self.connections
            .spawn(async move { (proxy, link::connect(proxy, Role::Proxy, tls, limit).await) });
    }

    /// The next thing that happens; never, if nothing is under way. Cancel-safe.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            tokio::select! {
                // A task of ours that broke down counts as none: its time will end.
                Some(answer) = self.answers.join_next(), if !self.answers.is_empty() => {
                    let Ok((manager, reply)) = answer else { continue };
                    return Event::Answer(manager, reply);
                }
                Some(end) = self.connections.join_next(), if !self.connections.is_empty() => {
                    let Ok((proxy, link)) = end else { continue };
                    return Event::Connection(proxy, link);
                }
                () = std::future::pending() => {}
            }
        }
    }
}

/// Searches without a deadline, for a warm link. None: proxies failed, and are excluded.
pub(crate) async fn seek(shared: &Arc<Shared>) -> Result<Option<Path>, DirectReason> {
    let mut search = Search::new(&shared.core(), None, now())?;
    let mut hands = Hands::default();
    loop {
        let step = search.poll(&mut shared.core(), now());
        match step {
            SearchStep::Ask(manager, assign) => {
                let sent = hands.ask(shared, manager, assign);
                search.asked(&mut shared.core(), manager, sent, now());
            }
            SearchStep::Connect(proxy) => hands.connect(shared, proxy),
            SearchStep::NoProxy(reason) => return Err(reason),
            SearchStep::Unreached => return Ok(None),
            SearchStep::Wait(until) => tokio::select! {
                event = hands.event() => match event {
                    Event::Answer(manager, reply) => {
                        search.answered(&mut shared.core(), manager, reply, now());
                    }
                    Event::Connection(proxy, Ok(link)) => {
                        let found = search.connected(&mut shared.core(), proxy, now());
                        let path = |(manager, lease)| Path { link, manager, proxy, lease, warm: false };
                        return Ok(found.map(path));
                    }
                    Event::Connection(proxy, Err(error)) => {
                        let silent = dead(proxy, &error);
                        search.not_connected(&mut shared.core(), proxy, silent, now());
                    }
                },
                () = sleep_until(until.into()) => {}
            },
        }
    }
}

/// Tells of a proxy that cannot be connected to. True if it did not say a word.
pub(crate) fn dead(proxy: SocketAddr, error: &LinkError) -> bool {
    tracing::warn!(%proxy, error = %telemetry::chain(error), "proxy is dead");
    error.is_timeout()
}
