//! A whole proxy on loopback: real TLS, boxes and a manager that are played, a mail server too.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod announced;
mod kept;
mod lab;
mod operated;
mod pressure;

use std::time::Duration;

use lab::{CLEAN_MAIL, EICAR_MAIL, Lab, MailServer, PATIENCE, PlayedBox, recv};
use link::LinkError;
use proxy::counters::Counters;
use proxy::{OPENS_MAX, Timing, WARM_PER_NETWORK_MAX};
use service_kit::metrics::Counter;
use service_kit::{Served, host, listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use wire::identity::{DeviceKey, Role};
use wire::{DeniedReason, Load, Message, Poll, RefusedReason};

fn value(counter: &Counter) -> u64 {
    counter.get()
}

/// Waits until a counter has the value; fails after [`PATIENCE`].
async fn wait_for(counter: &Counter, wanted: u64) {
    let waiting = async {
        while value(counter) < wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the counter never came to its value");
}

#[tokio::test]
async fn a_clean_mail_crosses_byte_for_byte() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let mut session = lab.admitted().await.session(server.address).await;
    assert_eq!(session.send_mail(CLEAN_MAIL).await, "250 2.0.0 taken\r\n");
    session.quit().await;
    assert_eq!(server.mails(), [CLEAN_MAIL]);
    wait_for(&lab.counters.byes, 1).await;
    assert_eq!(value(&lab.counters.sessions), 1);
    assert_eq!(value(&lab.counters.messages), 1);
    assert_eq!(value(&lab.counters.infected), 0);
    assert_eq!(value(&lab.counters.resets), 0);
}

#[tokio::test]
async fn an_infected_mail_is_refused_by_name_and_never_reaches_the_server() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let mut session = lab.admitted().await.session(server.address).await;
    let reply = session.send_mail(EICAR_MAIL).await;
    assert!(reply.starts_with("554 5.7.1 "), "{reply}");
    assert!(reply.to_lowercase().contains("eicar"), "{reply}");
    drop(session);
    wait_for(&lab.counters.infected, 1).await;
    assert!(server.mails().is_empty());
}

#[tokio::test]
async fn with_scanning_off_bytes_pass_unread_and_are_counted_so() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |settings| settings.carrier.scanner = None).await;
    let mut session = lab.admitted().await.session(server.address).await;
    assert_eq!(session.send_mail(EICAR_MAIL).await, "250 2.0.0 taken\r\n");
    session.quit().await;
    wait_for(&lab.counters.unread, 1).await;
    assert_eq!(server.mails(), [EICAR_MAIL]);
    assert_eq!(value(&lab.counters.messages), 0);
}

#[tokio::test]
async fn wrong_tickets_open_nothing() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let key = DeviceKey::generate().unwrap();
    let other = DeviceKey::generate().unwrap().fingerprint();
    let now_s = host::unix_now_s();
    let mut tampered = lab.ticket(key.fingerprint(), now_s, 10);
    tampered.signature[7] ^= 1;
    for (ticket, wanted) in [
        (lab.ticket(key.fingerprint(), now_s - 48 * 3600, 10), DeniedReason::TicketExpired),
        (lab.ticket(other, now_s, 10), DeniedReason::TicketOtherKey),
        (tampered, DeniedReason::TicketForged),
    ] {
        let mut played = PlayedBox::new(lab.link(&key).await, ticket);
        match played.open(server.address, 1).await {
            Message::Denied(denied) => assert_eq!(denied.reason, wanted),
            message => panic!("{message:?}"),
        }
        assert!(recv(&mut played.link).await.is_err(), "the link is closed");
    }
    assert_eq!(value(&lab.counters.denied), 3);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn forbidden_destinations_and_loops_are_refused_and_the_link_stays_usable() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let mut played = lab.admitted().await;
    let port = server.address.port();
    for destination in [
        "127.0.0.1:22".parse().unwrap(),
        (std::net::Ipv4Addr::new(10, 0, 0, 1), port).into(),
        (std::net::Ipv4Addr::new(169, 254, 169, 254), port).into(),
        (std::net::Ipv6Addr::LOCALHOST, port).into(),
    ] {
        assert_eq!(played.refused(destination, 1).await, RefusedReason::Policy, "{destination}");
    }
    assert_eq!(played.refused(server.address, 0).await, RefusedReason::Loop);
    assert_eq!(server.connections(), 0);
    played.session(server.address).await.quit().await;
    assert_eq!(value(&lab.counters.forbidden), 4);
    assert_eq!(value(&lab.counters.loops), 1);
}

