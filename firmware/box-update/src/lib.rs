//! Updates of the box: signed bundles, and slots.
//!
//! [`bundle`] is the file that is carried to the box; it is read in pieces, and nothing is believed or
//! written before its signature holds. [`slots`] are the systems on the disk, by their files' names, and
//! [`rollout`] says whose turn it is. Reads no clock, opens no socket, and must not depend on tokio, on
//! PID 1 or on the gateway. Entry: [`bundle::Reader`]; for whoever makes bundles, [`bundle::write`].
#![forbid(unsafe_code)]

pub mod bundle;
mod digest;
mod keys;
mod manifest;
pub mod rollout;
pub mod slots;

pub use digest::{Hasher, Sha256};
pub use keys::{Keys, KeysError, SIGNATURE_BYTES_MAX, SignatureError};
pub use manifest::{FORMAT, MANIFEST_BYTES_MAX, Manifest, ManifestError, UKI_BYTES_MAX, Uki};
