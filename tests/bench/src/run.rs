//! The comparison itself: round by round, case by case, one arm after the other.
#![allow(clippy::print_stdout, reason = "what a person waits for goes to standard output")]

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use e2e::{
    Lab, clock, message,
    plan::{self, Size},
};

use crate::{
    arm::Arm,
    cli::{Mail, Only},
    fetch::Fetch,
    load::Load,
    machine::{Cores, LOAD_MAX, Machine, load_average},
    mailbox::Mailboxes,
    matrix::{Cell, KB_10, MB_25, Plan},
    message::Id,
    process::{files_in_memory_kib, highest_while},
    record::{Infected, Memory, Pop3, Results, Smtp, Source},
    report,
    sink::Counts,
    stage::{LOGS, Place, Stage},
    stats::Percentiles,
    targets,
    worker::{fetch, send},
};

/// Rounds of a full comparison unless asked for otherwise.
const ROUNDS: u32 = 3;
/// How often memory is looked at: in passing, and where it is what is measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const LOOK_CLOSELY_INTERVAL: Duration = Duration::from_millis(50);
/// Longest that a store-and-forward server may take to pass on what it has accepted.
const DELIVERY_MAX: Duration = Duration::from_secs(60);
/// How long a mail is waited for that may not come at all.
const UNLIKELY_MAX: Duration = Duration::from_secs(2);
/// No limit in mails where the time is one.
const MAILS_MAX: u32 = 1_000_000;
/// Different errors of one measurement that are kept.
const ERRORS_KEPT_MAX: usize = 5;
/// `smtp-source` is given so many mails first, and then as many as take this long.
const SOURCE_TRIAL_MAILS: u32 = 60;
const SOURCE_SECONDS: f64 = 2.0;
/// Longest that it may take.
const SOURCE_SECONDS_MAX: u32 = 20;
/// Sessions of `smtp-source`.
const SOURCE_SESSIONS: u32 = 20;

/// Does what was asked for. Only inside the namespaces.
pub(crate) fn compare(mail: &Mail) -> Result<()> {
    let start = clock::now();
    let machine = Machine::look()?;
    if machine.load_average > LOAD_MAX {
        println!(
            "WARNING: the load average is {:.1} before anything is started: this machine is busy \
             with something else, and the figures are worth little.",
            machine.load_average
        );
    }
    let shared_out = if mail.all_cores { None } else { Cores::all()?.shared_out() };
    // Whatever is started from here on inherits it; client and server are given theirs.
    if let Some((_, middle)) = &shared_out {
        middle.confine()?;
    }
    let plan = if mail.quick { Plan::quick() } else { Plan::full() };
    let mut results = Results {
        machine,
        cores: shared_out.as_ref().map(|(ends, middle)| (ends.list(), middle.list())),
        rounds: mail.rounds.unwrap_or(if mail.quick { 1 } else { ROUNDS }),
        plan,
        smtp: Vec::new(),
        pop3: Vec::new(),
        memory: Vec::new(),
        infected: Vec::new(),
        source: Vec::new(),
        targets: Vec::new(),
        seconds: 0.0,
    };
    let ends = shared_out.map(|(ends, _)| ends);
    let done = measure(mail, ends, &mut results);
    keep_logs(&mail.out()?.join("log"))?;
    results.targets = targets::judge(&results);
    results.seconds = start.elapsed().as_secs_f64();
    // What was measured before something failed is not thrown away; but it is not published.
    report::write(mail, &results, done.is_ok())?;
    done
}

fn measure(mail: &Mail, ends: Option<Cores>, results: &mut Results) -> Result<()> {
    if mail.arms().contains(&Arm::Chain) {
        println!("starting the lab: an office with its box, two sites, an internet");
        Lab::run(Size::USUAL, |lab| {
            lab.use_programs(&mail.programs()?);
            lab.start_product()?;
            Comparison::new(Stage::build(mail, ends, Some(lab))?).run(mail.only, results)
        })
    } else {
        Comparison::new(Stage::build(mail, ends, None)?).run(mail.only, results)
    }
}

