//! Proxy connections kept ready, so that a session costs one round trip to the site: `Open`,
//! `Opened`. Each is pinged, so that a proxy that died without a word is found before a session
//! tries it.

use std::net::SocketAddr;
use std::sync::Arc;

use link::LinkError;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use wire::{DeniedReason, Message};

use crate::assign::{self, Path};
use crate::backoff::{Backoff, Dice};
use crate::limits::WARM_LINKS_MAX;
use crate::manager_link::{self, Request};
use crate::shared::{Shared, now};

/// A warm link, as the pool sees it. Dropping it closes the link and gives the lease back.
#[derive(Debug)]
pub(crate) struct Warm {
    pub(crate) manager: SocketAddr,
    pub(crate) proxy: SocketAddr,
    pub(crate) since: Instant,
    number: u64,
    take: oneshot::Sender<oneshot::Sender<Path>>,
}

/// Takes a warm link out of the pool, the oldest first. None if there is none, or only beside
/// something that just fell silent: then asking another site is quicker.
pub(crate) async fn take(shared: &Shared) -> Option<Path> {
    loop {
        let warm = {
            let mut core = shared.core();
            let now = now();
            let at = core.warm.iter().position(|warm| {
                !core.is_suspect(warm.proxy, warm.manager, now)
                    && core.proxies.is_usable(warm.proxy, now)
            })?;
            core.warm.remove(at)?
        };
        shared.bells.keeper.notify_one();
        let (to, path) = oneshot::channel();
        if warm.take.send(to).is_err() {
            continue;
        }
        // The task does nothing that takes longer than handing over: if it ends instead, the link
        // broke at this moment.
        if let Ok(path) = path.await {
            return Some(path);
        }
    }
}

/// Keeps the first manager's connection open and the pool full, for ever.
pub(crate) async fn keep_ready(shared: Arc<Shared>) {
    let timing = shared.timing().clone();
    let backoff = Backoff { min: timing.refill_pause_min, max: timing.refill_pause_max };
    let mut dice = Dice::new(crate::dns::random_u16().into());
    let target = shared.settings.warm_links.min(WARM_LINKS_MAX);
    let mut number = 0;
    loop {
        let (wanted, at) = {
            let mut core = shared.core();
            let admitted = core.ticket(now()).is_ok();
            let wanted = admitted && core.warm.len() < target;
            // Making a warm link asks the first manager anyway.
            if admitted && !wanted {
                keep_manager(&shared, &mut core);
            }
            (wanted, Instant::from_std(core.refill_at))
        };
        if !wanted {
            // Looks again by itself too: another manager may be the first when a hold has ended.
            let _ = timeout(timing.ping_interval, shared.bells.keeper.notified()).await;
            continue;
        }
        if Instant::now() < at {
            tokio::select! {
                () = sleep_until(at) => {}
                () = shared.bells.keeper.notified() => {}
            }
            continue;
        }
        let path = match assign::assignment(&shared, None).await {
            Ok(assignment) => assign::connect(&shared, assignment, None).await,
            Err(reason) => {
                tracing::debug!(%reason, "no warm link");
                None
            }
        };
        let mut core = shared.core();
        match path {
            // Taken out of DNS meanwhile.
            Some(path) if !core.managers.lists(path.manager) => {
                drop(core);
                drop(path);
            }
            Some(path) => {
                number += 1;
                let (take, taken) = oneshot::channel();
                let (manager, proxy) = (path.manager, path.proxy);
                let since = Instant::now();
                core.warm.push_back(Warm { manager, proxy, since, number, take });
                drop(core);
                shared.spawn(stay_warm(Arc::clone(&shared), path, number, since, taken));
            }
            None => {
                core.refill_failures = core.refill_failures.saturating_add(1);
                core.refill_at = now() + backoff.pause(core.refill_failures, &mut dice);
            }
        }
    }
}

