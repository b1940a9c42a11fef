//! What `avr status` shows: asked of the daemon over its control socket.
//!
//! The daemon answers a connection with one JSON document and closes it.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tracing::warn;

use crate::counters::Numbers;

/// Longest status document that the client reads, in bytes.
const STATUS_BYTES_MAX: u64 = 1024 * 1024;
/// How long either side waits for the other.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The document.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Of the software.
    pub version: &'static str,
    /// Since the daemon started, in seconds.
    pub uptime_s: u64,
    /// The unit's inventory number.
    pub mac: String,
    /// SHA-256 of the device key's SubjectPublicKeyInfo.
    pub key_fingerprint: String,
    /// TCP connections on the mail ports, as the interceptor sees them.
    pub flows: Flows,
    /// Sessions and mails.
    pub counters: Numbers,
    /// Share of ended sessions that were read to their end, in percent.
    pub scanned_percent: Option<u64>,
    /// DNS, auther, managers, ticket; `null` without `[relay]`.
    pub relay: Option<box_relay::RelayStatus>,
}

/// See [`Status::flows`].
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Flows {
    /// Taken off the bridge now.
    pub now: u64,
    /// Taken off the bridge since the start.
    pub taken: u64,
    /// Frames left on the bridge: their connection was there before us, or is bypassed.
    pub frames_bridged: u64,
    /// Connections left on the bridge because the table was full.
    pub table_full: u64,
}

/// Answers every connection to `path` with what `current` returns. A stale socket is replaced.
///
/// # Errors
///
/// When the socket cannot be made.
pub fn serve(
    path: &Path,
    current: impl Fn() -> Status + Send + 'static,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| {
            format!("make the folder {} of the control socket", folder.display())
        })?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("make the control socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restrict {}", path.display()))?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let document = serde_json::to_vec(&current()).unwrap_or_default();
                    // One client at a time, and a slow one is given up.
                    let _ = tokio::time::timeout(ANSWER_MAX, async {
                        let _ = stream.write_all(&document).await;
                        let _ = stream.shutdown().await;
                    })
                    .await;
                }
                Err(error) => {
                    warn!(%error, "control socket");
                    tokio::time::sleep(ANSWER_MAX).await;
                }
            }
        }
    }))
}

/// Asks the daemon at `path`.
///
/// # Errors
///
/// When no daemon answers there, with what to do.
pub fn ask(path: &Path) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(path).with_context(|| {
        format!("no daemon answers at {}; is `avr run` running here?", path.display())
    })?;
    stream.set_read_timeout(Some(ANSWER_MAX)).context("set a time limit")?;
    let mut document = Vec::new();
    stream
        .take(STATUS_BYTES_MAX)
        .read_to_end(&mut document)
        .context("the daemon did not answer in time")?;
    serde_json::from_slice(&document).context("the daemon's answer is incomplete; ask again")
}

/// The document for people.
#[must_use]
pub fn render(status: &Value) -> String {
    let at = |path: &str| status.pointer(path).unwrap_or(&Value::Null);
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<12} {value}");
    };
    line("version", plain(at("/version")));
    line("up", format!("{} s", at("/uptime_s")));
    line("unit", format!("{}  key {}", plain(at("/mac")), plain(at("/key_fingerprint"))));
    line(
        "flows",
        format!(
            "{} now, {} taken, {} not for lack of room, {} frames left on the bridge",
            at("/flows/now"),
            at("/flows/taken"),
            at("/flows/table_full"),
            at("/flows/frames_bridged")
        ),
    );
    line(
        "sessions",
        format!(
            "{} now, {} in all: {} by relay, {} direct, {} not reached",
            at("/counters/sessions_now"),
            at("/counters/sessions"),
            at("/counters/sessions_relay"),
            at("/counters/sessions_direct"),
            at("/counters/sessions_refused")
        ),
    );
    line(
        "read",
        format!(
            "{} scanned to the end, {} went to TLS, {} unread by setting ({} % scanned)",
            at("/counters/sessions_scanned"),
            at("/counters/sessions_tls"),
            at("/counters/sessions_unread"),
            at("/scanned_percent").as_u64().map_or("-".to_owned(), |share| share.to_string())
        ),
    );
    line(
        "mails",
        format!(
            "{} judged, {} infected, {} unscannable, {} cut off",
            at("/counters/mails"),
            at("/counters/mails_infected"),
            at("/counters/mails_unscannable"),
            at("/counters/mails_aborted")
        ),
    );
    match at("/relay") {
        Value::Null => line("relay", "none: every session goes direct".to_owned()),
        relay => flatten("relay", relay, &mut line),
    }
    for session in at("/counters/recent").as_array().into_iter().flatten() {
        let field = |name: &str| plain(session.get(name).unwrap_or(&Value::Null));
        line(
            "session",
            format!(
                "{} {} {} -> {}  {}  opened in {} ms, {} up, {} down, {} mails, {} infected",
                field("session"),
                field("protocol"),
                field("client"),
                field("server"),
                field("way"),
                field("opening_ms"),
                field("bytes_up"),
                field("bytes_down"),
                field("mails"),
                field("infected")
            ),
        );
    }
    text
}

/// Nested values as one line each: `managers.0.state  up`.
fn flatten(name: &str, value: &Value, line: &mut impl FnMut(&str, String)) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                flatten(&format!("{name}.{field}"), value, line);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                flatten(&format!("{name}.{index}"), value, line);
            }
        }
        other => line(name, plain(other)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
