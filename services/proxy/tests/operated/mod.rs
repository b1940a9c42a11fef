//! What a proxy's operator does: drains, and tickets that are void before their time.

use proxy::operate::{Reply, Request, Status};
use wire::DeniedReason;
use wire::revocation::{Revocation, RevokedReason};

use super::*;

const SUSPENDED: RevokedReason = RevokedReason::Suspended;

async fn done(lab: &Lab, request: Request) -> String {
    match lab.tell(request).await.unwrap().pop() {
        Some(Reply::Done { what }) => what,
        reply => panic!("{reply:?}"),
    }
}

async fn status(lab: &Lab) -> Status {
    match lab.tell(Request::Status).await.unwrap().pop() {
        Some(Reply::Status(status)) => status,
        reply => panic!("{reply:?}"),
    }
}

#[tokio::test]
async fn a_drained_proxy_lets_sessions_end_and_takes_new_ones_when_it_is_undrained() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let mut manager = lab.manager().await;
    let mut session = lab.admitted().await.session(server.address).await;
    let mut warm = lab.admitted().await;
    warm.link.send(&Message::Ping(1)).await.unwrap();
    assert_eq!(recv(&mut warm.link).await.unwrap(), Message::Pong(1));
    assert!(!poll(&mut manager, 1).await.draining);

    let waiting = lab.tell(Request::Drain { wait: true });
    let ending = async {
        // A warm connection is closed; who comes with an assignment from before is told in words.
        assert!(matches!(recv(&mut warm.link).await, Err(LinkError::Closed)));
        let mut late = lab.admitted().await;
        assert_eq!(late.refused(server.address, 1).await, RefusedReason::Draining);
        let load = poll(&mut manager, 2).await;
        assert_eq!((load.draining, load.sessions), (true, 1));
        let ready = lab.page("/readyz").await;
        assert!(ready.contains("drained: 1 sessions are left"), "{ready}");
        assert!(lab.page("/metrics").await.contains("\navr_proxy_drained 1\n"));
        let expected =
            Status { drained: true, ending: false, sessions: 1, sessions_max: 2_000, warm: 0 };
        assert_eq!(status(&lab).await, expected);
        assert_eq!(session.send_mail(CLEAN_MAIL).await, "250 2.0.0 taken\r\n");
        session.quit().await;
        late
    };
    let (replies, mut late) = tokio::join!(waiting, ending);
    let replies = replies.unwrap();
    assert_eq!(replies[0], Reply::Left { sessions: 1 });
    let Some(Reply::Done { what }) = replies.last() else { panic!("{replies:?}") };
    assert_eq!(what, "takes no new sessions from now on; nothing is left on it");
    assert_eq!(value(&lab.counters.draining), 1);

    // The manager's connection stays, and hears of the end.
    assert!(poll(&mut manager, 3).await.draining);
    assert_eq!(done(&lab, Request::Undrain).await, "takes sessions again");
    assert!(!poll(&mut manager, 4).await.draining);
    assert!(matches!(late.open(server.address, 1).await, Message::Opening));
}

#[tokio::test]
async fn who_waits_for_a_drain_hears_that_it_was_undone() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let _session = lab.admitted().await.session(server.address).await;
    let waiting = lab.tell(Request::Drain { wait: true });
    let undraining = async {
        while !status(&lab).await.drained {}
        done(&lab, Request::Undrain).await
    };
    let (waited, _) = tokio::join!(waiting, undraining);
    assert_eq!(waited.unwrap_err(), "undrained meanwhile");
}

#[tokio::test]
async fn the_verbs_say_what_became_of_them() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let verb = async |words: &'static [&'static str]| {
        let settings = lab.path("proxy.toml");
        tokio::task::spawn_blocking(move || Lab::verb_of(&settings, words)).await.unwrap()
    };
    let idle = verb(&["status"]).await.unwrap();
    assert_eq!(idle, "takes sessions\nsessions: 0 of at most 2000; warm connections: 0\n");
    let drained = verb(&["drain", "--wait"]).await.unwrap();
    assert_eq!(drained, "takes no new sessions from now on; nothing is left on it\n");
    assert!(verb(&["status"]).await.unwrap().starts_with("drained: takes no new sessions\n"));
    assert_eq!(verb(&["undrain"]).await.unwrap(), "takes sessions again\n");
}

#[tokio::test]
async fn a_drain_survives_a_restart() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    done(&lab, Request::Drain { wait: false }).await;
    let lab = lab.restart(|_| {}).await;
    assert!(status(&lab).await.drained);
    let mut late = lab.admitted().await;
    assert_eq!(late.refused(server.address, 1).await, RefusedReason::Draining);
    done(&lab, Request::Undrain).await;
    let lab = lab.restart(|_| {}).await;
    assert!(!status(&lab).await.drained);
    lab.admitted().await.session(server.address).await.quit().await;
}

#[tokio::test]
async fn a_drain_that_the_disk_does_not_keep_is_one_all_the_same_and_says_so() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    std::fs::remove_dir_all(lab.path("state")).unwrap_or_default();
    std::fs::write(lab.path("state"), "in the way").unwrap();
    let what = done(&lab, Request::Drain { wait: false }).await;
    assert!(what.starts_with("takes no new sessions from now on (until a restart: "), "{what}");
    assert!(status(&lab).await.drained);
}

#[tokio::test]
async fn a_revoked_ticket_opens_nothing_also_behind_a_restart_without_an_auther() {
    let server = MailServer::start().await;
    let lab = Lab::start(server.address, |_| {}).await;
    let (suspended, other) = (DeviceKey::generate().unwrap(), DeviceKey::generate().unwrap());
    let now_s = host::unix_now_s();
    let entry = Revocation::new(lab::MAC, suspended.fingerprint(), now_s + 1, SUSPENDED);
    let auther = lab.play_auther(&[entry]).await;
    let lab = lab
        .restart(|settings| {
            settings.auther = vec![auther];
            settings.revocation_interval = SHORT;
        })
        .await;
    let denied = async |lab: &Lab, key: &DeviceKey| {
        let ticket = lab.ticket(key.fingerprint(), now_s, 100);
        let mut played = PlayedBox::new(lab.link(key).await, ticket);
        match played.open(server.address, 1).await {
            Message::Denied(denied) => Some(denied.reason),
            Message::Opening => None,
            message => panic!("{message:?}"),
        }
    };
    // Until the list has come it is admitted, as it would be without any auther.
    let until_denied =
        async { while denied(&lab, &suspended).await != Some(DeniedReason::Suspended) {} };
    tokio::time::timeout(PATIENCE, until_denied).await.expect("the list never came");
    assert_eq!(denied(&lab, &other).await, None);
    let metrics = lab.page("/metrics").await;
    assert!(metrics.contains("\navr_proxy_refusals_total{reason=\"suspended\"} 1\n"), "{metrics}");
    assert!(metrics.contains("\navr_proxy_revoked 1\n"), "{metrics}");
    assert!(metrics.contains("\navr_proxy_revoked_age_seconds "), "{metrics}");
    // Nobody is asked now.
    let lab = lab.restart(|_| {}).await;
    assert_eq!(denied(&lab, &suspended).await, Some(DeniedReason::Suspended));
    assert_eq!(denied(&lab, &other).await, None);
}
