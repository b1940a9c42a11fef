//! The exact bytes of version 1, one frame a row. **Do not change this test.** A box in an office
//! and a server updated years later must agree on them: a new message gets a new row, and a change
//! to a row here is a change of the protocol, which needs a new version and its own file.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use crate::frame::{Decoder, encode};
use crate::revocation::{Revocation, RevocationPart, RevokedReason, SignedRevocations};
use crate::ticket::{KeyFingerprint, SignedTicket, Ticket, TicketSigner};
use crate::*;

/// RFC 8032 section 7.1, test 1, as PKCS#8.
const TICKET_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";

fn ticket() -> Ticket {
    Ticket {
        mac: MacAddress([2, 0, 0x5e, 0x10, 0, 1]),
        key: KeyFingerprint([0xab; 32]),
        not_before_s: 1_800_000_000,
        not_after_s: 1_800_086_400,
        sessions_max: 1000,
    }
}

fn signed() -> SignedTicket {
    SignedTicket { ticket: vec![0x11, 0x22, 0x33], signature: vec![0x44, 0x55] }
}

fn v4() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 10], 4652))
}

fn v6() -> SocketAddr {
    SocketAddr::from(([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x25], 25))
}

fn denied(reason: DeniedReason) -> Message {
    Message::Denied(Denied { reason })
}

fn refused(reason: RefusedReason) -> Message {
    Message::Refused(Refused { reason })
}

fn client(address: SocketAddr) -> Message {
    Message::Client(Client { address })
}

fn open(protocol: Protocol) -> Message {
    let session = SessionId([0xcd; 16]);
    let (ticket, destination) = (signed(), v6());
    Message::Open(Open {
        ticket,
        session,
        lease: LeaseId(300),
        destination,
        protocol,
        hops_left: 1,
    })
}

