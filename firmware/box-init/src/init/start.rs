//! From the kernel's hand-over to the first turn of the loop. The bridge comes as early as it can.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use board::Board;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{EVENTS_MAX, Event, Init, SYNC_AGAIN_MIN, Sync, Teller};
use crate::addresses::Addresses;
use crate::boots::Boots;
use crate::clock::Clock;
use crate::cmdline::CommandLine;
use crate::control::{Mode, NetworkSettings, SOCKET};
use crate::host::children::Children;
use crate::host::control::Server;
use crate::host::efi::Loader;
use crate::host::kmod::Modules;
use crate::host::log::Logs;
use crate::host::notify::{self, Notify, Uevents};
use crate::host::storage;
use crate::host::watchdog::Watchdog;
use crate::host::{files, mounts, net, time};
use crate::services::table;
use crate::supervise::Supervisor;
use crate::{ports, release};

/// The board's file, as the image's builder checked it.
const BOARD: &str = "/etc/avr/board.toml";
/// The watchdog's time where no board says so, in seconds.
const WATCHDOG_SECONDS: u64 = 60;

/// What is said of STATE and DATA where PID 1 is at fault.
const FAILED: &str = "PID 1 failed while it looked for it";

/// Everything up to the first turn.
pub(super) fn start() -> Init {
    let mount_problems = mounts::early();
    let logs = Logs::default();
    logs.start();
    for problem in mount_problems {
        tracing::warn!(problem, "not everything is mounted");
    }
    let board = Board::load(Path::new(BOARD))
        .inspect_err(|error| {
            tracing::error!(error = telemetry::chain(error), "the board is not known");
        })
        .ok();
    let (release, built_seconds) = release::read();
    tracing::info!(
        version = release.version,
        build = release.build,
        board = release.board,
        "start"
    );
    let (clock, set) = Clock::start(built_seconds, None, time::now().as_secs());
    set_clock(set);
    let signals = take_signals();
    let uevents = Uevents::open()
        .inspect_err(|error| tracing::error!(%error, "what is plugged in later is not seen"))
        .ok();
    let mut modules = Modules::open();
    modules.load("bridge");
    modules.for_all_devices();
    let has_ports = join_ports(board.as_ref());
    tracing::info!(has_ports, uptime_ms = time::uptime().as_millis(), "the bridge");
    mounts::folders();
    mounts::kernel_settings();
    load_by_name(&mut modules, board.as_ref());
    mounts::efi_variables();
    mounts::close_root();
    let (watchdog, watchdog_problem) = open_watchdog(&mut modules, board.as_ref());
    let loader = Loader::read();
    let line = CommandLine::parse(&files::text("/proc/cmdline"));
    let trial = line.trial(loader.running(), loader.counted.is_some());
    let settings = NetworkSettings::default();
    let services = table(board.as_ref(), &settings.hostname);
    let supervisor = Supervisor::new(services.iter().map(|service| service.care.clone()));
    let children = Children::default();
    let (events, received) = sync_channel(EVENTS_MAX);
    let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .expect("without descriptors there is no PID 1");
    let teller = Teller { events, wake: Arc::new(wake) };
    let slots = slots_partition(board.as_ref());
    let disk_appeared = look_for_storage(&loader, slots, teller.clone(), children.clone());
    let mode = mode_of(&line);
    let listen = |path| {
        Notify::open(path)
            .inspect_err(|error| tracing::error!(%error, path, "nobody can be heard"))
            .ok()
    };
    let server =
        Server::open(SOCKET).inspect_err(|error| tracing::error!(%error, "nobody can ask")).ok();
    let mut init = Init {
        logs,
        children,
        release,
        line,
        loader,
        modules,
        watchdog,
        watchdog_problem,
        next_feed: Duration::ZERO,
        clock,
        sync: Sync {
            asking: false,
            next: Duration::ZERO,
            again: SYNC_AGAIN_MIN,
            last: None,
            problem: String::new(),
        },
        services,
        supervisor,
        outputs: Vec::new(),
        storage: None,
        boots: Boots::default(),
        short_boots: 0,
        mode,
        trial,
        addresses: Addresses::new(settings, None, net::mac(net::LAN).unwrap_or_default()),
        applied: None,
        network_problem: String::new(),
        settings_problem: String::new(),
        bypass: false,
        ending: None,
        has_ports,
        signals,
        notify: listen(notify::SOCKET),
        dhcp: listen(notify::DHCP_SOCKET),
        uevents,
        server,
        events: received,
        teller,
        disk_appeared,
        board,
    };
    init.want_services(time::uptime());
    init
}

