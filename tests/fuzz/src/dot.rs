//! The framer of dot-stuffed messages against a plain reading of RFC 5321 section 4.5.2.

use bytes::Bytes;
use mail::dot::{DotFramer, HELD_BYTES_MAX, Piece};

/// A message off the wire, in one piece and byte by byte.
pub(crate) fn framer(bytes: &[u8]) {
    let whole = read(bytes, usize::MAX);
    assert_eq!(whole, read(bytes, 1), "the reading depends on how the bytes were cut");
    let (message, rest) = split(bytes);
    assert_eq!(whole.is_done, rest.is_some());
    match rest {
        Some(rest) => {
            assert_eq!(whole.rest, rest);
            assert_eq!(whole.content, unstuffed(message));
            assert_eq!([&whole.wire[..], &whole.rest].concat(), bytes);
        }
        None => {
            assert!(bytes.starts_with(&whole.wire), "what is handed out is what came");
            assert!(bytes.len() - whole.wire.len() <= HELD_BYTES_MAX);
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    /// With the marker.
    wire: Vec<u8>,
    content: Vec<u8>,
    tricks: Vec<usize>,
    is_done: bool,
    rest: Vec<u8>,
}

fn read(bytes: &[u8], piece: usize) -> Read {
    let mut framer = DotFramer::new();
    let mut out = Read::default();
    for part in bytes.chunks(piece) {
        let mut input = Bytes::copy_from_slice(part);
        while let Some(piece) = framer.advance(&mut input) {
            match piece {
                Piece::Data { wire, content } => {
                    out.wire.extend_from_slice(&wire);
                    out.content.extend_from_slice(&content);
                }
                Piece::Trick => out.tricks.push(out.wire.len()),
                Piece::End { marker, content } => {
                    out.wire.extend_from_slice(&marker);
                    out.content.extend_from_slice(&content);
                    out.is_done = true;
                }
            }
        }
        out.rest.extend_from_slice(&input);
    }
    out
}

/// The message without its dot, and what is behind it if it has an end.
fn split(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    if let Some(rest) = bytes.strip_prefix(b".\r\n") {
        return (b"", Some(rest));
    }
    match bytes.windows(5).position(|window| window == b"\r\n.\r\n") {
        Some(at) => (&bytes[..at + 2], bytes.get(at + 5..)),
        None => (bytes, None),
    }
}

fn unstuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, &byte) in message.iter().enumerate() {
        let starts = at == 0 || message[..at].ends_with(b"\r\n");
        if byte != b'.' || !starts {
            out.push(byte);
        }
    }
    out
}
