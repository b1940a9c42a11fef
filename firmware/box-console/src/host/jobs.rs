//! What each order does.

use std::net::IpAddr;
use std::time::Duration;

use box_init::control::{Ipv4Settings, Network, NetworkRequest, NetworkSettings, Reply, Request};
use config::Document;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Reporter, bundle, capture, probes, program, self_test, stick, uptime, wall_clock};
use crate::Options;
use crate::command::{AddressOrder, Command};
use crate::report::{self, Answer, unexpected};
use crate::secret::Door;
use crate::session::{Job, Report};
use crate::{ask, secret};

/// How long a ping, a trace, and what the gateway's program does may take.
const PING_MAX: Duration = Duration::from_secs(20);
const TRACE_MAX: Duration = Duration::from_secs(90);
const MAIL_MAX: Duration = Duration::from_secs(30);
const UPDATE_MAX: Duration = Duration::from_secs(600);
/// The same with a bundle that has to be fetched first, over a slow line; what has come is gone on behind.
const FETCH_MAX: Duration = Duration::from_secs(4 * 3600);
/// Between two screens of `live`.
const LIVE_STEP: Duration = Duration::from_secs(1);

/// The console's settings, of `config/console.toml` in STATE.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "snake_case")]
struct Settings {
    before_login: BeforeLogin,
}

/// What is shown before anybody has said the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BeforeLogin {
    /// The whole banner: who registers a box reads its key there. The default.
    #[default]
    All,
    /// Version and serial number.
    Short,
}

pub(super) fn run(job: &Job, options: &Options, reporter: &Reporter) {
    let result = match job {
        Job::Repair(job) => {
            let init = ask::status(&options.init, ask::BANNER_WAIT);
            match secret::door(&options.state, &init, uptime()) {
                Door::Locked => {
                    reporter.say(Report::Door(Door::Locked));
                    reporter.say(Report::End);
                    return;
                }
                _ => return run(job, options, reporter),
            }
        }
        Job::Banner => {
            banner(options, reporter);
            Ok(())
        }
        Job::Verify(secret) => {
            reporter.say(Report::Verified(secret::verify(&options.state, &secret.0)));
            Ok(())
        }
        Job::SetSecret(secret) => secret::set(&options.state, &secret.0)
            .map(|()| reporter.line("The secret is set; it is asked for from the next time on.")),
        Job::FactoryReset(serial) => {
            order(options, reporter, &Request::FactoryReset { serial: serial.clone() })
        }
        Job::Run(command) => obey(command, options, reporter),
    };
    if let Err(problem) = result {
        reporter.line(format!("FAIL {problem}"));
    }
    reporter.say(Report::End);
}

fn banner(options: &Options, reporter: &Reporter) {
    let init = ask::status(&options.init, ask::BANNER_WAIT);
    let door = secret::door(&options.state, &init, uptime());
    let (settings, problem) = settings(options);
    if door == Door::Locked && settings.before_login == BeforeLogin::Short {
        reporter.lines(report::short_banner(&init));
    } else {
        let gateway = ask::gateway_status(&options.gateway, ask::BANNER_WAIT);
        reporter.lines(report::banner(&init, &gateway, &page(options)));
    }
    reporter.lines(problem);
    if let Ok(status) = &init {
        reporter.say(Report::Unconfirmed(status.network.confirm_seconds));
    }
    reporter.say(Report::Door(door));
}

/// SHA-256 of the certificate that the status page shows, which it leaves there when it starts.
fn page(options: &Options) -> Answer<String> {
    report::page_fingerprint(&options.page)
}

/// Of a file that cannot be used, the more careful setting is taken.
fn settings(options: &Options) -> (Settings, Option<String>) {
    let path = options.state.join("config/console.toml");
    if !path.exists() {
        return (Settings::default(), None);
    }
    match Document::load(&path).and_then(|document| document.parse()) {
        Ok(settings) => (settings, None),
        Err(error) => (Settings { before_login: BeforeLogin::Short }, Some(error.to_string())),
    }
}