/// The file system that the programs wrote to is gone with the namespaces.
fn keep_logs(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(LOGS)? {
        let entry = entry?;
        fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    Ok(())
}

/// A comparison under way.
struct Comparison {
    stage: Stage,
    /// Measurements so far: each has mails of its own.
    runs: u32,
}

impl Comparison {
    fn new(stage: Stage) -> Self {
        Self { stage, runs: 0 }
    }

    /// Memory first, while no program has kept any of what earlier mails took.
    fn run(&mut self, only: Option<Only>, results: &mut Results) -> Result<()> {
        let places = self.stage.places.clone();
        if only == Some(Only::Memory) {
            return self.memories(&places, results);
        }
        for place in places.iter().filter(|place| place.arm.carries_mail()) {
            let one = self.infected(place)?;
            println!(
                "EICAR  {:<28} {}, delivered: {}",
                place.arm.title(),
                one.reply,
                one.delivered
            );
            results.infected.push(one);
        }
        self.memories(&places, results)?;
        let plan = results.plan.clone();
        for round in 1..=results.rounds {
            for cell in &plan.smtp {
                println!("\nround {round} of {}, SMTP {cell}", results.rounds);
                self.stage.tell_ended();
                for place in &places {
                    let one = self.smtp(place, round, *cell, &plan)?;
                    println!("{}", report::line(&one));
                    results.smtp.push(one);
                }
            }
            for cell in &plan.pop3 {
                println!("\nround {round} of {}, POP3 {cell}", results.rounds);
                self.pop3_cell(&places, round, *cell, results)?;
            }
        }
        println!();
        for place in places.iter().filter(|place| place.arm.carries_mail()) {
            if place.clamd.is_none() && !place.arm.is_in_lab() {
                let one = self.source(place, plan.source_mails)?;
                println!("smtp-source {}", report::source_line(&one));
                results.source.push(one);
            }
        }
        Ok(())
    }

    fn memories(&mut self, places: &[Place], results: &mut Results) -> Result<()> {
        for place in places.iter().filter(|place| place.arm.is_proxy()) {
            self.stage.tell_ended();
            let one = self.memory(place, &results.plan)?;
            println!(
                "memory {:<28} {:>8.0} KiB a session, and {:.0} KiB of files in memory{}",
                place.arm.title(),
                one.kib_per_session,
                one.spool_kib_per_session,
                errors_of(&one.errors)
            );
            results.memory.push(one);
        }
        Ok(())
    }

    fn next_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs
    }

    fn load(&mut self, place: &Place, cell: Cell, milliseconds: u64) -> Load {
        Load {
            to: place.smtp,
            clamd: place.clamd.clone(),
            run: self.next_run(),
            size: cell.size,
            repeated: cell.repeated,
            sessions: cell.sessions,
            mails: cell.mails,
            milliseconds,
            count: MAILS_MAX,
            bytes_per_second: None,
        }
    }

    /// One arm in one case.
    fn smtp(&mut self, place: &Place, round: u32, cell: Cell, plan: &Plan) -> Result<Smtp> {
        let ends = self.stage.ends.clone();
        let warm_up = self.load(place, cell, plan.warm_up_ms);
        // A large mail warms up with one session: the time is not its limit, but its size.
        let sessions = if cell.size >= MB_25 { 1 } else { cell.sessions };
        let warm_up = Load { sessions, mails: cell.mails.min(4), ..warm_up };
        let warmed = send(&place.netns, ends.as_ref(), &warm_up)?;
        self.delivered(place, warmed.latencies_us.len())?;

        let load = self.load(place, cell, plan.measure_ms);
        let load_average = load_average()?;
        let cpu_before = place.smtp_tree.cpu_seconds()?;
        let look = || {
            ends.as_ref().map_or(Ok(()), Cores::confine)?;
            place.smtp_tree.resident_kib()
        };
        let (done, peak_resident_kib) =
            highest_while(LOOK_INTERVAL, look, || send(&place.netns, ends.as_ref(), &load))?;
        let done = done?;
        let after = clock::now();
        let arrived = self.delivered(place, done.latencies_us.len())?;
        let cpu_seconds = place.smtp_tree.cpu_seconds()? - cpu_before;
        let mails = done.latencies_us.len();
        Ok(Smtp {
            arm: place.arm,
            round,
            cell,
            mails,
            seconds: done.seconds,
            mails_per_second: mails as f64 / done.seconds.max(f64::MIN_POSITIVE),
            latency_us: Percentiles::of(done.latencies_us),
            delivered_seconds: done.seconds + after.elapsed().as_secs_f64(),
            cpu_seconds,
            peak_resident_kib,
            load_average,
            arrived,
            lost_connections: done.lost,
            errors: kept(done.errors),
        })
    }

    /// Waits until all mails that an arm has accepted are with the mail server, and counts them.
    fn delivered(&mut self, place: &Place, mails: usize) -> Result<Counts> {
        let mut counts = Counts::default();
        if !place.arm.carries_mail() {
            return Ok(counts);
        }
        let sink = self.stage.sink(place.arm);
        // What does not come in time is missing in the counts, which is judged later.
        clock::wait_for("accepted mails to be passed on", DELIVERY_MAX, || {
            match sink.take() {
                Ok(more) => counts.add(more),
                Err(error) => return Some(Err(error)),
            }
            (counts.mails() >= mails as u64).then_some(Ok(()))
        })
        .unwrap_or(Ok(()))?;
        Ok(counts)
    }

    /// One case by POP3, all arms, with mailboxes of its own.
    fn pop3_cell(
        &mut self,
        places: &[Place],
        round: u32,
        cell: Cell,
        results: &mut Results,
    ) -> Result<()> {
        let (ends, folders) = (self.stage.ends.clone(), self.stage.maildirs.clone());
        let Cell { size, sessions, mails, repeated } = cell;
        let id = |run| Id { run, number: 0, size, repeated };
        let user = format!("r{round}-");
        let measured = Mailboxes::create(&folders, &user, sessions, mails, id(self.next_run()))?;
        let warm_up = Mailboxes::create(&folders, "warm-", 1, 2, id(self.next_run()))?;
        let places = places.iter().filter_map(|place| Some((place, place.pop3?)));
        for (place, from) in places.clone() {
            // The server's own indexes are made by this, without a proxy: none is given new mail.
            if !place.arm.is_proxy() {
                let all = Fetch { from, user: user.clone(), sessions, mails };
                fetch(&place.netns, ends.as_ref(), &all)?;
            }
        }
        for (place, from) in places {
            let few = Fetch { from, user: "warm-".to_owned(), sessions: 1, mails: 2 };
            fetch(&place.netns, ends.as_ref(), &few)?;
            let load_average = load_average()?;
            let cpu_before = place.pop3_tree.cpu_seconds()?;
            let all = Fetch { from, user: user.clone(), sessions, mails };
            let done = fetch(&place.netns, ends.as_ref(), &all)?;
            let mails = done.complete_us.len();
            let one = Pop3 {
                arm: place.arm,
                round,
                cell,
                mails,
                seconds: done.seconds,
                mails_per_second: mails as f64 / done.seconds.max(f64::MIN_POSITIVE),
                first_byte_us: Percentiles::of(done.first_bytes_us),
                complete_us: Percentiles::of(done.complete_us),
                cpu_seconds: place.pop3_tree.cpu_seconds()? - cpu_before,
                load_average,
                arrived: done.counts,
                errors: kept(done.errors),
            };
            println!("{}", report::pop3_line(&one));
            results.pop3.push(one);
        }
        drop((measured, warm_up));
        Ok(())
    }

    /// All sessions at once, each with one large mail, slower than the machine could.
    fn memory(&mut self, place: &Place, plan: &Plan) -> Result<Memory> {
        let ends = self.stage.ends.clone();
        let sessions = plan.memory_sessions;
        let small = self.load(place, Cell::new(KB_10, sessions, 1), plan.measure_ms);
        let small = send(&place.netns, ends.as_ref(), &Load { count: 4 * sessions, ..small })?;
        self.delivered(place, small.latencies_us.len())?;
        let load = Load {
            count: sessions,
            bytes_per_second: Some(plan.memory_bytes_per_second),
            ..self.load(place, Cell::new(MB_25, sessions, 1), u64::MAX)
        };
        let tree = &place.smtp_tree;
        let (idle_kib, files_before) = (tree.proportional_kib()?, files_in_memory_kib()?);
        let look = || {
            ends.as_ref().map_or(Ok(()), Cores::confine)?;
            tree.proportional_kib()
        };
        let work = || send(&place.netns, ends.as_ref(), &load);
        let ((done, files_peak), peak_kib) = highest_while(LOOK_CLOSELY_INTERVAL, look, || {
            highest_while(LOOK_CLOSELY_INTERVAL, files_in_memory_kib, work)
                .unwrap_or_else(|error| (Err(error), files_before))
        })?;
        let done = done?;
        let a_session = |kib: u64| kib as f64 / f64::from(sessions);
        Ok(Memory {
            arm: place.arm,
            sessions,
            size: MB_25,
            idle_kib,
            peak_kib,
            kib_per_session: a_session(peak_kib.saturating_sub(idle_kib)),
            spool_kib_per_session: a_session(files_peak.saturating_sub(files_before)),
            arrived: self.delivered(place, done.latencies_us.len())?,
            errors: kept(done.errors),
        })
    }

    /// One mail with the EICAR test file.
    fn infected(&mut self, place: &Place) -> Result<Infected> {
        let address = place.smtp.context("an arm that carries mail has an address")?;
        let mail = message::eicar(&format!("EICAR by {}", place.arm.title()));
        let reply = match place.clamd {
            // The client asks `clamd` itself, and would not send it.
            Some(_) => "not sent".to_owned(),
            None => place.netns.within(|| -> Result<String> {
                let mut session = e2e::smtp::Session::open(address)?;
                let reply = session.send(plan::SENDER, plan::RECIPIENT, &mail)?;
                Ok(reply.text.trim_end().to_owned())
            })??,
        };
        let mut counts = Counts::default();
        if place.clamd.is_none() {
            let sink = self.stage.sink(place.arm);
            let _ = clock::wait_for("an infected mail", UNLIKELY_MAX, || {
                counts.add(sink.take().ok()?);
                (counts.mails() > 0).then_some(())
            });
        }
        Ok(Infected { arm: place.arm, reply, delivered: counts.mails() > 0 })
    }

    /// Another client than ours: what it measures should be much the same.
    fn source(&mut self, place: &Place, mails_max: u32) -> Result<Source> {
        let mut mails = SOURCE_TRIAL_MAILS;
        let Some(trial) = self.source_seconds(place, mails)? else {
            return Ok(Source { arm: place.arm, mails, mails_per_second: None });
        };
        while mails < mails_max
            && f64::from(mails) * trial / f64::from(SOURCE_TRIAL_MAILS) < SOURCE_SECONDS
        {
            mails = (mails * 2).min(mails_max);
        }
        let seconds = self.source_seconds(place, mails)?;
        let mails_per_second = seconds.map(|seconds| f64::from(mails) / seconds);
        Ok(Source { arm: place.arm, mails, mails_per_second })
    }

    /// `None` when it fails, or does not end: it waits for banners of connections that were lost.
    fn source_seconds(&mut self, place: &Place, mails: u32) -> Result<Option<f64>> {
        let Some(address) = place.smtp else { bail!("{} has no address", place.arm.title()) };
        let mut command = place.netns.command("timeout");
        command.arg(SOURCE_SECONDS_MAX.to_string());
        if let Some(ends) = &self.stage.ends {
            command.args(["taskset", "--cpu-list", &ends.list()]);
        }
        command.arg("smtp-source");
        command.args(["-s", &SOURCE_SESSIONS.to_string(), "-m", &mails.to_string()]);
        command.args(["-l", &KB_10.to_string(), "-f", "user@bench.test", "-t"]);
        command.args(["partner@bench.test", &address.to_string()]);
        let start = clock::now();
        let status = command.stderr(Stdio::null()).status().context("cannot run timeout")?;
        let seconds = start.elapsed().as_secs_f64();
        match status.code() {
            Some(0) => self.delivered(place, usize::try_from(mails)?)?,
            _ => {
                self.delivered(place, 0)?;
                return Ok(None);
            }
        };
        Ok(Some(seconds))
    }
}

/// Each different one once, and not too many.
fn kept(mut errors: Vec<String>) -> Vec<String> {
    errors.sort();
    errors.dedup();
    errors.truncate(ERRORS_KEPT_MAX);
    errors
}

/// For the end of a line.
pub(crate) fn errors_of(errors: &[String]) -> String {
    errors.first().map_or(String::new(), |first| format!("  ERRORS: {first}"))
}

/// Makes the folder of a file, and writes it.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_once_each() {
        let errors = ["b", "a", "b"].map(str::to_owned).to_vec();
        assert_eq!(kept(errors), ["a", "b"]);
        let many = (0..20).map(|number| number.to_string()).collect();
        assert_eq!(kept(many).len(), ERRORS_KEPT_MAX);
        assert_eq!(errors_of(&[]), "");
        assert_eq!(errors_of(&["x".to_owned()]), "  ERRORS: x");
    }
}
