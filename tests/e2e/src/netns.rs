//! Network namespaces: one for each machine of the lab.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    panic,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// A machine's network. Cheap to copy about: it is only the name.
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace `name`, with its loopback up. Only inside the sandbox.
    ///
    /// # Errors
    /// When there is one of that name, or the machine makes none.
    pub fn create(name: &str) -> Result<Self> {
        run_command(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.to_owned() };
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip` in this namespace, all with one process.
    pub(crate) fn ip(&self, lines: &[&str]) -> Result<()> {
        feed(Command::new("ip").args(["-netns", &self.name, "-batch", "-"]), &lines.join("\n"))
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Loads nftables rules in this namespace.
    pub(crate) fn nft(&self, rules: &str) -> Result<()> {
        feed(self.command("nft").args(["-f", "-"]), rules)
            .with_context(|| format!("in namespace {}: rules\n{rules}", self.name))
    }

    /// Lets this machine forward packets between its networks.
    pub(crate) fn forward_packets(&self) -> Result<()> {
        self.within(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })?
        .context("cannot switch on forwarding")
    }

    /// A command that will run in this namespace; `ip netns exec` becomes the command, so that the
    /// process id is the command's own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` on a thread inside this namespace: its sockets are this machine's.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let inside = move || -> Result<T> {
            setns(&file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
            Ok(work())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(payload) => panic::resume_unwind(payload),
        })
    }
}

/// Joins two machines by a cable: interface `left.1` of `left.0` and `right.1` of `right.0`.
pub(crate) fn cable(left: (&Netns, &str), right: (&Netns, &str)) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["link", "add", left.1, "netns", left.0.name(), "type", "veth"]);
    command.args(["peer", "name", right.1, "netns", right.0.name()]);
    run_command(&mut command)?;
    left.0.ip(&[&format!("link set {} up", left.1)])?;
    right.0.ip(&[&format!("link set {} up", right.1)])
}

/// Runs a command to its end; its output is part of the error.
pub(crate) fn run_command(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {}", line_of(command)))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}{}",
            line_of(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", line_of(command)))?;
    let written = child.stdin.take().context("no standard input")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", line_of(command), output.status, stderr.trim_end());
    }
    written.with_context(|| format!("{} did not read its input", line_of(command)))
}

fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}
