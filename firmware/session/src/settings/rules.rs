//! Rules of one direction that differ from the general ones.

use serde::Deserialize;

use crate::policy::{Rule, Rules};

/// Written as a table: `[scan.fetched]`, `[scan.submitted]`, `[scan.received]`. What is left out is as
/// the keys `on_...` say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleOverrides {
    /// Infected.
    pub infected: Option<Rule>,
    /// Of a blocked kind or name.
    pub blocked: Option<Rule>,
    /// Encrypted.
    pub encrypted: Option<Rule>,
    /// Archives that no engine opens, and damaged ones.
    pub archive: Option<Rule>,
    /// Over the size limit.
    pub over_size: Option<Rule>,
    /// Over another limit, a fragment, ambiguous, too much for the scanner.
    pub unreadable: Option<Rule>,
    /// No engine answered.
    pub engine_failure: Option<Rule>,
}

impl RuleOverrides {
    /// The rules with these in their place.
    pub(super) fn over(&self, general: Rules) -> Rules {
        Rules {
            infected: self.infected.unwrap_or(general.infected),
            blocked: self.blocked.unwrap_or(general.blocked),
            encrypted: self.encrypted.unwrap_or(general.encrypted),
            archive: self.archive.unwrap_or(general.archive),
            over_size: self.over_size.unwrap_or(general.over_size),
            unreadable: self.unreadable.unwrap_or(general.unreadable),
            engine_failed: self.engine_failure.unwrap_or(general.engine_failed),
        }
    }
}
