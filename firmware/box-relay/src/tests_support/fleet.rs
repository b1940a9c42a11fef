//! A fleet on loopback: fake managers, proxies and authers that speak real TLS and real messages,
//! and do as a test tells them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use link::{Acceptor, Link};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use wire::identity::{DeviceKey, FleetCa, FleetRoots, Peer, Role, server_config};
use wire::ticket::{Ticket, TicketSigner};
use wire::{
    Busy, Bye, Denied, DeniedReason, LeaseId, MacAddress, Message, Open, Opened, Refused,
    RefusedReason, Use,
};

use super::dns::{FakeDns, Reply};
use crate::Settings;

/// How often a fake looks whether it was told to freeze.
const LOOK: Duration = Duration::from_millis(10);
pub(crate) const NOW_S: u64 = 1_800_000_000;

/// The keys of a fleet, one box of it, and the box's directory.
pub(crate) struct Fleet {
    ca: FleetCa,
    signer: TicketSigner,
    device_pem: String,
    pub(crate) state: TempDir,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            ca: FleetCa::create().unwrap(),
            signer: TicketSigner::generate().unwrap(),
            device_pem: DeviceKey::generate().unwrap().to_pem().expose().to_owned(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    /// Settings of the box.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::new(
            "example".into(),
            self.state.path().to_owned(),
            self.ca.certificate_pem(),
            self.signer.verifier().to_pem(),
            DeviceKey::from_pem(&self.device_pem).unwrap(),
            MacAddress([2, 0, 0, 0, 0, 1]),
        );
        settings.clock = Arc::new(|| NOW_S);
        settings
    }

    /// A server at this address (port 0: any), which does what it should until told otherwise.
    pub(crate) async fn serve(&self, role: Role, address: SocketAddr) -> Fake {
        let (certificate, key) = self.ca.issue(&[role], "test").unwrap();
        let ca = self.ca.certificate_pem();
        let config = server_config(&ca, &certificate, key.expose()).unwrap();
        let acceptor = Acceptor::new(config, FleetRoots::from_pem(&ca).unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let signer = TicketSigner::from_pem(self.signer.to_pem().expose()).unwrap();
        let mut fake = Fake {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State::default())),
            signer: Arc::new(signer),
            acceptor,
            task: None,
        };
        fake.listen(listener);
        fake
    }
}

/// What a fake does from now on, also on the connections it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// What it should.
    #[default]
    Well,
    /// Nothing at all: a dead line. TCP connects, as the test's kernel does that.
    Frozen,
    /// Pongs, and never answers anything else.
    Deaf,
    Busy,
    Denied(DeniedReason),
    /// Proxies.
    Refuse(RefusedReason),
    /// Proxies: hears, and then breaks off.
    BreakAfterOpening,
    /// Proxies: hears, and then says nothing more.
    HangAfterOpening,
    /// Proxies: nothing but pongs that nobody asked for.
    Pongs,
    /// Proxies: hears, and then its line is dead.
    FreezeAfterOpening,
    /// Closes each new connection in order, at once.
    Close,
    /// Closes one connection it has, in order; then it does well again.
    CloseOne,
    /// Authers: signs with another fleet's key.
    Forge,
    /// Authers: grants, for another box.
    OtherMac,
    /// Answers with what has no place there.
    Nonsense,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    proxies: Vec<SocketAddr>,
    leases: u64,
    log: Log,
}

/// What a fake has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) connections: usize,
    /// Connections that have ended.
    pub(crate) ended: usize,
    /// The `exclude` of each `Assign`.
    pub(crate) assigns: Vec<Vec<SocketAddr>>,
    pub(crate) byes: Vec<Bye>,
    /// The `address` of each `Client`.
    pub(crate) clients: Vec<SocketAddr>,
    pub(crate) opens: Vec<Open>,
    pub(crate) hellos: usize,
    /// What a box must not do: it fails the test.
    pub(crate) violations: Vec<String>,
    /// Messages from the box on the connection of the last `Open`, before its session's bytes.
    pub(crate) messages_of_last_open: usize,
}

