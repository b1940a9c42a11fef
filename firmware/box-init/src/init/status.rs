//! How the box is: for people, and for the slot on trial.

use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::Init;
use crate::control::{
    AddressSource, Clock, ClockState, Gateway, Mode, Network, Slot, Status, Storage, Trial,
    Watchdog,
};
use crate::health::Probe;
use crate::host::{files, net, time};
use crate::services::GATEWAY;

/// Where a serial number is, the better ones first.
const SERIALS: &[&str] = &[
    "/state/config/serial",
    "/sys/class/dmi/id/product_serial",
    "/sys/firmware/devicetree/base/serial-number",
];

/// Serial numbers that makers leave in place of one.
const NO_SERIALS: &[&str] = &[
    "",
    "none",
    "not specified",
    "not applicable",
    "to be filled by o.e.m.",
    "system serial number",
    "default string",
    "0",
    "0123456789",
    "123456789",
];

impl Init {
    pub(super) fn status(&self, now: Duration) -> Status {
        let (lan, wan) = self.ports();
        let (state, data) = self.storage_now();
        Status {
            release: self.release.clone(),
            serial: self.serial(),
            slot: Slot {
                entry: self.loader.running().map(str::to_owned),
                trial: self.trial.report(now),
            },
            mode: self.mode,
            uptime_seconds: now.as_secs(),
            short_boots: self.short_boots,
            clock: Clock {
                state: self.clock.state(),
                now_seconds: time::now().as_secs(),
                synced: self.sync.last.clone(),
            },
            gateway: self.gateway(now),
            lan,
            wan,
            bridged: net::is_bridged(),
            network: self.network(now),
            watchdog: self.watchdog.as_ref().map_or(
                Watchdog { driver: String::new(), hardware: false, seconds: 0 },
                |watchdog| watchdog.report(),
            ),
            state,
            data,
            memory_bytes: memory(),
            last_failure: self.boots.failures.last().cloned(),
            problems: self.problems(now),
        }
    }

    pub(super) fn network(&self, now: Duration) -> Network {
        let wanted = self.addresses.wanted();
        Network {
            settings: self.addresses.settings().clone(),
            addresses: net::addresses(net::BRIDGE),
            gateway: wanted.gateway,
            dns: wanted.dns,
            source: self.addresses.source(),
            confirm_seconds: self.addresses.confirm_seconds(now),
        }
    }

