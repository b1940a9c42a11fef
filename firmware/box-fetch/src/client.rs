//! The driver: connects, asks, and hands on what comes, each step with a limit.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::head::{self, HEAD_BYTES_MAX, Head, HeadError};
use crate::url::{Url, UrlError};

/// Most addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;
/// Most redirects that are followed.
pub(crate) const REDIRECTS_MAX: usize = 5;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a connection to one address, TLS included.
    pub connect: Duration,
    /// For the head of an answer.
    pub head: Duration,
    /// Between two bytes.
    pub silence: Duration,
    /// In this time, at least [`Limits::window_bytes_min`] have to come.
    pub window: Duration,
    /// See [`Limits::window`]; in bytes.
    pub window_bytes_min: u64,
}

impl Default for Limits {
    /// 32 KiB in 30 seconds is a line of 9 kbit/s, on which a bundle would take half a day.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(15),
            head: seconds(30),
            silence: seconds(30),
            window: seconds(30),
            window_bytes_min: 32 * 1024,
        }
    }
}

/// Who knows the addresses of hosts.
pub trait Names {
    /// Those of one host; for a person, why there are none.
    fn addresses(&self, host: &str) -> impl Future<Output = Result<Vec<IpAddr>, String>> + Send;
}

/// Whose certificates are believed.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

/// A file that names no authority.
#[derive(Debug, thiserror::Error)]
#[error("there is no authority's certificate in it: write it in PEM")]
pub struct TrustError;