#[tokio::test]
async fn what_the_mail_server_does_is_told_to_the_box() {
    let server = MailServer::start().await;
    // A port that nobody listens on, and one whose queue of connections is full.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stuck = StuckServer::new().await;
    let lab = Lab::start(server.address, |settings| {
        settings.policy.mail_ports.extend([closed.port(), stuck.address.port()]);
        settings.connect_time_max = Duration::from_millis(200);
    })
    .await;
    let mut played = lab.admitted().await;
    let reason = played.refused_by_server(closed).await;
    assert_eq!(reason, RefusedReason::ServerRefused);
    let reason = played.refused_by_server(stuck.address).await;
    assert_eq!(reason, RefusedReason::ServerTimedOut);
    // The same link still opens a session.
    played.session(server.address).await.quit().await;
    assert_eq!(value(&lab.counters.server_failed), 2);
}

/// A port whose queue of connections is full, so that a further one is not answered.
struct StuckServer {
    address: std::net::SocketAddr,
    _listener: TcpListener,
    _fillers: Vec<TcpStream>,
}

impl StuckServer {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(connected) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            fillers.push(connected.unwrap());
        }
        Self { address, _listener: listener, _fillers: fillers }
    }
}

#[tokio::test]
async fn sessions_over_either_limit_are_refused_as_full() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |settings| settings.sessions_max = 2).await;
    let key = DeviceKey::generate().unwrap();
    let ticket = lab.ticket(key.fingerprint(), host::unix_now_s(), 1);
    let mut first = PlayedBox::new(lab.link(&key).await, ticket.clone());
    let mut second = PlayedBox::new(lab.link(&key).await, ticket);
    first.opened(server.address).await;
    assert_eq!(second.refused(server.address, 1).await, RefusedReason::Full, "the ticket's limit");
    let other = lab.admitted().await.session(server.address).await;
    let mut third = lab.admitted().await;
    assert_eq!(third.refused(server.address, 1).await, RefusedReason::Full, "the proxy's limit");
    other.quit().await;
    wait_for(&lab.counters.byes, 1).await;
    third.session(server.address).await.quit().await;
    assert_eq!(value(&lab.counters.full), 2);
}

#[tokio::test]
async fn a_box_that_vanishes_resets_its_session_at_the_server() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let session = lab.admitted().await.session(server.address).await;
    drop(session);
    wait_for(&lab.counters.resets, 1).await;
    server.wait_ended(1).await;
    assert!(server.mails().is_empty());
}

#[tokio::test]
async fn polls_tell_load_sessions_and_drain_and_the_drain_waits_for_sessions() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let mut manager = lab.manager().await;
    lab.set_load("1.25 1 1 1/1 1\n");
    let idle = Load { sequence: 1, load_average_milli: 1_250, sessions: 0, draining: false };
    assert_eq!(poll(&mut manager, 1).await, idle);

    let mut session = lab.admitted().await.session(server.address).await;
    let mut warm = lab.admitted().await;
    // Whoever waits for a session is in the listener's tasks before the port closes.
    assert_eq!(poll(&mut manager, 2).await, Load { sequence: 2, sessions: 1, ..idle.clone() });
    warm.link.send(&Message::Ping(1)).await.unwrap();
    assert_eq!(recv(&mut warm.link).await.unwrap(), Message::Pong(1));

    lab.trigger.drain();
    assert!(matches!(recv(&mut warm.link).await, Err(LinkError::Closed)));
    let draining = Load { sequence: 3, sessions: 1, draining: true, ..idle };
    assert_eq!(poll(&mut manager, 3).await, draining);
    while TcpStream::connect(lab.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // The session goes on to its end, then all is over.
    assert_eq!(session.send_mail(CLEAN_MAIL).await, "250 2.0.0 taken\r\n");
    session.quit().await;
    assert!(matches!(recv(&mut manager).await, Err(LinkError::Closed)));
    assert_eq!(lab.ended().await, Served { cut_off: 0 });
    assert_eq!(server.mails(), [CLEAN_MAIL]);
}

async fn poll(manager: &mut link::Link, sequence: u64) -> Load {
    manager.send(&Message::Poll(Poll { sequence })).await.unwrap();
    match recv(manager).await.unwrap() {
        Message::Load(load) => load,
        message => panic!("{message:?}"),
    }
}

#[tokio::test]
async fn sessions_that_outlive_the_drain_are_reset() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let _session = lab.admitted().await.session(server.address).await;
    lab.trigger.stop();
    assert_eq!(lab.ended().await, Served { cut_off: 1 });
    server.wait_ended(1).await;
}

#[tokio::test]
async fn a_proxy_that_cannot_tell_its_load_gives_no_answer() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let mut manager = lab.manager().await;
    lab.set_load("rubbish");
    manager.send(&Message::Poll(Poll { sequence: 1 })).await.unwrap();
    assert!(recv(&mut manager).await.is_err());
    // It comes back when the host does.
    lab.set_load("0.5 1 1 1/1 1\n");
    let mut manager = lab.manager().await;
    assert_eq!(poll(&mut manager, 2).await.load_average_milli, 500);
}

