//! The real server on a free port, with real TLS and a registry in a temporary directory.

use std::path::PathBuf;

use service_kit::{DrainTrigger, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use wire::MacAddress;
use wire::identity::{DeviceKey, Role, device_client_config, server_client_config};
use wire::ticket::{TICKET_LIFE_S, TicketVerifier};

use super::*;
use crate::fleet::{CA_CERTIFICATE, TICKET_KEY, TICKET_PUBLIC_KEY, init, issue};
use crate::registry::Device;

const NOW_S: u64 = 1_800_000_000;
const WINDOW_S: u64 = 72 * 3600;
const TIMEOUT: Duration = Duration::from_secs(20);
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

struct Scene {
    directory: tempfile::TempDir,
    address: SocketAddr,
    operator: Registry,
    counters: Arc<Counters>,
    trigger: DrainTrigger,
    server: JoinHandle<()>,
}

impl Scene {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        init(at).unwrap();
        issue(at, &[Role::Auther], "auther-1", at).unwrap();
        let file = |name: &str| at.join(name);
        let tls = Tls::load(&file(CA_CERTIFICATE), &file("auther-1.crt"), &file("auther-1.key"));
        let signer = std::fs::read_to_string(file(TICKET_KEY)).unwrap();
        let ready = Ready {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: tls.unwrap(),
            signer: TicketSigner::from_pem(&signer).unwrap(),
            registry: Registry::create(&file("registry.sqlite")).unwrap(),
            enrolment_window_s: WINDOW_S,
            connections_max: 16,
        };
        let operator = Registry::open(&file("registry.sqlite")).unwrap();
        let auther = Auther::bind(ready, || NOW_S).await.unwrap();
        let address = auther.local_address().unwrap();
        let counters = auther.counters();
        let (trigger, drain) = DrainTrigger::new();
        let server = tokio::spawn(auther.serve(drain));
        Self { directory, address, operator, counters, trigger, server }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    fn add(&mut self, added_s: u64) {
        self.operator.add(&Device::new(MAC, added_s)).unwrap();
    }

    async fn connect(&self, key: &DeviceKey) -> Link {
        let config = device_client_config(&self.read(CA_CERTIFICATE), key).unwrap();
        link::connect(self.address, Role::Auther, config, TIMEOUT).await.unwrap()
    }

    async fn login(&self, key: &DeviceKey) -> Message {
        let mut link = self.connect(key).await;
        let hello = Hello { mac: MAC, software: "avr 0.1".to_owned() };
        link.send(&Message::Hello(hello)).await.unwrap();
        let answer = link.recv().await.unwrap();
        assert!(link.recv().await.unwrap_err().is_closed());
        answer
    }

    /// What the login is denied for.
    async fn denied(&self, key: &DeviceKey) -> DeniedReason {
        match self.login(key).await {
            Message::Denied(Denied { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn ticket(&self, key: &DeviceKey) -> Ticket {
        let Message::Ticket(signed) = self.login(key).await else { panic!("no ticket") };
        let verifier = TicketVerifier::from_pem(&self.read(TICKET_PUBLIC_KEY)).unwrap();
        verifier.verify(&signed, NOW_S, &key.fingerprint()).unwrap()
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(&self.counters).load(Ordering::Relaxed)
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
    scene.add(NOW_S - WINDOW_S);
    let (key, thief) = (DeviceKey::generate().unwrap(), DeviceKey::generate().unwrap());
    for _ in 0..2 {
        let ticket = scene.ticket(&key).await;
        assert_eq!((ticket.mac, ticket.key), (MAC, key.fingerprint()));
        assert_eq!(ticket.not_after_s, NOW_S + TICKET_LIFE_S);
        assert_eq!(ticket.sessions_max, crate::registry::SESSIONS_MAX_DEFAULT);
    }
    assert_eq!(scene.denied(&thief).await, DeniedReason::OtherKey);
    let device = scene.operator.find(MAC).unwrap().unwrap();
    assert_eq!(device.key, Some(key.fingerprint()));
    assert_eq!(device.software.as_deref(), Some("avr 0.1"));
    assert_eq!(device.other_key_logins, 1);
    scene.drain().await;
    assert_eq!(scene.count(|counters| &counters.admitted), 2);
    assert_eq!(scene.count(|counters| &counters.enrolled), 1);
    assert_eq!(scene.count(|counters| &counters.denied_other_key), 1);
    assert_eq!(scene.count(|counters| &counters.broken), 0);
}

#[tokio::test]
async fn who_is_not_to_be_admitted_is_told_why() {
    let mut scene = Scene::new().await;
    let key = DeviceKey::generate().unwrap();
    assert_eq!(scene.denied(&key).await, DeniedReason::Unknown);
    scene.add(NOW_S - WINDOW_S - 1);
    assert_eq!(scene.denied(&key).await, DeniedReason::EnrolmentClosed);
    assert_eq!(scene.operator.find(MAC).unwrap().unwrap().key, None);
    // The operator's word counts while the server runs.
    scene.operator.set_suspended(MAC, true).unwrap();
    assert_eq!(scene.denied(&key).await, DeniedReason::Suspended);
    scene.operator.remove(MAC).unwrap();
    scene.add(NOW_S);
    scene.ticket(&key).await;
    scene.drain().await;
    assert_eq!(scene.count(|counters| &counters.denied), 3);
}

#[tokio::test]
async fn a_registry_that_fails_is_unavailable_not_a_verdict() {
    let mut scene = Scene::new().await;
    scene.add(NOW_S);
    std::fs::write(scene.file("other.sqlite"), "").unwrap();
    let other = rusqlite::Connection::open(scene.file("registry.sqlite")).unwrap();
    other.execute_batch("DROP TABLE device").unwrap();
    let key = DeviceKey::generate().unwrap();
    assert_eq!(scene.denied(&key).await, DeniedReason::Unavailable);
    scene.drain().await;
    assert_eq!(scene.count(|counters| &counters.unavailable), 1);
}

#[tokio::test]
async fn rubbish_of_every_kind_ends_its_own_connection_only() {
    let mut scene = Scene::new().await;
    scene.add(NOW_S);
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

    issue(scene.directory.path(), &[Role::Proxy], "proxy-1", scene.directory.path()).unwrap();
    let config = server_client_config(
        &scene.read(CA_CERTIFICATE),
        &scene.read("proxy-1.crt"),
        &scene.read("proxy-1.key"),
    );
    let mut server =
        link::connect(scene.address, Role::Auther, config.unwrap(), TIMEOUT).await.unwrap();
    assert!(server.recv().await.unwrap_err().is_closed());

    scene.ticket(&key).await;
    scene.drain().await;
    assert_eq!(scene.count(|counters| &counters.broken), 2);
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
