//! The program `avr-auther`; everything is in the library.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = auther::args::Args::parse();
    match auther::args::run(args, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is gone too, the exit code still says it.
            let _ = writeln!(std::io::stderr(), "avr-auther: {error:#}");
            ExitCode::FAILURE
        }
    }
}
