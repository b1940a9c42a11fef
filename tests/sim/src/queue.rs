//! The event queue: what happens next, at a virtual time in microseconds. Events of one time come in
//! the order in which they were put in, so that a run can be repeated exactly.
//!
//! A wheel of slots of a millisecond holds the current minute, a map the minutes after it: putting
//! in and taking out costs the same with ten events as with a million.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

/// A time, in microseconds since midnight of the day simulated.
pub type At = u64;

const SLOT_US: u64 = 1_000;
const SLOTS: usize = 65_536;
const TURN_US: u64 = SLOT_US * SLOTS as u64;

/// See the module.
#[derive(Debug)]
pub struct Queue<E> {
    now: At,
    last: u64,
    /// Of the slot at hand.
    near: BinaryHeap<Entry<E>>,
    near_end: At,
    /// The slots of this turn, those at hand and before it empty.
    wheel: Vec<Vec<Entry<E>>>,
    slot: usize,
    turn: u64,
    /// By turn.
    far: BTreeMap<u64, Vec<Entry<E>>>,
    in_wheel: usize,
}

#[derive(Debug)]
struct Entry<E> {
    at: At,
    number: u64,
    event: E,
}

impl<E> Queue<E> {
    /// An empty one, whose clock stands at `now`.
    #[must_use]
    pub fn new(now: At) -> Self {
        let slot = index(now % TURN_US / SLOT_US);
        Self {
            now,
            last: 0,
            near: BinaryHeap::new(),
            near_end: now / SLOT_US * SLOT_US + SLOT_US,
            wheel: std::iter::repeat_with(Vec::new).take(SLOTS).collect(),
            slot,
            turn: now / TURN_US,
            far: BTreeMap::new(),
            in_wheel: 0,
        }
    }

    /// The time of the event taken out last.
    #[must_use]
    pub fn now(&self) -> At {
        self.now
    }

    /// Puts an event in; one of the past happens now.
    pub fn put(&mut self, at: At, event: E) {
        let at = at.max(self.now);
        self.last += 1;
        let entry = Entry { at, number: self.last, event };
        if at < self.near_end {
            self.near.push(entry);
        } else if at / TURN_US == self.turn {
            self.in_wheel += 1;
            self.wheel[index(at % TURN_US / SLOT_US)].push(entry);
        } else {
            self.far.entry(at / TURN_US).or_default().push(entry);
        }
    }

    /// Takes the next event out, if it happens before `end`.
    pub fn take_before(&mut self, end: At) -> Option<(At, E)> {
        while self.near.is_empty() {
            if self.near_end >= end || !self.turn_on() {
                return None;
            }
        }
        if self.near.peek()?.at >= end {
            return None;
        }
        let Entry { at, event, .. } = self.near.pop()?;
        self.now = at;
        Some((at, event))
    }

    /// To the next slot that holds anything. False if none does.
    fn turn_on(&mut self) -> bool {
        if self.in_wheel == 0 {
            let Some((turn, entries)) = self.far.pop_first() else { return false };
            self.turn = turn;
            self.slot = 0;
            self.in_wheel = entries.len();
            for entry in entries {
                self.wheel[index(entry.at % TURN_US / SLOT_US)].push(entry);
            }
        }
        while self.wheel[self.slot].is_empty() {
            self.slot += 1;
        }
        let entries = std::mem::take(&mut self.wheel[self.slot]);
        self.in_wheel -= entries.len();
        self.near = entries.into();
        self.near_end = self.turn * TURN_US + (self.slot as u64 + 1) * SLOT_US;
        true
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the greatest: that is what a heap gives first.
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// A slot's number: always below [`SLOTS`].
fn index(slot: u64) -> usize {
    usize::try_from(slot).unwrap_or(SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn events_come_in_the_order_of_their_times_and_then_of_their_putting() {
        let mut queue = Queue::new(3_000_000_017);
        let mut random = Random::new(5);
        let mut expected = Vec::new();
        for number in 0..5_000_u64 {
            let at = 3_000_000_017 + random.below(200_000) * random.below(2_000);
            expected.push((at, number));
            queue.put(at, number);
        }
        expected.sort_unstable();
        // Half of them go in again, later, while it runs.
        let mut seen = Vec::new();
        while let Some((at, number)) = queue.take_before(u64::MAX) {
            seen.push((at, number));
            if number < 1_000 {
                let again = (at + random.below(90_000_000), 10_000 + number);
                queue.put(again.0, again.1);
                expected.push(again);
            }
        }
        // Of one time, what was put in later comes later: numbers only rise here.
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_not_due_stays() {
        let mut queue = Queue::new(0);
        queue.put(TURN_US * 3, 'b');
        queue.put(10, 'a');
        assert_eq!(queue.take_before(11), Some((10, 'a')));
        assert_eq!(queue.take_before(TURN_US * 3), None);
        queue.put(5, 'c');
        assert_eq!(queue.take_before(TURN_US), Some((10, 'c')), "the past is now");
        assert_eq!(queue.take_before(u64::MAX), Some((TURN_US * 3, 'b')));
    }
}
