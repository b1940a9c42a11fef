//! The driver on the managers' side: answers polls.

use std::sync::Arc;
use std::time::Duration;

use link::{Link, LinkError};
use service_kit::{Drain, host};
use tokio::time::timeout;
use tracing::{debug, warn};
use wire::{Load, Message, Poll};

use crate::Shared;
use service_kit::listener::count;

/// A manager polls every second; one that is silent for so long is put off.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5 * 60);
/// An answer must be taken in this time.
pub(crate) const SEND_TIME_MAX: Duration = Duration::from_secs(10);

/// Why a manager's link ended, other than in order.
#[derive(Debug, thiserror::Error)]
enum ManagerError {
    #[error("step receive")]
    Receive(#[source] LinkError),
    #[error("step receive: nothing within {SILENCE_MAX:?}")]
    Silent,
    #[error("step receive: {0} is nothing that a manager says to a proxy")]
    Unexpected(&'static str),
    #[error("step answer")]
    Answer(#[source] LinkError),
    #[error("step answer: not taken within {SEND_TIME_MAX:?}")]
    AnswerTimedOut,
    // Without an answer the manager marks this proxy, which is right: nobody knows its load.
    #[error("step load average")]
    LoadAverage(#[source] host::LoadAverageError),
}

/// Answers one manager until it goes, or until nothing is left to be reported.
pub(crate) async fn serve(mut link: Link, shared: Arc<Shared>, drain: Drain) {
    let address = link.peer_address();
    match answer_polls(&mut link, &shared, &drain).await {
        Ok(()) => debug!(peer = %address, "manager has gone"),
        Err(ManagerError::Receive(error)) if error.is_closed() => {
            debug!(peer = %address, error = telemetry::chain(&error), "manager has gone");
        }
        Err(error) => {
            count(&shared.counters.misbehaved);
            let who = link.peer();
            warn!(peer = %address, %who, error = telemetry::chain(&error), "connection closed");
        }
    }
    if let Err(error) = link.close().await {
        debug!(peer = %address, error = telemetry::chain(&error), "not closed in order");
    }
}

async fn answer_polls(link: &mut Link, shared: &Shared, drain: &Drain) -> Result<(), ManagerError> {
    let drained = async {
        drain.started().await;
        shared.sessions.all_free().await;
    };
    tokio::pin!(drained);
    loop {
        let message = tokio::select! {
            () = &mut drained => return Ok(()),
            received = timeout(SILENCE_MAX, link.recv()) => received
                .map_err(|_| ManagerError::Silent)?
                .map_err(ManagerError::Receive)?,
        };
        match message {
            Message::Poll(poll) => {
                let load = load(&poll, shared, drain).map_err(ManagerError::LoadAverage)?;
                count(&shared.counters.polls);
                timeout(SEND_TIME_MAX, link.send(&Message::Load(load)))
                    .await
                    .map_err(|_| ManagerError::AnswerTimedOut)?
                    .map_err(ManagerError::Answer)?;
            }
            Message::Pong(_) => {}
            other => return Err(ManagerError::Unexpected(other.name())),
        }
    }
}

fn load(poll: &Poll, shared: &Shared, drain: &Drain) -> Result<Load, host::LoadAverageError> {
    Ok(Load {
        sequence: poll.sequence,
        // A file of /proc: read from memory, so no matter for a task of its own.
        load_average_milli: host::load_average_milli(&shared.load_average)?,
        sessions: u32::try_from(shared.sessions.taken()).unwrap_or(u32::MAX),
        draining: drain.is_draining() || shared.gate.is_drained(),
    })
}
