//! The list of addresses behind one name, and when to ask DNS again. Sans-IO.
//!
//! A list is never thrown away: when DNS fails, or says that the name has no addresses, the last
//! good list stays in use, however old (a lapsed domain must not stop mail). It is replaced only by
//! a list with addresses in it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::backoff::{Backoff, Dice};
use crate::limits::{ADDRESSES_MAX, Timing};

/// What DNS said of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// IPv4 addresses in the order received, then IPv6 addresses in the order received.
    pub addresses: Vec<IpAddr>,
    /// The smallest time to live among the records used, in seconds.
    pub ttl_s: u32,
}

/// A list as kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Seconds since 1970.
    pub(crate) fetched_at_s: u64,
}

/// One name's list.
#[derive(Debug)]
pub struct Directory {
    name: String,
    addresses: Vec<IpAddr>,
    fetched_at_s: Option<u64>,
    /// When the time to live ends; none: never fetched by this process.
    fresh_until: Option<Instant>,
    ask_at: Instant,
    failures: u32,
    ttl: (Duration, Duration),
    backoff: Backoff,
    dice: Dice,
}

impl Directory {
    /// Knows nothing yet; DNS is to be asked at once.
    pub(crate) fn new(name: String, timing: &Timing, seed: u32, now: Instant) -> Self {
        Self {
            name,
            addresses: Vec::new(),
            fetched_at_s: None,
            fresh_until: None,
            ask_at: now,
            failures: 0,
            ttl: (timing.dns_ttl_min, timing.dns_ttl_max),
            backoff: Backoff { min: timing.dns_pause_min, max: timing.dns_pause_max },
            dice: Dice::new(seed),
        }
    }

    /// Takes the list that an earlier process kept, as a stale one. Ignored if it is another
    /// name's.
    pub(crate) fn restore(&mut self, record: Record) {
        if record.name == self.name && self.addresses.is_empty() {
            self.addresses = record.addresses;
            self.addresses.truncate(ADDRESSES_MAX);
            self.fetched_at_s = Some(record.fetched_at_s);
        }
    }

    /// The name, without a dot at its end.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The best list known, in order.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// When to ask DNS next.
    pub fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// Ask now, whatever the time to live (the network changed).
    pub(crate) fn ask_now(&mut self, now: Instant) {
        self.ask_at = now;
    }

    /// The last lookup failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// The time to live has ended, or the list came from disk.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.fresh_until.is_none_or(|until| now >= until)
    }

    /// Seconds since the list came from DNS; `now_s` is wall-clock time.
    pub(crate) fn age_s(&self, now_s: u64) -> Option<u64> {
        self.fetched_at_s.map(|fetched| now_s.saturating_sub(fetched))
    }

    /// DNS answered. Returns what to keep on disk; none if the answer held no address, which
    /// counts as a failure.
    pub fn answered(&mut self, answer: Answer, now: Instant, now_s: u64) -> Option<Record> {
        if answer.addresses.is_empty() {
            self.failed(now);
            return None;
        }
        let ttl = Duration::from_secs(answer.ttl_s.into()).clamp(self.ttl.0, self.ttl.1);
        self.addresses.clear();
        for address in answer.addresses {
            if self.addresses.len() < ADDRESSES_MAX && !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
        self.fetched_at_s = Some(now_s);
        self.fresh_until = Some(now + ttl);
        self.ask_at = now + ttl;
        self.failures = 0;
        Some(Record {
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            fetched_at_s: now_s,
        })
    }

    /// DNS failed; the list stays.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.ask_at = now + self.backoff.pause(self.failures, &mut self.dice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t0() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn directory(now: Instant) -> Directory {
        Directory::new("manager.example".into(), &Timing::default(), 1, now)
    }

    #[test]
    fn a_list_is_used_for_its_time_to_live_in_the_order_received() {
        let t0 = t0();
        let mut directory = directory(t0);
        assert_eq!(directory.ask_at(), t0, "asked at once");
        let answer = Answer { addresses: vec![ip(9), ip(1), ip(9), ip(5)], ttl_s: 1200 };
        let record = directory.answered(answer, t0, 77).unwrap();
        assert_eq!(directory.addresses(), [ip(9), ip(1), ip(5)]);
        assert_eq!((record.addresses.len(), record.fetched_at_s), (3, 77));
        assert_eq!(directory.ask_at(), t0 + Duration::from_secs(1200));
        assert!(!directory.is_stale(t0 + Duration::from_secs(1199)));
        assert!(directory.is_stale(t0 + Duration::from_secs(1200)));
        assert_eq!(directory.age_s(100), Some(23));
    }

    #[test]
    fn the_time_to_live_is_held_between_its_limits() {
        let t0 = t0();
        let timing = Timing::default();
        for (ttl_s, expected) in [(0, timing.dns_ttl_min), (u32::MAX, timing.dns_ttl_max)] {
            let mut directory = directory(t0);
            directory.answered(Answer { addresses: vec![ip(1)], ttl_s }, t0, 0);
            assert_eq!(directory.ask_at(), t0 + expected);
        }
    }

    #[test]
    fn failures_keep_the_list_and_back_off() {
        let t0 = t0();
        let mut directory = directory(t0);
        directory.answered(Answer { addresses: vec![ip(1)], ttl_s: 60 }, t0, 0);
        let mut now = t0 + Duration::from_secs(60);
        let mut last = Duration::ZERO;
        for _ in 0..5 {
            directory.failed(now);
            let pause = directory.ask_at() - now;
            assert!(pause > last, "{pause:?} after {last:?}");
            last = pause;
            now = directory.ask_at();
        }
        for _ in 0..100 {
            directory.failed(now);
            assert!(directory.ask_at() - now <= Timing::default().dns_pause_max * 5 / 4);
        }
        assert_eq!(directory.addresses(), [ip(1)]);
        assert!(directory.is_stale(now));
    }

    #[test]
    fn an_empty_answer_does_not_replace_a_list() {
        let t0 = t0();
        let mut directory = directory(t0);
        directory.answered(Answer { addresses: vec![ip(1)], ttl_s: 60 }, t0, 0);
        assert_eq!(directory.answered(Answer { addresses: vec![], ttl_s: 60 }, t0, 0), None);
        assert_eq!(directory.addresses(), [ip(1)]);
    }

    #[test]
    fn a_list_from_disk_is_stale_and_of_the_same_name() {
        let t0 = t0();
        let mut directory = directory(t0);
        let mut record =
            Record { name: "other.example".into(), addresses: vec![ip(3)], fetched_at_s: 5 };
        directory.restore(record.clone());
        assert_eq!(directory.addresses(), [] as [IpAddr; 0]);
        record.name = "manager.example".into();
        directory.restore(record);
        assert_eq!(directory.addresses(), [ip(3)]);
        assert!(directory.is_stale(t0));
        assert_eq!(directory.ask_at(), t0, "asked at once all the same");
        assert_eq!(directory.age_s(65), Some(60));
    }

    #[test]
    fn a_list_is_cut_at_its_limit() {
        let t0 = t0();
        let mut directory = directory(t0);
        let addresses = (0..200).map(ip).collect();
        directory.answered(Answer { addresses, ttl_s: 60 }, t0, 0);
        assert_eq!(directory.addresses().len(), ADDRESSES_MAX);
    }
}
