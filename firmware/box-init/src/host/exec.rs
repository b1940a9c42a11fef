//! What a service may do: user, capabilities, limits, set by the program that it then becomes.
//!
//! PID 1 starts itself with [`VERB`] and a [`Spec`]; that process gives up what the service is not to
//! have, and becomes the service. So nothing runs between fork and exec in PID 1's own memory.

use std::convert::Infallible;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgid, setgroups, setsid, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

/// First argument of the process that becomes a service.
pub(crate) const VERB: &str = "exec";

/// Where the services' groups of processes are.
pub(crate) const GROUPS: &str = "/sys/fs/cgroup";

/// How a service is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its file.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Its user, and group of the same number.
    pub user: u32,
    /// Capabilities that it has, of [`CapabilitySet`]; all others it can never get.
    pub capabilities: u64,
    /// Most descriptors.
    pub descriptors_max: u64,
    /// Most processes of its user; 0: as many as the kernel allows.
    pub processes_max: u64,
    /// How soon it is killed when memory is short, from -1000 (never) to 1000.
    pub oom_score: i16,
    /// Its group's folder below `/sys/fs/cgroup`.
    pub group: String,
}

/// A process could not become a service.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct ExecError {
    step: &'static str,
    #[source]
    source: io::Error,
}

impl Spec {
    /// Becomes the service.
    ///
    /// # Errors
    /// [`ExecError`] says which step failed; the process has to end then.
    pub fn run(&self) -> Result<Infallible, ExecError> {
        let step = |step| move |source: io::Error| ExecError { step, source };
        let errno = |step| move |errno: nix::errno::Errno| ExecError { step, source: errno.into() };
        let rustix =
            |step| move |errno: rustix::io::Errno| ExecError { step, source: errno.into() };
        // Without groups of processes, as in a container, the process alone is known.
        let _ = super::files::put(format!("{GROUPS}/{}/cgroup.procs", self.group), "0");
        super::files::put("/proc/self/oom_score_adj", &self.oom_score.to_string())
            .map_err(step("say how soon it is killed when memory is short"))?;
        // Fails for the leader of a session, which is alone already.
        let _ = setsid();
        umask(Mode::S_IWGRP | Mode::S_IRWXO);
        let limit = |what, max| {
            setrlimit(what, max, max).map_err(errno("limit descriptors, processes and core files"))
        };
        limit(Resource::RLIMIT_NOFILE, self.descriptors_max)?;
        limit(Resource::RLIMIT_CORE, 0)?;
        if self.processes_max > 0 {
            limit(Resource::RLIMIT_NPROC, self.processes_max)?;
        }
        let kept = CapabilitySet::from_bits_retain(self.capabilities);
        for capability in CapabilitySet::all().iter() {
            if capability.bits().count_ones() == 1
                && !kept.contains(capability)
                && rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
            {
                rustix::thread::remove_capability_from_bounding_set(capability)
                    .map_err(rustix("give up capabilities"))?;
            }
        }
        setgroups(&[]).map_err(errno("leave all groups"))?;
        if self.user != 0 {
            rustix::thread::set_keep_capabilities(true)
                .map_err(rustix("keep capabilities across the change of user"))?;
            setgid(Gid::from_raw(self.user)).map_err(errno("change the group"))?;
            setuid(Uid::from_raw(self.user)).map_err(errno("change the user"))?;
        }
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
        rustix::thread::set_capabilities(None, sets).map_err(rustix("set capabilities"))?;
        for capability in kept.iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(rustix("hand capabilities on"))?;
        }
        rustix::thread::set_no_new_privs(true).map_err(rustix("give up set-user-ID programs"))?;
        // PID 1 takes its signals from a descriptor; a service takes them as usual.
        SigSet::all().thread_unblock().map_err(errno("take signals again"))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().cloned()).current_dir("/");
        Err(ExecError { step: "start the program", source: command.exec() })
    }
}
