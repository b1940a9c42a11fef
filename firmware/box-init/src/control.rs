//! What PID 1 can be asked, and what it answers: one JSON object a line each way, over the Unix socket
//! [`SOCKET`]. A connection may ask several times; each request has exactly one reply, in order.
//!
//! Only root and members of the socket's group can connect, and nothing here proves who they are:
//! console and status page ask for the admin secret before they ask for what changes something.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The socket, relative to the root.
pub const SOCKET: &str = "/run/init/control";

/// Longest request, in bytes with its newline.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Longest reply, in bytes with its newline: all the log lines that can be asked for at once.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// Most log lines of one reply.
pub const LOG_LINES_MAX: u32 = 2000;

/// How long new addresses wait for their confirmation before the old ones come back, in seconds.
pub const CONFIRM_SECONDS: u32 = 180;

/// A question or an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the box is: [`Reply::Status`].
    Status,
    /// What runs: [`Reply::Services`].
    Services,
    /// The last lines of a service: [`Reply::Logs`]. PID 1's own are those of the service `init`, the
    /// kernel's those of `kernel`.
    Logs {
        /// Its name.
        service: String,
        /// How many lines at most; [`LOG_LINES_MAX`] is the most.
        lines: u32,
    },
    /// Ends a service and starts it at once, whatever its back-off: [`Reply::Done`].
    Restart {
        /// Its name.
        service: String,
    },
    /// On: the gateway is stopped, and mail crosses the bridge until it is turned off or the box
    /// starts anew. [`Reply::Done`].
    Bypass {
        /// Whether mail is to cross unscanned.
        on: bool,
    },
    /// The box's own addresses: [`Reply::Network`].
    Network(NetworkRequest),
    /// Looks at everything that PID 1 knows of: [`Reply::SelfTest`].
    SelfTest,
    /// Stops the services, writes everything out, starts anew: [`Reply::Done`], and then the end.
    Reboot,
    /// As `reboot`, but turns the box off.
    Poweroff,
    /// Forgets settings, keys, identity, quarantine and logs, and starts anew: [`Reply::Done`].
    FactoryReset {
        /// Must be [`Status::serial`], typed by whoever asks.
        serial: String,
    },
    /// What an update needs to know, which `avr` installs: [`Reply::Slots`].
    Slots,
}

/// About the box's own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkRequest {
    /// Changes nothing.
    Show,
    /// Puts these settings to use. Unless they are confirmed within [`CONFIRM_SECONDS`], the former
    /// ones come back; they also do if the box starts anew before.
    Set {
        /// The new ones, whole.
        settings: NetworkSettings,
    },
    /// Keeps what was set.
    Confirm,
    /// Goes back to what was before at once.
    Revert,
}

/// The box's own addresses, on the bridge. Kept in `/state/config/network.toml` in the same form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct NetworkSettings {
    /// The box's name; letters, digits and hyphens, at most 63.
    pub hostname: String,
    /// How the IPv4 address is found.
    pub ipv4: Ipv4Settings,
    /// How IPv6 addresses are found.
    pub ipv6: Ipv6Settings,
    /// DNS servers, asked in this order; empty: those that DHCP names. At most 3.
    pub dns: Vec<IpAddr>,
    /// Time servers, by address, since the name of one cannot be trusted before the time is known;
    /// empty: those that DHCP names. At most 4.
    pub ntp: Vec<IpAddr>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            hostname: "avr".to_owned(),
            ipv4: Ipv4Settings::Dhcp,
            ipv6: Ipv6Settings::Auto,
            dns: Vec::new(),
            ntp: Vec::new(),
        }
    }
}

/// How the IPv4 address is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ipv4Settings {
    /// Of a DHCP server. The last lease is kept beyond its end; with none ever, a link-local address.
    Dhcp,
    /// As given.
    Static {
        /// The address.
        address: Ipv4Addr,
        /// Length of the network's prefix, in bits, 1 to 32.
        prefix: u8,
        /// The router, within that network.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<Ipv4Addr>,
    },
    /// None.
    Off,
}

/// How IPv6 addresses are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6Settings {
    /// As the network's routers say.
    Auto,
    /// None, not even a link-local one.
    Off,
}

