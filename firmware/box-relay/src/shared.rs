//! What the tasks of one relay client share: the sans-IO core behind one short lock, and the bells
//! that wake the tasks. The lock is never held over an `await`.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use wire::identity::device_client_config;
use wire::ticket::{KeyFingerprint, SignedTicket, TicketVerifier};
use wire::{Bye, LeaseId, SessionId};

use crate::StartError;
use crate::core::{Core, Effect, Task};
use crate::directory::{Directory, Record};
use crate::limits::{BYES_QUEUED_MAX, Timing};
use crate::manager_link::Request;
use crate::settings::Settings;
use crate::store;
use crate::warm::WarmHandle;

/// Shared by all tasks of a relay client.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) fingerprint: KeyFingerprint,
    pub(crate) verifier: TicketVerifier,
    pub(crate) bells: Bells,
    pub(crate) byes: mpsc::Sender<(SocketAddr, Bye)>,
    held: Mutex<Held>,
    tasks: Mutex<Option<JoinSet<()>>>,
}

/// Each wakes one task, which then looks at the core.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    pub(crate) keeper: Notify,
    pub(crate) prober: Notify,
    pub(crate) login: Notify,
    pub(crate) directory: Notify,
}

/// The core, and what its driver holds for it.
struct Held {
    core: Core,
    /// The open connections to managers: what their tasks listen to.
    links: HashMap<SocketAddr, mpsc::Sender<Request>>,
    /// The warm links of the core's pool, by number: what their tasks listen to.
    warm: HashMap<u64, WarmHandle>,
}

/// The core, locked. When it is given back, its effects are carried out.
pub(crate) struct Locked<'a> {
    held: MutexGuard<'a, Held>,
    bells: &'a Bells,
    /// Dropped after the lock is given back: closing a link runs code of ours.
    gone: Vec<WarmHandle>,
}

impl Locked<'_> {
    pub(crate) fn links(&mut self) -> &mut HashMap<SocketAddr, mpsc::Sender<Request>> {
        &mut self.held.links
    }

    pub(crate) fn has_link(&self, manager: SocketAddr) -> bool {
        self.held.links.contains_key(&manager)
    }

    pub(crate) fn warm_handles(&mut self) -> &mut HashMap<u64, WarmHandle> {
        &mut self.held.warm
    }
}

impl Deref for Locked<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.held.core
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.held.core
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        for effect in self.held.core.take_effects() {
            match effect {
                Effect::Wake(Task::Keeper) => self.bells.keeper.notify_one(),
                Effect::Wake(Task::Prober) => self.bells.prober.notify_one(),
                Effect::Wake(Task::Login) => self.bells.login.notify_one(),
                Effect::Wake(Task::Directory) => self.bells.directory.notify_one(),
                Effect::DropWarm(number) => self.gone.extend(self.held.warm.remove(&number)),
                Effect::Ping(manager) => {
                    if let Some(queue) = self.held.links.get(&manager) {
                        // A full queue shows it in another way.
                        let _ = queue.try_send(Request::Ping);
                    }
                }
            }
        }
    }
}

/// Where sessions and tasks leave what a manager is to be told.
type Byes = mpsc::Receiver<(SocketAddr, Bye)>;

impl Shared {
    /// Sets everything up and reads what an earlier process left; starts no task.
    pub(crate) fn new(settings: Settings) -> Result<(Arc<Self>, Byes), StartError> {
        let tls = device_client_config(&settings.fleet_ca_pem, &settings.device_key)
            .map_err(StartError::Identity)?;
        let verifier =
            TicketVerifier::from_pem(&settings.ticket_key_pem).map_err(StartError::TicketKey)?;
        let fingerprint = settings.device_key.fingerprint();
        let (byes, byes_queue) = mpsc::channel(BYES_QUEUED_MAX);
        let timing = Arc::new(settings.timing.clone());
        let core = Core::new(&settings.domain, &timing, random_u32, now());
        let held = Held { core, links: HashMap::new(), warm: HashMap::new() };
        let shared = Self {
            settings,
            tls,
            fingerprint,
            verifier,
            bells: Bells::default(),
            byes,
            held: Mutex::new(held),
            tasks: Mutex::new(Some(JoinSet::new())),
        };
        shared.restore();
        Ok((Arc::new(shared), byes_queue))
    }

