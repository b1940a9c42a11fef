//! Updates of the box: signed bundles, slots, and the order of steps that a power cut cannot harm.
//!
//! Purpose: whatever happens to an update, at any moment, leaves a box that starts and has its settings.
//! [`bundle`] is the file that is carried to the box; it is read in pieces, and nothing is believed or
//! written before its signature holds. [`slots`] are the systems on the disk, by their files' names.
//! [`install`] takes the one to the others, over the trait [`Disk`]; [`record`] is what is remembered
//! meanwhile, and [`settings`] are changed on a copy. [`rollout`] says whose turn it is. Reads no clock,
//! opens no socket, and must not depend on tokio, on PID 1 or on the gateway. Entry: [`install::install`],
//! [`slots::Slots`]; for whoever makes bundles, [`bundle::write`].
#![forbid(unsafe_code)]

pub mod bundle;
mod digest;
mod disk;
pub mod install;
mod keys;
mod manifest;
pub mod record;
pub mod rollout;
pub mod settings;
pub mod slots;
mod uki;

pub use digest::{Hasher, Sha256};
pub use disk::{Disk, Entry, Mounted};
pub use keys::{Keys, KeysError, SIGNATURE_BYTES_MAX, SignatureError};
pub use manifest::{FORMAT, MANIFEST_BYTES_MAX, Manifest, ManifestError, UKI_BYTES_MAX, Uki};
pub use uki::UkiError;
