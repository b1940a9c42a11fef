//! What goes in and out. Fields are only ever added; times are seconds since 1970.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::{IntoParams, ToSchema};
use wire::MacAddress;

use crate::change::Refusal;
use crate::csv::BadRows;
use crate::device::{State, View, parse_mac};
use crate::registry::{ApplyError, AuditEntry, PAGE_MAX, RegistryError, Scope};

/// Longest text to search for, in bytes.
pub const SEARCH_BYTES_MAX: usize = 256;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// In words.
    pub error: String,
    /// Of an import: the lines that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<BadRow>,
}

/// A line of an import that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BadRow {
    /// From 1.
    pub line: usize,
    /// In words.
    pub problem: String,
}

/// [`ProblemBody`] with its status.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    body: ProblemBody,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: ProblemBody { error: error.into(), rows: Vec::new() } }
    }

    pub(super) fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done at this path")
    }

    pub(super) fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        // Paths, hosts and users are for the operator's log, not for whoever has a token.
        error!(error = telemetry::chain(&error), "the registry gives no answer");
        match error {
            RegistryError::Away { .. } => {
                Self::unavailable("the registry's primary is away; nothing can be changed now")
            }
            _ => Self::unavailable("the registry gives no answer; the auther's log says why"),
        }
    }
}

impl From<ApplyError> for Problem {
    fn from(error: ApplyError) -> Self {
        let text = error.to_string();
        match error {
            ApplyError::Refused { refusal: Refusal::NotRegistered, .. } => Self::not_found(text),
            ApplyError::Refused { refusal: Refusal::AlreadyRegistered, .. } => {
                Self::new(StatusCode::CONFLICT, text)
            }
            ApplyError::Registry(error) => error.into(),
        }
    }
}

impl From<BadRows> for Problem {
    fn from(bad: BadRows) -> Self {
        let error = format!("nothing was imported; {} bad rows", bad.count);
        let row = |(line, problem)| BadRow { line, problem };
        let rows = bad.shown.into_iter().map(row).collect();
        Self { status: StatusCode::BAD_REQUEST, body: ProblemBody { error, rows } }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// A body in JSON.
pub(super) fn json<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    serde_json::from_slice(&body?).map_err(|error| Problem::bad(format!("the body: {error}")))
}

/// An address in a path or a query.
pub(super) fn mac(text: &str) -> Result<MacAddress, Problem> {
    parse_mac(text).map_err(Problem::bad)
}

/// How many entries to give.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked {
        None => Ok(PAGE_MAX),
        Some(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::bad(format!("`limit` is a number from 1 to {PAGE_MAX}"))),
    }
}

/// Which boxes.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Behind this address: `next` of the page before.
    pub after: Option<String>,
    /// At most so many, from 1 to 1000.
    pub limit: Option<u32>,
    /// In address, serial number or note.
    pub q: Option<String>,
    /// Of this state only.
    #[param(inline)]
    pub state: Option<State>,
}

/// A page of boxes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Boxes {
    /// By address.
    pub boxes: Vec<View>,
    /// `after` of the next page; `null` when there is none.
    pub next: Option<String>,
}

/// A box to be registered.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddBox {
    /// As on its label.
    pub mac: String,
    /// The number on its label.
    #[serde(default)]
    pub serial: String,
    /// A few words, as where it stands.
    #[serde(default)]
    pub note: String,
    /// Sessions it may have at once.
    pub sessions_max: Option<u32>,
    /// How long the enrolment window is; by the auther's setting unless said here.
    pub window_hours: Option<u32>,
}

/// What is to be written about a box; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditBox {
    /// The number on its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// A few words, as where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Sessions it may have at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<u32>,
}

/// How a key is replaced.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceKey {
    /// How long the window for the new key is; by the auther's setting unless said here.
    pub window_hours: Option<u32>,
    /// The old key is void at once, rather than when the new one comes.
    #[serde(default)]
    pub revoke_now: bool,
}

/// What a change did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// Whether anything is other than before.
    pub changed: bool,
    /// As it is now; `null` when it is gone.
    #[serde(rename = "box")]
    pub device: Option<View>,
}

/// How to import.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// Only try it.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an import did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Boxes that are new.
    pub added: usize,
    /// Boxes that were registered already, and are left as they are.
    pub already: usize,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// Which lines of the audit log.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Of this box.
    pub mac: Option<String>,
    /// Not older than this.
    pub since_s: Option<u64>,
    /// Behind this one: `next` of the page before.
    pub after: Option<u64>,
    /// At most so many, from 1 to 1000.
    pub limit: Option<u32>,
}

/// A page of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// Oldest first.
    pub entries: Vec<AuditEntry>,
    /// `after` of the next page; `null` when there is none.
    pub next: Option<u64>,
}

/// The list of revocations.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RevocationList {
    /// Grows with every change.
    pub number: u64,
    /// By address.
    pub revocations: Vec<RevocationView>,
}

/// Tickets of one box with one key that are void.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RevocationView {
    /// The box.
    pub mac: String,
    /// The key, in hexadecimal digits.
    pub key: String,
    /// Tickets that begin before this are void.
    pub not_before_s: u64,
    /// In words.
    pub reason: String,
}

/// A token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddToken {
    /// Lower-case letters, digits and inner hyphens.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// Until when, in days from now; without end unless said here.
    pub days: Option<u32>,
}

/// A token that was made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// The token itself. It is not shown again.
    pub token: String,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewToken(..)")
    }
}

/// All tokens, without their secrets.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    /// By name.
    pub tokens: Vec<TokenView>,
}

/// A token without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Whose it is, or what for.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made.
    pub created_s: u64,
    /// By whom.
    pub created_by: String,
    /// When it ends; `null` for never.
    pub expires_s: Option<u64>,
}
