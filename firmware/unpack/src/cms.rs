//! CMS files (RFC 5652, BER): `.p7m` and `.p7s`, as they are found in archives. What is signed or
//! packed is handed out, what is encrypted is named.
//!
//! No full reading of the structure: all octet strings, in order, are what programs put together as
//! the content; those of certificates and signatures follow and do no harm.

use crate::ber::{header, octets};
use crate::inflate::{Deflate, Stream};
use crate::work::Work;

/// Object identifiers with their tag and length: 1.2.840.113549.1.7 and .1.9.16.1, without the last
/// number.
const DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07";
const SMIME: &[u8] = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01";
const SIGNED: u8 = 2;
/// Enveloped, signed and enveloped, encrypted.
const ENCRYPTED: [u8; 3] = [3, 4, 6];
/// Of the second kind: packed, authenticated and enveloped.
const PACKED: u8 = 9;
const AUTHENTICATED: u8 = 23;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signed,
    Packed,
    Encrypted,
}

pub(crate) fn is_cms(bytes: &[u8]) -> bool {
    kind(bytes).is_some()
}

/// What it is, and what follows that.
fn kind(bytes: &[u8]) -> Option<(Kind, &[u8])> {
    let (0x30, _, inside) = header(bytes)? else { return None };
    if let Some((number, rest)) = inside.strip_prefix(DATA).and_then(<[u8]>::split_first) {
        let kind = match *number {
            SIGNED => Kind::Signed,
            number if ENCRYPTED.contains(&number) => Kind::Encrypted,
            _ => return None,
        };
        return Some((kind, rest));
    }
    let (number, rest) = inside.strip_prefix(SMIME)?.split_first()?;
    match *number {
        PACKED => Some((Kind::Packed, rest)),
        AUTHENTICATED => Some((Kind::Encrypted, rest)),
        _ => None,
    }
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    match kind(bytes) {
        Some((Kind::Signed, rest)) => {
            let content = octets(rest);
            // A signature that stands by itself has none.
            if !content.is_empty() {
                work.slice(Vec::new(), &content, false);
            }
        }
        Some((Kind::Packed, rest)) => {
            let packed = octets(rest);
            let mut stream = Stream::new(&packed, Deflate::zlib());
            if work.member(Vec::new(), &mut stream, false) == crate::work::End::Broken {
                work.damaged("its packed data");
            }
        }
        Some((Kind::Encrypted, _)) => work.encrypted(),
        None => work.damaged("its structure"),
    }
}
