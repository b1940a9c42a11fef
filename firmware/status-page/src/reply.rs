//! Answers, each with what browsers must know of it.

use std::io;

use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::runtime::Handle;

/// What browsers may do with the page: nothing but what is in it and beside it here. There is no script.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";
/// Chunks of a mail that wait for the peer, of at most 64 KiB each.
const CHUNKS_MAX: usize = 2;

/// The body of an answer.
pub(crate) type Reply = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

/// The page.
pub(crate) fn page(status: StatusCode, text: String) -> Response<Reply> {
    whole(status, "text/html; charset=utf-8", text.into())
}

/// Something beside the page.
pub(crate) fn asset(kind: &'static str, text: &'static str) -> Response<Reply> {
    whole(StatusCode::OK, kind, Bytes::from_static(text.as_bytes()))
}

/// A few words.
pub(crate) fn text(status: StatusCode, text: &str) -> Response<Reply> {
    whole(status, "text/plain; charset=utf-8", format!("{text}\n").into())
}

/// An order was taken: the page says what came of it.
pub(crate) fn see_page() -> Response<Reply> {
    to(StatusCode::SEE_OTHER, "/")
}

/// What is looked for is there.
pub(crate) fn to(status: StatusCode, location: &str) -> Response<Reply> {
    let mut response = text(status, "it is elsewhere");
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// A file to be kept, whatever it is: nothing shows or runs it. One that breaks off is seen to.
pub(crate) fn download(
    name: &str,
    chunks: impl Iterator<Item = io::Result<Bytes>> + Send + 'static,
) -> Response<Reply> {
    let (mut sender, body) = Channel::new(CHUNKS_MAX);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        for chunk in chunks {
            match chunk {
                // A peer that is gone wants no more.
                Ok(chunk) => {
                    if runtime.block_on(sender.send_data(chunk)).is_err() {
                        return;
                    }
                }
                Err(error) => return sender.abort(error),
            }
        }
    });
    let mut response =
        with_headers(StatusCode::OK, "application/octet-stream", Either::Right(body));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

fn whole(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Reply> {
    with_headers(status, kind, Either::Left(Full::new(bytes)))
}

fn with_headers(status: StatusCode, kind: &'static str, body: Reply) -> Response<Reply> {
    const ALWAYS: [(HeaderName, &str); 6] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
