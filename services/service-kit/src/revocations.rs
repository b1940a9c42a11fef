//! The list of void tickets, fetched from the authers and kept for whoever checks tickets.
//!
//! A server without a list, or with one that grows old because no auther answers, goes on: then a
//! suspension takes effect with the end of the ticket, as it would without any list. So
//! [`Revoked::revoked`] never waits, and [`Revoked::age_s`] is for the metrics. The last list survives
//! a restart in a file, as the auther signed it, so that a server that comes back while no auther does
//! still knows it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use config::{ConfigError, Document};
use link::LinkError;
use rustls::ClientConfig;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use wire::frame::{Decoder, encode};
use wire::identity::Role;
use wire::revocation::{
    REVOCATION_LIFE_S, RevocationError, RevocationPart, Revocations, RevokedReason,
    SignedRevocations,
};
use wire::ticket::{CLOCK_SKEW_S, Ticket, TicketVerifier};
use wire::{Fetch, Message};

use crate::host::WallClock;
use crate::{Drain, state};

/// Between two questions: how much later than on the auther a suspension takes effect here.
pub const FETCH_INTERVAL: Duration = Duration::from_secs(60);
/// For one auther to be reached and to send the whole list.
pub const FETCH_TIME_MAX: Duration = Duration::from_secs(20);

/// Most authers that a server asks.
pub const AUTHERS_MAX: usize = 16;
/// Longest time between two questions that a setting may ask for, in seconds.
pub const FETCH_INTERVAL_S_MAX: u64 = 24 * 60 * 60;
/// Name of the list's file in a server's state directory.
pub const STATE_FILE: &str = "revocations";

/// Checks the settings `auther` and `revocation_seconds`, which every server that asks has.
///
/// # Errors
/// There are too many authers, or the time is none.
pub fn check_settings(
    document: &Document,
    authers: &[SocketAddr],
    revocation_seconds: u64,
) -> Result<Duration, ConfigError> {
    if authers.len() > AUTHERS_MAX {
        return Err(document.invalid(
            "auther",
            format!("`auther` has more than {AUTHERS_MAX} addresses"),
            "write those of this site and of a few others instead",
        ));
    }
    if !(1..=FETCH_INTERVAL_S_MAX).contains(&revocation_seconds) {
        return Err(document.invalid(
            "revocation_seconds",
            format!("`revocation_seconds`: {revocation_seconds} s is no sensible time"),
            format!("write a whole number from 1 to {FETCH_INTERVAL_S_MAX} instead"),
        ));
    }
    Ok(Duration::from_secs(revocation_seconds))
}

/// What an auther had to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// This list, instead of the one that there was.
    List {
        /// To be looked up in.
        list: Revocations,
        /// The same as the auther signed it, to be kept.
        signed: Vec<SignedRevocations>,
    },
    /// The list that there was is still right.
    Unchanged {
        /// When that was so, in seconds since 1970.
        made_s: u64,
    },
}

/// A list that was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The auther was not reached, or broke off.
    #[error("cannot ask the auther {auther}")]
    Link {
        /// Which one.
        auther: SocketAddr,
        /// Why.
        source: LinkError,
    },
    /// It took longer than [`FETCH_TIME_MAX`].
    #[error("the auther {auther} sent no whole list within {FETCH_TIME_MAX:?}")]
    TimedOut {
        /// Which one.
        auther: SocketAddr,
    },
    /// It said something else.
    #[error("the auther {auther} sent {got} where Revocations was expected")]
    Unexpected {
        /// Which one.
        auther: SocketAddr,
        /// What it sent.
        got: &'static str,
    },
    /// What it sent is no list of this fleet.
    #[error("the list of the auther {auther} cannot be used")]
    Revocations {
        /// Which one.
        auther: SocketAddr,
        /// Why.
        source: RevocationError,
    },
    /// An old list played again, or a wrong clock.
    #[error("the list of the auther {auther} was made {age_s} s ago; are both clocks right?")]
    Stale {
        /// Which one.
        auther: SocketAddr,
        /// How long ago.
        age_s: u64,
    },
    /// Its registry lags behind the one that the list here is from.
    #[error("the auther {auther} has list {number}, older than list {ours} here")]
    Older {
        /// Which one.
        auther: SocketAddr,
        /// Its list.
        number: u64,
        /// The list here.
        ours: u64,
    },
}

