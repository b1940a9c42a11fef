//! A relay site: a router with one public address that forwards ports, and behind it a manager,
//! two proxies, an auther and its scanners, on addresses that every site uses again.

mod making;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    fleet::Fleet,
    netns::{Netns, cable, run_command},
    plan::{
        AUTHER, AUTHER_PORT, MAIL_PORTS, MANAGER, MANAGER_PORT, PROXIES, PROXY_PORT,
        PROXY_PUBLIC_PORTS, SCANNER_PORT, SCANNERS, SITE_NETWORK, SITE_ROUTER, SitePlan,
        TEST_NETWORKS,
    },
    scanner::Scanner,
    server::Server,
};

/// One of a site's servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What admits boxes.
    Auther,
    /// What names proxies.
    Manager,
    /// A proxy, counted from 0.
    Proxy(usize),
    /// A `clamd`, counted from 0.
    Scanner(usize),
}

impl Part {
    fn address(self) -> Result<Ipv4Addr> {
        match self {
            Self::Auther => Some(AUTHER),
            Self::Manager => Some(MANAGER),
            Self::Proxy(index) => PROXIES.get(index).copied(),
            Self::Scanner(index) => SCANNERS.get(index).copied(),
        }
        .context("no such server")
    }
}

/// One site, and what runs on it.
#[derive(Debug)]
pub struct Site {
    plan: SitePlan,
    registry: PathBuf,
    router: Netns,
    auther: Server,
    manager: Server,
    proxies: Vec<Server>,
    scanners: Vec<Scanner>,
}

