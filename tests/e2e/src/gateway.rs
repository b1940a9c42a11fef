//! The box: a bridge of two ports. With `avr` running it is the product, without it a plain bridge.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    clock::wait_for,
    daemon::Daemon,
    fleet::Fleet,
    machine,
    netns::{Netns, cable, run_command},
    plan::{BOX, BOX_MAC, BOX6, DNS, DOMAIN, OFFICE, OFFICE6},
};

/// Longest that the box may take to any state that a scenario waits for.
const STATE_MAX: Duration = Duration::from_secs(60);

/// How the box is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Pass bytes on unread.
    pub scan_off: bool,
    /// Carry sessions straight to the mail server.
    pub route_direct: bool,
    /// Run on this one core.
    pub core: Option<u32>,
}

/// The box.
#[derive(Debug)]
pub struct Gateway {
    netns: Netns,
    directory: PathBuf,
    logs: PathBuf,
    daemon: Option<Daemon>,
    /// In place of all of it.
    machine: Option<Daemon>,
}

impl Gateway {
    /// Makes the two ports and the bridge, and cables them to the PC and to the router.
    pub(crate) fn build(
        pc: (&Netns, &str),
        router: (&Netns, &str),
        root: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let netns = Netns::create("box")?;
        cable((&netns, "lan0"), pc)?;
        cable((&netns, "wan0"), router)?;
        netns.ip(&[
            &format!("link set lan0 address {BOX_MAC}"),
            "link add br0 type bridge",
            "link set lan0 master br0",
            "link set wan0 master br0",
            &format!("addr add {BOX}/24 dev br0"),
            &format!("addr add {BOX6}/64 dev br0 nodad"),
            "link set br0 up",
            &format!("route add default via {OFFICE}"),
            &format!("route add default via {OFFICE6}"),
        ])?;
        let directory = root.join("box");
        fs::create_dir_all(&directory)?;
        Ok(Self { netns, directory, logs: logs.to_owned(), daemon: None, machine: None })
    }

    /// The box's network.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Process id of `avr`, if it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::id)
    }

    /// Starts `avr`, and waits until it intercepts.
    pub(crate) fn start(&mut self, fleet: &Fleet, options: Options) -> Result<()> {
        let path = self.directory.join("avr.toml");
        fs::write(&path, self.settings(fleet, options))?;
        let program = fleet.program("avr")?;
        let mut command = match options.core {
            None => self.netns.command(&program),
            Some(core) => {
                let mut command = self.netns.command("taskset");
                command.args(["--cpu-list", &core.to_string()]).arg(&program);
                command
            }
        };
        command.arg("run").arg("--config").arg(&path);
        let mut daemon = Daemon::start("avr", command, &self.logs)?;
        daemon.wait_until("the box to intercept", || self.status(fleet).ok().map(drop))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Puts a machine with this disk image in the place of the box, for good, and switches it on.
    pub(crate) fn become_machine(&mut self, fleet: &Fleet, image: &Path) -> Result<()> {
        let machine = machine::switch_on(&self.netns, &self.directory, &self.logs, fleet, image)?;
        self.machine = Some(machine);
        Ok(())
    }

    /// Whether the box is a machine of its own, of which nothing is seen but what its ports say.
    pub(crate) fn is_machine(&self) -> bool {
        self.machine.is_some()
    }

    /// Ends `avr` in order; the bridge stays.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), |mut daemon| daemon.stop().map(drop))
    }

    /// Kills `avr` (SIGKILL); the bridge stays.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("avr does not run")?.kill()
    }

    /// What `avr status --json` says.
    pub(crate) fn status(&self, fleet: &Fleet) -> Result<Value> {
        let mut command = self.netns.command(fleet.program("avr")?);
        command.args(["status", "--json", "--control"]).arg(self.directory.join("control"));
        let json = run_command(&mut command)?;
        serde_json::from_str(&json).with_context(|| format!("not JSON: {json}"))
    }

    /// What `avr` says to a verb that works without the daemon, with the daemon's settings.
    pub(crate) fn ask(&self, fleet: &Fleet, verb: &[&str]) -> Result<String> {
        let mut command = self.netns.command(fleet.program("avr")?);
        run_command(command.args(verb).arg("--config").arg(self.directory.join("avr.toml")))
    }

    /// Waits until the status is as wanted.
    pub(crate) fn wait_status(
        &self,
        fleet: &Fleet,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = None;
        let waited = wait_for(what, STATE_MAX, || {
            last = self.status(fleet).ok();
            last.clone().filter(|status| wanted(status))
        });
        waited.with_context(|| format!("the last status was {last:?}"))
    }

    fn settings(&self, fleet: &Fleet, options: Options) -> String {
        let directory = self.directory.display();
        let mode = if options.scan_off { "off" } else { "on" };
        let route = if options.route_direct { "direct" } else { "relay" };
        format!(
            "control = \"{directory}/control\"\n\
             [ports]\nlan = \"lan0\"\nwan = \"wan0\"\nbridge = \"br0\"\n\
             [identity]\nstate_directory = \"{directory}/state\"\nfleet_ca = \"{fleet_ca}\"\n\
             ticket_key = \"{ticket_key}\"\n\
             [relay]\ndomain = \"{DOMAIN}\"\nresolvers = [\"{DNS}\"]\nroute = \"{route}\"\n\
             [scan]\nmode = \"{mode}\"\n",
            fleet_ca = fleet.file("fleet-ca.pem"),
            ticket_key = fleet.file("ticket.pub"),
        )
    }
}
