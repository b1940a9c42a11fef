//! Containers of any bytes, and what comes out of them, within a small budget.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use unpack::{Budget, Format, Limits, Member, Trouble, formats, unpack};

/// Small, so that inputs of a few kilobytes reach them.
const LIMITS: Limits = Limits {
    members_max: 64,
    bytes_max: 2 * 1024 * 1024,
    member_bytes_max: 512 * 1024,
    ratio_max: 250,
    ratio_floor_bytes: 64 * 1024,
    decoder_bytes_max: 16 * 1024 * 1024,
};
/// Containers in containers that are opened.
const DEPTH_MAX: usize = 3;

/// Any bytes as any kind of container, also where nothing would take them for one: the first byte says
/// which.
pub(crate) fn forced(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let Some(format) = Format::ALL.get(usize::from(*kind) % Format::ALL.len()) else { return };
    let mut budget = Budget::new(LIMITS, Arc::new(|| false));
    let (members, _) = unpacked(bytes, *format, &mut budget);
    assert!(budget.members() <= LIMITS.members_max, "{} members", budget.members());
    assert!(budget.bytes() <= LIMITS.bytes_max, "{} bytes", budget.bytes());
    for member in members {
        assert!(member.bytes.len() <= LIMITS.member_bytes_max, "{}", member.bytes.len());
    }
}

fn unpacked(bytes: &[u8], format: Format, budget: &mut Budget) -> (Vec<Member>, Vec<Trouble>) {
    let mut members = Vec::new();
    let mut found = |member: Member| {
        members.push(member);
        ControlFlow::Continue(())
    };
    let troubles = unpack(bytes, format, budget, &mut found);
    (members, troubles)
}

/// A file of any kind, in all readings, and the files in it.
pub(crate) fn containers(bytes: &[u8]) {
    let mut budget = Budget::new(LIMITS, Arc::new(|| false));
    open(bytes, DEPTH_MAX, &mut budget, &mut HashSet::new());
}

fn open(bytes: &[u8], depth: usize, budget: &mut Budget, seen: &mut HashSet<Vec<u8>>) {
    for format in formats(bytes) {
        let (members, troubles) = unpacked(bytes, format, budget);
        assert!(budget.members() <= LIMITS.members_max, "{} members", budget.members());
        assert!(budget.bytes() <= LIMITS.bytes_max, "{} bytes", budget.bytes());
        for trouble in troubles {
            assert!(!trouble.to_string().is_empty());
        }
        for member in members {
            assert!(member.bytes.len() <= LIMITS.member_bytes_max, "{}", member.bytes.len());
            if depth > 0 && seen.insert(member.bytes.clone()) {
                open(&member.bytes, depth - 1, budget, seen);
            }
        }
    }
}
