//! The registry of boxes: an SQLite file, or PostgreSQL with a copy at every site.
//!
//! What is done to a box is decided by [`crate::change`] and [`crate::admission`]; here it is read
//! and written, each change in one transaction with its line in the audit log and with what it does
//! to the list of revocations. Both stores have the same tables and pass the same tests.
//!
//! Where PostgreSQL has a primary elsewhere and a copy here (logical replication), boxes are
//! admitted from the copy, and everything that is written goes to the primary; see [`postgres`].

use std::path::{Path, PathBuf};

use wire::MacAddress;
use wire::revocation::{Revocation, RevokedReason};

use crate::device::Device;
use data::Step;
use postgres::{PgPlace, Postgres};
use sqlite::Sqlite;

pub use data::{
    Actor, AuditEntry, AuditFilter, Changes, ListFilter, Login, LoginRequest, Mode, Outcome, Scope,
    Token,
};
pub use error::{ApplyError, RegistryError, SourceError};

#[cfg(test)]
pub(crate) mod cluster;
mod data;
mod error;
pub mod postgres;
mod sqlite;

/// Most boxes, or lines of the audit log, in one answer.
pub const PAGE_MAX: u32 = 1000;

/// Where the registry is, as the settings say.
#[derive(Debug, Clone)]
pub enum Place {
    /// An SQLite file.
    File(PathBuf),
    /// PostgreSQL.
    Postgres {
        /// Where this auther reads.
        local: Box<PgPlace>,
        /// Where it writes, if not there.
        primary: Option<Box<PgPlace>>,
    },
}

/// An open registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry(Store);

#[derive(Debug, Clone)]
enum Store {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// Does the same with either store.
macro_rules! with {
    ($registry:expr, $store:ident => $what:expr) => {
        match &$registry.0 {
            Store::Sqlite($store) => $what,
            Store::Postgres($store) => $what,
        }
    };
}

impl Registry {
    /// Opens the SQLite registry at `path`, and makes a new one where there is none.
    ///
    /// # Errors
    /// The file cannot be opened or written, or is no registry that this program knows.
    pub fn create(path: &Path) -> Result<Self, RegistryError> {
        Ok(Self(Store::Sqlite(Sqlite::open(path, true)?)))
    }

    /// Opens the SQLite registry at `path`, which has to be there.
    ///
    /// # Errors
    /// As for [`Registry::create`], and when there is none.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        Ok(Self(Store::Sqlite(Sqlite::open(path, false)?)))
    }

    /// Whether the file at `path` is an SQLite registry of a version that this program knows. Changes
    /// nothing.
    ///
    /// # Errors
    /// When it is not.
    pub fn inspect(path: &Path) -> Result<(), RegistryError> {
        sqlite::inspect(path)
    }

    /// Connects to PostgreSQL and brings its tables to this program's version. The primary may be
    /// away.
    ///
    /// # Errors
    /// `local` cannot be reached or used, or has tables that this program does not know.
    pub async fn connect(
        local: &PgPlace,
        primary: Option<&PgPlace>,
    ) -> Result<Self, RegistryError> {
        Ok(Self(Store::Postgres(Postgres::connect(local, primary).await?)))
    }

    /// Opens whichever it is; a missing file is made where `create` says so.
    ///
    /// # Errors
    /// As for [`Registry::create`] and [`Registry::connect`].
    pub async fn at(place: &Place, create: bool) -> Result<Self, RegistryError> {
        match place {
            Place::File(path) if create => Self::create(path),
            Place::File(path) => Self::open(path),
            Place::Postgres { local, primary } => Self::connect(local, primary.as_deref()).await,
        }
    }

    /// Where it is, for logs: no password.
    #[must_use]
    pub fn place(&self) -> String {
        with!(self, store => store.place())
    }

