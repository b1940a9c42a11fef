//! `avr-site check`: looks at a site from its own machines, or from outside, and says in plain
//! words what is wrong.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use hickory_proto::rr::Name;
use rustls::ClientConfig;
use service_kit::files::read_pem;
use service_kit::host::WallClock;
use wire::identity::{Peer, Role, server_client_config, server_in};

use crate::bundle::{Bundle, CA, CERTIFICATE, KEY};
use crate::diag::{Found, Report};
use crate::dns::update::in_words;
use crate::dns::zone::{Addresses, Resolver, Zone, addresses_at, shown};
use crate::plan::{Forward, Site, name_in, parse_icap};
use crate::probe::http::Status;
use crate::probe::{clock, fleet, host, scanner};
use crate::programs::{Checked, Programs};
use crate::settings::file_of;

/// A TTL above this, in seconds, makes boxes ask a dead site for long.
pub const TTL_S_DOUBTFUL: u32 = 60 * 60;

const LINK: &str = "network";
const IDENTITY: &str = "certificate and key";
const DNS: &str = "DNS zone";

/// What all checks need.
#[derive(Debug)]
pub struct Check {
    /// The clock that is checked.
    pub clock: WallClock,
    /// Finds names; the reason why there is none, otherwise.
    pub resolver: Result<Resolver, String>,
    /// Where programs are.
    pub programs: Programs,
}

/// Who asks: the certificate by which this machine is known to the fleet.
struct Identity {
    client: Arc<ClientConfig>,
    roles: Vec<Role>,
}

impl Check {
    /// From one of the site's machines. `root` is where `avr-site init` wrote; `ntp` are time
    /// servers beside those of the site.
    pub async fn inside(&self, site: &Site, root: &std::path::Path, ntp: &[String]) -> Report {
        let mut report = Report::default();
        let etc = root.join("etc/avr");
        report.check(LINK, &[], async { host::link(&site.machines()) }).await;
        let servers: BTreeSet<&String> = site.draft().ntp.iter().chain(ntp).collect();
        for server in servers {
            let name = format!("clock by {server}");
            report.check(name, &[LINK], clock::compare(server, self.clock)).await;
        }
        let identity = match installed(&etc) {
            Ok((identity, found)) => {
                report.add(IDENTITY, found);
                Some(identity)
            }
            Err(found) => {
                report.add(IDENTITY, found);
                None
            }
        };
        let roles = identity.as_ref().map_or(Vec::new(), |identity| identity.roles.clone());
        self.machine(&mut report, root, &roles).await;
        for text in &site.draft().clamd {
            if let Ok(address) = text.parse() {
                let name = format!("clamd {text}");
                report.check(name, &[LINK], scanner::clamd(address, self.clock)).await;
            }
        }
        for text in &site.draft().icap {
            if let Some((address, service)) = parse_icap(text) {
                report.check(text.clone(), &[LINK], scanner::icap(address, service)).await;
            }
        }
        for forward in site.forwards() {
            self.server(&mut report, &forward, identity.as_ref()).await;
        }
        self.dns(&mut report, &site.domain, &site.public, &[LINK]).await;
        report
    }

