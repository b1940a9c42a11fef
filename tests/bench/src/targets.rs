//! What the product is to reach, judged by the results of the same run.

use serde::{Deserialize, Serialize};

use crate::{
    arm::Arm,
    matrix::{Cell, KB_10, KB_100, MB_1},
    record::{Results, Summary},
};

/// Times clamsmtp's mails of 10 KB in a second.
const CLAMSMTP_TIMES_MIN_10_KB: f64 = 20.0;
/// Times clamsmtp's mails of 1 MB in a second.
const CLAMSMTP_TIMES_MIN_1_MB: f64 = 4.0;
/// Share of what `clamd` does when fed directly.
const CLAMD_SHARE_MIN: f64 = 0.8;
/// Share of HAProxy's mails of 10 KB in a second.
const HAPROXY_SHARE_MIN: f64 = 0.5;
/// Added latency of clean mail up to 100 KB, in microseconds.
const ADDED_P50_US_MAX: f64 = 1_000.0;
const ADDED_P99_US_MAX: f64 = 10_000.0;
/// Memory of a session while a large mail streams through, in KiB, and with how many at once.
const SESSION_KIB_MAX: f64 = 256.0;
const MEMORY_SESSIONS_MIN: u32 = 64;

/// A target, and whether it was reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) wanted: String,
    pub(crate) measured: String,
    pub(crate) beside: String,
    /// `None`: what it needs was not measured.
    pub(crate) reached: Option<bool>,
}

/// Judges all.
pub(crate) fn judge(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    for (size, sessions, times) in [
        (KB_10, 20, CLAMSMTP_TIMES_MIN_10_KB),
        (KB_10, 1, CLAMSMTP_TIMES_MIN_10_KB),
        (MB_1, 20, CLAMSMTP_TIMES_MIN_1_MB),
        (MB_1, 1, CLAMSMTP_TIMES_MIN_1_MB),
    ] {
        targets.push(rate(
            results,
            "same clamd",
            Arm::AvrClamd,
            Arm::Clamsmtp,
            size,
            sessions,
            times,
        ));
    }
    for size in [KB_10, MB_1] {
        let target =
            rate(results, "same clamd", Arm::AvrClamd, Arm::Clamd, size, 20, CLAMD_SHARE_MIN);
        targets.push(target);
    }
    for sessions in [20, 1] {
        let wanted = HAPROXY_SHARE_MIN;
        targets.push(rate(
            results,
            "embedded engines",
            Arm::Avr,
            Arm::Haproxy,
            KB_10,
            sessions,
            wanted,
        ));
    }
    for size in [KB_10, KB_100] {
        targets.extend(latencies(results, size));
    }
    targets.push(memory(results));
    targets.push(exactness(results));
    targets.push(infected(results));
    targets
}

/// The worse ratio of the cases that differ in mails a session alone.
fn rate(
    results: &Results,
    engines: &str,
    ours: Arm,
    other: Arm,
    size: usize,
    sessions: u32,
    wanted: f64,
) -> Target {
    let case = Cell::new(size, sessions, 1);
    let ratios = [1, 20].into_iter().filter_map(|mails| {
        let cell = Cell { mails, ..case };
        let of = |arm| Some(results.summary(arm, cell)?.mails_per_second.median);
        let (ours, other) = (of(ours)?, of(other)?);
        Some((ours / other, ours, other, of(Arm::Free), mails))
    });
    let worst = ratios.min_by(|one, another| one.0.total_cmp(&another.0));
    let size = crate::matrix::size_name(size);
    let name = format!(
        "{engines}: {} against {}, {size}, {sessions} at once",
        ours.title(),
        other.title()
    );
    let wanted_text = format!("at least {wanted} times");
    let Some((ratio, ours, beside, free, mails)) = worst else {
        return Target::unknown(name, wanted_text);
    };
    let free = free.filter(|_| other == Arm::Clamd);
    let free = free.map_or(String::new(), |free| {
        format!("; a proxy that costs nothing: {free:.0}/s, {:.2} times", free / beside)
    });
    Target {
        name,
        wanted: wanted_text,
        measured: format!("{ratio:.2} times, {ours:.0}/s ({mails} a session)"),
        beside: format!("{beside:.0}/s{free}"),
        reached: Some(ratio >= wanted),
    }
}

