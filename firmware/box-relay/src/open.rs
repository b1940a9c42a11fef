//! One session's way: a warm link, or a proxy raced for, or direct.

use std::net::SocketAddr;
use std::sync::Arc;

use link::{Link, LinkError, SessionStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use wire::{DeniedReason, HOPS_MAX, Message, Open, Protocol, RefusedReason, SessionId};

use crate::assign::{self, Path};
use crate::direct;
use crate::limits::{ATTEMPTS_MAX, OFFERS_MAX, STRAY_MESSAGES_MAX, Timing};
use crate::shared::{Shared, now};
use crate::warm;
use crate::way::{DirectReason, OpenError, Upstream, UpstreamStream, Way};

/// What a session wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) destination: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) session: SessionId,
}

/// How a session's relay setup ended without a stream.
enum NotRelayed {
    /// The mail server's answer, as the proxy reports it: the client's to see.
    Server(OpenError),
    /// Go direct.
    Direct(DirectReason),
}

/// How one proxy took an `Open`.
enum Attempt {
    Opened(Upstream),
    Server(OpenError),
    Direct(DirectReason),
    /// Try another proxy. What is to be remembered of this one, is.
    Elsewhere,
    /// As `Elsewhere`, and this is the reason if no other is found.
    Denied(DeniedReason),
}

/// What a proxy says to an `Open`: first `Opening`, then one of the others, or at once.
enum Word {
    Opening,
    Opened,
    Refused(RefusedReason),
    Denied(DeniedReason),
}

/// Why a proxy said nothing useful.
#[derive(Debug, thiserror::Error)]
enum ProxyError {
    #[error("talk to the proxy")]
    Link(#[from] LinkError),
    #[error("the proxy sent what has no place here")]
    Unexpected,
    #[error("the proxy did not answer in time")]
    Silent,
}

/// Opens a session the best way there is at this moment.
pub(crate) async fn open(shared: &Arc<Shared>, wanted: Wanted) -> Result<Upstream, OpenError> {
    let outcome = match relayed(shared, wanted).await {
        Ok(upstream) => Ok(upstream),
        Err(NotRelayed::Server(error)) => Err(error),
        Err(NotRelayed::Direct(reason)) => {
            tracing::debug!(session = %wanted.session, %reason, "session goes direct");
            direct::open(&shared.settings, wanted.destination, reason).await
        }
    };
    shared.core().counters.count(&outcome);
    if let Ok(upstream) = &outcome {
        shared.core().last_way = Some(upstream.way);
    }
    outcome
}

/// Offers the session to one proxy, and after [`Timing::next_after`] without a word to the next as
/// well; the first that takes it carries it.
async fn relayed(shared: &Arc<Shared>, wanted: Wanted) -> Result<Upstream, NotRelayed> {
    if !shared.settings.relay {
        return Err(NotRelayed::Direct(DirectReason::Chosen));
    }
    let budget = Instant::now() + shared.timing().relay_budget;
    let mut offers = Offers::default();
    let mut denied = None;
    for _ in 0..ATTEMPTS_MAX {
        shared.core().ticket(now()).map_err(NotRelayed::Direct)?;
        let offered = match offers.next(shared, wanted, budget).await {
            Ok(Some(offered)) => offered,
            Ok(None) => continue,
            Err(reason) => {
                return Err(NotRelayed::Direct(denied.map_or(reason, DirectReason::Denied)));
            }
        };
        match settle(shared, offered, wanted.destination).await {
            Attempt::Opened(upstream) => return Ok(upstream),
            Attempt::Server(error) => return Err(NotRelayed::Server(error)),
            Attempt::Direct(reason) => return Err(NotRelayed::Direct(reason)),
            Attempt::Elsewhere => shared.core().counters.failovers += 1,
            Attempt::Denied(reason) => denied = Some(reason),
        }
    }
    Err(NotRelayed::Direct(denied.map_or(DirectReason::BudgetSpent, DirectReason::Denied)))
}

/// The proxies that were offered a session and have not said a word yet. Dropping it closes their
/// links and gives their leases back.
#[derive(Default)]
struct Offers {
    running: JoinSet<Offered>,
    /// Whom, and since when; of those that run.
    asked: Vec<Asked>,
}

#[derive(Clone, Copy)]
struct Asked {
    proxy: SocketAddr,
    manager: SocketAddr,
    at: Instant,
}

/// The first word of a proxy, or that there was none.
struct Offered {
    path: Path,
    word: Result<Word, ProxyError>,
}

impl Offers {
    /// The next proxy that said a word, or fell silent. None: one that was to be asked could not be
    /// reached; try again.
    async fn next(
        &mut self,
        shared: &Arc<Shared>,
        wanted: Wanted,
        budget: Instant,
    ) -> Result<Option<Offered>, DirectReason> {
        // Why no further proxy can be asked.
        let mut exhausted = None;
        loop {
            let may_ask = exhausted.is_none() && self.running.len() < OFFERS_MAX;
            let another = another_path(shared, self.asked.clone(), budget);
            tokio::select! {
                biased;
                Some(offered) = self.running.join_next(), if !self.running.is_empty() => {
                    // A task of ours that broke down has closed its link; the next is asked.
                    let Ok(offered) = offered else { return Ok(None) };
                    self.heard(shared, &offered);
                    return Ok(Some(offered));
                }
                found = another, if may_ask => match found {
                    Ok(Some(path)) => self.make(shared, path, wanted)?,
                    Ok(None) => return Ok(None),
                    Err(reason) if self.running.is_empty() => return Err(reason),
                    Err(reason) => exhausted = Some(reason),
                },
                () = sleep_until(budget) => return Err(DirectReason::BudgetSpent),
            }
        }
    }

