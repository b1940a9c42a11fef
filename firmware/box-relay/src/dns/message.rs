//! DNS questions and answers (RFC 1035), by hickory-proto. Sans-IO.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::directory::Answer;
use crate::limits::{ADDRESSES_MAX, CNAMES_MAX};

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// One question, with the number that its answer must carry.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    id: u16,
    query: Query,
}

/// What a datagram or TCP message turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Not the answer to this question: garbage, another number, another name. Wait on.
    NotOurs,
    /// It did not fit (RFC 1035 section 4.1.1, TC): ask again by TCP.
    Truncated,
    /// The resolver cannot help.
    Failed(ResponseCode),
    /// The answer; no addresses if the name has none of this family or does not exist.
    Answer(Answer),
}

impl Question {
    /// A question for `name`, which must be absolute.
    pub(crate) fn new(name: &Name, family: Family, id: u16) -> Self {
        let record_type = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        let mut name = name.clone();
        name.set_fqdn(true);
        Self { id, query: Query::query(name, record_type) }
    }

    /// The bytes to send. No EDNS: office routers answer the plain form most reliably, 512 bytes
    /// hold 29 IPv4 addresses, and TCP takes what is longer.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        message.to_vec().ok()
    }

    /// Reads what came back. Believes nothing that does not repeat number and question.
    pub(crate) fn read(&self, bytes: &[u8]) -> Reading {
        let Ok(message) = Message::from_vec(bytes) else { return Reading::NotOurs };
        let meta = &message.metadata;
        let ours = meta.id == self.id
            && meta.message_type == MessageType::Response
            && meta.op_code == OpCode::Query
            && matches!(message.queries.as_slice(), [query] if *query == self.query);
        if !ours {
            return Reading::NotOurs;
        }
        match meta.response_code {
            ResponseCode::NoError if meta.truncation => Reading::Truncated,
            ResponseCode::NoError => Reading::Answer(self.addresses(&message.answers)),
            ResponseCode::NXDomain => Reading::Answer(Answer { addresses: vec![], ttl_s: 0 }),
            code => Reading::Failed(code),
        }
    }

    /// The addresses of the name, through the CNAMEs that the same answer holds (RFC 1034 section
    /// 3.6.2), in the order received.
    fn addresses(&self, records: &[Record]) -> Answer {
        let mut name = &self.query.name;
        let mut ttl_s = u32::MAX;
        for _ in 0..=CNAMES_MAX {
            let mut addresses = Vec::new();
            let mut alias = None;
            for record in records.iter().filter(|r| r.name == *name && r.dns_class == DNSClass::IN)
            {
                let address = match (&record.data, self.query.query_type) {
                    (RData::A(a), RecordType::A) => IpAddr::V4(a.0),
                    (RData::AAAA(aaaa), RecordType::AAAA) => IpAddr::V6(aaaa.0),
                    (RData::CNAME(target), _) => {
                        alias = Some((&target.0, record.ttl));
                        continue;
                    }
                    _ => continue,
                };
                ttl_s = ttl_s.min(record.ttl);
                if addresses.len() < ADDRESSES_MAX && usable(address) {
                    addresses.push(address);
                }
            }
            match alias {
                Some((target, ttl)) if addresses.is_empty() => {
                    ttl_s = ttl_s.min(ttl);
                    name = target;
                }
                _ => return Answer { addresses, ttl_s },
            }
        }
        Answer { addresses: vec![], ttl_s: 0 }
    }
}

/// Puts both families' answers together: IPv4 first, as sites are reached by port forwarding, and
/// so that the second manager asked is another one and not the first by its other address.
pub(crate) fn join(v4: Option<Answer>, v6: Option<Answer>) -> Option<Answer> {
    let answers: Vec<Answer> =
        [v4, v6].into_iter().flatten().filter(|answer| !answer.addresses.is_empty()).collect();
    let ttl_s = answers.iter().map(|answer| answer.ttl_s).min()?;
    Some(Answer {
        addresses: answers.into_iter().flat_map(|answer| answer.addresses).collect(),
        ttl_s,
    })
}

