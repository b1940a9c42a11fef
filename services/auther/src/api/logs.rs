//! The audit log and the list of revocations.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::Api;
use super::types::{
    Audit, AuditQuery, Problem, ProblemBody, RevocationList, RevocationView, limit, mac,
};
use crate::registry::AuditFilter;

/// Every change, with who and when: a page, oldest first.
#[utoipa::path(get, path = "/v1/audit", tag = "logs", params(AuditQuery), responses(
    (status = 200, body = Audit),
    (status = 400, body = ProblemBody, description = "a parameter is wrong")
))]
pub(super) async fn read_audit(
    State(api): State<Api>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<Audit>, Problem> {
    let Query(query) = query?;
    let filter = AuditFilter {
        mac: query.mac.as_deref().map(mac).transpose()?,
        since_s: query.since_s.unwrap_or(0),
        after: query.after.unwrap_or(0),
        limit: limit(query.limit)?,
    };
    let entries = api.registry.audit(filter).await?;
    let is_full = u32::try_from(entries.len()).is_ok_and(|count| count == filter.limit);
    let next = entries.last().filter(|_| is_full).map(|last| last.id);
    Ok(Json(Audit { entries, next }))
}

/// The tickets that are void before their time, as the managers fetch them.
#[utoipa::path(get, path = "/v1/revocations", tag = "logs", responses(
    (status = 200, body = RevocationList)
))]
pub(super) async fn list_revocations(
    State(api): State<Api>,
) -> Result<Json<RevocationList>, Problem> {
    let (number, list) = api.registry.revocations((api.clock)()).await?;
    let view = |entry: wire::revocation::Revocation| RevocationView {
        mac: entry.mac.to_string(),
        key: entry.key.to_string(),
        not_before_s: entry.not_before_s,
        reason: entry.reason.to_string(),
    };
    Ok(Json(RevocationList { number, revocations: list.into_iter().map(view).collect() }))
}
