//! What happens to an office's mail while servers, lines and sites fail under it: each outage once,
//! with mail flowing before, during and after it. The results are a table.

use std::{
    fmt::Write as _,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Lab, Options,
    clock::{now, wait_for},
    failures::relay_in_use,
    plan::MANAGER_TTL_S,
    site::Part,
    traffic::{End, Session, Traffic},
};

/// Sessions that end before anything happens.
const SESSIONS_BEFORE: usize = 20;
/// Sessions that start and end after it.
const SESSIONS_AFTER: usize = 40;
/// Latest start of a session after one server has died, beyond the latest before it.
const FOUND_OUT_MAX: Duration = Duration::from_millis(500);
/// The same when every site is dead: the managers are raced for 5 s.
const ALL_DEAD_MAX: Duration = Duration::from_millis(5_500);
/// Longest wait for what takes its time by design.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that happens.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    /// For the table.
    pub name: &'static str,
    /// Does it to the site in use, and gives what else is to be said of it.
    strike: fn(&mut Lab, &str) -> Result<String>,
    /// Which sessions may end by it.
    cuts: Cuts,
    /// Whether mail may be put off (4xx).
    may_put_off: bool,
    /// Latest start of a session, beyond the latest before.
    wait_max: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cuts {
    None,
    /// Those that were going on.
    Running,
    /// And those that were about to: the connection was being made.
    Starting,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// What happened.
    pub name: &'static str,
    /// Sessions of the clients, all in all.
    pub sessions: usize,
    /// Those that were going on when it happened.
    pub running: usize,
    /// Those that were cut.
    pub cut: usize,
    /// Mails put off.
    pub put_off: usize,
    /// Mails acknowledged that did not arrive.
    pub lost: usize,
    /// Mails that arrived twice.
    pub doubled: usize,
    /// Mails that arrived otherwise than they were sent, or were refused.
    pub altered: usize,
    /// Latest banner before it.
    pub wait_before: Duration,
    /// Latest banner after it.
    pub wait_after: Duration,
    /// The longest wait that is as it should be.
    pub wait_max: Duration,
    /// Longest session.
    pub longest: Duration,
    /// What else is to be said.
    pub note: String,
}

impl Row {
    /// Whether sessions start soon enough.
    #[must_use]
    pub fn is_in_time(&self) -> bool {
        self.wait_after <= self.wait_before + self.wait_max
    }
}

/// Servers of a site, one at a time.
pub const SERVERS: &[Outage] = &[
    killed("the manager in use is killed", Part::Manager, |lab, site| {
        part(lab, site, Part::Manager)
    }),
    killed("a proxy in use is killed", Part::Proxy(0), |lab, site| part(lab, site, Part::Proxy(0))),
    killed("the auther is killed", Part::Auther, |lab, site| part(lab, site, Part::Auther)),
    silenced("packets to the manager in use are dropped", |lab, site| {
        silence(lab, site, Part::Manager)
    }),
    silenced("packets to a proxy in use are dropped", |lab, site| {
        silence(lab, site, Part::Proxy(0))
    }),
    silenced("packets to the auther are dropped", |lab, site| silence(lab, site, Part::Auther)),
];

/// Whole sites, and DNS.
pub const SITES: &[Outage] = &[
    silenced("the whole site in use is cut off", |lab, site| {
        lab.site(site)?.cut()?;
        Ok(String::new())
    }),
    Outage {
        cuts: Cuts::Starting,
        wait_max: ALL_DEAD_MAX,
        ..silenced("every site is cut off", |lab, _| {
            lab.sites().iter().try_for_each(crate::site::Site::cut)?;
            Ok("direct from then on".to_owned())
        })
    },
    quiet("the site in use is taken out of DNS", leave_dns),
    quiet("a site is put into DNS", join_dns),
    quiet("the DNS server is killed", |lab, _| {
        lab.kill_dns()?;
        Ok(String::new())
    }),
];

