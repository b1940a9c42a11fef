//! The whole fleet in virtual time: offices with the box's cores, sites with the managers' core, and
//! a network between them.
//!
//! What is decided comes from the crates that ship. This one only carries messages, with their
//! delays, and has hosts die. Where nothing can happen, nothing is simulated: the pings of a link
//! whose ends are both well are skipped, and made up for when one of them dies.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use box_relay::Timing;
use box_relay::cores::{
    Core, Granted, ManagerEnd, NoWord, Offer, Offering, Search, Talk, Watch, Word,
};
use manager::fleet::{Report, Selection};
use manager::health::PollFailure;
use manager::lease::ConnectionId;
use manager::table::Table;
use wire::ticket::SignedTicket;
use wire::{Assign, LeaseId, Message};

use crate::dns::Dns;
use crate::measure::{Sample, Waits};
use crate::office::{self, Crowd};
use crate::queue::{At, Queue};
use crate::random::{Random, us};
use crate::scenario::{Action, Scenario};
use crate::site::{self, MANAGERS, Manager, PROXIES, Proxy, Reach, Site, WEIGHTS};

const SECOND_US: At = 1_000_000;
/// Resolvers of providers that offices use.
const RESOLVERS: usize = 200;
/// Boxes start within this time.
const STARTS_WITHIN_US: At = 300 * SECOND_US;
/// From one sample to the next.
pub const SAMPLE_US: At = 10 * SECOND_US;
/// Within a site, a poll takes longer than this only if it gets no answer.
const POLL_TIMEOUT_US: At = SECOND_US;
/// Fewer links at a site say nothing about how they are spread over its proxies.
const HERDING_LINKS_MIN: u32 = 100;
/// Waits counted as those of the failure: of sessions that begin within this time after it.
pub(crate) const FAILURE_WINDOW_US: At = 60 * SECOND_US;

/// How large, and of which seed.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Boxes.
    pub boxes: usize,
    /// Sites.
    pub sites: usize,
    /// What all random numbers come from.
    pub seed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub(crate) queue: Queue<Event>,
    /// What midnight is to the cores.
    midnight: Instant,
    pub(crate) offices: Vec<Office>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) free_sessions: Vec<u32>,
    pub(crate) sites: Vec<Site>,
    pub(crate) managers: Vec<Manager>,
    pub(crate) proxies: Vec<Proxy>,
    tables: Vec<Table>,
    selection: Selection,
    pub(crate) poll_us: At,
    pub(crate) dns: Dns,
    pub(crate) crowd: Option<Crowd>,
    actions: Vec<Action>,
    pub(crate) bin: Bin,
    pub(crate) random: Random,
    /// When something began to fail.
    pub(crate) failed_at: Option<At>,
    pub(crate) outcome: Outcome,
    pub(crate) tally: Sample,
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Of all events, in their order: two runs of one seed have the same.
    pub hash: u64,
    /// Events.
    pub events: u64,
    /// Sessions opened.
    pub opened: u64,
    /// Of these, direct.
    pub direct: u64,
    /// Why they went direct.
    pub direct_why: BTreeMap<String, u64>,
    /// Sessions that a failure reset.
    pub reset: u64,
    /// Waits of all sessions, from SYN to the mail server's answer.
    pub waits: Waits,
    /// Waits of those that began within a minute of the failure.
    pub waits_failing: Waits,
    /// Waits of those that began on a box that had seen the failure.
    pub waits_knowing: Waits,
    /// Questions, connections and sessions that went to what the box knew to be dead.
    pub known_dead: u64,
    /// State every ten seconds.
    pub samples: Vec<Sample>,
    /// Sessions taken by each proxy since the last failure, or the start.
    pub shares: Vec<u64>,
    /// Last time that a session began at the site taken out of DNS, and that its last one ended.
    pub last_begun_at: Option<At>,
    /// See `last_begun_at`.
    pub last_ended_at: Option<At>,
}

/// Leases that were dropped: box, manager, lease.
pub(crate) type Bin = Rc<RefCell<Vec<(u32, u32, LeaseId)>>>;

/// A lease; dropped, it goes back to its manager.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) bin: Bin,
    pub(crate) office: u32,
    pub(crate) manager: u32,
    pub(crate) id: LeaseId,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.bin.borrow_mut().push((self.office, self.manager, self.id));
    }
}