/// Asks one auther for a list newer than number `after` (0: for any). `tls` is this server's
/// identity as a client, `clock` the wall clock.
///
/// # Errors
/// See [`FetchError`]; what was known before stays right.
pub async fn fetch(
    auther: SocketAddr,
    tls: Arc<ClientConfig>,
    verifier: &TicketVerifier,
    after: u64,
    clock: WallClock,
) -> Result<Fetched, FetchError> {
    timeout(FETCH_TIME_MAX, converse(auther, tls, verifier, after, clock))
        .await
        .map_err(|_| FetchError::TimedOut { auther })?
}

async fn converse(
    auther: SocketAddr,
    tls: Arc<ClientConfig>,
    verifier: &TicketVerifier,
    after: u64,
    clock: WallClock,
) -> Result<Fetched, FetchError> {
    let broken = |source| FetchError::Link { auther, source };
    let mut link =
        link::connect(auther, Role::Auther, tls, FETCH_TIME_MAX).await.map_err(broken)?;
    link.send(&Message::Fetch(Fetch { after })).await.map_err(broken)?;
    // The first part says how many there are; `wire` has bounded that.
    let mut parts: Vec<RevocationPart> = Vec::new();
    let mut all_signed = Vec::new();
    loop {
        let signed = match link.recv().await.map_err(broken)? {
            Message::Revocations(signed) => signed,
            other => return Err(FetchError::Unexpected { auther, got: other.name() }),
        };
        let now_s = clock();
        let part = verifier
            .verify_revocations(&signed, now_s)
            .map_err(|source| FetchError::Revocations { auther, source })?;
        let age_s = now_s.saturating_sub(part.made_s);
        if age_s > CLOCK_SKEW_S {
            return Err(FetchError::Stale { auther, age_s });
        }
        if part.number < after {
            return Err(FetchError::Older { auther, number: part.number, ours: after });
        }
        if part.is_unchanged() && part.number == after {
            return Ok(Fetched::Unchanged { made_s: part.made_s });
        }
        let count = usize::from(part.parts);
        parts.push(part);
        all_signed.push(signed);
        if parts.len() >= count {
            break;
        }
    }
    let list =
        Revocations::join(parts).map_err(|source| FetchError::Revocations { auther, source })?;
    Ok(Fetched::List { list, signed: all_signed })
}

/// The newest list known here. Shared by whoever checks tickets.
#[derive(Debug, Default)]
pub struct Revoked {
    list: RwLock<Revocations>,
}

impl Revoked {
    /// Nothing is known to be revoked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With the list that [`keep`] wrote, where there is one that still says something. What cannot be
    /// used is in the log, and nothing is revoked until an auther says so.
    #[must_use]
    pub fn kept(path: &Path, verifier: &TicketVerifier, now_s: u64) -> Self {
        let list = read(path, verifier, now_s).unwrap_or_else(|error| {
            let error = telemetry::chain(&error);
            warn!(error, file = %path.display(), "the list of revocations is not used");
            Revocations::none()
        });
        // Every ticket that an older one voids has run out by itself. And a registry that was set
        // back, whose lists have lower numbers, is believed again after that time.
        let says_nothing = now_s.saturating_sub(list.made_s()) > REVOCATION_LIFE_S;
        Self { list: RwLock::new(if says_nothing { Revocations::none() } else { list }) }
    }

    /// Why `ticket`, which was verified before, is void all the same.
    #[must_use]
    pub fn revoked(&self, ticket: &Ticket) -> Option<RevokedReason> {
        self.read(|list| list.revoked(ticket))
    }

