//! All that one box knows of its sites, and what it does about it. Sans-IO.
//!
//! Drivers tell it what happened, with the time, and carry out its [`Effect`]s. One core is behind
//! one lock, taken for one event.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use wire::DeniedReason;
use wire::ticket::SignedTicket;

use crate::admission::{Admission, NotAdmitted};
use crate::backoff::{Backoff, Dice};
use crate::directory::Directory;
use crate::limits::Timing;
use crate::managers::{Heard, Managers, NoManager};
use crate::proxies::Proxies;
use crate::status::Counters;
use crate::watch::Watch;
use crate::way::{DirectReason, Way};

/// See the module.
#[derive(Debug)]
pub struct Core {
    /// The list of managers.
    pub managers_named: Directory,
    /// The list of authers.
    pub authers_named: Directory,
    /// What is known of each manager.
    pub managers: Managers,
    /// The proxies not to be used now.
    pub proxies: Proxies,
    /// The ticket.
    pub admission: Admission,
    /// What happened so far.
    pub counters: Counters,
    pub(crate) last_way: Option<Way>,
    warm: VecDeque<Warm>,
    /// Warm links made so far; the number of the last.
    last_warm: u64,
    /// Where something fell silent last; what is there is tried last for a while.
    silent: Option<Silent>,
    /// No warm link is made before.
    refill_at: Instant,
    refill_failures: u32,
    /// Warm links in a row that proxies closed before their time.
    closed_early: u32,
    timing: Arc<Timing>,
    dice: Dice,
    effects: Vec<Effect>,
}

/// What a driver is to do, in this order, once it has told the core of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Let this task look at the core.
    Wake(Task),
    /// Close this warm link, which gives its lease back.
    DropWarm(u64),
    /// Ping this manager, if there is a connection to it.
    Ping(SocketAddr),
}

/// What looks at the core by itself from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Keeps warm links: [`Core::keep`].
    Keeper,
    /// Probes the dead: [`Managers::due_probe`], [`Proxies::due_probe`].
    Prober,
    /// Logs in.
    Login,
    /// Asks DNS.
    Directory,
}

/// A warm link in the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Warm {
    pub(crate) manager: SocketAddr,
    pub(crate) proxy: SocketAddr,
    pub(crate) since: Instant,
    number: u64,
}

/// Why a warm link ended before a session took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarmEnd {
    /// Too old: to be replaced.
    Old,
    /// Closed in order by the proxy, before its time.
    Closed,
    /// The proxy broke off or spoke nonsense.
    Broken,
    /// The proxy takes no sessions.
    Declined,
    /// The proxy says that this box is not admitted.
    Denied,
    /// The proxy did not answer a ping.
    Silent,
}

/// What the keeper of warm links is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Make one warm link, then look again.
    Make,
    /// Nothing before then, unless woken.
    Pause(Instant),
    /// All is there. This manager is to be connected to, if it is not.
    Enough(Option<SocketAddr>),
}

/// Why a manager's connection ended, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagerEnd {
    /// In order: what it does next is not known.
    InOrder,
    /// It left an `Assign` unanswered.
    Unanswered,
    /// Everything else.
    Failed,
}

/// A site in doubt: this manager's, or what is at this IP address.
#[derive(Debug, Clone, Copy)]
struct Silent {
    manager: SocketAddr,
    ip: IpAddr,
    until: Instant,
}

impl Core {
    /// Knows nothing yet. `seed` is called for each spread of pauses.
    pub fn new(
        domain: &str,
        timing: &Arc<Timing>,
        mut seed: impl FnMut() -> u32,
        now: Instant,
    ) -> Self {
        let domain = domain.trim_end_matches('.');
        let mut directory =
            |role: &str| Directory::new(format!("{role}.{domain}"), timing, seed(), now);
        Self {
            managers_named: directory("manager"),
            authers_named: directory("auther"),
            managers: Managers::new(timing, seed()),
            proxies: Proxies::new(timing, seed()),
            admission: Admission::new(timing, seed(), now),
            counters: Counters::default(),
            last_way: None,
            warm: VecDeque::new(),
            last_warm: 0,
            silent: None,
            refill_at: now,
            refill_failures: 0,
            closed_early: 0,
            timing: Arc::clone(timing),
            dice: Dice::new(seed()),
            effects: Vec::new(),
        }
    }

    /// What the driver is to do now; empty afterwards.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// All waits.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The ticket, or why to go direct.
    pub fn ticket(&self, now: Instant) -> Result<SignedTicket, DirectReason> {
        self.may_relay(now)?;
        self.admission.ticket(now).cloned().map_err(not_admitted)
    }

    /// There is a ticket; or why to go direct.
    pub(crate) fn may_relay(&self, now: Instant) -> Result<(), DirectReason> {
        self.admission.ticket(now).map(|_| ()).map_err(not_admitted)
    }

