//! Sessions: on their way to a proxy as the box's `Offering` says, then carried, then over.

use box_relay::DirectReason;
use box_relay::cores::{Attempt, NoWord, Offer, OfferStep, Offering, Word};
use wire::RefusedReason;

use crate::office::{self, OFFICE_LINE_BPS, SESSION_MAX_US};
use crate::queue::At;
use crate::random::us;
use crate::site::{self, LINKS_MAX, PROXIES, Reach, SESSIONS_MAX};
use crate::world::{
    Asker, Event, FAILURE_WINDOW_US, Lease, OfferHere, Request, Session, SessionState, Sid, Who,
    World, small, wide,
};

/// Round trip from the middle of the internet to a mail server, microseconds.
const SERVER_ROUND_TRIP_US: At = 15_000;
/// A proxy that died while it connects to a mail server is found out by a ping: the interval of
/// pings and the wait for an answer.
const SERVER_SILENT_US: At = 7_000_000;

impl World {
    /// An office's session begins; `next`: and the one after it is to come.
    pub(crate) fn begin_session(&mut self, number: u32, next: bool) {
        let (at, now) = (self.queue.now(), self.instant());
        let crowd = self.crowd;
        let office = &mut self.offices[wide(number)];
        if next {
            let next = office::next_session(&mut office.random, office.pcs, crowd, at);
            self.queue.put(next, Event::Begin(number));
        }
        let state = SessionState::Setup {
            offering: Box::new(Offering::new(&office.core, now)),
            offers: Vec::new(),
            timer: 0,
            awaits_server: false,
        };
        let (begun, knowing) = (at, office.knows);
        let sid = match self.free_sessions.pop() {
            Some(place) => {
                let session = &mut self.sessions[wide(place)];
                *session =
                    Session { turn: session.turn + 1, office: number, begun, knowing, state };
                Sid { at: place, turn: session.turn }
            }
            None => {
                self.sessions.push(Session { turn: 0, office: number, begun, knowing, state });
                Sid { at: small(self.sessions.len() - 1), turn: 0 }
            }
        };
        self.drive_session(sid);
        self.settle(number);
    }

    pub(crate) fn setup_due(&mut self, sid: Sid) {
        let due = self.queue.now();
        let Some(SessionState::Setup { timer, .. }) = self.session(sid).map(|s| &mut s.state)
        else {
            return;
        };
        // A later timer took its place.
        if *timer == due {
            *timer = 0;
            self.drive_and_settle(sid);
        }
    }

    /// The office of a session on its way, its core and offering.
    pub(crate) fn drive_and_settle(&mut self, sid: Sid) {
        let Some(office) = self.session(sid).map(|session| session.office) else { return };
        self.drive_session(sid);
        self.settle(office);
    }

    fn drive_session(&mut self, sid: Sid) {
        loop {
            let now = self.instant();
            let session = &mut self.sessions[wide(sid.at)];
            let office = session.office;
            if session.turn != sid.turn {
                return;
            }
            let SessionState::Setup { offering, awaits_server: false, .. } = &mut session.state
            else {
                return;
            };
            match offering.poll(&mut self.offices[wide(office)].core, now) {
                OfferStep::TakeWarm(number) => self.take_warm(sid, office, number),
                OfferStep::Ask(address, assign) => {
                    let Some(manager) = site::manager_at(address) else { return };
                    let core = &mut self.offices[wide(office)].core;
                    if core.managers.is_dead(address) {
                        self.outcome.known_dead += 1;
                    }
                    offering.asked(core, address, true, now);
                    self.ask_manager(office, manager, Request::Assign(assign, Asker::Session(sid)));
                }
                OfferStep::Connect(address) => {
                    self.connect(office, Who::Session(sid), address);
                }
                OfferStep::Wait(until) => {
                    let until = self.at(until);
                    let session = &mut self.sessions[wide(sid.at)];
                    if let SessionState::Setup { timer, .. } = &mut session.state
                        && *timer != until
                    {
                        *timer = until;
                        self.queue.put(until, Event::Setup(sid));
                    }
                    return;
                }
                OfferStep::Direct(reason) => return self.go_direct(sid, reason),
            }
        }
    }

    fn take_warm(&mut self, sid: Sid, office: u32, number: u64) {
        let here = &mut self.offices[wide(office)];
        let Some(at) = here.warm.iter().position(|warm| warm.number == number) else { return };
        let warm = here.warm.swap_remove(at);
        let proxy = &mut self.proxies[warm.proxy];
        if warm.placed && proxy.epoch == warm.epoch {
            proxy.warm -= 1;
        }
        self.offer(sid, warm.proxy, warm.epoch, warm.manager, warm.lease, true);
    }

