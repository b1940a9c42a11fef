//! What happens where a limit is reached.

use std::sync::Arc;

use tokio::task::JoinSet;
use wire::identity::Role;

use super::*;
use crate::limits::{
    ASSIGNS_UNANSWERED_MAX, ATTEMPTS_MAX, AUTHERS_TRIED_MAX, BYES_QUEUED_MAX, MANAGER_QUEUE_MAX,
    WARM_LINKS_MAX,
};
use crate::manager_link::{Request, request};

#[tokio::test]
async fn byes_beyond_the_queue_are_counted() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    let manager = lab.managers[0].address;
    let way = Way::Relay { manager, proxy: lab.proxies[0].address, lease: LeaseId(1) };
    // The runtime has one thread: nobody takes any out meanwhile.
    for _ in 0..BYES_QUEUED_MAX + 7 {
        relay.bye(&way, bye());
    }
    assert_eq!(relay.status().counters.byes_lost, 7);
}

#[tokio::test]
async fn a_managers_queue_is_bounded_and_full_means_the_next_way() {
    let lab = Lab::new(1).await;
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    lab.managers[0].set(Mode::Frozen);
    let (manager, shared) = (lab.managers[0].address, Arc::clone(&relay.0.shared));
    let (_listener, destination) = mail_server().await;
    let mut taken = 0;
    while request(&shared, &mut shared.core(), manager, Request::Ping).is_ok() {
        taken += 1;
    }
    assert!(taken == MANAGER_QUEUE_MAX || taken == MANAGER_QUEUE_MAX - 1, "{taken}");
    let upstream = open(&relay, destination).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::NoProxy, "at once, and direct");
    assert_eq!(relay.status().counters.queue_full, 1);
}

#[tokio::test]
async fn unanswered_questions_are_bounded() {
    let lab = Lab::new(1).await;
    let mut settings = lab.settings();
    settings.warm_links = 0;
    settings.timing.manager_answer_max = Duration::from_secs(60);
    settings.timing.relay_budget = Duration::from_secs(60);
    let relay = start(settings);
    admitted(&relay).await;
    until("the probe was answered", || lab.managers[0].log().assigns.len() == 1).await;
    until_status(&relay, "up", |s| s.managers[0].state == ManagerState::Up).await;
    lab.managers[0].set(Mode::Deaf);
    let mut sessions = JoinSet::new();
    for wave in [600, 1024] {
        for _ in 0..600 {
            let relay = relay.clone();
            sessions.spawn(async move { open(&relay, nowhere()).await });
        }
        until("asked", || lab.managers[0].log().assigns.len() == 1 + wave).await;
    }
    sleep(Duration::from_millis(200)).await;
    assert_eq!(lab.managers[0].log().assigns.len(), 1 + ASSIGNS_UNANSWERED_MAX);
}

#[tokio::test]
async fn a_session_tries_so_many_proxies_and_goes_direct() {
    let mut lab = Lab::new(1).await;
    for _ in 0..ATTEMPTS_MAX {
        let address = SocketAddr::new(lab.managers[0].address.ip(), 0);
        lab.proxies.push(lab.fleet.serve(Role::Proxy, address).await);
    }
    // One alternate at a time, as a `Use` holds only so many.
    lab.managers[0].names(&lab.proxies.iter().map(|proxy| proxy.address).collect::<Vec<_>>()[..9]);
    for proxy in &lab.proxies {
        proxy.set(Mode::Refuse(RefusedReason::Full));
    }
    let relay = start(Settings { warm_links: 0, ..lab.settings() });
    admitted(&relay).await;
    let (_listener, destination) = mail_server().await;
    let upstream = open(&relay, destination).await.unwrap();
    assert_eq!(direct_reason(&upstream), DirectReason::BudgetSpent);
    let opens: usize = lab.proxies.iter().map(|proxy| proxy.log().opens.len()).sum();
    assert_eq!(opens, usize::try_from(ATTEMPTS_MAX).unwrap());
}

#[tokio::test]
async fn no_setting_makes_more_warm_links_than_the_limit() {
    let lab = Lab::new(1).await;
    let relay = start(Settings { warm_links: 1000, ..lab.settings() });
    warm(&relay, WARM_LINKS_MAX).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(relay.status().warm_links.len(), WARM_LINKS_MAX);
    assert_eq!(lab.proxies[0].log().connections, WARM_LINKS_MAX);
}

#[tokio::test]
async fn a_login_tries_so_many_authers_and_the_next_goes_on() {
    let lab = Lab::new(1).await;
    let mut addresses: Vec<std::net::IpAddr> =
        (1..=AUTHERS_TRIED_MAX).map(|n| [127, 0, 1, u8::try_from(n).unwrap()].into()).collect();
    addresses.push(lab.auther.address.ip());
    lab.dns.set_name("auther.example", Reply::addresses(&addresses, 60));
    let relay = start(lab.settings());
    admitted(&relay).await;
    let counters = relay.status().counters;
    assert_eq!((counters.logins_failed, counters.logins), (1, 1));
}

#[tokio::test]
async fn a_proxy_that_says_pong_without_end_is_left() {
    let lab = Lab::new(1).await;
    let relay = start(lab.settings());
    warm(&relay, 1).await;
    lab.proxies[0].set(Mode::Pongs);
    let upstream = open(&relay, nowhere()).await.unwrap();
    assert_eq!(proxy_of(&upstream), lab.proxies[1].address);
}
