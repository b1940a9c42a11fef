use hickory_proto::rr::TSigResponseContext;

use super::*;

const NOW_S: u64 = 1_795_407_060;

fn key(secret: &str) -> Key {
    Key::parse(&format!("hmac-sha256:avr-update:{secret}"), None).unwrap()
}

fn ours() -> Key {
    key("JHtPCiqMJYBZjlTcmnBDE5Rk1UzFJrW3ko5ePZh2jDE=")
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn update() -> Update {
    let manager = name("manager.avr.test.");
    Update {
        zone: name("avr.test."),
        prerequisites: vec![
            Prerequisite::Exactly(manager.clone(), vec!["192.0.2.1".parse().unwrap()]),
            Prerequisite::Absent(manager.clone(), RecordType::AAAA),
        ],
        changes: vec![
            Change::Add {
                name: manager.clone(),
                address: "2001:db8::1".parse().unwrap(),
                ttl_s: 1200,
            },
            Change::Remove { name: manager, address: "192.0.2.1".parse().unwrap() },
        ],
    }
}

/// What a server answers, signed with `signer` if with any.
fn answer(
    signed: &Signed,
    code: ResponseCode,
    signer: Option<&Key>,
    error: Option<TsigError>,
) -> Vec<u8> {
    let request = Message::from_vec(&signed.bytes).unwrap();
    let mut response = Message::response(request.metadata.id, OpCode::Update);
    response.metadata.response_code = code;
    response.queries = request.queries.clone();
    if let Some(key) = signer {
        let mac = request.signature().unwrap().data.mac.clone();
        let signer = key.signer();
        let context = match error {
            Some(TsigError::BadKey) => {
                TSigResponseContext::unknown_key(request.metadata.id, NOW_S, key.name().clone())
            }
            Some(TsigError::BadSig) => {
                TSigResponseContext::bad_signature(request.metadata.id, NOW_S, signer)
            }
            error => TSigResponseContext::new(request.metadata.id, NOW_S, signer, mac, error),
        };
        let tsig = context.sign(&response.to_vec().unwrap()).unwrap();
        response.set_signature(tsig);
    }
    response.to_vec().unwrap()
}

fn outcome(
    code: ResponseCode,
    signer: Option<&Key>,
    error: Option<TsigError>,
) -> Result<(), UpdateError> {
    let signed = update().sign(&ours(), NOW_S).unwrap();
    let answer = answer(&signed, code, signer, error);
    signed.check(&ours(), &answer)
}

#[test]
fn the_message_is_what_rfc_2136_says() {
    let signed = update().sign(&ours(), NOW_S).unwrap();
    let message = Message::from_vec(&signed.bytes).unwrap();
    assert_eq!(message.metadata.op_code, OpCode::Update);
    assert_eq!(message.queries[0].query_type(), RecordType::SOA);
    let [exactly, absent] = message.answers.as_slice() else { panic!("{message}") };
    assert_eq!((exactly.dns_class, exactly.ttl), (DNSClass::IN, 0));
    assert_eq!((absent.dns_class, absent.ttl), (DNSClass::NONE, 0));
    assert_eq!(absent.record_type(), RecordType::AAAA);
    let [add, remove] = message.authorities.as_slice() else { panic!("{message}") };
    assert_eq!((add.dns_class, add.ttl), (DNSClass::IN, 1200));
    assert_eq!((remove.dns_class, remove.ttl), (DNSClass::NONE, 0));
    assert_eq!(remove.data, rdata("192.0.2.1".parse().unwrap()));
    let tsig = &message.signature().unwrap().data;
    assert_eq!((tsig.time, tsig.fudge), (NOW_S, FUDGE_S));
}

#[test]
fn a_signed_yes_is_a_yes_and_no_other_is() {
    outcome(ResponseCode::NoError, Some(&ours()), None).unwrap();
    let unsigned = outcome(ResponseCode::NoError, None, None);
    assert!(matches!(unsigned, Err(UpdateError::Unsigned)), "{unsigned:?}");
    let other = key("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let forged = outcome(ResponseCode::NoError, Some(&other), None);
    assert!(matches!(forged, Err(UpdateError::Forged(_))), "{forged:?}");
    // An answer to another update of the same key.
    let first = update().sign(&ours(), NOW_S).unwrap();
    let second = update().sign(&ours(), NOW_S).unwrap();
    let replayed = answer(&first, ResponseCode::NoError, Some(&ours()), None);
    let wrong = second.check(&ours(), &replayed);
    assert!(wrong.is_err(), "{wrong:?}");
}

#[test]
fn a_changed_bit_is_found() {
    let signed = update().sign(&ours(), NOW_S).unwrap();
    let good = answer(&signed, ResponseCode::NoError, Some(&ours()), None);
    signed.check(&ours(), &good).unwrap();
    // The signature covers what class and TTL of its own record have to be, not what they are.
    let own = good.windows(11).position(|at| at == b"\x0aavr-update").unwrap();
    let unread = own + 14..own + 20;
    for index in (0..good.len()).filter(|index| !unread.contains(index)) {
        let signed = update().sign(&ours(), NOW_S).unwrap();
        let mut answer = answer(&signed, ResponseCode::NoError, Some(&ours()), None);
        answer[index] ^= 0x01;
        assert!(signed.check(&ours(), &answer).is_err(), "byte {index}");
    }
}

#[test]
fn each_refusal_has_its_words() {
    let said = |code, error| outcome(code, Some(&ours()), error).unwrap_err().to_string();
    let auth = ResponseCode::NotAuth;
    assert!(said(auth, Some(TsigError::BadKey)).starts_with(
        "BADKEY: the server does not know the key avr-update. with hmac-sha256, or (Knot) no acl"
    ));
    assert!(said(auth, Some(TsigError::BadSig)).contains("with another secret; copy "));
    assert!(said(auth, None).contains("does not serve this zone"));
    assert!(said(ResponseCode::NotZone, None).contains("write a --zone that the domain ends in"));
    assert!(said(ResponseCode::Refused, None).contains("update-policy"));
    assert!(said(ResponseCode::ServFail, None).contains("look into its log"));
    assert!(said(ResponseCode::NotImp, None).contains("by hand"));
    for code in [ResponseCode::NXRRSet, ResponseCode::YXRRSet] {
        let outcome = outcome(code, Some(&ours()), None);
        assert!(matches!(outcome, Err(UpdateError::Conflict)));
    }
    // Unsigned, as a server without the key must.
    let refused = outcome(ResponseCode::Refused, None, None);
    assert!(matches!(refused, Err(UpdateError::Refused { code: ResponseCode::Refused })));
}

#[test]
fn a_clock_that_is_wrong_is_told_by_how_much() {
    let error = UpdateError::BadTime { apart_s: 3600 };
    assert_eq!(
        error.to_string(),
        "BADTIME: this machine's clock and the server's differ by 1 hour, and at most 5 minutes \
         are allowed; set this clock (chronyc makestep), or the server's"
    );
    assert_eq!(seconds_48(&[0, 0, 0x6b, 0x03, 0x6d, 0x54]), Some(0x6b03_6d54));
    assert_eq!(seconds_48(&[0; 5]), None);
}

#[test]
fn rubbish_and_answers_to_others_are_refused() {
    let check = |answer: &[u8]| update().sign(&ours(), NOW_S).unwrap().check(&ours(), answer);
    assert!(matches!(check(b""), Err(UpdateError::Unreadable(_))));
    assert!(matches!(
        check(b"HTTP/1.1 400 Bad"),
        Err(UpdateError::Unreadable(_) | UpdateError::NotTheAnswer)
    ));
    let query = Message::query().to_vec().unwrap();
    assert!(matches!(check(&query), Err(UpdateError::NotTheAnswer)));
}

#[test]
fn times_in_words() {
    for (seconds, words) in [
        (0, "0 seconds"),
        (1, "1 second"),
        (90, "90 seconds"),
        (1200, "20 minutes"),
        (5000, "83 minutes"),
        (7200, "2 hours"),
        (86_400, "1 day"),
        (200_000, "2 days"),
    ] {
        assert_eq!(in_words(seconds), words);
    }
}

proptest::proptest! {
    #[test]
    fn any_answer_is_taken_without_a_panic(answer in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let signed = update().sign(&ours(), NOW_S).unwrap();
        proptest::prop_assert!(signed.check(&ours(), &answer).is_err());
    }
}
