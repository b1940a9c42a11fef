//! `bench`: arguments, the comparison, exit code.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a command line program")]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match bench::cli::Arguments::parse().execute() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:?}");
            ExitCode::FAILURE
        }
    }
}
