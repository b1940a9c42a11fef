//! What goes into a registry and comes out of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wire::ticket::KeyFingerprint;
use wire::{DeniedReason, MacAddress};

use super::PAGE_MAX;
use crate::change::{Change, Command};
use crate::device::{Device, State};

/// Who changes something, as the audit log names him: `unix:root`, `token:ops`, `box`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// A user of this host.
    #[must_use]
    pub fn unix(uid: u32) -> Self {
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        Self(user.map_or_else(|| format!("unix:{uid}"), |user| format!("unix:{}", user.name)))
    }

    /// Whoever has the token of this name.
    #[must_use]
    pub fn token(name: &str) -> Self {
        Self(format!("token:{name}"))
    }

    /// As in the audit log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// A box that logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRequest {
    /// As it says.
    pub mac: MacAddress,
    /// As its TLS handshake proved.
    pub key: KeyFingerprint,
    /// What it says it runs.
    pub software: String,
    /// Seconds since 1970.
    pub now_s: u64,
    /// Enrolment window of boxes that have none of their own, in seconds.
    pub window_s: u64,
}

impl LoginRequest {
    pub(super) fn step(&self) -> Step {
        Step { who: "box".to_owned(), what: "bind".to_owned(), now_s: self.now_s }
    }
}

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// Give it a ticket.
    Admitted {
        /// For the ticket.
        sessions_max: u32,
        /// Its key was bound just now.
        enrolled: bool,
    },
    /// Tell it why not.
    Denied(DeniedReason),
}

impl Login {
    pub(super) fn admitted(device: Option<&Device>, enrolled: bool) -> Self {
        Self::Admitted { sessions_max: device.map_or(0, |device| device.sessions_max), enrolled }
    }
}

/// Whether changes are made, or only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Made.
    Commit,
    /// Tried and taken back.
    DryRun,
}

/// Changes to make together, or not at all.
#[derive(Debug, Clone)]
pub struct Changes {
    /// By whom.
    pub actor: Actor,
    /// When, in seconds since 1970.
    pub now_s: u64,
    /// What to which box, in this order.
    pub commands: Vec<(MacAddress, Command)>,
    /// Or only tried.
    pub mode: Mode,
}

impl Changes {
    pub(super) fn step(&self, command: &Command) -> Step {
        Step {
            who: self.actor.name().to_owned(),
            what: command.name().to_owned(),
            now_s: self.now_s,
        }
    }
}

/// What a change did to one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The entry as it is now; `None` when it is gone.
    pub device: Option<Device>,
    /// Whether that is something new.
    pub changed: bool,
}

impl Outcome {
    pub(super) fn new(before: Option<Device>, change: Option<Change>) -> Self {
        match change {
            Some(change) => Self { device: change.after, changed: true },
            None => Self { device: before, changed: false },
        }
    }
}

/// Who does what when, for the audit log.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) who: String,
    pub(super) what: String,
    pub(super) now_s: u64,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Counts the changes, from 1.
    pub id: u64,
    /// When, in seconds since 1970.
    pub at_s: u64,
    /// By whom: `unix:USER`, `token:NAME`, or `box` for a box that bound its key.
    pub who: String,
    /// `add`, `suspend`, `bind` and so on.
    pub what: String,
    /// To which box, if to one.
    pub mac: Option<String>,
    /// What it was.
    #[schema(value_type = Option<Object>)]
    pub before: Option<serde_json::Value>,
    /// What it became.
    #[schema(value_type = Option<Object>)]
    pub after: Option<serde_json::Value>,
}

/// Which lines of the audit log.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditFilter {
    /// Of this box.
    pub mac: Option<MacAddress>,
    /// Not older than this, in seconds since 1970.
    pub since_s: u64,
    /// Behind this one.
    pub after: u64,
    /// At most so many.
    pub limit: u32,
}

/// Which boxes.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Behind this one, by address.
    pub after: Option<MacAddress>,
    /// Whose address, serial number or note has this in it; upper and lower case are the same.
    pub search: Option<String>,
    /// Of this state.
    pub state: Option<State>,
    /// At most so many.
    pub limit: u32,
}

impl ListFilter {
    /// All of them, from the first on.
    #[must_use]
    pub fn page(after: Option<MacAddress>) -> Self {
        Self { after, limit: PAGE_MAX, ..Self::default() }
    }

    /// `after`, `search` and `state` as the statements take them, with "" for "not given".
    pub(super) fn texts(&self) -> (String, String, &'static str) {
        let after = self.after.map(|mac| mac.to_string()).unwrap_or_default();
        let search = self.search.as_deref().unwrap_or_default();
        // Whichever way an address is written, it stands in the registry in one.
        let search = search
            .parse::<MacAddress>()
            .map_or_else(|_| search.to_lowercase(), |mac| mac.to_string());
        (after, search, self.state.map_or("", State::name))
    }
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To look at everything.
    Read,
    /// And to change it.
    Write,
}

impl Scope {
    /// As in arguments: `read`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A token for the HTTP API, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whose it is, or what for.
    pub name: String,
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// What it allows.
    pub scope: Scope,
    /// When it was made, in seconds since 1970.
    pub created_s: u64,
    /// By whom.
    pub created_by: String,
    /// When it ends, in seconds since 1970.
    pub expires_s: Option<u64>,
}

impl Token {
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name, "scope": self.scope, "expires_s": self.expires_s,
        })
    }
}
