//! `avr-proxy`: see the library.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use proxy::args::{Args, Verb};
use proxy::{Proxy, Settings, settings};
use service_kit::args::{Command, ConfigCommand};
use service_kit::{host, program};
use tracing::info;

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