/// Nobody can be reached at these, whatever a resolver says (a blocking one says 0.0.0.0).
fn usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, AAAA, CNAME};
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question() -> Question {
        Question::new(&name("manager.example."), Family::V4, 0x1234)
    }

    fn reply(question: &Question) -> Message {
        let mut message = Message::new(question.id, MessageType::Response, OpCode::Query);
        message.add_query(question.query.clone());
        message
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn read(question: &Question, message: &Message) -> Reading {
        question.read(&message.to_vec().unwrap())
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_question_is_the_plain_form() {
        let bytes = question().encode().unwrap();
        let expected = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x07manager\x07example\0\0\x01\0\x01";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn addresses_come_in_the_order_received_with_the_smallest_ttl() {
        let question = question();
        let mut message = reply(&question);
        message.add_answer(a("manager.example.", 1200, 9));
        message.add_answer(a("MANAGER.example.", 600, 1));
        message.add_answer(a("other.example.", 1, 5));
        let expected = Answer { addresses: vec![ip(9), ip(1)], ttl_s: 600 };
        assert_eq!(read(&question, &message), Reading::Answer(expected));
    }

    #[test]
    fn aliases_are_followed_in_the_answer_whatever_their_order() {
        let question = question();
        let mut message = reply(&question);
        message.add_answer(a("c.example.", 300, 7));
        message.add_answer(alias("b.example.", 50, "c.example."));
        message.add_answer(alias("manager.example.", 900, "b.example."));
        let expected = Answer { addresses: vec![ip(7)], ttl_s: 50 };
        assert_eq!(read(&question, &message), Reading::Answer(expected));
    }

    #[test]
    fn alias_loops_and_long_chains_end() {
        let question = question();
        let mut message = reply(&question);
        message.add_answer(alias("manager.example.", 900, "b.example."));
        message.add_answer(alias("b.example.", 900, "manager.example."));
        let nothing = Reading::Answer(Answer { addresses: vec![], ttl_s: 0 });
        assert_eq!(read(&question, &message), nothing);
        let mut message = reply(&question);
        message.add_answer(alias("manager.example.", 900, "n0.example."));
        for n in 0..=CNAMES_MAX {
            let (owner, target) = (format!("n{n}.example."), format!("n{}.example.", n + 1));
            message.add_answer(alias(&owner, 900, &target));
        }
        message.add_answer(a(&format!("n{}.example.", CNAMES_MAX + 1), 900, 1));
        assert_eq!(read(&question, &message), nothing);
    }

    #[test]
    fn what_is_not_the_answer_to_the_question_is_not_ours() {
        let question = question();
        let mut good = reply(&question);
        good.add_answer(a("manager.example.", 60, 1));
        let mut other_id = good.clone();
        other_id.metadata.id ^= 1;
        let mut a_query = good.clone();
        a_query.metadata.message_type = MessageType::Query;
        let mut other_name = good.clone();
        other_name.queries = vec![Query::query(name("other.example."), RecordType::A)];
        let mut other_type = good.clone();
        other_type.queries = vec![Query::query(name("manager.example."), RecordType::AAAA)];
        let mut no_question = good.clone();
        no_question.queries.clear();
        for message in [other_id, a_query, other_name, other_type, no_question] {
            assert_eq!(read(&question, &message), Reading::NotOurs, "{message:?}");
        }
        assert_eq!(question.read(b""), Reading::NotOurs);
        assert_eq!(question.read(&[0xff; 600]), Reading::NotOurs);
    }

    #[test]
    fn failures_truncation_and_names_that_do_not_exist_are_told_apart() {
        let question = question();
        let mut message = reply(&question);
        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(read(&question, &message), Reading::Failed(ResponseCode::ServFail));
        message.metadata.response_code = ResponseCode::NXDomain;
        let nothing = Reading::Answer(Answer { addresses: vec![], ttl_s: 0 });
        assert_eq!(read(&question, &message), nothing);
        message.metadata.response_code = ResponseCode::NoError;
        message.metadata.truncation = true;
        assert_eq!(read(&question, &message), Reading::Truncated);
    }

    #[test]
    fn addresses_that_nobody_has_and_too_many_are_left_out() {
        let question = question();
        let mut message = reply(&question);
        let nowhere = RData::A(A(Ipv4Addr::UNSPECIFIED));
        message.add_answer(Record::from_rdata(name("manager.example."), 60, nowhere));
        for last in 0..200 {
            message.add_answer(a("manager.example.", 60, last));
        }
        let Reading::Answer(answer) = read(&question, &message) else { panic!("an answer") };
        assert_eq!(answer.addresses.len(), ADDRESSES_MAX);
        assert_eq!(answer.addresses[0], ip(0));
    }

    #[test]
    fn families_are_joined_ipv4_first() {
        let question = Question::new(&name("manager.example"), Family::V6, 7);
        let mut message = reply(&question);
        let aaaa = RData::AAAA(AAAA(Ipv6Addr::LOCALHOST));
        message.add_answer(Record::from_rdata(name("manager.example."), 20, aaaa));
        let Reading::Answer(v6) = read(&question, &message) else { panic!("an answer") };
        let v4 = Answer { addresses: vec![ip(2), ip(1)], ttl_s: 30 };
        let none = Answer { addresses: vec![], ttl_s: 0 };
        let both = vec![ip(2), ip(1), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let joined = join(Some(v4.clone()), Some(v6)).unwrap();
        assert_eq!(joined, Answer { addresses: both, ttl_s: 20 });
        assert_eq!(join(Some(v4.clone()), Some(none.clone())), Some(v4.clone()));
        assert_eq!(join(Some(v4.clone()), None), Some(v4));
        assert_eq!(join(Some(none), None), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = question().read(&bytes);
        }

        #[test]
        fn no_broken_answer_panics(at in 0usize..200, value in proptest::num::u8::ANY, cut in 0usize..200) {
            let question = question();
            let mut message = reply(&question);
            message.add_answer(alias("manager.example.", 900, "b.example."));
            message.add_answer(a("b.example.", 60, 1));
            let mut bytes = message.to_vec().unwrap();
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            bytes.truncate(cut.max(1));
            let _ = question.read(&bytes);
        }
    }
}
