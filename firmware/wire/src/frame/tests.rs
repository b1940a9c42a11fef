use std::net::SocketAddr;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::revocation::SignedRevocations;
use crate::ticket::KeyFingerprint;
use crate::{
    Assign, Busy, Bye, Client, Denied, DeniedReason, Fetch, Hello, LeaseId, Load, MacAddress, Open,
    Opened, Poll, Protocol, Refused, RefusedReason, SessionId, Use,
};

/// Everything that may be sent, each limit included.
pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    let requests = prop_oneof![
        (any::<[u8; 6]>(), "[ -~]{0,64}").prop_map(|(mac, software)| {
            Message::Hello(Hello { mac: MacAddress(mac), software })
        }),
        any_ticket().prop_map(Message::Ticket),
        any_denied().prop_map(|reason| Message::Denied(Denied { reason })),
        (any_ticket(), vec(any_address(), 0..=EXCLUDED_MAX))
            .prop_map(|(ticket, exclude)| Message::Assign(Assign { ticket, exclude })),
        (any::<u64>(), any_address(), vec(any_address(), 0..=ALTERNATES_MAX)).prop_map(
            |(lease, proxy, alternates)| {
                Message::Use(Use { lease: LeaseId(lease), proxy, alternates })
            }
        ),
        any::<u32>().prop_map(|retry_after_ms| Message::Busy(Busy { retry_after_ms })),
        any_open().prop_map(Message::Open),
    ];
    let session = prop_oneof![
        Just(Message::Opening),
        any::<u32>().prop_map(|connect_ms| Message::Opened(Opened { connect_ms })),
        any_refused().prop_map(|reason| Message::Refused(Refused { reason })),
        vec(any::<u8>(), 1..2000).prop_map(|bytes| Message::Data(bytes.into())),
        Just(Message::Fin),
        Just(Message::Reset),
        any_bye().prop_map(Message::Bye),
    ];
    let between = prop_oneof![
        any::<u64>().prop_map(|sequence| Message::Poll(Poll { sequence })),
        any::<(u64, u32, u32, bool)>().prop_map(
            |(sequence, load_average_milli, sessions, draining)| {
                Message::Load(Load { sequence, load_average_milli, sessions, draining })
            }
        ),
        any::<u64>().prop_map(Message::Ping),
        any::<u64>().prop_map(Message::Pong),
        any::<u64>().prop_map(|after| Message::Fetch(Fetch { after })),
        any_address().prop_map(|address| Message::Client(Client { address })),
        (vec(any::<u8>(), 0..2000), vec(any::<u8>(), 0..=SIGNATURE_BYTES)).prop_map(
            |(part, signature)| Message::Revocations(SignedRevocations { part, signature })
        ),
    ];
    prop_oneof![requests, session, between]
}

/// Flow label and scope do not travel (serde leaves them out), so they are zero here.
fn any_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from),
    ]
}

fn any_ticket() -> impl Strategy<Value = SignedTicket> {
    (vec(any::<u8>(), 0..=TICKET_BYTES_MAX), vec(any::<u8>(), 0..=SIGNATURE_BYTES))
        .prop_map(|(ticket, signature)| SignedTicket { ticket, signature })
}

fn any_denied() -> impl Strategy<Value = DeniedReason> {
    proptest::sample::select(vec![
        DeniedReason::Unknown,
        DeniedReason::Suspended,
        DeniedReason::EnrolmentClosed,
        DeniedReason::OtherKey,
        DeniedReason::TicketExpired,
        DeniedReason::TicketOtherKey,
        DeniedReason::TicketForged,
        DeniedReason::Unavailable,
    ])
}

fn any_refused() -> impl Strategy<Value = RefusedReason> {
    proptest::sample::select(vec![
        RefusedReason::ServerRefused,
        RefusedReason::ServerUnreachable,
        RefusedReason::ServerTimedOut,
        RefusedReason::Policy,
        RefusedReason::Loop,
        RefusedReason::Full,
        RefusedReason::Draining,
    ])
}

fn any_open() -> impl Strategy<Value = Open> {
    let protocol = proptest::sample::select(vec![Protocol::Smtp, Protocol::Pop3]);
    (any_ticket(), any::<[u8; 16]>(), any::<u64>(), any_address(), protocol, any::<u8>()).prop_map(
        |(ticket, session, lease, destination, protocol, hops_left)| Open {
            ticket,
            session: SessionId(session),
            lease: LeaseId(lease),
            destination,
            protocol,
            hops_left,
        },
    )
}

