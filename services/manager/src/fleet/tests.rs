//! Selection, exclusion, marks and counting, on a table of four proxies.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::health::Mark;

mod operated;
mod shares;

const HEALTH: HealthSettings = HealthSettings {
    load_average_max_milli: 8_000,
    load_average_recover_milli: 6_000,
    recover_polls: 3,
};
const IDLE: Report = Report { load_average_milli: 0, sessions: 0, draining: false };
const SEED: u64 = 20_261_123;

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn public(proxy: ProxyIndex) -> SocketAddr {
    format!("203.0.113.{}:4652", proxy + 1).parse().unwrap()
}

/// Proxies 0 to 3 with weights 1, 1, 2, 2, written as in the example; none polled.
fn unpolled(selection: Selection, now: Instant) -> Fleet {
    let pairs: BTreeMap<String, String> =
        (1..=4).map(|n| (format!("10.0.0.{n}"), format!("203.0.113.{n}"))).collect();
    let list = "10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.3, 10.0.0.4, 10.0.0.4";
    Fleet::new(Table::parse(list, &pairs).unwrap(), selection, HEALTH, SEED, now)
}

fn fleet(selection: Selection) -> (Fleet, Instant, ConnectionId) {
    let now = start();
    let mut fleet = unpolled(selection, now);
    for proxy in 0..4 {
        fleet.reported(proxy, IDLE, now);
    }
    let connection = fleet.connected();
    (fleet, now, connection)
}

/// The proxies of an answer, chosen first.
fn named(assignment: &Assignment) -> Vec<ProxyIndex> {
    match assignment {
        Assignment::Busy | Assignment::TooMany(_) => Vec::new(),
        Assignment::Use { proxy, alternates, .. } => std::iter::once(proxy)
            .chain(alternates)
            .map(|address| (0..4).find(|&at| public(at) == *address).unwrap())
            .collect(),
    }
}

fn lease(assignment: &Assignment) -> LeaseId {
    match assignment {
        Assignment::Use { lease, .. } => *lease,
        other => panic!("{other:?}"),
    }
}

fn live(fleet: &Fleet) -> Vec<u32> {
    fleet.status(start()).map(|proxy| proxy.live).collect()
}

#[test]
fn the_table_is_rotated_as_written() {
    let (mut fleet, now, connection) = fleet(Selection::Table);
    let chosen: Vec<_> = (0..12).map(|_| named(&fleet.assign(connection, &[], now))[0]).collect();
    assert_eq!(chosen, [0, 1, 2, 2, 3, 3, 0, 1, 2, 2, 3, 3]);
    assert_eq!(named(&fleet.assign(connection, &[], now)), [0, 1, 2, 3]);
    assert_eq!(named(&fleet.assign(connection, &[], now)), [1, 2, 3, 0]);
}

#[test]
fn the_rotation_steps_over_what_may_not_be_named() {
    let (mut fleet, now, connection) = fleet(Selection::Table);
    fleet.poll_failed(1, PollFailure::TimedOut, now);
    let exclude = [public(3)];
    let chosen: Vec<_> =
        (0..6).map(|_| named(&fleet.assign(connection, &exclude, now))[0]).collect();
    assert_eq!(chosen, [0, 2, 2, 0, 2, 2]);
}

#[test]
fn least_load_takes_the_smallest_and_lists_the_rest_in_order() {
    let (mut fleet, now, connection) = fleet(Selection::LeastLoad);
    for (proxy, load_average_milli) in [(0, 900), (1, 300), (2, 2_000), (3, 700)] {
        fleet.reported(proxy, Report { load_average_milli, ..IDLE }, now);
    }
    for _ in 0..3 {
        assert_eq!(named(&fleet.assign(connection, &[], now)), [1, 3, 0, 2]);
    }
}

#[test]
fn least_load_with_equal_loads_follows_the_shares() {
    let (mut fleet, now, connection) = fleet(Selection::LeastLoad);
    for _ in 0..600 {
        fleet.assign(connection, &[], now);
    }
    assert_eq!(live(&fleet), [100, 100, 200, 200]);
}

#[test]
fn two_choices_spread_by_weight() {
    let (mut fleet, now, connection) = fleet(Selection::TwoChoices);
    for _ in 0..6_000 {
        fleet.assign(connection, &[], now);
    }
    for (live, share) in live(&fleet).into_iter().zip([1_000, 1_000, 2_000, 2_000]) {
        assert!(live.abs_diff(share) <= 20, "{live} instead of {share}");
    }
}

#[test]
fn two_choices_of_short_sessions_spread_by_weight_too() {
    let (mut fleet, now, connection) = fleet(Selection::TwoChoices);
    let mut counts = [0_u32; 4];
    for _ in 0..12_000 {
        let assignment = fleet.assign(connection, &[], now);
        counts[named(&assignment)[0]] += 1;
        assert!(fleet.bye(connection, lease(&assignment)));
    }
    // Drawn by share, and nothing to choose between the two drawn.
    for (count, share) in counts.into_iter().zip([2_000, 2_000, 4_000, 4_000]) {
        assert!(count.abs_diff(share) <= 300, "{count} instead of {share}");
    }
}

