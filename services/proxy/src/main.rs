//! `avr-proxy`: see the library.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use proxy::args::{Args, Verb};
use proxy::operate::{Reply, Request};
use proxy::settings::{self, Kept};
use proxy::{Proxy, Settings};
use records::{QuarantineVerb, TraceArgs, print_to_end};
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
        Verb::Drain { wait } => tell(&path, &Request::Drain { wait }),
        Verb::Undrain => tell(&path, &Request::Undrain),
        Verb::Status => tell(&path, &Request::Status),
        Verb::Trace(mail) => trace(&path, &mail),
        Verb::Quarantine(verb) => quarantine(&path, &verb),
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

/// Tells the proxy that runs with this settings file, and shows what it answers.
#[allow(clippy::print_stdout, reason = "the command line's answer")]
fn tell(path: &Path, request: &Request) -> anyhow::Result<()> {
    control::ask(&settings::control_path(path)?, request, |reply: Reply| match reply {
        Reply::Left { sessions } => {
            println!("left: {sessions} sessions");
            Line::More
        }
        Reply::Done { what } => {
            println!("{what}");
            Line::Last
        }
        Reply::Status(status) => {
            println!("{status}");
            Line::Last
        }
    })?;
    Ok(())
}

fn trace(path: &Path, mail: &TraceArgs) -> anyhow::Result<()> {
    let kept = Kept::load(path)?;
    print_to_end(|out| mail.execute(&kept.places(), out))
}

fn quarantine(path: &Path, verb: &QuarantineVerb) -> anyhow::Result<()> {
    let vault = Kept::load(path)?.vault()?;
    print_to_end(|out| verb.execute(&vault, host::unix_now_s(), out))
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
