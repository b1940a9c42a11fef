//! What is printed of a run, and written of all: `RESULTS.md` and its charts.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::chart::{Bars, Line, Lines, number};
use crate::measure::{Sample, Waits, mean_and_quantile};
use crate::scenario::Scenario;
use crate::site::{PROXIES, WEIGHTS};
use crate::{Outcome, Size};

const MINUTE_US: f64 = 60e6;

/// One scenario's run.
#[derive(Debug)]
pub struct Run {
    /// What was run.
    pub scenario: Scenario,
    /// What came of it.
    pub outcome: Outcome,
    /// Longest that a box may use a site that is gone from DNS, in seconds.
    pub ttl_s_max: u64,
}

/// Says on the standard output what came of it.
#[allow(clippy::print_stdout, reason = "the command's output")]
pub fn print(run: &Run) {
    let Run { scenario, outcome, .. } = run;
    println!("{}: {}", scenario.name, scenario.about);
    println!("  events {}, hash of the log {:016x}", outcome.events, outcome.hash);
    for (what, waits) in [
        ("all", &outcome.waits),
        ("within a minute of it", &outcome.waits_failing),
        ("where the box knew", &outcome.waits_knowing),
    ] {
        println!("  waits, {what}: {} sessions, {}", waits.total(), three(waits));
    }
    let Outcome { opened, direct, reset, known_dead, .. } = outcome;
    println!("  opened {opened}, direct {direct}, reset {reset}, asked known dead {known_dead}");
    for (reason, count) in &outcome.direct_why {
        println!("  direct because {reason}: {count}");
    }
    let (mean, p99) = run.herding();
    println!("  herding mean {mean:.3}, p99 {p99:.3}; off its weight {:.2} %", run.unfairness());
    println!("  another site's peak {:.2} times its load before", run.others_peak());
    let (before, peak) = run.connections();
    println!("  connections a second: {before:.0} before, at most {peak:.0} after");
    if let Some((begun, ended)) = run.emptied() {
        println!("  last session begun {begun:.0} s, ended {ended:.0} s after the removal");
    }
}

/// Writes report and charts.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write(folder: &Path, size: Size, runs: &[Run]) -> anyhow::Result<()> {
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    for run in runs.iter().filter(|run| run.scenario.site.is_some()) {
        file(&format!("{}.svg", run.scenario.name), run.sites_chart())?;
    }
    file("waits.svg", waits_chart(runs))?;
    file("fairness.svg", fairness_chart(runs))?;
    file("RESULTS.md", markdown(size, runs))
}

impl Run {
    /// When something first happens.
    fn then(&self) -> Option<u64> {
        self.scenario.actions.first().map(|(at, _)| *at)
    }

    fn before_and_after(&self) -> (&[Sample], &[Sample]) {
        let samples = &self.outcome.samples;
        let split = self
            .then()
            .map_or(samples.len(), |then| samples.partition_point(|sample| sample.at < then));
        // The first sample holds what was counted before the measuring began.
        (samples.get(1..split).unwrap_or_default(), samples.get(split..).unwrap_or_default())
    }

    /// Most links of a proxy for its weight, over what would be even: mean and 99 of 100.
    #[must_use]
    pub fn herding(&self) -> (f64, f64) {
        let all = self.outcome.samples.iter().flat_map(|sample| sample.herding.iter().copied());
        mean_and_quantile(all.filter(|herding| *herding > 0.0).collect(), 0.99)
    }

    /// The share of any proxy within its site, against its weight in the table: how far off, in
    /// hundredths. Of the whole fleet's proxies of one place in the table.
    #[must_use]
    pub fn unfairness(&self) -> f64 {
        let mut taken = [0.0; PROXIES];
        for (proxy, sessions) in self.outcome.shares.iter().enumerate() {
            taken[proxy % PROXIES] += *sessions as f64;
        }
        let (all, weights) = (taken.iter().sum::<f64>(), f64::from(WEIGHTS.iter().sum::<u32>()));
        let off = |(taken, weight): (&f64, u32)| {
            (taken / all / (f64::from(weight) / weights) - 1.0).abs() * 100.0
        };
        if all > 0.0 { taken.iter().zip(WEIGHTS).map(off).fold(0.0, f64::max) } else { 0.0 }
    }

