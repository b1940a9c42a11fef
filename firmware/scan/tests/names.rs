//! Every name that a client may give an attachment is among the names of its part.
#![allow(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test crate of its own, which says what it skips"
)]

use std::collections::BTreeSet;

#[allow(dead_code, reason = "shared by several test crates")]
mod common;

/// Mails in which no name ends in `.zip`, and why that is right.
const WITHOUT: &[(&str, &str)] = &[
    ("v3_fname-cdisp.png_9d73d8.eml", "the control: the name is file.png to everybody"),
    ("v3_fname-ctype.png_2c0e12.eml", "the control: the name is file.png to everybody"),
];

#[test]
fn hidden_names_are_seen() {
    let Some(corpus) = common::corpus() else { return };
    let mails = common::mails(&corpus.join("mime-is-broken/hide-filename"));
    let mut missed = BTreeSet::new();
    for path in &mails {
        let walked = common::walk(&std::fs::read(path).unwrap());
        let names: Vec<&String> = walked.parts.iter().flat_map(|part| &part.0.file_names).collect();
        if !names.iter().any(|name| name.to_ascii_lowercase().ends_with(".zip")) {
            let name = path.file_name().unwrap().to_str().unwrap();
            println!("{name}: {names:?}");
            missed.insert(name.to_owned());
        }
    }
    println!("{} of {} mails have a name in .zip", mails.len() - missed.len(), mails.len());
    assert!(!mails.is_empty(), "the collection is empty");
    let known: BTreeSet<String> = WITHOUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(missed, known, "left: missed now, right: known");
}
