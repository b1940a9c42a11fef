//! Times as people type and read them on the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A time as in `90s`, `30m`, `2h` or `7d`. Displays in the largest of these units that it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Not a time as [`Span`] is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no time; write one as in 90s, 30m, 2h or 7d")]
pub struct ParseSpanError;

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let unit = |letter, seconds| text.strip_suffix(letter).map(|number| (number, seconds));
        let (number, seconds) = unit('s', 1)
            .or_else(|| unit('m', MINUTE))
            .or_else(|| unit('h', HOUR))
            .or_else(|| unit('d', DAY))
            .ok_or(ParseSpanError)?;
        // `parse` would take a sign as well.
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseSpanError);
        }
        let number: u64 = number.parse().map_err(|_| ParseSpanError)?;
        let seconds = number.checked_mul(seconds).ok_or(ParseSpanError)?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (unit, letter) = match seconds {
            DAY.. => (DAY, 'd'),
            HOUR.. => (HOUR, 'h'),
            MINUTE.. => (MINUTE, 'm'),
            _ => (1, 's'),
        };
        f.pad(&format!("{}{letter}", seconds / unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_in_one_unit() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("7d", 604_800), ("0s", 0)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))), "{text}");
        }
        for (seconds, text) in [(0, "0s"), (59, "59s"), (90, "1m"), (7_199, "1h"), (700_000, "8d")]
        {
            assert_eq!(Span(Duration::from_secs(seconds)).to_string(), text);
        }
        for bad in [
            "",
            "s",
            "30",
            "m30",
            "-1h",
            "+1h",
            "1.5h",
            "1w",
            "30 m",
            "99999999999999999999d",
            "213503982334602d",
        ] {
            assert_eq!(bad.parse::<Span>(), Err(ParseSpanError), "{bad}");
        }
    }
}
