//! Two sites made by the steps of services/site/README.md, and a box whose mails move between them.
//! Exit status 0 only if every step is as expected.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a table for a person to read")]

use std::process::ExitCode;

use anyhow::Result;
use e2e::{
    Lab,
    plan::Size,
    sites::{self, Step},
};

fn main() -> ExitCode {
    e2e::main_in_lab(Size::USUAL, run)
}

fn run(lab: &mut Lab) -> Result<()> {
    println!(
        "An office, the internet, and the machines of two sites, with nothing on them. What follows\n\
         is what services/site/README.md says, typed by a program; the TTL is 5 s and not 20 minutes.\n"
    );
    println!("{:<32} {:>8}  {:<15} seen", "step", "time", "way of the mail");
    sites::run_all(lab, |Step { what, way, took, seen }| {
        let way = way.as_ref().map(ToString::to_string).unwrap_or_default();
        println!("{what:<32} {:>6.1} s  {way:<15} {seen}", took.as_secs_f64());
    })
}
