//! The driver of one mail session: two byte streams, the protocol machine of `mail`, the scanner.
//!
//! [`carry`] receives, handles, transmits and sleeps; what a mail session means is decided in `mail`
//! and what a mail contains in `scan`. The box, the proxy and `avr listen` all run this same code.
//!
//! Rule for every leg: dropping it without a shutdown resets the connection ([`TcpLeg`] makes a
//! kernel socket obey). Must not depend on anything of the box or of a site. Entry: [`carry`].
#![forbid(unsafe_code)]

mod couple;
mod leg;
mod policy;
mod pump;
pub mod settings;
#[cfg(test)]
mod tests;

pub use leg::TcpLeg;
pub use policy::{Action, Policy};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mail::{Decision, Envelope, OpaqueReason, Protocol};
use scan::{MailScan, Scanner, Verdict};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{info, warn};

/// What all sessions of a program share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Carrier {
    /// `None`: bytes pass unread, by setting, and sessions count as unscanned.
    pub scanner: Option<Scanner>,
    /// For the protocol machines.
    pub mail: Arc<mail::Settings>,
    /// Verdict to decision.
    pub policy: Arc<Policy>,
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
    /// Messages that were cut off before their end.
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
}

/// Largest read from a leg at once, in bytes.
pub const READ_BYTES_MAX: usize = 16 * 1024;

/// Bytes that may wait to be written to one side before the other side is not read any more.
pub const WRITE_QUEUE_BYTES_MAX: usize = 256 * 1024;

/// How long a leg whose sending direction we ended may take to end its own.
pub const LINGER_MAX: Duration = Duration::from_secs(5);

/// How long a session that is not read may move no byte: three times what RFC 5321 (section 4.5.3.2)
/// and RFC 1939 (section 3) ask of peers that are read, and time-limited by `mail`.
pub const OPAQUE_IDLE_MAX: Duration = Duration::from_secs(30 * 60);

/// Carries one session from its open connections to its end.
///
/// `id` names the session in every log line. The future never fails: what went wrong is in the
/// [`Outcome`], and the legs are reset or closed as the protocol demands.
pub async fn carry<C, S>(
    id: impl fmt::Display + Sync,
    protocol: Protocol,
    client: C,
    server: S,
    carrier: &Carrier,
) -> Carried<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(scanner) = &carrier.scanner else {
        let outcome = Outcome { opaque: Some(Opaque::Setting), ..Outcome::default() };
        return couple::couple(&id, client, server, outcome).await;
    };
    let session = mail::Session::new(protocol, &carrier.mail, pump::now());
    let observer = Observer { id: &id, scanner, policy: &carrier.policy, message: None };
    pump::Pump::new(client, server, session, observer).run().await
}

/// Follows the messages of a session: opens their scans, makes decisions, writes the log line.
struct Observer<'a> {
    id: &'a (dyn fmt::Display + Sync),
    scanner: &'a Scanner,
    policy: &'a Policy,
    message: Option<(Envelope, MailScan)>,
}

impl Observer<'_> {
    fn begin(&mut self, envelope: Envelope) {
        self.message = Some((envelope, self.scanner.begin()));
    }

    fn feed(&mut self, bytes: bytes::Bytes) {
        if let Some((_, scan)) = &mut self.message {
            scan.feed(bytes);
        }
    }

    fn abort(&mut self, outcome: &mut Outcome) {
        if self.message.take().is_some() {
            outcome.aborted += 1;
        }
    }

    /// Counts and logs the verdict, and makes the decision.
    fn judge(&self, envelope: &Envelope, report: &scan::Report, outcome: &mut Outcome) -> Decision {
        outcome.messages += 1;
        match &report.verdict {
            Verdict::Clean => {}
            Verdict::Infected(_) => outcome.infected += 1,
            Verdict::Unscannable(_) => outcome.unscannable += 1,
        }
        let decision = self.policy.decide(&report.verdict, envelope);
        info!(
            session = %self.id,
            protocol = ?envelope.protocol,
            from = %telemetry::escape(&envelope.mail_from),
            recipients = envelope.rcpt_to.len(),
            number = envelope.message_number,
            bytes = report.bytes,
            parts = report.parts,
            verdict = %Shown(&report.verdict),
            decision = shown(&decision),
            waited_ms = report.waited.as_secs_f64() * 1e3,
            "mail"
        );
        decision
    }

    fn event(&mut self, event: &mail::Event, outcome: &mut Outcome) {
        match event {
            mail::Event::Opaque(OpaqueReason::Tls) => {
                outcome.opaque = Some(Opaque::Tls);
                info!(session = %self.id, "session went to TLS: not scanned from here on");
            }
            mail::Event::Violation { side, what } => {
                outcome.violations += 1;
                warn!(session = %self.id, ?side, ?what, "protocol violation");
            }
            mail::Event::TimedOut { side } => {
                warn!(session = %self.id, ?side, "timed out");
            }
            mail::Event::HoldLimit => {
                // Counted here, and so no longer as cut off when its scan is dropped.
                self.message = None;
                outcome.messages += 1;
                outcome.unscannable += 1;
                warn!(session = %self.id, "message over the hold limit: passed unscanned");
            }
            mail::Event::Authenticated => {}
        }
    }
}

/// A verdict in a log line.
struct Shown<'a>(&'a Verdict);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Verdict::Clean => f.write_str("clean"),
            Verdict::Infected(finding) => {
                write!(f, "infected: {} ({}, part {})", finding.name, finding.engine, finding.part)
            }
            Verdict::Unscannable(reason) => write!(f, "unscannable: {reason}"),
        }
    }
}

fn shown(decision: &Decision) -> &'static str {
    match decision {
        Decision::Release => "release",
        Decision::Refuse(_) => "refuse",
        Decision::Replace(_) => "replace",
        Decision::Edit(_) => "edit",
        Decision::Tempfail { .. } => "tempfail",
    }
}
