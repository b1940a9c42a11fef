//! What the operator does: drains, and another table; and a box's limits.

use super::*;
use crate::quota::{IN_HAND_MAX, Surplus};

fn local(proxy: ProxyIndex) -> SocketAddr {
    format!("10.0.0.{}:4652", proxy + 1).parse().unwrap()
}

fn table(list: &str) -> Table {
    let pairs: BTreeMap<String, String> = (1..=9)
        .filter(|n| list.contains(&format!("10.0.0.{n}")))
        .map(|n| (format!("10.0.0.{n}"), format!("203.0.113.{n}")))
        .collect();
    Table::parse(list, &pairs).unwrap()
}

#[test]
fn a_drained_proxy_is_not_named_and_says_when_nothing_is_left() {
    for address in [local(0), public(0)] {
        let (mut fleet, now, connection) = fleet(Selection::Table);
        let first = lease(&fleet.assign(connection, &[], now));
        fleet.reported(0, Report { sessions: 1, ..IDLE }, now);
        assert!(fleet.drain(Some(address)));
        for _ in 0..20 {
            assert!(!named(&fleet.assign(connection, &[], now)).contains(&0));
        }
        assert_eq!(fleet.left(Some(address)), Some(Left { sessions: 1, leases: 1 }));
        fleet.bye(connection, first);
        assert_eq!(fleet.take_emptied(), [], "its report still shows the session");
        fleet.reported(0, IDLE, now);
        assert_eq!(fleet.take_emptied(), [Emptied { proxy: local(0), gone: None }]);
        assert_eq!(fleet.take_emptied(), [], "said once");
        assert!(fleet.left(Some(address)).unwrap().is_nothing());
        assert!(fleet.undrain(Some(address), now));
        assert!(named(&fleet.assign(connection, &[], now)).contains(&0));
        // It comes back slowly.
        assert_eq!(fleet.status(now).next().unwrap().share_milli, START_SHARE_MILLI);
    }
}

#[test]
fn a_drained_site_names_nobody_until_it_is_undrained() {
    let (mut fleet, now, connection) = fleet(Selection::TwoChoices);
    let first = lease(&fleet.assign(connection, &[], now));
    assert!(fleet.can_name());
    fleet.drain(None);
    assert!(fleet.is_drained() && !fleet.can_name());
    assert_eq!(fleet.assign(connection, &[], now), Assignment::Busy);
    assert_eq!(fleet.take_emptied().len(), 3, "all but the one with a session");
    fleet.bye(connection, first);
    assert_eq!(fleet.take_emptied().len(), 1);
    assert!(fleet.left(None).unwrap().is_nothing());
    fleet.undrain(None, now);
    assert_eq!(named(&fleet.assign(connection, &[], now)).len(), 4);
    // All of them came back together: none of them slowly.
    assert!(fleet.status(now).all(|proxy| proxy.share_milli == 1_000));
}

#[test]
fn what_does_not_answer_is_not_waited_for_and_who_is_not_there_is_not_drained() {
    let (mut fleet, now, _) = fleet(Selection::Table);
    fleet.reported(0, Report { sessions: 9, ..IDLE }, now);
    fleet.drain(Some(local(0)));
    fleet.poll_failed(0, PollFailure::Unreachable, now);
    assert_eq!(fleet.take_emptied(), [Emptied { proxy: local(0), gone: None }]);
    assert!(!fleet.drain(Some(local(8))) && !fleet.undrain(Some(local(8)), now));
    assert_eq!(fleet.left(Some(local(8))), None);
}

