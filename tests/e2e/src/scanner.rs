//! A site's gateway anti-virus server: a real `clamd`.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{
    daemon::Daemon,
    message::{EICAR_PARTS, LAB_MARKER},
    netns::{Netns, run_command},
    plan::SCANNER_PORT,
};

/// One machine with one `clamd`.
#[derive(Debug)]
pub(crate) struct Scanner {
    name: String,
    address: Ipv4Addr,
    netns: Netns,
    directory: PathBuf,
    logs: PathBuf,
    clamd: Option<Daemon>,
}

impl Scanner {
    /// Starts it; it is not waited for.
    pub(crate) fn start(
        name: String,
        (netns, address): (Netns, Ipv4Addr),
        root: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let directory = root.join(&name);
        let mut scanner =
            Self { name, address, netns, directory, logs: logs.to_owned(), clamd: None };
        scanner.start_again()?;
        Ok(scanner)
    }

    /// Starts it; nothing if it runs.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        if self.clamd.is_none() {
            let settings = write_settings(&self.directory, self.address)?;
            let mut command = self.netns.command("clamd");
            command.arg("--config-file").arg(settings);
            self.clamd = Some(Daemon::start(&self.name, command, &self.logs)?);
        }
        Ok(())
    }

    /// Waits until it accepts connections.
    pub(crate) fn wait_listening(&mut self) -> Result<()> {
        let address = (self.address, SCANNER_PORT).into();
        self.clamd.as_mut().context("no clamd runs")?.wait_listening(&self.netns, address)
    }

    /// Stops it in the middle of what it does (SIGSTOP): connections are accepted, nothing is answered.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.clamd.as_mut().context("no clamd runs")?.signal(Signal::SIGSTOP)
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.clamd.take().context("no clamd runs")?.kill()
    }

    /// How many connections to it are open, those that it has not accepted included.
    pub(crate) fn connections(&self) -> Result<usize> {
        let mut command = self.netns.command("ss");
        command.args(["-H", "-t", "-n", "state", "established"]);
        command.arg(format!("sport = :{SCANNER_PORT}"));
        Ok(run_command(&mut command)?.lines().count())
    }

    /// What it says of these bytes (its protocol's INSTREAM).
    pub(crate) fn ask(&self, bytes: &[u8]) -> Result<String> {
        self.netns.within(|| -> Result<String> {
            let mut stream = TcpStream::connect((self.address, SCANNER_PORT))?;
            stream.write_all(b"zINSTREAM\0")?;
            stream.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
            stream.write_all(bytes)?;
            stream.write_all(&0_u32.to_be_bytes())?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        })?
    }
}

/// Two signatures: EICAR, and a marker that nothing but this scanner knows.
fn write_settings(directory: &Path, address: Ipv4Addr) -> Result<PathBuf> {
    let signatures = directory.join("signatures");
    fs::create_dir_all(&signatures)?;
    let database = format!(
        "Eicar-Signature:0:*:{}\nLab-Marker:0:*:{}\n",
        hex(EICAR_PARTS.concat().as_bytes()),
        hex(LAB_MARKER.as_bytes())
    );
    fs::write(signatures.join("lab.ndb"), database)?;
    let settings = format!(
        "Foreground yes\nTCPSocket {SCANNER_PORT}\nTCPAddr {address}\n\
         DatabaseDirectory {signatures}\nTemporaryDirectory {directory}\nMaxThreads 4\n\
         StreamMaxLength 100M\nOfficialDatabaseOnly no\nSelfCheck 0\nConcurrentDatabaseReload no\n",
        signatures = signatures.display(),
        directory = directory.display(),
    );
    let path = directory.join("clamd.conf");
    fs::write(&path, settings)?;
    Ok(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
