//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use manager::fleet::Selection;

use crate::Size;
use crate::scenario::{self, Scenario};

/// Runs a fleet of boxes and sites through failures, in virtual time.
#[derive(Debug, Parser)]
#[command(name = "sim")]
pub struct Args {
    /// Boxes, one an office.
    #[arg(long, default_value_t = 100_000)]
    pub boxes: usize,
    /// Sites, each of two managers and five proxies.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(4..=200))]
    pub sites: u16,
    /// What all random numbers come from; the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Stop each scenario after so many hours.
    #[arg(long)]
    pub hours: Option<f64>,
    /// Which scenario, or the start of several names; without it all but `day`, which takes as long
    /// as the others together.
    #[arg(long)]
    pub scenario: Option<String>,
    /// How managers choose, instead of as the scenario says.
    #[arg(long)]
    pub selection: Option<Choice>,
    /// Age of load reports in seconds, instead of as the scenario says.
    #[arg(long)]
    pub report_age: Option<f64>,
    /// Write the report and the charts into this folder.
    #[arg(long)]
    pub write: Option<PathBuf>,
}

/// A selection by the name that it has in `manager.toml`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Choice {
    /// One after the other in the order of the table.
    Table,
    /// The smallest reported load average.
    LeastLoad,
    /// The better of two drawn.
    TwoChoices,
}

impl Args {
    /// How large a fleet, and of which seed.
    #[must_use]
    pub fn size(&self) -> Size {
        Size { boxes: self.boxes, sites: usize::from(self.sites), seed: self.seed }
    }

    /// What is to be run, in order.
    #[must_use]
    pub fn scenarios(&self) -> Vec<Scenario> {
        let is_wanted = |name: &str| match &self.scenario {
            Some(wanted) => name.starts_with(wanted.as_str()),
            None => name != "day",
        };
        let all = scenario::all().into_iter().filter(|one| is_wanted(one.name));
        all.map(|mut one| {
            if let Some(hours) = self.hours {
                one.lasts = one.lasts.min(crate::random::us(hours * 3_600.0));
            }
            one.poll_s = self.report_age.unwrap_or(one.poll_s);
            one.selection = match self.selection {
                None => one.selection,
                Some(Choice::Table) => Selection::Table,
                Some(Choice::LeastLoad) => Selection::LeastLoad,
                Some(Choice::TwoChoices) => Selection::TwoChoices,
            };
            one
        })
        .collect()
    }
}
