//! The command line.

use clap::{Parser, Subcommand};
use records::{QuarantineVerb, TraceArgs};
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
    /// Take no new sessions; what runs goes on, and boxes go elsewhere. Lasts until it is undone, also
    /// behind a restart.
    Drain {
        /// Return when the last session has ended.
        #[arg(long)]
        wait: bool,
    },
    /// Take sessions again.
    Undrain,
    /// Say whether it takes sessions, and how many it carries.
    Status,
    /// Say what happened to a mail, and why. Works without the daemon.
    Trace(TraceArgs),
    /// List, show, hand out and delete the sealed copies of refused mail. Works without the daemon.
    #[command(subcommand)]
    Quarantine(QuarantineVerb),
    /// Takes mails apart for a daemon, which starts it. Not for people.
    #[command(name = scan::worker::WORKER_VERB, hide = true)]
    ScanWorker,
}
