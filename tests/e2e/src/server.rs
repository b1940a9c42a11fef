//! A server of a site: its machine, and the program under test on it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{daemon::Daemon, fleet::Fleet, netns::Netns};

/// One server. Runs no program until it is started.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    role: &'static str,
    address: SocketAddr,
    netns: Netns,
    settings: PathBuf,
    logs: PathBuf,
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
    ) -> Self {
        let settings = root.join(format!("{name}.toml"));
        Self { name, role, address, netns, settings, logs: logs.to_owned(), daemon: None }
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
            self.daemon = Some(Daemon::start(&self.name, command, &self.logs)?);
        }
        Ok(())
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

    /// The running program.
    pub(crate) fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().with_context(|| format!("{} does not run", self.name))
    }
}
