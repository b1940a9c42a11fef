//! A machine that runs: its power, its console with a person at it, its ports.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::clock::wait_for;
use image::qemu;
use serde_json::{Value, json};

use crate::{Bench, Fittings, Ports};

/// Longest that QEMU itself may take to answer.
const QEMU_MAX: Duration = Duration::from_secs(60);
/// Longest from power to the console, and for anything that is asked there. A boot is some ten seconds of a
/// processor that has nothing else to do.
const CONSOLE_MAX: Duration = Duration::from_secs(400);
/// Last lines of the console that a failure shows.
const TAIL_LINES: usize = 60;
/// What the console says to whoever stands before it.
const LOCKED: &str = "Press Enter.";
/// What it says while nobody knows yet whether there is a secret.
const LOOKED_FOR: &str = "STATE is not there: it is still looked for";
/// What the console says when a page is full.
const MORE: &str = "-- space: more, q: enough --";
/// A folder to which each machine's console is copied as it speaks.
const LOGS_VARIABLE: &str = "AVR_BOOT_LOGS";
/// Emulated unless somebody knows better, as for `scripts/qemu`.
const ACCEL_VARIABLE: &str = "AVR_QEMU_ACCEL";

/// A running machine. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    keyboard: ChildStdin,
    said: Arc<Mutex<Vec<u8>>>,
    /// What was said up to here was looked at, in characters of [`plain`].
    seen: usize,
    folder: PathBuf,
    ports: Ports,
    monitor: Option<BufReader<UnixStream>>,
    shell: Option<BufReader<UnixStream>>,
}