#[tokio::test]
async fn rubbish_ends_its_own_connection_and_nothing_else() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let good = lab.admitted().await.session(server.address).await;

    let mut raw = TcpStream::connect(lab.address).await.unwrap();
    raw.write_all(b"EHLO there\r\n").await.unwrap();
    let _ = raw.read_to_end(&mut Vec::new()).await;
    wait_for(&lab.counters.connections.handshakes_failed, 1).await;

    // A box that polls, a box that speaks before the session is open, a server that is no manager.
    let mut strange = lab.admitted().await;
    strange.link.send(&Message::Poll(Poll { sequence: 1 })).await.unwrap();
    assert!(recv(&mut strange.link).await.is_err());
    let mut strange = lab.admitted().await;
    strange.link.send(&Message::Fin).await.unwrap();
    assert!(recv(&mut strange.link).await.is_err());
    let mut strange = lab.server_link(Role::Auther).await;
    assert!(recv(&mut strange).await.is_err());
    let mut strange = lab.manager().await;
    strange.send(&Message::Ping(1)).await.unwrap();
    assert_eq!(recv(&mut strange).await.unwrap(), Message::Pong(1));
    strange.send(&Message::Opening).await.unwrap();
    assert!(recv(&mut strange).await.is_err());

    wait_for(&lab.counters.misbehaved, 4).await;
    good.quit().await;
    assert_eq!(value(&lab.counters.connections.panics), 0);
}

/// Long enough for whatever is not waited for.
const LONG: Duration = PATIENCE;
/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn warm_links_are_few_for_each_network_and_end_in_order() {
    let server = MailServer::start().await;
    let timing = Timing { open_max: SHORT, warm_max: LONG, ..Timing::default() };
    let lab = Lab::start(server.address, |settings| settings.timing = timing).await;
    let mut waiting = JoinSet::new();
    for _ in 0..=WARM_PER_NETWORK_MAX {
        let mut played = lab.admitted().await;
        waiting.spawn(async move { recv(&mut played.link).await });
    }
    let ended = waiting.join_next().await.unwrap().unwrap();
    assert!(matches!(ended, Err(LinkError::Closed)), "{ended:?}");
    assert_eq!(waiting.len(), WARM_PER_NETWORK_MAX);
    drop(waiting);
    // Their places come back, and a warm link opens a session.
    let mut played = lab.admitted().await;
    tokio::time::sleep(2 * SHORT).await;
    played.link.send(&Message::Ping(1)).await.unwrap();
    assert_eq!(recv(&mut played.link).await.unwrap(), Message::Pong(1));
    played.session(server.address).await.quit().await;
}

#[tokio::test]
async fn a_warm_link_does_not_stay_for_ever() {
    let server = MailServer::start().await;
    let timing = Timing { open_max: SHORT, warm_max: 2 * SHORT, ..Timing::default() };
    let lab = Lab::start(server.address, |settings| settings.timing = timing).await;
    let mut played = lab.admitted().await;
    assert!(matches!(recv(&mut played.link).await, Err(LinkError::Closed)));
    assert_eq!(value(&lab.counters.misbehaved), 0);
}

#[tokio::test]
async fn a_box_that_asks_for_ever_is_put_off() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let mut played = lab.admitted().await;
    for _ in 0..OPENS_MAX {
        assert_eq!(played.refused(server.address, 0).await, RefusedReason::Loop);
    }
    assert!(matches!(recv(&mut played.link).await, Err(LinkError::Closed)));
    assert_eq!(value(&lab.counters.misbehaved), 1);
}

#[tokio::test]
async fn a_box_that_says_no_bye_is_not_waited_for() {
    let server = MailServer::start().await;
    let timing = Timing { bye_max: SHORT, ..Timing::default() };
    let lab = Lab::start(server.address, |settings| settings.timing = timing).await;
    let mut session = lab.admitted().await.session(server.address).await;
    assert_eq!(session.send_mail(CLEAN_MAIL).await, "250 2.0.0 taken\r\n");
    session.quit_without_bye().await;
    assert_eq!(value(&lab.counters.byes), 0);
    assert_eq!(value(&lab.counters.resets), 0);
}

