//! The settings files of the three servers, made of what a site is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use wire::identity::Role;
use wire::{AUTHER_PORT, MANAGER_PORT, PROXY_PORT};

use crate::bundle::{CA, CERTIFICATE, KEY, TICKET_KEY, TICKET_PUBLIC_KEY};
use crate::plan::{Site, quoted, quoted_list};

/// Where settings, certificates and keys are.
pub const ETC: &str = "/etc/avr";
/// Where the auther keeps its boxes; the package's unit may write nowhere else.
pub const STATE: &str = "/var/lib/avr-auther";
/// The auther's registry, in [`STATE`].
pub const REGISTRY: &str = "registry.sqlite";

/// Where a machine's status ports are, on loopback; each its own, as one machine may have several.
const AUTHER_STATUS_PORT: u16 = 4670;
const MANAGER_STATUS_PORT: u16 = 4661;
const PROXY_STATUS_PORT: u16 = 4662;

/// Where the files that a settings file names are: at their places, or where they wait to be put
/// there.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Certificates and keys.
    pub etc: &'a Path,
    /// What the servers write.
    pub state: &'a Path,
}

/// Those of a running server.
#[must_use]
pub fn final_places() -> Places<'static> {
    Places { etc: Path::new(ETC), state: Path::new(STATE) }
}

/// The name of a server's settings file.
#[must_use]
pub fn file_of(role: Role) -> String {
    format!("{role}.toml")
}

/// The text of a server's settings file. The lines are the same whatever the places.
#[must_use]
pub fn text(role: Role, site: &Site, places: Places<'_>) -> String {
    match role {
        Role::Auther => auther(site, places),
        Role::Manager => manager(site, places),
        Role::Proxy => proxy(site, places),
    }
}

fn head(role: Role, port: u16, site: &Site, places: Places<'_>, ticket_key: &str) -> String {
    let host =
        if site.machines().iter().all(std::net::IpAddr::is_ipv4) { "0.0.0.0" } else { "[::]" };
    let file = |name: &str| quoted(&places.etc.join(name).display().to_string());
    format!(
        "# Settings of avr-{role}, written by `avr-site init`; what each means stands in the example\n\
         # beside the program. Check them with: avr-{role} config check\n\n\
         listen = \"{host}:{port}\"\nfleet_ca = {}\ncertificate = {}\nkey = {}\nticket_key = {}\n",
        file(CA),
        file(CERTIFICATE),
        file(KEY),
        file(ticket_key)
    )
}

fn auther(site: &Site, places: Places<'_>) -> String {
    let registry = places.state.join(REGISTRY).display().to_string();
    let head = head(Role::Auther, AUTHER_PORT, site, places, TICKET_KEY);
    format!("{head}registry = {}\n{}", quoted(&registry), status(AUTHER_STATUS_PORT))
}

/// Health, readiness and metrics for the machine itself; `avr-site check` asks them.
fn status(port: u16) -> String {
    format!("\n[status]\nlisten = \"127.0.0.1:{port}\"\n")
}

fn manager(site: &Site, places: Places<'_>) -> String {
    let mut text = head(Role::Manager, MANAGER_PORT, site, places, TICKET_PUBLIC_KEY);
    // As it was written, so that repetitions keep their meaning.
    let table: Vec<String> = site.table.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "proxy_address = {}", quoted(&table.join(", ")));
    text += &authers(site);
    text += &status(MANAGER_STATUS_PORT);
    text += "\n# What forward.nft forwards.\n[public]\n";
    for forward in site.forwards().iter().filter(|forward| forward.role == Role::Proxy) {
        for local in &forward.local {
            let public = quoted(&forward.public.to_string());
            let _ = writeln!(text, "{} = {public}", quoted(&local.ip().to_string()));
        }
    }
    text
}

