//! A zone as its own servers give it: who is primary, who else serves it, and what a name has.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, RecordType};

use super::exchange::{ExchangeError, Transport, ask};
use super::update::explain;

/// Where the system's resolver stands (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// DNS's port.
pub const DNS_PORT: u16 = 53;
/// Most servers of a zone that are asked.
pub const SERVERS_MAX: usize = 16;
/// Most addresses of one name that are looked at.
pub const ADDRESSES_MAX: usize = 256;

/// Why a zone is not known.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// No resolver is known.
    #[error("no DNS resolver in {RESOLV_CONF}; say one with --resolver")]
    NoResolver,
    /// Nobody answered.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The question cannot be asked.
    #[error("{name} cannot be asked for")]
    Question {
        /// The name.
        name: String,
        /// Why.
        source: hickory_proto::ProtoError,
    },
    /// The answer cannot be read.
    #[error("{server} answered something that is no DNS message")]
    Unreadable {
        /// Who.
        server: SocketAddr,
        /// Why.
        source: hickory_proto::serialize::binary::DecodeError,
    },
    /// The answer is a refusal.
    #[error("{server} says {code} to {name}: {}", explain(*.code))]
    Refused {
        /// Who.
        server: SocketAddr,
        /// What was asked.
        name: String,
        /// What it said.
        code: ResponseCode,
    },
    /// No zone holds the name.
    #[error("no zone is found that holds {name}; say it with --zone")]
    NoZone {
        /// The name.
        name: String,
    },
    /// A name has no address.
    #[error("{name} has no address, so it cannot be asked; {remedy}")]
    NoAddress {
        /// The name.
        name: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The name is another name.
    #[error(
        "{name} is an alias (CNAME), and an alias can have no addresses; remove it from the zone"
    )]
    Alias {
        /// The name.
        name: String,
    },
}

/// Servers that find names for others.
#[derive(Debug, Clone)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// The one given, or the system's.
    ///
    /// # Errors
    /// [`ZoneError::NoResolver`].
    pub fn new(given: Option<SocketAddr>) -> Result<Self, ZoneError> {
        let servers = match given {
            Some(server) => vec![server],
            None => {
                let text = std::fs::read_to_string(Path::new(RESOLV_CONF)).unwrap_or_default();
                name_servers(&text)
            }
        };
        if servers.is_empty() { Err(ZoneError::NoResolver) } else { Ok(Self { servers }) }
    }

    /// The addresses of a name, of both families. None is no error.
    ///
    /// # Errors
    /// See [`ZoneError`].
    pub async fn addresses(&self, name: &Name) -> Result<Vec<IpAddr>, ZoneError> {
        let mut addresses = Vec::new();
        for record_type in [RecordType::A, RecordType::AAAA] {
            let message = self.query(name, record_type).await?;
            addresses.extend(message.answers.iter().filter_map(|record| address(&record.data)));
        }
        addresses.truncate(ADDRESSES_MAX);
        Ok(addresses)
    }

    async fn query(&self, name: &Name, record_type: RecordType) -> Result<Message, ZoneError> {
        let mut last = ZoneError::NoResolver;
        for server in &self.servers {
            match query(*server, name, record_type, true).await {
                Ok(message) => return Ok(message),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A zone and its servers.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Its name.
    pub name: Name,
    /// Where updates go.
    pub primary: SocketAddr,
    /// What the primary is called; the address, where it was given as such.
    pub primary_name: String,
    /// All servers that have an address, by name.
    pub servers: Vec<(String, SocketAddr)>,
    /// Names of servers for which no address is found.
    pub lost: Vec<String>,
    /// How long a name that is not there is remembered as such, in seconds (RFC 2308 section 5).
    pub negative_ttl_s: u32,
}

/// What a name has at one server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// Sorted.
    pub all: BTreeSet<IpAddr>,
    /// The longest of their times to live, in seconds; 0 without any.
    pub ttl_s: u32,
}

impl Addresses {
    /// Those of the family of `record_type`.
    #[must_use]
    pub fn of(&self, record_type: RecordType) -> Vec<IpAddr> {
        self.all.iter().copied().filter(|address| type_of(*address) == record_type).collect()
    }
}

impl Zone {
    /// The zone that holds `name`, or the one called `zone`, and its servers. `primary` is where
    /// updates go, if not where the zone itself says.
    ///
    /// # Errors
    /// See [`ZoneError`].
    pub async fn find(
        resolver: &Resolver,
        name: &Name,
        zone: Option<&Name>,
        primary: Option<SocketAddr>,
    ) -> Result<Self, ZoneError> {
        let (zone, soa) =
            match primary {
                // The primary knows its own zones, also those that no resolver knows yet.
                Some(server) => {
                    find_soa(name, zone, |name| async move {
                        query(server, &name, RecordType::SOA, false).await
                    })
                    .await?
                }
                None => {
                    find_soa(name, zone, |name| async move {
                        resolver.query(&name, RecordType::SOA).await
                    })
                    .await?
                }
            };
        let (primary, primary_name) = match primary {
            Some(server) => (server, server.to_string()),
            None => {
                let addresses = resolver.addresses(&soa.mname).await?;
                let address = addresses.first().ok_or_else(|| ZoneError::NoAddress {
                    name: shown(&soa.mname),
                    remedy: "say the zone's primary server with --server",
                })?;
                (SocketAddr::new(*address, DNS_PORT), shown(&soa.mname))
            }
        };
        let (mut servers, mut lost) = (Vec::new(), Vec::new());
        let answer = query(primary, &zone, RecordType::NS, false).await?;
        for record in answer.answers.iter().take(SERVERS_MAX) {
            let RData::NS(server) = &record.data else { continue };
            let name = shown(&server.0);
            let address = match addresses_at(primary, &server.0).await {
                Ok(Addresses { all, .. }) if !all.is_empty() => all.into_iter().next(),
                // The name is not in a zone of the primary's.
                _ => {
                    resolver.addresses(&server.0).await.ok().and_then(|all| all.into_iter().next())
                }
            };
            // One that is not found must not keep a site from leaving.
            match address {
                Some(address) => servers.push((name, SocketAddr::new(address, DNS_PORT))),
                None => lost.push(name),
            }
        }
        servers.sort();
        // Not of the answer that led here: some servers give that one a TTL of 0.
        let apex = query(primary, &zone, RecordType::SOA, false).await?;
        let negative_ttl_s = apex.answers.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
            _ => None,
        });
        let negative_ttl_s = negative_ttl_s.unwrap_or(soa.minimum);
        Ok(Self { name: zone, primary, primary_name, servers, lost, negative_ttl_s })
    }
}

