//! Boxes: looking at them, and changing them.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::Api;
use super::guard::Caller;
use super::types::{
    AddBox, Boxes, Changed, EditBox, ListQuery, Problem, ProblemBody, ReplaceKey, SEARCH_BYTES_MAX,
    json, limit, mac,
};
use crate::change::{Command, NewDevice};
use crate::device::{
    SESSIONS_MAX_DEFAULT, View, check_sessions_max, parse_note, parse_serial, parse_window_hours,
};
use crate::registry::{Changes, ListFilter, Mode};

/// A page of the boxes, by address.
#[utoipa::path(get, path = "/v1/boxes", tag = "boxes", params(ListQuery), responses(
    (status = 200, body = Boxes),
    (status = 400, body = ProblemBody, description = "a parameter is wrong")
))]
pub(super) async fn list_boxes(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Boxes>, Problem> {
    let Query(query) = query?;
    let limit = limit(query.limit)?;
    let after = query.after.as_deref().map(mac).transpose()?;
    if query.q.as_ref().is_some_and(|search| search.len() > SEARCH_BYTES_MAX) {
        return Err(Problem::bad(format!("`q` has at most {SEARCH_BYTES_MAX} bytes")));
    }
    if query.q.as_ref().is_some_and(|search| search.contains('\0')) {
        return Err(Problem::bad("`q` has a zero byte"));
    }
    let filter = ListFilter { after, search: query.q, state: query.state, limit };
    let devices = api.registry.list(filter).await?;
    let is_full = u32::try_from(devices.len()).is_ok_and(|count| count == limit);
    let next = devices.last().filter(|_| is_full).map(|last| last.mac.to_string());
    Ok(Json(Boxes { boxes: devices.iter().map(View::from).collect(), next }))
}

/// Registers a box. Its first login within the enrolment window binds its key.
#[utoipa::path(post, path = "/v1/boxes", tag = "boxes", request_body = AddBox, responses(
    (status = 201, body = Changed),
    (status = 400, body = ProblemBody, description = "a field is wrong"),
    (status = 409, body = ProblemBody, description = "it is registered already")
))]
pub(super) async fn add_box(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    let new: AddBox = json(body)?;
    let sessions_max = new.sessions_max.unwrap_or(SESSIONS_MAX_DEFAULT);
    check_sessions_max(sessions_max).map_err(Problem::bad)?;
    let device = NewDevice {
        serial: parse_serial(&new.serial).map_err(Problem::bad)?,
        note: parse_note(&new.note).map_err(Problem::bad)?,
        sessions_max,
        window_s: window_s(new.window_hours)?,
        ..NewDevice::default()
    };
    let changed = change(&api, &caller, &new.mac, Command::Add(device)).await?;
    Ok((StatusCode::CREATED, changed))
}

/// One box.
#[utoipa::path(get, path = "/v1/boxes/{mac}", tag = "boxes", params(("mac", description = "Its address")),
responses(
    (status = 200, body = View),
    (status = 404, body = ProblemBody, description = "it is not registered")
))]
pub(super) async fn one_box(
    State(api): State<Api>,
    Path(address): Path<String>,
) -> Result<Json<View>, Problem> {
    let mac = mac(&address)?;
    match api.registry.find(mac).await? {
        Some(device) => Ok(Json(View::from(&device))),
        None => Err(Problem::not_found(format!("{mac} is not registered"))),
    }
}

/// Writes something else about a box.
#[utoipa::path(patch, path = "/v1/boxes/{mac}", tag = "boxes", params(("mac", description = "Its address")),
request_body = EditBox, responses(
    (status = 200, body = Changed),
    (status = 400, body = ProblemBody, description = "a field is wrong"),
    (status = 404, body = ProblemBody, description = "it is not registered")
))]
pub(super) async fn edit_box(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(address): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Changed>, Problem> {
    let EditBox { serial, note, sessions_max } = json(body)?;
    sessions_max.map(check_sessions_max).transpose().map_err(Problem::bad)?;
    let serial = serial.as_deref().map(parse_serial).transpose().map_err(Problem::bad)?;
    let note = note.as_deref().map(parse_note).transpose().map_err(Problem::bad)?;
    change(&api, &caller, &address, Command::Edit { serial, note, sessions_max }).await
}

/// Forgets a box and its key. The ticket it has is void once the managers have asked.
#[utoipa::path(delete, path = "/v1/boxes/{mac}", tag = "boxes", params(("mac", description = "Its address")),
responses(
    (status = 200, body = Changed),
    (status = 404, body = ProblemBody, description = "it is not registered")
))]
pub(super) async fn remove_box(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(address): Path<String>,
) -> Result<Json<Changed>, Problem> {
    change(&api, &caller, &address, Command::Remove).await
}

/// Keeps a box out. The ticket it has is void once the managers have asked.
#[utoipa::path(post, path = "/v1/boxes/{mac}/suspend", tag = "boxes",
params(("mac", description = "Its address")), responses(
    (status = 200, body = Changed),
    (status = 404, body = ProblemBody, description = "it is not registered")
))]
pub(super) async fn suspend_box(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(address): Path<String>,
) -> Result<Json<Changed>, Problem> {
    change(&api, &caller, &address, Command::Suspend).await
}

/// Lets a suspended box in again.
#[utoipa::path(post, path = "/v1/boxes/{mac}/resume", tag = "boxes",
params(("mac", description = "Its address")), responses(
    (status = 200, body = Changed),
    (status = 404, body = ProblemBody, description = "it is not registered")
))]
pub(super) async fn resume_box(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(address): Path<String>,
) -> Result<Json<Changed>, Problem> {
    change(&api, &caller, &address, Command::Resume).await
}

/// Opens an enrolment window in which a new key is bound.
#[utoipa::path(post, path = "/v1/boxes/{mac}/replace-key", tag = "boxes",
params(("mac", description = "Its address")), request_body = ReplaceKey, responses(
    (status = 200, body = Changed),
    (status = 400, body = ProblemBody, description = "a field is wrong"),
    (status = 404, body = ProblemBody, description = "it is not registered")
))]
pub(super) async fn replace_key(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(address): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Changed>, Problem> {
    let body = body?;
    let ReplaceKey { window_hours, revoke_now } =
        if body.is_empty() { ReplaceKey::default() } else { json(Ok(body))? };
    let window_s = window_s(window_hours)?;
    change(&api, &caller, &address, Command::ReplaceKey { window_s, revoke_now }).await
}

fn window_s(hours: Option<u32>) -> Result<Option<u64>, Problem> {
    hours.map(parse_window_hours).transpose().map_err(Problem::bad)
}

/// One change to one box.
async fn change(
    api: &Api,
    caller: &Caller,
    address: &str,
    command: Command,
) -> Result<Json<Changed>, Problem> {
    let changes = Changes {
        actor: caller.actor.clone(),
        now_s: (api.clock)(),
        commands: vec![(mac(address)?, command)],
        mode: Mode::Commit,
    };
    let outcomes = api.registry.apply(changes).await?;
    let outcome = outcomes.into_iter().next();
    let device = outcome.as_ref().and_then(|outcome| outcome.device.as_ref()).map(View::from);
    Ok(Json(Changed { changed: outcome.is_some_and(|outcome| outcome.changed), device }))
}
