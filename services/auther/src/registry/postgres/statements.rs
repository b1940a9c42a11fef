//! What is said to PostgreSQL, and how its rows are read.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row as _};
use wire::MacAddress;
use wire::revocation::{REVOCATION_LIFE_S, Revocation};
use wire::ticket::KeyFingerprint;

use super::super::{
    ApplyError, AuditEntry, Changes, Login, LoginRequest, Mode, Outcome, SourceError, Step, Token,
    reason_name, reason_of, scope_of, seconds, unsigned,
};
use crate::admission::{Decision, decide};
use crate::change::{Change, Command};
use crate::device::{Device, View};

/// A transaction that has the registry for itself, as far as changes go.
pub(super) async fn begin(
    connection: &mut PgConnection,
) -> Result<sqlx::Transaction<'_, sqlx::Postgres>, sqlx::Error> {
    let mut transaction = sqlx::Connection::begin(connection).await?;
    sqlx::query("SELECT 1 FROM state FOR UPDATE").execute(&mut *transaction).await?;
    Ok(transaction)
}

pub(super) async fn bind(
    connection: &mut PgConnection,
    request: &LoginRequest,
) -> Result<Login, sqlx::Error> {
    let LoginRequest { mac, key, software, now_s, window_s } = request;
    let mut transaction = begin(connection).await?;
    let before = find(&mut transaction, *mac).await?;
    match decide(before.as_ref(), key, *now_s, *window_s) {
        Decision::Bind => {
            let command = Command::Bind { key: *key, software: software.clone() };
            if let Ok(Some(change)) = command.apply(*mac, before.as_ref(), *now_s) {
                let step = request.step();
                write_change(&mut transaction, &step, *mac, before.as_ref(), &change).await?;
                note_login(&mut transaction, request).await?;
                transaction.commit().await?;
            }
            Ok(Login::admitted(before.as_ref(), true))
        }
        Decision::Admit => Ok(Login::admitted(before.as_ref(), false)),
        Decision::Deny(reason) => Ok(Login::Denied(reason)),
    }
}

pub(super) async fn apply(
    connection: &mut PgConnection,
    changes: &Changes,
) -> Result<Result<Vec<Outcome>, ApplyError>, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let mut outcomes = Vec::with_capacity(changes.commands.len());
    for (mac, command) in &changes.commands {
        let before = find(&mut transaction, *mac).await?;
        let change = match command.apply(*mac, before.as_ref(), changes.now_s) {
            Ok(change) => change,
            // The transaction is dropped, and with it whatever was written.
            Err(refusal) => return Ok(Err(ApplyError::Refused { mac: *mac, refusal })),
        };
        if let Some(change) = &change {
            let step = changes.step(command);
            write_change(&mut transaction, &step, *mac, before.as_ref(), change).await?;
        }
        outcomes.push(Outcome::new(before, change));
    }
    match changes.mode {
        Mode::Commit => transaction.commit().await?,
        Mode::DryRun => transaction.rollback().await?,
    }
    Ok(Ok(outcomes))
}

async fn write_change(
    connection: &mut PgConnection,
    step: &Step,
    mac: MacAddress,
    before: Option<&Device>,
    change: &Change,
) -> Result<(), sqlx::Error> {
    let text = mac.to_string();
    match &change.after {
        Some(device) => write_device(connection, device).await?,
        None => {
            let delete = sqlx::query("DELETE FROM device WHERE mac = $1").bind(&text);
            delete.execute(&mut *connection).await?;
        }
    }
    if let Some(key) = change.restored {
        let delete = sqlx::query("DELETE FROM revocation WHERE mac = $1 AND key = $2");
        delete.bind(&text).bind(key.0.as_slice()).execute(&mut *connection).await?;
    }
    if let Some((key, reason)) = change.revoked {
        sqlx::query(
            "INSERT INTO revocation (mac, key, reason, revoked_s) VALUES ($1, $2, $3, $4)
             ON CONFLICT (mac, key) DO UPDATE SET
                 reason = excluded.reason, revoked_s = excluded.revoked_s",
        )
        .bind(&text)
        .bind(key.0.as_slice())
        .bind(reason_name(reason))
        .bind(seconds(step.now_s))
        .execute(&mut *connection)
        .await?;
    }
    if change.restored.is_some() || change.revoked.is_some() {
        let oldest = seconds(step.now_s.saturating_sub(REVOCATION_LIFE_S));
        let prune = sqlx::query("DELETE FROM revocation WHERE revoked_s < $1").bind(oldest);
        prune.execute(&mut *connection).await?;
        let number = sqlx::query("UPDATE state SET revocations = greatest(revocations + 1, $1)");
        number.bind(seconds(step.now_s)).execute(&mut *connection).await?;
    }
    let json = |device: &Device| serde_json::json!(View::from(device));
    let (before, after) = (before.map(json), change.after.as_ref().map(json));
    write_audit(connection, step, Some(&text), before.as_ref(), after.as_ref()).await
}

pub(super) async fn write_audit(
    connection: &mut PgConnection,
    step: &Step,
    mac: Option<&str>,
    before: Option<&serde_json::Value>,
    after: Option<&serde_json::Value>,
) -> Result<(), sqlx::Error> {
    let text = |value: Option<&serde_json::Value>| value.map(ToString::to_string);
    sqlx::query(
        "WITH counted AS (UPDATE state SET changes = changes + 1 RETURNING changes)
         INSERT INTO audit (id, at_s, who, what, mac, entry_before, entry_after)
         SELECT changes, $1, $2, $3, $4, $5, $6 FROM counted",
    )
    .bind(seconds(step.now_s))
    .bind(&step.who)
    .bind(&step.what)
    .bind(mac)
    .bind(text(before))
    .bind(text(after))
    .execute(connection)
    .await
    .map(drop)
}