    /// Whom to ask, or why to go direct.
    pub fn candidates(&self, now: Instant) -> Result<Vec<SocketAddr>, DirectReason> {
        self.managers.candidates(now).map_err(|why| match why {
            NoManager::Unlisted => DirectReason::NoManagers,
            NoManager::Dead => DirectReason::ManagersDead,
            NoManager::Busy => DirectReason::NoProxy,
            NoManager::Denied(reason) => DirectReason::Denied(reason),
        })
    }

    /// The list of managers, at this port, as DNS has it now.
    ///
    /// The first is DNS's choice, which spreads the boxes over the sites. The others come in an
    /// order that this box draws: most resolvers turn a list, so that behind the first there stands
    /// the same site for all boxes, which would get all of what the first carried when it died.
    pub fn take_list(&mut self, port: u16) {
        let mut list: Vec<SocketAddr> =
            self.managers_named.addresses().iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        if let Some((_, others)) = list.split_first_mut() {
            self.dice.shuffle(others);
        }
        let left = self.managers.set_list(&list);
        // A site taken out of DNS gets no new sessions: its warm links go too, and the connection to
        // its manager when no session needs it, which the manager's task sees when it has to do something.
        self.drop_warm(|warm| left.contains(&warm.manager));
        self.effects.extend(left.into_iter().map(Effect::Ping));
        self.wake(Task::Keeper);
    }