fn any_bye() -> impl Strategy<Value = Bye> {
    any::<([u8; 16], u64, u64, u64, u32, u32, u32, bool)>().prop_map(
        |(session, lease, bytes_up, bytes_down, messages, infected, unscannable, opaque)| Bye {
            session: SessionId(session),
            lease: LeaseId(lease),
            bytes_up,
            bytes_down,
            messages,
            infected,
            unscannable,
            opaque,
        },
    )
}

/// One frame, by hand.
fn frame(version: u8, kind: u8, reserved: u16, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u8(version);
    bytes.put_u8(kind);
    bytes.put_u16(reserved);
    bytes.put_u32(u32::try_from(body.len()).unwrap());
    bytes.put_slice(body);
    bytes
}

fn decode_all(decoder: &mut Decoder, input: &mut BytesMut) -> Result<Vec<Message>, DecodeError> {
    let mut messages = Vec::new();
    while let Some(message) = decoder.decode(input)? {
        messages.push(message);
    }
    Ok(messages)
}

/// The error of one whole frame, as a line.
fn refusal(mut bytes: BytesMut) -> String {
    let error = Decoder::new().decode(&mut bytes).unwrap_err();
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        line = format!("{line}: {inner}");
        cause = inner.source();
    }
    line
}

fn ticket_of(ticket_bytes: usize, signature_bytes: usize) -> SignedTicket {
    SignedTicket { ticket: vec![1; ticket_bytes], signature: vec![2; signature_bytes] }
}

