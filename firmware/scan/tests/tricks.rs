//! Mails put together from every way to write each of their elements, valid or not: the payload is found, or
//! the mail is refused as ambiguous; and where every element is valid, it is found in one reading and
//! nothing is refused.
#![allow(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test crate of its own, which says what it did"
)]

use scan::Unscannable;

#[allow(dead_code, reason = "shared by several test crates")]
mod common;

use self::common::tricks::{Coding, ELEMENTS, Mail, sample};

/// How many mails of all combinations are tried beside the pairs.
const SAMPLES: usize = 10_000;
/// Where the choice of the samples starts; `AVR_SEED` sets another one.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// How a mail was walked.
#[derive(Debug)]
struct Outcome {
    found: bool,
    findings: Vec<Unscannable>,
}

impl Outcome {
    fn of(mail: &Mail) -> Self {
        let common::Walked { parts, findings } = common::walk(&mail.bytes);
        Self { found: parts.iter().any(|part| contains(&part.1, &mail.payload)), findings }
    }

    fn is_right(&self, mail: &Mail) -> bool {
        if mail.valid {
            self.found && self.findings.is_empty()
        } else {
            self.found || self.findings.contains(&Unscannable::Ambiguous)
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn check(mails: impl Iterator<Item = Mail>) {
    let (mut count, mut valid, mut found, mut wrong) = (0, 0, 0, Vec::new());
    for mail in mails {
        let outcome = Outcome::of(&mail);
        count += 1;
        valid += usize::from(mail.valid);
        found += usize::from(outcome.found);
        if !outcome.is_right(&mail) {
            println!("{:?}: {outcome:?}", mail.names);
            wrong.push(mail);
        }
    }
    println!("{count} mails, {valid} of them valid: found in {found}, the others refused");
    if let Some(mail) = wrong.first() {
        panic!("{} wrong; the first:\n{}", wrong.len(), String::from_utf8_lossy(&mail.bytes));
    }
}

/// One mail for every pair of ways, all else usual.
fn pairs(coding: Coding) -> Vec<Mail> {
    let elements = coding.elements();
    let mut mails = Vec::new();
    for one in 0..ELEMENTS {
        for other in 0..one {
            for first in 0..elements[one].len() {
                for second in 0..elements[other].len() {
                    let mut choice = [0; ELEMENTS];
                    (choice[one], choice[other]) = (first, second);
                    mails.push(Mail::new(coding, choice));
                }
            }
        }
    }
    mails
}

fn seed() -> u64 {
    let seed = std::env::var("AVR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("AVR_SEED={seed}");
    seed
}

#[test]
fn every_pair_of_ways_in_base64() {
    check(pairs(Coding::Base64).into_iter());
}

#[test]
fn every_pair_of_ways_in_quoted_printable() {
    check(pairs(Coding::QuotedPrintable).into_iter());
}

#[test]
fn many_combinations_in_base64() {
    check(sample(Coding::Base64, seed()).take(SAMPLES));
}

#[test]
fn many_combinations_in_quoted_printable() {
    check(sample(Coding::QuotedPrintable, seed()).take(SAMPLES));
}
