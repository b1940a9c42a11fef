//! Bytes that wait for a verdict: in memory while they are few, then in a sealed temporary file.
//!
//! A [`Spool`] takes bytes and keeps them in order; [`Spool::finish`] makes a [`Spooled`] of it,
//! which is cheap to share and read from any place, as often as needed. Up to [`MEMORY_BYTES_MAX`]
//! stay in memory. Beyond it whole chunks go to a file that has no name, sealed with a key that
//! exists in this process only (AES-256-GCM, a fresh key a file, the chunk's number as nonce): what a
//! power cut leaves on the disk is nothing but noise.
//!
//! A write costs the sealing of at most one chunk and a copy into the page cache, microseconds, so
//! drivers call it where they are and hand nothing to other threads.
//!
//! Must not depend on any other crate of the workspace. Entry: [`Spooler`].
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Bytes, BytesMut};

/// Most bytes of one spool that stay in memory; also the size of a sealed chunk.
pub const MEMORY_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of all spools of one [`Spooler`] together, unless set otherwise.
pub const BYTES_MAX_DEFAULT: u64 = 4 * 1024 * 1024 * 1024;

/// What sealing adds to a chunk.
const TAG_BYTES: usize = 16;

/// A chunk in the file, with its tag.
const SEALED_BYTES: u64 = (MEMORY_BYTES_MAX + TAG_BYTES) as u64;

/// Why bytes could not be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// All spools together would be over the limit.
    #[error("the spool is full: {bytes_max} bytes are waiting for verdicts")]
    Full {
        /// The limit.
        bytes_max: u64,
    },
    /// The temporary file could not be made.
    #[error("make a temporary file in {}", folder.display())]
    Create {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The temporary file could not be written: as a rule, its disk is full.
    #[error("write the temporary file")]
    Write(#[source] io::Error),
    /// The temporary file could not be read back.
    #[error("read the temporary file")]
    Read(#[source] io::Error),
    /// The operating system gives no random bytes, or what was read is not what was written.
    #[error("seal or unseal a chunk of the temporary file")]
    Seal,
}

/// Makes spools, all in one folder and within one limit. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spooler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    bytes_max: u64,
    bytes: AtomicU64,
}

impl Spooler {
    /// Spools whose files are in `folder`, a directory that exists; of `bytes_max` bytes together.
    #[must_use]
    pub fn new(folder: &Path, bytes_max: u64) -> Self {
        let folder = folder.to_owned();
        Self { shared: Arc::new(Shared { folder, bytes_max, bytes: AtomicU64::new(0) }) }
    }

    /// An empty spool.
    #[must_use]
    pub fn open(&self) -> Spool {
        Spool {
            charge: Charge { shared: Arc::clone(&self.shared), bytes: 0 },
            tail: BytesMut::new(),
            sealed: None,
        }
    }

    /// Tries whether its folder takes a file.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn check(&self) -> Result<(), SpoolError> {
        Sealed::new(&self.shared.folder)?.push(&[0; MEMORY_BYTES_MAX])
    }

    /// Bytes that all its spools hold now, in memory and in files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Relaxed)
    }
}

impl Default for Spooler {
    /// In the system's folder for temporary files, of [`BYTES_MAX_DEFAULT`].
    fn default() -> Self {
        Self::new(&std::env::temp_dir(), BYTES_MAX_DEFAULT)
    }
}

/// Bytes on their way in. Dropping it frees them.
#[derive(Debug)]
pub struct Spool {
    charge: Charge,
    /// What has not been sealed: less than a chunk, once there is a file.
    tail: BytesMut,
    sealed: Option<Sealed>,
}

/// Whole chunks in a file without a name.
#[derive(Debug)]
struct Sealed {
    file: File,
    key: LessSafeKey,
    chunks: u64,
}

/// Bytes that count against the limit until they are dropped.
#[derive(Debug)]
struct Charge {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Spool {
    /// Adds bytes at the end.
    ///
    /// # Errors
    ///
    /// When there is no room for all of them. [`Self::len`] tells how many were taken; they and what
    /// was written before stay readable.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), SpoolError> {
        while self.tail.len() + bytes.len() > MEMORY_BYTES_MAX {
            let (head, rest) = bytes.split_at(MEMORY_BYTES_MAX - self.tail.len());
            self.append(head)?;
            bytes = rest;
            let sealed = match &mut self.sealed {
                Some(sealed) => sealed,
                none => none.insert(Sealed::new(&self.charge.shared.folder)?),
            };
            sealed.push(&self.tail)?;
            self.tail.clear();
        }
        self.append(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        self.charge.add(bytes.len())?;
        self.tail.extend_from_slice(bytes);
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.charge.bytes
    }

    /// Nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the bytes from `offset` on: at least one, at most a chunk; none at the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read back.
    pub fn read_at(&self, offset: u64) -> Result<Bytes, SpoolError> {
        match place(self.sealed.as_ref(), offset) {
            Place::Sealed(sealed, chunk, within) => Ok(sealed.read(chunk)?.split_off(within)),
            Place::Tail(within) => {
                Ok(Bytes::copy_from_slice(self.tail.get(within..).unwrap_or_default()))
            }
            Place::Behind => Ok(Bytes::new()),
        }
    }

