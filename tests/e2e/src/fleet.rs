//! The fleet's keys and certificates, made with `avr-auther` as an operator makes them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    netns::{Netns, run_command},
    plan::BOX_MAC,
};

/// The files of a fleet, and the programs under test.
#[derive(Debug)]
pub(crate) struct Fleet {
    directory: PathBuf,
    programs: PathBuf,
}

impl Fleet {
    /// Makes the fleet's certificate authority and ticket key.
    pub(crate) fn create(root: &Path, programs: Option<&Path>) -> Result<Self> {
        let programs = programs.map_or_else(own_directory, |programs| Ok(programs.to_owned()))?;
        let fleet = Self { directory: root.join("fleet"), programs };
        fs::create_dir_all(&fleet.directory)?;
        let auther = fleet.program("avr-auther")?;
        run_command(Command::new(auther).arg("init").arg("--directory").arg(&fleet.directory))?;
        Ok(fleet)
    }

    /// A certificate for a server and its key, made when first asked for.
    pub(crate) fn certificate(&self, name: &str, role: &str) -> Result<(String, String)> {
        let files = (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")));
        if !Path::new(&files.0).exists() {
            let mut command = Command::new(self.program("avr-auther")?);
            command.args(["issue", "--role", role, "--directory"]).arg(&self.directory).arg(name);
            run_command(&mut command)?;
        }
        Ok(files)
    }

    /// Does something with the box in one site's registry: `add`, `suspend`, `resume`, `remove`.
    pub(crate) fn operate(&self, netns: &Netns, registry: &Path, verb: &str) -> Result<()> {
        let mut command = netns.command(self.program("avr-auther")?);
        command.args([verb, "--registry"]).arg(registry).arg(BOX_MAC);
        run_command(&mut command).map(drop)
    }

    /// A bundle for a server, made of its certificate.
    pub(crate) fn bundle(&self, name: &str, role: &str, domain: &str) -> Result<PathBuf> {
        self.certificate(name, role)?;
        let bundle = self.directory.join(format!("{name}.bundle"));
        let mut command = Command::new(self.program("avr-site")?);
        command.args(["bundle", "--name", name, "--domain", domain, "--fleet"]);
        run_command(command.arg(&self.directory).arg("--out").arg(&bundle))?;
        Ok(bundle)
    }

    /// Path of one of the fleet's files.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Path of a program under test.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        if !path.exists() {
            bail!("no {}: build it first (`cargo build --release`)", path.display());
        }
        Ok(path)
    }
}

/// Where cargo puts the programs: beside this one, or one above for a test.
fn own_directory() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find this program's own file")?;
    let directory = own.parent().context("a program without a directory")?;
    let is_test = directory.ends_with("deps");
    let programs = if is_test { directory.parent() } else { Some(directory) };
    Ok(programs.context("no directory of programs")?.to_owned())
}