/// What a site is made of, and the box itself.
pub const SURROUNDINGS: &[Outage] = &[
    quiet("one clamd is killed in the middle of its scans", |lab, site| {
        kill_scanners(lab, site, 1)
    }),
    Outage {
        may_put_off: true,
        ..quiet("both clamds are killed in the middle of their scans", |lab, site| {
            kill_scanners(lab, site, 2)
        })
    },
    Outage {
        may_put_off: true,
        ..quiet("the disks of the proxies in use are full", |lab, site| {
            lab.site(site)?.fill_disks()?;
            Ok("for mails of over 64 KiB".to_owned())
        })
    },
    clocks("the clocks of the site in use are 3 days ahead", |lab, site| {
        lab.set_clocks(site, "+3d").map(|()| "all its servers started again".to_owned())
    }),
    clocks("the clocks of the site in use are 3 days behind", |lab, site| {
        lab.set_clocks(site, "-3d").map(|()| "all its servers started again".to_owned())
    }),
    Outage {
        cuts: Cuts::Starting,
        wait_max: PATIENCE,
        ..quiet("the box's program is killed, and started again", |lab, _| {
            lab.kill_box()?;
            lab.start_box(Options::default())?;
            Ok("mail crosses the bridge meanwhile".to_owned())
        })
    },
];

const fn quiet(name: &'static str, strike: fn(&mut Lab, &str) -> Result<String>) -> Outage {
    Outage { name, strike, cuts: Cuts::None, may_put_off: false, wait_max: FOUND_OUT_MAX }
}

const fn killed(
    name: &'static str,
    part: Part,
    strike: fn(&mut Lab, &str) -> Result<String>,
) -> Outage {
    let cuts = match part {
        Part::Proxy(_) => Cuts::Running,
        Part::Auther | Part::Manager | Part::Scanner(_) => Cuts::None,
    };
    Outage { cuts, ..quiet(name, strike) }
}

const fn silenced(name: &'static str, strike: fn(&mut Lab, &str) -> Result<String>) -> Outage {
    Outage { cuts: Cuts::Running, ..quiet(name, strike) }
}

/// The servers have to be started again, which is what cuts sessions.
const fn clocks(name: &'static str, strike: fn(&mut Lab, &str) -> Result<String>) -> Outage {
    Outage { cuts: Cuts::Starting, ..quiet(name, strike) }
}

/// Lets each happen to a lab whose product runs, one after the other, and puts all in order again.
///
/// # Errors
/// What must not be: a mail lost, doubled or altered, a session cut that had nothing to do with it.
pub fn run_all(lab: &mut Lab, outages: &[Outage], mut show: impl FnMut(&Row)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for outage in outages {
        let row = run(lab, outage)?;
        show(&row);
        rows.push(row);
        lab.restore()?;
    }
    Ok(rows)
}

fn run(lab: &mut Lab, outage: &Outage) -> Result<Row> {
    // A box that had a wrong ticket gets a good one when it asks again.
    let (site, _) = wait_for("sessions to go through a site", PATIENCE, || relay_in_use(lab).ok())?;
    lab.wait_relaying()?;
    let traffic = Traffic::start(lab)?;
    traffic.wait_sessions(now(), SESSIONS_BEFORE)?;
    let start = now();
    let note = (outage.strike)(lab, &site)?;
    let struck = start..=now();
    traffic.wait_sessions(now(), SESSIONS_AFTER)?;
    let outcome = traffic.finish(lab)?;
    let sessions = &outcome.sessions;
    let count = |is: &dyn Fn(&Session) -> bool| sessions.iter().filter(|s| is(s)).count();
    let wrong = count(&|session| matches!(session.end, End::Wrong(_)));
    let row = Row {
        name: outage.name,
        sessions: sessions.len(),
        running: count(&|session| session.overlaps(&struck)),
        cut: count(&|session| matches!(session.end, End::Cut(_))),
        put_off: count(&|session| matches!(session.end, End::Later(_))),
        lost: outcome.lost,
        doubled: outcome.doubled,
        altered: outcome.altered + wrong,
        wait_before: longest_wait(sessions.iter().filter(|session| session.started < start)),
        wait_after: longest_wait(sessions.iter().filter(|session| session.started >= start)),
        wait_max: outage.wait_max,
        longest: sessions.iter().map(|session| session.took).max().unwrap_or_default(),
        note,
    };
    check(outage, &row, &struck, sessions)?;
    Ok(row)
}

