//! The model of an office: when its people mail, and how long a session takes.
//!
//! One box is one office. Its PCs fetch mail by POP3 every ten minutes while they are on, and people
//! send. Nights and the lunch hour are quiet, the first hour is the busiest: a Japanese office day.

use crate::queue::At;
use crate::random::{Random, us};

/// Half an hour: the day is given by halves of hours.
const SLOT_US: At = 1_800 * 1_000_000;

/// How many of the PCs are on, in each half hour from midnight on, in hundredths.
const PCS_ON: [u8; 48] = [
    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4, 6, 10, 18, 40, 80, 100, 100, 98, 96, 95, 94, 70, 72, 92,
    95, 96, 96, 96, 96, 95, 93, 90, 86, 70, 52, 38, 28, 20, 15, 11, 8, 6, 4, 3, 2,
];
/// How much is sent by those that are on, in hundredths of a quarter of a mail in half an hour.
const SENDING: [u8; 48] = [
    10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 20, 20, 40, 80, 140, 220, 250, 220, 200, 180,
    170, 150, 60, 80, 170, 180, 180, 170, 170, 170, 170, 170, 180, 160, 140, 100, 80, 60, 40, 30,
    20, 20, 10, 10, 10, 10,
];
/// From one fetch of a PC to its next.
const POLL_S: f64 = 600.0;
/// PCs of an office: lognormal, at most [`PCS_MAX`].
const PCS: (f64, f64) = (3.0, 0.8);
const PCS_MAX: f64 = 60.0;
/// Of fetches, those that find mail, in hundredths.
const FETCHES_WITH_MAIL: u64 = 30;
/// Bytes of a mail: lognormal, at most [`MAIL_BYTES_MAX`].
const MAIL_BYTES: (f64, f64) = (30_000.0, 1.6);
const MAIL_BYTES_MAX: f64 = 25_000_000.0;
/// What the mail server and the mail program take over a session: lognormal, seconds.
const THINKING_S: (f64, f64) = (0.3, 0.7);
/// Commands that wait for an answer.
const ROUND_TRIPS: f64 = 8.0;
/// CPU time of a proxy for a session, and for each byte of it, seconds.
const CPU_S: f64 = 0.015;
const CPU_S_PER_BYTE: f64 = 60e-9;
/// A session is over after this at the latest.
pub const SESSION_MAX_US: At = 600 * 1_000_000;
/// Bits a second that an office's line gives to a session.
pub const OFFICE_LINE_BPS: f64 = 50e6;

/// A crowd: for a while all come at so many times the rate.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// From.
    pub from: At,
    /// Until.
    pub until: At,
    /// Times the usual.
    pub times: f64,
}

/// What one session carries.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Bytes of mail.
    pub bytes: f64,
    /// Its time without transfer.
    pub talk_s: f64,
    /// CPU time that the proxy spends.
    pub cpu_s: f64,
}

/// PCs of one office.
#[must_use]
pub fn pcs(random: &mut Random) -> f64 {
    random.lognormal(PCS.0, PCS.1).clamp(1.0, PCS_MAX).round()
}

/// When an office's next session begins.
#[must_use]
pub fn next_session(random: &mut Random, pcs: f64, crowd: Option<Crowd>, now: At) -> At {
    let mut at = now;
    loop {
        let (rate, until) = rate(pcs, crowd, at);
        let next = at + us(random.exponential(1.0 / rate));
        if next < until {
            return next;
        }
        // The rate changes there, and what was waited does not count: so it is with such events.
        at = until;
    }
}

/// A session's work.
#[must_use]
pub fn work(random: &mut Random, round_trip_us: At) -> Work {
    let mails = if random.below(100) < FETCHES_WITH_MAIL { 1 + random.below(3) } else { 0 };
    let bytes: f64 = (0..mails)
        .map(|_| random.lognormal(MAIL_BYTES.0, MAIL_BYTES.1).min(MAIL_BYTES_MAX))
        .sum::<f64>()
        + 500.0;
    let thinking = random.lognormal(THINKING_S.0, THINKING_S.1);
    Work {
        bytes,
        talk_s: ROUND_TRIPS * round_trip_us as f64 / 1e6 + thinking,
        cpu_s: CPU_S + CPU_S_PER_BYTE * bytes,
    }
}

/// Sessions a second at a time, and until when that holds.
fn rate(pcs: f64, crowd: Option<Crowd>, at: At) -> (f64, At) {
    let slot = usize::try_from(at / SLOT_US % 48).unwrap_or(0);
    let on = pcs * f64::from(PCS_ON[slot]) / 100.0;
    let sent = 0.25 * f64::from(SENDING[slot]) / 100.0 / 1_800.0;
    let usual = on * (1.0 / POLL_S + sent);
    let slot_end = (at / SLOT_US + 1) * SLOT_US;
    match crowd {
        Some(crowd) if at < crowd.from => (usual, slot_end.min(crowd.from)),
        Some(crowd) if at < crowd.until => (usual * crowd.times, slot_end.min(crowd.until)),
        _ => (usual, slot_end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(from_h: u64, until_h: u64, crowd: Option<Crowd>) -> usize {
        let hour = 3_600 * 1_000_000;
        let (mut random, mut at, mut count) = (Random::new(9), from_h * hour, 0);
        loop {
            at = next_session(&mut random, 40.0, crowd, at);
            if at >= until_h * hour {
                return count;
            }
            count += 1;
        }
    }

    #[test]
    fn mornings_are_busy_lunch_is_not_and_nights_are_quiet() {
        let (night, morning, lunch) =
            (sessions(2, 3, None), sessions(9, 10, None), sessions(12, 13, None));
        assert!(morning > lunch * 12 / 10 && lunch > night * 10, "{morning} {lunch} {night}");
        let hour = 3_600 * 1_000_000;
        let crowd = Crowd { from: 9 * hour, until: 9 * hour + hour / 30, times: 20.0 };
        assert!(sessions(9, 10, Some(crowd)) > morning * 14 / 10);
    }

    #[test]
    fn sessions_are_short_and_some_are_large() {
        let mut random = Random::new(2);
        let all: Vec<Work> = (0..10_000).map(|_| work(&mut random, 20_000)).collect();
        let large = all.iter().filter(|work| work.bytes > 1e6).count();
        assert!((50..1_000).contains(&large), "{large}");
        assert!(all.iter().all(|work| work.talk_s > 0.16 && work.cpu_s >= CPU_S));
    }
}
