//! The bundle: a tar archive of exactly three files, in this order.
//!
//! ```text
//! manifest.toml          what it is; signed
//! manifest.toml.minisig  minisign's signature of it
//! system.efi             the system, of the size and digest in the manifest
//! ```
//!
//! So a person needs no program of ours to look at it: `tar xf`, `minisign -V -m manifest.toml`,
//! `sha256sum system.efi`. A header has no room for choices, though: each byte of the archive that is not
//! a file's is compared with what [`write`] writes, and nothing before the signature is believed but two
//! sizes, which have limits.

use std::io::{self, Read, Write};

use crate::digest::{Hasher, Sha256};
use crate::keys::{Keys, SIGNATURE_BYTES_MAX, SignatureError};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, UKI_BYTES_MAX};

/// Name of the manifest in the archive.
pub const MANIFEST_FILE: &str = "manifest.toml";
/// Name of its signature.
pub const SIGNATURE_FILE: &str = "manifest.toml.minisig";
/// Name of the system.
pub const UKI_FILE: &str = "system.efi";

/// Tar's unit, in bytes: headers are one, and files are filled up to the next.
const BLOCK_BYTES: u64 = 512;
/// An archive ends with two blocks of zeros.
const END_BYTES: u64 = 2 * BLOCK_BYTES;
/// Bytes that [`write`] copies at once.
const COPY_BYTES: usize = 64 * 1024;

/// Largest bundle, in bytes.
pub const BUNDLE_BYTES_MAX: u64 = 3 * BLOCK_BYTES
    + filled(MANIFEST_BYTES_MAX)
    + filled(SIGNATURE_BYTES_MAX)
    + filled(UKI_BYTES_MAX)
    + END_BYTES;

/// What a reader has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// The signature holds. Comes first.
    Manifest(Box<Manifest>),
    /// The next bytes of the system. They are what was signed only when [`Event::End`] has come.
    Uki(&'b [u8]),
    /// All of it is there, and as the manifest says.
    End,
}

/// A bundle that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It is something else.
    #[error(
        "this is no update bundle (at byte {at}): take a file named avr-BOARD-VERSION.update.tar"
    )]
    NotABundle {
        /// Where it differs.
        at: u64,
    },
    /// A part is larger than any builder writes.
    #[error(
        "the bundle's {file} has {bytes} bytes, and may have {bytes_max}: have the bundle built again"
    )]
    TooLarge {
        /// Which.
        file: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// What was signed cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The system is not the one in the manifest.
    #[error("the system in the bundle is damaged: fetch the bundle again")]
    Damaged,
    /// It ends too early.
    #[error("the bundle ends after {at} bytes, too early: fetch the rest")]
    Truncated {
        /// Its size.
        at: u64,
    },
    /// It goes on behind its end, or after an error.
    #[error("something follows the bundle's end: fetch the bundle again")]
    Trailing,
}

/// Reads a bundle in pieces of any size, and keeps none but its head.
#[derive(Debug)]
pub struct Reader<'k> {
    keys: &'k Keys,
    /// Bytes read so far.
    at: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Up to where the system starts.
    Head { bytes: Vec<u8> },
    /// In the system.
    Uki { left: u64, hasher: Hasher, manifest: Box<Manifest> },
    /// In the zeros behind it.
    Zeros { left: u64 },
    /// Behind everything.
    End,
    /// Behind an error.
    Failed,
}

impl<'k> Reader<'k> {
    /// Takes what one of the keys signed.
    #[must_use]
    pub fn new(keys: &'k Keys) -> Self {
        Self { keys, at: 0, state: State::Head { bytes: Vec::new() } }
    }

