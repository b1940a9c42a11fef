//! The file of an item.
//!
//! ```text
//! head: magic 7, version 1, key name 8, item name 8, salt 32, length of what follows 4 (bytes)
//! the item's Meta in postcard, sealed
//! the mail, in chunks of 64 KiB, each sealed; the last one is shorter, or as long
//! ```
//!
//! Every item has a key of its own, derived from the vault's, its salt and its name, so that no
//! nonce is ever used twice. AES-256-GCM seals each piece; its nonce says which piece it is and
//! whether it is the last one (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár,
//! 2015): a file that was cut, lengthened, reordered, renamed or mixed from two others does not
//! open. The head is bound to the sealed `Meta`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use bytes::{Bytes, BytesMut};

use crate::meta::{Item, Meta};
use crate::{Id, VaultError};

/// Bytes of the mail in each chunk but the last.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Most bytes of a sealed [`Meta`].
pub const META_BYTES_MAX: usize = 80 * 1024;

const MAGIC: &[u8; 7] = b"AVRQUAR";
const VERSION: u8 = 1;
const KEY_NAME_BYTES: usize = 8;
const SALT_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + 1 + KEY_NAME_BYTES + 8 + SALT_BYTES + 4;
const TAG_BYTES: usize = 16;
const SEALED_CHUNK_BYTES: u64 = (CHUNK_BYTES + TAG_BYTES) as u64;

/// The key of a vault. Who has it reads every item in it.
#[derive(Clone)]
pub struct VaultKey {
    prk: Prk,
    /// Tells items of another key from damaged ones; says nothing about the key.
    name: [u8; KEY_NAME_BYTES],
}

impl VaultKey {
    /// Derived from bytes that nobody else has and that stay the same, as a device's private key.
    ///
    /// # Errors
    ///
    /// The provider of cryptography refuses, which it does for no input.
    pub fn derive(secret: &[u8]) -> Result<Self, VaultError> {
        let root = Salt::new(HKDF_SHA256, &[]).extract(secret);
        let refused = |_| VaultError::Cryptography;
        let prk = root.expand(&[b"avr quarantine 1"], HKDF_SHA256).map_err(refused)?.into();
        let mut named = [0; 32];
        let name = root.expand(&[b"avr quarantine key name 1"], HKDF_SHA256).map_err(refused)?;
        name.fill(&mut named).map_err(refused)?;
        let mut name = [0; KEY_NAME_BYTES];
        name.copy_from_slice(&named[..KEY_NAME_BYTES]);
        Ok(Self { prk, name })
    }

    /// [`Self::derive`] from a private key in PEM: from what it encodes, so that its line ends and
    /// what stands round it make no difference.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_pem(pem: &str) -> Result<Self, VaultError> {
        let base64: String =
            pem.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
        Self::derive(base64.as_bytes())
    }

    fn of_item(&self, id: Id, salt: &[u8]) -> Result<LessSafeKey, VaultError> {
        let info = [b"avr quarantine item 1".as_slice(), salt, &id.to_bytes()];
        let key = self.prk.expand(&info, &AES_256_GCM).map_err(|_| VaultError::Cryptography)?;
        Ok(LessSafeKey::new(UnboundKey::from(key)))
    }
}

impl fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultKey(..)")
    }
}

/// Which piece of a file a nonce is for.
#[derive(Debug, Clone, Copy)]
enum Piece {
    Meta,
    Chunk { number: u32, last: bool },
}

