//! `site.toml`: what a site is. The same on every machine of it, written by `avr-site init` and
//! read by the other commands, so that nobody has to say the same thing twice.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use config::{ConfigError, Document};
use hickory_proto::rr::Name;
use serde::Deserialize;
use wire::identity::Role;
use wire::{AUTHER_PORT, MANAGER_PORT, PROXY_PORT};

/// Where it is, below the root.
pub const SITE_FILE: &str = "etc/avr/site.toml";
/// Most proxies of one site; the manager's own limit.
pub const PROXIES_MAX: usize = 64;
/// Most addresses in one list, repetitions included; the manager's own limit.
pub const LIST_MAX: usize = 1024;
/// Longest domain, in bytes: `manager.` in front of it has to fit into a name (RFC 1035 2.3.4).
pub const DOMAIN_BYTES_MAX: usize = 240;
/// Most scanners of one kind.
pub const SCANNERS_MAX: usize = 16;

/// The file as written, and what the command line and the questions fill.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// The fleet's domain: boxes ask for `manager.DOMAIN` and `auther.DOMAIN`.
    pub domain: String,
    /// What the internet sees of the site: one IPv4 address, or one IPv6 address, or both.
    pub public: Vec<String>,
    /// Local address of the auther; one of each family of `public`. None: this site has no auther.
    #[serde(default)]
    pub auther: Vec<String>,
    /// Local addresses of the managers; boxes are spread over them.
    pub manager: Vec<String>,
    /// The management table: local addresses of the proxies. Written twice: twice the share.
    pub proxy: Vec<String>,
    /// The site's `clamd` servers, as `10.0.0.1:3310`.
    #[serde(default)]
    pub clamd: Vec<String>,
    /// The site's ICAP services, as `icap://10.0.0.3:1344/avscan`.
    #[serde(default)]
    pub icap: Vec<String>,
    /// Time servers that `avr-site check` compares the clock with.
    #[serde(default)]
    pub ntp: Vec<String>,
}

/// A site, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    draft: Draft,
    /// The fleet's domain.
    pub domain: Name,
    /// At most one of each family.
    pub public: Vec<IpAddr>,
    /// At most one of each family.
    pub auther: Vec<IpAddr>,
    /// At least one.
    pub manager: Vec<IpAddr>,
    /// The management table, repetitions included.
    pub table: Vec<IpAddr>,
}

/// A public address and port, and the servers behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What is there.
    pub role: Role,
    /// Where the internet sees it.
    pub public: SocketAddr,
    /// Where it is; connections are spread where these are several.
    pub local: Vec<SocketAddr>,
}

/// What is wrong with one item of a site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct Wrong {
    /// The item, as in [`Draft`]; with `[n]` behind it for the n-th of a list.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

