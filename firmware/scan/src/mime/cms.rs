//! What is in a signed S/MIME body (RFC 5652, BER): the message that a client shows without any key.
//!
//! No full reading of the structure: all octet strings, in order, are what clients put together as the
//! content; those of certificates and signatures follow and do no harm.

use unpack::ber;

/// The object identifier of signed data, 1.2.840.113549.1.7.2, with its tag and length.
const SIGNED_DATA: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];

/// The content of signed data; `None` where the body is anything else, such as encrypted.
pub(crate) fn signed_content(body: &[u8]) -> Option<Vec<u8>> {
    let (_, _, inside) = ber::header(body)?;
    inside.starts_with(&SIGNED_DATA).then(|| ber::octets(inside))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const OCTET_STRING: u8 = 0x04;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x84], length.as_slice(), content].concat()
    }

    /// Signed data about `content`, in one octet string or in chunks of indefinite length.
    pub(crate) fn signed(content: &[u8], chunk: Option<usize>) -> Vec<u8> {
        let octets = match chunk {
            None => element(OCTET_STRING, content),
            Some(size) => {
                let chunks = content.chunks(size).flat_map(|part| element(OCTET_STRING, part));
                [0x24, 0x80].into_iter().chain(chunks).chain([0, 0]).collect()
            }
        };
        let encapsulated = element(0x30, &[&[6, 1, 1], &element(0xa0, &octets)[..]].concat());
        let signed = element(0x30, &[&[2, 1, 1][..], &encapsulated].concat());
        element(0x30, &[SIGNED_DATA.as_slice(), &element(0xa0, &signed)].concat())
    }

    #[test]
    fn only_signed_data_can_be_read() {
        let mut enveloped = signed(b"x", None);
        assert!(signed_content(&enveloped).is_some());
        let at = enveloped.windows(11).position(|w| w == SIGNED_DATA).unwrap();
        enveloped[at + 10] = 3;
        assert_eq!(signed_content(&enveloped), None);
        assert_eq!(signed_content(b""), None);
        assert_eq!(signed_content(b"hello"), None);
    }

    proptest! {
        #[test]
        fn round_trip(content: Vec<u8>, chunk in proptest::option::of(1_usize..50)) {
            prop_assert_eq!(signed_content(&signed(&content, chunk)), Some(content));
        }

        #[test]
        fn arbitrary_bytes(junk: Vec<u8>, cut in 0_usize..100) {
            signed_content(&junk);
            let mut body = signed(&junk, Some(3));
            body.truncate(body.len().saturating_sub(cut));
            signed_content(&body);
            let body = [&signed(b"", None)[..], &junk].concat();
            prop_assert!(signed_content(&body).unwrap().len() <= junk.len());
        }
    }
}
