//! What the tasks of one relay client share: the sans-IO cores behind one short lock, and the bells
//! that wake the tasks. The lock is never held over an `await`.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use wire::identity::device_client_config;
use wire::ticket::{KeyFingerprint, SignedTicket, TicketVerifier};
use wire::{Bye, DeniedReason, LeaseId, SessionId};

use crate::StartError;
use crate::admission::{Admission, NotAdmitted};
use crate::directory::{Directory, Record};
use crate::limits::{BYES_QUEUED_MAX, Timing};
use crate::manager_link::Request;
use crate::managers::{Managers, NoManager};
use crate::proxies::Proxies;
use crate::settings::Settings;
use crate::status::Counters;
use crate::store;
use crate::warm::Warm;
use crate::way::{DirectReason, Way};

/// Shared by all tasks of a relay client.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) fingerprint: KeyFingerprint,
    pub(crate) verifier: TicketVerifier,
    pub(crate) bells: Bells,
    pub(crate) byes: mpsc::Sender<(SocketAddr, Bye)>,
    core: Mutex<Core>,
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

/// The state, without IO.
pub(crate) struct Core {
    pub(crate) managers_named: Directory,
    pub(crate) authers_named: Directory,
    pub(crate) managers: Managers,
    pub(crate) proxies: Proxies,
    pub(crate) admission: Admission,
    pub(crate) warm: VecDeque<Warm>,
    /// The open connections to managers: what their tasks listen to.
    pub(crate) links: HashMap<SocketAddr, mpsc::Sender<Request>>,
    /// Where something fell silent last; what is there is tried last for a while.
    pub(crate) silent: Option<Silent>,
    /// No warm link is made before.
    pub(crate) refill_at: Instant,
    pub(crate) refill_failures: u32,
    pub(crate) last_way: Option<Way>,
    pub(crate) counters: Counters,
}

