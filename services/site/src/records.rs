//! The site's records in DNS: `join` puts its addresses under the managers' name, `leave` takes
//! them away again.
//!
//! Other sites do the same at any time, without knowing of each other. So only single addresses are
//! added and removed, never a whole set; and what must not happen, that the last manager goes, is
//! made a condition that the server checks together with the change.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hickory_proto::rr::{Name, RecordType};
use service_kit::host::WallClock;
use tokio::time::Instant;

use crate::dns::exchange::{Transport, ask};
use crate::dns::key::Key;
use crate::dns::update::{Change, Prerequisite, Update, UpdateError, in_words};
use crate::dns::zone::{Addresses, Resolver, Zone, addresses_at, shown};
use crate::time::clock_time;

/// How often `leave` begins again because another site changed the same name.
pub const LEAVE_TRIES_MAX: u32 = 8;
/// From one look at a zone's other servers to the next.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Default TTL of a site's addresses, in seconds: how long traffic takes to move.
pub const TTL_S_DEFAULT: u32 = 20 * 60;
/// Shortest TTL that can be set, in seconds.
pub const TTL_S_MIN: u32 = 1;
/// Longest TTL that can be set, in seconds: a day. A dead site would be asked for so long.
pub const TTL_S_MAX: u32 = 24 * 60 * 60;