    /// The most that a site carried afterwards, of those that it is not about, over what the sites
    /// carried before.
    #[must_use]
    pub fn others_peak(&self) -> f64 {
        let (before, after) = self.before_and_after();
        let is_other = |site: usize| self.scenario.site != Some(site);
        let usual = before.iter().flat_map(|s| s.sessions.iter().map(|n| f64::from(*n)));
        let (usual, _) = mean_and_quantile(usual.collect(), 0.5);
        let carried = after.iter().flat_map(|sample| {
            let sites = sample.sessions.iter().enumerate();
            sites.filter(|(site, _)| is_other(*site)).map(|(_, sessions)| f64::from(*sessions))
        });
        if usual > 0.0 { carried.fold(0.0, f64::max) / usual } else { 0.0 }
    }

    /// Connections that boxes make in a second, to all sites: mean before, most after.
    #[must_use]
    pub fn connections(&self) -> (f64, f64) {
        let (before, after) = self.before_and_after();
        let rate = |sample: &Sample| {
            sample.connections.iter().map(|n| f64::from(*n)).sum::<f64>() * 1e6
                / crate::SAMPLE_US as f64
        };
        let (mean, _) = mean_and_quantile(before.iter().map(rate).collect(), 0.5);
        (mean, after.iter().map(rate).fold(0.0, f64::max))
    }

    /// Seconds from the removal of a site to its last session's begin and end.
    #[must_use]
    pub fn emptied(&self) -> Option<(f64, f64)> {
        let since = |at: u64| at.saturating_sub(self.then().unwrap_or(0)) as f64 / 1e6;
        Some((since(self.outcome.last_begun_at?), since(self.outcome.last_ended_at?)))
    }

    fn sites_chart(&self) -> String {
        let start = self.scenario.from as f64;
        let (unit_us, across) = if self.scenario.lasts as f64 > 3.0 * 60.0 * MINUTE_US {
            (60.0 * MINUTE_US, "hours")
        } else {
            (MINUTE_US, "minutes since the start")
        };
        let minutes = |at: u64| (at as f64 - start) / unit_us;
        let points = |site: usize| -> Vec<(f64, f64)> {
            let all = self.outcome.samples.iter();
            // A day has more samples than a picture has pixels.
            let every = self.outcome.samples.len() / 800 + 1;
            all.step_by(every).map(|s| (minutes(s.at), f64::from(s.sessions[site]))).collect()
        };
        let about = self.scenario.site;
        let sites = self.outcome.samples.first().map_or(0, |sample| sample.sessions.len());
        let next = about.map(|site| (site + 1) % sites.max(1));
        let mut series: Vec<Line> = (0..sites)
            .filter(|site| Some(*site) != about && Some(*site) != next)
            .map(|site| Line {
                name: (site == 0).then(|| "the others".to_owned()),
                class: "sx",
                points: points(site),
            })
            .collect();
        let named = [(next, "s1", "next in the zone"), (about, "s0", "this site")];
        for (site, class, name) in named {
            if let Some(site) = site {
                series.push(Line { name: Some(name.to_owned()), class, points: points(site) });
            }
        }
        let marks = self
            .scenario
            .actions
            .iter()
            .map(|(at, action)| (minutes(*at), action.words().to_owned()));
        Lines {
            title: &format!("{}: {}", self.scenario.name, self.scenario.about),
            across,
            upward: "sessions carried",
            series,
            marks: marks.collect(),
        }
        .draw()
    }
}

fn waits_chart(runs: &[Run]) -> String {
    let failing = runs.iter().filter(|run| run.outcome.waits_failing.total() > 0);
    let groups = failing.map(|run| {
        let waits = &run.outcome.waits_failing;
        let figures = vec![waits.quantile_ms(0.5), waits.quantile_ms(0.99), waits.max_ms()];
        (run.scenario.name.to_owned(), figures)
    });
    Bars {
        title: "Waits of sessions that begin within a minute of the failure",
        unit: "ms, from SYN to the mail server's answer; powers of ten",
        logarithmic: true,
        classes: &[("s1", "median"), ("s2", "99 of 100"), ("s0", "longest")],
        groups: groups.collect(),
    }
    .draw()
}

