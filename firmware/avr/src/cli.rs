//! The command line of `avr`.
#![allow(clippy::print_stdout, reason = "what a person asked for goes to standard output")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use config::Document;
use journal::Timestamp;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use records::{ParseSpanError, QuarantineVerb, Span, TraceArgs, print_to_end};
use serde::Deserialize;
use session::settings::{Around, ScanSettings};
use tracing::warn;

use crate::control::{self, Request};
use crate::page::PageArgs;
use crate::settings::{DEFAULT_CONTROL, DEFAULT_PATH, Settings};
use crate::update::{SlotsArgs, UpdateArgs};
use crate::updates::UpdatesArgs;

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
        #[command(flatten)]
        scan: ListenScan,
    },
    /// Show flows, routes, managers, tickets and counters of the running daemon.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: ControlSocket,
    },
    /// Say what happened to a mail, and why. Works without the daemon.
    Trace {
        #[command(flatten)]
        mail: TraceArgs,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// List, show, hand out and delete the sealed copies of refused mail. Works without the daemon.
    Quarantine {
        #[command(subcommand)]
        verb: QuarantineVerb,
        /// The settings file.
        #[arg(long, global = true, default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Leave new connections on the bridge for a while, unscanned. Sessions that run go on; it ends
    /// by itself, and when the daemon is started anew.
    Snooze {
        /// As in 30m, 2h or 90s, at most 24h; "off" ends it.
        time: SnoozeTime,
        #[command(flatten)]
        socket: ControlSocket,
    },
    /// End a snooze.
    Resume(ControlSocket),
    /// Show the unit's MAC address and key fingerprint, for registration.
    Identity(ConfigFile),
    /// Install an update of the system: verified, beside the one that runs, and on trial from the next
    /// start on.
    Update(UpdateArgs),
    /// Look for updates where the settings say, again and again; PID 1 starts it.
    Updates(UpdatesArgs),
    /// Show which systems are installed: what runs, what is on trial, what is good, what failed.
    Slots(SlotsArgs),
    /// Serve the page on the box's own address.
    Page(PageArgs),
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

#[derive(Debug, clap::Args)]
struct ControlSocket {
    /// The daemon's control socket.
    #[arg(long, default_value = DEFAULT_CONTROL)]
    control: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SnoozeTime {
    For(Span),
    Off,
}

impl FromStr for SnoozeTime {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::For) }
    }
}

/// What `avr listen` scans with: a file, or a few options that say the most common things.
#[derive(Debug, clap::Args)]
struct ListenScan {
    /// A settings file with a table [scan], as avr.toml has it, and `log`.
    #[arg(long, conflicts_with_all = ["rules", "hashes", "block", "clamd", "icap"])]
    config: Option<PathBuf>,
    /// Folder of YARA rules, beside the built-in one.
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Folder of lists of hashes: *.sha256, *.hdb, *.hsb.
    #[arg(long)]
    hashes: Option<PathBuf>,
    /// What is blocked, an extension as in ".exe" or a kind as in "pe"; may be given several times.
    #[arg(long)]
    block: Vec<String>,
    /// A clamd server, "host:port" or "unix:/path"; may be given several times.
    #[arg(long)]
    clamd: Vec<String>,
    /// An ICAP service, "icap://host:1344/service"; may be given several times.
    #[arg(long)]
    icap: Vec<String>,
}

/// The file of `avr listen --config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListenFile {
    scan: ScanSettings,
    log: telemetry::Format,
}

