//! The command line, and what each command does.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use service_kit::args::{Command as ServerCommand, ConfigArg, ConfigCommand};
use service_kit::host::unix_now_s;
use service_kit::program;
use tracing::info;
use wire::MacAddress;
use wire::identity::Role;

use crate::api::{AddBox, AddToken, EditBox, ReplaceKey, router};
use crate::client::{Desk, is_served};
use crate::device::{
    SESSIONS_MAX_DEFAULT, State, parse_mac, parse_note, parse_serial, parse_sessions_max,
    parse_window_hours,
};
use crate::operator::{Looked, Shown};
use crate::registry::{Place, Registry, Scope};
use crate::serve::Auther;
use crate::utc::parse_since;
use crate::{fleet, operator, settings};

/// Admits the boxes of a fleet by MAC address and key, and hands out tickets.
///
/// Commands on boxes go to the server that runs here by its local socket, or, where none does, to the
/// registry itself.
#[derive(Debug, Parser)]
#[command(name = "avr-auther", version)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// This registry file, instead of the one that the settings name, and without asking a server.
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
    #[command(flatten)]
    Boxes(BoxCommand),
    #[command(flatten)]
    Server(ServerCommand),
}

/// What is done with the registry.
#[derive(Debug, Subcommand)]
enum BoxCommand {
    /// Register a box, or all boxes of a CSV file.
    Add(AddArgs),
    /// Register all boxes of a CSV file: lines of `mac,serial,note,sessions_max`, or with a heading.
    Import {
        /// The file; nothing of it is taken if a line is wrong.
        file: PathBuf,
        /// Only try it.
        #[arg(long)]
        dry_run: bool,
    },
    /// Write all boxes with their keys as CSV.
    Export {
        /// Into this file, which must not be there yet, rather than to standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Write something else about a box.
    Edit(EditArgs),
    /// Keep a box out for now.
    Suspend(OneBox),
    /// Let a suspended box in again.
    Resume(OneBox),
    /// Let a box bind a new key, because it was reset or exchanged, or missed its window.
    ReplaceKey {
        #[command(flatten)]
        one: OneBox,
        /// For so many hours, rather than as the settings say.
        #[arg(long, value_name = "HOURS")]
        window_hours: Option<u32>,
        /// The old key is void at once, rather than when the new one comes.
        #[arg(long)]
        revoke_now: bool,
    },
    /// Forget a box and its key.
    Remove(OneBox),
    /// Show the boxes.
    List {
        /// Those whose address, serial number or note has this in it.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Those of this state.
        #[arg(long, value_name = "waiting|enrolled|suspended", value_parser = parse_state)]
        state: Option<State>,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Show every change, with who and when.
    Audit {
        /// To this box.
        #[arg(long, value_parser = parse_mac)]
        mac: Option<MacAddress>,
        /// Since a day (2026-11-23, UTC), or a span before now (7d, 12h).
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// For machines: one object a line, with the whole entry before and after.
        #[arg(long)]
        json: bool,
    },
    /// Show the tickets that are void before their time.
    Revocations {
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Tokens for the HTTP API.
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make one and show it, once.
    Add {
        /// Whose it is, or what for: lower-case letters, digits and hyphens.
        name: String,
        /// What it allows.
        #[arg(long, value_name = "read|write", value_parser = parse_scope)]
        scope: Scope,
        /// Until when, in days from now; without end unless given.
        #[arg(long)]
        days: Option<u32>,
    },
    /// Show all, without their secrets.
    List,
    /// Refuse one from now on.
    Remove {
        /// As it was added.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct OneBox {
    /// Its MAC address.
    #[arg(value_parser = parse_mac)]
    mac: MacAddress,
}

#[derive(Debug, clap::Args)]
struct EditArgs {
    #[command(flatten)]
    one: OneBox,
    /// The number on its label.
    #[arg(long, value_parser = parse_serial)]
    serial: Option<String>,
    /// A few words, as where it stands.
    #[arg(long, value_parser = parse_note, required_unless_present_any = ["serial", "sessions_max"])]
    note: Option<String>,
    /// Sessions it may have at once.
    #[arg(long, value_name = "N", value_parser = parse_sessions_max)]
    sessions_max: Option<u32>,
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
    /// The number on its label.
    #[arg(long, default_value = "", value_parser = parse_serial)]
    serial: String,
    /// A few words, as where it stands.
    #[arg(long, default_value = "", value_parser = parse_note)]
    note: String,
    /// Sessions it may have at once.
    #[arg(long, value_name = "N", default_value_t = SESSIONS_MAX_DEFAULT,
          value_parser = parse_sessions_max)]
    sessions_max: u32,
    /// Its first login may be so many hours from now, rather than as the settings say.
    #[arg(long, value_name = "HOURS")]
    window_hours: Option<u32>,
    /// As `import`.
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["mac", "serial", "note", "sessions_max", "window_hours"])]
    csv: Option<PathBuf>,
}

