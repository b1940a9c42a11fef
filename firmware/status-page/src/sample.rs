//! From the gateway's counters, which count since its start, to what was counted in a minute.

use serde_json::Value;

use crate::history::{COUNTS, Count, Minute};

/// A gateway that started no longer ago than this, in seconds, is counted from its start when it is
/// first seen.
const JUST_STARTED_S: u64 = 90;

/// The gateway's counters as they stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    uptime_s: u64,
    values: [u64; COUNTS],
    snoozing: bool,
}

impl Counters {
    /// Of its status; what is not in it is zero.
    pub(crate) fn of(status: &Value) -> Self {
        let number = |path: &str| status.pointer(path).and_then(Value::as_u64);
        Self {
            uptime_s: number("/uptime_s").unwrap_or(0),
            values: Count::ALL.map(|(_, name)| number(&format!("/counters/{name}")).unwrap_or(0)),
            snoozing: number("/snooze_seconds_left").is_some(),
        }
    }

    /// What was counted between `before` and these; `before` may be of a gateway that has ended.
    pub(crate) fn since(&self, before: Option<&Self>, at: u32) -> Minute {
        let goes_on = |before: &Self| {
            self.uptime_s >= before.uptime_s
                && self.values.iter().zip(before.values).all(|(now, before)| *now >= before)
        };
        let none = [0; COUNTS];
        let base = match before {
            Some(before) if goes_on(before) => &before.values,
            Some(_) => &none,
            None if self.uptime_s <= JUST_STARTED_S => &none,
            None => &self.values,
        };
        let mut counts = [0; COUNTS];
        for ((count, now), base) in counts.iter_mut().zip(self.values).zip(base) {
            *count = u32::try_from(now.saturating_sub(*base)).unwrap_or(u32::MAX);
        }
        Minute { at, counts, answered: true, snoozing: self.snoozing }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(uptime_s: u64, mails: u64, direct: u64) -> Counters {
        let counters = json!({ "mails": mails, "sessions_direct": direct, "mails_infected": "x" });
        Counters::of(&json!({ "uptime_s": uptime_s, "counters": counters }))
    }

    #[test]
    fn a_minute_is_what_came_since_the_last() {
        let counted = |minute: Minute| (minute.count(Count::Mails), minute.count(Count::Direct));
        let before = at(1_000, 40, 7);
        assert_eq!(counted(at(1_060, 45, 7).since(Some(&before), 1)), (5, 0));
        // The gateway was started anew, whether or not it has already counted more.
        assert_eq!(counted(at(30, 3, 1).since(Some(&before), 1)), (3, 1));
        assert_eq!(counted(at(1_060, 3, 8).since(Some(&before), 1)), (3, 8));
        // When the page was: what came before is not of this minute.
        assert_eq!(counted(at(1_060, 45, 7).since(None, 1)), (0, 0));
        assert_eq!(counted(at(60, 5, 7).since(None, 1)), (5, 7));
        let snoozing = Counters::of(&json!({ "snooze_seconds_left": 9 }));
        assert!(snoozing.since(None, 1).snoozing);
        assert_eq!(counted(Counters::of(&json!([])).since(Some(&before), 1)), (0, 0));
    }
}
