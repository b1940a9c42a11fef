//! What can be said of bytes without asking anybody: pure functions, no IO while scanning.
//!
//! [`hashes::HashLists`] knows files by their digests, [`block::BlockRules`] refuses kinds of files by name
//! and by content ([`kind`]). Both can be sent to another process.

pub mod block;
pub mod hashes;
pub mod kind;