    /// Sends `Open` on a link.
    fn offer(
        &mut self,
        sid: Sid,
        proxy: usize,
        epoch: u32,
        manager: usize,
        lease: Lease,
        warm: bool,
    ) {
        let (at, now) = (self.queue.now(), self.instant());
        let office = self.sessions[wide(sid.at)].office;
        let half = self.round_trip(office, proxy / PROXIES) / 2;
        let (address, manager) = (site::proxy_address(proxy), site::manager_address(manager));
        let offer = Offer { proxy: address, manager, warm, at: now };
        let session = &mut self.sessions[wide(sid.at)];
        let SessionState::Setup { offering, offers, .. } = &mut session.state else { return };
        offering.offered(offer);
        offers.push(OfferHere { offer, proxy, epoch, _lease: lease, placed: false });
        self.queue.put(at + half, Event::OpenArrives(sid, small(proxy)));
    }

    pub(crate) fn open_arrives(&mut self, sid: Sid, proxy: usize) {
        let Some((office, at)) = self.offer_at(sid, proxy) else { return };
        let half = self.round_trip(office, proxy / PROXIES) / 2;
        let now = self.queue.now();
        if let Some((after, word)) = self.link_fails(sid, proxy, at) {
            self.queue.put(after, Event::Word(sid, small(proxy), Err(word)));
            return;
        }
        let host = &mut self.proxies[proxy];
        let word = if host.sessions >= SESSIONS_MAX {
            Word::Refused(RefusedReason::Full)
        } else {
            host.sessions += 1;
            let SessionState::Setup { offers, .. } = &mut self.sessions[wide(sid.at)].state else {
                return;
            };
            offers[at].placed = true;
            Word::Opening
        };
        self.queue.put(now + half, Event::Word(sid, small(proxy), Ok(word)));
    }

    pub(crate) fn word(&mut self, sid: Sid, proxy: usize, word: Result<Word, NoWord>) {
        let Some((office, at)) = self.offer_at(sid, proxy) else { return };
        if word.is_ok()
            && let Some((after, word)) = self.link_fails(sid, proxy, at)
        {
            self.queue.put(after, Event::Word(sid, small(proxy), Err(word)));
            return;
        }
        let (at_us, now) = (self.queue.now(), self.instant());
        let core = &mut self.offices[wide(office)].core;
        let SessionState::Setup { offering, offers, awaits_server, .. } =
            &mut self.sessions[wide(sid.at)].state
        else {
            return;
        };
        let this = offers.swap_remove(at);
        let gone = match offering.first_word(core, this.offer, word, false, now) {
            Attempt::AwaitServer => {
                let gone = std::mem::replace(offers, vec![this]);
                *awaits_server = true;
                let connecting = us(self.random.exponential(0.01)) + SERVER_ROUND_TRIP_US;
                self.queue.put(at_us + connecting, Event::ServerWord(sid, Ok(Word::Opened)));
                gone
            }
            _ => vec![this],
        };
        gone.into_iter().for_each(|link| self.close(link));
        self.drive_and_settle(sid);
    }

    pub(crate) fn server_word(&mut self, sid: Sid, word: Result<Word, NoWord>) {
        let Some(session) = self.session(sid) else { return };
        let office = session.office;
        let SessionState::Setup { offers, .. } = &session.state else { return };
        let Some((proxy, epoch)) = offers.first().map(|link| (link.proxy, link.epoch)) else {
            return;
        };
        if word.is_ok() && !self.proxy_is_well(proxy, epoch) {
            let silent = self.proxy_reach(proxy) == Reach::Silent;
            let (after, word) =
                if silent { (SERVER_SILENT_US, NoWord::Silent) } else { (0, NoWord::Broken) };
            self.queue.put(self.queue.now() + after, Event::ServerWord(sid, Err(word)));
            return;
        }
        let now = self.instant();
        let core = &mut self.offices[wide(office)].core;
        let SessionState::Setup { offering, offers, awaits_server, .. } =
            &mut self.sessions[wide(sid.at)].state
        else {
            return;
        };
        *awaits_server = false;
        let Some(link) = offers.pop() else { return };
        match offering.server_word(core, link.offer, Some(word), false, now) {
            Attempt::Opened => self.carry(sid, link),
            _ => self.close(link),
        }
        self.drive_and_settle(sid);
    }

