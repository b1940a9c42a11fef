//! What can be wrong with a registry, and with a change.

use std::path::PathBuf;

use wire::MacAddress;

use crate::change::Refusal;

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It cannot be done to this box.
    #[error("{mac} {refusal}")]
    Refused {
        /// Which box.
        mac: MacAddress,
        /// Why.
        refusal: Refusal,
    },
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What a driver of a database failed with.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A registry that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is none.
    #[error("there is no registry at {}; `avr-auther add` makes one", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// SQLite cannot open it.
    #[error(
        "cannot open the registry {}; its directory must exist, be writable for this user and have room",
        path.display()
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: SourceError,
    },
    /// Another program's database.
    #[error("{} is a database of something else; name another file", path.display())]
    NotOurs {
        /// Which file.
        path: PathBuf,
    },
    /// Of a later avr-auther.
    #[error(
        "the registry {place} has schema version {version}, this avr-auther knows {ours}; \
         update avr-auther"
    )]
    Version {
        /// Which registry.
        place: String,
        /// As it stands there.
        version: i64,
        /// What this program writes.
        ours: i64,
    },
    /// PostgreSQL is not there, or does not let us in.
    #[error("cannot connect to the registry {place}")]
    Connect {
        /// Which registry; no password.
        place: String,
        /// Why.
        source: SourceError,
    },
    /// Its tables cannot be made.
    #[error(
        "cannot bring the tables of the registry {place} to this version; its user must own them"
    )]
    Migrate {
        /// Which registry.
        place: String,
        /// Why.
        source: SourceError,
    },
    /// Too much waits for it already, or it has ended.
    #[error("the registry {place} is too busy to be asked")]
    Busy {
        /// Which registry.
        place: String,
    },
    /// It did not answer a moment ago, and is not asked again at once.
    #[error("the registry {place} is away; changes are possible again when it is back")]
    Away {
        /// Which registry.
        place: String,
    },
    /// A statement failed.
    #[error("cannot {step} in the registry {place}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// Which registry.
        place: String,
        /// Why.
        source: SourceError,
    },
}
