//! The commands: one table for menu, completion, help and the README; and words turned into orders.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::filter::{Filter, FilterError};

/// Longest name of a host, in bytes.
pub const HOST_BYTES_MAX: usize = 253;
/// Longest snooze.
pub const SNOOZE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a capture takes where nothing else is said.
pub const CAPTURE_DEFAULT: Duration = Duration::from_secs(60);
/// Longest capture.
pub const CAPTURE_MAX: Duration = Duration::from_secs(600);
/// Log lines where nothing else is said.
pub const LOG_LINES_DEFAULT: u32 = 100;
/// Most log lines.
pub const LOG_LINES_MAX: u32 = box_init::control::LOG_LINES_MAX;

/// What somebody must be allowed in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// To look, and to get a broken box going: also where the secret cannot be checked.
    Repair,
    /// Everything.
    Full,
}

/// A command's name, and what is told of it.
#[derive(Debug)]
pub struct Spec {
    /// As typed.
    pub name: &'static str,
    /// A few words, for the menu.
    pub label: &'static str,
    /// What may or must follow.
    pub parameters: &'static [Parameter],
    /// One line.
    pub help: &'static str,
    /// Who may.
    pub rights: Rights,
    make: fn(&[&str]) -> Result<Command, String>,
}

/// A word behind a command.
#[derive(Debug)]
pub struct Parameter {
    /// In the help.
    pub name: &'static str,
    /// Asked when the command comes from the menu, or without a word that it needs.
    pub question: &'static str,
    /// It may be left out.
    pub optional: bool,
    /// Words to choose from, completed by Tab; empty: any.
    pub choices: &'static [&'static str],
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The banner, longer.
    Status,
    /// Flows, mails and verdicts, once a second.
    Live,
    /// The tree of checks.
    SelfTest {
        /// A mail server to be tried.
        mail_server: Option<Target>,
    },
    /// ICMP echo.
    Ping(String),
    /// The way of packets.
    Trace(String),
    /// Asks the box's DNS servers.
    Dns(String),
    /// Opens a TCP connection.
    Port(Target),
    /// Opens an SMTP session.
    Smtp(Target),
    /// Writes frames to a file.
    Capture(CaptureOrder),
    /// What a service wrote.
    Logs {
        /// Its name.
        service: String,
        /// How many lines.
        lines: u32,
    },
    /// What runs.
    Services,
    /// Ends and starts one.
    Restart(String),
    /// The box's own addresses.
    Addresses(AddressOrder),
    /// Mail unscanned, or scanned again.
    Bypass(bool),
    /// New connections stay on the bridge for a while.
    Snooze(Duration),
    /// The end of that.
    Resume,
    /// What happened to a mail.
    Mail(String),
    /// Installs a bundle: a file, `usb:NAME`, or an address.
    Update(String),
    /// Which bundles are on the stick.
    Bundles,
    /// What is installed.
    Slots,
    /// Goes back to the other slot.
    SwitchSlot,
    /// The support bundle.
    Support {
        /// To a stick, and not over this line.
        stick: bool,
    },
    /// Sets the admin secret.
    Secret,
    /// Forgets everything.
    FactoryReset,
    /// Starts anew.
    Reboot,
    /// Turns off.
    Poweroff,
    /// The menu.
    Menu,
    /// All commands.
    Help,
    /// Locks the console.
    Exit,
}

impl Command {
    /// Who may, where that is not the same for all that the command can do.
    #[must_use]
    pub fn rights(&self, spec: &Spec) -> Rights {
        match self {
            // The other build may have faults that are known by now.
            Self::SwitchSlot => Rights::Full,
            _ => spec.rights,
        }
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address.
    pub host: String,
    /// TCP.
    pub port: u16,
}

/// What to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOrder {
    /// Where.
    pub interface: String,
    /// Which frames.
    pub filter: Filter,
    /// For how long at most.
    pub time: Duration,
}

/// What to do with the box's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressOrder {
    /// Nothing.
    Show,
    /// Ask a DHCP server.
    Dhcp,
    /// Have this one.
    Static {
        /// Address.
        address: Ipv4Addr,
        /// Bits of its network.
        prefix: u8,
        /// Router.
        gateway: Option<Ipv4Addr>,
        /// DNS servers; empty: as they are.
        dns: Vec<IpAddr>,
    },
    /// Keep what was set.
    Confirm,
    /// Go back.
    Revert,
}

