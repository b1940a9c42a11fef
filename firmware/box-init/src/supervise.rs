//! Services as state machines: when each is started, told to end, killed, and let rest.
//!
//! The caller says what happened ([`Supervisor::started`], [`Supervisor::ended`], [`Supervisor::said`])
//! and asks [`Supervisor::poll`] what to do now, until it has nothing more; [`Supervisor::due`] says when
//! to ask again at the latest. Times are since the kernel's start.

use std::time::Duration;

use crate::control::{self, Gateway, ServiceState};
use crate::notify::Word;

/// First rest of a service that died.
pub const REST_MIN: Duration = Duration::from_secs(1);

/// Longest rest.
pub const REST_MAX: Duration = Duration::from_secs(60);

/// One that was ready for so long has its next death forgiven.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);

/// How long one that was told to end may take, unless it asks for more.
pub const STOP_MAX: Duration = Duration::from_secs(15);

/// Most time that a service may ask for at its end.
pub const STOP_EXTENDED_MAX: Duration = Duration::from_secs(60);

/// Longest text that a service may say of itself, in bytes.
pub const NOTE_BYTES_MAX: usize = 256;

/// How one service is looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Care {
    /// As in `gateway`.
    pub name: String,
    /// It says when it is ready, within this time; `None`: it is ready once it runs.
    pub ready_max: Option<Duration>,
    /// It says that it lives, within this time each; `None`: it does not.
    pub watchdog: Option<Duration>,
}

/// Which service, counted from 0 in the order in which they were given.
pub type Index = usize;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start it; then [`Supervisor::started`] or [`Supervisor::not_started`].
    Start(Index),
    /// Tell its process to end.
    Terminate(Index, i32),
    /// It hangs: have it end at once, leaving a trace of where it was.
    Abort(Index, i32),
    /// End everything of it.
    Kill(Index, i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    /// To be started at this time, or waited for in a start that was asked for.
    Resting {
        until: Duration,
    },
    /// [`Action::Start`] was given.
    Asked,
    Starting {
        pid: i32,
        since: Duration,
    },
    Running {
        pid: i32,
        since: Duration,
        beat: Duration,
    },
    Stopping {
        pid: i32,
        until: Duration,
        killed: bool,
    },
}

#[derive(Debug)]
struct Unit {
    care: Care,
    wanted: bool,
    state: State,
    /// The next rest.
    rest: Duration,
    starts: u32,
    note: String,
    last_end: String,
    /// [`Action::Terminate`] or [`Action::Abort`] is still to be given.
    pending: Option<Action>,
    /// It was told to end only so that it begins anew.
    again: bool,
}

/// All services.
#[derive(Debug)]
pub struct Supervisor {
    units: Vec<Unit>,
}

