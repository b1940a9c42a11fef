//! Where lines go: rings in memory, and the kernel's log for what a person at the screen should see.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::libc::O_NONBLOCK;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::time::uptime;
use crate::control::LogLine;
use crate::ring::Ring;
use crate::texts;

/// PID 1's own lines.
pub(crate) const INIT: &str = "init";
/// The kernel's.
pub(crate) const KERNEL: &str = "kernel";

/// Longest record of `/dev/kmsg`, in bytes.
const RECORD_BYTES_MAX: usize = 8192;
/// Most records that are read at once.
const RECORDS_MAX: usize = 20_000;

/// All lines. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    rings: BTreeMap<String, Ring>,
    kernel: Option<File>,
}

impl Logs {
    /// Has the `tracing` of this process write here.
    pub(crate) fn start(&self) {
        // Each line shall be there, whoever writes how many. The kernel insists on the newline.
        let _ = super::files::put("/proc/sys/kernel/printk_devkmsg", "on\n");
        self.lock().kernel = OpenOptions::new().write(true).open("/dev/kmsg").ok();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(self.clone());
        // Fails where there is one already, and then that one is meant.
        let _ = subscriber.try_init();
    }

    /// Takes in what a service wrote.
    pub(crate) fn write(&self, service: &str, bytes: &[u8]) {
        let mut inner = self.lock();
        let lines = inner.ring(service).write(bytes, uptime());
        inner.pass_on(service, &lines);
    }

    /// A service has ended.
    pub(crate) fn flush(&self, service: &str) {
        let mut inner = self.lock();
        let line = inner.ring(service).flush(uptime());
        inner.pass_on(service, line.as_slice());
    }

    /// The last lines of a service; `None` where there is none of that name.
    pub(crate) fn last(&self, service: &str, lines: usize) -> Option<Vec<LogLine>> {
        if service == KERNEL {
            let all = kernel_lines();
            let skip = all.len().saturating_sub(lines);
            return Some(all.into_iter().skip(skip).collect());
        }
        self.lock().rings.get(service).map(|ring| ring.last(lines).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn ring(&mut self, service: &str) -> &mut Ring {
        self.rings.entry(service.to_owned()).or_default()
    }

    /// Lines of a service that say of themselves that they are severe.
    fn pass_on(&mut self, service: &str, lines: &[String]) {
        for line in lines {
            let severe = [" ERROR ", "\"level\":\"ERROR\"", "panicked at"];
            if severe.iter().any(|word| line.contains(word)) {
                self.record(3, service, line);
            }
        }
    }

    fn record(&mut self, priority: u8, service: &str, line: &str) {
        if let Some(kernel) = &mut self.kernel {
            // A record is one write. Nothing can be done where the kernel takes none.
            let _ = kernel.write_all(format!("<{priority}>avr-{service}: {line}\n").as_bytes());
        }
    }
}

/// Writes one event of PID 1's own.
#[derive(Debug)]
pub(crate) struct Event {
    logs: Logs,
    priority: u8,
}

impl io::Write for Event {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.logs.lock();
        for line in inner.ring(INIT).write(bytes, uptime()) {
            inner.record(self.priority, INIT, line.trim());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Event;

    fn make_writer(&'a self) -> Event {
        Event { logs: self.clone(), priority: 6 }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Event {
        let priority = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            _ => 6,
        };
        Event { logs: self.clone(), priority }
    }
}

fn kernel_lines() -> Vec<LogLine> {
    let mut lines = Vec::new();
    let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg");
    let Ok(mut kernel) = opened else { return lines };
    let mut record = vec![0; RECORD_BYTES_MAX];
    for _ in 0..RECORDS_MAX {
        match kernel.read(&mut record) {
            Ok(bytes) => {
                let message = record.get(..bytes).and_then(texts::kernel_message);
                lines.extend(message.map(|(at_ms, text)| LogLine { at_ms, text }));
            }
            // A record was overwritten before it was read; the next one is there.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    lines
}