    /// The network may have changed: ask DNS, probe the dead and log in now.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        self.managers_named.ask_now(now);
        self.authers_named.ask_now(now);
        self.managers.probe_now(now);
        self.proxies.probe_now(now);
        self.admission.login_now(now);
        for task in [Task::Directory, Task::Prober, Task::Login] {
            self.wake(task);
        }
    }

    /// This proxy has not answered for a while: others come before it, and other sites before its
    /// own, until it is heard again.
    pub(crate) fn keeps_waiting(&mut self, proxy: SocketAddr, manager: SocketAddr, now: Instant) {
        self.suspect(proxy, manager, now);
        self.proxies.owes(proxy, manager, now);
    }

    /// Something at this address stopped answering without a word.
    pub(crate) fn fell_silent(&mut self, proxy: SocketAddr, manager: SocketAddr, now: Instant) {
        self.suspect(proxy, manager, now);
        self.proxy_failed(proxy, manager, now);
        self.wake(Task::Keeper);
    }

    /// This proxy cannot be used.
    pub(crate) fn proxy_failed(&mut self, proxy: SocketAddr, manager: SocketAddr, now: Instant) {
        if self.proxies.failed(proxy, manager, now) {
            self.counters.proxy_failures += 1;
        }
        self.drop_warm(|warm| warm.proxy == proxy);
        self.wake(Task::Prober);
    }

    /// A proxy answered its probe, or did not.
    pub fn proxy_probed(
        &mut self,
        proxy: SocketAddr,
        manager: SocketAddr,
        answered: bool,
        now: Instant,
    ) -> bool {
        if !answered {
            self.proxies.failed(proxy, manager, now);
            self.wake(Task::Prober);
            return false;
        }
        self.managers.release(manager);
        let recovered = self.proxies.recovered(proxy, now);
        if recovered {
            self.recovered(now);
        }
        recovered
    }

    /// A manager answered, after so long. True if it was dead until now.
    pub(crate) fn manager_heard(
        &mut self,
        manager: SocketAddr,
        heard: Heard,
        asked: Instant,
        now: Instant,
    ) -> bool {
        let recovered = self.managers.answered(manager, heard, now - asked);
        self.heard_at(manager);
        if recovered {
            self.recovered(now);
        }
        recovered
    }

    /// A manager's connection ended, or could not be made. True if it counts as dead from now on.
    pub fn manager_ended(&mut self, manager: SocketAddr, end: ManagerEnd, now: Instant) -> bool {
        let died = match end {
            ManagerEnd::Unanswered => self.managers.unanswered(manager, now),
            ManagerEnd::Failed => self.managers.failed(manager, now),
            ManagerEnd::InOrder => {
                self.managers.lost(manager);
                false
            }
        };
        if died {
            self.counters.manager_failures += 1;
        }
        self.wake(Task::Prober);
        self.wake(Task::Keeper);
        died
    }

    /// A manager or proxy said that we are not admitted: ask the auther.
    pub(crate) fn doubted(&mut self, now: Instant) {
        self.counters.denied += 1;
        if self.admission.doubted(now) {
            self.wake(Task::Login);
        }
    }

    /// A manager denied this ticket.
    pub(crate) fn manager_denied(
        &mut self,
        manager: SocketAddr,
        reason: DeniedReason,
        now: Instant,
    ) {
        self.managers.hold(manager, NoManager::Denied(reason), now + self.timing.denied_hold);
        self.doubted(now);
    }

    /// An auther said no: no session, and no warm link.
    pub(crate) fn auther_denied(&mut self, reason: DeniedReason, now: Instant) {
        self.counters.logins_denied += 1;
        self.admission.denied(reason, now);
        self.drop_warm(|_| true);
    }

    /// Is it better to try another site first? Asked of a proxy and its manager.
    pub(crate) fn is_suspect(&self, proxy: SocketAddr, manager: SocketAddr, now: Instant) -> bool {
        self.silent.is_some_and(|silent| {
            now < silent.until && (silent.ip == proxy.ip() || silent.manager == manager)
        })
    }

    /// Something of a site was heard: the site is not silent.
    pub(crate) fn heard_at(&mut self, address: SocketAddr) {
        self.silent.take_if(|silent| silent.ip == address.ip() || silent.manager == address);
    }

    /// The pool, oldest first.
    pub(crate) fn warm(&self) -> impl ExactSizeIterator<Item = &Warm> + '_ {
        self.warm.iter()
    }

    /// Takes a warm link out of the pool, the oldest first. None if there is none, or only beside
    /// something that just fell silent: then asking another site is quicker.
    pub(crate) fn take_warm(&mut self, now: Instant) -> Option<u64> {
        let at = self.warm.iter().position(|warm| {
            !self.is_suspect(warm.proxy, warm.manager, now)
                && self.proxies.is_usable(warm.proxy, now)
        })?;
        self.wake(Task::Keeper);
        self.refill_failures = 0;
        self.warm.remove(at).map(|warm| warm.number)
    }

    /// What to do for a pool of `target` warm links.
    pub fn keep(&self, target: usize, now: Instant) -> Keep {
        if self.may_relay(now).is_err() {
            return Keep::Enough(None);
        }
        if self.warm.len() >= target {
            // Making a warm link asks the first manager anyway.
            return Keep::Enough(self.managers.preferred(now));
        }
        if now < self.refill_at { Keep::Pause(self.refill_at) } else { Keep::Make }
    }

    /// A warm link is made; its number. None: its site was taken out of DNS meanwhile.
    pub fn warm_made(
        &mut self,
        manager: SocketAddr,
        proxy: SocketAddr,
        now: Instant,
    ) -> Option<u64> {
        if !self.managers.lists(manager) {
            return None;
        }
        self.last_warm += 1;
        self.warm.push_back(Warm { manager, proxy, since: now, number: self.last_warm });
        Some(self.last_warm)
    }

    /// Watches over a warm link made at `now`. Links are not all replaced at the same age: those of a
    /// whole fleet are made at once when a site has died, and would be again and again.
    pub fn watch(&mut self, now: Instant) -> Watch {
        let age = self.timing.warm_age_max * (75 + self.dice.roll() % 26) / 100;
        Watch::new(now + age, now)
    }

    /// No warm link could be made: pause.
    pub fn warm_failed(&mut self, now: Instant) {
        self.refill_failures = self.refill_failures.saturating_add(1);
        let backoff =
            Backoff { min: self.timing.refill_pause_min, max: self.timing.refill_pause_max };
        self.refill_at = now + backoff.pause(self.refill_failures, &mut self.dice);
    }

    /// A warm link ended before a session took it.
    pub fn warm_ended(
        &mut self,
        (proxy, manager): (SocketAddr, SocketAddr),
        number: u64,
        since: Instant,
        end: WarmEnd,
        now: Instant,
    ) {
        if now < since + self.timing.ping_interval {
            // Made and lost at once: not again at once.
            self.warm_failed(now);
        } else {
            self.refill_failures = 0;
        }
        self.drop_warm(|warm| warm.number == number);
        match end {
            WarmEnd::Old => self.closed_early = 0,
            WarmEnd::Closed => self.closed_early(now),
            WarmEnd::Broken => {
                self.counters.warm_lost += 1;
                self.proxy_failed(proxy, manager, now);
            }
            WarmEnd::Declined => self.proxies.hold(proxy, manager, now),
            WarmEnd::Denied => {
                self.proxies.hold(proxy, manager, now);
                self.doubted(now);
            }
            WarmEnd::Silent => {
                self.counters.warm_lost += 1;
                self.fell_silent(proxy, manager, now);
            }
        }
        self.wake(Task::Keeper);
    }

    pub(crate) fn wake(&mut self, task: Task) {
        let effect = Effect::Wake(task);
        if !self.effects.contains(&effect) {
            self.effects.push(effect);
        }
    }

    /// A proxy or manager came back: make warm links now.
    fn recovered(&mut self, now: Instant) {
        self.counters.recoveries += 1;
        self.refill_at = now;
        self.refill_failures = 0;
        // Where a manager is back, an auther may be.
        self.admission.login_now(now);
        self.wake(Task::Keeper);
        self.wake(Task::Login);
    }

    /// A proxy that stops, or drains, closes its links once. Where they go on being closed, there are
    /// too many of them: a box then does with fewer, and asks for more less and less often.
    fn closed_early(&mut self, now: Instant) {
        if self.closed_early > 0 {
            let Timing { refill_pause_max, warm_age_max, .. } = *self.timing;
            let backoff = Backoff { min: refill_pause_max, max: warm_age_max };
            self.refill_at = now + backoff.pause(self.closed_early, &mut self.dice);
        }
        self.closed_early = self.closed_early.saturating_add(1);
    }

    /// Tries this site last for a while, and asks its manager whether it is there.
    fn suspect(&mut self, proxy: SocketAddr, manager: SocketAddr, now: Instant) {
        let until = now + self.timing.suspicion;
        self.silent = Some(Silent { manager, ip: proxy.ip(), until });
        self.managers.suspect(manager, proxy.ip(), now);
        // Is it the proxy only, or the site?
        self.effects.push(Effect::Ping(manager));
    }

    fn drop_warm(&mut self, gone: impl Fn(&Warm) -> bool) {
        let Self { warm, effects, .. } = self;
        warm.retain(|link| {
            let gone = gone(link);
            if gone {
                effects.push(Effect::DropWarm(link.number));
            }
            !gone
        });
    }
}

