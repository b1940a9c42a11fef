//! Who holds what of this proxy: sessions, and connections kept warm. Counts with limits, no IO.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use wire::ticket::KeyFingerprint;

/// Places, so many in all and so many for each holder. Cheap to clone.
#[derive(Debug)]
pub struct Places<K> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K> {
    /// Places taken; watched by whoever waits for the last to be given back.
    taken: watch::Sender<usize>,
    by_holder: Mutex<HashMap<K, usize>>,
    places_max: usize,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    shared: Arc<Shared<K>>,
    holder: K,
}

/// Sessions, counted by box.
pub type Sessions = Places<KeyFingerprint>;
/// Connections on which nothing was asked yet, counted by network: see [`network_of`].
pub type Warm = Places<IpAddr>;

impl<K> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Eq + Hash + Copy> Places<K> {
    /// With `places_max` places in all.
    #[must_use]
    pub fn new(places_max: usize) -> Self {
        let (taken, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { taken, by_holder: Mutex::default(), places_max }) }
    }

    /// A place for `holder`, who may have `holder_max`; `None` when there is none.
    #[must_use]
    pub fn take(&self, holder: K, holder_max: usize) -> Option<Place<K>> {
        let shared = &self.shared;
        let mut by_holder = shared.by_holder.lock().unwrap_or_else(PoisonError::into_inner);
        let held = by_holder.get(&holder).copied().unwrap_or(0);
        if held >= holder_max || *shared.taken.borrow() >= shared.places_max {
            return None;
        }
        by_holder.insert(holder, held + 1);
        shared.taken.send_modify(|taken| *taken += 1);
        Some(Place { shared: shared.clone(), holder })
    }

    /// Places taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        *self.shared.taken.borrow()
    }

    /// Places taken, to be waited on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.shared.taken.subscribe()
    }

    /// Places in all.
    #[must_use]
    pub fn places_max(&self) -> usize {
        self.shared.places_max
    }

    /// Returns when no place is taken. Cancel-safe.
    pub async fn all_free(&self) {
        // The sender lives as long as this does, so the wait cannot fail.
        let _ = self.shared.taken.subscribe().wait_for(|taken| *taken == 0).await;
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut by_holder = self.shared.by_holder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = by_holder.get_mut(&self.holder) {
            *held -= 1;
            if *held == 0 {
                by_holder.remove(&self.holder);
            }
        }
        self.shared.taken.send_modify(|taken| *taken -= 1);
    }
}

/// What one customer has of the address space: an IPv4 address, or the /64 of an IPv6 one.
#[must_use]
pub fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: KeyFingerprint = KeyFingerprint([1; 32]);
    const B: KeyFingerprint = KeyFingerprint([2; 32]);

    #[test]
    fn both_limits_hold_and_places_come_back() {
        let places = Sessions::new(3);
        let first = places.take(A, 2).unwrap();
        let _second = places.take(A, 2).unwrap();
        assert!(places.take(A, 2).is_none(), "A has its two");
        let _third = places.take(B, 2).unwrap();
        assert!(places.take(B, 2).is_none(), "there are three in all");
        assert_eq!(places.taken(), 3);
        drop(first);
        assert!(places.take(A, 2).is_some());
        assert!(places.take(A, 0).is_none());
    }

    #[tokio::test]
    async fn the_last_place_given_back_is_noticed_also_by_panics() {
        let places = Sessions::new(1);
        places.all_free().await;
        let place = places.take(A, 1).unwrap();
        let task = tokio::spawn(async move {
            let _place = place;
            panic!("as the test wants");
        });
        places.all_free().await;
        assert!(task.await.unwrap_err().is_panic());
        assert!(places.shared.by_holder.lock().unwrap().is_empty());
    }

    #[test]
    fn an_ipv6_customer_is_a_slash_64() {
        let network = |ip: &str| network_of(ip.parse().unwrap()).to_string();
        assert_eq!(network("2a00:1:2:3:4:5:6:7"), "2a00:1:2:3::");
        assert_eq!(network("::ffff:1.2.3.4"), "1.2.3.4");
    }
}