/// Does what the command line says; what is to be shown goes to `out`.
///
/// # Errors
/// With what to do about it.
pub fn run(args: Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let Args { config, registry, command } = args;
    let config_path = config.or(settings::DEFAULT_PATH);
    match command {
        Command::Init { dir } => operator::show_files(&fleet::init(&dir)?, out),
        Command::Issue(issue) => {
            let name = issue.name.or(issue.name_too).context("a server needs a --name")?;
            let directory = issue.out.as_ref().unwrap_or(&issue.dir);
            let files = fleet::issue(&issue.dir, &issue.role, &name, directory)?;
            operator::show_files(&files, out)
        }
        Command::Boxes(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let desk = desk(&config_path, registry, command.may_make_registry()).await?;
                operate(command, &desk, out).await
            })
        }
        Command::Server(ServerCommand::Config(ConfigCommand::Check)) => {
            let (settings, document) = settings::load(&config_path)?;
            settings.check(&document)?;
            writeln!(out, "{} is good", config_path.display())?;
            Ok(())
        }
        Command::Server(ServerCommand::Serve) => serve(&config_path, registry),
    }
}

impl BoxCommand {
    fn may_make_registry(&self) -> bool {
        matches!(self, Self::Add(_) | Self::Import { .. } | Self::Token(TokenCommand::Add { .. }))
    }
}

/// Whom a command asks: the server that runs here, or the registry itself.
async fn desk(config_path: &Path, registry: Option<PathBuf>, create: bool) -> anyhow::Result<Desk> {
    let place = match registry {
        Some(path) => Place::File(path),
        None => {
            let (settings, document) = settings::load(config_path)
                .context("which registry? The settings name it, or --registry FILE")?;
            if let Some(socket) = &settings.admin.socket
                && is_served(socket).await?
            {
                return Ok(Desk::Socket(socket.clone()));
            }
            settings.place(&document)?
        }
    };
    let registry = Registry::at(&place, create).await?;
    Ok(Desk::Here(router(registry, unix_now_s, Arc::default())))
}

async fn operate(command: BoxCommand, desk: &Desk, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        BoxCommand::Add(AddArgs { csv: Some(file), .. }) => {
            operator::import(desk, &file, false, out).await
        }
        BoxCommand::Add(add) => {
            let mac = add.mac.context("add what? A MAC address, or --csv FILE")?;
            check_window(add.window_hours)?;
            let new = AddBox {
                mac: mac.to_string(),
                serial: add.serial,
                note: add.note,
                sessions_max: Some(add.sessions_max),
                window_hours: add.window_hours,
            };
            operator::add(desk, &new, out).await
        }
        BoxCommand::Import { file, dry_run } => operator::import(desk, &file, dry_run, out).await,
        BoxCommand::Export { out: file } => operator::export(desk, file.as_deref(), out).await,
        BoxCommand::Edit(EditArgs { one, serial, note, sessions_max }) => {
            operator::edit(desk, one.mac, &EditBox { serial, note, sessions_max }, out).await
        }
        BoxCommand::Suspend(one) => operator::suspend(desk, one.mac, out).await,
        BoxCommand::Resume(one) => operator::resume(desk, one.mac, out).await,
        BoxCommand::ReplaceKey { one, window_hours, revoke_now } => {
            check_window(window_hours)?;
            let how = ReplaceKey { window_hours, revoke_now };
            operator::replace_key(desk, one.mac, &how, out).await
        }
        BoxCommand::Remove(one) => operator::remove(desk, one.mac, out).await,
        BoxCommand::List { search, state, json } => {
            operator::list(desk, &Shown { search, state, json }, out).await
        }
        BoxCommand::Audit { mac, since, json } => {
            let since_s = since.map(|text| parse_since(&text, unix_now_s())).transpose();
            let since_s = since_s.map_err(anyhow::Error::msg)?.unwrap_or(0);
            operator::audit(desk, &Looked { mac, since_s, json }, out).await
        }
        BoxCommand::Revocations { json } => operator::revocations(desk, json, out).await,
        BoxCommand::Token(TokenCommand::Add { name, scope, days }) => {
            operator::add_token(desk, &AddToken { name, scope, days }, out).await
        }
        BoxCommand::Token(TokenCommand::List) => operator::list_tokens(desk, out).await,
        BoxCommand::Token(TokenCommand::Remove { name }) => {
            operator::remove_token(desk, &name, out).await
        }
    }
}

fn check_window(hours: Option<u32>) -> anyhow::Result<()> {
    hours.map(parse_window_hours).transpose().map(drop).map_err(anyhow::Error::msg)
}

fn serve(config_path: &Path, registry: Option<PathBuf>) -> anyhow::Result<()> {
    let (settings, document) = settings::load(config_path)?;
    telemetry::init(settings.log);
    program::run(settings.files_max(), async |drain| {
        let ready = settings.ready(&document, registry.map(Place::File)).await?;
        let registry = ready.registry.place();
        let auther = Auther::bind(ready, unix_now_s).await?;
        let address = auther.local_address()?;
        let (admin, status) = (auther.admin_address(), auther.status_address());
        info!(%address, ?admin, ?status, registry, "serving");
        auther.serve(drain).await;
        Ok(())
    })
}

fn parse_role(text: &str) -> Result<Role, wire::identity::ParseRoleError> {
    text.parse()
}

fn parse_state(text: &str) -> Result<State, &'static str> {
    [State::Waiting, State::Enrolled, State::Suspended]
        .into_iter()
        .find(|state| state.name() == text)
        .ok_or("write waiting, enrolled or suspended")
}

fn parse_scope(text: &str) -> Result<Scope, &'static str> {
    [Scope::Read, Scope::Write]
        .into_iter()
        .find(|scope| scope.name() == text)
        .ok_or("write read or write")
}

#[cfg(test)]
mod tests;
