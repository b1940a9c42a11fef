//! What can be said of bytes without asking anybody: pure functions, no IO while scanning.
//!
//! [`hashes::HashLists`] knows files by their digests, [`block::BlockRules`] refuses kinds of files by name
//! and by content ([`kind`]). Both can be sent to another process; [`HashEngine`] and [`BlockEngine`] are
//! what asks them there.

pub mod block;
pub mod hashes;
pub mod kind;

use self::block::BlockRules;
use self::hashes::{Digests, HashLists};
use self::kind::{KindSet, is_open, kinds};
use crate::BLOCK;
use crate::analysis::{LocalEngine, LocalObject, Slot, Slots, Window};
use crate::engine::EngineOutcome;

/// Name of the engine that looks bytes up in lists of hashes.
pub const HASHES: &str = "hashes";

/// Asks rules on names and kinds.
#[derive(Debug)]
pub struct BlockEngine {
    rules: BlockRules,
    kinds: Slots<KindSet>,
}

impl BlockEngine {
    /// With these rules.
    #[must_use]
    pub fn new(rules: BlockRules) -> Self {
        Self { rules, kinds: Slots::default() }
    }
}

impl LocalEngine for BlockEngine {
    fn name(&self) -> &'static str {
        BLOCK
    }

    fn scan(&mut self, object: &LocalObject<'_>) -> EngineOutcome {
        let reason = self.rules.check(object.file_names, object.bytes);
        reason.map_or(EngineOutcome::Clean, EngineOutcome::Found)
    }

    fn looks_at_names(&self) -> bool {
        true
    }

    fn begin(&mut self, slot: Slot, start: &[u8]) -> bool {
        *self.kinds.at(slot) = kinds(start);
        !is_open(start)
    }

    fn window(&mut self, _: Slot, _: &Window<'_>) {}

    fn end(&mut self, slot: Slot, file_names: &[String]) -> EngineOutcome {
        let kinds = *self.kinds.at(slot);
        let reason = self.rules.check_kinds(file_names, || kinds);
        reason.map_or(EngineOutcome::Clean, EngineOutcome::Found)
    }
}

/// Asks lists of hashes.
#[derive(Debug)]
pub struct HashEngine {
    lists: HashLists,
    digests: Slots<Digests>,
}

impl HashEngine {
    /// With these lists.
    #[must_use]
    pub fn new(lists: HashLists) -> Self {
        Self { lists, digests: Slots::default() }
    }
}

impl LocalEngine for HashEngine {
    fn name(&self) -> &'static str {
        HASHES
    }

    fn scan(&mut self, object: &LocalObject<'_>) -> EngineOutcome {
        found(self.lists.lookup(object.bytes))
    }

    fn begin(&mut self, slot: Slot, _: &[u8]) -> bool {
        *self.digests.at(slot) = self.lists.digests();
        true
    }

    fn window(&mut self, slot: Slot, window: &Window<'_>) {
        self.digests.at(slot).update(window.new_bytes());
    }

    fn end(&mut self, slot: Slot, _: &[String]) -> EngineOutcome {
        found(self.lists.find(std::mem::take(self.digests.at(slot))))
    }
}

fn found(name: Option<&str>) -> EngineOutcome {
    name.map_or(EngineOutcome::Clean, |name| EngineOutcome::Found(name.to_owned()))
}