/// Opens the connection to the manager that sessions would ask first.
fn keep_manager(shared: &Arc<Shared>, core: &mut crate::shared::Core) {
    if let Some(manager) = core.managers.preferred(now())
        && !core.links.contains_key(&manager)
    {
        // A new task has room for its first request.
        let _ = manager_link::request(shared, core, manager, Request::Probe);
    }
}

/// Why a warm link ended before a session took it.
enum End {
    /// Too old, no longer wanted, or closed in order by the proxy.
    Over,
    /// The proxy broke off or spoke nonsense.
    Broken(Option<LinkError>),
    /// The proxy takes no sessions, or not ours.
    Declined(Option<DeniedReason>),
    /// The proxy did not answer a ping.
    Silent,
}

/// Watches over one warm link until a session takes it.
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
                shared.core().refill_failures = 0;
                // A session that is gone drops the path, which gives the lease back.
                let _ = to.send(path);
            }
            return;
        }
        end = watch(&shared, &mut path, since) => end,
    };
    let forget = {
        let mut core = shared.core();
        if since.elapsed() < shared.timing().ping_interval {
            // Made and lost at once: not again at once.
            core.refill_failures = core.refill_failures.saturating_add(1);
            let timing = shared.timing();
            let backoff = Backoff { min: timing.refill_pause_min, max: timing.refill_pause_max };
            let mut dice = Dice::new(crate::dns::random_u16().into());
            core.refill_at = now() + backoff.pause(core.refill_failures, &mut dice);
        } else {
            core.refill_failures = 0;
        }
        let at = core.warm.iter().position(|warm| warm.number == number);
        at.and_then(|at| core.warm.remove(at))
    };
    drop(forget);
    match end {
        End::Over => {}
        End::Broken(error) => {
            let error = error.map(|error| telemetry::chain(&error)).unwrap_or_default();
            tracing::warn!(%proxy, %error, "warm link broke");
            shared.core().counters.warm_lost += 1;
            shared.proxy_failed(proxy, manager);
        }
        End::Declined(reason) => {
            shared.core().proxies.hold(proxy, manager, now());
            if let Some(reason) = reason {
                tracing::warn!(%proxy, %reason, "proxy denies this box");
                shared.doubted();
            }
        }
        End::Silent => {
            tracing::warn!(%proxy, "proxy fell silent on a warm link");
            shared.core().counters.warm_lost += 1;
            shared.fell_silent(proxy, manager);
        }
    }
    shared.bells.keeper.notify_one();
}

/// Pings until something ends the link. Cancel-safe, as receiving and sending are.
async fn watch(shared: &Shared, path: &mut Path, since: Instant) -> End {
    let timing = shared.timing();
    let old = since + timing.warm_age_max;
    let mut ping: u64 = 0;
    loop {
        let next_ping = Instant::now() + timing.ping_interval;
        if let Ok(end) = timeout_at(next_ping.min(old), unasked(path)).await {
            return end;
        }
        if Instant::now() >= old {
            return End::Over;
        }
        ping += 1;
        match timeout(timing.pong_max, ping_pong(path, ping)).await {
            Ok(Ok(())) => {}
            Ok(Err(end)) => return end,
            Err(_) => return End::Silent,
        }
    }
}

/// Waits for what a proxy should not say before it is asked.
async fn unasked(path: &mut Path) -> End {
    loop {
        match path.link.recv().await {
            Ok(Message::Pong(_)) => {}
            Ok(message) => return End::said(&message),
            Err(error) => return End::broken(error),
        }
    }
}

async fn ping_pong(path: &mut Path, number: u64) -> Result<(), End> {
    path.link.send(&Message::Ping(number)).await.map_err(End::broken)?;
    loop {
        match path.link.recv().await.map_err(End::broken)? {
            Message::Pong(pong) if pong == number => return Ok(()),
            Message::Pong(_) => {}
            message => return Err(End::said(&message)),
        }
    }
}

impl End {
    fn broken(error: LinkError) -> Self {
        match error {
            LinkError::Closed => Self::Over,
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
