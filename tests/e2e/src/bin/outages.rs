//! Lets servers, lines and sites fail while mail flows, and prints what came of it as a table:
//! `outages [--only WORDS] [--write FILE]`. Exit status 0 only if no mail was lost, doubled or altered and
//! no session was cut that had nothing to do with it.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a table for a person to read")]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use e2e::{
    Lab,
    outages::{self, Row, SERVERS, SITES, SURROUNDINGS},
    plan::Size,
};

fn main() -> ExitCode {
    e2e::main_in_lab(Size::LARGE, run)
}

fn run(lab: &mut Lab) -> Result<()> {
    lab.start_product()?;
    let only = option("--only")?.unwrap_or_default();
    let outages: Vec<_> = [SERVERS, SITES, SURROUNDINGS]
        .concat()
        .into_iter()
        .filter(|outage| outage.name.contains(&only))
        .collect();
    let rows = outages::run_all(lab, &outages, show)?;
    let table = outages::table(&rows);
    println!("\n{table}");
    if let Some(path) = option("--write")? {
        std::fs::write(&path, format!("{HEAD}{table}"))
            .with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn option(name: &str) -> Result<Option<String>> {
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{argument} needs a value"))?;
        ensure!(["--only", "--write"].contains(&argument.as_str()), "no option {argument}");
        if argument == name {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn show(row: &Row) {
    let mark = if row.is_in_time() { "ok" } else { "LATE" };
    println!(
        "{:<56} {:>4} sessions, {:>2} cut of {:>2} going on, banner after {:>5.2} s {mark} {}",
        row.name,
        row.sessions,
        row.cut,
        row.running,
        row.wait_after.as_secs_f64(),
        row.note
    );
}

const HEAD: &str = "# What fails, and what becomes of the mail\n\n\
    Three sites with a manager, two proxies, an auther and two `clamd` each; an office behind its box sends and\n\
    fetches mail all the time: four clients that send (one of them always in the middle of a mail), two that\n\
    fetch. Each line is one outage, in the site in use; all is in order again before the next. *Going on* are\n\
    the sessions that were open when it happened, *cut* those of them that the client saw end. The target of\n\
    the wait is the longest wait before, and 0.5 s (5.5 s where every site is gone at once). Made by\n\
    `target/release/outages --write tests/e2e/OUTAGES.md` after `cargo build --release`.\n\n";
