//! The registry in PostgreSQL: here, or a copy here and the primary elsewhere.
//!
//! The copy is PostgreSQL's own logical replication; nothing of it is done here. A box that the copy
//! knows with its key is admitted from it, whatever has become of the primary. Every other login is
//! asked of the primary, because the copy may lag behind it; when it is away, the copy's word counts,
//! except that no key can be bound: that box is told to ask another auther, or later. Nothing is ever
//! written into the copy. Admission is so eventually consistent: a suspension reaches a copy with the
//! replication, and a ticket that was given in the meantime is voided by the list of revocations.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, Row as _};
use tokio::sync::Semaphore;
use wire::revocation::{REVOCATION_LIFE_S, Revocation};
use wire::ticket::KeyFingerprint;
use wire::{DeniedReason, MacAddress};

use super::{
    ApplyError, AuditEntry, AuditFilter, Changes, ListFilter, Login, LoginRequest, Outcome,
    RegistryError, Step, Token, seconds, unsigned,
};
use crate::admission::{Decision, decide};
use crate::device::Device;
use node::{Node, WORK_TIME_MAX, migrate};
use statements::{
    apply, begin, bind, find_in, note_login, read_audit, read_device, read_revocation, read_token,
    write_audit,
};

pub use node::{CONNECTIONS_MAX, PgPlace};

mod node;
mod statements;

/// For an import, which is one transaction of many statements.
const IMPORT_TIME_MAX: Duration = Duration::from_secs(300);
/// Logins that are being noted at once; those beyond are not noted.
const NOTES_MAX: usize = 4;

/// A registry in PostgreSQL.
#[derive(Debug, Clone)]
pub(super) struct Postgres {
    /// Where boxes are looked up.
    local: Arc<Node>,
    /// Where everything is written, if not there.
    primary: Option<Arc<Node>>,
    notes: Arc<Semaphore>,
}

impl Postgres {
    pub(super) async fn connect(
        local: &PgPlace,
        primary: Option<&PgPlace>,
    ) -> Result<Self, RegistryError> {
        let registry = Self {
            local: Arc::new(Node::new(local)),
            primary: primary.map(|primary| Arc::new(Node::new(primary))),
            notes: Arc::new(Semaphore::new(NOTES_MAX)),
        };
        let local_is_writer = registry.primary.is_none();
        migrate(&registry.local, local_is_writer).await?;
        if let Some(primary) = &registry.primary {
            match migrate(primary, true).await {
                Err(error @ RegistryError::Connect { .. }) => {
                    let error = telemetry::chain(&error);
                    tracing::warn!(error, "boxes are admitted from the copy here");
                    primary.leave_alone("not reached at the start");
                }
                migrated => migrated?,
            }
        }
        Ok(registry)
    }

    pub(super) fn place(&self) -> String {
        match &self.primary {
            None => self.local.place.clone(),
            Some(primary) => format!("{} (primary {})", self.local.place, primary.place),
        }
    }

    pub(super) fn is_primary_away(&self) -> Option<bool> {
        self.primary.as_ref().map(|primary| primary.is_away())
    }

    /// Asks the primary something, so that it is known whether it is there before a box needs it.
    pub(super) async fn probe(&self) {
        if let Some(primary) = &self.primary {
            let asked = primary.run("ask the primary", WORK_TIME_MAX, |pool| async move {
                sqlx::query("SELECT 1").execute(&pool).await.map(drop)
            });
            // What came of it is noted, and in the log.
            let _ = asked.await;
        }
    }

    fn writer(&self) -> &Arc<Node> {
        self.primary.as_ref().unwrap_or(&self.local)
    }

    /// Asks the local copy, and where that is down, the primary.
    async fn read<T, F>(
        &self,
        step: &'static str,
        work: impl Fn(PgPool) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        match (self.local.run(step, WORK_TIME_MAX, &work).await, &self.primary) {
            (Err(_), Some(primary)) => primary.run(step, WORK_TIME_MAX, &work).await,
            (result, _) => result,
        }
    }

    pub(super) async fn find(&self, mac: MacAddress) -> Result<Option<Device>, RegistryError> {
        self.read("look up a box", |pool| find_in(pool, mac)).await
    }