/// What an operator or a binding changes; what logins note stays as it is.
async fn write_device(connection: &mut PgConnection, device: &Device) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO device (mac, serial, note, sessions_max, suspended_s, added_s,
                             enrolment_from_s, enrolment_window_s, replacing, key, bound_s)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (mac) DO UPDATE SET
             serial = excluded.serial, note = excluded.note,
             sessions_max = excluded.sessions_max, suspended_s = excluded.suspended_s,
             enrolment_from_s = excluded.enrolment_from_s,
             enrolment_window_s = excluded.enrolment_window_s,
             replacing = excluded.replacing, key = excluded.key, bound_s = excluded.bound_s",
    )
    .bind(device.mac.to_string())
    .bind(&device.serial)
    .bind(&device.note)
    .bind(i64::from(device.sessions_max))
    .bind(device.suspended_s.map(seconds))
    .bind(seconds(device.added_s))
    .bind(seconds(device.enrolment_from_s))
    .bind(device.enrolment_window_s.map(seconds))
    .bind(i64::from(device.replacing))
    .bind(device.key.map(|key| key.0.to_vec()))
    .bind(device.bound_s.map(seconds))
    .execute(connection)
    .await
    .map(drop)
}

pub(super) async fn note_login(
    connection: &mut PgConnection,
    request: &LoginRequest,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE device SET last_login_s = $2, software = $3 WHERE mac = $1")
        .bind(request.mac.to_string())
        .bind(seconds(request.now_s))
        .bind(&request.software)
        .execute(connection)
        .await
        .map(drop)
}

pub(super) async fn find_in(pool: PgPool, mac: MacAddress) -> Result<Option<Device>, sqlx::Error> {
    find(&mut *pool.acquire().await?, mac).await
}

async fn find(
    connection: &mut PgConnection,
    mac: MacAddress,
) -> Result<Option<Device>, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM device WHERE mac = $1")
        .bind(mac.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read_device).transpose()
}

pub(super) fn read_device(row: &PgRow) -> Result<Device, sqlx::Error> {
    let time = |name| row.try_get::<Option<i64>, _>(name).map(|value| value.map(unsigned));
    let key: Option<Vec<u8>> = row.try_get("key")?;
    let sessions_max: i64 = row.try_get("sessions_max")?;
    Ok(Device {
        mac: read_mac(row)?,
        serial: row.try_get("serial")?,
        note: row.try_get("note")?,
        sessions_max: u32::try_from(sessions_max).map_err(broken)?,
        suspended_s: time("suspended_s")?,
        added_s: unsigned(row.try_get("added_s")?),
        enrolment_from_s: unsigned(row.try_get("enrolment_from_s")?),
        enrolment_window_s: time("enrolment_window_s")?,
        replacing: row.try_get::<i64, _>("replacing")? != 0,
        key: key.map(read_key).transpose()?,
        bound_s: time("bound_s")?,
        last_login_s: time("last_login_s")?,
        software: row.try_get("software")?,
        other_key_logins: unsigned(row.try_get("other_key_logins")?),
    })
}

fn read_mac(row: &PgRow) -> Result<MacAddress, sqlx::Error> {
    row.try_get::<String, _>("mac")?.parse().map_err(broken)
}

fn read_key(bytes: Vec<u8>) -> Result<KeyFingerprint, sqlx::Error> {
    <[u8; 32]>::try_from(bytes)
        .map(KeyFingerprint)
        .map_err(|bytes| broken(format!("a fingerprint of {} bytes", bytes.len())))
}

/// `None` for the row that says only the number of an empty list.
pub(super) fn read_revocation(row: &PgRow) -> Result<Option<Revocation>, sqlx::Error> {
    let Some(reason) = row.try_get::<Option<String>, _>("reason")? else { return Ok(None) };
    let key = read_key(row.try_get("key")?)?;
    let revoked_s = unsigned(row.try_get("revoked_s")?);
    let reason = reason_of(&reason).map_err(broken)?;
    Ok(Some(Revocation::new(read_mac(row)?, key, revoked_s, reason)))
}

pub(super) fn read_audit(row: &PgRow) -> Result<AuditEntry, sqlx::Error> {
    let json = |name| -> Result<Option<serde_json::Value>, sqlx::Error> {
        let text: Option<String> = row.try_get(name)?;
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(broken)
    };
    Ok(AuditEntry {
        id: unsigned(row.try_get("id")?),
        at_s: unsigned(row.try_get("at_s")?),
        who: row.try_get("who")?,
        what: row.try_get("what")?,
        mac: row.try_get("mac")?,
        before: json("entry_before")?,
        after: json("entry_after")?,
    })
}

pub(super) fn read_token(row: &PgRow) -> Result<Token, sqlx::Error> {
    let hash: Vec<u8> = row.try_get("hash")?;
    let hash = <[u8; 32]>::try_from(hash).map_err(|_| broken("a hash of another length"))?;
    Ok(Token {
        name: row.try_get("name")?,
        hash,
        scope: scope_of(row.try_get("scope")?).map_err(broken)?,
        created_s: unsigned(row.try_get("created_s")?),
        created_by: row.try_get("created_by")?,
        expires_s: row.try_get::<Option<i64>, _>("expires_s")?.map(unsigned),
    })
}

/// A field that this program did not write.
fn broken(error: impl Into<SourceError>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
