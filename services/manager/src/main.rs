//! `avr-manager`: see the library.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use manager::{Manager, Settings, settings};
use service_kit::args::{Command, ConfigArg};
use service_kit::{DrainTrigger, host};
use tracing::warn;

/// Names a proxy to each box that asks, and watches its proxies.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    config: ConfigArg,
    #[command(subcommand)]
    command: Command,
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line's answer")]
fn main() -> ExitCode {
    let args = Args::parse();
    let path = args.config.or(settings::DEFAULT_PATH);
    let result = match args.command {
        Command::Serve => serve(&path),
        Command::Config(_) => check(&path),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("avr-manager: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "the command line's answer")]
fn check(path: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(path)?;
    println!("{}: good, {} proxies", path.display(), settings.table.proxies().len());
    Ok(())
}

fn serve(path: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(path)?;
    telemetry::init(settings.log.into());
    match host::raise_file_limit() {
        Ok(limit) if limit < settings.files_max() => {
            let needed = settings.files_max();
            warn!(limit, needed, "too few file descriptors for connections_max; raise LimitNOFILE");
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "cannot raise the limit of file descriptors"),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let (trigger, drain) = DrainTrigger::new();
        let signals = tokio::spawn(async {
            if let Err(error) = trigger.on_signals().await {
                warn!(%error, "no signal handlers: SIGTERM ends at once");
            }
        });
        let manager = Manager::bind(settings, host::unix_now_s).await?;
        tracing::info!(address = %manager.address()?, "listening");
        manager.run(drain).await;
        signals.abort();
        Ok(())
    })
}
