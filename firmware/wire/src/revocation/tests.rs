use proptest::prelude::*;

use super::*;

const NOW_S: u64 = 1_800_000_000;
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const KEY: KeyFingerprint = KeyFingerprint([7; 32]);
/// RFC 8032 section 7.1, test 1.
const SIGNER: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";

fn signer() -> TicketSigner {
    TicketSigner::from_pem(SIGNER).unwrap()
}

fn revocation(last: u8) -> Revocation {
    let mac = MacAddress([2, 0, 0, 0, 0, last]);
    Revocation::new(mac, KEY, NOW_S, RevokedReason::Suspended)
}

fn many(count: usize) -> Vec<Revocation> {
    let mac = |number: usize| {
        let [.., a, b, c, d] = u64::try_from(number).unwrap().to_be_bytes();
        MacAddress([2, 0, a, b, c, d])
    };
    let entry = |number| Revocation::new(mac(number), KEY, u64::MAX, RevokedReason::Removed);
    (0..count).map(entry).collect()
}

#[test]
fn tickets_from_before_are_void_and_later_ones_are_good() {
    let part = RevocationPart::split(5, NOW_S, &[revocation(1)]).unwrap();
    let list = Revocations::join(part).unwrap();
    let revoked = |mac, key, not_before_s| list.revoked(&Ticket::new(mac, key, not_before_s, 1000));
    for not_before_s in [0, NOW_S, NOW_S + CLOCK_SKEW_S] {
        assert_eq!(revoked(MAC, KEY, not_before_s), Some(RevokedReason::Suspended));
    }
    assert_eq!(revoked(MAC, KEY, NOW_S + CLOCK_SKEW_S + 1), None);
    assert_eq!(revoked(MAC, KeyFingerprint([8; 32]), NOW_S), None);
    assert_eq!(revoked(MacAddress([2, 0, 0, 0, 0, 2]), KEY, NOW_S), None);
    assert!(Revocations::none().is_empty());
    assert_eq!((list.number(), list.made_s(), list.len()), (5, NOW_S, 1));
}

#[test]
fn a_box_is_told_what_its_auther_would_say() {
    for (reason, denied) in [
        (RevokedReason::Suspended, DeniedReason::Suspended),
        (RevokedReason::KeyReplaced, DeniedReason::OtherKey),
        (RevokedReason::Removed, DeniedReason::Unknown),
    ] {
        assert_eq!(reason.denied_reason(), denied);
    }
}

#[test]
fn a_revocation_outlives_every_ticket_it_voids() {
    // Given out by a clock that is ahead, looked at by one that is behind.
    let last = Ticket::new(MAC, KEY, NOW_S + CLOCK_SKEW_S, 1000);
    assert!(revocation(1).voids(&last));
    assert!(NOW_S + REVOCATION_LIFE_S > last.not_after_s + CLOCK_SKEW_S);
}

#[test]
fn a_long_list_crosses_in_parts_and_a_longer_one_not_at_all() {
    let all = many(2 * REVOCATIONS_PART_MAX + 1);
    let parts = RevocationPart::split(9, NOW_S, &all).unwrap();
    assert_eq!(parts.len(), 3);
    let verify = |part| {
        let signed = signer().sign_revocations(part).unwrap();
        assert!(signed.part.len() <= REVOCATION_PART_BYTES_MAX, "{}", signed.part.len());
        signer().verifier().verify_revocations(&signed, NOW_S).unwrap()
    };
    let list = Revocations::join(parts.iter().map(verify).collect()).unwrap();
    assert_eq!(list.len(), all.len());
    assert_eq!(RevocationPart::split(9, NOW_S, &[]).unwrap().len(), 1);
    let most = REVOCATIONS_PART_MAX * usize::from(REVOCATIONS_PARTS_MAX);
    assert_eq!(
        RevocationPart::split(9, NOW_S, &many(most)).map(|parts| parts.len()),
        Some(usize::from(REVOCATIONS_PARTS_MAX))
    );
    assert_eq!(RevocationPart::split(9, NOW_S, &many(most + 1)), None);
}

#[test]
fn parts_of_several_lists_make_none() {
    let all = many(REVOCATIONS_PART_MAX + 1);
    let parts = |number, made_s| RevocationPart::split(number, made_s, &all).unwrap();
    let mixed = |first: &RevocationPart, second: &RevocationPart| {
        Revocations::join(vec![first.clone(), second.clone()])
    };
    let (now, next, later) = (parts(1, NOW_S), parts(2, NOW_S), parts(1, NOW_S + 1));
    assert!(mixed(&now[0], &now[1]).is_ok());
    for (first, second) in
        [(&now[0], &next[1]), (&now[0], &later[1]), (&now[1], &now[0]), (&now[0], &now[0])]
    {
        assert_eq!(mixed(first, second), Err(RevocationError::Incomplete));
    }
    assert_eq!(Revocations::join(now[..1].to_vec()), Err(RevocationError::Incomplete));
    assert_eq!(Revocations::join(Vec::new()), Err(RevocationError::Incomplete));
}

