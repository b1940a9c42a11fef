//! A server program of the lab: started, waited for, killed; its output kept in a file.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{clock::wait_for, netns::Netns};

/// Longest that a server may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// Longest that a server may take to end when asked; then it is killed.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 25;

/// A running (or ended) server program. Dropping kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; output is appended to `NAME.log` in `logs`.
    ///
    /// # Errors
    /// When there is no such program, or the log cannot be written.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until it accepts connections at `address` as seen from its own machine.
    ///
    /// # Errors
    /// When it does not in time, or ends instead; with the end of its log.
    pub fn wait_listening(&mut self, netns: &Netns, address: SocketAddr) -> Result<()> {
        let connect = || TcpStream::connect_timeout(&address, START_MAX).is_ok();
        self.wait_until(&format!("{} to listen at {address}", self.name.clone()), || {
            netns.within(connect).ok()?.then_some(())
        })
    }

    /// Waits until `probe` gives a value; at once an error when the program ends instead.
    ///
    /// # Errors
    /// When there is no value in time, or the program ended; with the end of its log.
    pub fn wait_until<T>(&mut self, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
        let child = &mut self.child;
        let waited = wait_for(what, START_MAX, || match child.try_wait() {
            Ok(None) => probe().map(Ok),
            ended => Some(Err(ended)),
        });
        match waited {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(ended)) => bail!("{} ended: {ended:?}\n{}", self.name, self.log_tail()),
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    /// Its process id in the lab.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error when it has ended by itself.
    ///
    /// # Errors
    /// That, with the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended ({status})\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Ends it at once (SIGKILL), as a power cut does.
    ///
    /// # Errors
    /// When it had ended before: then the scenario is not what it seems.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.check_running()?;
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        self.check_running()?;
        let id = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(id, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Asks it to end (SIGTERM), and gives the status it ended with.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        let id = Pid::from_raw(i32::try_from(self.child.id())?);
        if self.child.try_wait()?.is_none() {
            kill(id, Signal::SIGTERM).with_context(|| format!("cannot stop {}", self.name))?;
        }
        let child = &mut self.child;
        let ended = wait_for(&format!("{} to end", self.name), STOP_MAX, || {
            child.try_wait().ok().flatten()
        });
        if ended.is_err() {
            self.child.kill()?;
            self.child.wait()?;
        }
        ended
    }

    /// Where its output is.
    pub(crate) fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it has written.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log, under its name.
pub(crate) fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    format!("--- end of {name} ---\n{}", last.join("\n"))
}
