//! Other programs, with their output line by line, a limit on time, and an end when nobody waits.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use super::{Reporter, poll_for, uptime};

/// How soon a cancelled program is ended.
const LOOK: Duration = Duration::from_millis(200);
/// Longest line that is shown as one, in bytes.
const LINE_BYTES_MAX: usize = 4096;

/// Runs a program and gives its output away, line by line.
///
/// # Errors
/// It could not be started, failed, or took too long; for a person.
pub(crate) fn run(
    program: &std::path::Path,
    arguments: &[&str],
    time_max: Duration,
    reporter: &Reporter,
    mut each: impl FnMut(String),
) -> Result<(), String> {
    let name = program.display();
    let step = |what: &str, error: std::io::Error| format!("{what} {name}: {error}");
    let (mut output, ours) = std::io::pipe().map_err(|error| step("open a pipe for", error))?;
    let theirs = ours.try_clone().map_err(|error| step("open a pipe for", error))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(ours)
        .stderr(theirs)
        .spawn()
        .map_err(|error| step("start", error))?;
    let deadline = uptime() + time_max;
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    let ended = loop {
        if reporter.is_cancelled() {
            break Err("cancelled".to_owned());
        }
        if uptime() >= deadline {
            break Err(format!("{name} took longer than {} s", time_max.as_secs()));
        }
        let mut descriptors = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        poll_for(&mut descriptors, Some(LOOK)).map_err(|error| step("wait for", error))?;
        if descriptors.iter().all(|descriptor| descriptor.any() != Some(true)) {
            continue;
        }
        match output.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(bytes) => {
                for &byte in buffer.get(..bytes).unwrap_or_default() {
                    if byte == b'\n' || line.len() >= LINE_BYTES_MAX {
                        each(String::from_utf8_lossy(&line).into_owned());
                        line.clear();
                    }
                    if byte != b'\n' {
                        line.push(byte);
                    }
                }
            }
            Err(error) => break Err(step("read from", error)),
        }
    };
    if !line.is_empty() {
        each(String::from_utf8_lossy(&line).into_owned());
    }
    if ended.is_err() {
        // It may have ended by itself just now.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| step("wait for", error))?;
    ended?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(format!("{name} ended with code {code}")),
        None => Err(format!("{name} was killed: {status}")),
    }
}