impl ListenScan {
    fn settings(self) -> anyhow::Result<(ScanSettings, telemetry::Format)> {
        if let Some(path) = self.config {
            let document = Document::load(&path)?;
            let ListenFile { scan, log } = document.parse()?;
            // What cannot be used is blamed on its line here; it is made ready once more to be used.
            scan.carrier_in(&document, Around::nothing())?;
            return Ok((scan, log));
        }
        let Self { config: _, rules, hashes, block, clamd, icap } = self;
        let scan = ScanSettings { rules, hashes, block, clamd, icap, ..ScanSettings::default() };
        Ok((scan, telemetry::Format::Text))
    }
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
            Verb::Listen { listen, to, protocol, scan } => {
                let (scan, log) = scan.settings()?;
                telemetry::init(log);
                let carrier = scan.carrier(Around::nothing())?;
                let protocol = match protocol {
                    Protocol::Smtp => mail::Protocol::Smtp,
                    Protocol::Pop3 => mail::Protocol::Pop3,
                };
                runtime()?.block_on(async {
                    let listener = tokio::net::TcpListener::bind(listen)
                        .await
                        .with_context(|| format!("listen on {listen}"))?;
                    let _watch = carrier.start(&scan)?;
                    crate::listen::serve(listener, &to, protocol, carrier).await
                })
            }
            Verb::ScanWorker => Ok(scan::worker::run()?),
            Verb::Status { json, socket } => {
                let status = control::ask(&socket.control, Request::Status {})?;
                if json {
                    println!("{status:#}")
                } else {
                    print!("{}", crate::status::render(&status))
                }
                Ok(())
            }
            Verb::Trace { mail, file } => {
                let settings = Settings::load(&file.config)?;
                print_to_end(|out| mail.execute(&crate::kept::places(&settings), out))
            }
            Verb::Quarantine { verb, config } => {
                let vault = crate::kept::vault(&Settings::load(&config)?)?;
                let now = crate::unix_now_s();
                print_to_end(|out| verb.execute(&vault, now, out))
            }
            Verb::Snooze { time: SnoozeTime::For(span), socket } => {
                snooze(&socket.control, Request::Snooze { seconds: span.0.as_secs() })
            }
            Verb::Snooze { time: SnoozeTime::Off, socket } | Verb::Resume(socket) => {
                snooze(&socket.control, Request::Resume {})
            }
            Verb::Identity(file) => {
                println!("{}", crate::identity::Unit::of(&Settings::load(&file.config)?)?);
                Ok(())
            }
            Verb::Update(args) => args.execute(),
            Verb::Updates(args) => args.execute(),
            Verb::Slots(args) => args.execute(),
            Verb::Page(args) => args.execute(),
            Verb::Config(ConfigVerb::Check(file)) => {
                Settings::check_files(&file.config)?;
                println!("{}: right", file.config.display());
                Ok(())
            }
        }
    }
}

/// Asks the daemon to snooze or to wake, and says what it does now.
fn snooze(control: &Path, request: Request) -> anyhow::Result<()> {
    let answer = control::ask(control, request)?;
    let seconds_left = answer.get("seconds_left").and_then(serde_json::Value::as_u64);
    println!("{}", describe_snooze(seconds_left, crate::unix_now_s()));
    Ok(())
}

fn describe_snooze(seconds_left: Option<u64>, now: u64) -> String {
    match seconds_left {
        Some(seconds) => format!(
            "snoozing until {} ({seconds} s): new connections stay on the bridge, unscanned; \
             `avr resume` ends it",
            Timestamp::from_unix(now.saturating_add(seconds))
        ),
        None => "awake: new connections are intercepted".to_owned(),
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

    #[test]
    fn the_verbs_are_read() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
        for good in [
            &["trace", "001122", "--json", "--config", "avr.toml"][..],
            &["quarantine", "list", "--config", "avr.toml"],
            &["quarantine", "--config", "avr.toml", "show", "darkq047sw"],
            &["snooze", "30m", "--control", "control.sock"],
            &["snooze", "off"],
            &["resume"],
            &["status", "--json", "--control", "control.sock"],
            &["update", "--", "avr-qemu-x86_64-0.2.0.update.tar"],
            &["update", "--restart", "a.tar"],
            &["update", "--ca", "ca.pem", "https://updates.example.net/a.tar"],
            &["updates", "--config", "avr.toml"],
            &["updates", "--once"],
            &["slots"],
            &["slots", "--json"],
            &["slots", "switch", "--restart"],
            &["page", "--interface", "br0", "--https", "127.0.0.1:8443"],
        ] {
            Arguments::try_parse_from([&["avr"], good].concat()).unwrap();
        }
        for bad in [&["snooze"][..], &["snooze", "30"], &["trace"], &["quarantine"], &["update"]] {
            Arguments::try_parse_from([&["avr"], bad].concat()).unwrap_err();
        }
        assert_eq!("off".parse(), Ok(SnoozeTime::Off));
    }

    #[test]
    fn a_snooze_is_told_with_its_end() {
        let text = describe_snooze(Some(1_800), 1_790_000_000);
        assert!(text.starts_with("snoozing until 2026-09-21T14:43:20Z (1800 s): "), "{text}");
        assert!(describe_snooze(None, 0).starts_with("awake"));
    }
}
