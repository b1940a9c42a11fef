//! `avr update` and `avr slots`: a bundle is a file, or comes from a web server to DATA first. The steps are
//! those of the crate `box-update`; here they get the partition, mounted, and what PID 1 says of it.
//!
//! The partition is mounted in a namespace of this process alone, so it is let go of however that ends.
//! PID 1 is asked in plain JSON, as any program would: what it answers stands in
//! `firmware/box-init/tests/control.jsonl`, with which the tests here compare.
#![allow(clippy::print_stdout, reason = "what a person asked for goes to standard output")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use board::Arch;
use box_fetch::State;
use box_update::install::{self, Facts, install};
use box_update::record::{self, FileStore, Record, Store as _};
use box_update::slots::{Loader, Running, Slot, Slots, Trust};
use box_update::{Keys, Manifest, Mounted};
use journal::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::fetch::{self, Source};

/// How long PID 1 may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// The partition's file system on a box.
const VFAT: &str = "vfat";
/// What else it is told, as PID 1 does: after a power cut an error in what is left over must not close
/// it for writing.
const OPTIONS: &str = "umask=077,errors=continue";
/// How often progress is told: each time that one more of so many parts is written.
const PARTS: u64 = 10;
const MIB: u64 = 1024 * 1024;

/// Installs an update.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// The bundle, avr-BOARD-VERSION.update.tar: a file, or its address, http:// or https://.
    #[arg(value_name = "FILE|URL")]
    source: Source,
    #[command(flatten)]
    server: fetch::Server,
    /// Starts the box anew when it is installed.
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    places: Places,
}

/// Shows the slots.
#[derive(Debug, clap::Args)]
pub(crate) struct SlotsArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    verb: Option<SlotsVerb>,
}

#[derive(Debug, clap::Subcommand)]
enum SlotsVerb {
    /// Go back to the other build at the next start. The one that runs is marked bad, and installing a
    /// newer one is the way on.
    Switch {
        /// Starts the box anew at once.
        #[arg(long)]
        restart: bool,
    },
}

/// Where things are; elsewhere in tests.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Places {
    /// PID 1's socket.
    #[arg(long, hide = true, default_value = "/run/init/control")]
    init: PathBuf,
    /// Where bundles are fetched to.
    #[arg(long, hide = true, default_value = box_fetch::FOLDER)]
    pub(crate) downloads: PathBuf,
    /// Where the partition is mounted meanwhile.
    #[arg(long, hide = true, default_value = "/run/avr-slots")]
    mount: PathBuf,
    /// The partition's file system: a kernel of a test machine may have no vfat.
    #[arg(long, hide = true, default_value = VFAT)]
    filesystem: String,
    /// What is remembered of updates.
    #[arg(long, hide = true, default_value = record::FILE)]
    record: PathBuf,
}

/// What PID 1 is asked.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
enum Request {
    Slots,
    Status,
    Reboot,
}

/// What it answers.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
enum Reply {
    Slots(Box<About>),
    Status(Status),
    Done { note: String },
    Failed { problem: String },
}

/// How the box is, as far as it matters here.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Status {
    clock: Clock,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Clock {
    state: String,
}

/// Where the slots are, and what runs.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct About {
    device: PathBuf,
    entry: Option<String>,
    pub(crate) release: Release,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Release {
    pub(crate) product: String,
    version: String,
    pub(crate) build: u32,
    pub(crate) board: String,
    arch: Arch,
}

impl UpdateArgs {
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        let about = self.places.about()?;
        match &self.source {
            Source::File(file) => {
                self.places.install(&about, file, &mut |line| println!("{line}"))?;
            }
            Source::Web(url) => {
                let mut told = 0;
                let downloaded =
                    self.server.fetch(&self.places, &about, url, &mut |bytes, total| {
                        if is_next_part(&mut told, bytes, total) {
                            println!("fetched: {} of {}", mib(bytes), mib(total));
                        }
                    })?;
                if downloaded.resumed_bytes > 0 {
                    println!(
                        "{} were there from an earlier attempt",
                        mib(downloaded.resumed_bytes)
                    );
                }
                self.places.install(&about, &downloaded.path, &mut |line| println!("{line}"))?;
                downloaded.remove();
            }
        }
        self.places.finish(self.restart)
    }
}

