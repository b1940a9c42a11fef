//! The program `avr-pages`: see the library.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Parser;

/// Writes the manual pages and shell completions of the site's programs, and the licences of what they are
/// linked with, into a folder.
#[derive(Debug, Parser)]
struct Args {
    /// Where to; made if it is not there.
    folder: PathBuf,
    /// The date on the pages, as in 2026-11-26.
    #[arg(long)]
    date: String,
}

fn main() -> anyhow::Result<()> {
    let Args { folder, date } = Args::parse();
    packaging::write(&folder, &date)
}