fn revocations_of(part_bytes: usize, signature_bytes: usize) -> SignedRevocations {
    SignedRevocations { part: vec![1; part_bytes], signature: vec![2; signature_bytes] }
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_messages(
        messages in vec(any_message(), 1..6),
        unknown in vec((100u8..=255, vec(any::<u8>(), 0..300)), 6),
        cuts in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let mut bytes = BytesMut::new();
        for (message, (kind, body)) in messages.iter().zip(&unknown) {
            bytes.unsplit(frame(VERSION, *kind, 0, body));
            encode(message, &mut bytes).unwrap();
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();

        let mut decoder = Decoder::new();
        let mut input = BytesMut::new();
        let mut decoded = Vec::new();
        let mut from = 0;
        for to in cuts {
            input.put_slice(&bytes[from..to]);
            decoded.extend(decode_all(&mut decoder, &mut input).unwrap());
            from = to;
        }
        prop_assert_eq!(&decoded, &messages);
        prop_assert!(input.is_empty());
        prop_assert_eq!(decoder.skipped(), messages.len() as u64);
    }

    #[test]
    fn pieces_joined_into_data_frames_are_the_same_bytes(
        pieces in vec(vec(any::<u8>(), 0..9000), 0..12),
    ) {
        let mut out = BytesMut::new();
        let mut last = None;
        for piece in &pieces {
            let mut rest = piece.as_slice();
            if let Some(start) = last {
                rest = &rest[extend_data(start, rest, &mut out)..];
            }
            while !rest.is_empty() {
                last = Some(out.len());
                rest = &rest[encode_data(rest, &mut out)..];
            }
        }
        let all = pieces.concat();
        let frames = all.len().div_ceil(DATA_BYTES_MAX);
        let messages = decode_all(&mut Decoder::new(), &mut out).unwrap();
        prop_assert_eq!(messages.len(), frames);
        let mut joined = Vec::new();
        for message in messages {
            let Message::Data(bytes) = message else { panic!("{message:?}") };
            joined.extend_from_slice(&bytes);
        }
        prop_assert_eq!(joined, all);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in vec(any::<u8>(), 0..400),
        kind in 0u8..24,
        shape in any::<bool>(),
    ) {
        if shape && bytes.len() >= HEADER_BYTES {
            let body_bytes = u16::try_from(bytes.len() - HEADER_BYTES).unwrap().to_be_bytes();
            let header = [VERSION, kind, 0, 0, 0, 0, body_bytes[0], body_bytes[1]];
            bytes[..HEADER_BYTES].copy_from_slice(&header);
        }
        let mut input = BytesMut::from(bytes.as_slice());
        if let Ok(messages) = decode_all(&mut Decoder::new(), &mut input) {
            for message in messages {
                // What was taken may be said again.
                let mut again = BytesMut::new();
                encode(&message, &mut again).unwrap();
                let back = Decoder::new().decode(&mut again).unwrap();
                prop_assert_eq!(back, Some(message));
            }
        }
    }
}

#[test]
fn bytes_behind_a_frame_are_left_alone() {
    let mut bytes = BytesMut::new();
    encode(&Message::Fin, &mut bytes).unwrap();
    bytes.put_slice(&[VERSION, 1]);
    let mut decoder = Decoder::new();
    assert_eq!(decoder.decode(&mut bytes).unwrap(), Some(Message::Fin));
    assert_eq!(decoder.decode(&mut bytes).unwrap(), None);
    assert_eq!(&bytes[..], &[VERSION, 1]);
}

#[test]
fn an_unknown_kind_is_skipped_however_long() {
    let mut decoder = Decoder::new();
    let mut input = frame(VERSION, 200, 0, &vec![9; BODY_BYTES_MAX]);
    encode(&Message::Ping(7), &mut input).unwrap();
    assert_eq!(decoder.decode(&mut input).unwrap(), Some(Message::Ping(7)));
    assert_eq!(decoder.skipped(), 1);
}

#[test]
fn an_unknown_kind_over_the_limit_is_refused_at_its_header() {
    let mut input = frame(VERSION, 200, 0, &[]);
    input[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(
        refusal(input),
        "peer announced 4294967295 bytes of unknown body, at most 32768 allowed"
    );
}

#[test]
fn another_version_is_named_with_ours() {
    assert_eq!(refusal(frame(2, 12, 0, &[])), "peer speaks frame version 2, this side 1");
    // An HTTP client.
    let input = BytesMut::from("GET / HTTP/1.1\r\n");
    assert_eq!(refusal(input), "peer speaks frame version 71, this side 1");
}

#[test]
fn reserved_bytes_are_zero() {
    let line = refusal(frame(VERSION, 12, 0x0102, &[]));
    assert_eq!(line, "peer sent a frame header with reserved bytes 0x0102, which must be zero");
}

#[test]
fn a_body_over_its_kinds_limit_is_refused_before_it_is_read() {
    for &kind in Kind::ALL {
        let mut input = frame(VERSION, kind as u8, 0, &[]);
        let too_long = u32::try_from(kind.body_bytes_max() + 1).unwrap();
        input[4..8].copy_from_slice(&too_long.to_be_bytes());
        let error = Decoder::new().decode(&mut input).unwrap_err();
        assert!(matches!(error, DecodeError::TooLong { .. }), "{kind:?}: {error}");
    }
}

#[test]
fn no_kinds_limit_is_over_the_frames() {
    for &kind in Kind::ALL {
        assert!(kind.body_bytes_max() + HEADER_BYTES <= FRAME_BYTES_MAX, "{kind:?}");
        assert!(kind.body_bytes_max() <= BODY_BYTES_MAX, "{kind:?}");
    }
}

#[test]
fn the_longest_message_of_each_kind_fits() {
    let v6 = SocketAddr::from(([0xff; 16], u16::MAX));
    let ticket = ticket_of(TICKET_BYTES_MAX, SIGNATURE_BYTES);
    let mac = MacAddress([0xff; 6]);
    let longest = [
        Message::Hello(Hello { mac, software: "~".repeat(SOFTWARE_BYTES_MAX) }),
        Message::Ticket(ticket.clone()),
        Message::Assign(Assign { ticket: ticket.clone(), exclude: vec![v6; EXCLUDED_MAX] }),
        Message::Use(Use {
            lease: LeaseId(u64::MAX),
            proxy: v6,
            alternates: vec![v6; ALTERNATES_MAX],
        }),
        Message::Open(Open {
            ticket,
            session: SessionId([0xff; 16]),
            lease: LeaseId(u64::MAX),
            destination: v6,
            protocol: Protocol::Pop3,
            hops_left: u8::MAX,
        }),
        Message::Data(Bytes::from(vec![0; DATA_BYTES_MAX])),
        Message::Load(Load {
            sequence: u64::MAX,
            load_average_milli: u32::MAX,
            sessions: u32::MAX,
            draining: true,
        }),
        Message::Bye(Bye {
            session: SessionId([0xff; 16]),
            lease: LeaseId(u64::MAX),
            bytes_up: u64::MAX,
            bytes_down: u64::MAX,
            messages: u32::MAX,
            infected: u32::MAX,
            unscannable: u32::MAX,
            opaque: true,
        }),
        Message::Pong(u64::MAX),
        Message::Fetch(Fetch { after: u64::MAX }),
        Message::Client(Client { address: v6 }),
        Message::Revocations(revocations_of(REVOCATION_PART_BYTES_MAX, SIGNATURE_BYTES)),
    ];
    for message in longest {
        let mut bytes = BytesMut::new();
        encode(&message, &mut bytes).unwrap();
        assert_eq!(Decoder::new().decode(&mut bytes).unwrap(), Some(message));
    }
}

#[test]
fn the_longest_ticket_leaves_room() {
    let key = KeyFingerprint([0xff; 32]);
    let ticket = crate::ticket::Ticket {
        mac: MacAddress([0xff; 6]),
        key,
        not_before_s: u64::MAX,
        not_after_s: u64::MAX,
        sessions_max: u32::MAX,
    };
    assert!(postcard::to_allocvec(&ticket).unwrap().len() <= TICKET_BYTES_MAX);
}

#[test]
fn trailing_bytes_are_refused() {
    let line = refusal(frame(VERSION, Kind::Denied as u8, 0, &[0, 0]));
    assert_eq!(line, "peer sent 1 bytes behind the Denied body");
}

#[test]
fn a_variant_of_the_future_is_malformed_and_says_where() {
    let line = refusal(frame(VERSION, Kind::Refused as u8, 0, &[99]));
    assert!(line.starts_with("peer sent a malformed Refused body: "), "{line}");
}

#[test]
fn every_truncated_body_is_malformed() {
    let mut whole = BytesMut::new();
    let hello = Hello { mac: MacAddress([2; 6]), software: "avr 0.1".to_owned() };
    encode(&Message::Hello(hello), &mut whole).unwrap();
    let body = &whole[HEADER_BYTES..];
    for cut in 0..body.len() {
        let line = refusal(frame(VERSION, Kind::Hello as u8, 0, &body[..cut]));
        assert!(line.starts_with("peer sent a malformed Hello body"), "{cut}: {line}");
    }
}

#[test]
fn a_claimed_length_reserves_nothing() {
    // A ticket of 2^28 bytes, announced in five.
    let line = refusal(frame(VERSION, Kind::Ticket as u8, 0, &[0x80, 0x80, 0x80, 0x80, 0x01]));
    assert!(line.starts_with("peer sent a malformed Ticket body"), "{line}");
}

#[test]
fn limits_are_named_on_both_sides() {
    let v4 = SocketAddr::from(([192, 0, 2, 1], 4652));
    let ticket = ticket_of(0, 0);
    let exclude = vec![v4; EXCLUDED_MAX + 1];
    let assign = Assign { ticket, exclude };
    let line = "Assign.exclude addresses has 17, at most 16 allowed";
    let body = postcard::to_allocvec(&assign).unwrap();
    assert_eq!(
        refusal(frame(VERSION, Kind::Assign as u8, 0, &body)),
        format!("peer sent a message that breaks a limit: {line}")
    );
    let mut out = BytesMut::from("before");
    let error = encode(&Message::Assign(assign), &mut out).unwrap_err();
    assert!(matches!(&error, EncodeError::Limit(limit) if limit.to_string() == line), "{error}");
    assert_eq!(&out[..], b"before");
}

#[test]
fn what_may_not_be_sent_is_not_sent() {
    let mac = MacAddress([2; 6]);
    let hello = |software: &str| Message::Hello(Hello { mac, software: software.to_owned() });
    let address = SocketAddr::from(([192, 0, 2, 1], 25));
    let proxy = address;
    let alternates = vec![address; ALTERNATES_MAX + 1];
    let messages = [
        hello(&"x".repeat(SOFTWARE_BYTES_MAX + 1)),
        hello("a\x1b[31m"),
        hello("日本"),
        Message::Data(Bytes::new()),
        Message::Data(Bytes::from(vec![0; DATA_BYTES_MAX + 1])),
        Message::Use(Use { lease: LeaseId(1), proxy, alternates }),
        Message::Ticket(ticket_of(TICKET_BYTES_MAX + 1, 0)),
        Message::Ticket(ticket_of(0, SIGNATURE_BYTES + 1)),
        Message::Revocations(revocations_of(REVOCATION_PART_BYTES_MAX + 1, 0)),
        Message::Revocations(revocations_of(0, SIGNATURE_BYTES + 1)),
    ];
    for message in messages {
        let mut out = BytesMut::new();
        let error = encode(&message, &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::Limit(_)), "{error}");
        assert!(out.is_empty());
    }
}

#[test]
fn control_characters_in_a_peers_string_are_refused() {
    let body = [2, 2, 2, 2, 2, 2, 2, b'a', 0x1b];
    let line = refusal(frame(VERSION, Kind::Hello as u8, 0, &body));
    assert!(line.starts_with("peer sent a malformed Hello body"), "{line}");
}

#[test]
fn an_empty_data_is_refused() {
    let line = refusal(frame(VERSION, Kind::Data as u8, 0, &[]));
    assert_eq!(line, "peer sent a message that breaks a limit: Data is empty");
}
