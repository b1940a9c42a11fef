//! A whole manager on loopback: real TLS, boxes with tickets, proxies that are played.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use link::{Acceptor, Link, LinkError};
use manager::counters::Counters;
use manager::fleet::Selection;
use manager::health::HealthSettings;
use manager::table::Table;
use manager::{Manager, Settings, Timing};
use service_kit::metrics::Counter;
use service_kit::{DrainTrigger, Served, Tls, host};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use wire::identity::{
    DeviceKey, FleetCa, FleetRoots, Role, device_client_config, server_client_config, server_config,
};
use wire::ticket::{KeyFingerprint, SignedTicket, Ticket, TicketSigner};
use wire::{Assign, Bye, DeniedReason, Hello, LeaseId, Load, MacAddress, Message, SessionId, Use};

const PATIENCE: Duration = Duration::from_secs(30);
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

struct Fleet {
    ca: FleetCa,
    signer: TicketSigner,
}

impl Fleet {
    fn new() -> Self {
        Self { ca: FleetCa::create().unwrap(), signer: TicketSigner::generate().unwrap() }
    }

    fn tls(&self, role: Role) -> Tls {
        let ca = self.ca.certificate_pem();
        let (certificate, key) = self.ca.issue(&[role], "tokyo-1").unwrap();
        Tls {
            server: server_config(&ca, &certificate, key.expose()).unwrap(),
            client: server_client_config(&ca, &certificate, key.expose()).unwrap(),
            roots: FleetRoots::from_pem(&ca).unwrap(),
            key_file: None,
        }
    }

    fn ticket(&self, key: KeyFingerprint, since_s: u64) -> SignedTicket {
        self.signer.sign(&Ticket::new(MAC, key, since_s, 100)).unwrap()
    }
}

/// A proxy that answers polls as it is told to.
#[derive(Clone)]
struct PlayedProxy {
    local: SocketAddr,
    load_average_milli: Arc<AtomicU32>,
    silent: Arc<AtomicBool>,
    polls: Counter,
    task: Arc<JoinHandle<()>>,
}

impl PlayedProxy {
    async fn start(fleet: &Fleet) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let tls = fleet.tls(Role::Proxy);
        let load_average_milli = Arc::new(AtomicU32::new(0));
        let silent = Arc::new(AtomicBool::new(false));
        let polls = Counter::default();
        let acceptor = Acceptor::new(tls.server, tls.roots);
        let (load, quiet, count) = (load_average_milli.clone(), silent.clone(), polls.clone());
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
                        sessions: 0,
                        draining: false,
                    };
                    if link.send(&Message::Load(load)).await.is_err() {
                        break;
                    }
                }
            }
        });
        Self { local, load_average_milli, silent, polls, task: Arc::new(task) }
    }

    fn set_load(&self, milli: u32) {
        self.load_average_milli.store(milli, Ordering::Relaxed);
    }
}

struct Lab {
    fleet: Fleet,
    proxies: Vec<PlayedProxy>,
    address: SocketAddr,
    counters: Arc<Counters>,
    trigger: DrainTrigger,
    task: JoinHandle<Served>,
}

fn public(index: usize) -> SocketAddr {
    format!("203.0.113.{}:4652", index + 1).parse().unwrap()
}

impl Lab {
    async fn new(proxy_count: usize) -> Self {
        Self::with_timing(proxy_count, Timing::default()).await
    }

    async fn with_timing(proxy_count: usize, timing: Timing) -> Self {
        let fleet = Fleet::new();
        let mut proxies = Vec::new();
        for _ in 0..proxy_count {
            proxies.push(PlayedProxy::start(&fleet).await);
        }
        let locals: Vec<String> = proxies.iter().map(|proxy| proxy.local.to_string()).collect();
        let pairs: BTreeMap<String, String> = locals
            .iter()
            .enumerate()
            .map(|(index, local)| (local.clone(), public(index).to_string()))
            .collect();
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: fleet.tls(Role::Manager),
            tickets: fleet.signer.verifier(),
            table: Table::parse(&locals.join(","), &pairs).unwrap(),
            selection: Selection::LeastLoad,
            health: HealthSettings {
                load_average_max_milli: 8_000,
                load_average_recover_milli: 6_000,
                recover_polls: 3,
            },
            poll_interval: Duration::from_millis(5),
            poll_timeout: Duration::from_millis(500),
            connections_max: 64,
            drain_max: PATIENCE,
            timing,
            log: telemetry::Format::Text,
        };
        let manager = Manager::bind(settings, host::unix_now_s).await.unwrap();
        let address = manager.address().unwrap();
        let counters = manager.counters();
        let (trigger, drain) = DrainTrigger::new();
        let task = tokio::spawn(manager.run(drain));
        Self { fleet, proxies, address, counters, trigger, task }
    }

    async fn link(&self, key: &DeviceKey) -> Link {
        let tls = device_client_config(&self.fleet.ca.certificate_pem(), key).unwrap();
        link::connect(self.address, Role::Manager, tls, PATIENCE).await.unwrap()
    }

    async fn admitted(&self) -> PlayedBox {
        let key = DeviceKey::generate().unwrap();
        let ticket = self.fleet.ticket(key.fingerprint(), host::unix_now_s());
        PlayedBox { link: self.link(&key).await, ticket }
    }
}

