//! A flow as a byte stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use box_stack::{FlowError, FlowId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;

/// The client's side of an intercepted connection.
///
/// A read of nothing is the client's FIN; `shutdown` sends ours. Dropped without a shutdown, the
/// client sees RST; dropped after one, the connection finishes by itself.
#[derive(Debug)]
pub struct FlowStream {
    shared: Arc<Shared>,
    flow: FlowId,
}

impl FlowStream {
    pub(super) fn new(shared: Arc<Shared>, flow: FlowId) -> Self {
        Self { shared, flow }
    }
}

impl AsyncRead for FlowStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let place = buffer.initialize_unfilled();
        let read = self.shared.with(|stack, now| stack.poll_read(self.flow, context, place, now));
        let bytes = ready!(read).map_err(io_error)?;
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FlowStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared
            .with(|stack, now| stack.poll_write(self.flow, context, data, now))
            .map_err(io_error)
    }

    /// Nothing is held back: what is written is sent as the client's window allows.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|stack, now| stack.shutdown(self.flow, now));
        Poll::Ready(Ok(()))
    }
}

impl Drop for FlowStream {
    fn drop(&mut self) {
        self.shared.with(|stack, now| stack.release(self.flow, now));
    }
}

fn io_error(error: FlowError) -> io::Error {
    let kind = match error {
        FlowError::Reset | FlowError::Gone => io::ErrorKind::ConnectionReset,
        FlowError::TimedOut => io::ErrorKind::TimedOut,
        FlowError::ShutDown => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, error)
}
