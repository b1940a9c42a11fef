//! The registry in an SQLite file.
//!
//! The server and the operator's commands use the same file at the same time (WAL, with a wait for
//! the other's lock); each statement stands for itself or is a transaction. SQLite blocks, so one
//! thread has the connection, and work goes to it through a bounded queue. The schema's version is
//! SQLite's `user_version`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use tokio::sync::{mpsc, oneshot};
use wire::MacAddress;
use wire::revocation::{REVOCATION_LIFE_S, Revocation};

use super::{
    ApplyError, AuditEntry, AuditFilter, Changes, ListFilter, Login, LoginRequest, Outcome,
    RegistryError, Step, Token, seconds, unsigned,
};
use crate::device::Device;
use statements::{
    apply, begin, find, login, read_audit, read_device, read_revocation, read_token, write_audit,
};

mod statements;

/// How long a statement waits for another program's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What may wait for the registry. At some thousand statements a second it is behind by a fraction
/// of a second at most; only a locked or failing disk fills it.
const WAITING_MAX: usize = 64;

/// The schema, in steps that are never changed, only added to.
static MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/sqlite/0001.sql"),
    include_str!("../../migrations/sqlite/0002.sql"),
];

/// Whether the file is a registry of a version that this program knows; changes nothing.
pub(super) fn inspect(path: &Path) -> Result<(), RegistryError> {
    let failed = |source| RegistryError::Open { path: path.to_owned(), source: Box::new(source) };
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    missing_migrations(&connection, path).map(drop)
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// An open file.
#[derive(Debug, Clone)]
pub(super) struct Sqlite {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl Sqlite {
    /// Opens the file, or makes a new one where `create` says so.
    pub(super) fn open(path: &Path, create: bool) -> Result<Self, RegistryError> {
        if !create && !path.exists() {
            return Err(RegistryError::Missing { path: path.to_owned() });
        }
        let mut connection = connect(path, create)?;
        migrate(&mut connection, path)?;
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING_MAX);
        // It ends when nobody can ask any more.
        std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || {
                while let Some(job) = waiting.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|source| RegistryError::Open {
                path: path.to_owned(),
                source: Box::new(source),
            })?;
        Ok(Self { jobs, path: path.to_owned() })
    }

    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) async fn find(&self, mac: MacAddress) -> Result<Option<Device>, RegistryError> {
        self.call("look up a box", move |connection| find(connection, mac)).await
    }

    pub(super) async fn list(&self, filter: ListFilter) -> Result<Vec<Device>, RegistryError> {
        self.call("list the boxes", move |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM device WHERE mac > ?1
                 AND (?2 = '' OR instr(mac, ?2) OR instr(lower(serial), ?2)
                      OR instr(lower(note), ?2))
                 AND (?3 = ''
                      OR (?3 = 'suspended' AND suspended_s IS NOT NULL)
                      OR (?3 = 'enrolled' AND suspended_s IS NULL AND key IS NOT NULL)
                      OR (?3 = 'waiting' AND suspended_s IS NULL AND key IS NULL))
                 ORDER BY mac LIMIT ?4",
            )?;
            let (after, search, state) = filter.texts();
            statement.query_map(params![after, search, state, filter.limit], read_device)?.collect()
        })
        .await
    }

    pub(super) async fn login(&self, request: LoginRequest) -> Result<Login, RegistryError> {
        self.call("log a box in", move |connection| login(connection, &request)).await
    }

    pub(super) async fn apply(&self, changes: Changes) -> Result<Vec<Outcome>, ApplyError> {
        self.call("change boxes", move |connection| apply(connection, &changes)).await?
    }

    pub(super) async fn revocations(
        &self,
        now_s: u64,
    ) -> Result<(u64, Vec<Revocation>), RegistryError> {
        self.call("list the revocations", move |connection| {
            let number: i64 =
                connection.query_row("SELECT revocations FROM state", [], |row| row.get(0))?;
            let since = seconds(now_s.saturating_sub(REVOCATION_LIFE_S));
            let mut statement = connection.prepare(
                "SELECT mac, key, reason, revoked_s FROM revocation WHERE revoked_s >= ?1
                 ORDER BY mac, key",
            )?;
            let rows = statement.query_map([since], read_revocation)?;
            Ok((unsigned(number), rows.collect::<rusqlite::Result<_>>()?))
        })
        .await
    }

    pub(super) async fn audit(
        &self,
        filter: AuditFilter,
    ) -> Result<Vec<AuditEntry>, RegistryError> {
        self.call("read the audit log", move |connection| {
            let mut statement = connection.prepare(
                "SELECT id, at_s, who, what, mac, entry_before, entry_after FROM audit
                 WHERE id > ?1 AND at_s >= ?2 AND (?3 = '' OR mac = ?3) ORDER BY id LIMIT ?4",
            )?;
            let mac = filter.mac.map(|mac| mac.to_string()).unwrap_or_default();
            let (after, since) = (seconds(filter.after), seconds(filter.since_s));
            statement.query_map(params![after, since, mac, filter.limit], read_audit)?.collect()
        })
        .await
    }

    pub(super) async fn add_token(&self, token: Token, step: Step) -> Result<bool, RegistryError> {
        self.call("add a token", move |connection| {
            let transaction = begin(connection)?;
            let added = transaction.execute(
                "INSERT INTO token (name, hash, scope, created_s, created_by, expires_s)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
                params![
                    token.name,
                    token.hash.as_slice(),
                    token.scope.name(),
                    seconds(token.created_s),
                    token.created_by,
                    token.expires_s.map(seconds)
                ],
            )?;
            if added == 0 {
                return Ok(false);
            }
            write_audit(&transaction, &step, None, None, Some(&token.to_json()))?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    pub(super) async fn remove_token(
        &self,
        name: String,
        step: Step,
    ) -> Result<bool, RegistryError> {
        self.call("remove a token", move |connection| {
            let transaction = begin(connection)?;
            let token = transaction
                .query_row("SELECT * FROM token WHERE name = ?1", [&name], read_token)
                .optional()?;
            let Some(token) = token else { return Ok(false) };
            transaction.execute("DELETE FROM token WHERE name = ?1", [&name])?;
            write_audit(&transaction, &step, None, Some(&token.to_json()), None)?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    pub(super) async fn tokens(&self) -> Result<Vec<Token>, RegistryError> {
        self.call("list the tokens", |connection| {
            let mut statement = connection.prepare("SELECT * FROM token ORDER BY name")?;
            statement.query_map([], read_token)?.collect()
        })
        .await
    }

    pub(super) async fn find_token(&self, name: String) -> Result<Option<Token>, RegistryError> {
        self.call("look up a token", move |connection| {
            connection
                .query_row("SELECT * FROM token WHERE name = ?1", [name], read_token)
                .optional()
        })
        .await
    }

    /// Has the registry's thread do something.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        step: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let place = || self.place();
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Who asked may have gone in the meantime.
            let _ = reply.send(work(connection));
        });
        self.jobs.try_send(job).map_err(|_| RegistryError::Busy { place: place() })?;
        match answer.await {
            Ok(result) => result.map_err(|source| RegistryError::Step {
                step,
                place: place(),
                source: Box::new(source),
            }),
            Err(_) => Err(RegistryError::Busy { place: place() }),
        }
    }
}

fn connect(path: &Path, create: bool) -> Result<Connection, RegistryError> {
    let failed = |source| RegistryError::Open { path: path.to_owned(), source: Box::new(source) };
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
    Ok(connection)
}

/// Brings the schema to this program's version, from any earlier one.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), RegistryError> {
    let failed = |source| RegistryError::Open { path: path.to_owned(), source: Box::new(source) };
    // Immediate: of two programs that find an empty file at once, one waits for the other.
    let transaction = begin(connection).map_err(failed)?;
    let missing = missing_migrations(&transaction, path)?;
    if missing.is_empty() {
        return Ok(());
    }
    for step in missing {
        transaction.execute_batch(step).map_err(failed)?;
    }
    let version = seconds(MIGRATIONS.len() as u64);
    transaction.pragma_update(None, "user_version", version).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn missing_migrations(
    connection: &Connection,
    path: &Path,
) -> Result<&'static [&'static str], RegistryError> {
    let failed = |source| RegistryError::Open { path: path.to_owned(), source: Box::new(source) };
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    if version == 0 && tables > 0 {
        return Err(RegistryError::NotOurs { path: path.to_owned() });
    }
    let missing = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..));
    missing.ok_or_else(|| RegistryError::Version {
        place: path.display().to_string(),
        version,
        ours: seconds(MIGRATIONS.len() as u64),
    })
}
