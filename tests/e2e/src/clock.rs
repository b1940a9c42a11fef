//! The one place of this crate that reads the clock, and the only way it waits: on a state.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often [`wait_for`] looks.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// The time now.
#[must_use]
pub fn now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "the lab is a driver: it measures real time")]
    Instant::now()
}

/// Calls `probe` until it gives a value, and returns that.
///
/// # Errors
/// When `limit` has passed; the error names `what` was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let start = now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::park_timeout(PROBE_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_first_value_found() {
        let mut looks = 0;
        let found = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn says_what_it_waited_for() {
        let error = wait_for("the moon", Duration::ZERO, || None::<()>).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }
}
