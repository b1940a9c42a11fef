//! The whole client against a fleet on loopback: real TLS, real messages, fake servers.

mod limits;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use wire::{Bye, DeniedReason, LeaseId, Protocol, RefusedReason, SessionId};

use crate::tests_support::dns::Reply;
use crate::tests_support::fleet::{Lab, Mode};
use crate::{
    DirectReason, ManagerState, OpenError, Relay, RelayStatus, Settings, TicketStatus, Upstream,
    Way,
};

/// Longest that a test waits for a state.
const WAIT_MAX: Duration = Duration::from_secs(20);

fn start(settings: Settings) -> Relay {
    telemetry::init(telemetry::Format::Text);
    Relay::start(settings).unwrap()
}

async fn open(relay: &Relay, destination: SocketAddr) -> Result<Upstream, OpenError> {
    relay.open(client(), destination, Protocol::Smtp, SessionId([7; 16])).await
}

fn client() -> SocketAddr {
    "192.168.1.20:50000".parse().unwrap()
}

/// Waits on a state, not on time.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT_MAX, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn until_status(relay: &Relay, what: &str, holds: impl Fn(&RelayStatus) -> bool) {
    let waiting = async {
        while !holds(&relay.status()) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(WAIT_MAX, waiting).await;
    assert!(waited.is_ok(), "never: {what}; {:#?}", relay.status());
}

async fn admitted(relay: &Relay) {
    until_status(relay, "admitted, with a list", |status| {
        matches!(status.ticket, TicketStatus::Valid { .. }) && status.managers_list.addresses > 0
    })
    .await;
}

async fn warm(relay: &Relay, links: usize) {
    until_status(relay, "warm", |status| status.warm_links.len() == links).await;
}

/// A mail server that the box can reach without a proxy.
async fn mail_server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn nowhere() -> SocketAddr {
    "192.0.2.25:25".parse().unwrap()
}

fn proxy_of(upstream: &Upstream) -> SocketAddr {
    match upstream.way {
        Way::Relay { proxy, .. } => proxy,
        Way::Direct { reason } => panic!("direct: {reason}"),
    }
}

fn direct_reason(upstream: &Upstream) -> DirectReason {
    match upstream.way {
        Way::Direct { reason } => reason,
        Way::Relay { proxy, .. } => panic!("relayed by {proxy}"),
    }
}

fn bye() -> Bye {
    Bye {
        session: SessionId([7; 16]),
        lease: LeaseId(0),
        bytes_up: 11,
        bytes_down: 22,
        messages: 1,
        infected: 0,
        unscannable: 0,
        opaque: false,
    }
}

#[tokio::test]
async fn a_session_over_a_warm_link_costs_open_and_opened_only() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    // The box's side of a handshake ends first.
    until("prepared in the background", || lab.proxies[0].log().connections == 1).await;
    assert_eq!(lab.managers[0].log().assigns.len(), 1);
    let mut upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[0].address);
    let log = lab.proxies[0].log();
    assert_eq!(log.messages_of_last_open, 2, "only Client and Open, on a connection made before");
    assert_eq!(log.clients, [client()]);
    assert_eq!(log.opens[0].destination, nowhere());
    assert_eq!(log.opens[0].session, SessionId([7; 16]));
    upstream.stream.write_all(b"EHLO").await.unwrap();
    let mut echoed = [0; 4];
    upstream.stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"EHLO");
    warm(&relay, 1).await;
    assert_eq!(lab.managers[0].log().assigns.len(), 2, "the next one is ready");
    assert_eq!(lab.managers[0].log().connections, 1, "over the connection that was open");
}

#[tokio::test]
async fn proxy_and_manager_hear_of_the_end() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    let Upstream { mut stream, way } = open(&relay, nowhere()).await.unwrap();
    let Way::Relay { lease, .. } = way else { panic!("{way}") };
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    stream.finish(bye()).await.unwrap();
    relay.bye(&way, bye());
    until("both byes", || {
        lab.proxies[0].log().byes.len() == 1 && lab.managers[0].log().byes.len() == 1
    })
    .await;
    let at_manager = &lab.managers[0].log().byes[0];
    assert_eq!((at_manager.lease, at_manager.bytes_up), (lease, 11));
}

