//! What the operator tells a proxy that runs: drains.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_kit::control::{Problem, Replies};
use service_kit::state::{self, StateError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::Shared;

/// At most one line in this time says how many sessions a drain still waits for.
pub const LEFT_INTERVAL: Duration = Duration::from_secs(1);
/// Name of the file in the state directory that is there while the proxy is drained.
const STATE_FILE: &str = "drained";

/// A line to the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Take no new sessions.
    Drain {
        /// Answer when the last one has ended.
        wait: bool,
    },
    /// The opposite.
    Undrain,
    /// Say how it is.
    Status,
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    /// It is so now.
    Done {
        /// What, in words.
        what: String,
    },
    /// A drain still waits.
    Left {
        /// For so many sessions.
        sessions: u64,
    },
    /// How it is.
    Status(Status),
}

/// See [`Reply::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Drained by its operator: takes no new sessions.
    pub drained: bool,
    /// On its way to its end, which takes no new sessions either.
    pub ending: bool,
    /// Sessions carried now.
    pub sessions: u64,
    /// Sessions at most.
    pub sessions_max: u64,
    /// Connections that boxes keep warm.
    pub warm: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self {
            Self { ending: true, .. } => "ends, and takes no new sessions",
            Self { drained: true, .. } => "drained: takes no new sessions",
            Self { .. } => "takes sessions",
        };
        let Self { sessions, sessions_max, warm, .. } = self;
        writeln!(f, "{state}")?;
        write!(f, "sessions: {sessions} of at most {sessions_max}; warm connections: {warm}")
    }
}

/// Whether the operator has the proxy take new sessions. Survives a restart: who drained it for an
/// upgrade says when it is over.
#[derive(Debug)]
pub(crate) struct Gate {
    drained: watch::Sender<bool>,
    file: PathBuf,
}

impl Gate {
    /// As it was left. Where that is not known the proxy takes sessions, and the log says why.
    pub(crate) fn restore(state_directory: &Path) -> Self {
        let file = state_directory.join(STATE_FILE);
        let drained = match state::read(&file) {
            Ok(found) => found.is_some(),
            Err(error) => {
                let error = telemetry::chain(&error);
                warn!(error, "whether this proxy was drained is not known: it takes sessions");
                false
            }
        };
        if drained {
            info!("drained, as before the restart; `avr-proxy undrain` ends that");
        }
        Self { drained: watch::Sender::new(drained), file }
    }

    pub(crate) fn is_drained(&self) -> bool {
        *self.drained.borrow()
    }

    /// Returns when a drain begins: not for one that is there already. Cancel-safe.
    pub(crate) fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut drained = self.drained.subscribe();
        let was_drained = *drained.borrow_and_update();
        async move {
            if was_drained || drained.wait_for(|drained| *drained).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes effect at once, also where the disk does not keep it.
    fn set(&self, drained: bool) -> Result<(), StateError> {
        self.drained.send_replace(drained);
        if drained { state::write(&self.file, b"") } else { state::remove(&self.file) }
    }
}

/// Answers one request.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    is_ending: bool,
    request: Request,
    mut replies: Replies,
) {
    let answered = match request {
        Request::Drain { wait } => drain(&shared, wait, &mut replies).await,
        Request::Undrain => Ok(set(&shared, false, "takes sessions again")),
        Request::Status => {
            // Who asked may have gone.
            let _ = replies.say(&Reply::Status(status(&shared, is_ending))).await;
            return;
        }
    };
    let _ = match answered {
        Ok(what) => replies.say(&Reply::Done { what }).await,
        Err(error) => replies.say(&Problem { error }).await,
    };
}

async fn drain(shared: &Shared, wait: bool, replies: &mut Replies) -> Result<String, String> {
    let mut taken = shared.sessions.watch();
    let mut drained = shared.gate.drained.subscribe();
    let what = set(shared, true, "takes no new sessions from now on");
    if !wait {
        return Ok(what);
    }
    let mut next = Instant::now();
    loop {
        let left = *taken.borrow_and_update();
        if !*drained.borrow_and_update() {
            return Err("undrained meanwhile".to_owned());
        }
        if left == 0 {
            return Ok(format!("{what}; nothing is left on it"));
        }
        if Instant::now() >= next {
            next = Instant::now() + LEFT_INTERVAL;
            let sessions = size(left);
            if replies.say(&Reply::Left { sessions }).await.is_err() {
                return Err("who waited has gone".to_owned());
            }
        }
        tokio::select! {
            // The senders live as long as `shared`.
            _ = taken.changed() => {}
            _ = drained.changed() => {}
            // To notice that who waits has gone.
            () = sleep_until(next + LEFT_INTERVAL) => {}
        }
    }
}

/// Drains or undrains, and says so in words.
fn set(shared: &Shared, drained: bool, what: &str) -> String {
    let kept = shared.gate.set(drained);
    info!(drained, "{what}");
    match kept {
        Ok(()) => what.to_owned(),
        Err(error) => {
            let error = telemetry::chain(&error);
            warn!(error, "a restart will not know whether this proxy is drained");
            format!("{what} (until a restart: {error})")
        }
    }
}

fn status(shared: &Shared, ending: bool) -> Status {
    Status {
        drained: shared.gate.is_drained(),
        ending,
        sessions: size(shared.sessions.taken()),
        sessions_max: size(shared.sessions.places_max()),
        warm: size(shared.warm.taken()),
    }
}

fn size(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
