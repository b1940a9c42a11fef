//! The command line of `bench`.
#![allow(clippy::print_stdout, reason = "what a person asked for goes to standard output")]

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::{arm::Arm, fetch::Fetch, load::Load, run, sink::Sink, sites};

/// Compares mail proxies, and judges ours.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Mails a second, added latency, processor time and memory, beside other proxies.
    Mail(Mail),
    /// Assignments of a manager, and sessions of a proxy beside other proxies, on one core.
    Sites(Sites),
    /// The mail server of a measurement.
    #[command(hide = true)]
    Sink(Sink),
    /// The SMTP clients of a measurement.
    #[command(hide = true)]
    Load(Load),
    /// The POP3 clients of a measurement.
    #[command(hide = true)]
    Fetch(Fetch),
}

/// What is compared, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Mail {
    /// What the targets need and little else, in some three minutes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How often everything is measured; 3 unless quick.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: Option<u32>,
    /// Only these, and what they are compared with; separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub(crate) arms: Vec<Arm>,
    /// One kind of figures alone.
    #[arg(long)]
    pub(crate) only: Option<Only>,
    /// Let everything run on all cores, and not client and server on one of their own.
    #[arg(long)]
    pub(crate) all_cores: bool,
    /// Folder of the product's programs. Default: beside this one.
    #[arg(long)]
    pub(crate) programs: Option<PathBuf>,
    /// Folder for mail.json and mail.svg. Default: bench, beside the folder of this program.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Write the table and the chart also to where the tree keeps them.
    #[arg(long)]
    pub(crate) publish: bool,
}

/// What is measured of a site's servers, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Sites {
    /// Few sessions and boxes, and one round, in some two minutes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How often everything is measured; 3 unless quick.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: Option<u32>,
    /// Folder of the product's programs, with `examples` in it. Default: beside this one.
    #[arg(long)]
    pub(crate) programs: Option<PathBuf>,
    /// Folder for sites.json and sites.svg. Default: bench, beside the folder of this program.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Write the table and the chart also to where the tree keeps them.
    #[arg(long)]
    pub(crate) publish: bool,
}

/// A kind of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// Memory while large mails stream through.
    Memory,
}

impl Arguments {
    /// Does what was asked for, and gives the exit code.
    ///
    /// # Errors
    /// Whatever kept it from being done.
    pub fn execute(self) -> Result<ExitCode> {
        match self.verb {
            Verb::Mail(_) | Verb::Sites(_) if let Some(status) = e2e::enter()? => {
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.unwrap_or(1).into());
            }
            Verb::Mail(mail) => run::compare(&mail)?,
            Verb::Sites(sites) => sites::measure(&sites)?,
            Verb::Sink(sink) => sink.run()?,
            Verb::Load(load) => println!("{}", serde_json::to_string(&load.run()?)?),
            Verb::Fetch(fetch) => println!("{}", serde_json::to_string(&fetch.run()?)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Mail {
    /// Where the product's programs are.
    ///
    /// # Errors
    /// When this program does not know its own place.
    pub(crate) fn programs(&self) -> Result<PathBuf> {
        self.programs.clone().map_or_else(own_directory, Ok)
    }

    /// Where the results go.
    ///
    /// # Errors
    /// When this program does not know its own place.
    pub(crate) fn out(&self) -> Result<PathBuf> {
        out(self.out.as_deref())
    }

    /// The arms that are measured, and those they are compared with, in their order.
    #[must_use]
    pub(crate) fn arms(&self) -> Vec<Arm> {
        let is_wanted = |arm: &Arm| {
            self.arms.is_empty()
                || self.arms.contains(arm)
                || self.arms.iter().any(|wanted| wanted.baseline() == *arm)
        };
        Arm::ALL.into_iter().filter(is_wanted).collect()
    }
}

impl Sites {
    /// Where the results go.
    ///
    /// # Errors
    /// When this program does not know its own place.
    pub(crate) fn out(&self) -> Result<PathBuf> {
        out(self.out.as_deref())
    }
}

fn out(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(out) = asked {
        return Ok(out.to_owned());
    }
    let target = own_directory()?.parent().context("no folder above this program's")?.to_owned();
    Ok(target.join("bench"))
}

/// The folder of this program.
///
/// # Errors
/// When this program does not know its own place.
pub(crate) fn own_directory() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find this program's own file")?;
    Ok(own.parent().context("a program without a folder")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(line: &str) -> Mail {
        let words = ["bench", "mail"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words).unwrap().verb {
            Verb::Mail(mail) => mail,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arms_bring_what_they_are_compared_with() {
        assert_eq!(mail("").arms(), Arm::ALL);
        assert_eq!(mail("--arms avr,clamsmtp").arms(), [Arm::Direct, Arm::Clamsmtp, Arm::Avr]);
        assert_eq!(mail("--arms chain").arms(), [Arm::Bridge, Arm::Chain]);
    }

    #[test]
    fn a_kind_of_figures_is_asked_for_by_its_name() {
        assert_eq!(mail("--only memory").only, Some(Only::Memory));
        assert_eq!(mail("").only, None);
        assert!(Arguments::try_parse_from(["bench", "mail", "--only", "luck"]).is_err());
    }

    #[test]
    fn results_go_where_they_are_asked_for() {
        assert_eq!(mail("--out /x").out().unwrap(), PathBuf::from("/x"));
        assert!(mail("").out().unwrap().ends_with("bench"));
        assert_eq!(mail("--programs /y").programs().unwrap(), PathBuf::from("/y"));
    }
}