    /// The cores. Keep it short, and never over an `await`.
    pub(crate) fn core(&self) -> Locked<'_> {
        // A panic under the lock is a bug of ours; the state is still the best there is.
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { held, bells: &self.bells, gone: Vec::new() }
    }

    pub(crate) fn timing(&self) -> &Timing {
        &self.settings.timing
    }

    pub(crate) fn now_s(&self) -> u64 {
        (self.settings.clock)()
    }

    /// Runs a task that ends with the relay client at the latest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tasks) = tasks.as_mut() else { return };
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(error = %telemetry::chain(&error), "relay task panicked");
            }
        }
        tasks.spawn(task);
    }

    /// Ends all tasks.
    pub(crate) fn stop(&self) {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Dropped outside the lock: a task's end may run code of ours.
        drop(tasks);
    }

    pub(crate) fn list_path(&self, kind: Named) -> PathBuf {
        self.settings.state_directory.join(match kind {
            Named::Managers => "managers.json",
            Named::Authers => "authers.json",
        })
    }

    pub(crate) fn ticket_path(&self) -> PathBuf {
        self.settings.state_directory.join("ticket.json")
    }

    /// A lease that gives itself back unless a session takes it over.
    pub(crate) fn lease(&self, manager: SocketAddr, id: LeaseId) -> LeaseGuard {
        LeaseGuard { byes: self.byes.clone(), manager, id, given: false }
    }

    fn restore(&self) {
        let (now, now_s) = (now(), self.now_s());
        for kind in [Named::Managers, Named::Authers] {
            match store::load::<Record>(&self.list_path(kind)) {
                Ok(Some(record)) => self.core().directory(kind).restore(record),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = %telemetry::chain(&error), "kept list not used");
                }
            }
        }
        self.core().take_list(self.settings.manager_port);
        match store::load::<SignedTicket>(&self.ticket_path()) {
            Ok(Some(signed)) => match self.examine(signed) {
                Ok(granted) => self.core().admission.restore(granted, now, now_s),
                Err(error) => {
                    tracing::warn!(error = %telemetry::chain(&error), "kept ticket not used");
                }
            },
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = %telemetry::chain(&error), "kept ticket not used");
            }
        }
    }
}

/// Which name in DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Managers,
    Authers,
}

impl Core {
    pub(crate) fn directory(&mut self, kind: Named) -> &mut Directory {
        match kind {
            Named::Managers => &mut self.managers_named,
            Named::Authers => &mut self.authers_named,
        }
    }
}

fn random_u32() -> u32 {
    let random = || u32::from(crate::dns::random_u16());
    random() << 16 | random()
}

/// A lease from a manager, given back with an empty `Bye` when dropped unused.
#[derive(Debug)]
pub(crate) struct LeaseGuard {
    byes: mpsc::Sender<(SocketAddr, Bye)>,
    manager: SocketAddr,
    id: LeaseId,
    given: bool,
}

impl LeaseGuard {
    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    /// The session has it now, and says its own `Bye`.
    pub(crate) fn give(mut self) -> LeaseId {
        self.given = true;
        self.id
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if !self.given {
            // A full queue loses it; the manager sees the box's sessions end anyway.
            let _ = self.byes.try_send((self.manager, unused(self.id)));
        }
    }
}

/// The `Bye` of a lease that no session used.
pub(crate) fn unused(lease: LeaseId) -> Bye {
    Bye {
        session: SessionId([0; 16]),
        lease,
        bytes_up: 0,
        bytes_down: 0,
        messages: 0,
        infected: 0,
        unscannable: 0,
        opaque: false,
    }
}

/// The time as the cores take it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
