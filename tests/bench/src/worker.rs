//! Client and mail server of a measurement, each a process of its own in the machine and on the core
//! that it belongs to.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use e2e::Netns;
use serde::de::DeserializeOwned;

use crate::{
    fetch::{Fetch, Fetched},
    load::{Done, Load},
    machine::Cores,
    sink::{Counts, READY, TAKE},
};

/// A mail server that runs. Dropping kills it.
#[derive(Debug)]
pub(crate) struct SinkProcess {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl SinkProcess {
    /// Starts it, and waits until it takes mail.
    pub(crate) fn start(
        netns: &Netns,
        cores: Option<&Cores>,
        listen: &[SocketAddr],
    ) -> Result<Self> {
        let mut command = own_command(netns, cores)?;
        command.arg("sink");
        for address in listen {
            command.args(["--listen", &address.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the mail server")?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut sink = Self { child, stdin, stdout: BufReader::new(stdout) };
        ensure!(sink.line()? == READY, "the mail server is not ready");
        Ok(sink)
    }

    /// What has arrived since the last time.
    pub(crate) fn take(&mut self) -> Result<Counts> {
        writeln!(self.stdin, "{TAKE}").context("the mail server has ended")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line).context("reading from the mail server")?;
        ensure!(length > 0, "the mail server has ended");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for SinkProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends mails from that machine.
pub(crate) fn send(netns: &Netns, cores: Option<&Cores>, load: &Load) -> Result<Done> {
    let mut command = own_command(netns, cores)?;
    command.arg("load");
    for (option, value) in [
        ("--run", load.run.to_string()),
        ("--size", load.size.to_string()),
        ("--sessions", load.sessions.to_string()),
        ("--mails", load.mails.to_string()),
        ("--milliseconds", load.milliseconds.to_string()),
        ("--count", load.count.to_string()),
    ] {
        command.args([option, &value]);
    }
    if let Some(to) = load.to {
        command.args(["--to", &to.to_string()]);
    }
    if let Some(socket) = &load.clamd {
        command.arg("--clamd").arg(socket);
    }
    if let Some(speed) = load.bytes_per_second {
        command.args(["--bytes-per-second", &speed.to_string()]);
    }
    if load.repeated {
        command.arg("--repeated");
    }
    result_of(command)
}

/// Fetches mails from that machine.
pub(crate) fn fetch(netns: &Netns, cores: Option<&Cores>, fetch: &Fetch) -> Result<Fetched> {
    let mut command = own_command(netns, cores)?;
    command.args(["fetch", "--user", &fetch.user, "--from", &fetch.from.to_string()]);
    command.args(["--sessions", &fetch.sessions.to_string(), "--mails", &fetch.mails.to_string()]);
    result_of(command)
}

/// This program again.
fn own_command(netns: &Netns, cores: Option<&Cores>) -> Result<Command> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let Some(cores) = cores else { return Ok(netns.command(program)) };
    let mut command = netns.command("taskset");
    command.args(["--cpu-list", &cores.list()]).arg(program);
    Ok(command)
}

fn result_of<T: DeserializeOwned>(mut command: Command) -> Result<T> {
    let output = command.stderr(Stdio::inherit()).output().context("cannot start a client")?;
    ensure!(output.status.success(), "a client ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("what a client says is not understood")
}