impl Machine {
    pub(crate) fn start(bench: &Bench, fittings: &Fittings) -> Result<Self> {
        let folder = bench.folder().to_owned();
        let ports = Ports::new(&folder)?;
        for socket in ["monitor", "shell", "lan.qemu", "wan.qemu"] {
            let _ = fs::remove_file(folder.join(socket));
        }
        let words = words(bench, fittings)?;
        let (program, arguments) = words.split_first().context("an empty command line")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("qemu.log"))?)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let keyboard = child.stdin.take().context("a keyboard")?;
        let mut screen = child.stdout.take().context("a screen")?;
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let to = Arc::clone(&said);
        let mut log = copy(&folder)?;
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Until the machine is off.
            while let Ok(len @ 1..) = screen.read(&mut bytes) {
                if let Some(log) = &mut log {
                    let _ = log.write_all(&bytes[..len]);
                }
                to.lock().unwrap_or_else(PoisonError::into_inner).extend(&bytes[..len]);
            }
        });
        Ok(Self { child, keyboard, said, seen: 0, folder, ports, monitor: None, shell: None })
    }

    /// What is plugged into its ports.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// All that its console has said, without what only moves the cursor.
    #[must_use]
    pub fn console(&self) -> String {
        plain(&self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the console says that; gives what it said from where it was last looked at.
    ///
    /// # Errors
    /// It did not in time, or the machine went off; with the last lines of the console.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.expect_that(&format!("{text:?}"), limit, |new| {
            new.find(text).map(|at| at + text.len())
        })
    }

    /// Waits until the console says something of which that gives an end.
    fn expect_that(
        &mut self,
        what: &str,
        limit: Duration,
        mut end: impl FnMut(&str) -> Option<usize>,
    ) -> Result<String> {
        let (said, child, seen) = (&self.said, &mut self.child, self.seen);
        let found = wait_for(what, limit, || {
            let is_off = !matches!(child.try_wait(), Ok(None));
            let all = plain(&said.lock().unwrap_or_else(PoisonError::into_inner));
            let new = all.get(seen..).unwrap_or_default();
            match end(new) {
                Some(end) => Some(Some(new[..end].to_owned())),
                None => is_off.then_some(None),
            }
        });
        match found {
            Ok(Some(found)) => {
                self.seen += found.len();
                Ok(found)
            }
            Ok(None) => Err(self.failure(&format!("the machine went off before it said {what}"))),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }

    /// An error with what there is to see.
    #[must_use]
    pub fn failure(&self, what: &str) -> anyhow::Error {
        let console = self.console();
        let lines: Vec<&str> = console.lines().collect();
        let last = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        let qemu = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
        anyhow::anyhow!("{what}\n--- end of the console ---\n{last}\n--- QEMU ---\n{qemu}")
    }

    /// Types.
    ///
    /// # Errors
    /// The machine is off.
    pub fn type_in(&mut self, keys: impl AsRef<[u8]>) -> Result<()> {
        self.keyboard.write_all(keys.as_ref())?;
        Ok(self.keyboard.flush()?)
    }

    /// Waits for the console, and comes in.
    ///
    /// # Errors
    /// It does not come, or lets nobody in.
    pub fn log_in(&mut self) -> Result<String> {
        self.expect(LOCKED, CONSOLE_MAX)?;
        loop {
            self.type_in("\r")?;
            let banner = self.prompt()?;
            // For its first seconds a box does not know whether a secret is set, and lets nobody in.
            if banner.trim_end().ends_with(LOCKED) {
                continue;
            }
            // On a machine that has other things to do the disk may take longer than that.
            if !banner.contains(LOOKED_FOR) {
                return Ok(banner);
            }
            self.type_in("exit\r")?;
            self.expect(LOCKED, CONSOLE_MAX)?;
        }
    }

    /// Waits for the prompt, or for a console that is locked again, turning pages.
    fn prompt(&mut self) -> Result<String> {
        let mut all = String::new();
        loop {
            let said = self.expect_that("the console's prompt", CONSOLE_MAX, |new| {
                let text = without_kernel(new);
                let last = text.rsplit('\n').next().unwrap_or_default();
                let is_prompt = last.starts_with("avr") && last.ends_with("> ");
                let is_locked = text.trim_end().ends_with(LOCKED);
                let is_end =
                    text.ends_with(MORE) || is_locked || (is_prompt && text.contains('\n'));
                is_end.then_some(new.len())
            })?;
            all.push_str(&without_kernel(&said));
            if !all.ends_with(MORE) {
                return Ok(joined(&all));
            }
            self.type_in(" ")?;
        }
    }

    /// Gives a command at the prompt; what it says up to the next one, long lines whole.
    ///
    /// # Errors
    /// It does not end.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.type_in(format!("{command}\r"))?;
        self.prompt()
    }

    /// Gives a command that asks whether it is meant, and means it.
    ///
    /// # Errors
    /// It does not ask, or does not end.
    pub fn confirm(&mut self, command: &str) -> Result<String> {
        self.confirm_away(command)?;
        self.prompt()
    }

    /// The same, of a command behind which there is no prompt.
    ///
    /// # Errors
    /// It does not ask.
    pub fn confirm_away(&mut self, command: &str) -> Result<()> {
        self.type_in(format!("{command}\r"))?;
        self.expect("Type yes to go on: ", CONSOLE_MAX)?;
        self.type_in("yes\r")
    }

    /// Asks until the answer has that in it.
    ///
    /// # Errors
    /// It has not in time; with the last answer.
    pub fn ask_until(&mut self, command: &str, text: &str, limit: Duration) -> Result<String> {
        let mut last = Ok(String::new());
        let found = wait_for(&format!("{text:?} in {command}"), limit, || {
            last = self.ask(command);
            match &last {
                Ok(said) if said.contains(text) => Some(true),
                Ok(_) => None,
                Err(_) => Some(false),
            }
        });
        match (found, last) {
            (Ok(true), said) => said,
            (_, Err(error)) => Err(error),
            (Err(error), Ok(last)) => bail!("{error}\nThe last answer:\n{last}"),
            (Ok(false), Ok(_)) => bail!("{command}"),
        }
    }

    /// Has the shell of a system that has one do that; fails where the command does.
    ///
    /// # Errors
    /// There is no shell, or the command fails.
    pub fn shell(&mut self, command: &str) -> Result<String> {
        let step = || format!("in the machine's shell: {command}");
        if self.shell.is_none() {
            let stream = connect(&self.folder.join("shell"))?;
            stream.set_read_timeout(Some(CONSOLE_MAX))?;
            self.shell = Some(BufReader::new(stream));
        }
        let shell = self.shell.as_mut().context("just made")?;
        shell.get_mut().write_all(format!("{command}\n").as_bytes()).with_context(step)?;
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let len = shell.read_line(&mut line).with_context(step)?;
            ensure!(len > 0, "{}: it hung up", step());
            if let Some(status) = line.trim_end().strip_prefix("= ") {
                ensure!(status == "0", "{}: status {status}\n{said}", step());
                return Ok(said);
            }
            said.push_str(&line);
        }
    }

    /// Has QEMU do something, by its monitor's language.
    ///
    /// # Errors
    /// It does not.
    pub fn monitor(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let step = || format!("QEMU's {command}");
        if self.monitor.is_none() {
            let stream = connect(&self.folder.join("monitor"))?;
            stream.set_read_timeout(Some(QEMU_MAX))?;
            self.monitor = Some(BufReader::new(stream));
            self.monitor("qmp_capabilities", &json!({}))?;
        }
        let monitor = self.monitor.as_mut().context("just made")?;
        let words = json!({ "execute": command, "arguments": arguments });
        monitor.get_mut().write_all(words.to_string().as_bytes()).with_context(step)?;
        loop {
            let mut line = String::new();
            ensure!(monitor.read_line(&mut line).with_context(step)? > 0, "{}: hung up", step());
            let mut answer: Value = serde_json::from_str(&line).with_context(step)?;
            // Greetings and events come in between.
            if let Some(done) = answer.get_mut("return") {
                return Ok(done.take());
            }
            ensure!(answer.get("error").is_none(), "{}: {line}", step());
        }
    }

    /// Pulls the disk: whatever is asked of it from here on fails.
    ///
    /// # Errors
    /// There is none any more.
    pub fn pull_disk(&mut self) -> Result<()> {
        let command = json!({ "command-line": "drive_del disk" });
        let said = self.monitor("human-monitor-command", &command)?;
        ensure!(said == json!(""), "drive_del: {said}");
        Ok(())
    }

    /// Waits until it has switched itself off.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_off(mut self, limit: Duration) -> Result<String> {
        let child = &mut self.child;
        let ended = wait_for("the machine to go off", limit, || child.try_wait().ok().flatten());
        match ended {
            Ok(status) if status.success() => Ok(self.console()),
            Ok(status) => Err(self.failure(&format!("QEMU: {status}"))),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }

    /// Cuts its power.
    ///
    /// # Errors
    /// It was off.
    pub fn cut_power(mut self) -> Result<String> {
        ensure!(self.child.try_wait()?.is_none(), self.failure("the machine was off already"));
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.console())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a console is copied to, if anywhere.
fn copy(folder: &Path) -> Result<Option<fs::File>> {
    let Some(logs) = std::env::var_os(LOGS_VARIABLE).map(PathBuf::from) else { return Ok(None) };
    let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
    let bench = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = logs.join(format!("{test}{bench}.log"));
    let file = fs::File::options().create(true).append(true).open(&path);
    file.map(Some).with_context(|| format!("writing {}", path.display()))
}