fn wrong(key: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Wrong {
    Wrong { key: key.into(), problem: problem.into(), remedy: remedy.into() }
}

impl Site {
    /// Reads and checks `site.toml`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let document = Document::load(path)?;
        let draft: Draft = document.parse()?;
        Self::new(draft).map_err(|error| document.invalid(&error.key, error.problem, error.remedy))
    }

    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(draft: Draft) -> Result<Self, Wrong> {
        let domain = parse_domain(&draft.domain)?;
        let public = parse_public(&draft.public)?;
        let auther = parse_locals("auther", &draft.auther)?;
        let manager = parse_locals("manager", &draft.manager)?;
        let table = parse_locals("proxy", &draft.proxy)?;
        check_lists(&public, &auther, &manager, &table)?;
        parse_scanners(&draft)?;
        Ok(Self { draft, domain, public, auther, manager, table })
    }

    /// `manager.DOMAIN` and so on.
    #[must_use]
    pub fn name_of(&self, role: Role) -> Name {
        name_in(role, &self.domain)
    }

    /// The proxies, each once, in the order of their first mention.
    #[must_use]
    pub fn proxies(&self) -> Vec<IpAddr> {
        let mut proxies: Vec<IpAddr> = Vec::new();
        for proxy in &self.table {
            if !proxies.contains(proxy) {
                proxies.push(*proxy);
            }
        }
        proxies
    }

    /// All there is to be forwarded: auther, managers, and each proxy by a port of its own.
    #[must_use]
    pub fn forwards(&self) -> Vec<Forward> {
        let mut forwards = Vec::new();
        for &public in &self.public {
            let same = |locals: &[IpAddr], port| -> Vec<SocketAddr> {
                let family = locals.iter().filter(|local| local.is_ipv4() == public.is_ipv4());
                family.map(|local| SocketAddr::new(*local, port)).collect()
            };
            for (role, locals, port) in [
                (Role::Auther, &self.auther, AUTHER_PORT),
                (Role::Manager, &self.manager, MANAGER_PORT),
            ] {
                let local = same(locals, port);
                if !local.is_empty() {
                    let public = SocketAddr::new(public, port);
                    forwards.push(Forward { role, public, local });
                }
            }
        }
        forwards.extend(self.proxies().into_iter().zip(PROXY_PORT..).filter_map(
            |(local, port)| {
                let public =
                    self.public.iter().find(|public| public.is_ipv4() == local.is_ipv4())?;
                Some(Forward {
                    role: Role::Proxy,
                    public: SocketAddr::new(*public, port),
                    local: vec![SocketAddr::new(local, PROXY_PORT)],
                })
            },
        ));
        forwards
    }

    /// Every machine of the site that is named, each once.
    #[must_use]
    pub fn machines(&self) -> Vec<IpAddr> {
        let all = self.auther.iter().chain(&self.manager).chain(&self.table);
        let mut machines: Vec<IpAddr> = all.copied().collect();
        machines.sort();
        machines.dedup();
        machines
    }

    /// As it was written.
    #[must_use]
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The text of `site.toml`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let Draft { domain, public, auther, manager, proxy, clamd, icap, ntp } = &self.draft;
        let mut text = "# What this site is; the same on every machine of it. Written by \
                        `avr-site init`, which makes\n# the other files of it anew: change it \
                        there, with --force.\n\n"
            .to_owned();
        let _ = writeln!(text, "domain = {}", quoted(domain));
        for (key, list, comment) in [
            ("public", public, "what the internet sees"),
            ("auther", auther, "local address"),
            ("manager", manager, "local addresses"),
            ("proxy", proxy, "the management table; written twice: twice the share"),
            ("clamd", clamd, "gateway anti-virus servers"),
            ("icap", icap, "ICAP services"),
            ("ntp", ntp, "what `avr-site check` compares the clock with"),
        ] {
            let _ = writeln!(text, "{key} = {}  # {comment}", quoted_list(list));
        }
        text
    }
}

