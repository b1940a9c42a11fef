//! What a box may have: the limits of its ticket, over all of its connections to this manager.
//!
//! The proxies hold the number of sessions too, each for itself and by what it carries; here it is
//! over the site, and by what was given out. A box that reconnects starts to count anew, so this is
//! no accounting: it keeps one box from taking the leases of the others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use wire::ticket::KeyFingerprint;

use crate::lease::ConnectionId;

/// Assignments that a box may have in hand beside its sessions, for its next ones.
pub const IN_HAND_MAX: u32 = 8;
/// In this time a box may ask as often as it may have sessions: an office with a hundred sessions at
/// once opens ten a second.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Most boxes that are remembered, those that have gone included.
pub const BOXES_MAX: usize = 65_536;

/// A question's price, in the unit of [`Quota::saved`].
const QUESTION: u64 = 1_000;

/// What a box has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surplus {
    /// Sessions and assignments in hand.
    Sessions,
    /// Questions in a short time.
    Rate,
}

/// All boxes.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    by_key: HashMap<KeyFingerprint, Quota>,
    by_connection: HashMap<ConnectionId, KeyFingerprint>,
}

/// One box.
#[derive(Debug, Clone, Copy)]
struct Quota {
    connections: u32,
    /// From its ticket.
    sessions_max: u32,
    /// Leases that are out.
    outstanding: u32,
    /// Questions that it has saved up, in thousandths.
    saved: u64,
    /// When `saved` was right.
    at: Instant,
}

impl Quota {
    fn saved_max(&self) -> u64 {
        QUESTION * (u64::from(self.sessions_max) + u64::from(IN_HAND_MAX))
    }

    /// Saves up until now.
    fn save(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).min(RATE_WINDOW);
        // Both are bounded: 2^32 questions of 2^10, times 2^14 milliseconds.
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let window_ms = u64::try_from(RATE_WINDOW.as_millis()).unwrap_or(u64::MAX);
        let more = self.saved_max().saturating_mul(elapsed_ms) / window_ms;
        if more > 0 {
            self.saved = self.saved.saturating_add(more).min(self.saved_max());
            self.at = now;
        }
    }
}

impl Quotas {
    /// A ticket was shown; a later one may have other limits.
    pub(crate) fn admitted(
        &mut self,
        connection: ConnectionId,
        key: KeyFingerprint,
        sessions_max: u32,
        now: Instant,
    ) {
        if self.by_key.len() >= BOXES_MAX && !self.by_key.contains_key(&key) {
            // Whoever is not here now: it comes back with a full allowance, which does no harm.
            self.by_key.retain(|_, quota| quota.connections > 0);
        }
        let quota = self.by_key.entry(key).or_insert_with(|| {
            let mut new = Quota { connections: 0, sessions_max, outstanding: 0, saved: 0, at: now };
            new.saved = new.saved_max();
            new
        });
        quota.sessions_max = sessions_max;
        if self.by_connection.insert(connection, key).is_none() {
            quota.connections += 1;
        }
    }

    /// The connection has ended, and its leases before it.
    pub(crate) fn disconnected(&mut self, connection: ConnectionId) {
        let Some(key) = self.by_connection.remove(&connection) else { return };
        let Some(quota) = self.by_key.get_mut(&key) else { return };
        quota.connections = quota.connections.saturating_sub(1);
        // Kept without a connection only while it has asked a lot: reconnecting buys nothing.
        if quota.connections == 0 && quota.saved >= quota.saved_max() / 2 {
            self.by_key.remove(&key);
        }
    }

    /// Whether the box may be given one more.
    pub(crate) fn ask(&mut self, connection: ConnectionId, now: Instant) -> Result<(), Surplus> {
        let Some(quota) = self.quota(connection) else { return Ok(()) };
        quota.save(now);
        if quota.saved < QUESTION {
            return Err(Surplus::Rate);
        }
        quota.saved -= QUESTION;
        if quota.outstanding >= quota.sessions_max.saturating_add(IN_HAND_MAX) {
            return Err(Surplus::Sessions);
        }
        Ok(())
    }

    /// It was given one.
    pub(crate) fn granted(&mut self, connection: ConnectionId) {
        if let Some(quota) = self.quota(connection) {
            quota.outstanding = quota.outstanding.saturating_add(1);
        }
    }

    /// One has ended.
    pub(crate) fn ended(&mut self, connection: ConnectionId) {
        if let Some(quota) = self.quota(connection) {
            quota.outstanding = quota.outstanding.saturating_sub(1);
        }
    }

