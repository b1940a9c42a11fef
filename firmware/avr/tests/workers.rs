//! The processes that take mails apart, as `avr listen` starts them: locked in, and replaced when they
//! die.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "a test crate of its own"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The anti-virus test file, in two halves so that no scanner takes this source away.
const TEST_FILE: [&str; 2] =
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!$H+H*"];

/// Killed when dropped.
struct Running(Child);

/// How often a worker's state is looked at until it is locked in: some seconds.
const TRIES_MAX: u32 = 100_000;

/// `avr listen` before a mail server that takes everything.
struct Listen {
    child: Running,
    address: SocketAddr,
    /// Kept open: a program that cannot log may die.
    _log: BufReader<ChildStderr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listen() -> Listen {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_avr"));
    command.args(["listen", "--listen", "127.0.0.1:0", "--protocol", "smtp", "--to", &to]);
    let mut child = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(child.0.stderr.take().unwrap());
    let address = loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
        if let Some((_, rest)) = line.split_once("listening local=") {
            break rest.split_whitespace().next().unwrap().parse().unwrap();
        }
    };
    Listen { child, address, _log: log }
}

/// A mail server that takes everything, in lock step.
fn serve(stream: TcpStream) {
    let mut writer = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut say = |text: &str| writer.write_all(text.as_bytes());
    let mut in_data = false;
    let _ = say("220 ready\r\n");
    while let Some(Ok(line)) = lines.next() {
        let reply = match (in_data, line.as_str()) {
            (true, ".") => {
                in_data = false;
                "250 taken\r\n"
            }
            (true, _) => continue,
            (false, "DATA") => {
                in_data = true;
                "354 go\r\n"
            }
            (false, _) => "250 ok\r\n",
        };
        let _ = say(reply);
    }
}

/// What is answered to a mail with this body.
fn send(address: SocketAddr, body: &str) -> String {
    send_mail(address, &format!("Subject: x\r\n\r\n{body}"))
}

fn send_mail(address: SocketAddr, mail: &str) -> String {
    let stream = TcpStream::connect(address).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    let mut hear = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    };
    hear();
    for command in ["HELO a", "MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>", "DATA"] {
        writer.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        hear();
    }
    writer.write_all(format!("{mail}\r\n.\r\n").as_bytes()).unwrap();
    hear()
}

/// The children of a process that are workers.
fn workers(parent: u32) -> Vec<i32> {
    let parent = format!("PPid:\t{parent}\n");
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}"));
        read("status").is_ok_and(|status| status.contains(&parent))
            && read("cmdline").is_ok_and(|line| line.contains(scan::worker::WORKER_VERB))
    })
    .collect()
}

#[test]
fn workers_are_locked_in_and_replaced_when_they_die() {
    let listen = listen();
    assert!(send(listen.address, "hello").starts_with("250 "));
    let first = workers(listen.child.0.id());
    assert!(!first.is_empty());
    for pid in &first {
        // One may still be on its way to its lock; the mail was looked at by another.
        let status = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let status = (0..TRIES_MAX)
            .map(|_| status())
            .find(|status| status.contains("\nSeccomp:\t2\n"))
            .unwrap_or_else(status);
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().to_owned()
        };
        // Filter mode (proc_pid_status(5)).
        assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".to_owned(), "1".to_owned()));
        if nix::unistd::geteuid().is_root() {
            assert_eq!((field("Uid:"), field("Gid:")), ("65534".to_owned(), "65534".to_owned()));
        }
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
    for pid in first {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    let reply = send(listen.address, &TEST_FILE.concat());
    assert!(reply.starts_with("554 5.7.1 ") && reply.contains("EICAR"), "{reply}");
    assert!(send(listen.address, "hello again").starts_with("250 "));
}

/// What a large mail may cost a worker that need not hold it, KiB.
const LARGE_MAIL_KIB_MAX: u64 = 2 * 1024;
/// What any mail may leave behind, KiB: the allocator keeps some for the next.
const LEFT_KIB_MAX: u64 = 5 * 1024;

/// A figure of a process's memory, in KiB (proc_pid_status(5)).
fn memory(pid: i32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_large_mail_costs_a_worker_little_and_leaves_nothing_behind() {
    let listen = listen();
    let letters =
        "The quick brown fox jumps over the lazy hen, and home again.\r\n".repeat(150_000);
    let text = |number: u32| format!("Subject: {number}\r\n\r\n{letters}");
    // Whichever worker has a mail: all of them have had a small one, and then a large one.
    let all =
        |field| workers(listen.child.0.id()).iter().map(|pid| memory(*pid, field)).sum::<u64>();
    for _ in 0..8 {
        assert!(send(listen.address, "hello").starts_with("250 "));
    }
    let count = workers(listen.child.0.id()).len() as u64;
    let (before, peak_before) = (all("VmRSS:"), all("VmHWM:"));
    for number in 0..4 {
        assert!(send_mail(listen.address, &text(number)).starts_with("250 "));
    }
    let grown = all("VmHWM:") - peak_before;
    assert!(grown <= count * LARGE_MAIL_KIB_MAX, "{grown} KiB for {count} workers");
    // What begins like an archive is held.
    let archive = format!("Content-Type: application/zip\r\n\r\nPK\x03\x04{letters}");
    assert!(send_mail(listen.address, &archive).starts_with("250 "));
    assert!(all("VmHWM:") - peak_before > archive.len() as u64 / 1024, "it was not held");
    let left = all("VmRSS:").saturating_sub(before);
    assert!(left <= count * LEFT_KIB_MAX, "{left} KiB left in {count} workers");
}