/// A site in doubt: this manager's, or what is at this IP address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silent {
    manager: SocketAddr,
    ip: IpAddr,
    until: Instant,
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
        let core = Core::new(&settings, now());
        let shared = Self {
            settings,
            tls,
            fingerprint,
            verifier,
            bells: Bells::default(),
            byes,
            core: Mutex::new(core),
            tasks: Mutex::new(Some(JoinSet::new())),
        };
        shared.restore();
        Ok((Arc::new(shared), byes_queue))
    }

    /// The cores. Keep it short, and never over an `await`.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        // A panic under the lock is a bug of ours; the state is still the best there is.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// This proxy has not answered for a while: others come before it, and other sites before its
    /// own, until it is heard again.
    pub(crate) fn keeps_waiting(&self, proxy: SocketAddr, manager: SocketAddr) {
        let now = now();
        let mut core = self.core();
        core.suspect(proxy, manager, now, self.timing().suspicion);
        core.proxies.owes(proxy, manager, now);
    }

    /// Something at this address stopped answering without a word.
    pub(crate) fn fell_silent(&self, proxy: SocketAddr, manager: SocketAddr) {
        let now = now();
        let mut core = self.core();
        core.suspect(proxy, manager, now, self.timing().suspicion);
        let gone = core.proxy_failed(proxy, manager, now);
        drop(core);
        self.bells.prober.notify_one();
        self.bells.keeper.notify_one();
        drop(gone);
    }

    /// This proxy cannot be used; says so to the prober.
    pub(crate) fn proxy_failed(&self, proxy: SocketAddr, manager: SocketAddr) {
        let gone = self.core().proxy_failed(proxy, manager, now());
        self.bells.prober.notify_one();
        drop(gone);
    }

    /// A proxy or manager came back: make warm links now.
    pub(crate) fn recovered(&self) {
        let mut core = self.core();
        core.counters.recoveries += 1;
        core.refill_at = now();
        core.refill_failures = 0;
        // Where a manager is back, an auther may be.
        core.admission.login_now(now());
        drop(core);
        self.bells.keeper.notify_one();
        self.bells.login.notify_one();
    }

    /// A manager or proxy said that we are not admitted: ask the auther.
    pub(crate) fn doubted(&self) {
        let mut core = self.core();
        core.counters.denied += 1;
        if core.admission.doubted(now()) {
            self.bells.login.notify_one();
        }
    }

    /// The list of managers as DNS has it now.
    pub(crate) fn take_list(&self) {
        let port = self.settings.manager_port;
        let mut core = self.core();
        let list: Vec<SocketAddr> =
            core.managers_named.addresses().iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let left = core.managers.set_list(&list);
        // A site taken out of DNS gets no new sessions: its warm links go too.
        let (gone, kept) = std::mem::take(&mut core.warm)
            .into_iter()
            .partition::<VecDeque<_>, _>(|warm| left.contains(&warm.manager));
        core.warm = kept;
        drop(core);
        drop(gone);
        self.bells.keeper.notify_one();
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
        self.take_list();
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
    fn new(settings: &Settings, now: Instant) -> Self {
        let timing = &settings.timing;
        let random = || u32::from(crate::dns::random_u16());
        let seed = || random() << 16 | random();
        let domain = settings.domain.trim_end_matches('.');
        let directory =
            |role: &str| Directory::new(format!("{role}.{domain}"), timing, seed(), now);
        Self {
            managers_named: directory("manager"),
            authers_named: directory("auther"),
            managers: Managers::new(timing, seed()),
            proxies: Proxies::new(timing, seed()),
            admission: Admission::new(timing, seed(), now),
            warm: VecDeque::new(),
            links: HashMap::new(),
            silent: None,
            refill_at: now,
            refill_failures: 0,
            last_way: None,
            counters: Counters::default(),
        }
    }

    pub(crate) fn directory(&mut self, kind: Named) -> &mut Directory {
        match kind {
            Named::Managers => &mut self.managers_named,
            Named::Authers => &mut self.authers_named,
        }
    }

    /// The ticket, or why to go direct.
    pub(crate) fn ticket(&self, now: Instant) -> Result<SignedTicket, DirectReason> {
        self.admission.ticket(now).cloned().map_err(|why| match why {
            NotAdmitted::NoTicket => DirectReason::NoTicket,
            NotAdmitted::Denied(reason) => DirectReason::Denied(reason),
        })
    }

    /// Whom to ask, or why to go direct.
    pub(crate) fn candidates(&self, now: Instant) -> Result<Vec<SocketAddr>, DirectReason> {
        self.managers.candidates(now).map_err(|why| match why {
            NoManager::Unlisted => DirectReason::NoManagers,
            NoManager::Dead => DirectReason::ManagersDead,
            NoManager::Busy => DirectReason::NoProxy,
            NoManager::Denied(reason) => DirectReason::Denied(reason),
        })
    }

    /// Is it better to try another site first? Asked of a proxy and its manager.
    pub(crate) fn is_suspect(&self, proxy: SocketAddr, manager: SocketAddr, now: Instant) -> bool {
        self.silent.is_some_and(|silent| {
            now < silent.until && (silent.ip == proxy.ip() || silent.manager == manager)
        })
    }

    /// Something of a site was heard: the site is not silent.
    pub(crate) fn heard_at(&mut self, address: SocketAddr) {
        self.silent.take_if(|silent| silent.ip == address.ip() || silent.manager == address);
    }

    /// A manager denied this ticket.
    pub(crate) fn manager_denied(
        &mut self,
        manager: SocketAddr,
        reason: DeniedReason,
        until: Instant,
    ) {
        self.managers.hold(manager, NoManager::Denied(reason), until);
    }

    /// Tries this site last for a while, and asks its manager whether it is there.
    fn suspect(
        &mut self,
        proxy: SocketAddr,
        manager: SocketAddr,
        now: Instant,
        suspicion: Duration,
    ) {
        self.silent = Some(Silent { manager, ip: proxy.ip(), until: now + suspicion });
        self.managers.suspect(manager, proxy.ip(), now);
        if let Some(queue) = self.links.get(&manager) {
            // Is it the proxy only, or the site? A full queue shows it in another way.
            let _ = queue.try_send(Request::Ping);
        }
    }

    /// Excludes it, and hands out its warm links, to be dropped after the lock is given back.
    #[must_use]
    fn proxy_failed(
        &mut self,
        proxy: SocketAddr,
        manager: SocketAddr,
        now: Instant,
    ) -> VecDeque<Warm> {
        if self.proxies.failed(proxy, manager, now) {
            self.counters.proxy_failures += 1;
        }
        let (gone, kept) = std::mem::take(&mut self.warm)
            .into_iter()
            .partition::<VecDeque<_>, _>(|warm| warm.proxy == proxy);
        self.warm = kept;
        gone
    }
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