/// One office, with its box.
#[derive(Debug)]
pub(crate) struct Office {
    pub(crate) core: Core,
    pub(crate) random: Random,
    pub(crate) pcs: f64,
    resolver: usize,
    /// To the middle of the internet and back.
    pub(crate) round_trip_us: At,
    pub(crate) talks: Vec<TalkHere>,
    pub(crate) warm: Vec<WarmHere>,
    pub(crate) making: Option<Search<Lease>>,
    /// Number of the search under way, or of the last.
    pub(crate) makings: u32,
    pub(crate) serials: u32,
    /// When the keeper and the prober look next; 0: nothing is to come.
    pub(crate) keeper_at: At,
    pub(crate) prober_at: At,
    /// Until then things change by time alone.
    pub(crate) troubled_until: At,
    /// It has seen the failure.
    pub(crate) knows: bool,
}

/// A connection to a manager.
#[derive(Debug)]
pub(crate) struct TalkHere {
    pub(crate) manager: usize,
    pub(crate) serial: u32,
    pub(crate) state: TalkState,
}

#[derive(Debug)]
pub(crate) enum TalkState {
    Connecting(Vec<Request>),
    Up { talk: Box<Talk<Asker>>, connection: ConnectionId, epoch: u32 },
}

/// What a manager's connection is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    Assign(Box<Assign>, Asker),
    Bye(LeaseId),
    Probe,
    Ping,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker {
    Session(Sid),
    Making(u32),
    Nobody,
}

/// A warm link.
#[derive(Debug)]
pub(crate) struct WarmHere {
    pub(crate) number: u64,
    pub(crate) proxy: usize,
    pub(crate) epoch: u32,
    pub(crate) manager: usize,
    pub(crate) since: Instant,
    pub(crate) watch: Watch,
    pub(crate) lease: Lease,
    /// It counts as warm at the proxy.
    pub(crate) placed: bool,
}

/// Names a session; `turn` tells those at one place apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sid {
    pub(crate) at: u32,
    pub(crate) turn: u32,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) turn: u32,
    pub(crate) office: u32,
    pub(crate) begun: At,
    pub(crate) knowing: bool,
    pub(crate) state: SessionState,
}

#[derive(Debug)]
pub(crate) enum SessionState {
    Over,
    /// On its way to a proxy.
    Setup {
        offering: Box<Offering<Lease>>,
        offers: Vec<OfferHere>,
        timer: At,
        awaits_server: bool,
    },
    /// Through a proxy.
    Carried {
        link: OfferHere,
        bps: f64,
        cpus: f64,
    },
    Direct,
}

/// An offer to a proxy, or the link that carries the session.
#[derive(Debug)]
pub(crate) struct OfferHere {
    pub(crate) offer: Offer,
    pub(crate) proxy: usize,
    pub(crate) epoch: u32,
    /// Dropped with this, it goes back.
    pub(crate) _lease: Lease,
    /// It has a session's place at the proxy.
    pub(crate) placed: bool,
}

/// For whom a connection to a proxy is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    Session(Sid),
    Making(u32, u32),
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Begin(u32),
    Retry(u32),
    Setup(Sid),
    End(Sid),
    OpenArrives(Sid, u32),
    Word(Sid, u32, Result<Word, NoWord>),
    ServerWord(Sid, Result<Word, NoWord>),
    Connected(Who, u32, u32),
    NotConnected(Who, u32, bool),
    Dns(u32),
    Keeper(u32),
    Prober(u32),
    Making(u32, u32),
    Probed(u32, u32, u32, bool),
    WarmTick(u32, u64),
    WarmPong(u32, u64),
    WarmPlace(u32, u64),
    WarmBroken(u32, u64),
    WarmClosed(u32, u64),
    TalkUp(u32, u32),
    TalkDown(u32, u32, ManagerEnd),
    TalkTick(u32, u32),
    ToManager(u32, u32, Box<Message>),
    FromManager(u32, u32, Box<Message>),
    Poll(u32),
    PollFailed(u32, u32, u32),
    Act(u32),
    Sample,
}

