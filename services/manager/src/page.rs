//! The page that shows the site: each proxy with its load, sessions and share, the last hour, and
//! the verdicts.
//!
//! Rendered here, whole; a script of ten lines only puts in what the server sends anew. No style and
//! no script stands in the page itself, and nothing is loaded from elsewhere, so that the browser can
//! be told to allow neither. What is shown is addresses and numbers; every text is escaped all the
//! same.

mod chart;
mod html;

use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use service_kit::{Drain, http};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Shared;
use crate::counters::Counters;
use crate::fleet::{ProxyStatus, Selection};
use crate::health::{Health, Mark};
use crate::history::{Point, STEP, Verdicts};

/// From one version of the page to the next, while somebody looks at it.
pub const LIVE_INTERVAL: Duration = Duration::from_secs(1);

/// What browsers may do with the page: nothing but what is in it, and what is beside it here.
const POLICY: (HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// What the page says of the manager itself.
#[derive(Debug)]
pub(crate) struct Site {
    /// What it is called: its address.
    pub(crate) name: String,
    /// Whether it stops.
    pub(crate) drain: Drain,
}

/// All that a page shows.
#[derive(Debug, Clone)]
pub struct View {
    /// What the manager is called.
    pub name: String,
    /// Seconds since 1970.
    pub now_s: u64,
    /// The manager stops.
    pub stopping: bool,
    /// The site is drained.
    pub drained: bool,
    /// How a proxy is chosen.
    pub selection: Selection,
    /// Boxes that are connected with a good ticket.
    pub boxes: usize,
    /// Every proxy.
    pub proxies: Vec<ProxyStatus>,
    /// The last hour, oldest first.
    pub points: Vec<Point>,
    /// Since the start.
    pub totals: Totals,
}

/// Since the start of the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Proxies named.
    pub assignments: u64,
    /// Answers that there is none to name.
    pub busy: u64,
    /// Tickets refused.
    pub denied: u64,
    /// Bytes of the sessions that have ended.
    pub bytes: u64,
    /// Messages by verdict.
    pub verdicts: Verdicts,
}

impl Totals {
    fn of(counters: &Counters) -> Self {
        Self {
            assignments: counters.assignments.get(),
            busy: counters.busy.get()
                + counters.surplus_sessions.get()
                + counters.surplus_rate.get(),
            denied: counters.denied.get(),
            bytes: counters.bytes.get(),
            verdicts: Verdicts::of(
                counters.messages.get(),
                counters.unscannable.get(),
                counters.infected.get(),
            ),
        }
    }
}

/// A proxy's state in words, and how it is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateText {
    pub(crate) text: String,
    /// `good`, `warn` or `bad`.
    pub(crate) class: &'static str,
}

/// What to call a proxy's state.
pub(crate) fn state_of(proxy: &ProxyStatus) -> StateText {
    let said = |class, text: &str| StateText { text: text.to_owned(), class };
    let empty = proxy.report.sessions == 0 && proxy.leases == 0;
    match proxy.health {
        _ if proxy.weight == 0 => said("warn", "leaving the table"),
        Health::Marked { why: Mark::NotPolledYet, .. } => said("warn", "not polled yet"),
        Health::Marked { why, .. } => said("bad", &why.to_string()),
        Health::Up if proxy.drained && empty => said("warn", "drained"),
        Health::Up if proxy.drained => said("warn", "draining"),
        Health::Up if proxy.report.draining => said("warn", "stopping"),
        Health::Up if proxy.share_milli < 1_000 => said("good", "coming back"),
        Health::Up => said("good", "up"),
    }
}

/// The page's routes, and what keeps it up to date for as long as it is run.
pub(crate) fn router(
    shared: Arc<Shared>,
    site: Site,
) -> (Router, impl Future<Output = ()> + Send + 'static) {
    let site = Arc::new(site);
    let (sender, texts) = watch::channel(String::new());
    let page = {
        let (shared, site) = (shared.clone(), site.clone());
        move || {
            let view = look(&shared, &site);
            async move { html::page(&view) }
        }
    };
    (routes(page, texts), keep(shared, site, sender))
}

/// The routes of a page that `page` renders, and that is updated by `texts`.
fn routes<F>(
    page: impl Fn() -> F + Clone + Send + Sync + 'static,
    texts: watch::Receiver<String>,
) -> Router
where
    F: Future<Output = String> + Send + 'static,
{
    let typed = |kind: &'static str, text: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, kind)], text))
    };
    Router::new()
        .route(
            "/",
            get(async move || {
                let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
                ([kind, POLICY], page().await).into_response()
            }),
        )
        .route("/events", get(async move || http::events(texts)))
        .route("/style.css", typed("text/css; charset=utf-8", include_str!("page/style.css")))
        .route("/icon.svg", typed("image/svg+xml", include_str!("page/icon.svg")))
        .route("/live.js", typed("text/javascript; charset=utf-8", include_str!("page/live.js")))
}

/// Adds to the history, and renders the page while somebody looks at it; for ever.
async fn keep(shared: Arc<Shared>, site: Arc<Site>, sender: watch::Sender<String>) {
    let mut steps = interval(STEP);
    let mut ticks = interval(LIVE_INTERVAL);
    for timer in [&mut steps, &mut ticks] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            _ = steps.tick() => note(&shared),
            // One receiver is the router's own.
            _ = ticks.tick() => if sender.receiver_count() > 1 {
                sender.send_replace(html::content(&look(&shared, &site)));
            },
        }
    }
}

fn note(shared: &Shared) {
    let proxies: Vec<_> = shared.fleet().status(Instant::now().into_std()).collect();
    let total = Totals::of(&shared.counters).verdicts;
    let mut history = shared.history.lock().unwrap_or_else(PoisonError::into_inner);
    history.note((shared.clock)(), proxies.iter(), total);
}

fn look(shared: &Shared, site: &Site) -> View {
    let points = {
        let history = shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.points().cloned().collect()
    };
    let fleet = shared.fleet();
    View {
        name: site.name.clone(),
        now_s: (shared.clock)(),
        stopping: site.drain.is_draining(),
        drained: fleet.is_drained(),
        selection: fleet.selection(),
        boxes: fleet.boxes(),
        proxies: fleet.status(Instant::now().into_std()).collect(),
        points,
        totals: Totals::of(&shared.counters),
    }
}

#[cfg(test)]
mod tests;