#[tokio::test]
async fn the_second_manager_is_asked_when_the_first_is_silent() {
    let lab = Lab::new(2).await;
    lab.managers[0].set(Mode::Frozen);
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    let begun = Instant::now();
    let upstream = open(&relay, nowhere()).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(proxy_of(&upstream), lab.proxies[2].address, "the second site's");
    assert!(took < Duration::from_secs(3), "{took:?}");
    // From now on the silent one is asked last, and once it is known dead not at all.
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        open(&relay, nowhere()).await.unwrap();
        quickest = quickest.min(begun.elapsed());
    }
    assert!(quickest < Duration::from_millis(290), "{quickest:?}");
    until_status(&relay, "first dead", |s| s.managers[0].state == ManagerState::Dead).await;
    assert_eq!(relay.status().managers[1].state, ManagerState::Up);
}

#[tokio::test]
async fn a_killed_manager_is_passed_over_and_found_again() {
    let mut lab = Lab::new(2).await;
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    let first = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&first), lab.proxies[0].address);
    lab.managers[0].kill().await;
    until_status(&relay, "dead", |s| s.managers[0].state == ManagerState::Dead).await;
    let second = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&second), lab.proxies[2].address);
    lab.managers[0].restart().await;
    until_status(&relay, "back", |s| s.managers[0].state == ManagerState::Up).await;
    let third = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&third), lab.proxies[0].address);
}

#[tokio::test]
async fn with_everything_silent_the_first_goes_direct_in_time_and_the_next_at_once() {
    let lab = Lab::new(2).await;
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    for server in lab.managers.iter().chain(&lab.proxies) {
        server.set(Mode::Frozen);
    }
    let (listener, destination) = mail_server().await;
    let begun = Instant::now();
    let upstream = open(&relay, destination).await.unwrap();
    let took = begun.elapsed();
    listener.accept().await.unwrap();
    let reason = direct_reason(&upstream);
    let fitting = [DirectReason::BudgetSpent, DirectReason::ManagersDead];
    assert!(fitting.contains(&reason), "{reason}");
    assert!(took <= Duration::from_millis(5500), "{took:?}");
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        let upstream = open(&relay, destination).await.unwrap();
        assert_eq!(direct_reason(&upstream), DirectReason::ManagersDead);
        quickest = quickest.min(begun.elapsed());
    }
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    for server in lab.managers.iter().chain(&lab.proxies) {
        server.set(Mode::Well);
    }
    until_status(&relay, "back", |s| s.managers[0].state == ManagerState::Up).await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert!(lab.proxies.iter().any(|proxy| proxy.address == proxy_of(&upstream)));
}

#[tokio::test]
async fn with_everything_killed_sessions_go_direct_and_come_back() {
    let mut lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    lab.managers[0].kill().await;
    for proxy in &mut lab.proxies {
        proxy.kill().await;
    }
    let (_listener, destination) = mail_server().await;
    let begun = Instant::now();
    let upstream = open(&relay, destination).await.unwrap();
    assert!(matches!(upstream.way, Way::Direct { .. }), "{}", upstream.way);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    lab.managers[0].restart().await;
    for proxy in &mut lab.proxies {
        proxy.restart().await;
    }
    warm(&relay, 1).await;
    proxy_of(&open(&relay, nowhere()).await.unwrap());
}

#[tokio::test]
async fn a_killed_proxy_is_replaced_by_the_alternate_and_excluded() {
    let mut lab = Lab::new(1).await;
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    lab.proxies[0].kill().await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[1].address);
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[1].address);
    let assigns = lab.managers[0].log().assigns;
    assert_eq!(assigns.first().unwrap(), &[], "nothing to tell yet");
    assert_eq!(assigns.last().unwrap(), &[lab.proxies[0].address], "the manager is told");
    lab.proxies[0].restart().await;
    until_status(&relay, "found again", |status| status.proxies_excluded.is_empty()).await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[0].address);
}

#[tokio::test]
async fn a_proxy_silent_at_open_costs_its_limit_and_the_session_goes_on() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    lab.proxies[0].set(Mode::Deaf);
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[1].address);
    let deaf = lab.proxies[0].log();
    assert_eq!(deaf.opens.len(), 1, "it was asked once");
    assert_eq!(relay.status().counters.failovers, 1);
}

#[tokio::test]
async fn the_next_proxy_is_offered_the_session_long_before_a_silent_one_is_given_up() {
    let lab = Lab::new(1).await;
    let mut settings = lab.settings();
    // The session would go direct before the silent one is given up.
    settings.timing.opening_max = settings.timing.relay_budget * 2;
    let relay = start(settings);
    warm(&relay, 1).await;
    lab.proxies[0].set(Mode::Deaf);
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[1].address);
    assert_eq!(relay.status().counters.failovers, 1);
    let excluded = relay.status().proxies_excluded;
    assert_eq!(excluded.len(), 1, "what was overtaken counts as dead");
    assert_eq!(excluded[0].address, lab.proxies[0].address);
}

