//! `box-console`: see the library.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a command line program")]

use std::process::ExitCode;

use box_console::{Options, run};
use clap::Parser as _;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("box-console: {error}");
            ExitCode::FAILURE
        }
    }
}
