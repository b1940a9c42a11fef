//! Logs in at an auther and keeps the ticket fresh.

use std::net::SocketAddr;
use std::sync::Arc;

use link::LinkError;
use tokio::time::{Instant, sleep_until, timeout};
use wire::identity::Role;
use wire::ticket::{SignedTicket, Ticket, TicketError};
use wire::{DeniedReason, Hello, Message};

use crate::admission::Granted;
use crate::background;
use crate::limits::{AUTHERS_TRIED_MAX, STRAY_MESSAGES_MAX};
use crate::shared::{Named, Shared, now};
use crate::store;

/// Why a ticket is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTicket {
    #[error("the ticket cannot be read")]
    Unreadable(#[source] postcard::Error),
    #[error("the ticket does not pass")]
    Refused(#[source] TicketError),
    #[error("the ticket is for another MAC address")]
    OtherMac,
}

/// Why a login gave nothing.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error("connect to the auther")]
    Connect(#[source] LinkError),
    #[error("talk to the auther")]
    Link(#[from] LinkError),
    #[error("the auther sent what has no place here")]
    Unexpected,
    #[error("the auther did not answer in time")]
    TimedOut,
    #[error("the auther cannot answer now")]
    Unavailable,
    #[error("use the auther's ticket")]
    Ticket(#[from] BadTicket),
}

/// What an auther decided.
enum Decision {
    Granted(Granted),
    Denied(DeniedReason),
}

impl Shared {
    /// Reads a ticket and checks that it is the fleet's and this box's. Not its times: the clock
    /// of a box may be wrong, and the servers have clocks of their own.
    pub(crate) fn examine(&self, signed: SignedTicket) -> Result<Granted, BadTicket> {
        let claimed: Ticket =
            postcard::from_bytes(&signed.ticket).map_err(BadTicket::Unreadable)?;
        let ticket = self
            .verifier
            .verify(&signed, claimed.not_before_s, &self.fingerprint)
            .map_err(BadTicket::Refused)?;
        if ticket.mac != self.settings.mac {
            return Err(BadTicket::OtherMac);
        }
        let Ticket { not_before_s, not_after_s, .. } = ticket;
        Ok(Granted { signed, not_before_s, not_after_s })
    }
}

/// Logs in whenever it is time to, for ever.
pub(crate) async fn keep_admitted(shared: Arc<Shared>) {
    let mut first = 0;
    loop {
        let at = Instant::from_std(shared.core().admission.login_at());
        if Instant::now() < at {
            tokio::select! {
                () = sleep_until(at) => {}
                () = shared.bells.login.notified() => {}
            }
            continue;
        }
        shared.core().admission.login_begins(now());
        if shared.core().authers_named.ask_at() <= now() {
            background::refresh(&shared, Named::Authers).await;
        }
        match login(&shared, first).await {
            Some(Decision::Granted(granted)) => take_ticket(&shared, granted).await,
            Some(Decision::Denied(reason)) => take_denial(&shared, reason).await,
            None => {
                first += AUTHERS_TRIED_MAX;
                let mut core = shared.core();
                core.counters.logins_failed += 1;
                core.admission.failed(now());
            }
        }
    }
}

/// Asks one auther after the other, from the one at `first` (counted round) on.
///
/// "Unknown" and "enrolment closed" are not believed from one alone: registries are copied between
/// sites, and one may lag behind. Any other denial is final at once.
async fn login(shared: &Arc<Shared>, first: usize) -> Option<Decision> {
    let port = shared.settings.auther_port;
    let authers: Vec<SocketAddr> = {
        let core = shared.core();
        let list = core.authers_named.addresses();
        // A short list is taken from its start each time, in the order received.
        let first = if list.len() > AUTHERS_TRIED_MAX { first % list.len() } else { 0 };
        let round = list.iter().cycle().skip(first).take(list.len().min(AUTHERS_TRIED_MAX));
        round.map(|ip| SocketAddr::new(*ip, port)).collect()
    };
    let mut denial = None;
    for auther in authers {
        let answer = timeout(shared.timing().login_max, ask(shared, auther));
        match answer.await.unwrap_or(Err(LoginError::TimedOut)) {
            Ok(Decision::Denied(
                reason @ (DeniedReason::Unknown | DeniedReason::EnrolmentClosed),
            )) => {
                tracing::debug!(%auther, %reason, "auther denies this box");
                denial.get_or_insert(reason);
            }
            Ok(decision) => return Some(decision),
            Err(error) => {
                tracing::warn!(%auther, error = %telemetry::chain(&error), "login failed");
            }
        }
    }
    denial.map(Decision::Denied)
}

async fn ask(shared: &Shared, auther: SocketAddr) -> Result<Decision, LoginError> {
    let tls = Arc::clone(&shared.tls);
    let mut link = link::connect(auther, Role::Auther, tls, shared.timing().login_max)
        .await
        .map_err(LoginError::Connect)?;
    let hello = Hello { mac: shared.settings.mac, software: shared.settings.software.clone() };
    link.send(&Message::Hello(hello)).await?;
    for _ in 0..STRAY_MESSAGES_MAX {
        let decision = match link.recv().await? {
            Message::Ticket(signed) => Decision::Granted(shared.examine(signed)?),
            Message::Denied(denied) if denied.reason == DeniedReason::Unavailable => {
                return Err(LoginError::Unavailable);
            }
            Message::Denied(denied) => Decision::Denied(denied.reason),
            Message::Pong(_) => continue,
            _ => return Err(LoginError::Unexpected),
        };
        // The answer is here; whether the auther hears the end does not matter.
        let _ = link.close().await;
        return Ok(decision);
    }
    Err(LoginError::Unexpected)
}

async fn take_ticket(shared: &Arc<Shared>, granted: Granted) {
    let signed = granted.signed.clone();
    let now_s = shared.now_s();
    {
        let mut core = shared.core();
        core.counters.logins += 1;
        core.admission.granted(granted, now(), now_s);
        core.managers.ticket_changed();
    }
    tracing::info!("admitted");
    shared.bells.keeper.notify_one();
    let path = shared.ticket_path();
    on_disk(move || store::save(&path, &signed)).await;
}

async fn take_denial(shared: &Arc<Shared>, reason: DeniedReason) {
    shared.core().auther_denied(reason, now());
    tracing::warn!(%reason, "this box is not admitted; mail goes direct");
    let path = shared.ticket_path();
    on_disk(move || store::remove(&path)).await;
}

/// Writes to the disk where it holds nobody up; a failure is told, and nothing else.
pub(crate) async fn on_disk<F>(work: F)
where
    F: FnOnce() -> Result<(), store::StateError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = %telemetry::chain(&error), "not kept"),
        Err(error) => tracing::error!(error = %telemetry::chain(&error), "not kept"),
    }
}
