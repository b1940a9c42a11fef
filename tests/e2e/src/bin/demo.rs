//! The demo: every scenario in one lab, as a table, and then the figures. Exit status 0 only if
//! every line is as expected; a figure that misses its target is marked, not an error.
//!
//! With `--image FILE` the box is that disk image in QEMU. What its program does is not measured then, and
//! the lines that kill it are left out: whoever stands before the box cannot.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table for a person to read")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    Lab, clock,
    evidence::Way,
    failures,
    figures::{Figure, measure_all},
    plan::Size,
    scenarios::{self, Done},
};

/// A line of the table: what is done, by what, and whether it must have gone through a site.
type Line = (&'static str, fn(&mut Lab) -> Result<Done>, Expected);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Relayed,
    Direct,
    Bridged,
}

const LINES: [Line; 19] = [
    ("a web page, all well", |lab| scenarios::download(lab), Expected::Bridged),
    ("a clean mail out (swaks)", |lab| scenarios::clean_out(lab), Expected::Relayed),
    ("a clean mail out by IPv6", |lab| scenarios::clean_out_ipv6(lab), Expected::Relayed),
    ("a clean mail fetched (curl)", |lab| scenarios::clean_in(lab), Expected::Relayed),
    ("a mail out by STARTTLS, unread", |lab| scenarios::starttls_out(lab), Expected::Relayed),
    ("EICAR out", |lab| scenarios::eicar_out(lab), Expected::Relayed),
    ("EICAR fetched", |lab| scenarios::eicar_in(lab), Expected::Relayed),
    ("a virus only the site knows, out", |lab| scenarios::marked_out(lab), Expected::Relayed),
    ("the manager in use killed", failures::manager_killed, Expected::Relayed),
    ("a web page, manager dead", |lab| scenarios::download(lab), Expected::Bridged),
    ("everything back", failures::everything_back, Expected::Relayed),
    ("the proxy in use killed", failures::proxy_killed, Expected::Relayed),
    ("everything back", failures::everything_back, Expected::Relayed),
    ("the site in use stopped", failures::site_stopped, Expected::Relayed),
    ("every site stopped", failures::everything_stopped, Expected::Direct),
    ("EICAR out, every site stopped", |lab| scenarios::eicar_out(lab), Expected::Direct),
    ("a web page, every site stopped", |lab| scenarios::download(lab), Expected::Bridged),
    ("everything back", failures::everything_back, Expected::Relayed),
    ("a clean mail fetched again", |lab| scenarios::clean_in(lab), Expected::Relayed),
];

/// Where the box is a program of this machine.
const PROGRAM_LINES: [Line; 2] = [
    ("the box's own program killed", failures::box_killed, Expected::Direct),
    ("a web page, all back", |lab| scenarios::download(lab), Expected::Bridged),
];

fn main() -> ExitCode {
    match e2e::enter() {
        Ok(Some(status)) => {
            status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into()
        }
        Ok(None) => match Lab::run(Size::USUAL, demo) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("\n{error:?}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn demo(lab: &mut Lab) -> Result<()> {
    let start = clock::now();
    let image = image()?;
    println!("The office, the internet and two sites are up; starting the product ...");
    match &image {
        Some(image) => lab.start_machine(image)?,
        None => lab.start_product()?,
    }
    println!("The box carries sessions through a site, {:.1} s\n", start.elapsed().as_secs_f64());
    println!(
        "A PC behind the box sends and fetches mail. tokyo and osaka are relay sites; the way is\n\
         what the routers counted and the mail server saw, not what the box says.\n"
    );
    println!("{:<34} {:>9}  {:<14} {:<6} seen", "step", "time", "way", "");
    let mut lines = LINES.to_vec();
    if image.is_none() {
        lines.extend(PROGRAM_LINES);
    }
    let mut wrong = Vec::new();
    for &(name, step, expected) in &lines {
        let done = step(lab).and_then(|done| {
            ensure!(expected.fits(&done.way), "the way was {}", done.way);
            // A box that is emulated may take so long for a connection that it tries two at once: the
            // next session has one that is ready.
            if image.is_some() && expected == Expected::Relayed {
                lab.wait_warm()?;
            }
            Ok(done)
        });
        match done {
            Ok(done) => {
                let ms = done.took.as_secs_f64() * 1e3;
                let way = done.way.to_string();
                println!("{name:<34} {ms:>6.0} ms  {way:<14} {:<6} {}", "ok", done.seen);
            }
            Err(error) => {
                println!("{name:<34} {:>9}  {:<14} {:<6} {error:#}", "", "", "WRONG");
                wrong.push(format!("{name}: {error:#}"));
                lab.restore()?;
            }
        }
    }
    let mut missed = 0;
    if image.is_none() {
        println!("\nFigures");
        measure_all(lab, |figure| {
            print_figure(figure);
            missed += usize::from(!figure.reached);
        })?;
    }
    let seconds = start.elapsed().as_secs();
    println!(
        "\n{} of {} lines as expected, {missed} figures missed, {seconds} s in all.",
        lines.len() - wrong.len(),
        lines.len()
    );
    // Below the programs' logs: what is read first must say it too.
    ensure!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
    Ok(())
}

/// The disk image that was named, as a path from the root: the lab's programs run elsewhere.
fn image() -> Result<Option<PathBuf>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [] => Ok(None),
        [option, image] if option == "--image" => {
            let path = Path::new(image).canonicalize();
            path.map(Some).with_context(|| format!("no image {}", image.display()))
        }
        _ => bail!("usage: demo [--image FILE.img.zst]"),
    }
}

impl Expected {
    fn fits(self, way: &Way) -> bool {
        match self {
            Self::Relayed => way.site().is_some(),
            Self::Direct => *way == Way::Direct,
            Self::Bridged => *way == Way::Bridge,
        }
    }
}

fn print_figure(figure: &Figure) {
    let mark = if figure.reached { "ok" } else { "MISSED" };
    println!("{:<46} {:<6} {}", figure.name, mark, figure.measured);
    println!("{:<46} {:<6} beside: {}; target: {}", "", "", figure.beside, figure.target);
}
