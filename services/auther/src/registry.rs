//! The registry of boxes: an SQLite file.
//!
//! The server and the operator's commands use the same file at the same time (WAL, with a wait for
//! the other's lock); each statement stands for itself or is a transaction. The schema's version is
//! SQLite's `user_version`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, params};
use wire::ticket::KeyFingerprint;
use wire::{DeniedReason, MacAddress};

use crate::admission::{Decision, decide};

/// Version of the schema that this program writes.
pub const SCHEMA_VERSION: i64 = 1;
/// How long a statement waits for another program's lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Sessions a box may have at once, unless told otherwise.
pub const SESSIONS_MAX_DEFAULT: u32 = 1000;
/// Most sessions that can be granted to a box.
pub const SESSIONS_MAX_LIMIT: u32 = 100_000;
/// Longest note on a box, in bytes of UTF-8.
pub const NOTE_BYTES_MAX: usize = 256;

const SCHEMA: &str = "
    CREATE TABLE device (
        mac              TEXT PRIMARY KEY,           -- 02:00:5e:10:00:01
        note             TEXT NOT NULL,
        sessions_max     INTEGER NOT NULL,
        suspended        INTEGER NOT NULL DEFAULT 0,
        added_s          INTEGER NOT NULL,           -- seconds since 1970, as all times here
        key              BLOB,                       -- fingerprint; NULL until the first login
        bound_s          INTEGER,
        last_login_s     INTEGER,
        software         TEXT,
        other_key_logins INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1;
";

/// One box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its inventory number.
    pub mac: MacAddress,
    /// The operator's words on it.
    pub note: String,
    /// Sessions it may have at once.
    pub sessions_max: u32,
    /// Whether it is kept out for now.
    pub suspended: bool,
    /// When it was registered, in seconds since 1970.
    pub added_s: u64,
    /// Its key, from its first login on.
    pub key: Option<KeyFingerprint>,
    /// When that was, in seconds since 1970.
    pub bound_s: Option<u64>,
    /// Its last login that went well, in seconds since 1970.
    pub last_login_s: Option<u64>,
    /// What it said it runs.
    pub software: Option<String>,
    /// Logins refused because they came with another key.
    pub other_key_logins: u64,
}

impl Device {
    /// A box that has never logged in.
    #[must_use]
    pub fn new(mac: MacAddress, added_s: u64) -> Self {
        Self {
            mac,
            note: String::new(),
            sessions_max: SESSIONS_MAX_DEFAULT,
            suspended: false,
            added_s,
            key: None,
            bound_s: None,
            last_login_s: None,
            software: None,
            other_key_logins: 0,
        }
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

/// Whether a box was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is new.
    Yes,
    /// It was there already, and is left as it is.
    Already,
}

/// An open registry. Its calls block; the server makes them on a thread of their own.
#[derive(Debug)]
pub struct Registry {
    connection: Connection,
    path: PathBuf,
}

impl Registry {
    /// Opens the registry at `path`, and makes a new one where there is none.
    ///
    /// # Errors
    /// The file cannot be opened or written, or is no registry that this program knows.
    pub fn create(path: &Path) -> Result<Self, RegistryError> {
        Self::open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
    }

    /// Opens the registry at `path`, which has to be there.
    ///
    /// # Errors
    /// As for [`Registry::create`], and when there is none.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        if !path.exists() {
            return Err(RegistryError::Missing { path: path.to_owned() });
        }
        Self::open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    fn open_with(path: &Path, flags: OpenFlags) -> Result<Self, RegistryError> {
        let failed = |source| RegistryError::Open { path: path.to_owned(), source };
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        let mut registry = Self { connection, path: path.to_owned() };
        registry.set_up()?;
        Ok(registry)
    }

