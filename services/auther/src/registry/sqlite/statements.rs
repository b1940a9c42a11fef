//! What is said to SQLite, and how its rows are read.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use wire::MacAddress;
use wire::revocation::{REVOCATION_LIFE_S, Revocation, RevokedReason};
use wire::ticket::KeyFingerprint;

use super::super::{
    ApplyError, AuditEntry, Changes, Login, LoginRequest, Mode, Outcome, Step, Token, reason_name,
    reason_of, scope_of, seconds, unsigned,
};
use crate::admission::{Decision, decide};
use crate::change::{Change, Command};
use crate::device::{Device, View};

pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

pub(super) fn login(
    connection: &mut Connection,
    request: &LoginRequest,
) -> rusqlite::Result<Login> {
    let LoginRequest { mac, key, software, now_s, window_s } = request;
    let device = find(connection, *mac)?;
    match decide(device.as_ref(), key, *now_s, *window_s) {
        Decision::Admit => {
            // Who is admitted is so even when the registry cannot be written (a full disk).
            if let Err(error) = note_login(connection, *mac, software, *now_s) {
                let error = telemetry::chain(&error);
                tracing::warn!(%mac, error, "a login is not noted in the registry");
            }
            Ok(Login::admitted(device.as_ref(), false))
        }
        Decision::Bind => bind(connection, request),
        Decision::Deny(reason) => {
            if reason == wire::DeniedReason::OtherKey {
                connection.execute(
                    "UPDATE device SET other_key_logins = other_key_logins + 1 WHERE mac = ?1",
                    [mac.to_string()],
                )?;
            }
            Ok(Login::Denied(reason))
        }
    }
}

/// Decides once more, now that nobody else writes: another login, or the operator, may have come in
/// between.
fn bind(connection: &mut Connection, request: &LoginRequest) -> rusqlite::Result<Login> {
    let LoginRequest { mac, key, software, now_s, window_s } = request;
    let transaction = begin(connection)?;
    let before = find(&transaction, *mac)?;
    match decide(before.as_ref(), key, *now_s, *window_s) {
        Decision::Bind => {
            let command = Command::Bind { key: *key, software: software.clone() };
            if let Ok(Some(change)) = command.apply(*mac, before.as_ref(), *now_s) {
                write_change(&transaction, &request.step(), *mac, before.as_ref(), &change)?;
                note_login(&transaction, *mac, software, *now_s)?;
                transaction.commit()?;
            }
            Ok(Login::admitted(before.as_ref(), true))
        }
        Decision::Admit => Ok(Login::admitted(before.as_ref(), false)),
        Decision::Deny(reason) => Ok(Login::Denied(reason)),
    }
}

pub(super) fn apply(
    connection: &mut Connection,
    changes: &Changes,
) -> rusqlite::Result<Result<Vec<Outcome>, ApplyError>> {
    let transaction = begin(connection)?;
    let mut outcomes = Vec::with_capacity(changes.commands.len());
    for (mac, command) in &changes.commands {
        let before = find(&transaction, *mac)?;
        let change = match command.apply(*mac, before.as_ref(), changes.now_s) {
            Ok(change) => change,
            // The transaction is dropped, and with it whatever was written.
            Err(refusal) => return Ok(Err(ApplyError::Refused { mac: *mac, refusal })),
        };
        if let Some(change) = &change {
            let step = changes.step(command);
            write_change(&transaction, &step, *mac, before.as_ref(), change)?;
        }
        outcomes.push(Outcome::new(before, change));
    }
    if changes.mode == Mode::Commit {
        transaction.commit()?;
    }
    Ok(Ok(outcomes))
}

fn write_change(
    transaction: &Transaction<'_>,
    step: &Step,
    mac: MacAddress,
    before: Option<&Device>,
    change: &Change,
) -> rusqlite::Result<()> {
    let text = mac.to_string();
    match &change.after {
        Some(device) => write_device(transaction, device)?,
        None => {
            transaction.execute("DELETE FROM device WHERE mac = ?1", [&text])?;
        }
    }
    if let Some(key) = change.restored {
        transaction.execute(
            "DELETE FROM revocation WHERE mac = ?1 AND key = ?2",
            params![text, key.0.as_slice()],
        )?;
    }
    if let Some((key, reason)) = change.revoked {
        transaction.execute(
            "INSERT OR REPLACE INTO revocation (mac, key, reason, revoked_s)
             VALUES (?1, ?2, ?3, ?4)",
            params![text, key.0.as_slice(), reason_name(reason), seconds(step.now_s)],
        )?;
    }
    if change.restored.is_some() || change.revoked.is_some() {
        let oldest = seconds(step.now_s.saturating_sub(REVOCATION_LIFE_S));
        transaction.execute("DELETE FROM revocation WHERE revoked_s < ?1", [oldest])?;
        transaction.execute(
            "UPDATE state SET revocations = max(revocations + 1, ?1)",
            [seconds(step.now_s)],
        )?;
    }
    let json = |device: &Device| serde_json::json!(View::from(device));
    let (before, after) = (before.map(json), change.after.as_ref().map(json));
    write_audit(transaction, step, Some(&text), before.as_ref(), after.as_ref())
}

