//! What is in STATE, read when it is there and written when it changes; and the slots.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use board::Counting;
use box_update::record::{self, FileStore, Outcome};
use box_update::settings::MIGRATIONS;
use box_update::slots::{Rename, Slots as Decisions};

use super::{Init, start};
use crate::addresses::{Addresses, Lease};
use crate::boots::{BAD_AFTER_BOOTS, Boots, SAFE_AFTER_BOOTS};
use crate::control::{Failure, Mode, NetworkSettings};
use crate::host::power::End;
use crate::host::slots::Slots;
use crate::host::storage::{Found, STATE};
use crate::host::{files, net, settings, time};
use crate::slots;

const BOOTS: &str = "/state/boots.json";
const CLOCK: &str = "/state/clock";
const SEED: &str = "/state/seed";
const LEASE: &str = "/state/lease.json";
const NETWORK: &str = "/state/config/network.toml";
const BOX: &str = "/state/config/box.toml";

/// Bytes of the seed: what the kernel's pool holds.
const SEED_BYTES: usize = 512;

/// Settings of the gateway where there are none.
pub const BOX_DEFAULT: &str = include_str!("../box.default.toml");

/// Where the kernel's last words are.
const PSTORE: &str = "/sys/fs/pstore";

impl Init {
    /// STATE and DATA are there, on the disk or in memory: from here on the box is what it is to be.
    pub(super) fn storage_is_there(&mut self, found: Found, now: Duration) {
        tracing::info!(uptime_ms = now.as_millis(), state = ?found.state, data = ?found.data, "storage");
        let saved = files::text(CLOCK).parse().unwrap_or(0);
        start::set_clock(self.clock.found_saved(saved, time::now().as_secs()));
        use_seed();
        self.boots = read_boots();
        self.note_last_words();
        let entry = self.loader.running().unwrap_or("none").to_owned();
        let verdict = self.boots.start(&entry);
        self.short_boots = verdict.short;
        self.settle_update(&found.files);
        self.storage = Some(found);
        self.note_failed_slots(&entry);
        save_boots(&self.boots);
        if self.mode == Mode::Normal && verdict.mode == Mode::Safe {
            tracing::error!(
                starts = verdict.short,
                limit = SAFE_AFTER_BOOTS,
                "too many starts in vain: safe mode, mail is not scanned"
            );
            self.mode = Mode::Safe;
        }
        if verdict.slot_is_bad && self.condemn(&entry) {
            return;
        }
        self.count_start(&entry);
        self.open_settings();
        let network = self.read_network();
        let mac = net::mac(net::LAN).or_else(|| net::mac(net::BRIDGE)).unwrap_or_default();
        self.addresses = Addresses::new(network, read_lease(), mac);
        self.use_addresses();
        if !Path::new(BOX).exists()
            && let Err(error) = files::replace(Path::new(BOX), BOX_DEFAULT.as_bytes(), 0o600)
        {
            tracing::error!(%error, "the gateway's settings cannot be written");
        }
        self.want_services(now);
    }

    /// Takes the counters off the running slot's name.
    pub(super) fn bless(&mut self, now: Duration) {
        let Some(running) = self.loader.running().map(str::to_owned) else { return };
        let done = self.with_slots(|slots| {
            let rename = slots::decide(&slots.files(), &running, Decisions::bless)
                .map_err(|error| error.to_string())?;
            if let Some(rename) = rename {
                slots.rename(&rename).map_err(|error| error.to_string())?;
            }
            Ok(slots.files())
        });
        match done {
            Ok(files) => {
                tracing::info!(running, "the slot has proved itself");
                self.trial.blessed();
                self.loader.counted = Some(format!("{}.efi", slots::name(&running)));
                let link = |port| net::port(port, &board::Port::Nth(1)).link;
                self.boots.links = (link(net::LAN), link(net::WAN));
                save_boots(&self.boots);
                self.settle_update(&files);
                self.adopt_settings();
            }
            Err(problem) => {
                tracing::error!(
                    problem,
                    "the slot has proved itself, and that cannot be written down"
                );
                self.trial.not_blessed(problem, now);
            }
        }
    }

