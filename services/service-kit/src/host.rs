//! What a server wants of its host: the wall clock, the load average, and enough file descriptors.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Where Linux shows the load averages (proc_loadavg(5)).
pub const LOADAVG_PATH: &str = "/proc/loadavg";

/// A wall clock, in seconds since 1970. Handed to whatever checks tickets, so that tests set it.
pub type WallClock = fn() -> u64;

/// The host's wall clock, in seconds since 1970; 0 on a host whose clock stands before that.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place where servers read the wall clock")]
pub fn unix_now_s() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Why the load average is not known.
#[derive(Debug, thiserror::Error)]
pub enum LoadAverageError {
    /// The file cannot be read: no Linux, or /proc is not mounted.
    #[error("cannot read the load average")]
    Read(#[source] std::io::Error),
    /// The file holds something else.
    #[error("the load average has an unknown form")]
    Form,
}

/// The one-minute load average in thousandths, from a file in the form of [`LOADAVG_PATH`].
///
/// # Errors
/// The file cannot be read, or has another form.
pub fn load_average_milli(path: &Path) -> Result<u32, LoadAverageError> {
    let text = std::fs::read_to_string(path).map_err(LoadAverageError::Read)?;
    parse_load_average(&text).ok_or(LoadAverageError::Form)
}

/// Takes `0.20 0.18 0.12 1/80 11206` for 200.
fn parse_load_average(text: &str) -> Option<u32> {
    let first = text.split_ascii_whitespace().next()?;
    milli(first)
}

/// A decimal number such as `8`, `8.5` or `0.125` in thousandths; digits beyond those are cut off.
#[must_use]
pub fn milli(number: &str) -> Option<u32> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    let whole: u32 = whole.parse().ok()?;
    whole.checked_mul(1000)?.checked_add(thousandths.parse().ok()?)
}

/// Raises the soft limit of file descriptors to the hard one and returns it. The usual soft limit
/// of 1024 is there for programs with `select`; a proxy has two connections a session.
///
/// # Errors
/// The operating system refuses, which leaves the limit as it was.
pub fn raise_file_limit() -> std::io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_limit_is_raised_to_the_hard_one() {
        let limit = raise_file_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }

    #[test]
    fn load_averages_are_read_in_thousandths() {
        assert_eq!(parse_load_average("0.20 0.18 0.12 1/80 11206\n"), Some(200));
        assert_eq!(parse_load_average("12.34 1 1 1/1 1"), Some(12_340));
        assert_eq!(milli("8"), Some(8_000));
        assert_eq!(milli("0.1259"), Some(125));
        for nonsense in ["", "x", "1.x", "-1.0", "1.", ".5", "+1", "99999999.0"] {
            assert_eq!(milli(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn this_host_has_one() {
        load_average_milli(Path::new(LOADAVG_PATH)).unwrap();
        let error = load_average_milli(Path::new("/nonexistent")).unwrap_err();
        assert!(matches!(error, LoadAverageError::Read(_)));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(load_average_milli(file.path()), Err(LoadAverageError::Form)));
    }

    #[test]
    fn the_wall_clock_is_past_2026() {
        assert!(unix_now_s() > 1_767_225_600);
    }
}