const fn must(name: &'static str, question: &'static str) -> Parameter {
    Parameter { name, question, optional: false, choices: &[] }
}

const fn may(name: &'static str, question: &'static str) -> Parameter {
    Parameter { name, question, optional: true, choices: &[] }
}

const fn choice(
    name: &'static str,
    question: &'static str,
    choices: &'static [&'static str],
) -> Parameter {
    Parameter { name, question, optional: false, choices }
}

const fn spec(
    name: &'static str,
    label: &'static str,
    parameters: &'static [Parameter],
    help: &'static str,
    rights: Rights,
    make: fn(&[&str]) -> Result<Command, String>,
) -> Spec {
    Spec { name, label, parameters, help, rights, make }
}

/// All commands; the menu numbers them from 1.
pub const COMMANDS: &[Spec] = &[
    spec("status", "how the box is", &[], "how the box is", Rights::Repair, |_| {
        Ok(Command::Status)
    }),
    spec(
        "live",
        "flows, mails, verdicts",
        &[],
        "flows, mails and verdicts, once a second; q ends",
        Rights::Repair,
        |_| Ok(Command::Live),
    ),
    spec(
        "self-test",
        "checks everything",
        &[may("MAIL-SERVER[:PORT]", "Mail server to try (Enter: the last one used)")],
        "checks everything, each with what it needs first",
        Rights::Repair,
        self_test,
    ),
    spec(
        "ping",
        "ICMP echo",
        &[must("HOST", "Host or address")],
        "ICMP echo, four times",
        Rights::Repair,
        |w| host(word(w, 0)).map(Command::Ping),
    ),
    spec(
        "trace",
        "the way to a host",
        &[must("HOST", "Host or address")],
        "the way to a host",
        Rights::Repair,
        |w| host(word(w, 0)).map(Command::Trace),
    ),
    spec(
        "dns",
        "looks a name up",
        &[must("NAME", "Name")],
        "asks each of the box's DNS servers",
        Rights::Repair,
        |w| host(word(w, 0)).map(Command::Dns),
    ),
    spec(
        "port",
        "opens a connection",
        &[must("HOST", "Host or address"), must("PORT", "Port")],
        "opens a TCP connection",
        Rights::Repair,
        |w| Ok(Command::Port(Target { host: host(word(w, 0))?, port: port(word(w, 1))? })),
    ),
    spec(
        "smtp",
        "greets a mail server",
        &[must("HOST", "Mail server"), may("PORT", "Port (Enter: 25)")],
        "greets a mail server and asks what it can",
        Rights::Repair,
        |w| {
            let port = if word(w, 1).is_empty() { 25 } else { port(word(w, 1))? };
            Ok(Command::Smtp(Target { host: host(word(w, 0))?, port }))
        },
    ),
    spec(
        "capture",
        "frames to a file",
        &[
            choice("INTERFACE", "Interface (lan0, wan0, br0)", &["lan0", "wan0", "br0"]),
            may("FILTER", "Which frames, as in \"host 192.0.2.1 port 25 tcp 60s\" (Enter: all)"),
        ],
        "writes frames to a file; FILTER: host A, port N, tcp, udp, icmp, arp, 60s",
        Rights::Full,
        capture,
    ),
    spec(
        "logs",
        "what services wrote",
        &[
            may("SERVICE", "Service (Enter: init; kernel, gateway, ...)"),
            may("LINES", "How many lines (Enter: 100)"),
        ],
        "the last lines of a service, of init, or of the kernel",
        Rights::Repair,
        logs,
    ),
    spec("services", "what runs", &[], "what runs", Rights::Repair, |_| Ok(Command::Services)),
    spec(
        "restart",
        "restarts a service",
        &[must("SERVICE", "Service")],
        "ends a service and starts it",
        Rights::Repair,
        |w| name(word(w, 0)).map(Command::Restart),
    ),
    spec(
        "addresses",
        "the box's own",
        &[
            choice(
                "show|dhcp|static|confirm|revert",
                "show, dhcp, static, confirm or revert",
                &["show", "dhcp", "static", "confirm", "revert"],
            ),
            may("A/P", "Address, as in 192.0.2.7/24 (only for static)"),
            may("GATEWAY", "Router (Enter: none)"),
            may("DNS...", "DNS servers (Enter: as they are)"),
        ],
        "the box's own; what is set goes back after 3 minutes unless confirmed",
        Rights::Repair,
        addresses,
    ),
    spec(
        "bypass",
        "mail unscanned, or not",
        &[choice("on|off", "on: mail crosses unscanned; off: it is scanned", &["on", "off"])],
        "on: mail crosses the bridge, unscanned, until turned off",
        Rights::Full,
        |w| match word(w, 0) {
            "on" => Ok(Command::Bypass(true)),
            "off" => Ok(Command::Bypass(false)),
            other => Err(format!("\"{other}\" is neither on nor off")),
        },
    ),
    spec(
        "snooze",
        "unscanned for a while",
        &[must("TIME", "How long, as in 30m")],
        "leaves new connections on the bridge for a while, at most 24h",
        Rights::Full,
        |w| span(word(w, 0), SNOOZE_MAX).map(Command::Snooze),
    ),
    spec("resume", "ends a snooze", &[], "ends a snooze", Rights::Full, |_| Ok(Command::Resume)),
    spec(
        "mail",
        "what became of a mail",
        &[must("ID", "Session or Message-ID")],
        "what happened to a mail, and why",
        Rights::Full,
        |w| {
            let id = word(w, 0);
            let fits = id.len() <= HOST_BYTES_MAX && !id.starts_with('-') && !id.is_empty();
            if fits {
                Ok(Command::Mail(id.to_owned()))
            } else {
                Err("that is no mail's number".to_owned())
            }
        },
    ),
    spec(
        "update",
        "installs a bundle",
        &[must("usb|usb:NAME|URL|FILE", "usb (what is on the stick), usb:NAME, address or file")],
        "installs a bundle into the other slot; usb alone lists those of the stick",
        Rights::Full,
        |w| match word(w, 0) {
            "usb" | "usb:" => Ok(Command::Bundles),
            word => file(word).map(Command::Update),
        },
    ),
    spec(
        "slots",
        "what is installed",
        &[Parameter {
            name: "switch",
            question: "switch, to go back to the other one (Enter: show them)",
            optional: true,
            choices: &["switch"],
        }],
        "what is installed, runs, is on trial; switch: goes back to the other",
        Rights::Repair,
        |w| match word(w, 0) {
            "" => Ok(Command::Slots),
            "switch" => Ok(Command::SwitchSlot),
            other => Err(format!("\"{other}\" is not switch")),
        },
    ),
    spec(
        "support",
        "a bundle for helpers",
        &[choice("usb|serial", "usb, or serial (base64 on this line)", &["usb", "serial"])],
        "state and logs without secrets and mail, for who helps",
        Rights::Full,
        |w| match word(w, 0) {
            "usb" => Ok(Command::Support { stick: true }),
            "serial" => Ok(Command::Support { stick: false }),
            other => Err(format!("\"{other}\" is neither usb nor serial")),
        },
    ),
    spec("secret", "sets the admin secret", &[], "sets the admin secret", Rights::Full, |_| {
        Ok(Command::Secret)
    }),
    spec(
        "factory-reset",
        "forgets everything",
        &[],
        "forgets settings, keys, quarantine and logs",
        Rights::Repair,
        |_| Ok(Command::FactoryReset),
    ),
    spec("reboot", "starts the box anew", &[], "starts the box anew", Rights::Repair, |_| {
        Ok(Command::Reboot)
    }),
    spec("poweroff", "turns the box off", &[], "turns the box off", Rights::Repair, |_| {
        Ok(Command::Poweroff)
    }),
    spec(
        "help",
        "all commands",
        &[],
        "all commands with what follows them",
        Rights::Repair,
        |_| Ok(Command::Help),
    ),
    spec("exit", "locks the console", &[], "locks the console", Rights::Repair, |_| {
        Ok(Command::Exit)
    }),
];