    /// Has the settings in the form that this system reads. The recovery system takes them as they are.
    fn open_settings(&mut self) {
        let on_disk = self.storage.as_ref().is_some_and(|found| found.is_on_disk());
        if !on_disk || self.mode == Mode::Recovery {
            return;
        }
        let (build, is_trial) = (self.release.build, self.trial.is_trial());
        match settings::open(Path::new(STATE), MIGRATIONS, build, is_trial) {
            Ok(false) => {}
            Ok(true) => tracing::info!("a changed copy of the settings is used on trial"),
            Err(error) => {
                self.settings_problem = telemetry::chain(&error);
                tracing::error!(problem = self.settings_problem, "the settings are as they were");
            }
        }
    }

    fn adopt_settings(&self) {
        if let Err(error) = settings::adopt(Path::new(STATE), MIGRATIONS, self.release.build) {
            let problem = telemetry::chain(&error);
            tracing::error!(
                problem,
                "the changed settings come into their place at the next start"
            );
        }
    }

    /// Keeps a failure of this start.
    pub(super) fn note_failure(&mut self, text: String) {
        let entry = self.loader.running().unwrap_or("none").to_owned();
        self.boots.failed(Failure { at_seconds: time::now().as_secs(), entry, text });
        save_boots(&self.boots);
    }

    /// What the kernel said before it stopped the last time.
    fn note_last_words(&mut self) {
        let names = files::names(PSTORE);
        let mut text = String::new();
        for name in &names {
            let path = Path::new(PSTORE).join(name);
            if name.starts_with("dmesg-") {
                text += &crate::ring::escaped_lines(&files::text(&path));
                text.push('\n');
            }
            // The place is small, and the next failure needs it.
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, name, "the kernel's last words cannot be removed");
            }
        }
        if !text.is_empty() {
            tracing::error!("the kernel stopped the last time; its last words are kept");
            let entry = self.boots.entry.clone();
            self.boots.failed(Failure { at_seconds: time::now().as_secs(), entry, text });
        }
    }

    /// Keeps what became of the last update, as its slot's name says: what failed is not tried again, and
    /// what is good may shut out older ones.
    fn settle_update(&self, files: &[String]) {
        if files.is_empty() {
            // They could not be looked at, which says nothing about an update.
            return;
        }
        let slots = Decisions::of(files);
        let failed = slots::failed(files).pop();
        let why = failed.as_deref().map_or("", |name| self.boots.why(name));
        match record::settle(&mut FileStore::new(record::FILE), &slots, why) {
            Ok(None) => {}
            Ok(Some(Outcome::Blessed(update))) => {
                let (build, version) = (update.build, update.version);
                tracing::info!(build, version, "the update is good");
            }
            Ok(Some(Outcome::Failed(update))) => {
                let (build, version) = (update.build, update.version);
                tracing::error!(build, version, why, "the update failed, and is not tried again");
            }
            Ok(Some(Outcome::NotInstalled(update))) => {
                let (build, version) = (update.build, update.version);
                tracing::error!(build, version, "the update was cut short: install it again");
            }
            Err(error) => {
                tracing::error!(%error, "it cannot be kept what became of the last update");
            }
        }
    }

    /// Slots that were tried in vain since we last looked.
    fn note_failed_slots(&mut self, running: &str) {
        let Some(found) = &self.storage else { return };
        let running = slots::name(running);
        let mut failed = slots::failed(&found.files);
        failed.retain(|name| *name != running && !self.boots.given_up.contains(name));
        for base in failed {
            tracing::error!(slot = base, "a slot is marked bad: the other one runs");
            self.boots.give_up(&base);
            let mut text =
                format!("{base} is marked bad, by its trial or by hand; another slot runs instead");
            match self.boots.why(&base) {
                "" => {}
                why => text.push_str(&format!("; its last failure: {why}")),
            }
            self.boots.failed(Failure { at_seconds: time::now().as_secs(), text, entry: base });
        }
    }

    /// The running slot has failed too often: the other one has its turn, if it is good.
    fn condemn(&mut self, running: &str) -> bool {
        let files = self.storage.as_ref().map_or(&[][..], |found| &found.files);
        let rename = match slots::decide(files, running, Decisions::condemn) {
            Ok(Some(rename)) => rename,
            // It ran all the same: there is nothing better.
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(limit = BAD_AFTER_BOOTS, %error, "this slot is bad, and stays");
                return false;
            }
        };
        if !self.rename_slot(&rename) {
            return false;
        }
        self.note_failure(format!("{running} failed {BAD_AFTER_BOOTS} times in a row"));
        self.end(End::Reboot, false);
        true
    }

    /// On firmware that cannot count starts, PID 1 does.
    fn count_start(&mut self, running: &str) {
        let counts =
            self.board.as_ref().is_some_and(|board| board.boot.counting == Counting::Userspace);
        if !counts || self.loader.counted.is_some() {
            return;
        }
        let files = self.storage.as_ref().map_or(&[][..], |found| &found.files);
        if let Ok(Some(rename)) = slots::decide(files, running, Decisions::count)
            && self.rename_slot(&rename)
        {
            self.trial = self.line.trial(Some(&rename.to), true);
            self.loader.counted = Some(rename.to);
        }
    }

    fn rename_slot(&self, rename: &Rename) -> bool {
        let done = self.with_slots(|slots| slots.rename(rename).map_err(|error| error.to_string()));
        done.inspect_err(|problem| tracing::error!(problem, "a slot cannot be renamed")).is_ok()
    }

    fn with_slots<T>(&self, act: impl FnOnce(&Slots) -> Result<T, String>) -> Result<T, String> {
        let device = self.storage.as_ref().and_then(|found| found.slots.as_deref());
        let device = device.ok_or("there is no partition with slots")?;
        let slots = Slots::mount(device).map_err(|error| format!("mount the slots: {error}"))?;
        act(&slots)
    }

    fn read_network(&mut self) -> NetworkSettings {
        let path = Path::new(NETWORK);
        if !path.exists() {
            return NetworkSettings::default();
        }
        let read = config::load::<NetworkSettings>(path).and_then(|settings| {
            let checked = settings.check();
            checked.map_err(|(key, problem)| {
                config::invalid(path, key, problem, "set the addresses anew on the console")
            })?;
            Ok(settings)
        });
        read.unwrap_or_else(|error| {
            self.network_problem = telemetry::chain(&error);
            tracing::error!(problem = self.network_problem, "the address settings are not used");
            NetworkSettings::default()
        })
    }
}

