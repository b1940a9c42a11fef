//! Times as people read them.

/// Seconds since 1970 as `12:20 UTC`.
#[must_use]
pub(crate) fn clock_time(unix_s: u64) -> String {
    let second = unix_s % 86_400;
    format!("{:02}:{:02} UTC", second / 3_600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day() {
        assert_eq!(clock_time(0), "00:00 UTC");
        assert_eq!(clock_time(1_795_407_060), "04:11 UTC");
        assert_eq!(clock_time(86_399), "23:59 UTC");
    }
}
