//! What sessions cost a proxy: memory of idle and of stuck ones, how many are set up in a second, and
//! processor time for a gigabyte; and what they cost other proxies, measured in the same way.
//!
//!     cargo build --release --workspace --bins --example sessions
//!     taskset -c 0 target/release/examples/sessions --proxy avr --sessions 10000 --stuck 500
//!
//! Runs one proxy pinned to a core of its own, and beside it the mail clients and the mail server. All
//! of them speak SMTP with the same mail server: by way of `avr-proxy` as a box does, of the others by
//! TCP or TLS. First sessions are opened and closed for a while; then mails stream through; then so
//! many sessions as are asked for are opened and say nothing more; then some send a mail to a server
//! that has stopped reading. CPU time is the proxy's own and its children's, as the kernel counts it:
//! on a busy machine it says more than the clock.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a measuring program ends where it fails")]
#![allow(clippy::print_stdout, reason = "its results")]

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, setrlimit};
use serde::Serialize;
use service_kit::host;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use wire::identity::{DeviceKey, FleetCa, Role, device_client_config};
use wire::ticket::{SignedTicket, Ticket, TicketSigner};
use wire::{HOPS_MAX, LeaseId, MacAddress, Message, Open, Protocol, SessionId};

const PATIENCE: Duration = Duration::from_secs(60);
/// Sessions that are opened at once while many are.
const CONNECTING_MAX: usize = 32;
/// Sessions beside those that are idle: room for all that is open at once while it is measured.
const SESSIONS_BESIDE: usize = 64;
/// Streams of mails at once, and of sessions that are opened and closed.
const STREAMS: usize = 8;
/// Largest piece that a client writes at once, in bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// A stuck client is one whose piece was not taken for so long.
const STUCK_AFTER: Duration = Duration::from_millis(500);
/// What is done for so long before it is measured: the first sessions are slower than all others.
const WARM_UP: Duration = Duration::from_millis(500);
/// Ticks of `utime` and `stime` a second (proc_pid_stat(5)); 100 on every Linux that we ship on.
const TICKS_PER_S: f64 = 100.0;