/// One server.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    signer: Arc<TicketSigner>,
    acceptor: Acceptor,
    task: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn set(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
    }

    /// Managers: the proxy to name, and the alternates.
    pub(crate) fn names(&self, proxies: &[SocketAddr]) {
        self.state.lock().unwrap().proxies = proxies.to_vec();
    }

    pub(crate) fn log(&self) -> Log {
        self.state.lock().unwrap().log.clone()
    }

    /// The program is killed: connections break, new ones are refused.
    pub(crate) async fn kill(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.listen(listener);
    }

    fn listen(&mut self, listener: TcpListener) {
        let (state, signer) = (Arc::clone(&self.state), Arc::clone(&self.signer));
        let acceptor = self.acceptor.clone();
        self.task = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection =
                    Connection { state: Arc::clone(&state), signer: Arc::clone(&signer) };
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
                connections.spawn(async move {
                    connection.thaw().await;
                    let accepted = acceptor.accept(stream, Duration::from_secs(10)).await;
                    if let Ok(link) = accepted {
                        connection.state.lock().unwrap().log.connections += 1;
                        if connection.mode() == Mode::Close {
                            let _ = link.close().await;
                        } else {
                            connection.run(link).await;
                        }
                        state.lock().unwrap().log.ended += 1;
                    }
                });
            }
        }));
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.log().violations, [] as [String; 0]);
        }
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Connection {
    state: Arc<Mutex<State>>,
    signer: Arc<TicketSigner>,
}

impl Connection {
    fn mode(&self) -> Mode {
        self.state.lock().unwrap().mode
    }

    /// True once.
    fn closes_one(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let closes = state.mode == Mode::CloseOne;
        if closes {
            state.mode = Mode::Well;
        }
        closes
    }

    /// Returns once it is not frozen.
    async fn thaw(&self) {
        while self.mode() == Mode::Frozen {
            sleep(LOOK).await;
        }
    }

    async fn run(self, mut link: Link) {
        let mut messages = 0;
        let mut admitted = false;
        loop {
            self.thaw().await;
            if self.closes_one() {
                let _ = link.close().await;
                return;
            }
            let Ok(received) = tokio::time::timeout(LOOK, link.recv()).await else { continue };
            let Ok(message) = received else { return };
            // It may have been told to freeze while it waited.
            self.thaw().await;
            messages += 1;
            match message {
                Message::Hello(hello) => {
                    let Some(answer) = self.admit(hello.mac, link.peer()) else { continue };
                    link.send(&answer).await.unwrap();
                }
                Message::Assign(assign) => {
                    self.state.lock().unwrap().log.assigns.push(assign.exclude.clone());
                    let Some(answer) = self.assign(&assign.exclude) else { continue };
                    admitted |= matches!(answer, Message::Use(_) | Message::Busy(_));
                    if link.send(&answer).await.is_err() {
                        return;
                    }
                }
                Message::Bye(bye) if admitted => self.state.lock().unwrap().log.byes.push(bye),
                Message::Client(client) => {
                    self.state.lock().unwrap().log.clients.push(client.address);
                }
                Message::Open(open) => {
                    {
                        let mut state = self.state.lock().unwrap();
                        state.log.opens.push(open);
                        state.log.messages_of_last_open = messages;
                    }
                    if let Some(link) = self.open(link).await {
                        echo(link, self).await;
                    }
                    return;
                }
                other => {
                    let violation = format!("a box sent {other:?}");
                    self.state.lock().unwrap().log.violations.push(violation);
                    return;
                }
            }
        }
    }

    fn admit(&self, mac: MacAddress, peer: &Peer) -> Option<Message> {
        self.state.lock().unwrap().log.hellos += 1;
        let Peer::Device(key) = peer else { panic!("a box, not {peer:?}") };
        match self.mode() {
            Mode::Well => {
                let ticket = Ticket::new(mac, *key, NOW_S, 100);
                Some(Message::Ticket(self.signer.sign(&ticket).unwrap()))
            }
            Mode::Forge => {
                let ticket = Ticket::new(mac, *key, NOW_S, 100);
                let signer = TicketSigner::generate().unwrap();
                Some(Message::Ticket(signer.sign(&ticket).unwrap()))
            }
            Mode::OtherMac => {
                let ticket = Ticket::new(MacAddress([9; 6]), *key, NOW_S, 100);
                Some(Message::Ticket(self.signer.sign(&ticket).unwrap()))
            }
            Mode::Denied(reason) => Some(Message::Denied(Denied { reason })),
            Mode::Nonsense => Some(Message::Opening),
            _ => None,
        }
    }

    fn assign(&self, exclude: &[SocketAddr]) -> Option<Message> {
        let mut state = self.state.lock().unwrap();
        let busy = Message::Busy(Busy { retry_after_ms: 1000 });
        match state.mode {
            Mode::Well => {
                let mut free: Vec<_> = state.proxies.clone();
                free.retain(|proxy| !exclude.contains(proxy));
                let Some((proxy, alternates)) = free.split_first() else { return Some(busy) };
                state.leases += 1;
                let lease = LeaseId(state.leases);
                Some(Message::Use(Use { lease, proxy: *proxy, alternates: alternates.to_vec() }))
            }
            Mode::Busy => Some(busy),
            Mode::Denied(reason) => Some(Message::Denied(Denied { reason })),
            Mode::Nonsense => Some(Message::Opening),
            _ => None,
        }
    }

