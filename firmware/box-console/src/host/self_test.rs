//! The self test's own probes.

use std::time::Duration;

use box_init::control::{Outcome, Reply, Request, Status, Storage};
use hickory_proto::rr::RecordType;
use serde_json::Value;

use super::{Reporter, probes, program};
use crate::Options;
use crate::ask;
use crate::command::Target;
use crate::report::{Answer, unexpected, word};
use crate::selftest::{Probe, SelfTest};

/// How long the router has for an answer.
const ROUTER_MAX: Duration = Duration::from_secs(5);
/// Less free than one part in so many is a failure.
const FREE_PART_MIN: u64 = 20;

/// Makes the test, line by line.
pub(super) fn run(
    mail_server: Option<&Target>,
    options: &Options,
    reporter: &Reporter,
    each: &mut dyn FnMut(String),
) {
    let init = match ask::init(&options.init, &Request::SelfTest, ask::ORDER_WAIT) {
        Ok(Reply::SelfTest { checks }) => Ok(checks),
        Ok(other) => Err(unexpected(other)),
        Err(problem) => Err(problem),
    };
    let seen = Seen {
        init: ask::status(&options.init, ask::ORDER_WAIT),
        gateway: ask::gateway_status(&options.gateway, ask::BANNER_WAIT),
    };
    let (mut test, lines) = SelfTest::begin(init);
    lines.into_iter().for_each(&mut *each);
    while let Some(step) = test.step() {
        if reporter.is_cancelled() {
            return;
        }
        each(match step {
            Ok(probe) => test.result(seen.probe(probe, mail_server, options, reporter)),
            Err(line) => line,
        });
    }
    each(test.sum());
}

/// What the two know.
struct Seen {
    init: Answer<Status>,
    gateway: Answer<Value>,
}

impl Seen {
    fn probe(
        &self,
        probe: Probe,
        mail_server: Option<&Target>,
        options: &Options,
        reporter: &Reporter,
    ) -> Outcome {
        let result = match probe {
            Probe::Router => self.router(options, reporter),
            Probe::Dns => self.dns(options),
            Probe::Managers => self.managers(),
            Probe::Proxy => self.proxy(),
            Probe::MailServer => match mail_server.cloned().or_else(|| self.last_server()) {
                Some(target) => probes::connect(&target, &options.resolv_conf)
                    .map(|(_, address, milliseconds)| format!("{address} in {milliseconds} ms")),
                None => {
                    let because = "no mail server was used yet, and none was named".to_owned();
                    return Outcome::Skipped { because };
                }
            },
            Probe::Scanner => self.scanner(),
            Probe::Disk => self.disk(),
        };
        match result {
            Ok(detail) => Outcome::Pass { detail },
            Err(detail) => Outcome::Fail { detail },
        }
    }

    fn router(&self, options: &Options, reporter: &Reporter) -> Result<String, String> {
        let status = self.init.as_ref().map_err(Clone::clone)?;
        let router = status
            .network
            .gateway
            .ok_or("no router is known: DHCP has named none, and none is set")?
            .to_string();
        program::run(
            &options.busybox,
            &["ping", "-c", "1", "-W", "2", &router],
            ROUTER_MAX,
            reporter,
            |_| {},
        )
        .map(|()| format!("{router} answers"))
        .map_err(|problem| format!("{router} does not answer ICMP ({problem})"))
    }

    fn dns(&self, options: &Options) -> Result<String, String> {
        let servers = probes::dns_servers(&options.resolv_conf);
        let name = match &self.gateway {
            Ok(gateway) => word(gateway, "/relay/managers_list/name"),
            Err(_) => "-".to_owned(),
        };
        // Without sites any answer will do, also from a network that has names of its own only.
        let any_answer = name == "-";
        let name = probes::absolute(if any_answer { "a.root-servers.net" } else { &name })?;
        let mut problem = "no DNS server is known: DHCP has named none, and none is set".to_owned();
        for server in servers {
            match probes::ask_dns(server, &name, RecordType::A) {
                Ok(found) => {
                    return Ok(format!("{server} has {} addresses for {name}", found.len()));
                }
                Err(error) if any_answer && error == probes::NO_SUCH_NAME => {
                    return Ok(format!("{server} answers"));
                }
                Err(error) => problem = format!("{server}, asked for {name}: {error}"),
            }
        }
        Err(problem)
    }

    fn managers(&self) -> Result<String, String> {
        let gateway = self.gateway.as_ref().map_err(Clone::clone)?;
        let Some(relay) = gateway.get("relay").filter(|relay| !relay.is_null()) else {
            return Ok("no site is set: every session goes direct".to_owned());
        };
        let managers: Vec<&Value> =
            relay.get("managers").and_then(Value::as_array).into_iter().flatten().collect();
        let up = managers.iter().filter(|manager| word(manager, "/state") == "up").count();
        let text = format!("{up} of {} answer", managers.len());
        if up > 0 { Ok(text) } else { Err(format!("{text}: mail goes direct")) }
    }

    fn proxy(&self) -> Result<String, String> {
        let gateway = self.gateway.as_ref().map_err(Clone::clone)?;
        let at = |path: &str| gateway.pointer(path).map(|_| word(gateway, path));
        match (at("/relay/route/warm/proxy"), at("/relay/route/direct/reason")) {
            (Some(proxy), _) => Ok(format!("a link to {proxy} is ready")),
            (None, Some(reason)) => Err(format!("none: mail goes direct ({reason})")),
            (None, None) if gateway.get("relay").is_none_or(Value::is_null) => {
                Ok("no site is set".to_owned())
            }
            (None, None) => Ok("a manager is asked for one with each session".to_owned()),
        }
    }

    fn last_server(&self) -> Option<Target> {
        let recent = self.gateway.as_ref().ok()?.pointer("/counters/recent")?.as_array()?;
        let address: std::net::SocketAddr = recent.last()?.get("server")?.as_str()?.parse().ok()?;
        Some(Target { host: address.ip().to_string(), port: address.port() })
    }

    fn scanner(&self) -> Result<String, String> {
        let gateway = self.gateway.as_ref().map_err(Clone::clone)?;
        if gateway.get("scan").is_none_or(Value::is_null) {
            return Err("scanning is off in the settings: mail passes unread".to_owned());
        }
        let judged = word(gateway, "/counters/mails");
        let engines: Vec<&str> = gateway
            .pointer("/scan/engines")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|engines| engines.keys().map(String::as_str))
            .collect();
        let engines = if engines.is_empty() { "none".to_owned() } else { engines.join(", ") };
        Ok(format!("on, {judged} mails judged; engines elsewhere: {engines}"))
    }

    fn disk(&self) -> Result<String, String> {
        let status = self.init.as_ref().map_err(Clone::clone)?;
        let mut free = Vec::new();
        for (name, storage) in [("STATE", &status.state), ("DATA", &status.data)] {
            let Storage::Disk { bytes, free_bytes, .. } = storage else {
                return Err(format!("{name} is not on the disk"));
            };
            if *free_bytes < bytes / FREE_PART_MIN {
                return Err(format!("{name} is full: {free_bytes} of {bytes} bytes are free"));
            }
            free.push(format!("{name} {} MiB free", free_bytes / (1024 * 1024)));
        }
        Ok(free.join(", "))
    }
}
