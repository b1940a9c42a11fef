//! A mail as the worker reads it: sent with the request, or asked for stretch by stretch.

use std::io::{self, BufReader, Read};
use std::os::unix::net::UnixStream;

use super::{Answer, STRETCH_BYTES, WorkerError, send};
use crate::analysis::Source;

/// Most bytes that are read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// The worker's end of a mail.
pub(super) struct Stretches<'a, 's> {
    reader: &'a mut BufReader<&'s UnixStream>,
    socket: &'s UnixStream,
    /// Of the mail. The daemon is believed: it has counted the bytes, and has a limit for them.
    bytes: u64,
    /// From where on a stretch is asked for next.
    at: u64,
    /// Asked for, and not read.
    coming: u64,
    /// Room for a piece, once one is wanted.
    piece: Vec<u8>,
    failed: Option<WorkerError>,
}

impl<'a, 's> Stretches<'a, 's> {
    pub(super) fn new(
        reader: &'a mut BufReader<&'s UnixStream>,
        socket: &'s UnixStream,
        bytes: u64,
    ) -> Self {
        Self { reader, socket, bytes, at: 0, coming: 0, piece: Vec::new(), failed: None }
    }

    /// A mail that was sent with the request.
    pub(super) fn take_sent(&mut self) -> Result<Vec<u8>, WorkerError> {
        let mut mail = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or_default());
        self.reader.by_ref().take(self.bytes).read_to_end(&mut mail)?;
        Ok(mail)
    }

    /// A mail that was not, as a whole.
    pub(super) fn take_all(&mut self) -> Result<Vec<u8>, WorkerError> {
        let mut mail = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or_default());
        loop {
            let piece = self.next_piece();
            if piece.is_empty() {
                break;
            }
            mail.extend_from_slice(piece);
        }
        self.failed.take().map_or(Ok(mail), Err)
    }

    /// Reads to the end of what was asked for: a request comes next.
    pub(super) fn finish(mut self) -> Result<(), WorkerError> {
        self.drain();
        self.failed.map_or(Ok(()), Err)
    }

    fn drain(&mut self) {
        while self.coming > 0 && self.failed.is_none() {
            let _ = self.read();
        }
    }

    /// Reads some of what was asked for.
    fn read(&mut self) -> &[u8] {
        self.piece.resize(PIECE_BYTES, 0);
        let want = usize::try_from(self.coming).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let space = self.piece.get_mut(..want).unwrap_or_default();
        let count = loop {
            match self.reader.read(space) {
                Ok(0) => break Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                count => break count,
            }
        };
        match count {
            Ok(count) => {
                self.coming -= count as u64;
                self.piece.get(..count).unwrap_or_default()
            }
            Err(error) => {
                self.failed = Some(error.into());
                &[]
            }
        }
    }
}

impl Source for Stretches<'_, '_> {
    fn restart(&mut self) {
        self.drain();
        self.at = 0;
    }

    fn next_piece(&mut self) -> &[u8] {
        if self.coming == 0 && self.at < self.bytes && self.failed.is_none() {
            match send(self.socket, &Answer::More { at: self.at }, &[]) {
                Ok(()) => {
                    self.coming = STRETCH_BYTES.min(self.bytes - self.at);
                    self.at += self.coming;
                }
                Err(error) => self.failed = Some(error),
            }
        }
        if self.coming == 0 || self.failed.is_some() {
            return &[];
        }
        self.read()
    }
}