fn fairness_chart(runs: &[Run]) -> String {
    let groups = runs.iter().filter(|run| run.scenario.actions.is_empty()).map(|run| {
        let (mean, p99) = run.herding();
        (run.scenario.name.to_owned(), vec![mean, p99])
    });
    Bars {
        title: "Herding: links of a site's fullest proxy, for its weight",
        unit: "1 is even",
        logarithmic: false,
        classes: &[("s1", "mean"), ("s2", "99 of 100 samples")],
        groups: groups.collect(),
    }
    .draw()
}

fn markdown(size: Size, runs: &[Run]) -> String {
    let Size { boxes, sites, seed } = size;
    let mut text = format!(
        "# A fleet in virtual time\n\n\
         Written by `cargo run --release -p sim -- --boxes {boxes} --sites {sites} --seed {seed} \
         --write tests/sim`; do not edit. What decides is the code that ships: `box_relay::cores` in \
         every box, `manager::fleet` in every manager. Offices, DNS, lines and hosts are models: \
         [README.md](README.md) says what they leave out.\n\n\
         {boxes} boxes, {sites} sites of 2 managers and 5 proxies (weights {WEIGHTS:?}), TTL 20 \
         minutes. Waits are from the client's SYN to the mail server's answer, in milliseconds: \
         median / 99 of 100 / longest.\n\n## Failures\n\n\
         | scenario | sessions | direct | reset | waits, all | begun within a minute of it | on a box \
         that had seen it | another site's peak | connections/s before, at most after |\n\
         |---|--:|--:|--:|---|---|---|--:|---|\n"
    );
    for run in runs.iter().filter(|run| !run.is_selection()) {
        let Outcome { opened, direct, reset, waits, waits_failing, waits_knowing, .. } =
            &run.outcome;
        let (before, peak) = run.connections();
        let _ = writeln!(
            text,
            "| {} | {opened} | {direct} | {reset} | {} | {} | {} | × {:.2} | {before:.0}, {peak:.0} |",
            run.scenario.name,
            three(waits),
            three(waits_failing),
            three(waits_knowing),
            run.others_peak(),
        );
    }
    text.push('\n');
    for run in runs.iter().filter(|run| !run.is_selection()) {
        let Run { scenario, ttl_s_max, .. } = run;
        let _ = write!(text, "**{}**: {}.", scenario.name, scenario.about);
        if let Some((begun, ended)) = run.emptied() {
            let _ = write!(
                text,
                " Its last session began {begun:.0} s after that and ended after {ended:.0} s; the \
                 resolver that keeps names longest keeps them {ttl_s_max} s."
            );
        }
        if scenario.site.is_some() {
            let _ = write!(text, "\n\n![Sessions of each site]({}.svg)", scenario.name);
        }
        text.push_str("\n\n");
    }
    text.push_str(
        "![Waits in the minute of the failure](waits.svg)\n\n## The three selections\n\n\
         Herding: links of a site's fullest proxy for its weight (sessions and what boxes keep warm), \
         over what would be even; at every site, every ten seconds. The last column: how far the \
         sessions that all proxies of one weight took are off it.\n\n\
         | selection, age of reports | herding, mean | herding, 99 of 100 | furthest off its weight |\n\
         |---|--:|--:|--:|\n",
    );
    for run in runs.iter().filter(|run| run.is_selection()) {
        let (mean, p99) = run.herding();
        let _ = writeln!(
            text,
            "| {} | {mean:.2} | {p99:.2} | {:.1} % |",
            run.scenario.name,
            run.unfairness()
        );
    }
    text.push_str("\n![Herding of the selections](fairness.svg)\n\n");
    text.push_str(include_str!("../findings.md"));
    let _ = writeln!(text, "\n## To repeat it\n\nHashes of the logs of all events, by scenario:\n");
    for run in runs {
        let Outcome { hash, events, .. } = run.outcome;
        let _ = writeln!(text, "    {:<16} {hash:016x}  {events} events", run.scenario.name);
    }
    text
}

impl Run {
    fn is_selection(&self) -> bool {
        self.scenario.actions.is_empty() && self.scenario.crowd.is_none()
    }
}

fn three(waits: &Waits) -> String {
    if waits.total() == 0 {
        return "–".to_owned();
    }
    let [half, most] = [0.5, 0.99].map(|share| number(waits.quantile_ms(share).round()));
    format!("{half} / {most} / {}", number(waits.max_ms().round()))
}
