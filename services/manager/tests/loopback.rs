//! A whole manager on loopback: real TLS, boxes with tickets, proxies that are played.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod lab;

use std::sync::atomic::Ordering;
use std::time::Duration;

use lab::{Fleet, Lab, MAC, PATIENCE, PlayedBox, bye, lease, named, public, recv, wait_for};
use link::LinkError;
use manager::{DENIALS_MAX, Timing};
use service_kit::{Served, host};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wire::identity::{DeviceKey, Role};
use wire::{Assign, DeniedReason, Hello, LeaseId, Message};

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
    let unused = one.ask(&[]).await;
    one.link.send(&bye(lease(&unused), 0)).await.unwrap();
    wait_for(&lab.counters.byes, 3).await;
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
    assert!(lab.counters.denied.get() <= DENIALS_MAX.into());
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
