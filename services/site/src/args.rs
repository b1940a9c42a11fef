//! The command line, and what each command is made of.

use std::io::{BufRead, IsTerminal as _, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, Parser, Subcommand};
use service_kit::host::unix_now_s;
use wire::identity::Role;
use wire::{AUTHER_PORT, MANAGER_PORT, PROXY_PORT};

use crate::bundle::Bundle;
use crate::check::Check;
use crate::diag::{Outcome, Report};
use crate::dns::exchange::Transport;
use crate::dns::key::{KEY_FILE_BYTES_MAX, Key};
use crate::dns::zone::{DNS_PORT, Resolver};
use crate::drain::{self, Order, Whom};
use crate::init::{self, Given, Init};
use crate::install::Target;
use crate::plan::{Forward, PROXIES_MAX, SITE_FILE, Site, name_in, parse_domain};
use crate::programs::Programs;
use crate::records::{self, Request, TTL_S_MAX, TTL_S_MIN};

/// Sets up a relay site, checks it, and takes it in and out of DNS.
#[derive(Debug, Parser)]
#[command(name = "avr-site", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Collect what a new server needs of the fleet, where `avr-auther init` and `issue` put it.
    Bundle(BundleArgs),
    /// Write all files of a server of this site: settings, keys, port forwarding, change in DNS.
    Init(InitArgs),
    /// Look whether everything of the site answers, and say what is wrong.
    Check(CheckArgs),
    /// Put this site's addresses into DNS, so that boxes find it.
    Join(JoinArgs),
    /// Take this site's addresses out of DNS, so that traffic moves to the others.
    Leave(LeaveArgs),
    /// Give a proxy or the whole site no new sessions; the old ones finish.
    Drain {
        #[command(flatten)]
        manager: ManagerArgs,
        /// Return when no session is left, and show how many are until then.
        #[arg(long)]
        wait: bool,
    },
    /// Give it sessions again.
    Undrain {
        #[command(flatten)]
        manager: ManagerArgs,
    },
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// From another machine: only what the internet sees at this address.
    #[arg(long, value_name = "ADDRESS", requires = "bundle")]
    from_outside: Vec<IpAddr>,
    /// With --from-outside: a fleet bundle, by which to know the fleet's servers.
    #[arg(long, value_name = "DIR", requires = "from_outside")]
    bundle: Option<PathBuf>,
    /// With --from-outside: how many proxies are forwarded, from port 4652 on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_proxies)]
    proxies: u16,
    /// With --from-outside: the site has no auther.
    #[arg(long)]
    no_auther: bool,
    /// Where `avr-site init` wrote.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// A time server to compare the clock with, beside those of the site.
    #[arg(long, value_name = "HOST")]
    ntp: Vec<String>,
    /// Who finds the zone's servers, if not the system's resolver.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_server)]
    resolver: Option<SocketAddr>,
    /// Where the servers' programs are, if neither beside this one nor in PATH.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// For machines.
    #[arg(long)]
    json: bool,
}

/// Which manager is told, and of what.
#[derive(Debug, clap::Args)]
struct ManagerArgs {
    /// A proxy, by its local or public address; the whole site without one.
    #[arg(value_name = "PROXY")]
    proxy: Option<String>,
    /// Where `avr-site init` wrote.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where avr-manager is, if neither beside this one nor in PATH.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct BundleArgs {
    /// The folder of `avr-auther init`.
    #[arg(long, value_name = "DIR")]
    fleet: PathBuf,
    /// The server's name, as given to `avr-auther issue`.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The domain under which boxes look for sites, as in avr.example.net.
    #[arg(long, value_name = "DOMAIN")]
    domain: String,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// The fleet bundle (a folder of `avr-site bundle`).
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// What the internet sees of the site; once for each family.
    #[arg(long, value_name = "ADDRESS")]
    public: Vec<String>,
    /// Local address of a proxy; once for each share of the sessions it takes.
    #[arg(long, value_name = "ADDRESS")]
    proxy: Vec<String>,
    /// Local address of a manager.
    #[arg(long, value_name = "ADDRESS")]
    manager: Vec<String>,
    /// Local address of the auther, if this site has one; once for each family.
    #[arg(long, value_name = "ADDRESS")]
    auther: Vec<String>,
    /// A clamd server of the site.
    #[arg(long, value_name = "ADDRESS:PORT")]
    clamd: Vec<String>,
    /// An ICAP service of the site.
    #[arg(long, value_name = "URL")]
    icap: Vec<String>,
    /// A time server that `avr-site check` compares the clock with.
    #[arg(long, value_name = "HOST")]
    ntp: Vec<String>,
    /// Write below this folder.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The group that may read keys: the one that the servers run as.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Where the servers' programs are, if neither beside this one nor in PATH.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Change files that are there; shows what changes.
    #[arg(long)]
    force: bool,
    /// Show all files, and write none.
    #[arg(long)]
    dry_run: bool,
    /// Ask nothing, even on a terminal.
    #[arg(long)]
    no_questions: bool,
}

