//! A tree of checks: what rests on something that is wrong is not looked at, and not reported as
//! wrong a second time. So the list of what is wrong is the list of what has to be mended.

use std::fmt::Write as _;

use serde::Serialize;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// As it should be.
    Good(String),
    /// It works, and should be seen to.
    Doubtful { what: String, remedy: String },
    /// It does not work.
    Wrong { what: String, remedy: String },
    /// It could not be looked at here, which says nothing.
    Unknown(String),
}

impl Found {
    /// Something that does not work, and what to do.
    pub fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), remedy: remedy.into() }
    }

    /// Something that should be seen to, and how.
    pub fn doubtful(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Doubtful { what: what.into(), remedy: remedy.into() }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// See [`Found::Good`].
    Good,
    /// See [`Found::Doubtful`].
    Doubtful,
    /// See [`Found::Wrong`].
    Wrong,
    /// See [`Found::Unknown`].
    Unknown,
    /// Something that it rests on is wrong.
    Skipped,
}

/// One line of the report. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub check: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub what: String,
    /// What to do, where something is to be done.
    pub remedy: Option<String>,
}

/// All lines so far, in the order of the checks.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    lines: Vec<Line>,
}

impl Report {
    /// Does a check, unless one of `needs` is wrong. Needs are names of earlier checks; one that
    /// there is not was not looked at and stops nothing.
    pub async fn check(
        &mut self,
        name: impl Into<String>,
        needs: &[&str],
        work: impl Future<Output = Found>,
    ) -> bool {
        let check = name.into();
        debug_assert!(self.line(&check).is_none(), "two checks named {check}");
        let line = match self.reason(needs) {
            Some(reason) => Line {
                check,
                outcome: Outcome::Skipped,
                what: format!("not looked at, because of: {reason}"),
                remedy: None,
            },
            None => line(check, work.await),
        };
        let good = !matches!(line.outcome, Outcome::Wrong | Outcome::Skipped);
        self.lines.push(line);
        good
    }

    /// Adds what was found elsewhere.
    pub fn add(&mut self, name: impl Into<String>, found: Found) {
        self.lines.push(line(name.into(), found));
    }

    /// All lines.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How many checks ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().filter(|line| line.outcome == outcome).count()
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let width = self.lines.iter().map(|line| line.check.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for Line { check, outcome, what, remedy } in &self.lines {
            let mark = match outcome {
                Outcome::Good => "good",
                Outcome::Doubtful => "DOUBTFUL",
                Outcome::Wrong => "WRONG",
                Outcome::Unknown => "unknown",
                Outcome::Skipped => "-",
            };
            let _ = writeln!(text, "{mark:<9} {check:<width$}  {what}");
            if let Some(remedy) = remedy {
                let _ = writeln!(text, "{:9} {:width$}  -> {remedy}", "", "");
            }
        }
        text
    }

    fn line(&self, name: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.check == name)
    }

    /// The first of `needs` that does not hold: the one that is wrong itself.
    fn reason<'a>(&'a self, needs: &[&'a str]) -> Option<&'a str> {
        needs.iter().find_map(|need| {
            let line = self.line(need)?;
            match line.outcome {
                Outcome::Wrong => Some(*need),
                Outcome::Skipped => Some(line.what.rsplit(": ").next().unwrap_or(need)),
                Outcome::Good | Outcome::Doubtful | Outcome::Unknown => None,
            }
        })
    }
}

fn line(check: String, found: Found) -> Line {
    let (outcome, what, remedy) = match found {
        Found::Good(what) => (Outcome::Good, what, None),
        Found::Doubtful { what, remedy } => (Outcome::Doubtful, what, Some(remedy)),
        Found::Wrong { what, remedy } => (Outcome::Wrong, what, Some(remedy)),
        Found::Unknown(what) => (Outcome::Unknown, what, None),
    };
    Line { check, outcome, what, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_mistake_is_reported_once() {
        let mut report = Report::default();
        assert!(report.check("link", &[], async { Found::Good("up".to_owned()) }).await);
        let wrong = Found::wrong("closed", "start it");
        assert!(!report.check("port", &["link"], async { wrong }).await);
        // Neither is run: a check that would panic is not even begun.
        assert!(!report.check("TLS", &["port"], async { panic!("rests on the port") }).await);
        assert!(!report.check("poll", &["link", "TLS"], async { panic!("rests on TLS") }).await);
        assert!(report.check("disk", &["none"], async { Found::Unknown("?".to_owned()) }).await);
        assert_eq!(report.count(Outcome::Wrong), 1);
        assert_eq!(report.count(Outcome::Skipped), 2);
        assert_eq!(
            report.to_text(),
            "good      link  up\n\
             WRONG     port  closed\n\
             \u{20}               -> start it\n\
             -         TLS   not looked at, because of: port\n\
             -         poll  not looked at, because of: port\n\
             unknown   disk  ?\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["lines"][1]["outcome"], "wrong");
        assert_eq!(json["lines"][1]["remedy"], "start it");
    }
}
