//! The services: a fixed table. What is not in it is never started.

use std::time::Duration;

use board::Board;
use rustix::thread::CapabilitySet;

use crate::host::exec::Spec;
use crate::host::net::BRIDGE;
use crate::host::notify;
use crate::supervise::Care;

/// The gateway's name.
pub(crate) const GATEWAY: &str = "gateway";
/// The DHCP client's name.
pub(crate) const DHCP: &str = "dhcp";
/// The status page's name.
pub(crate) const PAGE: &str = "page";
/// The name of what looks for updates.
pub(crate) const UPDATES: &str = "updates";

/// How long the gateway may take to intercept: it compiles its rules first.
const GATEWAY_READY_MAX: Duration = Duration::from_secs(180);
/// How long the gateway may be silent.
const GATEWAY_WATCHDOG: Duration = Duration::from_secs(20);

/// A service: how it is looked after, and how it is run.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) care: Care,
    pub(crate) spec: Spec,
    /// Runs whatever the mode, also without STATE.
    pub(crate) always: bool,
}

/// The table for a board.
pub(crate) fn table(board: Option<&Board>, hostname: &str) -> Vec<Service> {
    let mut services = vec![gateway(), dhcp(hostname), page(), updates()];
    // Without a board's file there is at least the kernel's own console.
    let ttys: Vec<(String, u32)> = match board {
        Some(board) => {
            let baud = board.console.baud.bits_per_second();
            board.console.ttys.iter().map(|tty| (tty.as_str().to_owned(), baud)).collect()
        }
        None => vec![("console".to_owned(), 115_200)],
    };
    services.extend(ttys.iter().map(|(tty, baud)| console(tty, *baud)));
    services
}

/// Mail. Root by name, so that its scanning processes can become somebody else, with little of root's
/// power: what interception takes, and what it takes to drop power and to end those processes.
fn gateway() -> Service {
    let capabilities = CapabilitySet::NET_ADMIN
        | CapabilitySet::NET_RAW
        | CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::KILL;
    let mut spec =
        spec(GATEWAY, "/usr/bin/avr", &["run", "--config", "/state/config/box.toml"], capabilities);
    spec.descriptors_max = 65_536;
    spec.oom_score = -500;
    Service {
        care: Care {
            name: GATEWAY.to_owned(),
            ready_max: Some(GATEWAY_READY_MAX),
            watchdog: Some(GATEWAY_WATCHDOG),
        },
        spec,
        always: false,
    }
}

fn dhcp(hostname: &str) -> Service {
    let name = format!("hostname:{hostname}");
    // -f stays in front; -S has nowhere to log to; -t and -A: ask 4 times, then again every 20 s.
    let arguments = [
        "udhcpc",
        "-f",
        "-i",
        BRIDGE,
        "-s",
        "/run/init/dhcp-script",
        "-t",
        "4",
        "-T",
        "3",
        "-A",
        "20",
        "-O",
        "ntpsrv",
        "-x",
        &name,
    ];
    let capabilities = CapabilitySet::NET_RAW
        | CapabilitySet::NET_ADMIN
        | CapabilitySet::NET_BIND_SERVICE
        | CapabilitySet::NET_BROADCAST;
    simple(DHCP, spec(DHCP, "/usr/bin/busybox", &arguments, capabilities), false)
}

/// Root by name, to read what is root's; of root's power only what two ports take.
fn page() -> Service {
    let arguments = ["page", "--config", "/state/config/box.toml", "--interface", BRIDGE];
    let capabilities = CapabilitySet::NET_BIND_SERVICE;
    simple(PAGE, spec(PAGE, "/usr/bin/avr", &arguments, capabilities), true)
}

/// Looks for updates, and installs them. In safe mode, too: the way out of it may be one. It mounts the
/// slots, for itself alone.
fn updates() -> Service {
    let arguments = ["updates", "--config", "/state/config/box.toml"];
    let mut spec = spec(UPDATES, "/usr/bin/avr", &arguments, CapabilitySet::SYS_ADMIN);
    // Mail comes first.
    spec.oom_score = 500;
    simple(UPDATES, spec, true)
}

/// A person's way in, and so the last thing to be killed. It changes files in STATE, and mounts a stick.
fn console(tty: &str, baud: u32) -> Service {
    let name = format!("console-{tty}");
    let baud = baud.to_string();
    let arguments = ["--tty", tty, "--baud", &baud];
    let capabilities = CapabilitySet::SYS_ADMIN
        | CapabilitySet::NET_RAW
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::SYS_TTY_CONFIG;
    let mut spec = spec(&name, "/usr/bin/box-console", &arguments, capabilities);
    spec.oom_score = -900;
    simple(&name, spec, true)
}

fn simple(name: &str, spec: Spec, always: bool) -> Service {
    Service { care: Care { name: name.to_owned(), ready_max: None, watchdog: None }, spec, always }
}

fn spec(name: &str, program: &str, args: &[&str], capabilities: CapabilitySet) -> Spec {
    Spec {
        program: program.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/usr/bin:/usr/sbin".to_owned())],
        user: 0,
        capabilities: capabilities.bits(),
        descriptors_max: 1024,
        processes_max: 0,
        oom_score: 0,
        group: name.to_owned(),
    }
}

impl Service {
    /// The environment that a service with this care gets, beside its own.
    pub(crate) fn spec_now(&self) -> Spec {
        let mut spec = self.spec.clone();
        if self.care.ready_max.is_some() {
            spec.env.push(("NOTIFY_SOCKET".to_owned(), notify::SOCKET.to_owned()));
        }
        if let Some(watchdog) = self.care.watchdog {
            spec.env.push(("WATCHDOG_USEC".to_owned(), watchdog.as_micros().to_string()));
        }
        spec
    }
}