impl Supervisor {
    /// None of them is wanted at first.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Care>) -> Self {
        let unit = |care| Unit {
            care,
            wanted: false,
            state: State::Stopped,
            rest: REST_MIN,
            starts: 0,
            note: String::new(),
            last_end: String::new(),
            pending: None,
            again: false,
        };
        Self { units: services.into_iter().map(unit).collect() }
    }

    /// Which one has this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Index> {
        self.units.iter().position(|unit| unit.care.name == name)
    }

    /// Which one has this process.
    #[must_use]
    pub fn of(&self, pid: i32) -> Option<Index> {
        self.units.iter().position(|unit| unit.state.pid() == Some(pid))
    }

    /// Whether a service is to run.
    pub fn want(&mut self, index: Index, wanted: bool, now: Duration) {
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.wanted = wanted;
        if wanted {
            unit.again |= matches!(unit.state, State::Stopping { .. });
            if unit.state == State::Stopped {
                unit.rest = REST_MIN;
                unit.state = State::Resting { until: now };
            }
        } else {
            unit.again = false;
            unit.stop(index, now);
        }
    }

    /// Ends a service and starts it anew, whatever its rest; whether it is wanted at all.
    pub fn restart(&mut self, index: Index, now: Duration) -> bool {
        let Some(unit) = self.units.get_mut(index).filter(|unit| unit.wanted) else { return false };
        unit.rest = REST_MIN;
        unit.again = true;
        if matches!(unit.state, State::Resting { .. } | State::Stopped) {
            unit.state = State::Resting { until: now };
        } else {
            unit.stop(index, now);
        }
        true
    }

    /// No service is wanted any more.
    pub fn stop_all(&mut self, now: Duration) {
        for index in 0..self.units.len() {
            self.want(index, false, now);
        }
    }

    /// Nothing runs any more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.units.iter().all(|unit| unit.state == State::Stopped)
    }

    /// A start that was asked for has succeeded.
    pub fn started(&mut self, index: Index, pid: i32, now: Duration) {
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.starts = unit.starts.saturating_add(1);
        unit.note.clear();
        unit.state = match unit.care.ready_max {
            Some(_) => State::Starting { pid, since: now },
            None => State::Running { pid, since: now, beat: now },
        };
        if !unit.wanted {
            unit.stop(index, now);
        }
    }

    /// A start that was asked for has failed.
    pub fn not_started(&mut self, index: Index, problem: &str, now: Duration) {
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.starts = unit.starts.saturating_add(1);
        problem.clone_into(&mut unit.last_end);
        unit.rest_until(now);
    }

    /// A process has ended; which service it was, if any.
    pub fn ended(&mut self, pid: i32, how: &str, now: Duration) -> Option<Index> {
        let index = self.of(pid)?;
        let unit = self.units.get_mut(index)?;
        how.clone_into(&mut unit.last_end);
        unit.pending = None;
        let was = unit.state;
        if let State::Running { since, .. } = was
            && now.saturating_sub(since) >= STABLE_AFTER
        {
            unit.rest = REST_MIN;
        }
        if std::mem::take(&mut unit.again) && unit.wanted {
            unit.state = State::Resting { until: now };
        } else {
            unit.rest_until(now);
        }
        Some(index)
    }

    /// What a process said of itself. Words of processes that are no service's are not heard.
    pub fn said(&mut self, pid: i32, words: &[Word], now: Duration) -> Option<Index> {
        let index = self.of(pid)?;
        let unit = self.units.get_mut(index)?;
        for word in words {
            match (word, unit.state) {
                (Word::Ready, State::Starting { pid, .. }) => {
                    unit.state = State::Running { pid, since: now, beat: now };
                }
                (Word::Watchdog, State::Running { pid, since, .. }) => {
                    unit.state = State::Running { pid, since, beat: now };
                }
                (Word::ExtendTimeout(more), State::Stopping { pid, until, killed: false }) => {
                    let until = until.max(now + (*more).min(STOP_EXTENDED_MAX));
                    unit.state = State::Stopping { pid, until, killed: false };
                }
                (Word::Status(text), _) => {
                    let end = text.floor_char_boundary(NOTE_BYTES_MAX);
                    text.get(..end).unwrap_or("").clone_into(&mut unit.note);
                }
                _ => {}
            }
        }
        Some(index)
    }

    /// What is to be done now, one thing a call.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        self.units.iter_mut().enumerate().find_map(|(index, unit)| unit.poll(index, now))
    }

    /// When to call [`Supervisor::poll`] again at the latest.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.units.iter().filter_map(Unit::due).min()
    }

    /// All of them, for people.
    pub fn report(&self, now: Duration) -> impl Iterator<Item = control::Service> {
        self.units.iter().map(move |unit| control::Service {
            name: unit.care.name.clone(),
            state: unit.report(now),
            note: unit.note.clone(),
            starts: unit.starts,
            last_end: unit.last_end.clone(),
        })
    }

    /// A service as mail sees it; `Off` where it is not wanted.
    #[must_use]
    pub fn gateway(&self, index: Index, now: Duration) -> Gateway {
        match self.units.get(index).map(|unit| (unit.wanted, unit.report(now))) {
            Some((true, ServiceState::Running { .. })) => Gateway::Intercepting,
            Some((true, ServiceState::BackedOff { seconds })) => Gateway::BackedOff { seconds },
            Some((true, _)) => Gateway::Starting,
            _ => Gateway::Off,
        }
    }

    /// Nothing hangs: each service that has a watchdog has fed it, or is dealt with in time. Where this
    /// is false the kernel does not even carry out a kill, and only a start anew helps.
    #[must_use]
    pub fn is_alive(&self, now: Duration) -> bool {
        self.units.iter().all(|unit| match (unit.state, unit.care.watchdog) {
            (State::Stopping { until, .. }, Some(_)) => now <= until + STOP_MAX,
            (State::Running { beat, .. }, Some(watchdog)) => now <= beat + watchdog + STOP_MAX,
            _ => true,
        })
    }
}

impl Unit {
    fn stop(&mut self, index: Index, now: Duration) {
        match self.state {
            State::Starting { pid, .. } | State::Running { pid, .. } => {
                self.state = State::Stopping { pid, until: now + STOP_MAX, killed: false };
                self.pending = Some(Action::Terminate(index, pid));
            }
            State::Resting { .. } => self.state = State::Stopped,
            // One that was asked for is stopped when it is there.
            State::Stopped | State::Asked | State::Stopping { .. } => {}
        }
    }

    fn rest_until(&mut self, now: Duration) {
        if self.wanted {
            self.state = State::Resting { until: now + self.rest };
            self.rest = (self.rest * 2).min(REST_MAX);
        } else {
            self.state = State::Stopped;
        }
    }

