//! `conformance`: runs all cases and prints the table, or writes it with `--write`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::process::ExitCode;

use anyhow::Context;
use conformance::{all, argued::Argued, corpus, table};

fn main() -> ExitCode {
    let is_writing = std::env::args().skip(1).any(|argument| argument == "--write");
    match run(is_writing) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as expected or argued.
fn run(is_writing: bool) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let argued = Argued::load()?;
    let own = runtime.block_on(all::own(&argued))?;
    let corpus = runtime.block_on(all::corpus(&argued))?;
    if corpus.is_none() {
        eprintln!("{}", corpus::absent());
    }
    let committed = std::fs::read_to_string(table::path()).unwrap_or_default();
    let text = table::render(&own, corpus.as_ref(), &argued, &committed);
    if is_writing {
        std::fs::write(table::path(), &text).context("write RESULTS.md")?;
    } else {
        print!("{text}");
    }
    Ok(own.is_good() && corpus.is_none_or(|tally| tally.is_good()))
}
