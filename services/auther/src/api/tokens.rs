//! Tokens: made, shown and removed over the local socket only, so that none can make another.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::Api;
use super::guard::Caller;
use super::types::{AddToken, NewToken, Problem, ProblemBody, TokenView, Tokens, json};
use crate::registry::Token;
use crate::token;

/// All tokens, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses(
    (status = 200, body = Tokens),
    (status = 403, body = ProblemBody, description = "not over the local socket")
))]
pub(super) async fn list_tokens(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Tokens>, Problem> {
    caller.must_be_local()?;
    let view = |token: Token| TokenView {
        name: token.name,
        scope: token.scope,
        created_s: token.created_s,
        created_by: token.created_by,
        expires_s: token.expires_s,
    };
    let tokens = api.registry.tokens().await?;
    Ok(Json(Tokens { tokens: tokens.into_iter().map(view).collect() }))
}

/// Makes a token.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = AddToken, responses(
    (status = 201, body = NewToken),
    (status = 400, body = ProblemBody, description = "a field is wrong"),
    (status = 403, body = ProblemBody, description = "not over the local socket"),
    (status = 409, body = ProblemBody, description = "there is one of this name")
))]
pub(super) async fn add_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<NewToken>), Problem> {
    caller.must_be_local()?;
    let AddToken { name, scope, days } = json(body)?;
    let made = token::make(&name, scope, days, (api.clock)(), &caller.actor);
    let (token, secret) = made.map_err(Problem::bad)?;
    if !api.registry.add_token(token, &caller.actor).await? {
        let error = format!("there is a token {name} already; remove it first");
        return Err(Problem::new(StatusCode::CONFLICT, error));
    }
    Ok((StatusCode::CREATED, Json(NewToken { token: secret.expose().to_owned() })))
}

/// Removes a token; it is refused from now on.
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "tokens",
params(("name", description = "Its name")), responses(
    (status = 204),
    (status = 403, body = ProblemBody, description = "not over the local socket"),
    (status = 404, body = ProblemBody, description = "there is none of this name")
))]
pub(super) async fn remove_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.must_be_local()?;
    token::check_name(&name).map_err(Problem::bad)?;
    if api.registry.remove_token(&name, &caller.actor, (api.clock)()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found(format!("there is no token {name}")))
    }
}
