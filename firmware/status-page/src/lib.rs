//! The page on the box's own address: what the console's banner shows, the last day as charts, the last
//! hundred mails explained, the quarantine. Read-only for who has not said the unit's secret.
//!
//! What decides is apart from what does: `access`, `request`, `history`'s records, `sample`, `chart`,
//! `view` and `mdns` take bytes and the time; `look` asks, `app` joins them, `serve` and `mdns::driver`
//! have the sockets. The page asks PID 1 and the gateway over their control sockets, as the console does and
//! with its code (`box_console::{ask, report, secret, login}`), and reads journal and quarantine where
//! they lie. Must not depend on `avr`, on anything that scans, nor on anything under `services/`.
//! Entry: [`run`].
#![forbid(unsafe_code)]

mod access;
mod app;
mod certificate;
mod chart;
mod history;
mod html;
mod look;
mod mdns;
mod reply;
mod request;
mod sample;
mod serve;
mod settings;
mod view;

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use box_console::ask;
use box_init::control::{Status, Storage};
use quarantine::Vault;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

use app::{App, lock};
use certificate::Certificate;
use history::History;
use sample::Counters;

/// How long it is waited for STATE, since the box's start: disks are found late, and a certificate of
/// memory would be another one after the next start.
const STATE_WAIT_S: u64 = 60;
/// How often it is looked for it.
const STATE_STEP: Duration = Duration::from_secs(1);
/// How often PID 1 is asked while it does not answer, before the page is up without it.
const ASKED_MAX: u32 = 10;
/// From one sample of the history to the next.
const SAMPLE_STEP: Duration = Duration::from_secs(60);
/// Until mDNS is tried again that could not be begun.
const MDNS_PAUSE: Duration = Duration::from_secs(30);

/// Where mails are kept.
#[derive(Debug)]
pub struct Places {
    /// The journal's folder.
    pub journal: PathBuf,
    /// The quarantine, or why there is none, in words for people.
    pub vault: Result<Vault, String>,
}

/// Where everything is.
pub struct Options {
    /// PID 1's control socket.
    pub init: PathBuf,
    /// The gateway's control socket.
    pub gateway: PathBuf,
    /// Where STATE is: the secret, the page's settings, its certificate.
    pub state: PathBuf,
    /// The file of the last day.
    pub history: PathBuf,
    /// Where the certificate's fingerprint is left for the console.
    pub fingerprint: PathBuf,
    /// Address and port of the page.
    pub https: SocketAddr,
    /// Address and port of plain HTTP, which only says where the page is.
    pub http: SocketAddr,
    /// The box's own interface: the page is on its addresses alone, and mDNS is answered there. Without
    /// one there is no mDNS.
    pub interface: Option<String>,
    /// Where mails are kept, by the gateway's settings as they are now; or what is wrong with them.
    pub places: Box<dyn Fn() -> Result<Places, String> + Send + Sync>,
    /// Seconds since 1970.
    pub clock: fn() -> u64,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("https", &self.https).finish_non_exhaustive()
    }
}

/// A page whose ports are taken.
#[derive(Debug)]
pub struct Page {
    app: Arc<App>,
    tls: Arc<rustls::ServerConfig>,
    https: tokio::net::TcpListener,
    http: tokio::net::TcpListener,
    label: String,
}

/// Serves the page for ever.
///
/// # Errors
/// A port is taken, or there is no certificate.
pub async fn run(options: Options) -> anyhow::Result<Infallible> {
    let page = Page::bind(options).await?;
    Ok(page.serve().await)
}