#[test]
fn another_table_keeps_what_stays_and_drains_what_goes() {
    let (mut fleet, now, connection) = fleet(Selection::Table);
    for _ in 0..6 {
        fleet.assign(connection, &[], now);
    }
    fleet.drain(Some(local(2)));
    // The second goes, the fifth is new, the third is written once more.
    let next = table("10.0.0.5,10.0.0.3,10.0.0.3,10.0.0.3,10.0.0.1,10.0.0.4");
    let reloaded = fleet.reload(&next, Selection::LeastLoad, HEALTH, now);
    assert_eq!(reloaded.added, [(4, local(4))]);
    assert_eq!((reloaded.leaving.as_slice(), reloaded.kept), ([local(1)].as_slice(), 3));
    assert_eq!(fleet.leases(), 6, "no session was dropped");
    assert_eq!(fleet.selection(), Selection::LeastLoad);
    let known: Vec<_> = fleet.status(now).map(|p| (p.weight, p.live, p.drained)).collect();
    assert_eq!(known, [(1, 1, false), (0, 1, false), (3, 2, true), (1, 2, false), (1, 0, false)]);
    // The new one is named when it has been polled, and slowly.
    assert!(!named(&fleet.assign(connection, &[], now)).contains(&4));
    fleet.reported(4, IDLE, now);
    assert_eq!(fleet.status(now).nth(4).unwrap().share_milli, START_SHARE_MILLI);
    // What goes is not named, but still counted until it is empty; then its place is free.
    let leases: Vec<LeaseId> = (1..=6).map(LeaseId).collect();
    assert_eq!(fleet.take_emptied(), []);
    for lease in leases {
        fleet.bye(connection, lease);
    }
    fleet.disconnected(connection);
    let emptied = fleet.take_emptied();
    assert!(emptied.contains(&Emptied { proxy: local(1), gone: Some(1) }), "{emptied:?}");
    assert!(fleet.is_at(0, local(0)) && !fleet.is_at(1, local(1)));
    let again = fleet.reload(&table("10.0.0.1,10.0.0.6"), Selection::Table, HEALTH, now);
    assert_eq!(again.added, [(1, local(5))], "the free place is taken");
}

#[test]
fn who_comes_back_into_the_table_before_it_has_left_stays_where_it_was() {
    let (mut fleet, now, connection) = fleet(Selection::Table);
    fleet.assign(connection, &[], now);
    fleet.reload(&table("10.0.0.2"), Selection::Table, HEALTH, now);
    assert_eq!(named(&fleet.assign(connection, &[], now)), [1]);
    let back = fleet.reload(&table("10.0.0.1,10.0.0.2"), Selection::Table, HEALTH, now);
    assert_eq!((back.added.len(), back.kept), (0, 2));
    assert_eq!(live(&fleet)[0], 1);
}

#[test]
fn any_number_of_tables_takes_no_more_places_than_there_are_proxies() {
    let (mut fleet, now, _) = fleet(Selection::Table);
    for turn in 0..1_000 {
        let list = format!("10.0.0.{},10.0.0.{}", turn % 9 + 1, (turn + 1) % 9 + 1);
        fleet.reload(&table(&list), Selection::Table, HEALTH, now);
        fleet.take_emptied();
        assert_eq!(fleet.status(now).count(), 2);
    }
    assert!(fleet.proxies.len() <= 6, "{}", fleet.proxies.len());
}

#[test]
fn a_box_gets_what_its_ticket_grants_and_the_others_go_on() {
    let (mut fleet, now, greedy) = fleet(Selection::TwoChoices);
    let modest = fleet.connected();
    fleet.admitted(greedy, KeyFingerprint([1; 32]), 20, now);
    fleet.admitted(modest, KeyFingerprint([2; 32]), 20, now);
    assert_eq!(fleet.boxes(), 2);
    let most = 20 + IN_HAND_MAX;
    let mut later = now;
    let mut leases = Vec::new();
    for _ in 0..most {
        later += Duration::from_secs(1);
        leases.push(lease(&fleet.assign(greedy, &[], later)));
    }
    later += Duration::from_secs(10);
    let refused = fleet.assign(greedy, &[], later);
    assert_eq!(refused, Assignment::TooMany(Surplus::Sessions));
    assert_eq!(fleet.leases(), usize::try_from(most).unwrap());
    assert!(!named(&fleet.assign(modest, &[], later)).is_empty());
    // One is over: the next is granted.
    assert!(fleet.bye(greedy, leases[0]));
    assert!(!fleet.bye(greedy, leases[0]), "and only once");
    assert!(!fleet.bye(modest, leases[1]), "and not by another");
    assert!(!named(&fleet.assign(greedy, &[], later)).is_empty());
    // Questions without end are answered at the rate of the ticket.
    let mut count = 0;
    while matches!(fleet.assign(modest, &[], later), Assignment::Use { .. }) {
        count += 1;
    }
    assert_eq!(count, most - 1);
    fleet.disconnected(greedy);
    fleet.disconnected(modest);
    assert_eq!((fleet.leases(), fleet.boxes()), (0, 0));
}