pub(super) fn write_audit(
    transaction: &Transaction<'_>,
    step: &Step,
    mac: Option<&str>,
    before: Option<&serde_json::Value>,
    after: Option<&serde_json::Value>,
) -> rusqlite::Result<()> {
    transaction.execute("UPDATE state SET changes = changes + 1", [])?;
    let text = |value: Option<&serde_json::Value>| value.map(ToString::to_string);
    transaction.execute(
        "INSERT INTO audit (id, at_s, who, what, mac, entry_before, entry_after)
         VALUES ((SELECT changes FROM state), ?1, ?2, ?3, ?4, ?5, ?6)",
        params![seconds(step.now_s), step.who, step.what, mac, text(before), text(after)],
    )?;
    Ok(())
}

/// What an operator or a binding changes; what logins note stays as it is.
fn write_device(connection: &Connection, device: &Device) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO device (mac, serial, note, sessions_max, suspended_s, added_s,
                             enrolment_from_s, enrolment_window_s, replacing, key, bound_s)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (mac) DO UPDATE SET
             serial = excluded.serial, note = excluded.note,
             sessions_max = excluded.sessions_max, suspended_s = excluded.suspended_s,
             enrolment_from_s = excluded.enrolment_from_s,
             enrolment_window_s = excluded.enrolment_window_s,
             replacing = excluded.replacing, key = excluded.key, bound_s = excluded.bound_s",
        params![
            device.mac.to_string(),
            device.serial,
            device.note,
            device.sessions_max,
            device.suspended_s.map(seconds),
            seconds(device.added_s),
            seconds(device.enrolment_from_s),
            device.enrolment_window_s.map(seconds),
            device.replacing,
            device.key.map(|key| key.0.to_vec()),
            device.bound_s.map(seconds),
        ],
    )?;
    Ok(())
}

fn note_login(
    connection: &Connection,
    mac: MacAddress,
    software: &str,
    now_s: u64,
) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE device SET last_login_s = ?2, software = ?3 WHERE mac = ?1",
        params![mac.to_string(), seconds(now_s), software],
    )?;
    Ok(())
}

pub(super) fn find(connection: &Connection, mac: MacAddress) -> rusqlite::Result<Option<Device>> {
    connection
        .query_row("SELECT * FROM device WHERE mac = ?1", [mac.to_string()], read_device)
        .optional()
}

pub(super) fn read_device(row: &Row<'_>) -> rusqlite::Result<Device> {
    let key: Option<[u8; 32]> = row.get("key")?;
    let time = |name| row.get::<_, Option<i64>>(name).map(|value| value.map(unsigned));
    Ok(Device {
        mac: read_mac(row)?,
        serial: row.get("serial")?,
        note: row.get("note")?,
        sessions_max: row.get("sessions_max")?,
        suspended_s: time("suspended_s")?,
        added_s: unsigned(row.get("added_s")?),
        enrolment_from_s: unsigned(row.get("enrolment_from_s")?),
        enrolment_window_s: time("enrolment_window_s")?,
        replacing: row.get("replacing")?,
        key: key.map(KeyFingerprint),
        bound_s: time("bound_s")?,
        last_login_s: time("last_login_s")?,
        software: row.get("software")?,
        other_key_logins: unsigned(row.get("other_key_logins")?),
    })
}

fn read_mac(row: &Row<'_>) -> rusqlite::Result<MacAddress> {
    let mac: String = row.get("mac")?;
    mac.parse().map_err(|error| broken(Box::new(error)))
}

pub(super) fn read_revocation(row: &Row<'_>) -> rusqlite::Result<Revocation> {
    let key: [u8; 32] = row.get("key")?;
    let reason: String = row.get("reason")?;
    let reason: RevokedReason = reason_of(&reason).map_err(broken)?;
    let revoked_s = unsigned(row.get("revoked_s")?);
    Ok(Revocation::new(read_mac(row)?, KeyFingerprint(key), revoked_s, reason))
}

pub(super) fn read_audit(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    let json = |name| -> rusqlite::Result<Option<serde_json::Value>> {
        let text: Option<String> = row.get(name)?;
        text.map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| broken(error.into()))
    };
    Ok(AuditEntry {
        id: unsigned(row.get("id")?),
        at_s: unsigned(row.get("at_s")?),
        who: row.get("who")?,
        what: row.get("what")?,
        mac: row.get("mac")?,
        before: json("entry_before")?,
        after: json("entry_after")?,
    })
}

pub(super) fn read_token(row: &Row<'_>) -> rusqlite::Result<Token> {
    let scope: String = row.get("scope")?;
    Ok(Token {
        name: row.get("name")?,
        hash: row.get("hash")?,
        scope: scope_of(&scope).map_err(broken)?,
        created_s: unsigned(row.get("created_s")?),
        created_by: row.get("created_by")?,
        expires_s: row.get::<_, Option<i64>>("expires_s")?.map(unsigned),
    })
}

/// A field that this program did not write.
fn broken(error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error)
}
