//! `avr run`: sessions come from the interceptor, find their way through the relay client, and are
//! scanned as they cross.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use box_net::Port;
use box_relay::{OpenError, Relay, Upstream, Way};
use heartbeat::{NotifyState, tell};
use mail::Protocol;
use records::Records;
use session::settings::Around;
use session::{Carried, Carrier, Facts, Outcome};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};
use wire::ticket::KeyFingerprint;
use wire::{Bye, MacAddress, SessionId};

use crate::control::{self, Answer, Request};
use crate::counters::{Counters, Recent};
use crate::identity::Unit;
use crate::intercept::{Incoming, Interceptor, Refusal};
use crate::routes::{Route, Routes};
use crate::settings::{Ports, Settings};
use crate::snooze::Snooze;
use crate::status::{Flows, Status};

/// How long sessions may go on after the daemon was told to stop.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long a proxy may take to hear the last word on a session.
const BYE_MAX: Duration = Duration::from_secs(5);

/// What every session task needs.
struct Gateway {
    mac: MacAddress,
    key: KeyFingerprint,
    started: Instant,
    ports: Ports,
    routes: Arc<Routes>,
    /// `None` without `[relay]`: every session goes direct.
    relay: Option<Relay>,
    carrier: Carrier,
    counters: Counters,
    records: Records,
    snooze: Arc<Snooze>,
}

/// Runs the gateway until SIGTERM or SIGINT, then lets sessions end for [`DRAIN_MAX`].
///
/// # Errors
///
/// When the ports, the bridge, the keys or the rules cannot be used; nothing is intercepted then.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let unit = Unit::of(&settings)?;
    let (mac, key) = (unit.mac, unit.fingerprint());
    info!(%mac, %key, version = env!("CARGO_PKG_VERSION"), "start");
    let routes = Arc::new(settings.routes());
    let snooze = Arc::new(Snooze::default());
    let records = crate::kept::open(&settings, &unit.key);
    let carrier = settings.scan.carrier(Around {
        vault: records.vault.clone(),
        journal: records.journal.clone(),
        ..Around::nothing()
    })?;
    let _watch = carrier.start(&settings.scan)?;
    let gateway = Arc::new(Gateway {
        relay: start_relay(&settings, unit)?,
        carrier,
        mac,
        key,
        started: Instant::now(),
        ports: settings.ports.clone(),
        routes: Arc::clone(&routes),
        counters: Counters::default(),
        records: records.clone(),
        snooze: Arc::clone(&snooze),
    });
    let (interceptor, incoming) = {
        let snooze = Arc::clone(&snooze);
        let take = move |port, client, server| {
            is_taken(port, routes.choose(client, server), snooze.left(Instant::now()))
        };
        Interceptor::start(&settings.ports, take).context("take mail off the bridge")?
    };
    let interceptor = Arc::new(interceptor);
    let control = {
        let (gateway, interceptor) = (Arc::clone(&gateway), Arc::clone(&interceptor));
        control::serve(&settings.control, move |request| gateway.answer(request, &interceptor))?
    };
    let mut chores = JoinSet::new();
    chores.spawn(records.sweep(crate::unix_now_s));
    chores.spawn(async move { snooze.watch().await });
    if heartbeat::is_wanted() {
        chores.spawn(report(Arc::clone(&interceptor)));
    }
    info!(lan = %settings.ports.lan, wan = %settings.ports.wan, "mail is intercepted");
    let result = gateway.serve(&interceptor, incoming).await;
    control.abort();
    // The socket of a daemon that has gone answers nobody; a failure to remove it harms nobody.
    let _ = std::fs::remove_file(&settings.control);
    result
}

/// Says that mail is intercepted when the interception loop has taken its first turn, and that it still is
/// only while the loop turns.
async fn report(interceptor: Arc<Interceptor>) {
    interceptor.beat().await;
    tell(&[NotifyState::Ready]);
    let beat = || {
        let interceptor = Arc::clone(&interceptor);
        async move { interceptor.beat().await }
    };
    let status = || format!("intercepting, {} flows", interceptor.counters().flows);
    let watchdog = heartbeat::watchdog();
    heartbeat::keep_alive("the interception loop", watchdog, beat, status, &mut tell).await;
}

