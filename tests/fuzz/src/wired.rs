//! What comes over the network to box and site: frames of the wire protocol, tickets, DNS answers.

use std::sync::LazyLock;

use box_relay::limits::ADDRESSES_MAX;
use bytes::BytesMut;
use wire::frame::{Decoder, encode};
use wire::ticket::{KeyFingerprint, SignedTicket, TicketSigner, TicketVerifier};

/// Frames in one piece and byte by byte; what was read is written, and read again.
pub(crate) fn frame(bytes: &[u8]) {
    let whole = read(bytes, usize::MAX);
    assert_eq!(whole, read(bytes, 1), "the reading depends on how the bytes were cut");
    let mut decoder = Decoder::new();
    let mut input = BytesMut::from(bytes);
    while let Ok(Some(message)) = decoder.decode(&mut input) {
        let mut out = BytesMut::new();
        encode(&message, &mut out).expect("what was read can be written");
        let again = Decoder::new().decode(&mut out).expect("what was written can be read");
        assert_eq!(format!("{again:?}"), format!("{:?}", Some(message)));
    }
}

fn read(bytes: &[u8], piece: usize) -> (Vec<String>, Option<String>) {
    let mut decoder = Decoder::new();
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    for part in bytes.chunks(piece) {
        input.extend_from_slice(part);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(message)) => messages.push(format!("{message:?}")),
                Ok(None) => break,
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    }
    (messages, None)
}

static SIGNER: LazyLock<(TicketSigner, TicketVerifier)> = LazyLock::new(|| {
    let signer = TicketSigner::generate().expect("a key can be made");
    let verifier = signer.verifier();
    (signer, verifier)
});

/// A ticket nobody has signed admits nobody; the first bytes are the signature.
pub(crate) fn ticket(bytes: &[u8]) {
    let (signature, ticket) = bytes.split_at(bytes.len().min(64));
    let (_, verifier) = &*SIGNER;
    let signed = SignedTicket { ticket: ticket.to_vec(), signature: signature.to_vec() };
    let peer = KeyFingerprint([7; 32]);
    assert!(verifier.verify(&signed, 1_700_000_000, &peer).is_err(), "a forged ticket");
    // Shown in logs, unread as it is.
    assert!(format!("{signed:?}").is_ascii());
    drop(TicketVerifier::from_pem(&String::from_utf8_lossy(bytes)));
}

/// An answer of a name server.
pub(crate) fn dns_answer(bytes: &[u8]) {
    let addresses = box_relay::read_dns_answer(bytes);
    assert!(addresses.len() <= ADDRESSES_MAX, "{} addresses", addresses.len());
    assert!(addresses.iter().all(|address| !address.is_unspecified()), "{addresses:?}");
}
