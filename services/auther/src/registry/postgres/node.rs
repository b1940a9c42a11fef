//! One PostgreSQL server: where it is, whether it answers, and its tables.

use std::fmt;
use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio::time::{Instant, timeout};

use super::super::{RegistryError, SourceError, seconds};

/// Connections to each server at most. A login takes one for some milliseconds.
pub const CONNECTIONS_MAX: u32 = 8;
/// For one piece of work, connecting included. A box gives up after some seconds more.
pub(super) const WORK_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a server that did not answer is left alone. Logins in that time do not wait for it.
const AWAY_TIME: Duration = Duration::from_secs(5);

/// The schema, in steps that are never changed, only added to.
const MIGRATIONS: [&str; 1] = [include_str!("../../../migrations/postgres/0001.sql")];

/// A server, a database and a user, as a URL says.
#[derive(Clone)]
pub struct PgPlace {
    options: PgConnectOptions,
    shown: String,
}

/// Shows no password.
impl fmt::Debug for PgPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Display for PgPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl PgPlace {
    /// From `postgresql://user@host:5432/database`, with a password from elsewhere if there is one.
    ///
    /// A server across a network must prove who it is (`sslmode=verify-full`) unless the URL itself
    /// says something else: the registry decides who is admitted.
    ///
    /// # Errors
    /// In words, and without the URL, which may have a password in it.
    pub fn parse(url: &str, password: Option<&str>) -> Result<Self, String> {
        let wrong = || "no URL of a PostgreSQL database".to_owned();
        if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
            return Err(wrong());
        }
        let mut options = PgConnectOptions::from_str(url).map_err(|_| wrong())?;
        if let Some(password) = password {
            options = options.password(password);
        }
        let host = options.get_host().to_owned();
        let is_here = options.get_socket().is_some()
            || host.starts_with('/')
            || ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&host.as_str());
        if !is_here && !url.contains("sslmode=") && !url.contains("ssl-mode=") {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => host,
        };
        let shown = format!(
            "postgresql://{}@{host}:{}/{}",
            options.get_username(),
            options.get_port(),
            options.get_database().unwrap_or_else(|| options.get_username()),
        );
        let limit = WORK_TIME_MAX.as_millis().to_string();
        let options =
            options.application_name("avr-auther").options([("lock_timeout", limit.as_str())]);
        Ok(Self { options, shown })
    }
}

/// One server, and whether it answered the last time.
#[derive(Debug)]
pub(super) struct Node {
    pool: PgPool,
    pub(super) place: String,
    away_until: Mutex<Option<Instant>>,
}

impl Node {
    pub(super) fn new(place: &PgPlace) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(WORK_TIME_MAX)
            .connect_lazy_with(place.options.clone());
        Self { pool, place: place.shown.clone(), away_until: Mutex::new(None) }
    }

    /// Does some work, unless the server is known to be away.
    pub(super) async fn run<T, F>(
        &self,
        step: &'static str,
        time_max: Duration,
        work: impl FnOnce(PgPool) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        if self.is_left_alone() {
            return Err(RegistryError::Away { place: self.place.clone() });
        }
        let worked = timeout(time_max, work(self.pool.clone()));
        let source: SourceError = match worked.await {
            Ok(Ok(result)) => {
                if self.away().take().is_some() {
                    tracing::info!(registry = self.place, "the registry answers again");
                }
                return Ok(result);
            }
            Ok(Err(error)) => {
                if is_away(&error) {
                    self.leave_alone(&error.to_string());
                }
                Box::new(error)
            }
            Err(_) => {
                let why = format!("no answer within {time_max:?}");
                self.leave_alone(&why);
                why.into()
            }
        };
        Err(RegistryError::Step { step, place: self.place.clone(), source })
    }

    /// Whether it has not answered since it was left alone.
    pub(super) fn is_away(&self) -> bool {
        self.away().is_some()
    }

    /// Of those who come when the time is over, one tries, and the others are not kept waiting.
    fn is_left_alone(&self) -> bool {
        let now = Instant::now();
        let mut away = self.away();
        match *away {
            None => false,
            Some(until) if now < until => true,
            Some(_) => {
                *away = Some(now + AWAY_TIME);
                false
            }
        }
    }

    pub(super) fn leave_alone(&self, error: &str) {
        let first = self.away().replace(Instant::now() + AWAY_TIME).is_none();
        if first {
            tracing::warn!(registry = self.place, error, "the registry does not answer");
        }
    }

    fn away(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.away_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server is gone, rather than displeased with a statement.
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed => true,
        // Class 57: told to shut down, or starting; class 08: connection trouble; 25006: it is a
        // read-only standby now.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("57P") || code.starts_with("08") || code == "25006"
        }),
        _ => false,
    }
}

/// Brings the schema to this program's version. On a copy, the rows come from the primary.
pub(super) async fn migrate(node: &Node, is_writer: bool) -> Result<(), RegistryError> {
    let place = || node.place.clone();
    let mut connection = timeout(WORK_TIME_MAX, node.pool.acquire())
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
        .map_err(|source| RegistryError::Connect { place: place(), source: Box::new(source) })?;
    let failed = |source: SourceError| RegistryError::Migrate { place: place(), source };
    let migrations = (1_i64..).zip(MIGRATIONS).map(|(version, sql)| {
        let name = format!("{version:04}").into();
        Migration::new(version, name, MigrationType::Simple, sqlx::SqlStr::from_static(sql), false)
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    let ours = seconds(MIGRATIONS.len() as u64);
    match migrator.run(&mut *connection).await {
        Ok(()) => {}
        Err(MigrateError::VersionMissing(version)) => {
            return Err(RegistryError::Version { place: place(), version, ours });
        }
        Err(error) => return Err(failed(Box::new(error))),
    }
    if is_writer {
        sqlx::query("INSERT INTO state VALUES (1, 0, 1) ON CONFLICT DO NOTHING")
            .execute(&mut *connection)
            .await
            .map_err(|error| failed(Box::new(error)))?;
    }
    Ok(())
}