    pub(super) async fn list(&self, filter: ListFilter) -> Result<Vec<Device>, RegistryError> {
        let (after, search, state) = &filter.texts();
        let limit = i64::from(filter.limit);
        self.read("list the boxes", |pool| async move {
            let rows = sqlx::query(
                "SELECT * FROM device WHERE mac > $1
                 AND ($2 = '' OR strpos(mac, $2) > 0 OR strpos(lower(serial), $2) > 0
                      OR strpos(lower(note), $2) > 0)
                 AND ($3 = ''
                      OR ($3 = 'suspended' AND suspended_s IS NOT NULL)
                      OR ($3 = 'enrolled' AND suspended_s IS NULL AND key IS NOT NULL)
                      OR ($3 = 'waiting' AND suspended_s IS NULL AND key IS NULL))
                 ORDER BY mac LIMIT $4",
            )
            .bind(after)
            .bind(search)
            .bind(state)
            .bind(limit)
            .fetch_all(&pool)
            .await?;
            rows.iter().map(read_device).collect()
        })
        .await
    }

    pub(super) async fn login(&self, request: LoginRequest) -> Result<Login, RegistryError> {
        let LoginRequest { mac, key, now_s, window_s, .. } = request;
        let decision = match self.local_decision(&request).await {
            Ok((Decision::Admit, device)) => {
                self.note_login(request);
                return Ok(Login::admitted(device.as_ref(), false));
            }
            Ok((decision, _)) => Ok(decision),
            Err(error) => Err(error),
        };
        // Without a copy, what was just read is the primary's own word.
        let authoritative = match (&decision, &self.primary) {
            (Ok(Decision::Deny(reason)), None) => Ok(Decision::Deny(*reason)),
            _ => self.decide_there(mac, key, now_s, window_s).await,
        };
        match authoritative {
            Ok(Decision::Admit | Decision::Bind) => self.bind(request, decision).await,
            Ok(Decision::Deny(reason)) => {
                if reason == DeniedReason::OtherKey {
                    self.count_other_key(mac);
                }
                Ok(Login::Denied(reason))
            }
            Err(error) => away_answer(decision, error),
        }
    }

    async fn local_decision(
        &self,
        request: &LoginRequest,
    ) -> Result<(Decision, Option<Device>), RegistryError> {
        let LoginRequest { mac, key, now_s, window_s, .. } = *request;
        let work = |pool| find_in(pool, mac);
        let device = self.local.run("look up a box", WORK_TIME_MAX, work).await?;
        Ok((decide(device.as_ref(), &key, now_s, window_s), device))
    }

    async fn decide_there(
        &self,
        mac: MacAddress,
        key: KeyFingerprint,
        now_s: u64,
        window_s: u64,
    ) -> Result<Decision, RegistryError> {
        let work = |pool| find_in(pool, mac);
        let device = self.writer().run("look up a box", WORK_TIME_MAX, work).await?;
        Ok(decide(device.as_ref(), &key, now_s, window_s))
    }

