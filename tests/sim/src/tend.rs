//! What a box does by itself: connections to managers, warm links, probes. The drivers of the box's
//! cores, for virtual time.

use std::time::Duration;

use box_relay::cores::{
    Effect, Keep, ManagerEnd, Said, Search, SearchStep, Talk, Task, Tick, WarmEnd, WatchStep,
};
use manager::fleet::Assignment;
use manager::lease::ConnectionId;
use wire::{Busy, Bye, LeaseId, Message, SessionId, Use};

use crate::queue::At;
use crate::random::us;
use crate::site::{self, CONNECTIONS_MAX, MANAGERS, PROXIES, Reach, WARM_AFTER_US, WARM_MAX};
use crate::world::{
    Asker, Event, Lease, Office, Request, SessionState, TalkHere, TalkState, WarmHere, Who, World,
    small, wide,
};

/// The box's setting.
const WARM_LINKS: usize = 2;
/// After something failed, holds and suspicions end within this time.
const TROUBLED_US: At = 15_000_000;

impl Office {
    /// Round trip of what does not go through a site.
    pub(crate) fn direct_round_trip(&self) -> At {
        self.round_trip_us
    }
}

impl World {
    /// Carries out what the core of a box wants, until it wants nothing more.
    pub(crate) fn settle(&mut self, number: u32) {
        loop {
            let effects = self.offices[wide(number)].core.take_effects();
            let dropped = std::mem::take(&mut *self.bin.borrow_mut());
            if effects.is_empty() && dropped.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out(number, effect);
            }
            for (office, manager, lease) in dropped {
                // Where there is no connection, the manager has ended the lease with it.
                let manager = wide(manager);
                if self.talk_to(office, manager).is_some() {
                    self.ask_manager(office, manager, Request::Bye(lease));
                }
            }
        }
    }

    fn carry_out(&mut self, number: u32, effect: Effect) {
        let now = self.queue.now();
        let office = &mut self.offices[wide(number)];
        match effect {
            Effect::Wake(Task::Keeper) => self.wake_keeper(number, now),
            Effect::Wake(Task::Prober) => {
                office.troubled_until = now + TROUBLED_US;
                office.knows |= self.failed_at.is_some();
                self.plan_probes(number);
            }
            // Neither is simulated: the ticket is there, and the list is asked for when it is due.
            Effect::Wake(Task::Login | Task::Directory) => {}
            Effect::DropWarm(link) => {
                if let Some(at) = office.warm.iter().position(|warm| warm.number == link) {
                    let warm = office.warm.swap_remove(at);
                    self.close_warm(&warm);
                }
            }
            Effect::Ping(address) => {
                office.troubled_until = now + TROUBLED_US;
                if let Some(manager) = site::manager_at(address)
                    && self.talk_to(number, manager).is_some()
                {
                    self.ask_manager(number, manager, Request::Ping);
                }
            }
        }
    }

    // Managers.

    fn talk_to(&self, office: u32, manager: usize) -> Option<usize> {
        self.offices[wide(office)].talks.iter().position(|talk| talk.manager == manager)
    }

    fn talk_of(&self, office: u32, serial: u32) -> Option<usize> {
        self.offices[wide(office)].talks.iter().position(|talk| talk.serial == serial)
    }

    /// Hands a request to the connection to a manager, which is made if there is none.
    pub(crate) fn ask_manager(&mut self, number: u32, manager: usize, request: Request) {
        if let Some(at) = self.talk_to(number, manager) {
            match &mut self.offices[wide(number)].talks[at].state {
                TalkState::Connecting(requests) => requests.push(request),
                TalkState::Up { .. } => self.say(number, at, request),
            }
            return;
        }
        let now = self.queue.now();
        let round_trip = self.round_trip(number, manager / MANAGERS);
        self.tally.connections[manager / MANAGERS] += 1;
        let reach = self.manager_reach(manager);
        let office = &mut self.offices[wide(number)];
        office.serials += 1;
        let serial = office.serials;
        let state = TalkState::Connecting(vec![request]);
        office.talks.push(TalkHere { manager, serial, state });
        let failed = Event::TalkDown(number, serial, ManagerEnd::Failed);
        match reach {
            Reach::Up => self.queue.put(now + 2 * round_trip, Event::TalkUp(number, serial)),
            Reach::Refusing => self.queue.put(now + round_trip, failed),
            Reach::Silent => {
                let limit = us(office.core.timing().manager_answer_max.as_secs_f64());
                self.queue.put(now + limit, failed);
            }
        }
    }

    pub(crate) fn talk_up(&mut self, number: u32, serial: u32) {
        let Some(at) = self.talk_of(number, serial) else { return };
        let manager = self.offices[wide(number)].talks[at].manager;
        let now = self.instant();
        match self.manager_reach(manager) {
            Reach::Up if self.managers[manager].connections < CONNECTIONS_MAX => {}
            Reach::Silent => {
                let limit = self.offices[wide(number)].core.timing().manager_answer_max;
                let limit = self.queue.now() + us(limit.as_secs_f64());
                self.queue.put(limit, Event::TalkDown(number, serial, ManagerEnd::Failed));
                return;
            }
            _ => return self.talk_down(number, serial, ManagerEnd::Failed),
        }
        let host = &mut self.managers[manager];
        host.connections += 1;
        let connection = host.fleet.connected();
        let talk = Box::new(Talk::new(site::manager_address(manager), now));
        let up = TalkState::Up { talk, connection, epoch: host.epoch };
        let here = &mut self.offices[wide(number)].talks[at];
        let before = std::mem::replace(&mut here.state, up);
        if let TalkState::Connecting(requests) = before {
            for request in requests {
                self.say(number, at, request);
            }
        }
        self.settle(number);
    }

    fn say(&mut self, number: u32, at: usize, request: Request) {
        let now = self.instant();
        let Office { core, talks, .. } = &mut self.offices[wide(number)];
        let TalkState::Up { talk, .. } = &mut talks[at].state else { return };
        let message = match request {
            Request::Assign(assign, asker) => Some(talk.assign(*assign, asker, now)),
            Request::Bye(lease) => talk.bye(unused(lease)),
            Request::Probe => talk.probe(core, Asker::Nobody, now),
            Request::Ping => talk.ping(core, now),
        };
        if let Some(message) = message {
            self.send(number, at, message);
        }
    }

    fn send(&mut self, number: u32, at: usize, message: Message) {
        let now = self.queue.now();
        let here = &self.offices[wide(number)].talks[at];
        let (manager, serial) = (here.manager, here.serial);
        let TalkState::Up { epoch, .. } = here.state else { return };
        let round_trip = self.round_trip(number, manager / MANAGERS);
        match self.manager_reach(manager) {
            Reach::Up if self.managers[manager].epoch == epoch => match message {
                Message::Ping(ping) => {
                    let pong = Event::FromManager(number, serial, Box::new(Message::Pong(ping)));
                    self.queue.put(now + round_trip, pong);
                }
                message => {
                    let arrives = Event::ToManager(number, serial, Box::new(message));
                    self.queue.put(now + round_trip / 2, arrives);
                }
            },
            Reach::Silent => self.plan_talk(number, at),
            _ => {
                let down = Event::TalkDown(number, serial, ManagerEnd::Failed);
                self.queue.put(now + round_trip, down);
            }
        }
    }

    /// The clock is looked at when something is due on this connection.
    fn plan_talk(&mut self, number: u32, at: usize) {
        let office = &self.offices[wide(number)];
        let TalkState::Up { talk, .. } = &office.talks[at].state else { return };
        let next = self.at(talk.next_time(office.core.timing()));
        self.queue.put(next, Event::TalkTick(number, office.talks[at].serial));
    }

    pub(crate) fn at_manager(&mut self, number: u32, serial: u32, message: Message) {
        let Some(at) = self.talk_of(number, serial) else { return };
        let here = &self.offices[wide(number)].talks[at];
        let manager = here.manager;
        let TalkState::Up { connection, epoch, .. } = here.state else { return };
        if self.manager_reach(manager) != Reach::Up || self.managers[manager].epoch != epoch {
            // It died while the message was under way; the ends of the link come to know.
            return self.send(number, at, message);
        }
        let now = self.instant();
        let fleet = &mut self.managers[manager].fleet;
        let answer = match message {
            Message::Assign(assign) => match fleet.assign(connection, &assign.exclude, now) {
                Assignment::Use { lease, proxy, alternates } => {
                    Message::Use(Use { lease, proxy, alternates })
                }
                Assignment::Busy | Assignment::TooMany(_) => {
                    let pause = self.poll_us / 1_000 * u64::from(manager::settings::RECOVER_POLLS);
                    let retry_after_ms = u32::try_from(pause).unwrap_or(u32::MAX);
                    Message::Busy(Busy { retry_after_ms })
                }
            },
            Message::Bye(bye) => {
                fleet.bye(connection, bye.lease);
                return;
            }
            _ => return,
        };
        let half = self.round_trip(number, manager / MANAGERS) / 2;
        let arrives = Event::FromManager(number, serial, Box::new(answer));
        self.queue.put(self.queue.now() + half, arrives);
    }

    pub(crate) fn manager_said(&mut self, number: u32, serial: u32, message: Message) {
        let Some(at) = self.talk_of(number, serial) else { return };
        let now = self.instant();
        let manager = self.offices[wide(number)].talks[at].manager;
        if self.manager_reach(manager) == Reach::Silent {
            return self.plan_talk(number, at);
        }
        let bin = &self.bin;
        let lease = |id| Lease { bin: bin.clone(), office: number, manager: small(manager), id };
        let Office { core, talks, .. } = &mut self.offices[wide(number)];
        let TalkState::Up { talk, .. } = &mut talks[at].state else { return };
        let said = talk.hear(core, message, lease, now);
        // Nobody needs it for long if it is not the first choice's.
        let address = site::manager_address(manager);
        if core.managers.preferred(now) != Some(address) {
            let idle_at = talk.idle_at(core.timing());
            let idle_at = self.at(idle_at);
            self.queue.put(idle_at, Event::TalkTick(number, serial));
        }
        match said {
            Said::Answer(Asker::Session(sid), reply) => {
                if let Some(session) = self.sessions.get_mut(wide(sid.at))
                    && session.turn == sid.turn
                    && let SessionState::Setup { offering, .. } = &mut session.state
                {
                    let core = &mut self.offices[wide(number)].core;
                    offering.answered(core, address, Some(reply), now);
                    self.drive_and_settle(sid);
                }
            }
            Said::Answer(Asker::Making(making), reply) => {
                let office = &mut self.offices[wide(number)];
                if let Some(search) = &mut office.making
                    && office.makings == making
                {
                    search.answered(&mut office.core, address, Some(reply), now);
                    self.drive_making(number);
                }
            }
            Said::Answer(Asker::Nobody, reply) => drop(reply),
            Said::Nothing | Said::Unasked => {}
        }
        self.settle(number);
    }

    pub(crate) fn talk_tick(&mut self, number: u32, serial: u32) {
        let Some(at) = self.talk_of(number, serial) else { return };
        let now = self.instant();
        let manager = self.offices[wide(number)].talks[at].manager;
        let round_trip = Duration::from_micros(self.round_trip(number, manager / MANAGERS));
        let reach = self.manager_reach(manager);
        let Office { core, talks, .. } = &mut self.offices[wide(number)];
        let TalkState::Up { talk, connection, epoch } = &mut talks[at].state else { return };
        let well = reach == Reach::Up && self.managers[manager].epoch == *epoch;
        if well && talk.is_quiet() {
            talk.skip_pings(core.timing(), round_trip, now);
        }
        match talk.tick(core, now) {
            Tick::Nothing => {
                if !well {
                    self.plan_talk(number, at);
                }
            }
            Tick::Send(message) => self.send(number, at, message),
            Tick::Idle => {
                if well {
                    self.managers[manager].fleet.disconnected(*connection);
                    self.managers[manager].connections -= 1;
                }
                talks.swap_remove(at);
            }
            Tick::Unanswered => self.talk_down(number, serial, ManagerEnd::Unanswered),
            Tick::Silent => self.talk_down(number, serial, ManagerEnd::Failed),
        }
        self.settle(number);
    }

    pub(crate) fn talk_down(&mut self, number: u32, serial: u32, end: ManagerEnd) {
        let Some(at) = self.talk_of(number, serial) else { return };
        let now = self.instant();
        let office = &mut self.offices[wide(number)];
        let TalkHere { manager, state, .. } = office.talks.swap_remove(at);
        office.core.manager_ended(site::manager_address(manager), end, now);
        let askers: Vec<Asker> = match state {
            TalkState::Connecting(requests) => requests
                .into_iter()
                .filter_map(|request| match request {
                    Request::Assign(_, asker) => Some(asker),
                    _ => None,
                })
                .collect(),
            TalkState::Up { talk, connection, epoch } => {
                self.forget_connection(manager, connection, epoch);
                talk.into_unanswered().collect()
            }
        };
        let address = site::manager_address(manager);
        for asker in askers {
            match asker {
                Asker::Session(sid) => {
                    if let Some(session) = self.sessions.get_mut(wide(sid.at))
                        && session.turn == sid.turn
                        && let SessionState::Setup { offering, .. } = &mut session.state
                    {
                        let core = &mut self.offices[wide(number)].core;
                        offering.answered(core, address, None, now);
                        self.drive_and_settle(sid);
                    }
                }
                Asker::Making(making) => {
                    let office = &mut self.offices[wide(number)];
                    if let Some(search) = &mut office.making
                        && office.makings == making
                    {
                        search.answered(&mut office.core, address, None, now);
                        self.drive_making(number);
                    }
                }
                Asker::Nobody => {}
            }
        }
        self.settle(number);
    }

    fn forget_connection(&mut self, manager: usize, connection: ConnectionId, epoch: u32) {
        let host = &mut self.managers[manager];
        if host.epoch == epoch {
            host.fleet.disconnected(connection);
            host.connections -= 1;
        }
    }

    /// Connections that are not the first choice's are closed when they have been quiet long
    /// enough; the choice has changed.
    pub(crate) fn look_at_idle_talks(&mut self, number: u32) {
        let now = self.instant();
        let office = &self.offices[wide(number)];
        let first = office.core.managers.preferred(now);
        for here in &office.talks {
            if let TalkState::Up { talk, .. } = &here.state
                && first != Some(site::manager_address(here.manager))
            {
                let idle_at = self.at(talk.idle_at(office.core.timing()));
                self.queue.put(idle_at, Event::TalkTick(number, here.serial));
            }
        }
    }

    /// The other end of a connection died.
    pub(crate) fn talk_peer_died(&mut self, number: u32, at: usize) {
        let now = self.instant();
        let manager = self.offices[wide(number)].talks[at].manager;
        let round_trip = self.round_trip(number, manager / MANAGERS);
        let silent = self.manager_reach(manager) == Reach::Silent;
        let Office { core, talks, .. } = &mut self.offices[wide(number)];
        let TalkState::Up { talk, .. } = &mut talks[at].state else { return };
        if silent {
            if talk.is_quiet() {
                talk.skip_pings(core.timing(), Duration::from_micros(round_trip), now);
            }
            self.plan_talk(number, at);
        } else {
            let down = Event::TalkDown(number, talks[at].serial, ManagerEnd::Failed);
            self.queue.put(self.queue.now() + round_trip / 2, down);
        }
    }

    // Warm links.

    fn wake_keeper(&mut self, number: u32, at: At) {
        let office = &mut self.offices[wide(number)];
        if office.keeper_at == 0 || at < office.keeper_at {
            office.keeper_at = at;
            self.queue.put(at, Event::Keeper(number));
        }
    }

    pub(crate) fn keeper_due(&mut self, number: u32) {
        let office = &mut self.offices[wide(number)];
        // An earlier look took its place.
        if office.keeper_at != self.queue.now() {
            return;
        }
        office.keeper_at = 0;
        self.keep(number);
        self.settle(number);
    }

    /// One look of the keeper; it is one task, so it does not look while it makes a link.
    fn keep(&mut self, number: u32) {
        let (at, now) = (self.queue.now(), self.instant());
        let office = &mut self.offices[wide(number)];
        if office.making.is_some() {
            return;
        }
        match office.core.keep(WARM_LINKS, now) {
            Keep::Make => match Search::new(&office.core, None, now) {
                Ok(search) => {
                    office.making = Some(search);
                    office.makings += 1;
                    self.drive_making(number);
                }
                Err(_) => self.not_made(number),
            },
            Keep::Pause(until) => {
                let until = self.at(until);
                self.wake_keeper(number, until);
            }
            Keep::Enough(manager) => {
                // It looks again by itself; without trouble it would find what it finds now.
                if at < office.troubled_until {
                    let pause = us(office.core.timing().ping_interval.as_secs_f64());
                    self.wake_keeper(number, at + pause);
                }
                if let Some(manager) = manager.and_then(site::manager_at)
                    && self.talk_to(number, manager).is_none()
                {
                    self.ask_manager(number, manager, Request::Probe);
                }
            }
        }
    }

    pub(crate) fn making_due(&mut self, number: u32, making: u32) {
        let office = &self.offices[wide(number)];
        if office.making.is_some() && office.makings == making {
            self.drive_making(number);
            self.settle(number);
        }
    }

    pub(crate) fn drive_making(&mut self, number: u32) {
        loop {
            let now = self.instant();
            let office = &mut self.offices[wide(number)];
            let making = office.makings;
            let Some(search) = &mut office.making else { return };
            match search.poll(&mut office.core, now) {
                SearchStep::Ask(address, assign) => {
                    let Some(manager) = site::manager_at(address) else { return };
                    if office.core.managers.is_dead(address) {
                        self.outcome.known_dead += 1;
                    }
                    search.asked(&mut office.core, address, true, now);
                    let request = Request::Assign(assign, Asker::Making(making));
                    self.ask_manager(number, manager, request);
                }
                SearchStep::Connect(address) => {
                    self.connect(number, Who::Making(number, making), address);
                }
                SearchStep::Wait(until) => {
                    let until = self.at(until);
                    self.queue.put(until, Event::Making(number, making));
                    return;
                }
                SearchStep::NoProxy(_) | SearchStep::Unreached => return self.not_made(number),
            }
        }
    }

    fn not_made(&mut self, number: u32) {
        let (at, now) = (self.queue.now(), self.instant());
        let office = &mut self.offices[wide(number)];
        office.making = None;
        office.core.warm_failed(now);
        self.wake_keeper(number, at);
    }

    /// A connection for a warm link is there.
    pub(crate) fn made(
        &mut self,
        number: u32,
        proxy: usize,
        epoch: u32,
        manager: usize,
        lease: Lease,
    ) {
        let (at, now) = (self.queue.now(), self.instant());
        let office = &mut self.offices[wide(number)];
        office.making = None;
        let (to, from) = (site::proxy_address(proxy), site::manager_address(manager));
        match office.core.warm_made(from, to, now) {
            Some(link) => {
                let watch = office.core.watch(now);
                let old_at = watch.old_at();
                office.warm.push(WarmHere {
                    number: link,
                    proxy,
                    epoch,
                    manager,
                    since: now,
                    watch,
                    lease,
                    placed: false,
                });
                let old_at = self.at(old_at);
                self.queue.put(old_at, Event::WarmTick(number, link));
                self.queue.put(at + WARM_AFTER_US, Event::WarmPlace(number, link));
            }
            None => self.proxies[proxy].links -= 1,
        }
        self.wake_keeper(number, at);
        self.settle(number);
    }

    fn warm_at(&self, number: u32, link: u64) -> Option<usize> {
        self.offices[wide(number)].warm.iter().position(|warm| warm.number == link)
    }

    pub(crate) fn warm_tick(&mut self, number: u32, link: u64) {
        let Some(at) = self.warm_at(number, link) else { return };
        let now_us = self.queue.now();
        let now = self.instant();
        let proxy = self.offices[wide(number)].warm[at].proxy;
        let epoch = self.offices[wide(number)].warm[at].epoch;
        let round_trip = self.round_trip(number, proxy / PROXIES);
        let (well, reach) = (self.proxy_is_well(proxy, epoch), self.proxy_reach(proxy));
        loop {
            let Office { core, warm, .. } = &mut self.offices[wide(number)];
            let watch = &mut warm[at].watch;
            if well && watch.is_quiet() {
                watch.skip_pings(core.timing(), Duration::from_micros(round_trip), now);
            }
            match watch.poll(core.timing(), now) {
                WatchStep::Wait(until) => {
                    let until = if well { watch.old_at() } else { until };
                    let until = self.at(until);
                    return self.queue.put(until, Event::WarmTick(number, link));
                }
                WatchStep::Old => return self.warm_ends(number, at, WarmEnd::Old),
                WatchStep::Silent => return self.warm_ends(number, at, WarmEnd::Silent),
                WatchStep::Ping(_) if well => {
                    self.queue.put(now_us + round_trip, Event::WarmPong(number, link));
                    return;
                }
                WatchStep::Ping(_) if reach == Reach::Silent => {}
                WatchStep::Ping(_) => {
                    self.queue.put(now_us + round_trip, Event::WarmBroken(number, link));
                    return;
                }
            }
        }
    }

    pub(crate) fn warm_pong(&mut self, number: u32, link: u64) {
        let Some(at) = self.warm_at(number, link) else { return };
        let now = self.instant();
        self.offices[wide(number)].warm[at].watch.ponged(now);
        self.warm_tick(number, link);
    }

    /// The proxy counts it as warm from now on, or has too many.
    pub(crate) fn warm_place(&mut self, number: u32, link: u64) {
        let Some(at) = self.warm_at(number, link) else { return };
        let warm = &mut self.offices[wide(number)].warm[at];
        let (proxy, epoch) = (warm.proxy, warm.epoch);
        if !self.proxy_is_well(proxy, epoch) {
            return;
        }
        if self.proxies[proxy].warm < WARM_MAX {
            self.proxies[proxy].warm += 1;
            self.offices[wide(number)].warm[at].placed = true;
            return;
        }
        let half = self.round_trip(number, proxy / PROXIES) / 2;
        self.queue.put(self.queue.now() + half, Event::WarmClosed(number, link));
    }

    pub(crate) fn warm_broken(&mut self, number: u32, link: u64) {
        if let Some(at) = self.warm_at(number, link) {
            self.warm_ends(number, at, WarmEnd::Broken);
        }
    }

    pub(crate) fn warm_closed(&mut self, number: u32, link: u64) {
        if let Some(at) = self.warm_at(number, link) {
            self.warm_ends(number, at, WarmEnd::Closed);
        }
    }

    fn warm_ends(&mut self, number: u32, at: usize, end: WarmEnd) {
        let now = self.instant();
        let office = &mut self.offices[wide(number)];
        let warm = office.warm.swap_remove(at);
        let ends = (site::proxy_address(warm.proxy), site::manager_address(warm.manager));
        office.core.warm_ended(ends, warm.number, warm.since, end, now);
        self.close_warm(&warm);
        drop(warm);
        self.settle(number);
    }

    fn close_warm(&mut self, warm: &WarmHere) {
        let proxy = &mut self.proxies[warm.proxy];
        if proxy.epoch == warm.epoch {
            proxy.links -= 1;
            proxy.warm -= u32::from(warm.placed);
        }
    }

    /// The other end of a warm link died.
    pub(crate) fn warm_peer_died(&mut self, number: u32, at: usize) {
        let now = self.instant();
        let link = &self.offices[wide(number)].warm[at];
        let (proxy, id) = (link.proxy, link.number);
        let round_trip = self.round_trip(number, proxy / PROXIES);
        if self.proxy_reach(proxy) == Reach::Silent {
            let Office { core, warm, .. } = &mut self.offices[wide(number)];
            let watch = &mut warm[at].watch;
            if watch.is_quiet() {
                watch.skip_pings(core.timing(), Duration::from_micros(round_trip), now);
            }
            self.queue.put(self.queue.now(), Event::WarmTick(number, id));
        } else {
            let broken = Event::WarmBroken(number, id);
            self.queue.put(self.queue.now() + round_trip / 2, broken);
        }
    }

    // Probes.

    fn plan_probes(&mut self, number: u32) {
        let office = &self.offices[wide(number)];
        let next = [office.core.managers.next_probe(), office.core.proxies.next_probe()];
        let Some(next) = next.into_iter().flatten().min() else { return };
        let next = self.at(next).max(self.queue.now());
        let office = &mut self.offices[wide(number)];
        if office.prober_at == 0 || next < office.prober_at {
            office.prober_at = next;
            self.queue.put(next, Event::Prober(number));
        }
    }

    pub(crate) fn prober_due(&mut self, number: u32) {
        let (at, now) = (self.queue.now(), self.instant());
        if self.offices[wide(number)].prober_at != at {
            return;
        }
        self.offices[wide(number)].prober_at = 0;
        while let Some(address) = self.offices[wide(number)].core.managers.due_probe(now) {
            if let Some(manager) = site::manager_at(address) {
                self.ask_manager(number, manager, Request::Probe);
            }
        }
        while let Some((address, from)) = self.offices[wide(number)].core.proxies.due_probe(now) {
            if let (Some(proxy), Some(from)) = (site::proxy_at(address), site::manager_at(from)) {
                self.probe(number, proxy, from);
            }
        }
        self.plan_probes(number);
        self.settle(number);
    }

    fn probe(&mut self, number: u32, proxy: usize, from: usize) {
        self.tally.connections[proxy / PROXIES] += 1;
        let round_trip = self.round_trip(number, proxy / PROXIES);
        let (after, answered) = match self.proxy_reach(proxy) {
            Reach::Up => (3 * round_trip, true),
            Reach::Refusing => (round_trip, false),
            Reach::Silent => {
                (us(self.offices[wide(number)].core.timing().probe_max.as_secs_f64()), false)
            }
        };
        let probed = Event::Probed(number, small(proxy), small(from), answered);
        self.queue.put(self.queue.now() + after, probed);
    }

    pub(crate) fn probed(&mut self, number: u32, proxy: usize, from: usize, answered: bool) {
        let now = self.instant();
        let answered = answered && self.proxy_reach(proxy) == Reach::Up;
        let (to, from) = (site::proxy_address(proxy), site::manager_address(from));
        self.offices[wide(number)].core.proxy_probed(to, from, answered, now);
        self.plan_probes(number);
        self.settle(number);
    }
}

/// The `Bye` that a lease ends with; what a session carried does not matter here.
fn unused(lease: LeaseId) -> Bye {
    Bye {
        session: SessionId([0; 16]),
        lease,
        bytes_up: 0,
        bytes_down: 0,
        messages: 0,
        infected: 0,
        unscannable: 0,
        opaque: false,
    }
}
