//! How often the box started in vain: the counter in STATE, safe mode, and the slot that is bad.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::{Failure, Mode};

/// A start that lasts this long was not in vain.
pub const LONG_BOOT: Duration = Duration::from_secs(300);

/// So many starts in vain in a row, and the next one is in safe mode.
pub const SAFE_AFTER_BOOTS: u32 = 5;

/// So many, and the slot itself is bad.
pub const BAD_AFTER_BOOTS: u32 = 8;

/// Failures that are kept; the oldest goes first.
pub const FAILURES_MAX: usize = 10;

/// Longest text of a failure, in bytes: about what fits on a screen.
pub const FAILURE_BYTES_MAX: usize = 4096;

/// `/state/boots.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Boots {
    /// Starts in a row that were in vain; the present one counts until it has lasted.
    pub short: u32,
    /// The slot that ran them.
    pub entry: String,
    /// The box was told to end, and so the last start was not in vain however short.
    pub orderly: bool,
    /// What stopped the box, the latest last.
    pub failures: Vec<Failure>,
    /// Whether LAN and WAN had a carrier when a slot was last healthy.
    pub links: (bool, bool),
    /// Entries that were tried and given up, by file name without counters: not to be tried again.
    pub given_up: Vec<String>,
}

/// What a start is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How to start.
    pub mode: Mode,
    /// The slot has failed so often that the other one is to have its turn.
    pub slot_is_bad: bool,
    /// Starts in vain before this one.
    pub short: u32,
}

impl Boots {
    /// Counts a start of the slot `entry`, and says what it is to be. Written to STATE at once.
    pub fn start(&mut self, entry: &str) -> Verdict {
        let name = crate::slots::name(entry);
        if self.entry != name {
            // Another slot: what the last one did proves nothing about it.
            self.entry = name;
            self.short = 0;
        }
        let short = self.short;
        self.short = short.saturating_add(1);
        self.orderly = false;
        Verdict {
            mode: if short >= SAFE_AFTER_BOOTS { Mode::Safe } else { Mode::Normal },
            slot_is_bad: short >= BAD_AFTER_BOOTS,
            short,
        }
    }

    /// The start has lasted [`LONG_BOOT`]; whether that is news.
    pub fn lasted(&mut self) -> bool {
        std::mem::take(&mut self.short) != 0
    }

    /// The box was told to end: this start does not count. What came before it stays.
    pub fn ends_orderly(&mut self) {
        if !self.orderly {
            self.orderly = true;
            self.short = self.short.saturating_sub(1);
        }
    }

    /// Keeps a failure, within the limits.
    pub fn failed(&mut self, mut failure: Failure) {
        let excess = failure.text.len().saturating_sub(FAILURE_BYTES_MAX);
        // The last words say most.
        let from = (excess..=failure.text.len()).find(|&at| failure.text.is_char_boundary(at));
        failure.text.drain(..from.unwrap_or(0));
        self.failures.push(failure);
        let excess = self.failures.len().saturating_sub(FAILURES_MAX);
        self.failures.drain(..excess);
    }

    /// What is known of why the slot `base` failed last, on one line; empty: nothing.
    #[must_use]
    pub fn why(&self, base: &str) -> &str {
        // Entries that were kept without ending are names already.
        let is_it = |entry: &str| entry == base || crate::slots::name(entry) == base;
        let last = self.failures.iter().rfind(|failure| is_it(&failure.entry));
        // The last words say most.
        let mut lines = last.map_or("", |failure| &failure.text).lines().rev().map(str::trim);
        lines.find(|line| !line.is_empty()).unwrap_or_default()
    }

    /// The entry, without its counters, is not to be tried again.
    pub fn give_up(&mut self, base: &str) {
        if !self.given_up.iter().any(|entry| entry == base) {
            self.given_up.push(base.to_owned());
            let excess = self.given_up.len().saturating_sub(FAILURES_MAX);
            self.given_up.drain(..excess);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_in_vain_make_it_safe_and_eight_make_it_bad() {
        let mut boots = Boots::default();
        let verdicts: Vec<Verdict> = (0..9).map(|_| boots.start("avr_000001.efi")).collect();
        let modes: Vec<Mode> = verdicts.iter().map(|verdict| verdict.mode).collect();
        assert_eq!(modes[..5], [Mode::Normal; 5]);
        assert_eq!(modes[5..], [Mode::Safe; 4]);
        assert_eq!(verdicts.iter().position(|verdict| verdict.slot_is_bad), Some(8));
    }

    #[test]
    fn one_that_lasts_wipes_the_slate() {
        let mut boots = Boots { entry: "avr_000001".to_owned(), short: 6, ..Boots::default() };
        assert_eq!(boots.start("avr_000001.efi").mode, Mode::Safe);
        assert!(boots.lasted() && !boots.lasted());
        assert_eq!(boots.start("avr_000001.efi").mode, Mode::Normal);
    }

    #[test]
    fn orderly_ends_do_not_count() {
        let mut boots = Boots::default();
        for _ in 0..20 {
            assert_eq!(boots.start("avr_000001.efi").mode, Mode::Normal);
            boots.ends_orderly();
            boots.ends_orderly();
        }
        assert_eq!(boots.short, 0);
    }

    #[test]
    fn another_slot_begins_anew_and_counters_are_no_other_slot() {
        let mut boots = Boots::default();
        for _ in 0..6 {
            boots.start("avr_000002+3-0.efi");
        }
        assert_eq!(boots.start("avr_000002+0-3.efi").short, 6);
        assert_eq!(boots.start("avr_000001.efi").short, 0);
    }

    #[test]
    fn why_a_slot_failed_is_its_own_last_word() {
        let mut boots = Boots::default();
        assert_eq!(boots.why("avr_000002"), "");
        for (entry, text) in [
            ("avr_000002+2-1.efi", "gateway: it starts"),
            // As the kernel's last words are kept.
            ("avr_000002", "Oops\n---[ end Kernel panic - not syncing ]---\n\n"),
            ("avr_000001.efi", "another slot's"),
        ] {
            let (entry, text) = (entry.to_owned(), text.to_owned());
            boots.failed(Failure { at_seconds: 0, entry, text });
        }
        assert_eq!(boots.why("avr_000002"), "---[ end Kernel panic - not syncing ]---");
        assert_eq!(boots.why("avr_000001"), "another slot's");
        assert_eq!(boots.why("avr_000003"), "");
    }

    proptest! {
        #[test]
        fn what_is_kept_has_a_limit(texts in proptest::collection::vec("[aé]{0,5000}", 0..15)) {
            let mut boots = Boots::default();
            for text in texts {
                boots.failed(Failure { at_seconds: 0, entry: String::new(), text: text.clone() });
                let kept = &boots.failures.last().unwrap().text;
                prop_assert!(kept.len() <= FAILURE_BYTES_MAX && text.ends_with(kept.as_str()));
                boots.give_up(&text);
            }
            prop_assert!(boots.failures.len() <= FAILURES_MAX);
            prop_assert!(boots.given_up.len() <= FAILURES_MAX);
        }
    }
}