    /// The box's serial number: what it was flashed with, else what its maker has stored in it, else the
    /// MAC address of a port.
    pub(super) fn serial(&self) -> String {
        let written = SERIALS.iter().map(files::text).find(|serial| {
            !NO_SERIALS.contains(&serial.to_lowercase().as_str())
                && serial.bytes().all(|byte| byte.is_ascii_graphic())
        });
        written.unwrap_or_else(|| {
            let mac = net::mac(net::LAN).or_else(|| net::mac(net::BRIDGE)).unwrap_or_default();
            mac.iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }

    pub(super) fn gateway(&self, now: Duration) -> Gateway {
        if self.mode != Mode::Normal {
            return Gateway::Off;
        }
        if self.bypass {
            return Gateway::Bypass;
        }
        match self.supervisor.find(GATEWAY).map(|index| self.supervisor.gateway(index, now)) {
            // It waits for STATE.
            Some(Gateway::Off) if self.storage.is_none() => Gateway::Starting,
            Some(gateway) => gateway,
            None => Gateway::Off,
        }
    }

    fn ports(&self) -> (crate::control::Port, crate::control::Port) {
        let unknown = board::Port::Nth(1);
        let places = self.board.as_ref().map(|board| (&board.ports.lan, &board.ports.wan));
        let (lan, wan) = places.unwrap_or((&unknown, &unknown));
        (net::port(net::LAN, lan), net::port(net::WAN, wan))
    }

    fn storage_now(&self) -> (Storage, Storage) {
        let Some(found) = &self.storage else {
            let storage = || Storage::Memory { problem: "it is still looked for".to_owned() };
            return (storage(), storage());
        };
        (with_room(&found.state, "/state"), with_room(&found.data, "/data"))
    }

    /// Everything that can be looked at. Each names what it needs.
    pub(super) fn probes(&self, now: Duration) -> Vec<Probe> {
        let (lan, wan) = self.ports();
        let (had_lan, had_wan) = self.boots.links;
        let found = |port: &crate::control::Port| {
            if port.found {
                Ok(format!("{}, {}, {}", port.path, port.mac, port.driver))
            } else {
                Err(format!("there is no network port at {}", port.path))
            }
        };
        let link = |port: &crate::control::Port| match (port.link, port.speed_mbit) {
            (true, Some(speed)) => Ok(format!("{speed} Mbit/s")),
            (true, None) => Ok("there is a link".to_owned()),
            (false, _) => Err("no link: look at cable and switch".to_owned()),
        };
        let probe = |name, needs, vital, result| Probe { name, needs, result, vital };
        let bridge = if net::is_bridged() {
            Ok("both ports forward".to_owned())
        } else {
            Err("the ports are not joined: mail and all else stands still".to_owned())
        };
        let in_normal = self.mode == Mode::Normal;
        let (state, data) = self.storage_now();
        vec![
            probe("lan", &[], true, found(&lan)),
            probe("wan", &[], true, found(&wan)),
            probe("lan-link", &["lan"], had_lan, link(&lan)),
            probe("wan-link", &["wan"], had_wan, link(&wan)),
            probe("bridge", &["lan", "wan"], true, bridge),
            probe("state", &[], true, self.state_result(&state)),
            probe("data", &[], false, storage_result(&data)),
            probe("gateway", &["bridge"], in_normal, self.gateway_result(now)),
            probe("address", &["bridge"], false, self.address_result()),
            probe("clock", &[], false, self.clock_result()),
            probe("watchdog", &[], false, self.watchdog_result()),
        ]
    }

    fn state_result(&self, state: &Storage) -> Result<String, String> {
        let device = storage_result(state)?;
        match self.settings_problem.as_str() {
            "" => Ok(device),
            problem => Err(problem.to_owned()),
        }
    }

    fn gateway_result(&self, now: Duration) -> Result<String, String> {
        match self.gateway(now) {
            Gateway::Intercepting => Ok("mail is intercepted".to_owned()),
            Gateway::Bypass => Ok("bypassed, because somebody said so".to_owned()),
            Gateway::Starting => Err("it is still starting".to_owned()),
            Gateway::BackedOff { seconds } => {
                Err(format!("it died, and is started again in {seconds} s; see its log"))
            }
            Gateway::Off => Err("off in this mode: mail is not scanned".to_owned()),
        }
    }

    fn address_result(&self) -> Result<String, String> {
        if !self.network_problem.is_empty() {
            return Err(self.network_problem.clone());
        }
        let address = self.addresses.wanted().ipv4.map(|(address, _)| address.to_string());
        match (self.addresses.source(), address) {
            (AddressSource::Lease | AddressSource::Static, Some(address)) => Ok(address),
            (AddressSource::OldLease, Some(address)) => {
                Err(format!("no DHCP server answers; {address} of the last lease is used"))
            }
            (AddressSource::LinkLocal, _) => Err("no DHCP server answers".to_owned()),
            (_, _) => Err("the box has no IPv4 address".to_owned()),
        }
    }

    fn clock_result(&self) -> Result<String, String> {
        match (self.clock.state(), self.addresses.wanted().ntp.is_empty()) {
            (ClockState::Synced, _) => Ok("set by a time server".to_owned()),
            (_, true) => Err("no time server is known: set one, or have DHCP name one".to_owned()),
            (_, false) if self.sync.problem.is_empty() => Err("no answer yet".to_owned()),
            (_, false) => Err(self.sync.problem.clone()),
        }
    }

    fn watchdog_result(&self) -> Result<String, String> {
        match &self.watchdog {
            Some(watchdog) => {
                let report = watchdog.report();
                Ok(format!("{}, {} s", report.driver, report.seconds))
            }
            None => Err(self.watchdog_problem.clone()),
        }
    }

    fn problems(&self, now: Duration) -> Vec<String> {
        let mut problems = Vec::new();
        match self.mode {
            Mode::Normal => {}
            Mode::Safe if self.line.safe => {
                problems.push("safe mode, asked for at the start: mail is not scanned".to_owned());
            }
            Mode::Safe => problems.push(format!(
                "safe mode after {} starts in vain: mail is not scanned",
                self.short_boots
            )),
            Mode::Recovery => problems.push("this is the recovery system".to_owned()),
        }
        if self.bypass {
            problems.push("the gateway is bypassed: mail is not scanned".to_owned());
        }
        match self.trial.report(now) {
            Trial::NotCounted => problems
                .push("this slot is on trial, and the loader does not count its starts".to_owned()),
            Trial::NotWritten { problem } => {
                problems.push(format!("this slot cannot be marked good: {problem}"));
            }
            _ => {}
        }
        let checks = crate::health::judge(&self.probes(now));
        problems.extend(checks.into_iter().filter_map(|check| match check.outcome {
            crate::control::Outcome::Fail { detail } => Some(format!("{}: {detail}", check.name)),
            _ => None,
        }));
        problems
    }
}

fn storage_result(storage: &Storage) -> Result<String, String> {
    match storage {
        Storage::Disk { device, free_bytes: 0, .. } => Err(format!("{device} is full")),
        Storage::Disk { device, .. } => Ok(device.clone()),
        Storage::Memory { problem } => Err(format!("in memory only: {problem}")),
    }
}

fn with_room(storage: &Storage, at: &str) -> Storage {
    match (storage, statvfs(at)) {
        (Storage::Disk { device, repaired, .. }, Ok(room)) => Storage::Disk {
            device: device.clone(),
            bytes: room.blocks() * room.fragment_size(),
            free_bytes: room.blocks_available() * room.fragment_size(),
            repaired: repaired.clone(),
        },
        _ => storage.clone(),
    }
}

/// All memory and what is to be had, in bytes.
fn memory() -> (u64, u64) {
    let text = files::text("/proc/meminfo");
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (value("MemTotal:").unwrap_or(0) * 1024, value("MemAvailable:").unwrap_or(0) * 1024)
}
