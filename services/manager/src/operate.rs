//! What the operator tells a manager that runs: drains, another table.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use service_kit::control::{Problem, Replies};
use service_kit::listener::count;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::poll::Watch;
use crate::table::parse_address;
use crate::{Settings, Shared, drains};

/// A line to the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Name a proxy no more; without one, none of the site.
    Drain {
        /// Its local or public address.
        proxy: Option<String>,
        /// Answer when nothing is left.
        wait: bool,
    },
    /// The opposite.
    Undrain {
        /// Its local or public address; without one, the site, and every proxy of it.
        proxy: Option<String>,
    },
    /// Read the settings file again.
    Reload,
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    /// It is so now.
    Done {
        /// What, in words.
        what: String,
    },
    /// A drain still waits.
    Left {
        /// For so many sessions.
        sessions: u64,
        /// And for so many leases of this manager: sessions, and assignments in hand.
        leases: u64,
    },
}

/// Where the operator is served.
#[derive(Debug)]
pub(crate) struct Desk {
    shared: Arc<Shared>,
    /// The settings that are in force.
    settings: Mutex<Arc<Settings>>,
    /// The file that they are from.
    path: Option<PathBuf>,
    watches: Mutex<JoinSet<()>>,
}

impl Desk {
    pub(crate) fn new(shared: Arc<Shared>, settings: Arc<Settings>) -> Self {
        let path = settings.path.clone();
        let desk = Self {
            shared,
            settings: Mutex::new(settings.clone()),
            path,
            watches: Mutex::default(),
        };
        for (index, proxy) in settings.table.proxies().iter().enumerate() {
            desk.watch(&settings, index, proxy.local);
        }
        desk
    }

    /// Takes the settings file anew with every SIGHUP, for ever.
    pub(crate) async fn on_hangups(self: Arc<Self>) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => {
                warn!(%error, "no handler of SIGHUP: it ends this program");
                return;
            }
        };
        while hangups.recv().await.is_some() {
            // Logged where it happens; nobody else asked.
            let _ = self.reload().await;
        }
    }

    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request, mut replies: Replies) {
        let answered = match &request {
            Request::Reload => self.reload().await,
            Request::Undrain { proxy } => self.undrain(proxy.as_deref()),
            Request::Drain { proxy, wait } => {
                self.drain(proxy.as_deref(), *wait, &mut replies).await
            }
        };
        // Who asked may have gone.
        let _ = match answered {
            Ok(what) => replies.say(&Reply::Done { what }).await,
            Err(error) => replies.say(&Problem { error }).await,
        };
    }

    /// The settings file, whole or not at all. What is done is said in words, and logged.
    pub(crate) async fn reload(&self) -> Result<String, String> {
        let _told = service_kit::notify::reloading();
        let loaded = match self.path.clone() {
            None => Err("this manager was started without a settings file".to_owned()),
            Some(path) => tokio::task::spawn_blocking(move || Settings::load(&path))
                .await
                .map_err(|error| error.to_string())
                .and_then(|loaded| loaded.map_err(|error| telemetry::chain(&error))),
        };
        match loaded {
            Ok(settings) => {
                let what = self.take(Arc::new(settings));
                count(&self.shared.counters.reloads);
                info!(what, "settings taken anew");
                Ok(what)
            }
            Err(error) => {
                count(&self.shared.counters.reloads_refused);
                warn!(error, "settings refused: those before stay in force");
                Err(format!("{error} (the settings before stay in force)"))
            }
        }
    }

    fn take(&self, settings: Arc<Settings>) -> String {
        let now = Instant::now().into_std();
        let reloaded = {
            let mut fleet = self.shared.fleet();
            fleet.set_slow_start(settings.slow_start);
            fleet.reload(&settings.table, settings.selection, settings.health, now)
        };
        for &(index, address) in &reloaded.added {
            self.watch(&settings, index, address);
        }
        self.shared.look_for_emptied();
        let mut in_force = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *in_force, settings.clone());
        let mut what = format!(
            "{} proxies kept, {} added, {} leaving",
            reloaded.kept,
            reloaded.added.len(),
            reloaded.leaving.len()
        );
        let restart = settings.what_takes_a_restart(&before);
        if !restart.is_empty() {
            what.push_str(&format!(
                "; changed, but only a restart takes it: {}",
                restart.join(", ")
            ));
        }
        what
    }

    fn watch(&self, settings: &Settings, index: usize, address: std::net::SocketAddr) {
        let watch = Watch {
            index,
            address,
            tls: settings.tls.client.clone(),
            interval: settings.poll_interval,
            timeout: settings.poll_timeout,
        };
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        while watches.try_join_next().is_some() {}
        watches.spawn(watch.run(self.shared.clone()));
    }

    async fn drain(
        &self,
        proxy: Option<&str>,
        wait: bool,
        replies: &mut Replies,
    ) -> Result<String, String> {
        let address = proxy.map(parse_address).transpose()?;
        let what = proxy.unwrap_or("the site").to_owned();
        // Before the drain, so that no poll behind it is missed.
        let mut polled = self.shared.polled.subscribe();
        if !self.shared.fleet().drain(address) {
            return Err(format!("{what} is no proxy of this manager"));
        }
        info!(what, "drained: not named from now on");
        let kept = self.keep_drains();
        self.shared.look_for_emptied();
        if !wait {
            return Ok(format!("{what} is not named from now on{kept}"));
        }
        let mut last = None;
        loop {
            let (draining, left) = {
                let fleet = self.shared.fleet();
                (fleet.is_draining(address), fleet.left(address).unwrap_or_default())
            };
            if !draining {
                return Err(format!("{what} was undrained meanwhile"));
            }
            if left.is_nothing() {
                return Ok(format!("{what} is drained, and nothing is left on it{kept}"));
            }
            if last.replace(left) != Some(left) {
                let (sessions, leases) = (left.sessions, left.leases);
                if replies.say(&Reply::Left { sessions, leases }).await.is_err() {
                    return Err("who waited has gone".to_owned());
                }
            }
            if polled.changed().await.is_err() {
                return Err("the manager ends".to_owned());
            }
        }
    }

    fn undrain(&self, proxy: Option<&str>) -> Result<String, String> {
        let address = proxy.map(parse_address).transpose()?;
        let what = proxy.unwrap_or("the site").to_owned();
        if !self.shared.fleet().undrain(address, Instant::now().into_std()) {
            return Err(format!("{what} is no proxy of this manager"));
        }
        info!(what, "undrained: may be named again");
        let kept = self.keep_drains();
        Ok(format!("{what} may be named again{kept}"))
    }

    /// Has the drains survive a restart. Where that fails, the answer and the log say so.
    fn keep_drains(&self) -> String {
        let directory = {
            let in_force = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
            in_force.state_directory.clone()
        };
        match drains::keep(&directory, &self.shared.fleet()) {
            Ok(()) => String::new(),
            Err(error) => {
                let error = telemetry::chain(&error);
                warn!(error, "a restart will not know what is drained");
                format!(" (until a restart: {error})")
            }
        }
    }
}
