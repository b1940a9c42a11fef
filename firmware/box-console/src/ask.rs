//! Questions to PID 1 and to the gateway, each a line over a Unix socket, and each with a deadline.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use box_init::control::{REPLY_BYTES_MAX, Reply, Request, Status};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde_json::Value;

use crate::host::uptime;
use crate::report::{Answer, unexpected};

/// How long a banner waits for each of the two: with both silent, it still comes within a second.
pub const BANNER_WAIT: Duration = Duration::from_millis(400);
/// How long an order waits.
pub const ORDER_WAIT: Duration = Duration::from_secs(10);
/// Longest answer of the gateway, in bytes; it has the same limit.
const GATEWAY_BYTES_MAX: usize = 1024 * 1024;

/// Asks PID 1.
///
/// # Errors
/// It does not answer in that time, in words for people.
pub fn init(path: &Path, request: &Request, wait: Duration) -> Answer<Reply> {
    let line = serde_json::to_string(request).map_err(|error| error.to_string())?;
    let reply = exchange(path, &line, wait, REPLY_BYTES_MAX)
        .map_err(|problem| format!("PID 1 {problem}"))?;
    serde_json::from_slice(&reply).map_err(|error| {
        format!("PID 1's answer is not understood; it may be of another version: {error}")
    })
}

/// How the box is.
///
/// # Errors
/// As [`init`].
pub fn status(path: &Path, wait: Duration) -> Answer<Status> {
    match init(path, &Request::Status, wait)? {
        Reply::Status(status) => Ok(*status),
        other => Err(unexpected(other)),
    }
}

/// Asks the gateway; its answer without the word round it.
///
/// # Errors
/// It does not answer in that time, or does not do it, in words for people.
pub fn gateway(path: &Path, request: &Value, wait: Duration) -> Answer<Value> {
    let answer = exchange(path, &request.to_string(), wait, GATEWAY_BYTES_MAX)
        .map_err(|problem| format!("the gateway {problem}"))?;
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|error| format!("the gateway's answer is not understood: {error}"))?;
    let Value::Object(fields) = answer else {
        return Err("the gateway's answer is none; it may be of another version".to_owned());
    };
    match fields.into_iter().next() {
        Some((word, Value::String(problem))) if word == "error" => Err(problem),
        Some((_, value)) => Ok(value),
        None => Err("the gateway's answer is empty; it may be of another version".to_owned()),
    }
}

/// What the gateway does.
///
/// # Errors
/// As [`gateway`].
pub fn gateway_status(path: &Path, wait: Duration) -> Answer<Value> {
    gateway(path, &serde_json::json!({ "verb": "status" }), wait)
}

fn exchange(path: &Path, line: &str, wait: Duration, bytes_max: usize) -> Answer<Vec<u8>> {
    let deadline = uptime() + wait;
    let mut stream =
        dial(path).map_err(|error| format!("does not run or does not listen: {error}"))?;
    let silent = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            format!("does not answer within {} s", wait.as_secs_f32())
        }
        _ => format!("does not answer: {error}"),
    };
    stream.set_write_timeout(Some(wait)).map_err(silent)?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(silent)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"\n") {
        let left = deadline.saturating_sub(uptime()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).map_err(silent)?;
        let bytes = stream.read(&mut buffer).map_err(silent)?;
        if bytes == 0 {
            return Err("ended before it had answered".to_owned());
        }
        answer.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
        if answer.len() > bytes_max {
            return Err(format!("answered more than {bytes_max} bytes"));
        }
        if uptime() >= deadline && !answer.ends_with(b"\n") {
            return Err(format!("does not answer within {} s", wait.as_secs_f32()));
        }
    }
    Ok(answer)
}

/// Without waiting, also where the other side takes nobody any more.
fn dial(path: &Path) -> Result<UnixStream, std::io::Error> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&descriptor), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(descriptor);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
