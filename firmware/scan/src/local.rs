//! What can be said of bytes without asking anybody: pure functions, no IO while scanning.
//!
//! [`hashes::HashLists`] knows files by their digests, [`block::BlockRules`] refuses kinds of files by name
//! and by content ([`kind`]). Both can be sent to another process.

pub mod block;
pub mod hashes;
pub mod kind;

use crate::BLOCK;
use crate::analysis::{LocalEngine, LocalObject};
use crate::engine::EngineOutcome;

/// Name of the engine that looks bytes up in lists of hashes.
pub const HASHES: &str = "hashes";

impl LocalEngine for block::BlockRules {
    fn name(&self) -> &'static str {
        BLOCK
    }

    fn scan(&mut self, object: &LocalObject<'_>) -> EngineOutcome {
        self.check(object.file_names, object.bytes)
            .map_or(EngineOutcome::Clean, EngineOutcome::Found)
    }

    fn looks_at_names(&self) -> bool {
        true
    }
}

impl LocalEngine for hashes::HashLists {
    fn name(&self) -> &'static str {
        HASHES
    }

    fn scan(&mut self, object: &LocalObject<'_>) -> EngineOutcome {
        self.lookup(object.bytes)
            .map_or(EngineOutcome::Clean, |name| EngineOutcome::Found(name.to_owned()))
    }
}