#[tokio::test]
async fn a_proxy_that_falls_silent_is_found_before_a_session_tries_it() {
    let lab = Lab::new(1).await;
    let mut settings = lab.settings();
    settings.timing.ping_interval = Duration::from_millis(100);
    settings.timing.pong_max = Duration::from_millis(300);
    let relay = start(settings);
    warm(&relay, 1).await;
    lab.proxies[0].set(Mode::Frozen);
    until_status(&relay, "another is warm", |status| {
        status.warm_links.iter().any(|warm| warm.proxy == lab.proxies[1].address)
    })
    .await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[1].address);
    assert_eq!(lab.proxies[0].log().opens.len(), 0);
}

#[tokio::test]
async fn a_proxy_that_breaks_before_opened_is_replaced() {
    for mode in [Mode::BreakAfterOpening, Mode::Nonsense] {
        let lab = Lab::new(1).await;
        let relay = start(lab.settings());
        warm(&relay, 1).await;
        lab.proxies[0].set(mode);
        let upstream = open(&relay, nowhere()).await.unwrap();
        assert_eq!(proxy_of(&upstream), lab.proxies[1].address, "{mode:?}");
    }
}

#[tokio::test]
async fn a_full_or_draining_proxy_sends_the_session_to_the_alternate() {
    for reason in [RefusedReason::Full, RefusedReason::Draining] {
        let lab = Lab::new(1).await;
        let relay = start(lab.settings());
        warm(&relay, 1).await;
        lab.proxies[0].set(Mode::Refuse(reason));
        let upstream = open(&relay, nowhere()).await.unwrap();
        assert_eq!(proxy_of(&upstream), lab.proxies[1].address, "{reason:?}");
        assert_eq!(relay.status().counters.full, 1);
    }
}

#[tokio::test]
async fn what_the_mail_server_says_reaches_the_client_and_is_not_tried_again() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    for (opened, reason) in [
        RefusedReason::ServerRefused,
        RefusedReason::ServerUnreachable,
        RefusedReason::ServerTimedOut,
    ]
    .into_iter()
    .enumerate()
    {
        warm(&relay, 1).await;
        lab.proxies[0].set(Mode::Refuse(reason));
        let error = open(&relay, nowhere()).await.unwrap_err();
        let fits = match reason {
            RefusedReason::ServerRefused => matches!(error, OpenError::Refused(_)),
            RefusedReason::ServerUnreachable => matches!(error, OpenError::Unreachable(_)),
            _ => matches!(error, OpenError::TimedOut(_)),
        };
        assert!(fits, "{reason:?}: {error}");
        assert_eq!(lab.proxies[0].log().opens.len(), opened + 1);
        assert_eq!(lab.proxies[1].log().opens.len(), 0);
    }
}

#[tokio::test]
async fn a_mail_server_that_never_answers_times_out_without_a_second_try() {
    let lab = Lab::new(1).await;
    let mut settings = lab.settings();
    settings.timing.opened_max = Duration::from_millis(300);
    let relay = start(settings);
    warm(&relay, 1).await;
    lab.proxies[0].set(Mode::HangAfterOpening);
    let error = open(&relay, nowhere()).await.unwrap_err();
    assert!(matches!(error, OpenError::TimedOut(Way::Relay { .. })), "{error}");
    assert!(relay.status().proxies_excluded.is_empty(), "not the proxy's fault");
}

#[tokio::test]
async fn a_proxy_that_dies_while_connecting_is_replaced() {
    let lab = Lab::new(1).await;
    let mut settings = lab.settings();
    settings.timing.ping_interval = Duration::from_millis(200);
    settings.timing.pong_max = Duration::from_millis(300);
    let relay = start(settings);
    warm(&relay, 1).await;
    lab.proxies[0].set(Mode::FreezeAfterOpening);
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[1].address);
}

#[tokio::test]
async fn a_site_that_falls_silent_is_left_for_another_at_the_first_sign() {
    let lab = Lab::new(2).await;
    let mut settings = lab.settings();
    settings.warm_links = 2;
    let relay = start(settings);
    warm(&relay, 2).await;
    for server in [&lab.managers[0], &lab.proxies[0], &lab.proxies[1]] {
        server.set(Mode::Frozen);
    }
    let begun = Instant::now();
    let upstream = open(&relay, nowhere()).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(proxy_of(&upstream), lab.proxies[2].address);
    assert!(took < Duration::from_millis(1900), "one limit of an Open, not more: {took:?}");
}