impl Trust {
    /// In these authorities, of a PEM file.
    ///
    /// # Errors
    /// There is none in it.
    pub fn from_pem(pem: &str) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| TrustError)?;
            roots.add(certificate).map_err(|_| TrustError)?;
        }
        if roots.is_empty() {
            return Err(TrustError);
        }
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|_| TrustError)?
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// Why nothing came, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The settings' fault, or the operator's.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Nobody is to be believed for TLS.
    #[error(
        "{0} needs an authority to believe: name its certificate (updates.ca in the settings, or --ca), \
         or take http://, since what counts is the bundle's own signature"
    )]
    NoTrust(String),
    /// The name is not known.
    #[error("look {host} up: {why}")]
    Name {
        /// Whose.
        host: String,
        /// As the resolver says.
        why: String,
    },
    /// No connection.
    #[error("connect to {to}: is the address right, and the network up?")]
    Connect {
        /// Address and port.
        to: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// No TLS: most often a certificate of another authority or name, or a clock that is wrong.
    #[error(
        "speak TLS with {host}: look at its certificate, at updates.ca, and at the box's clock"
    )]
    Tls {
        /// With whom.
        host: String,
        /// What it or rustls said.
        source: io::Error,
    },
    /// It takes too long.
    #[error("{0} took too long: try again")]
    TimedOut(&'static str),
    /// It sends, but hardly.
    #[error("the server sends less than {bytes} bytes in {seconds} s: try another, or later")]
    TooSlow {
        /// What it had to send.
        bytes: u64,
        /// In which time.
        seconds: u64,
    },
    /// The connection ended.
    #[error("the connection ended {left} bytes too early: try again, it goes on where it stopped")]
    Cut {
        /// What is missing.
        left: u64,
    },
    /// It broke.
    #[error("the connection broke while {step}: try again")]
    Io {
        /// What was done.
        step: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is no web server.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// It has no such file, or does not give it.
    #[error("{url} is answered with status {status}: look whether the file is there")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
    },
    /// It does not say how much there is.
    #[error("{0} is sent without its length, or coded: have the server send it as a plain file")]
    NotPlain(String),
    /// Round and round.
    #[error("more than {REDIRECTS_MAX} redirects, the last to {0}: name the file itself")]
    Redirects(String),
    /// From TLS to none.
    #[error("the server sends from https:// on to {0}: name an address that does not")]
    Downgrade(String),
    /// More than anything that is fetched.
    #[error("{url} has {bytes} bytes, and may have {bytes_max}: name another file")]
    TooLarge {
        /// Which.
        url: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
}

impl FetchError {
    /// Whether what has come is worth going on behind: the line's or the server's bad moment.
    #[must_use]
    pub fn is_of_the_line(&self) -> bool {
        matches!(
            self,
            Self::TimedOut(_) | Self::TooSlow { .. } | Self::Cut { .. } | Self::Io { .. }
        )
    }
}

/// Asks web servers.
#[derive(Debug)]
pub struct Client<N> {
    names: N,
    trust: Option<Trust>,
    limits: Limits,
}

/// An answer with the file, or a part of it.
#[derive(Debug)]
pub struct Response {
    /// Where what follows begins in the file; 0: it is the whole.
    pub start: u64,
    /// Size of the file, in bytes.
    pub total: u64,
    /// What its content is known by.
    pub etag: Option<String>,
    /// The bytes.
    pub body: Body,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The bytes of an answer.
pub struct Body {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// Bytes in the buffer that came behind the head.
    early: std::ops::Range<usize>,
    left: u64,
    limits: Limits,
    window: Instant,
    window_bytes: u64,
}

impl<N: Names> Client<N> {
    /// Finds hosts by `names`; without `trust`, `https://` is refused.
    pub fn new(names: N, trust: Option<Trust>, limits: Limits) -> Self {
        Self { names, trust, limits }
    }

    /// Asks for a file of at most `bytes_max` bytes, or for the rest of it: from this byte on, if its tag
    /// is still this one. [`Response::start`] says what came of that. `Ok(None)`: there is no such rest.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn get(
        &self,
        url: &Url,
        rest: Option<(u64, &str)>,
        bytes_max: u64,
    ) -> Result<Option<Response>, FetchError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let (head, body) = self.ask(&url, rest).await?;
            if matches!(head.status, 301 | 302 | 303 | 307 | 308) {
                let status = FetchError::Status { url: url.to_string(), status: head.status };
                let next = url.join(&head.location.ok_or(status)?)?;
                if url.is_secure() && !next.is_secure() {
                    return Err(FetchError::Downgrade(next.to_string()));
                }
                url = next;
                continue;
            }
            return self.answer(&url, rest, bytes_max, head, body);
        }
        Err(FetchError::Redirects(url.to_string()))
    }

    /// A small file, whole.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn get_small(&self, url: &Url, bytes_max: u64) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        if let Some(mut response) = self.get(url, None, bytes_max).await? {
            while let Some(piece) = response.body.next().await? {
                bytes.extend_from_slice(piece);
            }
        }
        Ok(bytes)
    }

    fn answer(
        &self,
        url: &Url,
        rest: Option<(u64, &str)>,
        bytes_max: u64,
        head: Head,
        mut body: Body,
    ) -> Result<Option<Response>, FetchError> {
        let status = || FetchError::Status { url: url.to_string(), status: head.status };
        if head.status == 416 && rest.is_some() {
            return Ok(None);
        }
        if !matches!(head.status, 200 | 206) {
            return Err(status());
        }
        let plain = head.length.filter(|_| !head.is_coded);
        let length = plain.ok_or_else(|| FetchError::NotPlain(url.to_string()))?;
        let (start, total) = match head.status {
            200 => (0, length),
            _ => {
                let (from, _) = rest.ok_or_else(status)?;
                let range = head
                    .range
                    .filter(|range| range.start == from && range.last - range.start + 1 == length);
                match range.and_then(|range| range.total) {
                    Some(total) if from.checked_add(length) == Some(total) => (from, total),
                    // Another part than was asked for.
                    _ => return Ok(None),
                }
            }
        };
        if total > bytes_max {
            return Err(FetchError::TooLarge { url: url.to_string(), bytes: total, bytes_max });
        }
        body.left = length;
        Ok(Some(Response { start, total, etag: head.etag, body }))
    }

    /// One request, and the head of its answer.
    async fn ask(&self, url: &Url, rest: Option<(u64, &str)>) -> Result<(Head, Body), FetchError> {
        let mut stream = self.connect(url).await?;
        let step = |step| move |source| FetchError::Io { step, source };
        let exchange = async {
            let request = head::request(url, rest);
            stream.write_all(request.as_bytes()).await.map_err(step("asking"))?;
            stream.flush().await.map_err(step("asking"))?;
            let mut bytes = Vec::new();
            loop {
                let mut buffer = [0; 4096];
                let len = stream.read(&mut buffer).await.map_err(step("waiting for the answer"))?;
                bytes.extend_from_slice(buffer.get(..len).unwrap_or_default());
                if let Some((head, taken)) = head::read(&bytes)? {
                    return Ok((head, bytes, taken));
                }
                if len == 0 {
                    let source = io::ErrorKind::UnexpectedEof.into();
                    return Err(step("waiting for the answer")(source));
                }
                debug_assert!(bytes.len() <= HEAD_BYTES_MAX, "a longer one is an error");
            }
        };
        let (head, mut buffer, taken) = timeout(self.limits.head, exchange)
            .await
            .map_err(|_| FetchError::TimedOut("the server's answer"))??;
        let early = taken..buffer.len();
        buffer.resize(buffer.len().max(READ_BYTES), 0);
        let (limits, window) = (self.limits, Instant::now());
        Ok((head, Body { stream, buffer, early, left: 0, limits, window, window_bytes: 0 }))
    }

    async fn connect(&self, url: &Url) -> Result<Box<dyn Stream>, FetchError> {
        let host = url.host();
        let name = |why| FetchError::Name { host: host.to_owned(), why };
        // Before anybody is asked anything.
        let tls = match (url.is_secure(), &self.trust) {
            (false, _) => None,
            (true, None) => return Err(FetchError::NoTrust(url.to_string())),
            (true, Some(Trust(config))) => {
                let server = ServerName::try_from(host.to_owned())
                    .map_err(|_| name("it is no name for TLS".to_owned()))?;
                Some((TlsConnector::from(Arc::clone(config)), server))
            }
        };
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => self.names.addresses(host).await.map_err(name)?,
        };
        let mut problem = name("it has no addresses".to_owned());
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            let to = SocketAddr::new(address, url.port());
            let connecting = async {
                let refused = |source| FetchError::Connect { to, source };
                let stream = TcpStream::connect(to).await.map_err(refused)?;
                let Some((connector, server)) = tls.clone() else {
                    return Ok(Box::new(stream) as Box<dyn Stream>);
                };
                let refused = |source| FetchError::Tls { host: host.to_owned(), source };
                let stream = connector.connect(server, stream).await.map_err(refused)?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            };
            match timeout(self.limits.connect, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => problem = error,
                Err(_) => problem = FetchError::TimedOut("connecting"),
            }
        }
        Err(problem)
    }
}

