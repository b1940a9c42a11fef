//! `avr-proxy`: see the library.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use proxy::{Proxy, Settings, settings};
use service_kit::args::{Command, ConfigArg, ConfigCommand};
use service_kit::{host, program};
use tracing::info;

/// Carries sessions from boxes to mail servers, scanning on the way.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    config: ConfigArg,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Common(Command),
    /// Takes mails apart for a daemon, which starts it. Not for people.
    #[command(name = scan::worker::WORKER_VERB, hide = true)]
    ScanWorker,
}

fn main() -> ExitCode {
    let Args { config, verb } = Args::parse();
    let path = config.or(settings::DEFAULT_PATH);
    let result = match verb {
        Verb::Common(Command::Serve) => serve(&path),
        Verb::Common(Command::Config(ConfigCommand::Check)) => check(&path),
        Verb::ScanWorker => scan::worker::run().map_err(anyhow::Error::from),
    };
    program::exit_code("avr-proxy", result)
}

#[allow(clippy::print_stdout, reason = "the command line's answer")]
fn check(path: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(path)?;
    println!("{}: good, at most {} sessions", path.display(), settings.sessions_max);
    Ok(())
}

fn serve(path: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(path)?;
    telemetry::init(settings.log);
    program::run(settings.files_max(), async |drain| {
        let proxy = Proxy::bind(settings, host::unix_now_s).await?;
        let status = proxy.status_address()?.map(|address| address.to_string());
        info!(address = %proxy.address()?, status, "listening");
        proxy.run(drain).await;
        Ok(())
    })
}
