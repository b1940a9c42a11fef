//! Shares: the classic table, the slow start, and what a proxy may say of itself.

use super::*;

const SELECTIONS: [Selection; 3] = [Selection::Table, Selection::LeastLoad, Selection::TwoChoices];

/// Five proxies, two written once and three twice, all up.
fn classic(selection: Selection) -> (Fleet, Instant, ConnectionId) {
    let pairs: BTreeMap<String, String> =
        (1..=5).map(|n| (format!("10.0.0.{n}"), format!("203.0.113.{n}"))).collect();
    let list = "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.3,10.0.0.4,10.0.0.4,10.0.0.5,10.0.0.5";
    let now = start();
    let table = Table::parse(list, &pairs).unwrap();
    let mut fleet = Fleet::new(table, selection, HEALTH, SEED, now);
    for proxy in 0..5 {
        fleet.reported(proxy, IDLE, now);
    }
    let connection = fleet.connected();
    (fleet, now, connection)
}

/// How often each is chosen of `count` times, sessions staying.
fn chosen(fleet: &mut Fleet, connection: ConnectionId, count: u32, now: Instant) -> Vec<u64> {
    let before: Vec<u64> = fleet.status(now).map(|proxy| proxy.chosen).collect();
    for _ in 0..count {
        assert!(matches!(fleet.assign(connection, &[], now), Assignment::Use { .. }));
    }
    fleet.status(now).zip(before).map(|(proxy, before)| proxy.chosen - before).collect()
}

#[test]
fn the_classic_table_gives_each_its_share_within_two_percent() {
    for selection in SELECTIONS {
        let (mut fleet, now, connection) = classic(selection);
        let counts = chosen(&mut fleet, connection, 10_000, now);
        for (count, share) in counts.iter().zip([1_250, 1_250, 2_500, 2_500, 2_500_u64]) {
            assert!(count.abs_diff(share) <= share / 50, "{selection:?}: {counts:?}");
        }
    }
}

/// A fleet of four with equal loads whose first proxy has just come back.
fn come_back(selection: Selection) -> (Fleet, Instant, ConnectionId) {
    let (mut fleet, now, connection) = fleet(selection);
    fleet.poll_failed(0, PollFailure::TimedOut, now);
    for _ in 0..HEALTH.recover_polls {
        fleet.reported(0, IDLE, now);
    }
    (fleet, now, connection)
}

#[test]
fn what_came_back_begins_with_a_part_of_its_share_in_every_selection() {
    for selection in SELECTIONS {
        let (mut fleet, now, connection) = come_back(selection);
        // Fair would be a sixth. Where the least loaded gets everything, that is what it gets a
        // tenth of: it would take all 600.
        let first = chosen(&mut fleet, connection, 600, now)[0];
        assert!((1..=60).contains(&first), "{selection:?}: {first} at once");
        let share = |fleet: &Fleet, now| fleet.status(now).next().unwrap().share_milli;
        assert_eq!(share(&fleet, now), START_SHARE_MILLI);
        assert_eq!(share(&fleet, now + SLOW_START_DEFAULT / 2), (START_SHARE_MILLI + 1_000) / 2);
        assert_eq!(share(&fleet, now + SLOW_START_DEFAULT), 1_000);
        let later = chosen(&mut fleet, connection, 600, now + SLOW_START_DEFAULT)[0];
        assert!(later >= 90, "{selection:?}: {later} later");
    }
}

#[test]
fn the_table_leaves_out_nine_turns_of_ten() {
    let (mut fleet, now, connection) = come_back(Selection::Table);
    assert_eq!(chosen(&mut fleet, connection, 510, now)[0], 10);
    // Half way it has eleven turns of twenty.
    let half_way = now + SLOW_START_DEFAULT / 2;
    let counts = chosen(&mut fleet, connection, 1_000, half_way);
    assert!(counts[0].abs_diff(99) <= 2, "{counts:?}");
    assert!(counts[1].abs_diff(180) <= 2 && counts[2].abs_diff(360) <= 4, "{counts:?}");
}

#[test]
fn alone_a_slow_proxy_gets_everything() {
    for selection in SELECTIONS {
        let (mut fleet, now, connection) = come_back(selection);
        for proxy in 1..4 {
            fleet.poll_failed(proxy, PollFailure::TimedOut, now);
        }
        assert_eq!(chosen(&mut fleet, connection, 50, now), [50, 0, 0, 0]);
    }
}

#[test]
fn a_manager_that_has_just_started_and_no_slow_start_at_all_give_the_whole_share() {
    let (fleet, now, _) = fleet(Selection::Table);
    assert!(fleet.status(now).all(|proxy| proxy.share_milli == 1_000));
    let (mut fleet, now, _) = come_back(Selection::Table);
    fleet.set_slow_start(Duration::ZERO);
    assert_eq!(fleet.status(now).next().unwrap().share_milli, 1_000);
}

#[test]
fn absurd_reports_are_no_answers() {
    for absurd in [
        Report { sessions: SESSIONS_REPORTED_MAX + 1, ..IDLE },
        Report { sessions: u32::MAX, ..IDLE },
        Report { load_average_milli: LOAD_AVERAGE_MILLI_MAX + 1, ..IDLE },
        Report { load_average_milli: u32::MAX, sessions: u32::MAX, draining: true },
    ] {
        let (mut fleet, now, connection) = fleet(Selection::TwoChoices);
        let change = fleet.reported(0, absurd, now);
        assert_eq!(change, Some(Change::Marked(Mark::Silent(PollFailure::Misbehaved))));
        assert_eq!(live(&fleet), [0, 0, 0, 0], "nothing of it was believed");
        assert!(!named(&fleet.assign(connection, &[], now)).contains(&0));
    }
    let (mut fleet, now, _) = fleet(Selection::TwoChoices);
    let most = Report { sessions: SESSIONS_REPORTED_MAX, ..IDLE };
    assert_eq!(fleet.reported(0, most, now), None);
}

#[test]
fn who_says_to_be_idle_gets_no_more_than_its_share() {
    let (mut fleet, now, connection) = fleet(Selection::TwoChoices);
    // The others say what they have; the first always that it has nothing.
    for _ in 0..60 {
        chosen(&mut fleet, connection, 10, now);
        let counts = live(&fleet);
        for (proxy, &sessions) in counts.iter().enumerate().skip(1) {
            fleet.reported(proxy, Report { sessions, ..IDLE }, now);
        }
        fleet.reported(0, IDLE, now);
    }
    // What this manager gave it counts all the same.
    assert!(live(&fleet)[0].abs_diff(100) <= 5, "{:?}", live(&fleet));
}

#[test]
fn who_jumps_between_all_and_nothing_hurts_itself_alone() {
    let (mut fleet, now, connection) = fleet(Selection::TwoChoices);
    for turn in 0..100 {
        let sessions = if turn % 2 == 0 { SESSIONS_REPORTED_MAX } else { 0 };
        fleet.reported(0, Report { sessions, ..IDLE }, now);
        chosen(&mut fleet, connection, 6, now);
    }
    let counts = live(&fleet);
    assert!(counts[0] <= 100, "{counts:?}");
    assert!(counts[1].abs_diff(counts[2] / 2) <= 20, "{counts:?}");
}
