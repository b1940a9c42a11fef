//! Another reader's view: whatever Python's `email` package extracts from a mail, the walk gave out.
#![allow(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test crate of its own, which says what it skips"
)]

use std::io::Write;
use std::process::{Command, Stdio};

#[allow(dead_code, reason = "shared by several test crates")]
mod common;

use self::common::tricks::{Coding, sample};

/// How many mails of each encoding are put together.
const SAMPLES: usize = 1500;

/// What base64 makes of the letters of a delimiter, bytes.
const DELIMITER_BYTES: usize = 3;

const SCRIPT: &str = include_str!("common/extract.py");

/// A leaf that Python found.
struct Leaf {
    mail: usize,
    kind: String,
    name: String,
    payload: Vec<u8>,
}

/// What Python extracts from these mails; `None` where there is no Python.
fn extract(mails: &[Vec<u8>]) -> Option<Vec<Leaf>> {
    let child = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: no python3 to compare with");
        return None;
    };
    // It reads everything before it writes anything.
    let mut stdin = child.stdin.take().unwrap();
    for mail in mails {
        stdin.write_all(&u32::try_from(mail.len()).unwrap().to_be_bytes()).unwrap();
        stdin.write_all(mail).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "python3 failed");
    let mut rest = output.stdout.as_slice();
    let mut frame = || {
        let (size, tail) = rest.split_first_chunk::<4>()?;
        let (frame, tail) = tail.split_at(usize::try_from(u32::from_be_bytes(*size)).unwrap());
        rest = tail;
        Some(frame.to_vec())
    };
    let mut leaves = Vec::new();
    while let Some(number) = frame() {
        let mut text = || String::from_utf8(frame().unwrap()).unwrap();
        let mail = String::from_utf8(number).unwrap().parse().unwrap();
        let (kind, name) = (text(), text());
        leaves.push(Leaf { mail, kind, name, payload: frame().unwrap() });
    }
    Some(leaves)
}

/// Compares a collection; gives what Python has and the walk has not.
///
/// `cut_off`: a body that starts at an odd line of its header ends, in the flat reading, at what looks like a
/// delimiter of nobody. Python reads on, and what it makes of that line need not be there.
fn missing(mails: &[(String, Vec<u8>)], cut_off: bool) -> Option<Vec<String>> {
    let bytes: Vec<Vec<u8>> = mails.iter().map(|mail| mail.1.clone()).collect();
    let leaves = extract(&bytes)?;
    println!("{} mails, {} leaves", mails.len(), leaves.len());
    assert!(leaves.len() >= mails.len(), "Python reads every mail in two ways");
    let mut missing = Vec::new();
    let mut walked = (usize::MAX, common::Walked::default());
    for leaf in leaves {
        if walked.0 != leaf.mail {
            walked = (leaf.mail, common::walk(&mails[leaf.mail].1));
        }
        let label = format!("{} {}", mails[leaf.mail].0, leaf.kind);
        let wanted = trim_ends(&leaf.payload);
        // What stands in clear is in the raw message, which is looked at too.
        let (mail, parts) = (&mails[leaf.mail].1, &walked.1.parts);
        let is_base64 = leaf.kind.to_ascii_lowercase().contains("base64");
        let given = |wanted: &[u8]| parts.iter().any(|part| contains(&part.1, wanted));
        // Base64 that Python cannot decode it gives as it stands, without the ends of lines.
        let in_clear = contains(mail, wanted) || is_base64 && contains(&without_ends(mail), wanted);
        let cut = if !cut_off {
            0
        } else if is_base64 {
            wanted.len().saturating_sub(DELIMITER_BYTES)
        } else {
            wanted.windows(3).rposition(|window| window == b"\n--").unwrap_or(0)
        };
        let without_delimiter = trim_ends(&wanted[..cut]);
        if !in_clear && !given(wanted) && (cut == 0 || !given(without_delimiter)) {
            let shown = String::from_utf8_lossy(&wanted[..wanted.len().min(80)]);
            missing.push(format!("{label}: {} bytes, {shown:?}", wanted.len()));
        }
        let name: String = leaf.name.chars().filter(|c| !c.is_control()).collect();
        let names = || walked.1.parts.iter().flat_map(|part| &part.0.file_names);
        // What is no UTF-8 is lost to Python.
        let lost = name.is_empty() || name.contains(char::REPLACEMENT_CHARACTER);
        if !lost && !names().any(|known| *known == name) {
            missing
                .push(format!("{label}: name {name:?}, known {:?}", names().collect::<Vec<_>>()));
        }
    }
    Some(missing)
}

/// Line ends at the end belong to the delimiter or not, as one likes.
fn trim_ends(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r' | b'\n'] = bytes {
        bytes = rest;
    }
    bytes
}

fn without_ends(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect()
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn the_corpus() {
    let Some(corpus) = common::corpus() else { return };
    let mails: Vec<(String, Vec<u8>)> = common::mails(&corpus)
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&corpus).unwrap().display().to_string();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    let Some(missing) = missing(&mails, false) else { return };
    for line in &missing {
        println!("{line}");
    }
    assert!(missing.is_empty(), "{} extracted by Python alone", missing.len());
}

#[test]
fn mails_put_together() {
    let seed = 1;
    let codings = [Coding::Base64, Coding::QuotedPrintable];
    let mails: Vec<(String, Vec<u8>)> = codings
        .into_iter()
        .flat_map(|coding| sample(coding, seed).take(SAMPLES))
        .map(|mail| (format!("{:?}", mail.names), mail.bytes))
        .collect();
    let Some(missing) = missing(&mails, true) else { return };
    for line in missing.iter().take(40) {
        println!("{line}");
    }
    assert!(missing.is_empty(), "{} extracted by Python alone", missing.len());
}