#[tokio::test]
async fn broken_frames_close_their_own_link() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let good = lab.admitted().await.session(server.address).await;
    // Header: version, kind, 0, 0, length (wire::frame).
    let unknown_version = [9, 7, 0, 0, 0, 0, 0, 0];
    let oversized = [wire::VERSION, 7, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let no_open = [wire::VERSION, 7, 0, 0, 0, 0, 0, 2, 0xff, 0xff];
    let rubbish = [0xa5; 4096];
    let frames = [&unknown_version[..], &oversized, &no_open, &rubbish];
    for (count, frame) in (1..).zip(frames) {
        let mut raw = lab.raw().await;
        raw.write_all(frame).await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, raw.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "frame {count} leaves the link open");
        wait_for(&lab.counters.misbehaved, count).await;
    }
    // A frame cut off by the end of the connection is nobody's fault.
    let mut raw = lab.raw().await;
    raw.write_all(&no_open[..5]).await.unwrap();
    drop(raw);
    good.quit().await;
    wait_for(&lab.counters.byes, 1).await;
    assert_eq!(value(&lab.counters.connections.panics), 0);
}

#[tokio::test]
async fn the_status_port_says_all_that_is_counted_and_whether_it_is_full() {
    let server = MailServer::start().await;
    // A scanner that nobody is; an auther that has said nothing yet, and one that has.
    let scanner = StuckServer::new().await;
    let tables = format!("[scan]\nclamd = [\"{}\"]\n", scanner.address);
    let lab = Lab::start_with(server.address, &tables, |_| {}).await;
    let auther = lab.play_auther(&[]).await;
    let lab = lab.restart(|settings| settings.auther = vec![auther]).await;
    let has_list =
        async { while !lab.page("/metrics").await.contains("\navr_proxy_revoked_age_seconds ") {} };
    tokio::time::timeout(PATIENCE, has_list).await.expect("the list never came");
    let session = lab.admitted().await.session(server.address).await;
    let key = DeviceKey::generate().unwrap();
    let ticket = lab.ticket(key.fingerprint(), host::unix_now_s() - 48 * 3600, 1);
    let mut late = PlayedBox::new(lab.link(&key).await, ticket);
    assert!(matches!(late.open(server.address, 1).await, Message::Denied(_)));
    let metrics = lab.page("/metrics").await;
    for (prefix, names) in [("", Counters::NAMES), ("connections_", listener::Counters::NAMES)] {
        for name in names {
            let line = format!("\navr_proxy_{prefix}{name}_total ");
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }
    }
    assert!(metrics.contains("\navr_proxy_sessions_live 1\n"), "{metrics}");
    let labels = format!("{{engine=\"clamd\",server=\"{}\"}}", scanner.address);
    for line in [
        format!("avr_proxy_scanner_up{labels} 1\n"),
        format!("avr_proxy_scanner_outstanding{labels} 0\n"),
        format!("avr_proxy_scanner_outstanding_bytes{labels} 0\n"),
        "avr_proxy_engine_asked_total{engine=\"clamd\"} 0\n".to_owned(),
        "avr_proxy_spool_bytes 0\n".to_owned(),
        "avr_proxy_workers_died_total 0\n".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    // What the dashboard and the alert rules name is among it. A ticket was refused before, because
    // what has labels is exported from its first value on.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring");
    for file in ["dashboard.json", "alerts.yml"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for name in words.filter(|word| word.starts_with("avr_proxy_")) {
            assert!(metrics.contains(&format!("\n{name}")), "{name} of {file}");
        }
    }
    assert!(lab.page("/readyz").await.ends_with("\r\n\r\nready\n"));
    lab.trigger.drain();
    let draining = lab.page("/readyz").await;
    assert!(draining.ends_with("draining: 1 sessions are left\n"), "{draining}");
    session.quit().await;
}

#[tokio::test]
async fn a_scanner_shows_what_it_has_not_answered_and_that_it_is_left_out() {
    let server = MailServer::start().await;
    let scanner = StuckServer::new().await;
    let tables = format!("[scan]\nclamd = [\"{}\"]\n", scanner.address);
    let lab = Lab::start_with(server.address, &tables, |_| {}).await;
    let labels = format!("{{engine=\"clamd\",server=\"{}\"}}", scanner.address);
    let shown = async |line: String| {
        let showing = async { while !lab.page("/metrics").await.contains(&line) {} };
        tokio::time::timeout(PATIENCE, showing).await.expect("it is never shown");
    };
    let mut session = lab.admitted().await.session(server.address).await;
    let looking = async {
        shown(format!("\navr_proxy_scanner_outstanding{labels} 1\n")).await;
        shown(format!("\navr_proxy_scanner_up{labels} 0\n")).await;
        shown(format!("\navr_proxy_scanner_outstanding{labels} 0\n")).await;
        shown("\navr_proxy_engine_failed_total{engine=\"clamd\"} 1\n".to_owned()).await;
    };
    let (reply, ()) = tokio::join!(session.send_mail(CLEAN_MAIL), looking);
    assert!(reply.starts_with("451 "), "{reply}");
    shown("\navr_proxy_unscannable_reasons_total{reason=\"engine-failed\"} 1\n".to_owned()).await;
}
