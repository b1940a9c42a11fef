//! What a program tells whoever started it (sd_notify(3)): that it is ready, and that it lives.
//!
//! Purpose: systemd on a server and PID 1 of the box start a program anew when it is silent. So that
//! silence means a hang, "I live" may be said only when the program's essential loop has answered a
//! question a moment ago ([`keep_alive`]); a task that says so by itself would prove nothing. Where
//! nobody asks (`NOTIFY_SOCKET` is not set) nothing is sent. Must not depend on any other crate of the
//! workspace. Entry: [`keep_alive`], [`tell`].
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, error};

pub use sd_notify::NotifyState;

/// How often the status is told when no watchdog asks for more.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Chances to answer within the watchdog's time: one lost to a busy host is none too many.
const WATCHDOG_CHANCES: u32 = 3;

/// Whether anybody wants to be told.
#[must_use]
pub fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// After how long a silence the program is started anew; `None`: nobody watches.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Where nobody listens nothing is said; where it fails, whoever listens will notice the silence.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "cannot tell who started this program");
    }
}

/// Says "I live" and the status each time that `beat` returns, which is when the loop called `name` has
/// answered; within the time of `watchdog` often enough. Does not return.
pub async fn keep_alive<B: Future<Output = ()>>(
    name: &str,
    watchdog: Option<Duration>,
    beat: impl Fn() -> B,
    status: impl Fn() -> String,
    tell: &mut impl FnMut(&[NotifyState<'_>]),
) {
    let interval = watchdog.map_or(STATUS_INTERVAL, |time| time / WATCHDOG_CHANCES);
    loop {
        if timeout(interval, beat()).await.is_ok() {
            tell(&[NotifyState::Watchdog, NotifyState::Status(&status())]);
            tokio::time::sleep(interval).await;
        } else {
            error!(
                seconds = interval.as_secs_f32(),
                "{name} does not answer; if this lasts, the watchdog will start the program anew"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_lives_as_long_as_the_loop_answers() {
        let (answers, told) = (Cell::new(true), Cell::new(0));
        let beat = || {
            let answers = answers.get();
            async move {
                if !answers {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut tell = |states: &[NotifyState<'_>]| {
            let words: Vec<String> = states.iter().map(ToString::to_string).collect();
            assert_eq!(words, ["WATCHDOG=1", "STATUS=well"]);
            told.set(told.get() + 1);
        };
        let watchdog = Duration::from_secs(30);
        let alive = keep_alive("the loop", Some(watchdog), beat, || "well".to_owned(), &mut tell);
        let story = async {
            tokio::time::sleep(2 * watchdog).await;
            assert!((5..=7).contains(&told.get()), "{}", told.get());
            answers.set(false);
            // One answer may be under way.
            tokio::time::sleep(watchdog).await;
            let last = told.get();
            tokio::time::sleep(4 * watchdog).await;
            assert_eq!(told.get(), last);
        };
        tokio::select! {
            () = alive => panic!("it does not return"),
            () = story => {}
        }
    }
}
