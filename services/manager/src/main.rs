//! `avr-manager`: see the library.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use manager::args::{Args, Verb};
use manager::operate::{Reply, Request};
use manager::{Manager, Settings, settings};
use service_kit::args::{Command, ConfigCommand};
use service_kit::control::{self, Line};
use service_kit::{host, program};
use tracing::info;

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
        Reply::Done { what } => {
            println!("{what}");
            Line::Last
        }
        Reply::Left { sessions, leases } => {
            println!("left: {sessions} sessions, {leases} assignments of this manager");
            Line::More
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