impl SlotsArgs {
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        let about = self.places.about()?;
        let mut mounted = self.places.mount(&about)?;
        let slots = install::slots(&mut mounted.disk)?;
        let record = self.places.record();
        let Some(SlotsVerb::Switch { restart }) = self.verb else {
            let updates = State::load(&self.places.downloads);
            let listing = Listing::of(&slots, &about, record.unwrap_or_default(), updates);
            if self.json {
                println!("{}", serde_json::to_string_pretty(&listing)?);
            } else {
                print!("{}", listing.to_text());
            }
            return Ok(());
        };
        let Running::Slot(running) = slots.running(&about.loader())? else {
            bail!(
                "the recovery system runs, and is no slot: start the box anew for the newest good one"
            );
        };
        // Without the floor it would not be known what must not be gone back to.
        let rename = slots.switch_back(running.build(), record?.floor)?;
        install::rename_slot(&mut mounted.disk, &rename)?;
        drop(mounted);
        println!(
            "build {} is marked bad: the other one runs from the next start on",
            running.build()
        );
        self.places.finish(restart)
    }
}

impl Places {
    /// Installs a bundle that is a file.
    pub(crate) fn install(
        &self,
        about: &About,
        file: &Path,
        say: &mut dyn FnMut(String),
    ) -> anyhow::Result<Manifest> {
        let step = || format!("open {}", file.display());
        let mut source = File::open(file).with_context(step)?;
        if !source.metadata().with_context(step)?.is_file() {
            bail!("{} is no file: name the bundle", file.display());
        }
        let mut slots = self.mount(about)?;
        let mut told = 0;
        let installed = install(
            &mut source,
            &mut slots.disk,
            &mut FileStore::new(&self.record),
            &about.facts(),
            &Keys::built_in()?,
            &mut |bytes, total| {
                if is_next_part(&mut told, bytes, total) {
                    say(format!("written: {} of {}", mib(bytes), mib(total)));
                }
            },
        )?;
        drop(slots);
        if installed.resumed_bytes > 0 {
            say(format!("{} were there from an earlier attempt", mib(installed.resumed_bytes)));
        }
        let manifest = installed.manifest;
        say(format!(
            "build {} ({}) is verified and installed; it is on trial from the next start on",
            manifest.build, manifest.version
        ));
        Ok(manifest)
    }

    /// What is remembered of updates.
    pub(crate) fn record(&self) -> anyhow::Result<Record> {
        FileStore::new(&self.record).load().with_context(|| {
            format!("read {}, what is remembered of updates", self.record.display())
        })
    }

    /// Has PID 1 start the box anew; what it says.
    pub(crate) fn reboot(&self) -> anyhow::Result<String> {
        match ask(&self.init, Request::Reboot)? {
            Reply::Done { note } => Ok(note),
            other => Err(unexpected(other)),
        }
    }

    /// Whether the box knows what time it is.
    pub(crate) fn knows_the_time(&self) -> anyhow::Result<bool> {
        match ask(&self.init, Request::Status)? {
            Reply::Status(status) => Ok(status.clock.state == "synced"),
            other => Err(unexpected(other)),
        }
    }

    pub(crate) fn about(&self) -> anyhow::Result<About> {
        match ask(&self.init, Request::Slots)? {
            Reply::Slots(about) => Ok(*about),
            other => Err(unexpected(other)),
        }
    }

    fn mount(&self, about: &About) -> anyhow::Result<Partition> {
        let at = &self.mount;
        fs::create_dir_all(at).with_context(|| format!("make the folder {}", at.display()))?;
        let folder = File::open(at).with_context(|| format!("open {}", at.display()))?;
        let lock = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                bail!("another `avr update` or `avr slots` is at work: wait until it has ended")
            }
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", at.display())),
        };
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
            .context("leave the mounts of others alone: be root")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
        let kind = self.filesystem.as_str();
        mount(Some(&about.device), at, Some(kind), flags, (kind == VFAT).then_some(OPTIONS))
            .with_context(|| format!("mount the slots, {}", about.device.display()))?;
        let mount = Mount(at.clone());
        let disk = Mounted::new(at).with_context(|| format!("open {}", at.display()))?;
        Ok(Partition { disk, _mount: mount, _lock: lock })
    }

    /// Starts the box anew, or says who has to.
    fn finish(&self, restart: bool) -> anyhow::Result<()> {
        if !restart {
            println!("start the box anew: `reboot` on the console");
            return Ok(());
        }
        println!("{}", self.reboot()?);
        Ok(())
    }
}

