//! What programs cost: processor time and memory of process trees, as `/proc` tells it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// Ticks of `/proc/ID/stat` in a second, on Linux always (proc(5), `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes in a page of `/proc/ID/statm`, on the processors that AVR runs on.
const PAGE_KIB: u64 = 4;

/// One line of `/proc/ID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Of itself, and of the children it has waited for.
    ticks: u64,
}

impl Stat {
    fn read(id: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name of a program may hold blanks and parentheses.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>());
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks.sum::<Result<u64, _>>().ok()?,
        })
    }
}

/// Some programs and all their descendants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    roots: Vec<u32>,
}

impl Tree {
    /// The processes of these numbers, and whatever they start.
    #[must_use]
    pub(crate) fn new(roots: Vec<u32>) -> Self {
        Self { roots }
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Processor time used so far, user's and system's, in seconds. What a child used still counts
    /// when it has ended, if its parent has waited for it.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let ticks: u64 = self.members()?.iter().map(|(_, stat)| stat.ticks).sum();
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Resident memory now, in KiB; what two processes share is shared out between them.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn proportional_kib(&self) -> Result<u64> {
        self.sum_of(|id| {
            let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("Pss:")).and_then(kib)
        })
    }

    /// Resident memory now, in KiB, what is shared counted each time: cheap to ask often.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        self.sum_of(|id| {
            let text = fs::read_to_string(format!("/proc/{id}/statm")).ok()?;
            Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * PAGE_KIB)
        })
    }

    /// A process that has just ended has nothing.
    fn sum_of(&self, each: impl Fn(u32) -> Option<u64>) -> Result<u64> {
        Ok(self.members()?.iter().filter_map(|(id, _)| each(*id)).sum())
    }

    fn members(&self) -> Result<Vec<(u32, Stat)>> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = HashMap::new();
        for entry in fs::read_dir("/proc").context("cannot read /proc")? {
            let id = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some((id, stat)) = id.and_then(|id| Some((id, Stat::read(id)?))) {
                all.insert(id, stat);
            }
        }
        Ok(descendants(&self.roots, &all))
    }
}

fn descendants(roots: &[u32], all: &HashMap<u32, Stat>) -> Vec<(u32, Stat)> {
    let mut members: HashSet<u32> = roots.iter().copied().collect();
    loop {
        let known = members.len();
        let children = all.iter().filter(|(_, stat)| members.contains(&stat.parent));
        let children: Vec<u32> = children.map(|(id, _)| *id).collect();
        members.extend(children);
        if members.len() == known {
            break;
        }
    }
    members.into_iter().filter_map(|id| Some((id, *all.get(&id)?))).collect()
}

/// `  123 kB`.
fn kib(text: &str) -> Option<u64> {
    text.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Memory of all shared mappings and of all files in memory, of the whole machine, in KiB: there
/// is what a program spools to `tmpfs`, or to a file without a name.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn files_in_memory_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Shmem:"));
    line.and_then(kib).context("/proc/meminfo has no Shmem")
}

/// Calls `work`, and `look` on another thread every `interval` and at the end; gives the result of
/// the one, and the largest value of the other.
///
/// # Errors
/// The first error of `look`.
pub(crate) fn highest_while<T>(
    interval: Duration,
    look: impl Fn() -> Result<u64> + Sync,
    work: impl FnOnce() -> T,
) -> Result<(T, u64)> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let looker = scope.spawn(|| -> Result<u64> {
            let mut highest = look()?;
            while !ended.load(Ordering::Acquire) {
                thread::park_timeout(interval);
                highest = highest.max(look()?);
            }
            Ok(highest)
        });
        let done = work();
        ended.store(true, Ordering::Release);
        looker.thread().unpark();
        let highest = looker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((done, highest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_program_is_called() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 3 4 5 6 20 0 1 0 100";
        assert_eq!(Stat::parse(line), Some(Stat { parent: 7, ticks: 18 }));
        assert_eq!(Stat::parse("42 (cut) S 7"), None);
    }

    #[test]
    fn children_of_children_belong_to_the_tree() {
        let stat = |parent| Stat { parent, ticks: 1 };
        let all =
            HashMap::from([(1, stat(0)), (2, stat(1)), (3, stat(2)), (4, stat(1)), (5, stat(9))]);
        let mut ids: Vec<u32> = descendants(&[2, 4], &all).iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [2, 3, 4]);
        assert!(descendants(&[77], &all).is_empty());
    }

    #[test]
    fn this_process_has_memory_and_no_tree_has_none() {
        let own = Tree::new(vec![std::process::id()]);
        assert!(own.resident_kib().unwrap() > 0 && own.proportional_kib().unwrap() > 0);
        assert!(own.cpu_seconds().unwrap() >= 0.0);
        assert_eq!(Tree::default().resident_kib().unwrap(), 0);
        files_in_memory_kib().unwrap();
    }

    #[test]
    fn the_highest_value_is_kept() {
        use std::sync::atomic::AtomicU64;
        let level = AtomicU64::new(3);
        let looked = AtomicU64::new(0);
        let look = || {
            looked.fetch_add(1, Ordering::AcqRel);
            Ok(level.load(Ordering::Acquire))
        };
        let (done, highest) = highest_while(Duration::from_millis(1), look, || {
            level.store(9, Ordering::Release);
            let before = looked.load(Ordering::Acquire);
            while looked.load(Ordering::Acquire) < before + 2 {
                thread::yield_now();
            }
            level.store(2, Ordering::Release);
            "done"
        })
        .unwrap();
        assert_eq!((done, highest), ("done", 9));
    }
}
