//! One mail to carry, what is expected of it, and what became of it.

use std::fmt;

/// How a mail crosses the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Sent: by SMTP, from a client to a server that keeps what it got.
    Smtp,
    /// Fetched: by POP3, with RETR, from a server that has it.
    Pop3,
}

impl Path {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Smtp, Self::Pop3];

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Pop3 => "pop3",
        }
    }
}

/// What the gateway that carries a case has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setup {
    /// Rules for the payloads of mails: the EICAR file anywhere, and the zip that holds it. So a
    /// detection says that the MIME structure was read, whether or not archives are opened.
    Mail,
    /// The rule for the EICAR file alone: archives must be opened.
    Archive,
    /// Attachments named `*.zip` are blocked, whatever they hold.
    Block,
}

/// One mail.
#[derive(Debug, Clone)]
pub struct Case {
    /// Row of the table: folder of the corpus, or class of our own.
    pub source: String,
    /// Name within everything that is run; for the corpus its path there.
    pub name: String,
    /// The message as the client has it, unstuffed.
    pub mail: Vec<u8>,
    /// What must become of it.
    pub expect: Expect,
    /// Which gateway carries it.
    pub setup: Setup,
}

/// What must become of a mail. Whatever it is, a mail must never be altered, and no session hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A finding.
    Detect,
    /// A finding, or refused as something that cannot be read.
    DetectOrRefuse,
    /// Not reported clean: a finding, a refusal, or passed and counted as not scanned.
    NotClean,
    /// Unchanged at the other side.
    Pass,
    /// As `Pass`; or refused, because its structure is broken.
    PassOrRefuse,
    /// As `Pass`; a refusal or finding has to be argued.
    PassOrArgued,
    /// Information only.
    Any,
}

/// What became of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Refused with the name of a finding, or replaced by a notice of it.
    Detected(String),
    /// Refused, replaced or cut off for another reason.
    Refused(String),
    /// Byte for byte at the other side, with what the log calls unscannable in it, if anything.
    Unchanged(Option<String>),
    /// Something else at the other side.
    Altered(String),
    /// No end within the time limit.
    Hung,
}

/// Columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// A finding.
    Detected,
    /// Refused without one.
    Refused,
    /// Unchanged, as it may be.
    Passed,
    /// Unchanged and reported clean, against the expectation.
    Missed,
    /// Changed on its way.
    Altered,
    /// No end.
    Hung,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detected => "detected",
            Self::Refused => "refused",
            Self::Passed => "passed unchanged",
            Self::Missed => "missed",
            Self::Altered => "altered",
            Self::Hung => "hung",
        })
    }
}

/// Whether an outcome is what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    AsExpected,
    /// It is not; acceptable where `argued.toml` says why.
    ToBeArgued,
    /// It is not, and nothing can excuse it.
    Wrong,
}

impl Expect {
    /// Column and standing of an outcome.
    #[must_use]
    pub fn judge(self, outcome: &Outcome) -> (Column, Standing) {
        use Standing::{AsExpected, ToBeArgued, Wrong};
        match (outcome, self) {
            (Outcome::Altered(_), _) => (Column::Altered, Wrong),
            (Outcome::Hung, _) => (Column::Hung, Wrong),
            (Outcome::Detected(_), Self::Pass | Self::PassOrRefuse | Self::PassOrArgued) => {
                (Column::Detected, ToBeArgued)
            }
            (Outcome::Detected(_), _) => (Column::Detected, AsExpected),
            (Outcome::Refused(_), Self::Detect | Self::Pass | Self::PassOrArgued) => {
                (Column::Refused, ToBeArgued)
            }
            (Outcome::Refused(_), _) => (Column::Refused, AsExpected),
            (Outcome::Unchanged(_), Self::Detect | Self::DetectOrRefuse)
            | (Outcome::Unchanged(None), Self::NotClean) => (Column::Missed, ToBeArgued),
            (Outcome::Unchanged(_), _) => (Column::Passed, AsExpected),
        }
    }

    /// The expectation of a mail that differs from another in its line ends alone: bare LFs may be
    /// refused, whatever the mail is.
    #[must_use]
    pub fn with_bare_line_ends(self) -> Self {
        match self {
            Self::Detect | Self::DetectOrRefuse => Self::DetectOrRefuse,
            Self::Pass | Self::PassOrRefuse | Self::PassOrArgued => Self::PassOrRefuse,
            Self::NotClean | Self::Any => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_alteration_and_hanging_cannot_be_argued() {
        for expect in [Expect::Any, Expect::Pass, Expect::Detect, Expect::NotClean] {
            for outcome in [Outcome::Hung, Outcome::Altered(String::new())] {
                assert_eq!(expect.judge(&outcome).1, Standing::Wrong);
            }
        }
        let missed = (Column::Missed, Standing::ToBeArgued);
        assert_eq!(Expect::Detect.judge(&Outcome::Unchanged(None)), missed);
        assert_eq!(Expect::DetectOrRefuse.judge(&Outcome::Unchanged(None)), missed);
        assert_eq!(Expect::NotClean.judge(&Outcome::Unchanged(None)), missed);
    }

    #[test]
    fn what_was_counted_as_not_scanned_is_no_miss_where_it_need_not_be_found() {
        let counted = Outcome::Unchanged(Some("encrypted".to_owned()));
        let passed = (Column::Passed, Standing::AsExpected);
        assert_eq!(Expect::NotClean.judge(&counted), passed);
        assert_eq!(Expect::Detect.judge(&counted).0, Column::Missed);
    }
}