impl World {
    /// A fleet that starts a while before the scenario does, so that nothing is in step.
    #[must_use]
    pub fn new(size: Size, scenario: &Scenario) -> Self {
        let mut random = Random::new(size.seed);
        let start = scenario.from.saturating_sub(scenario.warm_up);
        let midnight = midnight();
        let zone: Vec<IpAddr> =
            (0..size.sites * MANAGERS).map(|m| site::manager_address(m).ip()).collect();
        let tables: Vec<Table> = (0..size.sites).map(site::table).collect();
        let now = midnight + Duration::from_micros(start);
        let mut world = Self {
            queue: Queue::new(start),
            midnight,
            offices: Vec::with_capacity(size.boxes),
            sessions: Vec::new(),
            free_sessions: Vec::new(),
            sites: sites(size.sites, &mut random),
            managers: (0..size.sites * MANAGERS)
                .map(|m| {
                    Manager::new(&tables[m / MANAGERS], scenario.selection, random.bits(), now)
                })
                .collect(),
            proxies: (0..size.sites * PROXIES).map(|_| Proxy::new()).collect(),
            tables,
            selection: scenario.selection,
            poll_us: us(scenario.poll_s),
            dns: Dns::new(zone, RESOLVERS, Random::new(random.bits())),
            crowd: scenario.crowd,
            actions: scenario.actions.iter().map(|(_, action)| *action).collect(),
            bin: Bin::default(),
            random,
            failed_at: None,
            outcome: Outcome { hash: 0xcbf2_9ce4_8422_2325, ..Outcome::default() },
            tally: Sample::default(),
        };
        world.begin(size, scenario, start);
        world
    }

    fn begin(&mut self, size: Size, scenario: &Scenario, start: At) {
        self.tally = Self::empty_sample(size.sites);
        for manager in 0..self.managers.len() {
            let first = start + self.random.below(self.poll_us);
            self.queue.put(first, Event::Poll(small(manager)));
        }
        let timing = Arc::new(Timing::default());
        for number in 0..size.boxes {
            let at = start + SECOND_US + self.random.below(STARTS_WITHIN_US);
            let office = self.new_office(&timing);
            self.offices.push(office);
            let number = small(number);
            self.queue.put(at, Event::Dns(number));
            let office = &mut self.offices[wide(number)];
            let first = office::next_session(&mut office.random, office.pcs, self.crowd, at);
            self.queue.put(first, Event::Begin(number));
        }
        for (number, (at, _)) in scenario.actions.iter().enumerate() {
            self.queue.put(*at, Event::Act(small(number)));
        }
        self.queue.put(scenario.from, Event::Sample);
    }

    fn new_office(&mut self, timing: &Arc<Timing>) -> Office {
        let mut random = Random::new(self.random.bits());
        let now = self.instant();
        let mut core = {
            let seed = || u32::try_from(random.bits() >> 32).unwrap_or(1);
            Core::new("fleet.example", timing, seed, now)
        };
        // Logins are not simulated: it has a ticket for longer than any run lasts.
        let signed = SignedTicket { ticket: vec![1], signature: vec![2] };
        let life_s = 7 * wire::ticket::TICKET_LIFE_S;
        core.admission.granted(Granted { signed, not_before_s: 0, not_after_s: life_s }, now, 0);
        let pcs = office::pcs(&mut random);
        // A few providers have most of the offices.
        let share = random.unit();
        let resolver = us(share * share * RESOLVERS as f64 / 1e6);
        let round_trip_us = us(random.lognormal(0.006, 0.5).min(0.06));
        Office {
            core,
            random,
            pcs,
            resolver: usize::try_from(resolver).unwrap_or(0).min(RESOLVERS - 1),
            round_trip_us,
            talks: Vec::new(),
            warm: Vec::new(),
            making: None,
            makings: 0,
            serials: 0,
            keeper_at: 0,
            prober_at: 0,
            troubled_until: 0,
            knows: false,
        }
    }

    /// Runs to the end of the scenario.
    pub fn run(&mut self, scenario: &Scenario) -> Outcome {
        let end = scenario.from + scenario.lasts;
        while let Some((at, event)) = self.queue.take_before(end) {
            self.outcome.events += 1;
            self.note(at, &event);
            self.happen(event);
        }
        self.outcome.shares = self.proxies.iter().map(|proxy| proxy.taken).collect();
        std::mem::take(&mut self.outcome)
    }

    /// The time as the cores take it.
    pub(crate) fn instant(&self) -> Instant {
        self.midnight + Duration::from_micros(self.queue.now())
    }

    /// The other way round.
    pub(crate) fn at(&self, instant: Instant) -> At {
        let passed = instant.saturating_duration_since(self.midnight);
        // Rounded up, so that what is due then is due.
        At::try_from(passed.as_nanos().div_ceil(1_000)).unwrap_or(At::MAX)
    }

