//! Two legs coupled directly: for sessions that are not read.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{Carried, OPAQUE_IDLE_MAX, Outcome};

/// Largest read of a coupled session, in bytes. The space is on the stack while polling: an idle
/// session holds none.
const COUPLED_READ_BYTES_MAX: usize = 64 * 1024;

/// Couples two legs until both directions have ended, one is reset, or nothing has moved for
/// [`OPAQUE_IDLE_MAX`]; adds to the byte counts.
pub(crate) async fn couple<C, S>(
    id: &(dyn fmt::Display + Sync),
    mut client: C,
    mut server: S,
    mut outcome: Outcome,
) -> Carried<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::default();
    let mut down = Direction::default();
    let mut idle = pin!(sleep(OPAQUE_IDLE_MAX));
    let (mut moved, mut moved_at) = (0, Instant::now());
    let result = poll_fn(|cx| {
        let up_ended = up.poll(&mut client, &mut server, cx)?;
        let down_ended = down.poll(&mut server, &mut client, cx)?;
        if up_ended.is_ready() && down_ended.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let now = Instant::now();
        if up.moved + down.moved != moved {
            (moved, moved_at) = (up.moved + down.moved, now);
        }
        // The timer is moved only when it rings, so that a busy session costs it nothing.
        while idle.as_mut().poll(cx).is_ready() {
            if moved_at + OPAQUE_IDLE_MAX <= now {
                warn!(session = %id, idle_s = OPAQUE_IDLE_MAX.as_secs(), "nothing moves: reset");
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            idle.as_mut().reset(moved_at + OPAQUE_IDLE_MAX);
        }
        Poll::Pending
    });
    let result: io::Result<()> = result.await;
    outcome.bytes_up += up.bytes;
    outcome.bytes_down += down.bytes;
    if result.is_ok() {
        return Carried { outcome, client: Some(client), server: Some(server) };
    }
    // Both legs are dropped without a shutdown, and so reset.
    outcome.reset = true;
    Carried { outcome, client: None, server: None }
}

/// One direction of a coupled session.
#[derive(Default)]
struct Direction {
    /// Read and not yet written: the writer was full.
    left: Bytes,
    bytes: u64,
    /// Reads and writes that moved bytes.
    moved: u64,
    unflushed: bool,
    state: State,
}

#[derive(Default, Clone, Copy)]
enum State {
    #[default]
    Open,
    Closing,
    Closed,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut space = [const { MaybeUninit::uninit() }; COUPLED_READ_BYTES_MAX];
        loop {
            while !self.left.is_empty() {
                let written = ready!(write(writer, &self.left, cx))?;
                self.moved += 1;
                self.left.advance(written);
            }
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = State::Closed;
                    continue;
                }
                State::Open => {}
            }
            let mut buffer = ReadBuf::uninit(&mut space);
            if Pin::new(&mut *reader).poll_read(cx, &mut buffer)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            let mut read = buffer.filled();
            if read.is_empty() {
                self.state = State::Closing;
            }
            self.bytes += read.len() as u64;
            self.moved += 1;
            while !read.is_empty() {
                self.unflushed = true;
                match write(writer, read, cx)? {
                    Poll::Ready(written) => read = read.get(written..).unwrap_or_default(),
                    Poll::Pending => {
                        self.left = Bytes::copy_from_slice(read);
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    bytes: &[u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(writer).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn passes_both_ways_and_each_end_alone() {
        let (mut client, near) = tokio::io::duplex(100);
        let (far, mut server) = tokio::io::duplex(7);
        let coupled = couple(&"test", near, far, Outcome::default());
        let peers = async {
            client.write_all(b"question of more than seven bytes").await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"question of more than seven bytes");
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
            got.clear();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"answer");
        };
        let (Carried { outcome, .. }, ()) = tokio::join!(coupled, peers);
        assert_eq!((outcome.bytes_up, outcome.bytes_down, outcome.reset), (33, 6, false));
    }
    /// The peers of `listen` and of the interceptor may vanish without a word, and the other side
    /// need not have a time limit of its own.
    #[tokio::test(start_paused = true)]
    async fn a_session_in_which_nothing_moves_is_reset() {
        let (mut client, near) = tokio::io::duplex(100);
        let (far, mut server) = tokio::io::duplex(100);
        let started = Instant::now();
        let coupled =
            tokio::spawn(
                async move { couple(&"test", near, far, Outcome::default()).await.outcome },
            );
        // Some way in, one side says something and closes its half: from then on time runs.
        sleep(OPAQUE_IDLE_MAX / 2).await;
        client.write_all(b"x").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        let outcome = coupled.await.unwrap();
        assert_eq!((outcome.bytes_up, outcome.reset), (1, true));
        assert_eq!(started.elapsed().as_secs(), (OPAQUE_IDLE_MAX * 3 / 2).as_secs());
    }
}