    /// From anywhere: only what the internet sees of `address`, where `forwards` are its servers.
    pub async fn outside(&self, bundle: &Bundle, forwards: &[Forward]) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let identity = Identity { client: bundle.client()?, roles: bundle.roles.clone() };
        for forward in forwards {
            self.public(&mut report, forward, &[], Some(&identity)).await;
        }
        let addresses: BTreeSet<IpAddr> =
            forwards.iter().map(|forward| forward.public.ip()).collect();
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        self.dns(&mut report, &bundle.domain()?, &addresses, &[]).await;
        Ok(report)
    }

    /// What this machine needs for its own servers.
    async fn machine(&self, report: &mut Report, root: &std::path::Path, roles: &[Role]) {
        for folder in host::folders(root, roles) {
            report.add(format!("disk of {}", folder.display()), host::disk(&folder));
        }
        for &role in roles {
            let settings = root.join("etc/avr").join(file_of(role));
            let name = format!("settings of avr-{role}");
            let checked = self.programs.check_settings(role, &settings);
            report.add(name.clone(), judge_settings(checked, &settings, role));
            report.add(format!("open files of avr-{role}"), host::open_files(role, &self.programs));
            let unit = format!("unit avr-{role}");
            if let Some(found) = host::unit(role, &self.programs) {
                report.check(unit.clone(), &[&name], async { found }).await;
            }
            if let Some(status) = Status::of(&settings) {
                let ready = format!("readiness of avr-{role}");
                report.check(ready, &[&name, &unit], status.ready()).await;
            }
        }
    }

    /// A server at its local addresses, and then through the firewall.
    async fn server(&self, report: &mut Report, forward: &Forward, identity: Option<&Identity>) {
        let role = forward.role;
        let mut ports = Vec::new();
        for &local in &forward.local {
            let name = format!("{role} {local}");
            let hint = format!("start avr-{role} there, and let nothing in between drop its port");
            report.check(name.clone(), &[LINK], fleet::port(local, &hint)).await;
            self.identify(report, role, local, &name, identity).await;
            ports.push(name);
        }
        if forward.local.contains(&forward.public) {
            return;
        }
        // One of several is enough to be forwarded to.
        let needs: Vec<&str> = match ports.as_slice() {
            [only] => vec![LINK, only],
            _ => vec![LINK],
        };
        self.public(report, forward, &needs, identity).await;
    }

    /// A server as the internet sees it.
    async fn public(
        &self,
        report: &mut Report,
        forward: &Forward,
        needs: &[&str],
        identity: Option<&Identity>,
    ) {
        let Forward { role, public, local } = forward;
        let name = format!("public {role} {public}");
        let to = match local.first() {
            Some(local) => format!(" to {local}"),
            None => String::new(),
        };
        let hint = format!(
            "let the firewall forward {public}{to} (nft -f /etc/avr/forward.nft there), forward \
             packets at all, and let them pass"
        );
        report.check(name.clone(), needs, fleet::port(*public, &hint)).await;
        self.identify(report, *role, *public, &name, identity).await;
    }

    /// Who answers at an open port, and for a proxy what it says of itself.
    async fn identify(
        &self,
        report: &mut Report,
        role: Role,
        address: SocketAddr,
        port: &str,
        identity: Option<&Identity>,
    ) {
        let certificate = format!("{port}: certificate");
        let Some(identity) = identity else {
            let none = async { Found::Unknown("this machine has no certificate".to_owned()) };
            report.check(certificate, &[port, IDENTITY], none).await;
            return;
        };
        let look = fleet::certificate(address, role, identity.client.clone(), self.clock);
        report.check(certificate.clone(), &[port], look).await;
        if role == Role::Proxy && identity.roles.contains(&Role::Manager) {
            let poll = fleet::poll(address, identity.client.clone());
            report.check(format!("{port}: poll"), &[&certificate], poll).await;
        }
    }

    /// What boxes find when they look for managers.
    async fn dns(&self, report: &mut Report, domain: &Name, own: &[IpAddr], needs: &[&str]) {
        let name = name_in(Role::Manager, domain);
        let mut zone = None;
        let find = async {
            let resolver = match &self.resolver {
                Ok(resolver) => resolver,
                Err(why) => return Found::wrong(why.clone(), "write `nameserver ADDRESS` there"),
            };
            match Zone::find(resolver, &name, None, None).await {
                Ok(found) => {
                    let what = format!(
                        "{}, served by {}",
                        shown(&found.name),
                        found
                            .servers
                            .iter()
                            .map(|(name, _)| name.as_str())
                            .collect::<Vec<_>>()
                            .join(", ")
                    );
                    zone = Some(found);
                    Found::Good(what)
                }
                Err(error) => Found::wrong(
                    error.to_string(),
                    "look whether the domain is registered and its servers are reached",
                ),
            }
        };
        report.check(DNS, needs, find).await;
        let Some(zone) = zone else { return };
        let mut lists = Vec::new();
        for server in &zone.lost {
            let wrong =
                Found::wrong("has no address", "give it one, or take it out of the zone's NS");
            report.add(format!("DNS server {server}"), wrong);
        }
        for (server, address) in &zone.servers {
            let look = addresses_at(*address, &name).await;
            match look {
                Ok(list) => lists.push((server.clone(), list)),
                Err(error) => report.add(
                    format!("DNS server {server}"),
                    Found::wrong(
                        error.to_string(),
                        "mend that server, or take it out of the zone's NS",
                    ),
                ),
            }
        }
        report.add(format!("DNS {}", shown(&name)), judge_lists(&lists, own, &name));
    }
}

/// What the zone's servers say: all the same, and the site's own addresses among it.
fn judge_lists(lists: &[(String, Addresses)], own: &[IpAddr], name: &Name) -> Found {
    let Some((first, list)) = lists.first() else {
        return Found::wrong("no server of the zone answers", "see the lines above");
    };
    if let Some((other, differs)) = lists.iter().find(|(_, other)| other.all != list.all) {
        return Found::wrong(
            format!("{first} has {}, but {other} has {}", addresses(list), addresses(differs)),
            "wait a minute; then look whether the zone is transferred (notify, serial)",
        );
    }
    if list.all.is_empty() {
        // So it is where the first site is about to be made.
        return Found::doubtful(
            format!("{} has no address: boxes find no site", shown(name)),
            "`avr-site join` adds this one, once all else is good",
        );
    }
    let ttl = in_words(list.ttl_s.into());
    let what = format!("{}, TTL {ttl}, the same at {} servers", addresses(list), lists.len());
    let missing: Vec<String> =
        own.iter().filter(|address| !list.all.contains(address)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Found::doubtful(
            format!("{what}; not {}", missing.join(", ")),
            "this site does not take part yet: `avr-site join` once all else is good",
        );
    }
    if list.ttl_s > TTL_S_DOUBTFUL {
        return Found::doubtful(
            what,
            "`avr-site join --ttl 20m`: traffic would take that long to move",
        );
    }
    Found::Good(what)
}

