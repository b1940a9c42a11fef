//! The self test: PID 1's checks, and behind them those that ask others. A check whose need has failed is
//! not tried, and names the one that failed, so that one fault is one FAIL line.

use box_init::control::{Check, Outcome};

/// PID 1's own check, where it does not answer.
const INIT: &str = "init";

/// A check that the console makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The router answers ICMP.
    Router,
    /// A DNS server answers.
    Dns,
    /// A manager is up.
    Managers,
    /// A proxy is there.
    Proxy,
    /// The mail server's port opens.
    MailServer,
    /// The scanner works.
    Scanner,
    /// There is room.
    Disk,
}

/// The checks in the order in which they are made, and what each needs: PID 1's by their names there.
pub const PROBES: &[(Probe, &str, &[&str])] = &[
    (Probe::Router, "router", &["wan-link", "address"]),
    (Probe::Dns, "dns", &["wan-link", "address"]),
    (Probe::Managers, "managers", &["gateway", "dns"]),
    (Probe::Proxy, "proxy", &["managers"]),
    (Probe::MailServer, "mail-server", &["wan-link", "address"]),
    (Probe::Scanner, "scanner", &["gateway"]),
    (Probe::Disk, "disk", &["state", "data"]),
];

/// How far the test is.
#[derive(Debug, Default)]
pub struct SelfTest {
    done: Vec<Check>,
    next: usize,
}

impl SelfTest {
    /// Begins with PID 1's checks; the second: their lines.
    #[must_use]
    pub fn begin(init: Result<Vec<Check>, String>) -> (Self, Vec<String>) {
        let mut test = Self::default();
        let checks = init.unwrap_or_else(|detail| {
            vec![Check { name: INIT.to_owned(), outcome: Outcome::Fail { detail } }]
        });
        let lines = checks.into_iter().map(|check| test.take(check)).collect();
        (test, lines)
    }

    /// The next check, to be given to [`SelfTest::result`]; or the line of one that is not tried. `None`:
    /// that was all.
    pub fn step(&mut self) -> Option<Result<Probe, String>> {
        let (probe, name, needs) = PROBES.get(self.next)?;
        match needs.iter().find_map(|need| self.missing(need)) {
            Some(because) => {
                self.next += 1;
                let outcome = Outcome::Skipped { because: format!("{because} failed") };
                Some(Err(self.take(Check { name: (*name).to_owned(), outcome })))
            }
            None => Some(Ok(*probe)),
        }
    }

    /// What came of it, as a line.
    pub fn result(&mut self, outcome: Outcome) -> String {
        let name = PROBES.get(self.next).map_or("", |(_, name, _)| name).to_owned();
        self.next += 1;
        self.take(Check { name, outcome })
    }

    /// The last line.
    #[must_use]
    pub fn sum(&self) -> String {
        let count = |fits: fn(&Outcome) -> bool| {
            self.done.iter().filter(|check| fits(&check.outcome)).count()
        };
        let passed = count(|outcome| matches!(outcome, Outcome::Pass { .. }));
        let failed = count(|outcome| matches!(outcome, Outcome::Fail { .. }));
        let skipped = count(|outcome| matches!(outcome, Outcome::Skipped { .. }));
        let word = if failed == 0 { "PASS" } else { "FAIL" };
        format!("SELF-TEST {word} {passed} passed, {failed} failed, {skipped} not tried")
    }

    /// The check that failed and so keeps this one, if it does not pass.
    fn missing(&self, name: &str) -> Option<String> {
        let check = self.done.iter().find(|check| check.name == name).or_else(|| {
            // Where PID 1 says nothing, nothing that it would have said is known.
            self.done.iter().find(|check| check.name == INIT)
        })?;
        match &check.outcome {
            Outcome::Pass { .. } => None,
            Outcome::Fail { .. } => Some(check.name.clone()),
            Outcome::Skipped { because } => Some(because.trim_end_matches(" failed").to_owned()),
        }
    }

    fn take(&mut self, check: Check) -> String {
        let line = match &check.outcome {
            Outcome::Pass { detail } => format!("PASS {}: {detail}", check.name),
            Outcome::Fail { detail } => format!("FAIL {}: {detail}", check.name),
            Outcome::Skipped { because } => {
                let because = because.trim_end_matches(" failed");
                match self.missing(because) {
                    Some(root) => format!("SKIP {}: not tried: {root} failed", check.name),
                    None => format!("SKIP {}: not tried: {because}", check.name),
                }
            }
        };
        self.done.push(check);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, outcome: Outcome) -> Check {
        Check { name: name.to_owned(), outcome }
    }

    fn pass() -> Outcome {
        Outcome::Pass { detail: "well".to_owned() }
    }

    fn fail() -> Outcome {
        Outcome::Fail { detail: "broken".to_owned() }
    }

    /// All lines where the console's own checks come to this.
    fn lines(init: Result<Vec<Check>, String>, own: fn(Probe) -> Outcome) -> Vec<String> {
        let (mut test, mut lines) = SelfTest::begin(init);
        while let Some(step) = test.step() {
            lines.push(match step {
                Ok(probe) => test.result(own(probe)),
                Err(line) => line,
            });
        }
        lines.push(test.sum());
        lines
    }

    #[test]
    fn one_fault_is_one_failure() {
        let init = vec![
            check("wan", fail()),
            check("wan-link", Outcome::Skipped { because: "wan".to_owned() }),
            check("gateway", pass()),
        ];
        assert_eq!(
            lines(Ok(init), |_| pass()),
            [
                "FAIL wan: broken",
                "SKIP wan-link: not tried: wan failed",
                "PASS gateway: well",
                "SKIP router: not tried: wan failed",
                "SKIP dns: not tried: wan failed",
                "SKIP managers: not tried: wan failed",
                "SKIP proxy: not tried: wan failed",
                "SKIP mail-server: not tried: wan failed",
                "PASS scanner: well",
                "PASS disk: well",
                "SELF-TEST FAIL 3 passed, 1 failed, 6 not tried",
            ]
        );
    }

    #[test]
    fn a_chain_names_its_first_link() {
        let lines = lines(Ok(vec![]), |probe| if probe == Probe::Dns { fail() } else { pass() });
        assert!(lines.contains(&"SKIP managers: not tried: dns failed".to_owned()), "{lines:?}");
        assert!(lines.contains(&"SKIP proxy: not tried: dns failed".to_owned()), "{lines:?}");
        assert!(lines.contains(&"PASS mail-server: well".to_owned()), "{lines:?}");
    }

    #[test]
    fn without_pid_1_nothing_is_known() {
        let lines = lines(Err("it does not answer".to_owned()), |_| pass());
        assert_eq!(lines[0], "FAIL init: it does not answer");
        assert!(
            lines.iter().any(|line| line == "SKIP router: not tried: init failed"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_check_may_have_nothing_to_try() {
        let lines = lines(Ok(vec![]), |probe| match probe {
            Probe::MailServer => Outcome::Skipped { because: "no mail server is known".to_owned() },
            _ => pass(),
        });
        assert!(lines.contains(&"SKIP mail-server: not tried: no mail server is known".to_owned()));
        assert_eq!(lines.last().unwrap(), "SELF-TEST PASS 6 passed, 0 failed, 1 not tried");
    }
}