    /// Gives the link back if the session is open.
    async fn open(&self, mut link: Link) -> Option<Link> {
        let mode = self.mode();
        let first = match mode {
            Mode::Denied(reason) => Message::Denied(Denied { reason }),
            Mode::Nonsense => Message::Fin,
            _ => Message::Opening,
        };
        if mode == Mode::Deaf {
            let _ = link.recv().await;
            return None;
        }
        if mode == Mode::Pongs {
            for number in 0..100 {
                let _ = link.send(&Message::Pong(number)).await;
            }
            let _ = link.recv().await;
            return None;
        }
        link.send(&first).await.unwrap();
        match mode {
            Mode::Refuse(reason) => {
                link.send(&Message::Refused(Refused { reason })).await.unwrap();
            }
            Mode::Well => {
                link.send(&Message::Opened(Opened { connect_ms: 1 })).await.unwrap();
                return Some(link);
            }
            Mode::BreakAfterOpening => return None,
            Mode::FreezeAfterOpening => std::future::pending().await,
            _ => {}
        }
        // The box ends it.
        let _ = link.recv().await;
        None
    }
}

/// The mail server behind a fake proxy says everything back.
async fn echo(link: Link, connection: Connection) {
    let mut stream = link.into_session();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => stream.write_all(&buffer[..length]).await.unwrap(),
            Err(_) => return,
        }
    }
    let _ = stream.shutdown().await;
    if let Some(bye) = stream.recv_bye().await {
        connection.state.lock().unwrap().log.byes.push(bye);
    }
}

/// DNS, one auther, and sites of one manager and two proxies each, with a box's settings to match.
pub(crate) struct Lab {
    pub(crate) fleet: Fleet,
    pub(crate) dns: FakeDns,
    pub(crate) auther: Fake,
    pub(crate) managers: Vec<Fake>,
    /// Two for each manager.
    pub(crate) proxies: Vec<Fake>,
    pub(crate) manager_port: u16,
}

impl Lab {
    /// Site `n` is at 127.0.`net`.`n+2`: each test has its own net, as all managers share a port.
    pub(crate) async fn new(sites: u8) -> Self {
        let fleet = Fleet::new();
        let dns = FakeDns::start().await;
        let auther = fleet.serve(Role::Auther, "127.0.0.1:0".parse().unwrap()).await;
        let mut lab =
            Self { fleet, dns, auther, managers: Vec::new(), proxies: Vec::new(), manager_port: 0 };
        for site in 0..sites {
            let ip = site_ip(site);
            let manager = lab.bind_manager(ip).await;
            lab.manager_port = manager.address.port();
            let proxies = [
                lab.fleet.serve(Role::Proxy, SocketAddr::new(ip, 0)).await,
                lab.fleet.serve(Role::Proxy, SocketAddr::new(ip, 0)).await,
            ];
            manager.names(&proxies.each_ref().map(|proxy| proxy.address));
            lab.managers.push(manager);
            lab.proxies.extend(proxies);
        }
        lab.list((0..sites).collect::<Vec<_>>().as_slice());
        lab.dns.set_name("auther.example", Reply::addresses(&[lab.auther.address.ip()], 60));
        lab
    }

    /// What DNS says of the managers.
    pub(crate) fn list(&self, sites: &[u8]) {
        let addresses: Vec<IpAddr> = sites.iter().map(|site| site_ip(*site)).collect();
        self.dns.set_name("manager.example", Reply::addresses(&addresses, 60));
    }

    /// Settings of a box, with one warm link and waits short enough for tests.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = self.fleet.settings();
        settings.resolvers = vec![self.dns.address];
        settings.manager_port = self.manager_port;
        settings.auther_port = self.auther.address.port();
        settings.warm_links = 1;
        let timing = &mut settings.timing;
        timing.probe_pause_min = Duration::from_millis(100);
        timing.probe_pause_max = Duration::from_millis(400);
        timing.refill_pause_min = Duration::from_millis(50);
        timing.refill_pause_max = Duration::from_millis(200);
        timing.login_pause_min = Duration::from_millis(100);
        timing.dns_pause_min = Duration::from_millis(100);
        settings
    }

    async fn bind_manager(&self, ip: IpAddr) -> Fake {
        // The first takes any port; should another test's socket hold it on a later address, wait.
        let address = SocketAddr::new(ip, self.manager_port);
        loop {
            if let Ok(probe) = TcpListener::bind(address).await {
                let address = probe.local_addr().unwrap();
                drop(probe);
                return self.fleet.serve(Role::Manager, address).await;
            }
            sleep(LOOK).await;
        }
    }
}

fn site_ip(site: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, site + 2])
}