#[tokio::test]
async fn an_ipv6_server_that_the_site_cannot_reach_is_tried_directly() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    lab.proxies[0].set(Mode::Refuse(RefusedReason::ServerUnreachable));
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let upstream = open(&relay, listener.local_addr().unwrap()).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::NoRoute);
}

#[tokio::test]
async fn links_closed_as_soon_as_made_are_not_made_in_a_loop() {
    let lab = Lab::new(1).await;
    lab.proxies[0].set(Mode::Close);
    lab.proxies[1].set(Mode::Close);
    let relay = start(lab.settings());
    until("a few", || lab.proxies[0].log().connections >= 5).await;
    let before = lab.proxies[0].log().connections;
    sleep(Duration::from_millis(500)).await;
    let more = lab.proxies[0].log().connections - before;
    assert!(more <= 5, "{more} in half a second, with pauses of 200 ms");
    lab.proxies[0].set(Mode::Well);
    warm(&relay, 1).await;
}

#[tokio::test]
async fn a_manager_that_closes_a_quiet_connection_is_not_taken_for_dead() {
    let lab = Lab::new(1).await;
    let mut settings = Settings { warm_links: 0, ..lab.settings() };
    settings.timing.ping_interval = Duration::from_millis(50);
    let relay = start(settings);
    admitted(&relay).await;
    until_status(&relay, "up", |s| s.managers[0].state == ManagerState::Up).await;
    sleep(Duration::from_millis(100)).await;
    lab.managers[0].set(Mode::CloseOne);
    until("a new connection", || lab.managers[0].log().connections == 2).await;
    until_status(&relay, "up", |s| s.managers[0].state == ManagerState::Up).await;
    assert_eq!(relay.status().counters.manager_failures, 0);
    proxy_of(&open(&relay, nowhere()).await.unwrap());
}

#[tokio::test]
async fn the_connection_to_a_manager_that_is_not_the_first_is_closed_when_quiet() {
    let lab = Lab::new(2).await;
    let mut settings = Settings { warm_links: 0, ..lab.settings() };
    settings.timing.manager_idle_max = Duration::from_millis(200);
    settings.timing.ping_interval = Duration::from_millis(200);
    let relay = start(settings);
    admitted(&relay).await;
    lab.managers[0].set(Mode::Busy);
    proxy_of(&open(&relay, nowhere()).await.unwrap());
    assert!(relay.status().managers[1].connected);
    lab.managers[0].set(Mode::Well);
    until_status(&relay, "closed", |s| !s.managers[1].connected && s.managers[0].connected).await;
    assert_eq!(relay.status().managers[1].state, ManagerState::Up, "closed is not dead");
    sleep(Duration::from_millis(300)).await;
    assert!(relay.status().managers[0].connected, "the first one's stays");
}

#[tokio::test]
async fn tickets_that_are_not_this_boxs_are_not_used() {
    for mode in [Mode::Forge, Mode::OtherMac, Mode::Nonsense] {
        let lab = Lab::new(1).await;
        lab.auther.set(mode);
        let relay = start(lab.settings());
        until_status(&relay, "tried twice", |status| status.counters.logins_failed >= 2).await;
        assert_eq!(relay.status().ticket, TicketStatus::None, "{mode:?}");
        assert!(!lab.fleet.state.path().join("ticket.json").exists());
        lab.auther.set(Mode::Well);
        warm(&relay, 1).await;
    }
}

#[tokio::test]
async fn dropping_the_last_relay_ends_its_tasks_and_connections() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    let other = relay.clone();
    drop(relay);
    assert_eq!(other.status().warm_links.len(), 1);
    let mut upstream = open(&other, nowhere()).await.unwrap();
    let shared = std::sync::Arc::downgrade(&other.0.shared);
    drop(other);
    until("all tasks ended", || shared.upgrade().is_none()).await;
    upstream.stream.write_all(b"still here").await.unwrap();
    let mut echoed = [0; 10];
    upstream.stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"still here", "a session outlives the client");
}

#[tokio::test]
async fn a_dead_auther_changes_nothing_while_the_ticket_lasts() {
    let mut lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    lab.auther.kill().await;
    relay.network_changed();
    proxy_of(&open(&relay, nowhere()).await.unwrap());
    assert!(matches!(relay.status().ticket, TicketStatus::Valid { .. }));
}

