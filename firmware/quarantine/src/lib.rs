//! Sealed copies of mail that was refused.
//!
//! A [`Vault`] is a folder of files, one an item, each sealed with a key of its own that only the
//! [`VaultKey`] gives: what lies on the disk can be neither read nor run, whatever it was. There is
//! no index; what is known of an item stands in its file, sealed as well. Age, bytes and number of
//! the items are limited, and the oldest go first.
//!
//! Several processes may use a vault at a time. An item appears whole, by a rename, or not at all;
//! what a power cut leaves is a temporary file, which the next [`Vault::open`] removes. All calls
//! block on the disk: asynchronous programs call them on a thread for that.
//!
//! Must not depend on tokio, on sockets, nor on what mail or scanning is. Entry: [`Vault`].
#![forbid(unsafe_code)]

mod id;
mod meta;
mod seal;
pub mod settings;
mod vault;

pub use id::{ID_LETTERS, Id, ParseIdError};
pub use meta::{Item, Meta, RECIPIENTS_MAX, TEXT_BYTES_MAX};
pub use seal::{CHUNK_BYTES, Content, META_BYTES_MAX, VaultKey};
pub use vault::{Counters, Limits, Swept, Usage, Vault};

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Why an item could not be stored, read or deleted, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The folder cannot be made or used.
    #[error(
        "use the quarantine folder {}; it must be a folder of this program's own user, on a disk \
         that can be written",
        folder.display()
    )]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room on the disk.
    #[error(
        "the disk of {} is full; make room on it, or lower quarantine.bytes_max",
        folder.display()
    )]
    DiskFull {
        /// The quarantine's folder.
        folder: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk's fault.
    #[error("write an item to the quarantine folder {}", folder.display())]
    Write {
        /// The quarantine's folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mail alone would be over the limit of all.
    #[error(
        "the mail is larger than the whole quarantine may be, {bytes_max} bytes \
             (quarantine.bytes_max)"
    )]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// What was to be stored could not be read.
    #[error("read the mail that is to be kept")]
    Source(#[source] Box<dyn Error + Send + Sync>),
    /// There is none, or not any more.
    #[error("there is no item {id}; `quarantine list` shows those there are")]
    NotFound {
        /// Its name.
        id: Id,
    },
    /// The disk's fault.
    #[error("read item {id}")]
    Read {
        /// Its name.
        id: Id,
        /// Why.
        source: io::Error,
    },
    /// The disk's fault.
    #[error("delete item {id}")]
    Delete {
        /// Its name.
        id: Id,
        /// Why.
        source: io::Error,
    },
    /// This machine's key is another one now, or the disk is another machine's.
    #[error(
        "item {id} was sealed with another private key and opens only with that; delete it if \
         the key is gone"
    )]
    OtherKey {
        /// Its name.
        id: Id,
    },
    /// This program has been replaced by an older one.
    #[error(
        "item {id} has format {version}, which this version of the program does not know; use \
             the one that stored it"
    )]
    Version {
        /// Its name.
        id: Id,
        /// The format.
        version: u8,
    },
    /// It was changed, or the disk is failing.
    #[error("item {id} is not as it was stored ({what}): do not trust it, delete it")]
    Damaged {
        /// Its name.
        id: Id,
        /// What is wrong.
        what: &'static str,
    },
    /// The operating system has none.
    #[error("the operating system gives no random numbers")]
    Random,
    /// The provider of cryptography refuses.
    #[error("the provider of cryptography refuses to seal an item")]
    Cryptography,
}
