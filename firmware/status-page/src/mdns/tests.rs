//! Boxes and others on one wire, in virtual time.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const NAME: &str = "avr-0200.local.";

fn address(text: &str) -> Address {
    let (ip, prefix) = text.split_once('/').unwrap();
    Address { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

fn own() -> Vec<Address> {
    vec![address("192.0.2.7/24"), address("2001:db8::7/64")]
}

fn peer(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], port))
}

/// Sends all that is due until nothing is; what was sent, and when.
fn run(responder: &mut Responder, now: &mut Duration) -> Vec<(Duration, Transmit)> {
    let mut sent = Vec::new();
    loop {
        while let Some(datagram) = responder.transmit() {
            sent.push((*now, datagram));
        }
        let Some(due) = responder.deadline() else { return sent };
        *now = (*now).max(due);
        responder.tick(*now);
    }
}

/// One that has its name, some seconds ago.
fn steady() -> (Responder, Duration) {
    let mut responder = Responder::new("avr-0200");
    let mut now = SECOND;
    responder.set_addresses(own(), Duration::ZERO, now);
    run(&mut responder, &mut now);
    (responder, now + 10 * SECOND)
}

fn question(name: &str, kind: RecordType, class: u16) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    let mut query = Query::query(Name::from_ascii(name).unwrap(), kind);
    query.query_class = DNSClass::from(class);
    message.add_query(query);
    message
}

fn record(ip: [u8; 4], ttl: u32) -> Record {
    Record::from_rdata(Name::from_ascii(NAME).unwrap(), ttl, RData::A(A(ip.into())))
}

fn told(ip: [u8; 4], ttl: u32) -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.add_answer(record(ip, ttl));
    message.to_vec().unwrap()
}

fn ask(
    responder: &mut Responder,
    message: &Message,
    from: SocketAddr,
    now: Duration,
) -> Vec<Transmit> {
    responder.receive(&message.to_vec().unwrap(), from, now);
    std::iter::from_fn(|| responder.transmit()).collect()
}

#[test]
fn a_name_is_asked_for_three_times_and_told_twice() {
    let mut responder = Responder::new("avr-0200");
    let mut now = Duration::ZERO;
    assert_eq!(responder.deadline(), None, "without addresses it is silent");
    responder.set_addresses(own(), Duration::from_millis(100), now);
    let sent = run(&mut responder, &mut now);
    let times: Vec<u128> = sent.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(times, [100, 350, 600, 850, 1850]);
    assert!(sent.iter().all(|(_, datagram)| datagram.to == GROUP));
    let probe = Message::from_vec(&sent[0].1.bytes).unwrap();
    assert_eq!(probe.metadata.message_type, MessageType::Query);
    assert_eq!(probe.queries[0].query_type, RecordType::ANY);
    assert_eq!(u16::from(probe.queries[0].query_class), 0x8001);
    assert_eq!(probe.authorities.len(), 2);
    let announcement = Message::from_vec(&sent[3].1.bytes).unwrap();
    assert!(announcement.metadata.authoritative);
    assert_eq!(announcement.answers.len(), 2);
    for record in &announcement.answers {
        assert_eq!((u16::from(record.dns_class), record.ttl), (0x8001, 120));
        assert_eq!(record.name.to_ascii(), NAME);
    }
    // The same addresses again change nothing; others are told anew.
    responder.set_addresses(own(), Duration::ZERO, now);
    assert_eq!(responder.deadline(), None);
    responder.set_addresses(own()[..1].to_vec(), Duration::ZERO, now);
    assert_eq!(run(&mut responder, &mut now).len(), 5);
    responder.set_addresses(own()[1..].to_vec(), Duration::ZERO, now);
    assert_eq!(responder.deadline(), None, "without an IPv4 address it is silent");
}

