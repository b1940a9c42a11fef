//! What a session keeps until the verdict, and what of it goes out in which form.

use bytes::{Bytes, BytesMut};
use mail::Framing;
use spool::{Spool, SpoolError, Spooled};

/// Bytes of a message as they crossed the wire, in order.
#[derive(Debug)]
pub(crate) struct Hold {
    spool: Spool,
    /// What the spool had no room for: at most what one read brought.
    overflow: BytesMut,
    /// Sent already, for the sake of a client's patience.
    sent: u64,
}

impl Hold {
    pub(crate) fn new(spool: Spool) -> Self {
        Self { spool, overflow: BytesMut::new(), sent: 0 }
    }

    /// Keeps bytes, whether or not the spool has room for them.
    ///
    /// # Errors
    ///
    /// When it has not: the session has to be told, and must then have it sent or dropped.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        if !self.overflow.is_empty() {
            self.overflow.extend_from_slice(bytes);
            return Ok(());
        }
        let before = self.spool.len();
        self.spool.write(bytes).inspect_err(|_| {
            let taken = usize::try_from(self.spool.len() - before).unwrap_or(usize::MAX);
            self.overflow.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        })
    }

    /// The next bytes, of which it has at least so many.
    pub(crate) fn next(&mut self, mut bytes: u64) -> Result<Vec<Bytes>, SpoolError> {
        let mut pieces = Vec::new();
        while bytes > 0 {
            let mut piece = self.spool.read_at(self.sent)?;
            if piece.is_empty() {
                break;
            }
            piece.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.sent += piece.len() as u64;
            bytes -= piece.len() as u64;
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> Vec<Item> {
        let spooled = self.spool.finish();
        let rest = Item::Spooled { end: spooled.len(), spooled, at: self.sent };
        vec![rest, Item::Bytes(self.overflow.freeze())]
    }
}

/// Something that waits to be written.
#[derive(Debug)]
pub(crate) enum Item {
    /// As it is.
    Bytes(Bytes),
    /// A stretch of kept bytes, read when its turn comes.
    Spooled { spooled: Spooled, at: u64, end: u64 },
    /// The same with its lines dot-stuffed.
    Stuffed { spooled: Spooled, at: u64, end: u64 },
    /// The end of what was stuffed.
    End,
}

impl Item {
    /// The next bytes of it; `None` when it is over. `line` knows what was written before, where
    /// lines are stuffed.
    pub(crate) fn next(&mut self, line: &mut Stuffing) -> Result<Option<Bytes>, SpoolError> {
        match self {
            Self::Bytes(bytes) if bytes.is_empty() => Ok(None),
            Self::Bytes(bytes) => Ok(Some(std::mem::take(bytes))),
            Self::Spooled { spooled, at, end } => take(spooled, at, *end),
            Self::Stuffed { spooled, at, end } => {
                Ok(take(spooled, at, *end)?.map(|bytes| line.stuff(&bytes)))
            }
            Self::End => {
                *self = Self::Bytes(Bytes::new());
                Ok(Some(std::mem::take(line).end()))
            }
        }
    }
}

fn take(spooled: &Spooled, at: &mut u64, end: u64) -> Result<Option<Bytes>, SpoolError> {
    if *at >= end {
        return Ok(None);
    }
    let mut bytes = spooled.read_at(*at)?;
    bytes.truncate(usize::try_from(end - *at).unwrap_or(usize::MAX));
    *at += bytes.len() as u64;
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// Doubles the dots at the start of lines (RFC 5321 section 4.5.2, RFC 1939 section 3).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stuffing {
    /// Whether a line starts here, and how far its line end had come.
    state: LineState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineState {
    Start,
    Inside,
    AfterCr,
}

impl Default for Stuffing {
    fn default() -> Self {
        Self { state: LineState::Start }
    }
}

impl Stuffing {
    /// The next bytes of a message, stuffed.
    pub(crate) fn stuff(&mut self, bytes: &[u8]) -> Bytes {
        let mut stuffed = BytesMut::with_capacity(bytes.len() + bytes.len() / 64 + 1);
        for &byte in bytes {
            if byte == b'.' && self.state == LineState::Start {
                stuffed.extend_from_slice(b".");
            }
            stuffed.extend_from_slice(&[byte]);
            self.state = match (byte, self.state) {
                (b'\n', LineState::AfterCr) => LineState::Start,
                (b'\r', _) => LineState::AfterCr,
                _ => LineState::Inside,
            };
        }
        stuffed.freeze()
    }

    /// What ends the message behind all that was stuffed.
    pub(crate) fn end(self) -> Bytes {
        Bytes::from_static(match self.state {
            LineState::Start => b".\r\n",
            LineState::Inside => b"\r\n.\r\n",
            LineState::AfterCr => b"\n.\r\n",
        })
    }
}

/// A message with one entity replaced.
#[derive(Debug, Clone)]
pub(crate) struct Edited {
    /// As it was.
    pub(crate) content: Spooled,
    /// The entity that goes.
    pub(crate) start: u64,
    /// Behind it.
    pub(crate) end: u64,
    /// What comes in its place.
    pub(crate) entity: Bytes,
}

impl Edited {
    /// Its bytes, for who wants to look at them.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Result<Bytes, SpoolError>> + use<> {
        let entity = Spooled::from(self.entity.clone());
        let length = self.content.len();
        let stretches = [
            Item::Spooled { spooled: self.content.clone(), at: 0, end: self.start },
            Item::Spooled { end: entity.len(), spooled: entity, at: 0 },
            Item::Spooled { spooled: self.content.clone(), at: self.end, end: length },
        ];
        let mut line = Stuffing::default();
        stretches.into_iter().flat_map(move |mut stretch| {
            let mut is_over = false;
            std::iter::from_fn(move || {
                let piece = if is_over { None } else { stretch.next(&mut line).transpose() };
                is_over = !matches!(piece, Some(Ok(_)));
                piece
            })
        })
    }

    /// What is to be written, in order, with its end.
    pub(crate) fn items(self, framing: Framing) -> Vec<Item> {
        let Self { content, start, end, entity } = self;
        let length = content.len();
        let entity = Spooled::from(entity);
        let stretches = [
            (content.clone(), 0, start),
            (entity.clone(), 0, entity.len()),
            (content, end, length),
        ];
        match framing {
            Framing::Dots => stretches
                .into_iter()
                .map(|(spooled, at, end)| Item::Stuffed { spooled, at, end })
                .chain([Item::End])
                .collect(),
            Framing::Chunk => {
                let bytes = start + entity.len() + length.saturating_sub(end);
                let command = Bytes::from(format!("BDAT {bytes} LAST\r\n"));
                std::iter::once(Item::Bytes(command))
                    .chain(stretches.into_iter().map(|(spooled, at, end)| Item::Spooled {
                        spooled,
                        at,
                        end,
                    }))
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use spool::Spooler;

    use super::*;

    fn written(items: Vec<Item>) -> Vec<u8> {
        let mut line = Stuffing::default();
        let mut bytes = Vec::new();
        for mut item in items {
            while let Some(piece) = item.next(&mut line).unwrap() {
                assert!(!piece.is_empty());
                bytes.extend_from_slice(&piece);
            }
        }
        bytes
    }

    #[test]
    fn an_edited_message_is_stuffed_anew_and_ended() {
        let content = b"A: b\r\n\r\n--B\r\n\r\nevil\r\n--B--\r\n.\r\nlast";
        let edited = Edited {
            content: Bytes::from_static(content).into(),
            start: 13,
            end: 19,
            entity: Bytes::from_static(b"\r\n.gone"),
        };
        assert_eq!(
            written(edited.clone().items(Framing::Dots)),
            b"A: b\r\n\r\n--B\r\n\r\n..gone\r\n--B--\r\n..\r\nlast\r\n.\r\n"
        );
        assert_eq!(
            written(edited.items(Framing::Chunk)),
            b"BDAT 36 LAST\r\nA: b\r\n\r\n--B\r\n\r\n.gone\r\n--B--\r\n.\r\nlast"
        );
    }

    #[test]
    fn the_end_fits_what_stands_before_it() {
        for (message, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a\r", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b"\n.\r\n.", b"\n.\r\n..\r\n.\r\n"),
        ] {
            let mut line = Stuffing::default();
            // Byte by byte: where the pieces are cut does not matter.
            let mut stuffed: Vec<u8> = Vec::new();
            for byte in message {
                stuffed.extend_from_slice(&line.stuff(&[*byte]));
            }
            stuffed.extend_from_slice(&line.end());
            assert_eq!(stuffed, wire, "{}", message.escape_ascii());
        }
    }

    #[test]
    fn a_hold_keeps_what_the_spool_has_no_room_for() {
        let spooler = Spooler::new(&std::env::temp_dir(), 10);
        let mut hold = Hold::new(spooler.open());
        hold.write(b"12345678").unwrap();
        assert_eq!(hold.next(3).unwrap().concat(), b"123");
        hold.write(b"90ab").unwrap_err();
        hold.write(b"cd").unwrap();
        assert_eq!(written(hold.rest()), b"4567890abcd");
        assert_eq!(spooler.bytes(), 0);
    }
}
