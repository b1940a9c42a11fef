//! The corpus, and the walk in all its readings.

pub(crate) mod tricks;

use std::path::{Path, PathBuf};

use scan::mime::{Event, PartHead, Reading, Walker, further_readings};
use scan::{Limits, Unscannable};

/// Ends of the names of files that are mails.
const MAIL_ENDS: [&str; 6] = ["eml", "msg", "txt", "mbox", "raw", "mime"];

/// The corpus's folder; says so where there is none.
pub(crate) fn corpus() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpus");
    let folder = std::env::var_os("AVR_CORPUS").map_or_else(|| beside.into(), PathBuf::from);
    if Path::new(&folder).is_dir() {
        return Some(folder);
    }
    println!("SKIPPED: no corpus at {}", folder.display());
    None
}

/// All mails below a folder, in order.
pub(crate) fn mails(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| MAIL_ENDS.iter().any(|kind| end == *kind))
            {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

/// What one mail gave, in all the readings that it needs.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) parts: Vec<(PartHead, Vec<u8>)>,
    pub(crate) findings: Vec<Unscannable>,
}

/// Walks a mail as the pipeline does.
pub(crate) fn walk(mail: &[u8]) -> Walked {
    let mut walked = Walked::default();
    let mut done = Vec::new();
    let mut next = Some(Reading::default());
    let mut oddities = scan::mime::Oddities::default();
    while let Some(reading) = next {
        let mut walker = Walker::reading(reading, &Limits::default());
        for chunk in mail.chunks(4096) {
            walker.feed(chunk);
        }
        walker.finish();
        let base = walked.parts.len();
        while let Some(event) = walker.poll_event() {
            match event {
                Event::PartStart(head) => walked.parts.push((head, Vec::new())),
                Event::PartData { number, bytes } => {
                    let at = base + usize::try_from(number).unwrap() - 1;
                    walked.parts[at].1.extend_from_slice(&bytes);
                }
                Event::PartEnd(head) => {
                    let at = base + usize::try_from(head.number).unwrap() - 1;
                    walked.parts[at].0 = head;
                }
                Event::Finding(finding) => {
                    if !walked.findings.contains(&finding) {
                        walked.findings.push(finding);
                    }
                }
            }
        }
        done.push(reading);
        oddities = oddities.or(walker.oddities());
        next = further_readings(oddities, &done).first().copied();
    }
    walked
}
