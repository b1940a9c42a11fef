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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn status() -> Status {
        Status {
            version: "0.1.0",
            uptime_s: 7,
            mac: "02:00:00:00:00:01".to_owned(),
            key_fingerprint: "ab12".to_owned(),
            flows: Flows { now: 3, taken: 5, frames_bridged: 11, table_full: 2 },
            counters: Numbers { sessions_scanned: 4, sessions_tls: 1, ..Numbers::default() },
            scanned_percent: Some(80),
            relay: None,
        }
    }

    async fn ask_from_a_thread(path: PathBuf) -> anyhow::Result<Value> {
        tokio::task::spawn_blocking(move || ask(&path)).await.unwrap()
    }

    #[tokio::test]
    async fn the_daemon_answers_its_owner_also_behind_a_stale_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let error = ask_from_a_thread(path.clone()).await.unwrap_err();
        assert!(error.to_string().contains("is `avr run` running here?"), "{error}");
        // The first one dies without taking its socket away.
        for _ in 0..2 {
            let server = serve(&path, status).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            for _ in 0..2 {
                let document = ask_from_a_thread(path.clone()).await.unwrap();
                assert_eq!(document["flows"]["now"], 3);
                assert_eq!(document["counters"]["sessions_scanned"], 4);
                assert_eq!(document["relay"], Value::Null);
            }
            server.abort();
        }
    }

    #[test]
    fn the_text_has_what_the_document_has() {
        let mut document = serde_json::to_value(status()).unwrap();
        let text = render(&document);
        for line in [
            "unit         02:00:00:00:00:01  key ab12\n",
            "flows        3 now, 5 taken, 2 not for lack of room, 11 frames left on the bridge\n",
            "read         4 scanned to the end, 1 went to TLS, 0 unread by setting (80 % scanned)\n",
            "relay        none: every session goes direct\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        // Whatever the relay client reports is shown, one value a line.
        document["relay"] = json!({ "managers": [{ "state": "up" }], "ticket": null });
        document["counters"]["recent"] = json!([{ "session": "0a", "way": "direct" }]);
        let text = render(&document);
        assert!(text.contains("relay.managers.0.state up\n"), "{text}");
        assert!(text.contains("relay.ticket -\n"), "{text}");
        assert!(text.contains("session      0a - - -> -  direct"), "{text}");
    }

    #[test]
    fn a_daemon_that_says_nonsense_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            io::Write::write_all(&mut stream, b"{\"version\":").unwrap();
        });
        let error = ask(&path).unwrap_err();
        assert!(error.to_string().contains("is incomplete"), "{error}");
        daemon.join().unwrap();
    }
}