/// What `name` has at `server`, which must be one of its zone's.
///
/// # Errors
/// See [`ZoneError`]; an alias is one.
pub async fn addresses_at(server: SocketAddr, name: &Name) -> Result<Addresses, ZoneError> {
    let mut found = Addresses::default();
    for record_type in [RecordType::A, RecordType::AAAA] {
        let message = query(server, name, record_type, false).await?;
        for record in &message.answers {
            if record.record_type() == RecordType::CNAME {
                return Err(ZoneError::Alias { name: shown(name) });
            }
            let Some(address) = address(&record.data) else { continue };
            if record.name == *name && found.all.len() < ADDRESSES_MAX {
                found.all.insert(address);
                found.ttl_s = found.ttl_s.max(record.ttl);
            }
        }
    }
    Ok(found)
}

/// A or AAAA.
#[must_use]
pub fn type_of(address: IpAddr) -> RecordType {
    match address {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    }
}

/// Without the dot at its end.
#[must_use]
pub fn shown(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').filter(|text| !text.is_empty()).unwrap_or(&text).to_owned()
}

async fn query(
    server: SocketAddr,
    name: &Name,
    record_type: RecordType,
    recursive: bool,
) -> Result<Message, ZoneError> {
    let mut message = Message::query();
    message.metadata.recursion_desired = recursive;
    message.add_query(Query::query(name.clone(), record_type));
    let bytes =
        message.to_vec().map_err(|source| ZoneError::Question { name: shown(name), source })?;
    let answer = ask(server, &bytes, Transport::Udp).await?;
    let answer =
        Message::from_vec(&answer).map_err(|source| ZoneError::Unreadable { server, source })?;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(ZoneError::Refused { server, name: shown(name), code }),
    }
}

/// The zone round `name` by its SOA record: that of the answer, or the one that an answer without
/// records names (RFC 2308 section 3).
async fn find_soa<F>(
    name: &Name,
    zone: Option<&Name>,
    ask: impl Fn(Name) -> F,
) -> Result<(Name, SOA), ZoneError>
where
    F: Future<Output = Result<Message, ZoneError>>,
{
    let asked = zone.unwrap_or(name);
    let message = ask(asked.clone()).await?;
    let found = message.answers.iter().chain(&message.authorities).find_map(|record| {
        let RData::SOA(soa) = &record.data else { return None };
        record.name.zone_of(name).then(|| (record.name.clone(), soa.clone()))
    });
    found
        .filter(|(owner, _)| zone.is_none_or(|zone| zone == owner))
        .ok_or_else(|| ZoneError::NoZone { name: shown(name) })
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// The `nameserver` lines of a resolv.conf.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .map(|address: IpAddr| SocketAddr::new(address, DNS_PORT))
        .take(SERVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read() {
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\n nameserver\t2001:db8::1\n\
                    nameserver x\noptions edns0\n";
        let servers = name_servers(text);
        assert_eq!(servers, ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
    }

    #[test]
    fn addresses_are_told_apart() {
        let all = ["192.0.2.2", "2001:db8::1", "192.0.2.1"].map(|a| a.parse().unwrap());
        let addresses = Addresses { all: all.into_iter().collect(), ttl_s: 5 };
        let expected: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|a| a.parse().unwrap());
        assert_eq!(addresses.of(RecordType::A), expected);
        assert_eq!(addresses.of(RecordType::AAAA).len(), 1);
        assert_eq!(shown(&Name::from_ascii("a.b.").unwrap()), "a.b");
        assert_eq!(shown(&Name::root()), ".");
    }
}