    /// Boxes that are here.
    pub(crate) fn connected(&self) -> usize {
        self.by_key.values().filter(|quota| quota.connections > 0).count()
    }

    fn quota(&mut self, connection: ConnectionId) -> Option<&mut Quota> {
        self.by_key.get_mut(self.by_connection.get(&connection)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSIONS_MAX: u32 = 100;
    const BURST: u32 = SESSIONS_MAX + IN_HAND_MAX;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn key(n: u32) -> KeyFingerprint {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        KeyFingerprint(bytes)
    }

    /// Asks until it may not; gives back at once, so that only the rate counts.
    fn asks(quotas: &mut Quotas, connection: ConnectionId, now: Instant) -> u32 {
        let mut count = 0;
        while quotas.ask(connection, now).is_ok() {
            count += 1;
        }
        count
    }

    #[test]
    fn a_box_may_ask_as_often_as_it_may_have_sessions_in_ten_seconds() {
        let mut quotas = Quotas::default();
        let (now, one) = (start(), ConnectionId(1));
        quotas.admitted(one, key(1), SESSIONS_MAX, now);
        assert_eq!(asks(&mut quotas, one, now), BURST);
        assert_eq!(quotas.ask(one, now), Err(Surplus::Rate));
        assert_eq!(asks(&mut quotas, one, now + RATE_WINDOW / 2), BURST / 2);
        // An hour's silence saves up no more than one window's.
        assert_eq!(asks(&mut quotas, one, now + 360 * RATE_WINDOW), BURST);
        // Many small waits give as much as a large one.
        let mut small = 0;
        for tick in 0..1_000 {
            small += asks(&mut quotas, one, now + 360 * RATE_WINDOW + tick * RATE_WINDOW / 1_000);
        }
        assert!(small.abs_diff(BURST) <= 1, "{small}");
    }

    #[test]
    fn neither_connections_nor_reconnecting_buy_more() {
        let mut quotas = Quotas::default();
        let now = start();
        for n in 1..=3 {
            quotas.admitted(ConnectionId(n), key(1), SESSIONS_MAX, now);
        }
        assert_eq!(quotas.connected(), 1);
        assert_eq!(asks(&mut quotas, ConnectionId(1), now), BURST);
        assert_eq!(asks(&mut quotas, ConnectionId(2), now), 0);
        for n in 1..=3 {
            quotas.disconnected(ConnectionId(n));
        }
        assert_eq!(quotas.connected(), 0);
        quotas.admitted(ConnectionId(4), key(1), SESSIONS_MAX, now);
        assert_eq!(asks(&mut quotas, ConnectionId(4), now), 0);
        // Another box is not concerned.
        quotas.admitted(ConnectionId(5), key(2), SESSIONS_MAX, now);
        assert_eq!(asks(&mut quotas, ConnectionId(5), now), BURST);
    }

    #[test]
    fn sessions_are_counted_until_they_end() {
        let mut quotas = Quotas::default();
        let (mut now, one) = (start(), ConnectionId(1));
        quotas.admitted(one, key(1), 2, now);
        for _ in 0..2 + IN_HAND_MAX {
            now += RATE_WINDOW;
            quotas.ask(one, now).unwrap();
            quotas.granted(one);
        }
        now += RATE_WINDOW;
        assert_eq!(quotas.ask(one, now), Err(Surplus::Sessions));
        quotas.ended(one);
        quotas.ask(one, now).unwrap();
        // A new ticket with other limits holds at once.
        quotas.admitted(one, key(1), 0, now);
        assert_eq!(quotas.ask(one, now), Err(Surplus::Sessions));
    }

    #[test]
    fn the_largest_limit_overflows_nothing_and_no_ticket_limits_nothing() {
        let mut quotas = Quotas::default();
        let now = start();
        quotas.admitted(ConnectionId(1), key(1), u32::MAX, now);
        for _ in 0..10_000 {
            quotas.ask(ConnectionId(1), now + 1_000 * RATE_WINDOW).unwrap();
            quotas.granted(ConnectionId(1));
            quotas.ask(ConnectionId(2), now).unwrap();
        }
    }

    #[test]
    fn boxes_that_have_gone_make_room() {
        let mut quotas = Quotas::default();
        let now = start();
        let count = u32::try_from(BOXES_MAX).unwrap();
        for n in 0..count + 10 {
            let connection = ConnectionId(n.into());
            quotas.admitted(connection, key(n), 1, now);
            while quotas.ask(connection, now).is_ok() {}
            quotas.disconnected(connection);
            assert!(quotas.by_key.len() <= BOXES_MAX);
        }
        assert!(quotas.by_connection.is_empty());
    }
}
