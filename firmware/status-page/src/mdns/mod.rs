//! `avr-<serial>.local` by multicast DNS (RFC 6762), over IPv4.
//!
//! [`Responder`] takes datagrams and the time, and says what to send and when to call again; [`packet`]
//! reads and writes datagrams; [`driver`] has the socket.

pub(crate) mod driver;
mod packet;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use packet::{Heard, Kind};

/// The group and port of multicast DNS (section 3).
pub(crate) const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), PORT);
/// Who asks from another port is a simple resolver (section 6.7).
pub(crate) const PORT: u16 = 5353;
/// Largest datagram that is looked at, in bytes (section 17).
pub(crate) const DATAGRAM_BYTES_MAX: usize = 9_000;
/// Most addresses that are told.
pub(crate) const ADDRESSES_MAX: usize = 16;
/// How long others may keep our addresses (section 10).
const TTL_S: u32 = 120;
/// Likewise a simple resolver, which does not hear of changes (section 6.7).
const LEGACY_TTL_S: u32 = 10;
/// How often it is asked whether somebody else has the name, and from one to the next (section 8.1).
const PROBES: u8 = 3;
const PROBE_STEP: Duration = Duration::from_millis(250);
/// How often addresses are told unasked, and from one to the next (section 8.3).
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_STEP: Duration = Duration::from_secs(1);
/// Who loses to somebody who asks for the same name at the same time waits for this (section 8.2).
const LOST_WAIT: Duration = Duration::from_secs(1);
/// After so many names that others have, each further one is tried after a wait (section 8.1).
const CONFLICTS_FAST_MAX: u32 = 15;
const CONFLICT_WAIT: Duration = Duration::from_secs(5);
/// The same is sent to everybody no more often (section 6)...
const MULTICAST_STEP: Duration = Duration::from_secs(1);
/// ...but for the defence of the name.
const DEFENCE_STEP: Duration = Duration::from_millis(250);
/// Answers to single hosts in a second; more asking than that is no honest use.
const UNICASTS_PER_SECOND_MAX: u32 = 50;
/// Datagrams that wait to be sent.
const WAITING_MAX: usize = 16;

/// An address of the box, with its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    /// The address.
    pub(crate) ip: IpAddr,
    /// Length of its network's prefix, in bits.
    pub(crate) prefix: u8,
}

impl Address {
    /// Whether the other is on the same network.
    fn reaches(&self, other: Ipv4Addr) -> bool {
        let IpAddr::V4(own) = self.ip else { return false };
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
        own.to_bits() & mask == other.to_bits() & mask
    }
}

/// A datagram to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transmit {
    pub(crate) to: SocketAddrV4,
    pub(crate) bytes: Vec<u8>,
}

/// How far the name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is no address to tell, or none to tell it from.
    Silent,
    /// It is asked whether somebody has the name: how often it was, and when the next is due.
    Probing(u8, Duration),
    /// The name is ours, and others are told so: how often they were, and when the next is due.
    Announcing(u8, Duration),
    /// The name is ours.
    Steady,
}

/// Answers for one name. The driver calls [`Self::set_addresses`] when they change, [`Self::receive`]
/// for each datagram, [`Self::tick`] when [`Self::deadline`] is over; after each of them it sends what
/// [`Self::transmit`] gives.
#[derive(Debug)]
pub(crate) struct Responder {
    label: String,
    conflicts: u32,
    addresses: Vec<Address>,
    phase: Phase,
    multicast_at: Option<Duration>,
    unicasts: (u64, u32),
    waiting: VecDeque<Transmit>,
}

