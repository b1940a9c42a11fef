//! The command line.

use clap::{Parser, Subcommand};
use service_kit::args::{Command, ConfigArg};

/// Carries sessions from boxes to mail servers, scanning on the way.
#[derive(Debug, Parser)]
#[command(name = "avr-proxy", version)]
#[allow(missing_docs, reason = "what is written here is the program's help")]
pub struct Args {
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What it is told to do.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "what is written here is the program's help")]
pub enum Verb {
    #[command(flatten)]
    Common(Command),
    /// Takes mails apart for a daemon, which starts it. Not for people.
    #[command(name = scan::worker::WORKER_VERB, hide = true)]
    ScanWorker,
}