/// `manager.DOMAIN` and so on.
#[must_use]
pub fn name_in(role: Role, domain: &Name) -> Name {
    // A domain is checked to be short enough; the role's name is a label.
    domain.prepend_label(role.name()).unwrap_or_else(|_| domain.clone())
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A TOML list of strings on one line.
pub(crate) fn quoted_list(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A domain such as `mail.example.net`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_domain(text: &str) -> Result<Name, Wrong> {
    let remedy = "write the domain under which boxes look for sites, as in avr.example.net";
    let bad = |problem: String| wrong("domain", problem, remedy);
    if text.is_empty() {
        return Err(bad("no domain".to_owned()));
    }
    let is_host = text.trim_end_matches('.').split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    if !is_host || text.len() > DOMAIN_BYTES_MAX {
        return Err(bad(format!("\"{}\" is no domain", text.escape_debug())));
    }
    for role in Role::ALL {
        if text.to_ascii_lowercase().starts_with(&format!("{role}.")) {
            let rest = text.get(role.name().len() + 1..).unwrap_or_default();
            return Err(wrong(
                "domain",
                format!("\"{text}\" is the name of the {role}, not the domain"),
                format!("write \"{rest}\" instead"),
            ));
        }
    }
    let mut name =
        Name::from_ascii(text).map_err(|_| bad(format!("\"{text}\" is no domain")))?.to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}

fn parse_public(list: &[String]) -> Result<Vec<IpAddr>, Wrong> {
    let remedy = "write the address that the internet sees, which the line's provider has given, \
                  as in 203.0.113.10";
    let mut public: Vec<IpAddr> = Vec::new();
    for (index, text) in list.iter().enumerate() {
        let key = format!("public[{index}]");
        let bad = |problem: String| wrong(&key, problem, remedy);
        let address = parse_ip(text).map_err(bad)?;
        if is_private(address) {
            return Err(bad(format!("nobody outside reaches {address}")));
        }
        if public.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let problem = format!("{address} is a second address of its family");
            return Err(wrong(key, problem, "write one IPv4 and one IPv6 address at most"));
        }
        public.push(address);
    }
    if public.is_empty() { Err(wrong("public", "no public address", remedy)) } else { Ok(public) }
}

fn parse_locals(key: &str, list: &[String]) -> Result<Vec<IpAddr>, Wrong> {
    if list.len() > LIST_MAX {
        return Err(wrong(key, format!("more than {LIST_MAX} addresses"), "write fewer"));
    }
    let parse = |(index, text): (usize, &String)| {
        let remedy = format!("write the {key}'s address in the site's own network, as in 10.0.0.1");
        parse_ip(text).map_err(|problem| wrong(format!("{key}[{index}]"), problem, remedy))
    };
    list.iter().enumerate().map(parse).collect()
}

/// That each public address has something behind it, and each proxy one before it.
fn check_lists(
    public: &[IpAddr],
    auther: &[IpAddr],
    manager: &[IpAddr],
    table: &[IpAddr],
) -> Result<(), Wrong> {
    let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    for (key, list) in [("manager", manager), ("proxy", table)] {
        if list.is_empty() {
            let remedy = format!("write the local address of at least one {key}, as in 10.0.0.1");
            return Err(wrong(key, format!("no {key}"), remedy));
        }
    }
    for address in public {
        let has = |list: &[IpAddr]| list.iter().any(|local| local.is_ipv4() == address.is_ipv4());
        let lists = [("manager", manager), ("auther", auther)];
        let without = lists.into_iter().find(|(_, list)| !list.is_empty() && !has(list));
        if let Some((key, _)) = without {
            return Err(wrong(
                key,
                format!("{address} is public, and no {key} has an address of {}", family(address)),
                format!("write one, or leave {address} out of `public`"),
            ));
        }
    }
    for (key, list) in [("auther", auther), ("manager", manager), ("proxy", table)] {
        let found = list
            .iter()
            .enumerate()
            .find(|(_, local)| !public.iter().any(|public| public.is_ipv4() == local.is_ipv4()));
        if let Some((index, local)) = found {
            let family = family(local);
            return Err(wrong(
                format!("{key}[{index}]"),
                format!("{local} is of {family}, and `public` has no address of {family}"),
                "write the public address of that family, or a local address of the other",
            ));
        }
    }
    let autheres = auther.iter().filter(|address| address.is_ipv4()).count();
    if autheres > 1 || auther.len() - autheres > 1 {
        let remedy = "write the one that boxes log in at; one of each family at most";
        return Err(wrong("auther", "more than one auther", remedy));
    }
    let mut proxies = table.to_vec();
    proxies.sort();
    proxies.dedup();
    if proxies.len() > PROXIES_MAX {
        let problem = format!("more than {PROXIES_MAX} proxies");
        return Err(wrong("proxy", problem, "write fewer; a larger site is two sites"));
    }
    Ok(())
}

fn parse_scanners(draft: &Draft) -> Result<(), Wrong> {
    for (key, list) in [("clamd", &draft.clamd), ("icap", &draft.icap), ("ntp", &draft.ntp)] {
        if list.len() > SCANNERS_MAX {
            return Err(wrong(key, format!("more than {SCANNERS_MAX} servers"), "write fewer"));
        }
    }
    for (index, text) in draft.clamd.iter().enumerate() {
        if text.parse::<SocketAddr>().is_err() {
            return Err(wrong(
                format!("clamd[{index}]"),
                format!("\"{}\" is no address and port", text.escape_debug()),
                "write them as in 10.0.0.1:3310",
            ));
        }
    }
    for (index, text) in draft.icap.iter().enumerate() {
        if parse_icap(text).is_none() {
            return Err(wrong(
                format!("icap[{index}]"),
                format!("\"{}\" is no ICAP service", text.escape_debug()),
                "write it as in icap://10.0.0.3:1344/avscan",
            ));
        }
    }
    Ok(())
}

/// Address and service of `icap://10.0.0.3:1344/avscan`; the port may be left out.
#[must_use]
pub fn parse_icap(text: &str) -> Option<(SocketAddr, &str)> {
    const ICAP_PORT: u16 = 1344;
    let (host, service) = text.strip_prefix("icap://")?.split_once('/')?;
    let address = host.parse().ok().or_else(|| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse().ok().map(|ip| SocketAddr::new(ip, ICAP_PORT))
    })?;
    let good = !service.is_empty() && service.bytes().all(|byte| byte.is_ascii_graphic());
    good.then_some((address, service))
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| match text {
        "" => "an empty address".to_owned(),
        _ => format!("\"{}\" is no address", text.escape_debug()),
    })?;
    let shared = address.is_unspecified() || address.is_multicast();
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if shared || broadcast {
        return Err(format!("{address} is not the address of one machine"));
    }
    Ok(address)
}

/// Addresses that mean nothing outside a site.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            // The shared address space between providers and their customers (RFC 6598).
            let shared = first == 100 && (64..128).contains(&second);
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => {
            v6 == Ipv6Addr::LOCALHOST || v6.is_unique_local() || v6.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
