//! Builds the box's disk images: Debian packages pinned by version and SHA-256, and our own programs.
//!
//! Purpose: one command gives an image that boots, without root and loop devices, and the same bytes
//! whoever runs it. The way: packages ([`debian`]) → modules ([`modules`]) → root ([`system`], [`tree`]) →
//! UKI ([`uki`]) → file systems ([`fat`], [`ext4`]) → disk ([`disk`]). A build reads no clock: every time in
//! an image is the commit's; [`measure`] alone has one, for how long a box takes to start. [`flash`] writes an
//! image to a disk, as one unit of a fleet; [`index`] says which updates its boxes are offered. Must not
//! depend on the programs that it packs, but for the address settings that PID 1 reads. Entry: [`build`],
//! [`flash`].
#![forbid(unsafe_code)]

mod build;
pub mod bundle;
pub mod debian;
pub mod disk;
mod error;
pub mod ext4;
pub mod fat;
pub mod flash;
pub mod index;
pub mod layout;
pub mod measure;
pub mod modules;
pub mod qemu;
pub mod sbom;
pub mod system;
mod tree;
pub mod uki;
pub mod update;

pub use build::{Built, LEVEL, Options, Release, build};
pub use bundle::Signing;
pub use error::ImageError;
pub use tree::{Node, Tree};
