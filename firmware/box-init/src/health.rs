//! Whether the box is well: checks that depend on each other, and what a slot on trial makes of them.

use std::time::Duration;

use crate::control::{Check, Outcome, TRIAL_SECONDS, Trial};

/// A slot on trial that has not been well for [`TRIAL_SECONDS`] by then is given up: the box starts
/// anew, which costs it one of its starts.
pub const TRIAL_MAX: Duration = Duration::from_secs(900);

/// One check before its dependencies are looked at.
#[derive(Debug)]
pub struct Probe {
    /// As in `bridge`.
    pub name: &'static str,
    /// Checks that it needs; they come before it.
    pub needs: &'static [&'static str],
    /// Detail where it passes; what was found, and what to do, where it fails.
    pub result: Result<String, String>,
    /// A slot on trial needs it.
    pub vital: bool,
}

/// What the checks come to: of a check whose need has failed nothing is said but that.
#[must_use]
pub fn judge(probes: &[Probe]) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::with_capacity(probes.len());
    for probe in probes {
        let missing = probe.needs.iter().find(|need| {
            !checks
                .iter()
                .any(|check| check.name == **need && matches!(check.outcome, Outcome::Pass { .. }))
        });
        let outcome = match (missing, &probe.result) {
            (Some(need), _) => Outcome::Skipped { because: (*need).to_owned() },
            (None, Ok(detail)) => Outcome::Pass { detail: detail.clone() },
            (None, Err(detail)) => Outcome::Fail { detail: detail.clone() },
        };
        checks.push(Check { name: probe.name.to_owned(), outcome });
    }
    checks
}

/// The first vital check that does not pass, as `name: detail`.
#[must_use]
pub fn ailment(probes: &[Probe]) -> Option<String> {
    judge(probes).into_iter().zip(probes).find_map(|(check, probe)| match check.outcome {
        Outcome::Fail { detail } if probe.vital => Some(format!("{}: {detail}", check.name)),
        Outcome::Skipped { because } if probe.vital => {
            Some(format!("{}: needs {because}", check.name))
        }
        _ => None,
    })
}

/// What a trial comes to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Take the counters off the slot's name, then [`BootTrial::blessed`] or
    /// [`BootTrial::not_blessed`].
    Bless,
    /// It has not become well: start anew.
    GiveUp,
}

/// The trial of the running slot.
#[derive(Debug)]
pub struct BootTrial {
    state: State,
    max: Duration,
}

#[derive(Debug)]
enum State {
    /// Nothing counts starts.
    None,
    NotCounted,
    Blessed,
    OnTrial {
        starts_left: u32,
        well_since: Option<Duration>,
        ailment: Option<String>,
    },
    NotWritten {
        problem: String,
        again: Duration,
    },
}

/// Until the next attempt to write the blessing down.
const BLESS_AGAIN: Duration = Duration::from_secs(60);

impl BootTrial {
    /// From what the loader says: the entry that it started, and whether it counted the start. A slot that
    /// is not well is given up `max` after the start, [`TRIAL_MAX`] at the latest.
    #[must_use]
    pub fn new(entry: Option<&str>, counted: bool, max: Duration) -> Self {
        let left = entry.and_then(crate::slots::starts_left);
        let state = match (entry, left, counted) {
            (None, ..) => State::None,
            // What the loader says is from before or after it counted, by its version; as it says.
            (_, Some(starts_left), true) => State::OnTrial {
                starts_left,
                well_since: None,
                ailment: Some("it has just started".to_owned()),
            },
            (_, Some(_), false) => State::NotCounted,
            (_, None, _) => State::Blessed,
        };
        Self { state, max: max.min(TRIAL_MAX) }
    }

    /// The box is well, or not, and why not.
    pub fn poll(&mut self, ailing: Option<String>, uptime: Duration) -> Step {
        match &mut self.state {
            State::OnTrial { well_since, ailment, .. } => {
                let well = ailing.is_none();
                *ailment = ailing;
                if !well {
                    *well_since = None;
                }
                let since = *well_since.get_or_insert(uptime);
                let lasted = uptime.saturating_sub(since);
                if well && lasted >= Duration::from_secs(u64::from(TRIAL_SECONDS)) {
                    return Step::Bless;
                }
                if !well {
                    *well_since = None;
                    if uptime >= self.max {
                        return Step::GiveUp;
                    }
                }
                Step::Wait
            }
            State::NotWritten { again, .. } if *again <= uptime => Step::Bless,
            _ => Step::Wait,
        }
    }

    /// It is written down.
    pub fn blessed(&mut self) {
        self.state = State::Blessed;
    }

    /// It could not be written down; another attempt follows.
    pub fn not_blessed(&mut self, problem: String, uptime: Duration) {
        self.state = State::NotWritten { problem, again: uptime + BLESS_AGAIN };
    }