    fn poll(&mut self, index: Index, now: Duration) -> Option<Action> {
        if let Some(action) = self.pending.take() {
            return Some(action);
        }
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        match self.state {
            State::Resting { .. } => {
                self.state = State::Asked;
                Some(Action::Start(index))
            }
            State::Starting { pid, .. } | State::Running { pid, .. } => {
                self.state = State::Stopping { pid, until: now + STOP_MAX, killed: false };
                Some(Action::Abort(index, pid))
            }
            State::Stopping { pid, killed: false, .. } => {
                self.state = State::Stopping { pid, until: now, killed: true };
                Some(Action::Kill(index, pid))
            }
            State::Stopping { .. } | State::Stopped | State::Asked => None,
        }
    }

    fn due(&self) -> Option<Duration> {
        if self.pending.is_some() {
            return Some(Duration::ZERO);
        }
        match self.state {
            State::Resting { until } | State::Stopping { until, killed: false, .. } => Some(until),
            State::Starting { since, .. } => self.care.ready_max.map(|max| since + max),
            State::Running { beat, .. } => self.care.watchdog.map(|max| beat + max),
            State::Stopping { .. } | State::Stopped | State::Asked => None,
        }
    }

    fn report(&self, now: Duration) -> ServiceState {
        match self.state {
            State::Stopped => ServiceState::Stopped,
            State::Asked => ServiceState::BackedOff { seconds: 0 },
            State::Resting { until } => {
                let left = until.saturating_sub(now).as_millis().div_ceil(1000);
                ServiceState::BackedOff { seconds: u32::try_from(left).unwrap_or(u32::MAX) }
            }
            State::Starting { pid, .. } => ServiceState::Starting { pid },
            State::Running { pid, since, .. } => {
                ServiceState::Running { pid, seconds: now.saturating_sub(since).as_secs() }
            }
            State::Stopping { pid, .. } => ServiceState::Stopping { pid },
        }
    }
}