fn mode_of(line: &CommandLine) -> Mode {
    if line.recovery {
        Mode::Recovery
    } else if line.safe {
        Mode::Safe
    } else {
        Mode::Normal
    }
}

pub(super) fn set_clock(seconds: Option<u64>) {
    if let Some(seconds) = seconds
        && let Err(error) = time::set(Duration::from_secs(seconds))
    {
        tracing::error!(%error, "the clock cannot be set");
    }
}

fn take_signals() -> Option<SignalFd> {
    // The kernel is to ask PID 1 and not to start anew by itself.
    let _ = set_cad_enabled(false);
    let mut wanted = SigSet::empty();
    for signal in
        [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR2, Signal::SIGPWR]
    {
        wanted.add(signal);
    }
    let taken = wanted.thread_block().and_then(|()| {
        SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
    });
    taken.inspect_err(|error| tracing::error!(%error, "signals are not heard")).ok()
}

/// Finds the two ports, names them, and joins them; whether both are there. One alone is joined, too, so
/// that the box can be reached.
pub(super) fn join_ports(board: Option<&Board>) -> bool {
    let Some(board) = board else { return false };
    let interfaces = net::interfaces();
    let mut joined = Vec::new();
    for (name, place) in [(net::LAN, &board.ports.lan), (net::WAN, &board.ports.wan)] {
        let Some(found) = ports::find(place, &interfaces) else {
            tracing::warn!(port = name, %place, "there is no interface at the place of a port");
            continue;
        };
        // Nth places count ports that have their names already as well.
        if found.name != name
            && let Err(error) = net::rename(&found.name, name)
        {
            tracing::error!(error = telemetry::chain(&error), "a port cannot be named");
            continue;
        }
        joined.push(name);
    }
    match net::join(&joined) {
        Ok(()) => joined.len() == 2,
        Err(error) => {
            tracing::error!(error = telemetry::chain(&error), "the bridge cannot be made");
            false
        }
    }
}

fn load_by_name(modules: &mut Modules, board: Option<&Board>) {
    let names: Vec<&str> = board.map_or_else(
        || vec!["ext4", "vfat", "nls_cp437", "nls_ascii", "efivarfs", "tun", "nft_fwd_netdev"],
        |board| board.modules.load.iter().map(board::ModuleName::as_str).collect(),
    );
    for name in names {
        modules.load(name);
    }
    // What the kernel says at its end outlives it in the firmware's variables.
    modules.load("efi_pstore");
}

fn open_watchdog(modules: &mut Modules, board: Option<&Board>) -> (Option<Watchdog>, String) {
    let seconds = board.map_or(WATCHDOG_SECONDS, |board| board.watchdog.seconds);
    if let Some(board) = board {
        modules.load(board.watchdog.module.as_str());
    }
    modules.load("softdog");
    match Watchdog::open(seconds) {
        Ok(watchdog) => {
            let report = watchdog.report();
            tracing::info!(driver = report.driver, seconds = report.seconds, "the watchdog");
            (Some(watchdog), String::new())
        }
        Err(problem) => {
            tracing::error!(problem, "nothing guards against a hang");
            (None, problem)
        }
    }
}

fn slots_partition(board: Option<&Board>) -> &'static str {
    match board.map(|board| board.boot.slots) {
        Some(board::Slots::Esp) => "ESP",
        Some(board::Slots::Xbootldr) | None => "SLOTS",
    }
}

/// Looks for STATE and DATA on a thread of its own; what tells it of another disk.
fn look_for_storage(
    loader: &Loader,
    slots: &'static str,
    teller: Teller,
    children: Children,
) -> SyncSender<()> {
    let (appeared, events) = sync_channel(1);
    let partition = loader.partition;
    let failed = teller.clone();
    let look = move || {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            storage::prepare(partition, slots, &events, &children)
        }));
        teller.tell(Event::Storage(Box::new(found.unwrap_or_else(|_| storage::in_memory(FAILED)))));
    };
    if let Err(error) = std::thread::Builder::new().name("storage".to_owned()).spawn(look) {
        tracing::error!(%error, "the disk cannot be looked for");
        failed.tell(Event::Storage(Box::new(storage::in_memory(FAILED))));
    }
    appeared
}
