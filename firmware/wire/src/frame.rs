//! Frames: how a [`Message`] stands on the wire.
//!
//! ```text
//!  0         1         2                   4                                       8
//! +---------+---------+---------+---------+---------+---------+---------+---------+------ - -
//! | version |  kind   |   reserved, 0     |        body length (big endian)       | body
//! +---------+---------+---------+---------+---------+---------+---------+---------+------ - -
//! ```
//!
//! The body is postcard (wire format 1), except that of `Data`, which is the bytes themselves, and
//! of `Opening`, `Fin` and `Reset`, which have none. A body has exactly its message and nothing
//! behind it, and is never longer than its kind allows: the length is checked before the body is
//! waited for. A kind that this version does not know is skipped whole, so a newer peer may say
//! more; another version is an error that names both.

use bytes::{Buf, BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::revocation::REVOCATION_PART_BYTES_MAX;
use crate::ticket::{SIGNATURE_BYTES, SignedTicket, TICKET_BYTES_MAX};
use crate::{
    ALTERNATES_MAX, BODY_BYTES_MAX, DATA_BYTES_MAX, EXCLUDED_MAX, Message, SOFTWARE_BYTES_MAX,
    VERSION, bounded,
};

/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 8;
/// Longest frame, in bytes: what a reader must be able to hold.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + DATA_BYTES_MAX;

/// Appends `message` as one frame.
///
/// # Errors
///
/// When a field breaks its limit; `out` is then as it was.
pub fn encode(message: &Message, out: &mut BytesMut) -> Result<(), EncodeError> {
    check(message).map_err(EncodeError::Limit)?;
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    if let Err(source) = write_body(message, out) {
        out.truncate(start);
        return Err(EncodeError::Body { message: message.name(), source });
    }
    let body_bytes = out.len() - start - HEADER_BYTES;
    let mut header = &mut out[start..start + HEADER_BYTES];
    put_header(kind_of(message), body_bytes, &mut header);
    Ok(())
}

/// Appends the front of `bytes` as one `Data` frame, without a detour through a [`Message`], and
/// says how many it took: at most [`DATA_BYTES_MAX`]. Of none it makes no frame.
pub fn encode_data(bytes: &[u8], out: &mut BytesMut) -> usize {
    let taken = bytes.len().min(DATA_BYTES_MAX);
    if taken > 0 {
        out.reserve(HEADER_BYTES + taken);
        put_header(Kind::Data, taken, out);
        out.put_slice(bytes.get(..taken).unwrap_or_default());
    }
    taken
}

/// Appends the front of `bytes` to the `Data` frame that is the last in `out` and begins at
/// `start`, and says how many it took: 0 when the frame is full.
pub fn extend_data(start: usize, bytes: &[u8], out: &mut BytesMut) -> usize {
    let body_bytes = out.len().saturating_sub(start + HEADER_BYTES);
    let taken = bytes.len().min(DATA_BYTES_MAX.saturating_sub(body_bytes));
    let Some(mut header) = out.get_mut(start..start + HEADER_BYTES) else { return 0 };
    put_header(Kind::Data, body_bytes + taken, &mut header);
    out.put_slice(bytes.get(..taken).unwrap_or_default());
    taken
}

/// Takes frames out of a growing buffer. Any chunking of the input gives the same messages.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Body bytes of an unknown kind still to be thrown away.
    skip_bytes: usize,
    /// Frames of unknown kinds so far.
    skipped: u64,
}

impl Decoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next message off the front of `input`; `None` until more bytes have arrived.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol; the connection cannot go on.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        loop {
            let skipped_now = self.skip_bytes.min(input.len());
            input.advance(skipped_now);
            self.skip_bytes -= skipped_now;
            let Some(header) = input.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let header = Header::parse(header)?;
            let Some(kind) = header.kind else {
                self.skipped += 1;
                self.skip_bytes = header.body_bytes;
                input.advance(HEADER_BYTES);
                continue;
            };
            if input.len() - HEADER_BYTES < header.body_bytes {
                return Ok(None);
            }
            input.advance(HEADER_BYTES);
            let body = input.split_to(header.body_bytes);
            return read_body(kind, body).map(Some);
        }
    }

    /// How many frames of unknown kinds were skipped: a newer peer, or a confused one.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// A message that may not be sent: our own fault.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A field is beyond its limit.
    #[error("the message to send breaks a limit")]
    Limit(#[source] LimitError),
    /// postcard failed.
    #[error("cannot encode {message}")]
    Body {
        /// Name of the message.
        message: &'static str,
        /// Why.
        source: postcard::Error,
    },
}