#[test]
fn who_asks_gets_what_was_asked_for() {
    let (mut responder, now) = steady();
    for (kind, answers) in [(RecordType::A, 1), (RecordType::AAAA, 1), (RecordType::ANY, 2)] {
        let (mut responder, now) = steady();
        let sent = ask(&mut responder, &question(NAME, kind, 1), peer(9, PORT), now);
        assert_eq!(sent[0].to, GROUP);
        let message = Message::from_vec(&sent[0].bytes).unwrap();
        assert_eq!((message.answers.len(), message.metadata.id), (answers, 0));
        assert!(message.queries.is_empty());
    }
    // Letters of either case are the same; other names, kinds and classes are nobody's business.
    assert_eq!(
        ask(&mut responder, &question("AVR-0200.Local.", RecordType::A, 1), peer(9, PORT), now)
            .len(),
        1
    );
    for other in [
        question("avr-0201.local.", RecordType::A, 1),
        question(NAME, RecordType::TXT, 1),
        question(NAME, RecordType::A, 3),
    ] {
        assert_eq!(ask(&mut responder, &other, peer(9, PORT), now + 10 * SECOND), []);
    }
    // Nor is what comes through a router.
    let far = "198.51.100.9:5353".parse().unwrap();
    assert_eq!(ask(&mut responder, &question(NAME, RecordType::A, 1), far, now + 10 * SECOND), []);
}

#[test]
fn a_simple_resolver_gets_an_answer_as_of_a_server() {
    let (mut responder, now) = steady();
    let sent = ask(&mut responder, &question(NAME, RecordType::A, 1), peer(9, 40_000), now);
    assert_eq!(SocketAddr::from(sent[0].to), peer(9, 40_000));
    let message = Message::from_vec(&sent[0].bytes).unwrap();
    assert_eq!((message.metadata.id, message.queries.len()), (77, 1));
    assert_eq!((u16::from(message.answers[0].dns_class), message.answers[0].ttl), (1, 10));
    // Who asks too often is not answered any more, in that second.
    let many: usize = (0..200)
        .map(|_| ask(&mut responder, &question(NAME, RecordType::A, 1), peer(9, 40_000), now).len())
        .sum();
    assert_eq!(many, 49);
    assert_eq!(
        ask(&mut responder, &question(NAME, RecordType::A, 1), peer(9, 40_000), now + SECOND).len(),
        1
    );
}

#[test]
fn nothing_is_said_twice_or_too_often() {
    let (mut responder, now) = steady();
    let mut knowing = question(NAME, RecordType::A, 1);
    knowing.add_answer(record([192, 0, 2, 7], 100));
    assert_eq!(ask(&mut responder, &knowing, peer(9, PORT), now), []);
    let mut forgetting = question(NAME, RecordType::A, 1);
    forgetting.add_answer(record([192, 0, 2, 7], 50));
    assert_eq!(ask(&mut responder, &forgetting, peer(9, PORT), now).len(), 1);
    assert_eq!(ask(&mut responder, &question(NAME, RecordType::A, 1), peer(8, PORT), now), []);
    // A host that wants the name gets its answer soon, and so loses it.
    let mut probe = question(NAME, RecordType::ANY, 1);
    probe.add_authority(record([192, 0, 2, 99], 120));
    let soon = now + Duration::from_millis(300);
    assert_eq!(ask(&mut responder, &probe, peer(8, PORT), soon).len(), 1);
    // Who wants it alone gets it alone, as long as others have heard of it lately.
    let alone = question(NAME, RecordType::A, 0x8001);
    let sent = ask(&mut responder, &alone, peer(8, PORT), soon);
    assert_eq!(SocketAddr::from(sent[0].to), peer(8, PORT));
    assert_eq!(ask(&mut responder, &alone, peer(8, PORT), soon + 60 * SECOND)[0].to, GROUP);
}

