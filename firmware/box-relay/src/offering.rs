//! One session's way to a proxy: it is offered to a warm link or to one made for it, and after
//! [`Timing::next_after`] without a word to another as well; the first that takes it carries it.
//! Sans-IO.
//!
//! Call [`Offering::poll`] and do what it says until it says [`OfferStep::Wait`]; tell it of each
//! answer, connection and word. `L` is a lease, given back when dropped.
//!
//! [`Timing::next_after`]: crate::limits::Timing::next_after

use std::net::SocketAddr;
use std::time::Instant;

use wire::{Assign, DeniedReason, RefusedReason};

use crate::core::Core;
use crate::limits::{ATTEMPTS_MAX, OFFERS_MAX};
use crate::search::{Reply, Search, SearchStep};
use crate::way::DirectReason;

/// See the module.
#[derive(Debug)]
pub struct Offering<L> {
    /// When it goes direct.
    budget: Instant,
    attempts_left: u32,
    /// A proxy said so; the reason if no other is found.
    denied: Option<DeniedReason>,
    /// Offers without a word yet, in the order made.
    asked: Vec<Offer>,
    /// Why no further proxy can be asked while these are.
    exhausted: Option<DirectReason>,
    search: Option<Search<L>>,
}

/// What to do now.
#[derive(Debug)]
pub enum OfferStep {
    /// Take this warm link and offer the session there. If it broke at this moment, poll again.
    TakeWarm(u64),
    /// As [`SearchStep::Ask`].
    Ask(SocketAddr, Box<Assign>),
    /// As [`SearchStep::Connect`].
    Connect(SocketAddr),
    /// Nothing until then, unless something is heard.
    Wait(Instant),
    /// Go direct.
    Direct(DirectReason),
}

/// One proxy that the session was offered to.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// The proxy.
    pub proxy: SocketAddr,
    /// Who named it.
    pub manager: SocketAddr,
    /// Its link was kept ready.
    pub warm: bool,
    /// When `Open` was sent.
    pub at: Instant,
}

/// What a proxy says to an `Open`: first `Opening`, then one of the others, or at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is connecting.
    Opening,
    /// The mail server has answered.
    Opened,
    /// No.
    Refused(RefusedReason),
    /// This box is not admitted.
    Denied(DeniedReason),
}

/// Why a proxy said nothing useful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWord {
    /// It did not answer in time.
    Silent,
    /// It closed the link in order.
    Closed,
    /// The link broke, or it sent what has no place here.
    Broken,
}

/// What comes of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// This proxy carries the session, and is connecting to the mail server.
    AwaitServer,
    /// This proxy carries the session.
    Opened,
    /// The mail server's answer: the client's to see.
    Server(ServerAnswer),
    /// Go direct.
    Direct(DirectReason),
    /// Try another proxy. What is to be remembered of this one, is.
    Elsewhere,
}

/// How a mail server did not take a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerAnswer {
    /// Refused.
    Refused,
    /// No way there.
    Unreachable,
    /// No answer.
    TimedOut,
}

impl<L> Offering<L> {
    /// Of a session that begins at `now`.
    #[must_use]
    pub fn new(core: &Core, now: Instant) -> Self {
        Self {
            budget: now + core.timing().relay_budget,
            attempts_left: ATTEMPTS_MAX,
            denied: None,
            asked: Vec::new(),
            exhausted: None,
            search: None,
        }
    }

    /// The next step at `now`.
    pub fn poll(&mut self, core: &mut Core, now: Instant) -> OfferStep {
        loop {
            if let Err(reason) = core.may_relay(now) {
                return OfferStep::Direct(reason);
            }
            if self.attempts_left == 0 {
                return self.direct(DirectReason::BudgetSpent);
            }
            let Some(step) = self.search_on(core, now) else { continue };
            // A search ends at the budget by itself, and remembers who was silent.
            return match step {
                OfferStep::Wait(_) if now >= self.budget => self.direct(DirectReason::BudgetSpent),
                OfferStep::Wait(until) => OfferStep::Wait(until.min(self.budget)),
                step => step,
            };
        }
    }

    /// As [`Search::asked`].
    pub fn asked(&mut self, core: &mut Core, manager: SocketAddr, sent: bool, now: Instant) {
        if let Some(search) = &mut self.search {
            search.asked(core, manager, sent, now);
        }
    }

    /// As [`Search::answered`].
    pub fn answered(
        &mut self,
        core: &mut Core,
        manager: SocketAddr,
        reply: Option<Reply<L>>,
        now: Instant,
    ) {
        if let Some(search) = &mut self.search {
            search.answered(core, manager, reply, now);
        }
    }

    /// As [`Search::connected`].
    pub fn connected(
        &mut self,
        core: &mut Core,
        proxy: SocketAddr,
        now: Instant,
    ) -> Option<(SocketAddr, L)> {
        self.search.as_mut().and_then(|search| search.connected(core, proxy, now))
    }

    /// As [`Search::not_connected`].
    pub fn not_connected(
        &mut self,
        core: &mut Core,
        proxy: SocketAddr,
        silent: bool,
        now: Instant,
    ) {
        if let Some(search) = &mut self.search {
            search.not_connected(core, proxy, silent, now);
        }
    }

    /// The session is offered there now.
    pub fn offered(&mut self, offer: Offer) {
        self.search = None;
        self.asked.push(offer);
    }