/// With one session: with more, a closed loop measures its own queue.
fn latencies(results: &Results, size: usize) -> [Target; 2] {
    let cell = Cell::new(size, 1, 20);
    let added = |value: fn(Summary) -> Option<f64>, arm| value(results.summary(arm, cell)?);
    let one = |rank: &str, value: fn(Summary) -> Option<f64>, wanted: f64| {
        let name = format!("embedded engines: added {rank}, {}", crate::matrix::size_name(size));
        let wanted_text = format!("under {} ms", wanted / 1e3);
        let Some(ours) = added(value, Arm::Avr) else { return Target::unknown(name, wanted_text) };
        let haproxy = added(value, Arm::Haproxy);
        Target {
            name,
            wanted: wanted_text,
            measured: format!("{:.2} ms", ours / 1e3),
            beside: haproxy.map_or(String::new(), |us| format!("HAProxy {:.2} ms", us / 1e3)),
            reached: Some(ours < wanted),
        }
    };
    [
        one("p50", |summary| Some(summary.added_p50_us?.median), ADDED_P50_US_MAX),
        one("p99", |summary| Some(summary.added_p99_us?.median), ADDED_P99_US_MAX),
    ]
}

fn memory(results: &Results) -> Target {
    let of = |arm| results.memory.iter().find(|memory| memory.arm == arm);
    let name = "embedded engines: memory a session, mails of 25 MB streaming".to_owned();
    let wanted = format!("at most {SESSION_KIB_MAX} KiB");
    let Some(ours) = of(Arm::Avr) else { return Target::unknown(name, wanted) };
    let clamsmtp = of(Arm::Clamsmtp);
    Target {
        name,
        wanted,
        measured: format!(
            "{:.0} KiB, and {:.0} KiB of files in memory, {} at once",
            ours.kib_per_session, ours.spool_kib_per_session, ours.sessions
        ),
        beside: clamsmtp.map_or(String::new(), |other| {
            format!(
                "clamsmtp {:.0} and {:.0} KiB",
                other.kib_per_session, other.spool_kib_per_session
            )
        }),
        // With few sessions it is what they share that is measured.
        reached: (ours.sessions >= MEMORY_SESSIONS_MIN)
            .then_some(ours.kib_per_session <= SESSION_KIB_MAX && ours.errors.is_empty()),
    }
}

fn exactness(results: &Results) -> Target {
    let ours = [Arm::Avr, Arm::AvrClamd, Arm::Chain];
    let (mut sent, mut exact, mut errors) = (0, 0, 0);
    for one in results.smtp.iter().filter(|one| ours.contains(&one.arm)) {
        sent += one.mails as u64;
        exact += one.arrived.exact;
        errors += one.errors.len();
    }
    for one in results.pop3.iter().filter(|one| ours.contains(&one.arm)) {
        sent += one.mails as u64;
        exact += one.arrived.exact;
        errors += one.errors.len();
    }
    for one in results.memory.iter().filter(|one| ours.contains(&one.arm)) {
        sent += u64::from(one.sessions);
        exact += one.arrived.exact;
        errors += one.errors.len();
    }
    Target {
        name: "ours: clean mails arrive byte for byte, each once".to_owned(),
        wanted: "all".to_owned(),
        measured: format!("{exact} of {sent}, {errors} errors"),
        beside: String::new(),
        reached: Some(sent > 0 && sent == exact && errors == 0),
    }
}

fn infected(results: &Results) -> Target {
    let ours = [Arm::Avr, Arm::AvrClamd, Arm::Chain];
    let of = |arms: &[Arm]| -> Vec<_> {
        results.infected.iter().filter(|one| arms.contains(&one.arm)).cloned().collect()
    };
    let name = "ours: EICAR is refused and not delivered".to_owned();
    let own = of(&ours);
    if own.is_empty() {
        return Target::unknown(name, "by all".to_owned());
    }
    let refused = |reply: &str| reply.starts_with('5');
    let good = own.iter().filter(|one| refused(&one.reply) && !one.delivered).count();
    let others = of(&[Arm::Clamsmtp, Arm::Postfix]).into_iter();
    let others = others.map(|one| format!("{} {:.3}", one.arm.title(), one.reply));
    Target {
        name,
        wanted: "by all".to_owned(),
        measured: format!("by {good} of {}", own.len()),
        beside: others.collect::<Vec<_>>().join(", "),
        reached: Some(good == own.len()),
    }
}