    /// Decides once more, now that nobody else writes: another login, or the operator, may have come
    /// in between.
    async fn bind(
        &self,
        request: LoginRequest,
        local: Result<Decision, RegistryError>,
    ) -> Result<Login, RegistryError> {
        let work = |pool: PgPool| async move { bind(&mut *pool.acquire().await?, &request).await };
        match self.writer().run("bind a key", WORK_TIME_MAX, work).await {
            Ok(login) => Ok(login),
            Err(error) if self.primary.is_some() => away_answer(local, error),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn apply(&self, changes: Changes) -> Result<Vec<Outcome>, ApplyError> {
        let time_max = if changes.commands.len() > 1 { IMPORT_TIME_MAX } else { WORK_TIME_MAX };
        let work = |pool: PgPool| async move { apply(&mut *pool.acquire().await?, &changes).await };
        self.writer().run("change boxes", time_max, work).await?
    }

    pub(super) async fn revocations(
        &self,
        now_s: u64,
    ) -> Result<(u64, Vec<Revocation>), RegistryError> {
        self.read("list the revocations", |pool| async move {
            // One statement, so that number and list are of the same moment.
            let since = seconds(now_s.saturating_sub(REVOCATION_LIFE_S));
            let rows = sqlx::query(
                "SELECT s.revocations, r.mac, r.key, r.reason, r.revoked_s
                 FROM state s LEFT JOIN revocation r ON r.revoked_s >= $1
                 ORDER BY r.mac, r.key",
            )
            .bind(since)
            .fetch_all(&pool)
            .await?;
            let number = match rows.first() {
                Some(row) => row.try_get::<i64, _>("revocations")?,
                // A copy into which nothing has been copied yet.
                None => return Err(sqlx::Error::RowNotFound),
            };
            let list = rows.iter().filter_map(|row| read_revocation(row).transpose());
            Ok((unsigned(number), list.collect::<Result<_, _>>()?))
        })
        .await
    }

    pub(super) async fn audit(
        &self,
        filter: AuditFilter,
    ) -> Result<Vec<AuditEntry>, RegistryError> {
        let mac = filter.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let mac = &mac;
        self.read("read the audit log", |pool| async move {
            let rows = sqlx::query(
                "SELECT id, at_s, who, what, mac, entry_before, entry_after FROM audit
                 WHERE id > $1 AND at_s >= $2 AND ($3 = '' OR mac = $3) ORDER BY id LIMIT $4",
            )
            .bind(seconds(filter.after))
            .bind(seconds(filter.since_s))
            .bind(mac)
            .bind(i64::from(filter.limit))
            .fetch_all(&pool)
            .await?;
            rows.iter().map(read_audit).collect()
        })
        .await
    }

    pub(super) async fn add_token(&self, token: Token, step: Step) -> Result<bool, RegistryError> {
        let work = |pool: PgPool| async move {
            let mut connection = pool.acquire().await?;
            let mut transaction = begin(&mut connection).await?;
            let added = sqlx::query(
                "INSERT INTO token (name, hash, scope, created_s, created_by, expires_s)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            )
            .bind(&token.name)
            .bind(token.hash.as_slice())
            .bind(token.scope.name())
            .bind(seconds(token.created_s))
            .bind(&token.created_by)
            .bind(token.expires_s.map(seconds))
            .execute(&mut *transaction)
            .await?;
            if added.rows_affected() == 0 {
                return Ok(false);
            }
            write_audit(&mut transaction, &step, None, None, Some(&token.to_json())).await?;
            transaction.commit().await?;
            Ok(true)
        };
        self.writer().run("add a token", WORK_TIME_MAX, work).await
    }

    pub(super) async fn remove_token(
        &self,
        name: String,
        step: Step,
    ) -> Result<bool, RegistryError> {
        let work = |pool: PgPool| async move {
            let mut connection = pool.acquire().await?;
            let mut transaction = begin(&mut connection).await?;
            let row = sqlx::query("DELETE FROM token WHERE name = $1 RETURNING *")
                .bind(&name)
                .fetch_optional(&mut *transaction)
                .await?;
            let Some(row) = row else { return Ok(false) };
            let token = read_token(&row)?;
            write_audit(&mut transaction, &step, None, Some(&token.to_json()), None).await?;
            transaction.commit().await?;
            Ok(true)
        };
        self.writer().run("remove a token", WORK_TIME_MAX, work).await
    }

    pub(super) async fn tokens(&self) -> Result<Vec<Token>, RegistryError> {
        self.read("list the tokens", |pool| async move {
            let rows = sqlx::query("SELECT * FROM token ORDER BY name").fetch_all(&pool).await?;
            rows.iter().map(read_token).collect()
        })
        .await
    }

    pub(super) async fn find_token(&self, name: String) -> Result<Option<Token>, RegistryError> {
        let name = &name;
        self.read("look up a token", |pool| async move {
            let row = sqlx::query("SELECT * FROM token WHERE name = $1")
                .bind(name)
                .fetch_optional(&pool)
                .await?;
            row.as_ref().map(read_token).transpose()
        })
        .await
    }

    /// Beside the login: the box does not wait for the primary to know of it.
    fn note_login(&self, request: LoginRequest) {
        self.beside("note a login", |pool| async move {
            note_login(&mut *pool.acquire().await?, &request).await
        });
    }

    fn count_other_key(&self, mac: MacAddress) {
        self.beside("count a refused login", move |pool| async move {
            sqlx::query("UPDATE device SET other_key_logins = other_key_logins + 1 WHERE mac = $1")
                .bind(mac.to_string())
                .execute(&pool)
                .await
                .map(drop)
        });
    }

    fn beside<F>(&self, step: &'static str, work: impl FnOnce(PgPool) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), sqlx::Error>> + Send + 'static,
    {
        let Ok(permit) = self.notes.clone().try_acquire_owned() else { return };
        let writer = self.writer().clone();
        tokio::spawn(async move {
            if let Err(error) = writer.run(step, WORK_TIME_MAX, work).await {
                tracing::debug!(error = telemetry::chain(&error), "not written");
            }
            drop(permit);
        });
    }
}

/// What to tell a box when the primary could not be asked: the copy's own word, except that nothing
/// can be bound.
fn away_answer(
    local: Result<Decision, RegistryError>,
    error: RegistryError,
) -> Result<Login, RegistryError> {
    match local {
        Ok(Decision::Deny(reason)) => Ok(Login::Denied(reason)),
        Ok(Decision::Bind | Decision::Admit) | Err(_) => Err(error),
    }
}