#[test]
fn two_choices_never_take_the_worst_and_use_load_between_equals() {
    let (mut fleet, now, connection) = fleet(Selection::TwoChoices);
    fleet.reported(0, Report { sessions: 500, ..IDLE }, now);
    for proxy in 1..4 {
        let load_average_milli = 1_000 - 100 * u32::try_from(proxy).unwrap();
        let report = Report { load_average_milli, ..IDLE };
        fleet.reported(proxy, report, now);
    }
    let mut counts = [0_u32; 4];
    for _ in 0..1_000 {
        let assignment = fleet.assign(connection, &[], now);
        let order = named(&assignment);
        assert_eq!(order.last(), Some(&0));
        counts[order[0]] += 1;
        fleet.bye(connection, lease(&assignment));
    }
    // Whatever is drawn beside the crowded one wins; among the rest the smaller load does.
    assert_eq!(counts[0], 0);
    assert!(counts[1] < counts[2] && counts[2] < counts[3], "{counts:?}");
}

/// Two managers of one site whose reports are old: most sessions that one proxy of four gets of
/// the hundred between two reports.
fn most_between_reports(selection: Selection) -> u32 {
    const BETWEEN_REPORTS: u32 = 100;
    let (mut one, now, box_of_one) = fleet(selection);
    let (mut two, _, box_of_two) = fleet(selection);
    // Another seed than the first: they are two programs.
    two.random = Random::new(SEED + 1);
    let mut sessions = [0_u32; 4];
    let mut most = 0;
    for _ in 0..20 {
        for (proxy, sessions) in sessions.iter().copied().enumerate() {
            // No two real hosts have the same load.
            let load_average_milli = 4 * sessions + u32::try_from(proxy).unwrap();
            let report = Report { load_average_milli, sessions, draining: false };
            one.reported(proxy, report, now);
            two.reported(proxy, report, now);
        }
        let before = sessions;
        for _ in 0..BETWEEN_REPORTS / 2 {
            sessions[named(&one.assign(box_of_one, &[], now))[0]] += 1;
            sessions[named(&two.assign(box_of_two, &[], now))[0]] += 1;
        }
        let got = sessions.iter().zip(before).map(|(after, before)| after - before);
        most = most.max(got.max().unwrap());
    }
    most
}

#[test]
fn least_load_herds_on_old_reports_and_two_choices_do_not() {
    // The shares are 1, 1, 2, 2 of 6: a third is fair, and some more makes up for the time before.
    let two_choices = most_between_reports(Selection::TwoChoices);
    assert!(two_choices <= 60, "{two_choices}");
    // All of them: why it is not the default.
    assert_eq!(most_between_reports(Selection::LeastLoad), 100);
}

#[test]
fn nothing_is_named_before_its_first_poll() {
    let now = start();
    let mut fleet = unpolled(Selection::TwoChoices, now);
    let connection = fleet.connected();
    assert_eq!(fleet.assign(connection, &[], now), Assignment::Busy);
    fleet.reported(2, IDLE, now);
    assert_eq!(named(&fleet.assign(connection, &[], now)), [2]);
}

#[test]
fn draining_takes_effect_at_once_and_ends_at_once() {
    let (mut fleet, now, connection) = fleet(Selection::LeastLoad);
    fleet.reported(0, Report { draining: true, ..IDLE }, now);
    assert!(!named(&fleet.assign(connection, &[], now)).contains(&0));
    fleet.reported(0, IDLE, now);
    assert!(named(&fleet.assign(connection, &[], now)).contains(&0));
}

#[test]
fn all_marked_or_excluded_is_busy() {
    for selection in [Selection::Table, Selection::LeastLoad, Selection::TwoChoices] {
        let (mut fleet, now, connection) = fleet(selection);
        let exclude: Vec<_> = (0..4).map(public).collect();
        assert_eq!(fleet.assign(connection, &exclude, now), Assignment::Busy);
        for proxy in 0..4 {
            fleet.poll_failed(proxy, PollFailure::Unreachable, now);
        }
        assert_eq!(fleet.assign(connection, &[], now), Assignment::Busy);
        assert_eq!(fleet.leases(), 0);
    }
}

#[test]
fn a_marked_proxy_says_why() {
    let (mut fleet, now, _) = fleet(Selection::TwoChoices);
    let report = Report { load_average_milli: 8_500, ..IDLE };
    let change = fleet.reported(1, report, now);
    assert_eq!(change, Some(Change::Marked(Mark::Overloaded(8_500))));
    assert!(matches!(
        fleet.status(now).nth(1).unwrap().health,
        Health::Marked { why: Mark::Overloaded(8_500), .. }
    ));
}