    /// Whether this start is one of a trial, so that the system before it may come back.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        !matches!(self.state, State::None | State::Blessed)
    }

    /// For people.
    #[must_use]
    pub fn report(&self, uptime: Duration) -> Trial {
        match &self.state {
            State::None => Trial::None,
            State::NotCounted => Trial::NotCounted,
            State::Blessed => Trial::Blessed,
            State::NotWritten { problem, .. } => Trial::NotWritten { problem: problem.clone() },
            State::OnTrial { starts_left, well_since, ailment } => {
                let seconds = well_since.map_or(0, |since| uptime.saturating_sub(since).as_secs());
                Trial::OnTrial {
                    starts_left: *starts_left,
                    healthy_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
                    unhealthy: ailment.clone(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn probe(name: &'static str, needs: &'static [&'static str], good: bool) -> Probe {
        let result = if good { Ok(String::new()) } else { Err("broken".to_owned()) };
        Probe { name, needs, result, vital: true }
    }

    #[test]
    fn one_fault_is_one_failure() {
        let probes = [
            probe("lan", &[], false),
            probe("bridge", &["lan"], false),
            probe("gateway", &["bridge"], true),
            probe("clock", &[], true),
        ];
        let outcomes: Vec<Outcome> =
            judge(&probes).into_iter().map(|check| check.outcome).collect();
        assert_eq!(
            outcomes,
            [
                Outcome::Fail { detail: "broken".to_owned() },
                Outcome::Skipped { because: "lan".to_owned() },
                Outcome::Skipped { because: "bridge".to_owned() },
                Outcome::Pass { detail: String::new() },
            ]
        );
        assert_eq!(ailment(&probes).as_deref(), Some("lan: broken"));
    }

    #[test]
    fn what_is_not_vital_does_not_ail() {
        let probes = [Probe { vital: false, ..probe("wan", &[], false) }];
        assert_eq!(ailment(&probes), None);
    }

    #[test]
    fn two_minutes_without_a_break_bless() {
        let mut trial = BootTrial::new(Some("avr_000002+2-1.efi"), true, TRIAL_MAX);
        assert_eq!(trial.poll(None, 10 * S), Step::Wait);
        assert_eq!(trial.poll(None, 129 * S), Step::Wait);
        assert_eq!(trial.poll(Some("gateway: died".to_owned()), 129 * S), Step::Wait);
        assert_eq!(trial.poll(None, 131 * S), Step::Wait);
        assert_eq!(trial.poll(None, 250 * S), Step::Wait);
        assert_eq!(trial.poll(None, 251 * S), Step::Bless);
        trial.not_blessed("read-only".to_owned(), 251 * S);
        assert_eq!(trial.poll(None, 300 * S), Step::Wait);
        assert_eq!(trial.poll(None, 311 * S), Step::Bless);
        trial.blessed();
        assert_eq!(trial.poll(Some("x".to_owned()), 10_000 * S), Step::Wait);
        assert_eq!(trial.report(S), Trial::Blessed);
    }

    #[test]
    fn one_that_never_is_well_is_given_up() {
        let mut trial = BootTrial::new(Some("avr_000002+2-1.efi"), true, TRIAL_MAX);
        assert_eq!(trial.poll(Some("x".to_owned()), TRIAL_MAX - S), Step::Wait);
        assert_eq!(trial.poll(Some("x".to_owned()), TRIAL_MAX), Step::GiveUp);
    }

    #[test]
    fn a_trial_may_be_shorter_and_never_longer() {
        let ailing = || Some("x".to_owned());
        let mut trial = BootTrial::new(Some("avr_000002+2-1.efi"), true, 60 * S);
        assert_eq!(trial.poll(ailing(), 59 * S), Step::Wait);
        assert_eq!(trial.poll(ailing(), 60 * S), Step::GiveUp);
        let mut trial = BootTrial::new(Some("avr_000002+2-1.efi"), true, 2 * TRIAL_MAX);
        assert_eq!(trial.poll(ailing(), TRIAL_MAX), Step::GiveUp);
    }

    #[test]
    fn without_a_count_there_is_no_trial() {
        assert_eq!(BootTrial::new(None, false, TRIAL_MAX).report(S), Trial::None);
        assert_eq!(
            BootTrial::new(Some("avr_000002.efi"), false, TRIAL_MAX).report(S),
            Trial::Blessed
        );
        let mut trial = BootTrial::new(Some("avr_000002+3-0.efi"), false, TRIAL_MAX);
        assert_eq!(trial.report(S), Trial::NotCounted);
        let blessed = BootTrial::new(Some("avr_000002.efi"), false, TRIAL_MAX);
        assert!(trial.is_trial() && !blessed.is_trial());
        assert_eq!(trial.poll(Some("x".to_owned()), 10_000 * S), Step::Wait);
    }

    proptest! {
        #[test]
        fn nothing_is_blessed_before_its_time(steps in proptest::collection::vec((any::<bool>(), 0_u64..90), 0..40)) {
            let mut trial = BootTrial::new(Some("avr_000002+3-0.efi"), true, TRIAL_MAX);
            let (mut now, mut since) = (Duration::ZERO, None);
            for (well, seconds) in steps {
                now += Duration::from_secs(seconds);
                since = if well { since.or(Some(now)) } else { None };
                let step = trial.poll((!well).then(|| "x".to_owned()), now);
                let lasted = since.is_some_and(|since| now - since >= 120 * S);
                prop_assert_eq!(step == Step::Bless, lasted);
                prop_assert_eq!(step == Step::GiveUp, !well && now >= TRIAL_MAX);
            }
        }
    }
}
