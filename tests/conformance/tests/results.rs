//! Everything is run, and the committed table must be what comes of it.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::print_stdout, reason = "where there is no corpus, that must be seen")]

use std::collections::BTreeSet;

use conformance::{all, argued::Argued, corpus, table};

#[test]
fn the_committed_table_is_what_a_run_gives() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let argued = Argued::load()?;
    let own = runtime.block_on(all::own(&argued))?;
    let corpus = runtime.block_on(all::corpus(&argued))?;
    if corpus.is_none() {
        println!("{}", corpus::absent());
    }
    let wrong: Vec<&String> =
        own.unargued.iter().chain(corpus.iter().flat_map(|tally| &tally.unargued)).collect();
    anyhow::ensure!(wrong.is_empty(), "neither as expected nor argued:\n{wrong:#?}");
    if let Some(corpus) = &corpus {
        let used: BTreeSet<usize> =
            own.argued.keys().chain(corpus.argued.keys()).copied().collect();
        for (number, argument) in argued.argued.iter().enumerate() {
            let files = &argument.files;
            anyhow::ensure!(used.contains(&number), "argued.toml: {files:?} argues nothing (now)");
        }
    }
    let committed = std::fs::read_to_string(table::path())?;
    let fresh = table::render(&own, corpus.as_ref(), &argued, &committed);
    let changed: Vec<&str> =
        fresh.lines().filter(|line| !committed.lines().any(|known| known == *line)).collect();
    anyhow::ensure!(
        fresh == committed,
        "RESULTS.md is not what this run gives; run `{}` to update it:\n{}",
        table::UPDATE,
        changed.join("\n")
    );
    Ok(())
}
