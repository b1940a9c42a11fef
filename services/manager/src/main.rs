//! `avr-manager`: see the library.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use manager::{Manager, Settings, settings};
use service_kit::args::{Command, ConfigArg, ConfigCommand};
use service_kit::{host, program};
use tracing::info;

/// Names a proxy to each box that asks, and watches its proxies.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    config: ConfigArg,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let Args { config, command } = Args::parse();
    let path = config.or(settings::DEFAULT_PATH);
    let result = match command {
        Command::Serve => serve(&path),
        Command::Config(ConfigCommand::Check) => check(&path),
    };
    program::exit_code("avr-manager", result)
}

#[allow(clippy::print_stdout, reason = "the command line's answer")]
fn check(path: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(path)?;
    println!("{}: good, {} proxies", path.display(), settings.table.proxies().len());
    Ok(())
}

fn serve(path: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(path)?;
    telemetry::init(settings.log);
    program::run(settings.files_max(), async |drain| {
        let manager = Manager::bind(settings, host::unix_now_s).await?;
        info!(address = %manager.address()?, "listening");
        manager.run(drain).await;
        Ok(())
    })
}
