//! A server of a site: its machine, and the program under test on it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::{
    clock::wait_for,
    daemon::Daemon,
    fleet::Fleet,
    netns::{Netns, run_command},
};

/// Options of the file system for temporary files that each server has for itself.
const ROOMY: &str = "size=4g";
/// The same without room for a page more than it holds.
const FULL: &str = "size=4k";
/// Longest wait for a moment in which no mail is on a server's disk.
const NO_MAIL_MAX: Duration = Duration::from_secs(60);
/// Makes a program believe in another time (Debian package libfaketime).
const FAKETIME: &str = "/usr/$LIB/faketime/libfaketime.so.1";

/// Puts a machine's own folders in their places, for one command.
const OWN_FOLDERS: &str = "\
mkdir -p /run/avr-manager && mount --bind \"$0/run\" /run/avr-manager && \
mount --bind \"$0/etc\" /etc/avr && mount --bind \"$0/auther\" /var/lib/avr-auther && \
mount --bind \"$0/proxy\" /var/lib/avr-proxy && exec \"$@\"";

/// One server. Runs no program until it is started.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    role: &'static str,
    address: SocketAddr,
    netns: Netns,
    settings: PathBuf,
    logs: PathBuf,
    temporary: PathBuf,
    /// How wrong its clock is, as `faketime` writes it, as in `+3d`.
    clock: Option<&'static str>,
    daemon: Option<Daemon>,
}

impl Server {
    /// The server `name`, whose program is `avr-ROLE` and listens at `address`.
    pub(crate) fn new(
        name: String,
        role: &'static str,
        address: SocketAddr,
        netns: Netns,
        (root, logs): (&Path, &Path),
    ) -> Result<Self> {
        let settings = root.join(format!("{name}.toml"));
        let temporary = root.join(format!("{name}.tmp"));
        fs::create_dir_all(&temporary)?;
        mount(Some("tmpfs"), &temporary, Some("tmpfs"), MsFlags::empty(), Some(ROOMY))
            .context("cannot mount a disk for a server")?;
        let (logs, daemon) = (logs.to_owned(), None);
        Ok(Self { name, role, address, netns, settings, logs, temporary, clock: None, daemon })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Writes its settings (these, and where it listens and who it is), and starts it.
    pub(crate) fn start(&mut self, fleet: &Fleet, settings: &str) -> Result<()> {
        let (certificate, key) = fleet.certificate(&self.name, self.role)?;
        let text = format!(
            "listen = \"{}\"\nfleet_ca = \"{}\"\ncertificate = \"{certificate}\"\n\
             key = \"{key}\"\n{settings}",
            self.address,
            fleet.file("fleet-ca.pem"),
        );
        fs::write(&self.settings, text)?;
        self.start_again(fleet)
    }

    /// Starts it with the settings it had; nothing if it runs.
    pub(crate) fn start_again(&mut self, fleet: &Fleet) -> Result<()> {
        if self.daemon.is_none() {
            let program = fleet.program(&format!("avr-{}", self.role))?;
            let mut command = self.netns.command(program);
            command.args(["serve", "--config"]).arg(&self.settings);
            command.env("TMPDIR", &self.temporary);
            if let Some(clock) = self.clock {
                command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", clock);
                command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            }
            // The end of each session is told to managers, which log it for who looks for it.
            command.env("AVR_LOG", "info,manager=debug");
            self.daemon = Some(Daemon::start(&self.name, command, &self.logs)?);
        }
        Ok(())
    }

    /// What it is, as in `avr-ROLE`.
    pub(crate) fn role(&self) -> &'static str {
        self.role
    }

    /// A command on its machine, whose `/etc/avr` and folders of state are its own.
    pub(crate) fn installed_command(&self, program: &Path) -> Result<Command> {
        let machine = self.machine();
        for folder in ["etc", "auther", "proxy", "run"] {
            fs::create_dir_all(machine.join(folder))?;
        }
        let mut command = self.netns.command("sh");
        command.args(["-c", OWN_FOLDERS]).arg(machine).arg(program);
        Ok(command)
    }

    /// A file of its `/etc/avr`.
    pub(crate) fn installed_file(&self, name: &str) -> PathBuf {
        self.machine().join("etc").join(name)
    }

    /// Starts it as `avr-site init` has set it up.
    pub(crate) fn start_installed(&mut self, fleet: &Fleet) -> Result<()> {
        let program = fleet.program(&format!("avr-{}", self.role))?;
        let mut command = self.installed_command(&program)?;
        command.arg("serve").env("TMPDIR", &self.temporary);
        self.daemon = Some(Daemon::start(&self.name, command, &self.logs)?);
        Ok(())
    }

    fn machine(&self) -> PathBuf {
        self.settings.with_extension("machine")
    }

    /// Waits until it listens.
    pub(crate) fn wait_listening(&mut self) -> Result<()> {
        let (netns, address) = (self.netns.clone(), self.address);
        self.daemon()?.wait_listening(&netns, address)
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.daemon()?.kill()?;
        self.daemon = None;
        Ok(())
    }

    /// Leaves no room on the disk that it has for temporary files. While a mail is on it the kernel refuses
    /// to make it smaller than that.
    pub(crate) fn fill_disk(&self) -> Result<()> {
        let mut refused = None;
        let full = wait_for("a moment without a mail on the disk", NO_MAIL_MAX, || {
            refused = self.resize_disk(FULL).err();
            refused.is_none().then_some(())
        });
        match refused {
            Some(error) => full.context(error),
            None => full,
        }
    }

    /// Takes back [`Self::fill_disk`]; nothing if the disk is not full.
    pub(crate) fn free_disk(&self) -> Result<()> {
        self.resize_disk(ROOMY)
    }

    fn resize_disk(&self, options: &str) -> Result<()> {
        mount(None::<&str>, &self.temporary, None::<&str>, MsFlags::MS_REMOUNT, Some(options))
            .with_context(|| format!("cannot set the size of the disk of {}", self.name))
    }

    /// From its next start on, its clock is wrong by that much.
    pub(crate) fn set_clock(&mut self, clock: Option<&'static str>) {
        self.clock = clock;
    }

    /// Whether its clock is right.
    pub(crate) fn is_on_time(&self) -> bool {
        self.clock.is_none()
    }

    /// What the program says to a verb that works without the daemon, with the same settings.
    pub(crate) fn ask(&self, fleet: &Fleet, verb: &[&str]) -> Result<String> {
        let mut command = self.netns.command(fleet.program(&format!("avr-{}", self.role))?);
        run_command(command.arg("--config").arg(&self.settings).args(verb))
    }

    /// The running program.
    pub(crate) fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().with_context(|| format!("{} does not run", self.name))
    }
}