    /// Takes bytes off the front of the input, up to the next event; `None`: it needs more of them.
    ///
    /// # Errors
    /// [`BundleError`]; the reader takes nothing after one.
    pub fn read<'b>(&mut self, input: &mut &'b [u8]) -> Result<Option<Event<'b>>, BundleError> {
        let state = std::mem::replace(&mut self.state, State::Failed);
        let (state, event) = self.step(state, input)?;
        self.state = state;
        Ok(event)
    }

    /// The bundle's next byte that it needs.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Goes on behind system bytes that are there from an earlier time, right after
    /// [`Event::Manifest`]: `hasher` has had the first `bytes` of them. The next input is the bundle's
    /// from the returned position on. `None` where there is nothing to go on behind.
    pub fn resume(&mut self, hasher: Hasher, bytes: u64) -> Option<u64> {
        match &mut self.state {
            State::Uki { left, hasher: own, manifest } if *left == manifest.uki.bytes => {
                *left = left.checked_sub(bytes)?;
                *own = hasher;
                self.at = self.at.saturating_add(bytes);
                Some(self.at)
            }
            _ => None,
        }
    }

    /// No more bytes will come.
    ///
    /// # Errors
    /// It has not come to its end.
    pub fn finish(self) -> Result<(), BundleError> {
        match self.state {
            State::End => Ok(()),
            _ => Err(BundleError::Truncated { at: self.at }),
        }
    }

    fn step<'b>(
        &mut self,
        state: State,
        input: &mut &'b [u8],
    ) -> Result<(State, Option<Event<'b>>), BundleError> {
        match state {
            State::Head { mut bytes } => loop {
                let needed = match head(&bytes)? {
                    Head::Needs(needed) => needed,
                    Head::Whole { manifest, signature, uki_bytes } => {
                        self.keys.verify(manifest, signature)?;
                        let manifest = Box::new(Manifest::parse(manifest)?);
                        if manifest.uki.bytes != uki_bytes {
                            return Err(BundleError::NotABundle { at: self.at });
                        }
                        let event = Event::Manifest(manifest.clone());
                        let left = uki_bytes;
                        let state = State::Uki { left, hasher: Hasher::default(), manifest };
                        return Ok((state, Some(event)));
                    }
                };
                let missing = needed.saturating_sub(bytes.len() as u64);
                let piece = self.take(input, missing);
                bytes.extend_from_slice(piece);
                if (piece.len() as u64) < missing {
                    return Ok((State::Head { bytes }, None));
                }
            },
            State::Uki { left: 0, hasher, manifest } => {
                if hasher.finish() != manifest.uki.sha256 {
                    return Err(BundleError::Damaged);
                }
                let left = filled(manifest.uki.bytes) - manifest.uki.bytes + END_BYTES;
                self.step(State::Zeros { left }, input)
            }
            State::Uki { left, mut hasher, manifest } => {
                let piece = self.take(input, left);
                hasher.update(piece);
                let left = left - piece.len() as u64;
                let event = (!piece.is_empty()).then_some(Event::Uki(piece));
                Ok((State::Uki { left, hasher, manifest }, event))
            }
            State::Zeros { left } => {
                let start = self.at;
                let piece = self.take(input, left);
                if let Some(at) = piece.iter().position(|&byte| byte != 0) {
                    return Err(BundleError::NotABundle { at: start + at as u64 });
                }
                match left - piece.len() as u64 {
                    0 => Ok((State::End, Some(Event::End))),
                    left => Ok((State::Zeros { left }, None)),
                }
            }
            State::End if input.is_empty() => Ok((State::End, None)),
            State::End | State::Failed => Err(BundleError::Trailing),
        }
    }

    /// At most so many bytes off the front of the input.
    fn take<'b>(&mut self, input: &mut &'b [u8], most: u64) -> &'b [u8] {
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
        let (piece, rest) = input.split_at(len);
        *input = rest;
        self.at += len as u64;
        piece
    }
}

enum Head<'b> {
    /// It cannot be said more before so many bytes of the bundle are there.
    Needs(u64),
    Whole {
        manifest: &'b [u8],
        signature: &'b [u8],
        uki_bytes: u64,
    },
}

/// Looks at the bundle's first bytes.
fn head(bytes: &[u8]) -> Result<Head<'_>, BundleError> {
    let mut rest = Rest { bytes, at: 0 };
    let Some(size) = rest.header(MANIFEST_FILE, MANIFEST_BYTES_MAX)? else {
        return Ok(Head::Needs(rest.at));
    };
    let Some(manifest) = rest.file(size)? else { return Ok(Head::Needs(rest.at)) };
    let Some(size) = rest.header(SIGNATURE_FILE, SIGNATURE_BYTES_MAX)? else {
        return Ok(Head::Needs(rest.at));
    };
    let Some(signature) = rest.file(size)? else { return Ok(Head::Needs(rest.at)) };
    let Some(uki_bytes) = rest.header(UKI_FILE, UKI_BYTES_MAX)? else {
        return Ok(Head::Needs(rest.at));
    };
    Ok(Head::Whole { manifest, signature, uki_bytes })
}

/// What has not been looked at.
struct Rest<'b> {
    bytes: &'b [u8],
    /// Offset behind what was asked for last, in the bundle.
    at: u64,
}