    /// All has been written.
    #[must_use]
    pub fn finish(self) -> Spooled {
        let Self { charge, tail, sealed } = self;
        Spooled { inner: Arc::new(Inner { charge, tail: tail.freeze(), sealed }) }
    }
}

/// Bytes that are complete. Cheap to clone; the last one that is dropped frees them.
#[derive(Debug, Clone)]
pub struct Spooled {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    charge: Charge,
    tail: Bytes,
    sealed: Option<Sealed>,
}

impl Spooled {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.inner.charge.bytes
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, if they are in memory.
    #[must_use]
    pub fn in_memory(&self) -> Option<&Bytes> {
        self.inner.sealed.is_none().then_some(&self.inner.tail)
    }

    /// Some of the bytes from `offset` on: at least one, at most a chunk; none at the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read back.
    pub fn read_at(&self, offset: u64) -> Result<Bytes, SpoolError> {
        let tail = &self.inner.tail;
        match place(self.inner.sealed.as_ref(), offset) {
            Place::Sealed(sealed, chunk, within) => Ok(sealed.read(chunk)?.split_off(within)),
            Place::Tail(within) if within < tail.len() => Ok(tail.slice(within..)),
            Place::Tail(_) | Place::Behind => Ok(Bytes::new()),
        }
    }

    /// All of them in order, a chunk at a time. Ends behind the first error.
    pub fn chunks(&self) -> impl Iterator<Item = Result<Bytes, SpoolError>> + Send + use<> {
        let spooled = self.clone();
        let mut offset = Some(0);
        std::iter::from_fn(move || {
            let chunk = spooled.read_at(offset?);
            offset = match &chunk {
                Ok(bytes) if bytes.is_empty() => return None,
                Ok(bytes) => offset.map(|offset| offset + bytes.len() as u64),
                Err(_) => None,
            };
            Some(chunk)
        })
    }
}

impl From<Bytes> for Spooled {
    /// Bytes that are in memory anyway; they count against no limit.
    fn from(bytes: Bytes) -> Self {
        let shared = Shared { folder: PathBuf::new(), bytes_max: u64::MAX, bytes: 0.into() };
        let mut charge = Charge { shared: Arc::new(shared), bytes: 0 };
        // Without a limit there is always room.
        let _ = charge.add(bytes.len());
        Self { inner: Arc::new(Inner { charge, tail: bytes, sealed: None }) }
    }
}

impl Sealed {
    fn new(folder: &Path) -> Result<Self, SpoolError> {
        let file = tempfile::tempfile_in(folder)
            .map_err(|source| SpoolError::Create { folder: folder.to_owned(), source })?;
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| SpoolError::Seal)?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| SpoolError::Seal)?;
        Ok(Self { file, key: LessSafeKey::new(key), chunks: 0 })
    }

    /// Adds a whole chunk.
    fn push(&mut self, chunk: &[u8]) -> Result<(), SpoolError> {
        assert_eq!(chunk.len(), MEMORY_BYTES_MAX, "only whole chunks are sealed");
        // Sealed in a copy: where the disk is full, the bytes themselves are not lost.
        let mut sealed = Vec::with_capacity(MEMORY_BYTES_MAX + TAG_BYTES);
        sealed.extend_from_slice(chunk);
        self.key
            .seal_in_place_append_tag(nonce(self.chunks), Aad::empty(), &mut sealed)
            .map_err(|_| SpoolError::Seal)?;
        let at = self.chunks * SEALED_BYTES;
        self.file.write_all_at(&sealed, at).map_err(SpoolError::Write)?;
        self.chunks += 1;
        Ok(())
    }

    fn read(&self, chunk: u64) -> Result<Bytes, SpoolError> {
        let mut bytes = vec![0; MEMORY_BYTES_MAX + TAG_BYTES];
        self.file.read_exact_at(&mut bytes, chunk * SEALED_BYTES).map_err(SpoolError::Read)?;
        self.key
            .open_in_place(nonce(chunk), Aad::empty(), &mut bytes)
            .map_err(|_| SpoolError::Seal)?;
        bytes.truncate(MEMORY_BYTES_MAX);
        Ok(bytes.into())
    }
}

/// Where a byte is kept.
enum Place<'a> {
    /// In this chunk of the file, that far into it.
    Sealed(&'a Sealed, u64, usize),
    /// In memory, that far into it.
    Tail(usize),
    Behind,
}

fn place(sealed: Option<&Sealed>, offset: u64) -> Place<'_> {
    let Some(sealed) = sealed else {
        // Bytes that were in memory anyway may be more than a chunk.
        return usize::try_from(offset).map_or(Place::Behind, Place::Tail);
    };
    let chunk = offset / MEMORY_BYTES_MAX as u64;
    let within = usize::try_from(offset % MEMORY_BYTES_MAX as u64).unwrap_or(usize::MAX);
    match chunk.cmp(&sealed.chunks) {
        Ordering::Less => Place::Sealed(sealed, chunk, within),
        Ordering::Equal => Place::Tail(within),
        Ordering::Greater => Place::Behind,
    }
}

