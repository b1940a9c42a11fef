//! `avr`: arguments, `run`, exit code.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a command line program")]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match avr::cli::Arguments::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("avr: {error:#}");
            ExitCode::FAILURE
        }
    }
}
