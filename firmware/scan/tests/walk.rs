//! The mail corpus against the walk alone: names of attachments, and which mails are refused as ambiguous.
#![allow(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test crate of its own, which says what it skips"
)]

use std::collections::BTreeSet;

use scan::Unscannable;

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

/// Mails that can be read in several ways so that they are refused, and what is wrong with each. None of
/// them is valid.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "mime-is-broken/hide-content/v0_multipart-comment-k1Ck2eb.b-singlepart-b64h-basic-base64-mixedlen_575338.eml",
        "a comment inside the name of the boundary parameter: its delimiters are announced by nobody",
    ),
    (
        "mime-is-broken/hide-content/v0_multipart-comment-keC2b.b2-singlepart-b64h-basic-base64-mixedlen_dd5577.eml",
        "the delimiters are from inside a comment",
    ),
    (
        "mime-is-broken/hide-content/v0_multipart-double_boundary-ctb_bad_good-singlepart-b64h-basic-base64-mixedlen_42a38e.eml",
        "two boundaries, and both of them occur",
    ),
    (
        "mime-is-broken/hide-content/v0_multipart-double_boundary-ctb_bad_rfc2231_good-singlepart-b64h-basic-base64-mixedlen_8e82e8.eml",
        "two boundaries, and both of them occur",
    ),
    (
        "mime-is-broken/hide-content/v0_multipart-nlcr_boundary-singlepart-b64h-basic-base64-mixedlen_0d4c6d.eml",
        "a delimiter behind a bare CR",
    ),
    (
        "mime-is-broken/hide-content/v0_multipart-quote_escaped-singlepart-b64h-basic-base64-mixedlen_715e96.eml",
        "escapes outside of quotes: its delimiters are announced by nobody",
    ),
    (
        "mime-is-broken/hide-content/v0_multipart-quote_escaped_before1-singlepart-b64h-basic-base64-mixedlen_df688f.eml",
        "escapes outside of quotes: its delimiters are announced by nobody",
    ),
    ("mime-tools/testin/badbound.msg", "other delimiters than the one announced"),
    ("mime4j/mimetools-testmsgs/badbound.msg", "other delimiters than the one announced"),
    (
        "mime4j/testmsgs/very-very-long-boundary.msg",
        "a boundary over the limit of 4096 bytes; 70 are allowed",
    ),
    ("python-test_email/msg_31.txt", "other delimiters than the one announced"),
    ("stalwart-mail-parser/malformed/004.eml", "other delimiters than the one announced"),
];

#[test]
fn only_broken_mails_are_ambiguous() {
    let Some(corpus) = common::corpus() else { return };
    let mails = common::mails(&corpus);
    let mut ambiguous = BTreeSet::new();
    for path in &mails {
        let walked = common::walk(&std::fs::read(path).unwrap());
        if walked.findings.contains(&Unscannable::Ambiguous) {
            ambiguous.insert(path.strip_prefix(&corpus).unwrap().display().to_string());
        }
    }
    println!("{} of {} mails are ambiguous", ambiguous.len(), mails.len());
    let known: BTreeSet<String> = AMBIGUOUS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(ambiguous, known, "left: ambiguous now, right: known");
}

/// The one mail of the collection in BinHex holds no payload that a rule could find, but this.
#[test]
fn binhex_is_decoded() {
    let Some(corpus) = common::corpus() else { return };
    let name = "mime-is-broken/hide-content/v0_multipart-basic-singlepart-binhex40_711ab2.eml";
    let walked = common::walk(&std::fs::read(corpus.join(name)).unwrap());
    assert!(walked.parts.iter().any(|part| part.1 == b"ARRAY(0x55a642d8d418)"));
}