impl<'b> Rest<'b> {
    /// The next bytes; `None` where they are not all there.
    fn take(&mut self, len: u64) -> Option<&'b [u8]> {
        self.at += len;
        let (piece, rest) = self.bytes.split_at_checked(usize::try_from(len).ok()?)?;
        self.bytes = rest;
        Some(piece)
    }

    /// The size of the file that a header announces.
    fn header(&mut self, file: &'static str, bytes_max: u64) -> Result<Option<u64>, BundleError> {
        let start = self.at;
        let Some(block) = self.take(BLOCK_BYTES) else { return Ok(None) };
        let differs = |at: usize| BundleError::NotABundle { at: start + at as u64 };
        let bytes =
            tar::Header::from_byte_slice(block).entry_size().map_err(|_| differs(SIZE_AT))?;
        let wanted = header(file, bytes);
        match wanted.as_bytes().iter().zip(block).position(|(wanted, byte)| wanted != byte) {
            Some(at) => Err(differs(at)),
            None if bytes > bytes_max => Err(BundleError::TooLarge { file, bytes, bytes_max }),
            None => Ok(Some(bytes)),
        }
    }

    /// A file's bytes.
    fn file(&mut self, bytes: u64) -> Result<Option<&'b [u8]>, BundleError> {
        let start = self.at;
        let Some(piece) = self.take(filled(bytes)) else { return Ok(None) };
        let (file, zeros) = piece.split_at(usize::try_from(bytes).unwrap_or(usize::MAX));
        match zeros.iter().position(|&byte| byte != 0) {
            Some(at) => Err(BundleError::NotABundle { at: start + bytes + at as u64 }),
            None => Ok(Some(file)),
        }
    }
}

/// Offset of the size in a header, in bytes.
const SIZE_AT: usize = 124;

/// The one header that a file of this name and size can have.
fn header(file: &str, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(file).expect("the three names are short");
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    // The same bundle whenever it is written.
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    header
}

/// A size, filled up to whole blocks.
const fn filled(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// Why no bundle was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It could not be read again.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The system could not be read.
    #[error("reading the system for the bundle")]
    Read(#[source] io::Error),
    /// The bundle could not be written.
    #[error("writing the bundle")]
    Write(#[source] io::Error),
}

/// Writes a bundle: `manifest` as [`Manifest::to_toml`] gave it and minisign signed it, `signature` the
/// file that minisign wrote.
///
/// # Errors
/// Something would keep it from being read: the signature does not hold for `keys`, or the system is not
/// the one in the manifest. What was written until then is to be thrown away.
pub fn write(
    manifest: &[u8],
    signature: &[u8],
    mut uki: impl Read,
    keys: &Keys,
    mut to: impl Write,
) -> Result<(), WriteError> {
    for (file, bytes, bytes_max) in [
        (MANIFEST_FILE, manifest, MANIFEST_BYTES_MAX),
        (SIGNATURE_FILE, signature, SIGNATURE_BYTES_MAX),
    ] {
        let bytes = bytes.len() as u64;
        if bytes > bytes_max {
            return Err(BundleError::TooLarge { file, bytes, bytes_max }.into());
        }
    }
    keys.verify(manifest, signature).map_err(BundleError::from)?;
    let wanted = Manifest::parse(manifest).map_err(BundleError::from)?.uki;
    let mut put = |bytes: &[u8]| to.write_all(bytes).map_err(WriteError::Write);
    for (file, bytes) in [(MANIFEST_FILE, manifest), (SIGNATURE_FILE, signature)] {
        put(header(file, bytes.len() as u64).as_bytes())?;
        put(bytes)?;
        put(&zeros(bytes.len() as u64))?;
    }
    put(header(UKI_FILE, wanted.bytes).as_bytes())?;
    let (mut hasher, mut bytes) = (Hasher::default(), 0_u64);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let len = match uki.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(WriteError::Read(error)),
        };
        let piece = buffer.get(..len).unwrap_or_default();
        hasher.update(piece);
        bytes += len as u64;
        put(piece)?;
    }
    let is_wanted = |digest: Sha256| bytes == wanted.bytes && digest == wanted.sha256;
    if !is_wanted(hasher.finish()) {
        return Err(BundleError::Damaged.into());
    }
    put(&zeros(bytes))?;
    put(&vec![0; usize::try_from(END_BYTES).unwrap_or_default()])
}

/// What fills a file up.
fn zeros(bytes: u64) -> Vec<u8> {
    vec![0; usize::try_from(filled(bytes) - bytes).unwrap_or_default()]
}