    /// Makes the schema in a file that has none.
    fn set_up(&mut self) -> Result<(), RegistryError> {
        let failed = |source| RegistryError::Open { path: self.path.clone(), source };
        // Immediate: of two programs that find an empty file at once, one waits for the other.
        let behaviour = rusqlite::TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behaviour).map_err(failed)?;
        let version: i64 = transaction
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed)?;
        let tables: i64 = transaction
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(failed)?;
        match (version, tables) {
            (SCHEMA_VERSION, _) => Ok(()),
            (0, 0) => {
                transaction.execute_batch(SCHEMA).map_err(failed)?;
                transaction.commit().map_err(failed)
            }
            (0, _) => Err(RegistryError::NotOurs { path: self.path.clone() }),
            (version, _) => Err(RegistryError::Version { path: self.path.clone(), version }),
        }
    }

    /// A box logs in with the key that its TLS handshake proved.
    ///
    /// Who is admitted already is so even when the registry cannot be written (a full disk): then
    /// only the note of the login is missing.
    ///
    /// # Errors
    /// The registry cannot be read, or a first login cannot be written.
    pub fn login(
        &mut self,
        mac: MacAddress,
        key: KeyFingerprint,
        software: &str,
        now_s: u64,
        enrolment_window_s: u64,
    ) -> Result<Login, RegistryError> {
        // A second round is needed only when the operator, or another login, came in between.
        for _ in 0..2 {
            let device = self.find(mac)?;
            let sessions_max = device.as_ref().map_or(0, |device| device.sessions_max);
            match decide(device.as_ref(), &key, now_s, enrolment_window_s) {
                Decision::Admit => {
                    if let Err(error) = self.note_login(mac, software, now_s) {
                        let error = telemetry::chain(&error);
                        tracing::warn!(%mac, error, "a login is not noted in the registry");
                    }
                    return Ok(Login::Admitted { sessions_max, enrolled: false });
                }
                Decision::Bind if self.bind(mac, key, software, now_s)? => {
                    return Ok(Login::Admitted { sessions_max, enrolled: true });
                }
                Decision::Bind => {}
                Decision::Deny(reason) => {
                    if reason == DeniedReason::OtherKey {
                        self.count_other_key(mac)?;
                    }
                    return Ok(Login::Denied(reason));
                }
            }
        }
        Ok(Login::Denied(DeniedReason::Unavailable))
    }

    /// Registers a box.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn add(&mut self, device: &Device) -> Result<Added, RegistryError> {
        insert(&self.connection, device).map_err(|source| self.failed("add a box", source))
    }

    /// Registers all of `devices`, or none; says how many were new.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn add_all(&mut self, devices: &[Device]) -> Result<usize, RegistryError> {
        let import = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            let mut new = 0;
            for device in devices {
                new += usize::from(insert(&transaction, device)? == Added::Yes);
            }
            transaction.commit()?;
            Ok(new)
        };
        import(&mut self.connection).map_err(|source| self.failed("import boxes", source))
    }

    /// Keeps a box out, or lets it in again; false when there is none of this address.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn set_suspended(
        &mut self,
        mac: MacAddress,
        suspended: bool,
    ) -> Result<bool, RegistryError> {
        self.change(
            "suspend or resume a box",
            "UPDATE device SET suspended = ?2 WHERE mac = ?1",
            params![mac.to_string(), suspended],
        )
    }

    /// Forgets a box with its key; false when there is none of this address.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn remove(&mut self, mac: MacAddress) -> Result<bool, RegistryError> {
        let statement = "DELETE FROM device WHERE mac = ?1";
        self.change("remove a box", statement, params![mac.to_string()])
    }

    /// The box of this address.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn find(&self, mac: MacAddress) -> Result<Option<Device>, RegistryError> {
        self.connection
            .query_row("SELECT * FROM device WHERE mac = ?1", [mac.to_string()], read_device)
            .optional()
            .map_err(|source| self.failed("look up a box", source))
    }

    /// All boxes, by address.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn list(&self) -> Result<Vec<Device>, RegistryError> {
        let list = || -> rusqlite::Result<Vec<Device>> {
            let mut statement = self.connection.prepare("SELECT * FROM device ORDER BY mac")?;
            statement.query_map([], read_device)?.collect()
        };
        list().map_err(|source| self.failed("list the boxes", source))
    }

    /// False when the entry is gone, suspended or bound by now.
    fn bind(
        &mut self,
        mac: MacAddress,
        key: KeyFingerprint,
        software: &str,
        now_s: u64,
    ) -> Result<bool, RegistryError> {
        self.change(
            "bind a key",
            "UPDATE device SET key = ?2, bound_s = ?3, last_login_s = ?3, software = ?4
             WHERE mac = ?1 AND key IS NULL AND suspended = 0",
            params![mac.to_string(), key.0.as_slice(), seconds(now_s), software],
        )
    }

    fn note_login(
        &mut self,
        mac: MacAddress,
        software: &str,
        now_s: u64,
    ) -> Result<bool, RegistryError> {
        self.change(
            "note a login",
            "UPDATE device SET last_login_s = ?2, software = ?3 WHERE mac = ?1",
            params![mac.to_string(), seconds(now_s), software],
        )
    }

    fn count_other_key(&mut self, mac: MacAddress) -> Result<bool, RegistryError> {
        self.change(
            "count a refused login",
            "UPDATE device SET other_key_logins = other_key_logins + 1 WHERE mac = ?1",
            params![mac.to_string()],
        )
    }

    /// Runs a statement on one box; says whether there is such a one.
    fn change(
        &mut self,
        step: &'static str,
        statement: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<bool, RegistryError> {
        let changed = self.connection.execute(statement, parameters);
        changed.map(|rows| rows > 0).map_err(|source| self.failed(step, source))
    }

    fn failed(&self, step: &'static str, source: rusqlite::Error) -> RegistryError {
        RegistryError::Step { step, path: self.path.clone(), source }
    }
}

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
        source: rusqlite::Error,
    },
    /// Another program's database.
    #[error("{} is a database of something else; name another file", path.display())]
    NotOurs {
        /// Which file.
        path: PathBuf,
    },
    /// Of a later avr-auther.
    #[error(
        "the registry {} has schema version {version}, this avr-auther knows {SCHEMA_VERSION}; \
         update avr-auther",
        path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// As it stands there.
        version: i64,
    },
    /// A statement failed.
    #[error("cannot {step} in the registry {}", path.display())]
    Step {
        /// What was being done.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

fn insert(connection: &Connection, device: &Device) -> rusqlite::Result<Added> {
    let inserted = connection.execute(
        "INSERT INTO device (mac, note, sessions_max, suspended, added_s) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            device.mac.to_string(),
            device.note,
            device.sessions_max,
            device.suspended,
            seconds(device.added_s)
        ],
    );
    match inserted {
        Ok(_) => Ok(Added::Yes),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Ok(Added::Already)
        }
        Err(error) => Err(error),
    }
}

fn read_device(row: &Row<'_>) -> rusqlite::Result<Device> {
    let mac: String = row.get("mac")?;
    let key: Option<[u8; 32]> = row.get("key")?;
    let time = |name| row.get::<_, Option<i64>>(name).map(|value| value.map(unsigned));
    Ok(Device {
        mac: mac.parse().map_err(|error| {
            let text = rusqlite::types::Type::Text;
            rusqlite::Error::FromSqlConversionFailure(0, text, Box::new(error))
        })?,
        note: row.get("note")?,
        sessions_max: row.get("sessions_max")?,
        suspended: row.get("suspended")?,
        added_s: unsigned(row.get("added_s")?),
        key: key.map(KeyFingerprint),
        bound_s: time("bound_s")?,
        last_login_s: time("last_login_s")?,
        software: row.get("software")?,
        other_key_logins: unsigned(row.get("other_key_logins")?),
    })
}

/// SQLite's integers are signed; no clock of ours comes near their end.
fn seconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;