/// Whether the box takes a new connection off the bridge.
fn is_taken(port: Port, route: Route, snooze_left: Option<Duration>) -> bool {
    // Mail for a server in the office comes from strangers' addresses, which a connection of the
    // box's own would hide from that server: it stays on the bridge.
    port == Port::Lan && route != Route::Bypass && snooze_left.is_none()
}

fn start_relay(settings: &Settings, unit: Unit) -> anyhow::Result<Option<Relay>> {
    let Some(table) = &settings.relay else { return Ok(None) };
    let read = |path: Option<&PathBuf>| {
        let path = path.context("[identity] names the fleet's keys wherever [relay] is set")?;
        std::fs::read_to_string(path)
            .with_context(|| format!("read {}; `avr-auther init` made it", path.display()))
    };
    let mut relay = box_relay::Settings::new(
        table.domain.clone(),
        settings.identity.state_directory.clone(),
        read(settings.identity.fleet_ca.as_ref())?,
        read(settings.identity.ticket_key.as_ref())?,
        unit.key,
        unit.mac,
    );
    env!("CARGO_PKG_VERSION").clone_into(&mut relay.software);
    relay.resolvers = settings.resolvers();
    relay.manager_port = table.manager_port;
    relay.auther_port = table.auther_port;
    relay.warm_links = table.warm_links;
    Relay::start(relay).context("start the relay client").map(Some)
}

impl Gateway {
    async fn serve(
        self: &Arc<Self>,
        interceptor: &Interceptor,
        mut incoming: tokio::sync::mpsc::Receiver<Incoming>,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                next = incoming.recv() => match next {
                    Some(flow) => {
                        let gateway = Arc::clone(self);
                        self.counters.begin();
                        sessions.spawn(async move { gateway.session(flow).await });
                    }
                    None => anyhow::bail!("the interceptor stopped; mail crosses the plain bridge"),
                },
                Some(ended) = sessions.join_next() => self.reap(ended),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        tell(&[NotifyState::Stopping, NotifyState::Status("no new sessions")]);
        info!(sessions = sessions.len(), "stopping: no new sessions, the old ones may end");
        interceptor.drain();
        let drained = tokio::time::timeout(DRAIN_MAX, async {
            while let Some(ended) = sessions.join_next().await {
                self.reap(ended);
            }
        });
        if drained.await.is_err() {
            warn!(sessions = sessions.len(), "sessions were still going on and are reset");
        }
        Ok(())
    }

    /// A task that broke down has reset its flow by being dropped; the rest goes on.
    fn reap(&self, ended: Result<(), tokio::task::JoinError>) {
        self.counters.end();
        if let Err(error) = ended {
            self.counters.panicked();
            error!(%error, "a session broke down and was reset");
        }
    }

    async fn session(&self, flow: Incoming) {
        let started = Instant::now();
        let (client, server) = (flow.client(), flow.server());
        let Ok(id) = crate::session_id() else {
            error!("no session number: the operating system gives no random numbers");
            return flow.refuse(Refusal::Refused);
        };
        let protocol =
            if self.ports.pop3.contains(&server.port()) { Protocol::Pop3 } else { Protocol::Smtp };
        let Upstream { stream, way } = match self.open(id, protocol, client, server).await {
            Ok(upstream) => upstream,
            Err(error) => {
                self.counters.refused();
                warn!(session = %id, %client, %server, error = telemetry::chain(&error), "not opened");
                return flow.refuse(refusal(&error));
            }
        };
        let opening_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.counters.opened(matches!(way, Way::Relay { .. }));
        info!(session = %id, ?protocol, %client, %server, %way, opening_ms, "session opened");
        // The client gave up while the way was sought: dropping the upstream resets it.
        let Ok(near) = flow.accept() else { return };
        let facts = Facts {
            id: id.to_string(),
            protocol,
            client: client.to_string(),
            server: server.to_string(),
            way: way.to_string(),
        };
        let carried = session::carry(&facts, near, stream, &self.carrier).await;
        let outcome = carried.outcome.clone();
        self.say_bye(id, &way, carried).await;
        info!(
            session = %id,
            bytes_up = outcome.bytes_up,
            bytes_down = outcome.bytes_down,
            mails = outcome.messages,
            infected = outcome.infected,
            unscannable = outcome.unscannable,
            opaque = ?outcome.opaque,
            reset = outcome.reset,
            "session ended"
        );
        let recent = Recent {
            session: id.to_string(),
            protocol: match protocol {
                Protocol::Smtp => "smtp",
                Protocol::Pop3 => "pop3",
            },
            client,
            server,
            way: way.to_string(),
            opening_ms,
            bytes_up: outcome.bytes_up,
            bytes_down: outcome.bytes_down,
            mails: outcome.messages,
            infected: outcome.infected,
            unscannable: outcome.unscannable,
            scanned: outcome.opaque.is_none(),
        };
        self.counters.ended(&outcome, recent);
    }