#[tokio::test]
async fn policy_and_loop_go_direct() {
    for (refusal, expected) in
        [(RefusedReason::Policy, DirectReason::Policy), (RefusedReason::Loop, DirectReason::Loop)]
    {
        let lab = Lab::new(1).await;
        let relay = start(lab.settings());
        warm(&relay, 1).await;
        lab.proxies[0].set(Mode::Refuse(refusal));
        let (_listener, destination) = mail_server().await;
        let upstream = open(&relay, destination).await.unwrap();
        assert_eq!(direct_reason(&upstream), expected);
    }
}

#[tokio::test]
async fn without_a_ticket_sessions_go_direct_at_once_and_are_relayed_when_there_is_one() {
    let lab = Lab::new(1).await;
    lab.auther.set(Mode::Denied(DeniedReason::Unknown));
    let mut settings = lab.settings();
    settings.timing.denied_pause = Duration::from_millis(100);
    let relay = start(settings);
    let (_listener, destination) = mail_server().await;
    let upstream = open(&relay, destination).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::NoTicket);
    until_status(&relay, "denied", |s| matches!(s.ticket, TicketStatus::Denied { .. })).await;
    let upstream = open(&relay, destination).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::Denied(DeniedReason::Unknown));
    lab.auther.set(Mode::Well);
    warm(&relay, 1).await;
    proxy_of(&open(&relay, nowhere()).await.unwrap());
}

#[tokio::test]
async fn a_ticket_and_lists_survive_a_restart_without_dns_and_auther() {
    let mut lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    until("kept", || {
        ["ticket.json", "managers.json", "authers.json"]
            .iter()
            .all(|name| lab.fleet.state.path().join(name).exists())
    })
    .await;
    drop(relay);
    lab.auther.kill().await;
    lab.dns.set_name("manager.example", Reply::silent());
    lab.dns.set_name("auther.example", Reply::silent());
    let relay = start(lab.settings());
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[0].address, "from the first session on");
    let status = relay.status();
    assert!(status.managers_list.stale);
    assert_eq!(status.managers_list.age_s, Some(0));
}

#[tokio::test]
async fn an_authers_denial_removes_the_kept_ticket() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    let ticket = lab.fleet.state.path().join("ticket.json");
    until("kept", || ticket.exists()).await;
    drop(relay);
    lab.auther.set(Mode::Denied(DeniedReason::Suspended));
    lab.proxies[0].set(Mode::Denied(DeniedReason::TicketExpired));
    lab.proxies[1].set(Mode::Denied(DeniedReason::TicketExpired));
    let relay = start(lab.settings());
    let (_listener, destination) = mail_server().await;
    until_status(&relay, "list", |status| status.managers_list.addresses > 0).await;
    let upstream = open(&relay, destination).await.unwrap();
    let DirectReason::Denied(_) = direct_reason(&upstream) else { panic!("{}", upstream.way) };
    until_status(&relay, "asked", |s| matches!(s.ticket, TicketStatus::Denied { .. })).await;
    until("removed", || !ticket.exists()).await;
    assert!(relay.status().warm_links.is_empty());
}

#[tokio::test]
async fn a_manager_that_denies_is_left_for_one_that_does_not() {
    let lab = Lab::new(2).await;
    lab.managers[0].set(Mode::Denied(DeniedReason::TicketForged));
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[2].address);
    lab.managers[1].set(Mode::Denied(DeniedReason::TicketForged));
    let (_listener, destination) = mail_server().await;
    let upstream = open(&relay, destination).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::Denied(DeniedReason::TicketForged));
}

#[tokio::test]
async fn a_busy_site_is_left_for_the_next_and_then_for_direct() {
    let lab = Lab::new(2).await;
    lab.managers[0].set(Mode::Busy);
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[2].address);
    lab.managers[1].set(Mode::Busy);
    let (_listener, destination) = mail_server().await;
    let upstream = open(&relay, destination).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::NoProxy);
}

#[tokio::test]
async fn a_deaf_manager_does_not_hold_up_every_session_after_each_probe() {
    let lab = Lab::new(1).await;
    let mut settings = Settings { warm_links: 0, ..lab.settings() };
    settings.timing.manager_answer_max = Duration::from_millis(700);
    let relay = start(settings);
    admitted(&relay).await;
    lab.managers[0].set(Mode::Deaf);
    let (_listener, destination) = mail_server().await;
    open(&relay, destination).await.unwrap();
    let probes = relay.status().counters.probes;
    until_status(&relay, "probed", |status| status.counters.probes > probes + 1).await;
    let begun = Instant::now();
    let upstream = open(&relay, destination).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::ManagersDead);
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    lab.managers[0].set(Mode::Well);
    until_status(&relay, "back", |s| s.managers[0].state == ManagerState::Up).await;
    proxy_of(&open(&relay, nowhere()).await.unwrap());
}

