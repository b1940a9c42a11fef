//! Datagrams of multicast DNS, by hickory-proto: what one says about one name, and those we send.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Of a question: an answer to the asking one alone is wanted (section 5.4). Of a record: what was known
/// before is void (section 10.2).
const TOP_BIT: u16 = 1 << 15;
/// The class of all there is.
const IN: u16 = 1;
/// Any class (RFC 1035 section 3.2.5).
const ANY: u16 = 255;
/// What an asking one knows counts if it lasts for at least half of its time (section 7.1), in seconds.
const KNOWN_TTL_S_MIN: u32 = super::TTL_S / 2;

/// What a datagram says about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) kind: Kind,
    pub(super) id: u16,
    /// Questions about it.
    pub(super) asked: Vec<Asked>,
    /// Addresses that a question gives for it as known, and whether they last.
    pub(super) known: Vec<(IpAddr, bool)>,
    /// Addresses that an asking one wants the name for.
    pub(super) claimed: Vec<IpAddr>,
    /// Addresses that an answer gives for it.
    pub(super) told: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Question,
    Answer,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    query: Query,
    pub(super) v4: bool,
    pub(super) v6: bool,
    pub(super) unicast: bool,
}

/// Reads a datagram; `None` for one that is none, or says nothing about this name.
pub(super) fn read(bytes: &[u8], name: &str) -> Option<Heard> {
    let bytes = bytes.get(..super::DATAGRAM_BYTES_MAX).unwrap_or(bytes);
    let message = Message::from_vec(bytes).ok()?;
    let meta = &message.metadata;
    // Section 18.3: other operations are not looked at; the response code is not either (18.11).
    if meta.op_code != OpCode::Query {
        return None;
    }
    let name = absolute(name)?;
    let of = |records: &[Record]| -> Vec<(IpAddr, u32)> {
        records.iter().filter_map(|record| address_of(record, &name)).collect()
    };
    let plain = |records: &[Record]| of(records).into_iter().map(|(ip, _)| ip).collect::<Vec<_>>();
    let asked: Vec<Asked> =
        message.queries.iter().filter_map(|query| asked_of(query, &name)).collect();
    let heard = match meta.message_type {
        MessageType::Query => Heard {
            kind: Kind::Question,
            id: meta.id,
            known: of(&message.answers)
                .into_iter()
                .map(|(ip, ttl)| (ip, ttl >= KNOWN_TTL_S_MIN))
                .collect(),
            claimed: plain(&message.authorities),
            told: Vec::new(),
            asked,
        },
        MessageType::Response => {
            // What is told to end (section 10.1) is nobody's.
            let told = [of(&message.answers), of(&message.additionals)].concat();
            let told = told.into_iter().filter(|(_, ttl)| *ttl > 0).map(|(ip, _)| ip).collect();
            Heard {
                kind: Kind::Answer,
                id: meta.id,
                asked: Vec::new(),
                known: Vec::new(),
                claimed: Vec::new(),
                told,
            }
        }
    };
    (!heard.asked.is_empty() || !heard.told.is_empty()).then_some(heard)
}

/// Whether somebody has the name, and for which addresses we want it (section 8.1).
pub(super) fn probe(name: &str, addresses: &[IpAddr], ttl_s: u32) -> Option<Vec<u8>> {
    let name = absolute(name)?;
    let mut query = Query::query(name.clone(), RecordType::ANY);
    query.query_class = DNSClass::from(IN | TOP_BIT);
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(query);
    // The name is nobody's yet, so nothing is void (section 10.2).
    message.add_authorities(records(&name, addresses, ttl_s, IN));
    message.to_vec().ok()
}

/// Who has the name (section 6).
pub(super) fn answer(name: &str, addresses: &[IpAddr], ttl_s: u32) -> Option<Vec<u8>> {
    let name = absolute(name)?;
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message.add_answers(records(&name, addresses, ttl_s, IN | TOP_BIT));
    message.to_vec().ok()
}

/// Likewise for a resolver that expects an answer as of a DNS server (section 6.7).
pub(super) fn legacy(id: u16, asked: &Asked, addresses: &[IpAddr], ttl_s: u32) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message.add_query(asked.query.clone());
    let wanted: Vec<IpAddr> = addresses
        .iter()
        .copied()
        .filter(|ip| if ip.is_ipv4() { asked.v4 } else { asked.v6 })
        .collect();
    message.add_answers(records(&asked.query.name, &wanted, ttl_s, IN));
    message.to_vec().ok()
}

/// Addresses in the order of section 8.2.1: by type, then by their bytes.
pub(super) fn order(addresses: &[IpAddr]) -> Vec<(u16, Vec<u8>)> {
    let mut order: Vec<(u16, Vec<u8>)> = addresses
        .iter()
        .map(|ip| match ip {
            IpAddr::V4(ip) => (RecordType::A.into(), ip.octets().to_vec()),
            IpAddr::V6(ip) => (RecordType::AAAA.into(), ip.octets().to_vec()),
        })
        .collect();
    order.sort_unstable();
    order
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn asked_of(query: &Query, name: &Name) -> Option<Asked> {
    let class = u16::from(query.query_class);
    if query.name != *name || ![IN, ANY].contains(&(class & !TOP_BIT)) {
        return None;
    }
    let (v4, v6) = match query.query_type {
        RecordType::A => (true, false),
        RecordType::AAAA => (false, true),
        RecordType::ANY => (true, true),
        _ => return None,
    };
    Some(Asked { query: query.clone(), v4, v6, unicast: class & TOP_BIT != 0 })
}

fn address_of(record: &Record, name: &Name) -> Option<(IpAddr, u32)> {
    let class = u16::from(record.dns_class) & !TOP_BIT;
    if record.name != *name || class != IN {
        return None;
    }
    match &record.data {
        RData::A(A(ip)) => Some(((*ip).into(), record.ttl)),
        RData::AAAA(AAAA(ip)) => Some(((*ip).into(), record.ttl)),
        _ => None,
    }
}

fn records(name: &Name, addresses: &[IpAddr], ttl_s: u32, class: u16) -> Vec<Record> {
    let record = |ip: &IpAddr| {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(A(*ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
        };
        let mut record = Record::from_rdata(name.clone(), ttl_s, data);
        record.dns_class = DNSClass::from(class);
        record
    };
    addresses.iter().map(record).collect()
}