fn obey(command: &Command, options: &Options, reporter: &Reporter) -> Result<(), String> {
    match command {
        Command::Status => {
            let init = ask::status(&options.init, ask::ORDER_WAIT);
            let gateway = ask::gateway_status(&options.gateway, ask::BANNER_WAIT);
            reporter.lines(report::status(&init, &gateway, &page(options)));
            if let Ok(status) = &init {
                reporter.say(Report::Unconfirmed(status.network.confirm_seconds));
            }
            Ok(())
        }
        Command::Live => {
            live(options, reporter);
            Ok(())
        }
        Command::SelfTest { mail_server } => {
            self_test::run(mail_server.as_ref(), options, reporter, &mut |line| {
                reporter.line(line)
            });
            Ok(())
        }
        Command::Ping(host) => {
            let address = probes::resolve(host, &options.resolv_conf)?;
            busybox(options, reporter, PING_MAX, &["ping", "-c", "4", "-W", "2"], address)
        }
        Command::Trace(host) => {
            let address = probes::resolve(host, &options.resolv_conf)?;
            let arguments = ["traceroute", "-n", "-w", "1", "-q", "1", "-m", "20"];
            busybox(options, reporter, TRACE_MAX, &arguments, address)
        }
        Command::Dns(name) => probes::dns(name, &options.resolv_conf, reporter),
        Command::Port(target) => probes::port(target, &options.resolv_conf, reporter),
        Command::Smtp(target) => probes::smtp(target, &options.resolv_conf, reporter),
        Command::Capture(order) => capture::run(order, &options.captures, reporter),
        Command::Logs { service, lines } => {
            let request = Request::Logs { service: service.clone(), lines: *lines };
            match ask::init(&options.init, &request, ask::ORDER_WAIT)? {
                Reply::Logs { lines } if lines.is_empty() => reporter.line("(it has said nothing)"),
                Reply::Logs { lines } => reporter.lines(report::log(&lines)),
                other => return Err(unexpected(other)),
            }
            Ok(())
        }
        Command::Services => match ask::init(&options.init, &Request::Services, ask::ORDER_WAIT)? {
            Reply::Services { services } => {
                reporter.lines(report::services(&services));
                Ok(())
            }
            other => Err(unexpected(other)),
        },
        Command::Restart(service) => {
            order(options, reporter, &Request::Restart { service: service.clone() })
        }
        Command::Addresses(what) => addresses(what, options, reporter),
        Command::Bypass(on) => order(options, reporter, &Request::Bypass { on: *on }),
        Command::Snooze(time) => {
            let request = json!({ "verb": "snooze", "seconds": time.as_secs() });
            let answer = ask::gateway(&options.gateway, &request, ask::ORDER_WAIT)?;
            let left = report::word(&answer, "/seconds_left");
            reporter.line(format!("New connections stay on the bridge, unscanned, for {left} s."));
            Ok(())
        }
        Command::Resume => {
            let request = json!({ "verb": "resume" });
            ask::gateway(&options.gateway, &request, ask::ORDER_WAIT)?;
            reporter.line("New connections are scanned.");
            Ok(())
        }
        Command::Mail(id) => {
            let config = options.state.join("config/box.toml");
            let config = config.to_string_lossy();
            avr(options, reporter, MAIL_MAX, &["trace", "--config", &config, "--", id])
        }
        Command::Update(file) => update(file, options, reporter),
        Command::Slots => {
            reporter.lines(report::slots(&ask::status(&options.init, ask::ORDER_WAIT)?));
            avr(options, reporter, MAIL_MAX, &["slots"])
        }
        Command::SwitchSlot => avr(options, reporter, MAIL_MAX, &["slots", "switch"]),
        Command::Bundles => {
            let stick = stick::Stick::mount(options, false)?;
            reporter.lines(stick::bundles(stick.folder())?);
            Ok(())
        }
        Command::Support { stick } => bundle::run(*stick, options, reporter),
        Command::Reboot => order(options, reporter, &Request::Reboot),
        Command::Poweroff => order(options, reporter, &Request::Poweroff),
        // These the session does itself.
        Command::Secret | Command::FactoryReset | Command::Menu | Command::Help | Command::Exit => {
            Ok(())
        }
    }
}

/// An order to PID 1, and what it says.
fn order(options: &Options, reporter: &Reporter, request: &Request) -> Result<(), String> {
    match ask::init(&options.init, request, ask::ORDER_WAIT)? {
        Reply::Done { note } => {
            reporter.line(format!("OK {note}"));
            Ok(())
        }
        other => Err(unexpected(other)),
    }
}

fn live(options: &Options, reporter: &Reporter) {
    let mut before: Option<(Value, Duration)> = None;
    loop {
        let gateway = ask::gateway_status(&options.gateway, ask::BANNER_WAIT);
        let now = uptime();
        let between = before.as_ref().map_or(Duration::ZERO, |(_, then)| now.saturating_sub(*then));
        let screen = report::live(
            &gateway,
            before.as_ref().map(|(value, _)| value),
            between,
            wall_clock().as_secs(),
        );
        reporter.say(Report::Screen(screen));
        before = gateway.ok().map(|value| (value, now));
        if !reporter.rest(LIVE_STEP) {
            return;
        }
    }
}

