//! Whether this box is admitted: its ticket, when to log in again, and who said no. Sans-IO.
//!
//! A ticket is renewed from half of its life on. While no auther answers, the old one serves until
//! it ends. An auther's denial ends it at once. What a manager or proxy says of the ticket only
//! brings the next login forward: it is the auther that decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::DeniedReason;
use wire::ticket::SignedTicket;

use crate::backoff::{Backoff, Dice};
use crate::limits::Timing;

/// A ticket is not believed to live longer, whatever it says.
const LIFE_MAX: Duration = Duration::from_secs(7 * wire::ticket::TICKET_LIFE_S);

/// The state of admission.
#[derive(Debug)]
pub struct Admission {
    state: State,
    login_at: Instant,
    last_login: Option<Instant>,
    failures: u32,
    timing: Arc<Timing>,
    dice: Dice,
}

/// A ticket with the times it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub signed: SignedTicket,
    /// Seconds since 1970.
    pub not_before_s: u64,
    /// Seconds since 1970.
    pub not_after_s: u64,
}

/// Why there is no ticket to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// No auther has answered yet, or the ticket has ended since one did.
    NoTicket,
    /// An auther said no.
    Denied(DeniedReason),
}

#[derive(Debug)]
enum State {
    None,
    Admitted { granted: Granted, ends: Instant },
    Denied(DeniedReason),
}

impl Admission {
    /// No ticket; log in at once.
    pub(crate) fn new(timing: &Arc<Timing>, seed: u32, now: Instant) -> Self {
        Self {
            state: State::None,
            login_at: now,
            last_login: None,
            failures: 0,
            timing: Arc::clone(timing),
            dice: Dice::new(seed),
        }
    }

    /// The ticket that an earlier process kept. Ignored if it has ended by the wall clock `now_s`.
    ///
    /// A clock that is behind the ticket (no battery, no time yet) makes it last its whole life
    /// from now: the servers have clocks of their own and say `TicketExpired`.
    pub(crate) fn restore(&mut self, granted: Granted, now: Instant, now_s: u64) {
        let life = granted.life();
        let left = granted.left(now_s);
        if left.is_zero() {
            return;
        }
        self.login_at = if now_s < granted.not_before_s {
            now
        } else {
            (now + left).checked_sub(life / 2).unwrap_or(now).max(now)
        };
        self.state = State::Admitted { granted, ends: now + left };
    }

    /// The ticket to show at `now`.
    pub(crate) fn ticket(&self, now: Instant) -> Result<&SignedTicket, NotAdmitted> {
        match &self.state {
            State::Admitted { granted, ends } if now < *ends => Ok(&granted.signed),
            State::Admitted { .. } | State::None => Err(NotAdmitted::NoTicket),
            State::Denied(reason) => Err(NotAdmitted::Denied(*reason)),
        }
    }

    /// When the ticket ends, seconds since 1970 by the auther's clock.
    pub(crate) fn valid_until_s(&self) -> Option<u64> {
        match &self.state {
            State::Admitted { granted, .. } => Some(granted.not_after_s),
            _ => None,
        }
    }

    /// When to log in next.
    pub(crate) fn login_at(&self) -> Instant {
        self.login_at
    }

    /// A login begins.
    pub(crate) fn login_begins(&mut self, now: Instant) {
        self.last_login = Some(now);
    }

    /// An auther granted this.
    pub fn granted(&mut self, granted: Granted, now: Instant, now_s: u64) {
        let left = granted.left(now_s);
        // A clock far off would make this zero: then the whole life, and the servers decide.
        let left = if left.is_zero() { granted.life() } else { left };
        self.login_at = now + (left / 2).max(self.timing.login_pause_min);
        self.state = State::Admitted { granted, ends: now + left };
        self.failures = 0;
    }

    /// An auther said no.
    pub(crate) fn denied(&mut self, reason: DeniedReason, now: Instant) {
        self.state = State::Denied(reason);
        self.failures = 0;
        self.login_at = now + self.timing.denied_pause;
    }

    /// No auther answered. What there was stays.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let backoff =
            Backoff { min: self.timing.login_pause_min, max: self.timing.login_pause_max };
        self.login_at = now + backoff.pause(self.failures, &mut self.dice);
    }

    /// A manager or proxy denied the ticket: log in soon, but not more often than every
    /// `denied_pause` for this reason. True if that moved the login forward.
    pub(crate) fn doubted(&mut self, now: Instant) -> bool {
        let earliest = self.last_login.map_or(now, |last| last + self.timing.denied_pause).max(now);
        let forward = earliest < self.login_at;
        self.login_at = self.login_at.min(earliest);
        forward
    }

    /// Log in at once, unless there is a ticket (the network changed).
    pub(crate) fn login_now(&mut self, now: Instant) {
        if self.ticket(now).is_err() {
            self.login_at = now;
            self.failures = 0;
        }
    }
}

impl Granted {
    fn life(&self) -> Duration {
        Duration::from_secs(self.not_after_s.saturating_sub(self.not_before_s)).min(LIFE_MAX)
    }

