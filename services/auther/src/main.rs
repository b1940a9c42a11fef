//! The program `avr-auther`; everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = auther::args::Args::parse();
    let result = auther::args::run(args, &mut std::io::stdout().lock());
    service_kit::program::exit_code("avr-auther", result)
}
