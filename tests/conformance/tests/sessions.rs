//! All scripted sessions, with a table. `AVR_CORPUS` names the corpus.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::fmt::Write as _;
use std::path::Path;

use conformance::script::Script;
use conformance::{judge, run, script};

/// Sessions that are not expected to pass yet, and why. One that passes must be taken off the list.
const NOT_YET: &[(&str, &str)] = &[];

/// Sessions that are not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("S13-slowloris-cmd", "takes 33 minutes; the time limit of a line is tested in `mail`"),
    (
        "P13b-slow-server",
        "takes 7 minutes, and the keep-alive while a message is held is not built",
    ),
];

/// The corpus's infected sessions carry the EICAR file in a zip; archives are not opened, so the
/// rule names the zip itself.
const RULE: &str = r#"
rule Corpus_Eicar_Zip { strings: $zip = { 50 4B 03 04 [22-26] 65 69 63 61 72 2E 63 6F 6D } condition: $zip }
"#;

#[test]
fn scripted_sessions() -> anyhow::Result<()> {
    let Some(scripts) = script::load_all()? else {
        println!(
            "NOT RUN: no corpus at {}; set AVR_CORPUS to the folder that has MANIFEST.md",
            script::corpus().display()
        );
        return Ok(());
    };
    let rules = tempfile::tempdir()?;
    std::fs::write(rules.path().join("corpus.yar"), RULE)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (table, wrong) = runtime.block_on(run_all(scripts, rules.path()));
    println!("{table}");
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

async fn run_all(scripts: Vec<Script>, rules: &Path) -> (String, Vec<String>) {
    let mut running = tokio::task::JoinSet::new();
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for script in scripts {
        if let Some(why) = reason(NOT_RUN, &script.id) {
            let _ = writeln!(table, "{:26} not run: {why}", script.id);
            continue;
        }
        let rules = rules.to_owned();
        running.spawn(async move {
            let judged = match run::run(&script, &rules).await {
                Ok(transcript) => judge::judge(&script, &transcript).map_err(|why| {
                    let tail = |bytes: &[u8]| {
                        let from = bytes.len().saturating_sub(300);
                        bytes[from..].escape_ascii().to_string()
                    };
                    let (client, server) = (&transcript.client_got, &transcript.server_got);
                    format!("{why}\n    client: …{}\n    server: …{}", tail(client), tail(server))
                }),
                Err(error) => Err(format!("{error:#}")),
            };
            (script.id, judged)
        });
    }
    let mut results = running.join_all().await;
    results.sort();
    for (id, judged) in results {
        match (judged, reason(NOT_YET, &id)) {
            (Ok(()), None) => {
                let _ = writeln!(table, "{id:26} as expected");
            }
            (Err(_), Some(why)) => {
                let _ = writeln!(table, "{id:26} not yet: {why}");
            }
            (Ok(()), Some(_)) => wrong.push(format!("{id} passes now: take it off NOT_YET")),
            (Err(why), None) => wrong.push(format!("{id}: {why}")),
        }
    }
    (table, wrong)
}

fn reason(list: &[(&'static str, &'static str)], id: &str) -> Option<&'static str> {
    list.iter().find(|(name, _)| *name == id).map(|(_, why)| *why)
}