#[test]
fn live_sessions_are_the_report_and_the_leases_since() {
    let (mut fleet, now, connection) = fleet(Selection::Table);
    let leases: Vec<_> = (0..6).map(|_| lease(&fleet.assign(connection, &[], now))).collect();
    assert_eq!(live(&fleet), [1, 1, 2, 2]);
    // Another manager's sessions come on top.
    fleet.reported(0, Report { sessions: 7, ..IDLE }, now);
    assert_eq!(live(&fleet), [7, 1, 2, 2]);
    fleet.assign(connection, &[], now);
    assert_eq!(live(&fleet), [8, 1, 2, 2]);
    // The end of a session that is in the report shows with the next report only.
    assert!(fleet.bye(connection, leases[0]));
    assert_eq!(live(&fleet), [8, 1, 2, 2]);
    fleet.reported(0, Report { sessions: 0, ..IDLE }, now);
    // An assignment in hand, not used yet, still counts.
    assert_eq!(live(&fleet), [1, 1, 2, 2]);
}

#[test]
fn leases_of_a_vanished_box_are_returned() {
    let (mut fleet, now, connection) = fleet(Selection::Table);
    let other = fleet.connected();
    let kept = lease(&fleet.assign(other, &[], now));
    for _ in 0..5 {
        fleet.assign(connection, &[], now);
    }
    assert!(!fleet.bye(connection, kept), "the lease is another box's");
    fleet.disconnected(connection);
    assert_eq!(live(&fleet), [1, 0, 0, 0]);
    assert!(fleet.bye(other, kept));
    assert_eq!(live(&fleet), [0, 0, 0, 0]);
}

#[test]
fn leases_expire_and_are_bounded() {
    use crate::lease::{LEASE_LIFE_MAX, LEASES_MAX};
    let (mut fleet, now, connection) = fleet(Selection::Table);
    let first = lease(&fleet.assign(connection, &[], now));
    fleet.assign(connection, &[], now + LEASE_LIFE_MAX);
    assert_eq!(live(&fleet), [0, 1, 0, 0]);
    assert!(!fleet.bye(connection, first));
    for _ in 0..LEASES_MAX + 10 {
        fleet.assign(connection, &[], now + LEASE_LIFE_MAX);
    }
    assert_eq!(fleet.leases(), LEASES_MAX);
    let total: u32 = live(&fleet).iter().sum();
    assert_eq!(usize::try_from(total).unwrap(), LEASES_MAX);
}

/// What can happen to a fleet.
#[derive(Debug, Clone)]
enum Step {
    Assign { exclude: Vec<ProxyIndex> },
    Bye { lease: u64 },
    Reported { proxy: ProxyIndex, report: Report },
    Failed { proxy: ProxyIndex },
    Reconnect,
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0_usize..4, 0..3).prop_map(|exclude| Step::Assign { exclude }),
        2 => (0_u64..60).prop_map(|lease| Step::Bye { lease }),
        4 => (0_usize..4, 0_u32..12_000, 0_u32..50, prop::bool::weighted(0.1)).prop_map(
            |(proxy, load_average_milli, sessions, draining)| Step::Reported {
                proxy,
                report: Report { load_average_milli, sessions, draining },
            }
        ),
        1 => (0_usize..4).prop_map(|proxy| Step::Failed { proxy }),
        1 => Just(Step::Reconnect),
        1 => (0_u64..2_000).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    /// Whatever happens: only what is usable and not excluded is named, each proxy once, a usable
    /// one is always found, and the counts agree with the leases.
    #[test]
    fn only_usable_proxies_are_named(
        steps in prop::collection::vec(step(), 1..200),
        selection in prop::sample::select(vec![
            Selection::Table, Selection::LeastLoad, Selection::TwoChoices,
        ]),
    ) {
        let (mut fleet, mut now, mut connection) = fleet(selection);
        for step in steps {
            match step {
                Step::Assign { exclude } => {
                    let excluded: Vec<_> = exclude.iter().copied().map(public).collect();
                    let allowed: Vec<ProxyIndex> = fleet
                        .proxies
                        .iter()
                        .enumerate()
                        .filter(|(at, state)| {
                            state.is_some_and(|state| state.is_usable()) && !exclude.contains(at)
                        })
                        .map(|(at, _)| at)
                        .collect();
                    let mut order = named(&fleet.assign(connection, &excluded, now));
                    order.sort_unstable();
                    prop_assert_eq!(order, allowed);
                }
                Step::Bye { lease } => { fleet.bye(connection, LeaseId(lease)); }
                Step::Reported { proxy, report } => { fleet.reported(proxy, report, now); }
                Step::Failed { proxy } => {
                    fleet.poll_failed(proxy, PollFailure::TimedOut, now);
                }
                Step::Reconnect => {
                    fleet.disconnected(connection);
                    connection = fleet.connected();
                }
                Step::Wait { seconds } => now += Duration::from_secs(seconds),
            }
            let states = || fleet.proxies.iter().flatten();
            let outstanding: u32 = states().map(|state| state.outstanding).sum();
            prop_assert_eq!(usize::try_from(outstanding).unwrap(), fleet.leases());
            prop_assert!(states().all(|state| state.fresh() <= state.outstanding));
        }
        fleet.disconnected(connection);
        prop_assert_eq!(fleet.leases(), 0);
        let mut states = fleet.proxies.iter().flatten();
        prop_assert!(states.all(|state| state.outstanding == 0 && state.fresh() == 0));
    }
}
