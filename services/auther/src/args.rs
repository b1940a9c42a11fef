//! The command line, and what each command does.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use service_kit::args::{Command as ServerCommand, ConfigArg, ConfigCommand};
use service_kit::host::unix_now_s;
use service_kit::program;
use tracing::info;
use wire::MacAddress;
use wire::identity::Role;

use crate::import::{check_note, parse_mac, parse_sessions_max};
use crate::registry::{Device, Registry, SESSIONS_MAX_DEFAULT};
use crate::serve::Auther;
use crate::{fleet, operator, settings};

/// Admits the boxes of a fleet by MAC address and key, and hands out tickets.
#[derive(Debug, Parser)]
#[command(name = "avr-auther", version)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The registry file, instead of the one that the settings name.
    #[arg(long, global = true, value_name = "FILE")]
    registry: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new fleet: its certificate authority and its ticket key.
    Init {
        /// Where to put the files; writes over nothing.
        #[arg(long, visible_alias = "directory", value_name = "DIR")]
        dir: PathBuf,
    },
    /// Sign a certificate for a server.
    Issue(IssueArgs),
    /// Register a box, or all boxes of a CSV file (mac, note, sessions_max).
    Add(AddArgs),
    /// Keep a box out for now.
    Suspend {
        /// Its MAC address.
        #[arg(value_parser = parse_mac)]
        mac: MacAddress,
    },
    /// Let a suspended box in again.
    Resume {
        /// Its MAC address.
        #[arg(value_parser = parse_mac)]
        mac: MacAddress,
    },
    /// Forget a box and its key.
    Remove {
        /// Its MAC address.
        #[arg(value_parser = parse_mac)]
        mac: MacAddress,
    },
    /// Show all boxes.
    List {
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Server(ServerCommand),
}

#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// Where `init` put the fleet's files.
    #[arg(long, visible_alias = "directory", value_name = "DIR")]
    dir: PathBuf,
    /// What the server does; may be given several times.
    #[arg(long, required = true, value_name = "auther|manager|proxy", value_parser = parse_role)]
    role: Vec<Role>,
    /// The server's name, as in tokyo-1.
    #[arg(long, value_name = "NAME", required_unless_present = "name_too")]
    name: Option<String>,
    #[arg(value_name = "NAME", hide = true, conflicts_with = "name")]
    name_too: Option<String>,
    /// Where to put NAME.crt and NAME.key; where the fleet's files are, unless given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The box's MAC address, as on its label.
    #[arg(value_parser = parse_mac, required_unless_present = "csv")]
    mac: Option<MacAddress>,
    /// A few words, as where it stands.
    #[arg(long, default_value = "", value_parser = parse_note)]
    note: String,
    /// Sessions it may have at once.
    #[arg(long, value_name = "N", default_value_t = SESSIONS_MAX_DEFAULT,
          value_parser = parse_sessions_max)]
    sessions_max: u32,
    /// Import this file; nothing of it if a row is bad.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mac", "note", "sessions_max"])]
    csv: Option<PathBuf>,
}

/// Does what the command line says; what is to be shown goes to `out`.
///
/// # Errors
/// With what to do about it.
pub fn run(args: Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let Args { config, registry, command } = args;
    let config_path = config.or(settings::DEFAULT_PATH);
    // Only the commands on boxes need a registry, and the settings only to find it.
    let registry_path = || match &registry {
        Some(path) => Ok(path.clone()),
        None => settings::load(&config_path)
            .map(|(settings, _)| settings.registry)
            .context("which registry? The settings name it, or --registry FILE"),
    };
    match command {
        Command::Init { dir } => operator::show_files(&fleet::init(&dir)?, out),
        Command::Issue(issue) => {
            let name = issue.name.or(issue.name_too).context("a server needs a --name")?;
            let directory = issue.out.as_ref().unwrap_or(&issue.dir);
            let files = fleet::issue(&issue.dir, &issue.role, &name, directory)?;
            operator::show_files(&files, out)
        }
        Command::Add(add) => {
            let mut registry = Registry::create(&registry_path()?)?;
            match (add.csv, add.mac) {
                (Some(file), _) => operator::import(&mut registry, &file, unix_now_s(), out),
                (None, Some(mac)) => {
                    let device = Device {
                        note: add.note,
                        sessions_max: add.sessions_max,
                        ..Device::new(mac, unix_now_s())
                    };
                    operator::add(&mut registry, &device, out)
                }
                (None, None) => anyhow::bail!("add what? A MAC address, or --csv FILE"),
            }
        }
        Command::Suspend { mac } => {
            operator::suspend(&mut Registry::open(&registry_path()?)?, mac, true, out)
        }
        Command::Resume { mac } => {
            operator::suspend(&mut Registry::open(&registry_path()?)?, mac, false, out)
        }
        Command::Remove { mac } => {
            operator::remove(&mut Registry::open(&registry_path()?)?, mac, out)
        }
        Command::List { json } => operator::list(&Registry::open(&registry_path()?)?, json, out),
        Command::Server(ServerCommand::Config(ConfigCommand::Check)) => {
            let (settings, document) = settings::load(&config_path)?;
            settings.check(&document)?;
            writeln!(out, "{} is good", config_path.display())?;
            Ok(())
        }
        Command::Server(ServerCommand::Serve) => serve(&config_path, registry),
    }
}

fn serve(config_path: &Path, registry: Option<PathBuf>) -> anyhow::Result<()> {
    let (mut settings, document) = settings::load(config_path)?;
    telemetry::init(settings.log);
    if let Some(registry) = registry {
        settings.registry = registry;
    }
    let ready = settings.ready(&document)?;
    program::run(ready.files_max(), async |drain| {
        let auther = Auther::bind(ready, unix_now_s).await?;
        let address = auther.local_address()?;
        info!(%address, registry = %settings.registry.display(), "serving");
        auther.serve(drain).await;
        Ok(())
    })
}

fn parse_role(text: &str) -> Result<Role, wire::identity::ParseRoleError> {
    text.parse()
}

fn parse_note(text: &str) -> Result<String, String> {
    check_note(text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests;
