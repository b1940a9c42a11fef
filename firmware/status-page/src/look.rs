//! What the page is made of: asked of PID 1, the gateway and the disk, and kept for a moment, so that
//! many browsers cost no more than one.

use std::sync::Arc;
use std::time::Duration;

use box_console::report::Answer;
use box_console::secret::{self, Door};
use box_console::{ask, report};
use box_init::control::Status;
use journal::Entry;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Options;
use crate::settings::Settings;
use crate::view::Listed;

/// Mails that are explained.
pub(crate) const MAILS_MAX: usize = 100;
/// Items of the quarantine that are listed.
pub(crate) const ITEMS_MAX: usize = 200;
/// How long an answer is good.
const FRESH: Duration = Duration::from_secs(1);

/// How the box is.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) init: Answer<Status>,
    pub(crate) gateway: Answer<Value>,
    pub(crate) page: Answer<String>,
    pub(crate) door: Door,
    pub(crate) settings: Settings,
    pub(crate) problem: Option<String>,
}

impl Looked {
    /// Blocks, for less than a second.
    pub(crate) fn now(options: &Options) -> Self {
        let init = ask::status(&options.init, ask::BANNER_WAIT);
        // Without PID 1 it is not known for how long the box has run: nobody comes in by then or later.
        let uptime = init
            .as_ref()
            .map_or(Duration::MAX, |status| Duration::from_secs(status.uptime_seconds));
        let (settings, problem) = Settings::load(&options.state);
        Self {
            door: secret::door(&options.state, &init, uptime),
            gateway: ask::gateway_status(&options.gateway, ask::BANNER_WAIT),
            page: report::page_fingerprint(&options.fingerprint),
            init,
            settings,
            problem,
        }
    }

    /// How long the box still snoozes, in seconds.
    pub(crate) fn snooze_s(&self) -> Option<u64> {
        self.gateway.as_ref().ok()?.get("snooze_seconds_left")?.as_u64()
    }
}

/// What is kept of mails.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) mails: Answer<Vec<Entry>>,
    pub(crate) quarantine: Answer<Listed>,
}

impl Kept {
    /// Blocks on the disk.
    pub(crate) fn now(options: &Options) -> Self {
        let places = (options.places)();
        let mails = places.as_ref().map_err(Clone::clone).and_then(|places| {
            journal::latest(&places.journal, MAILS_MAX).map_err(|error| telemetry::chain(&error))
        });
        let quarantine = places.and_then(|places| {
            let vault = places.vault?;
            let mut list =
                vault.list((options.clock)()).map_err(|error| telemetry::chain(&error))?;
            let items = list
                .by_ref()
                .take(ITEMS_MAX)
                .map(|(id, item)| (id.to_string(), item.map_err(|error| telemetry::chain(&error))))
                .collect::<Vec<_>>();
            let more = vault.usage().map_or(0, |usage| usage.items);
            let more = usize::try_from(more).unwrap_or(usize::MAX).saturating_sub(items.len());
            Ok(Listed { more: if items.len() < ITEMS_MAX { 0 } else { more }, items })
        });
        Self { mails, quarantine }
    }
}

/// The last answer, for as long as it is good.
#[derive(Debug)]
pub(crate) struct Fresh<T>(Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Send + Sync + 'static> Fresh<T> {
    /// The last one, or a new one of `make`, which may block. Only one is made at a time. `None` when
    /// it broke down.
    pub(crate) async fn get(&self, make: impl FnOnce() -> T + Send + 'static) -> Option<Arc<T>> {
        let mut slot = self.0.lock().await;
        if let Some((at, last)) = &*slot
            && at.elapsed() < FRESH
        {
            return Some(Arc::clone(last));
        }
        let made = Arc::new(tokio::task::spawn_blocking(make).await.ok()?);
        *slot = Some((Instant::now(), Arc::clone(&made)));
        Some(made)
    }

    /// Something was changed: what comes next is asked for anew.
    pub(crate) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}