fn busybox(
    options: &Options,
    reporter: &Reporter,
    time_max: Duration,
    arguments: &[&str],
    address: IpAddr,
) -> Result<(), String> {
    let address = address.to_string();
    let mut arguments = arguments.to_vec();
    arguments.push(&address);
    program::run(&options.busybox, &arguments, time_max, reporter, |line| reporter.line(line))
}

/// The gateway's program. A verb that this version does not have is said to be missing.
fn avr(
    options: &Options,
    reporter: &Reporter,
    time_max: Duration,
    arguments: &[&str],
) -> Result<(), String> {
    let mut said = Vec::new();
    let done = program::run(&options.avr, arguments, time_max, reporter, |line| {
        // Only the first line can say that.
        if said.is_empty() && line.starts_with("error: unrecognized subcommand") {
            said.push(line);
        } else if said.is_empty() {
            reporter.line(line);
        }
    });
    if said.is_empty() {
        return done;
    }
    let verb = arguments.first().copied().unwrap_or("");
    Err(format!("avr {verb} is not in this version"))
}

fn update(file: &str, options: &Options, reporter: &Reporter) -> Result<(), String> {
    if file.starts_with("http://") || file.starts_with("https://") {
        let config = options.state.join("config/box.toml");
        let config = config.to_string_lossy();
        return avr(options, reporter, FETCH_MAX, &["update", "--config", &config, "--", file]);
    }
    let Some(name) = file.strip_prefix("usb:") else {
        return avr(options, reporter, UPDATE_MAX, &["update", "--", file]);
    };
    let stick = stick::Stick::mount(options, false)?;
    let path = stick.folder().join(name);
    if !path.is_file() {
        return Err(format!("the stick has no file {name}"));
    }
    avr(options, reporter, UPDATE_MAX, &["update", "--", &path.to_string_lossy()])
}

fn network(reply: Reply) -> Answer<Network> {
    match reply {
        Reply::Network(network) => Ok(network),
        other => Err(unexpected(other)),
    }
}

fn addresses(what: &AddressOrder, options: &Options, reporter: &Reporter) -> Result<(), String> {
    let ask = |request: NetworkRequest| {
        ask::init(&options.init, &Request::Network(request), ask::ORDER_WAIT).and_then(network)
    };
    let now = match what {
        AddressOrder::Show => ask(NetworkRequest::Show)?,
        AddressOrder::Confirm => ask(NetworkRequest::Confirm)?,
        AddressOrder::Revert => ask(NetworkRequest::Revert)?,
        AddressOrder::Dhcp | AddressOrder::Static { .. } => {
            let former = ask(NetworkRequest::Show)?.settings;
            ask(NetworkRequest::Set { settings: changed(former, what) })?
        }
    };
    reporter.lines(report::addresses(&now));
    reporter.say(Report::Unconfirmed(now.confirm_seconds));
    Ok(())
}

/// The settings with what was said changed, and nothing else. DHCP brings its own DNS servers.
fn changed(mut settings: NetworkSettings, what: &AddressOrder) -> NetworkSettings {
    match what {
        AddressOrder::Dhcp => {
            settings.ipv4 = Ipv4Settings::Dhcp;
            settings.dns.clear();
        }
        AddressOrder::Static { address, prefix, gateway, dns } => {
            settings.ipv4 =
                Ipv4Settings::Static { address: *address, prefix: *prefix, gateway: *gateway };
            if !dns.is_empty() {
                settings.dns.clone_from(dns);
            }
        }
        AddressOrder::Show | AddressOrder::Confirm | AddressOrder::Revert => {}
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_addresses_leave_the_rest_as_it_is() {
        let former = NetworkSettings {
            hostname: "front-desk".to_owned(),
            dns: vec!["192.0.2.53".parse().unwrap()],
            ..NetworkSettings::default()
        };
        let order = AddressOrder::Static {
            address: "192.0.2.7".parse().unwrap(),
            prefix: 24,
            gateway: None,
            dns: vec![],
        };
        let new = changed(former.clone(), &order);
        assert_eq!((new.hostname.as_str(), &new.dns), ("front-desk", &former.dns));
        let back = changed(new, &AddressOrder::Dhcp);
        assert_eq!(back, NetworkSettings { dns: vec![], ..former });
    }
}
