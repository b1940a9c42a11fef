//! Re-executes this program inside namespaces of its own (mounts, processes, network), so that
//! whatever a lab starts is gone with it: the kernel kills every process of a process namespace
//! whose first process ends, and then drops its networks and mounts. That holds on Ctrl-C and on
//! `kill -9` too: `setpriv --pdeathsig` and `unshare --kill-child` pass the death on.

use std::{
    any::type_name,
    env,
    process::{Command, ExitCode, ExitStatus, Output},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    unistd::geteuid,
};

use crate::{Lab, plan::Size};

/// Set in the environment of the process inside.
const INSIDE: &str = "AVR_LAB_INSIDE";

/// Runs this very program again inside the namespaces, with the same arguments, and gives its exit
/// status; or gives `None` when this is the process inside, which has then a file system of its own
/// under `/run`.
///
/// # Errors
/// Not root, or a machine that cannot make namespaces.
pub fn enter() -> Result<Option<ExitStatus>> {
    if is_inside() {
        prepare_inside()?;
        return Ok(None);
    }
    check_machine()?;
    let mut command = outside_command()?;
    command.args(env::args_os().skip(1));
    let status = command.status().context("cannot run setpriv")?;
    Ok(Some(status))
}

/// Runs `scenario` in a lab of its own: the way to write an end-to-end test. The test's executable
/// is run again inside the namespaces for this one test, whose name is taken from the closure's.
///
/// # Panics
/// When the scenario fails, with all that it printed and the ends of the programs' logs; and when
/// the machine or the user cannot make namespaces.
pub fn in_lab<F: FnOnce(&mut Lab) -> Result<()>>(scenario: F) {
    run_test(test_name(type_name::<F>()), Size::USUAL, scenario);
}

/// [`in_lab`], with the sites' servers and the box running.
///
/// # Panics
/// As [`in_lab`], and when they do not come to carry sessions.
pub fn in_product_lab<F: FnOnce(&mut Lab) -> Result<()>>(scenario: F) {
    run_test(test_name(type_name::<F>()), Size::USUAL, |lab| {
        lab.start_product()?;
        scenario(lab)
    });
}

/// [`in_product_lab`], in the largest lab.
///
/// # Panics
/// As [`in_product_lab`].
pub fn in_large_product_lab<F: FnOnce(&mut Lab) -> Result<()>>(scenario: F) {
    run_test(test_name(type_name::<F>()), Size::LARGE, |lab| {
        lab.start_product()?;
        scenario(lab)
    });
}

/// The `main` of a program that runs `scenario` in a lab: says on standard error what went wrong.
#[allow(clippy::print_stderr, reason = "a program's last word")]
#[must_use]
pub fn main_in_lab(size: Size, scenario: impl FnOnce(&mut Lab) -> Result<()>) -> ExitCode {
    let done = match enter() {
        Ok(Some(status)) => {
            return status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into();
        }
        Ok(None) => Lab::run(size, scenario),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run_test(test: &str, size: Size, scenario: impl FnOnce(&mut Lab) -> Result<()>) {
    if is_inside() {
        if let Err(error) = prepare_inside().and_then(|()| Lab::run(size, scenario)) {
            panic!("{error:?}");
        }
        return;
    }
    if let Err(error) = check_machine() {
        panic!("{error:?}");
    }
    let output = outside_command()
        .and_then(|mut command| {
            command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
            command.output().context("cannot run setpriv")
        })
        .unwrap_or_else(|error| panic!("{error:?}"));
    check_output(test, &output);
}

/// `lab::clean_mail_out::{{closure}}` is the test `clean_mail_out` of the executable `lab`.
fn test_name(closure: &str) -> &str {
    let inner = closure.split_once("::").map_or(closure, |(_crate_name, rest)| rest);
    inner.strip_suffix("::{{closure}}").unwrap_or(inner)
}

/// A filter that matches no test would also succeed: one test must have passed.
fn check_output(test: &str, output: &Output) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success() && stdout.contains("test result: ok. 1 passed");
    assert!(passed, "{test} failed in its lab ({}):\n{stdout}\n{stderr}", output.status);
}

fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

fn outside_command() -> Result<Command> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--fork"])
        .args(["--kill-child", "--mount-proc", "--propagation", "private", "--"])
        .arg(program)
        .env(INSIDE, "1")
        .env("RUST_BACKTRACE", "0"); // The logs' ends tell more.
    Ok(command)
}

fn check_machine() -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "the lab needs root for its network namespaces: run `scripts/demo` or `scripts/test` \
             as root, or `sudo -E cargo test --release -p e2e`"
        );
    }
    let probe = Command::new("unshare")
        .args(["--mount", "--pid", "--net", "--fork", "true"])
        .output()
        .context("cannot run unshare (Debian package util-linux)")?;
    if !probe.status.success() {
        bail!(
            "this machine makes no namespaces, not even for root (in a container? it needs \
             CAP_SYS_ADMIN and CAP_NET_ADMIN): {}",
            String::from_utf8_lossy(&probe.stderr).trim()
        );
    }
    Ok(())
}

/// Puts an empty file system over `/run`: `ip netns` keeps its names there, the servers their
/// sockets, and the lab its files. Nothing of it reaches the machine.
fn prepare_inside() -> Result<()> {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("cannot mount a file system of the lab's own on /run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closure_names_the_test() {
        assert_eq!(test_name("lab::clean_mail_out::{{closure}}"), "clean_mail_out");
        assert_eq!(test_name("lab::failover::site::{{closure}}"), "failover::site");
    }
}