struct PlayedBox {
    link: Link,
    ticket: SignedTicket,
}

impl PlayedBox {
    async fn ask(&mut self, exclude: &[SocketAddr]) -> Message {
        let assign = Assign { ticket: self.ticket.clone(), exclude: exclude.to_vec() };
        self.link.send(&Message::Assign(assign)).await.unwrap();
        recv(&mut self.link).await.unwrap()
    }

    /// Asks until the answer is as wanted; fails after [`PATIENCE`].
    async fn ask_until(&mut self, wanted: impl Fn(&Message) -> bool) -> Message {
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

async fn recv(link: &mut Link) -> Result<Message, LinkError> {
    tokio::time::timeout(PATIENCE, link.recv()).await.expect("no word from the manager")
}

/// The proxies named, chosen first.
fn named(message: &Message) -> Vec<SocketAddr> {
    match message {
        Message::Use(Use { proxy, alternates, .. }) => {
            std::iter::once(*proxy).chain(alternates.iter().copied()).collect()
        }
        Message::Busy(_) => Vec::new(),
        other => panic!("{other:?}"),
    }
}

fn lease(message: &Message) -> LeaseId {
    let Message::Use(Use { lease, .. }) = message else { panic!("{message:?}") };
    *lease
}

fn bye(lease: LeaseId, bytes_up: u64) -> Message {
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
async fn wait_for(counter: &Counter, value: u64) {
    let waiting = async {
        while counter.get() < value {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the counter never came to its value");
}

#[tokio::test]
async fn boxes_are_named_proxies_and_many_questions_go_over_one_link() {
    let lab = Lab::new(2).await;
    let mut one = lab.admitted().await;
    let answer = one.ask_until(|answer| named(answer).len() == 2).await;
    assert_eq!(named(&one.ask(&[named(&answer)[0]]).await), [named(&answer)[1]]);
    assert!(named(&one.ask(&[public(0), public(1)]).await).is_empty());

    // Sessions end, some of them unused; one is ended twice.
    let first = one.ask(&[]).await;
    one.link.send(&bye(lease(&first), 1_000)).await.unwrap();
    one.link.send(&bye(lease(&first), 0)).await.unwrap();
    wait_for(&lab.counters.byes, 2).await;
    assert_eq!(lab.counters.late.get(), 1);
    assert_eq!(lab.counters.unused.get(), 1);
    assert_eq!(lab.counters.bytes.get(), 1_000);

    // A ping is answered between the questions.
    one.link.send(&Message::Ping(7)).await.unwrap();
    assert_eq!(recv(&mut one.link).await.unwrap(), Message::Pong(7));
}

#[tokio::test]
async fn wrong_tickets_are_denied_and_a_good_one_then_works() {
    let lab = Lab::new(1).await;
    let key = DeviceKey::generate().unwrap();
    let now_s = host::unix_now_s();
    let good = lab.fleet.ticket(key.fingerprint(), now_s);
    let other = DeviceKey::generate().unwrap();
    let mut tampered = good.clone();
    tampered.ticket[0] ^= 1;
    let mut played = PlayedBox { link: lab.link(&key).await, ticket: good.clone() };
    for (ticket, reason) in [
        (lab.fleet.ticket(key.fingerprint(), now_s - 48 * 3600), DeniedReason::TicketExpired),
        (lab.fleet.ticket(key.fingerprint(), now_s + 48 * 3600), DeniedReason::TicketExpired),
        (lab.fleet.ticket(other.fingerprint(), now_s), DeniedReason::TicketOtherKey),
        (Fleet::new().ticket(key.fingerprint(), now_s), DeniedReason::TicketForged),
        (tampered, DeniedReason::TicketForged),
    ] {
        played.ticket = ticket;
        match played.ask(&[]).await {
            Message::Denied(denied) => assert_eq!(denied.reason, reason),
            message => panic!("{message:?}"),
        }
    }
    played.ticket = good;
    played.ask_until(|answer| named(answer) == [public(0)]).await;
    assert_eq!(lab.counters.denied.get(), 5);
}

#[tokio::test]
async fn overloaded_silent_and_dead_proxies_are_not_named_until_they_are_well() {
    let lab = Lab::new(2).await;
    let mut one = lab.admitted().await;
    one.ask_until(|answer| named(answer).len() == 2).await;

    lab.proxies[0].set_load(8_001);
    one.ask_until(|answer| named(answer) == [public(1)]).await;
    // Between the limits it stays marked: many polls later it is still not named.
    lab.proxies[0].set_load(7_000);
    wait_for(&lab.proxies[0].polls, lab.proxies[0].polls.get() + 10).await;
    assert_eq!(named(&one.ask(&[]).await), [public(1)]);
    lab.proxies[0].set_load(1_000);
    one.ask_until(|answer| named(answer).len() == 2).await;

    lab.proxies[1].silent.store(true, Ordering::Relaxed);
    one.ask_until(|answer| named(answer) == [public(0)]).await;
    lab.proxies[1].silent.store(false, Ordering::Relaxed);
    one.ask_until(|answer| named(answer).len() == 2).await;

    for proxy in &lab.proxies {
        proxy.task.abort();
    }
    let answer = one.ask_until(|answer| named(answer).is_empty()).await;
    let Message::Busy(busy) = answer else { panic!("{answer:?}") };
    assert!(busy.retry_after_ms > 0);
}

#[tokio::test]
async fn rubbish_ends_its_own_connection_and_nothing_else() {
    let lab = Lab::new(1).await;
    let mut good = lab.admitted().await;
    good.ask_until(|answer| !named(answer).is_empty()).await;

    // No TLS at all.
    let mut raw = TcpStream::connect(lab.address).await.unwrap();
    raw.write_all(b"EHLO there\r\n").await.unwrap();
    let _ = raw.read_to_end(&mut Vec::new()).await;
    wait_for(&lab.counters.connections.handshakes_failed, 1).await;

    // A box that says what it should not, before and after its ticket.
    let hello = Message::Hello(Hello { mac: MAC, software: "x".to_owned() });
    let mut strange = lab.admitted().await;
    strange.link.send(&hello).await.unwrap();
    assert!(recv(&mut strange.link).await.is_err());
    let mut strange = lab.admitted().await;
    strange.link.send(&bye(LeaseId(1), 0)).await.unwrap();
    assert!(recv(&mut strange.link).await.is_err(), "no bye without a ticket");
    let mut strange = lab.admitted().await;
    strange.ask(&[]).await;
    strange.link.send(&hello).await.unwrap();
    assert!(recv(&mut strange.link).await.is_err());

    // A server of the fleet is no box.
    let tls = lab.fleet.tls(Role::Proxy);
    let mut server = link::connect(lab.address, Role::Manager, tls.client, PATIENCE).await.unwrap();
    assert!(recv(&mut server).await.is_err());

    wait_for(&lab.counters.misbehaved, 4).await;
    assert!(!named(&good.ask(&[]).await).is_empty());
    assert_eq!(lab.counters.connections.panics.get(), 0);
}

#[tokio::test]
async fn a_drain_closes_links_in_order_and_ends() {
    let lab = Lab::new(1).await;
    let mut one = lab.admitted().await;
    one.ask_until(|answer| !named(answer).is_empty()).await;
    lab.trigger.drain();
    assert!(matches!(recv(&mut one.link).await, Err(LinkError::Closed)));
    assert_eq!(lab.task.await.unwrap(), Served { cut_off: 0 });
    assert!(TcpStream::connect(lab.address).await.is_err());
}

#[tokio::test]
async fn without_a_good_ticket_a_link_does_not_stay() {
    let short = Duration::from_millis(50);
    let lab = Lab::with_timing(1, Timing { admission_max: short, ..Timing::default() }).await;
    let key = DeviceKey::generate().unwrap();
    let mut silent = lab.link(&key).await;
    assert!(matches!(recv(&mut silent).await, Err(LinkError::Closed)));
    // A wrong one buys no time.
    let mut denied = PlayedBox {
        link: lab.link(&key).await,
        ticket: Fleet::new().ticket(key.fingerprint(), host::unix_now_s()),
    };
    let denials = async {
        loop {
            let assign = Assign { ticket: denied.ticket.clone(), exclude: Vec::new() };
            if denied.link.send(&Message::Assign(assign)).await.is_err()
                || denied.link.recv().await.is_err()
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, denials).await.expect("a wrong ticket keeps the link open");
    wait_for(&lab.counters.misbehaved, 2).await;
}

#[tokio::test]
async fn an_admitted_box_that_asks_nothing_is_closed_in_order() {
    let short = Duration::from_millis(50);
    let lab = Lab::with_timing(1, Timing { idle_max: short, ..Timing::default() }).await;
    let mut one = lab.admitted().await;
    one.ask(&[]).await;
    assert!(matches!(recv(&mut one.link).await, Err(LinkError::Closed)));
    assert_eq!(lab.counters.misbehaved.get(), 0);
}
