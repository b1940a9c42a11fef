//! What the console stands between: a terminal on one side, PID 1, the gateway and the line on the other.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// How long something that has to come may take, on a machine that does much else.
const WAIT_MILLISECONDS: u16 = 60_000;

pub(crate) fn clock() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap()
}

/// A folder with all that the console is told to use.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    pub(crate) init: Fake,
    pub(crate) gateway: Fake,
    pub(crate) smtp_port: u16,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["state/config", "sys/block", "bin"] {
            std::fs::create_dir_all(path.join(name)).unwrap();
        }
        let dns = fake_dns();
        std::fs::write(path.join("resolv.conf"), format!("nameserver 127.0.0.1:{dns}\n")).unwrap();
        let avr = path.join("bin/avr");
        let script = "#!/bin/sh\nif [ $1 = slots ]; then echo \"error: unrecognized subcommand 'slots'\"; exit 2; fi\n\
            echo avr says: $*\n";
        std::fs::write(&avr, script).unwrap();
        std::fs::set_permissions(&avr, std::fs::Permissions::from_mode(0o755)).unwrap();
        let init = Fake::start(&path.join("init"), init_answer());
        let gateway = Fake::start(&path.join("gateway"), gateway_answer());
        Self { init, gateway, smtp_port: fake_smtp(), folder }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn terminal(&self) -> Terminal {
        Terminal::start(self.folder.path())
    }

    /// What one line brings, on a console of its own, up to the next prompt.
    pub(crate) fn answer(&self, line: &str) -> String {
        self.answer_until(line, &["avr> ", "-- space: more", "Press Enter"])
    }

    pub(crate) fn answer_at(&self, line: &str, end: &str) -> String {
        self.answer_until(line, &[end])
    }

    fn answer_until(&self, line: &str, ends: &[&str]) -> String {
        let mut terminal = self.terminal();
        terminal.enter();
        // Word for word, as a person does: what is typed while a job runs is not for the next prompt.
        let words: Vec<&str> = line.split('\r').collect();
        let (last, first) = words.split_last().unwrap();
        for word in first {
            terminal.send(&format!("{word}\r"));
            terminal.expect(": ");
        }
        terminal.send(&format!("{last}\r"));
        // The line as it was typed stands behind a prompt, and is followed by a new line.
        terminal.expect("\r\n");
        let mut seen = terminal.expect_any(ends);
        while seen.trim_end().ends_with("-- space: more, q: enough --")
            && ends.contains(&"avr> ")
            && line != "25"
        {
            terminal.send(" ");
            seen += &terminal.expect_any(ends);
        }
        seen
    }

    /// The bytes of the one file of a folder.
    pub(crate) fn only_file(&self, name: &str) -> Vec<u8> {
        let mut files = std::fs::read_dir(self.folder.path().join(name)).unwrap();
        let bytes = std::fs::read(files.next().unwrap().unwrap().path()).unwrap();
        assert!(files.next().is_none());
        bytes
    }
}

/// Something that answers lines of JSON.
pub(crate) struct Fake {
    asked: Arc<Mutex<Vec<Value>>>,
    hangs: Arc<AtomicBool>,
}

impl Fake {
    fn start(path: &Path, mut answer: impl FnMut(&Value) -> Value + Send + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let fake = Self { asked: Arc::default(), hangs: Arc::default() };
        let (asked, hangs) = (Arc::clone(&fake.asked), Arc::clone(&fake.hangs));
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if hangs.load(Ordering::SeqCst) {
                    silent.push(stream);
                    continue;
                }
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let request: Value = serde_json::from_str(&line).unwrap();
                let reply = answer(&request);
                asked.lock().unwrap().push(request);
                let _ = stream.write_all(format!("{reply}\n").as_bytes());
            }
        });
        fake
    }

    /// From now on nobody is answered.
    pub(crate) fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    pub(crate) fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

/// PID 1, as its own golden replies have it.
fn init_answer() -> impl FnMut(&Value) -> Value + Send + 'static {
    let golden: Vec<Value> = include_str!("../../../box-init/tests/control.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let reply = move |kind: &str| golden.iter().find(|one| one["reply"] == kind).unwrap().clone();
    let mut network = reply("network");
    network["confirm_seconds"] = Value::Null;
    network["settings"]["hostname"] = json!("front-desk");
    network["gateway"] = json!("127.0.0.1");
    move |request| match request["verb"].as_str().unwrap() {
        "status" => {
            let mut status = reply("status");
            let mut shown = network.clone();
            shown.as_object_mut().unwrap().remove("reply");
            status["network"] = shown;
            status
        }
        "services" => reply("services"),
        "logs" => json!({ "reply": "logs", "lines": [
            { "at_ms": 1500, "text": "name\u{1b}]0;x\u{7} of taro@example.co.jp" } ] }),
        "network" => {
            match request["action"].as_str().unwrap() {
                "set" => {
                    network["settings"] = request["settings"].clone();
                    network["confirm_seconds"] = json!(180);
                }
                "confirm" | "revert" => network["confirm_seconds"] = Value::Null,
                _ => {}
            }
            network.clone()
        }
        "self-test" => {
            let pass = json!({ "outcome": "pass", "detail": "link up" });
            let checks = ["lan", "wan", "wan-link", "address", "gateway", "state"]
                .map(|name| json!({ "name": name, "outcome": pass }));
            let mut checks = checks.to_vec();
            let fail = json!({ "outcome": "fail", "detail": "no partition DATA" });
            checks.push(json!({ "name": "data", "outcome": fail }));
            json!({ "reply": "self-test", "checks": checks })
        }
        _ => json!({ "reply": "done", "note": "done" }),
    }
}

