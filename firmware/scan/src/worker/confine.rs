//! How a worker locks itself in: limits of resources, then Landlock, then seccomp.
//!
//! What is left to it: read and write the descriptors it has, memory, time, and to end. A call that
//! is not on the list kills the process, which costs one mail.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};
use serde::{Deserialize, Serialize};

/// Most memory a worker may write to, bytes: the largest mail, what is unpacked of it, and the rules. (The
/// address space is not limited: the rule engine reserves gigabytes that it never touches.)
pub const DATA_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Most descriptors: the three standard ones, the socket's copy, and a few for the runtime.
pub const DESCRIPTORS_MAX: u64 = 32;

/// What holds a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confined {
    /// Landlock denies every file and socket. `false` where the kernel has no Landlock.
    pub landlock: bool,
    /// seccomp allows only the calls that are needed. `false` in a thread of a test.
    pub seccomp: bool,
}

/// Why a process could not be locked in.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A limit was refused.
    #[error("limit {what}")]
    Limit {
        /// Which.
        what: &'static str,
        /// Why.
        source: nix::Error,
    },
    /// Landlock is there but refuses.
    #[error("deny files and sockets by Landlock")]
    Landlock(#[source] landlock::RulesetError),
    /// seccomp is not there, or refuses.
    #[error(
        "allow only the needed system calls by seccomp; this kernel needs CONFIG_SECCOMP_FILTER"
    )]
    Seccomp(#[source] seccompiler::Error),
    /// The filter does not fit this processor.
    #[error("make the seccomp filter")]
    Filter(#[source] seccompiler::BackendError),
}

/// So that a worker with a long mail does not outlive a daemon that was killed. (One whose daemon has gone
/// already finds its socket closed.)
///
/// # Errors
///
/// The kernel refuses.
pub fn die_with_parent() -> Result<(), ConfineError> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|source| ConfineError::Limit { what: "the life of a worker", source })
}

/// Before anything is read: what the process may use.
///
/// # Errors
///
/// A limit that the kernel refuses.
pub fn limit_resources() -> Result<(), ConfineError> {
    for (resource, limit, what) in [
        (Resource::RLIMIT_DATA, DATA_BYTES_MAX, "memory"),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX, "descriptors"),
        (Resource::RLIMIT_FSIZE, 0, "the size of files"),
        (Resource::RLIMIT_CORE, 0, "core dumps, which would hold mail"),
    ] {
        setrlimit(resource, limit, limit).map_err(|source| ConfineError::Limit { what, source })?;
    }
    Ok(())
}

/// When everything is set up: no files, no sockets, only the system calls of [`allowed`].
///
/// # Errors
///
/// What the kernel refuses. A kernel without Landlock is no error; one without seccomp is.
pub fn lock_in() -> Result<Confined, ConfineError> {
    let abi = ABI::V6;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(abi)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(ConfineError::Landlock)?;
    let filter = filter().map_err(ConfineError::Filter)?;
    seccompiler::apply_filter_all_threads(&filter).map_err(ConfineError::Seccomp)?;
    Ok(Confined { landlock: status.ruleset != RulesetStatus::NotEnforced, seccomp: true })
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed().into_iter().map(|call| (call, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

/// The calls that reading a mail takes.
fn allowed() -> Vec<i64> {
    use nix::libc::*;
    let calls = [
        // The socket, and the word to standard error before a panic ends it.
        SYS_read,
        SYS_write,
        SYS_readv,
        SYS_writev,
        SYS_recvfrom,
        SYS_sendto,
        SYS_close,
        // Memory.
        SYS_mmap,
        SYS_munmap,
        SYS_mremap,
        SYS_mprotect,
        SYS_madvise,
        SYS_brk,
        // Threads that were there before, and the clock.
        SYS_futex,
        SYS_clock_gettime,
        SYS_clock_nanosleep,
        SYS_nanosleep,
        SYS_sched_yield,
        // (A thread that has just been begun may only now come to this.)
        SYS_set_robust_list,
        SYS_sched_getaffinity,
        SYS_gettid,
        SYS_getpid,
        SYS_tgkill,
        SYS_rseq,
        SYS_membarrier,
        // Signals, and the end.
        SYS_rt_sigaction,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_sigaltstack,
        SYS_restart_syscall,
        SYS_exit,
        SYS_exit_group,
        SYS_getrandom,
    ];
    calls.to_vec()
}

impl From<ConfineError> for io::Error {
    fn from(error: ConfineError) -> Self {
        Self::other(error)
    }
}