#[test]
fn a_name_that_others_have_is_left_to_them() {
    let mut responder = Responder::new("avr-0200");
    let mut now = SECOND;
    responder.set_addresses(own(), Duration::ZERO, now);
    responder.tick(now);
    responder.receive(&told([192, 0, 2, 50], 120), peer(50, PORT), now);
    assert_eq!(responder.name(), "avr-0200-2.local");
    let sent = run(&mut responder, &mut now);
    let last = Message::from_vec(&sent.last().unwrap().1.bytes).unwrap();
    assert_eq!(last.answers[0].name.to_ascii(), "avr-0200-2.local.");
    // Each name is somebody's: it goes on asking, but slowly.
    responder.set_addresses(own()[..1].to_vec(), Duration::ZERO, now);
    for _ in 0..40 {
        let message = Message::from_vec(&told([192, 0, 2, 50], 120)).unwrap();
        let mut message = message;
        message.answers[0].name = Name::from_ascii(responder.name() + ".").unwrap();
        responder.receive(&message.to_vec().unwrap(), peer(50, PORT), now);
    }
    assert_eq!(responder.name(), "avr-0200-42.local");
    assert_eq!(responder.deadline(), Some(now + CONFLICT_WAIT));
}

#[test]
fn a_name_that_is_claimed_is_asked_for_anew() {
    let (mut responder, mut now) = steady();
    // What says that it ends, what comes from a wrong port, and our own words, are no claim.
    responder.receive(&told([192, 0, 2, 50], 0), peer(50, PORT), now);
    responder.receive(&told([192, 0, 2, 50], 120), peer(50, 40_000), now);
    responder.receive(&told([192, 0, 2, 7], 120), peer(50, PORT), now);
    assert_eq!(responder.deadline(), None);
    responder.receive(&told([192, 0, 2, 50], 120), peer(50, PORT), now);
    assert_eq!(run(&mut responder, &mut now).len(), 5, "nobody has it: it stays ours");
    assert_eq!(responder.name(), "avr-0200.local");
}

#[test]
fn of_two_who_ask_at_once_the_greater_has_it() {
    let probe_of = |ip: [u8; 4]| {
        let mut probe = question(NAME, RecordType::ANY, 0x8001);
        probe.add_authority(record(ip, 120));
        probe
    };
    let now = SECOND;
    for (ip, wait) in [([192, 0, 2, 6], PROBE_STEP), ([192, 0, 2, 8], LOST_WAIT)] {
        let mut responder = Responder::new("avr-0200");
        responder.set_addresses(own()[..1].to_vec(), Duration::ZERO, now);
        responder.tick(now);
        ask(&mut responder, &probe_of(ip), peer(8, PORT), now);
        assert_eq!(responder.deadline(), Some(now + wait), "{ip:?}");
        assert_eq!(responder.name(), "avr-0200.local");
    }
}

proptest! {
    /// Whatever is sent to it, and whenever: it stays bounded, and goes on answering.
    #[test]
    fn no_bytes_stop_it(
        datagrams in proptest::collection::vec(
            (any::<Vec<u8>>(), any::<u8>(), any::<u16>(), 0_u64..3_000), 0..20),
        cut in 0_usize..60, flip in 0_usize..480,
    ) {
        let (mut responder, mut now) = steady();
        let mut claimed = question(NAME, RecordType::ANY, 0x8001);
        claimed.add_authority(record([192, 0, 2, 99], 120));
        let mut nearly = claimed.to_vec().unwrap();
        let bit = flip % (nearly.len() * 8);
        nearly[bit / 8] ^= 1 << (bit % 8);
        nearly.truncate(nearly.len() - cut.min(nearly.len()));
        responder.receive(&nearly, peer(3, PORT), now);
        for (bytes, last, port, wait) in datagrams {
            now += Duration::from_millis(wait);
            responder.receive(&bytes, peer(last, port), now);
            responder.tick(now);
            prop_assert!(responder.waiting.len() <= WAITING_MAX);
        }
        run(&mut responder, &mut now);
        now += 10 * SECOND;
        let name = responder.name() + ".";
        prop_assert_eq!(
            ask(&mut responder, &question(&name, RecordType::A, 1), peer(9, 40_000), now).len(), 1);
    }
}
