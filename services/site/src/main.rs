//! The program `avr-site`; everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = site::args::Args::parse();
    let result = site::args::run(args, &mut std::io::stdout().lock());
    service_kit::program::exit_code("avr-site", result)
}