impl Piece {
    fn nonce(self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        if let Self::Chunk { number, last } = self {
            nonce[0] = 1;
            nonce[7..11].copy_from_slice(&number.to_be_bytes());
            nonce[11] = u8::from(last);
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals an item into `out` as its mail comes.
#[derive(Debug)]
pub(crate) struct Sealer<W> {
    out: W,
    key: LessSafeKey,
    number: u32,
    /// What has not been sealed: at most a chunk, because whether it is the last is not known.
    tail: BytesMut,
    written: u64,
}

/// Why an item could not be sealed.
#[derive(Debug)]
pub(crate) enum SealError {
    Write(io::Error),
    Vault(VaultError),
}

impl From<VaultError> for SealError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl<W: Write> Sealer<W> {
    pub(crate) fn start(out: W, vault: &VaultKey, id: Id, meta: &Meta) -> Result<Self, SealError> {
        let mut salt = [0; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| VaultError::Random)?;
        let mut meta =
            postcard::to_allocvec(&meta.bounded()).map_err(|_| VaultError::Cryptography)?;
        let sealed_bytes = meta.len() + TAG_BYTES;
        assert!(sealed_bytes <= META_BYTES_MAX, "a bounded Meta is within its limit");
        let mut head = Vec::with_capacity(HEAD_BYTES + sealed_bytes);
        head.extend_from_slice(MAGIC);
        head.push(VERSION);
        head.extend_from_slice(&vault.name);
        head.extend_from_slice(&id.to_bytes());
        head.extend_from_slice(&salt);
        head.extend_from_slice(&u32::try_from(sealed_bytes).unwrap_or(u32::MAX).to_be_bytes());
        let key = vault.of_item(id, &salt)?;
        key.seal_in_place_append_tag(Piece::Meta.nonce(), Aad::from(&head), &mut meta)
            .map_err(|_| VaultError::Cryptography)?;
        head.append(&mut meta);
        let mut sealer =
            Self { out, key, number: 0, tail: BytesMut::with_capacity(CHUNK_BYTES), written: 0 };
        sealer.put(&head)?;
        Ok(sealer)
    }

    /// Bytes of the file so far, with what is still to be sealed.
    pub(crate) fn bytes(&self) -> u64 {
        self.written + (self.tail.len() + TAG_BYTES) as u64
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), SealError> {
        while !bytes.is_empty() {
            if self.tail.len() == CHUNK_BYTES {
                self.seal(false)?;
            }
            let (head, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.tail.len()));
            self.tail.extend_from_slice(head);
            bytes = rest;
        }
        Ok(())
    }

    /// Bytes of the whole file.
    pub(crate) fn finish(mut self) -> Result<u64, SealError> {
        self.seal(true)?;
        self.out.flush().map_err(SealError::Write)?;
        Ok(self.written)
    }

    fn seal(&mut self, last: bool) -> Result<(), SealError> {
        let piece = Piece::Chunk { number: self.number, last };
        let mut tail = std::mem::take(&mut self.tail);
        let tag = self
            .key
            .seal_in_place_separate_tag(piece.nonce(), Aad::empty(), &mut tail)
            .map_err(|_| VaultError::Cryptography)?;
        self.number = self.number.checked_add(1).ok_or(VaultError::Cryptography)?;
        self.put(&tail)?;
        self.put(tag.as_ref())?;
        tail.clear();
        self.tail = tail;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SealError> {
        self.out.write_all(bytes).map_err(SealError::Write)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// The mail of an item, chunk by chunk, each one verified before it is handed out. Ends behind the
/// first error; only when it has ended without one is the mail whole.
#[derive(Debug)]
pub struct Content {
    file: File,
    id: Id,
    key: LessSafeKey,
    number: u32,
    /// Sealed bytes that are left in the file; `None` behind the last chunk, or an error.
    left: Option<u64>,
}

/// Opens the file of an item, and reads what is known of it.
pub(crate) fn open(
    mut file: File,
    vault: &VaultKey,
    id: Id,
) -> Result<(Item, Content), VaultError> {
    let read = |source| VaultError::Read { id, source };
    let damaged = |what| VaultError::Damaged { id, what };
    let on_disk = file.metadata().map_err(read)?.len();
    let mut head = [0; HEAD_BYTES];
    read_exact(&mut file, &mut head, id)?;
    let parts = Head::of(&head).ok_or(damaged("it is no item"))?;
    if parts.magic != MAGIC {
        return Err(damaged("it is no item"));
    }
    if parts.version != VERSION {
        return Err(VaultError::Version { id, version: parts.version });
    }
    if parts.key != vault.name {
        return Err(VaultError::OtherKey { id });
    }
    if parts.id != id.to_bytes() {
        return Err(damaged("its file bears another item's name"));
    }
    let meta_bytes = parts.meta_bytes;
    if !(TAG_BYTES..=META_BYTES_MAX).contains(&meta_bytes) {
        return Err(damaged("its head"));
    }
    let mut sealed = vec![0; meta_bytes];
    read_exact(&mut file, &mut sealed, id)?;
    let key = vault.of_item(id, parts.salt)?;
    let meta = key
        .open_in_place(Piece::Meta.nonce(), Aad::from(&head), &mut sealed)
        .map_err(|_| damaged("its head"))?;
    let meta: Meta = postcard::from_bytes(meta).map_err(|_| damaged("its head"))?;
    let left = on_disk.saturating_sub((HEAD_BYTES + meta_bytes) as u64);
    let chunks = left.div_ceil(SEALED_CHUNK_BYTES);
    let item = Item {
        id,
        stored_at: id.stored_at(),
        bytes: left.saturating_sub(chunks * TAG_BYTES as u64),
        bytes_on_disk: on_disk,
        meta,
    };
    Ok((item, Content { file, id, key, number: 0, left: Some(left) }))
}

/// The head's fields, where they stand.
struct Head<'a> {
    magic: &'a [u8],
    version: u8,
    key: &'a [u8],
    id: &'a [u8],
    salt: &'a [u8],
    meta_bytes: usize,
}

impl<'a> Head<'a> {
    fn of(head: &'a [u8; HEAD_BYTES]) -> Option<Self> {
        let (magic, rest) = head.split_at_checked(MAGIC.len())?;
        let (&version, rest) = rest.split_first()?;
        let (key, rest) = rest.split_at_checked(KEY_NAME_BYTES)?;
        let (id, rest) = rest.split_at_checked(8)?;
        let (salt, rest) = rest.split_at_checked(SALT_BYTES)?;
        let meta_bytes = usize::try_from(u32::from_be_bytes(rest.try_into().ok()?)).ok()?;
        Some(Self { magic, version, key, id, salt, meta_bytes })
    }
}

fn read_exact(file: &mut File, buffer: &mut [u8], id: Id) -> Result<(), VaultError> {
    file.read_exact(buffer).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => VaultError::Damaged { id, what: "its end is missing" },
        _ => VaultError::Read { id, source },
    })
}

impl Content {
    fn chunk(&mut self, left: u64) -> Result<(Bytes, Option<u64>), VaultError> {
        let damaged = |what| VaultError::Damaged { id: self.id, what };
        let last = left <= SEALED_CHUNK_BYTES;
        let sealed_bytes = left.min(SEALED_CHUNK_BYTES);
        let mut sealed = BytesMut::zeroed(usize::try_from(sealed_bytes).unwrap_or_default());
        if sealed.len() < TAG_BYTES {
            return Err(damaged("its end is missing"));
        }
        read_exact(&mut self.file, &mut sealed, self.id)?;
        let piece = Piece::Chunk { number: self.number, last };
        let opened = self
            .key
            .open_in_place(piece.nonce(), Aad::empty(), &mut sealed)
            .map_err(|_| damaged("its mail"))?
            .len();
        sealed.truncate(opened);
        self.number = self.number.checked_add(1).ok_or(damaged("its mail"))?;
        Ok((sealed.freeze(), (!last).then(|| left - sealed_bytes)))
    }
}

impl Iterator for Content {
    type Item = Result<Bytes, VaultError>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left.take()?;
        match self.chunk(left) {
            // An empty mail is one empty chunk.
            Ok((bytes, None)) if bytes.is_empty() => None,
            Ok((bytes, left)) => {
                self.left = left;
                Some(Ok(bytes))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests;