/// What the peer did wrong.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Another version of the protocol, or no protocol at all.
    #[error("peer speaks frame version {theirs}, this side {}", VERSION)]
    Version {
        /// The peer's.
        theirs: u8,
    },
    /// The reserved bytes are not zero.
    #[error("peer sent a frame header with reserved bytes {reserved:#06x}, which must be zero")]
    Reserved {
        /// What stood there.
        reserved: u16,
    },
    /// The body is announced longer than its kind may be.
    #[error("peer announced {body_bytes} bytes of {kind} body, at most {body_bytes_max} allowed")]
    TooLong {
        /// Name of the message, or `unknown`.
        kind: &'static str,
        /// As announced.
        body_bytes: usize,
        /// The limit.
        body_bytes_max: usize,
    },
    /// The body does not decode.
    #[error("peer sent a malformed {kind} body")]
    Malformed {
        /// Name of the message.
        kind: &'static str,
        /// Why.
        source: postcard::Error,
    },
    /// The body has more than its message.
    #[error("peer sent {trailing_bytes} bytes behind the {kind} body")]
    Trailing {
        /// Name of the message.
        kind: &'static str,
        /// How many.
        trailing_bytes: usize,
    },
    /// A field is beyond its limit.
    #[error("peer sent a message that breaks a limit")]
    Limit(#[source] LimitError),
}

/// A field beyond its limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Too long.
    #[error("{field} has {length}, at most {max} allowed")]
    TooLong {
        /// `message.field` and the unit.
        field: &'static str,
        /// As it is.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A `Data` without bytes, which says nothing.
    #[error("Data is empty")]
    EmptyData,
    /// A string has control or non-ASCII characters.
    #[error("{field} is not printable ASCII")]
    NotPrintable {
        /// `message.field`.
        field: &'static str,
    },
}

fn put_header(kind: Kind, body_bytes: usize, out: &mut impl BufMut) {
    // `check` keeps every body within its kind's limit, which is far below 4 GiB.
    let body_length = u32::try_from(body_bytes).unwrap_or(u32::MAX);
    out.put_u8(VERSION);
    out.put_u8(kind as u8);
    out.put_u16(0);
    out.put_u32(body_length);
}

struct Header {
    /// `None`: unknown, to be skipped.
    kind: Option<Kind>,
    body_bytes: usize,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        let mut rest = bytes.as_slice();
        let version = rest.get_u8();
        let kind = rest.get_u8();
        let reserved = rest.get_u16();
        let body_bytes = usize::try_from(rest.get_u32()).unwrap_or(usize::MAX);
        if version != VERSION {
            return Err(DecodeError::Version { theirs: version });
        }
        if reserved != 0 {
            return Err(DecodeError::Reserved { reserved });
        }
        let kind = Kind::from_byte(kind);
        let (name, body_bytes_max) = match kind {
            Some(kind) => (kind.name(), kind.body_bytes_max()),
            None => ("unknown", BODY_BYTES_MAX),
        };
        if body_bytes > body_bytes_max {
            return Err(DecodeError::TooLong { kind: name, body_bytes, body_bytes_max });
        }
        Ok(Self { kind, body_bytes })
    }
}