/// A number is used for one chunk only: chunks are added, and one whose write failed is written
/// again as it was.
fn nonce(chunk: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&chunk.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl Charge {
    fn add(&mut self, bytes: usize) -> Result<(), SpoolError> {
        let bytes_max = self.shared.bytes_max;
        let more = u64::try_from(bytes).map_err(|_| SpoolError::Full { bytes_max })?;
        let room = self.shared.bytes.fetch_update(Relaxed, Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= bytes_max)
        });
        room.map_err(|_| SpoolError::Full { bytes_max })?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..=250_u8).cycle().step_by(31).take(len).collect()
    }

    fn all(spooled: &Spooled) -> Vec<u8> {
        spooled.chunks().map(Result::unwrap).collect::<Vec<_>>().concat()
    }

    #[test]
    fn what_goes_in_comes_out_whatever_its_size_and_cut() {
        let folder = tempfile::tempdir().unwrap();
        let spooler = Spooler::new(folder.path(), BYTES_MAX_DEFAULT);
        for len in [0, 1, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX + 1, 5 * MEMORY_BYTES_MAX, 400_001] {
            for cut in [7_777, MEMORY_BYTES_MAX, usize::MAX] {
                let bytes = pattern(len);
                let mut spool = spooler.open();
                for piece in bytes.chunks(cut) {
                    spool.write(piece).unwrap();
                }
                for offset in [0, len / 2, len.saturating_sub(1), len, len + 1] {
                    let got = spool.read_at(offset as u64).unwrap();
                    let rest = bytes.get(offset..).unwrap_or_default();
                    assert!(rest.starts_with(&got), "{len} {cut} {offset}");
                    assert_eq!(got.is_empty(), rest.is_empty(), "{len} {cut} {offset}");
                }
                let spooled = spool.finish();
                assert_eq!(spooled.len(), len as u64);
                assert_eq!(spooled.in_memory().is_some(), len <= MEMORY_BYTES_MAX);
                assert!(all(&spooled) == bytes && all(&spooled) == bytes, "{len} {cut}");
                assert!(spooled.read_at(len as u64).unwrap().is_empty());
            }
        }
        assert_eq!(spooler.bytes(), 0);
        // The files never had a name.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_on_the_disk_is_sealed_and_a_changed_byte_is_noticed() {
        let spooler = Spooler::default();
        let mut spool = spooler.open();
        let text = b"a line that must not be readable on the disk\r\n".repeat(4_000);
        spool.write(&text).unwrap();
        let sealed = spool.sealed.as_ref().unwrap();
        let mut disk = vec![0; MEMORY_BYTES_MAX];
        sealed.file.read_exact_at(&mut disk, 0).unwrap();
        assert!(!disk.windows(8).any(|window| window == b"readable"));
        sealed.file.write_all_at(&[disk[100] ^ 1], 100).unwrap();
        assert!(matches!(spool.read_at(0), Err(SpoolError::Seal)));
        let spooled = spool.finish();
        assert!(matches!(spooled.chunks().next(), Some(Err(SpoolError::Seal))));
        assert_eq!(spooled.chunks().count(), 1, "nothing is handed out behind an error");
    }

    #[test]
    fn the_limit_is_of_all_together_and_ends_with_them() {
        let spooler = Spooler::new(&std::env::temp_dir(), 1_000);
        let mut first = spooler.open();
        let mut second = spooler.open();
        first.write(&[0; 600]).unwrap();
        let error = second.write(&[0; 600]).unwrap_err();
        assert!(matches!(error, SpoolError::Full { bytes_max: 1_000 }), "{error}");
        second.write(&[0; 400]).unwrap();
        drop(first.finish());
        second.write(&[0; 600]).unwrap();
        assert_eq!((second.len(), spooler.bytes()), (1_000, 1_000));
    }

    #[test]
    fn bytes_that_are_in_memory_anyway_are_read_from_anywhere() {
        let bytes = pattern(3 * MEMORY_BYTES_MAX);
        let spooled = Spooled::from(Bytes::from(bytes.clone()));
        for offset in [0, 1, MEMORY_BYTES_MAX, 2 * MEMORY_BYTES_MAX + 7, bytes.len()] {
            assert_eq!(spooled.read_at(offset as u64).unwrap(), bytes[offset..], "{offset}");
        }
        assert!(spooled.read_at(u64::MAX).unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_is_none_is_named() {
        let spooler = Spooler::new(Path::new("/nonexistent/spool"), BYTES_MAX_DEFAULT);
        spooler.check().unwrap_err();
        Spooler::default().check().unwrap();
        let mut spool = spooler.open();
        spool.write(&[1; MEMORY_BYTES_MAX]).unwrap();
        let error = spool.write(&[1]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/spool"), "{error}");
        // What was taken is there, what was not is told by the length.
        assert_eq!(spool.len(), MEMORY_BYTES_MAX as u64);
        assert_eq!(spool.read_at(0).unwrap(), vec![1; MEMORY_BYTES_MAX]);
    }
}
