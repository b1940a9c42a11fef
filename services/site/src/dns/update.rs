//! Updates of a zone (RFC 2136), signed and answered with TSIG (RFC 8945).
//!
//! Only ever adds or removes single addresses: a site knows its own, and those of others are not
//! its to touch. [`Update::sign`] gives the bytes to send, [`Signed::check`] says what became of them.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::TSigVerifier;
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::key::{FUDGE_S, Key};

/// What must be so for the update to be done at all (RFC 2136 section 2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prerequisite {
    /// The name has exactly these addresses of their family; not empty.
    Exactly(Name, Vec<IpAddr>),
    /// The name has no records of that type.
    Absent(Name, RecordType),
}

/// One address more or less (RFC 2136 section 2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// No error when it is there; it then gets this TTL.
    Add {
        /// Whose address.
        name: Name,
        /// Which.
        address: IpAddr,
        /// How long it may be kept, in seconds.
        ttl_s: u32,
    },
    /// No error when it is not there.
    Remove {
        /// Whose address.
        name: Name,
        /// Which.
        address: IpAddr,
    },
}

/// Changes of one zone that are done together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The zone's name.
    pub zone: Name,
    /// Checked first.
    pub prerequisites: Vec<Prerequisite>,
    /// Done then.
    pub changes: Vec<Change>,
}

/// An update ready to be sent, and what its answer has to be checked against.
pub struct Signed {
    /// The message.
    pub bytes: Vec<u8>,
    id: u16,
    now_s: u64,
    verifier: Option<TSigVerifier>,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signed").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What can become of an update other than that it is done. Displays as `what; what to do`.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Too many changes for one message, or no randomness.
    #[error("the update cannot be put into a DNS message; change fewer addresses at once")]
    Encode(#[source] hickory_proto::ProtoError),
    /// The answer is no DNS message.
    #[error("what the server answered is no DNS message; is this its address, and DNS its port?")]
    Unreadable(#[source] hickory_proto::serialize::binary::DecodeError),
    /// The answer belongs to something else.
    #[error(
        "the server answered something that was not asked; say it with --server if another one \
             is the primary"
    )]
    NotTheAnswer,
    /// TSIG error BADKEY.
    #[error(
        "BADKEY: the server does not know the key {name} with {algorithm}, or (Knot) no acl of the \
         zone names it; write name and algorithm as in the server's settings, or give it the key"
    )]
    BadKey {
        /// Our key.
        name: Name,
        /// Its algorithm.
        algorithm: String,
    },
    /// TSIG error BADSIG.
    #[error(
        "BADSIG: the server has a key {name}, but with another secret; \
         copy the secret from the server's settings anew"
    )]
    BadSignature {
        /// Our key.
        name: Name,
    },
    /// TSIG error BADTIME.
    #[error(
        "BADTIME: this machine's clock and the server's differ by {}, and at most {} are allowed; \
         set this clock (chronyc makestep), or the server's",
        in_words(*apart_s), in_words(u64::from(FUDGE_S))
    )]
    BadTime {
        /// By how much, in seconds.
        apart_s: u64,
    },
    /// The set is not as the prerequisites want it.
    #[error("somebody else changed the same name at this moment; nothing was changed, try again")]
    Conflict,
    /// Any other refusal.
    #[error("{code}: {}", explain(*.code))]
    Refused {
        /// The server's.
        code: ResponseCode,
    },
    /// The answer says yes, without a signature.
    #[error(
        "the server's yes is not signed, so anybody could have said it; \
         let the server demand the key for updates of this zone"
    )]
    Unsigned,
    /// The answer's signature is not right.
    #[error(
        "the answer's signature is not made with this key; somebody between may have changed it"
    )]
    Forged(#[source] hickory_proto::ProtoError),
}

impl Update {
    /// The message, signed. `now_s` is the time of the signature, in seconds since 1970.
    ///
    /// # Errors
    /// [`UpdateError::Encode`].
    pub fn sign(&self, key: &Key, now_s: u64) -> Result<Signed, UpdateError> {
        let mut message = self.message();
        let (tsig, verifier) =
            key.signer().sign_message(&message, now_s).map_err(UpdateError::Encode)?;
        message.set_signature(tsig);
        let bytes = message.to_vec().map_err(UpdateError::Encode)?;
        Ok(Signed { bytes, id: message.metadata.id, now_s, verifier })
    }

    fn message(&self) -> Message {
        // For its id, which nobody must guess.
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        message.add_query(Query::query(self.zone.clone(), RecordType::SOA));
        // The sections of a query under other names (RFC 2136 section 2.2).
        message.add_answers(self.prerequisites.iter().flat_map(Prerequisite::records));
        message.add_authorities(self.changes.iter().map(Change::record));
        message
    }
}

