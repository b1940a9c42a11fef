//! One side of a session: what waits to be written to it, and what it says.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use mail::End;
use spool::SpoolError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::warn;

use crate::hold::{Item, Stuffing};
use crate::{READ_BYTES_MAX, WRITE_QUEUE_BYTES_MAX};

/// Pieces below this many bytes are joined before they are written: a mail of dot lines comes in
/// pieces of a line each, and would leave in as many segments.
const JOINED_PIECE_BYTES_MAX: usize = 1024;

/// One side's connection and what waits to be written to it.
pub(super) struct Leg<T> {
    /// `None` once it was reset or lost.
    stream: Option<T>,
    /// What is being written.
    writing: Bytes,
    queue: VecDeque<Item>,
    /// Small pieces behind the queue, joined.
    joined: BytesMut,
    /// In memory: in `writing`, `queue` and `joined`.
    queued_bytes: usize,
    stuffing: Stuffing,
    /// Written since the last complete flush.
    unflushed: bool,
    sending: Sending,
    receiving: bool,
}

/// The direction towards a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// A FIN follows what is queued.
    Closing,
    Closed,
}

/// What a peer says.
pub(super) enum Heard {
    Bytes(Bytes),
    End(End),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Leg<T> {
    pub(super) fn new(stream: T) -> Self {
        Self {
            stream: Some(stream),
            writing: Bytes::new(),
            queue: VecDeque::new(),
            joined: BytesMut::new(),
            queued_bytes: 0,
            stuffing: Stuffing::default(),
            unflushed: false,
            sending: Sending::Open,
            receiving: true,
        }
    }

    /// The connection, unless it was reset or lost.
    pub(super) fn into_stream(self) -> Option<T> {
        self.stream
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.takes_more() && !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            if bytes.len() < JOINED_PIECE_BYTES_MAX {
                self.joined.extend_from_slice(&bytes);
            } else {
                self.enqueue_joined();
                self.queue.push_back(Item::Bytes(bytes));
            }
        }
    }

    pub(super) fn push_item(&mut self, item: Item) {
        match item {
            Item::Bytes(bytes) => self.push(bytes),
            item if self.takes_more() => {
                self.enqueue_joined();
                self.queue.push_back(item);
            }
            _ => {}
        }
    }

    fn takes_more(&self) -> bool {
        self.stream.is_some() && self.sending == Sending::Open
    }

    /// Behind the queue with the small pieces; an idle session keeps no buffer for them.
    fn enqueue_joined(&mut self) {
        if !self.joined.is_empty() {
            self.queue.push_back(Item::Bytes(std::mem::take(&mut self.joined).freeze()));
        }
    }

    /// Sees to it that something is being written; false when nothing waits.
    fn fill(&mut self) -> Result<bool, SpoolError> {
        while self.writing.is_empty() {
            let Some(item) = self.queue.front_mut() else { return Ok(false) };
            let was_counted = matches!(item, Item::Bytes(_));
            match item.next(&mut self.stuffing)? {
                Some(bytes) => {
                    if !was_counted {
                        self.queued_bytes += bytes.len();
                    }
                    self.writing = bytes;
                }
                None => drop(self.queue.pop_front()),
            }
        }
        Ok(true)
    }

    pub(super) fn shutdown(&mut self, how: End) {
        match how {
            End::Fin if self.sending == Sending::Open => self.sending = Sending::Closing,
            End::Fin => {}
            End::Reset => self.lose(),
        }
    }

    /// Dropping the stream resets the connection.
    pub(super) fn lose(&mut self) {
        self.stream = None;
        self.writing = Bytes::new();
        self.queue.clear();
        self.joined = BytesMut::new();
        self.queued_bytes = 0;
    }

    pub(super) fn has_room(&self) -> bool {
        self.queued_bytes < WRITE_QUEUE_BYTES_MAX
    }

    pub(super) fn is_sent(&self) -> bool {
        self.stream.is_none() || self.sending == Sending::Closed
    }

    pub(super) fn is_receiving(&self) -> bool {
        self.stream.is_some() && self.receiving
    }

    /// Open both ways, and nothing waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.sending == Sending::Open
            && self.receiving
            && self.stream.is_some()
            && self.queued_bytes == 0
            && self.queue.is_empty()
            && !self.unflushed
    }

    /// Writes what it can. True if the connection turned out to be lost.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        self.enqueue_joined();
        let result = loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break self.poll_finish(cx),
                // Kept bytes that cannot be read back: nothing may stand in their place.
                Err(error) => {
                    let error = telemetry::chain(&error);
                    warn!(error, "what was kept of a message cannot be read back: reset");
                    break Err(io::Error::other(error));
                }
            }
            let Some(stream) = &mut self.stream else { return false };
            match Pin::new(stream).poll_write(cx, &self.writing) {
                Poll::Ready(Ok(0)) => break Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.unflushed = true;
                    self.queued_bytes -= count;
                    self.writing.advance(count);
                }
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => break Ok(()),
            }
        };
        if result.is_err() {
            self.lose();
        }
        result.is_err()
    }

    /// All is written: ends the direction, or flushes.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        match self.sending {
            Sending::Closing => match Pin::new(stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => {
                    self.sending = Sending::Closed;
                    Ok(())
                }
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => Ok(()),
            },
            Sending::Open if self.unflushed => match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(result) => {
                    self.unflushed = false;
                    result
                }
                Poll::Pending => Ok(()),
            },
            Sending::Open | Sending::Closed => Ok(()),
        }
    }

    /// What the peer says next.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let (Some(stream), true) = (&mut self.stream, self.receiving) else {
            return Poll::Pending;
        };
        // On the stack, so that an idle session holds no buffer.
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let mut buffer = ReadBuf::uninit(&mut space);
        match Pin::new(stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                self.receiving = false;
                Poll::Ready(Heard::End(End::Fin))
            }
            Poll::Ready(Ok(())) => {
                Poll::Ready(Heard::Bytes(Bytes::copy_from_slice(buffer.filled())))
            }
            Poll::Ready(Err(_)) => {
                self.lose();
                Poll::Ready(Heard::End(End::Reset))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes everything and remembers it, one entry a write.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncRead for Writes {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn small_pieces_leave_together_and_all_in_order() {
        let mut leg = Leg::new(Writes::default());
        let large = Bytes::from(vec![b'L'; JOINED_PIECE_BYTES_MAX]);
        for _ in 0..4_000 {
            leg.push(Bytes::from_static(b"..\r\n"));
        }
        leg.push(large.clone());
        leg.push(Bytes::from_static(b"end"));
        assert!(!leg.is_idle());
        let waker = Waker::noop();
        assert!(!leg.poll_write(&mut Context::from_waker(waker)));
        assert!(leg.is_idle());
        assert_eq!(leg.joined.capacity(), 0);
        let writes = leg.stream.unwrap().0;
        assert_eq!(writes, [b"..\r\n".repeat(4_000), large.to_vec(), b"end".to_vec()]);
    }
}
