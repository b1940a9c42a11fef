//! A site made as an operator makes it: by the steps of services/site/README.md.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::Site;
use crate::{
    fleet::Fleet,
    netns::run_command,
    plan::{
        AUTHER, BOX_MAC, DOMAIN, MAIL_PORTS, MANAGER, MANAGER_TTL_S, PROXIES, SCANNER_PORT,
        SCANNERS, TEST_NETWORKS,
    },
    scanner::Scanner,
    server::Server,
};

/// Where the host's bridges call nftables themselves; a router's own rules are what is tested.
const BRIDGE_RULES: [&str; 2] = ["iptables", "ip6tables"];

impl Site {
    /// Carries a bundle to each server, answers `avr-site init` there, loads the file of port
    /// forwarding at the router, registers the box, and starts the servers.
    pub(crate) fn make(&mut self, fleet: &Fleet) -> Result<()> {
        self.scanners.iter_mut().try_for_each(Scanner::wait_listening)?;
        let answers = self.answers();
        for server in self.servers() {
            let bundle = fleet.bundle(server.name(), server.role(), DOMAIN)?;
            let mut command = server.installed_command(&fleet.program("avr-site")?)?;
            command.arg("init").arg("--bundle").arg(bundle).args(&answers);
            run_command(&mut command)?;
            fit_to_lab(server)?;
        }
        self.router.within(|| {
            for name in BRIDGE_RULES {
                // Not there where no bridge calls them.
                let _ = fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{name}"), "0");
            }
        })?;
        self.router.nft("flush chain ip nat forwards")?;
        let forwards = self.manager.installed_file("forward.nft");
        run_command(self.router.command("nft").arg("-f").arg(forwards))?;
        let mut command = self.auther.installed_command(&fleet.program("avr-auther")?)?;
        run_command(command.args(["add", BOX_MAC]))?;
        self.servers().try_for_each(|server| server.start_installed(fleet))?;
        self.wait_serving()
    }

    /// Has the operator put the site into DNS, or take it out.
    pub(crate) fn change_dns(&self, fleet: &Fleet, verb: &str, key: &Path) -> Result<String> {
        let mut command = self.manager.installed_command(&fleet.program("avr-site")?)?;
        command.arg(verb).arg("--auther").arg("--key").arg(key);
        if verb == "join" {
            command.args(["--ttl", &MANAGER_TTL_S.to_string()]);
        }
        run_command(&mut command)
    }

    /// Has the operator `drain` or `undrain` the whole site, with these options.
    pub(crate) fn drain(&self, fleet: &Fleet, verb: &[&str]) -> Result<String> {
        let mut command = self.manager.installed_command(&fleet.program("avr-site")?)?;
        run_command(command.args(verb))
    }

    /// What `avr-site check` says on the manager's machine; something wrong is an error.
    pub(crate) fn check(&self, fleet: &Fleet) -> Result<String> {
        let mut command = self.manager.installed_command(&fleet.program("avr-site")?)?;
        run_command(command.arg("check"))
    }

    fn answers(&self) -> Vec<String> {
        let mut answers = vec!["--public".to_owned(), self.plan.public.to_string()];
        let mut answer = |flag: &str, value: String| answers.extend([flag.to_owned(), value]);
        answer("--auther", AUTHER.to_string());
        answer("--manager", MANAGER.to_string());
        for proxy in PROXIES {
            answer("--proxy", proxy.to_string());
        }
        for scanner in SCANNERS.iter().take(self.scanners.len()) {
            answer("--clamd", format!("{scanner}:{SCANNER_PORT}"));
        }
        answers
    }
}

/// What no real site has: destinations that are no real networks, and a machine that is many, so that
/// what each keeps must not be in one place.
fn fit_to_lab(server: &Server) -> Result<()> {
    let path: PathBuf = server.installed_file(&format!("{}.toml", server.role()));
    let state = path.with_extension("state");
    let (behind, lines) = match server.role() {
        "proxy" => (
            "own_addresses = ",
            format!("mail_ports = [{MAIL_PORTS}]\ntest_networks = [{TEST_NETWORKS}]\n"),
        ),
        "manager" => (
            "proxy_address = ",
            format!(
                "load_average_max = 64.0\npoll_interval_ms = 500\npoll_timeout_ms = 500\n\
                 state_directory = {state:?}\n"
            ),
        ),
        _ => return Ok(()),
    };
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut fitted = String::new();
    for line in text.lines() {
        fitted += &format!("{line}\n");
        if line.starts_with(behind) {
            fitted += &lines;
        }
    }
    ensure!(fitted.len() > text.len(), "no {behind:?} in {}", path.display());
    Ok(fs::write(&path, fitted)?)
}