/// Which zone, and who says that one may change it.
#[derive(Debug, clap::Args)]
struct ZoneArgs {
    /// The TSIG key: what `tsig-keygen` or `keymgr -t` printed.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Which key, where the file holds several.
    #[arg(long, value_name = "NAME")]
    key_name: Option<String>,
    /// Where `avr-site init` wrote what this site is.
    #[arg(long, value_name = "FILE", default_value = "/etc/avr/site.toml")]
    site: PathBuf,
    /// The fleet's domain, instead of the site file's.
    #[arg(long, value_name = "DOMAIN", requires = "address")]
    domain: Option<String>,
    /// This site's public address, instead of those of the site file.
    #[arg(long, value_name = "ADDRESS", requires = "domain")]
    address: Vec<IpAddr>,
    /// Change auther.DOMAIN too.
    #[arg(long)]
    auther: bool,
    /// The zone, if not what DNS says.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// The zone's primary server, if not the one its SOA record names.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_server)]
    server: Option<SocketAddr>,
    /// Who finds the zone's servers, if not the system's resolver.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_server)]
    resolver: Option<SocketAddr>,
    /// Send the update by UDP.
    #[arg(long)]
    udp: bool,
    /// How long the zone's other servers may take to follow, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct JoinArgs {
    #[command(flatten)]
    zone: ZoneArgs,
    /// How long boxes keep the addresses, and so how long traffic takes to move: as 20m, 90s, 1h.
    #[arg(long, value_name = "TIME", default_value = "20m", value_parser = parse_ttl)]
    ttl: u32,
}

#[derive(Debug, clap::Args)]
struct LeaveArgs {
    #[command(flatten)]
    zone: ZoneArgs,
    /// Even if no site is left then.
    #[arg(long)]
    last: bool,
}

/// The command line's definition, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

/// Does what the command line says; what is to be shown goes to `out`.
///
/// # Errors
/// With what to do about it.
pub fn run(args: Args, out: &mut dyn Write) -> anyhow::Result<()> {
    match args.command {
        Command::Bundle(args) => bundle(&args, out),
        Command::Init(args) => {
            let stdin = std::io::stdin();
            let mut lock = stdin.lock();
            let asks = stdin.is_terminal() && !args.no_questions;
            let person = asks.then_some(&mut lock as &mut dyn BufRead);
            init::run(&init_of(args)?, person, out)
        }
        Command::Check(args) => check(&args, out),
        Command::Drain { manager, wait } => manager.tell(&Order::Drain { wait }, out),
        Command::Undrain { manager } => manager.tell(&Order::Undrain, out),
        Command::Join(args) => {
            let (request, key) = args.zone.request(out)?;
            block_on(records::join(&request, &key, args.ttl, out))
        }
        Command::Leave(args) => {
            let (request, key) = args.zone.request(out)?;
            block_on(records::leave(&request, &key, args.last, out))
        }
    }
}

fn bundle(args: &BundleArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let bundle = Bundle::collect(&args.fleet, &args.name, &args.domain, unix_now_s)?;
    for file in bundle.write(&args.out)? {
        writeln!(out, "wrote {}", file.display())?;
    }
    let roles: Vec<&str> = bundle.roles.iter().map(|role| role.name()).collect();
    writeln!(
        out,
        "Carry {} to {}, which may be {}: it holds keys. Then, there: avr-site init --bundle DIR",
        args.out.display(),
        bundle.name,
        roles.join(", ")
    )?;
    Ok(())
}