/// What a line says.
#[derive(Debug)]
pub enum Line {
    /// An order.
    Do(&'static Spec, Command),
    /// A command that needs more words; those that are there.
    Ask(&'static Spec, Vec<String>),
}

/// Reads a line: a command with its words, or a number of the menu.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn read(line: &str) -> Result<Line, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((first, rest)) = words.split_first() else {
        return Err("type a number or a command".to_owned());
    };
    if *first == "menu" {
        return Ok(Line::Do(&COMMANDS[0], Command::Menu));
    }
    let (spec, numbered) = match first.parse::<usize>() {
        Ok(number) => {
            let found = number.checked_sub(1).and_then(|index| COMMANDS.get(index));
            let spec = found.ok_or_else(|| {
                format!("there is no item {number}: the menu has 1 to {}", COMMANDS.len())
            })?;
            (spec, true)
        }
        Err(_) => (find(first)?, false),
    };
    let needed = spec.parameters.iter().filter(|parameter| !parameter.optional).count();
    // From the menu, also what may be left out is asked for.
    if rest.len() < needed || (numbered && rest.is_empty() && !spec.parameters.is_empty()) {
        return Ok(Line::Ask(spec, rest.iter().map(|&word| word.to_owned()).collect()));
    }
    make(spec, rest).map(|command| Line::Do(spec, command))
}

