//! What must hold of a fleet whatever fails, on small fleets. `SIM_SEED` sets the seed.
#![cfg(test)]

use sim::scenario::{self, Scenario};
use sim::{Outcome, Size, World};

/// Enough for every proxy to carry sessions, few enough for seconds.
const BOXES: usize = 400;
const SITES: usize = 4;
/// From a failure that a box has seen to the start of its next session, in milliseconds.
const KNOWING_WAIT_MS_MAX: f64 = 500.0;

fn seed() -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

fn named(name: &str) -> Scenario {
    scenario::all().into_iter().find(|one| one.name == name).unwrap()
}

/// Runs a scenario. What it returns names the seed, for the messages of failures.
fn run(scenario: &Scenario, boxes: usize) -> (Outcome, String, u64) {
    let size = Size { boxes, sites: SITES, seed: seed() };
    let mut world = World::new(size, scenario);
    let outcome = world.run(scenario);
    let told = format!("{} with SIM_SEED={}", scenario.name, size.seed);
    assert!(outcome.opened > 500, "{told}: only {} sessions", outcome.opened);
    (outcome, told, world.ttl_s_max())
}

#[test]
fn two_runs_of_one_seed_are_the_same_and_of_another_are_not() {
    let scenario = named("site-silent");
    let (one, told, _) = run(&scenario, 200);
    let (other, ..) = run(&scenario, 200);
    assert_eq!((one.hash, one.events), (other.hash, other.events), "{told}");
    let mut world = World::new(Size { boxes: 200, sites: SITES, seed: seed() + 1 }, &scenario);
    assert_ne!(world.run(&scenario).hash, one.hash, "{told}");
}

#[test]
fn nobody_waits_for_what_is_known_to_be_dead() {
    for name in
        ["site-silent", "site-refusing", "manager-silent", "proxy-silent", "dns-gone", "all-silent"]
    {
        let (outcome, told, _) = run(&named(name), BOXES);
        assert_eq!(outcome.known_dead, 0, "{told}");
    }
}

#[test]
fn a_box_that_has_seen_a_site_die_starts_its_next_session_at_once() {
    for name in ["site-silent", "site-refusing"] {
        let (outcome, told, _) = run(&named(name), BOXES);
        let waits = &outcome.waits_knowing;
        assert!(waits.total() > 50, "{told}: {} sessions", waits.total());
        assert!(waits.max_ms() <= KNOWING_WAIT_MS_MAX, "{told}: {} ms", waits.max_ms());
        assert_eq!(outcome.direct, 0, "{told}");
    }
}

#[test]
fn with_all_sites_gone_sessions_go_direct_within_their_budget_and_come_back() {
    let (outcome, told, _) = run(&named("all-silent"), BOXES);
    assert!(outcome.direct > 100, "{told}: {}", outcome.direct);
    assert!(outcome.waits.max_ms() < 5_500.0, "{told}: {} ms", outcome.waits.max_ms());
    let last = outcome.samples.last().unwrap();
    let (direct, sites) = last.begun.split_last().unwrap();
    assert!(*direct == 0 && sites.iter().sum::<u32>() > 0, "{told}: {:?}", last.begun);
}

#[test]
fn a_site_gone_from_dns_is_empty_after_the_time_to_live_and_its_longest_session() {
    let scenario = named("site-removed");
    let (outcome, told, ttl_s_max) = run(&scenario, BOXES);
    let since = |at: Option<u64>| at.unwrap().saturating_sub(scenario.actions[0].0) / 1_000_000;
    assert!(since(outcome.last_begun_at) <= ttl_s_max, "{told}: {outcome:?}");
    let longest_s = sim::office::SESSION_MAX_US / 1_000_000;
    assert!(since(outcome.last_ended_at) <= ttl_s_max + longest_s, "{told}");
    assert!(since(outcome.last_begun_at) > 600, "{told}: it was used while it was cached");
}

#[test]
fn the_table_gives_each_proxy_its_weight() {
    let scenario = named("table-1s");
    let (outcome, told, ttl_s_max) = run(&scenario, 4 * BOXES);
    let run = sim::report::Run { scenario, outcome, ttl_s_max };
    assert!(run.unfairness() <= 2.0, "{told}: {} %", run.unfairness());
}

#[test]
fn without_dns_the_known_list_serves() {
    let (outcome, told, _) = run(&named("dns-gone"), BOXES);
    assert_eq!(outcome.direct, 0, "{told}");
    assert!(outcome.waits_knowing.max_ms() <= KNOWING_WAIT_MS_MAX, "{told}");
}