fn connect(path: &Path) -> Result<UnixStream> {
    wait_for(&path.display().to_string(), QEMU_MAX, || UnixStream::connect(path).ok())
}

/// QEMU's command line: the board's, but for what the test holds in its hands.
fn words(bench: &Bench, fittings: &Fittings) -> Result<Vec<OsString>> {
    let (disk, variables) = (bench.disk(), bench.variables());
    let accel = std::env::var(ACCEL_VARIABLE).unwrap_or_else(|_| "tcg".to_owned());
    let guest =
        qemu::Guest { disk: &disk, variables: &variables, taps: None, macs: None, accel: &accel };
    let mut words = qemu::command(&bench.released.board, &guest)?;
    let folder = bench.folder();
    for at in 0..words.len().saturating_sub(1) {
        let (option, value) = (words[at].to_string_lossy(), words[at + 1].to_string_lossy());
        let other = match (&*option, &*value) {
            ("-serial", _) => Some("stdio".to_owned()),
            ("-m", _) => fittings.memory_mib.map(|mib| mib.to_string()),
            ("-netdev", value) => {
                let id = if value.contains("id=lan") { "lan" } else { "wan" };
                Some(Ports::option(folder, id))
            }
            _ => None,
        };
        if let Some(other) = other {
            words[at + 1] = other.into();
        }
    }
    if let Some(log) = &fittings.log {
        log_writes(&mut words, &disk, log)?;
    }
    let mut more = |option: &str, value: String| words.extend([option.into(), value.into()]);
    let socket = |name: &str| format!("path={},server=on,wait=off", folder.join(name).display());
    more("-chardev", format!("socket,id=shell,{}", socket("shell")));
    more("-serial", "chardev:shell".to_owned());
    more("-chardev", format!("socket,id=monitor,{}", socket("monitor")));
    more("-mon", "chardev=monitor,mode=control".to_owned());
    if let Some(clock) = &fittings.clock {
        more("-rtc", format!("base={clock}"));
    }
    if let Some(stick) = &fittings.stick {
        more("-device", "qemu-xhci,id=usb".to_owned());
        more("-drive", format!("if=none,id=stick,format=raw,file={}", stick.display()));
        more("-device", "usb-storage,bus=usb.0,drive=stick".to_owned());
    }
    Ok(words)
}

