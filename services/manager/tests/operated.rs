//! What an operator sees and does: the status port, drains, another table, a restart.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod lab;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use lab::{Fleet, Lab, PlayedProxy, bye, lease, named, public, wait_for};
use link::Acceptor;
use manager::counters::Counters;
use manager::operate::{Reply, Request};
use service_kit::{host, listener};
use tokio::net::TcpListener;
use wire::identity::{DeviceKey, Role};
use wire::revocation::{Revocation, RevocationPart, RevokedReason};
use wire::{DeniedReason, Message};

fn drain(proxy: Option<&str>, wait: bool) -> Request {
    Request::Drain { proxy: proxy.map(str::to_owned), wait }
}

#[tokio::test]
async fn the_status_port_says_all_that_is_counted_and_what_is_missing() {
    let lab = Lab::new(2).await;
    let mut one = lab.admitted().await;
    one.ask_until(|answer| named(answer).len() == 2).await;
    let metrics = lab.page("/metrics").await;
    for (prefix, names) in [("", Counters::NAMES), ("connections_", listener::Counters::NAMES)] {
        for name in names {
            let line = format!("\navr_manager_{prefix}{name}_total ");
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }
    }
    let proxy = lab.proxies[0].local;
    for line in [
        format!("avr_manager_proxy_up{{proxy=\"{proxy}\"}} 1.0\n"),
        format!("avr_manager_proxy_share{{proxy=\"{proxy}\"}} 1.0\n"),
        "avr_manager_boxes 1\n".to_owned(),
        "# TYPE avr_manager_poll_seconds histogram\n".to_owned(),
        format!("avr_manager_assignments_total {}\n", lab.counters.assignments.get()),
        "avr_manager_drained 0\n".to_owned(),
        "# EOF\n".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(lab.page("/readyz").await.ends_with("\r\n\r\nready\n"));
    let page = lab.page("/").await;
    assert!(page.contains(&format!("{proxy}<br>")) && page.contains(">up<"), "{page}");
    assert!(page.contains("content-security-policy: default-src 'none'; style-src 'self';"));

    for played in &lab.proxies {
        played.set_load(9_000);
    }
    one.ask_until(|answer| named(answer).is_empty()).await;
    let missing = lab.page("/readyz").await;
    assert!(missing.starts_with("HTTP/1.1 503"), "{missing}");
    assert!(missing.contains(&format!("proxy {proxy} may not be named: load average 9.000\n")));
    let metrics = lab.page("/metrics").await;
    assert!(metrics.contains("avr_manager_marks_total{reason=\"overloaded\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn a_drain_waits_until_nothing_is_left() {
    let lab = Lab::new(2).await;
    let mut one = lab.admitted().await;
    one.ask_until(|answer| named(answer).len() == 2).await;
    lab.proxies[0].sessions.store(3, Ordering::Relaxed);
    let first = one.ask(&[public(1)]).await;
    let proxy = lab.proxies[0].local.to_string();
    let done = lab.tell(drain(Some(&proxy), false)).await.unwrap();
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(named(&one.ask(&[]).await), [public(1)]);

    let waiting = lab.tell(drain(Some(&public(0).to_string()), true));
    let ending = async {
        one.link.send(&bye(lease(&first), 1)).await.unwrap();
        // The box's own leases of the beginning go with its link.
        drop(one);
        lab.proxies[0].sessions.store(0, Ordering::Relaxed);
    };
    let (replies, ()) = tokio::join!(waiting, ending);
    let replies = replies.unwrap();
    let Some(Reply::Done { what }) = replies.last() else { panic!("{replies:?}") };
    assert_eq!(*what, format!("{} is drained, and nothing is left on it", public(0)));

    let mut other = lab.admitted().await;
    let undrain = Request::Undrain { proxy: Some(proxy) };
    lab.tell(undrain).await.unwrap();
    assert_eq!(named(&other.ask(&[]).await).len(), 2);

    lab.tell(drain(None, false)).await.unwrap();
    assert!(named(&other.ask(&[]).await).is_empty());
    assert!(lab.page("/readyz").await.contains("the site is drained"));
    lab.tell(Request::Undrain { proxy: None }).await.unwrap();
    assert_eq!(named(&other.ask(&[]).await).len(), 2);

    let error = lab.tell(drain(Some("10.9.9.9"), false)).await.unwrap_err();
    assert_eq!(error, "10.9.9.9 is no proxy of this manager");
    let error = lab.tell(drain(Some("x"), false)).await.unwrap_err();
    assert_eq!(error, "\"x\" is no address");
}

#[tokio::test]
async fn another_table_is_taken_whole_or_not_at_all_and_drops_nothing() {
    let lab = Lab::new(2).await;
    let mut one = lab.admitted().await;
    one.ask_until(|answer| named(answer).len() == 2).await;
    let kept = one.ask(&[]).await;

    let good = std::fs::read_to_string(lab.settings()).unwrap();
    std::fs::write(lab.settings(), good.replace("least-load", "least-loaded")).unwrap();
    let error = lab.tell(Request::Reload).await.unwrap_err();
    let line = format!("{}:7: `selection`: unknown value ", lab.settings().display());
    assert!(error.starts_with(&line), "{error}");
    assert!(error.ends_with("(the settings before stay in force)"), "{error}");
    assert_eq!(lab.counters.reloads_refused.get(), 1);
    assert_eq!(named(&one.ask(&[]).await).len(), 2);

    // The first goes, a third comes; the second keeps its public address.
    let third = PlayedProxy::start(&lab.fleet).await;
    let table = [third.clone(), lab.proxies[1].clone()];
    Lab::write_table(lab.directory.path(), &table);
    let done = lab.tell(Request::Reload).await.unwrap();
    let what = "1 proxies kept, 1 added, 1 leaving".to_owned();
    assert_eq!(done, [Reply::Done { what }]);
    wait_for(&third.polls, 2).await;
    one.ask_until(|answer| named(answer).len() == 2).await;
    assert_eq!(lab.counters.reloads.get(), 1);
    // The box has noticed nothing: its link is the same, and its lease is known.
    let late = lab.counters.late.get();
    let byes = lab.counters.byes.get();
    one.link.send(&bye(lease(&kept), 1)).await.unwrap();
    wait_for(&lab.counters.byes, byes + 1).await;
    assert_eq!(lab.counters.late.get(), late);
    // When nothing is left on what has gone, it is not polled any more.
    drop(one);
    let left = &lab.proxies[0];
    let until_gone = async {
        let local = left.local.to_string();
        while lab.page("/metrics").await.contains(&local) {}
    };
    tokio::time::timeout(lab::PATIENCE, until_gone).await.expect("it is still polled");
}

#[tokio::test]
async fn absurd_figures_of_proxies_and_boxes_are_counted_and_believed_by_nobody() {
    let lab = Lab::new(2).await;
    let mut one = lab.admitted().await;
    let answer = one.ask_until(|answer| named(answer).len() == 2).await;
    one.link.send(&bye(lease(&answer), u64::MAX)).await.unwrap();
    wait_for(&lab.counters.byes_absurd, 1).await;
    assert_eq!(lab.counters.bytes.get(), 0);
    lab.proxies[0].sessions.store(u32::MAX, Ordering::Relaxed);
    one.ask_until(|answer| named(answer) == [public(1)]).await;
    assert!(lab.counters.reports_absurd.get() > 0);
    assert_eq!(lab.counters.connections.panics.get(), 0);
}

#[tokio::test]
async fn who_connects_while_a_manager_starts_waits_for_its_first_polls() {
    for _ in 0..5 {
        let lab = Lab::new(2).await;
        // Nobody has waited for anything: the very first answer names a proxy.
        let mut one = lab.admitted().await;
        assert!(!named(&one.ask(&[]).await).is_empty());
    }
}

#[tokio::test]
async fn drains_survive_a_restart_until_they_are_undone() {
    let lab = Lab::new(2).await;
    let proxy = Some(lab.proxies[0].local.to_string());
    lab.tell(drain(proxy.as_deref(), false)).await.unwrap();
    let named_first = async |lab: &Lab| named(&lab.admitted().await.ask(&[]).await);
    assert_eq!(named_first(&lab).await, [public(1)]);
    let lab = lab.restart(|_| {}).await;
    assert_eq!(named_first(&lab).await, [public(1)]);

    lab.tell(drain(None, false)).await.unwrap();
    let lab = lab.restart(|_| {}).await;
    assert!(named_first(&lab).await.is_empty());
    assert!(lab.page("/readyz").await.contains("the site is drained"));

    lab.tell(Request::Undrain { proxy: None }).await.unwrap();
    assert!(!lab.directory.path().join("state/drains.json").exists());
    let lab = lab.restart(|_| {}).await;
    assert_eq!(named_first(&lab).await.len(), 2);

    // What cannot be read drains nothing; what cannot be written is said.
    std::fs::write(lab.directory.path().join("state/drains.json"), "rubbish").unwrap();
    let lab = lab.restart(|_| {}).await;
    assert_eq!(named_first(&lab).await.len(), 2);
    std::fs::remove_dir_all(lab.directory.path().join("state")).unwrap();
    std::fs::write(lab.directory.path().join("state"), "in the way").unwrap();
    let done = lab.tell(drain(None, false)).await.unwrap();
    let Some(Reply::Done { what }) = done.last() else { panic!("{done:?}") };
    assert!(what.starts_with("the site is not named from now on (until a restart: "), "{what}");
}

/// An auther that answers every question with this list.
async fn play_auther(fleet: &Fleet, entries: Vec<Revocation>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = fleet.tls(Role::Auther);
    let acceptor = Acceptor::new(tls.server, tls.roots);
    let parts = RevocationPart::split(1, host::unix_now_s(), &entries).unwrap();
    let signed: Vec<_> =
        parts.iter().map(|part| fleet.signer.sign_revocations(part).unwrap()).collect();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut link) = acceptor.accept(stream, lab::PATIENCE).await else { continue };
            while let Ok(Message::Fetch(_)) = link.recv().await {
                for part in &signed {
                    // Who has what it wanted may have gone.
                    let _ = link.send(&Message::Revocations(part.clone())).await;
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn a_revoked_ticket_is_refused_also_on_a_connection_that_was_admitted() {
    let fleet = Fleet::new();
    let (suspended, other) = (DeviceKey::generate().unwrap(), DeviceKey::generate().unwrap());
    let now_s = host::unix_now_s();
    let reason = RevokedReason::Suspended;
    let entry = Revocation::new(lab::MAC, suspended.fingerprint(), now_s + 1, reason);
    let auther = play_auther(&fleet, vec![entry]).await;
    let lab = Lab::of(fleet, 1, |settings| settings.auther = vec![auther]).await;
    let played = async |key: &DeviceKey| lab::PlayedBox {
        link: lab.link(key).await,
        ticket: lab.fleet.ticket(key.fingerprint(), now_s),
    };
    // Until the list has come it is admitted, as it would be without any auther.
    let mut one = played(&suspended).await;
    let denied = one.ask_until(|answer| matches!(answer, Message::Denied(_))).await;
    let Message::Denied(denied) = denied else { panic!("{denied:?}") };
    assert_eq!(denied.reason, DeniedReason::Suspended);
    let mut good = played(&other).await;
    good.ask_until(|answer| !named(answer).is_empty()).await;
    let metrics = lab.page("/metrics").await;
    assert!(metrics.contains("avr_manager_refusals_total{reason=\"suspended\"} 1\n"), "{metrics}");
    assert!(metrics.contains("avr_manager_revoked 1\n"), "{metrics}");
    // Behind a restart too, though nobody is asked any more; and from the first answer on.
    let lab = lab.restart(|settings| settings.auther.clear()).await;
    let link = lab.link(&suspended).await;
    let mut one = lab::PlayedBox { link, ticket: lab.fleet.ticket(suspended.fingerprint(), now_s) };
    assert!(matches!(one.ask(&[]).await, Message::Denied(_)));
}
