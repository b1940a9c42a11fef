//! How the operator's commands reach the API: through the local socket of the server that runs here,
//! or, where none does, in this process on the registry itself.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tower::ServiceExt as _;

use crate::api::{Peer, ProblemBody};

/// Longest answer that is read whole, in bytes: a page of the audit log. An export is not.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whom the commands ask.
#[derive(Debug)]
pub(crate) enum Desk {
    /// The server behind this socket.
    Socket(PathBuf),
    /// This process.
    Here(Router),
}

/// Whether a server answers behind the socket.
pub(crate) async fn is_served(path: &PathBuf) -> anyhow::Result<bool> {
    match UnixStream::connect(path).await {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| {
            format!("cannot reach the server at {}; may this user use it?", path.display())
        }),
    }
}

impl Desk {
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let response = self.ask(Method::GET, path, None).await?;
        parse(&whole(response.into_body()).await?)
    }

    /// Asks for a change; `path` with `method`, and a body in JSON.
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> anyhow::Result<T> {
        let body = body.map(serde_json::to_vec).transpose()?;
        let body = body.map(|body| ("application/json", Bytes::from(body)));
        let response = self.ask(method, path, body).await?;
        parse(&whole(response.into_body()).await?)
    }

    pub(crate) async fn remove(&self, path: &str) -> anyhow::Result<()> {
        self.ask(Method::DELETE, path, None).await.map(drop)
    }

    pub(crate) async fn send_csv<T: DeserializeOwned>(
        &self,
        path: &str,
        csv: Vec<u8>,
    ) -> anyhow::Result<T> {
        let body = Some(("text/csv", Bytes::from(csv)));
        let response = self.ask(Method::POST, path, body).await?;
        parse(&whole(response.into_body()).await?)
    }

    /// Writes an answer out as it comes.
    pub(crate) async fn copy(&self, path: &str, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut body = self.ask(Method::GET, path, None).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow!("the answer broke off: {error}"))?;
            if let Some(bytes) = frame.data_ref() {
                out.write_all(bytes)?;
            }
        }
        Ok(())
    }

    /// The answer, if it is a good one.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Response<Body>> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, "auther");
        if let Some((kind, _)) = &body {
            request = request.header(header::CONTENT_TYPE, *kind);
        }
        let request = request.body(Full::new(body.map(|(_, bytes)| bytes).unwrap_or_default()))?;
        let response = match self {
            Self::Socket(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .with_context(|| format!("cannot reach the server at {}", path.display()))?;
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                // Ends with the answer's last byte.
                tokio::spawn(connection);
                sender.send_request(request).await?.map(Body::new)
            }
            Self::Here(router) => {
                let mut request = request.map(Body::new);
                let uid = nix::unistd::geteuid().as_raw();
                request.extensions_mut().insert(Peer::Unix { uid });
                let answered = router.clone().oneshot(request).await;
                answered.unwrap_or_else(|never| match never {})
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }
}

/// What a refusal says, in one error.
async fn refusal(response: Response<Body>) -> anyhow::Error {
    let status = response.status();
    let words = match whole(response.into_body()).await {
        Ok(bytes) => serde_json::from_slice::<ProblemBody>(&bytes).ok(),
        Err(error) => return error,
    };
    let Some(ProblemBody { error, rows }) = words else {
        return anyhow!("the server answers {status}");
    };
    let mut text = error;
    if !rows.is_empty() {
        text.push(':');
    }
    for row in rows {
        text.push_str(&format!("\n  line {}: {}", row.line, row.problem));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        text.push_str(" (nothing was changed)");
    }
    anyhow!(text)
}

async fn whole(body: Body) -> anyhow::Result<Bytes> {
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => bail!("the answer broke off: {error}"),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(bytes).context("the server's answer is not understood; same version?")
}
