//! Finds the flow of a segment, and the flow whose timer is due next, without looking at the others.

use std::collections::BTreeSet;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use heapless::index_map::IndexMap;

/// Most flows at the same time, those still dying included.
pub const FLOWS_MAX: usize = 4096;

/// Places of the hash map: twice the flows, so that a look-up that finds nothing (every frame of a
/// bridged connection) stays a probe or two.
const PLACES: usize = 2 * FLOWS_MAX;

/// The two ends of a connection, seen from who opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    client: (IpAddr, u16),
    server: (IpAddr, u16),
}

impl FlowKey {
    pub(crate) fn new(client: SocketAddr, server: SocketAddr) -> Self {
        Self { client: (client.ip(), client.port()), server: (server.ip(), server.port()) }
    }

    pub(crate) fn client(&self) -> SocketAddr {
        self.client.into()
    }

    pub(crate) fn server(&self) -> SocketAddr {
        self.server.into()
    }
}

/// Names a flow. A flow's number is not used again as long as it could be mistaken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId {
    index: u32,
    generation: u32,
}

/// A slab of flows with an index by address and a queue of deadlines.
///
/// The hash is keyed with random numbers from the operating system: a host on the line cannot choose
/// ports that all fall into one place.
pub(crate) struct Table<F> {
    by_key: Box<IndexMap<FlowKey, u32, RandomState, PLACES>>,
    slots: Vec<Slot<F>>,
    free: Vec<u32>,
    deadlines: BTreeSet<(Instant, u32)>,
    flows_max: usize,
}

struct Slot<F> {
    generation: u32,
    deadline: Option<Instant>,
    flow: Option<F>,
}

impl<F> Table<F> {
    /// An empty table for `flows_max` flows, at most [`FLOWS_MAX`].
    pub(crate) fn new(flows_max: usize) -> Self {
        Self {
            by_key: Box::default(),
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: BTreeSet::new(),
            flows_max: flows_max.min(FLOWS_MAX),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.flows_max
    }

    pub(crate) fn find(&self, key: &FlowKey) -> Option<FlowId> {
        let index = *self.by_key.get(key)?;
        Some(FlowId { index, generation: self.slot(index)?.generation })
    }

    /// Takes a flow in and lets `key` lead to it; gives it back if the table is full.
    pub(crate) fn insert(&mut self, key: FlowKey, flow: F) -> Result<FlowId, F> {
        if self.is_full() {
            return Err(flow);
        }
        let index = match self.free.last() {
            Some(&index) => index,
            None => match u32::try_from(self.slots.len()) {
                Ok(index) => index,
                Err(_) => return Err(flow),
            },
        };
        if self.by_key.insert(key, index).is_err() {
            return Err(flow);
        }
        if self.free.pop().is_none() {
            self.slots.push(Slot { generation: 0, deadline: None, flow: None });
        }
        let slot = &mut self.slots[index as usize];
        slot.flow = Some(flow);
        Ok(FlowId { index, generation: slot.generation })
    }

    pub(crate) fn get(&self, id: FlowId) -> Option<&F> {
        self.slot(id.index).filter(|slot| slot.generation == id.generation)?.flow.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut F> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.flow.as_mut() } else { None }
    }

    /// `key` no longer leads to this flow; a new connection may have it. The flow stays.
    pub(crate) fn detach(&mut self, id: FlowId, key: &FlowKey) {
        if self.by_key.get(key) == Some(&id.index) {
            self.by_key.remove(key);
        }
    }

    /// Forgets the flow.
    pub(crate) fn remove(&mut self, id: FlowId, key: &FlowKey) -> Option<F> {
        self.get(id)?;
        self.detach(id, key);
        self.set_deadline(id, None);
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        slot.flow.take()
    }

    /// When the flow wants to be looked at next. Each flow has at most one entry in the queue; one that
    /// moves later keeps its early entry, because moving it on every packet would cost more than
    /// looking once in vain.
    pub(crate) fn set_deadline(&mut self, id: FlowId, deadline: Option<Instant>) {
        let Some(slot) = self.slots.get_mut(id.index as usize) else { return };
        if slot.generation != id.generation {
            return;
        }
        match (slot.deadline, deadline) {
            (Some(set), Some(wanted)) if set <= wanted => return,
            (Some(set), _) => {
                self.deadlines.remove(&(set, id.index));
            }
            (None, _) => {}
        }
        slot.deadline = deadline;
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id.index));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Takes one flow whose deadline has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<FlowId> {
        let &(deadline, index) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        let slot = self.slots.get_mut(index as usize)?;
        slot.deadline = None;
        Some(FlowId { index, generation: slot.generation })
    }

    /// The names of all flows.
    pub(crate) fn ids(&self) -> Vec<FlowId> {
        let named = self.slots.iter().zip(0u32..);
        named
            .filter(|(slot, _)| slot.flow.is_some())
            .map(|(slot, index)| FlowId { index, generation: slot.generation })
            .collect()
    }

    fn slot(&self, index: u32) -> Option<&Slot<F>> {
        self.slots.get(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(
            SocketAddr::new([192, 0, 2, 1].into(), port),
            SocketAddr::new([198, 51, 100, 2].into(), 25),
        )
    }

    #[test]
    fn a_full_table_gives_the_flow_back_and_takes_one_again_after_a_removal() {
        let mut table = Table::new(2);
        let first = table.insert(key(1), 'a').unwrap();
        table.insert(key(2), 'b').unwrap();
        assert_eq!(table.insert(key(3), 'c'), Err('c'));
        assert_eq!(table.remove(first, &key(1)), Some('a'));
        let third = table.insert(key(3), 'c').unwrap();
        assert_eq!(table.find(&key(3)), Some(third));
        assert_eq!(table.get(first), None, "an old name does not lead to the new flow");
    }

    #[test]
    fn a_table_of_the_largest_size_fills_and_empties() {
        let mut table = Table::new(usize::MAX);
        let ids: Vec<_> = (0..FLOWS_MAX)
            .map(|n| table.insert(key(u16::try_from(n).unwrap()), n).unwrap())
            .collect();
        assert!(table.is_full());
        for (n, id) in ids.into_iter().enumerate() {
            assert_eq!(table.remove(id, &key(u16::try_from(n).unwrap())), Some(n));
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn deadlines_come_in_order_and_one_a_flow() {
        let now = crate::tests::start();
        let second = Duration::from_secs(1);
        let mut table = Table::new(4);
        let one = table.insert(key(1), 1).unwrap();
        let two = table.insert(key(2), 2).unwrap();
        table.set_deadline(one, Some(now + 3 * second));
        table.set_deadline(two, Some(now + 2 * second));
        table.set_deadline(one, Some(now + second));
        table.set_deadline(one, Some(now + 9 * second));
        assert_eq!(table.next_deadline(), Some(now + second));
        assert_eq!(table.pop_due(now), None);
        assert_eq!(table.pop_due(now + 5 * second), Some(one));
        assert_eq!(table.pop_due(now + 5 * second), Some(two));
        assert_eq!(table.pop_due(now + 99 * second), None);
    }

    #[test]
    fn a_detached_key_leads_nowhere_but_the_flow_stays() {
        let mut table = Table::new(4);
        let old = table.insert(key(1), 'a').unwrap();
        table.detach(old, &key(1));
        let new = table.insert(key(1), 'b').unwrap();
        table.detach(old, &key(1));
        assert_eq!(table.find(&key(1)), Some(new), "the key belongs to the new flow now");
        assert_eq!(table.get(old), Some(&'a'));
    }
}