/// The slots' partition, mounted for this process, and no other `avr` at it. In this order: closed,
/// unmounted, unlocked.
struct Partition {
    disk: Mounted,
    _mount: Mount,
    _lock: Flock<File>,
}

/// Something that is mounted here, until it is dropped.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        // All that was done is synced; what this adds is FAT's own mark of an orderly end.
        let _ = umount2(&self.0, MntFlags::empty());
    }
}

impl About {
    fn loader(&self) -> Loader {
        Loader { selected: self.entry.clone(), counted: None }
    }

    /// The slot that runs; `None` of the recovery system, or where no loader has said it.
    pub(crate) fn slot(&self) -> Option<Slot> {
        self.entry.as_deref().and_then(Slot::parse)
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts {
            product: self.release.product.clone(),
            board: self.release.board.clone(),
            arch: self.release.arch,
            build: self.release.build,
            loader: self.loader(),
        }
    }
}

fn ask(init: &Path, request: Request) -> anyhow::Result<Reply> {
    let step = || format!("ask PID 1 at {}: this is for a box, as root", init.display());
    let mut stream = UnixStream::connect(init).with_context(step)?;
    stream.set_read_timeout(Some(ANSWER_MAX)).with_context(step)?;
    stream.set_write_timeout(Some(ANSWER_MAX)).with_context(step)?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line).with_context(step)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX))
        .read_until(b'\n', &mut answer)
        .context("PID 1 did not answer in time: try again")?;
    serde_json::from_slice(&answer).context("PID 1's answer is not understood")
}

fn unexpected(reply: Reply) -> anyhow::Error {
    match reply {
        Reply::Failed { problem } => anyhow::anyhow!("{problem}"),
        other => anyhow::anyhow!("PID 1 answers something else: {other:?}"),
    }
}

/// What `avr slots` says.
#[derive(Debug, Serialize)]
struct Listing {
    /// What runs.
    version: String,
    build: u32,
    /// The recovery system runs, which is no slot.
    recovery: bool,
    /// Why nobody knows which one runs, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The newest first, in which order the loader takes them.
    slots: Vec<Line>,
    #[serde(flatten)]
    record: Record,
    /// How the looks for updates go.
    updates: State,
}

/// A slot.
#[derive(Debug, Serialize)]
struct Line {
    build: u32,
    file: String,
    runs: bool,
    trust: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_left: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_done: Option<u32>,
    #[serde(skip)]
    text: String,
}

impl Listing {
    fn of(slots: &Slots, about: &About, record: Record, updates: State) -> Self {
        let running = slots.running(&about.loader());
        let lines = slots.iter().rev().map(|slot| {
            let (trust, starts_left, starts_done) = match slot.trust() {
                Trust::Good => ("good", None, None),
                Trust::Trial { left, done } => ("trial", Some(left), Some(done)),
                Trust::Failed { done } => ("failed", None, Some(done)),
            };
            let is_other = matches!(running, Ok(Running::Slot(running)) if running != slot);
            Line {
                build: slot.build(),
                file: slot.file().to_owned(),
                runs: running == Ok(Running::Slot(slot)),
                trust,
                starts_left,
                starts_done,
                text: match slot.trust() {
                    Trust::Trial { done: 0, .. } if is_other => "waits for its trial".to_owned(),
                    trust => trust.to_string(),
                },
            }
        });
        Self {
            version: about.release.version.clone(),
            build: about.release.build,
            slots: lines.collect(),
            recovery: running == Ok(Running::Recovery),
            problem: running.err().map(|error| error.to_string()),
            record,
            updates,
        }
    }

