//! Frames over TLS, as poll functions: what [`Link`](crate::Link) and
//! [`SessionStream`](crate::SessionStream) share.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use wire::Message;
use wire::frame::{Decoder, encode, encode_data, extend_data};

use crate::{LinkError, OUTPUT_BYTES_MAX};

pub(crate) struct Framed {
    /// Boxed: a TLS connection is over a kilobyte, and links are moved about.
    tls: Box<TlsStream<TcpStream>>,
    decoder: Decoder,
    /// Bytes not yet decoded: never more than one frame and one TLS record.
    input: BytesMut,
    /// Frames that TLS has not taken yet.
    output: BytesMut,
    /// Where in `output` a `Data` frame begins that is the last and of which nothing is sent yet.
    open_data: Option<usize>,
    /// TLS or the socket may still hold bytes.
    unflushed: bool,
    /// What writing failed with; nothing can be written after it.
    broken: Option<io::ErrorKind>,
    /// Reading pushes output too, and a socket wakes only the last task that asked for room: so
    /// both are kept, and both are woken.
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Framed {
    pub(crate) fn new(tls: TlsStream<TcpStream>) -> Self {
        Self {
            tls: Box::new(tls),
            decoder: Decoder::new(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            open_data: None,
            unflushed: false,
            broken: None,
            reader: None,
            writer: None,
        }
    }

    /// Puts a message into the output; [`Framed::poll_flush`] sends it.
    pub(crate) fn queue(&mut self, message: &Message) -> Result<(), LinkError> {
        self.open_data = None;
        encode(message, &mut self.output).map_err(|source| LinkError::Encode { source })
    }

    /// Puts the front of `bytes` into the output, joined to a `Data` frame that waits there.
    /// Nothing is ready while [`OUTPUT_BYTES_MAX`] wait.
    pub(crate) fn poll_queue_data(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, LinkError>> {
        ready!(self.poll_room(cx))?;
        if let Some(start) = self.open_data {
            let taken = extend_data(start, bytes, &mut self.output);
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
        self.open_data = Some(self.output.len());
        Poll::Ready(Ok(encode_data(bytes, &mut self.output)))
    }

    /// Ready when less than [`OUTPUT_BYTES_MAX`] wait in the output.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if self.output.len() >= OUTPUT_BYTES_MAX {
            let _: Poll<()> = self.poll_flush(cx)?;
        }
        if self.output.len() < OUTPUT_BYTES_MAX { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Sends all output, as far as the peer takes it now.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.writer = Some(cx.waker().clone());
        let flushed = self.poll_push();
        if flushed.is_ready() {
            self.writer = None;
        }
        flushed
    }

    /// The next message. Pending output is pushed meanwhile, so a reader needs no separate flush.
    /// Pings are answered here.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Message, LinkError>> {
        loop {
            self.push_beside(cx);
            if self.output.len() >= 2 * OUTPUT_BYTES_MAX {
                // A peer that asks and never reads the answers: wait with it. The push above has
                // registered this task for when it reads on.
                return Poll::Pending;
            }
            let decoded = self.decoder.decode(&mut self.input);
            match decoded.map_err(|source| LinkError::Protocol { source })? {
                Some(Message::Ping(number)) => self.queue(&Message::Pong(number))?,
                Some(message) => return Poll::Ready(Ok(message)),
                None => ready!(self.poll_fill(cx))?,
            }
        }
    }

    /// Ends our direction of TLS and TCP.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut *self.tls).poll_shutdown(cx).map_err(LinkError::from_io)
    }

    #[cfg(test)]
    pub(crate) fn output_bytes(&self) -> usize {
        self.output.len()
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    /// One more TLS record into `input`.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let mut tls = Pin::new(&mut *self.tls);
        let filled = match tls.as_mut().poll_fill_buf(cx) {
            Poll::Pending => {
                if self.input.is_empty() {
                    // Idle: keep no buffer.
                    self.input = BytesMut::new();
                }
                return Poll::Pending;
            }
            Poll::Ready(Ok([])) if self.input.is_empty() => Err(LinkError::Closed),
            Poll::Ready(Ok([])) => {
                Err(LinkError::Cut { source: io::ErrorKind::UnexpectedEof.into() })
            }
            Poll::Ready(Ok(bytes)) => {
                self.input.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            Poll::Ready(Err(source)) => Err(LinkError::from_io(source)),
        };
        tls.consume(filled?);
        Poll::Ready(Ok(()))
    }

    /// Pushes output on behalf of a reader, and tells a waiting writer of progress. What fails here
    /// is told to the next writer; what the peer sent before is still to be read.
    fn push_beside(&mut self, cx: &mut Context<'_>) {
        if self.is_idle() {
            self.reader = None;
            return;
        }
        self.reader = Some(cx.waker().clone());
        let before = self.output.len();
        let pushed = self.poll_push();
        if (pushed.is_ready() || self.output.len() < before)
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }

    /// Moves output into TLS and from there into the socket; when the socket is full, everyone who
    /// waits is woken once it has room.
    fn poll_push(&mut self) -> Poll<Result<(), LinkError>> {
        if let Some(kind) = self.broken {
            self.drop_output();
            return Poll::Ready(Err(LinkError::Cut { source: kind.into() }));
        }
        if self.is_idle() {
            return Poll::Ready(Ok(()));
        }
        let waker = both(self.reader.as_ref(), self.writer.as_ref());
        let pushed = self.push(&mut Context::from_waker(&waker));
        if let Poll::Ready(Err(error)) = &pushed {
            self.broken = Some(error.kind());
            self.drop_output();
        }
        pushed.map_err(LinkError::from_io)
    }

    /// What TLS took goes out before it gets more, so that what has to wait does so in `output`,
    /// where it is joined into large frames.
    fn push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut tls = Pin::new(&mut *self.tls);
        loop {
            if self.unflushed {
                ready!(tls.as_mut().poll_flush(cx))?;
                self.unflushed = false;
            }
            if self.output.is_empty() {
                break;
            }
            let sent = ready!(tls.as_mut().poll_write(cx, &self.output))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(sent);
            self.open_data = self.open_data.and_then(|start| start.checked_sub(sent));
            self.unflushed = true;
        }
        self.drop_output();
        Poll::Ready(Ok(()))
    }

    /// Idle, or broken: keeps no buffer.
    fn drop_output(&mut self) {
        self.output = BytesMut::new();
        self.open_data = None;
        self.unflushed = false;
    }
}

/// A waker of every task that waits; none of them twice.
fn both(reader: Option<&Waker>, writer: Option<&Waker>) -> Waker {
    match (reader, writer) {
        (Some(reader), Some(writer)) if !reader.will_wake(writer) => {
            Waker::from(Arc::new(Both(reader.clone(), writer.clone())))
        }
        (Some(waker), _) | (None, Some(waker)) => waker.clone(),
        (None, None) => Waker::noop().clone(),
    }
}

struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}
