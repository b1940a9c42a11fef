//! The command line of `avr`.
#![allow(clippy::print_stdout, reason = "what a person asked for goes to standard output")]

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use session::settings::{Around, ScanSettings};
use tracing::warn;

use crate::settings::{DEFAULT_CONTROL, DEFAULT_PATH, Settings};

/// Mail gateway: takes SMTP and POP3 off the bridge, scans it, carries it through a relay site.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway daemon.
    Run(ConfigFile),
    /// Scan between two ordinary sockets: no bridge, no site.
    Listen {
        /// Where to listen, as in 127.0.0.1:2525.
        #[arg(long)]
        listen: SocketAddr,
        /// The mail server, as HOST:PORT.
        #[arg(long)]
        to: String,
        /// What is spoken.
        #[arg(long)]
        protocol: Protocol,
        /// Folder of YARA rules, beside the built-in one.
        #[arg(long)]
        rules: Option<PathBuf>,
        /// A clamd server, "host:port" or "unix:/path"; may be given several times.
        #[arg(long)]
        clamd: Vec<String>,
    },
    /// Show flows, routes, managers, tickets and counters of the running daemon.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// The daemon's control socket.
        #[arg(long, default_value = DEFAULT_CONTROL)]
        control: PathBuf,
    },
    /// Show the unit's MAC address and key fingerprint, for registration.
    Identity(ConfigFile),
    /// Takes mails apart for a daemon, which starts it. Not for people.
    #[command(name = scan::worker::WORKER_VERB, hide = true)]
    ScanWorker,
    /// Work with the settings file.
    #[command(subcommand)]
    Config(ConfigVerb),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say whether the file is right, and what to write where it is not.
    Check(ConfigFile),
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The settings file.
    #[arg(long, default_value = DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Smtp,
    Pop3,
}

impl Arguments {
    /// Does what was asked for.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being done, with what the person can do.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.verb {
            Verb::Run(file) => {
                let settings = Settings::load(&file.config)?;
                telemetry::init(settings.log);
                runtime()?.block_on(crate::gateway::run(settings))
            }
            Verb::Listen { listen, to, protocol, rules, clamd } => {
                telemetry::init(telemetry::Format::Text);
                let scan = ScanSettings { rules, clamd, ..ScanSettings::default() };
                let carrier = scan.carrier(Around::nothing())?;
                let protocol = match protocol {
                    Protocol::Smtp => mail::Protocol::Smtp,
                    Protocol::Pop3 => mail::Protocol::Pop3,
                };
                runtime()?.block_on(async {
                    let listener = tokio::net::TcpListener::bind(listen)
                        .await
                        .with_context(|| format!("listen on {listen}"))?;
                    crate::listen::serve(listener, &to, protocol, carrier).await
                })
            }
            Verb::ScanWorker => Ok(scan::worker::run()?),
            Verb::Status { json, control } => {
                let status = crate::status::ask(&control)?;
                if json {
                    println!("{status:#}")
                } else {
                    print!("{}", crate::status::render(&status))
                }
                Ok(())
            }
            Verb::Identity(file) => {
                println!("{}", crate::identity::Unit::of(&Settings::load(&file.config)?)?);
                Ok(())
            }
            Verb::Config(ConfigVerb::Check(file)) => {
                Settings::check_files(&file.config)?;
                println!("{}: right", file.config.display());
                Ok(())
            }
        }
    }
}

/// The runtime of both daemons, in a process that may open as many files as the host lets it.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    if let Err(error) = raise_file_limit() {
        warn!(%error, "the limit of file descriptors stays as it is");
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

/// Raises the soft limit of file descriptors to the hard one. The usual soft limit of 1024 is there
/// for programs with `select`, and runs out before the sessions do: each takes one or two.
fn raise_file_limit() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_may_open_what_the_host_grants() {
        runtime().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