impl Target {
    fn unknown(name: String, wanted: String) -> Self {
        Self {
            name,
            wanted,
            measured: "not measured".to_owned(),
            beside: String::new(),
            reached: None,
        }
    }

    /// How it stands in a list.
    pub(crate) fn mark(&self) -> &'static str {
        match self.reached {
            Some(true) => "reached",
            Some(false) => "MISSED",
            None => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{Infected, tests::results},
        sink::Counts,
    };

    fn marks(results: &Results) -> Vec<&'static str> {
        judge(results).iter().map(Target::mark).collect()
    }

    #[test]
    fn a_run_in_which_all_are_equal_misses_what_asks_for_more() {
        let equal = results(|_, _| 100.0);
        let clamsmtp = vec!["MISSED"; 4];
        let rest = vec!["reached"; 10];
        let expected = [clamsmtp, rest, vec!["unknown"]].concat();
        assert_eq!(marks(&equal), expected);
    }

    #[test]
    fn the_worse_case_of_a_target_counts() {
        let worse = results(|arm, cell| match arm {
            Arm::AvrClamd if cell.mails == 20 && cell.size == KB_10 => 1_999.0,
            Arm::AvrClamd | Arm::Clamd => 2_000.0,
            _ => 100.0,
        });
        let targets = judge(&worse);
        assert_eq!(targets[0].reached, Some(false));
        assert!(targets[0].measured.contains("(20 a session)"), "{}", targets[0].measured);
        assert_eq!(targets[2].reached, Some(true));
        assert_eq!(targets[4].reached, Some(true));
        assert!(targets[4].beside.contains("costs nothing: 100/s"), "{}", targets[4].beside);
    }

    #[test]
    fn what_is_not_measured_is_neither_reached_nor_missed() {
        let mut nothing = results(|_, _| 100.0);
        nothing.smtp.clear();
        nothing.memory.clear();
        let targets = judge(&nothing);
        let (exact, others): (Vec<_>, Vec<_>) =
            targets.iter().partition(|target| target.name.contains("byte for byte"));
        assert!(others.iter().all(|target| target.reached.is_none()));
        assert_eq!(exact[0].reached, Some(false), "nothing sent is nothing proved");
    }

    #[test]
    fn memory_is_judged_with_enough_sessions_and_without_errors() {
        let mut results = results(|_, _| 100.0);
        let reached = |results: &Results| memory(results).reached;
        assert_eq!(reached(&results), Some(true));
        results.memory[0].errors.push("451".to_owned());
        assert_eq!(reached(&results), Some(false));
        results.memory[0].errors.clear();
        results.memory[0].kib_per_session = 256.1;
        assert_eq!(reached(&results), Some(false));
        results.memory[0].sessions = MEMORY_SESSIONS_MIN - 1;
        assert_eq!(reached(&results), None);
    }

    #[test]
    fn one_altered_mail_or_one_virus_let_through_is_a_miss() {
        let mut results = results(|_, _| 100.0);
        let of_avr = results.smtp.iter_mut().find(|one| one.arm == Arm::Avr).unwrap();
        of_avr.arrived = Counts { exact: 999, altered: 1, ..Counts::default() };
        let reply = "554 5.7.1 Eicar".to_owned();
        results.infected = vec![
            Infected { arm: Arm::Avr, reply: reply.clone(), delivered: false },
            Infected { arm: Arm::Chain, reply, delivered: true },
            Infected { arm: Arm::Clamsmtp, reply: "250 ok".to_owned(), delivered: false },
        ];
        let marks = marks(&results);
        assert_eq!(marks[marks.len() - 2..], ["MISSED", "MISSED"]);
    }
}