/// The order of a command with all its words.
///
/// # Errors
/// Which word is wrong.
pub fn make(spec: &Spec, words: &[&str]) -> Result<Command, String> {
    (spec.make)(words).map_err(|problem| format!("{problem}; {}", usage(spec)))
}

/// `addresses show|dhcp … [GATEWAY]`.
#[must_use]
pub fn usage(spec: &Spec) -> String {
    let mut text = spec.name.to_owned();
    for parameter in spec.parameters {
        let (open, close) = if parameter.optional { ("[", "]") } else { ("", "") };
        let _ = write!(text, " {open}{}{close}", parameter.name);
    }
    text
}

/// A name may be cut short as long as it is one command's.
fn find(word: &str) -> Result<&'static Spec, String> {
    if let Some(spec) = COMMANDS.iter().find(|spec| spec.name == word) {
        return Ok(spec);
    }
    let mut fitting = COMMANDS.iter().filter(|spec| spec.name.starts_with(word));
    match (fitting.next(), fitting.next()) {
        // What ends the box or forgets is written out.
        (Some(spec), None) if !DANGEROUS.contains(&spec.name) => Ok(spec),
        (Some(spec), None) => Err(format!("write it out: {}", spec.name)),
        (Some(one), Some(other)) => Err(format!("\"{word}\" may be {}, {}", one.name, other.name)),
        (None, _) => Err(format!("there is no command \"{word}\": see help")),
    }
}

const DANGEROUS: &[&str] = &["factory-reset", "reboot", "poweroff", "bypass"];

/// What Tab adds to what stands before the cursor, and what there is to choose from.
#[must_use]
pub fn complete(before: &str) -> (String, Vec<&'static str>) {
    let mut words: Vec<&str> = before.split_whitespace().collect();
    if before.is_empty() || before.ends_with(' ') {
        words.push("");
    }
    let Some((last, earlier)) = words.split_last() else { return (String::new(), Vec::new()) };
    let candidates: Vec<&'static str> = match earlier.split_first() {
        None => COMMANDS.iter().map(|spec| spec.name).collect(),
        Some((first, rest)) => COMMANDS
            .iter()
            .find(|spec| spec.name == *first)
            .and_then(|spec| spec.parameters.get(rest.len()))
            .map(|parameter| parameter.choices.to_vec())
            .unwrap_or_default(),
    };
    let fitting: Vec<&'static str> =
        candidates.into_iter().filter(|word| word.starts_with(last)).collect();
    let shared =
        fitting.iter().skip(1).fold(fitting.first().copied().unwrap_or(""), |shared, word| {
            let length = shared.bytes().zip(word.bytes()).take_while(|(a, b)| a == b).count();
            shared.get(..length).unwrap_or("")
        });
    let mut added = shared.get(last.len()..).unwrap_or("").to_owned();
    if fitting.len() == 1 {
        added.push(' ');
    }
    (added, fitting)
}

/// The menu, in two columns.
#[must_use]
pub fn menu() -> Vec<String> {
    let rows = COMMANDS.len().div_ceil(2);
    let cell = |index: usize| {
        let spec = COMMANDS.get(index)?;
        Some(format!("{:>2} {:<13} {}", index + 1, spec.name, spec.label))
    };
    (0..rows)
        .map(|row| {
            let right = cell(row + rows).unwrap_or_default();
            format!("{:<40}{right}", cell(row).unwrap_or_default()).trim_end().to_owned()
        })
        .collect()
}

fn word<'a>(words: &[&'a str], index: usize) -> &'a str {
    words.get(index).copied().unwrap_or("")
}

/// A host's name or address: nothing that a program could take for an option or a path.
fn host(word: &str) -> Result<String, String> {
    let fits = !word.is_empty()
        && word.len() <= HOST_BYTES_MAX
        && !word.starts_with('-')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte));
    if fits { Ok(word.to_owned()) } else { Err(format!("\"{word}\" is no host")) }
}

