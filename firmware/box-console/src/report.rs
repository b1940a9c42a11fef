//! What the console tells of the box, in lines: from PID 1's status and the gateway's, each of which
//! may be missing.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use box_init::control::{
    AddressSource, Clock, ClockState, Gateway, Ipv4Settings, LogLine, Mode, Network, Port, Reply,
    Service, ServiceState, Slot, Status, Storage, TRIAL_SECONDS, Trial,
};
use serde_json::Value;

/// An answer, or why there is none.
pub type Answer<T> = Result<T, String>;

/// Where the status page says which certificate it shows.
pub const PAGE_FINGERPRINT: &str = "/run/page/fingerprint";
/// Longest fingerprint, in bytes: a SHA-256 as 32 pairs of digits with colons, and its newline.
const FINGERPRINT_BYTES_MAX: u64 = 96;

/// SHA-256 of the certificate that the status page shows.
///
/// # Errors
/// The page has not said so, in words for people.
pub fn page_fingerprint(path: &Path) -> Answer<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FINGERPRINT_BYTES_MAX).read_to_string(&mut text))
        .map_err(|_| "not up: see logs page".to_owned())?;
    Ok(text.trim().to_owned())
}

/// How the box is, on less than a screen; of the status page, its certificate's fingerprint.
#[must_use]
pub fn banner(
    init: &Answer<Status>,
    gateway: &Answer<Value>,
    page: &Answer<String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |label: &str, text: String| lines.push(format!("{label:<11} {text}"));
    match init {
        Ok(status) => {
            let release = &status.release;
            line(
                "AVR",
                format!(
                    "{} (build {}, {}), serial number {}, up {}",
                    release.version,
                    release.build,
                    release.board,
                    status.serial,
                    span(status.uptime_seconds)
                ),
            );
            line("slot", slot(&status.slot));
            match status.mode {
                Mode::Normal => {}
                Mode::Safe => line("mode", "SAFE MODE: mail crosses unscanned".to_owned()),
                Mode::Recovery => line("mode", "RECOVERY: mail crosses unscanned".to_owned()),
            }
            line("lan", port(&status.lan));
            line("wan", port(&status.wan));
            if !status.bridged {
                line("bridge", "DOWN: nothing crosses the box".to_owned());
            }
            line("addresses", network(&status.network));
            let page = page.as_ref().map_or_else(
                |problem| format!("status page {problem}"),
                |print| format!("https://avr-{}.local, certificate SHA-256 {print}", status.serial),
            );
            line("page", page);
        }
        Err(problem) => line("box", format!("not known: {problem}")),
    }
    match gateway {
        Ok(gateway) => {
            line("key", word(gateway, "/key_fingerprint"));
            line("admission", admission(gateway));
            line("route", route(gateway));
        }
        Err(problem) => line("gateway", format!("key, admission and route not known: {problem}")),
    }
    if let Ok(status) = init {
        line("mail", mail(&status.gateway, gateway.as_ref().ok()));
        line("clock", clock(&status.clock));
        if let Some(failure) = &status.last_failure {
            line(
                "failure",
                format!("{}, {}: {}", utc(failure.at_seconds), failure.entry, first(&failure.text)),
            );
        }
        for problem in status.problems.iter().take(4) {
            line("PROBLEM", problem.clone());
        }
    }
    lines
}

/// As much of it as everybody may see.
#[must_use]
pub fn short_banner(init: &Answer<Status>) -> Vec<String> {
    match init {
        Ok(status) => vec![format!(
            "AVR {} (build {}), serial number {}",
            status.release.version, status.release.build, status.serial
        )],
        Err(problem) => vec![format!("AVR; nothing else is known: {problem}")],
    }
}