    /// Round trip between a box and a site.
    pub(crate) fn round_trip(&self, office: u32, site: usize) -> At {
        self.offices[wide(office)].round_trip_us + self.sites[site].round_trip_us
    }

    pub(crate) fn manager_reach(&self, manager: usize) -> Reach {
        both(self.sites[manager / MANAGERS].reach, self.managers[manager].reach)
    }

    pub(crate) fn proxy_reach(&self, proxy: usize) -> Reach {
        both(self.sites[proxy / PROXIES].reach, self.proxies[proxy].reach)
    }

    /// A link of that epoch to this proxy works.
    pub(crate) fn proxy_is_well(&self, proxy: usize, epoch: u32) -> bool {
        self.proxy_reach(proxy) == Reach::Up && self.proxies[proxy].epoch == epoch
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(office) => self.begin_session(office, true),
            Event::Retry(office) => self.begin_session(office, false),
            Event::Setup(sid) => self.setup_due(sid),
            Event::End(sid) => self.session_ends(sid),
            Event::OpenArrives(sid, proxy) => self.open_arrives(sid, wide(proxy)),
            Event::Word(sid, proxy, word) => self.word(sid, wide(proxy), word),
            Event::ServerWord(sid, word) => self.server_word(sid, word),
            Event::Connected(who, proxy, epoch) => self.connected(who, wide(proxy), epoch),
            Event::NotConnected(who, proxy, silent) => {
                self.not_connected(who, wide(proxy), silent);
            }
            Event::Dns(office) => self.ask_dns(office),
            Event::Keeper(office) => self.keeper_due(office),
            Event::Prober(office) => self.prober_due(office),
            Event::Making(office, number) => self.making_due(office, number),
            Event::Probed(office, proxy, manager, answered) => {
                self.probed(office, wide(proxy), wide(manager), answered);
            }
            Event::WarmTick(office, number) => self.warm_tick(office, number),
            Event::WarmPong(office, number) => self.warm_pong(office, number),
            Event::WarmPlace(office, number) => self.warm_place(office, number),
            Event::WarmBroken(office, number) => self.warm_broken(office, number),
            Event::WarmClosed(office, number) => self.warm_closed(office, number),
            Event::TalkUp(office, serial) => self.talk_up(office, serial),
            Event::TalkDown(office, serial, end) => self.talk_down(office, serial, end),
            Event::TalkTick(office, serial) => self.talk_tick(office, serial),
            Event::ToManager(office, serial, message) => {
                self.at_manager(office, serial, *message);
            }
            Event::FromManager(office, serial, message) => {
                self.manager_said(office, serial, *message);
            }
            Event::Poll(manager) => self.poll(manager),
            Event::PollFailed(manager, place, epoch) => {
                if self.managers[wide(manager)].epoch == epoch {
                    let now = self.instant();
                    let fleet = &mut self.managers[wide(manager)].fleet;
                    fleet.poll_failed(wide(place), PollFailure::TimedOut, now);
                }
            }
            Event::Act(number) => self.act(self.actions[wide(number)]),
            Event::Sample => self.sample(),
        }
    }

    /// Mixes an event into the hash of the log (FNV-1a over its words).
    fn note(&mut self, at: At, event: &Event) {
        let (kind, one, other) = match *event {
            Event::Begin(a) => (1, a, 0),
            Event::Retry(a) => (2, a, 0),
            Event::Setup(a) => (3, a.at, a.turn),
            Event::End(a) => (4, a.at, a.turn),
            Event::OpenArrives(a, b) => (5, a.at, b),
            Event::Word(a, b, word) => (6 + u64::from(word.is_ok()), a.at, b),
            Event::ServerWord(a, word) => (8 + u64::from(word.is_ok()), a.at, a.turn),
            Event::Connected(_, a, b) => (10, a, b),
            Event::NotConnected(_, a, b) => (11, a, u32::from(b)),
            Event::Dns(a) => (12, a, 0),
            Event::Keeper(a) => (13, a, 0),
            Event::Prober(a) => (14, a, 0),
            Event::Making(a, b) => (15, a, b),
            Event::Probed(a, b, _, answered) => (16 + u64::from(answered), a, b),
            Event::WarmTick(a, b) => (18 + (b << 8), a, 0),
            Event::WarmPong(a, b) => (19 + (b << 8), a, 0),
            Event::WarmPlace(a, b) => (20 + (b << 8), a, 0),
            Event::WarmBroken(a, b) => (21 + (b << 8), a, 0),
            Event::WarmClosed(a, b) => (22 + (b << 8), a, 0),
            Event::TalkUp(a, b) => (23, a, b),
            Event::TalkDown(a, b, _) => (24, a, b),
            Event::TalkTick(a, b) => (25, a, b),
            Event::ToManager(a, b, _) => (26, a, b),
            Event::FromManager(a, b, _) => (27, a, b),
            Event::Poll(a) => (28, a, 0),
            Event::PollFailed(a, b, _) => (29, a, b),
            Event::Act(a) => (30, a, 0),
            Event::Sample => (31, 0, 0),
        };
        for word in [at, kind, u64::from(one) << 32 | u64::from(other)] {
            self.outcome.hash = (self.outcome.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn ask_dns(&mut self, number: u32) {
        let (at, now) = (self.queue.now(), self.instant());
        let office = &mut self.offices[wide(number)];
        match self.dns.ask(office.resolver, at) {
            Some(answer) => {
                office.core.managers_named.answered(answer, now, at / SECOND_US);
                office.core.take_list(wire::MANAGER_PORT);
            }
            None => office.core.managers_named.failed(now),
        }
        let next = office.core.managers_named.ask_at();
        let next = self.at(next);
        self.queue.put(next, Event::Dns(number));
        self.settle(number);
        self.look_at_idle_talks(number);
    }

    fn poll(&mut self, number: u32) {
        let (at, now) = (self.queue.now(), self.instant());
        self.queue.put(at + self.poll_us, Event::Poll(number));
        let manager = wide(number);
        if self.manager_reach(manager) != Reach::Up {
            return;
        }
        let site = manager / MANAGERS;
        for place in 0..PROXIES {
            let proxy = &mut self.proxies[site * PROXIES + place];
            let host = &mut self.managers[manager];
            match proxy.reach {
                Reach::Up => {
                    let report = Report {
                        load_average_milli: proxy.load_milli(at),
                        sessions: proxy.sessions,
                        draining: false,
                    };
                    host.fleet.reported(place, report, now);
                }
                Reach::Silent => {
                    let failed = Event::PollFailed(number, small(place), host.epoch);
                    self.queue.put(at + POLL_TIMEOUT_US, failed);
                }
                Reach::Refusing => {
                    host.fleet.poll_failed(place, PollFailure::Unreachable, now);
                }
            }
        }
    }

    fn act(&mut self, action: Action) {
        let sites = self.sites.len();
        match action {
            Action::Site(site, reach) => self.site_becomes(site % sites, reach),
            Action::AllSites(reach) => (0..sites).for_each(|site| self.site_becomes(site, reach)),
            Action::Manager(manager, reach) => {
                self.managers[manager].reach = reach;
                if reach != Reach::Up {
                    self.manager_dies(manager);
                    self.tell_boxes(|_| false, |other| other == manager);
                }
            }
            Action::Proxy(proxy, reach) => {
                self.proxies[proxy].reach = reach;
                if reach != Reach::Up {
                    self.proxy_dies(proxy);
                    self.tell_boxes(|other| other == proxy, |_| false);
                }
            }
            Action::OtherLoad(proxy, load) => self.proxies[proxy].other_load = load,
            Action::Listed(site, listed) => {
                let managers = site * MANAGERS..(site + 1) * MANAGERS;
                let addresses: Vec<IpAddr> =
                    managers.map(|m| site::manager_address(m).ip()).collect();
                self.dns.change(&addresses, listed);
            }
            Action::Dns(up) => self.dns.up = up,
        }
        self.failed_at = Some(self.queue.now());
        for proxy in &mut self.proxies {
            proxy.taken = 0;
        }
        for office in &mut self.offices {
            office.knows = false;
        }
    }

    fn site_becomes(&mut self, site: usize, reach: Reach) {
        self.sites[site].reach = reach;
        if reach == Reach::Up {
            return;
        }
        for manager in site * MANAGERS..(site + 1) * MANAGERS {
            self.manager_dies(manager);
        }
        for proxy in site * PROXIES..(site + 1) * PROXIES {
            self.proxy_dies(proxy);
        }
        self.tell_boxes(|proxy| proxy / PROXIES == site, |manager| manager / MANAGERS == site);
    }

    fn manager_dies(&mut self, manager: usize) {
        let (seed, now) = (self.random.bits(), self.instant());
        let table = &self.tables[manager / MANAGERS];
        self.managers[manager].dies(table, self.selection, seed, now);
    }

    /// Its sessions are reset; the mail programs try again.
    fn proxy_dies(&mut self, proxy: usize) {
        for at in 0..self.sessions.len() {
            let session = &self.sessions[at];
            let here =
                matches!(&session.state, SessionState::Carried { link, .. } if link.proxy == proxy);
            if here {
                let (office, turn) = (session.office, session.turn);
                self.session_ends(Sid { at: small(at), turn });
                self.outcome.reset += 1;
                let again = SECOND_US + self.random.below(29 * SECOND_US);
                self.queue.put(self.queue.now() + again, Event::Retry(office));
            }
        }
        let now = self.queue.now();
        self.proxies[proxy].dies(now);
    }

    /// What died is noticed at the ends of its links: at once where it refuses, by pings where it
    /// is silent.
    fn tell_boxes(&mut self, is_proxy: impl Fn(usize) -> bool, is_manager: impl Fn(usize) -> bool) {
        for number in 0..self.offices.len() {
            let number = small(number);
            for at in 0..self.offices[wide(number)].warm.len() {
                let proxy = self.offices[wide(number)].warm[at].proxy;
                if is_proxy(proxy) {
                    self.warm_peer_died(number, at);
                }
            }
            for at in 0..self.offices[wide(number)].talks.len() {
                let manager = self.offices[wide(number)].talks[at].manager;
                if is_manager(manager) {
                    self.talk_peer_died(number, at);
                }
            }
        }
    }

    fn sample(&mut self) {
        let at = self.queue.now();
        self.queue.put(at + SAMPLE_US, Event::Sample);
        let mut sample = std::mem::replace(&mut self.tally, Self::empty_sample(self.sites.len()));
        sample.at = at;
        for (number, site) in self.sites.iter().enumerate() {
            sample.sessions[number] = site.sessions;
            sample.line[number] = site.given_bps / site::LINE_BPS;
            let proxies = &mut self.proxies[number * PROXIES..(number + 1) * PROXIES];
            sample.warm[number] = proxies.iter().map(|proxy| proxy.warm).sum();
            sample.load[number] =
                proxies.iter_mut().map(|p| f64::from(p.load_milli(at)) / 1e3).fold(0.0, f64::max);
            let links: u32 = proxies.iter().map(|proxy| proxy.links).sum();
            let even = f64::from(links) / f64::from(WEIGHTS.iter().sum::<u32>());
            let most = proxies
                .iter()
                .zip(WEIGHTS)
                .map(|(proxy, weight)| f64::from(proxy.links) / f64::from(weight))
                .fold(0.0, f64::max);
            sample.herding[number] = if links >= HERDING_LINKS_MIN { most / even } else { 0.0 };
        }
        self.outcome.samples.push(sample);
    }

    fn empty_sample(sites: usize) -> Sample {
        Sample {
            at: 0,
            sessions: vec![0; sites],
            warm: vec![0; sites],
            begun: vec![0; sites + 1],
            connections: vec![0; sites],
            herding: vec![0.0; sites],
            load: vec![0.0; sites],
            line: vec![0.0; sites],
        }
    }

    /// Longest that a box may use a site that is gone from DNS, in seconds.
    #[must_use]
    pub fn ttl_s_max(&self) -> u64 {
        (0..RESOLVERS).map(|resolver| self.dns.ttl_s(resolver)).max().unwrap_or(0)
    }
}

fn sites(count: usize, random: &mut Random) -> Vec<Site> {
    let site = |_| Site {
        reach: Reach::Up,
        round_trip_us: us(0.004 + 0.016 * random.unit()),
        given_bps: 0.0,
        sessions: 0,
    };
    (0..count).map(site).collect()
}

fn both(site: Reach, host: Reach) -> Reach {
    if site == Reach::Up { host } else { site }
}

/// Some moment: only what passes after it matters.
fn midnight() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "an arbitrary origin; nothing is measured by it")]
    Instant::now()
}

/// A number of the model as it stands in events; there are never more than these.
pub(crate) fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The other way round.
pub(crate) fn wide(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
