//! The lab: an office behind the box, the internet, and two sites.
//!
//! ```text
//!  pc ── lan0[box]wan0 ── office ──┐                      ┌── tokyo ── manager, proxy1, proxy2,
//!  192.168.10.0/24        (NAT)    │                      │   (NAT)    auther, scanner 10.0.0.0/24
//!                                  ├── exchange (router) ─┤
//!  dns, mail, web  203.0.113.0/24 ─┘                      └── osaka ── the same again 10.0.0.0/24
//! ```

use std::{
    env, fs,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use serde_json::Value;

use crate::{
    clock::wait_for,
    daemon::{Daemon, tail},
    failures::relay_in_use,
    fleet::Fleet,
    gateway::{Gateway, Options},
    netns::{Netns, cable, run_command},
    plan::{
        DNS, EXCHANGE, EXCHANGE6, MAIL, MAIL_PORTS, MAIL6, OFFICE, OFFICE_PUBLIC, OFFICE_PUBLIC6,
        OFFICE6, PC, PC6, ROOT, SITES, Size, WEB,
    },
    servers::{Dns, MailHost, open_directory, start_web},
    site::Site,
};

/// Files that one process of the lab may have open: 1,000 sessions and more.
const OPEN_FILES: u64 = 65_536;

/// Names a directory in the environment; the programs' logs are copied there at the end.
const KEEP_LOGS: &str = "AVR_LAB_LOGS";
/// Longest that the kernel may go on with a connection after its line is mended.
const FORGET_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the answer of a router, which is next door.
const PROBE_MAX: Duration = Duration::from_millis(300);
/// The network's half of an IPv6 address.
const NETWORK6: u128 = !0 << 64;
/// Longest that an emulated machine may take from its power to carrying sessions.
const MACHINE_MAX: Duration = Duration::from_secs(240);
/// Nothing listens there.
const CLOSED_PORT: u16 = 9;

/// Everything that is there. Dropping it kills the servers; the namespaces go with the process.
#[derive(Debug)]
pub struct Lab {
    logs: PathBuf,
    root: PathBuf,
    pc: Netns,
    office: Netns,
    mail_netns: Netns,
    gateway: Gateway,
    mail: MailHost,
    sites: Vec<Site>,
    programs: Option<PathBuf>,
    fleet: Option<Fleet>,
    download: Vec<u8>,
    dns: Dns,
    _web: Daemon,
}

impl Lab {
    /// Starts a lab, gives it to `scenario`, and ends it. Only inside the sandbox.
    ///
    /// # Errors
    /// What fails in the lab or in the scenario, with the ends of the programs' logs.
    pub fn run<T>(size: Size, scenario: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let logs = Path::new(ROOT).join("log");
        let done = Self::start(size).and_then(|mut lab| scenario(&mut lab));
        if let Some(directory) = env::var_os(KEEP_LOGS) {
            keep_logs(&logs, Path::new(&directory))?;
        }
        done.map_err(|error| error.context(all_tails(&logs)))
    }

    /// Builds the networks and starts the internet's servers. The box is a plain bridge, and the
    /// sites are empty machines: [`Self::start_product`] changes both.
    fn start(size: Size) -> Result<Self> {
        let root = PathBuf::from(ROOT);
        let logs = root.join("log");
        fs::create_dir_all(&logs)?;
        open_directory(&root)?;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)?;
        resolve_by_lab(&root)?;

        let exchange = Netns::create("exchange")?;
        exchange.ip(&[
            "link add hosts type bridge",
            &format!("addr add {EXCHANGE}/24 dev hosts"),
            &format!("addr add {EXCHANGE6}/64 dev hosts nodad"),
            "link set hosts up",
            &format!(
                "route add {}/64 via {OFFICE_PUBLIC6}",
                Ipv6Addr::from_bits(PC6.to_bits() & NETWORK6)
            ),
        ])?;
        exchange.forward_packets()?;
        let dns_netns = host(&exchange, "dns", DNS, None)?;
        let mail_netns = host(&exchange, "mail", MAIL, Some(MAIL6))?;
        let web_netns = host(&exchange, "web", WEB, None)?;
        let office = host(&exchange, "office", OFFICE_PUBLIC, Some(OFFICE_PUBLIC6))?;
        let pc = Netns::create("pc")?;
        let gateway = Gateway::build((&pc, "eth0"), (&office, "lan"), &root, &logs)?;
        finish_office(&pc, &office)?;

        // Slow starters first, all at once; waited for afterwards.
        let sites = SITES
            .into_iter()
            .take(size.sites)
            .map(|site| Site::build(site, size.scanners, &exchange, (&root, &logs)))
            .collect::<Result<Vec<_>>>()?;
        let listed: Vec<_> = sites.iter().map(Site::public).collect();
        let mail = MailHost::start(&mail_netns, &root, &logs)?;
        let dns = Dns::start(&dns_netns, &root, &logs, &listed)?;
        let (web, download) = start_web(&web_netns, &root, &logs)?;
        Ok(Self {
            logs,
            root,
            pc,
            office,
            mail_netns,
            gateway,
            mail,
            sites,
            programs: None,
            fleet: None,
            download,
            dns,
            _web: web,
        })
    }

    /// Makes the fleet's keys, starts the sites' servers and the box, and waits until the box
    /// carries sessions through a site.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start_product(&mut self) -> Result<()> {
        self.make_fleet()?;
        self.start_sites()?;
        self.start_box(Options::default())?;
        self.wait_relaying()
    }

    /// The same with the box's disk image in QEMU in place of its program.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn start_machine(&mut self, image: &Path) -> Result<()> {
        self.make_fleet()?;
        self.start_sites()?;
        self.gateway.become_machine(self.fleet.as_ref().context("no fleet yet")?, image)?;
        self.wait_way()
    }

    /// Takes the programs under test from `directory`, and not from beside this one.
    pub fn use_programs(&mut self, directory: &Path) {
        self.programs = Some(directory.to_owned());
    }

    /// Makes the fleet's keys.
    ///
    /// # Errors
    /// When `avr-auther` does not.
    pub fn make_fleet(&mut self) -> Result<()> {
        self.fleet = Some(Fleet::create(&self.root, self.programs.as_deref())?);
        Ok(())
    }

    /// Starts the sites' servers. Needs [`Self::make_fleet`].
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start_sites(&mut self) -> Result<()> {
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        self.sites.iter_mut().try_for_each(|site| site.start_servers(fleet))
    }

    /// Has the operator make a site by its commands. Needs [`Self::make_fleet`].
    ///
    /// # Errors
    /// When a command fails, or a server does not come up.
    pub fn make_site(&mut self, site: &str) -> Result<()> {
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        let found = self.sites.iter_mut().find(|candidate| candidate.name() == site);
        found.with_context(|| format!("no site {site}"))?.make(fleet)
    }

    /// What `avr-site check` says at a site.
    ///
    /// # Errors
    /// When something is wrong.
    pub fn check_site(&mut self, site: &str) -> Result<String> {
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        let found = self.sites.iter().find(|candidate| candidate.name() == site);
        found.with_context(|| format!("no site {site}"))?.check(fleet)
    }

    /// Has the operator `drain` or `undrain` a site, with options.
    ///
    /// # Errors
    /// When that is refused.
    pub fn drain_site(&mut self, site: &str, verb: &[&str]) -> Result<String> {
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        let found = self.sites.iter().find(|candidate| candidate.name() == site);
        found.with_context(|| format!("no site {site}"))?.drain(fleet, verb)
    }

    /// Has the operator of a site `join` or `leave`.
    ///
    /// # Errors
    /// When that is refused.
    pub fn change_dns(&mut self, site: &str, verb: &str) -> Result<String> {
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        let found = self.sites.iter().find(|candidate| candidate.name() == site);
        let key = self.dns.update_key()?;
        found.with_context(|| format!("no site {site}"))?.change_dns(fleet, verb, &key)
    }

    /// Has the operator `add`, `suspend`, `resume` or `remove` the box at every site's auther.
    ///
    /// # Errors
    /// When `avr-auther` refuses.
    pub fn operate(&self, verb: &str) -> Result<()> {
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        self.sites.iter().try_for_each(|site| site.operate(fleet, verb))
    }

    /// Starts `avr` on the box.
    ///
    /// # Errors
    /// When it does not come to intercept.
    pub fn start_box(&mut self, options: Options) -> Result<()> {
        self.gateway.start(self.fleet.as_ref().context("no fleet yet")?, options)
    }

    /// Ends `avr`: the box is a plain bridge.
    ///
    /// # Errors
    /// When it does not end when asked.
    pub fn stop_box(&mut self) -> Result<()> {
        self.gateway.stop()
    }

    /// Kills `avr` (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_box(&mut self) -> Result<()> {
        self.gateway.kill()
    }

    /// Starts again whatever of the sites was killed, and mends every line.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn restore_sites(&mut self) -> Result<()> {
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        self.dns.start_again()?;
        self.dns.list(&self.sites.iter().map(Site::public).collect::<Vec<_>>())?;
        for site in &mut self.sites {
            site.mend()?;
            site.restart_killed(fleet)?;
        }
        self.wait_forgotten()
    }

    /// Starts all servers of a site again, with clocks that are wrong by so much, as in `+3d`.
    ///
    /// # Errors
    /// When they do not listen.
    pub fn set_clocks(&mut self, site: &str, clock: &'static str) -> Result<()> {
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        let found = self.sites.iter_mut().find(|candidate| candidate.name() == site);
        found.with_context(|| format!("no site {site}"))?.set_clocks(fleet, clock)
    }

    /// From now on the DNS server lists these sites only.
    ///
    /// # Errors
    /// When it does not run.
    pub fn list_sites(&mut self, is_listed: impl Fn(&Site) -> bool) -> Result<()> {
        let listed: Vec<_> =
            self.sites.iter().filter(|site| is_listed(site)).map(Site::public).collect();
        self.dns.list(&listed)
    }

    /// The connections that the box has open to a site. The site may know of more: those that the box
    /// gave up while no packet reached the site.
    ///
    /// # Errors
    /// When the box's kernel does not tell.
    pub fn connections_to(&self, site: &str) -> Result<Vec<String>> {
        let found = self.sites.iter().find(|candidate| candidate.name() == site);
        let public = found.with_context(|| format!("no site {site}"))?.public();
        let mut command = self.gateway.netns().command("ss");
        command.args(["-H", "-t", "-n", "state", "established", "dst"]).arg(public.to_string());
        Ok(run_command(&mut command)?.lines().map(str::to_owned).collect())
    }

    /// Kills the DNS server (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_dns(&mut self) -> Result<()> {
        self.dns.kill()
    }

    /// Waits until the box's kernel has nothing left to say on connections that `avr` gave up while
    /// a line was cut: what it says late could look like a session of its own.
    fn wait_forgotten(&self) -> Result<()> {
        let states = ["state", "fin-wait-1", "state", "closing", "state", "last-ack"];
        wait_for("connections that were given up to end", FORGET_MAX, || {
            let mut command = self.gateway.netns().command("ss");
            command.args(["-H", "-t", "-n"]).args(states);
            run_command(&mut command).ok()?.trim().is_empty().then_some(())
        })
    }

    /// What `avr status --json` says.
    ///
    /// # Errors
    /// When the box does not run.
    pub fn status(&self) -> Result<Value> {
        self.gateway.status(self.fleet.as_ref().context("no fleet yet")?)
    }

    /// What `avr` says to a verb that works without the daemon, as in `["trace", "..."]`.
    ///
    /// # Errors
    /// When it fails; with what it says.
    pub fn ask_box(&self, verb: &[&str]) -> Result<String> {
        self.gateway.ask(self.fleet.as_ref().context("no fleet yet")?, verb)
    }

    /// What `avr-proxy` of a site's proxy (1 or 2) says to such a verb.
    ///
    /// # Errors
    /// When there is none, or it fails; with what it says.
    pub fn ask_proxy(&self, site: &str, number: usize, verb: &[&str]) -> Result<String> {
        let site = self.sites.iter().find(|candidate| candidate.name() == site);
        let fleet = self.fleet.as_ref().context("no fleet yet")?;
        site.context("a site that is not")?.ask_proxy(number, fleet, verb)
    }

    /// Waits until a site's manager has logged this.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_manager_log(&mut self, site: &str, text: &str) -> Result<()> {
        self.site(site)?.wait_manager_log(text)
    }

    /// Waits until the box's status is as wanted.
    ///
    /// # Errors
    /// When it does not become so; the last status is in the error.
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.gateway.wait_status(self.fleet.as_ref().context("no fleet yet")?, what, wanted)
    }

    /// Puts all in order after a step that failed: sites, lines, the box.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn restore(&mut self) -> Result<()> {
        self.restore_sites()?;
        if self.gateway.id().is_none() && !self.gateway.is_machine() {
            self.start_box(Options::default())?;
        }
        self.wait_relaying()
    }

    /// Waits until the next session would go through a site over a link that is ready, and no
    /// manager is held to be dead or slow.
    ///
    /// # Errors
    /// When that does not come.
    pub fn wait_relaying(&self) -> Result<()> {
        if self.gateway.is_machine() {
            self.wait_links()?;
            return self.wait_way();
        }
        self.wait_status("no manager dead, and a warm link", |status| {
            let managers = status.pointer("/relay/managers").and_then(Value::as_array);
            managers.is_some_and(|managers| managers.len() == self.sites.len())
                && managers.into_iter().flatten().all(|manager| is_up_or_unknown(&manager["state"]))
                && is_warm(status)
        })
        .map(drop)
    }

    /// Waits until the next session would go through a site over a link that is ready.
    ///
    /// # Errors
    /// When that does not come.
    pub fn wait_warm(&self) -> Result<()> {
        if self.gateway.is_machine() {
            return wait_for("a connection of the box at a proxy", MACHINE_MAX, || {
                self.sites.iter().any(|site| site.is_warm().unwrap_or(false)).then_some(())
            });
        }
        self.wait_status("a warm link", is_warm).map(drop)
    }

    /// Waits until sessions go through a site, by opening some.
    fn wait_way(&self) -> Result<()> {
        wait_for("a session to go through a site", MACHINE_MAX, || relay_in_use(self).ok())
            .map(drop)
    }

    /// Waits until every manager holds a connection of the box: one that it takes for dead has none.
    fn wait_links(&self) -> Result<()> {
        wait_for("a connection of the box at every manager", MACHINE_MAX, || {
            self.sites.iter().all(|site| site.is_linked().unwrap_or(false)).then_some(())
        })
    }

    /// Whether the site's router answers from the office: a closed port says so at once.
    ///
    /// # Errors
    /// When the office's network cannot be entered.
    pub fn reaches(&self, site: &Site) -> Result<bool> {
        let closed = SocketAddr::from((site.public(), CLOSED_PORT));
        let answer = self.office.within(|| TcpStream::connect_timeout(&closed, PROBE_MAX))?;
        Ok(answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
    }

    /// The office's PC.
    #[must_use]
    pub fn pc(&self) -> &Netns {
        &self.pc
    }

    /// The office's router.
    #[must_use]
    pub fn office(&self) -> &Netns {
        &self.office
    }

    /// The box.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The machine of the mail servers.
    #[must_use]
    pub fn mail_netns(&self) -> &Netns {
        &self.mail_netns
    }

    /// The sites, in the order of the DNS answer.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// A site by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn site(&mut self, name: &str) -> Result<&mut Site> {
        let found = self.sites.iter_mut().find(|site| site.name() == name);
        found.with_context(|| format!("no site {name}"))
    }

    pub(crate) fn mail(&self) -> &MailHost {
        &self.mail
    }

    /// The folder of the mail host's mailboxes: whoever makes one there can log in by its name.
    #[must_use]
    pub fn maildirs(&self) -> PathBuf {
        self.mail.maildirs()
    }

    /// The bytes that the web server offers.
    #[must_use]
    pub fn download(&self) -> &[u8] {
        &self.download
    }

    /// Where the lab may write.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the programs' logs are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }
}