    fn carry(&mut self, sid: Sid, link: OfferHere) {
        let at = self.queue.now();
        let (proxy, place) = (link.proxy, link.proxy / PROXIES);
        let office = self.sessions[wide(sid.at)].office;
        let round_trip = self.round_trip(office, place) + SERVER_ROUND_TRIP_US;
        let work = office::work(&mut self.offices[wide(office)].random, round_trip);
        let site = &mut self.sites[place];
        // A transfer's share of the line is what it finds: the rest, or an even share of all.
        let even = site::LINE_BPS / f64::from(site.sessions + 1);
        let bps = (site::LINE_BPS - site.given_bps).max(even).min(OFFICE_LINE_BPS);
        let transfer_s = work.bytes * 8.0 / bps;
        let lasts = us(work.talk_s + transfer_s).min(SESSION_MAX_US);
        // Averaged over its time.
        let bps = work.bytes * 8.0 * 1e6 / lasts.max(1) as f64;
        let cpus = work.cpu_s * 1e6 / lasts.max(1) as f64;
        site.given_bps += bps;
        site.sessions += 1;
        let host = &mut self.proxies[proxy];
        host.load.add(cpus, at);
        host.taken += 1;
        self.tally.begun[place] += 1;
        self.outcome.last_begun_at = self.outcome.last_begun_at.max(self.gone_from_dns(place));
        self.opened(sid);
        self.sessions[wide(sid.at)].state = SessionState::Carried { link, bps, cpus };
        self.queue.put(at + lasts, Event::End(sid));
    }

    fn go_direct(&mut self, sid: Sid, reason: DirectReason) {
        let session = &mut self.sessions[wide(sid.at)];
        let office = session.office;
        let state = std::mem::replace(&mut session.state, SessionState::Direct);
        if let SessionState::Setup { offers, .. } = state {
            offers.into_iter().for_each(|link| self.close(link));
        }
        let round_trip = self.offices[wide(office)].direct_round_trip() + SERVER_ROUND_TRIP_US;
        let work = office::work(&mut self.offices[wide(office)].random, round_trip);
        let last = self.tally.begun.len() - 1;
        self.tally.begun[last] += 1;
        self.outcome.direct += 1;
        *self.outcome.direct_why.entry(reason.to_string()).or_default() += 1;
        self.opened(sid);
        let lasts = us(work.talk_s + work.bytes * 8.0 / OFFICE_LINE_BPS).min(SESSION_MAX_US);
        self.queue.put(self.queue.now() + lasts, Event::End(sid));
    }

    /// Counts the wait of a session that is open now.
    fn opened(&mut self, sid: Sid) {
        let Session { begun, knowing, .. } = self.sessions[wide(sid.at)];
        let wait = self.queue.now() - begun;
        self.outcome.opened += 1;
        self.outcome.waits.add(wait);
        if let Some(failed_at) = self.failed_at
            && (failed_at..failed_at + FAILURE_WINDOW_US).contains(&begun)
        {
            self.outcome.waits_failing.add(wait);
        }
        if knowing {
            self.outcome.waits_knowing.add(wait);
        }
    }

    pub(crate) fn session_ends(&mut self, sid: Sid) {
        let Some(session) = self.session(sid) else { return };
        let office = session.office;
        let state = std::mem::replace(&mut session.state, SessionState::Over);
        session.turn += 1;
        self.free_sessions.push(sid.at);
        if let SessionState::Carried { link, bps, cpus } = state {
            let place = link.proxy / PROXIES;
            let site = &mut self.sites[place];
            site.given_bps = (site.given_bps - bps).max(0.0);
            site.sessions -= 1;
            if self.proxies[link.proxy].epoch == link.epoch {
                self.proxies[link.proxy].load.add(-cpus, self.queue.now());
            }
            self.outcome.last_ended_at = self.outcome.last_ended_at.max(self.gone_from_dns(place));
            self.close(link);
        }
        self.settle(office);
    }

    /// Closes a link, with its place.
    pub(crate) fn close(&mut self, link: OfferHere) {
        let proxy = &mut self.proxies[link.proxy];
        if proxy.epoch == link.epoch {
            proxy.links -= 1;
            proxy.sessions -= u32::from(link.placed);
        }
    }

    /// Connects a box to a proxy.
    pub(crate) fn connect(&mut self, office: u32, who: Who, address: std::net::SocketAddr) {
        let Some(proxy) = site::proxy_at(address) else { return };
        let core = &self.offices[wide(office)].core;
        let (now, instant) = (self.queue.now(), self.instant());
        if !core.proxies.is_usable(address, instant) {
            self.outcome.known_dead += 1;
        }
        self.tally.connections[proxy / PROXIES] += 1;
        let round_trip = self.round_trip(office, proxy / PROXIES);
        let (place, epoch) = (small(proxy), self.proxies[proxy].epoch);
        match self.proxy_reach(proxy) {
            // TCP, then TLS 1.3.
            Reach::Up => self.queue.put(now + 2 * round_trip, Event::Connected(who, place, epoch)),
            Reach::Refusing => {
                self.queue.put(now + round_trip, Event::NotConnected(who, place, false));
            }
            Reach::Silent => {
                let limit = us(core.timing().proxy_connect_max.as_secs_f64());
                self.queue.put(now + limit, Event::NotConnected(who, place, true));
            }
        }
    }

