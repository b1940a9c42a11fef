//! One end of a session under test: everything it received, and waiting for more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regex::bytes::Regex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

/// How the other end stopped sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// FIN.
    Fin,
    /// RST.
    Reset,
}

/// A connection whose received bytes are kept.
#[derive(Debug)]
pub struct Peer {
    inbox: Arc<Inbox>,
    writer: Option<OwnedWriteHalf>,
    reader: tokio::task::JoinHandle<()>,
    /// Received before this were matched by an `expect` already.
    mark: usize,
}

/// What has been received.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<(Vec<u8>, Option<Ended>)>,
    news: Notify,
}

impl Inbox {
    /// A copy of all bytes, and how they ended.
    pub fn all(&self) -> (Vec<u8>, Option<Ended>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of bytes, and how they ended.
    pub fn len(&self) -> (usize, Option<Ended>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.0.len(), state.1)
    }

    /// Bytes from a position on.
    pub fn since(&self, mark: usize) -> Vec<u8> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.get(mark..).unwrap_or_default().to_vec()
    }

    /// Waits until something came, or ended, after `known`.
    pub async fn changed(&self, known: (usize, Option<Ended>)) {
        loop {
            let news = self.news.notified();
            if self.len() != known {
                return;
            }
            news.await;
        }
    }
}

impl Peer {
    /// Starts to keep what comes.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        // Small writes of a script are segments of their own.
        let _ = stream.set_nodelay(true);
        let inbox = Arc::new(Inbox::default());
        let (mut read, writer) = stream.into_split();
        let kept = Arc::clone(&inbox);
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let result = read.read(&mut buffer).await;
                let mut state = kept.state.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(0) => state.1 = Some(Ended::Fin),
                    Ok(count) => state.0.extend_from_slice(&buffer[..count]),
                    Err(_) => state.1 = Some(Ended::Reset),
                }
                let over = state.1.is_some();
                drop(state);
                kept.news.notify_waiters();
                if over {
                    return;
                }
            }
        });
        Self { inbox, writer: Some(writer), reader, mark: 0 }
    }

    /// What came.
    #[must_use]
    pub fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// The direction towards the other end, for a server that takes over.
    pub fn take_writer(&mut self) -> Option<OwnedWriteHalf> {
        self.writer.take()
    }

    /// Sends in segments; a peer that is gone already hears nothing.
    pub async fn send(&mut self, bytes: &[u8], segments: &[usize], gap: Duration) {
        let Some(writer) = &mut self.writer else { return };
        let mut rest = bytes;
        let mut index = 0;
        while !rest.is_empty() {
            let size = segments.get(index).or(segments.last()).copied().unwrap_or(rest.len());
            let (segment, after) = rest.split_at(size.clamp(1, rest.len()));
            if writer.write_all(segment).await.is_err() {
                return;
            }
            rest = after;
            index += 1;
            if !rest.is_empty() && !gap.is_zero() {
                tokio::time::sleep(gap).await;
            } else if !segments.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for a match in what came since the last one. False if it did not come in time.
    pub async fn expect(&mut self, pattern: &Regex, limit: Duration) -> bool {
        let matched = tokio::time::timeout(limit, async {
            loop {
                let known = self.inbox.len();
                if pattern.is_match(&self.inbox.since(self.mark)) {
                    return true;
                }
                if known.1.is_some() {
                    return false;
                }
                self.inbox.changed(known).await;
            }
        })
        .await
        .unwrap_or(false);
        if matched {
            self.mark = self.inbox.len().0;
        }
        matched
    }

    /// Ends the sending direction.
    pub async fn shutdown(&mut self) {
        if let Some(writer) = &mut self.writer {
            let _ = writer.shutdown().await;
        }
    }

    /// Closes with a reset.
    pub fn reset(&mut self) {
        if let Some(writer) = self.writer.take() {
            let _ = writer.as_ref().set_zero_linger();
            self.reader.abort();
            writer.forget();
        }
    }
}
