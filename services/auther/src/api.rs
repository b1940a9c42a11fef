//! The admin API under `/v1`: over HTTP with tokens, over the local socket, and in the process of an
//! operator's command where no server runs. All three are this one router.
//!
//! What it refuses it refuses in words, as `{"error": …}`. Nothing that a caller sends becomes part
//! of a statement, a header or a line of the log as it is: statements take parameters, addresses and
//! names are parsed, notes have no control characters, and paths are logged as they were encoded.

mod boxes;
mod guard;
mod logs;
mod server;
mod tokens;
mod transfer;
mod types;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use service_kit::host::WallClock;
use tokio::sync::Semaphore;
use utoipa::OpenApi as _;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use guard::{AUTH_FAILURES_MAX, AUTH_FAILURES_SPAN_S, CLIENTS_MAX, Peer};
pub use server::{
    ANSWER_TIME_MAX, CONNECTION_TIME_MAX, CONNECTIONS_MAX, Counters, HEAD_BYTES_MAX, HEAD_TIME_MAX,
    Listeners, Port, Socket, tls_config,
};
pub use transfer::IMPORTS_MAX;
pub use types::*;

use crate::registry::Registry;
use guard::{Failures, guard};

/// Longest body of a request, in bytes, but for an import.
pub const BODY_BYTES_MAX: usize = 16 * 1024;

/// What the handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    registry: Registry,
    clock: WallClock,
    failures: Arc<Mutex<Failures>>,
    imports: Arc<Semaphore>,
    counters: Arc<Counters>,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "avr-auther", description = "The boxes of a fleet: registering, keeping out, \
        replacing keys, and the log of it. Requests show a token (`avr-auther token add`) as \
        `Authorization: Bearer …`; the local socket needs none."),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The whole API. `clock` is the wall clock.
pub fn router(registry: Registry, clock: WallClock, counters: Arc<Counters>) -> Router {
    let api = Api {
        registry,
        clock,
        failures: Arc::default(),
        imports: Arc::new(Semaphore::new(IMPORTS_MAX)),
        counters,
    };
    let (router, document) = routed().split_for_parts();
    router
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || Problem::method())
        .layer(from_fn_with_state(api.clone(), guard))
        // Of no fleet, so for everybody.
        .route("/v1/openapi.json", axum::routing::get(async || axum::Json(document)))
        .layer(from_fn_with_state(api.clone(), always))
        .with_state(api)
}

/// Every route, with its words in the document.
fn routed() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(boxes::list_boxes, boxes::add_box))
        .routes(routes!(boxes::one_box, boxes::edit_box, boxes::remove_box))
        .routes(routes!(boxes::suspend_box))
        .routes(routes!(boxes::resume_box))
        .routes(routes!(boxes::replace_key))
        .routes(routes!(transfer::export_boxes))
        .routes(routes!(logs::read_audit))
        .routes(routes!(logs::list_revocations))
        .routes(routes!(tokens::list_tokens, tokens::add_token))
        .routes(routes!(tokens::remove_token))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(
            OpenApiRouter::new()
                .routes(routes!(transfer::import_boxes))
                .layer(DefaultBodyLimit::max(crate::csv::CSV_BYTES_MAX)),
        )
}

/// The document, as it is served.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    routed().into_openapi()
}

/// What every answer carries, and the count of it.
async fn always(State(api): State<Api>, request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(ANSWER_TIME_MAX, next.run(request)).await;
    let mut response =
        answered.unwrap_or_else(|_| Problem::unavailable("it took too long").into_response());
    api.counters.answered(response.status());
    for (name, value) in
        [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
