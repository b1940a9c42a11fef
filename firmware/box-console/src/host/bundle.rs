//! The support bundle: state and logs as a compressed archive, without secrets and without mail.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use box_init::control::{LOG_LINES_MAX, Reply, Request};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Reporter, self_test, stick, wall_clock};
use crate::Options;
use crate::ask;
use crate::redact::redact;
use crate::report::{self, unexpected};

/// Longest text that goes into it, in bytes; of a longer one the end is kept.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Largest bundle over a serial line, in bytes: at 115200 baud it takes two minutes.
const SERIAL_BYTES_MAX: usize = 1024 * 1024;
/// Of the archive's text, in bytes a line: a MIME line has as many.
const BASE64_LINE_BYTES: usize = 76;
/// Of the log, if not all of it fits over a serial line.
const LOG_LINES_FEW: u32 = 200;

/// Files that go in as they are, but for secrets.
const FILES: &[&str] = &[
    "/etc/avr/release.toml",
    "/etc/avr/board.toml",
    "/proc/cmdline",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/mounts",
    "/proc/net/dev",
    "/proc/partitions",
    "/proc/uptime",
];
/// Likewise, of STATE.
const STATE_FILES: &[&str] =
    &["config/box.toml", "config/network.toml", "config/console.toml", "boots.json", "clock"];

pub(super) fn run(to_stick: bool, options: &Options, reporter: &Reporter) -> Result<(), String> {
    let name = format!("avr-support-{}.tar.gz", wall_clock().as_secs());
    if to_stick {
        let stick = stick::Stick::mount(options, true)?;
        let archive = pack(&collect(options, reporter, LOG_LINES_MAX))?;
        let path = stick.folder().join(&name);
        let write = || -> std::io::Result<()> {
            let mut file = File::create_new(&path)?;
            file.write_all(&archive)?;
            file.sync_all()
        };
        write().map_err(|error| format!("write {name} to the stick: {error}"))?;
        stick.finish()?;
        reporter.line(format!("OK {name}, {} bytes; the stick can be pulled", archive.len()));
        return Ok(());
    }
    let mut archive = pack(&collect(options, reporter, LOG_LINES_MAX))?;
    if archive.len() > SERIAL_BYTES_MAX {
        archive = pack(&collect(options, reporter, LOG_LINES_FEW))?;
    }
    if archive.len() > SERIAL_BYTES_MAX {
        return Err("it is too large for this line: use a stick (support usb)".to_owned());
    }
    reporter.line("Save what stands between the marks, and give it to: base64 -d > FILE.tar.gz");
    reporter.line(format!("-----BEGIN AVR SUPPORT {name} {} bytes-----", archive.len()));
    let text = STANDARD.encode(&archive);
    for line in text.as_bytes().chunks(BASE64_LINE_BYTES) {
        if reporter.is_cancelled() {
            return Ok(());
        }
        reporter.line(String::from_utf8_lossy(line).into_owned());
    }
    reporter.line("-----END AVR SUPPORT-----");
    Ok(())
}

/// Names and texts; what cannot be had says so.
fn collect(options: &Options, reporter: &Reporter, log_lines: u32) -> Vec<(String, String)> {
    let mut texts: Vec<(String, String)> = Vec::new();
    let init = ask::status(&options.init, ask::ORDER_WAIT);
    let gateway = ask::gateway_status(&options.gateway, ask::ORDER_WAIT);
    let page = report::page_fingerprint(&options.page);
    texts.push(("status.txt".to_owned(), report::status(&init, &gateway, &page).join("\n")));
    let pretty = |value: Result<String, String>| {
        value.unwrap_or_else(|problem| format!("missing: {problem}"))
    };
    let as_json = |error: serde_json::Error| error.to_string();
    texts.push((
        "init.json".to_owned(),
        pretty(init.and_then(|status| serde_json::to_string_pretty(&status).map_err(as_json))),
    ));
    texts.push((
        "gateway.json".to_owned(),
        pretty(gateway.and_then(|status| serde_json::to_string_pretty(&status).map_err(as_json))),
    ));
    let mut services = vec!["init".to_owned(), "kernel".to_owned()];
    match ask::init(&options.init, &Request::Services, ask::ORDER_WAIT) {
        Ok(Reply::Services { services: running }) => {
            texts.push(("services.txt".to_owned(), report::services(&running).join("\n")));
            services.extend(running.into_iter().map(|service| service.name));
        }
        Ok(other) => texts.push(("services.txt".to_owned(), unexpected(other))),
        Err(problem) => texts.push(("services.txt".to_owned(), problem)),
    }
    for service in services {
        let request = Request::Logs { service: service.clone(), lines: log_lines };
        let text = match ask::init(&options.init, &request, ask::ORDER_WAIT) {
            Ok(Reply::Logs { lines }) => report::log(&lines).join("\n"),
            Ok(other) => unexpected(other),
            Err(problem) => problem,
        };
        // A name of PID 1's; in an archive it must not lead elsewhere all the same.
        let safe: String =
            service.chars().filter(|char| char.is_ascii_alphanumeric() || *char == '-').collect();
        texts.push((format!("logs/{safe}.txt"), text));
    }
    let mut test = Vec::new();
    self_test::run(None, options, reporter, &mut |line| test.push(line));
    texts.push(("self-test.txt".to_owned(), test.join("\n")));
    for path in FILES {
        texts.push((path.trim_start_matches('/').to_owned(), read(Path::new(path))));
    }
    for name in STATE_FILES {
        texts.push((format!("state/{name}"), read(&options.state.join(name))));
    }
    texts
}

fn read(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("missing: {error}"),
    }
}

fn pack(texts: &[(String, String)]) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("pack the bundle: {error}");
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    for (name, text) in texts {
        let text = redact(text);
        let mut start = text.len().saturating_sub(TEXT_BYTES_MAX);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        let kept = text.as_bytes().get(start..).unwrap_or_default();
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(kept.len()).unwrap_or(0));
        header.set_mode(0o600);
        header.set_mtime(wall_clock().as_secs());
        archive.append_data(&mut header, format!("avr-support/{name}"), kept).map_err(failed)?;
    }
    archive.into_inner().and_then(GzEncoder::finish).map_err(failed)
}
