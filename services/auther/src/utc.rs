//! Times as operators read and write them. No clock: the time now is an argument.

use std::fmt;

const DAY_S: u64 = 86_400;

/// Seconds since 1970 as `2026-11-23 04:30`.
pub(crate) struct Utc(pub(crate) u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The civil calendar from a count of days, in eras of 400 years that begin on 1 March
        // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
        let days = self.0 / DAY_S + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let minutes = self.0 % DAY_S / 60;
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// A point in time from an operator: `2026-11-23` (UTC), or `7d` and `12h` before `now_s`. In seconds
/// since 1970.
pub(crate) fn parse_since(text: &str, now_s: u64) -> Result<u64, String> {
    let wrong =
        || format!("\"{}\" is no time; write 2026-11-23, 7d or 12h", crate::device::show(text));
    let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
    if let Some(days) = text.strip_suffix('d') {
        return number(days).map(|days| now_s.saturating_sub(days * DAY_S)).ok_or_else(wrong);
    }
    if let Some(hours) = text.strip_suffix('h') {
        return number(hours).map(|hours| now_s.saturating_sub(hours * 3600)).ok_or_else(wrong);
    }
    let mut parts = text.split('-').map(number);
    let date = (parts.next(), parts.next(), parts.next(), parts.next());
    match date {
        (Some(Some(year)), Some(Some(month)), Some(Some(day)), None) => {
            start_of_day_s(year, month, day).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// The inverse of [`Utc`] (Hinnant, days_from_civil). `None` for a day that no calendar has.
fn start_of_day_s(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let from_march = if month > 2 { year } else { year - 1 };
    let era = from_march / 400;
    let year_of_era = from_march % 400;
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let seconds = (era * 146_097 + day_of_era - 719_468) * DAY_S;
    // 31 June would be 1 July.
    let shown = format!("{year:04}-{month:02}-{day:02} ");
    Utc(seconds).to_string().starts_with(&shown).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_shown_as_dates() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (951_868_800, "2000-03-01 00:00"),
            (1_795_407_060, "2026-11-23 04:11"),
            (4_107_542_399, "2100-02-28 23:59"),
            (4_107_542_400, "2100-03-01 00:00"),
        ] {
            assert_eq!(Utc(seconds).to_string(), shown);
        }
    }

    #[test]
    fn times_are_read_as_dates_and_as_spans() {
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2100-03-01", 4_107_542_400),
            ("2d", 1_000_000 - 2 * DAY_S),
            ("3h", 1_000_000 - 3 * 3600),
            ("4000000000d", 0),
        ] {
            assert_eq!(parse_since(text, 1_000_000), Ok(seconds), "{text}");
        }
        for bad in ["", "d", "2026", "2026-13-01", "2026-06-31", "2100-02-29", "1-2-3-4", "-1d"] {
            assert!(parse_since(bad, 0).unwrap_err().contains("write 2026-11-23"), "{bad}");
        }
    }
}