    /// Whether boxes can be admitted, and what is wrong if not.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn check(&self) -> Result<(), RegistryError> {
        if let Store::Postgres(postgres) = &self.0 {
            postgres.probe().await;
        }
        self.find(MacAddress([0; 6])).await.map(drop)
    }

    /// Whether the primary does not answer, where there is one apart from the local copy.
    #[must_use]
    pub fn is_primary_away(&self) -> Option<bool> {
        match &self.0 {
            Store::Sqlite(_) => None,
            Store::Postgres(postgres) => postgres.is_primary_away(),
        }
    }

    /// A box logs in with the key that its TLS handshake proved.
    ///
    /// Who is admitted already is so even when the registry cannot be written (a full disk, a
    /// primary that is away): then only the note of the login is missing.
    ///
    /// # Errors
    /// The registry cannot be read, or a first login cannot be written.
    pub async fn login(&self, request: LoginRequest) -> Result<Login, RegistryError> {
        with!(self, store => store.login(request).await)
    }

    /// Makes changes, all or none, and says what became of each.
    ///
    /// # Errors
    /// One of them cannot be done, or the registry cannot be written.
    pub async fn apply(&self, changes: Changes) -> Result<Vec<Outcome>, ApplyError> {
        with!(self, store => store.apply(changes).await)
    }

    /// The box of this address.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn find(&self, mac: MacAddress) -> Result<Option<Device>, RegistryError> {
        with!(self, store => store.find(mac).await)
    }

    /// A page of the boxes, by address.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn list(&self, filter: ListFilter) -> Result<Vec<Device>, RegistryError> {
        with!(self, store => store.list(filter).await)
    }

    /// Number and content of the list of revocations at `now_s` (seconds since 1970).
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn revocations(&self, now_s: u64) -> Result<(u64, Vec<Revocation>), RegistryError> {
        with!(self, store => store.revocations(now_s).await)
    }

    /// A page of the audit log, oldest first.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn audit(&self, filter: AuditFilter) -> Result<Vec<AuditEntry>, RegistryError> {
        with!(self, store => store.audit(filter).await)
    }

    /// Adds a token; false when there is one of that name.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub async fn add_token(&self, token: Token, actor: &Actor) -> Result<bool, RegistryError> {
        let step = token_step("token add", actor, token.created_s);
        with!(self, store => store.add_token(token, step).await)
    }

    /// Removes a token; false when there is none of that name.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub async fn remove_token(
        &self,
        name: &str,
        actor: &Actor,
        now_s: u64,
    ) -> Result<bool, RegistryError> {
        let step = token_step("token remove", actor, now_s);
        with!(self, store => store.remove_token(name.to_owned(), step).await)
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn tokens(&self) -> Result<Vec<Token>, RegistryError> {
        with!(self, store => store.tokens().await)
    }

    /// The token of this name.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn find_token(&self, name: &str) -> Result<Option<Token>, RegistryError> {
        with!(self, store => store.find_token(name.to_owned()).await)
    }
}

fn token_step(what: &str, actor: &Actor, now_s: u64) -> Step {
    Step { who: actor.name().to_owned(), what: what.to_owned(), now_s }
}

/// Why tickets are void, as it stands in the registry.
fn reason_name(reason: RevokedReason) -> &'static str {
    match reason {
        RevokedReason::Suspended => "suspended",
        RevokedReason::KeyReplaced => "key-replaced",
        RevokedReason::Removed => "removed",
    }
}

fn reason_of(name: &str) -> Result<RevokedReason, SourceError> {
    match name {
        "suspended" => Ok(RevokedReason::Suspended),
        "key-replaced" => Ok(RevokedReason::KeyReplaced),
        "removed" => Ok(RevokedReason::Removed),
        other => Err(format!("{other:?} is no reason to revoke tickets").into()),
    }
}

fn scope_of(name: &str) -> Result<Scope, SourceError> {
    match name {
        "read" => Ok(Scope::Read),
        "write" => Ok(Scope::Write),
        other => Err(format!("{other:?} is no scope of a token").into()),
    }
}

/// Databases' integers are signed; no clock of ours comes near their end.
fn seconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;
