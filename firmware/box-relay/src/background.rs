//! The tasks that keep lists fresh, probe the dead, and deliver `Bye`s.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use wire::identity::Role;
use wire::{Bye, Message};

use crate::limits::{PROBES_MAX, STRAY_MESSAGES_MAX};
use crate::login::on_disk;
use crate::manager_link::{self, Request};
use crate::shared::{Named, Shared, now};
use crate::{dns, store};

/// Asks DNS for the managers whenever their time to live has ended, for ever.
pub(crate) async fn keep_list(shared: Arc<Shared>) {
    loop {
        let at = Instant::from_std(shared.core().managers_named.ask_at());
        if Instant::now() < at {
            tokio::select! {
                () = sleep_until(at) => {}
                () = shared.bells.directory.notified() => {}
            }
            continue;
        }
        refresh(&shared, Named::Managers).await;
    }
}

/// Asks DNS for one of the names now, and keeps what it says.
pub(crate) async fn refresh(shared: &Arc<Shared>, kind: Named) {
    let name = shared.core().directory(kind).name().to_owned();
    let settings = &shared.settings;
    let resolvers = dns::resolvers(&settings.resolvers, &settings.resolv_conf);
    let found = dns::lookup(&name, &resolvers, &settings.timing).await;
    let now_s = shared.now_s();
    match found {
        Ok(answer) => {
            let record = {
                let mut core = shared.core();
                core.counters.lookups += 1;
                if core.directory(kind).is_failing() {
                    // The network is back: so may the auther be.
                    core.admission.login_now(now());
                }
                core.directory(kind).answered(answer, now(), now_s)
            };
            shared.bells.login.notify_one();
            if kind == Named::Managers {
                shared.core().take_list(settings.manager_port);
            }
            if let Some(record) = record {
                let path = shared.list_path(kind);
                on_disk(move || store::save(&path, &record)).await;
            }
        }
        Err(error) => {
            let mut core = shared.core();
            core.counters.lookups_failed += 1;
            let directory = core.directory(kind);
            directory.failed(now());
            let known = directory.addresses().len();
            drop(core);
            let error = telemetry::chain(&error);
            tracing::warn!(name, known, error, "DNS failed; the known list stays in use");
        }
    }
}

/// Probes dead managers and proxies when they are due, for ever.
pub(crate) async fn probe(shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(PROBES_MAX));
    loop {
        while probe_manager(&shared) {}
        loop {
            let due = shared.core().proxies.due_probe(now());
            let Some((proxy, manager)) = due else { break };
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let task = Arc::clone(&shared);
            shared.spawn(async move {
                probe_proxy(&task, proxy, manager).await;
                drop(permit);
            });
        }
        let next = {
            let core = shared.core();
            [core.managers.next_probe(), core.proxies.next_probe()].into_iter().flatten().min()
        };
        let bell = shared.bells.prober.notified();
        match next {
            Some(next) => tokio::select! {
                () = sleep_until(next.into()) => {}
                () = bell => {}
            },
            None => bell.await,
        }
    }
}

/// Starts the next manager probe that is due, if there is one. Its task tells the core how it went.
fn probe_manager(shared: &Arc<Shared>) -> bool {
    let mut core = shared.core();
    let Some(manager) = core.managers.due_probe(now()) else { return false };
    core.counters.probes += 1;
    // A full queue means that its task has more than enough to find out by.
    let _ = manager_link::request(shared, &mut core, manager, Request::Probe);
    true
}

async fn probe_proxy(shared: &Arc<Shared>, proxy: SocketAddr, manager: SocketAddr) {
    shared.core().counters.probes += 1;
    let answered = timeout(shared.timing().probe_max, async {
        let tls = Arc::clone(&shared.tls);
        let mut link =
            link::connect(proxy, Role::Proxy, tls, shared.timing().probe_max).await.ok()?;
        let number = dns::random_u16().into();
        link.send(&Message::Ping(number)).await.ok()?;
        for _ in 0..STRAY_MESSAGES_MAX {
            if link.recv().await.ok()? == Message::Pong(number) {
                let _ = link.close().await;
                return Some(());
            }
        }
        None
    });
    let answered = answered.await.ok().flatten().is_some();
    if shared.core().proxy_probed(proxy, manager, answered, now()) {
        tracing::info!(%proxy, "proxy is back");
    }
}

/// Hands each `Bye` to its manager's connection. Where there is none, the manager has ended the
/// lease with it.
pub(crate) async fn deliver_byes(
    shared: Arc<Shared>,
    mut queue: mpsc::Receiver<(SocketAddr, Bye)>,
) {
    while let Some((manager, bye)) = queue.recv().await {
        let link = shared.core().links().get(&manager).cloned();
        let delivered = match link {
            // The connection's task takes it within its own limits, or ends.
            Some(link) => link.send(Request::Bye(Box::new(bye))).await.is_ok(),
            None => false,
        };
        let mut core = shared.core();
        if delivered {
            core.counters.byes += 1;
        } else {
            core.counters.byes_lost += 1;
        }
    }
}