/// A session without a banner waited for as long as it took to find that out.
fn longest_wait<'a>(sessions: impl Iterator<Item = &'a Session>) -> Duration {
    sessions.map(|session| session.first_byte.unwrap_or(session.took)).max().unwrap_or_default()
}

fn check(
    outage: &Outage,
    row: &Row,
    struck: &RangeInclusive<Instant>,
    sessions: &[Session],
) -> Result<()> {
    let ends: Vec<_> =
        sessions.iter().map(|session| &session.end).filter(|end| **end != End::Done).collect();
    ensure!(
        (row.lost, row.doubled, row.altered) == (0, 0, 0),
        "{}: {} lost, {} doubled, {} altered: {ends:?}",
        row.name,
        row.lost,
        row.doubled,
        row.altered
    );
    let innocent =
        sessions.iter().filter(|session| matches!(session.end, End::Cut(_))).find(|session| {
            match outage.cuts {
                Cuts::None => true,
                Cuts::Running => !session.overlaps(struck),
                Cuts::Starting => session.started + session.took < *struck.start(),
            }
        });
    ensure!(innocent.is_none(), "{}: cut for nothing: {innocent:?}", row.name);
    ensure!(row.put_off == 0 || outage.may_put_off, "{}: put off: {ends:?}", row.name);
    Ok(())
}

fn part(lab: &mut Lab, site: &str, part: Part) -> Result<String> {
    lab.site(site)?.kill(part)?;
    Ok(String::new())
}

fn silence(lab: &mut Lab, site: &str, part: Part) -> Result<String> {
    lab.site(site)?.silence(part)?;
    Ok(String::new())
}

/// Scanners are stopped first, so that mails are in the middle of their scan when they die.
fn kill_scanners(lab: &mut Lab, site: &str, count: usize) -> Result<String> {
    let site = lab.site(site)?;
    (0..count).try_for_each(|index| site.freeze_scanner(index))?;
    for index in 0..count {
        wait_for("mails in the middle of a scan", PATIENCE, || {
            site.scanner_connections(index).ok().filter(|connections| *connections > 0)
        })?;
    }
    (0..count).try_for_each(|index| site.kill(Part::Scanner(index)))?;
    Ok(String::new())
}

fn leave_dns(lab: &mut Lab, site: &str) -> Result<String> {
    let start = now();
    lab.list_sites(|candidate| candidate.name() != site)?;
    let mut left = Vec::new();
    let waited = wait_for("the site to be empty", PATIENCE, || {
        left = lab.connections_to(site).ok()?;
        left.is_empty().then_some(())
    });
    waited.with_context(|| format!("still connected: {left:?}"))?;
    Ok(format!("empty after {:.1} s; the TTL is {MANAGER_TTL_S} s", start.elapsed().as_secs_f64()))
}

/// Takes it out first, since all are in; what is looked at is its return. Whether this one box then goes
/// to it is a matter of its order.
fn join_dns(lab: &mut Lab, site: &str) -> Result<String> {
    leave_dns(lab, site)?;
    let start = now();
    lab.list_sites(|_| true)?;
    let address = lab.site(site)?.public().to_string();
    lab.wait_status("the site among those the box may ask", |status| {
        let managers = status.pointer("/relay/managers").and_then(Value::as_array);
        managers.into_iter().flatten().any(|manager| {
            manager["address"].as_str().is_some_and(|listed| listed.starts_with(&address))
        })
    })?;
    Ok(format!("known after {:.1} s", start.elapsed().as_secs_f64()))
}

/// The table as Markdown.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text =
        "| what happens | sessions | going on | cut | put off (4xx) | lost | doubled | altered \
                    | longest wait for the banner | target | longest session | |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in rows {
        let target = row.wait_before + row.wait_max;
        let mark = if row.is_in_time() { "" } else { " **missed**" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.2} s{mark} | {:.2} s | {:.1} s | {} |",
            row.name,
            row.sessions,
            row.running,
            row.cut,
            row.put_off,
            row.lost,
            row.doubled,
            row.altered,
            row.wait_after.as_secs_f64(),
            target.as_secs_f64(),
            row.longest.as_secs_f64(),
            row.note,
        );
    }
    text
}
