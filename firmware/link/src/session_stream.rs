//! One mail session, as a byte stream.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use wire::{Bye, Message};

use crate::framed::Framed;
use crate::{CLOSE_TIMEOUT, LinkError};

/// The bytes of one session, over a link.
///
/// - Reading gives the peer's `Data`. `Fin` is the end of file; `Reset`, a broken connection or a
///   broken protocol are [`io::ErrorKind::ConnectionReset`], with the [`LinkError`] inside.
/// - Writing goes out at once; what the socket does not take is joined into full frames, and
///   beyond [`OUTPUT_BYTES_MAX`](crate::OUTPUT_BYTES_MAX) the writer waits. Reading pushes it on,
///   too, so a flush forgotten costs nothing as long as somebody reads.
/// - `shutdown` sends `Fin`, after which the other direction goes on.
/// - Dropping it before that is a reset to the peer, never an end of file.
///
/// It may be split with `tokio::io::split`, and its halves used by two tasks.
pub struct SessionStream {
    framed: Framed,
    read: ReadState,
    write: WriteState,
    bye: Option<Bye>,
}

/// What the peer's direction has come to.
enum ReadState {
    /// Session bytes of the last `Data` not given out yet.
    Open(Bytes),
    /// `Fin` was read.
    Ended,
    /// Nothing good will come.
    Broken,
}

#[derive(PartialEq, Eq)]
enum WriteState {
    Open,
    /// `Fin` stands in the output, or is sent.
    Ended,
    /// No word to the peer is possible, or wanted, any more.
    Silent,
}

impl SessionStream {
    pub(crate) fn new(framed: Framed) -> Self {
        let read = ReadState::Open(Bytes::new());
        Self { framed, read, write: WriteState::Open, bye: None }
    }

    /// The last word of the box: sends `bye`, closes, and waits until the peer has closed too, so
    /// that the word arrives. If `shutdown` did not come first, the session is a reset to the peer.
    ///
    /// # Errors
    ///
    /// When the peer is gone, or does not close within [`CLOSE_TIMEOUT`].
    pub async fn finish(mut self, bye: Bye) -> Result<(), LinkError> {
        let finish = async {
            if self.write == WriteState::Open {
                self.framed.queue(&Message::Reset)?;
            }
            self.write = WriteState::Silent;
            self.framed.queue(&Message::Bye(bye))?;
            poll_fn(|cx| self.framed.poll_shutdown(cx)).await?;
            // A socket closed with bytes unread resets the connection, and the reset may overtake
            // what was sent: so read until the peer has closed.
            loop {
                match poll_fn(|cx| self.framed.poll_message(cx)).await {
                    Ok(_late) => {}
                    Err(error) if error.is_closed() => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        timeout(CLOSE_TIMEOUT, finish)
            .await
            .map_err(|_| LinkError::CloseTimedOut { timeout: CLOSE_TIMEOUT })?
    }

    /// The peer's `Bye`, if reading has come across it. It comes behind the end of file: see
    /// [`SessionStream::recv_bye`].
    pub fn take_bye(&mut self) -> Option<Bye> {
        self.bye.take()
    }

    /// Waits for the peer's `Bye`, reading past the session's end; `None` when the link ends
    /// without. Session bytes not read yet are lost. Cancel-safe; has no time limit of its own.
    pub async fn recv_bye(&mut self) -> Option<Bye> {
        while self.bye.is_none() {
            let Ok(message) = poll_fn(|cx| self.framed.poll_message(cx)).await else {
                self.read = ReadState::Broken;
                break;
            };
            if let Message::Bye(bye) = message {
                self.bye = Some(bye);
            }
        }
        self.bye.take()
    }

    /// Reads on until there are session bytes, an end, or nothing yet.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            match ready!(self.framed.poll_message(cx))? {
                Message::Data(bytes) => self.read = ReadState::Open(bytes),
                Message::Fin => self.read = ReadState::Ended,
                Message::Reset => {
                    let source = io::Error::other("the session was reset at the other end");
                    return Poll::Ready(Err(LinkError::Cut { source }));
                }
                Message::Bye(bye) => {
                    self.bye = Some(bye);
                    continue;
                }
                Message::Pong(_) => continue,
                other => {
                    let (expected, got) = ("session bytes", other.name());
                    return Poll::Ready(Err(LinkError::Unexpected { expected, got }));
                }
            }
            return Poll::Ready(Ok(()));
        }
    }

    fn reset_read(&mut self, error: LinkError) -> io::Error {
        self.read = ReadState::Broken;
        error.into()
    }
}

impl AsyncRead for SessionStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.read {
                ReadState::Open(bytes) if !bytes.is_empty() => {
                    let taken = bytes.len().min(buf.remaining());
                    buf.put_slice(bytes.get(..taken).unwrap_or_default());
                    bytes.advance(taken);
                    if bytes.is_empty() {
                        // Idle: keep no buffer.
                        *bytes = Bytes::new();
                    }
                    return Poll::Ready(Ok(()));
                }
                ReadState::Open(_) => {
                    if buf.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    ready!(this.poll_fill(cx)).map_err(|error| this.reset_read(error))?;
                }
                ReadState::Ended => return Poll::Ready(Ok(())),
                ReadState::Broken => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
    }
}

impl AsyncWrite for SessionStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write != WriteState::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = ready!(self.framed.poll_queue_data(cx, buf))?;
        // Out with it now. If the socket is full it stays queued, and this task is woken to go on.
        let _: Poll<()> = self.framed.poll_flush(cx)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.framed.poll_flush(cx).map_err(Into::into)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write == WriteState::Open {
            self.framed.queue(&Message::Fin)?;
            self.write = WriteState::Ended;
        }
        self.framed.poll_flush(cx).map_err(Into::into)
    }
}

/// Tells the peer of the reset, if that is possible without waiting; otherwise the connection ends
/// without `Fin`, which means the same.
impl Drop for SessionStream {
    fn drop(&mut self) {
        if self.write == WriteState::Open
            && self.framed.is_idle()
            && self.framed.queue(&Message::Reset).is_ok()
        {
            let _ = self.framed.poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl fmt::Debug for SessionStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = match self.read {
            ReadState::Open(_) => "open",
            ReadState::Ended => "ended",
            ReadState::Broken => "broken",
        };
        f.debug_struct("SessionStream").field("read", &read).finish_non_exhaustive()
    }
}