impl Site {
    /// Builds the machines, cables the router to the internet, and starts the scanners.
    pub(crate) fn build(
        plan: SitePlan,
        scanners: usize,
        exchange: &Netns,
        (root, logs): (&Path, &Path),
    ) -> Result<Self> {
        let SitePlan { name, public, upstream, .. } = plan;
        let router = Netns::create(name)?;
        cable((&router, "line"), (exchange, name))?;
        let (near6, far6) = (plan.line6(1), plan.line6(0x254));
        exchange.ip(&[
            &format!("addr add {upstream}/24 dev {name}"),
            &format!("addr add {far6}/64 dev {name} nodad"),
            &format!("route add {}/64 via {near6}", plan.inner6(0)),
        ])?;
        router.ip(&[
            &format!("addr add {public}/24 dev line"),
            &format!("addr add {near6}/64 dev line nodad"),
            &format!("route add default via {upstream}"),
            &format!("route add default via {far6}"),
            "link add lan type bridge",
            &format!("addr add {SITE_ROUTER}/24 dev lan"),
            &format!("addr add {}/64 dev lan nodad", plan.inner6(0x254)),
            "link set lan up",
        ])?;
        router.forward_packets()?;
        router.nft(&router_rules(plan))?;
        let machine = |role: &str, address| machine(plan, &router, role, address);
        let server = |role, number: &str, address: Ipv4Addr, port| -> Result<Server> {
            let netns = machine(&format!("{role}{number}"), address)?;
            let name = format!("{name}-{role}{number}");
            Server::new(name, role, (address, port).into(), netns, (root, logs))
        };
        let scanners = SCANNERS.into_iter().zip(1..).take(scanners).map(|(address, number)| {
            let netns = machine(&format!("scanner{number}"), address)?;
            Scanner::start(format!("{name}-scanner{number}"), (netns, address), root, logs)
        });
        let scanners = scanners.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            auther: server("auther", "", AUTHER, AUTHER_PORT)?,
            manager: server("manager", "", MANAGER, MANAGER_PORT)?,
            proxies: vec![
                server("proxy", "1", PROXIES[0], PROXY_PORT)?,
                server("proxy", "2", PROXIES[1], PROXY_PORT)?,
            ],
            registry: root.join(format!("{name}-registry.sqlite")),
            plan,
            router,
            scanners,
        })
    }

    /// Starts auther, manager and proxies, and waits until all listen.
    pub(crate) fn start_servers(&mut self, fleet: &Fleet) -> Result<()> {
        self.scanners.iter_mut().try_for_each(Scanner::wait_listening)?;
        self.operate(fleet, "add")?;
        let auther = format!(
            "ticket_key = \"{}\"\nregistry = \"{}\"\n",
            fleet.file("ticket.key"),
            self.registry.display()
        );
        let public = self.plan.public;
        self.auther.start(fleet, &auther)?;
        for proxy in &mut self.proxies {
            let state = self.registry.with_file_name(format!("{}-state", proxy.name()));
            let settings = proxy_settings(fleet, public, &state, self.scanners.len());
            proxy.start(fleet, &settings)?;
        }
        let state = self.registry.with_file_name(format!("{}-state", self.manager.name()));
        self.manager.start(fleet, &manager_settings(fleet, public, &state))?;
        self.wait_serving()
    }

    /// Its name, also in the ways of mails.
    #[must_use]
    pub fn name(&self) -> &str {
        self.plan.name
    }

    /// Where boxes and mail servers see it.
    #[must_use]
    pub fn public(&self) -> Ipv4Addr {
        self.plan.public
    }

    /// What a mail server sees of its proxy `number` (1 or 2), in IPv4 or IPv6.
    pub(crate) fn seen_as(&self, number: usize, is_ipv6: bool) -> IpAddr {
        match is_ipv6 {
            true => self.plan.inner6(u16::try_from(number).unwrap_or_default()).into(),
            false => self.plan.public.into(),
        }
    }

    /// Kills one of its servers (SIGKILL).
    ///
    /// # Errors
    /// When there is none, or it does not run.
    pub fn kill(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Scanner(index) => self.scanners.get_mut(index).context("no such scanner")?.kill(),
            _ => self.part(part)?.kill(),
        }
    }

    /// Starts again whatever was killed.
    pub(crate) fn restart_killed(&mut self, fleet: &Fleet) -> Result<()> {
        for scanner in &mut self.scanners {
            scanner.start_again()?;
            scanner.wait_listening()?;
        }
        self.servers().try_for_each(|server| {
            server.free_disk()?;
            if !server.is_on_time() {
                server.set_clock(None);
                server.kill()?;
            }
            server.start_again(fleet)
        })?;
        self.wait_serving()
    }

    /// Does something with the box in the auther's registry: `add`, `suspend`, `resume`, `remove`.
    pub(crate) fn operate(&self, fleet: &Fleet, verb: &str) -> Result<()> {
        fleet.operate(self.auther.netns(), &self.registry, verb)
    }

    /// What proxy `number` (1 or 2) says to a verb that works without the daemon.
    pub(crate) fn ask_proxy(&self, number: usize, fleet: &Fleet, verb: &[&str]) -> Result<String> {
        let proxy = number.checked_sub(1).and_then(|index| self.proxies.get(index));
        proxy.context("no such proxy")?.ask(fleet, verb)
    }

    /// Waits until the manager has logged this.
    pub(crate) fn wait_manager_log(&mut self, text: &str) -> Result<()> {
        let daemon = self.manager.daemon()?;
        let log = daemon.log_path().to_owned();
        daemon.wait_until("the manager to log it", || {
            fs::read_to_string(&log).ok()?.contains(text).then_some(())
        })
    }

    /// What the site's first scanner says of these bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<String> {
        let scanner = self.scanners.first_mut().context("no scanner")?;
        scanner.wait_listening()?;
        scanner.ask(bytes)
    }

    /// The public ports of its servers, each with the server's name.
    #[must_use]
    pub fn public_ports(&self) -> Vec<(&str, SocketAddr)> {
        let proxies = self.proxies.iter().zip(PROXY_PUBLIC_PORTS);
        [(&self.auther, AUTHER_PORT), (&self.manager, MANAGER_PORT)]
            .into_iter()
            .chain(proxies)
            .map(|(server, port)| (server.name(), (self.plan.public, port).into()))
            .collect()
    }

    /// Process id and log of the server of that name.
    ///
    /// # Errors
    /// When it does not run.
    pub fn server(&mut self, name: &str) -> Result<(u32, String)> {
        let server = self.servers().find(|server| server.name() == name);
        let daemon = server.context("no such server")?.daemon()?;
        daemon.check_running()?;
        Ok((daemon.id(), daemon.log()))
    }

    /// Fills the disks that its proxies have for mails that wait for a verdict.
    ///
    /// # Errors
    /// When they do not get full.
    pub fn fill_disks(&self) -> Result<()> {
        self.proxies.iter().try_for_each(Server::fill_disk)
    }

    /// Starts all its servers again, with clocks that are wrong by so much, as in `+3d`.
    ///
    /// # Errors
    /// When they do not listen.
    pub(crate) fn set_clocks(&mut self, fleet: &Fleet, clock: &'static str) -> Result<()> {
        self.servers().try_for_each(|server| {
            server.set_clock(Some(clock));
            server.kill()?;
            server.start_again(fleet)?;
            server.wait_listening()
        })
    }

    /// Stops one of its scanners in the middle of its work.
    ///
    /// # Errors
    /// When there is none, or it does not run.
    pub fn freeze_scanner(&mut self, index: usize) -> Result<()> {
        self.scanners.get_mut(index).context("no such scanner")?.freeze()
    }

    /// Connections open at one of its scanners.
    ///
    /// # Errors
    /// When there is none.
    pub fn scanner_connections(&self, index: usize) -> Result<usize> {
        self.scanners.get(index).context("no such scanner")?.connections()
    }

    /// Drops every packet at the site's router: the line is dead, nobody is told.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn cut(&self) -> Result<()> {
        self.router.nft(
            "table inet cut { chain everything { type filter hook prerouting priority -400; policy drop; }\n}",
        )
    }

    /// Drops every packet to and from one of its servers: it is there, and nobody hears of it.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn silence(&self, part: Part) -> Result<()> {
        let address = part.address()?;
        // Those of the site's own machines cross the router's bridge, not its forwarding.
        self.router.nft(&format!(
            "table inet cut {{ chain part {{ type filter hook forward priority 0;
ip saddr {address} drop
ip daddr {address} drop
}}
}}
table bridge cut {{ chain part {{ type filter hook forward priority 0;
ip saddr {address} drop
ip daddr {address} drop
}}
}}"
        ))
    }

    /// Lets packets pass again; no error when they did.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn mend(&self) -> Result<()> {
        self.router
            .nft("table inet cut\ndelete table inet cut\ntable bridge cut\ndelete table bridge cut")
    }

    /// How many connections each proxy has opened to mail servers: the router's count.
    pub(crate) fn connections(&self) -> Result<Vec<u64>> {
        (1..=PROXIES.len()).map(|n| read_counter(&self.router, &format!("proxy{n}"))).collect()
    }

    /// Whether a box holds a connection to the manager.
    pub(crate) fn is_linked(&self) -> Result<bool> {
        has_connection(self.manager.netns(), MANAGER_PORT)
    }

    /// Whether a box holds a connection to one of the proxies: where no session is open, one that is kept
    /// for the next.
    pub(crate) fn is_warm(&self) -> Result<bool> {
        for proxy in &self.proxies {
            if has_connection(proxy.netns(), PROXY_PORT)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until all listen, and the manager has found each proxy to be well, as its log says.
    fn wait_serving(&mut self) -> Result<()> {
        self.servers().try_for_each(Server::wait_listening)?;
        let proxies: Vec<_> = self.proxies.iter().map(Server::ip).collect();
        let daemon = self.manager.daemon()?;
        let log = daemon.log_path().to_owned();
        daemon.wait_until("the manager to name every proxy", || {
            let text = fs::read_to_string(&log).ok()?;
            proxies.iter().all(|proxy| is_named(&text, *proxy)).then_some(())
        })
    }

    fn part(&mut self, part: Part) -> Result<&mut Server> {
        match part {
            Part::Auther => Ok(&mut self.auther),
            Part::Manager => Ok(&mut self.manager),
            Part::Proxy(index) => self.proxies.get_mut(index).context("no such proxy"),
            Part::Scanner(_) => bail!("a scanner is no server of ours"),
        }
    }

    fn servers(&mut self) -> impl Iterator<Item = &mut Server> {
        [&mut self.auther, &mut self.manager].into_iter().chain(&mut self.proxies)
    }
}

/// Whether anybody who is not of the site's own network holds a connection to this port.
fn has_connection(netns: &Netns, port: u16) -> Result<bool> {
    let mut command = netns.command("ss");
    command.args(["-H", "-t", "-n", "state", "established", "sport", "=", &format!(":{port}")]);
    command.args(["and", "not", "dst", SITE_NETWORK]);
    Ok(!run_command(&mut command)?.trim().is_empty())
}

/// Reads the packets of a named counter in table `ip count`.
pub(crate) fn read_counter(netns: &Netns, name: &str) -> Result<u64> {
    let json =
        run_command(netns.command("nft").args(["-j", "list", "counter", "inet", "count", name]))?;
    let value: serde_json::Value = serde_json::from_str(&json).context("nft's JSON")?;
    let objects = value["nftables"].as_array().context("nft's JSON has no list")?;
    let counter = objects.iter().find_map(|object| object.get("counter"));
    counter.and_then(|counter| counter["packets"].as_u64()).context("nft's JSON has no counter")
}

fn router_rules(plan: SitePlan) -> String {
    let public = plan.public;
    let mut forwards = format!(
        "ip daddr {public} tcp dport {AUTHER_PORT} dnat to {AUTHER}:{AUTHER_PORT}\n\
         ip daddr {public} tcp dport {MANAGER_PORT} dnat to {MANAGER}:{MANAGER_PORT}\n"
    );
    let mut counters = String::new();
    let mut counting = String::new();
    for (index, (proxy, port)) in PROXIES.iter().zip(PROXY_PUBLIC_PORTS).enumerate() {
        let number = index + 1;
        forwards += &format!("ip daddr {public} tcp dport {port} dnat to {proxy}:{PROXY_PORT}\n");
        counters += &format!("counter proxy{number} {{ }}\n");
        counting += &format!(
            "ct state new ip saddr {proxy} tcp dport {{ {MAIL_PORTS} }} counter name proxy{number}\n\
             ct state new ip6 saddr {proxy6} tcp dport {{ {MAIL_PORTS} }} counter name proxy{number}\n",
            proxy6 = plan.inner6(u16::from(proxy.octets()[3])),
        );
    }
    format!(
        "table ip nat {{
chain forwards {{ type nat hook prerouting priority dstnat; {forwards} }}
chain line {{ type nat hook postrouting priority srcnat; oifname \"line\" masquerade; }}
}}
table inet count {{
{counters}
chain forward {{ type filter hook forward priority 0; {counting} }}
}}"
    )
}

/// A machine on the site's inner network.
fn machine(plan: SitePlan, router: &Netns, role: &str, address: Ipv4Addr) -> Result<Netns> {
    let netns = Netns::create(&format!("{}-{role}", plan.name))?;
    cable((&netns, "eth0"), (router, role))?;
    router.ip(&[&format!("link set {role} master lan")])?;
    netns.ip(&[
        &format!("addr add {address}/24 dev eth0"),
        &format!("addr add {}/64 dev eth0 nodad", plan.inner6(address.octets()[3].into())),
        &format!("route add default via {SITE_ROUTER}"),
        &format!("route add default via {}", plan.inner6(0x254)),
    ])?;
    Ok(netns)
}

/// Whether the last word of a manager's log on a proxy is that it is named.
fn is_named(log: &str, proxy: IpAddr) -> bool {
    let proxy = format!("proxy={proxy}:");
    let last = log.lines().rfind(|line| line.contains("manager::poll") && line.contains(&proxy));
    last.is_some_and(|line| line.contains("is named from now on"))
}

fn manager_settings(fleet: &Fleet, public: Ipv4Addr, state: &Path) -> String {
    let table = PROXIES.map(|proxy| proxy.to_string()).join(", ");
    let mut settings = format!(
        "ticket_key = \"{}\"\nstate_directory = {state:?}\nproxy_address = \"{table}\"\n\
         poll_interval_ms = 500\npoll_timeout_ms = 500\nload_average_max = 64.0\n[public]\n",
        fleet.file("ticket.pub")
    );
    for (proxy, port) in PROXIES.iter().zip(PROXY_PUBLIC_PORTS) {
        settings += &format!("\"{proxy}\" = \"{public}:{port}\"\n");
    }
    settings
}

fn proxy_settings(fleet: &Fleet, public: Ipv4Addr, state: &Path, scanners: usize) -> String {
    let scanners: Vec<_> = SCANNERS
        .iter()
        .take(scanners)
        .map(|scanner| format!("\"{scanner}:{SCANNER_PORT}\""))
        .collect();
    let scanners = scanners.join(", ");
    format!(
        "ticket_key = \"{}\"\nstate_directory = {state:?}\nmail_ports = [{MAIL_PORTS}]\n\
         own_addresses = [\"{public}\"]\ntest_networks = [{TEST_NETWORKS}]\n\
         [scan]\nclamd = [{scanners}]\n[scan.received]\ninfected = \"refuse+quarantine\"\n",
        fleet.file("ticket.pub")
    )
}