/// Whom to ask which tickets are void.
fn authers(site: &Site) -> String {
    if site.auther.is_empty() {
        return String::new();
    }
    let authers =
        site.auther.iter().map(|auther| SocketAddr::new(*auther, AUTHER_PORT).to_string());
    format!("auther = {}\n", quoted_list(&authers.collect::<Vec<_>>()))
}

fn proxy(site: &Site, places: Places<'_>) -> String {
    let mut text = head(Role::Proxy, PROXY_PORT, site, places, TICKET_PUBLIC_KEY);
    // The machines' own addresses too: public ones, where a site has IPv6, are nobody's to mail to.
    let own = site.public.iter().copied().chain(site.machines());
    let mut own: Vec<String> = own.map(|address| address.to_string()).collect();
    own.dedup();
    let _ = writeln!(text, "own_addresses = {}", quoted_list(&own));
    text += &authers(site);
    text += "\n[scan]\n";
    let draft = site.draft();
    for (key, list) in [("clamd", &draft.clamd), ("icap", &draft.icap)] {
        if !list.is_empty() {
            let _ = writeln!(text, "{key} = {}", quoted_list(list));
        }
    }
    text + &status(PROXY_STATUS_PORT)
}

/// The text of `dns-change.txt`: what `join` does, for those who do it otherwise.
#[must_use]
pub fn dns_change(site: &Site, ttl_s: u32) -> String {
    let mut updates = String::new();
    let mut lines = String::new();
    let roles = [Role::Manager, Role::Auther];
    for role in roles.into_iter().filter(|role| *role == Role::Manager || !site.auther.is_empty()) {
        for address in &site.public {
            let name = site.name_of(role);
            let record_type = if address.is_ipv4() { "A" } else { "AAAA" };
            let _ = writeln!(updates, "update add {name} {ttl_s} {record_type} {address}");
            let _ = writeln!(lines, ";   {name} {ttl_s} IN {record_type} {address}");
        }
    }
    format!(
        "; The change in DNS by which this site takes part; make it last, after `avr-site check`.\n\
         ; `avr-site join --key KEYFILE --auther` makes it and watches it spread. By hand:\n\
         ;   nsupdate -k KEYFILE dns-change.txt\n\
         ; or these lines in the zone's file:\n{lines}{updates}send\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::draft;

    #[test]
    fn the_managers_table_and_the_forwarding_agree() {
        let site = Site::new(draft()).unwrap();
        let text = text(Role::Manager, &site, final_places());
        for line in [
            "listen = \"[::]:4651\"",
            "key = \"/etc/avr/server.key\"",
            "ticket_key = \"/etc/avr/ticket.pub\"",
            "proxy_address = \"10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.3\"",
            "\"10.0.0.3\" = \"203.0.113.10:4654\"",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_proxy_never_connects_to_its_own_site() {
        let site = Site::new(draft()).unwrap();
        let text = text(Role::Proxy, &site, final_places());
        for own in ["203.0.113.10", "2001:db8:10::1", "2001:db8:10:1::20", "10.0.0.3"] {
            let line = text.lines().find(|line| line.starts_with("own_addresses")).unwrap();
            assert!(line.contains(&format!("\"{own}\"")), "{own}\n{line}");
        }
        assert!(text.contains("clamd = [\"10.0.0.1:3310\"]\nicap = "), "{text}");
    }

    #[test]
    fn the_change_in_dns_is_written_for_both_families() {
        let text = dns_change(&Site::new(draft()).unwrap(), 1200);
        let updates: Vec<&str> = text.lines().filter(|line| !line.starts_with(';')).collect();
        assert_eq!(
            updates,
            [
                "update add manager.avr.example.net. 1200 A 203.0.113.10",
                "update add manager.avr.example.net. 1200 AAAA 2001:db8:10::1",
                "update add auther.avr.example.net. 1200 A 203.0.113.10",
                "update add auther.avr.example.net. 1200 AAAA 2001:db8:10::1",
                "send",
            ]
        );
    }
}
