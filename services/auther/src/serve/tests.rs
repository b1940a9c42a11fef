//! The real server on a free port, with real TLS and a registry in a temporary directory.

use std::path::PathBuf;

use service_kit::http::StatusSettings;
use service_kit::revocations::{Fetched, fetch};
use service_kit::{DrainTrigger, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use wire::MacAddress;
use wire::identity::{DeviceKey, Role, device_client_config, server_client_config};
use wire::revocation::RevokedReason;
use wire::ticket::{TICKET_LIFE_S, TicketVerifier};

use super::*;
use crate::change::{Command, NewDevice};
use crate::fleet::{CA_CERTIFICATE, TICKET_KEY, TICKET_PUBLIC_KEY, init, issue};
use crate::registry::{Actor, Changes, Mode};

mod replication;

const NOW_S: u64 = 1_800_000_000;
const WINDOW_S: u64 = 72 * 3600;
const TIMEOUT: Duration = Duration::from_secs(20);
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

/// The fleet's files.
struct Fleet {
    directory: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        init(at).unwrap();
        issue(at, &[Role::Auther], "auther-1", at).unwrap();
        issue(at, &[Role::Proxy], "proxy-1", at).unwrap();
        Self { directory }
    }

    fn ready(&self, registry: Registry) -> Ready {
        let file = |name: &str| self.file(name);
        let tls = Tls::load(&file(CA_CERTIFICATE), &file("auther-1.crt"), &file("auther-1.key"));
        Ready {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: tls.unwrap(),
            signer: TicketSigner::from_pem(&self.read(TICKET_KEY)).unwrap(),
            registry,
            enrolment_window_s: WINDOW_S,
            connections_max: 16,
            admin: None,
            socket: None,
            status: None,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    fn server_config(&self) -> Arc<rustls::ClientConfig> {
        let (ca, certificate) = (self.read(CA_CERTIFICATE), self.read("proxy-1.crt"));
        server_client_config(&ca, &certificate, &self.read("proxy-1.key")).unwrap()
    }

    fn verifier(&self) -> TicketVerifier {
        TicketVerifier::from_pem(&self.read(TICKET_PUBLIC_KEY)).unwrap()
    }
}

/// A running auther.
struct Scene {
    fleet: Arc<Fleet>,
    address: SocketAddr,
    registry: Registry,
    counters: Arc<Counters>,
    status: Option<SocketAddr>,
    trigger: DrainTrigger,
    server: JoinHandle<()>,
}

impl Scene {
    async fn new() -> Self {
        let fleet = Fleet::new();
        let registry = Registry::create(&fleet.file("registry.sqlite")).unwrap();
        Self::over(Arc::new(fleet), registry).await
    }

    async fn over(fleet: Arc<Fleet>, registry: Registry) -> Self {
        let ready = fleet.ready(registry.clone());
        Self::with(fleet, ready).await
    }

    async fn with(fleet: Arc<Fleet>, ready: Ready) -> Self {
        let registry = ready.registry.clone();
        let auther = Auther::bind(ready, || NOW_S).await.unwrap();
        let address = auther.local_address().unwrap();
        let (counters, status) = (auther.counters(), auther.status_address());
        let (trigger, drain) = DrainTrigger::new();
        let server = tokio::spawn(auther.serve(drain));
        Self { fleet, address, registry, counters, status, trigger, server }
    }

    async fn change(&self, mac: MacAddress, command: Command, now_s: u64) {
        let (actor, commands) = (Actor::token("ops"), vec![(mac, command)]);
        let changes = Changes { actor, now_s, commands, mode: Mode::Commit };
        self.registry.apply(changes).await.unwrap();
    }

    async fn add(&self, added_s: u64) {
        self.change(MAC, Command::Add(NewDevice::default()), added_s).await;
    }

    async fn connect(&self, key: &DeviceKey) -> Link {
        let config = device_client_config(&self.fleet.read(CA_CERTIFICATE), key).unwrap();
        link::connect(self.address, Role::Auther, config, TIMEOUT).await.unwrap()
    }

    async fn login_as(&self, mac: MacAddress, key: &DeviceKey) -> Message {
        let mut link = self.connect(key).await;
        let hello = Hello { mac, software: "avr 0.1".to_owned() };
        link.send(&Message::Hello(hello)).await.unwrap();
        let answer = link.recv().await.unwrap();
        assert!(link.recv().await.unwrap_err().is_closed());
        answer
    }

    /// What the login is denied for.
    async fn denied(&self, key: &DeviceKey) -> DeniedReason {
        self.denied_as(MAC, key).await
    }

    async fn denied_as(&self, mac: MacAddress, key: &DeviceKey) -> DeniedReason {
        match self.login_as(mac, key).await {
            Message::Denied(Denied { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn ticket(&self, key: &DeviceKey) -> Ticket {
        self.ticket_as(MAC, key).await
    }

    async fn ticket_as(&self, mac: MacAddress, key: &DeviceKey) -> Ticket {
        let answer = self.login_as(mac, key).await;
        let Message::Ticket(signed) = answer else { panic!("{answer:?}") };
        self.fleet.verifier().verify(&signed, NOW_S, &key.fingerprint()).unwrap()
    }

    async fn fetch(&self, after: u64) -> Fetched {
        let (tls, verifier) = (self.fleet.server_config(), self.fleet.verifier());
        fetch(self.address, tls, &verifier, after, || NOW_S).await.unwrap()
    }

    /// What the status port has at this path.
    async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.status.unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }

    fn count(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        counter(&self.counters).get()
    }

    /// Lets the server end in order, so that all is counted.
    async fn drain(&mut self) {
        self.trigger.drain();
        (&mut self.server).await.unwrap();
    }
}

#[tokio::test]
async fn a_box_enrols_and_comes_back_and_another_key_does_not() {
    let mut scene = Scene::new().await;
    scene.add(NOW_S - WINDOW_S).await;
    let (key, thief) = (DeviceKey::generate().unwrap(), DeviceKey::generate().unwrap());
    for _ in 0..2 {
        let ticket = scene.ticket(&key).await;
        assert_eq!((ticket.mac, ticket.key), (MAC, key.fingerprint()));
        assert_eq!(ticket.not_after_s, NOW_S + TICKET_LIFE_S);
        assert_eq!(ticket.sessions_max, crate::device::SESSIONS_MAX_DEFAULT);
    }
    assert_eq!(scene.denied(&thief).await, DeniedReason::OtherKey);
    let device = scene.registry.find(MAC).await.unwrap().unwrap();
    assert_eq!(device.key, Some(key.fingerprint()));
    assert_eq!(device.software.as_deref(), Some("avr 0.1"));
    assert_eq!(device.other_key_logins, 1);
    scene.drain().await;
    assert_eq!(scene.count(|counters| &counters.admitted), 2);
    assert_eq!(scene.count(|counters| &counters.enrolled), 1);
    assert_eq!(scene.counters.refused_for(DeniedReason::OtherKey).get(), 1);
    assert_eq!(scene.count(|counters| &counters.broken), 0);
}

#[tokio::test]
async fn who_is_not_to_be_admitted_is_told_why() {
    let mut scene = Scene::new().await;
    let key = DeviceKey::generate().unwrap();
    assert_eq!(scene.denied(&key).await, DeniedReason::Unknown);
    scene.add(NOW_S - WINDOW_S - 1).await;
    assert_eq!(scene.denied(&key).await, DeniedReason::EnrolmentClosed);
    assert_eq!(scene.registry.find(MAC).await.unwrap().unwrap().key, None);
    // The operator's word counts while the server runs.
    scene.change(MAC, Command::Suspend, NOW_S).await;
    assert_eq!(scene.denied(&key).await, DeniedReason::Suspended);
    scene.change(MAC, Command::Remove, NOW_S).await;
    scene.add(NOW_S).await;
    scene.ticket(&key).await;
    scene.drain().await;
    assert_eq!(scene.counters.refused_for(DeniedReason::Unknown).get(), 1);
    assert_eq!(scene.counters.refused_for(DeniedReason::EnrolmentClosed).get(), 1);
    assert_eq!(scene.counters.refused_for(DeniedReason::Suspended).get(), 1);
}

#[tokio::test]
async fn a_suspension_voids_the_ticket_that_is_out() {
    let mut scene = Scene::new().await;
    scene.add(NOW_S).await;
    let key = DeviceKey::generate().unwrap();
    let ticket = scene.ticket(&key).await;
    let Fetched::List { list, .. } = scene.fetch(0).await else { panic!("no list") };
    assert_eq!(list.revoked(&ticket), None);
    assert_eq!(scene.fetch(list.number()).await, Fetched::Unchanged { made_s: NOW_S });
    scene.change(MAC, Command::Suspend, NOW_S).await;
    let Fetched::List { list, .. } = scene.fetch(list.number()).await else { panic!("no list") };
    assert_eq!(list.revoked(&ticket), Some(RevokedReason::Suspended));
    scene.change(MAC, Command::Resume, NOW_S).await;
    let Fetched::List { list, .. } = scene.fetch(list.number()).await else { panic!("no list") };
    assert!(list.is_empty());
    scene.drain().await;
    assert_eq!(scene.count(|counters| &counters.lists_sent), 4);
}

#[tokio::test]
async fn a_long_list_comes_in_parts() {
    let scene = Scene::new().await;
    let key = DeviceKey::generate().unwrap().fingerprint();
    let count = wire::revocation::REVOCATIONS_PART_MAX + 1;
    let mac = |number: usize| {
        let [.., high, low] = number.to_be_bytes();
        MacAddress([2, 0, 0, 0, high, low])
    };
    let suspended = NewDevice { suspended: true, key: Some(key), ..NewDevice::default() };
    let add = |number| (mac(number), Command::Add(suspended.clone()));
    let commands = (0..count).map(add).collect();
    let actor = Actor::token("ops");
    let changes = Changes { actor, now_s: NOW_S, commands, mode: Mode::Commit };
    scene.registry.apply(changes).await.unwrap();
    let Fetched::List { list, .. } = scene.fetch(0).await else { panic!("no list") };
    assert_eq!(list.len(), count);
}

#[tokio::test]
async fn a_registry_that_fails_is_unavailable_not_a_verdict() {
    let mut scene = Scene::new().await;
    scene.add(NOW_S).await;
    let other = rusqlite::Connection::open(scene.fleet.file("registry.sqlite")).unwrap();
    other.execute_batch("DROP TABLE device").unwrap();
    let key = DeviceKey::generate().unwrap();
    assert_eq!(scene.denied(&key).await, DeniedReason::Unavailable);
    scene.drain().await;
    assert_eq!(scene.counters.refused_for(DeniedReason::Unavailable).get(), 1);
}

#[tokio::test]
async fn the_status_port_shows_what_was_refused_and_why() {
    let fleet = Arc::new(Fleet::new());
    let file = fleet.file("registry.sqlite");
    let status = || Some(StatusSettings::on_loopback(0));
    let ready = Ready { status: status(), ..fleet.ready(Registry::create(&file).unwrap()) };
    let scene = Scene::with(fleet.clone(), ready).await;
    let key = DeviceKey::generate().unwrap();
    assert_eq!(scene.denied(&key).await, DeniedReason::Unknown);
    scene.add(NOW_S).await;
    scene.ticket(&key).await;
    while !scene.page("/readyz").await.starts_with("HTTP/1.0 200 OK") {
        tokio::task::yield_now().await;
    }
    let page = scene.page("/metrics").await;
    for line in [
        "avr_auther_admitted_total 1",
        "avr_auther_denied_total 1",
        "avr_auther_refusals_total{reason=\"unknown\"} 1",
        "avr_auther_refusals_total{reason=\"other-key\"} 0",
        "avr_auther_connections_accepted_total 2",
        "avr_auther_admin_unauthorised_total 0",
        "avr_auther_registry_up 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    // What the dashboard and the alert rules name is among it.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring");
    let mut named = 0;
    for file in ["dashboard.json", "alerts.yml"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for name in words.filter(|word| word.starts_with("avr_auther_")) {
            assert!(page.contains(&format!("\n{name}")), "{name} of {file}");
            named += 1;
        }
    }
    assert!(named >= 4, "{named}");

    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("DROP TABLE device").unwrap();
    let ready = Ready { status: status(), ..fleet.ready(Registry::open(&file).unwrap()) };
    let scene = Scene::with(fleet, ready).await;
    while !scene.page("/readyz").await.ends_with("the registry cannot be read\n") {
        tokio::task::yield_now().await;
    }
    assert!(scene.page("/readyz").await.starts_with("HTTP/1.0 503 "));
    assert!(scene.page("/healthz").await.starts_with("HTTP/1.0 200 OK"));
}

#[tokio::test]
async fn rubbish_of_every_kind_ends_its_own_connection_only() {
    let mut scene = Scene::new().await;
    scene.add(NOW_S).await;
    let key = DeviceKey::generate().unwrap();

    let mut plain = TcpStream::connect(scene.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // An alert and the end, or a reset; never an answer.
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP"));

    let mut wrong = scene.connect(&key).await;
    wrong.send(&Message::Ping(1)).await.unwrap();
    wrong.send(&Message::Fin).await.unwrap();
    while wrong.recv().await.is_ok() {}

    // A box asks for no list, and a server for no ticket.
    let mut nosy = scene.connect(&key).await;
    nosy.send(&Message::Fetch(Fetch { after: 0 })).await.unwrap();
    assert!(nosy.recv().await.unwrap_err().is_closed());
    let config = scene.fleet.server_config();
    let mut server = link::connect(scene.address, Role::Auther, config, TIMEOUT).await.unwrap();
    let hello = Hello { mac: MAC, software: String::new() };
    server.send(&Message::Hello(hello)).await.unwrap();
    assert!(server.recv().await.unwrap_err().is_closed());

    scene.ticket(&key).await;
    scene.drain().await;
    assert_eq!(scene.count(|counters| &counters.broken), 3);
    assert_eq!(scene.count(|counters| &counters.admitted), 1);
}

#[tokio::test]
async fn a_box_that_says_nothing_is_given_up() {
    let mut scene = Scene::new().await;
    let key = DeviceKey::generate().unwrap();
    let mut silent = scene.connect(&key).await;
    // The handshake is over on both sides when the server answers a ping.
    silent.send(&Message::Ping(7)).await.unwrap();
    assert_eq!(silent.recv().await.unwrap(), Message::Pong(7));
    tokio::time::pause();
    assert!(silent.recv().await.unwrap_err().is_closed());
    tokio::time::resume();
    scene.drain().await;
    assert_eq!(scene.count(|counters| &counters.broken), 1);
}
