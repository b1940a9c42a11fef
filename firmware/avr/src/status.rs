//! What `avr status` shows: asked of the daemon over its control socket ([`crate::control`]).

use std::fmt::Write as _;

use records::bytes;
use serde::Serialize;
use serde_json::Value;

use crate::counters::Numbers;

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
    /// How long new connections are still left on the bridge, in seconds; `null` when they are
    /// taken.
    pub snooze_seconds_left: Option<u64>,
    /// TCP connections on the mail ports, as the interceptor sees them.
    pub flows: Flows,
    /// Sessions and mails.
    pub counters: Numbers,
    /// Share of ended sessions that were read to their end, in percent.
    pub scanned_percent: Option<u64>,
    /// What is kept of mails.
    pub records: records::Numbers,
    /// Workers, and why mails were not scanned in full; `null` where scanning is off.
    pub scan: Option<scan::ScanNumbers>,
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
    if let Some(seconds) = at("/snooze_seconds_left").as_u64() {
        line("SNOOZING", format!("new connections stay on the bridge, unscanned, for {seconds} s"));
    }
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
            "{} judged, {} infected, {} unscannable, {} unread, {} cut off",
            at("/counters/mails"),
            at("/counters/mails_infected"),
            at("/counters/mails_unscannable"),
            at("/counters/mails_unread"),
            at("/counters/mails_aborted")
        ),
    );
    match at("/scan") {
        Value::Null => line("scan", "off: mail passes unread".to_owned()),
        scan => flatten("scan", scan, &mut line),
    }
    line("quarantine", quarantine(at("/records")));
    line("journal", journal(at("/records")));
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

fn quarantine(records: &Value) -> String {
    let kept = match (records["quarantine_items"].as_u64(), records["quarantine_bytes"].as_u64()) {
        (Some(items), Some(size)) => format!("{items} items, {}", bytes(size)),
        _ => return "none: what is refused is not kept".to_owned(),
    };
    match records["quarantine_missing"].as_u64() {
        None | Some(0) => kept,
        Some(missing) => format!("{kept}, {missing} copies missing: see the log"),
    }
}

fn journal(records: &Value) -> String {
    let Some(size) = records["journal_bytes"].as_u64() else {
        return "none: mails are in the log only".to_owned();
    };
    match records["journal_missing"].as_u64() {
        None | Some(0) => bytes(size),
        Some(missing) => format!("{}, {missing} mails missing: see the log", bytes(size)),
    }
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
    use serde_json::json;

    use super::*;

    fn status() -> Status {
        Status {
            version: "0.1.0",
            uptime_s: 7,
            mac: "02:00:00:00:00:01".to_owned(),
            key_fingerprint: "ab12".to_owned(),
            snooze_seconds_left: None,
            scan: None,
            records: records::Numbers {
                quarantine_items: Some(2),
                quarantine_bytes: Some(5 * 1024 * 1024),
                quarantine_missing: Some(0),
                journal_bytes: Some(1024),
                journal_missing: Some(0),
            },
            flows: Flows { now: 3, taken: 5, frames_bridged: 11, table_full: 2 },
            counters: Numbers { sessions_scanned: 4, sessions_tls: 1, ..Numbers::default() },
            scanned_percent: Some(80),
            relay: None,
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
            "quarantine   2 items, 5.0 MiB\n",
            "journal      1.0 KiB\n",
            "relay        none: every session goes direct\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("SNOOZING"), "{text}");
        // What is not as it should be.
        document["snooze_seconds_left"] = json!(90);
        document["records"]["journal_missing"] = json!(7);
        document["records"]["quarantine_missing"] = json!(3);
        let text = render(&document);
        assert!(text.contains("2 items, 5.0 MiB, 3 copies missing: see the log\n"), "{text}");
        document["records"]["quarantine_items"] = Value::Null;
        let text = render(&document);
        for line in [
            "SNOOZING     new connections stay on the bridge, unscanned, for 90 s\n",
            "quarantine   none: what is refused is not kept\n",
            "journal      1.0 KiB, 7 mails missing: see the log\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        document["scan"] =
            json!({ "engines": { "clamd": { "asked": 7, "cache": { "hits": 3 } } } });
        let text = render(&document);
        assert!(text.contains("scan.engines.clamd.asked 7\n"), "{text}");
        assert!(text.contains("scan.engines.clamd.cache.hits 3\n"), "{text}");
        // Whatever the relay client reports is shown, one value a line.
        document["relay"] = json!({ "managers": [{ "state": "up" }], "ticket": null });
        document["counters"]["recent"] = json!([{ "session": "0a", "way": "direct" }]);
        let text = render(&document);
        assert!(text.contains("relay.managers.0.state up\n"), "{text}");
        assert!(text.contains("relay.ticket -\n"), "{text}");
        assert!(text.contains("session      0a - - -> -  direct"), "{text}");
    }
}
