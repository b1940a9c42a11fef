//! The mail corpus against the pipeline with YARA rules: what must be found is found, or refused.
//!
//! The corpus is no part of the repository. Its folder is `AVR_CORPUS`, else `../shared/corpus` beside the
//! workspace; where it is absent these tests say so and do nothing.
#![allow(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test crate of its own, which says what it skips"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use scan::local::block::BlockRules;
use scan::local::hashes::HashLists;
use scan::worker::Knowledge;
use scan::worker::pool::{Isolation, Workers};
use scan::yara::CompiledRules;
use scan::{Limits, Scanner, Unscannable, Verdict};
use spool::Spooler;

use self::common::corpus;

#[allow(dead_code, reason = "shared by several test crates")]
mod common;

/// The test file in a zip as these mails carry it: its local header, its name and its deflated bytes.
const ZIP_RULE: &str = r#"
rule eicar_test_zip {
    strings:
        $local = { 50 4B 03 04 14 00 02 00 08 00 11 4A 8E 49 3C CF 51 68 46 00 00 00 44 00 00 00
                   09 00 00 00 65 69 63 61 72 2E 63 6F 6D 8B 30 F5 57 0C 50 75 70 0C 88 36 89 09
                   88 8A 30 35 D1 08 88 D3 34 77 76 D6 34 AF 55 71 F5 74 76 0C D2 0D 0E 71 F4 73
                   71 0C 72 D1 75 F4 0B F1 0C F3 0C 0A 0D D6 0D 71 0D 0E D1 75 F3 F4 71 55 54 F1
                   D0 F6 D0 02 00 50 4B 01 02 }
        $end = { 50 4B 05 06 }
    condition: $local and $end
}"#;

/// Of the hand-written mails.
const AUTHORED_MISSES: &[(&str, &str)] = &[];

/// Of mime-is-broken.
const BROKEN_MISSES: &[(&str, &str)] = &[(
    "v0_multipart-basic-singlepart-binhex40_711ab2.eml",
    "there is no payload in it: what stands there in BinHex, and is decoded, is the name of a variable",
)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Detect,
    DetectOrReject,
    Unscannable,
}

impl Expected {
    fn is_met(self, verdict: &Verdict) -> bool {
        match (self, verdict) {
            (_, Verdict::Infected(_)) | (Self::Unscannable, Verdict::Unscannable(_)) => true,
            // What the default policy refuses.
            (Self::DetectOrReject, Verdict::Unscannable(why)) => !matches!(
                why,
                Unscannable::Encrypted | Unscannable::OverSize | Unscannable::Archive { .. }
            ),
            _ => false,
        }
    }
}

#[tokio::test]
async fn authored_mails() {
    let Some(corpus) = corpus() else { return };
    let index = std::fs::read_to_string(corpus.join("AUTHORED-INDEX.tsv")).unwrap();
    let mut mails = Vec::new();
    for line in index.lines() {
        let mut columns = line.split('\t');
        let Some(name) = columns.next().and_then(|file| file.strip_prefix("authored-mime/")) else {
            continue;
        };
        let expected = match columns.nth(3).unwrap() {
            "DETECT" => Expected::Detect,
            "DETECT|REJECT" => Expected::DetectOrReject,
            "POLICY-UNSCANNABLE" => Expected::Unscannable,
            other => panic!("{name}: {other} is no expectation"),
        };
        mails.push((name.to_owned(), corpus.join("authored-mime").join(name), expected));
    }
    run("authored-mime", mails, AUTHORED_MISSES).await;
}

#[tokio::test]
async fn broken_mails() {
    let Some(corpus) = corpus() else { return };
    let mut mails = Vec::new();
    for entry in std::fs::read_dir(corpus.join("mime-is-broken/hide-content")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let valid = name.starts_with("v3") || name.starts_with("v2");
        let expected = if valid { Expected::Detect } else { Expected::DetectOrReject };
        mails.push((name, path, expected));
    }
    run("mime-is-broken", mails, BROKEN_MISSES).await;
}

/// No mail of any of the collections may panic, hang, or be refused for its size.
#[tokio::test]
async fn every_mail_gets_a_verdict() {
    let Some(corpus) = corpus() else { return };
    let scanner = scanner();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for path in common::mails(&corpus) {
        let kind = match verdict(&scanner, &std::fs::read(&path).unwrap()).await {
            Verdict::Unscannable(why) => format!("{why:?}"),
            Verdict::Infected(_) => "infected".to_owned(),
            Verdict::Clean => "clean".to_owned(),
        };
        *counts.entry(kind).or_default() += 1;
    }
    println!("{counts:?}");
    assert!(!counts.keys().any(|kind| kind.contains("EngineFailed") || kind.contains("OverTime")));
    assert_eq!(scanner.spooler().bytes(), 0);
}

async fn run(collection: &str, mails: Vec<(String, PathBuf, Expected)>, known: &[(&str, &str)]) {
    let scanner = scanner();
    let total = mails.len();
    let mut missed = BTreeSet::new();
    for (name, path, expected) in mails {
        let verdict = verdict(&scanner, &std::fs::read(path).unwrap()).await;
        if !expected.is_met(&verdict) {
            println!("{collection}/{name}: wanted {expected:?}, got {verdict:?}");
            missed.insert(name);
        }
    }
    println!("{collection}: {} of {total} as expected", total - missed.len());
    let known: BTreeSet<String> = known.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(total > 0, "the collection is empty");
    assert_eq!(missed, known, "left: missed now, right: known misses");
}

fn scanner() -> Scanner {
    let rules = [("zip.yar".to_owned(), ZIP_RULE.to_owned())];
    let rules = CompiledRules::from_sources(&rules).unwrap();
    let (hashes, block) = (HashLists::default(), BlockRules::default());
    let knowledge = Knowledge::new(&rules, hashes, block, Limits::default()).unwrap();
    let workers = Workers::new(Isolation::Thread, 1, &knowledge).unwrap();
    Scanner::new(workers, Vec::new(), Limits::default(), Spooler::default())
}

async fn verdict(scanner: &Scanner, mail: &[u8]) -> Verdict {
    let mut scan = scanner.begin();
    for chunk in mail.chunks(4096) {
        scan.feed(chunk);
    }
    scan.finish().await.verdict
}