#[rustfmt::skip]
fn rows() -> Vec<(Message, &'static str)> {
    let hello =
        Hello { mac: MacAddress([2, 0, 0x5e, 0x10, 0, 1]), software: "avr 0.1".to_owned() };
    let bye = Bye {
        session: SessionId([0xcd; 16]), lease: LeaseId(300), bytes_up: 70_000, bytes_down: 5,
        messages: 3, infected: 2, unscannable: 1, opaque: true,
    };
    let revocations =
        SignedRevocations { part: vec![0x11, 0x22, 0x33], signature: vec![0x44, 0x55] };
    let load = Load { sequence: 9, load_average_milli: 1500, sessions: 200, draining: true };
    vec![
        (Message::Hello(hello), "010100000000000e 02005e1000010761767220302e31"),
        (Message::Ticket(signed()), "0102000000000007 03112233024455"),
        (denied(DeniedReason::Unknown), "0103000000000001 00"),
        (denied(DeniedReason::Suspended), "0103000000000001 01"),
        (denied(DeniedReason::EnrolmentClosed), "0103000000000001 02"),
        (denied(DeniedReason::OtherKey), "0103000000000001 03"),
        (denied(DeniedReason::TicketExpired), "0103000000000001 04"),
        (denied(DeniedReason::TicketOtherKey), "0103000000000001 05"),
        (denied(DeniedReason::TicketForged), "0103000000000001 06"),
        (denied(DeniedReason::Unavailable), "0103000000000001 07"),
        (Message::Assign(Assign { ticket: signed(), exclude: vec![v4(), v6()] }),
            "0104000000000021 031122330244550200cb00710aac240120010db800000000000000000000002519"),
        (Message::Use(Use { lease: LeaseId(300), proxy: v4(), alternates: vec![v6()] }),
            "010500000000001c ac0200cb00710aac24010120010db800000000000000000000002519"),
        (Message::Busy(Busy { retry_after_ms: 5000 }), "0106000000000002 8827"),
        (open(Protocol::Smtp),
            "010700000000002d \
             03112233024455cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdac020120010db800000000000000000000 \
             0025190001"),
        (open(Protocol::Pop3),
            "010700000000002d \
             03112233024455cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdac020120010db800000000000000000000 \
             0025190101"),
        (Message::Opening, "0108000000000000"),
        (Message::Opened(Opened { connect_ms: 42 }), "0109000000000001 2a"),
        (refused(RefusedReason::ServerRefused), "010a000000000001 00"),
        (refused(RefusedReason::ServerUnreachable), "010a000000000001 01"),
        (refused(RefusedReason::ServerTimedOut), "010a000000000001 02"),
        (refused(RefusedReason::Policy), "010a000000000001 03"),
        (refused(RefusedReason::Loop), "010a000000000001 04"),
        (refused(RefusedReason::Full), "010a000000000001 05"),
        (refused(RefusedReason::Draining), "010a000000000001 06"),
        (Message::Data(Bytes::from_static(b"220 hi\r\n")), "010b000000000008 3232302068690d0a"),
        (Message::Fin, "010c000000000000"),
        (Message::Reset, "010d000000000000"),
        (Message::Poll(Poll { sequence: 9 }), "010e000000000001 09"),
        (Message::Load(load), "010f000000000006 09dc0bc80101"),
        (Message::Bye(bye),
            "011000000000001a cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdac02f0a2040503020101"),
        (Message::Ping(u64::MAX), "011100000000000a ffffffffffffffffff01"),
        (Message::Pong(0), "0112000000000001 00"),
        (Message::Fetch(Fetch { after: 300 }), "0113000000000002 ac02"),
        (Message::Revocations(revocations), "0114000000000007 03112233024455"),
        (client(v4()), "0115000000000007 00cb00710aac24"),
        (client(v6()), "0115000000000012 0120010db800000000000000000000002519"),
    ]
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(text: &str) -> BytesMut {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect()
}

#[test]
fn version_1_is_written_as_it_always_was() {
    for (message, golden) in rows() {
        let mut bytes = BytesMut::new();
        encode(&message, &mut bytes).unwrap();
        assert_eq!(hexadecimal(&bytes), hexadecimal(&bytes_of(golden)), "{message:?}");
    }
}

#[test]
fn version_1_is_read_as_it_always_was() {
    for (message, golden) in rows() {
        let mut bytes = bytes_of(golden);
        assert_eq!(Decoder::new().decode(&mut bytes).unwrap(), Some(message));
        assert!(bytes.is_empty());
    }
}

#[test]
fn every_message_has_a_row() {
    let names: std::collections::BTreeSet<_> = rows().iter().map(|row| row.0.name()).collect();
    assert_eq!(names.len(), 21, "{names:?}");
}

#[test]
fn a_ticket_is_signed_as_it_always_was() {
    let signer = TicketSigner::from_pem(TICKET_KEY).unwrap();
    let signed = signer.sign(&ticket()).unwrap();
    assert_eq!(hexadecimal(&signed.ticket), TICKET);
    assert_eq!(hexadecimal(&signed.signature), SIGNATURE);
}

const TICKET: &str = concat!(
    "02005e100001",
    "abababababababababababababababababababababababababababababababab",
    "80a4a7da06",
    "80c7acda06",
    "e807",
);
const SIGNATURE: &str = concat!(
    "bf94335876b4f575962abbb8a247904a04d13fb23108279dd86861a0e2cc016f",
    "691b025e710201ccff2bc51eadbeeb666df0bd6b66863753c795746238d67f08",
);

#[test]
fn revocations_are_signed_as_they_always_were() {
    let entry = |last, reason| Revocation {
        mac: MacAddress([2, 0, 0x5e, 0x10, 0, last]),
        key: KeyFingerprint([0xab; 32]),
        not_before_s: 1_800_000_000,
        reason,
    };
    let part = RevocationPart {
        number: 300,
        made_s: 1_800_000_000,
        part: 1,
        parts: 2,
        revocations: vec![
            entry(1, RevokedReason::Suspended),
            entry(2, RevokedReason::KeyReplaced),
            entry(3, RevokedReason::Removed),
        ],
    };
    let signer = TicketSigner::from_pem(TICKET_KEY).unwrap();
    let signed = signer.sign_revocations(&part).unwrap();
    assert_eq!(hexadecimal(&signed.part), REVOCATIONS);
    assert_eq!(hexadecimal(&signed.signature), REVOCATIONS_SIGNATURE);
}

const REVOCATIONS: &str = concat!(
    "ac02",
    "80a4a7da06",
    "01",
    "02",
    "03",
    "02005e100001abababababababababababababababababababababababababababababababab80a4a7da0600",
    "02005e100002abababababababababababababababababababababababababababababababab80a4a7da0601",
    "02005e100003abababababababababababababababababababababababababababababababab80a4a7da0602",
);
const REVOCATIONS_SIGNATURE: &str = concat!(
    "787aea0da52eca5260be6424c3d9b396813020e24fe9aea2354543c3d3ae268e",
    "53eafb17a62f30c8b34a84aa6fda821b9fe1b1815698fe8a45246d8dca26a403",
);
