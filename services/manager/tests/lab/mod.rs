//! A whole manager on loopback, the boxes that ask it, and proxies that are played.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(dead_code, reason = "not every test needs all of the laboratory")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use link::{Acceptor, Link, LinkError};
use manager::counters::Counters;
use manager::operate::{Reply, Request};
use manager::{Manager, Settings, Timing};
use service_kit::control::{self, Line};
use service_kit::metrics::Counter;
use service_kit::{DrainTrigger, Served, Tls, host};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use wire::identity::{
    DeviceKey, FleetCa, FleetRoots, Role, device_client_config, server_client_config, server_config,
};
use wire::ticket::{KeyFingerprint, SignedTicket, Ticket, TicketSigner};
use wire::{Assign, Bye, LeaseId, Load, MacAddress, Message, SessionId, Use};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

pub(crate) struct Fleet {
    pub(crate) ca: FleetCa,
    pub(crate) signer: TicketSigner,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self { ca: FleetCa::create().unwrap(), signer: TicketSigner::generate().unwrap() }
    }

    /// The files that a manager's settings name.
    fn write(&self, directory: &Path) {
        let (certificate, key) = self.ca.issue(&[Role::Manager], "tokyo-1").unwrap();
        for (name, text) in [
            ("ca.pem", self.ca.certificate_pem().as_str()),
            ("a.crt", &certificate),
            ("a.key", key.expose()),
            ("ticket.pub", &self.signer.verifier().to_pem()),
        ] {
            std::fs::write(directory.join(name), text).unwrap();
        }
    }

    pub(crate) fn tls(&self, role: Role) -> Tls {
        let ca = self.ca.certificate_pem();
        let (certificate, key) = self.ca.issue(&[role], "tokyo-1").unwrap();
        Tls {
            server: server_config(&ca, &certificate, key.expose()).unwrap(),
            client: server_client_config(&ca, &certificate, key.expose()).unwrap(),
            roots: FleetRoots::from_pem(&ca).unwrap(),
            key_file: None,
        }
    }

    pub(crate) fn ticket(&self, key: KeyFingerprint, since_s: u64) -> SignedTicket {
        self.signer.sign(&Ticket::new(MAC, key, since_s, 1_000_000)).unwrap()
    }
}

/// A proxy that answers polls as it is told to.
#[derive(Clone)]
pub(crate) struct PlayedProxy {
    pub(crate) local: SocketAddr,
    pub(crate) load_average_milli: Arc<AtomicU32>,
    pub(crate) sessions: Arc<AtomicU32>,
    pub(crate) silent: Arc<AtomicBool>,
    pub(crate) polls: Counter,
    pub(crate) task: Arc<JoinHandle<()>>,
}

impl PlayedProxy {
    pub(crate) async fn start(fleet: &Fleet) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let tls = fleet.tls(Role::Proxy);
        let load_average_milli = Arc::new(AtomicU32::new(0));
        let sessions = Arc::new(AtomicU32::new(0));
        let silent = Arc::new(AtomicBool::new(false));
        let polls = Counter::default();
        let acceptor = Acceptor::new(tls.server, tls.roots);
        let (load, quiet, count) = (load_average_milli.clone(), silent.clone(), polls.clone());
        let carried = sessions.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut link) = acceptor.accept(stream, PATIENCE).await else { continue };
                assert!(link.peer().is_server(Role::Manager));
                while let Ok(message) = link.recv().await {
                    let Message::Poll(poll) = message else { panic!("{message:?}") };
                    count.inc();
                    if quiet.load(Ordering::Relaxed) {
                        continue;
                    }
                    let load = Load {
                        sequence: poll.sequence,
                        load_average_milli: load.load(Ordering::Relaxed),
                        sessions: carried.load(Ordering::Relaxed),
                        draining: false,
                    };
                    if link.send(&Message::Load(load)).await.is_err() {
                        break;
                    }
                }
            }
        });
        Self { local, load_average_milli, sessions, silent, polls, task: Arc::new(task) }
    }

    pub(crate) fn set_load(&self, milli: u32) {
        self.load_average_milli.store(milli, Ordering::Relaxed);
    }
}

pub(crate) struct Lab {
    pub(crate) fleet: Fleet,
    pub(crate) proxies: Vec<PlayedProxy>,
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) status: SocketAddr,
    pub(crate) counters: Arc<Counters>,
    pub(crate) trigger: DrainTrigger,
    pub(crate) task: JoinHandle<Served>,
}

pub(crate) fn public(index: usize) -> SocketAddr {
    format!("203.0.113.{}:4652", index + 1).parse().unwrap()
}

impl Lab {
    pub(crate) async fn new(proxy_count: usize) -> Self {
        Self::with_timing(proxy_count, Timing::default()).await
    }

    pub(crate) async fn with_timing(proxy_count: usize, timing: Timing) -> Self {
        Self::with(proxy_count, |settings| settings.timing = timing).await
    }

    pub(crate) async fn with(proxy_count: usize, change: impl FnOnce(&mut Settings)) -> Self {
        Self::of(Fleet::new(), proxy_count, change).await
    }

    pub(crate) async fn of(
        fleet: Fleet,
        proxy_count: usize,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut proxies = Vec::new();
        for _ in 0..proxy_count {
            proxies.push(PlayedProxy::start(&fleet).await);
        }
        let directory = tempfile::tempdir().unwrap();
        fleet.write(directory.path());
        let lab = Self::write_table(directory.path(), &proxies);
        let mut settings = Settings::load(&lab).unwrap();
        settings.drain_max = PATIENCE;
        change(&mut settings);
        Self::run(fleet, directory, proxies, settings).await
    }