fn init_of(args: InitArgs) -> anyhow::Result<Init> {
    let group = match &args.group {
        Some(name) => Some(
            nix::unistd::Group::from_name(name)
                .with_context(|| format!("--group: cannot look for {name}"))?
                .with_context(|| format!("--group: there is no group {name}; make it first"))?
                .gid
                .as_raw(),
        ),
        None => None,
    };
    // A flag that is not there was not given; one without a value cannot be written.
    let given = |list: Vec<String>| (!list.is_empty()).then_some(list);
    Ok(Init {
        bundle: args.bundle,
        given: Given {
            public: given(args.public),
            auther: given(args.auther),
            manager: given(args.manager),
            proxy: given(args.proxy),
            clamd: given(args.clamd),
            icap: given(args.icap),
            ntp: given(args.ntp),
        },
        target: Target { root: args.root, group },
        force: args.force,
        dry_run: args.dry_run,
        programs: programs(args.programs.as_deref()),
        clock: unix_now_s,
    })
}

fn check(args: &CheckArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let check = Check {
        clock: unix_now_s,
        resolver: Resolver::new(args.resolver).map_err(|error| error.to_string()),
        programs: programs(args.programs.as_deref()),
    };
    let report = match &args.bundle {
        Some(bundle) => {
            let bundle = Bundle::load(bundle, unix_now_s)?;
            let forwards: Vec<Forward> =
                args.from_outside.iter().flat_map(|address| seen(*address, args)).collect();
            block_on(check.outside(&bundle, &forwards))?
        }
        None => {
            let site = Site::load(&args.root.join(SITE_FILE))
                .context("which site? `avr-site init` writes site.toml; or say --from-outside")?;
            block_on(async { Ok(check.inside(&site, &args.root, &args.ntp).await) })?
        }
    };
    show(&report, args.json, out)
}

/// What has to answer at a public address.
fn seen(address: IpAddr, args: &CheckArgs) -> Vec<Forward> {
    let at =
        |role, port| Forward { role, public: SocketAddr::new(address, port), local: Vec::new() };
    let auther = (!args.no_auther).then(|| at(Role::Auther, AUTHER_PORT));
    let proxies = (PROXY_PORT..PROXY_PORT + args.proxies).map(|port| at(Role::Proxy, port));
    auther.into_iter().chain([at(Role::Manager, MANAGER_PORT)]).chain(proxies).collect()
}

fn show(report: &Report, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", report.to_text())?;
    }
    let (wrong, doubtful) = (report.count(Outcome::Wrong), report.count(Outcome::Doubtful));
    if wrong > 0 {
        bail!("{wrong} of {} checks are wrong; each says what to do", report.lines().len());
    }
    if !json {
        match doubtful {
            0 => writeln!(out, "Everything answers.")?,
            n => writeln!(out, "Everything answers; {n} things should be seen to.")?,
        }
    }
    Ok(())
}

impl ManagerArgs {
    fn tell(self, order: &Order, out: &mut dyn Write) -> anyhow::Result<()> {
        let whom = self.proxy.map_or(Whom::Site, Whom::Proxy);
        let settings = self.root.join("etc/avr/manager.toml");
        drain::tell(order, &whom, &settings, &programs(self.programs.as_deref()), out)
    }
}

fn programs(given: Option<&Path>) -> Programs {
    Programs::new(given, std::env::var_os("PATH").as_deref())
}