impl State {
    fn pid(self) -> Option<i32> {
        match self {
            Self::Starting { pid, .. } | Self::Running { pid, .. } | Self::Stopping { pid, .. } => {
                Some(pid)
            }
            Self::Stopped | Self::Resting { .. } | Self::Asked => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn gateway() -> Supervisor {
        let mut all = Supervisor::new([Care {
            name: "gateway".to_owned(),
            ready_max: Some(30 * S),
            watchdog: Some(10 * S),
        }]);
        all.want(0, true, Duration::ZERO);
        assert_eq!(all.poll(Duration::ZERO), Some(Action::Start(0)));
        assert_eq!(all.poll(Duration::ZERO), None);
        all
    }

    fn state(all: &Supervisor, now: Duration) -> ServiceState {
        all.report(now).next().unwrap().state
    }

    #[test]
    fn it_is_ready_when_it_says_so() {
        let mut all = gateway();
        all.started(0, 7, S);
        assert_eq!(state(&all, 2 * S), ServiceState::Starting { pid: 7 });
        assert_eq!(all.said(8, &[Word::Ready], 2 * S), None);
        all.said(7, &[Word::Ready, Word::Status("é".repeat(400))], 3 * S);
        assert_eq!(state(&all, 5 * S), ServiceState::Running { pid: 7, seconds: 2 });
        assert_eq!(all.report(S).next().unwrap().note.len(), NOTE_BYTES_MAX);
        assert_eq!(all.due(), Some(13 * S));
        assert_eq!(all.gateway(0, 5 * S), Gateway::Intercepting);
    }

    #[test]
    fn one_that_is_never_ready_is_ended() {
        let mut all = gateway();
        all.started(0, 7, S);
        assert_eq!(all.poll(30 * S), None);
        assert_eq!(all.poll(31 * S), Some(Action::Abort(0, 7)));
        assert_eq!(all.poll(31 * S), None);
        assert_eq!(all.poll(31 * S + STOP_MAX), Some(Action::Kill(0, 7)));
        assert_eq!(all.poll(1000 * S), None);
    }

    #[test]
    fn one_that_hangs_is_ended_and_starves_the_watchdog_only_if_it_stays() {
        let mut all = gateway();
        all.started(0, 7, S);
        all.said(7, &[Word::Ready], 2 * S);
        all.said(7, &[Word::Watchdog], 9 * S);
        assert_eq!(all.poll(18 * S), None);
        assert_eq!(all.poll(19 * S), Some(Action::Abort(0, 7)));
        assert!(all.is_alive(30 * S));
        assert_eq!(all.poll(34 * S), Some(Action::Kill(0, 7)));
        assert!(all.is_alive(35 * S) && !all.is_alive(50 * S));
        assert_eq!(all.ended(7, "signal 9", 51 * S), Some(0));
        assert!(all.is_alive(51 * S));
    }

    #[test]
    fn rests_double_up_to_a_minute_and_are_forgiven() {
        let mut all = gateway();
        let mut now = S;
        let mut rests = Vec::new();
        for pid in 1..9 {
            all.started(0, pid, now);
            all.ended(pid, "exit code 1", now);
            rests.push((all.due().unwrap() - now).as_secs());
            now = all.due().unwrap();
            assert_eq!(all.poll(now), Some(Action::Start(0)));
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
        all.started(0, 9, now);
        all.said(9, &[Word::Ready], now);
        now += STABLE_AFTER;
        all.ended(9, "exit code 1", now);
        assert_eq!(all.due(), Some(now + S));
        assert_eq!(all.gateway(0, now), Gateway::BackedOff { seconds: 1 });
    }

    #[test]
    fn what_cannot_be_started_rests_too() {
        let mut all = gateway();
        all.not_started(0, "no such file", S);
        assert_eq!(state(&all, S), ServiceState::BackedOff { seconds: 1 });
        assert_eq!(all.report(S).next().unwrap().last_end, "no such file");
    }

    #[test]
    fn a_restart_does_not_wait() {
        let mut all = gateway();
        all.started(0, 7, S);
        assert!(all.restart(0, 2 * S));
        assert_eq!(all.poll(2 * S), Some(Action::Terminate(0, 7)));
        all.ended(7, "exit code 0", 3 * S);
        assert_eq!(all.poll(3 * S), Some(Action::Start(0)));
        all.not_started(0, "x", 3 * S);
        assert!(all.restart(0, 3 * S));
        assert_eq!(all.poll(3 * S), Some(Action::Start(0)));
        all.want(0, false, 3 * S);
        assert!(!all.restart(0, 3 * S));
    }

    #[test]
    fn one_that_is_not_wanted_may_ask_for_time() {
        let mut all = gateway();
        all.started(0, 7, S);
        all.stop_all(2 * S);
        assert_eq!(all.poll(2 * S), Some(Action::Terminate(0, 7)));
        all.said(7, &[Word::ExtendTimeout(1000 * S)], 3 * S);
        assert_eq!(all.poll(3 * S + STOP_EXTENDED_MAX - S), None);
        assert_eq!(all.poll(3 * S + STOP_EXTENDED_MAX), Some(Action::Kill(0, 7)));
        assert!(!all.is_idle());
        all.ended(7, "signal 9", 70 * S);
        assert!(all.is_idle());
        assert_eq!((all.poll(1000 * S), all.due()), (None, None));
    }

    #[test]
    fn a_start_that_comes_too_late_is_ended() {
        let mut all = gateway();
        all.want(0, false, S);
        all.started(0, 7, S);
        assert_eq!(all.poll(S), Some(Action::Terminate(0, 7)));
        all.want(0, true, S);
        all.ended(7, "exit code 0", 2 * S);
        assert_eq!(all.poll(2 * S), Some(Action::Start(0)));
    }

    proptest! {
        /// Whatever happens: no two processes of one service, none forgotten, and time that is asked
        /// for is never in vain.
        #[test]
        fn there_is_one_process_at_most(steps in proptest::collection::vec((0_u8..8, 0_u64..40), 0..200)) {
            let mut all = gateway();
            let (mut now, mut process, mut asked, mut next) = (Duration::ZERO, None, true, 100);
            for (what, seconds) in steps {
                now += Duration::from_secs(seconds);
                match what {
                    0 => all.want(0, true, now),
                    1 => all.want(0, false, now),
                    2 => { all.restart(0, now); }
                    3 if asked => {
                        asked = false;
                        all.not_started(0, "x", now);
                    }
                    4 if asked => {
                        asked = false;
                        next += 1;
                        process = Some(next);
                        all.started(0, next, now);
                    }
                    5 => if let Some(pid) = process.take() {
                        prop_assert_eq!(all.ended(pid, "x", now), Some(0));
                    },
                    6 => if let Some(pid) = process {
                        all.said(pid, &[Word::Ready], now);
                    },
                    _ => if let Some(pid) = process {
                        all.said(pid, &[Word::Watchdog], now);
                    },
                }
                for _ in 0..3 {
                    match all.poll(now) {
                        Some(Action::Start(_)) => {
                            prop_assert!(process.is_none() && !asked);
                            asked = true;
                        }
                        Some(Action::Terminate(_, pid) | Action::Abort(_, pid) | Action::Kill(_, pid)) => {
                            prop_assert_eq!(process, Some(pid));
                        }
                        None => break,
                    }
                }
                prop_assert_eq!(all.poll(now), None);
                prop_assert!(all.due().is_none_or(|due| due > now));
                prop_assert_eq!(all.of(process.unwrap_or(-1)), process.map(|_| 0));
            }
        }
    }
}
