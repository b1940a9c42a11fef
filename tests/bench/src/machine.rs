//! The machine that a comparison was made on, and which of its cores do what.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Load average at which a machine is too busy for figures that count.
pub(crate) const LOAD_MAX: f64 = 2.0;
/// Packages whose versions matter.
const PACKAGES: [&str; 6] =
    ["clamav-daemon", "clamav-milter", "clamsmtp", "dovecot-pop3d", "haproxy", "postfix"];

/// What it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Load average of the last minute, before anything was started.
    pub(crate) load_average: f64,
    /// Versions of the other programs.
    pub(crate) packages: Vec<String>,
}

impl Machine {
    /// Looks at it.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn look() -> Result<Self> {
        Self::look_with(&PACKAGES)
    }

    /// Looks at it, and at the versions of these packages.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn look_with(packages: &[&str]) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let meminfo = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
        let total = meminfo.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        Ok(Self {
            processor: processor.unwrap_or("unknown").trim_matches([' ', '\t', ':']).to_owned(),
            cores: Cores::all()?.0.len(),
            memory_mib: total.unwrap_or_default() / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_average: load_average()?,
            packages: packages.iter().map(|package| version(package)).collect(),
        })
    }
}

fn version(package: &str) -> String {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${Package} ${Version}", package]);
    let output = command.output().ok().filter(|output| output.status.success());
    output.map_or_else(
        || format!("{package} not installed"),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// The load average of the last minute.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let first = text.split(' ').next().and_then(|first| first.parse().ok());
    first.context("/proc/loadavg has no number")
}

/// Some of the machine's cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cores(Vec<usize>);

impl Cores {
    /// Those that this process may run on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn all() -> Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0)).context("which cores are there")?;
        Ok(Self((0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).collect()))
    }

    /// The first for client and mail server, the others for what is measured. `None` with one core.
    #[must_use]
    pub(crate) fn shared_out(&self) -> Option<(Self, Self)> {
        let (first, others) = self.0.split_first()?;
        (!others.is_empty()).then(|| (Self(vec![*first]), Self(others.to_vec())))
    }

    /// The first of them; there is at least one.
    #[must_use]
    pub(crate) fn first(&self) -> usize {
        self.0.first().copied().unwrap_or_default()
    }

    /// Lets this thread, and what it starts from now on, run on these only.
    ///
    /// # Errors
    /// When the kernel does not want that.
    pub(crate) fn confine(&self) -> Result<()> {
        let mut set = CpuSet::new();
        for core in &self.0 {
            set.set(*core)?;
        }
        sched_setaffinity(Pid::from_raw(0), &set).context("cannot choose cores")
    }

    /// As `taskset` wants them.
    #[must_use]
    pub(crate) fn list(&self) -> String {
        self.0.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_and_server_have_the_first_core() {
        let four = Cores(vec![2, 3, 5, 7]);
        let (ends, middle) = four.shared_out().unwrap();
        assert_eq!((ends.list(), middle.list()), ("2".to_owned(), "3,5,7".to_owned()));
        assert_eq!(Cores(vec![0]).shared_out(), None);
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::look().unwrap();
        assert!(machine.cores > 0 && machine.memory_mib > 0 && machine.load_average >= 0.0);
        assert_eq!(machine.packages.len(), PACKAGES.len());
    }
}