/// Puts a log between the disk and its file.
fn log_writes(words: &mut [OsString], disk: &Path, log: &Path) -> Result<()> {
    let is_disk = |word: &OsString| word.to_string_lossy().starts_with("if=none,id=disk,");
    let at = words.iter().position(is_disk).context("QEMU has a disk")?;
    fs::File::create(log)?;
    words[at - 1] = "-blockdev".into();
    words[at] = format!(
        "driver=blklogwrites,node-name=disk,file.driver=file,file.filename={},\
         log.driver=file,log.filename={}",
        disk.display(),
        log.display()
    )
    .into();
    Ok(())
}

/// Text without what moves the cursor, and without carriage returns.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            // A sequence of control is a bracket, numbers, and a letter; others are two characters.
            '\u{1b}' => {
                if rest.next() == Some('[') {
                    rest.find(|end| end.is_ascii_alphabetic() || *end == '@');
                }
            }
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Text without what the kernel says in between: `[   12.345678] ...`, up to the line's end.
fn without_kernel(text: &str) -> String {
    let mut left = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('[') {
        let (before, found) = rest.split_at(at);
        left.push_str(before);
        let time = found[1..].split_once("] ").map(|(time, _)| time.trim_start());
        let is_time = time.is_some_and(|time| {
            time.contains('.') && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        });
        rest = match is_time {
            true => found.split_once('\n').map_or("", |(_, rest)| rest),
            false => {
                left.push('[');
                &found[1..]
            }
        };
    }
    left + rest
}

/// Lines that were wrapped, whole again.
fn joined(text: &str) -> String {
    text.replace("\n    ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_is_not_text() {
        let said =
            b"\x1b[2J\x1b[01;01H\ravr> \x1b[K\r\x1b[5C self-test\r\nFAIL a\r\n    b \x1b[0mc";
        assert_eq!(joined(&plain(said)), "avr>  self-test\nFAIL a b c");
    }

    #[test]
    fn what_the_kernel_says_is_no_answer() {
        let said = "avr> [    9.000001] avr-init: a\nPASS [1] b\n[   10.5] c\navr> ";
        assert_eq!(without_kernel(said), "avr> PASS [1] b\navr> ");
    }
}