impl ZoneArgs {
    fn request(&self, out: &mut dyn Write) -> anyhow::Result<(Request, Key)> {
        let key = read_key(&self.key, self.key_name.as_deref())?;
        if is_open(&self.key) {
            let file = self.key.display();
            writeln!(out, "Note: every user of this machine can read {file}; chmod o= {file}")?;
        }
        let (domain, addresses) = match &self.domain {
            Some(domain) => (parse_domain(domain)?, self.address.clone()),
            None => {
                let site = Site::load(&self.site).with_context(|| {
                    format!(
                        "which site? `avr-site init` writes /{SITE_FILE}; or say --domain and \
                         --address"
                    )
                })?;
                (site.domain.clone(), site.public)
            }
        };
        let roles = [Role::Manager, Role::Auther].into_iter().take(1 + usize::from(self.auther));
        let zone = match &self.zone {
            Some(zone) => Some(parse_domain(zone).map_err(|wrong| {
                anyhow::anyhow!(
                    "--zone: {}; write the zone's name, as in example.net",
                    wrong.problem
                )
            })?),
            None => None,
        };
        let request = Request {
            names: roles.map(|role| name_in(role, &domain)).collect(),
            addresses,
            resolver: match (self.resolver, self.server) {
                // A primary that is named may be all there is.
                (None, Some(server)) => {
                    Resolver::new(None).or_else(|_| Resolver::new(Some(server)))
                }
                (given, _) => Resolver::new(given),
            }?,
            zone,
            server: self.server,
            transport: if self.udp { Transport::Udp } else { Transport::Tcp },
            wait: Duration::from_secs(self.wait),
            clock: unix_now_s,
            dry_run: self.dry_run,
        };
        Ok((request, key))
    }
}

fn read_key(path: &Path, name: Option<&str>) -> anyhow::Result<Key> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .with_context(|| format!("--key: cannot read {}", path.display()))?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        bail!("--key: {} is larger than {KEY_FILE_BYTES_MAX} bytes; is it a key?", path.display());
    }
    Key::parse(&text, name).with_context(|| path.display().to_string())
}

/// Whether others than its owner and group read a file.
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

fn parse_server(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT)))
        .map_err(|_| "write an address, with a port if it is not 53, as in 192.0.2.53".to_owned())
}

fn parse_proxies(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|n| (1..=PROXIES_MAX).contains(&usize::from(*n)));
    count.ok_or_else(|| format!("write a number from 1 to {PROXIES_MAX}"))
}

fn parse_ttl(text: &str) -> Result<u32, String> {
    let remedy =
        || format!("write a time from {TTL_S_MIN}s to {}h, as in 20m or 90s", TTL_S_MAX / 3600);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match text.get(digits.len()..) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        _ => return Err(remedy()),
    };
    let count: u32 = digits.parse().map_err(|_| remedy())?;
    let seconds = count.checked_mul(unit_s).filter(|s| (TTL_S_MIN..=TTL_S_MAX).contains(s));
    seconds.ok_or_else(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::TTL_S_DEFAULT;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn times_to_live() {
        assert_eq!(parse_ttl("20m"), Ok(TTL_S_DEFAULT));
        assert_eq!(parse_ttl("90"), Ok(90));
        assert_eq!(parse_ttl("24h"), Ok(TTL_S_MAX));
        for bad in ["0", "25h", "20 m", "m", "-1", "1d", "99999999999", ""] {
            assert!(parse_ttl(bad).unwrap_err().contains("as in 20m or 90s"), "{bad}");
        }
    }

    #[test]
    fn servers_have_port_53_unless_told() {
        assert_eq!(parse_server("192.0.2.53"), Ok("192.0.2.53:53".parse().unwrap()));
        assert_eq!(parse_server("[::1]:5353"), Ok("[::1]:5353".parse().unwrap()));
        assert_eq!(parse_server("::1"), Ok("[::1]:53".parse().unwrap()));
        assert!(parse_server("ns1.example.net").is_err());
    }

    #[test]
    fn a_key_file_that_is_none_is_named_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "key x {\n}").unwrap();
        let error = format!("{:#}", read_key(&path, None).unwrap_err());
        assert!(error.contains("/key: line 2: "), "{error}");
        let set_mode = |mode| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode(0o644);
        assert!(is_open(&path));
        set_mode(0o640);
        assert!(!is_open(&path));
        std::fs::write(&path, " ".repeat(70_000)).unwrap();
        assert!(read_key(&path, None).unwrap_err().to_string().contains("is it a key?"));
        let error = read_key(&path.join("x"), None).unwrap_err().to_string();
        assert!(error.starts_with("--key: cannot read "), "{error}");
    }
}