/// Keeps confirmed settings.
pub(super) fn save_network(settings: &NetworkSettings) -> Result<(), String> {
    let text = toml::to_string(settings).map_err(|error| error.to_string())?;
    files::replace(Path::new(NETWORK), text.as_bytes(), 0o600)
        .map_err(|error| format!("write {NETWORK}: {error}"))
}

fn read_lease() -> Option<Lease> {
    serde_json::from_slice(&files::read(Path::new(LEASE)).ok()?).ok()
}

pub(super) fn save_lease(lease: &Lease) {
    save(LEASE, &serde_json::to_vec(lease).unwrap_or_default());
}

fn read_boots() -> Boots {
    let Ok(bytes) = files::read(Path::new(BOOTS)) else { return Boots::default() };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::error!(%error, "{BOOTS} cannot be read: starts are counted anew");
        Boots::default()
    })
}

pub(super) fn save_boots(boots: &Boots) {
    save(BOOTS, &serde_json::to_vec(boots).unwrap_or_default());
}

pub(super) fn save_clock(seconds: u64) {
    save(CLOCK, format!("{seconds}\n").as_bytes());
}

/// Stirs the last start's seed into the kernel's pool, and puts another in its place before anything
/// draws from it. It counts for nothing: who has the disk knows it.
fn use_seed() {
    if let Ok(seed) = files::read(Path::new(SEED))
        && let Err(error) = OpenOptions::new()
            .write(true)
            .open("/dev/urandom")
            .and_then(|mut pool| pool.write_all(&seed))
    {
        tracing::warn!(%error, "the seed cannot be used");
    }
    save_seed();
}

/// Writes a seed for the next start.
pub(super) fn save_seed() {
    let mut seed = [0; SEED_BYTES];
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_CLOEXEC)
        .open("/dev/urandom")
        .and_then(|mut pool| pool.read_exact(&mut seed));
    match read {
        Ok(()) => save(SEED, &seed),
        Err(error) => tracing::warn!(%error, "no seed can be drawn"),
    }
}

fn save(path: &str, bytes: &[u8]) {
    if let Err(error) = files::replace(Path::new(path), bytes, 0o600) {
        tracing::error!(%error, path, "a file of STATE cannot be written");
    }
}