fn not_admitted(why: NotAdmitted) -> DirectReason {
    match why {
        NotAdmitted::NoTicket => DirectReason::NoTicket,
        NotAdmitted::Denied(reason) => DirectReason::Denied(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::admission::Granted;
    use crate::directory::Answer;

    fn start(seed: u32) -> (Core, Instant) {
        let now = tokio::time::Instant::now().into_std();
        let mut core = Core::new("fleet.example", &Arc::<Timing>::default(), || seed, now);
        let addresses = (1..=24).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        core.managers_named.answered(Answer { addresses, ttl_s: 60 }, now, 0);
        core.take_list(4651);
        (core, now)
    }

    #[test]
    fn warm_links_that_proxies_go_on_closing_are_made_less_and_less_often() {
        let (mut core, mut now) = start(5);
        let signed = SignedTicket { ticket: vec![1], signature: vec![2] };
        let (not_before_s, not_after_s) = (0, wire::ticket::TICKET_LIFE_S);
        core.admission.granted(Granted { signed, not_before_s, not_after_s }, now, 0);
        let manager = "192.0.2.1:4651".parse().unwrap();
        let proxy = "192.0.2.1:4652".parse().unwrap();
        let lasts = core.timing().warm_age_max / 10;
        let mut ends = |core: &mut Core, end| {
            let number = core.warm_made(manager, proxy, now).unwrap();
            let since = now;
            now += lasts;
            core.warm_ended((proxy, manager), number, since, end, now);
            let pause = match core.keep(1, now) {
                Keep::Make => Duration::ZERO,
                Keep::Pause(until) => until - now,
                Keep::Enough(_) => panic!("there is none"),
            };
            now += pause;
            pause
        };
        assert_eq!(ends(&mut core, WarmEnd::Closed), Duration::ZERO, "it may be stopping");
        let mut last = Duration::ZERO;
        for _ in 0..4 {
            let pause = ends(&mut core, WarmEnd::Closed);
            assert!(pause > last, "{pause:?} after {last:?}");
            last = pause;
        }
        assert!(last <= core.timing().warm_age_max * 5 / 4);
    }

    #[test]
    fn warm_links_made_at_once_are_not_replaced_at_once() {
        let (mut core, t0) = start(5);
        let ages: Vec<_> = (0..200).map(|_| core.watch(t0).old_at() - t0).collect();
        let age_max = core.timing().warm_age_max;
        assert!(ages.iter().all(|age| *age <= age_max && *age >= age_max * 3 / 4));
        assert!(ages.iter().collect::<BTreeSet<_>>().len() > 20);
    }

    #[test]
    fn the_first_manager_is_the_choice_of_dns_and_the_next_is_each_boxs_own() {
        let lists: Vec<Vec<SocketAddr>> = (1..=100)
            .map(|seed: u32| {
                let (core, now) = start(seed.wrapping_mul(0x9e37_79b9));
                core.candidates(now).unwrap()
            })
            .collect();
        assert!(lists.iter().all(|list| list[0] == "192.0.2.1:4651".parse().unwrap()));
        let seconds: BTreeSet<SocketAddr> = lists.iter().map(|list| list[1]).collect();
        assert!(seconds.len() > 15, "{seconds:?}");
        assert!(lists.iter().all(|list| list.iter().collect::<BTreeSet<_>>().len() == 24));
    }
}