/// What PID 1 answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done, or has begun.
    Done {
        /// What happens now, for a person.
        note: String,
    },
    /// It is not done.
    Failed {
        /// Why, and what to do.
        problem: String,
    },
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Services`].
    Services {
        /// In the order in which they are started.
        services: Vec<Service>,
    },
    /// To [`Request::Logs`].
    Logs {
        /// Oldest first; control characters are escaped.
        lines: Vec<LogLine>,
    },
    /// To [`Request::Network`].
    Network(Network),
    /// To [`Request::SelfTest`].
    SelfTest {
        /// What a check needs comes before it.
        checks: Vec<Check>,
    },
    /// To [`Request::Slots`].
    Slots(Box<Slots>),
}

/// Where slots are, and which one runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// The partition that holds them, as in `/dev/vda2`. It is not mounted.
    pub device: String,
    /// The running slot's file, as the loader or a blessing left its name; `None` where no loader has
    /// said so.
    pub entry: Option<String>,
    /// What runs.
    pub release: Release,
}

/// How the box is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What is installed.
    pub release: Release,
    /// The box's serial number: that of its maker, or else the LAN port's hardware address.
    pub serial: String,
    /// Which slot runs, and how far it is trusted.
    pub slot: Slot,
    /// How the box was started.
    pub mode: Mode,
    /// Since the kernel's start, in seconds.
    pub uptime_seconds: u64,
    /// Starts in a row that ended within five minutes, before this one.
    pub short_boots: u32,
    /// What is known of the time.
    pub clock: Clock,
    /// Mail: scanned or not.
    pub gateway: Gateway,
    /// The port to the office.
    pub lan: Port,
    /// The port to the router.
    pub wan: Port,
    /// Both ports are in the bridge, and it forwards.
    pub bridged: bool,
    /// The box's own addresses.
    pub network: Network,
    /// What guards against a hang.
    pub watchdog: Watchdog,
    /// Where settings, keys and identity are.
    pub state: Storage,
    /// Where quarantine, journal and spool are.
    pub data: Storage,
    /// Memory, in bytes: all of it, and what is to be had.
    pub memory_bytes: (u64, u64),
    /// What stopped the box the last time that it did not end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// What a person ought to see to, most important first; empty: nothing.
    pub problems: Vec<String>,
}

/// What is installed, of `/etc/avr/release.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// `avr`.
    pub product: String,
    /// For people.
    pub version: String,
    /// Grows with each release.
    pub build: u32,
    /// Which board it is made for.
    pub board: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// SHA-256 of the list of parts, in hexadecimal.
    pub sbom_sha256: String,
}

/// Which slot runs, and how far it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its file's name, as in `avr_000012+2-1.efi`; `None` where no loader has said so.
    pub entry: Option<String>,
    /// How far it is trusted.
    pub trial: Trial,
}

/// How far a slot is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "trial", rename_all = "kebab-case")]
pub enum Trial {
    /// Started by something that does not count starts, as in a test.
    None,
    /// It has proved itself, now or before.
    Blessed,
    /// It has to prove itself; with no starts left, the other slot is used.
    OnTrial {
        /// Starts that are left after this one.
        starts_left: u32,
        /// Since when everything is well, in seconds; it takes [`TRIAL_SECONDS`].
        healthy_seconds: u32,
        /// Why not everything is well, if so.
        #[serde(skip_serializing_if = "Option::is_none")]
        unhealthy: Option<String>,
    },
    /// It has proved itself, and that could not be written down.
    NotWritten {
        /// Why.
        problem: String,
    },
    /// The loader should have counted this start, and has not: on such firmware a bad slot never ends.
    NotCounted,
}

/// How long a slot on trial has to be healthy without a break, in seconds.
pub const TRIAL_SECONDS: u32 = 120;

/// How the box was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// With everything.
    Normal,
    /// Bridge, console and page only: it started too often, or somebody asked for it.
    Safe,
    /// From the recovery image.
    Recovery,
}

/// What is known of the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// How well it is known.
    pub state: ClockState,
    /// Now, in seconds since 1970 UTC.
    pub now_seconds: u64,
    /// The server that last set it, and when that was (as `now_seconds`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced: Option<Synced>,
}

/// A time server's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// Which server.
    pub server: IpAddr,
    /// When, in seconds since 1970 UTC.
    pub at_seconds: u64,
    /// How far off the clock was, in milliseconds; positive where it was slow.
    pub offset_ms: i64,
}

