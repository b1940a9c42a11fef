//! The model of DNS: the zone of the operator, and the resolvers of providers that cache it.

use std::net::IpAddr;

use box_relay::cores::Answer;

use crate::queue::At;
use crate::random::Random;

/// Of the name, as the operator's handbook says.
pub const TTL_S: u64 = 1_200;
/// What some resolvers keep every name for at least.
pub const STUBBORN_TTL_S: u64 = 3_600;
const SECOND_US: At = 1_000_000;

/// The order in which a resolver gives addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Turned by one for each question.
    Turned,
    /// Drawn for each question.
    Drawn,
    /// As it came from the zone's server, which turns it for each resolver.
    Kept,
}

/// See the module.
#[derive(Debug)]
pub struct Dns {
    zone: Vec<IpAddr>,
    /// It answers.
    pub up: bool,
    resolvers: Vec<Resolver>,
    random: Random,
    turn: usize,
}

#[derive(Debug)]
struct Resolver {
    order: Order,
    ttl_s: u64,
    cached: Vec<IpAddr>,
    until: At,
    turn: usize,
}

impl Dns {
    /// Resolvers of each kind: of ten, six turn the addresses, three draw their order and one keeps
    /// it; of twenty, one keeps names for an hour.
    #[must_use]
    pub fn new(zone: Vec<IpAddr>, resolvers: usize, mut random: Random) -> Self {
        let resolver = |number: usize| Resolver {
            order: match number % 10 {
                0..6 => Order::Turned,
                6..9 => Order::Drawn,
                _ => Order::Kept,
            },
            ttl_s: if number % 20 == 13 { STUBBORN_TTL_S } else { TTL_S },
            cached: Vec::new(),
            until: 0,
            turn: 0,
        };
        let turn = usize::try_from(random.below(1_000)).unwrap_or(0);
        Self { zone, up: true, resolvers: (0..resolvers).map(resolver).collect(), random, turn }
    }

    /// Takes these addresses out of the zone, or puts them in.
    pub fn change(&mut self, addresses: &[IpAddr], listed: bool) {
        self.zone.retain(|address| !addresses.contains(address));
        if listed {
            self.zone.extend(addresses);
        }
    }

    /// The zone holds it.
    #[must_use]
    pub fn lists(&self, address: IpAddr) -> bool {
        self.zone.contains(&address)
    }

    /// Longest that a resolver gives what the zone no longer holds, in seconds.
    #[must_use]
    pub fn ttl_s(&self, resolver: usize) -> u64 {
        self.resolvers[resolver].ttl_s
    }

    /// What a resolver says; none: nothing.
    pub fn ask(&mut self, resolver: usize, now: At) -> Option<Answer> {
        let Self { zone, resolvers, random, turn, up } = self;
        let resolver = &mut resolvers[resolver];
        if now >= resolver.until {
            if !*up {
                return None;
            }
            // Its cache may be older than the box: the first question finds it half used.
            let age = if resolver.until == 0 { random.below(resolver.ttl_s) } else { 0 };
            resolver.cached.clone_from(zone);
            *turn += 1;
            let by = *turn % resolver.cached.len().max(1);
            resolver.cached.rotate_left(by);
            resolver.until = now + (resolver.ttl_s - age) * SECOND_US;
        }
        let mut addresses = resolver.cached.clone();
        match resolver.order {
            Order::Kept => {}
            Order::Drawn => random.shuffle(&mut addresses),
            Order::Turned => {
                resolver.turn += 1;
                let by = resolver.turn % addresses.len().max(1);
                addresses.rotate_left(by);
            }
        }
        let left_s = (resolver.until - now).div_ceil(SECOND_US);
        Some(Answer { addresses, ttl_s: u32::try_from(left_s).unwrap_or(u32::MAX) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn resolvers_turn_draw_or_keep_and_forget_in_time() {
        let zone: Vec<IpAddr> = (1..=8).map(ip).collect();
        let mut dns = Dns::new(zone.clone(), 20, Random::new(4));
        let firsts = |dns: &mut Dns, resolver| {
            let mut firsts: Vec<IpAddr> =
                (0..80).map(|_| dns.ask(resolver, 5).unwrap().addresses[0]).collect();
            firsts.sort_unstable();
            firsts.dedup();
            firsts.len()
        };
        assert_eq!((firsts(&mut dns, 0), firsts(&mut dns, 9)), (8, 1));
        assert!(firsts(&mut dns, 6) > 4);
        dns.change(&[ip(3)], false);
        assert!(dns.ask(0, 5).unwrap().addresses.contains(&ip(3)), "cached");
        let later = (TTL_S + 1) * SECOND_US;
        assert_eq!(dns.ask(0, later).unwrap().addresses.len(), 7);
        assert_eq!(dns.ask(0, later).unwrap().ttl_s, 1_200);
        dns.up = false;
        assert!(dns.ask(0, later).is_some(), "cached");
        assert_eq!(dns.ask(0, later * 2), None);
        assert_eq!(dns.ttl_s(13), STUBBORN_TTL_S);
    }
}