/// A manager that was never asked is not known to be up.
fn is_up_or_unknown(state: &Value) -> bool {
    *state == "up" || *state == "unknown"
}

fn is_warm(status: &Value) -> bool {
    status.pointer("/relay/route/warm").is_some()
}

/// A host on the public network of the exchange.
fn host(
    exchange: &Netns,
    name: &str,
    address: Ipv4Addr,
    address6: Option<Ipv6Addr>,
) -> Result<Netns> {
    let netns = Netns::create(name)?;
    cable((&netns, "eth0"), (exchange, name))?;
    exchange.ip(&[&format!("link set {name} master hosts")])?;
    netns.ip(&[
        &format!("addr add {address}/24 dev eth0"),
        &format!("route add default via {EXCHANGE}"),
    ])?;
    if let Some(address6) = address6 {
        netns.ip(&[
            &format!("addr add {address6}/64 dev eth0 nodad"),
            &format!("route add default via {EXCHANGE6}"),
        ])?;
    }
    Ok(netns)
}

/// The office's network, and its router: NAT, as offices have, and a count of direct mail sessions.
fn finish_office(pc: &Netns, office: &Netns) -> Result<()> {
    pc.ip(&[
        &format!("addr add {PC}/24 dev eth0"),
        &format!("addr add {PC6}/64 dev eth0 nodad"),
        &format!("route add default via {OFFICE}"),
        &format!("route add default via {OFFICE6}"),
    ])?;
    office.ip(&[
        &format!("addr add {OFFICE}/24 dev lan"),
        &format!("addr add {OFFICE6}/64 dev lan nodad"),
    ])?;
    office.forward_packets()?;
    office.nft(&format!(
        "table ip nat {{
chain line {{ type nat hook postrouting priority srcnat; oifname \"eth0\" masquerade; }}
}}
table inet count {{
counter direct {{ }}
chain forward {{
type filter hook forward priority 0;
ct state new ip daddr {MAIL} tcp dport {{ {MAIL_PORTS} }} counter name direct
ct state new ip6 daddr {MAIL6} tcp dport {{ {MAIL_PORTS} }} counter name direct
}}
}}"
    ))
}

/// Names are asked of the lab's own DNS server, by every program of the lab.
fn resolve_by_lab(root: &Path) -> Result<()> {
    let settings = root.join("resolv.conf");
    fs::write(&settings, format!("nameserver {DNS}\n"))?;
    let system = Path::new("/etc/resolv.conf");
    // On some systems it points into /run, which is empty here.
    if let Ok(target) = fs::read_link(system)
        && !system.exists()
    {
        let target = Path::new("/etc").join(target);
        fs::create_dir_all(target.parent().context("a link to nowhere")?)?;
        fs::write(&target, "")?;
    }
    mount(Some(&settings), system, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context("cannot put the lab's resolv.conf in place")
}

fn keep_logs(logs: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(logs)? {
        let entry = entry?;
        fs::copy(entry.path(), directory.join(entry.file_name()))?;
    }
    Ok(())
}

fn all_tails(logs: &Path) -> String {
    let mut files: Vec<_> = fs::read_dir(logs)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    files.sort();
    let tails: Vec<_> = files.iter().map(|file| tail(file)).collect();
    format!("the lab's logs:\n{}", tails.join("\n"))
}