/// What is to be changed, and at whom.
#[derive(Debug, Clone)]
pub struct Request {
    /// `manager.<domain>`, and `auther.<domain>` if asked for.
    pub names: Vec<Name>,
    /// This site's public addresses.
    pub addresses: Vec<IpAddr>,
    /// Finds servers by their names.
    pub resolver: Resolver,
    /// The zone, if not the one that DNS itself says.
    pub zone: Option<Name>,
    /// The primary, if not the one that the zone says.
    pub server: Option<SocketAddr>,
    /// How the update goes.
    pub transport: Transport,
    /// How long the zone's other servers may take to follow.
    pub wait: Duration,
    /// Where signatures get their time from.
    pub clock: WallClock,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

/// Adds the site's addresses.
///
/// # Errors
/// With what to do about it.
pub async fn join(
    request: &Request,
    key: &Key,
    ttl_s: u32,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let place = Place::find(request).await?;
    let before = place.read().await?;
    let mut changes = Vec::new();
    for (name, has) in request.names.iter().zip(&before) {
        for &address in &request.addresses {
            if has.all.contains(&address) && has.ttl_s == ttl_s {
                writeln!(out, "{} {address}: is there already", shown(name))?;
                continue;
            }
            let ttl = in_words(ttl_s.into());
            writeln!(out, "{} {address}, TTL {ttl}: {}", shown(name), place.will("adding"))?;
            changes.push(Change::Add { name: name.clone(), address, ttl_s });
        }
    }
    if request.dry_run {
        return Ok(());
    }
    if !changes.is_empty() {
        place.change(key, Vec::new(), changes).await.with_context(|| place.failed())?;
    }
    let wanted = |has: &Addresses| request.addresses.iter().all(|own| has.all.contains(own));
    place.follow(out, &wanted).await?;
    // A resolver may have asked just before: for the old list, or in vain.
    let cached_s = before.iter().map(|has| place.cached_s(has)).max().unwrap_or_default();
    let at = clock_time((request.clock)() + u64::from(cached_s));
    writeln!(
        out,
        "Boxes that ask from now on find this site; in {}, at {at}, all have asked anew.",
        in_words(cached_s.into())
    )?;
    for (name, has) in request.names.iter().zip(&place.read().await?) {
        if has.ttl_s != ttl_s {
            let (has, wanted) = (in_words(has.ttl_s.into()), in_words(ttl_s.into()));
            let name = shown(name);
            writeln!(out, "Note: the server gives {name} a TTL of {has}, not of {wanted}.")?;
        }
    }
    Ok(())
}

/// Removes the site's addresses; with `last` even if nothing is left then.
///
/// # Errors
/// With what to do about it.
pub async fn leave(
    request: &Request,
    key: &Key,
    last: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let place = Place::find(request).await?;
    let own: BTreeSet<IpAddr> = request.addresses.iter().copied().collect();
    let mut tries = 0;
    let before = loop {
        tries += 1;
        let before = place.read().await?;
        let (mut prerequisites, mut changes) = (Vec::new(), Vec::new());
        for (name, has) in request.names.iter().zip(&before) {
            let going: Vec<IpAddr> = has.all.intersection(&own).copied().collect();
            if going.is_empty() {
                writeln!(out, "{}: has no address of this site", shown(name))?;
                continue;
            }
            if has.all.is_subset(&own) && !last {
                bail!(
                    "{} would have no address left: boxes would find no site at all and take mail \
                     straight to its server; let another site join first, or write --last",
                    shown(name)
                );
            }
            if !last {
                prerequisites.extend(as_read(name, has));
            }
            for address in going {
                writeln!(out, "{} {address}: {}", shown(name), place.will("removing"))?;
                changes.push(Change::Remove { name: name.clone(), address });
            }
        }
        if request.dry_run {
            return Ok(());
        }
        if changes.is_empty() {
            break before;
        }
        match place.change(key, prerequisites, changes).await {
            Ok(()) => break before,
            Err(ChangeError::Update(UpdateError::Conflict)) if tries < LEAVE_TRIES_MAX => {
                writeln!(out, "Another site has changed the same name: looking again.")?;
            }
            Err(error) => return Err(error).with_context(|| place.failed()),
        }
    };
    place.follow(out, &|has| has.all.is_disjoint(&own)).await?;
    let cached_s = before.iter().map(|has| has.ttl_s).max().unwrap_or_default();
    let at = clock_time((request.clock)() + u64::from(cached_s));
    writeln!(
        out,
        "Nobody who asks from now on is sent here. The last copy of the old list has gone in {}, \
         at {at}: let the site run until then, and drain it before it stops.",
        in_words(cached_s.into())
    )?;
    Ok(())
}

/// That a name is still as it was read, so that what was decided on it still holds.
fn as_read(name: &Name, has: &Addresses) -> impl Iterator<Item = Prerequisite> {
    [RecordType::A, RecordType::AAAA].into_iter().map(|record_type| {
        let addresses = has.of(record_type);
        match addresses.is_empty() {
            true => Prerequisite::Absent(name.clone(), record_type),
            false => Prerequisite::Exactly(name.clone(), addresses),
        }
    })
}

/// The zone that a request is about.
struct Place<'a> {
    request: &'a Request,
    zone: Zone,
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Exchange(#[from] crate::dns::exchange::ExchangeError),
    #[error(transparent)]
    Update(#[from] UpdateError),
}

impl<'a> Place<'a> {
    async fn find(request: &'a Request) -> anyhow::Result<Self> {
        let first = request.names.first().context("no name to change")?;
        let (zone, server) = (request.zone.as_ref(), request.server);
        let zone = Zone::find(&request.resolver, first, zone, server).await?;
        Ok(Self { request, zone })
    }

    /// What the primary has under each name.
    async fn read(&self) -> anyhow::Result<Vec<Addresses>> {
        let mut read = Vec::new();
        for name in &self.request.names {
            read.push(addresses_at(self.zone.primary, name).await?);
        }
        Ok(read)
    }

    async fn change(
        &self,
        key: &Key,
        prerequisites: Vec<Prerequisite>,
        changes: Vec<Change>,
    ) -> Result<(), ChangeError> {
        let update = Update { zone: self.zone.name.clone(), prerequisites, changes };
        let signed = update.sign(key, (self.request.clock)())?;
        let answer = ask(self.zone.primary, &signed.bytes, self.request.transport).await?;
        Ok(signed.check(key, &answer)?)
    }

    /// Waits until all of the zone's servers are as `wanted`.
    async fn follow(
        &self,
        out: &mut dyn Write,
        wanted: &dyn Fn(&Addresses) -> bool,
    ) -> anyhow::Result<()> {
        if !self.is_so(self.zone.primary, wanted).await? {
            bail!(
                "{} said yes and has not changed the zone; look into its log",
                self.zone.primary_name
            );
        }
        let deadline = Instant::now() + self.request.wait;
        for (name, address) in &self.zone.servers {
            while !self.is_so(*address, wanted).await.unwrap_or(false) {
                if Instant::now() >= deadline {
                    // The failure itself, if that is what it was.
                    self.is_so(*address, wanted)
                        .await
                        .with_context(|| format!("the change is made, but not seen at {name}"))?;
                    bail!(
                        "the change is made, but {name} ({}) still has the old list after {}; \
                         is it told of changes (notify), and may it fetch the zone?",
                        address.ip(),
                        in_words(self.request.wait.as_secs())
                    );
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            writeln!(out, "{name} ({}): has it so", address.ip())?;
        }
        for name in &self.zone.lost {
            writeln!(out, "{name}: has no address, so nobody knows what it has; mend its name")?;
        }
        Ok(())
    }

    async fn is_so(
        &self,
        server: SocketAddr,
        wanted: &dyn Fn(&Addresses) -> bool,
    ) -> anyhow::Result<bool> {
        for name in &self.request.names {
            if !wanted(&addresses_at(server, name).await?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn will(&self, doing: &str) -> String {
        let at = &self.zone.primary_name;
        match self.request.dry_run {
            true => format!("would be done at {at} ({doing})"),
            false => format!("{doing} at {at}"),
        }
    }

    fn failed(&self) -> String {
        let Zone { name, primary_name, .. } = &self.zone;
        format!("the zone {} is not changed at {primary_name}", shown(name))
    }

    fn cached_s(&self, has: &Addresses) -> u32 {
        if has.all.is_empty() { self.zone.negative_ttl_s } else { has.ttl_s }
    }
}