/// Everything.
#[must_use]
pub fn status(
    init: &Answer<Status>,
    gateway: &Answer<Value>,
    page: &Answer<String>,
) -> Vec<String> {
    let mut lines = banner(init, gateway, page);
    let mut line = |label: &str, text: String| lines.push(format!("{label:<11} {text}"));
    if let Ok(status) = init {
        line("state", storage(&status.state));
        line("data", storage(&status.data));
        let (all, free) = status.memory_bytes;
        line("memory", format!("{} of {} free", mebibytes(free), mebibytes(all)));
        let watchdog = &status.watchdog;
        line(
            "watchdog",
            match (watchdog.driver.is_empty(), watchdog.hardware) {
                (true, _) => "NONE".to_owned(),
                (false, true) => format!("{}, {} s", watchdog.driver, watchdog.seconds),
                (false, false) => {
                    format!("{}, {} s, of the kernel itself", watchdog.driver, watchdog.seconds)
                }
            },
        );
        line("parts list", status.release.sbom_sha256.clone());
        if status.short_boots > 0 {
            line("starts", format!("{} short ones before this one", status.short_boots));
        }
        if let Some(failure) = &status.last_failure {
            for text in failure.text.lines().skip(1).take(8) {
                line("failure", text.to_owned());
            }
        }
        for problem in status.problems.iter().skip(4) {
            line("PROBLEM", problem.clone());
        }
    }
    if let Ok(gateway) = gateway {
        let number = |path: &str| word(gateway, path);
        line(
            "sessions",
            format!(
                "{} now, {} in all: {} by relay, {} direct, {} not reached",
                number("/counters/sessions_now"),
                number("/counters/sessions"),
                number("/counters/sessions_relay"),
                number("/counters/sessions_direct"),
                number("/counters/sessions_refused")
            ),
        );
        line("mails", mails(gateway));
        line("scanned", format!("{} % of the sessions", number("/scanned_percent")));
        for manager in
            gateway.pointer("/relay/managers").and_then(Value::as_array).into_iter().flatten()
        {
            line("manager", format!("{} {}", word(manager, "/address"), word(manager, "/state")));
        }
    }
    lines
}

/// What `live` shows, from now and a moment before.
#[must_use]
pub fn live(
    gateway: &Answer<Value>,
    before: Option<&Value>,
    between: Duration,
    now_seconds: u64,
) -> Vec<String> {
    let mut lines = vec![format!("{}   q ends", utc(now_seconds)), String::new()];
    let gateway = match gateway {
        Ok(gateway) => gateway,
        Err(problem) => {
            lines.push(format!("nothing is known of the gateway: {problem}"));
            return lines;
        }
    };
    let rate = |path: &str| -> String {
        let at = |value: &Value| value.pointer(path).and_then(Value::as_u64);
        match (at(gateway), before.and_then(at), between.as_millis()) {
            (Some(now), Some(before), milliseconds @ 1..) => {
                let tenths = u128::from(now.saturating_sub(before)) * 10_000 / milliseconds;
                format!("{}.{}", tenths / 10, tenths % 10)
            }
            _ => "-".to_owned(),
        }
    };
    if let Some(seconds) = gateway.pointer("/snooze_seconds_left").and_then(Value::as_u64) {
        lines.push(format!("SNOOZING  new connections stay on the bridge for {}", span(seconds)));
    }
    lines.push(format!(
        "flows     {} now, {} taken",
        word(gateway, "/flows/now"),
        word(gateway, "/flows/taken")
    ));
    lines.push(format!(
        "sessions  {} now, {}/s",
        word(gateway, "/counters/sessions_now"),
        rate("/counters/sessions")
    ));
    lines.push(format!("mails     {}/s, {}", rate("/counters/mails"), mails(gateway)));
    lines.push(format!(
        "bytes/s   {} up, {} down",
        rate("/counters/bytes_up"),
        rate("/counters/bytes_down")
    ));
    lines.push(format!("route     {}", route(gateway)));
    lines.push(String::new());
    let recent = gateway.pointer("/counters/recent").and_then(Value::as_array);
    for session in recent.into_iter().flatten().rev().take(12) {
        lines.push(format!(
            "{:<5} {} > {}  {}  {} mails, {} infected",
            word(session, "/protocol"),
            word(session, "/client"),
            word(session, "/server"),
            word(session, "/way"),
            word(session, "/mails"),
            word(session, "/infected")
        ));
    }
    lines
}