    async fn open(
        &self,
        id: SessionId,
        protocol: Protocol,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Result<Upstream, OpenError> {
        let Some(relay) = &self.relay else { return box_relay::connect_directly(server).await };
        match self.routes.choose(client, server) {
            Route::Relay => {
                let protocol = match protocol {
                    Protocol::Smtp => wire::Protocol::Smtp,
                    Protocol::Pop3 => wire::Protocol::Pop3,
                };
                relay.open(client, server, protocol, id).await
            }
            // Bypassed connections stay on the bridge and never come here.
            Route::Direct | Route::Bypass => relay.open_direct(server).await,
        }
    }

    /// The last word to the proxy (if the session ended in order) and to the manager.
    async fn say_bye<C>(
        &self,
        session: SessionId,
        way: &Way,
        carried: Carried<C, box_relay::UpstreamStream>,
    ) {
        let Way::Relay { lease, .. } = *way else { return };
        let Outcome { bytes_up, bytes_down, messages, infected, unscannable, opaque, .. } =
            carried.outcome;
        let bye = Bye {
            session,
            lease,
            bytes_up,
            bytes_down,
            messages,
            infected,
            unscannable,
            opaque: opaque.is_some(),
        };
        if let Some(stream) = carried.server {
            // A proxy that is gone needs no last word.
            let _ = tokio::time::timeout(BYE_MAX, stream.finish(bye.clone())).await;
        }
        if let Some(relay) = &self.relay {
            relay.bye(way, bye);
        }
    }

    fn answer(&self, request: Request, interceptor: &Interceptor) -> Answer {
        let now = Instant::now();
        match request {
            Request::Status {} => return Answer::Status(Box::new(self.status(interceptor))),
            Request::Snooze { seconds } => {
                if let Err(error) = self.snooze.start(now, Duration::from_secs(seconds)) {
                    return Answer::Error(error.to_string());
                }
            }
            Request::Resume {} => self.snooze.end(now),
        }
        Answer::Snooze { seconds_left: self.snooze.left(now).map(|left| left.as_secs()) }
    }

    fn status(&self, interceptor: &Interceptor) -> Status {
        let counters = self.counters.numbers();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.started.elapsed().as_secs(),
            mac: self.mac.to_string(),
            key_fingerprint: self.key.to_string(),
            snooze_seconds_left: self.snooze.left(Instant::now()).map(|left| left.as_secs()),
            flows: Flows::from(interceptor.counters()),
            scanned_percent: counters.scanned_percent(),
            counters,
            records: self.records.numbers(),
            scan: self.carrier.scanner.as_ref().map(scan::Scanner::numbers),
            relay: self.relay.as_ref().map(Relay::status),
        }
    }
}

/// What the client is shown: what it would have seen without a box in the way.
fn refusal(error: &OpenError) -> Refusal {
    match error {
        OpenError::Refused(_) => Refusal::Refused,
        OpenError::Unreachable(_) => Refusal::Unreachable,
        OpenError::TimedOut(_) => Refusal::TimedOut,
        OpenError::Local(_) => Refusal::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_the_box_snoozes_everything_stays_on_the_bridge() {
        let snooze = Some(Duration::from_secs(1));
        for route in [Route::Relay, Route::Direct] {
            assert!(is_taken(Port::Lan, route, None));
            assert!(!is_taken(Port::Lan, route, snooze));
            assert!(!is_taken(Port::Wan, route, None));
        }
        assert!(!is_taken(Port::Lan, Route::Bypass, None));
    }
}