impl Page {
    /// Waits for STATE, takes the ports, and leaves the certificate's fingerprint for the console.
    ///
    /// # Errors
    /// A port is taken, or there is no certificate.
    pub async fn bind(options: Options) -> anyhow::Result<Self> {
        let options = Arc::new(options);
        let (serial, has_state) = unit(&options).await;
        let label = format!("avr-{}", label_of(&serial));
        let name = format!("{label}.local");
        let folder = options.state.join("identity");
        let certificate = Certificate::load_or_make(has_state.then_some(&*folder), &name)?;
        let fingerprint = certificate.fingerprint();
        let interface = options.interface.as_deref();
        let bind = |address| {
            serve::bind(address, interface)
                .with_context(|| format!("listen on {address}: another program may have this port"))
        };
        let (https, http) = (bind(options.https)?, bind(options.http)?);
        if let Err(error) = leave(&options.fingerprint, &fingerprint) {
            error!(%error, "the console cannot show the certificate's fingerprint");
        }
        let history = History::open(&options.history).unwrap_or_else(|error| {
            error!(%error, path = %options.history.display(), "the last day is in memory only");
            History::in_memory()
        });
        info!(name, fingerprint, "the status page is up");
        let app = Arc::new(App::new(options, history, name));
        Ok(Self { app, tls: certificate.server()?, https, http, label })
    }

    /// Where the page is, and where plain HTTP is.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.https.local_addr()?, self.http.local_addr()?))
    }

    /// Serves for ever.
    pub async fn serve(self) -> Infallible {
        let Self { app, tls, https, http, label } = self;
        let port = https.local_addr().map_or(app.options.https.port(), |address| address.port());
        tokio::join!(
            serve::https(https, tls, Arc::clone(&app)),
            serve::http(http, Arc::clone(&app), port),
            sample(&app),
            answer_mdns(&app, &label),
        );
        // None of them ends.
        std::future::pending().await
    }
}

/// The serial number, and whether STATE is on the disk.
async fn unit(options: &Arc<Options>) -> (String, bool) {
    let mut silent = 0;
    loop {
        let init = options.init.clone();
        let asked = tokio::task::spawn_blocking(move || ask::status(&init, ask::BANNER_WAIT)).await;
        match asked.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(Status { state: Storage::Disk { .. }, serial, .. }) => return (serial, true),
            Ok(Status { uptime_seconds: STATE_WAIT_S.., serial, .. }) => return (serial, false),
            Ok(_) => {}
            Err(problem) if silent >= ASKED_MAX => {
                warn!(problem, "the page is up without PID 1");
                return (String::new(), false);
            }
            Err(_) => silent += 1,
        }
        sleep(STATE_STEP).await;
    }
}

/// A serial number as a name can have it (RFC 1035 section 2.3.1).
fn label_of(serial: &str) -> String {
    const LABEL_BYTES_MAX: usize = 48;
    let letters = serial.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-');
    let label: String = letters.take(LABEL_BYTES_MAX).collect::<String>().to_ascii_lowercase();
    let label = label.trim_matches('-');
    if label.is_empty() { "box".to_owned() } else { label.to_owned() }
}

fn leave(path: &Path, fingerprint: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, format!("{fingerprint}\n"))
}

/// Adds to the history, for ever.
async fn sample(app: &App) {
    let mut steps = interval(SAMPLE_STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<Counters> = None;
    let mut failing = false;
    loop {
        steps.tick().await;
        let gateway = app.options.gateway.clone();
        let asked =
            tokio::task::spawn_blocking(move || ask::gateway_status(&gateway, ask::ORDER_WAIT))
                .await;
        // A gateway that does not answer leaves the minute unknown.
        let Ok(Ok(status)) = asked else { continue };
        let now = Counters::of(&status);
        let at = u32::try_from((app.options.clock)() / 60).unwrap_or(u32::MAX);
        let minute = now.since(before.as_ref(), at);
        before = Some(now);
        match lock(&app.history).add(&minute) {
            Err(error) if !failing => {
                error!(%error, "the disk does not take the history; it is in memory");
                failing = true;
            }
            Err(_) => {}
            Ok(()) => failing = false,
        }
    }
}

/// Answers for the box's name, for ever; not without an interface.
async fn answer_mdns(app: &App, label: &str) {
    let Some(interface) = &app.options.interface else { return };
    loop {
        if let Err(error) = mdns::driver::run(interface, label, &app.name).await {
            warn!(%error, interface, "the box's name is not answered for");
        }
        sleep(MDNS_PAUSE).await;
    }
}

#[cfg(test)]
mod tests;
