//! The command line.
#![allow(missing_docs, reason = "what is written here is the program's help")]

use clap::{Parser, Subcommand};
use service_kit::args::{Command, ConfigArg};

/// Names a proxy to each box that asks, and watches its proxies.
#[derive(Debug, Parser)]
#[command(name = "avr-manager", version)]
pub struct Args {
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    #[command(flatten)]
    Common(Command),
    /// Name a proxy no more; what runs on it goes on.
    Drain {
        #[command(flatten)]
        target: Target,
        /// Return when nothing is left on it.
        #[arg(long)]
        wait: bool,
    },
    /// Name it again; its share grows slowly.
    Undrain {
        #[command(flatten)]
        target: Target,
    },
    /// Take the settings file anew, whole or not at all. SIGHUP does the same.
    Reload,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// A proxy's local or public address.
    pub proxy: Option<String>,
    /// All proxies of this site.
    #[arg(long)]
    pub site: bool,
}