fn name(word: &str) -> Result<String, String> {
    let fits = !word.is_empty()
        && word.len() <= 64
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits { Ok(word.to_owned()) } else { Err(format!("\"{word}\" is no service")) }
}

fn port(word: &str) -> Result<u16, String> {
    match word.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("\"{word}\" is no port: 1 to 65535")),
    }
}

fn file(word: &str) -> Result<String, String> {
    let name = word.strip_prefix("usb:").unwrap_or(word);
    if name.is_empty() || name.starts_with('-') || name.contains("..") || word.len() > 1024 {
        return Err(format!("\"{word}\" is no file"));
    }
    Ok(word.to_owned())
}

/// `90s`, `30m`, `2h`.
fn span(word: &str, max: Duration) -> Result<Duration, String> {
    let problem =
        || format!("\"{word}\" is no time from 1s to {}s, as in 90s, 30m, 2h", max.as_secs());
    let (number, unit) = word.split_at_checked(word.len().saturating_sub(1)).ok_or_else(problem)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(problem()),
    };
    let number: u64 = number.parse().map_err(|_| problem())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .filter(|time| !time.is_zero() && *time <= max)
        .ok_or_else(problem)
}

fn self_test(words: &[&str]) -> Result<Command, String> {
    let given = word(words, 0);
    if given.is_empty() {
        return Ok(Command::SelfTest { mail_server: None });
    }
    let target = match given.rsplit_once(':') {
        // More than one colon: an address of IPv6 without a port.
        Some((name, number)) if !name.contains(':') => {
            Target { host: host(name)?, port: port(number)? }
        }
        _ => Target { host: host(given)?, port: 25 },
    };
    Ok(Command::SelfTest { mail_server: Some(target) })
}

fn capture(words: &[&str]) -> Result<Command, String> {
    let interface = word(words, 0);
    if !["lan0", "wan0", "br0", "lo"].contains(&interface) {
        return Err(format!("\"{interface}\" is no interface: lan0, wan0, br0"));
    }
    let mut time = CAPTURE_DEFAULT;
    let mut filter = Vec::new();
    for &word in words.get(1..).unwrap_or_default() {
        match span(word, CAPTURE_MAX) {
            Ok(given) => time = given,
            Err(_) => filter.push(word),
        }
    }
    let filter = Filter::read(&filter).map_err(|error: FilterError| error.to_string())?;
    Ok(Command::Capture(CaptureOrder { interface: interface.to_owned(), filter, time }))
}

fn logs(words: &[&str]) -> Result<Command, String> {
    let service = match word(words, 0) {
        "" => "init".to_owned(),
        word => name(word)?,
    };
    let lines = match word(words, 1) {
        "" => LOG_LINES_DEFAULT,
        number => {
            number.parse().ok().filter(|lines| (1..=LOG_LINES_MAX).contains(lines)).ok_or_else(
                || format!("\"{number}\" is no number of lines: 1 to {LOG_LINES_MAX}"),
            )?
        }
    };
    Ok(Command::Logs { service, lines })
}