    fn make(
        &mut self,
        shared: &Arc<Shared>,
        mut path: Path,
        wanted: Wanted,
    ) -> Result<(), DirectReason> {
        let message = Message::Open(Open {
            ticket: shared.core().ticket(now())?,
            session: wanted.session,
            lease: path.lease.id(),
            destination: wanted.destination,
            protocol: wanted.protocol,
            hops_left: HOPS_MAX,
        });
        self.asked.push(Asked { proxy: path.proxy, manager: path.manager, at: Instant::now() });
        let opening_max = shared.timing().opening_max;
        self.running.spawn(async move {
            let first = timeout(opening_max, async {
                path.link.send(&message).await?;
                next_word(&mut path.link).await
            });
            let word = first.await.unwrap_or(Err(ProxyError::Silent));
            Offered { path, word }
        });
        Ok(())
    }

    /// Where a proxy took the session, the others are let go; one of them that was asked earlier and
    /// is still silent counts as dead until a probe hears it.
    fn heard(&mut self, shared: &Shared, offered: &Offered) {
        let proxy = offered.path.proxy;
        let asked_at = self.asked.iter().find(|asked| asked.proxy == proxy).map(|asked| asked.at);
        self.asked.retain(|asked| asked.proxy != proxy);
        if !matches!(offered.word, Ok(Word::Opening | Word::Opened)) {
            return;
        }
        shared.core().proxies.takes(proxy);
        for asked in self.asked.drain(..).filter(|asked| Some(asked.at) < asked_at) {
            shared.core().counters.failovers += 1;
            shared.fell_silent(asked.proxy, asked.manager);
        }
        self.running = JoinSet::new();
    }
}

/// A path to one more proxy: at once, or when those that were asked have had their time; their sites
/// are then tried last.
async fn another_path(
    shared: &Arc<Shared>,
    asked: Vec<Asked>,
    budget: Instant,
) -> Result<Option<Path>, DirectReason> {
    if let Some(last) = asked.last() {
        sleep_until(last.at + shared.timing().next_after).await;
        for asked in &asked {
            shared.keeps_waiting(asked.proxy, asked.manager);
        }
    }
    match warm::take(shared).await {
        Some(path) => Ok(Some(path)),
        None => cold(shared, budget).await,
    }
}

/// A proxy connection made for this session. None: proxies failed, and are excluded; ask again.
async fn cold(shared: &Arc<Shared>, budget: Instant) -> Result<Option<Path>, DirectReason> {
    let assignment = assign::assignment(shared, Some(budget)).await?;
    Ok(assign::connect(shared, assignment, Some(budget)).await)
}

/// What comes of an offer that was answered, or was not.
async fn settle(shared: &Shared, offered: Offered, destination: SocketAddr) -> Attempt {
    let Offered { path: Path { mut link, manager, proxy, lease, warm }, word } = offered;
    let way = Way::Relay { manager, proxy, lease: lease.id() };
    let word = match word {
        Ok(Word::Opening) => match server_answer(&mut link, shared.timing()).await {
            Some(word) => word,
            // The proxy lives and is still connecting: it is the mail server that is silent.
            None => return Attempt::Server(OpenError::TimedOut(way)),
        },
        word => word,
    };
    match word {
        Ok(Word::Opened) => {
            let stream: SessionStream = link.into_session();
            lease.give();
            shared.core().heard_at(proxy);
            Attempt::Opened(Upstream { stream: UpstreamStream::Relay(Box::new(stream)), way })
        }
        Ok(Word::Refused(reason)) => refused(shared, proxy, manager, reason, destination, way),
        Ok(Word::Denied(reason)) => {
            tracing::warn!(%proxy, %reason, "proxy denies this box");
            shared.core().proxies.hold(proxy, manager, now());
            shared.doubted();
            Attempt::Denied(reason)
        }
        Ok(Word::Opening) => proxy_failed(shared, proxy, manager, &ProxyError::Unexpected),
        // A warm link closed in order while it was taken: nothing wrong with the proxy.
        Err(ProxyError::Link(LinkError::Closed)) if warm => Attempt::Elsewhere,
        Err(error) => proxy_failed(shared, proxy, manager, &error),
    }
}

/// The next answer to `Open`, past pongs that were still under way.
async fn next_word(link: &mut Link) -> Result<Word, ProxyError> {
    for _ in 0..STRAY_MESSAGES_MAX {
        if let Some(word) = word(link.recv().await?)? {
            return Ok(word);
        }
    }
    Err(ProxyError::Unexpected)
}

/// What came of the proxy's connecting. The proxy is pinged meanwhile: a mail server may take its
/// time, a dead proxy need not. None: the mail server took too long.
async fn server_answer(link: &mut Link, timing: &Timing) -> Option<Result<Word, ProxyError>> {
    let end = Instant::now() + timing.opened_max;
    let mut number = 0;
    loop {
        let ping_at = Instant::now() + timing.ping_interval;
        if let Ok(word) = timeout_at(ping_at.min(end), next_word(link)).await {
            return Some(word);
        }
        if Instant::now() >= end {
            return None;
        }
        number += 1;
        let limit = Instant::now() + timing.pong_max;
        match timeout_at(limit, word_or_pong(link, number)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(word))) => return Some(Ok(word)),
            Ok(Err(error)) => return Some(Err(error)),
            Err(_) => return Some(Err(ProxyError::Silent)),
        }
    }
}