#[tokio::test]
async fn nonsense_from_a_manager_is_a_failure_and_nothing_worse() {
    let lab = Lab::new(2).await;
    lab.managers[0].set(Mode::Nonsense);
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[2].address);
}

#[tokio::test]
async fn unused_leases_are_given_back() {
    let lab = Lab::new(2).await;
    let mut settings = lab.settings();
    settings.timing.warm_age_max = Duration::from_millis(200);
    let relay = start(settings);
    warm(&relay, 1).await;
    until("aged links gave their leases back", || lab.managers[0].log().byes.len() >= 3).await;
    let log = lab.managers[0].log();
    assert!(log.byes.iter().all(|bye| bye.session == SessionId([0; 16]) && bye.bytes_up == 0));
    assert!(log.byes.len() <= log.assigns.len());
}

#[tokio::test]
async fn a_session_nobody_waits_for_gives_its_lease_back() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    lab.proxies[0].set(Mode::Deaf);
    let waiting = timeout(Duration::from_millis(100), open(&relay, nowhere())).await;
    assert!(waiting.is_err());
    until("given back", || lab.managers[0].log().byes.iter().any(|b| b.lease == LeaseId(1))).await;
}

#[tokio::test]
async fn a_site_taken_out_of_dns_gets_no_new_sessions() {
    let lab = Lab::new(2).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    assert_eq!(relay.status().warm_links[0].proxy, lab.proxies[0].address);
    lab.list(&[1]);
    relay.network_changed();
    until_status(&relay, "moved", |status| {
        status.managers.len() == 1
            && status.warm_links.iter().any(|warm| warm.proxy == lab.proxies[2].address)
    })
    .await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[2].address);
}

#[tokio::test]
async fn a_site_taken_out_of_dns_is_empty_when_its_last_session_has_ended() {
    let lab = Lab::new(2).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[0].address);
    lab.list(&[1]);
    relay.network_changed();
    until_status(&relay, "moved", |status| {
        status.managers.len() == 1
            && status.warm_links.iter().any(|warm| warm.proxy == lab.proxies[2].address)
    })
    .await;
    // Its manager hears of the session's end, so the connection waits for that.
    assert_eq!(lab.managers[0].log().ended, 0);
    relay.bye(&upstream.way, bye());
    drop(upstream);
    until("empty", || lab.managers[0].log().ended == lab.managers[0].log().connections).await;
    assert!(lab.managers[0].log().byes.len() > 1, "the session's, and the warm link's");
}

#[tokio::test]
async fn many_sessions_at_once_are_all_relayed() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let relay = relay.clone();
        sessions.spawn(async move { open(&relay, nowhere()).await.unwrap() });
    }
    for upstream in sessions.join_all().await {
        proxy_of(&upstream);
    }
    assert_eq!(lab.proxies[0].log().opens.len(), 40);
}

#[tokio::test]
async fn switched_off_it_asks_nobody() {
    let lab = Lab::new(1).await;
    let relay = start(Settings { relay: false, ..lab.settings() });
    let (_listener, destination) = mail_server().await;
    let upstream = open(&relay, destination).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::Chosen);
    assert_eq!(lab.dns.source_ports(), [] as [u16; 0]);
    assert_eq!(lab.auther.log().hellos, 0);
}

#[tokio::test]
async fn the_status_is_json() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    let json = serde_json::to_value(relay.status()).unwrap();
    assert_eq!(json["route"]["warm"]["proxy"], lab.proxies[0].address.to_string());
    assert_eq!(json["managers"][0]["state"], "up");
    assert_eq!(json["counters"]["logins"], 1);
    assert!(json["ticket"]["valid"]["until_s"].is_u64());
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_the_start() {
    let lab = Lab::new(0).await;
    let broken = Settings { fleet_ca_pem: "no".into(), ..lab.settings() };
    assert!(matches!(Relay::start(broken), Err(crate::StartError::Identity(_))));
    let broken = Settings { ticket_key_pem: "no".into(), ..lab.settings() };
    assert!(matches!(Relay::start(broken), Err(crate::StartError::TicketKey(_))));
}