impl Responder {
    /// For `label.local`; silent until it has addresses.
    pub(crate) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            conflicts: 0,
            addresses: Vec::new(),
            phase: Phase::Silent,
            multicast_at: None,
            unicasts: (0, 0),
            waiting: VecDeque::new(),
        }
    }

    /// The name as it is now: where others have it, with a number (section 9).
    pub(crate) fn name(&self) -> String {
        match self.conflicts {
            0 => format!("{}.local", self.label),
            conflicts => format!("{}-{}.local", self.label, conflicts.saturating_add(1)),
        }
    }

    /// The box's addresses. When they are others than before, the name is asked for anew.
    /// `jitter` is up to [`PROBE_STEP`], so that boxes that start together do not all ask at once.
    pub(crate) fn set_addresses(
        &mut self,
        mut addresses: Vec<Address>,
        jitter: Duration,
        now: Duration,
    ) {
        addresses.sort_unstable();
        addresses.truncate(ADDRESSES_MAX);
        if addresses == self.addresses {
            return;
        }
        self.addresses = addresses;
        self.phase = match self.addresses.iter().any(|address| address.ip.is_ipv4()) {
            true => Phase::Probing(0, now + jitter.min(PROBE_STEP)),
            false => Phase::Silent,
        };
    }

    /// A datagram. What is none, is from elsewhere, or is about other names, does nothing.
    pub(crate) fn receive(&mut self, bytes: &[u8], from: SocketAddr, now: Duration) {
        let SocketAddr::V4(from) = from else { return };
        // Section 11: nobody beyond the network has a say.
        let is_near = self.addresses.iter().any(|address| address.reaches(*from.ip()));
        if self.phase == Phase::Silent || !is_near || from.port() == 0 {
            return;
        }
        let Some(heard) = packet::read(bytes, &self.name()) else { return };
        match heard.kind {
            Kind::Answer if from.port() == PORT => self.hear_answer(&heard, now),
            Kind::Answer => {}
            Kind::Question => self.hear_question(&heard, from, now),
        }
    }

    /// Some time has passed.
    pub(crate) fn tick(&mut self, now: Duration) {
        match self.phase {
            Phase::Probing(sent, due) if now >= due => {
                if sent < PROBES {
                    let probe = packet::probe(&self.name(), &self.ips(), TTL_S);
                    self.send(GROUP, probe);
                    self.phase = Phase::Probing(sent + 1, now + PROBE_STEP);
                } else {
                    self.phase = Phase::Announcing(0, now);
                    self.tick(now);
                }
            }
            Phase::Announcing(sent, due) if now >= due => {
                self.multicast(&self.ips(), now);
                self.phase = match sent + 1 {
                    ANNOUNCEMENTS => Phase::Steady,
                    sent => Phase::Announcing(sent, now + ANNOUNCE_STEP),
                };
            }
            _ => {}
        }
    }

    /// When [`Self::tick`] is to be called, if nothing comes before.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Probing(_, due) | Phase::Announcing(_, due) => Some(due),
            Phase::Silent | Phase::Steady => None,
        }
    }

    /// The next datagram to be sent.
    pub(crate) fn transmit(&mut self) -> Option<Transmit> {
        self.waiting.pop_front()
    }

    /// Somebody says who has which address.
    fn hear_answer(&mut self, heard: &Heard, now: Duration) {
        if heard.told.iter().all(|told| self.ips().contains(told)) {
            return;
        }
        match self.phase {
            // The name is somebody's: take another.
            Phase::Probing(..) => {
                self.conflicts = self.conflicts.saturating_add(1);
                let wait =
                    if self.conflicts > CONFLICTS_FAST_MAX { CONFLICT_WAIT } else { PROBE_STEP };
                self.phase = Phase::Probing(0, now + wait);
            }
            // Somebody thinks so: ask whose it is; who has it will answer (section 9).
            Phase::Announcing(..) | Phase::Steady => self.phase = Phase::Probing(0, now),
            Phase::Silent => {}
        }
    }

    fn hear_question(&mut self, heard: &Heard, from: SocketAddrV4, now: Duration) {
        match self.phase {
            Phase::Silent => {}
            // Who asks for the same name at the same time, and whose addresses are greater, has it.
            Phase::Probing(..) => {
                if packet::order(&heard.claimed) > packet::order(&self.ips()) {
                    self.phase = Phase::Probing(0, now + LOST_WAIT);
                }
            }
            Phase::Announcing(..) | Phase::Steady => self.answer(heard, from, now),
        }
    }

    fn answer(&mut self, heard: &Heard, from: SocketAddrV4, now: Duration) {
        let asked_for = |ip: &IpAddr| match ip {
            IpAddr::V4(_) => heard.asked.iter().any(|asked| asked.v4),
            IpAddr::V6(_) => heard.asked.iter().any(|asked| asked.v6),
        };
        let mut answers = self.ips();
        answers.retain(asked_for);
        if from.port() != PORT {
            if let Some(question) = heard.asked.first().filter(|_| !answers.is_empty()) {
                let reply = packet::legacy(heard.id, question, &answers, LEGACY_TTL_S);
                self.unicast(from, reply, now);
            }
            return;
        }
        // Section 7.1: what the asking one knows already is not said.
        answers.retain(|ip| !heard.known.contains(&(*ip, true)));
        if answers.is_empty() {
            return;
        }
        let since = self.multicast_at.map(|at| now.saturating_sub(at));
        // Section 5.4: to the asking one alone where it wants that, and others have heard of it lately.
        let lately = since.is_some_and(|since| since < Duration::from_secs(u64::from(TTL_S / 4)));
        if lately && heard.asked.iter().all(|asked| asked.unicast) {
            return self.unicast(from, packet::answer(&self.name(), &answers, TTL_S), now);
        }
        let step = if heard.claimed.is_empty() { MULTICAST_STEP } else { DEFENCE_STEP };
        if since.is_none_or(|since| since >= step) {
            self.multicast(&answers, now);
        }
    }

    fn multicast(&mut self, addresses: &[IpAddr], now: Duration) {
        self.multicast_at = Some(now);
        self.send(GROUP, packet::answer(&self.name(), addresses, TTL_S));
    }

    fn unicast(&mut self, to: SocketAddrV4, reply: Option<Vec<u8>>, now: Duration) {
        if self.unicasts.0 != now.as_secs() {
            self.unicasts = (now.as_secs(), 0);
        }
        self.unicasts.1 += 1;
        if self.unicasts.1 <= UNICASTS_PER_SECOND_MAX {
            self.send(to, reply);
        }
    }

    fn send(&mut self, to: SocketAddrV4, bytes: Option<Vec<u8>>) {
        if let Some(bytes) = bytes
            && self.waiting.len() < WAITING_MAX
        {
            self.waiting.push_back(Transmit { to, bytes });
        }
    }

    fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|address| address.ip).collect()
    }
}

#[cfg(test)]
mod tests;