/// Defines [`Kind`] from one table, so that number, name and limit cannot drift apart.
macro_rules! kinds {
    ($($name:ident = $number:literal, $body_bytes_max:expr;)*) => {
        /// The kind byte. Numbers are never used again for something else.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        enum Kind { $($name = $number,)* }

        impl Kind {
            fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($number => Some(Self::$name),)* _ => None }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            fn body_bytes_max(self) -> usize {
                match self { $(Self::$name => $body_bytes_max,)* }
            }

            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

// Longest postcard forms: an integer of n bits takes at most n/7 bytes, rounded up.
const U32_BYTES_MAX: usize = 5;
const U64_BYTES_MAX: usize = 10;
/// Variant, IPv6 address, port.
const ADDRESS_BYTES_MAX: usize = 1 + 16 + 3;
/// A length prefix of anything that fits a frame.
const LENGTH_BYTES_MAX: usize = 3;
const SIGNED_TICKET_BYTES_MAX: usize = 2 * LENGTH_BYTES_MAX + TICKET_BYTES_MAX + SIGNATURE_BYTES;

kinds! {
    Hello = 1, 6 + LENGTH_BYTES_MAX + SOFTWARE_BYTES_MAX;
    Ticket = 2, SIGNED_TICKET_BYTES_MAX;
    Denied = 3, U32_BYTES_MAX;
    Assign = 4, SIGNED_TICKET_BYTES_MAX + LENGTH_BYTES_MAX + EXCLUDED_MAX * ADDRESS_BYTES_MAX;
    Use = 5, U64_BYTES_MAX + LENGTH_BYTES_MAX + (1 + ALTERNATES_MAX) * ADDRESS_BYTES_MAX;
    Busy = 6, U32_BYTES_MAX;
    Open = 7, SIGNED_TICKET_BYTES_MAX + 16 + U64_BYTES_MAX + ADDRESS_BYTES_MAX + U32_BYTES_MAX + 1;
    Opening = 8, 0;
    Opened = 9, U32_BYTES_MAX;
    Refused = 10, U32_BYTES_MAX;
    Data = 11, DATA_BYTES_MAX;
    Fin = 12, 0;
    Reset = 13, 0;
    Poll = 14, U64_BYTES_MAX;
    Load = 15, U64_BYTES_MAX + 2 * U32_BYTES_MAX + 1;
    Bye = 16, 16 + 3 * U64_BYTES_MAX + 3 * U32_BYTES_MAX + 1;
    Ping = 17, U64_BYTES_MAX;
    Pong = 18, U64_BYTES_MAX;
    Fetch = 19, U64_BYTES_MAX;
    Revocations = 20, 2 * LENGTH_BYTES_MAX + REVOCATION_PART_BYTES_MAX + SIGNATURE_BYTES;
    Client = 21, ADDRESS_BYTES_MAX;
}

fn kind_of(message: &Message) -> Kind {
    match message {
        Message::Hello(_) => Kind::Hello,
        Message::Ticket(_) => Kind::Ticket,
        Message::Denied(_) => Kind::Denied,
        Message::Assign(_) => Kind::Assign,
        Message::Use(_) => Kind::Use,
        Message::Busy(_) => Kind::Busy,
        Message::Open(_) => Kind::Open,
        Message::Opening => Kind::Opening,
        Message::Opened(_) => Kind::Opened,
        Message::Refused(_) => Kind::Refused,
        Message::Data(_) => Kind::Data,
        Message::Fin => Kind::Fin,
        Message::Reset => Kind::Reset,
        Message::Poll(_) => Kind::Poll,
        Message::Load(_) => Kind::Load,
        Message::Bye(_) => Kind::Bye,
        Message::Ping(_) => Kind::Ping,
        Message::Pong(_) => Kind::Pong,
        Message::Fetch(_) => Kind::Fetch,
        Message::Revocations(_) => Kind::Revocations,
        Message::Client(_) => Kind::Client,
    }
}

fn write_body(message: &Message, out: &mut BytesMut) -> Result<(), postcard::Error> {
    match message {
        Message::Hello(body) => write_postcard(body, out),
        Message::Ticket(body) => write_postcard(body, out),
        Message::Denied(body) => write_postcard(body, out),
        Message::Assign(body) => write_postcard(body, out),
        Message::Use(body) => write_postcard(body, out),
        Message::Busy(body) => write_postcard(body, out),
        Message::Open(body) => write_postcard(body, out),
        Message::Opened(body) => write_postcard(body, out),
        Message::Refused(body) => write_postcard(body, out),
        Message::Poll(body) => write_postcard(body, out),
        Message::Load(body) => write_postcard(body, out),
        Message::Bye(body) => write_postcard(body, out),
        Message::Ping(number) | Message::Pong(number) => write_postcard(number, out),
        Message::Fetch(body) => write_postcard(body, out),
        Message::Revocations(body) => write_postcard(body, out),
        Message::Client(body) => write_postcard(body, out),
        Message::Data(bytes) => {
            out.put_slice(bytes);
            Ok(())
        }
        Message::Opening | Message::Fin | Message::Reset => Ok(()),
    }
}

fn write_postcard<T: Serialize>(body: &T, out: &mut BytesMut) -> Result<(), postcard::Error> {
    out.put_slice(&postcard::to_allocvec(body)?);
    Ok(())
}

fn read_body(kind: Kind, body: BytesMut) -> Result<Message, DecodeError> {
    let message = match kind {
        Kind::Hello => Message::Hello(read_postcard(kind, &body)?),
        Kind::Ticket => Message::Ticket(read_postcard(kind, &body)?),
        Kind::Denied => Message::Denied(read_postcard(kind, &body)?),
        Kind::Assign => Message::Assign(read_postcard(kind, &body)?),
        Kind::Use => Message::Use(read_postcard(kind, &body)?),
        Kind::Busy => Message::Busy(read_postcard(kind, &body)?),
        Kind::Open => Message::Open(read_postcard(kind, &body)?),
        Kind::Opening => Message::Opening,
        Kind::Opened => Message::Opened(read_postcard(kind, &body)?),
        Kind::Refused => Message::Refused(read_postcard(kind, &body)?),
        Kind::Data => Message::Data(body.freeze()),
        Kind::Fin => Message::Fin,
        Kind::Reset => Message::Reset,
        Kind::Poll => Message::Poll(read_postcard(kind, &body)?),
        Kind::Load => Message::Load(read_postcard(kind, &body)?),
        Kind::Bye => Message::Bye(read_postcard(kind, &body)?),
        Kind::Ping => Message::Ping(read_postcard(kind, &body)?),
        Kind::Pong => Message::Pong(read_postcard(kind, &body)?),
        Kind::Fetch => Message::Fetch(read_postcard(kind, &body)?),
        Kind::Revocations => Message::Revocations(read_postcard(kind, &body)?),
        Kind::Client => Message::Client(read_postcard(kind, &body)?),
    };
    check(&message).map_err(DecodeError::Limit)?;
    Ok(message)
}

fn read_postcard<T: DeserializeOwned>(kind: Kind, body: &[u8]) -> Result<T, DecodeError> {
    let (message, rest) = postcard::take_from_bytes(body)
        .map_err(|source| DecodeError::Malformed { kind: kind.name(), source })?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { kind: kind.name(), trailing_bytes: rest.len() });
    }
    Ok(message)
}