/// How well the time is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockState {
    /// Not at all.
    Unknown,
    /// It is later than this.
    Floor,
    /// A time server has said so.
    Synced,
}

/// Mail: scanned or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gateway", rename_all = "kebab-case")]
pub enum Gateway {
    /// Mail is taken off the bridge and scanned.
    Intercepting,
    /// It starts; mail crosses the bridge.
    Starting,
    /// It has died too often and rests; mail crosses the bridge.
    BackedOff {
        /// Until the next attempt.
        seconds: u32,
    },
    /// Somebody wants mail to cross the bridge.
    Bypass,
    /// In safe mode or recovery there is none; mail crosses the bridge.
    Off,
}

/// One of the two ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its place, as in `pci:0000:00:03.0`.
    pub path: String,
    /// Whether there is an interface at that place.
    pub found: bool,
    /// Hardware address, as in `02:00:5e:10:00:01`; empty where there is none.
    pub mac: String,
    /// Whether there is a carrier.
    pub link: bool,
    /// Speed in Mbit/s, where the driver knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbit: Option<u32>,
    /// The driver's name; empty where it is not known.
    pub driver: String,
}

/// The box's own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What is in use.
    pub settings: NetworkSettings,
    /// Addresses on the bridge, with their prefix's length, as in `192.0.2.7/24`.
    pub addresses: Vec<String>,
    /// The router of IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// DNS servers in use.
    pub dns: Vec<IpAddr>,
    /// Where the IPv4 address comes from.
    pub source: AddressSource,
    /// Settings that wait for their confirmation: how many seconds are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u32>,
}

/// Where the IPv4 address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressSource {
    /// There is none.
    None,
    /// The settings.
    Static,
    /// A DHCP server, and the lease is in force.
    Lease,
    /// A DHCP server that no longer answers: the last lease, beyond its end.
    OldLease,
    /// Nobody: one of 169.254.0.0/16.
    LinkLocal,
}

/// What guards against a hang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// Its driver's name; empty where there is none.
    pub driver: String,
    /// A part of the board, and not of the kernel.
    pub hardware: bool,
    /// After how long without food it starts the box anew, in seconds.
    pub seconds: u32,
}

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "storage", rename_all = "kebab-case")]
pub enum Storage {
    /// On the disk.
    Disk {
        /// As in `/dev/vda3`.
        device: String,
        /// Size, in bytes.
        bytes: u64,
        /// What is free, in bytes.
        free_bytes: u64,
        /// What had to be done to it this time, if anything.
        #[serde(skip_serializing_if = "Option::is_none")]
        repaired: Option<String>,
    },
    /// In memory: nothing of it outlives the next start.
    Memory {
        /// Why.
        problem: String,
    },
}

/// What stopped the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When it was noticed, in seconds since 1970 UTC.
    pub at_seconds: u64,
    /// The slot that ran.
    pub entry: String,
    /// The kernel's last words or PID 1's, at most a few lines.
    pub text: String,
}

/// A service and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, as in `gateway`.
    pub name: String,
    /// How it is.
    pub state: ServiceState,
    /// What it last said of itself (`STATUS=`).
    pub note: String,
    /// How often it was started since the box was, the first time included.
    pub starts: u32,
    /// How it ended the last time, as in `exit code 1`; empty: it has not.
    pub last_end: String,
}

/// How a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ServiceState {
    /// It has begun and is not ready yet.
    Starting {
        /// Its process.
        pid: i32,
    },
    /// It works.
    Running {
        /// Its process.
        pid: i32,
        /// Since when, in seconds.
        seconds: u64,
    },
    /// It was told to end.
    Stopping {
        /// Its process.
        pid: i32,
    },
    /// It has died and rests.
    BackedOff {
        /// Until it is started again.
        seconds: u32,
    },
    /// It is not wanted.
    Stopped,
}

/// A line of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Since the kernel's start, in milliseconds.
    pub at_ms: u64,
    /// Without its newline.
    pub text: String,
}

/// One look of the self test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at, as in `bridge`.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Pass {
        /// What was found.
        detail: String,
    },
    /// Not as it should be.
    Fail {
        /// What was found, and what to do.
        detail: String,
    },
    /// Not looked at, because another check that it needs failed.
    Skipped {
        /// Which one.
        because: String,
    },
}
