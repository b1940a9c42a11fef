//! `avr-manager`: see the library.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use manager::operate::{Reply, Request};
use manager::{Manager, Settings, settings};
use service_kit::args::{Command, ConfigArg, ConfigCommand};
use service_kit::{control, host, program};
use tracing::info;

/// Names a proxy to each box that asks, and watches its proxies.
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
struct Target {
    /// A proxy's local or public address.
    proxy: Option<String>,
    /// All proxies of this site.
    #[arg(long)]
    site: bool,
}

fn main() -> ExitCode {
    let Args { config, verb } = Args::parse();
    let path = config.or(settings::DEFAULT_PATH);
    let result = match verb {
        Verb::Common(Command::Serve) => serve(&path),
        Verb::Common(Command::Config(ConfigCommand::Check)) => check(&path),
        Verb::Drain { target, wait } => tell(&path, &Request::Drain { proxy: target.proxy, wait }),
        Verb::Undrain { target } => tell(&path, &Request::Undrain { proxy: target.proxy }),
        Verb::Reload => tell(&path, &Request::Reload),
    };
    program::exit_code("avr-manager", result)
}

#[allow(clippy::print_stdout, reason = "the command line's answer")]
fn check(path: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(path)?;
    println!("{}: good, {} proxies", path.display(), settings.table.proxies().len());
    Ok(())
}

/// Tells the manager that runs with this settings file, and shows what it answers.
#[allow(clippy::print_stdout, reason = "the command line's answer")]
fn tell(path: &Path, request: &Request) -> anyhow::Result<()> {
    let control = settings::control_path(path)?;
    control::ask(&control, request, |reply: Reply| match reply {
        Reply::Done { what } => println!("{what}"),
        Reply::Left { sessions, leases } => {
            println!("left: {sessions} sessions, {leases} assignments of this manager");
        }
    })?;
    Ok(())
}

fn serve(path: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(path)?;
    telemetry::init(settings.log);
    program::run(settings.files_max(), async |drain| {
        let manager = Manager::bind(settings, host::unix_now_s).await?;
        let status = manager.status_address()?.map(|address| address.to_string());
        info!(address = %manager.address()?, status, "listening");
        manager.run(drain).await;
        Ok(())
    })
}