#[derive(Debug, Parser)]
struct Args {
    /// What is measured.
    #[arg(long, value_enum, default_value_t = Arm::Avr)]
    proxy: Arm,
    /// Sessions that are open at once and say nothing.
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// Of these, sending to a server that does not read.
    #[arg(long, default_value_t = 0)]
    stuck: usize,
    /// How long sessions are opened and closed, and how long mails stream.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Size of a mail, in bytes.
    #[arg(long, default_value_t = 1 << 20)]
    mail_bytes: usize,
    /// The core that the proxy gets.
    #[arg(long, default_value_t = 1)]
    core: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Arm {
    /// `avr-proxy`, every mail scanned.
    Avr,
    /// `avr-proxy` with `scan.mode = "off"`: what carrying alone costs.
    AvrUnread,
    /// HAProxy that passes TCP on.
    HaproxyTcp,
    /// HAProxy that ends TLS 1.3.
    HaproxyTls,
    /// nginx's `stream` that ends TLS 1.3.
    NginxTls,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    proxy: Arm,
    /// Opened, greeted and closed, in a second, and in a second of the proxy's processor time.
    sessions_per_s: f64,
    sessions_per_cpu_s: f64,
    /// Through it in a second, and what the proxy used for 10^9 bytes.
    mail_bytes: usize,
    bytes_per_s: f64,
    cpu_s_per_gb: f64,
    /// Sessions at once, and resident memory of the proxy and its children for one of them.
    idle_sessions: usize,
    idle_kib: f64,
    resident_kib: u64,
    /// Sessions whose server does not read; memory for one beside what an idle one takes, and bytes
    /// that the client got rid of, the kernel's buffers included.
    stuck_sessions: usize,
    stuck_kib: f64,
    stuck_taken_bytes: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    raise_limits(2 * u64::try_from(args.sessions + SESSIONS_BESIDE).unwrap() + 128);
    let folder = tempfile::tempdir().unwrap();
    let server = MailServer::start().await;
    let site = Site::start(&args, folder.path(), server.address).await;
    let time = Duration::from_secs(args.seconds);

    site.open_for(WARM_UP).await;
    let (start, cpu_before) = (Instant::now(), site.cpu_s());
    let opened = site.open_for(time).await as f64;
    let (opening_s, opening_cpu_s) = (start.elapsed().as_secs_f64(), site.cpu_s() - cpu_before);

    let mail = Arc::new(mail(args.mail_bytes));
    site.stream_for(&mail, WARM_UP).await;
    let (start, cpu_before) = (Instant::now(), site.cpu_s());
    let bytes = site.stream_for(&mail, time).await as f64;
    let (streaming_s, streaming_cpu_s) = (start.elapsed().as_secs_f64(), site.cpu_s() - cpu_before);

    let empty_kib = site.resident_kib();
    let mut idle = Vec::with_capacity(args.sessions);
    while idle.len() < args.sessions {
        let mut opening = JoinSet::new();
        for _ in 0..CONNECTING_MAX.min(args.sessions - idle.len()) {
            let site = site.clone();
            opening.spawn(async move { site.open().await });
        }
        idle.extend(opening.join_all().await);
    }
    let resident_kib = site.resident_kib();

    server.stop_reading();
    let mut sticking = JoinSet::new();
    for session in idle.drain(..args.stuck.min(args.sessions)) {
        sticking.spawn(session.stick());
    }
    let stuck = sticking.join_all().await;
    let stuck_kib = site.resident_kib().saturating_sub(resident_kib) as f64;
    let taken: u64 = stuck.iter().map(|(_, taken)| taken).sum();
    let each_stuck = stuck.len().max(1) as f64;

    let figures = Figures {
        proxy: args.proxy,
        sessions_per_s: opened / opening_s,
        sessions_per_cpu_s: opened / opening_cpu_s,
        mail_bytes: args.mail_bytes,
        bytes_per_s: bytes / streaming_s,
        cpu_s_per_gb: streaming_cpu_s / (bytes / 1e9),
        idle_sessions: args.sessions,
        idle_kib: resident_kib.saturating_sub(empty_kib) as f64 / args.sessions.max(1) as f64,
        resident_kib,
        stuck_sessions: stuck.len(),
        stuck_kib: stuck_kib / each_stuck,
        stuck_taken_bytes: taken / u64::try_from(stuck.len().max(1)).unwrap(),
    };
    println!("{}", serde_json::to_string(&figures).unwrap());
}

/// For the sockets of both ends, and for those of the proxy, which inherits it and needs as many. A hard
/// limit that is lower can be raised with CAP_SYS_RESOURCE only.
fn raise_limits(files: u64) {
    let limit = host::raise_file_limit().unwrap();
    if limit < files {
        setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap_or_else(|error| {
            panic!("{files} files are needed, and {limit} are allowed: {error}; ask for fewer")
        });
    }
}

/// A mail of so many bytes, with its end.
fn mail(bytes: usize) -> Vec<u8> {
    let line =
        b"The quick brown fox jumps over the lazy dog, and so on to the end of the line.\r\n";
    let mut mail = b"From: <a@example.org>\r\nSubject: measured\r\n\r\n".to_vec();
    while mail.len() < bytes {
        mail.extend_from_slice(line);
    }
    mail.extend_from_slice(b".\r\n");
    mail
}

/// The proxy that is measured, and how one comes through it.
#[derive(Clone)]
struct Site {
    arm: Arm,
    proxy: SocketAddr,
    server: SocketAddr,
    ca_pem: Arc<str>,
    signer: Arc<TicketSigner>,
    child: Arc<Child>,
}

impl Site {
    async fn start(args: &Args, folder: &Path, server: SocketAddr) -> Self {
        let (ca, signer) = (FleetCa::create().unwrap(), TicketSigner::generate().unwrap());
        let (certificate, key) = ca.issue(&[Role::Proxy], "measured").unwrap();
        for (name, text) in [
            ("ca.pem", ca.certificate_pem().as_str()),
            ("a.crt", &certificate),
            ("a.key", key.expose()),
            ("both.pem", &format!("{certificate}{}", key.expose())),
            ("ticket.pub", &signer.verifier().to_pem()),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let port = free_port().await;
        let settings = settings(args, server, port).replace("DIR", folder.to_str().unwrap());
        let file = folder.join("settings");
        std::fs::write(&file, settings).unwrap();
        let child = match args.proxy {
            Arm::Avr | Arm::AvrUnread => {
                let beside = std::env::current_exe().unwrap();
                let program = beside.parent().unwrap().parent().unwrap().join("avr-proxy");
                start(args.core, program, &["serve", "--config"], &file, port).await
            }
            Arm::HaproxyTcp | Arm::HaproxyTls => {
                start(args.core, "haproxy", &["-db", "-f"], &file, port).await
            }
            Arm::NginxTls => start(args.core, "nginx", &["-e", "stderr", "-c"], &file, port).await,
        };
        Self {
            arm: args.proxy,
            proxy: SocketAddr::from(([127, 0, 0, 1], port)),
            server,
            ca_pem: ca.certificate_pem().into(),
            signer: Arc::new(signer),
            child: Arc::new(child),
        }
    }

    /// A session whose server has greeted.
    async fn open(&self) -> Session {
        let stream: Box<dyn Stream> = match self.arm {
            Arm::Avr | Arm::AvrUnread => Box::new(self.open_by_link().await),
            Arm::HaproxyTcp => Box::new(connect(self.proxy).await),
            Arm::HaproxyTls | Arm::NginxTls => {
                let key = DeviceKey::generate().unwrap();
                let tls = device_client_config(&self.ca_pem, &key).unwrap();
                let stream = connect(self.proxy).await;
                let name = Role::Proxy.server_name();
                Box::new(TlsConnector::from(tls).connect(name, stream).await.unwrap())
            }
        };
        let mut session = Session { stream: BufReader::with_capacity(512, stream) };
        session.expect("220").await;
        session
    }

    async fn open_by_link(&self) -> link::SessionStream {
        let key = DeviceKey::generate().unwrap();
        let tls = device_client_config(&self.ca_pem, &key).unwrap();
        let mut link = link::connect(self.proxy, Role::Proxy, tls, PATIENCE).await.unwrap();
        let open = Open {
            ticket: self.ticket(&key),
            session: SessionId([7; 16]),
            lease: LeaseId(1),
            destination: self.server,
            protocol: Protocol::Smtp,
            hops_left: HOPS_MAX,
        };
        link.send(&Message::Open(open)).await.unwrap();
        loop {
            match link.recv().await.unwrap() {
                Message::Opening => {}
                Message::Opened(_) => return link.into_session(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn ticket(&self, key: &DeviceKey) -> SignedTicket {
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let ticket = Ticket::new(mac, key.fingerprint(), host::unix_now_s(), u32::MAX);
        self.signer.sign(&ticket).unwrap()
    }

    /// Opens and closes sessions for so long; gives how many.
    async fn open_for(&self, time: Duration) -> usize {
        let start = Instant::now();
        let mut opening = JoinSet::new();
        for _ in 0..STREAMS {
            let site = self.clone();
            opening.spawn(async move {
                let mut opened = 0;
                while start.elapsed() < time {
                    site.open().await.quit().await;
                    opened += 1;
                }
                opened
            });
        }
        opening.join_all().await.into_iter().sum()
    }

    /// Sends mails for so long; gives how many bytes.
    async fn stream_for(&self, mail: &Arc<Vec<u8>>, time: Duration) -> usize {
        let mut sessions = Vec::new();
        for _ in 0..STREAMS {
            sessions.push(self.open().await);
        }
        let start = Instant::now();
        let mut streaming = JoinSet::new();
        for mut session in sessions {
            let mail = mail.clone();
            streaming.spawn(async move {
                let mut bytes = 0;
                session.say("EHLO pc.example\r\n", "250").await;
                while start.elapsed() < time {
                    session.begin_mail().await;
                    for piece in mail.chunks(PIECE_BYTES) {
                        session.stream.write_all(piece).await.unwrap();
                    }
                    session.expect("250").await;
                    bytes += mail.len();
                }
                session.quit().await;
                bytes
            });
        }
        streaming.join_all().await.into_iter().sum()
    }

    fn resident_kib(&self) -> u64 {
        self.tree().map(resident_kib).sum()
    }

    fn cpu_s(&self) -> f64 {
        self.tree().map(cpu_s).sum()
    }

    /// The proxy and its children.
    fn tree(&self) -> impl Iterator<Item = u32> {
        let root = self.child.id().unwrap();
        let mut all = vec![root];
        for task in std::fs::read_dir(format!("/proc/{root}/task")).unwrap() {
            let path = task.unwrap().path().join("children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            all.extend(children.split_whitespace().map(|child| child.parse::<u32>().unwrap()));
        }
        all.into_iter()
    }
}

/// The settings file of a proxy, in which DIR is its folder.
fn settings(args: &Args, server: SocketAddr, port: u16) -> String {
    let sessions_max = args.sessions + SESSIONS_BESIDE;
    let connections_max = 2 * sessions_max + 64;
    match args.proxy {
        Arm::Avr | Arm::AvrUnread => format!(
            "listen = \"127.0.0.1:{port}\"\nfleet_ca = \"DIR/ca.pem\"\ncertificate = \"DIR/a.crt\"\n\
             key = \"DIR/a.key\"\nticket_key = \"DIR/ticket.pub\"\nmail_ports = [{}]\n\
             test_networks = [\"127.0.0.0/8\"]\nsessions_max = {sessions_max}\n\
             state_directory = \"DIR/state\"\ncontrol = \"DIR/control\"\n[scan]\nmode = \"{}\"\n",
            server.port(),
            if args.proxy == Arm::Avr { "on" } else { "off" },
        ),
        Arm::HaproxyTcp | Arm::HaproxyTls => {
            let tls = match args.proxy {
                Arm::HaproxyTls => " ssl crt DIR/both.pem ssl-min-ver TLSv1.3",
                _ => "",
            };
            format!(
                "global\n maxconn {sessions_max}\n nbthread 1\n\
                 defaults\n mode tcp\n maxconn {sessions_max}\n backlog 4096\n timeout connect 5s\n \
                 timeout client 600s\n timeout server 600s\n\
                 listen smtp\n bind 127.0.0.1:{port}{tls}\n server sink {server}\n"
            )
        }
        Arm::NginxTls => format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\n\
             master_process off;\npid DIR/nginx.pid;\nerror_log stderr error;\n\
             events {{ worker_connections {connections_max}; }}\n\
             stream {{\n server {{\n  listen 127.0.0.1:{port} ssl backlog=4096;\n  \
             ssl_certificate DIR/a.crt;\n  ssl_certificate_key DIR/a.key;\n  \
             ssl_protocols TLSv1.3;\n  tcp_nodelay on;\n  proxy_timeout 600s;\n  \
             proxy_pass {server};\n }}\n}}\n"
        ),
    }
}

/// Starts a proxy on its core. It listens when this returns; its log is shown where it has warnings.
async fn start(
    core: usize,
    program: impl AsRef<OsStr>,
    arguments: &[&str],
    settings: &Path,
    port: u16,
) -> Child {
    let program = program.as_ref();
    let mut proxy = Command::new("taskset")
        .args(["-c", &core.to_string()])
        .arg(program)
        .args(arguments)
        .arg(settings)
        .env("AVR_LOG", "warn")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if let Some(status) = proxy.try_wait().unwrap() {
            panic!("{} has ended: {status}", program.display());
        }
        assert!(start.elapsed() < PATIENCE, "{} does not listen", program.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A mail client's session, behind the greeting.
struct Session {
    stream: BufReader<Box<dyn Stream>>,
}

impl Session {
    async fn expect(&mut self, code: &str) {
        self.stream.flush().await.unwrap();
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line)).await.expect("no reply").unwrap();
        assert!(line.starts_with(code), "{line:?} where {code} was expected");
    }

    async fn say(&mut self, line: &str, code: &str) {
        self.stream.write_all(line.as_bytes()).await.unwrap();
        self.expect(code).await;
    }

    async fn begin_mail(&mut self) {
        self.say("MAIL FROM:<a@example.org>\r\n", "250").await;
        self.say("RCPT TO:<b@example.org>\r\n", "250").await;
        self.say("DATA\r\n", "354").await;
    }

    async fn quit(mut self) {
        self.say("QUIT\r\n", "221").await;
        // Until the other side has closed too.
        let mut rest = Vec::new();
        let _ = self.stream.shutdown().await;
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("no end");
    }

    /// Sends a mail without end until nobody takes any more of it; gives how much was taken. The
    /// session stays open.
    async fn stick(mut self) -> (Self, u64) {
        let piece = mail(PIECE_BYTES);
        // Without the end.
        let piece = &piece[..PIECE_BYTES / 2];
        self.say("EHLO pc.example\r\n", "250").await;
        self.begin_mail().await;
        let mut taken = 0;
        while let Ok(written) = timeout(STUCK_AFTER, self.stream.write(piece)).await {
            taken += u64::try_from(written.unwrap()).unwrap();
        }
        (self, taken)
    }
}

/// Takes every mail, until it is told not to read any more.
struct MailServer {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl MailServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stopped: Arc<AtomicBool> = Arc::default();
        let flag = stopped.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let flag = flag.clone();
                tokio::spawn(async move {
                    // A client that goes away is the end of the session.
                    let _ = converse(stream, &flag).await;
                });
            }
        });
        Self { address, stopped }
    }

    /// Of mails that begin from now on nothing is read.
    fn stop_reading(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

async fn converse(stream: TcpStream, stopped: &AtomicBool) -> std::io::Result<()> {
    let mut stream = BufReader::with_capacity(1_024, stream);
    stream.write_all(b"220 mail.example\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match line.get(..4) {
            Some("DATA") => {
                stream.write_all(b"354 go on\r\n").await?;
                if stopped.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                take_mail(&mut stream).await?;
                b"250 2.0.0 taken\r\n"
            }
            Some("QUIT") => {
                stream.write_all(b"221 2.0.0 bye\r\n").await?;
                return stream.shutdown().await;
            }
            _ => b"250 2.0.0 ok\r\n",
        };
        stream.write_all(reply).await?;
    }
}

/// Reads to the end of a mail.
async fn take_mail(stream: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut tail = [0; 5];
    while tail != *b"\r\n.\r\n" {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let end = &buffer[read.saturating_sub(tail.len())..read];
        tail.rotate_left(end.len());
        let kept = tail.len() - end.len();
        tail[kept..].copy_from_slice(end);
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A port that nobody has at this moment.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// CPU time of a process so far, of user and system, with that of children that have ended.
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which stands in parentheses, they are the 12th to the 15th.
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0.0 };
    let ticks = fields.split_whitespace().skip(11).take(4);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / TICKS_PER_S
}
