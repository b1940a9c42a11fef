//! How many boxes a manager carries: memory of a connected idle box, and assignments a second.
//!
//!     cargo build --release -p manager --bins --example load
//!     target/release/examples/load --boxes 2000 --asking 64 --seconds 5
//!
//! Runs `avr-manager` beside itself, pinned to one core, with a site of four proxies that are played
//! here, and boxes that each have a key, a ticket and a TLS link of their own. First all boxes ask
//! once and fall silent; then some ask as fast as they are answered; then at half of that rate. CPU
//! time is the manager's own, as the kernel counts it: on a busy machine it says more than the clock.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a measuring program ends where it fails")]
#![allow(clippy::print_stdout, reason = "its results")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use link::{Acceptor, Link};
use nix::sys::resource::{Resource, setrlimit};
use serde::Serialize;
use service_kit::host;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wire::identity::{DeviceKey, FleetCa, FleetRoots, Role, device_client_config, server_config};
use wire::ticket::{SignedTicket, Ticket, TicketSigner};
use wire::{Assign, Bye, LeaseId, Load, MacAddress, Message, SessionId};

const PATIENCE: Duration = Duration::from_secs(60);
const PROXIES: usize = 4;
/// Handshakes at once while the boxes connect.
const CONNECTING_MAX: usize = 32;
/// Ticks of `utime` and `stime` a second (proc_pid_stat(5)); 100 on every Linux that we ship on.
const TICKS_PER_S: f64 = 100.0;

#[derive(Debug, Parser)]
struct Args {
    /// Boxes connected at once.
    #[arg(long, default_value_t = 2_000)]
    boxes: usize,
    /// Of these, asking without a pause.
    #[arg(long, default_value_t = 64)]
    asking: usize,
    /// How long they ask.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// The results as a line of JSON.
    #[arg(long)]
    json: bool,
    /// The core that the manager gets.
    #[arg(long, default_value_t = 0)]
    core: usize,
}

struct PlayedBox {
    link: Link,
    ticket: SignedTicket,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    raise_limits(u64::try_from(args.boxes).unwrap() + 128);
    let directory = tempfile::tempdir().unwrap();
    let (ca, signer) = (FleetCa::create().unwrap(), TicketSigner::generate().unwrap());
    let settings = write_site(directory.path(), &ca, &signer, args.boxes + 16).await;
    let (manager, address) = start(&settings, args.core).await;
    let pid = manager.id().unwrap();

    let mut first = connect(&ca, &signer, address).await;
    first.ask().await;
    let empty_kib = resident_kib(pid);
    let mut boxes = vec![first];
    while boxes.len() < args.boxes {
        let mut connecting = JoinSet::new();
        for _ in 0..CONNECTING_MAX.min(args.boxes - boxes.len()) {
            let key = DeviceKey::generate().unwrap();
            let tls = device_client_config(&ca.certificate_pem(), &key).unwrap();
            let ticket = ticket(&signer, &key);
            connecting.spawn(async move {
                let link = link::connect(address, Role::Manager, tls, PATIENCE).await.unwrap();
                let mut played = PlayedBox { link, ticket };
                played.ask().await;
                played
            });
        }
        boxes.extend(connecting.join_all().await);
    }
    let full_kib = resident_kib(pid);
    let each = (full_kib.saturating_sub(empty_kib)) as f64 / (boxes.len() - 1) as f64;
    let count = boxes.len();

    let asking = boxes.split_off(boxes.len() - args.asking.min(boxes.len()));
    let time = Duration::from_secs(args.seconds);
    let (asking, full) = ask_for(asking, pid, time, None).await;
    let (_, half) = ask_for(asking, pid, time, Some(full.per_s / 2.0)).await;
    if args.json {
        let figures =
            Figures { boxes: count, resident_kib: full_kib, kib_per_box: each, full, half };
        println!("{}", serde_json::to_string(&figures).unwrap());
        return;
    }
    println!("boxes {count}, resident {full_kib} KiB, {each:.1} KiB a box");
    for Asked { per_s, per_cpu_s, p50_ms, p99_ms } in [full, half] {
        println!(
            "{per_s:.0} assignments/s, {per_cpu_s:.0} per CPU second; median {p50_ms:.2} ms, p99 \
             {p99_ms:.2} ms"
        );
    }
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    boxes: usize,
    resident_kib: u64,
    kib_per_box: f64,
    /// As fast as they are answered, and at half of that rate.
    full: Asked,
    half: Asked,
}