    /// What is left at `now_s`; no more than the whole life.
    fn left(&self, now_s: u64) -> Duration {
        Duration::from_secs(self.not_after_s.saturating_sub(now_s)).min(self.life())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE_S: u64 = wire::ticket::TICKET_LIFE_S;
    const NOW_S: u64 = 1_800_000_000;

    fn granted(not_before_s: u64) -> Granted {
        Granted {
            signed: SignedTicket { ticket: vec![1], signature: vec![2] },
            not_before_s,
            not_after_s: not_before_s + LIFE_S,
        }
    }

    fn start() -> (Admission, Instant, Timing) {
        let now = tokio::time::Instant::now().into_std();
        (Admission::new(&Arc::default(), 9, now), now, Timing::default())
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_ticket_is_renewed_from_half_its_life_and_serves_to_its_end() {
        let (mut admission, t0, _) = start();
        assert_eq!(admission.ticket(t0), Err(NotAdmitted::NoTicket));
        assert_eq!(admission.login_at(), t0);
        admission.granted(granted(NOW_S), t0, NOW_S);
        assert_eq!(admission.login_at(), t0 + s(LIFE_S / 2));
        let half = t0 + s(LIFE_S / 2);
        admission.failed(half);
        assert!(
            admission.ticket(t0 + s(LIFE_S - 1)).is_ok(),
            "the auther is away: it still serves"
        );
        assert_eq!(admission.ticket(t0 + s(LIFE_S)), Err(NotAdmitted::NoTicket));
        assert_eq!(admission.valid_until_s(), Some(NOW_S + LIFE_S));
    }

    #[test]
    fn logins_nobody_answers_back_off_to_their_limit() {
        let (mut admission, t0, timing) = start();
        let mut last = Duration::ZERO;
        for _ in 0..6 {
            admission.failed(t0);
            assert!(admission.login_at() - t0 > last);
            last = admission.login_at() - t0;
        }
        for _ in 0..100 {
            admission.failed(t0);
        }
        assert!(admission.login_at() - t0 <= timing.login_pause_max * 5 / 4);
    }

    #[test]
    fn an_authers_denial_ends_the_ticket_and_is_asked_again() {
        let (mut admission, t0, timing) = start();
        admission.granted(granted(NOW_S), t0, NOW_S);
        admission.denied(DeniedReason::Suspended, t0);
        assert_eq!(admission.ticket(t0), Err(NotAdmitted::Denied(DeniedReason::Suspended)));
        assert_eq!(admission.login_at(), t0 + timing.denied_pause);
        admission.failed(t0);
        assert_eq!(
            admission.ticket(t0),
            Err(NotAdmitted::Denied(DeniedReason::Suspended)),
            "an auther that is away does not undo it"
        );
        admission.granted(granted(NOW_S), t0, NOW_S);
        assert!(admission.ticket(t0).is_ok());
    }

    #[test]
    fn a_managers_denial_brings_the_login_forward_but_not_in_a_storm() {
        let (mut admission, t0, timing) = start();
        admission.login_begins(t0);
        admission.granted(granted(NOW_S), t0, NOW_S);
        assert!(admission.doubted(t0));
        assert_eq!(admission.login_at(), t0 + timing.denied_pause);
        assert!(!admission.doubted(t0));
        assert!(admission.ticket(t0).is_ok(), "the ticket stays");
        let later = t0 + s(3600);
        let mut admission = Admission::new(&Arc::default(), 1, t0);
        admission.login_begins(t0);
        admission.granted(granted(NOW_S), t0, NOW_S);
        assert!(admission.doubted(later));
        assert_eq!(admission.login_at(), later);
    }

    #[test]
    fn a_ticket_from_disk_serves_what_is_left_of_it() {
        let (mut admission, t0, _) = start();
        admission.restore(granted(NOW_S - LIFE_S / 4), t0, NOW_S);
        assert_eq!(admission.login_at(), t0 + s(LIFE_S / 4));
        assert!(admission.ticket(t0 + s(LIFE_S * 3 / 4 - 1)).is_ok());
        assert!(admission.ticket(t0 + s(LIFE_S * 3 / 4)).is_err());
    }

    #[test]
    fn an_old_ticket_from_disk_is_ignored_and_a_clock_without_time_does_not_lose_one() {
        let (mut admission, t0, _) = start();
        admission.restore(granted(NOW_S - LIFE_S), t0, NOW_S);
        assert!(admission.ticket(t0).is_err());
        admission.restore(granted(NOW_S), t0, 0);
        assert!(admission.ticket(t0).is_ok());
        assert!(admission.ticket(t0 + s(LIFE_S)).is_err(), "never longer than its life");
        assert_eq!(admission.login_at(), t0, "and is renewed at once");
    }

    #[test]
    fn a_hostile_life_does_not_overflow() {
        let (mut admission, t0, _) = start();
        let mut forever = granted(NOW_S);
        forever.not_after_s = u64::MAX;
        admission.granted(forever, t0, NOW_S);
        assert!(admission.ticket(t0).is_ok());
    }
}
