//! Leases: which sessions this manager has given to which proxy and not heard the end of.
//!
//! They are for counting only. A lease that is lost costs some accuracy until the proxy's next
//! report, so every bound here forgets the oldest rather than refuses a session.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use wire::LeaseId;

use crate::table::ProxyIndex;

/// Most leases that are remembered; at some 100 bytes each.
pub const LEASES_MAX: usize = 65_536;
/// A lease counts for so long at most: a box may keep an assignment for later, or vanish. The
/// session itself may last longer; the proxy reports it.
pub const LEASE_LIFE_MAX: Duration = Duration::from_secs(30 * 60);

/// Names a connection of a box to this manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The proxy named.
    pub(crate) proxy: ProxyIndex,
    /// The proxy's count of reports when it was named.
    pub(crate) report: u64,
    /// Whose it is.
    pub(crate) connection: ConnectionId,
    granted: Instant,
}

/// All leases. The oldest has the lowest id.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<u64, Lease>,
    by_connection: HashMap<ConnectionId, BTreeSet<u64>>,
    last_id: u64,
}

impl Leases {
    /// Grants one. Call [`Leases::take_surplus`] before.
    pub(crate) fn grant(
        &mut self,
        connection: ConnectionId,
        proxy: ProxyIndex,
        report: u64,
        now: Instant,
    ) -> LeaseId {
        self.last_id += 1;
        self.by_id.insert(self.last_id, Lease { proxy, report, connection, granted: now });
        self.by_connection.entry(connection).or_default().insert(self.last_id);
        LeaseId(self.last_id)
    }

    /// Ends a lease of this connection; those of others are not its business.
    pub(crate) fn take(&mut self, connection: ConnectionId, lease: LeaseId) -> Option<Lease> {
        if self.by_id.get(&lease.0)?.connection != connection {
            return None;
        }
        self.remove(lease.0)
    }

    /// Ends all leases of a connection.
    pub(crate) fn take_connection(&mut self, connection: ConnectionId) -> Vec<Lease> {
        let ids = self.by_connection.remove(&connection).unwrap_or_default();
        ids.into_iter().filter_map(|id| self.by_id.remove(&id)).collect()
    }

    /// Ends the oldest lease if it is over, or stands in the way of a new one.
    pub(crate) fn take_surplus(&mut self, now: Instant) -> Option<Lease> {
        let (&id, oldest) = self.by_id.first_key_value()?;
        let over = now.saturating_duration_since(oldest.granted) >= LEASE_LIFE_MAX;
        if over || self.by_id.len() >= LEASES_MAX { self.remove(id) } else { None }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn remove(&mut self, id: u64) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        if let Some(ids) = self.by_connection.get_mut(&lease.connection) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_connection.remove(&lease.connection);
            }
        }
        Some(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn a_lease_ends_once_and_only_by_its_own_connection() {
        let mut leases = Leases::default();
        let lease = leases.grant(A, 0, 0, start());
        assert_eq!(leases.take(B, lease), None);
        assert_eq!(leases.take(A, lease).unwrap().proxy, 0);
        assert_eq!(leases.take(A, lease), None);
        assert_eq!(leases.len(), 0);
        assert!(leases.by_connection.is_empty());
    }

    #[test]
    fn a_lost_connection_returns_all_of_its_leases() {
        let mut leases = Leases::default();
        for proxy in 0..3 {
            leases.grant(A, proxy, 0, start());
        }
        let kept = leases.grant(B, 9, 0, start());
        let ended: Vec<_> = leases.take_connection(A).iter().map(|lease| lease.proxy).collect();
        assert_eq!(ended, [0, 1, 2]);
        assert!(leases.take_connection(A).is_empty());
        assert!(leases.take(B, kept).is_some());
    }

    #[test]
    fn leases_expire_oldest_first() {
        let mut leases = Leases::default();
        let now = start();
        leases.grant(A, 0, 0, now);
        leases.grant(A, 1, 0, now + Duration::from_secs(1));
        assert_eq!(leases.take_surplus(now + LEASE_LIFE_MAX - Duration::from_secs(1)), None);
        assert_eq!(leases.take_surplus(now + LEASE_LIFE_MAX).unwrap().proxy, 0);
        assert_eq!(leases.take_surplus(now + LEASE_LIFE_MAX), None);
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn at_the_limit_the_oldest_is_forgotten() {
        let mut leases = Leases::default();
        let now = start();
        for _ in 0..LEASES_MAX {
            assert_eq!(leases.take_surplus(now), None);
            leases.grant(A, 0, 0, now);
        }
        assert!(leases.take_surplus(now).is_some());
        assert_eq!(leases.len(), LEASES_MAX - 1);
    }
}