/// Boxes that asked for a while.
#[derive(Debug, Serialize)]
struct Asked {
    per_s: f64,
    per_cpu_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// All of them ask for so long, together `rate` times a second, or without a pause.
async fn ask_for(
    boxes: Vec<PlayedBox>,
    pid: u32,
    time: Duration,
    rate: Option<f64>,
) -> (Vec<PlayedBox>, Asked) {
    let count = boxes.len();
    let pause = rate.map(|rate| Duration::from_secs_f64(count as f64 / rate));
    let (start, cpu_before) = (Instant::now(), cpu_s(pid));
    let mut asking = JoinSet::new();
    for (n, mut played) in (0_u32..).zip(boxes) {
        asking.spawn(async move {
            let mut waits = Vec::new();
            let mut due = start + pause.unwrap_or_default() * n / u32::try_from(count).unwrap();
            while start.elapsed() < time {
                if let Some(pause) = pause {
                    sleep_until(due).await;
                    due += pause;
                }
                let before = Instant::now();
                let lease = played.ask().await;
                waits.push(before.elapsed());
                played.bye(lease).await;
            }
            (played, waits)
        });
    }
    let (mut back, mut waits) = (Vec::new(), Vec::new());
    for (played, its) in asking.join_all().await {
        back.push(played);
        waits.extend(its);
    }
    let (elapsed_s, used_s) = (start.elapsed().as_secs_f64(), cpu_s(pid) - cpu_before);
    waits.sort_unstable();
    let percentile = |part: usize| waits[(waits.len() - 1) * part / 100].as_secs_f64() * 1e3;
    let asked = waits.len() as f64;
    let asked = Asked {
        per_s: asked / elapsed_s,
        per_cpu_s: asked / used_s,
        p50_ms: percentile(50),
        p99_ms: percentile(99),
    };
    (back, asked)
}

impl PlayedBox {
    async fn ask(&mut self) -> LeaseId {
        let assign = Assign { ticket: self.ticket.clone(), exclude: Vec::new() };
        self.link.send(&Message::Assign(assign)).await.unwrap();
        match self.link.recv().await.unwrap() {
            Message::Use(answer) => answer.lease,
            other => panic!("{other:?}"),
        }
    }

    async fn bye(&mut self, lease: LeaseId) {
        let bye = Bye {
            session: SessionId([1; 16]),
            lease,
            bytes_up: 20_000,
            bytes_down: 500,
            messages: 1,
            infected: 0,
            unscannable: 0,
            opaque: false,
        };
        self.link.send(&Message::Bye(bye)).await.unwrap();
    }
}

/// For a socket of each box, here and in the manager, which inherits it. A hard limit that is lower can be
/// raised with CAP_SYS_RESOURCE only.
fn raise_limits(files: u64) {
    let limit = host::raise_file_limit().unwrap();
    if limit < files {
        setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap_or_else(|error| {
            panic!("{files} files are needed, and {limit} are allowed: {error}; ask for fewer")
        });
    }
}

fn ticket(signer: &TicketSigner, key: &DeviceKey) -> SignedTicket {
    // No limit that could be met here: the manager is measured, not its limits.
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    signer.sign(&Ticket::new(mac, key.fingerprint(), host::unix_now_s(), u32::MAX)).unwrap()
}

async fn connect(ca: &FleetCa, signer: &TicketSigner, address: SocketAddr) -> PlayedBox {
    let key = DeviceKey::generate().unwrap();
    let tls = device_client_config(&ca.certificate_pem(), &key).unwrap();
    let link = link::connect(address, Role::Manager, tls, PATIENCE).await.unwrap();
    PlayedBox { link, ticket: ticket(signer, &key) }
}

/// A settings file, the keys it names, and the proxies in its table.
async fn write_site(
    directory: &Path,
    ca: &FleetCa,
    signer: &TicketSigner,
    connections_max: usize,
) -> PathBuf {
    let (certificate, key) = ca.issue(&[Role::Manager], "load").unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(directory.join(name), text).unwrap();
        directory.join(name)
    };
    let mut locals = Vec::new();
    for _ in 0..PROXIES {
        locals.push(play_proxy(ca).await);
    }
    let list: Vec<String> = locals.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "listen = \"127.0.0.1:0\"\nfleet_ca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
         ticket_key = {:?}\nproxy_address = {:?}\nconnections_max = {connections_max}\n\
         control = {:?}\nstate_directory = {:?}\n[public]\n",
        file("ca.pem", &ca.certificate_pem()),
        file("a.crt", &certificate),
        file("a.key", key.expose()),
        file("ticket.pub", &signer.verifier().to_pem()),
        list.join(", "),
        directory.join("control"),
        directory.join("state"),
    );
    for (n, local) in locals.iter().enumerate() {
        let _ = writeln!(text, "\"{local}\" = \"203.0.113.{}\"", n + 1);
    }
    file("manager.toml", &text)
}

async fn play_proxy(ca: &FleetCa) -> SocketAddr {
    let (certificate, key) = ca.issue(&[Role::Proxy], "load").unwrap();
    let ca_pem = ca.certificate_pem();
    let tls = server_config(&ca_pem, &certificate, key.expose()).unwrap();
    let acceptor = Acceptor::new(tls, FleetRoots::from_pem(&ca_pem).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut link) = acceptor.accept(stream, PATIENCE).await else { continue };
            while let Ok(Message::Poll(poll)) = link.recv().await {
                let load = Load {
                    sequence: poll.sequence,
                    load_average_milli: 100,
                    sessions: 0,
                    draining: false,
                };
                if link.send(&Message::Load(load)).await.is_err() {
                    break;
                }
            }
        }
    });
    address
}

/// The manager that was built beside this program, on one core; and where it listens.
async fn start(settings: &Path, core: usize) -> (Child, SocketAddr) {
    let beside = std::env::current_exe().unwrap();
    let program = beside.parent().unwrap().parent().unwrap().join("avr-manager");
    let mut manager = Command::new("taskset")
        .args(["-c", &core.to_string()])
        .arg(program)
        .args(["serve", "--config"])
        .arg(settings)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(manager.stderr.take().unwrap()).lines();
    let address = loop {
        let line = log.next_line().await.unwrap().expect("the manager has ended");
        if let Some((_, rest)) = line.split_once("address=") {
            break rest.split_whitespace().next().unwrap().parse().unwrap();
        }
    };
    // What else it says is read, so that it need not wait.
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    (manager, address)
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// CPU time of a process so far, of user and system.
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name, which stands in parentheses, `utime` and `stime` are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / TICKS_PER_S
}