impl Prerequisite {
    fn records(&self) -> Vec<Record> {
        match self {
            // Section 2.4.2: the class of the zone, TTL 0, the data.
            Self::Exactly(name, addresses) => addresses
                .iter()
                .map(|address| Record::from_rdata(name.clone(), 0, rdata(*address)))
                .collect(),
            // Section 2.4.3: class NONE, TTL 0, no data.
            Self::Absent(name, record_type) => {
                let mut record = Record::update0(name.clone(), 0, *record_type);
                record.dns_class = DNSClass::NONE;
                vec![record]
            }
        }
    }
}

impl Change {
    fn record(&self) -> Record {
        match self {
            // Section 2.5.1.
            Self::Add { name, address, ttl_s } => {
                Record::from_rdata(name.clone(), *ttl_s, rdata(*address))
            }
            // Section 2.5.4: class NONE, TTL 0, the data.
            Self::Remove { name, address } => {
                let mut record = Record::from_rdata(name.clone(), 0, rdata(*address));
                record.dns_class = DNSClass::NONE;
                record
            }
        }
    }
}

impl Signed {
    /// What the server's answer says. `key` is the one it was signed with.
    ///
    /// # Errors
    /// Everything but that the update is done.
    pub fn check(self, key: &Key, answer: &[u8]) -> Result<(), UpdateError> {
        let message = Message::from_vec(answer).map_err(UpdateError::Unreadable)?;
        let metadata = &message.metadata;
        if metadata.id != self.id
            || metadata.message_type != MessageType::Response
            || metadata.op_code != OpCode::Update
        {
            return Err(UpdateError::NotTheAnswer);
        }
        let signature = message.signature();
        let code = metadata.response_code;
        // Before the signature: some of these answers cannot have one (RFC 8945 section 5.2).
        match signature.and_then(|record| record.data.error) {
            None => {}
            Some(TsigError::BadKey) => {
                let (name, algorithm) = (key.name().clone(), key.algorithm().to_string());
                return Err(UpdateError::BadKey { name, algorithm });
            }
            Some(TsigError::BadSig | TsigError::BadTrunc) => {
                return Err(UpdateError::BadSignature { name: key.name().clone() });
            }
            Some(TsigError::BadTime) => {
                let other = signature.map(|record| record.data.other.as_slice());
                let theirs = other.and_then(seconds_48).unwrap_or(self.now_s);
                return Err(UpdateError::BadTime { apart_s: theirs.abs_diff(self.now_s) });
            }
            Some(TsigError::Unknown(_)) => return Err(UpdateError::Refused { code }),
        }
        match code {
            ResponseCode::NoError => {}
            ResponseCode::NXRRSet | ResponseCode::YXRRSet => return Err(UpdateError::Conflict),
            code => return Err(UpdateError::Refused { code }),
        }
        if signature.is_none() {
            return Err(UpdateError::Unsigned);
        }
        let mut verifier = self.verifier.ok_or(UpdateError::Unsigned)?;
        verifier.verify(answer).map(drop).map_err(UpdateError::Forged)
    }
}

pub(crate) fn rdata(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

/// A server's clock, as BADTIME tells it (RFC 8945 section 5.2.3).
fn seconds_48(bytes: &[u8]) -> Option<u64> {
    let bytes: [u8; 6] = bytes.try_into().ok()?;
    Some(bytes.iter().fold(0, |seconds, byte| seconds << 8 | u64::from(*byte)))
}

/// What a refusal means, and what to do.
#[must_use]
pub fn explain(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NotAuth => {
            "the server does not serve this zone, or does not take the key for it; \
             say the zone with --zone and its primary server with --server"
        }
        ResponseCode::NotZone => {
            "the name is not in the zone that was named; write a --zone that the domain ends in"
        }
        ResponseCode::Refused => {
            "the server lets this key not change these names; \
             allow it (BIND: update-policy, Knot: an acl with action: update), or use another key"
        }
        ResponseCode::FormErr => "the server cannot read the update; is it very old?",
        ResponseCode::ServFail => {
            "the server failed; look into its log (a zone file or journal it cannot write?)"
        }
        ResponseCode::NotImp => {
            "the server knows no updates; change the zone by hand, as dns-change.txt says"
        }
        ResponseCode::NXDomain => "a name that must be there is not there",
        ResponseCode::YXDomain => "a name is there that must not be",
        ResponseCode::NXRRSet | ResponseCode::YXRRSet => "the records are not as they were",
        _ => "the server gives no other reason; look into its log",
    }
}

/// Seconds as `20 minutes`, `90 seconds`, `2 hours`.
#[must_use]
pub fn in_words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        s if s != 0 && s.is_multiple_of(86_400) => (s / 86_400, "day"),
        s if s != 0 && s.is_multiple_of(3_600) => (s / 3_600, "hour"),
        s if s != 0 && s.is_multiple_of(60) => (s / 60, "minute"),
        // Nobody wants to know the seconds of days.
        s if s > 2 * 86_400 => (s / 86_400, "day"),
        s if s > 2 * 3_600 => (s / 3_600, "hour"),
        s if s > 10 * 60 => (s / 60, "minute"),
        s => (s, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