fn addresses(words: &[&str]) -> Result<Command, String> {
    let order = match word(words, 0) {
        "show" => AddressOrder::Show,
        "dhcp" => AddressOrder::Dhcp,
        "confirm" => AddressOrder::Confirm,
        "revert" => AddressOrder::Revert,
        "static" => {
            let given = word(words, 1);
            let problem =
                || format!("\"{given}\" is no address with its network, as in 192.0.2.7/24");
            let (address, prefix) = given.split_once('/').ok_or_else(problem)?;
            let ip = |word: &str| {
                word.parse::<IpAddr>().map_err(|_| format!("\"{word}\" is no address"))
            };
            let gateway = match word(words, 2) {
                "" | "none" => None,
                word => Some(word.parse().map_err(|_| format!("\"{word}\" is no IPv4 address"))?),
            };
            AddressOrder::Static {
                address: address.parse().map_err(|_| problem())?,
                prefix: prefix
                    .parse()
                    .ok()
                    .filter(|bits| (1..=32).contains(bits))
                    .ok_or_else(problem)?,
                gateway,
                dns: words.iter().skip(3).map(|word| ip(word)).collect::<Result<_, _>>()?,
            }
        }
        other => return Err(format!("\"{other}\" is none of show, dhcp, static, confirm, revert")),
    };
    Ok(Command::Addresses(order))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(line: &str) -> Command {
        match read(line) {
            Ok(Line::Do(_, command)) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_become_orders() {
        assert_eq!(command("stat"), Command::Status);
        assert_eq!(command("1"), Command::Status);
        assert_eq!(command("snooze 30m"), Command::Snooze(Duration::from_secs(1800)));
        assert_eq!(
            command("smtp mail.example.net"),
            Command::Smtp(Target { host: "mail.example.net".to_owned(), port: 25 })
        );
        assert_eq!(
            command("logs gateway 7"),
            Command::Logs { service: "gateway".to_owned(), lines: 7 }
        );
        assert_eq!(
            command("addresses static 192.0.2.7/24 192.0.2.1 192.0.2.53 2001:db8::53"),
            Command::Addresses(AddressOrder::Static {
                address: "192.0.2.7".parse().unwrap(),
                prefix: 24,
                gateway: Some("192.0.2.1".parse().unwrap()),
                dns: vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()],
            })
        );
        let Command::Capture(order) = command("capture wan0 port 25 5m host 192.0.2.1") else {
            panic!()
        };
        assert_eq!(order.time, Duration::from_secs(300));
    }

    #[test]
    fn updates_come_from_sticks_files_and_addresses() {
        assert_eq!(command("update usb"), Command::Bundles);
        for source in ["usb:a.update.tar", "/data/a.update.tar", "http://192.0.2.1/a.update.tar"] {
            assert_eq!(command(&format!("update {source}")), Command::Update(source.to_owned()));
        }
        assert_eq!(
            (command("slots"), command("slots switch")),
            (Command::Slots, Command::SwitchSlot)
        );
        assert_eq!(complete("slots s").0, "witch ");
    }

    #[test]
    fn what_cannot_be_done_is_said_with_what_can() {
        for (line, says) in [
            ("fly", "there is no command \"fly\""),
            ("99", "the menu has 1 to"),
            ("s", "may be"),
            ("reboo", "write it out: reboot"),
            ("ping -f", "\"-f\" is no host; ping HOST"),
            ("ping a;b", "is no host"),
            ("port a 0", "\"0\" is no port"),
            ("snooze 25h", "is no time from 1s to 86400s"),
            ("snooze 99999999999999999999h", "is no time"),
            ("logs gateway 2001", "1 to 2000"),
            ("addresses static 192.0.2.7", "as in 192.0.2.7/24"),
            ("addresses static 192.0.2.7/33", "as in 192.0.2.7/24"),
            ("capture eth0", "is no interface"),
            ("capture lan0 port", "port"),
            ("update ../x", "is no file"),
            ("slots swich", "is not switch"),
            ("mail --config=/x", "no mail's number"),
        ] {
            let problem = read(line).unwrap_err();
            assert!(problem.contains(says), "{line}: {problem}");
        }
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        assert!(
            matches!(read("ping"), Ok(Line::Ask(spec, given)) if spec.name == "ping" && given.is_empty())
        );
        assert!(
            matches!(read("port a"), Ok(Line::Ask(spec, given)) if spec.name == "port" && given == ["a"])
        );
        // From the menu also what may be left out.
        assert!(matches!(read("3"), Ok(Line::Ask(spec, _)) if spec.name == "self-test"));
        assert!(matches!(read("self-test"), Ok(Line::Do(..))));
    }

    #[test]
    fn tab_completes_commands_and_choices() {
        assert_eq!(complete("stat").0, "us ");
        assert_eq!(complete("addr").0, "esses ");
        assert_eq!(complete("addresses st").0, "atic ");
        assert_eq!(complete("bypass o"), (String::new(), vec!["on", "off"]));
        assert_eq!(complete("s").1.len(), 8);
        assert_eq!(complete("re"), (String::new(), vec!["restart", "resume", "reboot"]));
        assert_eq!(complete("ping x").1, Vec::<&str>::new());
    }

    #[test]
    fn the_menu_fits_the_screen_and_the_readme_has_every_command() {
        assert!(menu().len() < 15);
        for line in menu() {
            assert!(line.len() < 80, "{line}");
        }
        let readme = include_str!("../README.md");
        for (number, spec) in COMMANDS.iter().enumerate() {
            let row = format!(
                "| {} | `{}` | {} |",
                number + 1,
                usage(spec).replace('|', "\\|"),
                spec.help
            );
            assert!(readme.contains(&row), "README.md lacks: {row}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_an_order_a_question_or_an_answer(line in any::<String>()) {
            let _ = read(&line);
            let _ = complete(&line);
        }
    }
}
