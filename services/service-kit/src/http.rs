//! The status port of a server: `/healthz`, `/readyz`, `/metrics`, and whatever pages a server adds.
//!
//! It only shows; nothing can be changed through it. Readers show a token, except on loopback, where
//! a port without one is for everybody on the host: there the `Host` of a request has to be a name
//! of loopback, so that a web page elsewhere cannot read it through a browser on this host. Every
//! size, wait and number is limited by a constant here. Other HTTP ports of a server have the same loop
//! ([`serve_requests`]).

mod events;
mod settings;
mod token;

pub use events::events;
pub use settings::{StatusFile, StatusSettings, tls_config};
pub use token::{TOKEN_BYTES_MAX, TOKEN_BYTES_MIN, Token};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Extensions, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};

use crate::listener::{self, BindError, HANDSHAKE_TIME_MAX, Limits, accept_loop};
use crate::metrics::{self, Registry};
use crate::newcomers::Unproven;
use crate::{Drain, DrainTrigger};

/// Connections at once: some browsers, a scraper, a health check.
pub const CONNECTIONS_MAX: usize = 64;
/// Longest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header lines of a request.
pub const HEADERS_MAX: usize = 64;
/// Longest request body, in bytes. Nothing here reads one.
pub const BODY_BYTES_MAX: usize = 4 * 1024;
/// How long a request head may take to arrive, and a connection between two requests.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// How long an answer may take to begin.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may live, whatever it does. A page that watches connects again.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// Longest that sent bytes may stay unread by the peer (`TCP_USER_TIMEOUT`).
pub const UNREAD_TIME_MAX: Duration = Duration::from_secs(30);

/// What lacks for a server to do its work, in words for people; empty when it is ready.
pub type Missing = dyn Fn() -> Vec<String> + Send + Sync;

/// What a status port shows.
pub struct Pages {
    /// For `/metrics`.
    pub registry: Registry,
    /// For `/readyz`.
    pub missing: Box<Missing>,
    /// The server's own pages.
    pub more: Router,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// A status port that is bound and does not serve yet.
#[derive(Debug)]
pub struct Status {
    listener: TcpListener,
    settings: StatusSettings,
}

/// What decides whether a request is answered.
#[derive(Debug, Clone)]
struct Guard {
    token: Option<Token>,
}

/// Still held while no request of the connection has shown what it must.
type Proof = Arc<Mutex<Option<Unproven>>>;

impl Status {
    /// Takes the port.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(settings: StatusSettings) -> Result<Self, BindError> {
        let listener = listener::bind(settings.listen).await?;
        Ok(Self { listener, settings })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped, also while the server drains: that is what one wants to watch.
    pub async fn serve(self, mut pages: Pages) {
        let Self { listener, settings } = self;
        settings.warn_if_open();
        let (_trigger, drain): (DrainTrigger, Drain) = DrainTrigger::new();
        let counters = listener::Counters::default();
        counters.register(pages.registry.sub_registry_with_prefix("status_connections"));
        let router = router(pages, Guard { token: settings.token });
        let tls = settings.tls.map(TlsAcceptor::from);
        let limits = Limits { connections_max: CONNECTIONS_MAX, drain_max: Duration::ZERO };
        accept_loop(listener, limits, &counters, drain, |stream, peer, unproven| {
            connection(stream, peer, tls.clone(), router.clone(), unproven)
        })
        .await;
    }
}

/// All pages behind the guard.
fn router(pages: Pages, guard: Guard) -> Router {
    let Pages { registry, missing, more } = pages;
    let (registry, missing) = (Arc::new(registry), Arc::new(missing));
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(async move || ready(&missing())))
        .route(
            "/metrics",
            get(async move || {
                ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&registry))
            }),
        )
        .merge(more)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(guard, answer))
}

fn ready(missing: &[String]) -> Response {
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    let text = missing.iter().map(|line| format!("{line}\n")).collect::<String>();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// One connection, with TLS where there is some, for [`CONNECTION_TIME_MAX`] at most.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    unproven: Unproven,
) {
    let socket = SockRef::from(&stream);
    if let Err(error) = socket.set_tcp_user_timeout(Some(UNREAD_TIME_MAX)) {
        debug!(%peer, %error, "status: connection given up");
        return;
    }
    let served = async {
        match tls {
            None => requests(stream, peer, router, unproven).await,
            Some(tls) => match timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await {
                Ok(Ok(stream)) => requests(stream, peer, router, unproven).await,
                Ok(Err(error)) => info!(%peer, %error, "status: TLS handshake failed"),
                Err(_) => info!(%peer, "status: TLS handshake timed out"),
            },
        }
    };
    if timeout(CONNECTION_TIME_MAX, served).await.is_err() {
        debug!(%peer, "status: connection has lived long enough");
    }
}

async fn requests<S>(stream: S, peer: SocketAddr, router: Router, unproven: Unproven)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let proof: Proof = Arc::new(Mutex::new(Some(unproven)));
    let mark = move |extensions: &mut Extensions| {
        extensions.insert(proof.clone());
    };
    if let Err(error) = serve_requests(stream, router, mark).await {
        debug!(%peer, error = telemetry::chain(&error), "status: connection broke");
    }
}

/// Serves the requests of one connection until it ends, by HTTP/1, with the limits of this module on
/// their heads. `mark` gives each request what the router is to know of the connection.
///
/// # Errors
/// The peer broke off, or sent something else.
pub async fn serve_requests<S>(
    stream: S,
    router: Router,
    mark: impl Fn(&mut Extensions),
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
        mark(request.extensions_mut());
        router.call(request)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// The guard: what every request has to be, and what every answer carries.
async fn answer(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.refusal(&request) {
        Some(refusal) => refusal,
        None => {
            if let Some(proof) = request.extensions().get::<Proof>() {
                proof.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            match timeout(ANSWER_TIME_MAX, next.run(request)).await {
                Ok(response) => response,
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "it took too long\n").into_response(),
            }
        }
    };
    const ALWAYS: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ];
    for (name, value) in ALWAYS {
        // A page says itself what it loads.
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

impl Guard {
    /// Why a request is not answered, if so.
    fn refusal(&self, request: &Request) -> Option<Response> {
        let bytes = request.body().size_hint().lower();
        if bytes > BODY_BYTES_MAX.try_into().unwrap_or(u64::MAX) {
            return Some((StatusCode::PAYLOAD_TOO_LARGE, "no body is read here\n").into_response());
        }
        if request.uri().path() == "/healthz" {
            // Says nothing but that the process lives, which the open port says too.
            return None;
        }
        let headers = request.headers();
        match &self.token {
            Some(token) if !token.admits(headers.get(header::AUTHORIZATION)) => Some(
                (
                    StatusCode::UNAUTHORIZED,
                    [(header::WWW_AUTHENTICATE, "Basic realm=\"AVR status\", charset=\"UTF-8\"")],
                    "show the token of `token_file`, as a bearer token or as the password\n",
                )
                    .into_response(),
            ),
            None if !names_loopback(headers.get(header::HOST)) => Some(
                (
                    StatusCode::MISDIRECTED_REQUEST,
                    "ask for localhost, or set a token in [status]\n",
                )
                    .into_response(),
            ),
            _ => None,
        }
    }
}

/// Whether a `Host` header, with or without port, is a name of this host that no DNS server on the
/// Internet can take over.
fn names_loopback(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|value| value.to_str().ok()) else { return false };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