impl Body {
    /// The next bytes; `None` at the end that the head has announced.
    ///
    /// # Errors
    /// They do not come, or not fast enough.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, FetchError> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.early.is_empty() {
            let len = self.read().await?;
            self.early = 0..len;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.early.len());
        let piece = self.early.start..self.early.start + most;
        // What is behind the announced end is nobody's.
        self.early.start = piece.end;
        self.left -= most as u64;
        Ok(Some(self.buffer.get(piece).unwrap_or_default()))
    }

    async fn read(&mut self) -> Result<usize, FetchError> {
        let Limits { silence, window, window_bytes_min, .. } = self.limits;
        let slow = || FetchError::TooSlow { bytes: window_bytes_min, seconds: window.as_secs() };
        if self.window.elapsed() >= window {
            if self.window_bytes < window_bytes_min {
                return Err(slow());
            }
            (self.window, self.window_bytes) = (Instant::now(), 0);
        }
        match timeout(silence, self.stream.read(&mut self.buffer)).await {
            Ok(Ok(0)) => Err(FetchError::Cut { left: self.left }),
            Ok(Ok(len)) => {
                self.window_bytes += len as u64;
                Ok(len)
            }
            // TLS that ends without saying so.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(FetchError::Cut { left: self.left })
            }
            Ok(Err(source)) => Err(FetchError::Io { step: "receiving", source }),
            Err(_) => Err(FetchError::TimedOut("the next bytes")),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("left", &self.left).finish_non_exhaustive()
    }
}