    /// The first word of a proxy, or none. Where it carries the session, the other offers are to
    /// be let go.
    ///
    /// One of them that was asked earlier and is still silent counts as dead until a probe hears
    /// it.
    pub fn first_word(
        &mut self,
        core: &mut Core,
        offer: Offer,
        word: Result<Word, NoWord>,
        ipv6: bool,
        now: Instant,
    ) -> Attempt {
        self.asked.retain(|asked| asked.proxy != offer.proxy);
        if matches!(word, Ok(Word::Opening | Word::Opened)) {
            core.proxies.takes(offer.proxy);
            for asked in self.asked.drain(..).filter(|asked| asked.at < offer.at) {
                core.counters.failovers += 1;
                core.fell_silent(asked.proxy, asked.manager, now);
            }
            self.search = None;
        }
        if word == Ok(Word::Opening) {
            return Attempt::AwaitServer;
        }
        self.settled(core, offer, word, ipv6, now)
    }

    /// What the proxy says of the mail server, after [`Attempt::AwaitServer`]; none: it lives and
    /// is still connecting after all the time there is.
    pub fn server_word(
        &mut self,
        core: &mut Core,
        offer: Offer,
        word: Option<Result<Word, NoWord>>,
        ipv6: bool,
        now: Instant,
    ) -> Attempt {
        match word {
            None => Attempt::Server(ServerAnswer::TimedOut),
            Some(Ok(Word::Opening)) => self.settled(core, offer, Err(NoWord::Broken), ipv6, now),
            Some(word) => self.settled(core, offer, word, ipv6, now),
        }
    }

    fn settled(
        &mut self,
        core: &mut Core,
        Offer { proxy, manager, warm, .. }: Offer,
        word: Result<Word, NoWord>,
        ipv6: bool,
        now: Instant,
    ) -> Attempt {
        let attempt = match word {
            Ok(Word::Opening) => return Attempt::AwaitServer,
            Ok(Word::Opened) => {
                core.heard_at(proxy);
                return Attempt::Opened;
            }
            Ok(Word::Refused(reason)) => {
                core.heard_at(proxy);
                refused(reason, ipv6)
            }
            Ok(Word::Denied(reason)) => {
                tracing::warn!(%proxy, %reason, "proxy denies this box");
                self.denied = Some(reason);
                core.proxies.hold(proxy, manager, now);
                core.doubted(now);
                self.again();
                return Attempt::Elsewhere;
            }
            // A warm link closed in order while it was taken: nothing wrong with the proxy.
            Err(NoWord::Closed) if warm => Attempt::Elsewhere,
            Err(NoWord::Silent) => {
                core.fell_silent(proxy, manager, now);
                Attempt::Elsewhere
            }
            Err(NoWord::Closed | NoWord::Broken) => {
                core.proxy_failed(proxy, manager, now);
                Attempt::Elsewhere
            }
        };
        if attempt == Attempt::Elsewhere {
            if matches!(word, Ok(Word::Refused(_))) {
                core.counters.full += 1;
                core.proxies.hold(proxy, manager, now);
            }
            core.counters.failovers += 1;
            self.again();
        }
        attempt
    }

    /// One step of the search for one more proxy; none: look again at once.
    fn search_on(&mut self, core: &mut Core, now: Instant) -> Option<OfferStep> {
        let nobody_else = OfferStep::Wait(self.budget);
        if self.exhausted.is_some() || self.asked.len() >= OFFERS_MAX {
            return Some(nobody_else);
        }
        let Some(search) = &mut self.search else { return self.begin(core, now) };
        match search.poll(core, now) {
            SearchStep::Ask(manager, assign) => Some(OfferStep::Ask(manager, assign)),
            SearchStep::Connect(proxy) => Some(OfferStep::Connect(proxy)),
            SearchStep::Wait(until) => Some(OfferStep::Wait(until)),
            SearchStep::NoProxy(reason) => self.no_proxy(reason),
            SearchStep::Unreached => {
                self.search = None;
                self.again();
                None
            }
        }
    }

    /// One more proxy: at once, or when those that were asked have had their time; their sites are
    /// then tried last.
    fn begin(&mut self, core: &mut Core, now: Instant) -> Option<OfferStep> {
        if let Some(last) = self.asked.last() {
            let at = last.at + core.timing().next_after;
            if now < at {
                return Some(OfferStep::Wait(at));
            }
            for asked in &self.asked {
                core.keeps_waiting(asked.proxy, asked.manager, now);
            }
        }
        if let Some(number) = core.take_warm(now) {
            return Some(OfferStep::TakeWarm(number));
        }
        match Search::new(core, Some(self.budget), now) {
            Ok(search) => {
                self.search = Some(search);
                None
            }
            Err(reason) => self.no_proxy(reason),
        }
    }

    /// No proxy is to be had; if one was asked, its word is waited for.
    fn no_proxy(&mut self, reason: DirectReason) -> Option<OfferStep> {
        self.search = None;
        if self.asked.is_empty() {
            return Some(self.direct(reason));
        }
        self.exhausted = Some(reason);
        None
    }

    fn again(&mut self) {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        self.exhausted = None;
    }

    fn direct(&self, reason: DirectReason) -> OfferStep {
        OfferStep::Direct(self.denied.map_or(reason, DirectReason::Denied))
    }
}

fn refused(reason: RefusedReason, ipv6: bool) -> Attempt {
    match reason {
        RefusedReason::ServerRefused => Attempt::Server(ServerAnswer::Refused),
        // A site without IPv6 must not cut an office off from what it reaches by itself.
        RefusedReason::ServerUnreachable if ipv6 => Attempt::Direct(DirectReason::NoRoute),
        RefusedReason::ServerUnreachable => Attempt::Server(ServerAnswer::Unreachable),
        RefusedReason::ServerTimedOut => Attempt::Server(ServerAnswer::TimedOut),
        RefusedReason::Policy => Attempt::Direct(DirectReason::Policy),
        RefusedReason::Loop => Attempt::Direct(DirectReason::Loop),
        RefusedReason::Full | RefusedReason::Draining => Attempt::Elsewhere,
    }
}
