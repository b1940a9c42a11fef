//! The driver of one mail session: two byte streams, the protocol machine of `mail`, the scanner.
//!
//! [`carry`] receives, handles, transmits and sleeps; what a mail session means is decided in `mail`
//! and what a mail contains in `scan`. The box, the proxy and `avr listen` all run this same code.
//!
//! Rule for every leg: dropping it without a shutdown resets the connection ([`TcpLeg`] makes a
//! kernel socket obey). Must not depend on anything of the box or of a site. Entry: [`carry`].
#![forbid(unsafe_code)]

mod couple;
mod hold;
mod judge;
mod leg;
mod observer;
mod policy;
mod pump;
pub mod settings;
#[cfg(test)]
mod tests;
mod told;

pub use leg::TcpLeg;
pub use policy::{Action, Direction, Policy, Rule, Rules};

use std::sync::Arc;
use std::time::Duration;

use journal::Journal;
use mail::Protocol;
use quarantine::Vault;
use scan::Scanner;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::warn;

use crate::observer::Observer;
pub use crate::told::{TOLD_MAX, Told};

/// What all sessions of a program share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Carrier {
    /// `None`: bytes pass unread, by setting, and sessions count as unscanned.
    pub scanner: Option<Scanner>,
    /// For the protocol machines.
    pub mail: Arc<mail::Settings>,
    /// Verdict to decision.
    pub policy: Arc<Policy>,
    /// Where sealed copies go; `None`: nowhere.
    pub vault: Option<Arc<Vault>>,
    /// What clients were told in place of messages.
    pub told: Arc<Told>,
    /// Where each mail is written down; `None`: in the log alone.
    pub journal: Option<Arc<Journal>>,
    /// The files of rules and lists that the scanner knows.
    pub read: settings::Marks,
}

impl Carrier {
    /// To be called once in a program's runtime: gets the scan workers ready, and watches the rules and
    /// lists for as long as what it returns is kept.
    ///
    /// # Errors
    ///
    /// As [`settings::ScanSettings::carrier`].
    pub fn start(
        &self,
        settings: &settings::ScanSettings,
    ) -> Result<Option<settings::Watch>, settings::ScanSettingsError> {
        let Some(scanner) = self.scanner.clone() else { return Ok(None) };
        if self.vault.is_none() && self.policy.wants_copies() {
            warn!("rules with \"+quarantine\": there is no quarantine here, no copy is kept");
        }
        let watch = settings.watch(&scanner, &self.read)?;
        tokio::spawn(async move { scanner.workers().warm_up().await });
        Ok(watch)
    }
}

/// What is known of a session besides its bytes, for logs, the journal and the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The session's number, the same on box, proxy and manager.
    pub id: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// Address of the client, or the number of its box.
    pub client: String,
    /// Address of the mail server.
    pub server: String,
    /// `direct`, or the site and proxy.
    pub way: String,
}

/// How a session went, for logs, counters and `Bye`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Bytes from client to server.
    pub bytes_up: u64,
    /// Bytes from server to client.
    pub bytes_down: u64,
    /// Messages that came to a verdict.
    pub messages: u32,
    /// Of these, infected.
    pub infected: u32,
    /// Of these, not looked at in full.
    pub unscannable: u32,
    /// Messages that passed unread, by setting.
    pub unread: u32,
    /// Messages that were cut off before their end, or before they had gone on.
    pub aborted: u32,
    /// The session was not read, or not from some point on.
    pub opaque: Option<Opaque>,
    /// Times a peer broke the protocol.
    pub violations: u32,
    /// One side was reset rather than closed in order.
    pub reset: bool,
}

/// A session that is over, with the legs that were not reset: their owner may have a word to say at
/// the end (`Bye`). Dropping them closes them.
#[derive(Debug)]
pub struct Carried<C, S> {
    /// How it went.
    pub outcome: Outcome,
    /// The client's leg, unless it was reset or lost.
    pub client: Option<C>,
    /// The server's leg, unless it was reset or lost.
    pub server: Option<S>,
}

/// Why a session was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opaque {
    /// `scan.mode = "off"`.
    Setting,
    /// The peers went to TLS.
    Tls,
    /// The peers use something that cannot be followed.
    Unframed,
}

/// Largest read from a leg at once, in bytes.
pub const READ_BYTES_MAX: usize = 16 * 1024;

/// Bytes that may wait to be written to one side before the other side is not read any more.
pub const WRITE_QUEUE_BYTES_MAX: usize = 64 * 1024;

/// How long a leg whose sending direction we ended may take to end its own.
pub const LINGER_MAX: Duration = Duration::from_secs(5);

/// How long a session that is not read may move no byte: three times what RFC 5321 (section 4.5.3.2)
/// and RFC 1939 (section 3) ask of peers that are read, and time-limited by `mail`.
pub const OPAQUE_IDLE_MAX: Duration = Duration::from_secs(30 * 60);

/// Carries one session from its open connections to its end.
///
/// The future never fails: what went wrong is in the [`Outcome`], and the legs are reset or closed as
/// the protocol demands.
pub async fn carry<C, S>(facts: &Facts, client: C, server: S, carrier: &Carrier) -> Carried<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(scanner) = &carrier.scanner else {
        let outcome = Outcome { opaque: Some(Opaque::Setting), ..Outcome::default() };
        return couple::couple(&facts.id, client, server, outcome).await;
    };
    let session = mail::Session::new(facts.protocol, &carrier.mail, pump::now(), judge::unix_now());
    let observer = Observer::new(facts, carrier, scanner);
    pump::Pump::new(client, server, session, observer).run().await
}
