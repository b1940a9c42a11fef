//! The other programs, as far as this one runs them: the servers' own look at their settings, and
//! nftables' at its file.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use wire::identity::Role;

/// Folders beside those of `PATH` where `nft` is, which the `PATH` of a user lacks.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// It is good.
    Good,
    /// What the program said.
    Bad(String),
    /// There is no such program here.
    NoProgram(String),
}

/// Where programs are looked for.
#[derive(Debug, Clone)]
pub struct Programs {
    folders: Vec<PathBuf>,
}

impl Programs {
    /// In `given`, or beside this program and then where the system looks.
    #[must_use]
    pub fn new(given: Option<&Path>, path: Option<&OsStr>) -> Self {
        let own = std::env::current_exe().ok();
        let own = own.as_deref().and_then(Path::parent).map(Path::to_owned);
        let mut folders: Vec<PathBuf> = given.map(Path::to_owned).or(own).into_iter().collect();
        folders.extend(path.map(std::env::split_paths).into_iter().flatten());
        folders.extend(SYSTEM_FOLDERS.map(PathBuf::from));
        Self { folders }
    }

    /// Lets a server look at a settings file.
    #[must_use]
    pub fn check_settings(&self, role: Role, file: &Path) -> Checked {
        let program = format!("avr-{role}");
        let arguments = [OsStr::new("config"), OsStr::new("check"), OsStr::new("--config")];
        self.check(&program, arguments.into_iter().chain([file.as_os_str()]))
    }

    /// Lets nftables look at its file, which takes root's rights.
    #[must_use]
    pub fn check_forwarding(&self, file: &Path) -> Checked {
        let arguments = [OsStr::new("-c"), OsStr::new("-f"), file.as_os_str()];
        self.check("nft", arguments.into_iter())
    }

    /// Runs a program and gives what it printed, if it is there and ends well.
    #[must_use]
    pub fn output(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output =
            Command::new(self.find(program)?).args(arguments).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a program to its end and hands on what it prints, line by line; its errors go where
    /// this program's go.
    ///
    /// # Errors
    /// It is not there, or does not end well.
    pub fn follow(
        &self,
        program: &str,
        arguments: &[&str],
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let path = self.find(program).with_context(|| {
            format!("there is no {program} here; install it, or say where it is with --programs")
        })?;
        let mut child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{program} cannot be run"))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                writeln!(out, "{}", line?)?;
                out.flush()?;
            }
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("{program} ended with {status}; what it said stands above");
        }
        Ok(())
    }

    fn check<'a>(&self, program: &str, arguments: impl Iterator<Item = &'a OsStr>) -> Checked {
        let Some(path) = self.find(program) else {
            return Checked::NoProgram(program.to_owned());
        };
        let output = Command::new(path).args(arguments).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => Checked::Good,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Checked::Bad(match said.is_empty() {
                    true => format!("{program} ended with {}", output.status),
                    false => said,
                })
            }
            Err(error) => Checked::Bad(format!("{program} cannot be run: {error}")),
        }
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_a_server_says_is_handed_on() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("avr-proxy");
        let write = |text: &str| {
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let programs = Programs::new(Some(folder.path()), None);
        let check = |role| programs.check_settings(role, Path::new("/x/proxy.toml"));
        write("#!/bin/sh\necho \"avr-proxy: $4:3: bad\" >&2\nexit 1\n");
        let said = "avr-proxy: /x/proxy.toml:3: bad";
        assert_eq!(check(Role::Proxy), Checked::Bad(said.to_owned()));
        write("#!/bin/sh\nexit 2\n");
        let said = "avr-proxy ended with exit status: 2";
        assert_eq!(check(Role::Proxy), Checked::Bad(said.to_owned()));
        write("#!/bin/sh\n");
        assert_eq!(check(Role::Proxy), Checked::Good);
        assert_eq!(check(Role::Auther), Checked::NoProgram("avr-auther".to_owned()));
    }
}