fn addresses(list: &Addresses) -> String {
    match list.all.len() {
        0 => "none".to_owned(),
        _ => list.all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn judge_settings(checked: Checked, settings: &std::path::Path, role: Role) -> Found {
    match checked {
        Checked::Good => Found::Good(format!("{} is good", settings.display())),
        Checked::Bad(said) => Found::wrong(said, "mend that line, or run `avr-site init` anew"),
        Checked::NoProgram(program) => Found::wrong(
            format!("there is no {program} here"),
            format!("install it: this machine's certificate says that it is a {role}"),
        ),
    }
}

/// What `avr-site init` installed, and whether it is good.
fn installed(etc: &std::path::Path) -> Result<(Identity, Found), Found> {
    let read = |name: &str| -> Result<String, Found> {
        let path: PathBuf = etc.join(name);
        read_pem("key", &path).map_err(|_| {
            Found::wrong(
                format!("{} cannot be read", path.display()),
                "run this as root; where the file is missing, `avr-site init` writes it",
            )
        })
    };
    let (ca, certificate, key) = (read(CA)?, read(CERTIFICATE)?, read(KEY)?);
    let apart = |why: String| {
        Found::wrong(why, "run `avr-site init` with this server's bundle, with --force")
    };
    let client = server_client_config(&ca, &certificate, &key)
        .map_err(|error| apart(format!("certificate and key do not go together: {error}")))?;
    match server_in(&certificate) {
        Ok(Peer::Server { name, roles }) => {
            let list: Vec<&str> = roles.iter().map(|role| role.name()).collect();
            let what = format!("this is {name}, as {}", list.join(" and "));
            Ok((Identity { client, roles }, Found::Good(what)))
        }
        _ => Err(apart("the certificate is no server's".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(addresses: &[&str], ttl_s: u32) -> Addresses {
        Addresses { all: addresses.iter().map(|a| a.parse().unwrap()).collect(), ttl_s }
    }

    #[test]
    fn what_the_servers_of_a_zone_say_is_compared() {
        let name = Name::from_ascii("manager.avr.test.").unwrap();
        let own: Vec<IpAddr> = vec!["203.0.113.10".parse().unwrap()];
        let judge = |lists: &[(&str, Addresses)]| {
            let lists: Vec<_> =
                lists.iter().map(|(name, list)| ((*name).to_owned(), list.clone())).collect();
            judge_lists(&lists, &own, &name)
        };
        let both = list(&["203.0.113.10", "198.51.100.1"], 1200);
        assert_eq!(
            judge(&[("ns1", both.clone()), ("ns2", both.clone())]),
            Found::Good(
                "198.51.100.1, 203.0.113.10, TTL 20 minutes, the same at 2 servers".to_owned()
            )
        );
        let one = list(&["198.51.100.1"], 1200);
        let Found::Wrong { what, .. } = judge(&[("ns1", both.clone()), ("ns2", one.clone())])
        else {
            panic!()
        };
        assert_eq!(what, "ns1 has 198.51.100.1, 203.0.113.10, but ns2 has 198.51.100.1");
        let Found::Doubtful { what, remedy } = judge(&[("ns1", one)]) else { panic!() };
        assert!(what.ends_with("; not 203.0.113.10") && remedy.contains("avr-site join"), "{what}");
        let slow = list(&["203.0.113.10"], TTL_S_DOUBTFUL + 1);
        assert!(matches!(judge(&[("ns1", slow)]), Found::Doubtful { .. }));
        assert!(matches!(judge(&[("ns1", list(&[], 0))]), Found::Doubtful { .. }));
        assert!(matches!(judge(&[]), Found::Wrong { .. }));
    }

    #[test]
    fn a_machine_without_its_files_is_told_to_run_init() {
        let folder = tempfile::tempdir().unwrap();
        let Err(Found::Wrong { what, remedy }) = installed(folder.path()).map(drop) else {
            panic!()
        };
        assert!(what.ends_with("fleet-ca.pem cannot be read"), "{what}");
        assert!(remedy.contains("avr-site init"), "{remedy}");
    }
}