/// Pings; none once the pong is there.
async fn word_or_pong(link: &mut Link, number: u64) -> Result<Option<Word>, ProxyError> {
    link.send(&Message::Ping(number)).await?;
    for _ in 0..STRAY_MESSAGES_MAX {
        match link.recv().await? {
            Message::Pong(pong) if pong == number => return Ok(None),
            message => {
                if let Some(word) = word(message)? {
                    return Ok(Some(word));
                }
            }
        }
    }
    Err(ProxyError::Unexpected)
}

/// None for a pong.
fn word(message: Message) -> Result<Option<Word>, ProxyError> {
    match message {
        Message::Pong(_) => Ok(None),
        Message::Opening => Ok(Some(Word::Opening)),
        Message::Opened(_) => Ok(Some(Word::Opened)),
        Message::Refused(refused) => Ok(Some(Word::Refused(refused.reason))),
        Message::Denied(denied) => Ok(Some(Word::Denied(denied.reason))),
        _ => Err(ProxyError::Unexpected),
    }
}

fn refused(
    shared: &Shared,
    proxy: SocketAddr,
    manager: SocketAddr,
    reason: RefusedReason,
    destination: SocketAddr,
    way: Way,
) -> Attempt {
    shared.core().heard_at(proxy);
    match reason {
        RefusedReason::ServerRefused => Attempt::Server(OpenError::Refused(way)),
        // A site without IPv6 must not cut an office off from what it reaches by itself.
        RefusedReason::ServerUnreachable if destination.is_ipv6() => {
            Attempt::Direct(DirectReason::NoRoute)
        }
        RefusedReason::ServerUnreachable => Attempt::Server(OpenError::Unreachable(way)),
        RefusedReason::ServerTimedOut => Attempt::Server(OpenError::TimedOut(way)),
        RefusedReason::Policy => Attempt::Direct(DirectReason::Policy),
        RefusedReason::Loop => Attempt::Direct(DirectReason::Loop),
        RefusedReason::Full | RefusedReason::Draining => {
            let mut core = shared.core();
            core.counters.full += 1;
            core.proxies.hold(proxy, manager, now());
            Attempt::Elsewhere
        }
    }
}

fn proxy_failed(
    shared: &Shared,
    proxy: SocketAddr,
    manager: SocketAddr,
    error: &ProxyError,
) -> Attempt {
    tracing::warn!(%proxy, error = %telemetry::chain(error), "proxy did not take the session");
    if matches!(error, ProxyError::Silent) {
        shared.fell_silent(proxy, manager);
    } else {
        shared.proxy_failed(proxy, manager);
    }
    Attempt::Elsewhere
}