    pub(crate) fn connected(&mut self, who: Who, proxy: usize, epoch: u32) {
        let now = self.instant();
        if !self.proxy_is_well(proxy, epoch) || self.proxies[proxy].links >= LINKS_MAX {
            let silent = self.proxy_reach(proxy) == Reach::Silent;
            return self.not_connected(who, proxy, silent);
        }
        let address = site::proxy_address(proxy);
        let found = match who {
            Who::Session(sid) => {
                let Some(session) = self.session(sid) else { return };
                let office = session.office;
                let SessionState::Setup { offering, .. } = &mut self.sessions[wide(sid.at)].state
                else {
                    return;
                };
                let core = &mut self.offices[wide(office)].core;
                offering.connected(core, address, now)
            }
            Who::Making(office, number) => {
                let office = &mut self.offices[wide(office)];
                match &mut office.making {
                    Some(search) if office.makings == number => {
                        search.connected(&mut office.core, address, now)
                    }
                    _ => return,
                }
            }
        };
        let Some((manager, lease)) = found else { return };
        let Some(manager) = site::manager_at(manager) else { return };
        let host = &mut self.proxies[proxy];
        host.links += 1;
        host.load.spend(site::HANDSHAKE_CPU_S, self.queue.now());
        match who {
            Who::Session(sid) => {
                self.offer(sid, proxy, epoch, manager, lease, false);
                self.drive_and_settle(sid);
            }
            Who::Making(office, _) => self.made(office, proxy, epoch, manager, lease),
        }
    }

    pub(crate) fn not_connected(&mut self, who: Who, proxy: usize, silent: bool) {
        let (now, address) = (self.instant(), site::proxy_address(proxy));
        match who {
            Who::Session(sid) => {
                let Some(session) = self.session(sid) else { return };
                let office = session.office;
                let SessionState::Setup { offering, .. } = &mut self.sessions[wide(sid.at)].state
                else {
                    return;
                };
                let core = &mut self.offices[wide(office)].core;
                offering.not_connected(core, address, silent, now);
                self.drive_and_settle(sid);
            }
            Who::Making(number, making) => {
                let office = &mut self.offices[wide(number)];
                if let Some(search) = &mut office.making
                    && office.makings == making
                {
                    search.not_connected(&mut office.core, address, silent, now);
                    self.drive_making(number);
                    self.settle(number);
                }
            }
        }
    }

    /// A session that is not over.
    pub(crate) fn session(&mut self, sid: Sid) -> Option<&mut Session> {
        self.sessions.get_mut(wide(sid.at)).filter(|session| session.turn == sid.turn)
    }

    /// Where an offer to that proxy stands among a session's, and the office.
    fn offer_at(&mut self, sid: Sid, proxy: usize) -> Option<(u32, usize)> {
        let session = self.session(sid)?;
        let SessionState::Setup { offers, .. } = &session.state else { return None };
        let at = offers.iter().position(|link| link.proxy == proxy)?;
        Some((session.office, at))
    }

    /// What the box sees of a link that does not work, and when; none: it works.
    fn link_fails(&self, sid: Sid, proxy: usize, at: usize) -> Option<(At, NoWord)> {
        let session = &self.sessions[wide(sid.at)];
        let SessionState::Setup { offers, .. } = &session.state else { return None };
        let link = offers.get(at)?;
        let now = self.queue.now();
        if self.proxy_is_well(proxy, link.epoch) {
            return None;
        }
        if self.proxy_reach(proxy) == Reach::Silent {
            let timing = self.offices[wide(session.office)].core.timing();
            let limit = self.at(link.offer.at + timing.opening_max);
            return Some((limit.max(now), NoWord::Silent));
        }
        let half = self.round_trip(session.office, proxy / PROXIES) / 2;
        Some((now + half, NoWord::Broken))
    }

    /// Now, if the site is one that was taken out of DNS.
    fn gone_from_dns(&self, site: usize) -> Option<At> {
        let first = site::manager_address(site * site::MANAGERS).ip();
        (!self.dns.lists(first)).then_some(self.queue.now())
    }
}
