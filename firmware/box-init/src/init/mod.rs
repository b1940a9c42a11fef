//! PID 1's loop: waits for whatever comes, hands it to what decides, and does what that says.

mod answer;
mod start;
mod state;
mod status;

use std::collections::HashMap;
use std::fs;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use board::Board;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

use crate::addresses::{Addresses, DhcpEvent, Wanted};
use crate::boots::{Boots, LONG_BOOT};
use crate::clock::Clock;
use crate::cmdline::CommandLine;
use crate::control::{Ipv6Settings, Mode, Release, Synced};
use crate::health::{BootTrial, Step, ailment};
use crate::host::children::{self, Children};
use crate::host::control::Server;
use crate::host::efi::Loader;
use crate::host::exec;
use crate::host::kmod::Modules;
use crate::host::log::Logs;
use crate::host::notify::{Notify, Uevents};
use crate::host::power::{self, End};
use crate::host::sntp::{self, Answer};
use crate::host::storage::{self, Found};
use crate::host::time::{now, set, uptime};
use crate::host::watchdog::Watchdog;
use crate::host::{files, net};
use crate::services::{DHCP, GATEWAY, Service};
use crate::supervise::{Action, Supervisor};

pub use state::BOX_DEFAULT;

/// Longest time between two turns of the loop.
const TURN_MAX: Duration = Duration::from_secs(1);
/// How long services may take to end before the box does without them.
const ENDING_MAX: Duration = Duration::from_secs(75);
/// Read at once of what a service says, in bytes; more comes in the next turn.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Between two questions to time servers, while none has answered and afterwards.
const SYNC_AGAIN_MIN: Duration = Duration::from_secs(8);
const SYNC_AGAIN_MAX: Duration = Duration::from_secs(900);
const SYNC_INTERVAL: Duration = Duration::from_secs(3600);
/// An offset that is less is nobody's concern, in seconds.
const SYNC_OFFSET_SECONDS_MIN: f64 = 0.02;
/// Messages of threads that wait for the loop: each thread has one or two.
pub(super) const EVENTS_MAX: usize = 16;

/// What threads tell the loop.
#[derive(Debug)]
enum Event {
    Storage(Box<Found>),
    Sync(Result<Answer, String>),
}

/// Tells the loop.
#[derive(Debug, Clone)]
struct Teller {
    events: SyncSender<Event>,
    wake: Arc<EventFd>,
}

impl Teller {
    fn tell(&self, event: Event) {
        // The loop never ends before the box does.
        let _ = self.events.send(event);
        let _ = self.wake.write(1);
    }
}

/// How the box is to end.
#[derive(Debug, Clone, Copy)]
struct Ending {
    end: End,
    by: Duration,
    /// STATE and DATA are forgotten before that.
    forget: bool,
}

/// Asking for the time.
#[derive(Debug)]
struct Sync {
    asking: bool,
    next: Duration,
    again: Duration,
    last: Option<Synced>,
    problem: String,
}

/// Everything that PID 1 knows.
#[derive(Debug)]
struct Init {
    logs: Logs,
    children: Children,
    board: Option<Board>,
    release: Release,
    line: CommandLine,
    loader: Loader,
    modules: Modules,
    watchdog: Option<Watchdog>,
    watchdog_problem: String,
    next_feed: Duration,
    clock: Clock,
    sync: Sync,
    services: Vec<Service>,
    supervisor: Supervisor,
    /// What services say, by number in the table. One that has ended may have left something behind.
    outputs: Vec<(usize, PipeReader)>,
    storage: Option<Found>,
    boots: Boots,
    short_boots: u32,
    mode: Mode,
    trial: BootTrial,
    addresses: Addresses,
    applied: Option<(Wanted, Ipv6Settings)>,
    /// What is wrong with the network's settings or with their use.
    network_problem: String,
    /// Why the settings are not in the form that this system reads, if so.
    settings_problem: String,
    bypass: bool,
    ending: Option<Ending>,
    /// Both ports are found.
    has_ports: bool,
    signals: Option<SignalFd>,
    notify: Option<Notify>,
    dhcp: Option<Notify>,
    uevents: Option<Uevents>,
    server: Option<Server>,
    events: Receiver<Event>,
    teller: Teller,
    /// Tells the thread that looks for the disk.
    disk_appeared: SyncSender<()>,
}