    fn to_text(&self) -> String {
        let recovery = if self.recovery { ", the recovery system," } else { "" };
        let mut text = format!("build {} ({}){recovery} runs\n", self.build, self.version);
        if let Some(problem) = &self.problem {
            text += &format!("{problem}\n");
        }
        for line in &self.slots {
            let runs = if line.runs { ", runs" } else { "" };
            text += &format!("  {:>6}  {}{runs}\n", line.build, line.text);
        }
        if let Some(pending) = &self.record.pending {
            text += &format!("build {} ({}) has to prove itself\n", pending.build, pending.version);
        }
        for failed in &self.record.failed {
            text += &format!("build {} failed: {}\n", failed.build, failed.why.escape_debug());
        }
        // Builds are counted from 1.
        if self.record.floor > 1 {
            text += &format!("builds below {} are not taken\n", self.record.floor);
        }
        if self.updates != State::default() {
            for line in self.updates.lines(|at| Timestamp::from_unix(at).to_string()) {
                text += &format!("{line}\n");
            }
        }
        text
    }
}

/// Whether one more part of [`PARTS`] is done.
pub(crate) fn is_next_part(told: &mut u64, bytes: u64, total: u64) -> bool {
    let part = bytes.saturating_mul(PARTS) / total.max(1);
    part > std::mem::replace(told, part.max(*told))
}

/// Bytes as people read them.
fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / MIB;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use box_update::Sha256;

    use super::*;

    /// PID 1's own lines, of its tests.
    const GOLDEN: &str = include_str!("../../box-init/tests/control.jsonl");

    fn about() -> About {
        let line = GOLDEN.lines().find(|line| line.starts_with(r#"{"reply":"slots""#)).unwrap();
        let Reply::Slots(about) = serde_json::from_str(line).unwrap() else { panic!("{line}") };
        *about
    }

    #[test]
    fn pid_1_is_asked_in_its_own_words() {
        for request in [Request::Slots, Request::Status, Request::Reboot] {
            let line = serde_json::to_string(&request).unwrap();
            assert!(GOLDEN.lines().any(|golden| golden == line), "{line}");
        }
        let about = about();
        assert_eq!(about.device, Path::new("/dev/vda2"));
        assert_eq!(about.entry.as_deref(), Some("avr_000012+2-1.efi"));
        assert_eq!((about.release.build, about.release.arch), (12, Arch::X86_64));
        for start in [r#"{"reply":"done""#, r#"{"reply":"failed""#] {
            let line = GOLDEN.lines().find(|line| line.starts_with(start)).unwrap();
            serde_json::from_str::<Reply>(line).unwrap();
        }
    }

    #[test]
    fn slots_are_told_with_what_failed() {
        let mut record = Record { floor: 10, ..Record::default() };
        record.fail(11, Sha256::of(b"system"), "3 starts in vain; the last: no\x1blink");
        let slots = Slots::of(["avr_000011+0-3.efi", "avr_000012+2-1.efi", "avr_000013+3-0.efi"]);
        let listing = Listing::of(&slots, &about(), record, State::default());
        assert_eq!(
            listing.to_text(),
            "build 12 (0.1.0) runs\n      13  waits for its trial\n      12  on trial, 2 starts left, runs\n      \
             11  failed after 3 starts\nbuild 11 failed: 3 starts in vain; the last: no\\u{1b}link\n\
             builds below 10 are not taken\n"
        );
        let json = serde_json::to_value(&listing).unwrap();
        assert_eq!(json["slots"][1]["starts_left"], 2);
        assert_eq!(json["slots"][1]["runs"], true);
        assert_eq!((&json["floor"], &json["failed"][0]["build"]), (&10.into(), &11.into()));
    }

    #[test]
    fn a_start_by_somebody_else_is_told_and_nothing_is_sure() {
        let about = About { entry: None, ..about() };
        let slots = Slots::of(["avr_000012.efi"]);
        let text = Listing::of(&slots, &about, Record::default(), State::default()).to_text();
        assert!(
            text.contains("the boot loader does not say") && !text.contains(", runs"),
            "{text}"
        );
    }
}
