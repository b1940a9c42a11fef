//! What the daemon counts, and the last sessions it carried.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use session::{Opaque, Outcome};

/// Sessions that `avr status` shows one by one.
pub const RECENT_SESSIONS_MAX: usize = 32;

/// Shared by all session tasks.
#[derive(Debug, Default)]
pub struct Counters(Mutex<Numbers>);

/// The counters as they stand.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Numbers {
    /// Sessions going on now.
    pub sessions_now: u64,
    /// Sessions taken off the bridge since the start.
    pub sessions: u64,
    /// Of these, carried through a relay site.
    pub sessions_relay: u64,
    /// Of these, carried straight to the mail server.
    pub sessions_direct: u64,
    /// Of these, not opened: the mail server could not be reached.
    pub sessions_refused: u64,
    /// Of these, ended by a fault of ours.
    pub sessions_panicked: u64,
    /// Ended sessions that were read to their end.
    pub sessions_scanned: u64,
    /// Ended sessions that went to TLS.
    pub sessions_tls: u64,
    /// Ended sessions that were not read by setting.
    pub sessions_unread: u64,
    /// Bytes from clients to servers.
    pub bytes_up: u64,
    /// Bytes from servers to clients.
    pub bytes_down: u64,
    /// Mails that came to a verdict.
    pub mails: u64,
    /// Of these, infected.
    pub mails_infected: u64,
    /// Of these, not looked at in full.
    pub mails_unscannable: u64,
    /// Mails that passed unread, because of their sender.
    pub mails_unread: u64,
    /// Mails cut off before their end.
    pub mails_aborted: u64,
    /// Times a peer broke the protocol.
    pub violations: u64,
    /// The last ones, newest last.
    pub recent: VecDeque<Recent>,
}

/// One session that has ended.
#[derive(Debug, Clone, Serialize)]
pub struct Recent {
    /// Its number in all logs.
    pub session: String,
    /// `smtp` or `pop3`.
    pub protocol: &'static str,
    /// Who opened it.
    pub client: SocketAddr,
    /// The mail server.
    pub server: SocketAddr,
    /// The way it took, for people.
    pub way: String,
    /// From the SYN to the open way, in milliseconds.
    pub opening_ms: u64,
    /// From client to server.
    pub bytes_up: u64,
    /// From server to client.
    pub bytes_down: u64,
    /// Mails that came to a verdict.
    pub mails: u32,
    /// Of these, infected.
    pub infected: u32,
    /// Of these, not looked at in full.
    pub unscannable: u32,
    /// Read to its end.
    pub scanned: bool,
}

impl Counters {
    /// A copy.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        self.lock().clone()
    }

    /// A session starts.
    pub fn begin(&self) {
        let mut numbers = self.lock();
        numbers.sessions += 1;
        numbers.sessions_now += 1;
    }

    /// A session that [`Self::begin`] counted is over, however it went.
    pub fn end(&self) {
        self.lock().sessions_now -= 1;
    }

    /// The session goes through a site, or direct.
    pub fn opened(&self, through_site: bool) {
        let mut numbers = self.lock();
        if through_site {
            numbers.sessions_relay += 1;
        } else {
            numbers.sessions_direct += 1;
        }
    }

    /// The mail server could not be reached.
    pub fn refused(&self) {
        self.lock().sessions_refused += 1;
    }

    /// A session task of ours broke down.
    pub fn panicked(&self) {
        self.lock().sessions_panicked += 1;
    }

    /// How an opened session went.
    pub fn ended(&self, outcome: &Outcome, recent: Recent) {
        let mut numbers = self.lock();
        match outcome.opaque {
            None => numbers.sessions_scanned += 1,
            Some(Opaque::Tls) => numbers.sessions_tls += 1,
            Some(Opaque::Setting | Opaque::Unframed) => numbers.sessions_unread += 1,
        }
        numbers.bytes_up += outcome.bytes_up;
        numbers.bytes_down += outcome.bytes_down;
        numbers.mails += u64::from(outcome.messages);
        numbers.mails_infected += u64::from(outcome.infected);
        numbers.mails_unscannable += u64::from(outcome.unscannable);
        numbers.mails_unread += u64::from(outcome.unread);
        numbers.mails_aborted += u64::from(outcome.aborted);
        numbers.violations += u64::from(outcome.violations);
        if numbers.recent.len() == RECENT_SESSIONS_MAX {
            numbers.recent.pop_front();
        }
        numbers.recent.push_back(recent);
    }

    /// Counters stay usable if a task broke down while counting.
    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    /// Share of ended sessions that were read to their end, in percent; `None` before the first.
    #[must_use]
    pub fn scanned_percent(&self) -> Option<u64> {
        let ended = self.sessions_scanned + self.sessions_tls + self.sessions_unread;
        (self.sessions_scanned * 100).checked_div(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(session: usize) -> Recent {
        Recent {
            session: session.to_string(),
            protocol: "smtp",
            client: "192.0.2.1:1024".parse().unwrap(),
            server: "192.0.2.2:25".parse().unwrap(),
            way: "direct".to_owned(),
            opening_ms: 1,
            bytes_up: 1,
            bytes_down: 1,
            mails: 1,
            infected: 0,
            unscannable: 0,
            scanned: true,
        }
    }

    #[test]
    fn what_was_not_read_is_no_part_of_what_was_scanned() {
        let counters = Counters::default();
        assert_eq!(counters.numbers().scanned_percent(), None);
        for opaque in [None, None, Some(Opaque::Tls), Some(Opaque::Setting)] {
            counters.ended(&Outcome { opaque, ..Outcome::default() }, recent(0));
        }
        let numbers = counters.numbers();
        assert_eq!(numbers.scanned_percent(), Some(50));
        assert_eq!(
            (numbers.sessions_scanned, numbers.sessions_tls, numbers.sessions_unread),
            (2, 1, 1)
        );
    }

    #[test]
    fn the_last_sessions_are_kept_and_no_more() {
        let counters = Counters::default();
        for session in 0..=RECENT_SESSIONS_MAX {
            counters.ended(
                &Outcome { messages: 2, infected: 1, ..Outcome::default() },
                recent(session),
            );
        }
        let numbers = counters.numbers();
        assert_eq!(numbers.recent.len(), RECENT_SESSIONS_MAX);
        assert_eq!(numbers.recent.front().unwrap().session, "1");
        assert_eq!((numbers.mails, numbers.mails_infected), (66, 33));
    }

    #[test]
    fn every_session_that_begins_ends() {
        let counters = Counters::default();
        counters.begin();
        counters.begin();
        counters.opened(true);
        counters.refused();
        counters.end();
        let numbers = counters.numbers();
        assert_eq!((numbers.sessions, numbers.sessions_now), (2, 1));
        assert_eq!((numbers.sessions_relay, numbers.sessions_refused), (1, 1));
    }
}