fn gateway_answer() -> impl FnMut(&Value) -> Value + Send + 'static {
    let mails = AtomicU64::new(0);
    move |request| match request["verb"].as_str().unwrap() {
        "status" => json!({ "status": {
            "key_fingerprint": "ab12",
            "counters": { "mails": mails.fetch_add(10, Ordering::SeqCst), "recent": [] },
            "scan": { "engines": {} },
            "relay": {
                "route": { "warm": { "proxy": "198.51.100.1:4652" } },
                "ticket": { "valid": { "until_s": 1_800_000_000_u64 } },
                "managers": [{ "address": "x", "state": "up" }, { "address": "y", "state": "dead" }],
                "managers_list": { "name": "mail.example.net" },
            },
        } }),
        "snooze" => json!({ "snooze": { "seconds_left": request["seconds"] } }),
        _ => json!({ "snooze": { "seconds_left": null } }),
    }
}

/// Knows `mail.example.net`.
fn fake_dns() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            let mut message = Message::from_vec(&buffer[..length]).unwrap();
            message.metadata.message_type = MessageType::Response;
            let query = message.queries.first().unwrap().clone();
            if query.name.to_ascii().starts_with("mail.") {
                let data = match query.query_type {
                    RecordType::A => RData::A(A("192.0.2.25".parse().unwrap())),
                    _ => RData::AAAA(AAAA("2001:db8::25".parse().unwrap())),
                };
                message.add_answer(Record::from_rdata(query.name.clone(), 60, data));
            } else {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&message.to_vec().unwrap(), from).unwrap();
        }
    });
    port
}

/// Greets with what a terminal would obey.
fn fake_smtp() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"220 mx\x1b[2J ready\r\n");
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                let answer = if line == "QUIT" { "221 bye\r\n" } else { "250-a\r\n250 SIZE\r\n" };
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    port
}

/// A pseudo terminal with the program at its other end.
pub(crate) struct Terminal {
    program: Child,
    link: PathBuf,
    master: File,
    /// Held, so that reading does not fail before the program has opened it.
    _slave: File,
    seen: String,
    bytes: Vec<u8>,
}

impl Terminal {
    fn start(folder: &Path) -> Self {
        // A console after another one has another terminal.
        let link = folder.join("tty");
        let _ = std::fs::remove_file(&link);
        let (master, slave) = pair(&link);
        let at = |name: &str| folder.join(name);
        let program = Command::new(env!("CARGO_BIN_EXE_box-console"))
            .arg("--tty")
            .arg(&link)
            .arg("--init")
            .arg(at("init"))
            .arg("--gateway")
            .arg(at("gateway"))
            .arg("--state")
            .arg(at("state"))
            .arg("--captures")
            .arg(at("captures"))
            .arg("--run")
            .arg(at("run"))
            .arg("--resolv-conf")
            .arg(at("resolv.conf"))
            .arg("--avr")
            .arg(at("bin/avr"))
            .arg("--sys")
            .arg(at("sys"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { program, link, master, _slave: slave, seen: String::new(), bytes: Vec::new() }
    }

    /// Comes in where no secret is asked for; what is shown on the way.
    pub(crate) fn enter(&mut self) -> String {
        self.expect("Press Enter");
        self.enter_now()
    }

    pub(crate) fn enter_now(&mut self) -> String {
        self.send("\r");
        self.expect("avr> ")
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    /// Takes what is there, so that the line does not fill up.
    pub(crate) fn drain(&mut self) {
        while self.read(20) {}
        self.seen.clear();
    }

    /// What is seen up to and with this.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        self.expect_any(&[text])
    }

    pub(crate) fn expect_any(&mut self, texts: &[&str]) -> String {
        loop {
            let found =
                texts.iter().filter_map(|text| Some(self.seen.find(text)? + text.len())).min();
            if let Some(end) = found {
                return self.seen.drain(..end).collect();
            }
            assert!(self.read(WAIT_MILLISECONDS), "{texts:?} did not come: {}", self.seen);
        }
    }

    /// Ends the line, and has another one where it was.
    pub(crate) fn hang_up(&mut self) {
        let new = self.link.with_extension("new");
        let (master, slave) = pair(&new);
        std::fs::rename(&new, &self.link).unwrap();
        self.master = master;
        self._slave = slave;
        self.seen.clear();
        self.bytes.clear();
    }

    fn read(&mut self, milliseconds: u16) -> bool {
        let mut descriptors = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut descriptors, PollTimeout::from(milliseconds)).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        let length = self.master.read(&mut buffer).unwrap();
        self.bytes.extend_from_slice(&buffer[..length]);
        // All that the console writes is UTF-8, but a character may be cut here.
        let whole = match std::str::from_utf8(&self.bytes) {
            Ok(text) => text.len(),
            Err(error) => {
                assert!(error.error_len().is_none(), "no UTF-8: {:?}", self.bytes);
                error.valid_up_to()
            }
        };
        self.seen.push_str(&String::from_utf8(self.bytes.drain(..whole).collect()).unwrap());
        true
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// A pseudo terminal whose other end is found by this name. No program that a test starts may inherit
/// either end, or a line that the test hangs up would live on in it.
fn pair(link: &Path) -> (File, File) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname_r(&master).unwrap();
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let slave = options.open(&name).unwrap();
    symlink(name, link).unwrap();
    (File::from(OwnedFd::from(master)), slave)
}
