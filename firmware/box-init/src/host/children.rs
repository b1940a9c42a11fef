//! Who waits for which process. Only PID 1's loop reaps; everybody else is told by it.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// Processes that somebody waits for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children(Arc<Mutex<HashMap<i32, SyncSender<End>>>>);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Code(i32),
    Signal(Signal),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "{signal}"),
        }
    }
}

impl Children {
    /// Starts a process that nobody but the caller waits for.
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<(Child, Receiver<End>)> {
        let (end, ended) = sync_channel(1);
        // Held until the process is known, or the loop could reap it as a stranger before that.
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        waiting.insert(pid_of(&child), end);
        Ok((child, ended))
    }

    /// Runs a process to its end, or kills it when its time is up; `None` then.
    pub(crate) fn run(&self, command: &mut Command, time: Duration) -> io::Result<Option<End>> {
        let (child, ended) = self.start(command)?;
        match ended.recv_timeout(time) {
            Ok(end) => Ok(Some(end)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                // It is not reaped before the loop has said so, and so the number is still its own.
                if ended.try_recv().is_err() {
                    let _ = kill(Pid::from_raw(pid_of(&child)), Signal::SIGKILL);
                }
                Ok(None)
            }
        }
    }

    /// Whether there are processes at all. PID 1 inherits those whose parents have gone.
    pub(crate) fn any() -> bool {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::All, look) != Err(Errno::ECHILD)
    }

    /// Takes in the next process that has ended; `None`: there is none. Those that somebody waits for
    /// are told so; others are returned.
    pub(crate) fn reap(&self) -> Option<(i32, End)> {
        loop {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (pid, end) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), End::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), End::Signal(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
                Ok(_) | Err(_) => continue,
            };
            match waiting.remove(&pid) {
                // There is room for it; nobody listens where the time was up.
                Some(waiter) => drop(waiter.try_send(end)),
                None => return Some((pid, end)),
            }
        }
    }
}

pub(crate) fn pid_of(child: &Child) -> i32 {
    // The kernel's own numbers are positive and fit.
    i32::try_from(child.id()).unwrap_or(i32::MAX)
}
