//! Two sites with a PostgreSQL server each, and the first of them lost.

use super::*;
use crate::registry::cluster::Cluster;
use crate::registry::{ApplyError, RegistryError};

const DATABASE: &str = "registry";

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

/// What README.md tells the operator to do, with the addresses of this test.
async fn replicate(primary: &Cluster, copy: &Cluster) {
    let publish = "CREATE PUBLICATION avr FOR TABLE device, revocation, audit, token, state";
    primary.run(DATABASE, publish).await;
    let from = primary.conninfo(DATABASE);
    let subscribe = format!("CREATE SUBSCRIPTION avr CONNECTION '{from}' PUBLICATION avr");
    copy.run(DATABASE, &subscribe).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_site_goes_on_admitting_when_the_primary_is_lost() {
    let (mut primary, copy) = (Cluster::start(), Cluster::start());
    let (at_primary, at_copy) = (primary.database(DATABASE).await, copy.database(DATABASE).await);
    let fleet = Arc::new(Fleet::new());
    let first = Registry::connect(&at_primary, None).await.unwrap();
    let second = Registry::connect(&at_copy, Some(&at_primary)).await.unwrap();
    replicate(&primary, &copy).await;
    let first = Scene::over(fleet.clone(), first).await;
    let second = Scene::over(fleet.clone(), second).await;

    // Whatever is written at either site is written at the primary, and comes back to the copy.
    let keys: Vec<_> = (0..4).map(|_| DeviceKey::generate().unwrap()).collect();
    for last in [1, 2, 3] {
        let site = if last == 1 { &first } else { &second };
        site.change(mac(last), Command::Add(NewDevice::default()), NOW_S).await;
    }
    second.ticket_as(mac(1), &keys[1]).await;
    let suspended = second.ticket_as(mac(3), &keys[3]).await;
    first.change(mac(3), Command::Suspend, NOW_S).await;
    // One state, one revocation, three boxes, of which two have keys.
    let copied = "SELECT (SELECT count(*) FROM state) + (SELECT count(*) FROM revocation)
                  + (SELECT count(*) FROM device) + (SELECT count(key) FROM device)";
    while copy.number(DATABASE, copied).await != 7 {
        tokio::task::yield_now().await;
    }

    primary.kill();
    second.ticket_as(mac(1), &keys[1]).await;
    assert_eq!(second.denied_as(mac(3), &keys[3]).await, DeniedReason::Suspended);
    assert_eq!(second.denied_as(mac(9), &keys[0]).await, DeniedReason::Unknown);
    assert_eq!(second.denied_as(mac(1), &keys[0]).await, DeniedReason::OtherKey);
    // A key cannot be bound; the box is told to ask another auther, or later.
    assert_eq!(second.denied_as(mac(2), &keys[2]).await, DeniedReason::Unavailable);
    let Fetched::List { list, .. } = second.fetch(0).await else { panic!("no list") };
    assert_eq!(list.revoked(&suspended), Some(RevokedReason::Suspended));
    let commands = vec![(mac(1), Command::Suspend)];
    let actor = Actor::token("ops");
    let changes = Changes { actor, now_s: NOW_S, commands, mode: Mode::Commit };
    let error = second.registry.apply(changes).await.unwrap_err();
    let ApplyError::Registry(error) = error else { panic!("{error}") };
    assert!(matches!(error, RegistryError::Away { .. } | RegistryError::Step { .. }), "{error}");
    assert_eq!(second.registry.is_primary_away(), Some(true));
    assert_eq!(first.denied_as(mac(1), &keys[1]).await, DeniedReason::Unavailable);

    // An auther that starts now admits from the copy, too.
    let late = Registry::connect(&at_copy, Some(&at_primary)).await.unwrap();
    let late = Scene::over(fleet, late).await;
    late.ticket_as(mac(1), &keys[1]).await;

    primary.start_again();
    loop {
        match second.login_as(mac(2), &keys[2]).await {
            Message::Ticket(_) => break,
            Message::Denied(Denied { reason }) => assert_eq!(reason, DeniedReason::Unavailable),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(second.registry.is_primary_away(), Some(false));
}