/// The box's own addresses.
#[must_use]
pub fn addresses(network: &Network) -> Vec<String> {
    let settings = &network.settings;
    let list = |addresses: &[std::net::IpAddr], none: &str| {
        if addresses.is_empty() {
            return none.to_owned();
        }
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let ipv4 = match &settings.ipv4 {
        Ipv4Settings::Dhcp => "by DHCP".to_owned(),
        Ipv4Settings::Static { address, prefix, gateway } => {
            let gateway = gateway.map_or("none".to_owned(), |gateway| gateway.to_string());
            format!("{address}/{prefix}, router {gateway}")
        }
        Ipv4Settings::Off => "none".to_owned(),
    };
    let mut lines = vec![
        format!("in use      {}", self::network(network)),
        format!("name        {}", settings.hostname),
        format!("IPv4        {ipv4}"),
        format!("DNS         {}", list(&settings.dns, "those of DHCP")),
        format!("time        {}", list(&settings.ntp, "those of DHCP")),
    ];
    if let Some(seconds) = network.confirm_seconds {
        lines.push(format!(
            "They go back in {seconds} s unless you say: addresses confirm (or at once: addresses revert)"
        ));
    }
    lines
}

/// What is installed.
#[must_use]
pub fn slots(status: &Status) -> Vec<String> {
    vec![
        format!("running     {}", slot(&status.slot)),
        format!(
            "release     {} {} (build {})",
            status.release.product, status.release.version, status.release.build
        ),
    ]
}

/// What runs.
#[must_use]
pub fn services(services: &[Service]) -> Vec<String> {
    services
        .iter()
        .map(|service| {
            let state = match &service.state {
                ServiceState::Starting { pid } => format!("starting (process {pid})"),
                ServiceState::Running { pid, seconds } => {
                    format!("running for {} (process {pid})", span(*seconds))
                }
                ServiceState::Stopping { pid } => format!("stopping (process {pid})"),
                ServiceState::BackedOff { seconds } => {
                    format!("DIED, again in {}", span(u64::from(*seconds)))
                }
                ServiceState::Stopped => "not wanted".to_owned(),
            };
            let mut line = format!("{:<14} {state}", service.name);
            if service.starts > 1 {
                let _ = write!(line, ", start {}, last end: {}", service.starts, service.last_end);
            }
            if !service.note.is_empty() {
                let _ = write!(line, "; {}", service.note);
            }
            line
        })
        .collect()
}

/// Lines of a log.
#[must_use]
pub fn log(lines: &[LogLine]) -> Vec<String> {
    lines
        .iter()
        .map(|line| format!("{:>7}.{:03} {}", line.at_ms / 1000, line.at_ms % 1000, line.text))
        .collect()
}

/// Why a reply is not the one that was asked for.
#[must_use]
pub fn unexpected(reply: Reply) -> String {
    match reply {
        Reply::Failed { problem } => problem,
        _ => "PID 1 answered something else; it may be of another version".to_owned(),
    }
}

fn slot(slot: &Slot) -> String {
    let entry = slot.entry.as_deref().unwrap_or("not of a slot");
    let trial = match &slot.trial {
        Trial::None => "starts are not counted here".to_owned(),
        Trial::Blessed => "proved".to_owned(),
        Trial::OnTrial { starts_left, healthy_seconds, unhealthy } => {
            let health = match unhealthy {
                Some(problem) => format!("not well: {problem}"),
                None => format!("well for {healthy_seconds} of {TRIAL_SECONDS} s"),
            };
            format!("ON TRIAL, {starts_left} starts left, {health}")
        }
        Trial::NotWritten { problem } => {
            format!("proved, but that could not be written: {problem}")
        }
        Trial::NotCounted => "ON TRIAL, AND STARTS ARE NOT COUNTED by this firmware".to_owned(),
    };
    format!("{entry}, {trial}")
}

fn port(port: &Port) -> String {
    if !port.found {
        return format!("NOT FOUND at {}", port.path);
    }
    let link = match (port.link, port.speed_mbit) {
        (false, _) => "NO LINK".to_owned(),
        (true, Some(speed)) => format!("link, {speed} Mbit/s"),
        (true, None) => "link".to_owned(),
    };
    format!("{link}, {} ({}, {})", port.mac, port.driver, port.path)
}

fn network(network: &Network) -> String {
    let source = match network.source {
        AddressSource::None => "no IPv4",
        AddressSource::Static => "static",
        AddressSource::Lease => "DHCP",
        AddressSource::OldLease => "OLD LEASE: no DHCP server answers",
        AddressSource::LinkLocal => "LINK-LOCAL: no DHCP server answers",
    };
    let gateway = network.gateway.map_or("none".to_owned(), |gateway| gateway.to_string());
    let mut text = format!("{} ({source}), router {gateway}", network.addresses.join(", "));
    if let Some(seconds) = network.confirm_seconds {
        let _ = write!(text, ", NOT CONFIRMED: back in {seconds} s");
    }
    text
}

fn clock(clock: &Clock) -> String {
    let now = utc(clock.now_seconds);
    match (clock.state, &clock.synced) {
        (ClockState::Unknown, _) => "NOT KNOWN".to_owned(),
        (ClockState::Floor, _) => format!("LATER THAN {now}: no time server has answered"),
        (ClockState::Synced, Some(synced)) => {
            format!("{now}, set by {} at {}", synced.server, utc(synced.at_seconds))
        }
        (ClockState::Synced, None) => now,
    }
}

fn mail(gateway: &Gateway, status: Option<&Value>) -> String {
    let snooze = status.and_then(|status| status.pointer("/snooze_seconds_left")?.as_u64());
    match (gateway, snooze) {
        (Gateway::Intercepting, Some(seconds)) => {
            format!("SNOOZING: new connections unscanned for {}", span(seconds))
        }
        (Gateway::Intercepting, None) => "scanned".to_owned(),
        (Gateway::Starting, _) => "NOT SCANNED yet: the gateway starts".to_owned(),
        (Gateway::BackedOff { seconds }, _) => {
            format!(
                "NOT SCANNED: the gateway died, and starts again in {}",
                span(u64::from(*seconds))
            )
        }
        (Gateway::Bypass, _) => "NOT SCANNED: bypass is on".to_owned(),
        (Gateway::Off, _) => "NOT SCANNED in this mode".to_owned(),
    }
}

fn mails(gateway: &Value) -> String {
    format!(
        "{} judged, {} infected, {} unscannable, {} unread",
        word(gateway, "/counters/mails"),
        word(gateway, "/counters/mails_infected"),
        word(gateway, "/counters/mails_unscannable"),
        word(gateway, "/counters/mails_unread")
    )
}

fn admission(gateway: &Value) -> String {
    let ticket = gateway.pointer("/relay/ticket").unwrap_or(&Value::Null);
    if let Some(until) = ticket.pointer("/valid/until_s").and_then(Value::as_u64) {
        return format!("admitted, ticket until {}", utc(until));
    }
    if ticket.get("denied").is_some() {
        return format!("DENIED: {}", word(ticket, "/denied/reason"));
    }
    match gateway.get("relay") {
        None | Some(Value::Null) => "not needed: no site is set".to_owned(),
        Some(_) => "NONE YET: no auther has answered".to_owned(),
    }
}

fn route(gateway: &Value) -> String {
    let at = |path: &str| gateway.pointer(path).map(|_| word(gateway, path));
    if let Some(proxy) = at("/relay/route/warm/proxy") {
        return format!("through proxy {proxy}");
    }
    if let Some(manager) = at("/relay/route/ask/manager") {
        return format!("asks manager {manager} for a proxy");
    }
    match at("/relay/route/direct/reason") {
        Some(reason) => format!("DIRECT: {reason}"),
        None => "direct: no site is set".to_owned(),
    }
}

fn storage(storage: &Storage) -> String {
    match storage {
        Storage::Disk { device, bytes, free_bytes, repaired } => {
            let mut text =
                format!("{device}, {} of {} free", mebibytes(*free_bytes), mebibytes(*bytes));
            if let Some(repaired) = repaired {
                let _ = write!(text, ", repaired: {repaired}");
            }
            text
        }
        Storage::Memory { problem } => format!("IN MEMORY, lost at the next start: {problem}"),
    }
}

/// A value of a document as a word.
pub(crate) fn word(document: &Value, path: &str) -> String {
    match document.pointer(path) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn first(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}

/// `7 s`, `12 min`, `3 h`, `9 d`.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `2027-01-15 08:00:00 UTC`.
#[must_use]
pub fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Of the proleptic Gregorian calendar, in years that begin in March, so that a leap day is a year's
    // last; 719468 days lie between its year 0 and 1970.
    let days = days + 719_468;
    let era = days / 146_097;
    let day = days % 146_097;
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    format!(
        "{}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        year + era * 400,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn golden() -> Status {
        let text = include_str!("../../box-init/tests/control.jsonl");
        let reply = text.lines().find(|line| line.starts_with(r#"{"reply":"status""#)).unwrap();
        match serde_json::from_str(reply).unwrap() {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn gateway() -> Value {
        json!({
            "key_fingerprint": "ab12", "snooze_seconds_left": null,
            "flows": { "now": 3, "taken": 5 },
            "counters": { "sessions": 9, "mails": 40, "mails_infected": 2,
                "recent": [{ "protocol": "smtp", "client": "192.0.2.9:4000", "way": "direct" }] },
            "relay": { "route": { "warm": { "proxy": "198.51.100.1:4652" } },
                "ticket": { "valid": { "until_s": 1_800_000_000 } } },
        })
    }

    /// What the page leaves in its file.
    fn print() -> Answer<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "AB:CD\n").unwrap();
        page_fingerprint(file.path())
    }

    #[test]
    fn the_banner_has_what_a_person_at_the_box_needs() {
        let text = banner(&Ok(golden()), &Ok(gateway()), &print()).join("\n");
        for says in [
            "0.1.0 (build 12, qemu-x86_64), serial number 02005e100003, up 9 s",
            "avr_000012+2-1.efi, ON TRIAL, 2 starts left, not well: gateway: it starts",
            "lan         link, 1000 Mbit/s, 02:00:5e:10:00:03",
            "192.0.2.7/24, fe80::1/64 (static), router 192.0.2.1, NOT CONFIRMED: back in 171 s",
            "key         ab12",
            "page        https://avr-02005e100003.local, certificate SHA-256 AB:CD",
            "admitted, ticket until 2027-01-15 08:00:00 UTC",
            "through proxy 198.51.100.1:4652",
            "NOT SCANNED: the gateway died, and starts again in 4 s",
            "clock       2027-01-15 08:00:00 UTC, set by 192.0.2.1",
            "failure     2027-01-15 05:13:20 UTC, avr_000011.efi: Kernel panic",
            "PROBLEM     DATA is in memory",
        ] {
            assert!(text.contains(says), "{says} is not in\n{text}");
        }
        let lines = banner(&Ok(golden()), &Ok(gateway()), &print());
        let shown: usize = lines.iter().map(|line| crate::text::wrap(line, 79).len()).sum();
        assert!(shown < 24, "{shown} lines");
    }

    #[test]
    fn what_is_not_known_is_said_to_be() {
        let nobody = Err("PID 1 does not answer".to_owned());
        let text = banner(&nobody, &Err("no gateway".to_owned()), &print()).join("\n");
        assert!(text.contains("not known: PID 1 does not answer"), "{text}");
        assert!(text.contains("key, admission and route not known: no gateway"), "{text}");
        assert!(short_banner(&nobody)[0].contains("PID 1 does not answer"));
        // Of another version, or nonsense.
        let none = page_fingerprint(Path::new("/nowhere"));
        let text = banner(&Ok(golden()), &Ok(json!({ "relay": 7 })), &none).join("\n");
        assert!(text.contains("key         -"), "{text}");
        assert!(text.contains("page        status page not up: see logs page"), "{text}");
        assert!(status(&Ok(golden()), &Ok(json!(7)), &none).len() > 10);
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let mut before = gateway();
        before["counters"]["mails"] = json!(35);
        let lines = live(&Ok(gateway()), Some(&before), Duration::from_secs(2), 0).join("\n");
        assert!(lines.contains("mails     2.5/s, 40 judged, 2 infected"), "{lines}");
        assert!(lines.contains("smtp  192.0.2.9:4000 > -  direct"), "{lines}");
        let lines = live(&Ok(gateway()), None, Duration::ZERO, 0).join("\n");
        assert!(lines.contains("mails     -/s"), "{lines}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }
}