    /// Number of the list; 0 before the first.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.read(Revocations::number)
    }

    /// How many revocations there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read(Revocations::len)
    }

    /// How long ago an auther vouched for the list, at `now_s` (seconds since 1970). `None` before
    /// the first list.
    #[must_use]
    pub fn age_s(&self, now_s: u64) -> Option<u64> {
        self.read(|list| (list.number() > 0).then(|| now_s.saturating_sub(list.made_s())))
    }

    /// Takes what [`fetch`] brought.
    pub fn take(&self, fetched: Fetched) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Fetched::List { list: newer, .. } => *list = newer,
            Fetched::Unchanged { made_s } => list.confirm(made_s),
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Revocations) -> T) -> T {
        look(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A kept list that cannot be used.
#[derive(Debug, thiserror::Error)]
enum KeptError {
    #[error(transparent)]
    State(#[from] state::StateError),
    #[error("the file holds something else than a list")]
    Form,
    #[error("the kept list cannot be used")]
    Revocations(#[from] RevocationError),
}

/// The kept list; none where there is no file.
fn read(path: &Path, verifier: &TicketVerifier, now_s: u64) -> Result<Revocations, KeptError> {
    let Some(bytes) = state::read(path)? else { return Ok(Revocations::none()) };
    let mut bytes = bytes.as_slice().into();
    let mut decoder = Decoder::new();
    let mut parts = Vec::new();
    while let Some(message) = decoder.decode(&mut bytes).map_err(|_| KeptError::Form)? {
        let Message::Revocations(signed) = message else { return Err(KeptError::Form) };
        parts.push(verifier.verify_revocations(&signed, now_s)?);
    }
    if !bytes.is_empty() {
        return Err(KeptError::Form);
    }
    Ok(Revocations::join(parts)?)
}

/// Writes a list for [`Revoked::kept`]: the frames as they came.
fn keep(path: &Path, signed: &[SignedRevocations]) -> Result<(), state::StateError> {
    let mut bytes = Default::default();
    for part in signed {
        // What came in a frame fits one.
        let _ = encode(&Message::Revocations(part.clone()), &mut bytes);
    }
    state::write(path, &bytes)
}

/// Whom to ask, and as whom.
#[derive(Debug, Clone)]
pub struct Authers {
    /// In the order in which they are tried.
    pub addresses: Vec<SocketAddr>,
    /// This server's identity as a client: [`crate::Tls::client`].
    pub tls: Arc<ClientConfig>,
    /// The fleet's public ticket key.
    pub verifier: TicketVerifier,
    /// The wall clock.
    pub clock: WallClock,
    /// Where the list is kept; `None`: nowhere.
    pub kept: Option<PathBuf>,
}

/// Keeps `revoked` up to date: asks the authers, one after the other until one answers, at once and
/// then every `interval`, until the drain starts.
pub async fn follow(revoked: Arc<Revoked>, authers: Authers, interval: Duration, drain: Drain) {
    let mut was_answered = true;
    let asking = async {
        loop {
            let answered = ask_all(&revoked, &authers).await;
            if was_answered && !answered {
                warn!("no auther gives a list of revocations; suspensions take effect late");
            }
            was_answered = answered;
            tokio::time::sleep(interval).await;
        }
    };
    tokio::select! {
        () = drain.started() => {}
        () = asking => {}
    }
}

/// Whether one of them answered.
async fn ask_all(revoked: &Revoked, authers: &Authers) -> bool {
    for &address in &authers.addresses {
        let before = revoked.number();
        let Authers { tls, verifier, clock, .. } = authers;
        match fetch(address, tls.clone(), verifier, before, *clock).await {
            Ok(fetched) => {
                if let (Fetched::List { list, signed }, Some(path)) = (&fetched, &authers.kept)
                    && list.number() != before
                    && let Err(error) = keep(path, signed)
                {
                    let error = telemetry::chain(&error);
                    warn!(error, "the list of revocations will not survive a restart");
                }
                revoked.take(fetched);
                let number = revoked.number();
                if number != before {
                    info!(auther = %address, number, revoked = revoked.count(), "new revocations");
                }
                return true;
            }
            Err(error) => {
                debug!(auther = %address, error = telemetry::chain(&error), "no revocations");
            }
        }
    }
    false
}

#[cfg(test)]
mod tests;
