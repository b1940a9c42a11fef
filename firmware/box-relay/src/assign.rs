//! Races the managers for a proxy, then that site's proxies for a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use link::{Link, LinkError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wire::Assign;
use wire::identity::Role;

use crate::manager_link::{self, Reply, Request};
use crate::managers::NoManager;
use crate::race::{Race, Step};
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

/// What a manager assigned.
#[derive(Debug)]
pub(crate) struct Assignment {
    manager: SocketAddr,
    lease: LeaseGuard,
    /// Usable ones, best first; never empty.
    proxies: Vec<SocketAddr>,
}

/// Asks the managers for a proxy; at `deadline`, if there is one, gives up.
pub(crate) async fn assignment(
    shared: &Arc<Shared>,
    deadline: Option<Instant>,
) -> Result<Assignment, DirectReason> {
    let timing = shared.timing();
    let candidates = shared.core().candidates(now())?;
    let mut race = Race::new(candidates, timing.next_after, timing.manager_answer_max, now());
    let mut answers = JoinSet::new();
    let mut heard = false;
    loop {
        match race.poll(now()) {
            Step::Start(manager) => match ask(shared, manager)? {
                Some(answer) => {
                    answers.spawn(async move { (manager, answer.await.ok()) });
                }
                None => race.failed(manager, now()),
            },
            Step::GiveUp(manager) => manager_is_silent(shared, manager),
            Step::Lost => {
                return Err(shared.core().candidates(now()).err().unwrap_or(DirectReason::NoProxy));
            }
            Step::Wait(until) => {
                let until = deadline.map_or(until.into(), |end| end.min(until.into()));
                let answer = tokio::select! {
                    Some(Ok(answer)) = answers.join_next(), if !answers.is_empty() => Some(answer),
                    () = sleep_until(until) => None,
                };
                if let Some((manager, reply)) = answer {
                    heard |= reply.is_some();
                    match reply.and_then(|reply| take(shared, manager, reply)) {
                        Some(assignment) => return Ok(assignment),
                        None => race.failed(manager, now()),
                    }
                }
                if deadline.is_some_and(|end| Instant::now() >= end) {
                    budget_spent(shared, &race, heard);
                    return Err(DirectReason::BudgetSpent);
                }
            }
        }
    }
}

/// Connects to the first of the assigned proxies that answers.
///
/// None if none did: they are then excluded.
pub(crate) async fn connect(
    shared: &Arc<Shared>,
    assignment: Assignment,
    deadline: Option<Instant>,
) -> Option<Path> {
    let timing = shared.timing();
    let Assignment { manager, lease, proxies } = assignment;
    let mut race = Race::new(proxies, timing.next_after, timing.proxy_connect_max, now());
    let mut connections = JoinSet::new();
    loop {
        match race.poll(now()) {
            Step::Start(proxy) => {
                let (tls, limit) = (Arc::clone(&shared.tls), timing.proxy_connect_max);
                connections.spawn(async move {
                    (proxy, link::connect(proxy, Role::Proxy, tls, limit).await)
                });
            }
            Step::GiveUp(proxy) => shared.fell_silent(proxy, manager),
            Step::Lost => return None,
            Step::Wait(until) => {
                let until = deadline.map_or(until.into(), |end| end.min(until.into()));
                let end = tokio::select! {
                    Some(Ok(end)) = connections.join_next(), if !connections.is_empty() => Some(end),
                    () = sleep_until(until) => None,
                };
                match end {
                    Some((proxy, Ok(link))) => {
                        race.failed(proxy, now());
                        late_proxies(shared, &race, manager);
                        return Some(Path { link, manager, proxy, lease, warm: false });
                    }
                    Some((proxy, Err(error))) => {
                        race.failed(proxy, now());
                        proxy_failed(shared, proxy, manager, &error);
                    }
                    None => {}
                }
                if deadline.is_some_and(|end| Instant::now() >= end) {
                    late_proxies(shared, &race, manager);
                    return None;
                }
            }
        }
    }
}

/// Puts the question to the manager's task. None if that has too much to do.
fn ask(
    shared: &Arc<Shared>,
    manager: SocketAddr,
) -> Result<Option<oneshot::Receiver<Reply>>, DirectReason> {
    let now = now();
    let mut core = shared.core();
    let ticket = core.ticket(now)?;
    let exclude = core.proxies.excluded(manager, now);
    let (to, answer) = oneshot::channel();
    let assign = Request::Assign(Box::new(Assign { ticket, exclude }), to);
    match manager_link::request(shared, &mut core, manager, assign) {
        Ok(()) => {
            core.managers.asked(manager, now);
            Ok(Some(answer))
        }
        Err(_) => {
            core.counters.queue_full += 1;
            Ok(None)
        }
    }
}

/// Makes an assignment of an answer; none if it is no help, which is then remembered.
fn take(shared: &Arc<Shared>, manager: SocketAddr, reply: Reply) -> Option<Assignment> {
    let timing = shared.timing();
    let now = now();
    match reply {
        Reply::Use { lease, proxy, alternates } => {
            let mut core = shared.core();
            let mut proxies: Vec<SocketAddr> = Vec::new();
            for proxy in std::iter::once(proxy).chain(alternates) {
                core.proxies.named(proxy, manager, now);
                if core.proxies.is_usable(proxy, now) && !proxies.contains(&proxy) {
                    proxies.push(proxy);
                }
            }
            if proxies.is_empty() {
                core.managers.hold(manager, NoManager::Busy, now + timing.no_proxy_hold);
                return None;
            }
            Some(Assignment { manager, lease, proxies })
        }
        Reply::Busy(retry_after) => {
            let hold = retry_after.max(timing.next_after);
            let mut core = shared.core();
            core.counters.busy += 1;
            core.managers.hold(manager, NoManager::Busy, now + hold);
            None
        }
        Reply::Denied(reason) => {
            tracing::warn!(%manager, %reason, "manager denies this box");
            shared.core().manager_denied(manager, reason, now + timing.denied_hold);
            shared.doubted();
            None
        }
    }
}

/// It had all its time in this race. Its task comes to the same end, perhaps a moment later.
fn manager_is_silent(shared: &Shared, manager: SocketAddr) {
    let mut core = shared.core();
    if core.managers.unanswered(manager, now()) {
        core.counters.manager_failures += 1;
        tracing::warn!(%manager, "manager did not answer in time");
    }
    drop(core);
    shared.bells.prober.notify_one();
}

/// The session goes direct now. If no manager said a word, none will to the next session either:
/// the breaker trips.
fn budget_spent(shared: &Shared, race: &Race, heard: bool) {
    let mut core = shared.core();
    let mut died = false;
    if heard {
        for manager in race.running() {
            died |= core.managers.unanswered(manager, now());
        }
    } else {
        died = core.managers.trip(now());
    }
    if died {
        core.counters.manager_failures += 1;
        tracing::warn!("no manager answered within the time of a session");
    }
    drop(core);
    shared.bells.prober.notify_one();
}

/// Those that a later one overtook are sick: a probe will tell. Never all of a site, as one won or
/// the session's time is over.
fn late_proxies(shared: &Shared, race: &Race, manager: SocketAddr) {
    for proxy in race.overdue(now()) {
        shared.proxy_failed(proxy, manager);
    }
}

fn proxy_failed(shared: &Shared, proxy: SocketAddr, manager: SocketAddr, error: &LinkError) {
    tracing::warn!(%proxy, error = %telemetry::chain(error), "proxy is dead");
    if error.is_timeout() {
        shared.fell_silent(proxy, manager);
    } else {
        shared.proxy_failed(proxy, manager);
    }
}