#[test]
fn a_list_can_be_confirmed_but_not_made_older() {
    let mut list = Revocations::join(RevocationPart::split(1, NOW_S, &[]).unwrap()).unwrap();
    let unchanged = RevocationPart::unchanged(1, NOW_S + 60);
    assert!(unchanged.is_unchanged());
    list.confirm(unchanged.made_s);
    list.confirm(NOW_S);
    assert_eq!(list.made_s(), NOW_S + 60);
}

#[test]
fn what_is_no_list_is_malformed_even_when_it_is_signed() {
    let verify = |part: Vec<u8>| {
        let signature = signer().sign_bytes(CONTEXT, &part).unwrap();
        let signed = SignedRevocations { part, signature };
        signer().verifier().verify_revocations(&signed, NOW_S)
    };
    let good = RevocationPart::split(1, NOW_S, &[revocation(1)]).unwrap().remove(0);
    let bytes = |part: &RevocationPart| postcard::to_allocvec(part).unwrap();
    assert_eq!(verify(bytes(&good)), Ok(good.clone()));
    let mut trailing = bytes(&good);
    trailing.push(0);
    let beyond = RevocationPart { part: 1, ..good.clone() };
    let counted = RevocationPart { parts: REVOCATIONS_PARTS_MAX + 1, ..good.clone() };
    let unchanged = RevocationPart { parts: 0, ..good.clone() };
    let full = RevocationPart {
        revocations: vec![
            Revocation { not_before_s: 0, ..revocation(1) };
            REVOCATIONS_PART_MAX + 1
        ],
        ..good.clone()
    };
    for part in [&beyond, &counted, &unchanged, &full] {
        assert_eq!(verify(bytes(part)), Err(RevocationError::Malformed));
    }
    for part in [Vec::new(), trailing, vec![0; REVOCATION_PART_BYTES_MAX + 1]] {
        assert_eq!(verify(part), Err(RevocationError::Malformed));
    }
    let early = RevocationPart { made_s: NOW_S + CLOCK_SKEW_S + 1, ..good };
    let expected = RevocationError::FromTheFuture { early_s: CLOCK_SKEW_S + 1 };
    assert_eq!(verify(bytes(&early)), Err(expected));
}

#[test]
fn a_ticket_is_no_list_and_a_list_no_ticket() {
    let part = RevocationPart::split(1, NOW_S, &[]).unwrap().remove(0);
    let list = signer().sign_revocations(&part).unwrap();
    let as_ticket = crate::ticket::SignedTicket { ticket: list.part, signature: list.signature };
    let verified = signer().verifier().verify(&as_ticket, NOW_S, &KEY);
    assert_eq!(verified, Err(crate::ticket::TicketError::Forged));
    let ticket = signer().sign(&Ticket::new(MAC, KEY, NOW_S, 1)).unwrap();
    let as_list = SignedRevocations { part: ticket.ticket, signature: ticket.signature };
    let verified = signer().verifier().verify_revocations(&as_list, NOW_S);
    assert_eq!(verified, Err(RevocationError::Forged));
}

proptest! {
    #[test]
    fn no_bytes_but_the_signed_ones_are_a_list(
        part in proptest::collection::vec(any::<u8>(), 0..200),
        signature in proptest::collection::vec(any::<u8>(), 0..=SIGNATURE_BYTES + 1),
        flipped in any::<prop::sample::Index>(),
    ) {
        let verify = |signed: &SignedRevocations| {
            signer().verifier().verify_revocations(signed, NOW_S)
        };
        let error = verify(&SignedRevocations { part, signature }).unwrap_err();
        prop_assert!(matches!(error, RevocationError::Forged | RevocationError::Malformed));

        let part = RevocationPart::split(1, NOW_S, &[revocation(1)]).unwrap().remove(0);
        let mut tampered = signer().sign_revocations(&part).unwrap();
        let bits = 8 * (tampered.part.len() + tampered.signature.len());
        let bit = flipped.index(bits);
        let bytes = tampered.part.iter_mut().chain(&mut tampered.signature);
        for byte in bytes.skip(bit / 8).take(1) {
            *byte ^= 1 << (bit % 8);
        }
        prop_assert_eq!(verify(&tampered), Err(RevocationError::Forged));
    }
}