    /// The same manager again, when it has come to its end.
    pub(crate) async fn restart(self, change: impl FnOnce(&mut Settings)) -> Self {
        let Self { fleet, directory, proxies, trigger, task, .. } = self;
        trigger.drain();
        tokio::time::timeout(PATIENCE, task).await.expect("the drain hangs").unwrap();
        let mut settings = Settings::load(&directory.path().join("manager.toml")).unwrap();
        change(&mut settings);
        Self::run(fleet, directory, proxies, settings).await
    }

    async fn run(
        fleet: Fleet,
        directory: TempDir,
        proxies: Vec<PlayedProxy>,
        settings: Settings,
    ) -> Self {
        let manager = Manager::bind(settings, host::unix_now_s).await.unwrap();
        let address = manager.address().unwrap();
        let status = manager.status_address().unwrap().unwrap();
        let counters = manager.counters();
        let (trigger, drain) = DrainTrigger::new();
        let task = tokio::spawn(manager.run(drain));
        Self { fleet, directory, proxies, address, status, counters, trigger, task }
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.directory.path().join("manager.toml")
    }

    /// Writes the settings file with these proxies in the table.
    pub(crate) fn write_table(directory: &Path, proxies: &[PlayedProxy]) -> PathBuf {
        let locals: Vec<String> = proxies.iter().map(|proxy| proxy.local.to_string()).collect();
        let mut text = format!(
            "listen = \"127.0.0.1:0\"\nfleet_ca = \"DIR/ca.pem\"\ncertificate = \"DIR/a.crt\"\n\
             key = \"DIR/a.key\"\nticket_key = \"DIR/ticket.pub\"\nproxy_address = \"{}\"\n\
             selection = \"least-load\"\npoll_interval_ms = 5\npoll_timeout_ms = 500\n\
             slow_start_seconds = 0\nrevocation_seconds = 1\nconnections_max = 64\ncontrol = \"DIR/run/control\"\n\
             state_directory = \"DIR/state\"\n\
             [status]\nlisten = \"127.0.0.1:0\"\n[public]\n",
            locals.join(", ")
        );
        for (index, local) in locals.iter().enumerate() {
            text.push_str(&format!("\"{local}\" = \"{}\"\n", public(index)));
        }
        let path = directory.join("manager.toml");
        std::fs::write(&path, text.replace("DIR", directory.to_str().unwrap())).unwrap();
        path
    }

    /// A page of the status port: its status line and all that follows.
    pub(crate) async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.status).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// What the operator's command says, line by line.
    pub(crate) async fn tell(&self, request: Request) -> Result<Vec<Reply>, String> {
        let path = self.directory.path().join("run/control");
        let telling = tokio::task::spawn_blocking(move || {
            let mut replies = Vec::new();
            let asked = control::ask(&path, &request, |reply| {
                let is_more = matches!(reply, Reply::Left { .. });
                replies.push(reply);
                if is_more { Line::More } else { Line::Last }
            });
            asked.map(|()| replies).map_err(|error| telemetry::chain(&error))
        });
        tokio::time::timeout(PATIENCE, telling).await.expect("no answer").unwrap()
    }

    pub(crate) async fn link(&self, key: &DeviceKey) -> Link {
        let tls = device_client_config(&self.fleet.ca.certificate_pem(), key).unwrap();
        link::connect(self.address, Role::Manager, tls, PATIENCE).await.unwrap()
    }

    pub(crate) async fn admitted(&self) -> PlayedBox {
        let key = DeviceKey::generate().unwrap();
        let ticket = self.fleet.ticket(key.fingerprint(), host::unix_now_s());
        PlayedBox { link: self.link(&key).await, ticket }
    }
}

pub(crate) struct PlayedBox {
    pub(crate) link: Link,
    pub(crate) ticket: SignedTicket,
}

impl PlayedBox {
    pub(crate) async fn ask(&mut self, exclude: &[SocketAddr]) -> Message {
        let assign = Assign { ticket: self.ticket.clone(), exclude: exclude.to_vec() };
        self.link.send(&Message::Assign(assign)).await.unwrap();
        recv(&mut self.link).await.unwrap()
    }

    /// Asks until the answer is as wanted; fails after [`PATIENCE`].
    pub(crate) async fn ask_until(&mut self, wanted: impl Fn(&Message) -> bool) -> Message {
        let asking = async {
            loop {
                let answer = self.ask(&[]).await;
                if wanted(&answer) {
                    return answer;
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("the answer never came")
    }
}

pub(crate) async fn recv(link: &mut Link) -> Result<Message, LinkError> {
    tokio::time::timeout(PATIENCE, link.recv()).await.expect("no word from the manager")
}

/// The proxies named, chosen first.
pub(crate) fn named(message: &Message) -> Vec<SocketAddr> {
    match message {
        Message::Use(Use { proxy, alternates, .. }) => {
            std::iter::once(*proxy).chain(alternates.iter().copied()).collect()
        }
        Message::Busy(_) => Vec::new(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn lease(message: &Message) -> LeaseId {
    let Message::Use(Use { lease, .. }) = message else { panic!("{message:?}") };
    *lease
}

pub(crate) fn bye(lease: LeaseId, bytes_up: u64) -> Message {
    Message::Bye(Bye {
        session: SessionId([1; 16]),
        lease,
        bytes_up,
        bytes_down: 0,
        messages: 1,
        infected: 0,
        unscannable: 0,
        opaque: false,
    })
}

/// Waits until a counter has the value; fails after [`PATIENCE`].
pub(crate) async fn wait_for(counter: &Counter, value: u64) {
    let waiting = async {
        while counter.get() < value {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the counter never came to its value");
}
