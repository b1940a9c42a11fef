//! Proxy connections kept ready, so that a session costs one round trip to the site: `Open`,
//! `Opened`. Each is pinged, so that a proxy that died without a word is found before a session
//! tries it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use link::{Link, LinkError};
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};
use wire::{DeniedReason, Message};

use crate::core::{Keep, WarmEnd};
use crate::limits::WARM_LINKS_MAX;
use crate::manager_link::{self, Request};
use crate::seek::{self, Path};
use crate::shared::{Shared, now};
use crate::watch::WatchStep;

/// What a warm link's task listens to. Dropping it closes the link and gives the lease back.
pub(crate) type WarmHandle = oneshot::Sender<oneshot::Sender<Path>>;

/// Takes over a warm link of the pool. None: it broke at this moment.
pub(crate) async fn take(shared: &Shared, number: u64) -> Option<Path> {
    let handle = shared.core().warm_handles().remove(&number)?;
    let (to, path) = oneshot::channel();
    handle.send(to).ok()?;
    // The task does nothing that takes longer than handing over: if it ends instead, the link broke
    // at this moment.
    path.await.ok()
}

/// Keeps the first manager's connection open and the pool full, for ever.
pub(crate) async fn keep_ready(shared: Arc<Shared>) {
    let target = shared.settings.warm_links.min(WARM_LINKS_MAX);
    loop {
        let keep = shared.core().keep(target, now());
        match keep {
            Keep::Enough(manager) => {
                if let Some(manager) = manager {
                    keep_manager(&shared, manager);
                }
                // Looks again by itself too: another manager may be the first when a hold has ended.
                let _ =
                    timeout(shared.timing().ping_interval, shared.bells.keeper.notified()).await;
            }
            Keep::Pause(until) => {
                let _ = timeout_at(until.into(), shared.bells.keeper.notified()).await;
            }
            Keep::Make => make(&shared).await,
        }
    }
}

async fn make(shared: &Arc<Shared>) {
    let path = seek::seek(shared).await.unwrap_or_else(|reason| {
        tracing::debug!(%reason, "no warm link");
        None
    });
    let Some(path) = path else {
        shared.core().warm_failed(now());
        return;
    };
    let since = now();
    let mut core = shared.core();
    // Else it was taken out of DNS meanwhile.
    if let Some(number) = core.warm_made(path.manager, path.proxy, since) {
        let (handle, taken) = oneshot::channel();
        core.warm_handles().insert(number, handle);
        drop(core);
        shared.spawn(stay_warm(Arc::clone(shared), path, number, since, taken));
    }
}

/// Opens the connection to the manager that sessions would ask first.
fn keep_manager(shared: &Arc<Shared>, manager: SocketAddr) {
    let mut core = shared.core();
    if !core.has_link(manager) {
        // A new task has room for its first request.
        let _ = manager_link::request(shared, &mut core, manager, Request::Probe);
    }
}

/// Stays with one warm link until a session takes it.
async fn stay_warm(
    shared: Arc<Shared>,
    mut path: Path,
    number: u64,
    since: Instant,
    mut taken: oneshot::Receiver<oneshot::Sender<Path>>,
) {
    path.warm = true;
    let (manager, proxy) = (path.manager, path.proxy);
    let end = tokio::select! {
        biased;
        taken = &mut taken => {
            if let Ok(to) = taken {
                // A session that is gone drops the path, which gives the lease back.
                let _ = to.send(path);
            }
            return;
        }
        end = watch(&shared, &mut path.link, since) => end,
    };
    match &end {
        End::Broken(error) => {
            let error = error.as_ref().map(|error| telemetry::chain(error)).unwrap_or_default();
            tracing::warn!(%proxy, %error, "warm link broke");
        }
        End::Declined(Some(reason)) => tracing::warn!(%proxy, %reason, "proxy denies this box"),
        End::Silent => tracing::warn!(%proxy, "proxy fell silent on a warm link"),
        End::Old | End::Closed | End::Declined(None) => {}
    }
    shared.core().warm_ended((proxy, manager), number, since, end.kind(), now());
}

/// Until something ends the link. Cancel-safe, as receiving and sending are.
async fn watch(shared: &Shared, link: &mut Link, since: Instant) -> End {
    let timing = shared.timing();
    let mut watch = shared.core().watch(since);
    loop {
        match watch.poll(timing, now()) {
            WatchStep::Old => return End::Old,
            WatchStep::Silent => return End::Silent,
            WatchStep::Ping(number) => {
                match timeout(timing.pong_max, link.send(&Message::Ping(number))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return End::broken(error),
                    Err(_) => return End::Silent,
                }
            }
            WatchStep::Wait(until) => match timeout_at(until.into(), link.recv()).await {
                Ok(Ok(Message::Pong(number))) => watch.pong(number, now()),
                Ok(Ok(message)) => return End::said(&message),
                Ok(Err(error)) => return End::broken(error),
                Err(_) => {}
            },
        }
    }
}

/// Why a warm link ended before a session took it.
enum End {
    /// Too old.
    Old,
    /// The proxy closed it in order.
    Closed,
    /// The proxy broke off or spoke nonsense.
    Broken(Option<LinkError>),
    /// The proxy takes no sessions, or not ours.
    Declined(Option<DeniedReason>),
    /// The proxy did not answer a ping.
    Silent,
}

impl End {
    fn kind(&self) -> WarmEnd {
        match self {
            Self::Old => WarmEnd::Old,
            Self::Closed => WarmEnd::Closed,
            Self::Broken(_) => WarmEnd::Broken,
            Self::Declined(Some(_)) => WarmEnd::Denied,
            Self::Declined(None) => WarmEnd::Declined,
            Self::Silent => WarmEnd::Silent,
        }
    }

    fn broken(error: LinkError) -> Self {
        match error {
            LinkError::Closed => Self::Closed,
            error => Self::Broken(Some(error)),
        }
    }

    /// What a proxy said before it was asked.
    fn said(message: &Message) -> Self {
        match message {
            Message::Denied(denied) => Self::Declined(Some(denied.reason)),
            Message::Refused(_) => Self::Declined(None),
            _ => Self::Broken(None),
        }
    }
}
