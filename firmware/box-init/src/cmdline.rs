//! The kernel's command line, as far as it concerns PID 1.

use std::time::Duration;

use crate::health::{BootTrial, TRIAL_MAX};

/// What `/proc/cmdline` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `avr.safe=1`: bridge, console and page only.
    pub safe: bool,
    /// `avr.recovery=1`: this is the recovery image.
    pub recovery: bool,
    /// `avr.trial_max=SECONDS`: how long a slot on trial may take to become well, where that is less than
    /// [`TRIAL_MAX`]. It makes a slot fail sooner, never pass sooner: for systems that are made to fail.
    pub trial_max: Option<Duration>,
    /// Terminals of `console=`, without their settings, in order; the last is `/dev/console`.
    pub consoles: Vec<String>,
}

impl CommandLine {
    /// Reads it; words that are not known are others'.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut line = Self::default();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("avr.safe", value)) => line.safe = value == "1",
                Some(("avr.recovery", value)) => line.recovery = value == "1",
                Some(("avr.trial_max", value)) => {
                    line.trial_max = value.parse().ok().map(Duration::from_secs);
                }
                Some(("console", value)) => {
                    let tty = value.split(',').next().unwrap_or(value).to_owned();
                    if !tty.is_empty() && !line.consoles.contains(&tty) {
                        line.consoles.push(tty);
                    }
                }
                _ => {}
            }
        }
        line
    }

    /// The trial of the entry that the loader has started, and has counted or not.
    #[must_use]
    pub fn trial(&self, entry: Option<&str>, counted: bool) -> BootTrial {
        BootTrial::new(entry, counted, self.trial_max.unwrap_or(TRIAL_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_pid_1_are_found() {
        let line = CommandLine::parse(
            "panic=10 console=tty0 avr.safe=1 console=ttyS0,115200n8 console=tty0 quiet\n",
        );
        assert_eq!(line.consoles, ["tty0", "ttyS0"]);
        assert!(line.safe && !line.recovery);
        assert_eq!(CommandLine::parse("avr.recovery=0 avr.safe"), CommandLine::default());
        let line = CommandLine::parse("avr.trial_max=60 avr.trial_max_=7");
        assert_eq!(line.trial_max, Some(Duration::from_secs(60)));
        assert_eq!(CommandLine::parse("avr.trial_max=soon").trial_max, None);
    }
}
