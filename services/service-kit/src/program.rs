//! What the `main` of every server does the same way: a runtime, signals, an exit code.

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write as _};
use std::process::ExitCode;

use tracing::warn;

use crate::host::raise_file_limit;
use crate::{Drain, DrainTrigger, notify};

/// The runtime did not start: the host has no threads or file descriptors left.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the runtime")]
pub struct RuntimeError(#[source] io::Error);

/// Runs a server until it returns. The [`Drain`] that it gets starts with SIGTERM or SIGINT. Meanwhile
/// the service manager is told how the server is, if there is one ([`crate::notify`]).
///
/// `files_max` is the number of file descriptors that its settings may take; a host that grants
/// fewer is warned of, so the log has to be set up before.
///
/// # Errors
/// [`RuntimeError`], or whatever the server ended with.
pub fn run<S, F, E>(files_max: u64, server: S) -> Result<(), E>
where
    S: FnOnce(Drain) -> F,
    F: Future<Output = Result<(), E>>,
    E: From<RuntimeError>,
{
    match raise_file_limit() {
        Ok(limit) if limit < files_max => {
            warn!(limit, needed = files_max, "too few file descriptors; raise LimitNOFILE");
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "cannot raise the limit of file descriptors"),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(RuntimeError)?.block_on(async {
        let (trigger, drain) = DrainTrigger::new();
        let signals = tokio::spawn(async {
            if let Err(error) = trigger.on_signals().await {
                warn!(%error, "no signal handlers: SIGTERM ends at once");
            }
        });
        let report = tokio::spawn(notify::report(drain.clone()));
        let result = server(drain).await;
        report.abort();
        notify::ended();
        signals.abort();
        result
    })
}

/// The exit code of a program; what went wrong goes to standard error, on one line with its causes
/// when the error is an `anyhow::Error`. A reader who has seen enough, as in `| head`, is no failure.
pub fn exit_code<E>(program: &str, result: Result<(), E>) -> ExitCode
where
    E: Display + AsRef<dyn Error + Send + Sync>,
{
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is gone too, the exit code still says it.
            let _ = writeln!(io::stderr(), "{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether that is all there is behind it: a connection that broke is told of by an error of its own.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let written = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let as_json =
        error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    written.or(as_json) == Some(io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Ended {
        #[error(transparent)]
        Runtime(#[from] RuntimeError),
        #[error("as the test asked")]
        Asked,
    }

    #[test]
    fn a_signal_starts_the_drain() {
        run(1, async |drain: Drain| {
            // The handlers are installed by a task beside this one: until they are, SIGTERM would
            // end the test, so this one asks the process itself whether they are.
            while !handles_sigterm() {
                tokio::task::yield_now().await;
            }
            assert!(!drain.is_draining());
            raise(Signal::SIGTERM).unwrap();
            drain.started().await;
            Ok::<(), Ended>(())
        })
        .unwrap();
    }

    #[test]
    fn a_servers_error_is_handed_on() {
        let error = run(u64::MAX, async |_: Drain| Err(Ended::Asked)).unwrap_err();
        assert!(matches!(error, Ended::Asked));
        assert_eq!(exit_code("x", Err(anyhow::Error::from(error))), ExitCode::FAILURE);
        assert_eq!(exit_code("x", anyhow::Ok(())), ExitCode::SUCCESS);
    }

    #[test]
    fn a_reader_who_has_seen_enough_is_no_failure() {
        let ended = |kind| exit_code("x", Err(anyhow::Error::from(io::Error::from(kind))));
        assert_eq!(ended(io::ErrorKind::BrokenPipe), ExitCode::SUCCESS);
        assert_eq!(ended(io::ErrorKind::StorageFull), ExitCode::FAILURE);
    }

    /// Whether SIGTERM is among the signals caught (proc_pid_status(5), `SigCgt`).
    fn handles_sigterm() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        caught & (1 << (nix::libc::SIGTERM - 1)) != 0
    }
}
