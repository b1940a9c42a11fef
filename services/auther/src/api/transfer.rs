//! Boxes as CSV, in and out. Memory stays flat: an export goes out page by page as fast as it is
//! read, and few imports are taken at once.

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest as _, Query, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http_body_util::channel::Channel;

use super::Api;
use super::guard::Caller;
use super::types::{ImportQuery, Imported, Problem, ProblemBody};
use crate::change::Command;
use crate::csv;
use crate::registry::{Changes, ListFilter, Mode, PAGE_MAX, Registry};

/// Imports at once; each holds a whole file.
pub const IMPORTS_MAX: usize = 2;

/// All boxes as CSV, with their keys: what `import` takes.
#[utoipa::path(get, path = "/v1/export", tag = "transfer", responses(
    (status = 200, body = String, content_type = "text/csv", description = "a heading and a line for each box")
))]
pub(super) async fn export_boxes(State(api): State<Api>) -> Result<Response, Problem> {
    // What fails at once is said; later the body breaks off, which its reader notices.
    let (text, next) = page(&api.registry, None).await?;
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
    let registry = api.registry.clone();
    tokio::spawn(async move {
        let heading_and_page = format!("{}{text}", csv::HEADING);
        let mut sent = sender.send_data(Bytes::from(heading_and_page)).await;
        let mut after = next;
        while let (Ok(()), Some(last)) = (&sent, after) {
            match page(&registry, Some(last)).await {
                Ok((text, next)) => {
                    sent = sender.send_data(Bytes::from(text)).await;
                    after = next;
                }
                Err(error) => {
                    let error = telemetry::chain(&error);
                    tracing::error!(error, "an export breaks off");
                    sender.abort(std::io::Error::other(error));
                    return;
                }
            }
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"boxes.csv\""),
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// The lines of a page, and where the next one begins if there is one.
async fn page(
    registry: &Registry,
    after: Option<wire::MacAddress>,
) -> Result<(String, Option<wire::MacAddress>), crate::registry::RegistryError> {
    let devices = registry.list(ListFilter::page(after)).await?;
    let is_full = u32::try_from(devices.len()).is_ok_and(|count| count == PAGE_MAX);
    let next = devices.last().filter(|_| is_full).map(|last| last.mac);
    Ok((devices.iter().map(csv::row).collect(), next))
}

/// Registers all boxes of a CSV file, or none when a line is wrong.
#[utoipa::path(post, path = "/v1/import", tag = "transfer", params(ImportQuery),
request_body(content = String, content_type = "text/csv"), responses(
    (status = 200, body = Imported),
    (status = 400, body = ProblemBody, description = "lines are wrong; nothing was imported"),
    (status = 413, body = ProblemBody, description = "it is too large"),
    (status = 503, body = ProblemBody, description = "others import now")
))]
pub(super) async fn import_boxes(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ImportQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<Imported>, Problem> {
    let Query(ImportQuery { dry_run }) = query?;
    // Before the body is read, which is what takes the room.
    let Ok(_permit) = api.imports.try_acquire() else {
        return Err(Problem::unavailable("others import now; try again in a moment"));
    };
    let body: Result<Bytes, BytesRejection> = Bytes::from_request(request, &()).await;
    let devices = csv::parse(&body?)?;
    let import = |(mac, device)| (mac, Command::Import(device));
    let changes = Changes {
        actor: caller.actor,
        now_s: (api.clock)(),
        commands: devices.into_iter().map(import).collect(),
        mode: if dry_run { Mode::DryRun } else { Mode::Commit },
    };
    let outcomes = api.registry.apply(changes).await?;
    let added = outcomes.iter().filter(|outcome| outcome.changed).count();
    Ok(Json(Imported { added, already: outcomes.len() - added, dry_run }))
}
