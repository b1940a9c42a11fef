//! `clamd` asked without a mail proxy in between: the most that any proxy with it could do.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::{Instant, timeout},
};

use crate::message::{Message, Pool};

/// Bytes of a mail in one chunk.
const CHUNK_BYTES: usize = 64 * 1024;
/// Longest wait for a verdict.
const VERDICT_MAX: Duration = Duration::from_secs(120);

/// A connection for any number of mails (clamd(8), `IDSESSION` and `INSTREAM`).
#[derive(Debug)]
pub(crate) struct Clamd {
    stream: BufReader<UnixStream>,
    buffer: Vec<u8>,
}

impl Clamd {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) async fn open(socket: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).await.context("connecting to clamd")?;
        stream.write_all(b"zIDSESSION\0").await?;
        let buffer = Vec::with_capacity(CHUNK_BYTES + 32);
        Ok(Self { stream: BufReader::new(stream), buffer })
    }

    /// Sends a mail to be scanned, and gives the moment before the last piece was written.
    ///
    /// # Errors
    /// When `clamd` hangs up.
    pub(crate) async fn send(&mut self, pool: &Pool, message: &Message) -> Result<Instant> {
        let mut position = 0;
        self.buffer.clear();
        self.buffer.extend_from_slice(b"zINSTREAM\0");
        loop {
            let length = CHUNK_BYTES.min(message.bytes() - position);
            self.buffer.extend_from_slice(&u32::try_from(length)?.to_be_bytes());
            let end = position + length;
            while position < end {
                let bytes = message.at(pool, position);
                let bytes = &bytes[..bytes.len().min(end - position)];
                self.buffer.extend_from_slice(bytes);
                position += bytes.len();
            }
            if position == message.bytes() {
                self.buffer.extend_from_slice(&0_u32.to_be_bytes());
            }
            let before = Instant::now();
            self.stream.get_mut().write_all(&self.buffer).await.context("sending to clamd")?;
            self.buffer.clear();
            if position == message.bytes() {
                return Ok(before);
            }
        }
    }

    /// Reads the verdict.
    ///
    /// # Errors
    /// When it is not that the mail is clean.
    pub(crate) async fn read_clean(&mut self) -> Result<()> {
        let mut reply = Vec::new();
        let read = timeout(VERDICT_MAX, self.stream.read_until(0, &mut reply));
        read.await.context("no verdict in time")?.context("reading clamd's verdict")?;
        let reply = String::from_utf8_lossy(&reply);
        ensure!(reply.trim_end_matches('\0').ends_with(": stream: OK"), "clamd said {reply:?}");
        Ok(())
    }
}
