//! What the tests of this crate share: the corpus beside the tree, and a walk through containers.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "compiled into each test file, which uses a part of it"
)]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unpack::{Budget, Limits, Member, Trouble, formats, unpack, watch};

pub const EICAR: &[u8] = br"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*";
/// Nesting that the walk follows.
pub const DEPTH_MAX: usize = 16;

/// The corpus's folder, unless it is not there, which is said.
pub fn corpus(folder: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    let corpus = std::env::var_os("AVR_CORPUS").map_or(beside, PathBuf::from);
    let folder = corpus.join(folder);
    if !folder.is_dir() {
        println!("SKIPPED: no corpus at {}", corpus.display());
        return None;
    }
    Some(folder)
}

/// All files under a folder, sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// What was found in some bytes and in all that is packed in them.
#[derive(Debug, Default)]
pub struct Found {
    pub members: Vec<Member>,
    pub troubles: Vec<Trouble>,
}

impl Found {
    pub fn has(&self, content: &[u8]) -> bool {
        self.members
            .iter()
            .any(|member| member.bytes.windows(content.len()).any(|window| window == content))
    }

    pub fn names(&self) -> Vec<&str> {
        self.members.iter().flat_map(|member| member.names.iter().map(String::as_str)).collect()
    }
}

pub fn budget() -> Budget {
    Budget::new(Limits::default(), Arc::new(|| false))
}

pub fn walk(bytes: &[u8]) -> Found {
    walk_within(bytes, &mut budget())
}

pub fn walk_within(bytes: &[u8], budget: &mut Budget) -> Found {
    let mut found = Found::default();
    step(bytes, 0, budget, &mut HashSet::new(), &mut found);
    found
}

fn step(
    bytes: &[u8],
    depth: usize,
    budget: &mut Budget,
    seen: &mut HashSet<Vec<u8>>,
    found: &mut Found,
) {
    assert!(is_suspect(bytes) || formats(bytes).is_empty(), "would be missed in windows");
    if depth == 0 {
        let behind = [&[b' '; watch::START_BYTES], bytes].concat();
        assert!(is_suspect(&behind) || formats(&behind).is_empty(), "would be missed behind text");
    }
    for format in formats(bytes) {
        let mut members = Vec::new();
        let troubles = unpack(bytes, format, budget, &mut |member| {
            members.push(member);
            ControlFlow::Continue(())
        });
        for trouble in troubles {
            if !found.troubles.contains(&trouble) {
                found.troubles.push(trouble);
            }
        }
        for member in members {
            if depth < DEPTH_MAX && seen.insert(member.bytes.clone()) {
                step(&member.bytes, depth + 1, budget, seen, found);
            }
            found.members.push(member);
        }
    }
}

/// Whether somebody who sees these bytes in windows would keep them.
fn is_suspect(bytes: &[u8]) -> bool {
    let start = bytes.get(..watch::START_BYTES).unwrap_or(bytes);
    watch::is_suspect(start) || watch::has_mark(bytes) || watch::is_suspect_end(bytes)
}

/// Undoes uuencoding, of the first file in a text.
pub fn uudecode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let lines = text.split(|byte| *byte == b'\n');
    let body = lines.skip_while(|line| !line.starts_with(b"begin ")).skip(1);
    for line in body.take_while(|line| !line.starts_with(b"end")) {
        let Some((count, line)) = line.split_first() else { continue };
        let value = |index: usize| {
            u32::from(line.get(index).map_or(0, |byte| byte.wrapping_sub(b' ') & 0x3f))
        };
        let mut bytes = Vec::new();
        for group in (0..line.len()).step_by(4) {
            let word = (0..4).fold(0, |word, index| word << 6 | value(group + index));
            bytes.extend_from_slice(&word.to_be_bytes()[1..]);
        }
        bytes.truncate(usize::from(count.wrapping_sub(b' ') & 0x3f));
        out.extend_from_slice(&bytes);
    }
    out
}
