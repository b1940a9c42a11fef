//! One session's way: a warm link, or a proxy raced for, or direct.

use std::net::SocketAddr;
use std::sync::Arc;

use link::{Link, LinkError, SessionStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use wire::{Client, HOPS_MAX, Message, Open, Protocol, SessionId};

use crate::direct;
use crate::limits::{STRAY_MESSAGES_MAX, Timing};
use crate::offering::{Attempt, NoWord, Offer, OfferStep, Offering, ServerAnswer, Word};
use crate::seek::{self, Event, Hands, Path};
use crate::shared::{LeaseGuard, Shared, now};
use crate::warm;
use crate::way::{DirectReason, OpenError, Upstream, UpstreamStream, Way};

/// What a session wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) client: SocketAddr,
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

/// Carries out what the session's [`Offering`] says.
async fn relayed(shared: &Arc<Shared>, wanted: Wanted) -> Result<Upstream, NotRelayed> {
    if !shared.settings.relay {
        return Err(NotRelayed::Direct(DirectReason::Chosen));
    }
    let mut setup = Setup {
        shared,
        wanted,
        offering: Offering::new(&shared.core(), now()),
        hands: Hands::default(),
        offers: JoinSet::new(),
    };
    loop {
        let step = setup.offering.poll(&mut shared.core(), now());
        match step {
            OfferStep::Direct(reason) => return Err(NotRelayed::Direct(reason)),
            OfferStep::Ask(manager, assign) => {
                let sent = setup.hands.ask(shared, manager, assign);
                setup.offering.asked(&mut shared.core(), manager, sent, now());
            }
            OfferStep::Connect(proxy) => setup.hands.connect(shared, proxy),
            OfferStep::TakeWarm(number) => {
                if let Some(path) = warm::take(shared, number).await {
                    setup.offer(path)?;
                }
            }
            OfferStep::Wait(until) => tokio::select! {
                biased;
                Some(offered) = setup.offers.join_next(), if !setup.offers.is_empty() => {
                    // A task of ours that broke down has closed its link; its time will end.
                    let Ok(offered) = offered else { continue };
                    if let Some(end) = setup.heard(offered).await {
                        return end;
                    }
                }
                event = setup.hands.event() => setup.found(event)?,
                () = sleep_until(until.into()) => {}
            },
        }
    }
}

/// One session's setup. Dropping it closes the links that were not chosen and gives their leases
/// back.
struct Setup<'a> {
    shared: &'a Arc<Shared>,
    wanted: Wanted,
    offering: Offering<LeaseGuard>,
    hands: Hands,
    offers: JoinSet<Offered>,
}

/// The first word of a proxy, or that there was none.
struct Offered {
    path: Path,
    offer: Offer,
    word: Result<Word, ProxyError>,
}

impl Setup<'_> {
    fn found(&mut self, event: Event) -> Result<(), NotRelayed> {
        let mut core = self.shared.core();
        match event {
            Event::Answer(manager, reply) => {
                self.offering.answered(&mut core, manager, reply, now());
            }
            Event::Connection(proxy, Ok(link)) => {
                if let Some((manager, lease)) = self.offering.connected(&mut core, proxy, now()) {
                    drop(core);
                    return self.offer(Path { link, manager, proxy, lease, warm: false });
                }
            }
            Event::Connection(proxy, Err(error)) => {
                let silent = seek::dead(proxy, &error);
                self.offering.not_connected(&mut core, proxy, silent, now());
            }
        }
        Ok(())
    }

    fn offer(&mut self, mut path: Path) -> Result<(), NotRelayed> {
        self.hands = Hands::default();
        let client = Message::Client(Client { address: self.wanted.client });
        let open = Message::Open(Open {
            ticket: self.shared.core().ticket(now()).map_err(NotRelayed::Direct)?,
            session: self.wanted.session,
            lease: path.lease.id(),
            destination: self.wanted.destination,
            protocol: self.wanted.protocol,
            hops_left: HOPS_MAX,
        });
        let Path { proxy, manager, warm, .. } = path;
        let offer = Offer { proxy, manager, warm, at: now() };
        self.offering.offered(offer);
        let opening_max = self.shared.timing().opening_max;
        self.offers.spawn(async move {
            let first = timeout(opening_max, async {
                path.link.send(&client).await?;
                path.link.send(&open).await?;
                next_word(&mut path.link).await
            });
            let word = first.await.unwrap_or(Err(ProxyError::Silent));
            Offered { path, offer, word }
        });
        Ok(())
    }

    /// What comes of an offer that was answered, or was not; none: go on.
    async fn heard(&mut self, offered: Offered) -> Option<Result<Upstream, NotRelayed>> {
        let Offered { mut path, offer, word } = offered;
        let ipv6 = self.wanted.destination.is_ipv6();
        let way = Way::Relay { manager: path.manager, proxy: path.proxy, lease: path.lease.id() };
        let (shared, word) = (self.shared, plain(path.proxy, word));
        let mut attempt = self.offering.first_word(&mut shared.core(), offer, word, ipv6, now());
        if matches!(attempt, Attempt::AwaitServer | Attempt::Opened) {
            self.offers = JoinSet::new();
            self.hands = Hands::default();
        }
        if attempt == Attempt::AwaitServer {
            let word = server_answer(&mut path.link, shared.timing()).await;
            let word = word.map(|word| plain(path.proxy, word));
            attempt = self.offering.server_word(&mut shared.core(), offer, word, ipv6, now());
        }
        match attempt {
            Attempt::Opened => {
                let stream: SessionStream = path.link.into_session();
                path.lease.give();
                let stream = UpstreamStream::Relay(Box::new(stream));
                Some(Ok(Upstream { stream, way }))
            }
            Attempt::Server(answer) => Some(Err(NotRelayed::Server(match answer {
                ServerAnswer::Refused => OpenError::Refused(way),
                ServerAnswer::Unreachable => OpenError::Unreachable(way),
                ServerAnswer::TimedOut => OpenError::TimedOut(way),
            }))),
            Attempt::Direct(reason) => Some(Err(NotRelayed::Direct(reason))),
            Attempt::AwaitServer | Attempt::Elsewhere => None,
        }
    }
}

/// What the core hears of it.
fn plain(proxy: SocketAddr, word: Result<Word, ProxyError>) -> Result<Word, NoWord> {
    word.map_err(|error| {
        tracing::warn!(%proxy, error = %telemetry::chain(&error), "proxy did not take the session");
        match error {
            ProxyError::Silent => NoWord::Silent,
            ProxyError::Link(LinkError::Closed) => NoWord::Closed,
            ProxyError::Link(_) | ProxyError::Unexpected => NoWord::Broken,
        }
    })
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