/// PID 1, from the first mount to the end of the box.
#[must_use]
pub fn run() -> ExitCode {
    let over = std::panic::catch_unwind(|| {
        let mut init = start::start();
        loop {
            init.turn();
        }
    });
    // A kernel without PID 1 stops at once, and the bridge with it: rather an orderly start anew.
    drop(over);
    tracing::error!("PID 1 has failed: the box starts anew");
    let _ = files::put("/dev/kmsg", "<2>avr-init: PID 1 has failed: the box starts anew\n");
    let error = power::finish(End::Reboot, &Children::default());
    tracing::error!(%error, "the box cannot start anew");
    ExitCode::FAILURE
}

impl Init {
    fn turn(&mut self) {
        self.wait();
        let now = uptime();
        self.take_signals();
        self.reap(now);
        self.hear(now);
        self.take_uevents();
        self.read_outputs();
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Storage(found) if self.storage.is_none() => {
                    self.storage_is_there(*found, now);
                }
                Event::Storage(_) => {
                    tracing::error!("the disk is there too late: it is used after the next start");
                }
                Event::Sync(answer) => self.synced(answer, now),
            }
        }
        if self.storage.is_none() && now >= storage::STORAGE_MAX {
            self.storage_is_there(storage::in_memory("the disk does not answer"), now);
        }
        if let Some(mut server) = self.server.take() {
            server.serve(|request| self.answer(request, now));
            self.server = Some(server);
        }
        if self.addresses.poll(now) {
            tracing::warn!("new addresses were not confirmed: the former ones come back");
            self.use_addresses();
        }
        self.keep_time(now);
        self.judge(now);
        self.supervise(now);
        self.feed(now);
        self.end_if_due(now);
    }

    /// Until something comes, or something is due.
    fn wait(&mut self) {
        let now = uptime();
        let due = [self.supervisor.due(), self.addresses.due(), Some(now + TURN_MAX)];
        let due = due.into_iter().flatten().min().unwrap_or(now);
        let timeout = due.saturating_sub(now).min(TURN_MAX);
        let reads = [
            Some(self.teller.wake.as_fd()),
            self.signals.as_ref().map(|one| one.as_fd()),
            self.notify.as_ref().map(|one| one.as_fd()),
            self.dhcp.as_ref().map(|one| one.as_fd()),
            self.uevents.as_ref().map(|one| one.as_fd()),
        ];
        let outputs = self.outputs.iter().map(|(_, output)| output.as_fd());
        let reads = reads.into_iter().flatten().chain(outputs);
        let mut descriptors: Vec<PollFd<'_>> = reads
            .map(|descriptor| (descriptor, false))
            .chain(self.server.iter().flat_map(Server::descriptors))
            .map(|(descriptor, writes)| {
                PollFd::new(descriptor, if writes { PollFlags::POLLOUT } else { PollFlags::POLLIN })
            })
            .collect();
        // An interruption is a turn like any other.
        let _ = ppoll(&mut descriptors, Some(TimeSpec::from_duration(timeout)), None);
        drop(descriptors);
        // Only resets the counter.
        let _ = self.teller.wake.read();
    }

    fn take_signals(&mut self) {
        while let Some(Ok(Some(signal))) = self.signals.as_ref().map(SignalFd::read_signal) {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            match Signal::try_from(number) {
                // Control-Alt-Delete, and what other programs send to start anew.
                Ok(Signal::SIGINT | Signal::SIGTERM) => self.end(End::Reboot, false),
                // Of busybox's poweroff, and of power supplies.
                Ok(Signal::SIGUSR2 | Signal::SIGPWR) => self.end(End::Poweroff, false),
                _ => {}
            }
        }
    }

    fn reap(&mut self, now: Duration) {
        while let Some((pid, end)) = self.children.reap() {
            if let Some(index) = self.supervisor.ended(pid, &end.to_string(), now) {
                let name = self.name(index).to_owned();
                tracing::warn!(service = name, %end, "a service has ended");
                self.read_outputs();
                self.logs.flush(&name);
                kill_group(&name);
            }
        }
    }

    /// What services and the DHCP client say.
    fn hear(&mut self, now: Duration) {
        while let Some((pid, words)) = self.notify.as_ref().and_then(Notify::next_words) {
            self.supervisor.said(pid, &words, now);
        }
        let mut changed = false;
        while let Some((_, bytes)) = self.dhcp.as_ref().and_then(Notify::next) {
            let Ok(event) = serde_json::from_slice::<DhcpEvent>(&bytes) else { continue };
            tracing::info!(?event, "DHCP");
            if let DhcpEvent::Bound { lease } = &event {
                let lease = lease.clone();
                if self.addresses.dhcp(event) {
                    state::save_lease(&lease);
                }
                self.sync.next = now;
            } else {
                self.addresses.dhcp(event);
            }
            changed = true;
        }
        if changed {
            self.use_addresses();
        }
    }

    fn take_uevents(&mut self) {
        let Some(uevents) = &self.uevents else { return };
        let (events, lost) = uevents.take();
        if lost {
            self.modules.for_all_devices();
        }
        for event in &events {
            if !event.modalias.is_empty() {
                self.modules.for_device(&event.modalias);
            }
        }
        let is_new = |subsystem: &str| {
            lost || events.iter().any(|one| one.action == "add" && one.subsystem == subsystem)
        };
        if is_new("block") {
            // One word is enough, if it is still unread.
            let _ = self.disk_appeared.try_send(());
        }
        if is_new("net") && !self.has_ports {
            self.has_ports = start::join_ports(self.board.as_ref());
        }
    }

    fn read_outputs(&mut self) {
        let (logs, services) = (&self.logs, &self.services);
        self.outputs.retain_mut(|(index, output)| {
            let mut buffer = [0; OUTPUT_BYTES];
            match output.read(&mut buffer) {
                Ok(0) => false,
                Ok(bytes) => {
                    let name = services.get(*index).map_or("", |service| &service.care.name);
                    logs.write(name, buffer.get(..bytes).unwrap_or_default());
                    true
                }
                Err(error) => {
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
                }
            }
        });
    }

    fn keep_time(&mut self, uptime: Duration) {
        if self.storage.is_some()
            && let Some(seconds) = self.clock.due(uptime, now().as_secs())
        {
            state::save_clock(seconds);
        }
        let servers = self.addresses.wanted().ntp;
        if self.sync.asking || uptime < self.sync.next || servers.is_empty() {
            return;
        }
        let teller = self.teller.clone();
        let asks = std::thread::Builder::new()
            .name("sntp".to_owned())
            .spawn(move || teller.tell(Event::Sync(sntp::ask(&servers))));
        self.sync.asking = asks.is_ok();
        self.sync.next = uptime + self.sync.again;
    }

    fn synced(&mut self, answer: Result<Answer, String>, uptime: Duration) {
        self.sync.asking = false;
        let checked = answer.and_then(|answer| {
            let present = now();
            let right = if answer.offset_seconds < 0.0 {
                Duration::try_from_secs_f64(-answer.offset_seconds)
                    .ok()
                    .and_then(|offset| present.checked_sub(offset))
            } else {
                Duration::try_from_secs_f64(answer.offset_seconds)
                    .ok()
                    .and_then(|offset| present.checked_add(offset))
            };
            let right = right.ok_or_else(|| format!("{}: no such time", answer.server))?;
            self.clock
                .synced(right.as_secs())
                .map_err(|error| format!("{}: {error}", answer.server))?;
            Ok((answer, right))
        });
        match checked {
            Ok((answer, right)) => {
                if answer.offset_seconds.abs() >= SYNC_OFFSET_SECONDS_MIN
                    && let Err(error) = set(right)
                {
                    tracing::error!(%error, "the clock cannot be set");
                }
                let (server, offset) = (answer.server, answer.offset_seconds);
                if self.sync.last.is_none() {
                    tracing::info!(%server, offset_seconds = offset, "the time is known");
                }
                // Rounded to a value that fits, whatever the server says.
                let offset_ms = format!("{:.0}", offset * 1000.0).parse().unwrap_or(i64::MAX);
                self.sync.last = Some(Synced { server, at_seconds: right.as_secs(), offset_ms });
                self.sync.problem.clear();
                // Written down at once: the next power cut does not wait.
                if self.storage.is_some()
                    && let Some(seconds) = self.clock.save(right.as_secs())
                {
                    state::save_clock(seconds);
                }
                self.sync.again = SYNC_AGAIN_MIN;
                self.sync.next = uptime + SYNC_INTERVAL;
            }
            Err(problem) => {
                if self.sync.problem != problem {
                    tracing::warn!(problem, "no time server is of use");
                }
                self.sync.problem = problem;
                self.sync.again = (self.sync.again * 2).min(SYNC_AGAIN_MAX);
                self.sync.next = uptime + self.sync.again;
            }
        }
    }

    /// The start itself: did it last, and is the slot good.
    fn judge(&mut self, uptime: Duration) {
        if self.storage.is_none() || self.ending.is_some() {
            return;
        }
        if uptime >= LONG_BOOT && self.boots.lasted() {
            state::save_boots(&self.boots);
        }
        let ailing = ailment(&self.probes(uptime));
        match self.trial.poll(ailing.clone(), uptime) {
            Step::Wait => {}
            Step::Bless => self.bless(uptime),
            Step::GiveUp => {
                let ailing = ailing.unwrap_or_default();
                tracing::error!(ailing, "the slot on trial does not become well: start anew");
                self.note_failure(format!("the slot on trial did not become well: {ailing}"));
                self.end(End::Reboot, false);
            }
        }
    }

    fn supervise(&mut self, now: Duration) {
        while let Some(action) = self.supervisor.poll(now) {
            match action {
                Action::Start(index) => match self.start_service(index) {
                    Ok(pid) => self.supervisor.started(index, pid, now),
                    Err(error) => {
                        let service = self.name(index);
                        tracing::error!(service, %error, "a service cannot be started");
                        self.supervisor.not_started(index, &error.to_string(), now);
                    }
                },
                Action::Terminate(_, pid) => signal(pid, Signal::SIGTERM),
                Action::Abort(index, pid) => {
                    tracing::error!(
                        service = self.name(index),
                        "a service says nothing: it is ended"
                    );
                    signal(pid, Signal::SIGABRT);
                }
                Action::Kill(index, pid) => {
                    tracing::error!(
                        service = self.name(index),
                        "a service does not end: it is killed"
                    );
                    kill_group(self.name(index));
                    signal(pid, Signal::SIGKILL);
                }
            }
        }
    }

    fn start_service(&mut self, index: usize) -> io::Result<i32> {
        let Some(service) = self.services.get(index) else {
            return Err(io::Error::other("there is no such service"));
        };
        if !Path::new(&service.spec.program).exists() {
            return Err(io::Error::other(format!("there is no {}", service.spec.program)));
        }
        // Without groups of processes only the process itself is known.
        let _ = fs::create_dir_all(format!("{}/{}", exec::GROUPS, service.spec.group));
        let (output, writer) = io::pipe()?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let spec = serde_json::to_string(&service.spec_now())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(exec::VERB).arg(spec).env_clear().stdin(Stdio::null());
        command.stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn()?;
        let pid = children::pid_of(&child);
        tracing::info!(service = service.care.name, pid, "a service has started");
        self.outputs.push((index, output));
        Ok(pid)
    }

    /// Feeds the watchdog while nothing hangs that only a start anew would help.
    fn feed(&mut self, now: Duration) {
        let Some(watchdog) = &mut self.watchdog else { return };
        let ends_in_time = self.ending.is_none_or(|ending| now < ending.by + TURN_MAX);
        if now >= self.next_feed && ends_in_time && self.supervisor.is_alive(now) {
            watchdog.feed();
            self.next_feed = now + watchdog.interval();
        }
    }

    fn end(&mut self, end: End, forget: bool) {
        if self.ending.is_none() {
            let now = uptime();
            tracing::warn!(?end, "the box ends: services are told so");
            self.ending = Some(Ending { end, by: now + ENDING_MAX, forget });
            self.boots.ends_orderly();
            self.supervisor.stop_all(now);
        }
    }

    fn end_if_due(&mut self, now_: Duration) {
        let Some(ending) = self.ending else { return };
        if !self.supervisor.is_idle() && now_ < ending.by {
            return;
        }
        if self.storage.is_some() {
            state::save_boots(&self.boots);
            state::save_seed();
            if let Some(seconds) = self.clock.save(now().as_secs()) {
                state::save_clock(seconds);
            }
        }
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.feed();
        }
        if let Some(found) = self.storage.as_ref().filter(|_| ending.forget) {
            power::unmount();
            let watchdog = &mut self.watchdog;
            let mut alive = || watchdog.iter_mut().for_each(Watchdog::feed);
            if let Err(problem) = storage::forget(found, &mut alive) {
                tracing::error!(problem, "not everything could be forgotten");
            }
        }
        if ending.end == End::Poweroff
            && let Some(watchdog) = self.watchdog.take()
        {
            watchdog.disarm();
        }
        let error = power::finish(ending.end, &self.children);
        tracing::error!(%error, "the box does not end: the watchdog will see to it");
        // No food from here on.
        self.watchdog = None;
        self.ending = Some(Ending { by: Duration::MAX - TURN_MAX, ..ending });
    }

    /// Has the bridge have the addresses that are wanted now.
    fn use_addresses(&mut self) {
        let wanted = (self.addresses.wanted(), self.addresses.settings().ipv6);
        if self.applied.as_ref() != Some(&wanted) {
            match net::apply(&wanted.0, wanted.1) {
                Ok(()) => self.network_problem.clear(),
                Err(error) => {
                    self.network_problem = telemetry::chain(&error);
                    tracing::error!(problem = self.network_problem, "addresses cannot be used");
                }
            }
        }
        let hostname = &self.addresses.settings().hostname;
        if let Err(error) = nix::unistd::sethostname(hostname) {
            tracing::warn!(%error, "the host name cannot be set");
        }
        if let Some(dhcp) = self.supervisor.find(DHCP) {
            self.supervisor.want(dhcp, wanted.0.dhcp && self.ending.is_none(), uptime());
        }
        self.applied = Some(wanted);
    }

    /// Has the services run that belong to the mode and to what was asked for.
    fn want_services(&mut self, now: Duration) {
        let normal = self.mode == Mode::Normal && self.storage.is_some();
        let gateway = normal && !self.bypass;
        let wanted: HashMap<usize, bool> = self
            .services
            .iter()
            .enumerate()
            .filter(|(_, service)| service.care.name != DHCP)
            .map(|(index, service)| {
                let wanted = if service.care.name == GATEWAY { gateway } else { service.always };
                let is_there = Path::new(&service.spec.program).exists();
                // One that the image does not have is missed only if mail depends on it.
                (index, wanted && (is_there || service.care.name == GATEWAY))
            })
            .collect();
        for (index, wanted) in wanted {
            self.supervisor.want(index, wanted && self.ending.is_none(), now);
        }
    }

    fn name(&self, index: usize) -> &str {
        self.services.get(index).map_or("", |service| &service.care.name)
    }
}

fn signal(pid: i32, signal: Signal) {
    // It may have ended meanwhile; it is not reaped yet, so the number is nobody else's.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Ends all that belongs to a service.
fn kill_group(name: &str) {
    let _ = files::put(format!("{}/{name}/cgroup.kill", exec::GROUPS), "1");
}