/// The limits of the fields, the same for what is sent and what is received.
fn check(message: &Message) -> Result<(), LimitError> {
    match message {
        Message::Hello(hello) => {
            at_most("Hello.software bytes", hello.software.len(), SOFTWARE_BYTES_MAX)?;
            if !bounded::is_printable(&hello.software) {
                return Err(LimitError::NotPrintable { field: "Hello.software" });
            }
            Ok(())
        }
        Message::Ticket(ticket) => check_ticket(ticket),
        Message::Assign(assign) => {
            check_ticket(&assign.ticket)?;
            at_most("Assign.exclude addresses", assign.exclude.len(), EXCLUDED_MAX)
        }
        Message::Use(named) => {
            at_most("Use.alternates addresses", named.alternates.len(), ALTERNATES_MAX)
        }
        Message::Open(open) => check_ticket(&open.ticket),
        Message::Revocations(signed) => {
            at_most("Revocations.part bytes", signed.part.len(), REVOCATION_PART_BYTES_MAX)?;
            at_most("Revocations.signature bytes", signed.signature.len(), SIGNATURE_BYTES)
        }
        Message::Data(bytes) if bytes.is_empty() => Err(LimitError::EmptyData),
        Message::Data(bytes) => at_most("Data bytes", bytes.len(), DATA_BYTES_MAX),
        Message::Denied(_)
        | Message::Busy(_)
        | Message::Opening
        | Message::Opened(_)
        | Message::Refused(_)
        | Message::Fin
        | Message::Reset
        | Message::Poll(_)
        | Message::Load(_)
        | Message::Bye(_)
        | Message::Ping(_)
        | Message::Pong(_)
        | Message::Fetch(_)
        | Message::Client(_) => Ok(()),
    }
}

fn check_ticket(ticket: &SignedTicket) -> Result<(), LimitError> {
    at_most("ticket bytes", ticket.ticket.len(), TICKET_BYTES_MAX)?;
    at_most("ticket signature bytes", ticket.signature.len(), SIGNATURE_BYTES)
}

fn at_most(field: &'static str, length: usize, max: usize) -> Result<(), LimitError> {
    if length <= max { Ok(()) } else { Err(LimitError::TooLong { field, length, max }) }
}

#[cfg(test)]
mod tests;
